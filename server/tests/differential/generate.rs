//! Random requests, as many of them at the edges of the contract as in its middle.

use std::collections::{BTreeSet, VecDeque};

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::compare::TargetUnion;
use pb::request_op::Request as Op;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::request::Request;

/// What the next request may refer to, learned from etcd's answers.
#[derive(Debug, Default)]
pub struct World {
    /// The store's revision.
    pub revision: i64,
    /// The revision compacted to, 0 at first.
    pub compacted: i64,
    /// Leases that exist.
    pub leases: BTreeSet<i64>,
    /// Revisions that deleted something.
    pub deletions: BTreeSet<i64>,
}

/// The next step of a run.
#[derive(Debug, Clone)]
pub enum Step {
    Call(Request),
    Watch {
        stream: usize,
        create: pb::WatchCreateRequest,
    },
    Cancel {
        stream: usize,
        choice: usize,
    },
}

/// Streams a watcher can be opened on.
pub const STREAMS: usize = 3;

/// How deep transactions nest.
const NESTING: u32 = 3;

pub struct Generator {
    random: StdRng,
    keys: Vec<Bytes>,
    planned: VecDeque<Step>,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        let mut keys: Vec<Bytes> = [
            "\0", "\0\0", "a", "a\0", "a/", "a/1", "a/2", "a/20", "b", "c", "lock/1", "lock/2",
        ]
        .iter()
        .map(|key| Bytes::from_static(key.as_bytes()))
        .collect();
        keys.push(Bytes::from_static(b"\xff"));
        keys.push(Bytes::from_static(b"\xff\xff"));
        keys.push(Bytes::from(vec![b'k'; 300]));
        keys.extend((0..8).map(|number| Bytes::from(format!("n{number}"))));
        Self {
            random: StdRng::seed_from_u64(seed),
            keys,
            planned: VecDeque::new(),
        }
    }

    pub fn next(&mut self, world: &World) -> Step {
        if let Some(step) = self.planned.pop_front() {
            return step;
        }
        let call = match self.random.random_range(0..1000) {
            0..300 => Request::Put(self.put(world)),
            300..510 => Request::Range(self.range(world)),
            510..590 => Request::DeleteRange(self.delete()),
            590..800 => Request::Txn(self.txn(world)),
            800..812 => Request::Compact(self.compact(world)),
            812..850 => return self.lease_grant(world),
            850..870 => Request::LeaseRevoke(pb::LeaseRevokeRequest {
                id: self.lease(world),
            }),
            870..885 => Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest {
                id: self.lease(world),
            }),
            885..905 => {
                let keys = self.random.random_bool(0.7);
                Request::LeaseTimeToLive(pb::LeaseTimeToLiveRequest {
                    id: self.lease(world),
                    keys,
                })
            }
            905..910 => Request::LeaseLeases,
            910..930 => Request::HashKv(pb::HashKvRequest {
                revision: self.hash_revision(world),
            }),
            930..934 => self.alarm(),
            934..936 => self.oversize(),
            936..970 => {
                return Step::Watch {
                    stream: self.random.random_range(0..STREAMS),
                    create: self.watch(world),
                };
            }
            _ => {
                return Step::Cancel {
                    stream: self.random.random_range(0..STREAMS),
                    choice: self.random.random_range(0..1000),
                };
            }
        };
        Step::Call(call)
    }

    /// A key; rarely the empty one, which most calls refuse.
    fn key(&mut self) -> Bytes {
        if self.random.random_bool(0.01) {
            return Bytes::new();
        }
        self.keys
            .choose(&mut self.random)
            .cloned()
            .unwrap_or_default()
    }

    fn range_end(&mut self, key: &Bytes) -> Bytes {
        match self.random.random_range(0..10) {
            0..4 => Bytes::new(),
            4..6 => Bytes::from_static(b"\0"),
            6..8 => successor_of_prefix(key),
            // Also below the key: an empty range.
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Bytes {
        let length = match self.random.random_range(0..20) {
            0 => 0,
            1 => self.random.random_range(100..2000),
            _ => self.random.random_range(1..6),
        };
        // Few different bytes, so that values tie and compare equal now and then.
        Bytes::from(
            (0..length)
                .map(|_| self.random.random_range(b'a'..=b'c'))
                .collect::<Vec<u8>>(),
        )
    }

    fn lease(&mut self, world: &World) -> i64 {
        let known: Vec<i64> = world.leases.iter().copied().collect();
        match self.random.random_range(0..10) {
            0 => self.random.random_range(-2..30),
            _ => known.choose(&mut self.random).copied().unwrap_or(1),
        }
    }

    fn revision(&mut self, world: &World) -> i64 {
        let newest = world.revision;
        match self.random.random_range(0..100) {
            0..55 => 0,
            55..58 => -self.random.random_range(1..3),
            58..65 => newest + self.random.random_range(-1..3),
            65..75 => world.compacted + self.random.random_range(-1..2),
            75..95 => newest - self.random.random_range(0..40).min(newest),
            _ => self.random.random_range(0..=newest.max(1)),
        }
    }

    fn hash_revision(&mut self, world: &World) -> i64 {
        if self.random.random_bool(0.4) {
            0
        } else {
            self.revision(world)
        }
    }

    fn range(&mut self, world: &World) -> pb::RangeRequest {
        let key = self.key();
        let range_end = self.range_end(&key);
        let mut request = pb::RangeRequest {
            key,
            range_end,
            revision: self.revision(world),
            ..Default::default()
        };
        let random = &mut self.random;
        request.serializable = random.random_bool(0.3);
        request.keys_only = random.random_bool(0.1);
        request.count_only = random.random_bool(0.1);
        if random.random_bool(0.4) {
            request.limit = random.random_range(-1..6);
        }
        if random.random_bool(0.4) {
            request.sort_order = random.random_range(0..3);
            request.sort_target = random.random_range(0..5);
        }
        if random.random_bool(0.005) {
            request.sort_order = random.random_range(3..9);
        }
        if random.random_bool(0.15) {
            let newest = world.revision;
            let mut bound = || {
                if random.random_bool(0.5) {
                    0
                } else {
                    random.random_range(-1..=newest + 1)
                }
            };
            request.min_mod_revision = bound();
            request.max_mod_revision = bound();
            request.min_create_revision = bound();
            request.max_create_revision = bound();
        }
        request
    }

    fn put(&mut self, world: &World) -> pb::PutRequest {
        let mut request = pb::PutRequest {
            key: self.key(),
            value: self.value(),
            ..Default::default()
        };
        if self.random.random_bool(0.2) {
            request.lease = self.lease(world);
        }
        request.prev_kv = self.random.random_bool(0.2);
        if self.random.random_bool(0.06) {
            request.ignore_value = true;
            if self.random.random_bool(0.8) {
                request.value = Bytes::new();
            }
        }
        if self.random.random_bool(0.06) {
            request.ignore_lease = true;
            if self.random.random_bool(0.8) {
                request.lease = 0;
            }
        }
        request
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let key = self.key();
        // Mostly single keys, else the store is always empty.
        let range_end = if self.random.random_bool(0.7) {
            Bytes::new()
        } else {
            self.range_end(&key)
        };
        pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.random.random_bool(0.3),
        }
    }

    fn txn(&mut self, world: &World) -> pb::TxnRequest {
        if self.random.random_bool(0.01) {
            return self.long_txn();
        }
        self.txn_of_depth(world, 0)
    }

    fn txn_of_depth(&mut self, world: &World, depth: u32) -> pb::TxnRequest {
        let mut request = pb::TxnRequest::default();
        for _ in 0..self.random.random_range(0..3) {
            request.compare.push(self.compare(world));
        }
        for _ in 0..self.random.random_range(0..4) {
            request.success.push(self.op(world, depth));
        }
        for _ in 0..self.random.random_range(0..4) {
            request.failure.push(self.op(world, depth));
        }
        request
    }

    fn op(&mut self, world: &World, depth: u32) -> pb::RequestOp {
        let op = match self.random.random_range(0..100) {
            0..40 => Some(Op::RequestPut(self.put(world))),
            40..70 => Some(Op::RequestRange(self.range(world))),
            70..85 => Some(Op::RequestDeleteRange(self.delete())),
            85..99 if depth < NESTING => Some(Op::RequestTxn(self.txn_of_depth(world, depth + 1))),
            85..99 => Some(Op::RequestPut(self.put(world))),
            _ => None,
        };
        pb::RequestOp { request: op }
    }

    fn compare(&mut self, world: &World) -> pb::Compare {
        let key = self.key();
        let range_end = if self.random.random_bool(0.8) {
            Bytes::new()
        } else {
            self.range_end(&key)
        };
        let value = self.value();
        let lease = self.lease(world);
        let random = &mut self.random;
        let mut result = random.random_range(0..4);
        if random.random_bool(0.01) {
            result = 9;
        }
        let target = random.random_range(0..5);
        // Now and then the union does not hold what the target names, or nothing.
        let union = if random.random_bool(0.95) {
            target
        } else {
            random.random_range(0..6)
        };
        let target_union = match union {
            0 => Some(TargetUnion::Version(random.random_range(0..4))),
            1 => Some(TargetUnion::CreateRevision(
                random.random_range(0..=world.revision),
            )),
            2 => Some(TargetUnion::ModRevision(
                random.random_range(0..=world.revision),
            )),
            3 => Some(TargetUnion::Value(value)),
            4 => Some(TargetUnion::Lease(lease)),
            _ => None,
        };
        pb::Compare {
            result,
            target,
            key,
            range_end,
            target_union,
        }
    }

    /// A transaction about as long as is allowed, sometimes with part of its length in a nested one.
    fn long_txn(&mut self) -> pb::TxnRequest {
        let put = |number: usize| {
            let key = Bytes::from(format!("long/{number}"));
            pb::RequestOp {
                request: Some(Op::RequestPut(pb::PutRequest {
                    key,
                    ..Default::default()
                })),
            }
        };
        let length = self.random.random_range(126..131);
        let mut request = pb::TxnRequest::default();
        if self.random.random_bool(0.5) {
            request.success = (0..length).map(put).collect();
        } else {
            let outer = self.random.random_range(1..120);
            let nested = pb::TxnRequest {
                success: (outer..length).map(put).collect(),
                ..Default::default()
            };
            request.success = (1..outer).map(put).collect();
            request.success.push(pb::RequestOp {
                request: Some(Op::RequestTxn(nested)),
            });
        }
        // The keys are gone again with the next step.
        let delete = pb::DeleteRangeRequest {
            key: Bytes::from_static(b"long/"),
            range_end: Bytes::from_static(b"long0"),
            prev_kv: false,
        };
        self.planned
            .push_back(Step::Call(Request::DeleteRange(delete)));
        request
    }

    /// See `intended::AVOIDED` for the revisions it does not compact to.
    fn compact(&mut self, world: &World) -> pb::CompactionRequest {
        let physical = self.random.random_bool(0.3);
        let mut revision = match self.random.random_range(0..10) {
            0 => world.revision + self.random.random_range(0..3),
            1 => world.compacted + self.random.random_range(-1..2),
            2 => -1,
            _ => {
                world.compacted
                    + self
                        .random
                        .random_range(0..=(world.revision - world.compacted).max(1))
            }
        };
        while world.deletions.contains(&revision) {
            revision -= 1;
        }
        pb::CompactionRequest { revision, physical }
    }

    fn lease_grant(&mut self, world: &World) -> Step {
        let ttl = match self.random.random_range(0..10) {
            0 => self.random.random_range(-1..4),
            1 => *[9_000_000_000, 9_000_000_001, i64::MAX]
                .choose(&mut self.random)
                .unwrap_or(&1),
            _ => self.random.random_range(100_000..1_000_000),
        };
        let id = match self.random.random_range(0..10) {
            0 => self.lease(world),
            1 => -self.random.random_range(1..100),
            _ => self.random.random_range(1..30),
        };
        // 0 asks the server for an id, which is another one on each.
        let id = if id == 0 { 31 } else { id };
        // One that could expire during the run is revoked at once, as expiry is not in lockstep.
        if ttl < 100_000 {
            self.planned
                .push_back(Step::Call(Request::LeaseRevoke(pb::LeaseRevokeRequest {
                    id,
                })));
        }
        Step::Call(Request::LeaseGrant(pb::LeaseGrantRequest { ttl, id }))
    }

    fn alarm(&mut self) -> Request {
        const GET: i32 = 0;
        const ACTIVATE: i32 = 1;
        const DEACTIVATE: i32 = 2;
        const NOSPACE: i32 = 1;
        let alarm = |action| {
            Request::Alarm(pb::AlarmRequest {
                action,
                member_id: 77,
                alarm: NOSPACE,
            })
        };
        if self.random.random_bool(0.7) {
            let which = self.random.random_range(0..3);
            return Request::Alarm(pb::AlarmRequest {
                action: GET,
                member_id: 0,
                alarm: which,
            });
        }
        let world = World {
            revision: 1,
            ..Default::default()
        };
        for _ in 0..self.random.random_range(1..15) {
            let step = match self.random.random_range(0..5) {
                0 => Request::Put(self.put(&world)),
                1 => Request::Txn(self.txn_of_depth(&world, NESTING)),
                2 => Request::DeleteRange(self.delete()),
                3 => Request::LeaseGrant(pb::LeaseGrantRequest {
                    ttl: 500_000,
                    id: self.random.random_range(1..30),
                }),
                _ => Request::Range(self.range(&world)),
            };
            self.planned.push_back(Step::Call(step));
        }
        self.planned.push_back(Step::Call(alarm(GET)));
        self.planned.push_back(Step::Call(alarm(DEACTIVATE)));
        self.planned.push_back(Step::Call(alarm(GET)));
        alarm(ACTIVATE)
    }

    /// Above the server's limit for a request, or above the limit for a message.
    fn oversize(&mut self) -> Request {
        let length = *[1_600_000, 2_200_000]
            .choose(&mut self.random)
            .unwrap_or(&1_600_000);
        let value = Bytes::from(vec![b'v'; length]);
        Request::Put(pb::PutRequest {
            key: self.key(),
            value,
            ..Default::default()
        })
    }

    fn watch(&mut self, world: &World) -> pb::WatchCreateRequest {
        let key = self.key();
        let range_end = self.range_end(&key);
        let start_revision = self.revision(world).max(0);
        let random = &mut self.random;
        let filters = match random.random_range(0..10) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![0, 1],
            _ => Vec::new(),
        };
        pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: random.random_bool(0.2),
            filters,
            prev_kv: random.random_bool(0.5),
            // 0 lets the server choose; a small one collides now and then.
            watch_id: if random.random_bool(0.7) {
                0
            } else {
                random.random_range(1..40)
            },
            fragment: random.random_bool(0.2),
        }
    }
}

/// The first key after every key that begins with `prefix`; `\0`, which means no end, if there is none.
fn successor_of_prefix(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bytes::from(end);
        }
    }
    Bytes::from_static(b"\0")
}
