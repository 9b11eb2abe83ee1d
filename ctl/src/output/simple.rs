//! For people, and for the scripts that read what is for people.

use baton_proto::authpb::Permission;
use baton_proto::authpb::permission::Type;
use baton_proto::mvccpb::KeyValue;
use baton_proto::{authpb, etcdserverpb as pb};
use pb::response_op::Response;

use super::{Answer, put, put_line, table};
use crate::go;

pub(super) fn write(out: &mut Vec<u8>, answer: &Answer<'_>, hex: bool, value_only: bool) {
    let pairs = Pairs { hex, value_only };
    match answer {
        Answer::Done(_, text) | Answer::MembersChanged(_, text) => put_line!(out, "{text}"),
        Answer::Get(answer) => pairs.got(out, answer),
        Answer::Put(answer) => pairs.put(out, answer),
        Answer::Delete(answer) => pairs.deleted(out, answer),
        Answer::Txn(answer) => pairs.txn(out, answer),
        Answer::Watch(answer) => pairs.events(out, answer),
        Answer::Grant(answer) => put_line!(
            out,
            "lease {:016x} granted with TTL({}s)",
            answer.id,
            answer.ttl
        ),
        Answer::KeepAlive(answer) => put_line!(
            out,
            "lease {:016x} keepalived with TTL({})",
            answer.id,
            answer.ttl
        ),
        Answer::TimeToLive(answer, keys) => time_to_live(out, answer, *keys),
        Answer::Leases(answer) => {
            put_line!(out, "found {} leases", answer.leases.len());
            for lease in &answer.leases {
                put_line!(out, "{:016x}", lease.id);
            }
        }
        Answer::MemberAdd(answer, name) => member_add(out, answer, name),
        Answer::MemberList(answer) => rows(out, table::members(answer).1),
        Answer::Health(answer) => {
            // Those that are not healthy go to standard error, with the failure of the command.
            for health in answer.iter().filter(|health| health.error.is_none()) {
                let took = go::duration(health.took);
                let endpoint = &health.endpoint;
                put_line!(
                    out,
                    "{endpoint} is healthy: successfully committed proposal: took = {took}"
                );
            }
        }
        Answer::Status(answer) => rows(out, table::status(answer).1),
        Answer::HashKv(answer) => rows(out, table::hash_kv(answer).1),
        Answer::Alarm(answer) => {
            for alarm in &answer.alarms {
                let kind = alarm_name(alarm);
                put_line!(out, "memberID:{} alarm:{kind} ", alarm.member_id);
            }
        }
        Answer::Downgrade(step, answer) => put_line!(
            out,
            "Downgrade {step} success, cluster version {}",
            answer.version
        ),
        Answer::Role(name, answer) => role(out, name, answer),
        Answer::RoleList(answer) => rows(out, answer.roles.iter().map(|name| vec![name.clone()])),
        Answer::User(name, answer) => {
            put_line!(out, "User: {name}");
            put!(out, "Roles:");
            for role in &answer.roles {
                put!(out, " {role}");
            }
            put_line!(out);
        }
        Answer::UserList(answer) => rows(out, answer.users.iter().map(|name| vec![name.clone()])),
        Answer::AuthStatus(answer) => {
            put_line!(out, "Authentication Status: {}", answer.enabled);
            put_line!(out, "AuthRevision: {}", answer.auth_revision);
        }
    }
}

/// The name of an alarm's kind, or its number where it has none.
pub(super) fn alarm_name(alarm: &pb::AlarmMember) -> String {
    match pb::AlarmType::try_from(alarm.alarm) {
        Ok(kind) => kind.as_str_name().to_owned(),
        Err(_) => alarm.alarm.to_string(),
    }
}

fn rows(out: &mut Vec<u8>, rows: impl IntoIterator<Item = Vec<String>>) {
    for row in rows {
        put_line!(out, "{}", row.join(", "));
    }
}

struct Pairs {
    hex: bool,
    value_only: bool,
}

impl Pairs {
    fn pair(&self, out: &mut Vec<u8>, pair: &KeyValue) {
        if !self.value_only {
            self.bytes(out, &pair.key);
        }
        self.bytes(out, &pair.value);
    }

    fn bytes(&self, out: &mut Vec<u8>, bytes: &[u8]) {
        if self.hex {
            for byte in bytes {
                put!(out, "\\x{byte:02x}");
            }
        } else {
            out.extend_from_slice(bytes);
        }
        put_line!(out);
    }

    fn got(&self, out: &mut Vec<u8>, answer: &pb::RangeResponse) {
        for pair in &answer.kvs {
            self.pair(out, pair);
        }
    }

    fn put(&self, out: &mut Vec<u8>, answer: &pb::PutResponse) {
        put_line!(out, "OK");
        if let Some(pair) = &answer.prev_kv {
            self.pair(out, pair);
        }
    }

    fn deleted(&self, out: &mut Vec<u8>, answer: &pb::DeleteRangeResponse) {
        put_line!(out, "{}", answer.deleted);
        for pair in &answer.prev_kvs {
            self.pair(out, pair);
        }
    }

    fn txn(&self, out: &mut Vec<u8>, answer: &pb::TxnResponse) {
        let word = if answer.succeeded {
            "SUCCESS"
        } else {
            "FAILURE"
        };
        put_line!(out, "{word}");
        for response in &answer.responses {
            put_line!(out);
            match &response.response {
                Some(Response::ResponseRange(answer)) => self.got(out, answer),
                Some(Response::ResponsePut(answer)) => self.put(out, answer),
                Some(Response::ResponseDeleteRange(answer)) => self.deleted(out, answer),
                Some(Response::ResponseTxn(answer)) => self.txn(out, answer),
                None => put_line!(out, "an answer this batonctl does not know"),
            }
        }
    }

    fn events(&self, out: &mut Vec<u8>, answer: &pb::WatchResponse) {
        for event in &answer.events {
            put_line!(out, "{}", event.r#type().as_str_name());
            if let Some(pair) = &event.prev_kv {
                self.pair(out, pair);
            }
            if let Some(pair) = &event.kv {
                self.pair(out, pair);
            }
        }
    }
}

fn time_to_live(out: &mut Vec<u8>, answer: &pb::LeaseTimeToLiveResponse, keys: bool) {
    let id = answer.id;
    if answer.granted_ttl == 0 && answer.ttl == -1 {
        put_line!(out, "lease {id:016x} already expired");
        return;
    }
    let (granted, left) = (answer.granted_ttl, answer.ttl);
    put!(
        out,
        "lease {id:016x} granted with TTL({granted}s), remaining({left}s)"
    );
    if keys {
        put!(out, ", attached keys([");
        out.extend_from_slice(&answer.keys.join(&b' '));
        put!(out, "])");
    }
    put_line!(out);
}

fn member_add(out: &mut Vec<u8>, answer: &pb::MemberAddResponse, name: &str) {
    let added = answer.member.clone().unwrap_or_default();
    let cluster = answer.header.unwrap_or_default().cluster_id;
    let role = if added.is_learner { " as learner" } else { "" };
    put_line!(
        out,
        "Member {:16x} added{role} to cluster {cluster:16x}",
        added.id
    );
    let members: Vec<String> = answer
        .members
        .iter()
        .flat_map(|member| {
            let name = if member.id == added.id {
                name
            } else {
                &member.name
            };
            member
                .peer_ur_ls
                .iter()
                .map(move |url| format!("{name}={url}"))
        })
        .collect();
    let quoted = |text: &str| go::quote(text.as_bytes());
    put_line!(out);
    put_line!(out, "ETCD_NAME={}", quoted(name));
    put_line!(out, "ETCD_INITIAL_CLUSTER={}", quoted(&members.join(",")));
    put_line!(
        out,
        "ETCD_INITIAL_ADVERTISE_PEER_URLS={}",
        quoted(&added.peer_ur_ls.join(","))
    );
    put_line!(out, "ETCD_INITIAL_CLUSTER_STATE=\"existing\"");
}

fn role(out: &mut Vec<u8>, name: &str, answer: &pb::AuthRoleGetResponse) {
    put_line!(out, "Role {name}");
    // The role root permits everything without saying so.
    let all = [authpb::Permission {
        perm_type: Type::Readwrite.into(),
        key: bytes::Bytes::new(),
        range_end: bytes::Bytes::from_static(b"\0"),
    }];
    let permissions = if name == "root" && answer.perm.is_empty() {
        &all[..]
    } else {
        &answer.perm
    };
    for (title, kind) in [("KV Read:", Type::Read), ("KV Write:", Type::Write)] {
        put_line!(out, "{title}");
        for permission in permissions {
            if permission.perm_type() == kind || permission.perm_type() == Type::Readwrite {
                range(out, permission);
            }
        }
    }
}

fn range(out: &mut Vec<u8>, permission: &Permission) {
    let (key, end) = (&permission.key, &permission.range_end);
    out.push(b'\t');
    if end.is_empty() {
        out.extend_from_slice(key);
        put_line!(out);
        return;
    }
    out.push(b'[');
    out.extend_from_slice(key);
    out.extend_from_slice(b", ");
    if end.as_ref() == b"\0" {
        out.extend_from_slice(b"<open ended>");
    } else {
        out.extend_from_slice(end);
        out.push(b')');
    }
    if !key.is_empty() && baton_client::prefix_end(key) == *end {
        out.extend_from_slice(b" (prefix ");
        out.extend_from_slice(key);
        out.push(b')');
    }
    put_line!(out);
}
