//! Compaction: what can be read afterwards, and what is removed.

use baton_state_machine::{ApplyError, CompactCursor, Effect, EventKind, KeyRange, Table};

use crate::world::{World, bytes, compact, delete, everything, put};

#[test]
fn compaction_goes_forward_up_to_the_present() {
    let mut world = World::new();
    world.apply(put("a", ""));
    world.apply(put("a", ""));
    assert_eq!(world.refused(compact(4)), ApplyError::FutureRevision);
    assert_eq!(
        world.apply(compact(3)).effects,
        [Effect::Compacted { revision: 3 }]
    );
    assert_eq!(world.refused(compact(3)), ApplyError::Compacted);
    assert_eq!(world.refused(compact(2)), ApplyError::Compacted);
    assert_eq!(world.refused(compact(-1)), ApplyError::Compacted);
}

#[test]
fn compacting_revision_0_of_a_fresh_store_succeeds_once() {
    let mut world = World::new();
    assert!(world.apply(compact(0)).outcome.is_ok());
    assert_eq!(world.refused(compact(0)), ApplyError::Compacted);
}

#[test]
fn the_newest_change_of_a_key_stays_and_older_ones_go() {
    let mut world = World::new();
    for value in ["1", "2", "3"] {
        world.apply(put("a", value));
    }
    world.apply(compact(3));
    world.compact_physically();
    assert_eq!(world.rows.len_of(Table::Rev), 2);
    assert_eq!(world.reloaded(), world.state);
}

#[test]
fn a_deleted_key_goes_entirely() {
    let mut world = World::new();
    world.apply(put("a", ""));
    world.apply(delete("a"));
    world.apply(put("b", ""));
    world.apply(compact(4));
    world.compact_physically();
    assert_eq!(world.rows.len_of(Table::Rev), 1);
}

#[test]
fn a_tombstone_at_the_compact_revision_is_still_seen_by_a_watch_from_there() {
    let mut world = World::new();
    for value in ["1", "2", "3"] {
        world.apply(put("a", value));
    }
    world.apply(delete("a"));
    world.apply(put("a", "4"));
    world.apply(compact(5));
    world.compact_physically();
    let past = world.history(&KeyRange::new(bytes("a"), bytes("")), 5, 6);
    let seen: Vec<_> = past
        .iter()
        .map(|event| (event.rev.main, event.kind, event.prev))
        .collect();
    assert_eq!(
        seen,
        [(5, EventKind::Delete, None), (6, EventKind::Put, None)]
    );
}

#[test]
fn the_revision_survives_a_restart_although_all_keys_are_gone() {
    let mut world = World::new();
    world.apply(put("a", ""));
    world.apply(delete("a"));
    world.apply(compact(3));
    world.compact_physically();
    assert_eq!(world.reloaded().revision(), 3);
}

#[test]
fn nothing_a_scan_still_reads_is_removed() {
    let mut world = World::new();
    world.apply(put("a", "1"));
    let mut scan = world.state.begin_range(&everything()).unwrap();
    world.apply(put("a", "2"));
    world.apply(compact(3));
    let mut cursor = CompactCursor::new();
    let removed = world.state.compact_step(&mut cursor, 10, scan.revision());
    world.rows.write(&removed);
    assert!(removed.is_empty() && cursor.is_done());
    while !scan.step(&world.state, 1) {}
    assert_eq!(scan.finish(&world.rows).kvs[0].value, "1");
}

#[test]
fn removal_visits_as_many_keys_at_a_time_as_it_is_told() {
    let mut world = World::new();
    for key in ["a", "b", "c", "a", "b", "c"] {
        world.apply(put(key, ""));
    }
    world.apply(compact(7));
    let mut cursor = CompactCursor::new();
    let mut steps = Vec::new();
    while !cursor.is_done() {
        steps.push(world.state.compact_step(&mut cursor, 2, i64::MAX).len());
    }
    assert_eq!(steps, [2, 1]);
}
