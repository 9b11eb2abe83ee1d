//! Whether an answer went out.

use std::fmt;
use std::sync::Arc;

/// Travels with an answer. Told [`delivered`](Self::delivered) when the last of it was handed to the
/// connection; dropped without that, the client was gone before.
#[derive(Clone)]
pub struct Receipt(Arc<dyn Fn() + Send + Sync>);

impl Receipt {
    /// One that runs `delivered` then, and drops it in any case.
    pub fn new(delivered: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(delivered))
    }

    /// The answer went out.
    pub fn delivered(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receipt").finish_non_exhaustive()
    }
}
