//! Reading a range of keys at one revision, in pieces.

use std::cmp::Ordering;

use baton_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use baton_proto::etcdserverpb::{RangeRequest, RangeResponse};
use bytes::Bytes;

use crate::index::{Change, Index, KeyEntry};
use crate::key_range::KeyRange;
use crate::{Archive, State};

/// Keys that are looked up in one go at most, where the index knows which they are.
const LOOKED_UP_MAX: usize = 4096;

/// A range request under way. It reads at the revision it began with, whatever is applied between
/// its steps, as long as compaction removes nothing visible at [`revision`](Self::revision).
#[derive(Debug)]
pub struct RangeScan {
    request: RangeRequest,
    range: KeyRange,
    revision: i64,
    /// The last key seen by an earlier step.
    after: Option<Bytes>,
    done: bool,
    /// Known from the start where the range covers all keys, or whole directories.
    total: Option<usize>,
    seen: usize,
    keep: Keep,
    order: Order,
    picks: Vec<Pick>,
    /// The last pick worth keeping, once there are enough of them.
    worst: Option<Pick>,
}

#[derive(Clone, Debug)]
struct Pick {
    key: Bytes,
    change: Change,
    /// `None`: the archive has it.
    value: Option<Bytes>,
}

/// How much has to be remembered to answer.
#[derive(Clone, Copy, Debug)]
enum Keep {
    /// Only counting.
    Nothing,
    /// The first in key order; one more than the limit, which tells whether there is more.
    First(usize),
    /// The first in the order asked for.
    Best(usize),
    All,
}

#[derive(Clone, Copy, Debug)]
struct Order {
    target: SortTarget,
    descending: bool,
}

impl Order {
    fn of(request: &RangeRequest) -> Self {
        Order {
            target: SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key),
            descending: request.sort_order == SortOrder::Descend as i32,
        }
    }

    /// The order the index is in.
    fn is_natural(self) -> bool {
        self.target == SortTarget::Key && !self.descending
    }

    /// Ties are in key order, so that every member answers the same.
    fn compare(self, a: (&Bytes, &Change), b: (&Bytes, &Change)) -> Ordering {
        let by_target = match self.target {
            SortTarget::Key | SortTarget::Value => a.0.cmp(b.0),
            SortTarget::Version => a.1.version.cmp(&b.1.version),
            SortTarget::Create => a.1.create_revision.cmp(&b.1.create_revision),
            SortTarget::Mod => a.1.main.cmp(&b.1.main),
        };
        self.directed(by_target).then_with(|| a.0.cmp(b.0))
    }

    fn directed(self, ordering: Ordering) -> Ordering {
        if self.descending {
            ordering.reverse()
        } else {
            ordering
        }
    }
}

impl RangeScan {
    /// Begins to read at `revision`; `is_newest` tells that nothing is above it.
    pub(crate) fn new(
        state: &State,
        request: &RangeRequest,
        revision: i64,
        is_newest: bool,
    ) -> Self {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let order = Order::of(request);
        let mut scan = RangeScan {
            request: request.clone(),
            revision,
            after: None,
            done: false,
            total: None,
            seen: 0,
            keep: Keep::of(request, order),
            order,
            picks: Vec::new(),
            worst: None,
            range,
        };
        if is_newest && !scan.range.is_single() {
            scan.look_up(&state.index);
        }
        scan
    }

    /// Takes what the index knows of all live keys of the range: how many there are, and which were
    /// created first or last. Often nothing is left to visit then.
    fn look_up(&mut self, index: &Index) {
        if index.is_within(&self.range) {
            self.total = Some(index.live());
        }
        let Some(covering) = index.covering(&self.range) else {
            return;
        };
        self.total = Some(covering.len());
        let by_creation =
            self.order.target == SortTarget::Create && !filters_modification(&self.request);
        let most = match self.keep {
            Keep::Nothing => 0,
            Keep::Best(most)
                if by_creation && most.saturating_mul(covering.directories()) <= LOOKED_UP_MAX =>
            {
                most
            }
            _ => return,
        };
        self.done = true;
        let min = self.request.min_create_revision;
        let max = match self.request.max_create_revision {
            0 => i64::MAX,
            max => max,
        };
        let keys = if self.order.descending {
            covering.last_created(min, max, most)
        } else {
            covering.first_created(min, max, most)
        };
        let picks = keys.into_iter().filter_map(|key| {
            let (change, value) = index.get(key)?.live()?;
            Some(Pick {
                key: key.clone(),
                change: *change,
                value: Some(value.clone()),
            })
        });
        self.picks.extend(picks);
    }

    /// The revision it reads at: what compaction must leave in place until it is finished.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Visits up to `max_keys` more keys (at least one). True once there is nothing left to visit.
    pub fn step(&mut self, state: &State, max_keys: usize) -> bool {
        if self.done {
            return true;
        }
        let after = self.after.take();
        let mut last: Option<&Bytes> = None;
        for (visited, (key, entry)) in state
            .index
            .range_after(&self.range, after.as_ref())
            .enumerate()
        {
            if self.done || visited >= max_keys.max(1) {
                self.after = last.cloned();
                return self.done;
            }
            last = Some(key);
            self.visit(key, entry);
        }
        self.done = true;
        true
    }

    fn visit(&mut self, key: &Bytes, entry: &KeyEntry) {
        let Some((change, value)) = entry.at(self.revision) else {
            return;
        };
        self.seen += 1;
        let wanted = match self.keep {
            Keep::Nothing => false,
            Keep::First(most) => self.picks.len() < most,
            Keep::Best(_) => self.worst.as_ref().is_none_or(|worst| {
                self.order
                    .compare((key, change), (&worst.key, &worst.change))
                    .is_lt()
            }),
            Keep::All => true,
        };
        if wanted && passes_filters(&self.request, change) {
            self.picks.push(Pick {
                key: key.clone(),
                change: *change,
                value: value.cloned(),
            });
            self.prune();
        }
        let has_enough = match self.keep {
            Keep::Nothing => true,
            Keep::First(most) => self.picks.len() == most,
            Keep::Best(_) | Keep::All => false,
        };
        self.done = has_enough && self.total.is_some();
    }

    /// Drops what cannot be in the answer, now and then, so that the work stays linear.
    fn prune(&mut self) {
        let Keep::Best(most) = self.keep else { return };
        if self.picks.len() < most.saturating_mul(2) {
            return;
        }
        let order = self.order;
        self.picks.select_nth_unstable_by(most - 1, |a, b| {
            order.compare((&a.key, &a.change), (&b.key, &b.change))
        });
        self.picks.truncate(most);
        self.worst = self.picks.last().cloned();
    }

    /// Fetches the values that were not in memory, and answers. The header is left to the caller.
    pub fn finish(mut self, archive: &dyn Archive) -> RangeResponse {
        let by_value = self.order.target == SortTarget::Value;
        if by_value {
            self.fetch(archive);
        }
        if !self.order.is_natural() {
            self.sort();
        }
        let limit = usize::try_from(self.request.limit).unwrap_or(0);
        let more = limit > 0 && self.picks.len() > limit;
        if more {
            self.picks.truncate(limit);
        }
        if !by_value && !self.request.keys_only {
            self.fetch(archive);
        }
        let keys_only = self.request.keys_only;
        let kvs = self.picks.into_iter().map(|pick| {
            let value = pick.value.filter(|_| !keys_only).unwrap_or_default();
            pick.change.pair(pick.key, value)
        });
        RangeResponse {
            header: None,
            kvs: kvs.collect(),
            more,
            count: self.total.unwrap_or(self.seen) as i64,
        }
    }

    fn fetch(&mut self, archive: &dyn Archive) {
        for pick in &mut self.picks {
            pick.value
                .get_or_insert_with(|| archive.read(pick.change.rev()).value);
        }
    }

    fn sort(&mut self) {
        let order = self.order;
        self.picks.sort_by(|a, b| {
            if order.target == SortTarget::Value {
                order
                    .directed(a.value.cmp(&b.value))
                    .then_with(|| a.key.cmp(&b.key))
            } else {
                order.compare((&a.key, &a.change), (&b.key, &b.change))
            }
        });
    }
}

impl Keep {
    fn of(request: &RangeRequest, order: Order) -> Self {
        if request.count_only {
            return Keep::Nothing;
        }
        let Some(limit) = usize::try_from(request.limit)
            .ok()
            .filter(|limit| *limit > 0)
        else {
            return Keep::All;
        };
        let one_more = limit.saturating_add(1);
        // Another target without an order sorts what the limit left in key order: a quirk clients see.
        if order.is_natural() || (request.sort_order == SortOrder::None as i32 && !filters(request))
        {
            Keep::First(one_more)
        } else if order.target == SortTarget::Value {
            Keep::All
        } else {
            Keep::Best(one_more)
        }
    }
}

fn filters(request: &RangeRequest) -> bool {
    filters_modification(request)
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn filters_modification(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0 || request.max_mod_revision != 0
}

fn passes_filters(request: &RangeRequest, change: &Change) -> bool {
    let within =
        |revision, min, max| (min == 0 || revision >= min) && (max == 0 || revision <= max);
    within(
        change.main,
        request.min_mod_revision,
        request.max_mod_revision,
    ) && within(
        change.create_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
}
