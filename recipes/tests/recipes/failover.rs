//! Members of a cluster die.

use std::time::Duration;

use baton_client::pb::compare::CompareResult;
use baton_client::{Client, Compare, Get, Put, Txn};
use baton_recipes::{Error, LeaderEvent, Session};
use baton_test_cluster::process::Program;
use futures_util::StreamExt;
use tokio::sync::watch;

use crate::support::{Server, baton, etcd, limit};

/// A counter that is read, and written under the lock and its fence: a second holder would lose a count.
async fn count_under_the_lock(client: &Client, turns: usize, done: &watch::Sender<usize>) -> usize {
    let session = Session::open(client, Duration::from_secs(3600))
        .await
        .unwrap();
    let mutex = session.mutex("counter-lock");
    let mut counted = 0;
    for _ in 0..turns {
        let guard = mutex.lock().await.unwrap();
        loop {
            let Ok(read) = client.get("counter").await else {
                continue;
            };
            let pair = read.kvs.first();
            let before: usize = pair.map_or(0, |pair| {
                std::str::from_utf8(&pair.value).unwrap().parse().unwrap()
            });
            let revision = pair.map_or(0, |pair| pair.mod_revision);
            // Repeated where the outcome is unknown: the value says whether it was done.
            let txn = Txn::new()
                .when(Compare::mod_revision(
                    "counter",
                    CompareResult::Equal,
                    revision,
                ))
                .then(Put::new("counter", (before + 1).to_string()))
                .or_else(Get::key("counter"));
            match guard.txn(txn).await {
                Ok(answer) => {
                    assert!(answer.succeeded, "somebody else counts");
                    break;
                }
                Err(Error::Client(_)) => {
                    let now = client.get("counter").await;
                    let value = now.ok().and_then(|now| now.kvs.into_iter().next());
                    if value.is_some_and(|pair| pair.value == (before + 1).to_string()) {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        counted += 1;
        done.send_modify(|done| *done += 1);
        guard.release().await.unwrap();
    }
    counted
}

async fn a_lock_outlives_the_leader(program: Program) {
    const TURNS: usize = 30;
    let mut server = Server::of(&program, 3).await;
    let leader = server.cluster.leader().await.unwrap();
    let holder = server.unaware_session().await;
    let guard = holder.mutex("m").lock().await.unwrap();
    let waiting = server.unaware_session().await;
    let (enqueued, is_enqueued) = tokio::sync::oneshot::channel();
    let lock = waiting.mutex("m").lock();
    let lock = lock.on_enqueued(|_| enqueued.send(()).unwrap());
    let waiter = tokio::spawn(lock.into_future());
    is_enqueued.await.unwrap();
    let token = holder.mutex("m").inspect().await.unwrap().waiters[0].token;
    let mut observed = holder.election("m").observe();
    assert!(matches!(
        observed.next().await,
        Some(Ok(LeaderEvent::Elected(_)))
    ));
    let client = server.client.clone();
    let (done, mut is_done) = watch::channel(0);
    let kill = async {
        is_done.wait_for(|done| *done >= TURNS / 3).await.unwrap();
        server.cluster.members[leader].kill();
    };
    let ((), a, b) = tokio::join!(
        kill,
        count_under_the_lock(&client, TURNS, &done),
        count_under_the_lock(&client, TURNS, &done),
    );
    let counter = server
        .client
        .get("counter")
        .await
        .unwrap()
        .kvs
        .pop()
        .unwrap();
    assert_eq!(counter.value, (a + b).to_string());
    assert!(guard.is_held() && !waiter.is_finished());
    guard.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert_eq!(guard.token(), token);
    let Some(Ok(LeaderEvent::Elected(leader))) = observed.next().await else {
        panic!("the observer ended");
    };
    assert_eq!(leader.candidate.token, token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_its_line_and_its_observers_outlive_the_leader_of_baton() {
    let test = a_lock_outlives_the_leader(baton().unwrap());
    tokio::time::timeout(limit(), test).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_its_line_and_its_observers_outlive_the_leader_of_etcd() {
    let Some(program) = etcd() else { return };
    let test = a_lock_outlives_the_leader(program);
    tokio::time::timeout(limit(), test).await.unwrap();
}
