//! Locks: running commands under them, and looking at who holds and who waits.

use std::collections::BTreeSet;
use std::ffi::OsString;

use baton_client::{Compare, Delete, Get, Txn, mvccpb::KeyValue};
use baton_recipes::{LockInfo, Mutex, Token, Waiter};
use clap::{Args, Subcommand};

use super::hold::{Held, Holding, Options, Words, who};
use super::text;
use crate::cli::Context;
use crate::failure::{Failure, NOT_OBTAINED, Result};
use crate::go;
use crate::output::{self, Column, json_line, table_or_columns};
use crate::signals::Signals;

/// Run a command while holding a lock
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    override_usage = "batonctl lock [options] <NAME> [-- COMMAND...]\n       batonctl lock list [PREFIX]\n       batonctl lock show <NAME>\n       batonctl lock release <NAME> --token=<TOKEN>",
    after_help = "\
Waits in line, runs the command, releases the lock, and exits with the command's exit code (128 and the number of the
signal, if one ended it). Signals are passed on to the command. What it leaves running in the background goes on without
the lock. Without a command it prints the key of the lock and holds it until it is interrupted.

The command finds in its environment:
  BATON_FENCING_TOKEN   greater than that of every earlier holder
  BATON_LOCK_NAME, BATON_LOCK_KEY (and etcdctl's ETCD_LOCK_KEY, ETCD_LOCK_REV)

If renewals of the lock fail, the command is sent SIGTERM, and SIGKILL --grace later: before anybody else can have the
lock, even if batonctl itself is stopped or killed. Only a machine or a command that is paused as a whole, and goes on
when somebody else has the lock, does not know that; nor does a daemon that left the command's process group (setsid).
`batonctl put --fence` writes nothing then: have the command do its writes with it, or compare the token where it writes
to.

Exit codes of its own: 75, the lock was not obtained (--timeout, --try, cut off while waiting); 76, it was lost and the
command was stopped; 127, the command was not found.

Examples:
  batonctl lock nightly-report -- ./report.sh
  batonctl lock deploy --timeout=1m --ttl=30 -- make deploy
  batonctl lock import --try -- sh -c 'batonctl put --fence import/last \"$(date)\"'"
)]
pub struct Lock {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args, Debug)]
struct Run {
    /// The name of the lock
    #[arg(value_name = "NAME", hide = true)]
    arguments: Vec<OsString>,
    /// Run while it is held
    #[arg(last = true, hide = true)]
    command: Vec<OsString>,
    /// Do not wait: with exit code 75 if somebody has it
    #[arg(long = "try")]
    only_try: bool,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the locks that are held, and how many wait (elections too: they are locks whose holder leads)
    #[command(override_usage = "batonctl lock list [PREFIX]")]
    List {
        /// Only names that begin with this
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Tell who holds a lock, and who waits for it, in order
    Show {
        /// The name of the lock
        name: String,
    },
    /// Take a lock away from who holds or waits with a token, as `lock show` tells it
    #[command(after_help = "\
The command of the holder is killed when its batonctl hears of it, which is after the next one may have begun: only what
is fenced is safe from the two.")]
    Release {
        /// The name of the lock
        name: String,
        /// Of the hold that is to end
        #[arg(long)]
        token: i64,
    },
}

const WORDS: Words = Words {
    what: "the lock",
    got: "acquired the lock",
    gave_up: "released the lock",
};

impl Lock {
    pub async fn run(self, context: &Context) -> Result<()> {
        match self.what {
            None => self.run.run(context).await,
            Some(What::List { prefix }) => list(context, &prefix).await,
            Some(What::Show { name }) => show(context, &name).await,
            Some(What::Release { name, token }) => {
                let Some(token) = Token::from_revision(token) else {
                    return Err(Failure::arguments(
                        "a token is a number greater than 0: see batonctl lock show",
                    ));
                };
                release(context, &name, token).await
            }
        }
    }
}

impl Run {
    async fn run(self, context: &Context) -> Result<()> {
        // A name can stand behind the separator too: one that is a subcommand's.
        let words: Vec<OsString> = self
            .arguments
            .iter()
            .chain(&self.command)
            .cloned()
            .collect();
        let [name, command @ ..] = &words[..] else {
            return Err(Failure::arguments(
                "lock takes a lock name argument and an optional command to execute",
            ));
        };
        let name = text(name)?;
        let mut signals = Signals::new()?;
        let mut holding =
            Holding::open(context, &self.options, name, WORDS, command, &mut signals).await?;
        let mutex = holding.session.mutex(name);
        let held = if self.only_try {
            try_lock(&holding, &mutex).await?
        } else {
            holding.wait(mutex.lock()).await?
        };
        let fence = held.grant().fence().clone();
        let token = fence.token.to_string();
        let environment = vec![
            ("BATON_LOCK_NAME", name.to_owned()),
            ("BATON_LOCK_KEY", fence.key.clone()),
            ("BATON_FENCING_TOKEN", token.clone()),
            ("ETCD_LOCK_KEY", fence.key),
            ("ETCD_LOCK_REV", token),
        ];
        holding.use_it(held, command, environment).await
    }
}

async fn try_lock(holding: &Holding<'_>, mutex: &Mutex) -> Result<Held> {
    let tried = mutex.try_lock().await;
    if let Ok(Some(guard)) = tried {
        holding.story.tell(format_args!(
            "{} {:?} with token {}",
            WORDS.got,
            holding.name,
            guard.token()
        ));
        return Ok(Held::Lock(guard));
    }
    let line = holding.line().await.unwrap_or_default();
    let _ = holding.session.clone().close().await;
    tried?;
    Err(Failure::new(
        NOT_OBTAINED,
        format!("the lock {:?} is not free{line}", holding.name),
    ))
}

/// Removes who holds or waits with this token.
async fn release(context: &Context, name: &str, token: Token) -> Result<()> {
    let line = LockInfo::read(&context.client, &name.into()).await?;
    let everybody = line.holder.iter().chain(&line.waiters);
    let found = everybody.into_iter().find(|waiter| waiter.token == token);
    let is_removed = match found {
        Some(waiter) => {
            let txn = Txn::new()
                .when(Compare::created_at(&waiter.key, token.revision()))
                .then(Delete::key(&waiter.key));
            context.client.txn(txn).await?.succeeded
        }
        None => false,
    };
    if !is_removed {
        return Err(Failure::error(format!(
            "nobody holds or waits for {name:?} with token {token}: look again with batonctl lock show {name}"
        )));
    }
    output::print(format!("Lock {name} released from token {token}\n"))
}

async fn time_left(context: &Context, waiter: &Waiter) -> i64 {
    let Some(session) = waiter.session else {
        return 0;
    };
    let left = context.client.time_to_live(session.lease(), false).await;
    left.map_or(-1, |left| left.ttl)
}

async fn show(context: &Context, name: &str) -> Result<()> {
    let LockInfo {
        holder, waiters, ..
    } = LockInfo::read(&context.client, &name.into()).await?;
    let mut rows = Vec::new();
    for (place, waiter) in holder.iter().chain(&waiters).enumerate() {
        rows.push(Row {
            place,
            ttl: time_left(context, waiter).await,
            waiter: waiter.clone(),
        });
    }
    if context.output.is_json() {
        return json_line(|json| {
            json.object(|json| {
                json.field("name").text(name);
                json.field("line").array(&rows, |json, row| {
                    json.object(|json| row.json(json));
                });
            });
        });
    }
    if rows.is_empty() {
        return output::print(format!("Lock {name} is free\n"));
    }
    let columns = [
        Column::Text("PLACE"),
        Column::Number("TOKEN"),
        Column::Text("SESSION"),
        Column::Number("TTL"),
        Column::Text("WHO"),
        Column::Text("VALUE"),
    ];
    let cells = rows.iter().map(Row::cells).collect();
    table_or_columns(&context.output, &columns, cells)
}

/// One in the line.
struct Row {
    place: usize,
    ttl: i64,
    waiter: Waiter,
}

impl Row {
    fn place(&self) -> String {
        match self.place {
            0 => "holds".to_owned(),
            place => format!("waits {place}"),
        }
    }

    fn cells(&self) -> Vec<String> {
        let waiter = &self.waiter;
        vec![
            self.place(),
            waiter.token.to_string(),
            waiter
                .session
                .map_or_else(|| "-".to_owned(), |session| session.to_string()),
            format!("{}s", self.ttl),
            waiter.label.clone(),
            String::from_utf8_lossy(&waiter.value).into_owned(),
        ]
    }

    fn json(&self, json: &mut output::Object<'_>) {
        let waiter = &self.waiter;
        json.field("place").plain(self.place);
        json.field("token").plain(waiter.token);
        json.field("key").text(&waiter.key);
        if let Some(session) = waiter.session {
            json.field("session").text(&session.to_string());
        }
        json.field("ttl").plain(self.ttl);
        json.text("label", &waiter.label);
        json.bytes("value", &waiter.value);
    }
}

/// A lock's name, if a key is that of one who holds or waits: the name, and the lease in hexadecimal.
fn name_of(pair: &KeyValue) -> Option<&str> {
    let key = std::str::from_utf8(&pair.key).ok()?;
    let (name, lease) = key.rsplit_once('/')?;
    let is_waiter = pair.lease != 0 && go::parse_int(lease, 16) == Ok(pair.lease);
    let is_ours = name.starts_with("baton.recipes/");
    (is_waiter && !is_ours && !name.is_empty()).then_some(name)
}

async fn list(context: &Context, prefix: &str) -> Result<()> {
    let mut locks = BTreeSet::new();
    let whole = Get::prefix(prefix);
    let (mut from, end) = (whole.request.key.clone(), whole.request.range_end.clone());
    let mut revision = 0;
    loop {
        let page = Get::range(&from, &end).revision(revision).limit(PAGE);
        let found = context.client.get(page).await?;
        revision = found
            .header
            .map_or(0, |header| header.revision)
            .max(revision);
        locks.extend(found.kvs.iter().filter_map(name_of).map(str::to_owned));
        let Some(last) = found.kvs.last().filter(|_| found.more) else {
            break;
        };
        let mut next = last.key.to_vec();
        next.push(0);
        from = next.into();
    }
    let mut rows = Vec::new();
    for name in &locks {
        let info = LockInfo::read(&context.client, &name.into()).await?;
        if let Some(holder) = &info.holder {
            rows.push((
                name.clone(),
                holder.clone(),
                time_left(context, holder).await,
                info.waiters.len(),
            ));
        }
    }
    if context.output.is_json() {
        return json_line(|json| {
            json.array(&rows, |json, (name, holder, ttl, waiting)| {
                json.object(|json| {
                    json.field("name").text(name);
                    json.field("token").plain(holder.token);
                    json.field("key").text(&holder.key);
                    json.field("ttl").plain(ttl);
                    json.text("label", &holder.label);
                    json.field("waiting").plain(waiting);
                });
            });
        });
    }
    if rows.is_empty() {
        return output::print("no lock is held\n");
    }
    let columns = [
        Column::Text("NAME"),
        Column::Number("TOKEN"),
        Column::Number("TTL"),
        Column::Number("WAITING"),
        Column::Text("HELD BY"),
    ];
    let cells = rows
        .iter()
        .map(|(name, holder, ttl, waiting)| {
            vec![
                name.clone(),
                holder.token.to_string(),
                format!("{ttl}s"),
                waiting.to_string(),
                who(holder),
            ]
        })
        .collect();
    table_or_columns(&context.output, &columns, cells)
}

/// Keys read at once.
const PAGE: i64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &'static str, lease: i64) -> KeyValue {
        KeyValue {
            key: key.into(),
            lease,
            ..Default::default()
        }
    }

    #[test]
    fn only_keys_named_after_their_lease_are_locks() {
        assert_eq!(name_of(&pair("a/b/1f", 31)), Some("a/b"));
        assert_eq!(name_of(&pair("a/-5", -5)), Some("a"));
        assert_eq!(name_of(&pair("a/1f", 0)), None);
        assert_eq!(name_of(&pair("a/1f", 30)), None);
        assert_eq!(name_of(&pair("1f", 31)), None);
        assert_eq!(name_of(&pair("baton.recipes/sessions/1f", 31)), None);
    }
}
