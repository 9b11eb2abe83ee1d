//! Commands on keys.

use std::ffi::OsString;
use std::io::Read;
use std::time::Duration;

use baton_client::prefix_end;
use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use clap::Args;
use pb::range_request::{SortOrder, SortTarget};
use pb::response_op::Response;

use super::fence::{Fence, fenced, unexpected};
use super::{bytes, is_serializable, range_start, text};
use crate::cli::Context;
use crate::failure::{BAD_FEATURE, Failure, Result};
use crate::go;
use crate::output::{self, Answer, Format, complain};

/// Write a pair
#[derive(Args, Debug)]
#[command(
    override_usage = "batonctl put [options] <KEY> <VALUE>   (VALUE can come from standard input)",
    after_help = "\
A value that begins with '-' needs '--' before it: batonctl put <KEY> -- <VALUE>

Examples:
  batonctl put greeting hello
  batonctl put --lease=32695410dcc0ca06 worker/1 alive
  batonctl put config < config.json
  batonctl put --fence result 42            in a command run by `batonctl lock`: only while the lock is held"
)]
pub struct Put {
    /// The key, and its value
    #[arg(value_name = "KEY [VALUE]", hide = true)]
    arguments: Vec<OsString>,
    /// Id of the lease (in hexadecimal) the pair ends with
    #[arg(long, default_value = "0", hide_default_value = true)]
    lease: String,
    /// Print the pair as it was before
    #[arg(long)]
    prev_kv: bool,
    /// Keep the value as it is
    #[arg(long)]
    ignore_value: bool,
    /// Keep the lease as it is
    #[arg(long)]
    ignore_lease: bool,
    #[command(flatten)]
    pub(super) fence: Fence,
}

impl Put {
    /// Whether the value has to come from standard input.
    pub(super) fn lacks_value(&self) -> bool {
        self.arguments.len() < 2 && !self.ignore_value
    }

    pub(super) fn request(&self) -> Result<pb::PutRequest> {
        let needs = || {
            Failure::arguments("put command needs 1 argument and input from stdin or 2 arguments")
        };
        let key = self.arguments.first().ok_or_else(needs)?;
        if self.ignore_value && self.arguments.len() > 1 {
            return Err(Failure::arguments(
                "put command needs only 1 argument when 'ignore-value' is set",
            ));
        }
        let value = match self.arguments.get(1) {
            Some(value) => bytes(value),
            None if self.ignore_value => Bytes::new(),
            None => {
                let mut value = Vec::new();
                let read = std::io::stdin().read_to_end(&mut value);
                if read.is_err() || value.is_empty() {
                    return Err(needs());
                }
                value.into()
            }
        };
        let lease = go::parse_int(&self.lease, 16).map_err(|error| {
            Failure::arguments(format!("bad lease ID ({error}), expecting ID in Hex"))
        })?;
        Ok(pb::PutRequest {
            key: bytes(key),
            value,
            lease,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        })
    }

    pub async fn run(self, context: &Context) -> Result<()> {
        let request = self.request()?;
        context.flags.limits().check_request(&request)?;
        let put = baton_client::Put { request };
        let answer = match self.fence.compare()? {
            None => context.client.put(put).await?,
            Some(held) => match fenced(context, held, put).await? {
                (header, Response::ResponsePut(answer)) => pb::PutResponse { header, ..answer },
                _ => return Err(unexpected()),
            },
        };
        context.output.print(&Answer::Put(&answer))
    }
}

/// Read a key or a range of keys
#[derive(Args, Debug)]
#[command(
    override_usage = "batonctl get [options] <KEY> [RANGE_END]",
    after_help = "\
Examples:
  batonctl get greeting
  batonctl get --prefix config/ --keys-only
  batonctl get --rev=42 greeting                  as it was at revision 42
  batonctl get '' --prefix -w fields --count-only     how many keys there are"
)]
pub struct Get {
    /// The key, and the end of a range of keys, which is not part of it
    #[arg(value_name = "KEY [RANGE_END]", hide = true)]
    arguments: Vec<OsString>,
    /// Linearizable (l), or serializable (s): what one member has, perhaps behind
    #[arg(long, default_value = "l")]
    consistency: String,
    /// ASCEND or DESCEND
    #[arg(long, default_value = "", hide_default_value = true)]
    order: String,
    /// CREATE, KEY, MODIFY, VALUE or VERSION
    #[arg(long, default_value = "", hide_default_value = true)]
    sort_by: String,
    /// At most so many pairs (0: all)
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = go::int_flag, allow_negative_numbers = true)]
    limit: i64,
    /// All keys that begin with KEY
    #[arg(long)]
    prefix: bool,
    /// All keys from KEY on, in the order of bytes
    #[arg(long)]
    from_key: bool,
    /// As it was at this revision
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = go::int_flag, allow_negative_numbers = true)]
    rev: i64,
    /// Only keys
    #[arg(long)]
    keys_only: bool,
    /// Only how many there are (with -w fields or -w json)
    #[arg(long)]
    count_only: bool,
    /// Only values (with -w simple)
    #[arg(long)]
    print_value_only: bool,
    /// Only pairs created at this revision or later
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = go::int_flag, allow_negative_numbers = true)]
    min_create_rev: i64,
    /// Only pairs created at this revision or before
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = go::int_flag, allow_negative_numbers = true)]
    max_create_rev: i64,
    /// Only pairs changed last at this revision or later
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = go::int_flag, allow_negative_numbers = true)]
    min_mod_rev: i64,
    /// Only pairs changed last at this revision or before
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = go::int_flag, allow_negative_numbers = true)]
    max_mod_rev: i64,
    /// Have the answer sent in parts, for a result that is too large for one
    #[arg(long)]
    stream: bool,
}

const BOTH: &str = "`--prefix` and `--from-key` cannot be set at the same time, choose one";
const TOO_MANY: &str =
    "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";

impl Get {
    pub(super) fn request(&self) -> Result<pb::RangeRequest> {
        let Some(key) = self.arguments.first() else {
            return Err(Failure::arguments(
                "get command needs one argument as key and an optional argument as range_end",
            ));
        };
        if self.prefix && self.from_key {
            return Err(Failure::arguments(BOTH));
        }
        if self.keys_only && self.count_only {
            return Err(Failure::arguments(
                "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
            ));
        }
        let serializable = is_serializable(&self.consistency)?;
        if (self.prefix || self.from_key) && self.arguments.len() > 1 {
            return Err(Failure::arguments(TOO_MANY));
        }
        let sort_order = match self.order.to_uppercase().as_str() {
            "" => SortOrder::None,
            "ASCEND" => SortOrder::Ascend,
            "DESCEND" => SortOrder::Descend,
            _ => {
                let text = format!("bad sort order {}", self.order);
                return Err(Failure::new(BAD_FEATURE, text));
            }
        };
        let sort_target = match self.sort_by.to_uppercase().as_str() {
            "" | "KEY" => SortTarget::Key,
            "CREATE" => SortTarget::Create,
            "MODIFY" => SortTarget::Mod,
            "VALUE" => SortTarget::Value,
            "VERSION" => SortTarget::Version,
            _ => {
                let text = format!("bad sort target {}", self.sort_by);
                return Err(Failure::new(BAD_FEATURE, text));
            }
        };
        // Keys come in ascending order as they are.
        let sort_order = if sort_target == SortTarget::Key && sort_order == SortOrder::Ascend {
            SortOrder::None
        } else {
            sort_order
        };
        least_and_most(
            "MinCreateRev",
            self.min_create_rev,
            "MaxCreateRev",
            self.max_create_rev,
        )?;
        least_and_most("MinModRev", self.min_mod_rev, "MaxModRev", self.max_mod_rev)?;
        let (key, range_end) = range(
            bytes(key),
            self.arguments.get(1).map(|end| bytes(end)),
            self.prefix,
            self.from_key,
        );
        Ok(pb::RangeRequest {
            key,
            range_end,
            limit: self.limit,
            revision: self.rev.max(0),
            sort_order: sort_order.into(),
            sort_target: sort_target.into(),
            serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            min_mod_revision: self.min_mod_rev.max(0),
            max_mod_revision: self.max_mod_rev.max(0),
            min_create_revision: self.min_create_rev.max(0),
            max_create_revision: self.max_create_rev.max(0),
        })
    }

    pub async fn run(self, context: &Context) -> Result<()> {
        let request = self.request()?;
        let format = context.output.format();
        if self.count_only && !matches!(format, Format::Fields | Format::Json) {
            return Err(Failure::arguments(
                "--count-only is only for `--write-out=fields` and `--write-out=json`",
            ));
        }
        if self.print_value_only && format != Format::Simple {
            return Err(Failure::arguments(
                "print-value-only is only for `--write-out=simple`",
            ));
        }
        let get = baton_client::Get { request };
        let answer = if self.stream {
            in_parts(context, get).await?
        } else {
            context.client.get(get).await?
        };
        context.flags.limits().check_answer(&answer)?;
        let output = if self.print_value_only {
            context.output.value_only()
        } else {
            context.output
        };
        output.print(&Answer::Get(&answer))
    }
}

/// Reads a range in parts, and puts them together.
async fn in_parts(context: &Context, get: baton_client::Get) -> Result<pb::RangeResponse> {
    let mut parts = context.client.range_stream(get).await?;
    let mut whole = pb::RangeResponse::default();
    while let Some(part) = parts.next().await? {
        whole.kvs.extend(part.kvs);
        if part.header.is_some() {
            (whole.header, whole.more, whole.count) = (part.header, part.more, part.count);
        }
    }
    Ok(whole)
}

fn least_and_most(least_name: &str, least: i64, most_name: &str, most: i64) -> Result<()> {
    if most > 0 && least > most {
        let text = format!("get{least_name}(={least}) > get{most_name}(={most})");
        return Err(Failure::new(BAD_FEATURE, text));
    }
    Ok(())
}

/// The key and the range's end on the wire.
pub(super) fn range(
    key: Bytes,
    end: Option<Bytes>,
    prefix: bool,
    from_key: bool,
) -> (Bytes, Bytes) {
    let everything_after = Bytes::from_static(b"\0");
    if from_key || prefix && key.is_empty() {
        (range_start(key), everything_after)
    } else if prefix {
        let end = prefix_end(&key);
        (key, end)
    } else {
        (key, end.unwrap_or_default())
    }
}

/// Remove a key or a range of keys
#[derive(Args, Debug)]
#[command(
    override_usage = "batonctl del [options] <KEY> [RANGE_END]",
    after_help = "\
Examples:
  batonctl del greeting
  batonctl del --prefix config/
  batonctl del --range a c            all keys from a up to c, which stays"
)]
pub struct Del {
    /// The key, and the end of a range of keys, which is not part of it
    #[arg(value_name = "KEY [RANGE_END]", hide = true)]
    arguments: Vec<OsString>,
    /// All keys that begin with KEY
    #[arg(long)]
    prefix: bool,
    /// Print the pairs as they were
    #[arg(long)]
    prev_kv: bool,
    /// All keys from KEY on, in the order of bytes
    #[arg(long)]
    from_key: bool,
    /// Delete a range without a moment to think twice
    #[arg(long)]
    range: bool,
    #[command(flatten)]
    pub(super) fence: Fence,
}

impl Del {
    pub(super) fn request(&self) -> Result<pb::DeleteRangeRequest> {
        let (key, end) = match &self.arguments[..] {
            [key] => (key, None),
            [key, end] => (key, Some(bytes(end))),
            _ => {
                return Err(Failure::arguments(
                    "del command needs one argument as key and an optional argument as range_end",
                ));
            }
        };
        if self.prefix && self.from_key {
            return Err(Failure::arguments(BOTH));
        }
        if (self.prefix || self.from_key) && end.is_some() {
            return Err(Failure::arguments(TOO_MANY));
        }
        let (key, range_end) = range(bytes(key), end, self.prefix, self.from_key);
        Ok(pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.prev_kv,
        })
    }

    pub async fn run(self, context: &Context) -> Result<()> {
        let request = self.request()?;
        if let [key, end] = &self.arguments[..]
            && !self.range
        {
            let quoted = |key: &OsString| go::quote(&bytes(key));
            complain(format_args!(
                "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next 2 seconds \
                 to cancel. You can provide `--range` flag to avoid the delay.",
                quoted(key),
                quoted(end)
            ));
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let delete = baton_client::Delete { request };
        let answer = match self.fence.compare()? {
            None => context.client.delete(delete).await?,
            Some(held) => match fenced(context, held, delete).await? {
                (header, Response::ResponseDeleteRange(answer)) => {
                    pb::DeleteRangeResponse { header, ..answer }
                }
                _ => return Err(unexpected()),
            },
        };
        context.output.print(&Answer::Delete(&answer))
    }
}

/// Forget the history before a revision
#[derive(Args, Debug)]
#[command(
    override_usage = "batonctl compaction [options] <REVISION>",
    after_help = "\
Examples:
  batonctl compaction 1000
  batonctl compaction --physical 1000       come back when the space is free"
)]
pub struct Compaction {
    /// The oldest revision that stays readable
    #[arg(value_name = "REVISION", hide = true)]
    arguments: Vec<OsString>,
    /// Wait until the old revisions are removed from the store
    #[arg(long)]
    physical: bool,
}

impl Compaction {
    pub async fn run(self, context: &Context) -> Result<()> {
        let [revision] = &self.arguments[..] else {
            return Err(Failure::arguments("compaction command needs 1 argument"));
        };
        let revision = go::parse_int(text(revision)?, 10).map_err(Failure::error)?;
        context.client.compact(revision, self.physical).await?;
        // In whatever format, as etcdctl does.
        output::print(format!("compacted revision {revision}\n"))
    }
}
