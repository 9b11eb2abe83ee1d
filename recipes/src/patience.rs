//! Going on after failures that pass.

use baton_client::{Code, Error as ClientError, WatchError};

use crate::Error;
use crate::session::{Retry, Shared};

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

/// Repeats a read for as long as its failures pass and the session lives.
///
/// # Errors
/// [`Error::Lost`] if the session ends, [`Error::Client`] with a failure that does not pass.
pub(crate) async fn read<T, F>(session: &Shared, mut request: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut lost = session.lost();
    let mut retry = Retry::new();
    loop {
        let failed = tokio::select! {
            biased;
            reason = &mut lost => return Err(Error::Lost(reason)),
            answer = request() => match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            },
        };
        if !passes(&failed) {
            return Err(failed.into());
        }
        tracing::debug!(session = %session.id, "reading once more: {failed}");
        tokio::select! {
            biased;
            reason = &mut lost => return Err(Error::Lost(reason)),
            () = retry.pause() => {}
        }
    }
}
