//! Requests that a page of another site has a browser send: a service on a laptop or in an intranet can be reached by
//! every page that its users open.

use axum::extract::Request;
use axum::http::{Uri, header};

/// Whether a browser says that another site's page sends this. `Sec-Fetch-Site` (W3C Fetch Metadata) says it outright,
/// but takes every port of a host and every host of a domain for the same site, and browsers leave it out where the
/// address is neither HTTPS nor local; `Origin` they send with every POST.
pub fn is_cross_site(request: &Request) -> bool {
    match request.headers().get("sec-fetch-site").map(|site| site.as_bytes()) {
        Some(b"same-origin" | b"none") => false,
        Some(b"same-site") | None => {
            request.headers().get(header::ORIGIN).is_some_and(|origin| !is_own(origin.as_bytes(), request.uri()))
        }
        Some(_) => true,
    }
}

/// Whether an origin (RFC 6454, section 6.1) is that of the request itself. Its scheme is not compared: a gateway may
/// have taken the TLS away. (The component gets the header Host as the authority of the URI.)
fn is_own(origin: &[u8], uri: &Uri) -> bool {
    let origin: Option<Uri> = std::str::from_utf8(origin).ok().and_then(|origin| origin.parse().ok());
    let Some((theirs, own)) = origin.as_ref().and_then(Uri::authority).zip(uri.authority()) else { return false };
    let default_port = |uri: &Uri| if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let their_port = theirs.port_u16().unwrap_or(origin.as_ref().map_or(80, default_port));
    let own_port = own.port_u16();
    theirs.host().eq_ignore_ascii_case(own.host())
        && own_port.map_or(their_port == 80 || their_port == 443, |own_port| own_port == their_port)
}
