//! Where an endpoint is.

use std::fmt;
use std::path::PathBuf;

use http::uri::{Authority, Scheme};

use crate::Error;

/// The port of an endpoint that names none.
const DEFAULT_PORT: u16 = 2379;

/// How an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// An endpoint as it was written, and what that means.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) text: String,
    pub(crate) target: Target,
    pub(crate) tls: bool,
    /// Whom a request is for.
    pub(crate) authority: Authority,
    /// Whom the server's certificate has to name.
    pub(crate) host: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Address {
    /// Reads `host`, `host:port`, `http://…`, `https://…`, `unix:path`, `unix://path`, `unixs:…`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let invalid = |why: &str| {
            Error::Invalid(format!(
                "{text:?} is no endpoint: {why}; write host:port, http://host:port, https://host:port or unix:path"
            ))
        };
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme, rest),
            None => match text.split_once(':') {
                Some((scheme @ ("unix" | "unixs"), path)) => (scheme, path),
                _ => ("http", text),
            },
        };
        let tls = match scheme {
            "http" | "unix" => false,
            "https" | "unixs" => true,
            _ => return Err(invalid("its scheme is not known")),
        };
        if scheme.starts_with("unix") {
            if rest.is_empty() {
                return Err(invalid("it has no path"));
            }
            return Ok(Self {
                text: text.to_owned(),
                target: Target::Unix(rest.into()),
                tls,
                authority: Authority::from_static("localhost"),
                host: "localhost".to_owned(),
            });
        }
        let authority: Authority = rest
            .strip_suffix('/')
            .unwrap_or(rest)
            .parse()
            .map_err(|_| invalid("it has no host and port"))?;
        if authority.as_str().contains('@') {
            return Err(invalid("user and password belong into the options"));
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(invalid("it has no host"));
        }
        let after_host = authority.as_str().rsplit_once(':').map(|(_, port)| port);
        let port = match authority.port_u16() {
            Some(port) => port,
            None if after_host.is_some_and(|port| !port.ends_with(']')) => {
                return Err(invalid("its port is no number"));
            }
            None => DEFAULT_PORT,
        };
        Ok(Self {
            text: text.to_owned(),
            target: Target::Tcp {
                host: host.to_owned(),
                port,
            },
            tls,
            host: host.to_owned(),
            authority,
        })
    }

    pub(crate) fn scheme(&self) -> Scheme {
        if self.tls {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> (String, u16, bool) {
        let address = Address::parse(text).expect(text);
        match address.target {
            Target::Tcp { host, port } => (host, port, address.tls),
            Target::Unix(_) => panic!("{text} is no socket"),
        }
    }

    #[test]
    fn endpoints_are_read_as_etcdctl_reads_them() {
        assert_eq!(tcp("127.0.0.1:2379"), ("127.0.0.1".into(), 2379, false));
        assert_eq!(tcp("db"), ("db".into(), 2379, false));
        assert_eq!(tcp("http://db:1/"), ("db".into(), 1, false));
        assert_eq!(tcp("https://db:1"), ("db".into(), 1, true));
        assert_eq!(tcp("[::1]:5"), ("::1".into(), 5, false));
        assert_eq!(tcp("http://[::1]"), ("::1".into(), 2379, false));
        for (text, path, tls) in [
            ("unix:/run/b.sock", "/run/b.sock", false),
            ("unix:///run/b.sock", "/run/b.sock", false),
            ("unixs://b.sock", "b.sock", true),
        ] {
            let address = Address::parse(text).expect(text);
            assert_eq!(address.target, Target::Unix(path.into()));
            assert_eq!(address.tls, tls);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_what_to_write() {
        for text in [
            "",
            ":1",
            "db:x",
            "ftp://db",
            "http://",
            "unix:",
            "http://u:p@db",
            "a b",
            "db:1/v3",
        ] {
            let error = Address::parse(text).expect_err(text);
            assert!(error.to_string().contains("host:port"), "{text}: {error}");
        }
    }
}
