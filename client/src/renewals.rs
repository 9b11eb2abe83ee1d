//! The renewals of all sessions of a client, on one stream.
//!
//! A task owns the stream. It opens it when the first renewal is wanted, sends each renewal as it comes,
//! and pairs answers with the renewals of the same lease in the order they were sent. When the stream
//! breaks, or is silent for too long, it opens another one elsewhere and sends again what was not
//! answered: renewing twice is renewing once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use pb::lease_client::LeaseClient;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::core::Core;
use crate::rules::{self, Fate};
use crate::{BootInstant, Error, Refusal, Renewal};

type Answer = Result<Option<Renewal>, Error>;

/// A renewal somebody waits for.
pub(crate) struct Ask {
    pub(crate) id: i64,
    pub(crate) answer: oneshot::Sender<Answer>,
}

struct Waiting {
    ask: Ask,
    sent: BootInstant,
    reauthentications: u32,
}

impl Waiting {
    fn new(ask: Ask) -> Self {
        Self {
            ask,
            sent: BootInstant::now(),
            reauthentications: 0,
        }
    }
}

/// Serves renewals until the last sender is gone.
pub(crate) async fn serve(core: Arc<Core>, mut asks: mpsc::UnboundedReceiver<Ask>) {
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    loop {
        waiting.retain(|waiting| !waiting.ask.answer.is_closed());
        if waiting.is_empty() {
            match asks.recv().await {
                Some(ask) => waiting.push_back(Waiting::new(ask)),
                None => return,
            }
        }
        let Some(connected) = connect(&core, &mut asks, &mut waiting).await else {
            return;
        };
        let (endpoint, via) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                for waiting in waiting.drain(..) {
                    let _ = waiting.ask.answer.send(Err(error.clone()));
                }
                continue;
            }
        };
        let token = via.token.clone();
        let (requests, receiver) = mpsc::unbounded_channel();
        for waiting in &mut waiting {
            waiting.sent = BootInstant::now();
            let _ = requests.send(pb::LeaseKeepAliveRequest { id: waiting.ask.id });
        }
        let opening = async move {
            let mut client = LeaseClient::new(via);
            let stream = UnboundedReceiverStream::new(receiver);
            client
                .lease_keep_alive(stream)
                .await
                .map(|answers| answers.into_inner())
        };
        let mut answers = Answers::Opening(Box::pin(opening));
        let mut heard = Instant::now();
        let end = loop {
            let silence = heard + core.options.attempt_timeout;
            tokio::select! {
                answer = answers.next() => match answer {
                    Ok(answer) => {
                        heard = Instant::now();
                        endpoint.answered();
                        core.endpoints.prefer(&endpoint);
                        settle(&mut waiting, &answer);
                    }
                    Err(status) => break End::Failed(status),
                },
                ask = asks.recv() => match ask {
                    Some(ask) => {
                        if waiting.is_empty() {
                            heard = Instant::now();
                        }
                        let id = ask.id;
                        waiting.push_back(Waiting::new(ask));
                        let _ = requests.send(pb::LeaseKeepAliveRequest { id });
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(silence), if !waiting.is_empty() => break End::Silent,
            }
        };
        match end {
            End::Silent => {
                let limit = core.options.attempt_timeout;
                endpoint.fell_silent(format!("{}: no renewal within {limit:?}", endpoint.address));
            }
            End::Failed(status) => match rules::fate(&status) {
                // Answers come in the order of the requests: the refusal is for the first without one.
                Fate::Refused => {
                    if let Some(refused) = waiting.pop_front() {
                        let _ = refused.ask.answer.send(Err(Refusal::of(&status).into()));
                    }
                }
                Fate::Unauthenticated => {
                    core.token.rejected(token.as_ref()).await;
                    if let Some(first) = waiting.front_mut() {
                        first.reauthentications += 1;
                    }
                    let is_lost = |waiting: &Waiting| waiting.reauthentications > 3;
                    if (waiting.front().is_some_and(is_lost) || !core.token.is_wanted())
                        && let Some(refused) = waiting.pop_front()
                    {
                        let _ = refused.ask.answer.send(Err(Refusal::of(&status).into()));
                    }
                }
                Fate::NotDone | Fate::Unknown | Fate::Failed => {
                    endpoint.failed(format!("{}: {}", endpoint.address, status.message()));
                }
            },
        }
    }
}

enum End {
    Silent,
    Failed(Status),
}

type Connected = Result<(Arc<crate::endpoints::Endpoint>, crate::connection::Raw), Error>;

/// Waits for an endpoint, and goes on taking renewals meanwhile. `None` once nobody can ask any more.
async fn connect(
    core: &Core,
    asks: &mut mpsc::UnboundedReceiver<Ask>,
    waiting: &mut VecDeque<Waiting>,
) -> Option<Connected> {
    let connected = core.connected(true);
    tokio::pin!(connected);
    loop {
        tokio::select! {
            connected = &mut connected => return Some(connected),
            ask = asks.recv() => {
                waiting.push_back(Waiting::new(ask?));
                // Those who gave up do not pile up while nobody can be reached.
                if waiting.len().is_power_of_two() {
                    waiting.retain(|waiting| !waiting.ask.answer.is_closed());
                }
            }
        }
    }
}

/// Gives an answer to the first who waits for that lease.
fn settle(waiting: &mut VecDeque<Waiting>, answer: &pb::LeaseKeepAliveResponse) {
    let first = waiting
        .iter()
        .position(|waiting| waiting.ask.id == answer.id);
    let Some(waiting) = first.and_then(|index| waiting.remove(index)) else {
        return;
    };
    let renewal = u64::try_from(answer.ttl)
        .ok()
        .filter(|ttl| *ttl > 0)
        .map(|ttl| Renewal {
            sent: waiting.sent,
            ttl: Duration::from_secs(ttl),
        });
    let _ = waiting.ask.answer.send(Ok(renewal));
}

type Opening =
    Pin<Box<dyn Future<Output = Result<Streaming<pb::LeaseKeepAliveResponse>, Status>> + Send>>;

/// The answers of a stream that may still be opening: some servers open it with the first answer.
enum Answers {
    Opening(Opening),
    Open(Box<Streaming<pb::LeaseKeepAliveResponse>>),
}

impl Answers {
    /// The next answer. Cancel safe.
    async fn next(&mut self) -> Result<pb::LeaseKeepAliveResponse, Status> {
        loop {
            match self {
                Self::Opening(opening) => {
                    let stream = opening.await?;
                    *self = Self::Open(Box::new(stream));
                }
                Self::Open(stream) => {
                    let answer = stream.message().await?;
                    return answer.ok_or_else(|| Status::unavailable("the stream ended"));
                }
            }
        }
    }
}
