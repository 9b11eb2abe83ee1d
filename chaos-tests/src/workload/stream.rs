//! A watch stream at one member, with as many watchers on it as are asked for. What is sent and received on it goes into
//! the history, each message under the watcher it is for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::Context;
use crate::client::Client;
use crate::history::{Member, Record, Recorder, WatchEvent, WatchStep};

/// The watch id of a message that is for every watcher of its stream.
pub const EVERY_WATCHER: i64 = -1;

/// An open stream. Dropping it ends all watches on it, which the history then says.
#[derive(Debug)]
pub struct Stream {
    watchers: Watchers,
    requests: mpsc::UnboundedSender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

/// The watchers of a stream. What is left of them when it is dropped was ended by the client.
#[derive(Debug)]
struct Watchers {
    journal: Journal,
    /// Watchers whose creation the server has not answered, in the order they were asked for: answers come in that order.
    awaited: VecDeque<u32>,
    /// Watchers by the ids the server knows them by.
    ids: BTreeMap<i64, u32>,
    /// Watchers whose end the client has asked for.
    leaving: BTreeSet<u32>,
}

impl Watchers {
    /// Says of all that are left how they ended.
    fn end(&mut self, step: &WatchEvent) {
        let ids = std::mem::take(&mut self.ids).into_values();
        for watcher in ids.chain(std::mem::take(&mut self.awaited)) {
            self.journal.add(watcher, step.clone());
        }
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.end(&WatchEvent::Cancelled);
    }
}

/// Writes the steps of watchers at one member.
#[derive(Debug, Clone)]
struct Journal {
    recorder: Recorder,
    workload: &'static str,
    member: Member,
}

impl Journal {
    fn add(&self, watcher: u32, step: WatchEvent) {
        self.recorder.add(Record::Watch(WatchStep {
            workload: self.workload.to_owned(),
            watcher,
            member: self.member,
            at: self.recorder.now(),
            step,
        }));
    }
}

impl Stream {
    /// Opens a stream at `member` with one watcher on it.
    ///
    /// # Errors
    /// The member does not answer within the run's patience, or answers with an error; the history has it as a broken watch.
    pub async fn open(
        context: &Context,
        workload: &'static str,
        member: Member,
        watcher: u32,
        create: pb::WatchCreateRequest,
    ) -> Result<Self, Status> {
        let client = context.client(workload, member);
        Self::open_on(context, workload, &client, watcher, create).await
    }

    /// Opens a stream on the connection of `client`.
    ///
    /// # Errors
    /// As for [`Stream::open`].
    pub async fn open_on(
        context: &Context,
        workload: &'static str,
        client: &Client,
        watcher: u32,
        create: pb::WatchCreateRequest,
    ) -> Result<Self, Status> {
        let journal = Journal {
            recorder: context.recorder.clone(),
            workload,
            member: client.member(),
        };
        let (requests, receiver) = mpsc::unbounded_channel();
        journal.add(watcher, WatchEvent::Asked(create.clone()));
        let mut watchers = Watchers {
            journal,
            awaited: VecDeque::from([watcher]),
            ids: BTreeMap::new(),
            leaving: BTreeSet::new(),
        };
        // The receiver is held right here.
        let _ = requests.send(request(RequestUnion::CreateRequest(create)));
        let mut service = client.watch();
        let opening = service.watch(UnboundedReceiverStream::new(receiver));
        let opened = tokio::time::timeout(context.patience, opening)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        match opened {
            Ok(responses) => Ok(Self {
                watchers,
                requests,
                responses: responses.into_inner(),
            }),
            Err(status) => {
                watchers.end(&WatchEvent::Broken((&status).into()));
                Err(status)
            }
        }
    }

    /// The member it is at.
    pub fn member(&self) -> Member {
        self.watchers.journal.member
    }

    /// Asks for one more watcher.
    pub fn watch(&mut self, watcher: u32, create: pb::WatchCreateRequest) {
        self.watchers
            .journal
            .add(watcher, WatchEvent::Asked(create.clone()));
        self.watchers.awaited.push_back(watcher);
        self.send(RequestUnion::CreateRequest(create));
    }

    /// Asks how far the stream is.
    pub fn ask_progress(&mut self) {
        for watcher in self.watchers.ids.values() {
            self.watchers
                .journal
                .add(*watcher, WatchEvent::ProgressAsked);
        }
        self.send(RequestUnion::ProgressRequest(
            pb::WatchProgressRequest::default(),
        ));
    }

    /// Asks for the end of a watcher. Messages for it may still come until the server confirms that.
    pub fn cancel(&mut self, watcher: u32) {
        let known = self
            .watchers
            .ids
            .iter()
            .find(|(_, known)| **known == watcher);
        // Asked for twice, it might hit the next watcher of the same id.
        if let Some((&watch_id, _)) = known
            && self.watchers.leaving.insert(watcher)
        {
            self.watchers.journal.add(watcher, WatchEvent::Cancelled);
            self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest {
                watch_id,
            }));
        }
    }

    fn send(&self, union: RequestUnion) {
        // A stream that has ended says so at the next receive.
        let _ = self.requests.send(request(union));
    }

    /// The next message and the watchers it is for.
    ///
    /// Giving this up before it is done loses nothing.
    ///
    /// # Errors
    /// The stream ended; the history has it as broken for every watcher on it.
    pub async fn receive(&mut self) -> Result<(Vec<u32>, pb::WatchResponse), Status> {
        let received = self.responses.message().await;
        let received = received.and_then(|response| {
            response.ok_or_else(|| Status::unavailable("the server ended the stream"))
        });
        match received {
            Ok(response) => {
                let watchers = self.recipients(&response);
                for watcher in &watchers {
                    self.watchers
                        .journal
                        .add(*watcher, WatchEvent::Received(response.clone()));
                }
                Ok((watchers, response))
            }
            Err(status) => {
                self.broken(&status);
                Err(status)
            }
        }
    }

    /// The next message, or `None` if there is none within `limit`.
    ///
    /// # Errors
    /// As for [`Stream::receive`].
    pub async fn receive_within(
        &mut self,
        limit: Duration,
    ) -> Result<Option<(Vec<u32>, pb::WatchResponse)>, Status> {
        match tokio::time::timeout(limit, self.receive()).await {
            Ok(received) => received.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Whom a message is for. One with an id that no watcher of this stream has is kept under a watcher that asked for
    /// nothing: that is for the checker to judge.
    fn recipients(&mut self, response: &pb::WatchResponse) -> Vec<u32> {
        let watcher = if response.created {
            self.watchers.awaited.pop_front()
        } else if response.watch_id == EVERY_WATCHER && !response.canceled {
            return self.watchers.ids.values().copied().collect();
        } else {
            self.watchers.ids.get(&response.watch_id).copied()
        };
        let watcher = watcher.unwrap_or_else(|| self.watchers.journal.recorder.next_watcher());
        if response.canceled {
            // A creation that was refused may carry the id of a watcher that goes on.
            if self.watchers.ids.get(&response.watch_id) == Some(&watcher) {
                self.watchers.ids.remove(&response.watch_id);
            }
        } else if response.created {
            self.watchers.ids.insert(response.watch_id, watcher);
        }
        vec![watcher]
    }

    /// The client gives the stream up as broken, because of `status`.
    pub fn give_up(mut self, status: &Status) {
        self.broken(status);
    }

    fn broken(&mut self, status: &Status) {
        self.watchers.end(&WatchEvent::Broken(status.into()));
    }
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(union),
    }
}
