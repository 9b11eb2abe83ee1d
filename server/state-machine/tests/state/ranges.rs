//! Reading ranges: limits, counts, orders, filters, old revisions.

use baton_proto::etcdserverpb::RangeRequest;
use baton_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use baton_state_machine::ApplyError;

use crate::world::{World, compact, delete, everything, get, grant, leased, put, range};

/// `a` to `e`; by modification `c d e a b`, by creation `a b c d e`.
fn five_keys() -> World {
    let mut world = World::new();
    for key in ["a", "b", "c", "d", "e", "a", "b"] {
        world.apply(put(key, key));
    }
    world
}

fn sorted(target: SortTarget, order: SortOrder, limit: i64) -> RangeRequest {
    RangeRequest {
        sort_target: target as i32,
        sort_order: order as i32,
        limit,
        ..everything()
    }
}

#[test]
fn a_limit_cuts_but_the_count_does_not_know_it() {
    let world = five_keys();
    let response = world
        .range(RangeRequest {
            limit: 2,
            ..everything()
        })
        .unwrap();
    assert_eq!(
        (response.kvs.len(), response.more, response.count),
        (2, true, 5)
    );
    let response = world
        .range(RangeRequest {
            limit: 5,
            ..everything()
        })
        .unwrap();
    assert_eq!(
        (response.kvs.len(), response.more, response.count),
        (5, false, 5)
    );
}

#[test]
fn a_limit_of_zero_or_less_is_none_and_the_largest_does_not_overflow() {
    let world = five_keys();
    for limit in [0, -1, i64::MIN, i64::MAX] {
        for target in [SortTarget::Key, SortTarget::Mod] {
            let response = world
                .range(sorted(target, SortOrder::Descend, limit))
                .unwrap();
            assert_eq!((response.kvs.len(), response.more), (5, false));
        }
    }
}

#[test]
fn filters_apply_before_the_limit_and_do_not_change_the_count() {
    let world = five_keys();
    let request = RangeRequest {
        min_mod_revision: 5,
        max_mod_revision: 7,
        limit: 2,
        ..everything()
    };
    let response = world.range(request.clone()).unwrap();
    assert_eq!(world.keys(request), "a d");
    assert_eq!((response.more, response.count), (true, 5));
    assert_eq!(
        world.keys(RangeRequest {
            max_create_revision: 3,
            ..everything()
        }),
        "a b"
    );
    assert_eq!(
        world.keys(RangeRequest {
            min_create_revision: 5,
            ..everything()
        }),
        "d e"
    );
}

#[test]
fn a_sorted_range_is_sorted_before_it_is_cut() {
    let world = five_keys();
    assert_eq!(
        world.keys(sorted(SortTarget::Mod, SortOrder::Ascend, 2)),
        "c d"
    );
    assert_eq!(
        world.keys(sorted(SortTarget::Mod, SortOrder::Descend, 2)),
        "b a"
    );
    assert_eq!(
        world.keys(sorted(SortTarget::Create, SortOrder::Descend, 1)),
        "e"
    );
    assert_eq!(
        world.keys(sorted(SortTarget::Key, SortOrder::Descend, 0)),
        "e d c b a"
    );
    assert_eq!(
        world.keys(sorted(SortTarget::Value, SortOrder::Descend, 3)),
        "e d c"
    );
    assert_eq!(
        world.keys(sorted(SortTarget::Version, SortOrder::Descend, 3)),
        "a b c"
    );
}

#[test]
fn a_target_without_an_order_sorts_what_the_limit_left() {
    let world = five_keys();
    assert_eq!(
        world.keys(sorted(SortTarget::Mod, SortOrder::None, 0)),
        "c d e a b"
    );
    assert_eq!(
        world.keys(sorted(SortTarget::Mod, SortOrder::None, 2)),
        "c a",
        "of a, b and c"
    );
}

#[test]
fn count_only_has_no_pairs_and_no_more() {
    let world = five_keys();
    let response = world
        .range(RangeRequest {
            count_only: true,
            limit: 1,
            ..range("b", "d")
        })
        .unwrap();
    assert_eq!(
        (response.kvs.len(), response.more, response.count),
        (0, false, 2)
    );
}

#[test]
fn keys_only_leaves_out_the_values_and_keeps_the_leases() {
    let mut world = World::new();
    world.apply(grant(7, 60));
    world.apply(leased("a", "1", 7));
    let kv = world
        .range(RangeRequest {
            keys_only: true,
            ..get("a")
        })
        .unwrap()
        .kvs
        .remove(0);
    assert_eq!((kv.value.len(), kv.lease, kv.mod_revision), (0, 7, 2));
}

#[test]
fn an_old_revision_shows_what_was_there_then() {
    let mut world = World::new();
    world.apply(put("a", "1"));
    world.apply(put("a", "2"));
    world.apply(delete("a"));
    let at = |revision| {
        world
            .range(RangeRequest {
                revision,
                ..get("a")
            })
            .unwrap()
            .kvs
    };
    assert_eq!(at(1), vec![]);
    assert_eq!(
        (&at(2)[0].value[..], &at(3)[0].value[..]),
        (&b"1"[..], &b"2"[..])
    );
    assert_eq!(at(4), vec![]);
}

#[test]
fn a_revision_must_be_reached_and_not_compacted() {
    let mut world = five_keys();
    world.apply(compact(4));
    let at = |revision| {
        world
            .range(RangeRequest {
                revision,
                ..get("a")
            })
            .map(|response| response.count)
    };
    assert_eq!(at(9), Err(ApplyError::FutureRevision));
    assert_eq!(at(i64::MAX), Err(ApplyError::FutureRevision));
    assert_eq!(at(3), Err(ApplyError::Compacted));
    assert_eq!((at(4), at(0), at(-3)), (Ok(1), Ok(1), Ok(1)));
}

#[test]
fn every_form_of_a_range_means_its_keys() {
    let world = five_keys();
    assert_eq!(world.keys(get("b")), "b");
    assert_eq!(world.keys(range("b", "d")), "b c");
    assert_eq!(world.keys(range("d", "\0")), "d e");
    assert_eq!(world.keys(range("\0", "\0")), "a b c d e");
    assert_eq!(world.keys(range("d", "b")), "");
    assert_eq!(world.keys(range("b", "b")), "");
}

#[test]
fn a_scan_under_way_does_not_see_what_is_applied_meanwhile() {
    let mut world = five_keys();
    let mut scan = world.state.begin_range(&everything()).unwrap();
    assert!(!scan.step(&world.state, 1));
    world.apply(put("b", "changed"));
    world.apply(delete("c"));
    world.apply(put("d2", "new"));
    while !scan.step(&world.state, 1) {}
    let values: Vec<_> = scan
        .finish(&world.rows)
        .kvs
        .into_iter()
        .map(|kv| kv.value)
        .collect();
    assert_eq!(values, ["a", "b", "c", "d", "e"]);
}
