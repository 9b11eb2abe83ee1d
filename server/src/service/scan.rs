//! Long reads of the state, in steps, so that applying never waits for one.

use baton_proto::etcdserverpb::{RangeRequest, RangeResponse};
use baton_state_machine::HashKv;

use super::status::RpcError;
use crate::compactor::ReadPins;
use crate::core::Core;
use std::sync::Arc;
use std::time::Duration;

/// Keys visited under one hold of the state's lock.
const STEP_KEYS: usize = 512;
/// Times the state may be replaced by a snapshot under a read before it is given up.
const ATTEMPTS_MAX: usize = 5;
/// Pause before the next of them.
const REPLACING_PAUSE: Duration = Duration::from_millis(20);

/// Runs a scan: begins it under the state's lock, pins what it reads, steps, and finishes it outside of
/// the lock; all over again where the state was replaced meanwhile. Evaluates to the result, and the
/// current revision when the scan began.
macro_rules! scan {
    ($core:expr, $pins:expr, $begin:expr, $oldest:ident) => {{
        let core: &Core = $core;
        let history = core.history();
        let mut attempts = 0;
        loop {
            let (mut scan, revision, _pin, generation) = {
                let state = core.state().read();
                let scan = $begin(&*state)?;
                let pin = $pins.pin(scan.$oldest());
                (scan, state.revision(), pin, history.ring().generation())
            };
            while !scan.step(&core.state().read(), STEP_KEYS) {
                tokio::task::yield_now().await;
            }
            let view = history.view();
            let found = scan.finish(&view);
            if !view.torn() && history.ring().generation() == generation {
                break Ok((found, revision));
            }
            attempts += 1;
            // The state store is replaced a moment before the state is.
            tokio::time::sleep(REPLACING_PAUSE).await;
            if attempts == ATTEMPTS_MAX {
                tracing::error!("the state store does not hold values the index names");
                break Err(RpcError::HistoryLost);
            }
        }
    }};
}

/// Reads a range of this member's state. The header is left to the caller, who gets the current
/// revision for it.
///
/// # Errors
/// The revision is compacted or not reached.
pub(super) async fn range(
    core: &Core,
    pins: &Arc<ReadPins>,
    request: &RangeRequest,
) -> Result<(RangeResponse, i64), RpcError> {
    scan!(
        core,
        pins,
        |state: &baton_state_machine::State| state.begin_range(request),
        revision
    )
}

/// Hashes this member's state up to `revision`, 0 meaning the current one.
///
/// # Errors
/// The revision is compacted or not reached.
pub(super) async fn hash(
    core: &Core,
    pins: &Arc<ReadPins>,
    revision: i64,
) -> Result<(HashKv, i64), RpcError> {
    scan!(
        core,
        pins,
        |state: &baton_state_machine::State| state.begin_hash(revision),
        oldest
    )
}
