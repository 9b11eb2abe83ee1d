//! Plans, faults, requests and answers in words.

use std::fmt::Write as _;

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Op;
use pb::response_op::Response as OpAnswer;
use tonic::Code;

use crate::history::{Answer, Error, Nanos, Outcome, Request, WatchEvent};
use crate::plan::{DiskKind, Fault, Plan};

/// The longest key or value that is shown whole, in characters.
const TEXT_MAX: usize = 64;
/// The most keys of one answer that are shown.
const KEYS_MAX: usize = 6;

/// Bytes as text: what is no printable text is shown as `\xNN`, and long ones end in how long they are.
pub fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    if let Some((cut, _)) = text.char_indices().nth(TEXT_MAX) {
        text.truncate(cut);
        let _ = write!(text, "… ({} bytes)", bytes.len());
    }
    text
}

/// A time of the run, in seconds.
pub fn seconds(at: Nanos) -> String {
    let ms = at / 1_000_000;
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

/// How long something took.
pub fn duration(nanos: Nanos) -> String {
    match nanos {
        0..1_000_000 => format!("{} µs", nanos / 1000),
        1_000_000..10_000_000 => format!("{}.{} ms", nanos / 1_000_000, nanos / 100_000 % 10),
        10_000_000..1_000_000_000 => format!("{} ms", nanos / 1_000_000),
        _ => format!(
            "{}.{:02} s",
            nanos / 1_000_000_000,
            nanos / 10_000_000 % 100
        ),
    }
}

/// Milliseconds as seconds, to the tenth.
fn brief(ms: u64) -> String {
    match (ms / 1000, ms % 1000 / 100) {
        (seconds, 0) => format!("{seconds} s"),
        (seconds, tenths) => format!("{seconds}.{tenths} s"),
    }
}

/// A number with its thousands apart.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A name of the code as words.
pub fn spaced(name: &str) -> String {
    name.replace('_', " ")
}

/// `1 fault`, `2 faults`.
pub fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A fault with its target and parameters: `delay 100 ms, jitter 50 ms`.
pub fn fault(fault: &Fault) -> String {
    let mut words = spaced(&fault.kind());
    let Ok(serde_json::Value::Object(tagged)) = serde_json::to_value(fault) else {
        return words;
    };
    let Some(fields) = tagged.values().next().and_then(|value| value.as_object()) else {
        return words;
    };
    if let Some(target) = fields.get("target") {
        words.push(' ');
        words.push_str(&plain(target));
    }
    let mut parameters: Vec<(&str, String)> = fields
        .iter()
        .filter(|(name, _)| *name != "target")
        .map(|(name, value)| (name.as_str(), plain(value)))
        .collect();
    parameters.sort_by_key(|(name, _)| !matches!(*name, "ms" | "percent" | "seconds" | "kbit"));
    let parameters: Vec<String> = parameters
        .into_iter()
        .map(|(name, value)| parameter(name, &value))
        .collect();
    if !parameters.is_empty() {
        words.push(' ');
        words.push_str(&parameters.join(", "));
    }
    words
}

fn parameter(name: &str, value: &str) -> String {
    match name {
        "inbound" if value == "true" => "hears nothing".into(),
        "inbound" => "is not heard".into(),
        "percent" => format!("{value} %"),
        "ms" => format!("{value} ms"),
        "seconds" => format!("{value} s"),
        "kbit" => format!("{value} kbit/s"),
        "point" | "file" | "action" => value.to_owned(),
        name => match (name.strip_suffix("_ms"), name.strip_suffix("_mib")) {
            (Some(name), _) => format!("{} {value} ms", spaced(name)),
            (None, Some(name)) => format!("{} {value} MiB", spaced(name)),
            (None, None) => format!("{} {value}", spaced(name)),
        },
    }
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => spaced(text),
        serde_json::Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{} {}", spaced(name), plain(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

/// A plan in a sentence.
pub fn plan(plan: &Plan) -> String {
    let members = match plan.members {
        1 => "One member".to_owned(),
        3 => "Three members".to_owned(),
        5 => "Five members".to_owned(),
        n => format!("{n} members"),
    };
    let disk = match plan.server.disk {
        DiskKind::Directory => "",
        DiskKind::Ext4 => ", each on an ext4 of its own,",
        DiskKind::Xfs => ", each on an XFS of its own,",
    };
    let loads: Vec<String> = plan
        .workloads
        .iter()
        .map(|load| format!("{} {}", load.clients, name_of(&load.workload)))
        .collect();
    let loads = match loads.split_last() {
        None => "no clients".to_owned(),
        Some((only, [])) if plan.workloads[0].clients == 1 => format!("{only} client"),
        Some((only, [])) => format!("{only} clients"),
        Some((last, others)) => format!("{} and {last} clients", others.join(", ")),
    };
    let faults = match plan.faults.len() {
        0 => "no faults".to_owned(),
        n @ 1..=6 => {
            let faults: Vec<String> = plan
                .faults
                .iter()
                .map(|planned| {
                    let (at, hold) = (brief(planned.at_ms), brief(planned.hold_ms));
                    format!("{} at {at} for {hold}", fault(&planned.fault))
                })
                .collect();
            format!("{}: {}", plural(n, "fault"), faults.join("; "))
        }
        n => {
            let mut kinds = std::collections::BTreeMap::<String, usize>::new();
            for planned in &plan.faults {
                *kinds.entry(spaced(&planned.fault.kind())).or_default() += 1;
            }
            let kinds: Vec<String> = kinds
                .iter()
                .map(|(kind, count)| format!("{count} × {kind}"))
                .collect();
            format!("{n} faults: {}", kinds.join(", "))
        }
    };
    let mutant = match &plan.server.mutant {
        Some(mutant) => format!(" The server has a planted bug, {mutant}."),
        None => String::new(),
    };
    let length = brief(plan.duration_ms);
    format!("{members}{disk} under load for {length}: {loads}; {faults}.{mutant}")
}

fn name_of(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(value) => plain(&value),
        Err(_) => String::new(),
    }
}

/// What was asked, in a line.
pub fn request(request: &Request) -> String {
    match request {
        Request::Range(r) => range(r),
        Request::Put(r) => put(r),
        Request::DeleteRange(r) => format!("delete {}", keys(&r.key, &r.range_end)),
        Request::Txn(r) => txn(r),
        Request::Compact(r) => format!("compact at revision {}", r.revision),
        Request::LeaseGrant(r) => format!("grant lease {:x} for {} s", r.id, r.ttl),
        Request::LeaseRevoke(r) => format!("revoke lease {:x}", r.id),
        Request::LeaseKeepAlive(r) => format!("renew lease {:x}", r.id),
        Request::LeaseTimeToLive(r) => format!("time to live of lease {:x}", r.id),
        Request::LeaseLeases(_) => "list leases".into(),
        Request::Lock(r) => format!("lock {} by lease {:x}", text(&r.name), r.lease),
        Request::Unlock(r) => format!("unlock {}", text(&r.key)),
        Request::Campaign(r) => {
            format!(
                "campaign for {} by lease {:x} as {}",
                text(&r.name),
                r.lease,
                text(&r.value)
            )
        }
        Request::Proclaim(r) => {
            format!(
                "proclaim {} by {}",
                text(&r.value),
                leader_key(r.leader.as_ref())
            )
        }
        Request::Leader(r) => format!("leader of {}", text(&r.name)),
        Request::Resign(r) => format!("resign {}", leader_key(r.leader.as_ref())),
        Request::Status(_) => "status".into(),
        Request::HashKv(r) => format!("hash at revision {}", r.revision),
        Request::Defragment(_) => "defragment".into(),
        Request::MoveLeader(r) => format!("move leadership to {:x}", r.target_id),
        Request::Alarm(_) => "alarms".into(),
        Request::MemberList(_) => "list members".into(),
    }
}

/// What came of it, in a line.
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok(answer) => self::answer(answer),
        Outcome::Failed(error) => format!("failed: {}", self::error(error)),
        Outcome::Unknown(error) => format!("unknown: {}", self::error(error)),
    }
}

/// An error with the name of its code.
pub fn error(error: &Error) -> String {
    format!("{:?}, {}", Code::from_i32(error.code), error.message)
}

fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Range(a) => pairs(&a.kvs, a.count),
        Answer::Put(_) => "done".into(),
        Answer::DeleteRange(a) => format!("{} deleted", a.deleted),
        Answer::Txn(a) => txn_answer(a),
        Answer::LeaseGrant(a) => format!("lease {:x} for {} s", a.id, a.ttl),
        Answer::LeaseKeepAlive(a) if a.ttl == 0 => "no such lease".into(),
        Answer::LeaseKeepAlive(a) => format!("{} s from now", a.ttl),
        Answer::LeaseTimeToLive(a) => {
            let keys: Vec<String> = a.keys.iter().map(|key| text(key)).collect();
            format!(
                "{} s of {} s left; keys: {}",
                a.ttl,
                a.granted_ttl,
                keys.join(", ")
            )
        }
        Answer::LeaseLeases(a) => plural(a.leases.len(), "lease"),
        Answer::Lock(a) => format!("held by {}", text(&a.key)),
        Answer::Campaign(a) => format!("leads by {}", leader_key(a.leader.as_ref())),
        Answer::Leader(a) => a.kv.as_ref().map_or("nobody".into(), pair),
        Answer::Status(a) => format!(
            "leader {:x}, term {}, applied {}",
            a.leader, a.raft_term, a.raft_applied_index
        ),
        Answer::HashKv(a) => format!("hash {:08x} from {}", a.hash, a.compact_revision),
        Answer::Alarm(a) => plural(a.alarms.len(), "alarm"),
        Answer::MemberList(a) => plural(a.members.len(), "member"),
        Answer::Compact(_)
        | Answer::LeaseRevoke(_)
        | Answer::Unlock(_)
        | Answer::Proclaim(_)
        | Answer::Resign(_)
        | Answer::Defragment(_)
        | Answer::MoveLeader(_) => "done".into(),
    }
}

/// A step of a watch, in a line.
pub fn watch(event: &WatchEvent) -> String {
    match event {
        WatchEvent::Asked(r) => format!(
            "asked for {} from revision {}",
            keys(&r.key, &r.range_end),
            r.start_revision
        ),
        WatchEvent::ProgressAsked => "asked for progress".into(),
        WatchEvent::Cancelled => "cancelled by the client".into(),
        WatchEvent::Broken(error) => format!("stream broke: {}", self::error(error)),
        WatchEvent::Received(r) => {
            let revision = r.header.unwrap_or_default().revision;
            if r.canceled {
                let reason = &r.cancel_reason;
                return format!(
                    "cancelled by the server at {revision}: {reason} (compacted {})",
                    r.compact_revision
                );
            }
            if r.created {
                return format!("created at {revision}");
            }
            if r.events.is_empty() {
                return format!("progress: everything up to {revision}");
            }
            let events: Vec<String> = r
                .events
                .iter()
                .take(KEYS_MAX)
                .map(|event| {
                    let kv = event.kv.clone().unwrap_or_default();
                    match event.r#type {
                        0 => pair(&kv),
                        _ => format!("{} deleted (revision {})", text(&kv.key), kv.mod_revision),
                    }
                })
                .collect();
            listed(&events, r.events.len(), "event")
        }
    }
}

fn range(r: &pb::RangeRequest) -> String {
    let mut words = format!("get {}", keys(&r.key, &r.range_end));
    if r.revision > 0 {
        let _ = write!(words, " at revision {}", r.revision);
    }
    if r.limit > 0 {
        let _ = write!(words, " limit {}", r.limit);
    }
    for (set, word) in [
        (r.serializable, " serializable"),
        (r.keys_only, " keys only"),
        (r.count_only, " count only"),
    ] {
        if set {
            words.push_str(word);
        }
    }
    words
}

fn put(r: &pb::PutRequest) -> String {
    let lease = match r.lease {
        0 => String::new(),
        lease => format!(" with lease {lease:x}"),
    };
    format!("put {} = {}{lease}", text(&r.key), text(&r.value))
}

fn txn(r: &pb::TxnRequest) -> String {
    let compares: Vec<String> = r.compare.iter().map(compare).collect();
    let then = ops(&r.success);
    if compares.is_empty() {
        return format!("txn {{ {then} }}");
    }
    let mut words = format!("if {} then {{ {then} }}", compares.join(" and "));
    if !r.failure.is_empty() {
        let _ = write!(words, " else {{ {} }}", ops(&r.failure));
    }
    words
}

fn ops(ops: &[pb::RequestOp]) -> String {
    let ops: Vec<String> = ops
        .iter()
        .map(|op| match &op.request {
            Some(Op::RequestRange(r)) => range(r),
            Some(Op::RequestPut(r)) => put(r),
            Some(Op::RequestDeleteRange(r)) => format!("delete {}", keys(&r.key, &r.range_end)),
            Some(Op::RequestTxn(r)) => txn(r),
            None => String::new(),
        })
        .collect();
    ops.join("; ")
}

fn compare(c: &pb::Compare) -> String {
    let sign = match c.result() {
        CompareResult::Equal => "=",
        CompareResult::Greater => ">",
        CompareResult::Less => "<",
        CompareResult::NotEqual => "≠",
    };
    let target = match c.target() {
        CompareTarget::Version => "version",
        CompareTarget::Create => "create revision",
        CompareTarget::Mod => "mod revision",
        CompareTarget::Value => "value",
        CompareTarget::Lease => "lease",
    };
    let wanted = match &c.target_union {
        Some(
            TargetUnion::Version(n) | TargetUnion::CreateRevision(n) | TargetUnion::ModRevision(n),
        ) => n.to_string(),
        Some(TargetUnion::Lease(lease)) => format!("{lease:x}"),
        Some(TargetUnion::Value(value)) => text(value),
        None => "0".into(),
    };
    format!("{target} of {} {sign} {wanted}", keys(&c.key, &c.range_end))
}

fn txn_answer(a: &pb::TxnResponse) -> String {
    let answers: Vec<String> = a
        .responses
        .iter()
        .map(|answer| match &answer.response {
            Some(OpAnswer::ResponseRange(a)) => pairs(&a.kvs, a.count),
            Some(OpAnswer::ResponseDeleteRange(a)) => format!("{} deleted", a.deleted),
            Some(OpAnswer::ResponseTxn(a)) => txn_answer(a),
            Some(OpAnswer::ResponsePut(_)) => "done".into(),
            None => String::new(),
        })
        .collect();
    let branch = if a.succeeded { "then" } else { "else" };
    format!("{branch} {{ {} }}", answers.join("; "))
}

fn pairs(kvs: &[KeyValue], count: i64) -> String {
    let shown: Vec<String> = kvs.iter().take(KEYS_MAX).map(pair).collect();
    let count = usize::try_from(count).unwrap_or_default().max(kvs.len());
    if count == 0 {
        return "nothing".into();
    }
    listed(&shown, count, "key")
}

fn listed(shown: &[String], count: usize, noun: &str) -> String {
    let mut words = shown.join(", ");
    if count > shown.len() {
        let comma = if shown.is_empty() { "" } else { ", … " };
        let _ = write!(words, "{comma}{} in all", plural(count, noun));
    }
    words
}

fn pair(kv: &KeyValue) -> String {
    format!(
        "{} = {} (revision {})",
        text(&kv.key),
        text(&kv.value),
        kv.mod_revision
    )
}

fn leader_key(leader: Option<&baton_proto::v3electionpb::LeaderKey>) -> String {
    leader.map_or("nobody".into(), |leader| {
        format!("{} (revision {})", text(&leader.key), leader.rev)
    })
}

fn keys(key: &[u8], end: &[u8]) -> String {
    let from = text(key);
    if end.is_empty() {
        return from;
    }
    match (key, end) {
        ([0] | [], [0]) => "all keys".into(),
        (_, [0]) => format!("{from} and all keys after"),
        _ if prefix_end(key).as_deref() == Some(end) => format!("{from}*"),
        _ => format!("{from} … {}", text(end)),
    }
}

/// The first key after all that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|byte| *byte < 0xff)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Load, PlannedFault, Target, Workload};

    #[test]
    fn bytes_that_are_no_text_are_shown_as_numbers_and_long_ones_are_cut() {
        assert_eq!(text(b"a\xff\n\\"), "a\\xff\\n\\\\");
        let long = text(&[b'x'; 1000]);
        assert!(long.ends_with("x… (1000 bytes)"), "{long}");
    }

    #[test]
    fn a_request_is_told_with_its_keys_and_values() {
        let put = pb::PutRequest {
            key: "k".into(),
            value: "v".into(),
            lease: 255,
            ..Default::default()
        };
        assert_eq!(request(&put.clone().into()), "put k = v with lease ff");
        let txn = pb::TxnRequest {
            compare: vec![pb::Compare {
                key: "k".into(),
                target: CompareTarget::Mod.into(),
                target_union: Some(TargetUnion::ModRevision(7)),
                ..Default::default()
            }],
            success: vec![pb::RequestOp {
                request: Some(Op::RequestPut(put)),
            }],
            failure: Vec::new(),
        };
        assert_eq!(
            request(&txn.into()),
            "if mod revision of k = 7 then { put k = v with lease ff }"
        );
        let all = pb::RangeRequest {
            key: "k/".into(),
            range_end: "k0".into(),
            ..Default::default()
        };
        assert_eq!(request(&all.into()), "get k/*");
    }

    #[test]
    fn a_plan_is_told_in_a_sentence() {
        let told = plan(&Plan {
            name: "one".into(),
            seed: 1,
            members: 3,
            server: crate::plan::Server::default(),
            duration_ms: 20_000,
            workloads: vec![Load {
                workload: Workload::Register,
                clients: 4,
                pause_ms: 20,
            }],
            faults: vec![PlannedFault {
                at_ms: 3000,
                hold_ms: 5000,
                fault: Fault::Isolate {
                    target: Target::Leader,
                },
            }],
            gates: Vec::new(),
        });
        assert_eq!(
            told,
            "Three members under load for 20 s: 4 register clients; 1 fault: isolate leader at 3 s for 5 s."
        );
    }

    #[test]
    fn a_fault_is_told_with_its_target_and_parameters() {
        let told = fault(&Fault::Delay {
            ms: 100,
            jitter_ms: 50,
        });
        assert_eq!(told, "delay 100 ms, jitter 50 ms");
        assert_eq!(
            fault(&Fault::Pause {
                target: Target::Member(2)
            }),
            "pause member 2"
        );
    }
}
