//! Leases, as far as they are replicated.

use baton_proto::log::Expire;
use baton_state_machine::{ApplyError, Effect, Response};

use crate::world::{World, delete, everything, grant, leased, put, revoke};

fn keys(world: &World, lease: i64) -> Vec<&[u8]> {
    world
        .state
        .lease(lease)
        .unwrap()
        .keys
        .iter()
        .map(|key| &key[..])
        .collect()
}

#[test]
fn a_granted_lease_is_told_to_the_lessor_and_answered_with_its_time() {
    let mut world = World::new();
    let applied = world.apply(grant(-5, 60));
    assert_eq!(applied.effects, [Effect::LeaseGranted { id: -5, ttl: 60 }]);
    let Ok(Response::LeaseGrant(response)) = applied.outcome else {
        panic!("refused")
    };
    assert_eq!((response.id, response.ttl), (-5, 60));
}

#[test]
fn an_id_is_granted_once() {
    let mut world = World::new();
    world.apply(grant(7, 60));
    assert_eq!(world.refused(grant(7, 90)), ApplyError::LeaseExists);
    world.apply(revoke(7));
    assert!(world.apply(grant(7, 90)).outcome.is_ok());
}

#[test]
fn a_put_with_an_unknown_lease_is_refused() {
    let mut world = World::new();
    assert_eq!(world.refused(leased("a", "", 7)), ApplyError::LeaseNotFound);
}

#[test]
fn a_key_follows_the_lease_of_its_last_put() {
    let mut world = World::new();
    world.apply(grant(7, 60));
    world.apply(grant(8, 60));
    world.apply(leased("a", "", 7));
    assert_eq!(keys(&world, 7), [b"a"]);
    world.apply(leased("a", "", 8));
    assert_eq!(
        (keys(&world, 7).len(), keys(&world, 8)),
        (0, vec![&b"a"[..]])
    );
    world.apply(put("a", ""));
    assert!(keys(&world, 8).is_empty());
    world.apply(leased("a", "", 8));
    world.apply(delete("a"));
    assert!(keys(&world, 8).is_empty());
}

#[test]
fn a_revoked_lease_takes_its_keys_in_one_revision_in_key_order() {
    let mut world = World::new();
    world.apply(grant(7, 60));
    for key in ["b", "c", "a"] {
        world.apply(leased(key, "", 7));
    }
    world.apply(put("kept", ""));
    let applied = world.apply(revoke(7));
    assert_eq!((applied.revision, applied.events.len()), (6, 1));
    let deleted: Vec<_> = applied.events[0]
        .events
        .iter()
        .map(|event| &event.kv.key[..])
        .collect();
    assert_eq!(deleted, [b"a", b"b", b"c"]);
    assert_eq!(applied.effects, [Effect::LeaseRevoked { id: 7 }]);
    assert_eq!(world.keys(everything()), "kept");
}

#[test]
fn a_lease_without_keys_ends_without_a_revision() {
    let mut world = World::new();
    world.apply(grant(7, 60));
    assert_eq!(world.apply(revoke(7)).revision, 1);
    assert_eq!(world.refused(revoke(7)), ApplyError::LeaseNotFound);
}

#[test]
fn expired_leases_end_with_a_revision_each() {
    let mut world = World {
        term: 3,
        ..World::new()
    };
    for (id, key) in [(7, "a"), (8, "b"), (9, "c")] {
        world.apply(grant(id, 60));
        world.apply(leased(key, "", id));
    }
    let applied = world.apply(Expire {
        term: 3,
        lease_ids: vec![9, 1, 7, 9],
    });
    let revisions: Vec<_> = applied
        .events
        .iter()
        .map(|events| events.revision)
        .collect();
    assert_eq!(revisions, [5, 6]);
    assert_eq!(world.state.lease_ids().collect::<Vec<_>>(), [8]);
}

#[test]
fn the_word_of_a_deposed_leader_ends_no_lease() {
    let mut world = World {
        term: 3,
        ..World::new()
    };
    world.apply(grant(7, 60));
    let applied = world.apply(Expire {
        term: 2,
        lease_ids: vec![7],
    });
    assert_eq!(
        (applied.outcome, applied.effects),
        (Ok(Response::Done), vec![])
    );
    assert!(world.state.lease(7).is_some());
}

#[test]
fn a_lease_without_an_id_is_refused() {
    assert_eq!(
        World::new().refused(grant(0, 60)),
        ApplyError::LeaseNotFound
    );
}
