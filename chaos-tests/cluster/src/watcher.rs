//! Watching clients.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::client::Client;
use crate::history::{Event, Seen};

/// An open watch stream: what to send on and what to receive from. Dropping the first half-closes the stream.
#[derive(Debug)]
pub struct Stream {
    /// Requests to the server.
    pub requests: mpsc::Sender<pb::WatchRequest>,
    /// Responses of the server.
    pub responses: Streaming<pb::WatchResponse>,
}

impl Stream {
    /// Opens a stream and sends its first request.
    ///
    /// # Errors
    /// If the member does not answer with response headers, which etcd sends with the first response.
    pub async fn open(client: &Client, first: pb::WatchRequest) -> Result<Self, tonic::Status> {
        let (requests, receiver) = mpsc::channel(1024);
        // The channel is new and has room.
        let _ = requests.try_send(first);
        let responses = client
            .watch()
            .watch(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        Ok(Self {
            requests,
            responses,
        })
    }

    /// Opens a stream with one watcher of all keys from `start` on, 0 for "from now".
    ///
    /// # Errors
    /// As for [`Stream::open`].
    pub async fn of_everything(client: &Client, start: i64) -> Result<Self, tonic::Status> {
        let create = pb::WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: start,
            ..Default::default()
        };
        Self::open(client, create_request(create)).await
    }
}

/// Wraps a create request for the stream.
pub fn create_request(create: pb::WatchCreateRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    }
}

/// A put event as the checkers know it.
fn event(event: &mvccpb::Event) -> Event {
    let kv = event.kv.clone().unwrap_or_default();
    Event {
        revision: kv.mod_revision,
        key: kv.key.to_vec(),
        value: kv.value.to_vec(),
    }
}

/// Everything the member's watch reports from revision `from` to `to`, both included.
///
/// # Errors
/// If the watch is cancelled, breaks, or has not come to `to` within two minutes.
pub async fn log(client: &Client, from: i64, to: i64) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    if from > to {
        return Ok(events);
    }
    let reading = async {
        let mut stream = Stream::of_everything(client, from).await?;
        while events.last().is_none_or(|last: &Event| last.revision < to) {
            let response = stream
                .responses
                .message()
                .await?
                .context("the watch stream ended")?;
            if response.canceled {
                bail!("the watch from revision {from} was cancelled: {response:?}");
            }
            events.extend(response.events.iter().map(event));
        }
        Ok(())
    };
    match tokio::time::timeout(Duration::from_secs(120), reading).await {
        Ok(outcome) => outcome?,
        Err(_) => bail!(
            "the watch from {from} came to {:?}, not to {to}",
            events.last().map(|event| event.revision)
        ),
    }
    events.retain(|event| event.revision <= to);
    Ok(events)
}

/// A client that keeps a watch on all keys through broken connections and compactions, as client libraries do.
#[derive(Debug)]
pub struct ReconnectingWatcher {
    stop_at: tokio::sync::watch::Sender<Option<i64>>,
    task: JoinHandle<Vec<Seen>>,
}

impl ReconnectingWatcher {
    /// Watches from revision `first`, opening a new stream on the next of `urls` after every `responses_per_stream`
    /// responses and after every failure.
    pub fn start(urls: Vec<String>, first: i64, responses_per_stream: usize) -> Self {
        let (stop_at, stop) = tokio::sync::watch::channel(None);
        let task = tokio::spawn(async move {
            let mut seen = Vec::new();
            let mut next = first;
            for url in urls.iter().cycle() {
                let client = Client::new(url);
                follow(
                    &client,
                    &mut next,
                    responses_per_stream,
                    &mut seen,
                    stop.clone(),
                )
                .await;
                if stop.borrow().is_some_and(|end| next > end) {
                    break;
                }
                seen.push(Seen::Reconnected(next));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            seen
        });
        Self { stop_at, task }
    }

    /// Everything seen, once the watch has come to revision `end`.
    ///
    /// # Errors
    /// If it does not come there within a minute.
    pub async fn finish(self, end: i64) -> Result<Vec<Seen>> {
        self.stop_at.send_replace(Some(end));
        match tokio::time::timeout(Duration::from_secs(60), self.task).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => bail!("the watcher did not come to revision {end} within a minute"),
        }
    }
}

/// Follows one stream until it breaks, has given its share of responses, or the end has been seen.
async fn follow(
    client: &Client,
    next: &mut i64,
    responses: usize,
    seen: &mut Vec<Seen>,
    stop: tokio::sync::watch::Receiver<Option<i64>>,
) {
    let Ok(Ok(mut stream)) = tokio::time::timeout(
        crate::client::CALL_LIMIT,
        Stream::of_everything(client, *next),
    )
    .await
    else {
        return;
    };
    for _ in 0..responses {
        let position = *next;
        let mut stop = stop.clone();
        let reached = async move {
            // An error means that the campaign is gone, which also ends the wait.
            let _ = stop
                .wait_for(|end| end.is_some_and(|end| position > end))
                .await;
        };
        let mut reached = pin!(reached);
        let response = tokio::select! {
            () = &mut reached => return,
            response = stream.responses.message() => response,
        };
        let Ok(Some(response)) = response else { return };
        if response.compact_revision > 0 {
            *next = response.compact_revision;
            seen.push(Seen::Compacted(response.compact_revision));
            return;
        }
        if response.canceled {
            return;
        }
        if let Some(last) = response.events.last().and_then(|event| event.kv.as_ref()) {
            *next = last.mod_revision + 1;
            seen.push(Seen::Events(response.events.iter().map(event).collect()));
        }
    }
}
