//! Removes the keys of those who went away, many at a time, until it is certain that they are gone.

use std::collections::VecDeque;
use std::time::Duration;

use baton_proto::etcdserverpb::request_op::Request;
use baton_proto::etcdserverpb::{DeleteRangeRequest, TxnRequest};
use baton_proto::log::command::Op;
use metrics::counter;
use tokio::sync::mpsc;

use super::Removal;
use super::requests::{if_modified, op};
use crate::core::{Core, ProposeError};

/// Keys removed by one entry: applying it must stay short.
const BATCH_KEYS_MAX: usize = 128;
/// Bytes of removals after which a batch takes no further one.
const BATCH_BYTES_MAX: usize = 128 << 10;
/// What a removal takes beside its key, which is in it twice.
const REMOVAL_OVERHEAD_BYTES: usize = 64;
/// The first pause after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Removes what comes from `removals`, for as long as it is polled or until the member stops. A key that
/// cannot be removed is tried again for as long as it is there: its lease ends it at the latest.
pub async fn run(core: Core, mut removals: mpsc::UnboundedReceiver<Removal>) {
    let mut pending = VecDeque::new();
    let mut pause = RETRY.0;
    loop {
        if pending.is_empty() {
            let Some(removal) = removals.recv().await else {
                return;
            };
            pending.push_back(removal);
        }
        while let Ok(removal) = removals.try_recv() {
            pending.push_back(removal);
        }
        let batch = take_batch(&core, &mut pending);
        if batch.is_empty() {
            continue;
        }
        match core.propose(Op::Txn(delete_each(&batch))).await {
            Ok(_) => pause = RETRY.0,
            Err(ProposeError::Stopped) => return,
            Err(error) => {
                counter!("baton_lock_cleanup_failures_total").increment(1);
                tracing::warn!(
                    %error,
                    keys = batch.len(),
                    "cannot remove keys of waiters that went away yet; trying again"
                );
                pending.extend(batch);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

/// The next keys that are still there. This member has applied what made them, so one that is not there
/// is gone for good.
fn take_batch(core: &Core, pending: &mut VecDeque<Removal>) -> Vec<Removal> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    // A key was proposed more than four times over when it was made, so one more never makes a batch too
    // large to propose.
    let bytes_max = BATCH_BYTES_MAX.min(core.identity().request_bytes_max / 2);
    let state = core.state().read();
    while batch.len() < BATCH_KEYS_MAX && bytes < bytes_max {
        let Some(removal) = pending.pop_front() else {
            break;
        };
        if state.mod_revision(&removal.key) == Some(removal.mod_revision) {
            bytes += 2 * removal.key.len() + REMOVAL_OVERHEAD_BYTES;
            batch.push(removal);
        }
    }
    batch
}

/// A transaction for each, in one: none depends on another.
fn delete_each(batch: &[Removal]) -> TxnRequest {
    let ops = batch.iter().map(|Removal { key, mod_revision }| {
        let delete = Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.clone(),
            ..DeleteRangeRequest::default()
        });
        op(Request::RequestTxn(TxnRequest {
            compare: vec![if_modified(key, *mod_revision)],
            success: vec![op(delete)],
            failure: Vec::new(),
        }))
    });
    TxnRequest {
        success: ops.collect(),
        ..TxnRequest::default()
    }
}
