//! Questions to other members, paired with their replies over one stream per peer and purpose.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_proto::peer::{Call, Frame, Hello, Purpose, Refused, Reply, call, frame, reply};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::traffic::Link;
use super::{FRAMES_BUFFERED, PROTOCOL_VERSIONS, PeerNet, PeerStream};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The question never left this member: nothing happened.
    #[error("member {0:x} cannot be reached: {1}")]
    Unreachable(u64, String),
    /// The stream broke before the reply. Whether the question was acted upon is unknown.
    #[error("connection to member {0:x} lost")]
    Lost(u64),
    /// The other member refused: nothing happened.
    #[error("member refused: {}", .0.detail)]
    Refused(Refused),
}

struct Question {
    question: call::Question,
    answer: oneshot::Sender<Result<reply::Answer, CallError>>,
}

/// The other members, and the streams to them.
///
/// Call streams are opened when first needed and again after they broke; a question that comes while
/// the peer is unreachable fails at once.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    net: Arc<dyn PeerNet>,
    cluster_id: u64,
    member_id: u64,
    /// Runs the streams: all peer traffic stays on the runtime of the core.
    runtime: tokio::runtime::Handle,
    urls: Mutex<BTreeMap<u64, Vec<String>>>,
    callers: Mutex<BTreeMap<(u64, i32), mpsc::Sender<Question>>>,
}

impl Peers {
    /// Peers of `member_id`. Must be called within the runtime that is to carry the traffic.
    pub fn new(net: Arc<dyn PeerNet>, cluster_id: u64, member_id: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                net,
                cluster_id,
                member_id,
                runtime: tokio::runtime::Handle::current(),
                urls: Mutex::default(),
                callers: Mutex::default(),
            }),
        }
    }

    /// Where a member is reached from now on.
    pub fn set_urls(&self, member_id: u64, urls: Vec<String>) {
        self.shared.urls.lock().insert(member_id, urls);
    }

    /// Opens a stream for one purpose.
    pub async fn open(&self, to: u64, purpose: Purpose) -> Result<PeerStream, CallError> {
        let shared = &self.shared;
        let Some(urls) = shared.urls.lock().get(&to).cloned() else {
            return Err(CallError::Unreachable(to, "no address known".into()));
        };
        let hello = Hello {
            cluster_id: shared.cluster_id,
            from: shared.member_id,
            to,
            purpose: purpose.into(),
            version_min: PROTOCOL_VERSIONS.0,
            version_max: PROTOCOL_VERSIONS.1,
        };
        shared
            .net
            .open(urls, hello)
            .await
            .map_err(|e| CallError::Unreachable(to, e.to_string()))
    }

    /// Asks `to` and waits for the answer. The caller bounds the time.
    pub async fn call(
        &self,
        to: u64,
        purpose: Purpose,
        question: call::Question,
    ) -> Result<reply::Answer, CallError> {
        let (answer, reply) = oneshot::channel();
        let caller = self.caller(to, purpose);
        let question = Question { question, answer };
        if caller.send(question).await.is_err() {
            return Err(CallError::Unreachable(to, "stopping".into()));
        }
        reply.await.unwrap_or(Err(CallError::Lost(to)))
    }

    fn caller(&self, to: u64, purpose: Purpose) -> mpsc::Sender<Question> {
        let mut callers = self.shared.callers.lock();
        let caller = callers.entry((to, purpose.into())).or_insert_with(|| {
            let (tx, rx) = mpsc::channel(FRAMES_BUFFERED);
            self.shared
                .runtime
                .spawn(ask_all(self.clone(), to, purpose, rx));
            tx
        });
        caller.clone()
    }
}

/// Sends questions as they come and hands replies to whoever asked, over one stream at a time.
async fn ask_all(peers: Peers, to: u64, purpose: Purpose, mut questions: mpsc::Receiver<Question>) {
    let mut next_id = 0_u64;
    let link = Link::between(peers.shared.member_id, to);
    // Questions of other kinds wait for a disk or a majority, and their streams open when needed.
    let is_probe = purpose == Purpose::Heartbeats;
    let mut is_lost = false;
    while let Some(first) = questions.recv().await {
        let mut stream = match peers.open(to, purpose).await {
            Ok(stream) => stream,
            Err(error) => {
                link.failed();
                if is_probe && !is_lost {
                    is_lost = true;
                    tracing::warn!(member = format!("{to:x}"), %error, "a member cannot be reached");
                }
                // Those that queued up while opening fail alike; each finds out now, not later.
                let detail = error.to_string();
                let _ = first.answer.send(Err(error));
                while let Ok(q) = questions.try_recv() {
                    let error = CallError::Unreachable(to, detail.clone());
                    let _ = q.answer.send(Err(error));
                }
                continue;
            }
        };
        if is_probe {
            link.connected();
            if std::mem::take(&mut is_lost) {
                tracing::info!(member = format!("{to:x}"), "a member is reached again");
            }
        }
        let mut waiting = BTreeMap::new();
        let mut next = Some(first);
        loop {
            // Who no longer waits need not be asked for.
            if let Some(Question { question, answer }) =
                next.take().filter(|q| !q.answer.is_closed())
            {
                next_id += 1;
                let call = Call {
                    id: next_id,
                    question: Some(question),
                };
                let frame = Frame {
                    kind: Some(frame::Kind::Call(call)),
                };
                if stream.tx.send(frame).await.is_err() {
                    let gone = "the stream closed".to_owned();
                    let _ = answer.send(Err(CallError::Unreachable(to, gone)));
                    break;
                }
                waiting.insert(next_id, (answer, Instant::now()));
            }
            tokio::select! {
                biased;
                frame = stream.rx.next() => match frame {
                    Some(Frame { kind: Some(frame::Kind::Reply(Reply { id, answer })) }) => {
                        let Some((asker, asked)) = waiting.remove(&id) else { continue };
                        if is_probe {
                            link.answered(asked);
                        }
                        let _ = asker.send(match answer {
                            Some(reply::Answer::Refused(refused)) => Err(CallError::Refused(refused)),
                            Some(answer) => Ok(answer),
                            None => Err(CallError::Lost(to)),
                        });
                    }
                    Some(_) => {}
                    None => break,
                },
                question = questions.recv() => match question {
                    Some(q) => next = Some(q),
                    None => return,
                },
            }
        }
        if is_probe {
            link.disconnected();
        }
        // Dropping `waiting` tells every asker that the stream was lost.
    }
}
