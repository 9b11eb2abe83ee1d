use baton_proto::log::LogId;
use http::Request;
use http_body_util::BodyExt;

use super::*;
use crate::metrics::Facts;

/// A member in good health; tests make it ill.
struct Subject {
    facts: Facts,
    local_read: Result<(), String>,
    linearizable_read: Result<(), String>,
    cors: Vec<String>,
    hosts: Vec<String>,
}

impl Subject {
    fn healthy() -> Self {
        Self {
            facts: Facts {
                member_id: 1,
                leader: 1,
                is_cluster_version_known: true,
                ..Facts::default()
            },
            local_read: Ok(()),
            linearizable_read: Ok(()),
            cors: Vec::new(),
            hosts: Vec::new(),
        }
    }

    fn with_alarm(name: &'static str) -> Self {
        let mut member = Self::healthy();
        member.facts.alarms.push((1, name));
        member
    }

    async fn send(&self, request: http::request::Builder) -> (http::response::Parts, String) {
        self.send_to(Paths::Client, request).await
    }

    async fn send_to(
        &self,
        paths: Paths,
        request: http::request::Builder,
    ) -> (http::response::Parts, String) {
        let (facts, local, linearizable) = (
            self.facts.clone(),
            self.local_read.clone(),
            self.linearizable_read.clone(),
        );
        let probe = Probe {
            facts: Box::new(move || facts.clone()),
            local_read: Box::new(move || local.clone()),
            linearizable_read: Box::new(move || {
                let result = linearizable.clone();
                Box::pin(async move { result })
            }),
            members: Box::new(|| {
                vec![Member {
                    id: 1,
                    name: "a".to_owned(),
                    peer_ur_ls: vec!["http://a:1".to_owned()],
                    ..Member::default()
                }]
            }),
            state_hashes: Box::new(|from| {
                let all = (1..=3).map(|index| StateHash {
                    id: LogId { term: 2, index },
                    hash: index << 60 | 0xabc,
                });
                all.filter(|hash| hash.id.index >= from).collect()
            }),
        };
        let (_, metrics) = Metrics::local();
        let http = Http::new(probe, metrics, self.cors.clone(), self.hosts.clone());
        let (request, ()) = request.body(()).unwrap().into_parts();
        let answer = http.answer(paths, &request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let (parts, body) = self.send(Request::get(path)).await;
        (parts.status.as_u16(), body)
    }
}

#[tokio::test]
async fn a_healthy_member_says_so() {
    let (parts, body) = Subject::healthy().send(Request::get("/health")).await;
    assert_eq!(parts.status, 200);
    assert_eq!(body, r#"{"health":"true","reason":""}"#);
    assert_eq!(parts.headers["content-type"], "text/plain; charset=utf-8");
}

#[tokio::test]
async fn health_fails_with_the_first_reason() {
    let mut no_leader = Subject::healthy();
    no_leader.facts.leader = 0;
    let mut no_read = Subject::healthy();
    no_read.linearizable_read = Err("etcdserver: leader changed".to_owned());
    for (member, reason) in [
        (Subject::with_alarm("NOSPACE"), "ALARM NOSPACE"),
        (Subject::with_alarm("CORRUPT"), "ALARM CORRUPT"),
        (no_leader, "RAFT NO LEADER"),
        (no_read, "RANGE ERROR:etcdserver: leader changed"),
    ] {
        let (status, body) = member.get("/health").await;
        assert_eq!(status, 503);
        assert_eq!(
            body,
            format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n")
        );
    }
}

#[tokio::test]
async fn health_ignores_alarms_it_is_told_to_ignore() {
    let path = "/health?exclude=CORRUPT&exclude=NOSPACE";
    assert_eq!(Subject::with_alarm("NOSPACE").get(path).await.0, 200);
}

#[tokio::test]
async fn serializable_health_needs_no_leader() {
    let mut member = Subject::healthy();
    member.facts.leader = 0;
    member.linearizable_read = Err("no".to_owned());
    assert_eq!(member.get("/health?serializable=true").await.0, 200);
}

#[tokio::test]
async fn a_full_store_is_alive_and_ready() {
    let member = Subject::with_alarm("NOSPACE");
    assert_eq!(member.get("/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(member.get("/readyz").await, (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn verbose_checks_name_each_one() {
    let (status, body) = Subject::healthy().get("/livez?verbose").await;
    assert_eq!(
        (status, body.as_str()),
        (200, "[+]serializable_read ok\nok\n")
    );
}

#[tokio::test]
async fn a_failed_check_says_why_and_the_others_are_shown_with_it() {
    let member = Subject::with_alarm("CORRUPT");
    let (parts, body) = member.send(Request::get("/readyz")).await;
    assert_eq!(parts.status, 503);
    assert_eq!(parts.headers["x-content-type-options"], "nosniff");
    assert!(body.contains("[-]data_corruption failed: alarm activated: CORRUPT\n"));
    assert!(body.contains("[+]linearizable_read ok\n"));
}

#[tokio::test]
async fn excluded_checks_are_not_made() {
    let member = Subject::with_alarm("CORRUPT");
    let path = "/readyz?exclude=data_corruption&exclude=nonsense";
    assert_eq!(member.get(path).await.0, 200);
}

#[tokio::test]
async fn each_check_can_be_asked_for_alone() {
    let mut learner = Subject::healthy();
    learner.facts.is_learner = true;
    assert_eq!(learner.get("/readyz/non_learner").await.0, 503);
    assert_eq!(learner.get("/readyz/serializable_read").await.0, 200);
    assert_eq!(learner.get("/livez/serializable_read").await.0, 200);
    assert_eq!(learner.get("/livez/non_learner").await.0, 404);
}

#[tokio::test]
async fn the_version_is_that_of_the_etcd_it_stands_in_for() {
    let (parts, body) = Subject::healthy().send(Request::get("/version")).await;
    assert_eq!(parts.headers["content-type"], "application/json");
    assert_eq!(
        body,
        r#"{"etcdserver":"3.6.14","etcdcluster":"3.6.0","storage":"3.6.0"}"#
    );
}

#[tokio::test]
async fn a_cluster_that_never_had_a_leader_has_no_version() {
    let mut member = Subject::healthy();
    member.facts.is_cluster_version_known = false;
    let (_, body) = member.get("/version").await;
    assert!(body.contains(r#""etcdcluster":"not_decided","storage":"unknown""#));
}

#[tokio::test]
async fn other_methods_than_get_are_refused() {
    for path in [
        "/health",
        "/livez",
        "/readyz",
        "/version",
        "/metrics",
        "/debug/vars",
        "/debug/state-hashes",
    ] {
        let (parts, body) = Subject::healthy().send(Request::post(path)).await;
        assert_eq!(parts.status, 405, "{path}");
        assert_eq!(parts.headers["allow"], "GET");
        assert_eq!(body, "Method Not Allowed\n");
    }
}

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    let (status, body) = Subject::healthy().get("/v2/keys").await;
    assert_eq!((status, body.as_str()), (404, "404 page not found\n"));
}

#[tokio::test]
async fn vars_are_json() {
    let (_, body) = Subject::healthy().get("/debug/vars").await;
    let vars: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(vars["raft.status"]["raftState"], "StateLeader");
}

#[tokio::test]
async fn state_hashes_are_told_from_an_index_on() {
    let member = Subject::healthy();
    let (_, body) = member.get("/debug/state-hashes").await;
    let all: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(all["hashes"].as_array().unwrap().len(), 3);
    let (_, body) = member.get("/debug/state-hashes?from=3").await;
    let last = r#"{"hashes":[{"hash":"3000000000000abc","index":3,"term":2}],"member":"1"}"#;
    assert_eq!(body.trim_end(), last);
    assert_eq!(member.get("/debug/state-hashes?from=x").await.0, 400);
}

#[tokio::test]
async fn any_origin_may_ask_unless_some_are_named() {
    let mut member = Subject::healthy();
    let from = |origin| Request::options("/version").header("origin", origin);
    let (parts, _) = member.send(from("http://a")).await;
    assert_eq!(parts.status, 200);
    assert_eq!(parts.headers["access-control-allow-origin"], "*");
    member.cors = vec!["http://a".to_owned()];
    let (parts, _) = member.send(from("http://a")).await;
    assert_eq!(parts.headers["access-control-allow-origin"], "http://a");
    let (parts, _) = member.send(from("http://b")).await;
    assert!(!parts.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_host_that_is_not_listed_is_turned_away() {
    let mut member = Subject::healthy();
    member.hosts = vec!["localhost".to_owned()];
    let to = |host| Request::get("/version").header("host", host);
    assert_eq!(member.send(to("localhost:2379")).await.0.status, 200);
    let (parts, body) = member.send(to("evil.example:2379")).await;
    assert_eq!(parts.status, 421);
    assert!(body.contains("CVE-2018-5702"));
}

#[tokio::test]
async fn the_port_for_members_tells_who_they_are_and_nothing_of_clients() {
    let subject = Subject::healthy();
    let get = |path| subject.send_to(Paths::Peer, Request::get(path));
    let (_, body) = get("/members").await;
    assert_eq!(
        body,
        "[{\"clientURLs\":[],\"id\":1,\"name\":\"a\",\"peerURLs\":[\"http://a:1\"]}]\n"
    );
    assert_eq!(get("/version").await.0.status, 200);
    assert_eq!(get("/metrics").await.0.status, 404);
}
