//! What is left when everything is healed and the load has ended: at every member a write, everything read, the hash of it at
//! one revision that all have, and whom it calls leader.

use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use tokio::time::Instant;

use super::Context;
use crate::client::Client;
use crate::history::{Answer, Member, Outcome, Request};

/// Its name in histories, and where its keys begin.
pub const FINAL: &str = "final";

/// How long each of these is tried at each member, and how long all may take to name one leader.
const PATIENCE: Duration = Duration::from_secs(20);

/// The pause between two tries.
const AGAIN: Duration = Duration::from_millis(100);

/// Takes the last look at `members`, all of which have to answer, and returns the last revision that was seen.
///
/// It does not say what it found: that is in the history.
pub async fn run(context: &Context, members: &[Member]) -> i64 {
    let mut last = 0;
    let mut clients: Vec<Client> = members
        .iter()
        .map(|member| context.client(FINAL, *member))
        .collect();
    for client in &mut clients {
        let key = format!("{FINAL}/{}", client.member());
        let put = |attempt| {
            pb::PutRequest {
                key: key.clone().into(),
                value: format!("{key}/{attempt}").into(),
                ..Default::default()
            }
            .into()
        };
        last = last.max(until_answered(client, put).await);
    }
    for client in &mut clients {
        let everything = |_| {
            pb::RangeRequest {
                key: Bytes::from_static(b"\0"),
                range_end: Bytes::from_static(b"\0"),
                ..Default::default()
            }
            .into()
        };
        last = last.max(until_answered(client, everything).await);
    }
    for client in &mut clients {
        let hash = |_| pb::HashKvRequest { revision: last }.into();
        until_answered(client, hash).await;
    }
    let began = Instant::now();
    while !agree(&mut clients).await && began.elapsed() < PATIENCE {
        tokio::time::sleep(AGAIN).await;
    }
    last
}

/// Whether all members answer and name the same leader.
async fn agree(clients: &mut [Client]) -> bool {
    let mut leaders = Vec::new();
    for client in clients {
        let outcome = client.call(pb::StatusRequest::default()).await;
        let Outcome::Ok(Answer::Status(status)) = outcome else {
            return false;
        };
        leaders.push(status.leader);
    }
    leaders
        .iter()
        .all(|leader| *leader != 0 && *leader == leaders[0])
}

/// Asks until there is an answer, and returns its revision; 0, if there is none for too long.
async fn until_answered(client: &mut Client, request: impl Fn(u64) -> Request) -> i64 {
    let began = Instant::now();
    let mut attempt = 0;
    while began.elapsed() < PATIENCE {
        attempt += 1;
        if let Outcome::Ok(answer) = client.call(request(attempt)).await {
            return match answer {
                Answer::Put(_) | Answer::Range(_) => answer.header().revision,
                _ => 0,
            };
        }
        tokio::time::sleep(AGAIN).await;
    }
    0
}
