//! The header every response begins with.

use baton_proto::etcdserverpb::ResponseHeader;

use crate::core::Core;

/// A header that names `revision`: the one after a write, or the current one of a read.
pub fn at(core: &Core, revision: i64) -> ResponseHeader {
    ResponseHeader {
        cluster_id: core.cluster_id(),
        member_id: core.member_id(),
        revision,
        raft_term: core.raft_status().term,
    }
}

/// A header that names the current revision.
pub fn now(core: &Core) -> ResponseHeader {
    let revision = core.state().read().revision();
    at(core, revision)
}

/// A header without a revision, as the cluster service has it.
pub fn without_revision(core: &Core) -> ResponseHeader {
    at(core, 0)
}
