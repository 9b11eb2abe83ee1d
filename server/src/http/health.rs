//! Whether this member is well: `/health` as one verdict, `/livez` and `/readyz` check by check.

use std::time::Duration;

use http::{StatusCode, request};

use super::{Answer, Probe, error, no_sniff, query, text};

/// As long as a client's request may take at etcd's default timeouts.
const READ_TIMEOUT: Duration = Duration::from_secs(7);

/// One question with a yes or a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    /// Failing these, a member should be restarted.
    pub(super) const LIVEZ: &'static [Self] = &[Self::SerializableRead];
    /// Failing these, a member should not be sent requests.
    pub(super) const READYZ: &'static [Self] = &[
        Self::DataCorruption,
        Self::SerializableRead,
        Self::LinearizableRead,
        Self::NonLearner,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, probe: &Probe) -> Result<(), String> {
        match self {
            Self::DataCorruption => {
                let facts = (probe.facts)();
                if facts.alarms.iter().any(|(_, name)| *name == "CORRUPT") {
                    return Err("alarm activated: CORRUPT".to_owned());
                }
                Ok(())
            }
            Self::SerializableRead => {
                (probe.local_read)().map_err(|error| format!("range error: {error}"))
            }
            Self::LinearizableRead => linearizable_read(probe)
                .await
                .map_err(|error| format!("range error: {error}")),
            Self::NonLearner => {
                if (probe.facts)().is_learner {
                    return Err("not supported for learner".to_owned());
                }
                Ok(())
            }
        }
    }
}

async fn linearizable_read(probe: &Probe) -> Result<(), String> {
    let read = (probe.linearizable_read)();
    match tokio::time::timeout(READ_TIMEOUT, read).await {
        Ok(result) => result,
        Err(_) => Err("etcdserver: request timed out".to_owned()),
    }
}

/// `/health`.
pub(super) async fn health(probe: &Probe, request: &request::Parts) -> Answer {
    let answer = match unhealthy(probe, request).await {
        None => text(StatusCode::OK, r#"{"health":"true","reason":""}"#),
        Some(reason) => {
            tracing::warn!(reason, "/health error");
            error(
                StatusCode::SERVICE_UNAVAILABLE,
                format_args!(
                    r#"{{"health":"false","reason":{}}}"#,
                    serde_json::Value::from(reason.as_str())
                ),
            )
        }
    };
    count(&answer);
    answer
}

/// The first thing that is wrong.
async fn unhealthy(probe: &Probe, request: &request::Parts) -> Option<String> {
    let is_serializable = query(request, "serializable").next() == Some("true");
    let facts = (probe.facts)();
    let alarm = facts
        .alarms
        .iter()
        .find(|(_, name)| !query(request, "exclude").any(|excluded| excluded == *name));
    if let Some((_, name)) = alarm {
        return Some(format!("ALARM {name}"));
    }
    if !is_serializable && facts.leader == 0 {
        return Some("RAFT NO LEADER".to_owned());
    }
    let read = if is_serializable {
        (probe.local_read)()
    } else {
        linearizable_read(probe).await
    };
    read.err().map(|error| format!("RANGE ERROR:{error}"))
}

/// `/livez`, `/readyz` and each of their checks alone.
pub(super) async fn checks(probe: &Probe, checks: &[Check], request: &request::Parts) -> Answer {
    let is_verbose = query(request, "verbose").next().is_some();
    let mut lines = String::new();
    let mut has_failed = false;
    for check in checks {
        let name = check.name();
        if query(request, "exclude").any(|excluded| excluded == name) {
            continue;
        }
        let result = check.run(probe).await;
        count_check(*check, result.is_ok(), request);
        match result {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                has_failed = true;
                lines.push_str(&format!("[-]{name} failed: {why}\n"));
                tracing::warn!(check = name, why, "health check failed");
            }
        }
    }
    if has_failed {
        return error(StatusCode::SERVICE_UNAVAILABLE, lines);
    }
    if !is_verbose {
        lines.clear();
    }
    lines.push_str("ok\n");
    no_sniff(text(StatusCode::OK, lines))
}

fn count_check(check: Check, has_passed: bool, request: &request::Parts) {
    let (name, kind) = (check.name(), kind(request));
    let status = if has_passed { "success" } else { "error" };
    metrics::counter!(
        "etcd_server_healthchecks_total",
        "name" => name, "status" => status, "type" => kind
    )
    .increment(1);
    metrics::gauge!("etcd_server_healthcheck", "name" => name, "type" => kind)
        .set(f64::from(u8::from(has_passed)));
}

fn kind(request: &request::Parts) -> &'static str {
    if request.uri.path().starts_with("/livez") {
        "livez"
    } else {
        "readyz"
    }
}

fn count(answer: &Answer) {
    let name = if answer.status() == StatusCode::OK {
        "etcd_server_health_success"
    } else {
        "etcd_server_health_failures"
    };
    metrics::counter!(name).increment(1);
}
