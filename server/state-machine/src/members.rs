//! Who belongs to the cluster, and what each member says of itself.

use std::collections::BTreeMap;

use baton_proto::etcdserverpb::Member;
use baton_proto::log::{Membership, Publish};

use crate::{RowChange, rows};

/// Members by id. Addresses and roles come from raft's membership, names and client addresses from
/// the members themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Members {
    members: BTreeMap<u64, Member>,
    versions: BTreeMap<u64, String>,
}

impl Members {
    pub fn all(&self) -> &BTreeMap<u64, Member> {
        &self.members
    }

    /// What the member reported as its version; `None` until it did.
    pub fn version(&self, id: u64) -> Option<&str> {
        self.versions.get(&id).map(String::as_str)
    }

    /// Takes over a membership; returns the rows of the members that are new, changed or gone.
    pub fn set(&mut self, membership: &Membership) -> Vec<RowChange> {
        let mut changed = Vec::new();
        for id in self
            .members
            .keys()
            .filter(|id| !membership.nodes.contains_key(id))
        {
            changed.push(rows::removed_member(*id));
            self.versions.remove(id);
        }
        self.members
            .retain(|id, _| membership.nodes.contains_key(id));
        for (id, node) in &membership.nodes {
            let is_new = !self.members.contains_key(id);
            let member = self.members.entry(*id).or_insert_with(|| Member {
                id: *id,
                ..Default::default()
            });
            let is_learner = !membership
                .configs
                .iter()
                .any(|voters| voters.ids.contains(id));
            if is_new || member.peer_ur_ls != node.peer_urls || member.is_learner != is_learner {
                member.peer_ur_ls.clone_from(&node.peer_urls);
                member.is_learner = is_learner;
                changed.push(self.row(*id));
            }
        }
        changed
    }

    /// Takes over what a member says of itself. Nothing changes for one that is no member (any more).
    pub fn publish(&mut self, publish: &Publish) -> Option<RowChange> {
        let member = self.members.get_mut(&publish.member_id)?;
        let same_version = self.versions.get(&publish.member_id) == Some(&publish.version);
        if same_version && member.name == publish.name && member.client_ur_ls == publish.client_urls
        {
            return None;
        }
        member.name.clone_from(&publish.name);
        member.client_ur_ls.clone_from(&publish.client_urls);
        self.versions
            .insert(publish.member_id, publish.version.clone());
        Some(self.row(publish.member_id))
    }

    pub fn restore(&mut self, member: Member, version: String) {
        if !version.is_empty() {
            self.versions.insert(member.id, version);
        }
        self.members.insert(member.id, member);
    }

    fn row(&self, id: u64) -> RowChange {
        rows::member(&self.members[&id], self.version(id).unwrap_or_default())
    }
}
