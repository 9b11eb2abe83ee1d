//! What the pages tell of a running member.

use baton_proto::etcdserverpb::AlarmType;

use super::Probe;
use crate::core::Core;
use crate::metrics::Facts;

impl Probe {
    /// Of the member behind `core`; `quota_bytes` is what it was configured with.
    pub fn of(core: Core, quota_bytes: Option<u64>) -> Self {
        let (local, linearizable, members) = (core.clone(), core.clone(), core.clone());
        let hashes = core.clone();
        Self {
            facts: Box::new(move || facts(&core, quota_bytes)),
            local_read: Box::new(move || {
                if *local.stopping().borrow() {
                    return Err("etcdserver: server stopped".to_owned());
                }
                local.state().read().revision();
                Ok(())
            }),
            linearizable_read: Box::new(move || {
                let core = linearizable.clone();
                Box::pin(async move {
                    let read = core.read_barrier().await;
                    read.map_err(|error| format!("etcdserver: {error}"))
                })
            }),
            members: Box::new(move || members.state().read().members().values().cloned().collect()),
            state_hashes: Box::new(move |from| hashes.state_hashes().since(from)),
        }
    }
}

fn facts(core: &Core, quota_bytes: Option<u64>) -> Facts {
    let status = core.raft_status();
    let disk_bytes = core.disk_bytes();
    let state = core.state().read();
    let alarms = state.alarms().iter();
    Facts {
        member_id: core.member_id(),
        leader: status.leader,
        is_learner: status.is_learner,
        committed: status.committed,
        applied: status.applied,
        pending: core.proposals_pending(),
        is_cluster_version_known: core.is_ready(),
        revision: state.revision(),
        compact_revision: state.compact_revision(),
        keys: state.key_count(),
        disk_bytes,
        used_bytes: state.size_bytes(),
        quota_bytes,
        alarms: alarms
            .map(|(member, kind)| (*member, name(*kind)))
            .collect(),
    }
}

fn name(alarm: AlarmType) -> &'static str {
    match alarm {
        AlarmType::Nospace => "NOSPACE",
        AlarmType::Corrupt => "CORRUPT",
        AlarmType::None => "UNKNOWN",
    }
}
