//! Watch streams of one server, read apart into watchers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::Event;
use baton_test_cluster::client::Client;
use baton_test_cluster::watcher::{Stream, create_request};

/// How long an event that has to come may take.
const LIMIT: Duration = Duration::from_secs(30);

/// One open stream and what came over it and has not been compared yet.
pub struct Reader {
    stream: Stream,
    /// Responses that create or cancel, in order, without the identity of the server.
    controls: VecDeque<pb::WatchResponse>,
    watchers: BTreeMap<i64, Received>,
}

#[derive(Default)]
struct Received {
    events: Vec<Event>,
    last_revision: i64,
    within_fragments: bool,
}

impl Reader {
    /// Opens a stream by creating its first watcher.
    pub async fn open(client: &Client, create: pb::WatchCreateRequest) -> Result<Self, String> {
        let stream = Stream::open(client, create_request(create))
            .await
            .map_err(|status| status.to_string())?;
        Ok(Self {
            stream,
            controls: VecDeque::new(),
            watchers: BTreeMap::new(),
        })
    }

    pub async fn create(&mut self, create: pb::WatchCreateRequest) -> Result<(), String> {
        self.stream
            .requests
            .send(create_request(create))
            .await
            .map_err(|_| "the stream is closed".to_owned())
    }

    pub async fn cancel(&mut self, watch_id: i64) -> Result<(), String> {
        let cancel =
            pb::watch_request::RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id });
        let request = pb::WatchRequest {
            request_union: Some(cancel),
        };
        self.stream
            .requests
            .send(request)
            .await
            .map_err(|_| "the stream is closed".to_owned())
    }

    /// The next response that creates or cancels.
    pub async fn control(&mut self) -> Result<pb::WatchResponse, String> {
        loop {
            if let Some(control) = self.controls.pop_front() {
                return Ok(control);
            }
            self.read().await?;
        }
    }

    /// Takes the watcher's events once there are `count` of them or more.
    pub async fn events(&mut self, watch_id: i64, count: usize) -> Result<Vec<Event>, String> {
        while self
            .watchers
            .get(&watch_id)
            .is_none_or(|watcher| watcher.events.len() < count)
        {
            let read = self.read().await;
            read.map_err(|error| {
                let got = self
                    .watchers
                    .get(&watch_id)
                    .map_or(&[][..], |watcher| &watcher.events);
                format!(
                    "{error}; watcher {watch_id} got {} events of {count}: {got:?}",
                    got.len()
                )
            })?;
        }
        Ok(self
            .watchers
            .get_mut(&watch_id)
            .map(|watcher| std::mem::take(&mut watcher.events))
            .unwrap_or_default())
    }

    /// Takes the watcher's events up to a revision.
    pub async fn events_to(&mut self, watch_id: i64, revision: i64) -> Result<Vec<Event>, String> {
        while self
            .watchers
            .get(&watch_id)
            .is_none_or(|watcher| watcher.last_revision < revision)
        {
            let read = self.read().await;
            read.map_err(|error| {
                format!("{error}; watcher {watch_id} waits for revision {revision}")
            })?;
        }
        Ok(self
            .watchers
            .get_mut(&watch_id)
            .map(|watcher| std::mem::take(&mut watcher.events))
            .unwrap_or_default())
    }

    async fn read(&mut self) -> Result<(), String> {
        let message = tokio::time::timeout(LIMIT, self.stream.responses.message()).await;
        let mut response = match message {
            Err(_) => return Err(format!("no watch response within {LIMIT:?}")),
            Ok(Err(status)) => return Err(format!("the watch stream failed: {status}")),
            Ok(Ok(None)) => return Err("the watch stream ended".to_owned()),
            Ok(Ok(Some(response))) => response,
        };
        let revision = response
            .header
            .map(|header| header.revision)
            .unwrap_or_default();
        if let Some(header) = &mut response.header {
            *header = pb::ResponseHeader {
                revision: header.revision,
                ..Default::default()
            };
        }
        if response.created || response.canceled {
            if !response.events.is_empty() {
                return Err(format!(
                    "events in a response that creates or cancels: {response:?}"
                ));
            }
            if response.created && !response.canceled {
                self.watchers.insert(response.watch_id, Received::default());
            }
            self.controls.push_back(response);
            return Ok(());
        }
        let id = response.watch_id;
        let Some(watcher) = self.watchers.get_mut(&id) else {
            return Err(format!(
                "events for a watcher that was not created: {response:?}"
            ));
        };
        let (Some(first), Some(last)) = (response.events.first(), response.events.last()) else {
            return Err(format!("a response without events: {response:?}"));
        };
        let (first, last) = (revision_of(first), revision_of(last));
        let goes_on = first > watcher.last_revision
            || (watcher.within_fragments && first == watcher.last_revision);
        if !goes_on {
            return Err(format!(
                "revision {first} came after {}: {response:?}",
                watcher.last_revision
            ));
        }
        if revision < last {
            return Err(format!(
                "the header is at {revision}, the events go to {last}: {response:?}"
            ));
        }
        watcher.last_revision = last;
        watcher.within_fragments = response.fragment;
        watcher.events.extend(response.events);
        Ok(())
    }
}

/// The revision an event happened at.
pub fn revision_of(event: &Event) -> i64 {
    event
        .kv
        .as_ref()
        .map(|kv| kv.mod_revision)
        .unwrap_or_default()
}
