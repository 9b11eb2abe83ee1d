//! Alarms and what they refuse.

use baton_proto::etcdserverpb::alarm_request::AlarmAction;
use baton_proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, TxnRequest};
use baton_proto::log::Expire;
use baton_state_machine::{ApplyError, Effect, Response};

use crate::world::{IntoOp, World, compact, delete, everything, get, grant, leased, put, revoke};

fn alarm(action: AlarmAction, member_id: u64, alarm: AlarmType) -> AlarmRequest {
    AlarmRequest {
        action: action as i32,
        member_id,
        alarm: alarm as i32,
    }
}

fn listed(world: &mut World, request: AlarmRequest) -> Vec<(u64, AlarmType)> {
    let Ok(Response::Alarm(response)) = world.apply(request).outcome else {
        panic!("refused")
    };
    response
        .alarms
        .iter()
        .map(|alarm: &AlarmMember| (alarm.member_id, alarm.alarm()))
        .collect()
}

fn with_alarm(kind: AlarmType) -> World {
    let mut world = World::new();
    world.apply(grant(7, 60));
    world.apply(leased("a", "", 7));
    world.apply(alarm(AlarmAction::Activate, 1, kind));
    world
}

#[test]
fn raising_and_clearing_lists_the_alarm_concerned() {
    let mut world = World::new();
    let raise = alarm(AlarmAction::Activate, 1, AlarmType::Nospace);
    assert_eq!(listed(&mut world, raise), [(1, AlarmType::Nospace)]);
    assert_eq!(
        listed(&mut world, raise),
        [(1, AlarmType::Nospace)],
        "also where it is raised already"
    );
    let clear = alarm(AlarmAction::Deactivate, 1, AlarmType::Nospace);
    assert_eq!(listed(&mut world, clear), [(1, AlarmType::Nospace)]);
    assert_eq!(listed(&mut world, clear), [], "nothing to clear");
}

#[test]
fn a_list_is_of_a_type_or_of_all_and_of_any_member() {
    let mut world = World::new();
    world.apply(alarm(AlarmAction::Activate, 2, AlarmType::Corrupt));
    world.apply(alarm(AlarmAction::Activate, 1, AlarmType::Nospace));
    let of = |world: &mut World, kind| listed(world, alarm(AlarmAction::Get, 9, kind));
    assert_eq!(
        of(&mut world, AlarmType::None),
        [(1, AlarmType::Nospace), (2, AlarmType::Corrupt)]
    );
    assert_eq!(
        of(&mut world, AlarmType::Corrupt),
        [(2, AlarmType::Corrupt)]
    );
}

#[test]
fn what_names_no_alarm_or_action_raises_none() {
    let mut world = World::new();
    assert_eq!(
        listed(&mut world, alarm(AlarmAction::Activate, 1, AlarmType::None)),
        []
    );
    assert_eq!(
        listed(
            &mut world,
            AlarmRequest {
                action: 1,
                member_id: 1,
                alarm: 77
            }
        ),
        []
    );
    assert_eq!(
        listed(
            &mut world,
            AlarmRequest {
                action: 77,
                member_id: 1,
                alarm: 1
            }
        ),
        []
    );
    assert!(world.state.alarms().is_empty());
}

#[test]
fn only_a_change_of_the_alarms_is_told() {
    let mut world = World::new();
    let raise = alarm(AlarmAction::Activate, 1, AlarmType::Nospace);
    assert_eq!(world.apply(raise).effects, [Effect::AlarmsChanged]);
    assert_eq!(world.apply(raise).effects, []);
}

#[test]
fn without_space_nothing_may_grow() {
    let mut world = with_alarm(AlarmType::Nospace);
    assert_eq!(world.refused(put("b", "")), ApplyError::NoSpace);
    assert_eq!(world.refused(grant(8, 60)), ApplyError::NoSpace);
    let nested = TxnRequest {
        failure: vec![put("b", "").op()],
        ..Default::default()
    };
    let txn = TxnRequest {
        success: vec![nested.op()],
        ..Default::default()
    };
    assert_eq!(world.refused(txn), ApplyError::NoSpace);
}

#[test]
fn without_space_reading_and_shrinking_go_on() {
    let mut world = with_alarm(AlarmType::Nospace);
    assert!(world.range(everything()).is_ok());
    assert!(world.apply(delete("a")).outcome.is_ok());
    let shrinking = TxnRequest {
        success: vec![delete("a").op(), get("a").op()],
        ..Default::default()
    };
    assert!(world.apply(shrinking).outcome.is_ok());
    assert!(world.apply(compact(2)).outcome.is_ok());
    assert!(world.apply(revoke(7)).outcome.is_ok());
}

#[test]
fn a_corrupt_cluster_neither_reads_nor_writes() {
    let mut world = with_alarm(AlarmType::Corrupt);
    assert_eq!(world.refused(put("b", "")), ApplyError::Corrupt);
    assert_eq!(world.refused(delete("a")), ApplyError::Corrupt);
    assert_eq!(world.refused(TxnRequest::default()), ApplyError::Corrupt);
    assert_eq!(world.refused(compact(2)), ApplyError::Corrupt);
    assert_eq!(world.refused(grant(8, 60)), ApplyError::Corrupt);
    assert_eq!(world.refused(revoke(7)), ApplyError::Corrupt);
    assert_eq!(
        world.refused(Expire {
            term: 0,
            lease_ids: vec![7]
        }),
        ApplyError::Corrupt
    );
    assert_eq!(world.range(get("a")), Err(ApplyError::Corrupt));
    assert_eq!(
        world.state.read_txn(&TxnRequest::default(), &world.rows),
        Err(ApplyError::Corrupt)
    );
}

#[test]
fn a_cleared_alarm_refuses_nothing() {
    let mut world = with_alarm(AlarmType::Corrupt);
    world.apply(alarm(AlarmAction::Deactivate, 1, AlarmType::Corrupt));
    assert!(world.apply(put("b", "")).outcome.is_ok());
}
