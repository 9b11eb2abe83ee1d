//! What is refused on local facts, before anything is proposed.

use std::fmt;

use baton_proto::etcdserverpb::alarm_request::AlarmAction;
use baton_proto::etcdserverpb::request_op::Request;
use baton_proto::etcdserverpb::{AlarmRequest, AlarmType, PutRequest, RequestOp, TxnRequest};
use baton_proto::log::command::Op;

use crate::core::{Core, ProposeError};

/// Entries committed and not yet applied at which writes are refused.
const BACKLOG_MAX: u64 = 5000;
/// What a pair is taken to cost beside its key and value.
const PAIR_OVERHEAD_BYTES: u64 = 256;
/// What a lease is taken to cost.
const LEASE_BYTES: u64 = 64;

/// Refuses writes this member could not take.
#[derive(Clone)]
pub struct Admission {
    core: Core,
    /// `None`: no limit.
    quota_bytes: Option<u64>,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("quota_bytes", &self.quota_bytes)
            .finish_non_exhaustive()
    }
}

/// The store is at its quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSpace;

impl Admission {
    /// `quota_bytes` is what the store may hold, `None` for no limit.
    pub fn new(core: Core, quota_bytes: Option<u64>) -> Self {
        Self { core, quota_bytes }
    }

    /// The quota in force, 0 where there is none.
    pub fn quota_bytes(&self) -> u64 {
        self.quota_bytes.unwrap_or(0)
    }

    /// Refuses while applying lags behind too far.
    ///
    /// # Errors
    /// It does.
    pub fn backlog(&self) -> Result<(), ProposeError> {
        let status = self.core.raft_status();
        if status.committed.saturating_sub(status.applied) > BACKLOG_MAX {
            return Err(ProposeError::TooManyRequests);
        }
        Ok(())
    }

    /// Refuses what would take the store to its quota, and then has every member refuse writes until
    /// an operator disarms the alarm.
    ///
    /// # Errors
    /// The store is full.
    pub async fn space(&self, cost: u64) -> Result<(), NoSpace> {
        let Some(quota) = self.quota_bytes.filter(|_| cost > 0) else {
            return Ok(());
        };
        let member_id = self.core.member_id();
        let raised = {
            let state = self.core.state().read();
            if state.size_bytes().saturating_add(cost) < quota {
                return Ok(());
            }
            state.alarms().contains(&(member_id, AlarmType::Nospace))
        };
        if !raised {
            tracing::warn!(
                quota_bytes = quota,
                "the store is at its quota; raising an alarm"
            );
            let alarm = AlarmRequest {
                action: AlarmAction::Activate.into(),
                member_id,
                alarm: AlarmType::Nospace.into(),
            };
            if let Err(error) = self.core.propose(Op::Alarm(alarm)).await {
                tracing::warn!(%error, "the alarm could not be raised");
            }
        }
        Err(NoSpace)
    }
}

/// What a put may add to the store.
pub fn put_cost(request: &PutRequest) -> u64 {
    pair_cost(request.key.len() + request.value.len())
}

/// What a pair of so many bytes adds to the store.
pub fn pair_cost(bytes: usize) -> u64 {
    PAIR_OVERHEAD_BYTES + bytes as u64
}

/// What a lease adds to the store.
pub fn lease_cost() -> u64 {
    LEASE_BYTES
}

/// What the more expensive branch of a transaction may add to the store.
pub fn txn_cost(request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost(put),
                Some(Request::RequestTxn(nested)) => txn_cost(nested),
                _ => 0,
            })
            .sum()
    };
    branch(&request.success).max(branch(&request.failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: &'static str) -> RequestOp {
        RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                key: "key".into(),
                value: value.into(),
                ..PutRequest::default()
            })),
        }
    }

    #[test]
    fn a_transaction_costs_its_dearer_branch() {
        let request = TxnRequest {
            compare: vec![],
            success: vec![put("v")],
            failure: vec![put("v"), put("v")],
        };
        assert_eq!(txn_cost(&request), 2 * (256 + 4));
    }
}
