//! Members that lag behind, and the witnesses at them.

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::{Event, KeyValue};
use bytes::Bytes;
use rand::Rng;

use super::{Cluster, error, header};
use crate::history::{Member, Nanos, Record, WatchEvent, WatchStep};
use crate::model::Change;
use crate::workload::witness::WITNESS;

impl Cluster {
    pub(super) fn replicate(&mut self, member: Member) {
        let newest = self.model.revision();
        let applied = self.place(member).applied;
        let to = self.chance.random_range(applied..=newest.max(applied));
        self.place(member).applied = to;
    }

    /// The witness at a member is told some of what it was not yet.
    pub(super) fn witness(&mut self, member: Member) {
        let newest = self.model.revision();
        let from = self.place(member).witnessed;
        let to = self.chance.random_range(from..=newest);
        self.tell(member, to);
    }

    pub(super) fn tell(&mut self, member: Member, to: i64) {
        let place = self.place(member);
        if place.cut || place.witnessed >= to {
            return;
        }
        let from = place.witnessed + 1;
        place.witnessed = to;
        place.applied = place.applied.max(to);
        let events = (from..=to)
            .flat_map(|revision| self.events(revision))
            .collect();
        let at = self.tick();
        self.watch(
            member,
            at,
            WatchEvent::Received(pb::WatchResponse {
                header: Some(header(member, to)),
                events,
                ..Default::default()
            }),
        );
    }

    pub(super) fn events(&self, revision: i64) -> Vec<Event> {
        let before = |key: &Bytes| self.model.get(key, revision - 1).cloned();
        self.model
            .changes(revision)
            .iter()
            .map(|change| match change {
                Change::Put(kv) => Event {
                    r#type: 0,
                    kv: Some(kv.clone()),
                    prev_kv: before(&kv.key),
                },
                Change::Delete(key) => Event {
                    r#type: 1,
                    kv: Some(KeyValue {
                        key: key.clone(),
                        mod_revision: revision,
                        ..Default::default()
                    }),
                    prev_kv: before(key),
                },
            })
            .collect()
    }

    pub(super) fn watch(&mut self, member: Member, at: Nanos, step: WatchEvent) {
        self.records.push(Record::Watch(WatchStep {
            workload: WITNESS.into(),
            watcher: u32::try_from(member).unwrap_or(u32::MAX),
            member,
            at,
            step,
        }));
    }

    pub(super) fn ask_witness(&mut self, member: Member, start_revision: i64) {
        let at = self.tick();
        self.watch(
            member,
            at,
            WatchEvent::Asked(pb::WatchCreateRequest {
                key: Bytes::from_static(b"\0"),
                range_end: Bytes::from_static(b"\0"),
                start_revision,
                prev_kv: true,
                progress_notify: true,
                ..Default::default()
            }),
        );
        let (at, newest) = (self.tick(), self.place(member).applied);
        self.watch(
            member,
            at,
            WatchEvent::Received(pb::WatchResponse {
                header: Some(header(member, newest)),
                created: true,
                ..Default::default()
            }),
        );
    }

    /// The witness of any member but the first loses its stream, or has a new one. One that was overtaken by compaction
    /// goes on from where there is history.
    pub(super) fn cut_or_join(&mut self, member: Member) {
        if member == 1 {
            return;
        }
        if !self.place(member).cut {
            self.place(member).cut = true;
            let at = self.tick();
            self.watch(member, at, WatchEvent::Broken(error(14, "reset")));
            return;
        }
        self.place(member).cut = false;
        let next = self.place(member).witnessed + 1;
        self.ask_witness(member, next);
        if next < self.compacted {
            let (at, floor) = (self.tick(), self.compacted);
            self.watch(
                member,
                at,
                WatchEvent::Received(pb::WatchResponse {
                    canceled: true,
                    compact_revision: floor,
                    ..Default::default()
                }),
            );
            self.ask_witness(member, floor);
            self.place(member).witnessed = floor - 1;
        }
    }
}
