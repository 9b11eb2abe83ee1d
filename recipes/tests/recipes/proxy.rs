//! A connection between a client and a server that does what it is told: passes calls on, loses their
//! answers, keeps copies of them, delays streams, is cut.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;

/// What becomes of a call.
pub enum Fate {
    /// Nothing is done to it.
    Pass,
    /// It is done, and its answer is lost: the client is told that the connection broke.
    LoseAnswer,
    /// It is not done now, and the client is told that the connection broke. A copy is kept, to be
    /// [delivered](Proxy::deliver) late.
    Keep,
    /// It is done, and its answer comes that much later; every one, on a stream.
    Delay(Duration),
    /// It is passed on when this turns true.
    After(watch::Receiver<bool>),
    /// Nothing is done, and the client is told that the connection broke.
    Refuse,
    /// Nothing is done, and the client is told so.
    Deny,
}

/// Given the path of a call and, unless it is a stream, its message.
type Rule = Box<dyn Fn(&str, &[u8]) -> Fate + Send + Sync>;

struct Shared {
    server: Channel,
    rule: Mutex<Rule>,
    kept: Mutex<Vec<http::Request<Bytes>>>,
    /// Grows with every cut. While it is odd nothing gets through.
    cuts: watch::Sender<u64>,
}

#[derive(Clone)]
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

impl Proxy {
    /// In front of the server at `url`. Passes everything.
    pub async fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Endpoint::from_shared(url.to_owned())
            .unwrap()
            .connect_lazy();
        let shared = Arc::new(Shared {
            server,
            rule: Mutex::new(Box::new(|_, _| Fate::Pass)),
            kept: Mutex::default(),
            cuts: watch::channel(0).0,
        });
        tokio::spawn(accept(listener, Arc::downgrade(&shared)));
        Self { address, shared }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Decides over every call from now on.
    pub fn rule(&self, rule: impl Fn(&str, &[u8]) -> Fate + Send + Sync + 'static) {
        *self.shared.rule.lock() = Box::new(rule);
    }

    /// Breaks all connections; new ones are broken too until [`heal`](Self::heal).
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Lets new connections through again.
    pub fn heal(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// How many calls were kept.
    pub fn kept(&self) -> usize {
        self.shared.kept.lock().len()
    }

    /// Delivers what was kept, each call once.
    pub async fn deliver(&self) {
        let kept = std::mem::take(&mut *self.shared.kept.lock());
        for request in kept {
            let request = request.map(|message| Body::new(Full::new(message)));
            let answer = self.shared.server.clone().oneshot(request).await.unwrap();
            answer.into_body().collect().await.unwrap();
        }
    }
}

async fn accept(listener: TcpListener, shared: std::sync::Weak<Shared>) {
    while let Ok((connection, _)) = listener.accept().await {
        // Else an answer of several frames waits for the client's delayed acknowledgement, 40 ms.
        connection.set_nodelay(true).unwrap();
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let mut cuts = shared.cuts.subscribe();
        let now = *cuts.borrow_and_update();
        if now % 2 == 1 {
            continue;
        }
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(pass(&shared, request).await) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::select! {
                _ = server.serve_connection(TokioIo::new(connection), service) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

/// Nobody knows what became of it.
fn broken() -> http::Response<Body> {
    let status = tonic::Status::deadline_exceeded("no answer came");
    status.into_http()
}

async fn pass(shared: &Shared, request: http::Request<Incoming>) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    if path.ends_with("/Watch") || path.ends_with("/LeaseKeepAlive") {
        let fate = (shared.rule.lock())(&path, &[]);
        if let Fate::Refuse = fate {
            return broken();
        }
        if let Fate::After(gate) = &fate {
            let _ = gate.clone().wait_for(|open| *open).await;
        }
        let request = request.map(Body::new);
        let Ok(answer) = shared.server.clone().oneshot(request).await else {
            return broken();
        };
        let Fate::Delay(delay) = fate else {
            return answer;
        };
        return answer.map(|body| {
            let frames = body.into_data_stream().then(move |frame| async move {
                tokio::time::sleep(delay).await;
                frame.map(http_body::Frame::data)
            });
            Body::new(StreamBody::new(frames))
        });
    }
    let (parts, body) = request.into_parts();
    let Ok(message) = body.collect().await else {
        return broken();
    };
    let message = message.to_bytes();
    let fate = (shared.rule.lock())(&path, message.get(5..).unwrap_or_default());
    let request = http::Request::from_parts(parts, message);
    match fate {
        Fate::Refuse => return broken(),
        Fate::Deny => return tonic::Status::permission_denied("not for you").into_http(),
        Fate::Keep => {
            shared.kept.lock().push(request);
            return broken();
        }
        Fate::After(mut gate) => {
            let _ = gate.wait_for(|open| *open).await;
            let request = request.map(|message| Body::new(Full::new(message)));
            let answer = shared.server.clone().oneshot(request).await;
            return answer.unwrap_or_else(|_| broken());
        }
        Fate::Pass | Fate::LoseAnswer | Fate::Delay(_) => {}
    }
    let request = request.map(|message| Body::new(Full::new(message)));
    let answer = shared.server.clone().oneshot(request).await;
    match (fate, answer) {
        (Fate::LoseAnswer, _) | (_, Err(_)) => broken(),
        (Fate::Delay(delay), Ok(answer)) => {
            tokio::time::sleep(delay).await;
            answer
        }
        (_, Ok(answer)) => answer,
    }
}
