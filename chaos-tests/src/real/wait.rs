//! Waiting for what the kernel or a member does in its own time, and tells nobody.

use std::time::Duration;

use tokio::time::Instant;

/// The pause between two looks at something that has no way to tell us.
pub const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks again and again until `look` finds something; `None` if it has not within `limit`. It looks once at least.
pub async fn until<T, F>(limit: Duration, mut look: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let began = Instant::now();
    loop {
        let found = look().await;
        if found.is_some() || began.elapsed() >= limit {
            return found;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
