//! What a component says of itself before anything is served: `ready_path` in the manifest.

use http::StatusCode;

/// What becomes of the start.
#[derive(Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It goes on.
    Ready,
    /// It goes on: this may pass by itself. The reason is logged.
    NotYet(String),
    /// It does not go on: only an operator can mend this.
    Refused(String),
}

/// Judges a response: 2xx is ready, 503 is not yet, all others are refusals. The reason is the `detail` of a problem
/// (RFC 9457), or the body as it is.
pub fn judge(status: StatusCode, body: &[u8]) -> Readiness {
    let reason = || {
        let problem: Option<Problem> = serde_json::from_slice(body).ok();
        let reason = problem.map_or_else(|| String::from_utf8_lossy(body).into_owned(), |problem| problem.detail);
        if reason.trim().is_empty() { format!("it answered {status}") } else { reason }
    };
    match status {
        status if status.is_success() => Readiness::Ready,
        StatusCode::SERVICE_UNAVAILABLE => Readiness::NotYet(reason()),
        _ => Readiness::Refused(reason()),
    }
}

#[derive(serde::Deserialize)]
struct Problem {
    detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_by_itself_lets_the_start_go_on() {
        let problem = br#"{"type":"about:blank","title":"x","status":500,"detail":"lease_ms must be a number."}"#;
        let detail = || "lease_ms must be a number.".to_owned();
        for (status, body, expected) in [
            (200, &b"ok"[..], Readiness::Ready),
            (204, b"", Readiness::Ready),
            (503, problem, Readiness::NotYet(detail())),
            (500, problem, Readiness::Refused(detail())),
            (404, b"no such path", Readiness::Refused("no such path".to_owned())),
            (302, b"", Readiness::Refused("it answered 302 Found".to_owned())),
        ] {
            assert_eq!(judge(StatusCode::from_u16(status).unwrap(), body), expected, "{status}");
        }
    }
}
