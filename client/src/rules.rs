//! What is safe to repeat: the one place that says it.
//!
//! A request has an [`Effect`], its failure a [`Fate`]; [`next`] decides by the two.

use std::error::Error as _;

use baton_proto::etcdserverpb as pb;
use pb::request_op::Request;
use tonic::{Code, Status};

use crate::connection::SendError;

/// What a request does to the cluster, as far as repeating it is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that a second time makes worse: it reads, or renews.
    Read,
    /// Twice is the same as once, for the name and lease it is made with.
    Idempotent,
    /// Twice is not the same as once.
    Change,
}

/// Every request of the API that is one question with one answer, or a stream of answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rpc<'a> {
    Range,
    RangeStream,
    Put,
    DeleteRange,
    Txn(&'a pb::TxnRequest),
    Compact,
    LeaseGrant,
    LeaseRevoke,
    LeaseTimeToLive,
    LeaseLeases,
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberPromote,
    MemberList,
    Alarm(pb::alarm_request::AlarmAction),
    Status,
    Defragment,
    Hash,
    HashKv,
    Snapshot,
    MoveLeader,
    Downgrade(pb::downgrade_request::DowngradeAction),
    Authenticate,
    /// AuthStatus, UserGet, UserList, RoleGet, RoleList.
    AuthRead,
    /// All others of the auth service.
    AuthChange,
    Lock,
    Unlock,
    Campaign,
    Proclaim,
    Leader,
    Observe,
    Resign,
}

/// What each request does.
pub(crate) fn effect(rpc: Rpc<'_>) -> Effect {
    use pb::alarm_request::AlarmAction;
    use pb::downgrade_request::DowngradeAction;
    match rpc {
        Rpc::Range
        | Rpc::RangeStream
        | Rpc::LeaseTimeToLive
        | Rpc::LeaseLeases
        | Rpc::MemberList
        | Rpc::Alarm(AlarmAction::Get)
        | Rpc::Status
        | Rpc::Hash
        | Rpc::HashKv
        | Rpc::Snapshot
        | Rpc::Downgrade(DowngradeAction::Validate)
        // A token nobody learns of ends by itself.
        | Rpc::Authenticate
        | Rpc::AuthRead
        | Rpc::Leader
        | Rpc::Observe => Effect::Read,
        Rpc::Txn(txn) => {
            if only_reads(txn) {
                Effect::Read
            } else {
                Effect::Change
            }
        }
        // The key is named by the lease: a repetition finds the key of the attempt before, in its place.
        Rpc::Lock | Rpc::Campaign => Effect::Idempotent,
        // Unlock deletes whatever key it names, which may have a new owner by then.
        Rpc::Unlock
        | Rpc::Proclaim
        | Rpc::Resign
        | Rpc::Put
        | Rpc::DeleteRange
        | Rpc::Compact
        | Rpc::LeaseGrant
        | Rpc::LeaseRevoke
        | Rpc::MemberAdd
        | Rpc::MemberRemove
        | Rpc::MemberUpdate
        | Rpc::MemberPromote
        | Rpc::Alarm(AlarmAction::Activate | AlarmAction::Deactivate)
        | Rpc::Defragment
        | Rpc::MoveLeader
        | Rpc::Downgrade(DowngradeAction::Enable | DowngradeAction::Cancel)
        | Rpc::AuthChange => Effect::Change,
    }
}

/// Nothing but plain reads in both branches. A transaction within it is proposed by the server even if it
/// only reads, and counts as a change.
pub(crate) fn only_reads(txn: &pb::TxnRequest) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure);
    ops.all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// What a failure tells about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The server looked at it and said no. Nothing was done.
    Refused,
    /// Nothing was done because of who asked; a new token may help.
    Unauthenticated,
    /// Nothing was done, and it may well be elsewhere or later.
    NotDone,
    /// Nobody knows, and it may be answered elsewhere or later.
    Unknown,
    /// Nobody knows, and the server would say the same again.
    Failed,
}

/// Reads a failure.
pub(crate) fn fate(status: &Status) -> Fate {
    if status.source().is_some() {
        return transport_fate(status);
    }
    match status.message() {
        "etcdserver: invalid auth token"
        | "etcdserver: revision of auth store is old"
        | "etcdserver: user name is empty" => return Fate::Unauthenticated,
        // Said before anything is proposed: the member's backlog, its leader, its role; a balancer
        // without servers.
        "etcdserver: too many requests"
        | "etcdserver: no leader"
        | "etcdserver: rpc not supported for learner"
        | "raft proposal dropped"
        | "not a primary lessor"
        | "there is no address available"
        | "there is no connection available" => return Fate::NotDone,
        "etcdserver: unhealthy cluster" => return Fate::Refused,
        // The lock and election services send these as Unknown.
        "etcdserver: server stopped" | "etcdserver: leader changed" => return Fate::Unknown,
        text if text.starts_with("etcdserver: request timed out") => return Fate::Unknown,
        "etcdserver: requested lease not found"
        | "etcdserver: key is not provided"
        | "etcdserver: permission denied"
        | "etcdserver: mvcc: database space exceeded"
        | "etcdserver: corrupt cluster"
        | "etcdserver: re-configuration failed due to not enough started members"
        | "mutex: session is expired"
        | "election: session is expired"
        | "election: not leader"
        | "election: no leader"
        | "\"leader\" field must be provided"
        | "auth: authentication failed, password was given for no password user" => {
            return Fate::Refused;
        }
        _ => {}
    }
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => Fate::Refused,
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => {
            Fate::Unknown
        }
        Code::Unknown | Code::Internal | Code::Ok => Fate::Failed,
    }
}

/// A failure below gRPC: what the connection knows.
fn transport_fate(status: &Status) -> Fate {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(SendError::NotSent(_)) = error.downcast_ref() {
            return Fate::NotDone;
        }
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let refused = error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            // The streams that fail by the server's GOAWAY are those above the last it processed.
            if refused || (error.is_go_away() && error.is_remote()) {
                return Fate::NotDone;
            }
        }
        source = error.source();
    }
    Fate::Unknown
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask again, elsewhere or later.
    Repeat,
    /// Ask again with a new token.
    Reauthenticate,
    /// Tell the server's refusal.
    Refuse,
    /// Tell that the outcome is unknown.
    GiveUp,
}

/// The rule: what is certainly not done is repeated; what may have been done only if that does no harm.
pub(crate) fn next(effect: Effect, fate: Fate) -> Next {
    match (effect, fate) {
        (_, Fate::Refused) => Next::Refuse,
        (_, Fate::Unauthenticated) => Next::Reauthenticate,
        (_, Fate::NotDone) => Next::Repeat,
        (Effect::Read | Effect::Idempotent, Fate::Unknown) => Next::Repeat,
        (Effect::Read, Fate::Failed) => Next::Refuse,
        (Effect::Change, Fate::Unknown) | (Effect::Change | Effect::Idempotent, Fate::Failed) => {
            Next::GiveUp
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compare, Delete, Get, Put, Txn};

    /// Every text and code a server is known to send, and what it means for a change and for a read.
    #[test]
    fn every_answer_of_a_server_has_its_meaning() {
        use Code::*;
        let table = [
            // Nothing was done, and it may be elsewhere.
            (Unknown, "etcdserver: too many requests", Fate::NotDone),
            (
                ResourceExhausted,
                "etcdserver: too many requests",
                Fate::NotDone,
            ),
            (Unavailable, "etcdserver: no leader", Fate::NotDone),
            (
                FailedPrecondition,
                "etcdserver: rpc not supported for learner",
                Fate::NotDone,
            ),
            (
                Unavailable,
                "etcdserver: rpc not supported for learner",
                Fate::NotDone,
            ),
            (Unavailable, "there is no address available", Fate::NotDone),
            (
                Unavailable,
                "there is no connection available",
                Fate::NotDone,
            ),
            (Unknown, "raft proposal dropped", Fate::NotDone),
            (Unknown, "not a primary lessor", Fate::NotDone),
            // Nobody knows.
            (Unavailable, "etcdserver: request timed out", Fate::Unknown),
            (
                Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
                Fate::Unknown,
            ),
            (
                Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
                Fate::Unknown,
            ),
            (
                Unknown,
                "etcdserver: request timed out, leader transfer took too long",
                Fate::Unknown,
            ),
            (Unavailable, "etcdserver: server stopped", Fate::Unknown),
            (Unknown, "etcdserver: server stopped", Fate::Unknown),
            (Unavailable, "etcdserver: leader changed", Fate::Unknown),
            (Cancelled, "etcdserver: request canceled", Fate::Unknown),
            (DeadlineExceeded, "context deadline exceeded", Fate::Unknown),
            (Unavailable, "something a proxy says", Fate::Unknown),
            (Internal, "something unheard of", Fate::Failed),
            (Unknown, "something unheard of", Fate::Failed),
            // The server said no.
            (
                InvalidArgument,
                "etcdserver: key is not provided",
                Fate::Refused,
            ),
            (Unknown, "etcdserver: key is not provided", Fate::Refused),
            (
                NotFound,
                "etcdserver: requested lease not found",
                Fate::Refused,
            ),
            (
                Unknown,
                "etcdserver: requested lease not found",
                Fate::Refused,
            ),
            (Unknown, "mutex: session is expired", Fate::Refused),
            (Unknown, "election: not leader", Fate::Refused),
            (Unknown, "election: no leader", Fate::Refused),
            (
                FailedPrecondition,
                "etcdserver: lease already exists",
                Fate::Refused,
            ),
            (
                OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                Fate::Refused,
            ),
            (
                ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                Fate::Refused,
            ),
            (
                PermissionDenied,
                "etcdserver: permission denied",
                Fate::Refused,
            ),
            (DataLoss, "etcdserver: corrupt cluster", Fate::Refused),
            (Unavailable, "etcdserver: unhealthy cluster", Fate::Refused),
            (Unimplemented, "", Fate::Refused),
            // A new token may help.
            (
                Unauthenticated,
                "etcdserver: invalid auth token",
                Fate::Unauthenticated,
            ),
            (
                InvalidArgument,
                "etcdserver: revision of auth store is old",
                Fate::Unauthenticated,
            ),
            (
                InvalidArgument,
                "etcdserver: user name is empty",
                Fate::Unauthenticated,
            ),
        ];
        for (code, text, expected) in table {
            assert_eq!(
                fate(&Status::new(code, text)),
                expected,
                "{code:?} {text:?}"
            );
        }
    }

    #[test]
    fn a_change_is_repeated_only_if_it_was_certainly_not_done() {
        let fates = [
            Fate::Refused,
            Fate::Unauthenticated,
            Fate::NotDone,
            Fate::Unknown,
            Fate::Failed,
        ];
        let decided = |effect| fates.map(|fate| next(effect, fate));
        use Next::{GiveUp, Reauthenticate, Refuse, Repeat};
        assert_eq!(
            decided(Effect::Change),
            [Refuse, Reauthenticate, Repeat, GiveUp, GiveUp]
        );
        assert_eq!(
            decided(Effect::Idempotent),
            [Refuse, Reauthenticate, Repeat, Repeat, GiveUp]
        );
        assert_eq!(
            decided(Effect::Read),
            [Refuse, Reauthenticate, Repeat, Repeat, Refuse]
        );
    }

    #[test]
    fn a_transaction_of_plain_reads_is_a_read() {
        let effect_of = |txn: Txn| effect(Rpc::Txn(&txn.request));
        let reads = || Txn::new().when(Compare::absent("k")).then(Get::key("k"));
        assert_eq!(effect_of(Txn::new()), Effect::Read);
        assert_eq!(effect_of(reads().or_else(Get::prefix("k"))), Effect::Read);
        assert_eq!(
            effect_of(reads().or_else(Put::new("k", ""))),
            Effect::Change
        );
        assert_eq!(effect_of(reads().then(Delete::key("k"))), Effect::Change);
        // The server proposes it, whatever is within.
        assert_eq!(effect_of(Txn::new().then(reads())), Effect::Change);
    }
}
