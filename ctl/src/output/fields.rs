//! A line per field.

use baton_proto::authpb::permission::Type;
use baton_proto::etcdserverpb as pb;
use baton_proto::mvccpb::KeyValue;
use pb::response_op::Response;

use super::simple::alarm_name;
use super::{Answer, put, put_line};
use crate::go;

pub(super) fn write(out: &mut Vec<u8>, answer: &Answer<'_>, hex: bool) {
    Fields { out, hex }.answer(answer);
}

struct Fields<'a> {
    out: &'a mut Vec<u8>,
    hex: bool,
}

impl Fields<'_> {
    fn answer(&mut self, answer: &Answer<'_>) {
        match answer {
            Answer::Done(header, _) => self.header(*header),
            Answer::Get(answer) => self.got(answer),
            Answer::Put(answer) => self.put(answer),
            Answer::Delete(answer) => self.deleted(answer),
            Answer::Txn(answer) => self.txn(answer),
            Answer::Watch(answer) => {
                self.header(answer.header.as_ref());
                for event in &answer.events {
                    self.plain("Type", event.r#type().as_str_name());
                    if let Some(pair) = &event.prev_kv {
                        self.pair("Prev", pair);
                    }
                    if let Some(pair) = &event.kv {
                        self.pair("", pair);
                    }
                }
            }
            Answer::Grant(answer) => {
                self.header(answer.header.as_ref());
                self.lease("ID", answer.id);
                self.plain("TTL", answer.ttl);
            }
            Answer::KeepAlive(answer) => {
                self.header(answer.header.as_ref());
                self.lease("ID", answer.id);
                self.plain("TTL", answer.ttl);
            }
            Answer::TimeToLive(answer, _) => {
                self.header(answer.header.as_ref());
                self.lease("ID", answer.id);
                self.plain("TTL", answer.ttl);
                self.plain("GrantedTTL", answer.granted_ttl);
                for key in &answer.keys {
                    self.quoted("Key", key);
                }
            }
            Answer::Leases(answer) => {
                self.header(answer.header.as_ref());
                for lease in &answer.leases {
                    self.lease("ID", lease.id);
                }
            }
            Answer::MemberAdd(answer, _) => {
                self.header(answer.header.as_ref());
                self.members(&answer.members);
            }
            Answer::MembersChanged(answer, _) | Answer::MemberList(answer) => {
                self.header(answer.header.as_ref());
                self.members(&answer.members);
            }
            Answer::Health(answer) => {
                for health in *answer {
                    self.quoted("Endpoint", &health.endpoint);
                    self.plain("Health", health.error.is_none());
                    self.plain("Took", go::duration(health.took));
                    self.plain("Error", health.error.as_deref().unwrap_or_default());
                    put_line!(self.out);
                }
            }
            Answer::Status(answer) => {
                for (endpoint, status) in *answer {
                    self.status(endpoint, status);
                }
            }
            Answer::HashKv(answer) => {
                for (endpoint, hash) in *answer {
                    self.header(hash.header.as_ref());
                    self.quoted("Endpoint", endpoint);
                    self.plain("Hash", hash.hash);
                    self.plain("HashRevision", hash.hash_revision);
                    put_line!(self.out);
                }
            }
            Answer::Alarm(answer) => {
                self.header(answer.header.as_ref());
                for alarm in &answer.alarms {
                    self.id("MemberID", alarm.member_id);
                    self.plain("AlarmType", alarm_name(alarm));
                    put_line!(self.out);
                }
            }
            Answer::Downgrade(_, answer) => {
                self.header(answer.header.as_ref());
                self.quoted("Version", &answer.version);
            }
            Answer::Role(_, answer) => {
                self.header(answer.header.as_ref());
                for permission in &answer.perm {
                    let kind = Type::try_from(permission.perm_type).unwrap_or_default();
                    // Two spaces, as there.
                    put_line!(self.out, "\"PermType\" :  {}", kind.as_str_name());
                    self.quoted("Key", &permission.key);
                    self.quoted("RangeEnd", &permission.range_end);
                }
            }
            Answer::RoleList(answer) => self.names(answer.header.as_ref(), "Roles", &answer.roles),
            Answer::User(_, answer) => self.names(answer.header.as_ref(), "Roles", &answer.roles),
            Answer::UserList(answer) => self.names(answer.header.as_ref(), "Users", &answer.users),
            Answer::AuthStatus(answer) => {
                self.header(answer.header.as_ref());
                self.plain("Enabled", answer.enabled);
                self.plain("AuthRevision", answer.auth_revision);
            }
        }
    }

    fn plain(&mut self, name: &str, value: impl std::fmt::Display) {
        put_line!(self.out, "\"{name}\" : {value}");
    }

    fn quoted(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.plain(name, go::quote(value.as_ref()));
    }

    fn id(&mut self, name: &str, id: u64) {
        if self.hex {
            self.plain(name, format_args!("{id:x}"));
        } else {
            self.plain(name, id);
        }
    }

    fn lease(&mut self, name: &str, id: i64) {
        if self.hex {
            self.plain(name, format_args!("{id:016x}"));
        } else {
            self.plain(name, id);
        }
    }

    fn header(&mut self, header: Option<&pb::ResponseHeader>) {
        let header = header.copied().unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        // Answers about the cluster have none.
        if header.revision > 0 {
            self.plain("Revision", header.revision);
        }
        self.plain("RaftTerm", header.raft_term);
    }

    fn pair(&mut self, prefix: &str, pair: &KeyValue) {
        self.quoted(&format!("{prefix}Key"), &pair.key);
        self.plain(&format!("{prefix}CreateRevision"), pair.create_revision);
        self.plain(&format!("{prefix}ModRevision"), pair.mod_revision);
        self.plain(&format!("{prefix}Version"), pair.version);
        self.quoted(&format!("{prefix}Value"), &pair.value);
        self.lease(&format!("{prefix}Lease"), pair.lease);
    }

    fn got(&mut self, answer: &pb::RangeResponse) {
        self.header(answer.header.as_ref());
        for pair in &answer.kvs {
            self.pair("", pair);
        }
        self.plain("More", answer.more);
        self.plain("Count", answer.count);
    }

    fn put(&mut self, answer: &pb::PutResponse) {
        self.header(answer.header.as_ref());
        if let Some(pair) = &answer.prev_kv {
            self.pair("Prev", pair);
        }
    }

    fn deleted(&mut self, answer: &pb::DeleteRangeResponse) {
        self.header(answer.header.as_ref());
        self.plain("Deleted", answer.deleted);
        for pair in &answer.prev_kvs {
            self.pair("Prev", pair);
        }
    }

    fn txn(&mut self, answer: &pb::TxnResponse) {
        self.header(answer.header.as_ref());
        self.plain("Succeeded", answer.succeeded);
        for response in &answer.responses {
            match &response.response {
                Some(Response::ResponseRange(answer)) => self.got(answer),
                Some(Response::ResponsePut(answer)) => self.put(answer),
                Some(Response::ResponseDeleteRange(answer)) => self.deleted(answer),
                Some(Response::ResponseTxn(answer)) => self.txn(answer),
                None => self.quoted("Unknown", "<nil>"),
            }
        }
    }

    fn members(&mut self, members: &[pb::Member]) {
        for member in members {
            self.id("ID", member.id);
            self.quoted("Name", &member.name);
            for url in &member.peer_ur_ls {
                self.quoted("PeerURL", url);
            }
            for url in &member.client_ur_ls {
                self.quoted("ClientURL", url);
            }
            self.plain("IsLearner", member.is_learner);
            put_line!(self.out);
        }
    }

    fn status(&mut self, endpoint: &str, status: &pb::StatusResponse) {
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        self.header(status.header.as_ref());
        self.quoted("Version", &status.version);
        self.quoted("StorageVersion", &status.storage_version);
        self.plain("DBSize", status.db_size);
        self.plain("DBSizeInUse", status.db_size_in_use);
        self.plain("DBSizeQuota", status.db_size_quota);
        self.plain("Leader", status.leader);
        self.plain("IsLearner", status.is_learner);
        self.plain("RaftIndex", status.raft_index);
        self.plain("RaftTerm", status.raft_term);
        self.plain("RaftAppliedIndex", status.raft_applied_index);
        self.plain("Errors", format_args!("[{}]", status.errors.join(" ")));
        self.quoted("Endpoint", endpoint);
        self.quoted("DowngradeTargetVersion", &downgrade.target_version);
        self.plain("DowngradeEnabled", downgrade.enabled);
        put_line!(self.out);
    }

    fn names(&mut self, header: Option<&pb::ResponseHeader>, title: &str, names: &[String]) {
        self.header(header);
        put!(self.out, "\"{title}\" :");
        for name in names {
            put!(self.out, " {}", go::quote(name.as_bytes()));
        }
        put_line!(self.out);
    }
}
