//! Addresses in the form flags give them.

use std::fmt;
use std::net::IpAddr;

/// How a listener or an advertised address is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// TCP, in the clear.
    Http,
    /// TCP under TLS.
    Https,
    /// A socket in the file system.
    Unix,
}

/// `http://host:port`, `https://host:port` or `unix://path`, spelled as it was given: other
/// members and clients compare the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    scheme: Scheme,
}

impl Url {
    /// Reads one address.
    ///
    /// # Errors
    /// A sentence naming what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let unknown = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        let (scheme, address) = text.split_once("://").ok_or_else(unknown)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => return Err(format!("unixs is not supported, use unix: {text}")),
            _ => return Err(unknown()),
        };
        if scheme == Scheme::Unix {
            if address.is_empty() {
                return Err(format!("URL names no socket: {text}"));
            }
        } else {
            let authority = match address.split_once(['/', '?', '#']) {
                None => address,
                Some(_) => return Err(format!("URL must not contain a path: {text}")),
            };
            split_host_port(authority).ok_or_else(|| {
                format!("URL address does not have the form \"host:port\": {text}")
            })?;
        }
        Ok(Self {
            text: text.to_owned(),
            scheme,
        })
    }

    /// Reads a comma-separated list and sorts it, as etcd does.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), for the first bad one.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let mut urls = text
            .split(',')
            .map(Self::parse)
            .collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        Ok(urls)
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The address as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What follows `://`: `host:port`, or the path of a socket.
    pub fn address(&self) -> &str {
        let start = self.text.find("://").map_or(0, |at| at + 3);
        &self.text[start..]
    }

    /// Host (without brackets) and port; `None` for a socket in the file system.
    pub fn host_port(&self) -> Option<(&str, u16)> {
        match self.scheme {
            Scheme::Http | Scheme::Https => split_host_port(self.address()),
            Scheme::Unix => None,
        }
    }

    /// Whether a listener can be bound to it: names other than localhost would have to be resolved.
    pub fn can_bind(&self) -> bool {
        match self.host_port() {
            None => true,
            Some((host, _)) => host == "localhost" || host.parse::<IpAddr>().is_ok(),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Splits `host:port` and `[v6]:port`.
fn split_host_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_sorted_and_each_url_keeps_its_text() {
        let urls = Url::parse_list("http://b:2, http://[::1]:1").unwrap();
        let texts: Vec<_> = urls.iter().map(Url::as_str).collect();
        assert_eq!(texts, ["http://[::1]:1", "http://b:2"]);
        assert_eq!(urls[0].host_port(), Some(("::1", 1)));
    }

    #[test]
    fn every_malformed_url_is_refused_with_what_is_wrong() {
        for (text, error) in [
            ("localhost:1", "URL scheme must be"),
            ("ftp://a:1", "URL scheme must be"),
            ("http://a", "does not have the form \"host:port\""),
            ("http://a:b", "does not have the form \"host:port\""),
            ("http://a:70000", "does not have the form \"host:port\""),
            ("http://::1:2", "does not have the form \"host:port\""),
            ("http://a:1/x", "URL must not contain a path"),
            ("unix://", "names no socket"),
        ] {
            let refusal = Url::parse(text).unwrap_err();
            assert!(refusal.contains(error), "{text}: {refusal}");
        }
    }

    #[test]
    fn only_addresses_and_localhost_can_be_bound() {
        let can_bind = |text| Url::parse(text).unwrap().can_bind();
        assert!(can_bind("http://127.0.0.1:1"));
        assert!(can_bind("http://[::]:1"));
        assert!(can_bind("http://localhost:1"));
        assert!(can_bind("unix://a.sock"));
        assert!(!can_bind("http://example.org:1"));
    }
}
