//! Members: what raft says of them and what they say of themselves.

use baton_proto::log::{Membership, Node, Publish, membership::Voters};
use baton_state_machine::Effect;

use crate::world::World;

fn membership(voters: &[u64], learners: &[u64]) -> Membership {
    let node = |id: &u64| {
        (
            *id,
            Node {
                peer_urls: vec![format!("http://127.0.0.1:{id}")],
            },
        )
    };
    Membership {
        configs: vec![Voters {
            ids: voters.to_vec(),
        }],
        nodes: voters.iter().chain(learners).map(node).collect(),
    }
}

fn publish(member_id: u64) -> Publish {
    Publish {
        member_id,
        name: format!("m{member_id}"),
        client_urls: vec!["http://127.0.0.1:2379".into()],
        version: "0.1.0".into(),
    }
}

fn set(world: &mut World, membership: &Membership) -> Vec<Effect> {
    let applied = world.state.set_membership(membership);
    world.rows.write(&applied.rows);
    assert_eq!(world.reloaded(), world.state);
    applied.effects
}

#[test]
fn a_membership_gives_addresses_and_roles() {
    let mut world = World::new();
    assert_eq!(
        set(&mut world, &membership(&[1, 2], &[3])),
        [Effect::MembersChanged]
    );
    let members = world.state.members();
    assert_eq!(members[&1].peer_ur_ls, ["http://127.0.0.1:1"]);
    let learners: Vec<_> = members.values().map(|member| member.is_learner).collect();
    assert_eq!(learners, [false, false, true]);
}

#[test]
fn the_same_membership_again_changes_nothing() {
    let mut world = World::new();
    set(&mut world, &membership(&[1, 2], &[3]));
    assert_eq!(set(&mut world, &membership(&[1, 2], &[3])), []);
}

#[test]
fn a_voter_of_either_half_of_a_joint_membership_is_no_learner() {
    let mut world = World::new();
    let mut joint = membership(&[1, 2, 3], &[]);
    joint.configs = vec![Voters { ids: vec![1] }, Voters { ids: vec![2] }];
    set(&mut world, &joint);
    let learners: Vec<_> = world
        .state
        .members()
        .values()
        .map(|member| member.is_learner)
        .collect();
    assert_eq!(learners, [false, false, true]);
}

#[test]
fn what_a_member_published_stays_when_the_membership_changes() {
    let mut world = World::new();
    set(&mut world, &membership(&[1], &[2]));
    world.apply(publish(2));
    set(&mut world, &membership(&[1, 2], &[]));
    let member = &world.state.members()[&2];
    assert_eq!((&member.name[..], member.is_learner), ("m2", false));
    assert_eq!(world.state.member_version(2), Some("0.1.0"));
}

#[test]
fn a_member_that_left_is_forgotten() {
    let mut world = World::new();
    set(&mut world, &membership(&[1, 2], &[]));
    world.apply(publish(2));
    set(&mut world, &membership(&[1], &[]));
    assert_eq!(
        (world.state.members().len(), world.state.member_version(2)),
        (1, None)
    );
}

#[test]
fn who_is_no_member_publishes_nothing() {
    let mut world = World::new();
    assert_eq!(world.apply(publish(9)).effects, []);
    assert!(world.state.members().is_empty());
}
