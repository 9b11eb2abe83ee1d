//! The main job on real input: `etcdctl lock` and `etcdctl elect` against three nodes, holders killed, leaders killed.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::process::{Cluster, Program};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::baton;

/// How many want the lock.
const CONTENDERS: usize = 5;

/// What a contender did.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// It printed the key it holds the lock or leadership by.
    Holds(usize, String),
    /// It ended, and not because the test killed it.
    Ended(usize),
}

struct Contenders {
    children: Vec<Option<Child>>,
    news: mpsc::UnboundedReceiver<News>,
}

impl Contenders {
    /// Starts contenders, each when the one before stands in line, so that the line is known.
    async fn start(etcdctl: &PathBuf, cluster: &Cluster, prefix: &str, arguments: &[&str]) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        let endpoints = cluster
            .members
            .iter()
            .map(|member| member.address())
            .collect::<Vec<_>>()
            .join(",");
        let mut children = Vec::new();
        for number in 0..CONTENDERS {
            let mut child = Command::new(etcdctl)
                .env("ETCDCTL_API", "3")
                .arg(format!("--endpoints={endpoints}"))
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("etcdctl runs");
            let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
            let sender = sender.clone();
            tokio::spawn(async move {
                if let Ok(Some(key)) = lines.next_line().await {
                    let _ = sender.send(News::Holds(number, key));
                }
                while let Ok(Some(_)) = lines.next_line().await {}
                let _ = sender.send(News::Ended(number));
            });
            children.push(Some(child));
            while line(cluster, prefix).await.len() <= number {
                baton_test_cluster::process::poll_again().await;
            }
        }
        Self { children, news }
    }

    /// Waits for the next holder, and fails if someone else still runs who holds, or a waiter has given up.
    async fn next_holder(&mut self, holder: Option<usize>) -> (usize, String) {
        loop {
            let news = tokio::time::timeout(Duration::from_secs(90), self.news.recv()).await;
            match news
                .expect("somebody gets it within 90 s")
                .expect("contenders are there")
            {
                News::Holds(number, key) => {
                    let before = holder.filter(|holder| self.children[*holder].is_some());
                    assert_eq!(before, None, "{number} got it while {before:?} held it");
                    return (number, key);
                }
                News::Ended(number) => {
                    assert!(
                        self.children[number].is_none(),
                        "contender {number} gave up"
                    );
                }
            }
        }
    }

    async fn kill(&mut self, number: usize) {
        let mut child = self.children[number].take().expect("it runs");
        child.kill().await.expect("it can be killed");
    }
}

/// Keys under the prefix in the order in which they were created.
async fn line(cluster: &Cluster, prefix: &str) -> Vec<String> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    let request = pb::RangeRequest {
        key: Bytes::from(prefix.to_owned()),
        range_end: Bytes::from(end),
        sort_target: pb::range_request::SortTarget::Create.into(),
        sort_order: pb::range_request::SortOrder::Ascend.into(),
        ..Default::default()
    };
    for member in &cluster.members {
        if member.pid().is_none() {
            continue;
        }
        let read = async { member.client().kv().range(request.clone()).await };
        if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(5), read).await {
            return answer
                .into_inner()
                .kvs
                .iter()
                .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
                .collect();
        }
    }
    Vec::new()
}

/// Ends a dead holder's lease, as it would end by itself after its time.
async fn revoke_lease_in(cluster: &Cluster, key: &str) {
    let id = key
        .rsplit('/')
        .next()
        .and_then(|text| i64::from_str_radix(text, 16).ok())
        .expect("a lease in the key");
    let request = pb::LeaseRevokeRequest { id };
    cluster.members[0]
        .client()
        .lease()
        .lease_revoke(request)
        .await
        .expect("the lease is revoked");
}

/// Every contender gets its turn in the order of the line, one at a time, though each holder is killed and, after the
/// second one, the leader node too.
async fn each_holds_in_turn(prefix: &str, arguments: &[&str], wait_for_expiry: bool, test: &str) {
    let Some(etcdctl) = Program::installed("BATON_ETCDCTL", "etcdctl") else {
        eprintln!("SKIPPED {test}: no etcdctl in $PATH");
        return;
    };
    let mut cluster = Cluster::start(&baton(), 3)
        .await
        .expect("the cluster starts");
    let mut contenders = Contenders::start(&etcdctl, &cluster, prefix, arguments).await;
    let queue = line(&cluster, prefix).await;
    assert_eq!(queue.len(), CONTENDERS);
    let mut holder = None;
    for (turn, expected) in queue.iter().enumerate() {
        let (number, key) = contenders.next_holder(holder).await;
        assert_eq!((number, &key), (turn, expected), "not the next in line");
        assert_eq!(
            line(&cluster, prefix).await.first(),
            Some(&key),
            "it holds what is not first in the store"
        );
        if turn == 1 {
            let leader = cluster.leader().await.expect("a leader");
            cluster.members[leader].kill();
            contenders.kill(number).await;
            cluster.members[leader].start().expect("it starts");
            cluster.ready().await.expect("it serves");
        } else {
            contenders.kill(number).await;
        }
        if !wait_for_expiry {
            revoke_lease_in(&cluster, &key).await;
        }
        holder = Some(number);
    }
}

#[tokio::test]
async fn etcdctl_lock_has_one_holder_at_a_time_in_the_order_of_the_line() {
    let test = "etcdctl_lock_has_one_holder_at_a_time_in_the_order_of_the_line";
    each_holds_in_turn("job/", &["lock", "--ttl=2", "job"], true, test).await;
}

/// `etcdctl elect` has no flag for its lease of a minute, so `BATON_SLOW_TESTS=1` decides whether it is waited for.
#[tokio::test]
async fn etcdctl_elect_has_one_leader_at_a_time_in_the_order_of_the_line() {
    let test = "etcdctl_elect_has_one_leader_at_a_time_in_the_order_of_the_line";
    let wait = std::env::var_os("BATON_SLOW_TESTS").is_some();
    each_holds_in_turn("post/", &["elect", "post", "me"], wait, test).await;
}
