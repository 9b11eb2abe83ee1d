//! Who may ask: origins of web pages, and names under which this server may be addressed.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST,
    HeaderValue, ORIGIN,
};
use http::{StatusCode, request};

use super::{Answer, error};

/// The rules. `*`, and no name at all, let everyone pass.
pub(super) struct Access {
    origins: Names,
    hosts: Names,
}

struct Names(Vec<String>);

impl Names {
    fn all(&self) -> bool {
        self.0.is_empty() || self.has("*")
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }
}

impl Access {
    pub(super) fn new(origins: Vec<String>, hosts: Vec<String>) -> Self {
        Self {
            origins: Names(origins),
            hosts: Names(hosts),
        }
    }

    /// The answer to a request that names a host this server does not go by.
    ///
    /// A web page can point a name of its own at a local address and so send requests there; the
    /// `Host` header gives it away.
    pub(super) fn refusal(&self, request: &request::Parts) -> Option<Answer> {
        if self.hosts.all() {
            return None;
        }
        let host = host(request);
        if self.hosts.has(host) {
            return None;
        }
        tracing::warn!(
            host,
            "rejecting HTTP request: its host is not in --host-whitelist"
        );
        Some(error(
            StatusCode::MISDIRECTED_REQUEST,
            format_args!(
                "The host {host:?} is not one this server goes by, which protects it from DNS \
                 rebinding (CVE-2018-5702).\nTo use that name, start the server with it in \
                 --host-whitelist."
            ),
        ))
    }

    /// Lets a browser show the answer to a page of an origin that may have it.
    pub(super) fn allow_origin(&self, request: &request::Parts, answer: &mut Answer) {
        let origin = if self.origins.all() {
            HeaderValue::from_static("*")
        } else {
            let is_allowed = |origin: &&HeaderValue| {
                origin.to_str().is_ok_and(|origin| self.origins.has(origin))
            };
            match request.headers.get(ORIGIN).filter(is_allowed) {
                Some(origin) => origin.clone(),
                None => return,
            }
        };
        let headers = answer.headers_mut();
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
        );
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("accept, content-type, authorization"),
        );
    }
}

/// The name a request is addressed to, without a port.
fn host(request: &request::Parts) -> &str {
    // HTTP/2 carries it in the address, HTTP/1.1 in a header.
    if let Some(host) = request.uri.host() {
        return host;
    }
    let host = request
        .headers
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default();
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}
