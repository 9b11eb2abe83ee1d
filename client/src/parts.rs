//! Answers that come in parts.

use std::time::Duration;

use tonic::Streaming;

use crate::rules::{self, Fate};
use crate::{Error, Refusal};

/// An answer that comes in parts. Dropped, it ends.
#[derive(Debug)]
pub struct Parts<T> {
    stream: Streaming<T>,
}

impl<T> Parts<T> {
    pub(crate) fn new(stream: Streaming<T>) -> Self {
        Self { stream }
    }

    /// The next part, `None` behind the last. Cancel safe.
    ///
    /// # Errors
    /// See [`Error`]; the parts told so far are not all there is. Ask again from the beginning.
    pub async fn next(&mut self) -> Result<Option<T>, Error> {
        self.stream
            .message()
            .await
            .map_err(|status| match rules::fate(&status) {
                Fate::Refused | Fate::Unauthenticated | Fate::Failed => Refusal::of(&status).into(),
                Fate::NotDone | Fate::Unknown => Error::Unavailable {
                    waited: Duration::ZERO,
                    last: format!("the answer broke off: {}", status.message()),
                },
            })
    }
}
