//! `etcdserverpb.Watch`: many watchers on one stream.
//!
//! A stream is a [`Session`] that is asked for one message after the other, as fast as the connection
//! takes them; nothing is buffered for a client that does not read. In each round the session takes what
//! the hub announced, hears what the client wants, lets one watcher that is behind read a batch, and,
//! when none is, answers for progress or waits.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use baton_proto::etcdserverpb::watch_create_request::FilterType;
use baton_proto::etcdserverpb::watch_request::RequestUnion;
use baton_proto::etcdserverpb::{
    ResponseHeader, WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, stream};
use metrics::{counter, gauge};
use prost::Message;
use tokio::time::Instant;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::status::RpcError;
use super::watch_codec::{Frame, WatchCodec};
use super::{Services, header, metadata};
use crate::chaos::{Mutant, Point, planted, reach};
use crate::watch::{Batch, Cursor, Mailbox, Read, Source, Watched, Watcher, WatcherSpec};

/// Stands for no watcher, or for all of a stream.
const NO_WATCH_ID: i64 = -1;
/// Requests heard in a round before watchers get their turn.
const REQUESTS_PER_ROUND: usize = 64;
/// Steps into which the jitter of progress notifications is divided.
const JITTER_STEPS: u32 = 16;

const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";

/// Mounts the watch service with its own codec.
#[derive(Clone)]
pub(super) struct WatchServer {
    services: Services,
    opened: Arc<AtomicU32>,
    decode_max: usize,
}

impl WatchServer {
    pub(super) fn new(services: &Services, decode_max: usize) -> Self {
        Self {
            services: services.clone(),
            opened: Arc::default(),
            decode_max,
        }
    }

    fn open(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Frames>, Status> {
        let core = &self.services.core;
        metadata::admit(core, request.metadata(), metadata::Call::Stream)?;
        let requires_leader = metadata::requires_leader(request.metadata());
        // Streams that were opened together do not report progress together.
        let interval = self.services.limits.watch_progress_interval;
        let step = self.opened.fetch_add(1, Ordering::Relaxed) % JITTER_STEPS;
        let interval = interval + interval / 10 / JITTER_STEPS * step;
        let session = Session {
            services: self.services.clone(),
            requests: Some(request.into_inner()),
            end: Box::pin(metadata::stream_end(core.clone(), requires_leader)),
            mailbox: Mailbox::new(),
            watches: BTreeMap::new(),
            ids: BTreeMap::new(),
            next_id: 0,
            behind: VecDeque::new(),
            outbox: VecDeque::new(),
            progress_wanted: None,
            progress_interval: interval,
            progress_at: None,
            over: false,
        };
        gauge!("etcd_debugging_mvcc_watch_stream_total").increment(1);
        let frames = stream::unfold(session, |mut session| async move {
            let frame = session.next().await?;
            Some((frame, session))
        });
        Ok(Response::new(Box::pin(frames)))
    }
}

impl NamedService for WatchServer {
    const NAME: &'static str = "etcdserverpb.Watch";
}

type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

impl StreamingService<WatchRequest> for WatchServer {
    type Response = Frame;
    type ResponseStream = Frames;
    type Future = std::future::Ready<Result<Response<Frames>, Status>>;

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        std::future::ready(self.open(request))
    }
}

impl tower::Service<http::Request<tonic::body::Body>> for WatchServer {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/etcdserverpb.Watch/Watch" {
                return Ok(Status::unimplemented("").into_http());
            }
            let mut grpc = Grpc::new(WatchCodec)
                .apply_max_message_size_config(Some(service.decode_max), Some(usize::MAX));
            Ok(grpc.streaming(service, request).await)
        })
    }
}

/// A watcher of the stream.
struct Watch {
    watcher: Watcher,
    cursor: Cursor,
    fragment: bool,
    progress_notify: bool,
    /// As requested.
    start_revision: i64,
    /// It was behind when it was created, and has not caught up since.
    is_replaying: bool,
    /// It is in the queue of those behind.
    is_queued: bool,
    /// It was sent events since the last progress notification was due.
    was_sent: bool,
}

impl Watch {
    /// It has caught up, or ends before it could.
    fn replayed(&mut self) {
        if std::mem::take(&mut self.is_replaying) {
            gauge!("etcd_debugging_mvcc_slow_watcher_total").decrement(1);
        }
    }
}

struct Session {
    services: Services,
    /// `None` once the client closed its side; the watchers go on.
    requests: Option<Streaming<WatchRequest>>,
    end: Pin<Box<dyn Future<Output = RpcError> + Send>>,
    mailbox: Arc<Mailbox>,
    watches: BTreeMap<i64, Watch>,
    /// The watch id by what the hub calls the watcher.
    ids: BTreeMap<u64, i64>,
    next_id: i64,
    /// Those that have something to read, each once.
    behind: VecDeque<i64>,
    outbox: VecDeque<Frame>,
    /// A progress request, and the revision it has to be answered with at least.
    progress_wanted: Option<i64>,
    progress_interval: Duration,
    /// When periodic progress is due; `None` while no watcher wants it.
    progress_at: Option<Instant>,
    over: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        gauge!("etcd_debugging_mvcc_watch_stream_total").decrement(1);
        gauge!("etcd_debugging_mvcc_watcher_total").decrement(self.watches.len() as f64);
        for watch in self.watches.values_mut() {
            watch.replayed();
        }
        // The hub lists the watchers of a key in the order they came; the last leaves it fastest.
        while self.watches.pop_last().is_some() {}
    }
}

enum Heard {
    Request(Option<Result<WatchRequest, Status>>),
    Announced,
    ProgressDue,
    End(RpcError),
}

impl Session {
    /// The next message, `None` after the last.
    async fn next(&mut self) -> Option<Result<Frame, Status>> {
        loop {
            if let Some(frame) = self.outbox.pop_front() {
                return Some(Ok(frame));
            }
            if self.over {
                return None;
            }
            let published = self.take_announcements();
            self.answer_progress(published);
            if !self.outbox.is_empty() {
                continue;
            }
            let heard = match self.behind.pop_front() {
                Some(id) => {
                    if let Err(error) = self.read(id).await {
                        self.over = true;
                        return Some(Err(error.into()));
                    }
                    self.hear_ready()
                }
                None => Some(self.hear().await),
            };
            if let Some(status) = heard.and_then(|heard| self.take_in(heard)) {
                self.over = true;
                return Some(Err(status));
            }
        }
    }

    /// Waits for something to do.
    async fn hear(&mut self) -> Heard {
        let progress_at = self.progress_at;
        let progress_due = async {
            match progress_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => pending().await,
            }
        };
        let request = async {
            match &mut self.requests {
                Some(requests) => requests.message().await.transpose(),
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            error = &mut self.end => Heard::End(error),
            request = request => Heard::Request(request),
            () = self.mailbox.announced() => Heard::Announced,
            () = progress_due => Heard::ProgressDue,
        }
    }

    /// What there is to do at once, if anything: watchers that are behind do not keep the client from
    /// being heard, nor the stream from ending.
    fn hear_ready(&mut self) -> Option<Heard> {
        for _ in 0..REQUESTS_PER_ROUND {
            match self.hear().now_or_never()? {
                Heard::Announced => {}
                heard => return Some(heard),
            }
        }
        None
    }

    /// The error to end the stream with, if it is over.
    fn take_in(&mut self, heard: Heard) -> Option<Status> {
        match heard {
            Heard::Announced => None,
            Heard::ProgressDue => {
                self.notify_progress();
                None
            }
            Heard::End(error) => Some(error.into()),
            Heard::Request(None) => {
                self.requests = None;
                None
            }
            Heard::Request(Some(Err(status))) => {
                if status.code() == tonic::Code::Cancelled || status.code() == tonic::Code::Unknown
                {
                    return Some(RpcError::WatchCanceled.into());
                }
                Some(status)
            }
            Heard::Request(Some(Ok(request))) => {
                match request.request_union {
                    Some(RequestUnion::CreateRequest(create)) => self.create(create),
                    Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel),
                    Some(RequestUnion::ProgressRequest(_)) if !self.watches.is_empty() => {
                        self.progress_wanted = Some(self.services.core.hub().published());
                    }
                    Some(RequestUnion::ProgressRequest(_)) | None => {}
                }
                None
            }
        }
    }

    fn create(&mut self, request: WatchCreateRequest) {
        let core = self.services.core.clone();
        let (seen, compact_revision) = {
            let state = core.state().read();
            (state.revision(), state.compact_revision())
        };
        let keys = Watched::new(request.key, request.range_end);
        let refusal = match &keys {
            None => Some(EMPTY_RANGE),
            Some(_) if request.start_revision < 0 => Some(RpcError::Compacted.wire().1),
            Some(_) if self.watches.contains_key(&request.watch_id) && request.watch_id != 0 => {
                Some(DUPLICATE_ID)
            }
            Some(_) => None,
        };
        let (Some(keys), None) = (keys, refusal) else {
            self.outbox.push_back(frame(WatchResponse {
                header: Some(header::at(&core, seen)),
                watch_id: NO_WATCH_ID,
                created: true,
                canceled: true,
                cancel_reason: refusal.unwrap_or(EMPTY_RANGE).to_owned(),
                ..WatchResponse::default()
            }));
            return;
        };
        let watch_id = if request.watch_id == 0 {
            self.draw_id()
        } else {
            request.watch_id
        };
        let filters = |filter: FilterType| request.filters.contains(&(filter as i32));
        let spec = WatcherSpec {
            keys,
            start_revision: request.start_revision,
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
        };
        let watcher = core.hub().register(spec, seen, &self.mailbox);
        let registered = watcher.registered();
        self.outbox.push_back(frame(WatchResponse {
            header: Some(header::at(&core, registered.revision)),
            watch_id,
            created: true,
            ..WatchResponse::default()
        }));
        if request.start_revision > 0 && request.start_revision < compact_revision {
            self.outbox
                .push_back(compacted(&core, watch_id, compact_revision));
            return;
        }
        let cursor = Cursor::new(&watcher, request.prev_kv, compact_revision);
        let is_behind = !cursor.is_caught_up();
        self.ids.insert(watcher.id(), watch_id);
        self.watches.insert(
            watch_id,
            Watch {
                watcher,
                cursor,
                fragment: request.fragment,
                progress_notify: request.progress_notify,
                start_revision: request.start_revision,
                is_replaying: is_behind,
                is_queued: is_behind,
                was_sent: false,
            },
        );
        gauge!("etcd_debugging_mvcc_watcher_total").increment(1);
        if is_behind {
            gauge!("etcd_debugging_mvcc_slow_watcher_total").increment(1);
            self.behind.push_back(watch_id);
        }
        if request.progress_notify && self.progress_at.is_none() {
            self.progress_at = Some(Instant::now() + self.progress_interval);
        }
    }

    /// The smallest id from a counter on that is not in use.
    fn draw_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn cancel(&mut self, request: WatchCancelRequest) {
        let watch_id = request.watch_id;
        if self.remove(watch_id) {
            self.outbox.push_back(frame(WatchResponse {
                header: Some(header::now(&self.services.core)),
                watch_id,
                canceled: true,
                ..WatchResponse::default()
            }));
        }
    }

    fn remove(&mut self, watch_id: i64) -> bool {
        let Some(mut watch) = self.watches.remove(&watch_id) else {
            return false;
        };
        watch.replayed();
        self.ids.remove(&watch.watcher.id());
        if watch.is_queued {
            self.behind.retain(|id| *id != watch_id);
        }
        gauge!("etcd_debugging_mvcc_watcher_total").decrement(1);
        true
    }

    /// Hands what the hub announced to the cursors, and returns the revision up to which nothing more
    /// will be announced. That revision is read first: what is announced after it is above it.
    fn take_announcements(&mut self) -> i64 {
        let published = self.services.core.hub().published();
        for (watcher, due) in self.mailbox.take() {
            let Some(id) = self.ids.get(&watcher) else {
                continue;
            };
            let Some(watch) = self.watches.get_mut(id) else {
                continue;
            };
            watch.cursor.announce(due);
            if !watch.is_queued {
                watch.is_queued = true;
                self.behind.push_back(*id);
            }
        }
        published
    }

    /// Lets a watcher that is behind read and send a batch.
    async fn read(&mut self, watch_id: i64) -> Result<(), RpcError> {
        let core = self.services.core.clone();
        let Some(watch) = self.watches.get_mut(&watch_id) else {
            return Ok(());
        };
        let source = Source {
            state: core.state(),
            history: core.history(),
            pins: self.services.compactor.pins(),
        };
        match watch.cursor.read(&watch.watcher, source).await {
            Read::Events(batch) => {
                reach(Point::WatchSend).await;
                self.send(watch_id, batch);
            }
            Read::CaughtUp => {
                watch.is_queued = false;
                watch.replayed();
            }
            Read::Compacted { compact_revision } => {
                watch.is_queued = false;
                self.remove(watch_id);
                self.outbox
                    .push_back(compacted(&core, watch_id, compact_revision));
            }
            Read::Lost => return Err(RpcError::HistoryLost),
        }
        Ok(())
    }

    fn send(&mut self, watch_id: i64, batch: Batch) {
        let core = &self.services.core;
        let Some(watch) = self.watches.get_mut(&watch_id) else {
            return;
        };
        watch.was_sent = true;
        // What is replayed carries the current revision, what is live the revision of its events.
        let revision = if watch.is_replaying {
            core.hub().published().max(batch.last)
        } else {
            batch.last
        };
        if watch.cursor.is_caught_up() {
            watch.is_queued = false;
            watch.replayed();
        } else {
            self.behind.push_back(watch_id);
        }
        counter!("etcd_debugging_mvcc_events_total").increment(batch.events.len() as u64);
        let head = WatchResponse {
            header: Some(header::at(core, revision)),
            watch_id,
            ..WatchResponse::default()
        };
        let bytes_max = self.services.limits.max_request_bytes + super::FRAME_OVERHEAD_BYTES;
        if planted(Mutant::SplitEvents) {
            let one = |event| Frame {
                head: head.clone(),
                events: vec![event],
            };
            self.outbox.extend(batch.events.into_iter().map(one));
        } else if watch.fragment && head.encoded_len() + batch.bytes >= bytes_max {
            self.outbox
                .extend(fragments(&head, batch.events, bytes_max));
        } else {
            let events = batch.events;
            self.outbox.push_back(Frame { head, events });
        }
    }

    /// The revision up to which every event of every watcher was sent.
    fn sent_to(&self, published: i64) -> i64 {
        let behind = self.behind.iter().filter_map(|id| self.watches.get(id));
        behind
            .map(|watch| watch.cursor.next() - 1)
            .fold(published, i64::min)
    }

    /// Answers a progress request once everything that was published when it came is sent. It is
    /// dropped where a watcher waits for a revision beyond that.
    fn answer_progress(&mut self, published: i64) {
        let Some(wanted) = self.progress_wanted else {
            return;
        };
        let revision = if planted(Mutant::ProgressAhead) {
            self.services.core.state().read().revision()
        } else {
            self.sent_to(published)
        };
        if revision < wanted {
            return;
        }
        self.progress_wanted = None;
        let has_all_started = self.watches.values().all(|w| w.start_revision <= revision);
        if has_all_started && !self.watches.is_empty() {
            self.outbox.push_back(self.progress(NO_WATCH_ID, revision));
        }
    }

    /// Periodic progress, for watchers that were sent nothing meanwhile and have all there is.
    fn notify_progress(&mut self) {
        let revision = self.take_announcements();
        let mut wants_more = false;
        let mut due = Vec::new();
        for (id, watch) in &mut self.watches {
            if !watch.progress_notify {
                continue;
            }
            wants_more = true;
            if std::mem::take(&mut watch.was_sent) {
                continue;
            }
            if watch.cursor.is_caught_up() && watch.start_revision <= revision {
                due.push(*id);
            }
        }
        for id in due {
            let frame = self.progress(id, revision);
            self.outbox.push_back(frame);
        }
        self.progress_at = wants_more.then(|| Instant::now() + self.progress_interval);
    }

    fn progress(&self, watch_id: i64, revision: i64) -> Frame {
        frame(WatchResponse {
            header: Some(header::at(&self.services.core, revision)),
            watch_id,
            ..WatchResponse::default()
        })
    }
}

fn frame(head: WatchResponse) -> Frame {
    Frame {
        head,
        events: Vec::new(),
    }
}

/// Ends a watch whose next event was compacted away. Clients know it by the compact revision; there is
/// no reason given, and no revision in the header.
fn compacted(core: &crate::core::Core, watch_id: i64, compact_revision: i64) -> Frame {
    let header: ResponseHeader = header::at(core, 0);
    frame(WatchResponse {
        header: Some(header),
        watch_id,
        canceled: true,
        compact_revision,
        ..WatchResponse::default()
    })
}

/// Splits a response between events so that its parts stay below `bytes_max`, a single event aside.
fn fragments(head: &WatchResponse, events: Vec<Bytes>, bytes_max: usize) -> Vec<Frame> {
    // With the field that tells that there is more.
    let head_bytes = head.encoded_len() + 2;
    let mut frames: Vec<Frame> = Vec::new();
    let mut bytes = 0;
    for event in events {
        match frames.last_mut() {
            Some(last) if bytes + event.len() < bytes_max => {
                bytes += event.len();
                last.events.push(event);
            }
            _ => {
                bytes = head_bytes + event.len();
                let mut part = frame(head.clone());
                part.head.fragment = true;
                part.events.push(event);
                frames.push(part);
            }
        }
    }
    if let Some(last) = frames.last_mut() {
        last.head.fragment = false;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_stay_below_the_limit_and_all_but_the_last_say_that_there_is_more() {
        let events: Vec<Bytes> = (0..100_u8).map(|n| vec![n; 50].into()).collect();
        let frames = fragments(&WatchResponse::default(), events.clone(), 120);
        assert_eq!(frames.len(), 50);
        for (index, frame) in frames.iter().enumerate() {
            let bytes: usize = frame.events.iter().map(Bytes::len).sum();
            assert!(bytes + frame.head.encoded_len() < 120);
            assert_eq!(frame.head.fragment, index + 1 < frames.len());
        }
        let all: Vec<Bytes> = frames.into_iter().flat_map(|frame| frame.events).collect();
        assert_eq!(all, events);
    }

    #[test]
    fn an_event_over_the_limit_is_a_fragment_of_its_own() {
        let events: Vec<Bytes> = vec![vec![0; 500].into(), vec![1; 5].into()];
        assert_eq!(fragments(&WatchResponse::default(), events, 120).len(), 2);
    }
}
