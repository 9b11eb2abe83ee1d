//! How a client connects.

use std::time::Duration;

use crate::{Error, Tls};

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
    /// leader and to say that it could not. Requests that wait by nature (lock, campaign) or take as long as
    /// the store is large have no limit while an endpoint is at work on them; with none that can be
    /// reached for this time they end too. A watch has to begin in it, and then waits for endpoints forever.
    pub request_timeout: Duration,
    /// Time an endpoint has to answer what may be asked again: behind it a read is made elsewhere, if there
    /// is another endpoint (and each further one has twice as long), and the streams of renewals and
    /// watches are opened anew, elsewhere or on a new connection. Default 2 s.
    pub attempt_timeout: Duration,
    /// Silence after which the server is pinged. Default 10 s; servers refuse less than 5 s.
    pub keep_alive: Duration,
    /// Time the server has to answer a ping. Default 3 s.
    pub keep_alive_timeout: Duration,
    /// Bytes of notifications a watcher keeps for its reader before it pauses. Default 1 MiB.
    pub watch_buffer: usize,
    /// Put before every key, and taken off every answer. Default empty.
    pub namespace: Vec<u8>,
    /// Whom to trust and who to be on encrypted connections. Default the operating system's authorities.
    pub tls: Tls,
    /// Who is asking. Default nobody.
    pub credentials: Option<Credentials>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(7),
            attempt_timeout: Duration::from_secs(2),
            keep_alive: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(3),
            watch_buffer: 1 << 20,
            namespace: Vec::new(),
            tls: Tls::default(),
            credentials: None,
        }
    }
}

impl Options {
    /// Refuses what can never work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let times = [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("keep_alive", self.keep_alive),
            ("keep_alive_timeout", self.keep_alive_timeout),
        ];
        for (name, time) in times {
            if time.is_zero() {
                return Err(Error::Invalid(format!("{name} is zero; give it some time")));
            }
        }
        if let Some(credentials) = &self.credentials
            && credentials.user.is_empty()
        {
            return Err(Error::Invalid(
                "the user name of the credentials is empty".to_owned(),
            ));
        }
        Ok(())
    }
}
