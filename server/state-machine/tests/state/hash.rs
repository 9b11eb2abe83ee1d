//! The hash over everything readable. The expected numbers were read from an etcd 3.4 that was given the same
//! requests.

use baton_proto::etcdserverpb::TxnRequest;
use baton_state_machine::{ApplyError, HashKv};

use crate::world::{IntoOp, World, compact, delete, grant, leased, put};

const LEASE: i64 = 0x390d_a1fc_d58d_ce08;

fn as_given_to_etcd() -> World {
    let mut world = World::new();
    world.apply(put("a", "1"));
    world.apply(put("b", "2"));
    world.apply(put("a", "3"));
    world.apply(grant(LEASE, 3600));
    world.apply(leased("c", "leased", LEASE));
    world.apply(delete("b"));
    let success = vec![put("x", "1").op(), put("y", "2").op(), delete("a").op()];
    world.apply(TxnRequest {
        success,
        ..Default::default()
    });
    world.apply(put("a", "again"));
    world.apply(put("e", ""));
    world
}

fn hash(world: &World, revision: i64) -> u32 {
    world.hash(revision).unwrap().hash
}

#[test]
fn an_empty_store_hashes_as_in_etcd() {
    let expected = HashKv {
        hash: 1_084_519_789,
        compact_revision: -1,
        hash_revision: 1,
    };
    assert_eq!(World::new().hash(0), Ok(expected));
}

#[test]
fn every_revision_hashes_as_in_etcd() {
    let world = as_given_to_etcd();
    let hashes = [hash(&world, 0), hash(&world, 4), hash(&world, 7)];
    assert_eq!(hashes, [850_627_844, 2_069_675_932, 1_042_806_396]);
}

#[test]
fn a_compacted_store_hashes_as_in_etcd_however_much_is_removed() {
    let mut world = as_given_to_etcd();
    for (revision, expected) in [(6, 1_298_123_696), (7, 1_835_818_581), (9, 1_835_818_581)] {
        world.apply(compact(revision));
        assert_eq!(hash(&world, 0), expected);
        world.compact_physically();
        assert_eq!(hash(&world, 0), expected);
    }
}

#[test]
fn a_revision_between_compaction_and_present_hashes_as_in_etcd() {
    let mut world = as_given_to_etcd();
    world.apply(compact(6));
    assert_eq!(hash(&world, 7), 549_754_444);
}

#[test]
fn an_unreadable_revision_has_no_hash() {
    let mut world = as_given_to_etcd();
    world.apply(compact(6));
    assert_eq!(world.hash(5), Err(ApplyError::Compacted));
    assert_eq!(world.hash(10), Err(ApplyError::FutureRevision));
}
