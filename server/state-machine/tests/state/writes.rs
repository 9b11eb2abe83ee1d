//! Revisions, puts and deletes.

use baton_proto::etcdserverpb::{DeleteRangeRequest, PutRequest};
use baton_state_machine::{ApplyError, EventKind, Response};

use crate::world::{Request, World, bytes, compact, delete, delete_range, grant, leased, put};

#[test]
fn a_fresh_store_is_at_revision_1_and_never_compacted() {
    let world = World::new();
    assert_eq!(
        (world.state.revision(), world.state.compact_revision()),
        (1, -1)
    );
}

#[test]
fn every_change_makes_one_revision_and_what_changes_nothing_makes_none() {
    let mut world = World::new();
    assert_eq!(world.apply(put("a", "1")).revision, 2);
    assert_eq!(world.apply(put("a", "1")).revision, 3);
    assert_eq!(world.apply(delete("missing")).revision, 3);
    assert_eq!(world.apply(grant(7, 60)).revision, 3);
    assert_eq!(world.apply(compact(2)).revision, 3);
    assert_eq!(world.apply(delete("a")).revision, 4);
}

#[test]
fn an_empty_command_is_done_and_changes_nothing() {
    let mut world = World::new();
    let applied = world.apply(Request(None));
    assert_eq!(
        (applied.outcome, applied.revision, applied.rows),
        (Ok(Response::Done), 1, vec![])
    );
}

#[test]
fn version_and_create_revision_begin_anew_after_a_delete() {
    let mut world = World::new();
    world.apply(put("a", "1"));
    world.apply(put("a", "2"));
    assert_eq!(
        (world.kv("a").create_revision, world.kv("a").version),
        (2, 2)
    );
    world.apply(delete("a"));
    world.apply(put("a", "3"));
    assert_eq!(
        (world.kv("a").create_revision, world.kv("a").version),
        (5, 1)
    );
}

#[test]
fn a_put_reports_the_previous_pair_only_if_asked() {
    let mut world = World::new();
    world.apply(put("a", "1"));
    let asked = PutRequest {
        prev_kv: true,
        ..put("a", "2")
    };
    let before = world.kv("a");
    let Ok(Response::Put(response)) = world.apply(asked).outcome else {
        panic!("refused")
    };
    assert_eq!(response.prev_kv, Some(before));
    let Ok(Response::Put(response)) = world.apply(put("a", "3")).outcome else {
        panic!("refused")
    };
    assert_eq!(response.prev_kv, None);
}

#[test]
fn an_event_carries_the_pair_before_whether_asked_or_not() {
    let mut world = World::new();
    world.apply(put("a", "1"));
    let before = world.kv("a");
    let applied = world.apply(delete("a"));
    let event = &applied.events[0].events[0];
    assert_eq!(
        (event.kind, &event.prev_kv),
        (EventKind::Delete, &Some(before))
    );
    assert_eq!(
        (&event.kv.key, event.kv.mod_revision, event.kv.version),
        (&bytes("a"), 3, 0)
    );
}

#[test]
fn ignore_value_keeps_the_value_and_ignore_lease_the_lease() {
    let mut world = World::new();
    world.apply(grant(7, 60));
    world.apply(grant(8, 60));
    world.apply(leased("a", "1", 7));
    world.apply(PutRequest {
        ignore_value: true,
        ..leased("a", "", 8)
    });
    assert_eq!(
        (world.kv("a").lease, world.value("a").as_deref()),
        (8, Some("1"))
    );
    world.apply(PutRequest {
        ignore_lease: true,
        ..put("a", "2")
    });
    assert_eq!(
        (world.kv("a").lease, world.value("a").as_deref()),
        (8, Some("2"))
    );
}

#[test]
fn ignoring_value_or_lease_of_a_missing_key_is_refused() {
    let mut world = World::new();
    for (ignore_value, ignore_lease) in [(true, false), (false, true)] {
        let request = PutRequest {
            ignore_value,
            ignore_lease,
            ..put("a", "")
        };
        assert_eq!(world.refused(request), ApplyError::KeyNotFound);
    }
}

#[test]
fn an_empty_value_is_a_value() {
    let mut world = World::new();
    world.apply(put("a", ""));
    assert_eq!(world.value("a").as_deref(), Some(""));
}

#[test]
fn a_deleted_range_reports_its_pairs_in_key_order_and_counts_subs() {
    let mut world = World::new();
    for key in ["b", "c", "a", "d"] {
        world.apply(put(key, key));
    }
    let request = DeleteRangeRequest {
        prev_kv: true,
        ..delete_range("a", "d")
    };
    let applied = world.apply(request);
    let Ok(Response::DeleteRange(response)) = applied.outcome else {
        panic!("refused")
    };
    let keys: Vec<_> = response.prev_kvs.iter().map(|kv| &kv.key[..]).collect();
    assert_eq!((response.deleted, keys), (3, vec![&b"a"[..], b"b", b"c"]));
    let subs: Vec<_> = applied.rows.iter().map(|row| row.key[16]).collect();
    assert_eq!((applied.revision, subs), (6, vec![0, 1, 2]));
}

#[test]
fn a_range_that_ends_before_it_begins_deletes_nothing() {
    let mut world = World::new();
    world.apply(put("b", ""));
    let Ok(Response::DeleteRange(response)) = world.apply(delete_range("c", "a")).outcome else {
        panic!()
    };
    assert_eq!((response.deleted, world.state.revision()), (0, 2));
}

#[test]
fn the_size_is_that_of_the_rows() {
    let mut world = World::new();
    world.apply(grant(7, 60));
    world.apply(leased("a", "some value", 7));
    world.apply(put("a", "other"));
    world.apply(delete("a"));
    assert_eq!(
        world.state.size_bytes(),
        world.rows.bytes_of_keys_and_leases()
    );
    world.apply(compact(4));
    world.compact_physically();
    assert_eq!(
        world.state.size_bytes(),
        world.rows.bytes_of_keys_and_leases()
    );
}
