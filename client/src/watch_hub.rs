//! All watches of a client, on one stream.
//!
//! A task owns the stream and knows of each watch where it stands: the revision from which on nothing was
//! told yet. When the stream breaks, or the member loses its leader, it opens another one elsewhere and
//! begins every watch again from there.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::core::Core;
use crate::mailbox::Mailbox;
use crate::namespace::Namespace;
use crate::rules::{self, Fate};
use crate::{Error, Notification, Refusal, WatchError};

/// How often one watch asks for a new token before it believes the server's refusal.
const MAX_REAUTHENTICATIONS: u32 = 3;

/// What clients and watchers tell the hub.
#[derive(Debug)]
pub(crate) enum Command {
    /// A new watch.
    Begin(Box<Begin>),
    /// It was paused, and there is room again.
    Drained(u64),
    /// Nobody reads it any more.
    End(u64),
}

/// A new watch.
#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) id: u64,
    pub(crate) request: pb::WatchCreateRequest,
    pub(crate) namespace: Namespace,
    pub(crate) mailbox: Arc<Mailbox>,
    /// Told the store's revision once the server confirmed it.
    pub(crate) created: oneshot::Sender<i64>,
}

/// Where a watch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere: it has to be asked for.
    Unasked,
    /// Asked for on this stream, and not answered yet.
    Asked,
    /// On this stream, under this id of the server's.
    Live(i64),
    /// Nowhere until its reader has caught up.
    Paused,
}

struct Watch {
    request: pb::WatchCreateRequest,
    namespace: Namespace,
    mailbox: Arc<Mailbox>,
    created: Option<oneshot::Sender<i64>>,
    place: Place,
    /// Everything below was told. 0 until it is known where it begins.
    next: i64,
    tells_progress: bool,
    /// Events of a revision that came in part.
    partial: Vec<mvccpb::Event>,
    reauthentications: u32,
}

impl Watch {
    fn new(begin: Begin) -> (u64, Self) {
        let mut request = begin.request;
        let tells_progress = request.progress_notify;
        // Progress moves the point to resume at, out of the way of compactions.
        request.progress_notify = true;
        request.fragment = true;
        request.watch_id = 0;
        let watch = Self {
            next: request.start_revision,
            request,
            namespace: begin.namespace,
            mailbox: begin.mailbox,
            created: Some(begin.created),
            place: Place::Unasked,
            tells_progress,
            partial: Vec::new(),
            reauthentications: 0,
        };
        (begin.id, watch)
    }

    /// Takes events in. Returns whether its reader is too slow for more.
    fn events(&mut self, events: Vec<mvccpb::Event>, is_fragment: bool) -> bool {
        self.partial.extend(events);
        if is_fragment {
            return false;
        }
        let mut events = std::mem::take(&mut self.partial);
        let next = self.next;
        events.retain(|event| revision(event) >= next);
        let Some(last) = events.last().map(revision) else {
            return false;
        };
        self.next = last + 1;
        self.namespace.strip_events(&mut events);
        self.mailbox.put(Notification {
            revision: last,
            events,
        })
    }

    /// Everything up to `revision` was told. Returns whether its reader is too slow for more.
    fn progress(&mut self, revision: i64) -> bool {
        if revision < self.next {
            return false;
        }
        self.next = revision + 1;
        self.tells_progress
            && self.mailbox.put(Notification {
                revision,
                events: Vec::new(),
            })
    }
}

fn revision(event: &mvccpb::Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

type Requests = mpsc::UnboundedSender<pb::WatchRequest>;

/// The watches, and what of them is on the stream there is.
#[derive(Default)]
struct Hub {
    watches: BTreeMap<u64, Watch>,
    requests: Option<Requests>,
    /// Asked for on this stream and not answered yet, in order: the server answers in that order.
    asked: VecDeque<u64>,
    /// By the server's id.
    live: BTreeMap<i64, u64>,
}

impl Hub {
    fn take(&mut self, command: Command) {
        match command {
            Command::Begin(begin) => {
                let (id, watch) = Watch::new(*begin);
                self.watches.insert(id, watch);
                self.ask(id);
            }
            Command::Drained(id) => {
                if let Some(watch) = self.watches.get_mut(&id)
                    && watch.place == Place::Paused
                {
                    watch.place = Place::Unasked;
                    self.ask(id);
                }
            }
            Command::End(id) => {
                if let Some(Place::Live(server_id)) = self.watches.remove(&id).map(|w| w.place) {
                    self.cancel(server_id);
                }
            }
        }
    }

    /// Begins a watch on the stream, if there is one.
    fn ask(&mut self, id: u64) {
        let (Some(requests), Some(watch)) = (&self.requests, self.watches.get_mut(&id)) else {
            return;
        };
        if watch.place != Place::Unasked {
            return;
        }
        let mut request = watch.request.clone();
        request.start_revision = watch.next;
        let request = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(request)),
        };
        let _ = requests.send(request);
        watch.place = Place::Asked;
        self.asked.push_back(id);
    }

    /// The server may forget a watch.
    fn cancel(&mut self, server_id: i64) {
        self.live.remove(&server_id);
        if let Some(requests) = &self.requests {
            let request = pb::WatchCancelRequest {
                watch_id: server_id,
            };
            let _ = requests.send(pb::WatchRequest {
                request_union: Some(RequestUnion::CancelRequest(request)),
            });
        }
    }

    /// A new stream: everything that is not paused goes there.
    fn attach(&mut self, requests: Requests) {
        self.requests = Some(requests);
        let ids: Vec<u64> = self.watches.keys().copied().collect();
        for id in ids {
            self.ask(id);
        }
    }

    /// The stream is gone.
    fn detach(&mut self) {
        self.requests = None;
        self.asked.clear();
        self.live.clear();
        for watch in self.watches.values_mut() {
            watch.partial.clear();
            if watch.place != Place::Paused {
                watch.place = Place::Unasked;
            }
        }
    }

    /// A watch is over.
    fn fail(&mut self, id: u64, error: WatchError) {
        if let Some(watch) = self.watches.remove(&id) {
            watch.mailbox.end(error);
        }
    }

    /// All watches are over.
    fn fail_all(&mut self, error: &WatchError) {
        for watch in std::mem::take(&mut self.watches).into_values() {
            watch.mailbox.end(error.clone());
        }
    }

    /// Takes in what the server says. The error is the end of the stream: its token is not accepted.
    fn hear(
        &mut self,
        response: pb::WatchResponse,
        may_reauthenticate: bool,
    ) -> Result<(), Status> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created {
            let Some(id) = self.asked.pop_front() else {
                return Ok(());
            };
            return self.created(id, &response, revision, may_reauthenticate);
        }
        if response.canceled {
            if let Some(id) = self.live.remove(&response.watch_id) {
                self.fail(id, canceled(response));
            }
            return Ok(());
        }
        if response.watch_id == -1 {
            let live: Vec<(i64, u64)> = self.live.iter().map(|(a, b)| (*a, *b)).collect();
            for (server_id, id) in live {
                self.pause_if(server_id, id, |watch| watch.progress(revision));
            }
            return Ok(());
        }
        let Some(id) = self.live.get(&response.watch_id).copied() else {
            return Ok(());
        };
        self.pause_if(response.watch_id, id, |watch| {
            if response.events.is_empty() && watch.partial.is_empty() {
                watch.progress(revision)
            } else {
                watch.events(response.events, response.fragment)
            }
        });
        Ok(())
    }

    fn created(
        &mut self,
        id: u64,
        response: &pb::WatchResponse,
        revision: i64,
        may_reauthenticate: bool,
    ) -> Result<(), Status> {
        let Some(watch) = self.watches.get_mut(&id) else {
            // Its reader left meanwhile.
            if !response.canceled {
                self.cancel(response.watch_id);
            }
            return Ok(());
        };
        if response.canceled {
            let reason = response.cancel_reason.clone();
            let wants_token = reason.contains("etcdserver: invalid auth token")
                || reason.contains("etcdserver: revision of auth store is old")
                || reason.contains("etcdserver: user name is empty");
            watch.reauthentications += 1;
            if wants_token && may_reauthenticate && watch.reauthentications <= MAX_REAUTHENTICATIONS
            {
                return Err(Status::unauthenticated("etcdserver: invalid auth token"));
            }
            self.fail(id, canceled(response.clone()));
            return Ok(());
        }
        watch.reauthentications = 0;
        watch.place = Place::Live(response.watch_id);
        if watch.next == 0 {
            watch.next = revision + 1;
        }
        if let Some(created) = watch.created.take() {
            let _ = created.send(revision);
        }
        self.live.insert(response.watch_id, id);
        Ok(())
    }

    /// Tells a watch something, and pauses it if that was too much for its reader.
    fn pause_if(&mut self, server_id: i64, id: u64, tell: impl FnOnce(&mut Watch) -> bool) {
        let Some(watch) = self.watches.get_mut(&id) else {
            return;
        };
        if tell(watch) {
            watch.place = Place::Paused;
            self.cancel(server_id);
        }
    }
}

impl Drop for Hub {
    /// The runtime is shutting down; whoever still reads is told.
    fn drop(&mut self) {
        self.fail_all(&WatchError::Failed(Error::Unavailable {
            waited: Duration::ZERO,
            last: "the runtime the watch was begun in is gone".to_owned(),
        }));
    }
}

fn canceled(response: pb::WatchResponse) -> WatchError {
    if response.compact_revision > 0 {
        WatchError::Compacted {
            compact_revision: response.compact_revision,
        }
    } else {
        WatchError::Canceled {
            reason: response.cancel_reason,
        }
    }
}

enum End {
    /// What was asked for here was not answered.
    Silent,
    /// Something else was not.
    Left,
    Failed(Status),
}

/// Serves watches until client and watchers are gone.
pub(crate) async fn serve(core: Arc<Core>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut hub = Hub::default();
    loop {
        while hub.watches.is_empty() {
            match commands.recv().await {
                Some(command) => hub.take(command),
                None => return,
            }
        }
        let connected = core.connected(true);
        tokio::pin!(connected);
        let connected = loop {
            tokio::select! {
                connected = &mut connected => break connected,
                command = commands.recv() => match command {
                    Some(command) => hub.take(command),
                    None => return,
                },
            }
        };
        let (endpoint, via) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                hub.fail_all(&WatchError::Failed(error));
                continue;
            }
        };
        let token = via.token.clone();
        let (requests, receiver) = mpsc::unbounded_channel();
        hub.attach(requests);
        let opening = async move {
            let mut client = WatchClient::new(via).max_decoding_message_size(usize::MAX);
            let stream = UnboundedReceiverStream::new(receiver);
            client
                .watch(stream)
                .await
                .map(|responses| responses.into_inner())
        };
        let mut responses = Responses::Opening(Box::pin(opening));
        let mut heard = Instant::now();
        // An idle stream does not tell whether the member still lives; others who ask it do.
        let mut silences = endpoint.silences();
        let end = loop {
            let silence = heard + core.options.attempt_timeout;
            tokio::select! {
                response = responses.next() => {
                    heard = Instant::now();
                    let response = match response {
                        Ok(response) => response,
                        Err(status) => break End::Failed(status),
                    };
                    endpoint.answered();
                    if let Err(status) = hub.hear(response, core.token.is_wanted()) {
                        break End::Failed(status);
                    }
                }
                command = commands.recv() => match command {
                    Some(command) => {
                        if hub.asked.is_empty() {
                            heard = Instant::now();
                        }
                        hub.take(command);
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(silence), if !hub.asked.is_empty() => break End::Silent,
                Ok(()) = silences.changed() => break End::Left,
            }
        };
        hub.detach();
        match end {
            End::Silent => {
                let limit = core.options.attempt_timeout;
                endpoint.fell_silent(format!("{}: no watch within {limit:?}", endpoint.address));
            }
            End::Left => {}
            End::Failed(status) => match rules::fate(&status) {
                Fate::Refused => hub.fail_all(&WatchError::Failed(Refusal::of(&status).into())),
                Fate::Unauthenticated if core.token.is_wanted() => {
                    core.token.rejected(token.as_ref()).await;
                    // A pause between tokens, should none of them be accepted.
                    endpoint.failed(format!("{}: {}", endpoint.address, status.message()));
                }
                Fate::Unauthenticated => {
                    hub.fail_all(&WatchError::Failed(Refusal::of(&status).into()));
                }
                Fate::NotDone | Fate::Unknown | Fate::Failed => {
                    endpoint.failed(format!("{}: {}", endpoint.address, status.message()));
                }
            },
        }
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<pb::WatchResponse>, Status>> + Send>>;

/// What comes on a stream that may still be opening: some servers open it with the first response.
enum Responses {
    Opening(Opening),
    Open(Box<Streaming<pb::WatchResponse>>),
}

impl Responses {
    /// The next response. Cancel safe.
    async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        loop {
            match self {
                Self::Opening(opening) => {
                    let stream = opening.await?;
                    *self = Self::Open(Box::new(stream));
                }
                Self::Open(stream) => {
                    let response = stream.message().await?;
                    return response.ok_or_else(|| Status::unavailable("the stream ended"));
                }
            }
        }
    }
}
