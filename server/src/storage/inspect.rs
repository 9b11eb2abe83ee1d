//! Looks at a data directory from outside, for a human: who it belongs to, what the log and the state
//! hold, and what is damaged. Changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::Path;

use baton_proto::log;
use baton_state_machine::Table;
use bytes::Bytes;
use prost::Message;
use serde_json::{Value, json};

use super::data_dir::read_identity;
use super::fjall_store::{self, FjallStore, StateError};
use super::log::{LogEntry, LogId, Payload, survey};
use super::{RealDisk, Snapshot, StateStore};
use crate::apply_loop::{APPLIED_KEY, MEMBERSHIP_KEY};
use crate::state_hash::{self, STATE_HASH_KEY};

/// Rows read at a time.
const CHUNK: usize = 4096;

/// What `data_dir` holds. Where something cannot be read, an `error` stands in its place.
///
/// The state is read from a copy in the directory for temporary files, because opening it changes
/// it. A directory in use can be looked at; the state may then be caught in the middle of a write.
pub fn inspect(data_dir: &Path, entries: bool) -> Value {
    json!({
        "data_dir": data_dir.display().to_string(),
        "identity": identity(data_dir),
        "log": inspect_log(data_dir, entries),
        "state": inspect_state(&data_dir.join("member"))
            .unwrap_or_else(|error| json!({ "error": error.to_string() })),
    })
}

fn identity(data_dir: &Path) -> Value {
    match read_identity(data_dir) {
        Ok(Some(identity)) => json!({
            "cluster_id": format!("{:x}", identity.cluster_id),
            "member_id": format!("{:x}", identity.member_id),
        }),
        Ok(None) => Value::Null,
        Err(error) => json!({ "error": error.to_string() }),
    }
}

fn inspect_log(data_dir: &Path, entries: bool) -> Value {
    let found = survey(&RealDisk::new(data_dir.join("member/log")));
    let state = found.state;
    let mut value = json!({
        "vote": state.vote.map(|vote| json!({
            "term": vote.term,
            "member_id": format!("{:x}", vote.member_id),
            "committed": vote.committed,
        })),
        "committed": state.committed.map(position),
        "purged": state.purged.map(position),
        "last": state.last.map(position),
        "first_index": found.entries.first().map(|entry| entry.id.index),
        "entry_count": found.entries.len(),
        "segments": found.segments.iter().map(|(file, bytes)| {
            json!({ "file": file, "bytes": bytes })
        }).collect::<Vec<_>>(),
        "error": found.error.map(|error| error.to_string()),
    });
    if entries {
        value["entries"] = found.entries.iter().map(entry).collect();
    }
    value
}

fn position(id: LogId) -> Value {
    json!({ "term": id.term, "index": id.index })
}

fn entry(entry: &LogEntry) -> Value {
    let content = match &entry.payload {
        Payload::Blank => json!("blank"),
        Payload::Command(bytes) => match log::Command::decode(bytes.clone()) {
            Ok(command) => json!({ "command": command }),
            Err(error) => json!({ "error": error.to_string() }),
        },
        Payload::Membership(bytes) => match log::Membership::decode(bytes.clone()) {
            Ok(membership) => json!({ "membership": membership_json(&membership) }),
            Err(error) => json!({ "error": error.to_string() }),
        },
    };
    json!({
        "term": entry.id.term,
        "index": entry.id.index,
        "bytes": entry.payload.len(),
        "content": content,
    })
}

fn membership_json(membership: &log::Membership) -> Value {
    let hex = |id: &u64| format!("{id:x}");
    let nodes: BTreeMap<_, _> = (membership.nodes.iter())
        .map(|(id, node)| (hex(id), &node.peer_urls))
        .collect();
    json!({
        "voters": membership.configs.iter().map(|voters| {
            voters.ids.iter().map(hex).collect::<Vec<_>>()
        }).collect::<Vec<_>>(),
        "members": nodes,
    })
}

fn inspect_state(member_dir: &Path) -> io::Result<Value> {
    let Some(name) = fjall_store::current(member_dir)? else {
        return Ok(Value::Null);
    };
    let copy = TempDir::new()?;
    copy_tree(&member_dir.join(&name), &copy.0.join(&name))?;
    fs::write(copy.0.join("CURRENT"), &name)?;
    let store = FjallStore::open(&copy.0).map_err(|error| match error {
        // The copy is gone before anybody reads this.
        StateError::Damaged { what, .. } => {
            let path = member_dir.join(&name);
            io::Error::other(StateError::Damaged { path, what })
        }
        error => io::Error::other(error),
    })?;
    let view = store.snapshot();
    let row = |key| view.get(Table::Meta, key);
    let applied = row(APPLIED_KEY)?.map(log::LogId::decode).transpose()?;
    let membership = row(MEMBERSHIP_KEY)?
        .map(log::StoredMembership::decode)
        .transpose()?
        .and_then(|stored| stored.membership);
    let hash = match applied {
        Some(applied) => state_hash::known(row(STATE_HASH_KEY)?, applied)?,
        None => None,
    };
    let (rev_rows, rev_bytes, newest) = count(&*view, Table::Rev)?;
    let (meta_rows, meta_bytes, _) = count(&*view, Table::Meta)?;
    // The first eight bytes of a revision key are the revision.
    let newest = newest.and_then(|key| key.first_chunk().copied());
    Ok(json!({
        "directory": name,
        "applied": applied.map(|id| json!({ "term": id.term, "index": id.index })),
        "state_hash": hash.map(|hash| format!("{:016x}", hash.hash)),
        "membership": membership.as_ref().map(membership_json),
        "newest_revision_row": newest.map(u64::from_be_bytes),
        "revision_rows": { "count": rev_rows, "bytes": rev_bytes },
        "meta_rows": { "count": meta_rows, "bytes": meta_bytes },
    }))
}

/// Number of rows, their bytes, and the last key.
fn count(view: &dyn Snapshot, table: Table) -> io::Result<(usize, usize, Option<Bytes>)> {
    let (mut rows, mut bytes, mut last) = (0, 0, None::<Bytes>);
    loop {
        let from = last
            .as_ref()
            .map_or(Bound::Unbounded, |key| Bound::Excluded(&key[..]));
        let chunk = view.scan(table, from, CHUNK)?;
        rows += chunk.len();
        bytes += chunk.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
        match chunk.into_iter().next_back() {
            Some((key, _)) => last = Some(key),
            None => return Ok((rows, bytes, last)),
        }
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// A directory that is removed with the value, and that nobody else can read.
struct TempDir(std::path::PathBuf);

impl TempDir {
    #[allow(clippy::disallowed_methods)] // Not the core: a name nobody else has.
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("batond-inspect-{}", uuid::Uuid::new_v4());
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "cannot remove a temporary copy");
        }
    }
}
