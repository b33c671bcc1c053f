//! `wasi:http` outwards: sends a component's requests, those to allowed hosts.
//!
//! These are `allowed_outbound_hosts` in the manifest, in Spin's notation `scheme://host[:port]`. A scheme or port may
//! be `*`, a port may be a range `8000..8100` (its end not included), a host may be `*` or begin with `*.`; without a
//! port the scheme's own is meant.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use http::Uri;
use http_body_util::BodyExt;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{Error as HttpError, RequestOptions, WasiBody, WasiHttpHooks, WasiHttpView};

use crate::hook::{CallKind, Fate};
use crate::host_calls::HostCalls;

/// Where a component may send requests.
#[derive(Clone)]
pub struct Access {
    /// Decides about its calls.
    pub calls: Arc<HostCalls>,
    /// The hosts.
    pub allowed: Arc<[AllowedHost]>,
}

/// Links WASI HTTP 0.2 and 0.3.
pub fn add_to_linker<T: WasiHttpView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)
}

type IoResult = Box<dyn Future<Output = Result<(), HttpError>> + Send>;
type Sent = Result<(http::Response<WasiBody>, IoResult), HttpError>;

impl WasiHttpHooks for Access {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: IoResult,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let uri = request.uri().clone();
        let allowed = self.allowed.iter().any(|host| host.allows(&uri));
        let fate = self.calls.fate(CallKind::Outbound, &uri.to_string());
        let calls = self.calls.clone();
        Box::new(async move {
            if !allowed {
                let component = calls.component();
                tracing::warn!("{component} may not send a request to {uri}: see allowed_outbound_hosts in spin.toml");
                return Err(HttpError::HttpRequestDenied);
            }
            if matches!(fate, Fate::FailBefore(_) | Fate::DieBefore) {
                return Err(HttpError::ConnectionRefused);
            }
            let (response, io) = wasmtime_wasi_http::default_send_request(request, options).await?;
            if matches!(fate, Fate::FailAfter(_) | Fate::DieAfter) {
                return Err(HttpError::ConnectionTerminated);
            }
            Ok((response.map(BodyExt::boxed_unsync), Box::new(io) as IoResult))
        })
    }
}

/// One entry of `allowed_outbound_hosts`.
#[derive(Clone, Debug, PartialEq)]
pub struct AllowedHost {
    scheme: Option<String>,
    host: Host,
    ports: Ports,
}

#[derive(Clone, Debug, PartialEq)]
enum Host {
    Any,
    Exact(String),
    /// With the dot in front.
    SubdomainOf(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Ports {
    Any,
    OfScheme,
    Range(std::ops::Range<u32>),
}

impl AllowedHost {
    /// Reads an entry.
    pub fn parse(entry: &str) -> Result<Self> {
        let context = || format!("allowed_outbound_hosts: {entry:?} is not of the form scheme://host[:port]");
        let (scheme, rest) = entry.split_once("://").with_context(context)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // An IPv6 address is in brackets and has colons of its own.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        ensure!(!host.is_empty() && !host.contains('/'), context());
        let host = match host {
            "*" => Host::Any,
            "self" => bail!("allowed_outbound_hosts: this host does not have {entry:?}"),
            host => match host.strip_prefix('*') {
                Some(domain) => {
                    ensure!(domain.starts_with('.') && !domain.contains('*'), context());
                    Host::SubdomainOf(domain.to_ascii_lowercase())
                }
                None => Host::Exact(host.to_ascii_lowercase()),
            },
        };
        let number = |text: &str| text.parse::<u16>().map(u32::from).with_context(context);
        let ports = match port {
            None => Ports::OfScheme,
            Some("*") => Ports::Any,
            Some(port) => match port.split_once("..") {
                Some((from, to)) => Ports::Range(number(from)?..number(to)?),
                None => Ports::Range(number(port)?..number(port)? + 1),
            },
        };
        let scheme = (scheme != "*").then(|| scheme.to_ascii_lowercase());
        if !matches!(scheme.as_deref(), None | Some("http" | "https")) {
            bail!("allowed_outbound_hosts: {entry:?} is not for HTTP, which is all that this host sends");
        }
        Ok(Self { scheme, host, ports })
    }

    /// Whether a request to `uri` may be sent.
    pub fn allows(&self, uri: &Uri) -> bool {
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else { return false };
        let host = host.to_ascii_lowercase();
        let port_of_scheme: u16 = if scheme == "https" { 443 } else { 80 };
        let port = u32::from(uri.port_u16().unwrap_or(port_of_scheme));
        self.scheme.as_deref().is_none_or(|allowed| allowed == scheme)
            && match &self.host {
                Host::Any => true,
                Host::Exact(allowed) => *allowed == host,
                Host::SubdomainOf(domain) => host.ends_with(domain) && host.len() > domain.len(),
            }
            && match &self.ports {
                Ports::Any => true,
                Ports::OfScheme => port == u32::from(port_of_scheme),
                Ports::Range(range) => range.contains(&port),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_allows_what_it_says_and_nothing_else() {
        for (entry, allowed, denied) in [
            ("https://api.example.com", "https://api.example.com/x", "http://api.example.com/x"),
            ("https://api.example.com", "https://API.example.com:443/", "https://api.example.com:444/"),
            ("https://*.example.com", "https://a.b.example.com/", "https://example.com/"),
            ("https://*.example.com", "https://a.example.com/", "https://aexample.com/"),
            ("http://localhost:8000..8002", "http://localhost:8001/", "http://localhost:8002/"),
            ("http://127.0.0.1:*", "http://127.0.0.1:5/", "http://127.0.0.2:5/"),
            ("*://*:*", "https://anything:1/", "/relative"),
            ("http://[::1]:80", "http://[::1]/", "http://[::2]/"),
        ] {
            let parsed = AllowedHost::parse(entry).unwrap();
            assert!(parsed.allows(&allowed.parse().unwrap()), "{entry} {allowed}");
            assert!(!parsed.allows(&denied.parse().unwrap()), "{entry} {denied}");
        }
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for entry in [
            "example.com",
            "http://",
            "http://a/b",
            "http://a:x",
            "http://*a",
            "http://self",
            "http://*.*",
            "redis://a",
        ] {
            assert!(AllowedHost::parse(entry).is_err(), "{entry}");
        }
    }
}
