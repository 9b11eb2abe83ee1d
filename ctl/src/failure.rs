//! How a command fails: a text for people on standard error, and an exit code for scripts.

use tonic::{Code, Status};

/// Any failure.
pub const ERROR: u8 = 1;
/// No connection, or a lease command that was refused.
pub const BAD_CONNECTION: u8 = 2;
/// A transaction or a watch that cannot be read.
pub const INVALID_INPUT: u8 = 3;
/// A flag is known, its value is not.
pub const BAD_FEATURE: u8 = 4;
/// A watch or a transfer ended before its time.
pub const INTERRUPTED: u8 = 5;
/// A lock, a lead or a job was not obtained.
pub const NOT_OBTAINED: u8 = 75;
/// A lock, a lead or a job was lost, or a fenced write came too late.
pub const LOST: u8 = 76;
/// Arguments that make no sense.
pub const BAD_ARGUMENTS: u8 = 128;

/// What [`std::result::Result`] is here.
pub type Result<T> = std::result::Result<T, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What is printed behind `Error: `; nothing is printed if it is empty.
    pub text: String,
    /// The cluster did not answer, or a session ended meanwhile: trying again may help.
    pub is_passing: bool,
}

impl Failure {
    /// With this exit code and text.
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            is_passing: false,
        }
    }

    /// Any failure.
    pub fn error(text: impl Into<String>) -> Self {
        Self::new(ERROR, text)
    }

    /// Arguments that make no sense.
    pub fn arguments(text: impl Into<String>) -> Self {
        Self::new(BAD_ARGUMENTS, text)
    }

    /// An exit code alone: all was said already.
    pub fn silent(code: u8) -> Self {
        Self::new(code, "")
    }

    /// With what failed in front, as `what (why)`.
    #[must_use]
    pub fn about(mut self, what: &str) -> Self {
        self.text = format!("{what} ({})", self.text);
        self
    }

    /// One that trying again may help against.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.is_passing = true;
        self
    }

    /// With another exit code.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::error(status_text(&status))
    }
}

impl From<baton_client::Error> for Failure {
    fn from(error: baton_client::Error) -> Self {
        use baton_client::Error::{Refused, Unavailable, Unknown};
        match error {
            Refused(refusal) => {
                // Without a token there is no connection.
                let is_login = refusal.message
                    == "etcdserver: authentication failed, invalid user ID or password";
                let failure = Self::from(Status::new(refusal.code, refusal.message));
                failure.with_code(if is_login { BAD_CONNECTION } else { ERROR })
            }
            Unavailable { waited, last } => Self::error(format!(
                "context deadline exceeded: no endpoint could be reached within {}: {last}\n{}",
                crate::go::duration(crate::guard::rounded(waited)),
                if last.starts_with("https://") {
                    NAME_SCHEME
                } else {
                    NAME_ENDPOINTS
                }
            ))
            .passing(),
            Unknown { reason } => Self::error(format!(
                "{reason} (no answer came back: it is not known whether this was carried out)"
            ))
            .passing(),
            error => Self::error(error.to_string()),
        }
    }
}

const NAME_ENDPOINTS: &str = "Is the server running? Name its endpoints with --endpoints=HOST:PORT,... or in BATONCTL_ENDPOINTS.";

const NAME_SCHEME: &str =
    "Is the server running, with TLS? One that serves without it is named http://HOST:PORT.";

impl From<baton_recipes::Error> for Failure {
    fn from(error: baton_recipes::Error) -> Self {
        match error {
            baton_recipes::Error::Client(error) => error.into(),
            error @ baton_recipes::Error::Invalid(_) => Self::arguments(error.to_string()),
            error @ (baton_recipes::Error::Lost(_) | baton_recipes::Error::Stale { .. }) => {
                Self::new(LOST, error.to_string()).passing()
            }
            error => Self::error(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::error(error.to_string())
    }
}

/// A refusal in the words of Go's client: errors of etcd by their text alone, which scripts look for.
pub fn status_text(status: &Status) -> String {
    let text = status.message();
    match status.code() {
        Code::DeadlineExceeded => "context deadline exceeded".to_owned(),
        _ if text.starts_with("etcdserver: ") || text.starts_with("auth: ") => text.to_owned(),
        code => format!("rpc error: code = {} desc = {text}", code_name(code)),
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
