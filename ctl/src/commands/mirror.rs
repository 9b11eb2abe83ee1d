//! Copying keys to another cluster, and going on as they change.

use std::ffi::OsString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use baton_client::{Client, Delete, Get, Op, Put, Txn, Watch, WatchError};
use baton_proto::mvccpb::event::EventType;
use bytes::Bytes;
use clap::Args;

use super::{bytes, text};
use crate::cli::Context;
use crate::failure::{Failure, Result};
use crate::go;
use crate::output;

/// Copy keys to another cluster, and go on as they change
#[derive(Args, Debug)]
#[command(
    override_usage = "batonctl make-mirror [options] <DESTINATION>",
    after_help = "\
Runs until it fails or is interrupted; prints every 30 s how many keys were written and deleted at the destination.
Leases are not copied. To go on where a mirror stopped, begin with the revision behind the last one it copied: --rev.

Example:
  batonctl make-mirror --prefix config/ --dest-prefix backup/config/ 10.0.0.9:2379"
)]
pub struct MakeMirror {
    #[arg(hide = true)]
    arguments: Vec<OsString>,
    /// Only keys that begin with this
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: OsString,
    /// Do not copy what is there: begin with what happened at this revision
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = go::int_flag)]
    rev: i64,
    /// At most so many operations in a transaction at the destination
    #[arg(long, default_value = "128", value_parser = go::size_flag)]
    max_txn_ops: usize,
    /// What keys begin with at the destination, instead of --prefix
    #[arg(long, default_value = "", hide_default_value = true)]
    dest_prefix: OsString,
    /// Take --prefix off at the destination
    #[arg(long)]
    no_dest_prefix: bool,
    /// NAME:PASSWORD at the destination
    #[arg(long)]
    dest_user: Option<String>,
    /// The password of --dest-user, which then is the name alone
    #[arg(long)]
    dest_password: Option<String>,
}

impl MakeMirror {
    pub async fn run(self, context: &Context) -> Result<()> {
        let [destination] = &self.arguments[..] else {
            return Err(Failure::arguments(
                "make-mirror takes one destination argument",
            ));
        };
        if self.no_dest_prefix && !self.dest_prefix.is_empty() {
            return Err(Failure::arguments(
                "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
            ));
        }
        let mirror = Mirror {
            from: context.client.clone(),
            to: context.flags.client_elsewhere(
                text(destination)?,
                self.dest_user.as_deref(),
                self.dest_password.as_deref(),
            )?,
            prefix: bytes(&self.prefix),
            // Keys keep their names where nothing else is said.
            dest_prefix: if self.dest_prefix.is_empty() && !self.no_dest_prefix {
                bytes(&self.prefix)
            } else {
                bytes(&self.dest_prefix)
            },
            operations_max: self.max_txn_ops.max(1),
            copied: AtomicU64::new(0),
        };
        tokio::select! {
            ended = mirror.run(self.rev) => ended,
            failed = mirror.tell() => failed,
        }
    }
}

struct Mirror {
    from: Client,
    to: Client,
    prefix: Bytes,
    dest_prefix: Bytes,
    operations_max: usize,
    copied: AtomicU64,
}

/// Pairs read at once.
const PAGE: i64 = 1000;
/// Between two counts.
const TELL: Duration = Duration::from_secs(30);

impl Mirror {
    async fn tell(&self) -> Result<()> {
        loop {
            tokio::time::sleep(TELL).await;
            output::print(format!("{}\n", self.copied.load(Ordering::Relaxed)))?;
        }
    }

    async fn run(&self, first: i64) -> Result<()> {
        let next = if first > 0 {
            first
        } else {
            self.copy_all().await? + 1
        };
        let watch = Watch::prefix(&self.prefix).from(next).progress();
        let mut watcher = self.from.watch(watch).await.map_err(why)?;
        loop {
            let told = watcher.next().await.map_err(why)?;
            let mut operations = Vec::new();
            let mut revision = 0;
            for event in &told.events {
                let pair = event.kv.clone().unwrap_or_default();
                let is_next = pair.mod_revision != revision;
                if is_next || operations.len() >= self.operations_max {
                    self.write(&mut operations).await?;
                }
                revision = pair.mod_revision;
                let key = self.renamed(&pair.key);
                operations.push(match event.r#type() {
                    EventType::Put => Op::from(Put::new(key, &pair.value)),
                    EventType::Delete => Op::from(Delete::key(key)),
                });
            }
            self.write(&mut operations).await?;
        }
    }

    /// Copies all there is as of one revision, and returns it.
    async fn copy_all(&self) -> Result<i64> {
        let whole = Get::prefix(&self.prefix);
        let (mut from, end) = (whole.request.key.clone(), whole.request.range_end.clone());
        let mut revision = 0;
        loop {
            let page = Get::range(&from, &end).revision(revision).limit(PAGE);
            let found = self.from.get(page).await?;
            if revision == 0 {
                revision = found.header.map_or(0, |header| header.revision);
            }
            for pairs in found.kvs.chunks(self.operations_max) {
                let mut operations = pairs
                    .iter()
                    .map(|pair| Op::from(Put::new(self.renamed(&pair.key), &pair.value)))
                    .collect();
                self.write(&mut operations).await?;
            }
            let Some(last) = found.kvs.last().filter(|_| found.more) else {
                return Ok(revision);
            };
            let mut next = last.key.to_vec();
            next.push(0);
            from = next.into();
        }
    }

    fn renamed(&self, key: &[u8]) -> Vec<u8> {
        let rest = key.strip_prefix(self.prefix.as_ref()).unwrap_or(key);
        [self.dest_prefix.as_ref(), rest].concat()
    }

    /// What was written twice is as if it was written once: the last state counts.
    async fn write(&self, operations: &mut Vec<Op>) -> Result<()> {
        if operations.is_empty() {
            return Ok(());
        }
        let count = operations.len() as u64;
        let txn = operations.drain(..).fold(Txn::new(), Txn::then);
        self.to.txn(txn).await?;
        self.copied.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }
}

fn why(error: WatchError) -> Failure {
    match error {
        WatchError::Compacted { .. } => {
            Failure::error("etcdserver: mvcc: required revision has been compacted")
        }
        WatchError::Failed(error) => error.into(),
        error => Failure::error(error.to_string()),
    }
}
