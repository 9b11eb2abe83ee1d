//! What a range answers.

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;
use bytes::Bytes;
use pb::range_request::{SortOrder, SortTarget};

/// What a sorted range is sorted by. The order of keys that are equal in it is not promised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SortKey {
    /// Keys and values.
    Bytes(Bytes),
    /// Revisions and versions.
    Number(i64),
}

/// Answers `request` of the keys it is about, which come in order. The header is not set.
pub(super) fn answer(request: &pb::RangeRequest, kvs: Vec<KeyValue>) -> pb::RangeResponse {
    let count = number(kvs.len());
    if request.count_only {
        return pb::RangeResponse {
            count,
            ..Default::default()
        };
    }
    let limit = usize::try_from(request.limit)
        .ok()
        .filter(|&limit| limit > 0);
    let mut kvs = kvs;
    let filtered = filters(request);
    if filtered {
        kvs.retain(|kv| passes(request, kv));
    }
    // Unless it is told an order or a filter, the store reads no further than one key past the limit, and what is sorted
    // is only that.
    if let Some(limit) = limit
        && request.sort_order() == SortOrder::None
        && !filtered
    {
        kvs.truncate(limit + 1);
    }
    sort(request, &mut kvs);
    let more = limit.is_some_and(|limit| kvs.len() > limit);
    if let Some(limit) = limit {
        kvs.truncate(limit);
    }
    if request.keys_only {
        for kv in &mut kvs {
            kv.value = Bytes::new();
        }
    }
    pb::RangeResponse {
        header: None,
        kvs,
        more,
        count,
    }
}

fn filters(request: &pb::RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn passes(request: &pb::RangeRequest, kv: &KeyValue) -> bool {
    let within = |revision: i64, min: i64, max: i64| {
        (min == 0 || revision >= min) && (max == 0 || revision <= max)
    };
    within(
        kv.mod_revision,
        request.min_mod_revision,
        request.max_mod_revision,
    ) && within(
        kv.create_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
}

fn sort(request: &pb::RangeRequest, kvs: &mut [KeyValue]) {
    let target = request.sort_target();
    match request.sort_order() {
        SortOrder::None if target == SortTarget::Key => {}
        SortOrder::None | SortOrder::Ascend => kvs.sort_by_cached_key(|kv| sort_key(target, kv)),
        SortOrder::Descend => {
            kvs.sort_by_cached_key(|kv| std::cmp::Reverse(sort_key(target, kv)));
        }
    }
}

fn sort_key(target: SortTarget, kv: &KeyValue) -> SortKey {
    match target {
        SortTarget::Key => SortKey::Bytes(kv.key.clone()),
        SortTarget::Value => SortKey::Bytes(kv.value.clone()),
        SortTarget::Version => SortKey::Number(kv.version),
        SortTarget::Create => SortKey::Number(kv.create_revision),
        SortTarget::Mod => SortKey::Number(kv.mod_revision),
    }
}

/// What each key of an answer to `request` is sorted by.
pub fn sort_keys(request: &pb::RangeRequest, kvs: &[KeyValue]) -> Vec<SortKey> {
    kvs.iter()
        .map(|kv| sort_key(request.sort_target(), kv))
        .collect()
}

/// A length as it stands in messages.
pub(super) fn number(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
