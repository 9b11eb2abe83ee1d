//! What administrators do to a cluster under load. Nothing of it is a fault, and all of it has to be borne.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use rand::seq::SliceRandom;

use super::{Act, Trouble, names, skip};
use crate::client::Client;
use crate::history::{Answer, Member, Outcome};
use crate::plan::Target;
use crate::real::wait::until;

/// The name of this client in histories.
const NEMESIS: &str = "nemesis";

/// When a call is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// When giving space back is given up.
const DEFRAGMENTS: Duration = Duration::from_secs(30);

pub(super) async fn compact(act: &mut Act, behind: i64) -> Result<(), Trouble> {
    let mut order = act.everybody();
    order.shuffle(&mut act.chance);
    act.installing();
    for member in order {
        act.members = vec![member];
        let mut client = client(act, member);
        let look = pb::RangeRequest {
            key: b"\0".as_slice().into(),
            count_only: true,
            ..Default::default()
        };
        let Outcome::Ok(answer) = client.call(look).await else {
            continue;
        };
        let newest = answer.header().revision;
        let revision = newest - behind;
        if revision < 2 {
            return skip("there is no history to forget yet");
        }
        if !act.scene.witnessed.has(revision, PATIENCE).await {
            return skip("no witness has seen what would be forgotten");
        }
        let request = pb::CompactionRequest {
            revision,
            physical: false,
        };
        match client.call(request).await {
            Outcome::Ok(_) => act.proved(format!("compacted at {revision} of {newest}")),
            // Somebody else has compacted further.
            Outcome::Failed(error) => return skip(error.message),
            Outcome::Unknown(_) => continue,
        }
        act.healing();
        act.healed("there is nothing to take back");
        return Ok(());
    }
    skip("no member answers")
}

pub(super) async fn defragment(act: &mut Act, target: Target) -> Result<(), Trouble> {
    let targets = act.aim(target).await?;
    act.installing();
    let mut done = Vec::new();
    for member in targets {
        let mut client = client(act, member);
        let asked = client.call_within(pb::DefragmentRequest {}, DEFRAGMENTS);
        if let Outcome::Ok(_) = asked.await {
            done.push(member);
        }
    }
    if done.is_empty() {
        return skip("no target answers");
    }
    act.proved(format!("done by {}", names(&done)));
    act.healing();
    act.healed("there is nothing to take back");
    Ok(())
}

pub(super) async fn move_leader(act: &mut Act) -> Result<(), Trouble> {
    let leader = act.aim(Target::Leader).await?[0];
    let mut others = act.everybody();
    others.retain(|member| *member != leader);
    others.shuffle(&mut act.chance);
    let Some(heir) = others.first().copied() else {
        return skip("there is nobody to lead instead");
    };
    act.members = vec![leader, heir];
    act.installing();
    let mut at_heir = client(act, heir);
    let Outcome::Ok(Answer::Status(status)) = at_heir.call(pb::StatusRequest::default()).await
    else {
        return skip(format!("m{heir} does not answer"));
    };
    let request = pb::MoveLeaderRequest {
        target_id: status.header.unwrap_or_default().member_id,
    };
    let mut at_leader = client(act, leader);
    match at_leader.call(request).await {
        Outcome::Ok(_) => {}
        Outcome::Failed(error) | Outcome::Unknown(error) => return skip(error.message),
    }
    let other = || async { act.cluster().leader().filter(|now| *now != leader) };
    until(PATIENCE, other).await;
    let now = act.cluster().leader();
    let leads = now.map_or("nobody".to_owned(), |now| format!("m{now}"));
    let text = format!("m{leader} handed leadership to m{heir}; {leads} leads now");
    // Whether anybody can follow at once is for other faults to say.
    act.proved_if(now != Some(leader), text);
    act.healing();
    act.healed("there is nothing to take back");
    Ok(())
}

fn client(act: &Act, member: Member) -> Client {
    Client::new(
        &act.scene.dial,
        &act.scene.recorder,
        NEMESIS,
        member,
        PATIENCE,
    )
}
