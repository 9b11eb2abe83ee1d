//! The state and its one entrance.

use std::collections::{BTreeMap, BTreeSet};

use baton_proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, CompactionResponse, DeleteRangeRequest,
    LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse, Member,
    PutRequest, RangeRequest, TxnRequest, TxnResponse,
};
use baton_proto::log::command::Op;
use baton_proto::log::{Command, Expire, Membership, Publish};

use crate::alarm::Alarms;
use crate::index::Index;
use crate::lease::LeaseTable;
use crate::members::Members;
use crate::planted::{Mutant, planted};
use crate::revision::{Changes, NextRevision};
use crate::txn::{self, Branches};
use crate::{
    Applied, ApplyError, Archive, Effect, HashScan, HistoryScan, KeyRange, Lease, RangeScan,
    Response, rows,
};

/// Everything that is replicated.
#[derive(Debug, PartialEq)]
pub struct State {
    pub(crate) index: Index,
    /// Of the last change. Never below `compact_revision`.
    pub(crate) revision: i64,
    /// Below it nothing can be read; -1 until the first compaction.
    pub(crate) compact_revision: i64,
    pub(crate) leases: LeaseTable,
    pub(crate) alarms: Alarms,
    pub(crate) members: Members,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// What a cluster begins with: revision 1, nothing in it.
    pub fn new() -> Self {
        State {
            index: Index::default(),
            revision: 1,
            compact_revision: -1,
            leases: LeaseTable::default(),
            alarms: Alarms::default(),
            members: Members::default(),
        }
    }

    /// Applies one committed command, found in an entry of `term`. An error changes nothing.
    /// Values of older revisions, which only ranges inside a transaction ask for, come from `archive`.
    pub fn apply(&mut self, term: u64, command: &Command, archive: &dyn Archive) -> Applied {
        let mut changes = Changes::default();
        let outcome = match &command.op {
            None | Some(Op::BeginStateHash(_)) => Ok(Response::Done),
            Some(Op::Put(request)) => self.put(request, &mut changes),
            Some(Op::DeleteRange(request)) => self.delete_range(request, &mut changes),
            Some(Op::Txn(request)) => self.txn(request, archive, &mut changes),
            Some(Op::Compact(request)) => self.compact(request, &mut changes),
            Some(Op::LeaseGrant(request)) => self.lease_grant(request, &mut changes),
            Some(Op::LeaseRevoke(request)) => self.lease_revoke(request, &mut changes),
            Some(Op::Alarm(request)) => self.alarm(request, &mut changes),
            Some(Op::Publish(publish)) => self.publish(publish, &mut changes),
            Some(Op::Expire(expire)) => self.expire(term, expire, &mut changes),
        };
        self.applied(outcome, changes)
    }

    /// Takes over the membership that raft agreed on: who is a member, at which peer addresses, in
    /// which role. Published names and client addresses stay.
    pub fn set_membership(&mut self, membership: &Membership) -> Applied {
        let mut changes = Changes {
            rows: self.members.set(membership),
            ..Changes::default()
        };
        if !changes.rows.is_empty() {
            changes.effects.push(Effect::MembersChanged);
        }
        self.applied(Ok(Response::Done), changes)
    }

    fn applied(&self, outcome: Result<Response, ApplyError>, changes: Changes) -> Applied {
        let Changes {
            events,
            effects,
            rows,
        } = changes;
        Applied {
            revision: self.revision,
            outcome,
            events,
            effects,
            rows,
        }
    }

    fn put(&mut self, request: &PutRequest, changes: &mut Changes) -> Result<Response, ApplyError> {
        self.alarms.admit_growth()?;
        self.check_lease(request)?;
        if txn::keeps_something(request) && !self.exists(&request.key) {
            return Err(ApplyError::KeyNotFound);
        }
        let mut next = NextRevision::begin(self, changes);
        let response = next.put(request);
        next.commit();
        Ok(Response::Put(response))
    }

    fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
        changes: &mut Changes,
    ) -> Result<Response, ApplyError> {
        self.alarms.admit()?;
        let mut next = NextRevision::begin(self, changes);
        let response = next.delete_range(request);
        next.commit();
        Ok(Response::DeleteRange(response))
    }

    fn txn(
        &mut self,
        request: &TxnRequest,
        archive: &dyn Archive,
        changes: &mut Changes,
    ) -> Result<Response, ApplyError> {
        if txn::may_grow(request) {
            self.alarms.admit_growth()?;
        }
        self.alarms.admit()?;
        let branches = Branches::decide(self, request);
        txn::check(self, request, &branches)?;
        let mut next = NextRevision::begin(self, changes);
        let response = txn::run(&mut next, request, &branches, archive);
        next.commit();
        Ok(Response::Txn(response))
    }

    fn compact(
        &mut self,
        request: &CompactionRequest,
        changes: &mut Changes,
    ) -> Result<Response, ApplyError> {
        self.alarms.admit()?;
        let revision = request.revision;
        if revision <= self.compact_revision {
            return Err(ApplyError::Compacted);
        }
        if revision > self.revision {
            return Err(ApplyError::FutureRevision);
        }
        self.compact_revision = revision;
        changes.rows.push(rows::compact_revision(revision));
        changes.effects.push(Effect::Compacted { revision });
        Ok(Response::Compact(CompactionResponse { header: None }))
    }

    fn lease_grant(
        &mut self,
        request: &LeaseGrantRequest,
        changes: &mut Changes,
    ) -> Result<Response, ApplyError> {
        self.alarms.admit_growth()?;
        let LeaseGrantRequest { id, ttl } = *request;
        if id == 0 {
            return Err(ApplyError::LeaseNotFound);
        }
        let row = rows::lease(id, ttl);
        if !self.leases.grant(id, ttl, &row) {
            return Err(ApplyError::LeaseExists);
        }
        changes.rows.push(row);
        changes.effects.push(Effect::LeaseGranted { id, ttl });
        Ok(Response::LeaseGrant(LeaseGrantResponse {
            id,
            ttl,
            ..Default::default()
        }))
    }

    fn lease_revoke(
        &mut self,
        request: &LeaseRevokeRequest,
        changes: &mut Changes,
    ) -> Result<Response, ApplyError> {
        self.alarms.admit()?;
        if !self.end_lease(request.id, changes) {
            return Err(ApplyError::LeaseNotFound);
        }
        Ok(Response::LeaseRevoke(LeaseRevokeResponse { header: None }))
    }

    fn expire(
        &mut self,
        term: u64,
        expire: &Expire,
        changes: &mut Changes,
    ) -> Result<Response, ApplyError> {
        self.alarms.admit()?;
        if expire.term == term || planted(Mutant::StaleExpiry) {
            for id in &expire.lease_ids {
                self.end_lease(*id, changes);
            }
        }
        Ok(Response::Done)
    }

    /// Removes a lease and its keys, all in one revision. False if there is no such lease.
    fn end_lease(&mut self, id: i64, changes: &mut Changes) -> bool {
        let Some(lease) = self.leases.revoke(id) else {
            return false;
        };
        changes.rows.push(rows::removed_lease(id));
        changes.effects.push(Effect::LeaseRevoked { id });
        let mut next = NextRevision::begin(self, changes);
        if planted(Mutant::UnorderedRevoke) {
            #[allow(clippy::disallowed_types, reason = "that is the bug")]
            let unordered: std::collections::HashSet<_> = lease.keys.iter().cloned().collect();
            unordered.into_iter().for_each(|key| next.delete_key(key));
        }
        for key in lease.keys {
            next.delete_key(key);
        }
        next.commit();
        true
    }

    fn alarm(
        &mut self,
        request: &AlarmRequest,
        changes: &mut Changes,
    ) -> Result<Response, ApplyError> {
        let (response, row) = self.alarms.apply(request);
        if let Some(row) = row {
            changes.rows.push(row);
            changes.effects.push(Effect::AlarmsChanged);
        }
        Ok(Response::Alarm(response))
    }

    fn publish(
        &mut self,
        publish: &Publish,
        changes: &mut Changes,
    ) -> Result<Response, ApplyError> {
        if let Some(row) = self.members.publish(publish) {
            changes.rows.push(row);
            changes.effects.push(Effect::MembersChanged);
        }
        Ok(Response::Done)
    }

    pub(crate) fn check_lease(&self, put: &PutRequest) -> Result<(), ApplyError> {
        if put.lease == 0 || self.leases.contains(put.lease) {
            Ok(())
        } else {
            Err(ApplyError::LeaseNotFound)
        }
    }

    pub(crate) fn exists(&self, key: &[u8]) -> bool {
        self.index
            .get(key)
            .is_some_and(|entry| entry.live().is_some())
    }

    /// The revision of the last change.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The lowest readable revision; -1 until the first compaction.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// Begins to read a range, at the revision asked for or, where that is 0 or less, at the newest.
    ///
    /// # Errors
    /// The revision was compacted or is not reached yet, or the data is known to be corrupt.
    pub fn begin_range(&self, request: &RangeRequest) -> Result<RangeScan, ApplyError> {
        self.alarms.admit()?;
        let revision = if request.revision > 0 {
            request.revision
        } else {
            self.revision
        };
        if revision > self.revision {
            return Err(ApplyError::FutureRevision);
        }
        if revision < self.compact_revision {
            return Err(ApplyError::Compacted);
        }
        Ok(RangeScan::new(
            self,
            request,
            revision,
            revision == self.revision,
        ))
    }

    /// Whether a transaction has to go through the log. One of ranges only does not; a nested one
    /// counts as a write, whatever is in it.
    pub fn is_write_txn(txn: &TxnRequest) -> bool {
        txn::is_write(txn)
    }

    /// Runs a transaction that [is no write](Self::is_write_txn).
    ///
    /// # Errors
    /// A range of the branch taken asks for a revision that was compacted or is not reached yet, or
    /// the data is known to be corrupt.
    pub fn read_txn(
        &self,
        txn: &TxnRequest,
        archive: &dyn Archive,
    ) -> Result<TxnResponse, ApplyError> {
        self.alarms.admit()?;
        txn::read(self, txn, archive)
    }

    /// Begins to search for the changes of a range from revision `from` to `to`, both included.
    /// What lies below the compact revision may be missing: refusing that is up to the caller.
    pub fn begin_history(&self, range: &KeyRange, from: i64, to: i64) -> HistoryScan {
        HistoryScan::new(range.clone(), from, to, self.compact_revision)
    }

    /// Begins to hash what is readable up to `revision`, 0 meaning the newest.
    ///
    /// # Errors
    /// The revision was compacted or is not reached yet.
    pub fn begin_hash(&self, revision: i64) -> Result<HashScan, ApplyError> {
        if revision > 0 && revision < self.compact_revision {
            return Err(ApplyError::Compacted);
        }
        if revision > self.revision {
            return Err(ApplyError::FutureRevision);
        }
        let revision = if revision == 0 {
            self.revision
        } else {
            revision
        };
        Ok(HashScan::new(revision, self.compact_revision))
    }

    /// The ids of all leases, in order.
    pub fn lease_ids(&self) -> impl Iterator<Item = i64> {
        self.leases.iter().map(|(id, _)| id)
    }

    /// All leases with their ids, in order of the ids.
    pub fn leases(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.leases.iter()
    }

    /// A lease by its id.
    pub fn lease(&self, id: i64) -> Option<&Lease> {
        self.leases.get(id)
    }

    /// All members by id, learners included.
    pub fn members(&self) -> &BTreeMap<u64, Member> {
        self.members.all()
    }

    /// The version a member reported when it began to serve.
    pub fn member_version(&self, id: u64) -> Option<&str> {
        self.members.version(id)
    }

    /// The alarms that are raised, and the members they are about.
    pub fn alarms(&self) -> &BTreeSet<(u64, AlarmType)> {
        self.alarms.raised()
    }

    /// Bytes of the rows of keys and leases that the state store has to keep: what counts against
    /// the quota. Shrinks as compaction removes rows.
    pub fn size_bytes(&self) -> u64 {
        self.index.bytes() + self.leases.bytes()
    }

    /// Keys that exist at the newest revision.
    pub fn key_count(&self) -> usize {
        self.index.live()
    }
}
