//! Waiting for what happens to a key by a watch of it.

use std::future::Future;
use std::pin::pin;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::event::EventType;
use bytes::Bytes;
use pb::watch_create_request::FilterType;

use super::Context;
use super::stream::Stream;
use crate::client::Client;

/// How waiting for an event went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// It came, at this revision.
    Came(i64),
    /// The watch broke, or said nothing for long: whether the key is there has to be asked again.
    Unsure,
    /// The caller did not want to wait any longer.
    GivenUp,
}

/// Waits until something of `kind` happens to one key, or to any key of a range, at `revision` or later, by one watch at
/// `client`'s member.
pub async fn event(
    context: &Context,
    workload: &'static str,
    client: &Client,
    kind: EventType,
    (key, range_end): (Bytes, Bytes),
    revision: i64,
    give_up: impl Future<Output = ()>,
) -> Waited {
    let request = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision: revision,
        filters: vec![match kind {
            EventType::Put => FilterType::Nodelete as i32,
            EventType::Delete => FilterType::Noput as i32,
        }],
        ..Default::default()
    };
    let watcher = context.recorder.next_watcher();
    let mut give_up = pin!(give_up);
    let opening = Stream::open_on(context, workload, client, watcher, request);
    let opened = tokio::select! {
        biased;
        () = &mut give_up => return Waited::GivenUp,
        opened = opening => opened,
    };
    let Ok(mut stream) = opened else {
        return Waited::Unsure;
    };
    loop {
        let received = tokio::select! {
            biased;
            () = &mut give_up => {
                drop(stream);
                return Waited::GivenUp;
            }
            received = stream.receive_within(context.patience) => received,
        };
        match received {
            Ok(Some((_, response))) if response.canceled => return Waited::Unsure,
            Ok(Some((_, response))) => {
                let deleted = response.events.iter().find_map(|event| event.kv.as_ref());
                if let Some(kv) = deleted {
                    let revision = kv.mod_revision;
                    drop(stream);
                    return Waited::Came(revision);
                }
            }
            Ok(None) => {
                drop(stream);
                return Waited::Unsure;
            }
            Err(_) => return Waited::Unsure,
        }
    }
}
