//! Going on after failures that pass.

use baton_client::{Code, Error as ClientError, WatchError};

/// Whether the same request may be answered another time: no member could be reached, none leads, or the
/// connection broke. Everything else (no permission, no such lease, nonsense) is answered the same for ever.
pub(crate) fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Unavailable { .. } | ClientError::Unknown { .. } => true,
        ClientError::Refused(refusal) => matches!(
            refusal.code,
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Aborted
                | Code::Unknown
                | Code::Internal
        ),
        _ => false,
    }
}

/// Whether a new read and a new watch may fare better: all but what [`passes`] never does.
pub(crate) fn watch_passes(error: &WatchError) -> bool {
    match error {
        WatchError::Failed(error) => passes(error),
        _ => true,
    }
}
