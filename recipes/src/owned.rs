//! Work that goes on when its caller is gone.

use tokio::sync::oneshot;

use crate::Error;
use crate::LossReason;

/// Runs to the end whatever becomes of the caller. What it results in is dropped if the caller is gone, so that a guard
/// undoes what was done for nobody.
pub(crate) async fn owned_by_a_task<T: Send + 'static, E: From<Error> + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E> {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let _ = sender.send(work.await);
    });
    // The task ends without an answer only where the runtime shuts down, and this with it.
    receiver
        .await
        .unwrap_or_else(|_| Err(Error::Lost(LossReason::Closed).into()))
}
