//! Plain HTTP beside gRPC: health checks, version, metrics.

mod access;
mod health;
mod probe;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use baton_proto::etcdserverpb::Member;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Response, StatusCode, request};
use http_body_util::Full;

use crate::config::{CLUSTER_VERSION, ETCD_VERSION};
use crate::metrics::{self, Metrics};
use crate::state_hash::StateHash;
use access::Access;
use health::Check;

/// Plain answers are whole.
pub type Answer = Response<Full<Bytes>>;

/// What the answers tell of.
pub struct Probe {
    /// What holds at the moment.
    pub facts: Box<dyn Fn() -> metrics::Facts + Send + Sync>,
    /// Reads this member's state as it is; an error if it cannot be read.
    pub local_read: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Waits until everything committed so far is applied here; an error if that fails.
    pub linearizable_read: Box<dyn Fn() -> ReadFuture + Send + Sync>,
    /// The members of the cluster.
    pub members: Box<dyn Fn() -> Vec<Member> + Send + Sync>,
    /// What the state hashed to after the last entries, from an index on.
    pub state_hashes: Box<dyn Fn(u64) -> Vec<StateHash> + Send + Sync>,
}

/// A read in progress.
pub type ReadFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Which paths a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// All there are, to whom access is given.
    Client,
    /// Metrics and health checks, to anyone.
    Monitoring,
    /// Version and members, to anyone who could be one.
    Peer,
}

/// Answers plain HTTP requests. Cheap to clone.
#[derive(Clone)]
pub struct Http {
    shared: Arc<Shared>,
}

struct Shared {
    probe: Probe,
    metrics: Metrics,
    access: Access,
}

impl Http {
    /// `cors` and `host_whitelist` are lists of names; `*`, and an empty list, let all pass.
    pub fn new(
        probe: Probe,
        metrics: Metrics,
        cors: Vec<String>,
        host_whitelist: Vec<String>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                probe,
                metrics,
                access: Access::new(cors, host_whitelist),
            }),
        }
    }

    /// Answers a request. Its body is of no interest to any path.
    ///
    /// # Errors
    /// None: what is wrong is in the answer.
    pub async fn answer(
        &self,
        paths: Paths,
        request: &request::Parts,
    ) -> Result<Answer, Infallible> {
        if paths != Paths::Client {
            return Ok(self.route(paths, request).await);
        }
        let access = &self.shared.access;
        if let Some(refusal) = access.refusal(request) {
            return Ok(refusal);
        }
        let mut answer = if request.method == Method::OPTIONS {
            text(StatusCode::OK, "")
        } else {
            self.route(paths, request).await
        };
        access.allow_origin(request, &mut answer);
        Ok(answer)
    }

    async fn route(&self, paths: Paths, request: &request::Parts) -> Answer {
        let probe = &self.shared.probe;
        match (paths, request.uri.path()) {
            (Paths::Client | Paths::Peer, "/version") => {
                get(request, async { self.version() }).await
            }
            (Paths::Client, "/debug/vars") => get(request, async { self.vars() }).await,
            (Paths::Client, "/debug/state-hashes") => {
                get(request, async { self.state_hashes(request) }).await
            }
            #[cfg(feature = "chaos")]
            (Paths::Client, "/debug/chaos/points") => chaos_points(request),
            #[cfg(feature = "chaos")]
            (Paths::Client, "/debug/chaos/mutants") => {
                get(request, async { json(crate::chaos::mutants().to_string()) }).await
            }
            (Paths::Peer, "/members") => get(request, async { self.members() }).await,
            (Paths::Peer, _) => not_found(),
            (_, "/health") => get(request, health::health(probe, request)).await,
            (_, "/livez") => get(request, health::checks(probe, Check::LIVEZ, request)).await,
            (_, "/readyz") => get(request, health::checks(probe, Check::READYZ, request)).await,
            (_, "/metrics") => get(request, async { self.metrics() }).await,
            (_, path) => match sub_check(path) {
                Some(check) => get(request, health::checks(probe, check, request)).await,
                None => not_found(),
            },
        }
    }

    fn metrics(&self) -> Answer {
        let facts = (self.shared.probe.facts)();
        let mut answer = text(StatusCode::OK, self.shared.metrics.render(&facts));
        answer.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static(metrics::CONTENT_TYPE),
        );
        answer
    }

    fn version(&self) -> Answer {
        let facts = (self.shared.probe.facts)();
        let (cluster, storage) = if facts.is_cluster_version_known {
            (CLUSTER_VERSION, CLUSTER_VERSION)
        } else {
            ("not_decided", "unknown")
        };
        json(format!(
            "{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{cluster}\",\"storage\":\"{storage}\"}}"
        ))
    }

    fn members(&self) -> Answer {
        let members = (self.shared.probe.members)();
        let members: Vec<_> = members
            .iter()
            .map(|member| {
                serde_json::json!({
                    "id": member.id,
                    "peerURLs": member.peer_ur_ls,
                    "name": member.name,
                    "clientURLs": member.client_ur_ls,
                })
            })
            .collect();
        json(serde_json::Value::from(members).to_string() + "\n")
    }

    /// Those of entries from `from` on, of all that are kept without it; none where they are not known.
    fn state_hashes(&self, request: &request::Parts) -> Answer {
        let from = match query(request, "from").next().map(str::parse) {
            None => 0,
            Some(Ok(from)) => from,
            Some(Err(_)) => return error(StatusCode::BAD_REQUEST, "from is not an index"),
        };
        let probe = &self.shared.probe;
        let hashes: Vec<_> = (probe.state_hashes)(from)
            .iter()
            .map(|StateHash { id, hash }| {
                serde_json::json!({
                    "index": id.index,
                    "term": id.term,
                    "hash": format!("{hash:016x}"),
                })
            })
            .collect();
        let member = format!("{:x}", (probe.facts)().member_id);
        json(serde_json::json!({ "member": member, "hashes": hashes }).to_string() + "\n")
    }

    /// What Go programs publish there, as far as it is not about Go.
    fn vars(&self) -> Answer {
        let facts = (self.shared.probe.facts)();
        let state = match facts.leader {
            leader if leader != 0 && leader == facts.member_id => "StateLeader",
            _ => "StateFollower",
        };
        json(format!(
            "{{\"raft.status\":{{\"id\":\"{:x}\",\"lead\":\"{:x}\",\"raftState\":\"{state}\",\
             \"commit\":{},\"applied\":{}}}}}",
            facts.member_id, facts.leader, facts.committed, facts.applied
        ))
    }
}

/// Shows the fault points, and arms those it is told to.
#[cfg(feature = "chaos")]
fn chaos_points(request: &request::Parts) -> Answer {
    if request.method == Method::PUT {
        let armed = crate::chaos::arm(query(request, "arm").next().unwrap_or_default());
        if let Err(what) = armed {
            return error(StatusCode::BAD_REQUEST, what);
        }
    }
    json(crate::chaos::points().to_string() + "\n")
}

/// `/livez/<check>` and `/readyz/<check>`.
fn sub_check(path: &str) -> Option<&'static [Check]> {
    let (checks, name) = match path.strip_prefix("/livez/") {
        Some(name) => (Check::LIVEZ, name),
        None => (Check::READYZ, path.strip_prefix("/readyz/")?),
    };
    let at = checks.iter().position(|check| check.name() == name)?;
    Some(&checks[at..=at])
}

/// Answers only a GET.
async fn get(request: &request::Parts, answer: impl Future<Output = Answer>) -> Answer {
    if request.method == Method::GET {
        return answer.await;
    }
    let mut refusal = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    refusal
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET"));
    refusal
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

fn json(body: String) -> Answer {
    answer(StatusCode::OK, "application/json", body)
}

fn not_found() -> Answer {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// As Go's `http.Error`: a line, and no guessing at its type.
fn error(status: StatusCode, line: impl std::fmt::Display) -> Answer {
    no_sniff(text(status, format!("{line}\n")))
}

fn no_sniff(mut answer: Answer) -> Answer {
    answer
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// Values of a query parameter, in their order.
fn query<'a>(request: &'a request::Parts, name: &'a str) -> impl Iterator<Item = &'a str> {
    let query = request.uri.query().unwrap_or_default();
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
mod tests;
