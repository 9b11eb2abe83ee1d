//! One line of JSON, as Go's `encoding/json` writes the structs of etcd's client: numbers are numbers, bytes are
//! base64, zero fields are left out, and fields stand in the order of the struct.

use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::{Event, KeyValue};
use pb::response_op::Response;

use super::{Answer, put, put_line};
use crate::go;

pub(super) fn write(out: &mut Vec<u8>, answer: &Answer<'_>, hex: bool) {
    let json = Value(out);
    match answer {
        Answer::Done(header, _) => json.object(|json| header_field(json, *header)),
        Answer::Get(answer) => json.object(|json| got(json, answer)),
        Answer::Put(answer) => json.object(|json| put_answer(json, answer)),
        Answer::Delete(answer) => json.object(|json| deleted(json, answer)),
        Answer::Txn(answer) => json.object(|json| txn(json, answer)),
        Answer::Watch(answer) => json.object(|json| watch(json, answer)),
        Answer::Grant(answer) => json.object(|json| {
            header(json, &answer.header.unwrap_or_default());
            json.field("ID").plain(answer.id);
            json.field("TTL").plain(answer.ttl);
            json.field("Error").text(&answer.error);
        }),
        Answer::KeepAlive(answer) => json.object(|json| {
            header(json, &answer.header.unwrap_or_default());
            json.field("ID").plain(answer.id);
            json.field("TTL").plain(answer.ttl);
        }),
        Answer::TimeToLive(answer, _) => json.object(|json| {
            header(json, &answer.header.unwrap_or_default());
            json.field("id").plain(answer.id);
            json.field("ttl").plain(answer.ttl);
            json.field("granted-ttl").plain(answer.granted_ttl);
            if answer.keys.is_empty() {
                json.field("keys").plain("null");
            } else {
                json.field("keys")
                    .array(&answer.keys, |json, key| json.base64(key));
            }
        }),
        Answer::Leases(answer) => json.object(|json| {
            header(json, &answer.header.unwrap_or_default());
            json.field("leases").array(&answer.leases, |json, lease| {
                json.object(|json| json.field("id").plain(lease.id));
            });
        }),
        Answer::MemberAdd(answer, _) => json.object(|json| {
            member_header(json, answer.header.as_ref(), hex);
            if let Some(added) = &answer.member {
                json.field("member").object(|json| member(json, added, hex));
            }
            members(json, &answer.members, hex);
        }),
        Answer::MembersChanged(answer, _) | Answer::MemberList(answer) => json.object(|json| {
            member_header(json, answer.header.as_ref(), hex);
            members(json, &answer.members, hex);
        }),
        Answer::Health(answer) => json.array(answer, |json, health| {
            json.object(|json| {
                json.field("endpoint").text(&health.endpoint);
                json.field("health").plain(health.error.is_none());
                json.field("took").text(&go::duration(health.took));
                json.text("error", health.error.as_deref().unwrap_or_default());
            });
        }),
        Answer::Status(answer) => json.array(answer, |json, (endpoint, answer)| {
            json.object(|json| {
                json.field("Endpoint").text(endpoint);
                json.field("Status").object(|json| status(json, answer));
            });
        }),
        Answer::HashKv(answer) => json.array(answer, |json, (endpoint, answer)| {
            json.object(|json| {
                json.field("Endpoint").text(endpoint);
                json.field("HashKV").object(|json| {
                    header_field(json, answer.header.as_ref());
                    json.number("hash", i128::from(answer.hash));
                    json.number("compact_revision", answer.compact_revision.into());
                    json.number("hash_revision", answer.hash_revision.into());
                });
            });
        }),
        Answer::Alarm(answer) => json.object(|json| {
            header_field(json, answer.header.as_ref());
            json.list("alarms", &answer.alarms, |json, alarm| {
                json.object(|json| {
                    json.number("memberID", alarm.member_id.into());
                    json.number("alarm", alarm.alarm.into());
                });
            });
        }),
        Answer::Downgrade(_, answer) => json.object(|json| {
            header_field(json, answer.header.as_ref());
            json.text("version", &answer.version);
        }),
        Answer::Role(_, answer) => json.object(|json| {
            header_field(json, answer.header.as_ref());
            json.list("perm", &answer.perm, |json, permission| {
                json.object(|json| {
                    json.number("permType", permission.perm_type.into());
                    json.bytes("key", &permission.key);
                    json.bytes("range_end", &permission.range_end);
                });
            });
        }),
        Answer::RoleList(answer) => json.object(|json| {
            header_field(json, answer.header.as_ref());
            json.list("roles", &answer.roles, |json, name| json.text(name));
        }),
        Answer::User(_, answer) => json.object(|json| {
            header_field(json, answer.header.as_ref());
            json.list("roles", &answer.roles, |json, name| json.text(name));
        }),
        Answer::UserList(answer) => json.object(|json| {
            header_field(json, answer.header.as_ref());
            json.list("users", &answer.users, |json, name| json.text(name));
        }),
        Answer::AuthStatus(answer) => json.object(|json| {
            header_field(json, answer.header.as_ref());
            json.flag("enabled", answer.enabled);
            json.number("authRevision", answer.auth_revision.into());
        }),
    }
    put_line!(out);
}

fn header_field(json: &mut Object<'_>, answer: Option<&pb::ResponseHeader>) {
    if let Some(answer) = answer {
        json.field("header").object(|json| header(json, answer));
    }
}

fn header(json: &mut Object<'_>, header: &pb::ResponseHeader) {
    json.number("cluster_id", header.cluster_id.into());
    json.number("member_id", header.member_id.into());
    json.number("revision", header.revision.into());
    json.number("raft_term", header.raft_term.into());
}

fn pair(json: &mut Object<'_>, pair: &KeyValue) {
    json.bytes("key", &pair.key);
    json.number("create_revision", pair.create_revision.into());
    json.number("mod_revision", pair.mod_revision.into());
    json.number("version", pair.version.into());
    json.bytes("value", &pair.value);
    json.number("lease", pair.lease.into());
}

fn got(json: &mut Object<'_>, answer: &pb::RangeResponse) {
    header_field(json, answer.header.as_ref());
    json.list("kvs", &answer.kvs, |json, kv| {
        json.object(|json| pair(json, kv))
    });
    json.flag("more", answer.more);
    json.number("count", answer.count.into());
}

fn put_answer(json: &mut Object<'_>, answer: &pb::PutResponse) {
    header_field(json, answer.header.as_ref());
    if let Some(kv) = &answer.prev_kv {
        json.field("prev_kv").object(|json| pair(json, kv));
    }
}

fn deleted(json: &mut Object<'_>, answer: &pb::DeleteRangeResponse) {
    header_field(json, answer.header.as_ref());
    json.number("deleted", answer.deleted.into());
    json.list("prev_kvs", &answer.prev_kvs, |json, kv| {
        json.object(|json| pair(json, kv));
    });
}

fn txn(json: &mut Object<'_>, answer: &pb::TxnResponse) {
    header_field(json, answer.header.as_ref());
    json.flag("succeeded", answer.succeeded);
    json.list("responses", &answer.responses, |json, response| {
        json.object(|json| {
            json.field("Response")
                .object(|json| match &response.response {
                    Some(Response::ResponseRange(answer)) => {
                        json.field("response_range")
                            .object(|json| got(json, answer));
                    }
                    Some(Response::ResponsePut(answer)) => {
                        json.field("response_put")
                            .object(|json| put_answer(json, answer));
                    }
                    Some(Response::ResponseDeleteRange(answer)) => {
                        json.field("response_delete_range")
                            .object(|json| deleted(json, answer));
                    }
                    Some(Response::ResponseTxn(answer)) => {
                        json.field("response_txn").object(|json| txn(json, answer));
                    }
                    None => {}
                });
        });
    });
}

fn watch(json: &mut Object<'_>, answer: &pb::WatchResponse) {
    json.field("Header")
        .object(|json| header(json, &answer.header.unwrap_or_default()));
    json.field("Events").array(&answer.events, |json, answer| {
        json.object(|json| event(json, answer));
    });
    json.field("CompactRevision").plain(answer.compact_revision);
    json.field("Canceled").plain(answer.canceled);
    json.field("Created").plain(answer.created);
}

fn event(json: &mut Object<'_>, event: &Event) {
    json.number("type", event.r#type.into());
    if let Some(kv) = &event.kv {
        json.field("kv").object(|json| pair(json, kv));
    }
    if let Some(kv) = &event.prev_kv {
        json.field("prev_kv").object(|json| pair(json, kv));
    }
}

fn status(json: &mut Object<'_>, status: &pb::StatusResponse) {
    header_field(json, status.header.as_ref());
    json.text("version", &status.version);
    json.number("dbSize", status.db_size.into());
    json.number("leader", status.leader.into());
    json.number("raftIndex", status.raft_index.into());
    json.number("raftTerm", status.raft_term.into());
    json.number("raftAppliedIndex", status.raft_applied_index.into());
    json.list("errors", &status.errors, |json, error| json.text(error));
    json.number("dbSizeInUse", status.db_size_in_use.into());
    json.flag("isLearner", status.is_learner);
    json.text("storageVersion", &status.storage_version);
    json.number("dbSizeQuota", status.db_size_quota.into());
    if let Some(downgrade) = &status.downgrade_info {
        json.field("downgradeInfo").object(|json| {
            json.flag("enabled", downgrade.enabled);
            json.text("targetVersion", &downgrade.target_version);
        });
    }
}

/// With `--hex` the ids of members are words, and their zeros are written.
fn member_header(json: &mut Object<'_>, answer: Option<&pb::ResponseHeader>, hex: bool) {
    if !hex {
        return header_field(json, answer);
    }
    let header = answer.copied().unwrap_or_default();
    json.field("header").object(|json| {
        json.field("cluster_id")
            .text(&format!("{:x}", header.cluster_id));
        json.field("member_id")
            .text(&format!("{:x}", header.member_id));
        json.number("revision", header.revision.into());
        json.number("raft_term", header.raft_term.into());
    });
}

fn members(json: &mut Object<'_>, list: &[pb::Member], hex: bool) {
    json.list("members", list, |json, answer| {
        json.object(|json| member(json, answer, hex));
    });
}

fn member(json: &mut Object<'_>, member: &pb::Member, hex: bool) {
    if hex {
        json.field("ID").text(&format!("{:x}", member.id));
    } else {
        json.number("ID", member.id.into());
    }
    json.text("name", &member.name);
    json.list("peerURLs", &member.peer_ur_ls, |json, url| json.text(url));
    json.list("clientURLs", &member.client_ur_ls, |json, url| {
        json.text(url);
    });
    json.flag("isLearner", member.is_learner);
}

/// Where a value is to be written.
pub struct Value<'a>(pub(super) &'a mut Vec<u8>);

/// An object being written.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl Value<'_> {
    /// As it is displayed: a number, a truth value, `null`.
    pub fn plain(self, value: impl std::fmt::Display) {
        put!(self.0, "{value}");
    }

    /// A string.
    pub fn text(self, text: &str) {
        self.0.push(b'"');
        for c in text.chars() {
            match c {
                '"' => self.0.extend_from_slice(b"\\\""),
                '\\' => self.0.extend_from_slice(b"\\\\"),
                '\n' => self.0.extend_from_slice(b"\\n"),
                '\r' => self.0.extend_from_slice(b"\\r"),
                '\t' => self.0.extend_from_slice(b"\\t"),
                // Go escapes what could end a script element as well.
                '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    put!(self.0, "\\u{:04x}", u32::from(c));
                }
                c => put!(self.0, "{c}"),
            }
        }
        self.0.push(b'"');
    }

    /// Bytes, as a string.
    pub fn base64(self, bytes: &[u8]) {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        self.0.push(b'"');
        for chunk in bytes.chunks(3) {
            let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for digit in 0..4 {
                if digit <= chunk.len() {
                    let index = bits >> (18 - 6 * digit) & 63;
                    self.0.push(DIGITS[index as usize]);
                } else {
                    self.0.push(b'=');
                }
            }
        }
        self.0.push(b'"');
    }

    /// An object with the fields that `write` adds.
    pub fn object(self, write: impl FnOnce(&mut Object<'_>)) {
        self.0.push(b'{');
        write(&mut Object {
            out: self.0,
            empty: true,
        });
        self.0.push(b'}');
    }

    /// An array.
    pub fn array<T>(self, items: &[T], write: impl Fn(Value<'_>, &T)) {
        self.0.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.0.push(b',');
            }
            write(Value(self.0), item);
        }
        self.0.push(b']');
    }
}

impl Object<'_> {
    /// A field that is never left out.
    pub fn field(&mut self, name: &str) -> Value<'_> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        put!(self.out, "\"{name}\":");
        Value(self.out)
    }

    /// A number, unless it is zero.
    pub fn number(&mut self, name: &str, number: i128) {
        if number != 0 {
            self.field(name).plain(number);
        }
    }

    /// A truth value, if it holds.
    fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.field(name).plain(true);
        }
    }

    /// A string, unless it is empty.
    pub fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.field(name).text(text);
        }
    }

    /// Bytes, unless there are none.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.field(name).base64(bytes);
        }
    }

    /// An array, unless it is empty.
    pub fn list<T>(&mut self, name: &str, items: &[T], write: impl Fn(Value<'_>, &T)) {
        if !items.is_empty() {
            self.field(name).array(items, write);
        }
    }
}
