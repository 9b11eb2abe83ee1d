//! Members die under load. The long campaigns are in `chaos-tests/`.

use baton_test_cluster::kill::{Campaign, Plan, Victim};

use crate::baton;

/// Three rounds in which the same one dies, and a check of the whole history at the end.
async fn nothing_is_lost_when_it_dies(victim: Victim) {
    let plan = Plan {
        writes: 50,
        ..Plan::default()
    };
    let mut campaign = Campaign::start(&baton(), plan)
        .await
        .expect("the cluster starts");
    for number in 0..3 {
        let round = campaign
            .round(victim)
            .await
            .unwrap_or_else(|error| panic!("round {number}: {error:#}"));
        eprintln!(
            "{victim}: {:?} without a write, revision {}",
            round.silence, round.revision
        );
    }
    campaign
        .finish()
        .await
        .unwrap_or_else(|error| panic!("the whole history: {error:#}"));
}

#[tokio::test]
async fn killing_the_leader_loses_no_acknowledged_write() {
    nothing_is_lost_when_it_dies(Victim::Leader).await;
}

#[tokio::test]
async fn killing_a_follower_loses_no_acknowledged_write() {
    nothing_is_lost_when_it_dies(Victim::Follower).await;
}

#[tokio::test]
async fn killing_every_member_loses_no_acknowledged_write() {
    nothing_is_lost_when_it_dies(Victim::All).await;
}

#[tokio::test]
async fn asking_the_leader_to_leave_loses_no_acknowledged_write() {
    nothing_is_lost_when_it_dies(Victim::LeaderAsked).await;
}
