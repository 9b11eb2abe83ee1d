//! How a client connects.

use std::time::Duration;

/// User and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// How a client connects. Every field has a default.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time to connect to one endpoint. Default 2 s.
    pub connect_timeout: Duration,
    /// Time a request may take, all attempts together. Default 7 s: more than a server takes to elect a
    /// leader and to say that it could not. Requests that wait by nature (watch, lock) have no limit.
    pub request_timeout: Duration,
    /// Silence after which the server is pinged. Default 10 s; servers refuse less than 5 s.
    pub keep_alive: Duration,
    /// Time the server has to answer a ping. Default 3 s.
    pub keep_alive_timeout: Duration,
    /// Put before every key, and taken off every answer. Default empty.
    pub namespace: Vec<u8>,
    /// Who is asking. Default nobody.
    pub credentials: Option<Credentials>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(7),
            keep_alive: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(3),
            namespace: Vec::new(),
            credentials: None,
        }
    }
}
