//! Restarts, compactions, leases that end, and the last look when all is over.

use std::collections::BTreeSet;

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use rand::Rng;

use super::{Cluster, error, header, with_header};
use crate::check::effects;
use crate::history::{Answer, Member, MemberEvent, MemberStep, Outcome, Record, Request};
use crate::model::Change;
use crate::workload::final_reads::FINAL;

impl Cluster {
    pub(super) fn member(&mut self, member: Member, event: MemberEvent) {
        let at = self.tick();
        self.records
            .push(Record::Member(MemberStep { member, at, event }));
    }

    /// A member ends and is started again, with a little of what it had applied to be applied anew.
    pub(super) fn restart(&mut self) {
        let member = self.any_member();
        let status = "signal 9".into();
        let expected = true;
        self.member(member, MemberEvent::Ended { status, expected });
        // Calls that it had not answered are lost with it.
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            if client.member == member
                && let Some(under_way) = &mut client.under_way
            {
                under_way.outcome = Some(Outcome::Unknown(error(14, "reset")));
                self.answer(at);
            }
        }
        self.member(member, MemberEvent::Started { pid: 2 });
        let back = self.chance.random_range(0..5);
        let place = self.place(member);
        place.applied = (place.applied - back).max(1);
    }

    pub(super) fn compact(&mut self) {
        let newest = self.model.revision();
        let revision = newest - self.chance.random_range(0..60);
        // The witness that fills the holes of the others keeps up.
        self.tell(1, newest);
        if revision <= self.compacted || revision <= 1 {
            return;
        }
        let called = self.tick();
        self.compacted = revision;
        let request = pb::CompactionRequest {
            revision,
            physical: false,
        };
        let answer = pb::CompactionResponse {
            header: Some(header(1, newest)),
        };
        self.other(
            "maintenance",
            called,
            request.into(),
            Answer::Compact(answer),
        );
    }

    pub(super) fn grant(&mut self) {
        let called = self.tick();
        self.lease += 1;
        let (id, ttl) = (self.lease, 2);
        let newest = self.model.revision();
        let answer = pb::LeaseGrantResponse {
            header: Some(header(1, newest)),
            id,
            ttl,
            error: String::new(),
        };
        self.leased.insert(id, BTreeSet::new());
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        self.other("lease", called, request.into(), Answer::LeaseGrant(answer));
        self.ends.insert(id, self.now + 2_000_000_000);
        for key in 0..self.chance.random_range(1..4) {
            let called = self.tick();
            let put = pb::PutRequest {
                key: format!("lease/{id:x}/{key}").into(),
                value: format!("lease/{id:x}/{key}").into(),
                lease: id,
                ..Default::default()
            };
            let mut draft = self.model.draft(self.model.revision());
            let Ok(mut answer) = draft.put(&put) else {
                continue;
            };
            let changes = draft.into_changes();
            self.push(changes);
            answer.header = Some(header(1, self.model.revision()));
            self.other("lease", called, put.into(), Answer::Put(answer));
        }
    }

    pub(super) fn expire(&mut self) {
        let Some((lease, keys)) = self.leased.pop_first() else {
            return;
        };
        // Its time passes while nothing else happens.
        self.now = self.now.max(self.ends.remove(&lease).unwrap_or(0));
        self.push(keys.into_iter().map(Change::Delete).collect());
    }

    /// The last look at every member.
    pub(super) fn look(&mut self) {
        for member in 1..=self.shape.members {
            let called = self.tick();
            let key = format!("{FINAL}/{member}");
            let put = pb::PutRequest {
                key: key.clone().into(),
                value: key.into(),
                ..Default::default()
            };
            let everything = pb::RangeRequest {
                key: Bytes::from_static(b"\0"),
                range_end: Bytes::from_static(b"\0"),
                ..Default::default()
            };
            for request in [Request::Put(put), Request::Range(everything)] {
                let mut draft = self.model.draft(self.model.revision());
                let evaluated = effects::evaluate(&request, &mut draft);
                let changes = draft.into_changes();
                self.push(changes);
                let header = header(member, self.model.revision());
                if let Some(Ok(answer)) = evaluated {
                    self.other_at(member, FINAL, called, request, with_header(answer, header));
                }
            }
        }
        for member in 1..=self.shape.members {
            let (called, revision) = (self.tick(), self.model.revision());
            let answer = pb::HashKvResponse {
                header: Some(header(member, revision)),
                hash: 0x1234,
                compact_revision: self.compacted,
                hash_revision: revision,
            };
            let request = pb::HashKvRequest { revision }.into();
            self.other_at(member, FINAL, called, request, Answer::HashKv(answer));
            let (called, leader) = (self.tick(), header(1, revision));
            let status = pb::StatusResponse {
                header: Some(header(member, revision)),
                leader: leader.member_id,
                raft_term: leader.raft_term,
                raft_applied_index: u64::try_from(revision).unwrap_or_default(),
                ..Default::default()
            };
            let request = pb::StatusRequest::default().into();
            self.other_at(member, FINAL, called, request, Answer::Status(status));
        }
    }
}
