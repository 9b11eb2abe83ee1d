//! Transactions, typed in as three lists of lines.

use std::ffi::OsString;
use std::io::BufRead;

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use clap::{Args, Parser};
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;

use super::{kv, words};
use crate::cli::Context;
use crate::failure::{BAD_ARGUMENTS, Failure, INVALID_INPUT, Result};
use crate::flags;
use crate::go;
use crate::output::{self, Answer};

/// Do one of two lists of operations, under one revision
#[derive(Args, Debug)]
#[command(
    override_usage = "batonctl txn [options]",
    after_help = "\
Reads three lists from standard input, each of which ends with an empty line:
  1. conditions: TARGET(\"KEY\") OP \"VALUE\", where TARGET is create, mod, ver, value or lease, and OP is =, !=, < or >
  2. operations if all conditions hold: get, put and del as on the command line
  3. operations if one does not

Example: change a key only while holding a lock (see `batonctl lock --help`)
  batonctl txn <<'END'
  create(\"report/32695410dcc0ca06\") = \"17\"

  put result 42

  get report --prefix

  END"
)]
pub struct Txn {
    #[arg(hide = true)]
    arguments: Vec<OsString>,
    /// Ask for each list
    #[arg(short, long)]
    interactive: bool,
}

impl Txn {
    pub async fn run(self, context: &Context) -> Result<()> {
        if !self.arguments.is_empty() {
            return Err(Failure::arguments("txn command does not accept argument"));
        }
        let mut input = std::io::stdin().lock();
        let prompt = |text: &str| {
            if self.interactive {
                output::print(format!("{text}\n"))
            } else {
                Ok(())
            }
        };
        prompt("compares:")?;
        let compare = read_list(&mut input, compare)?;
        prompt("success requests (get, put, del):")?;
        let success = read_list(&mut input, operation)?;
        prompt("failure requests (get, put, del):")?;
        let failure = read_list(&mut input, operation)?;
        drop(input);
        let request = pb::TxnRequest {
            compare,
            success,
            failure,
        };
        context.flags.limits().check_request(&request)?;
        let answer = context.client.txn(baton_client::Txn { request }).await?;
        context.flags.limits().check_answer(&answer)?;
        context.output.print(&Answer::Txn(&answer))
    }
}

/// Lines up to an empty one.
fn read_list<T>(input: &mut impl BufRead, parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    let mut list = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line);
        read.map_err(|error| Failure::new(INVALID_INPUT, error.to_string()))?;
        // The last list has to end as well: half a transaction must not be carried out.
        if line.last() != Some(&b'\n') {
            return Err(Failure::new(INVALID_INPUT, "EOF"));
        }
        let line = String::from_utf8(line)
            .map_err(|_| Failure::new(INVALID_INPUT, "a line is not UTF-8"))?;
        let line = line.trim();
        if line.is_empty() {
            return Ok(list);
        }
        list.push(parse(line)?);
    }
}

fn invalid(text: String) -> Failure {
    Failure::new(INVALID_INPUT, text)
}

/// Reads `mod("key") > "0"`.
fn compare(line: &str) -> Result<pb::Compare> {
    let Some((target, rest)) = line.split_once('(') else {
        return Err(invalid(format!("malformed comparison: {line}")));
    };
    let mut parts = Parts::default();
    let Some(()) = parts.read(rest) else {
        let quoted = |bytes: &[u8]| go::quote(bytes);
        return Err(invalid(format!(
            "malformed comparison: {line}; got {target}({}) {} {}",
            quoted(&parts.key),
            parts.operator,
            quoted(&parts.value)
        )));
    };
    let result = match parts.operator.as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        "<" => CompareResult::Less,
        ">" => CompareResult::Greater,
        operator => {
            return Err(invalid(format!(
                "malformed comparison: {line} (unknown operator {operator}: take =, !=, < or >)"
            )));
        }
    };
    let number = |base| {
        let text = String::from_utf8_lossy(&parts.value);
        go::parse_int(&text, base)
            .map_err(|_| invalid(format!("invalid txn compare request: {line}")))
    };
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (
            CompareTarget::Create,
            TargetUnion::CreateRevision(number(10)?),
        ),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => {
            let value = Bytes::from(parts.value.clone());
            (CompareTarget::Value, TargetUnion::Value(value))
        }
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => {
            return Err(invalid(format!(
                "malformed comparison: {line} (unknown target {target})"
            )));
        }
    };
    Ok(pb::Compare {
        result: result.into(),
        target: target.into(),
        key: Bytes::from(parts.key),
        range_end: Bytes::new(),
        target_union: Some(union),
    })
}

/// What could be read of a comparison behind its `(`.
#[derive(Default)]
struct Parts {
    key: Vec<u8>,
    operator: String,
    value: Vec<u8>,
}

impl Parts {
    /// `None` where it stopped making sense.
    fn read(&mut self, text: &str) -> Option<()> {
        let (key, rest) = go::unquote(text.trim_start())?;
        self.key = key;
        let rest = rest.strip_prefix(')')?;
        let operator = rest.trim_start();
        if operator.len() == rest.len() {
            return None;
        }
        let rest = operator;
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        rest[..end].clone_into(&mut self.operator);
        let (value, _) = go::unquote(rest[end..].trim_start())?;
        self.value = value;
        Some(())
    }
}

/// One operation, as on the command line.
#[derive(Debug, Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_help_subcommand = true
)]
enum Operation {
    Put(kv::Put),
    Get(kv::Get),
    Del(kv::Del),
}

fn operation(line: &str) -> Result<pb::RequestOp> {
    let words = words(line).map_err(|error| invalid(format!("{error}: {line}")))?;
    if words.len() < 2 {
        return Err(invalid(format!("invalid txn compare request: {line}")));
    }
    let operation = flags::parse_as_in_go::<Operation>(words).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.strip_prefix("error: ").unwrap_or(&reason);
        let reason = reason.lines().next().unwrap_or_default();
        invalid(format!("invalid txn request: {line} ({reason})"))
    })?;
    if let Operation::Put(kv::Put { fence, .. }) | Operation::Del(kv::Del { fence, .. }) =
        &operation
        && fence.is_given()
    {
        return Err(invalid(format!(
            "{line}: --fence has no place in a transaction, which says it as a condition: create(\"KEY\") = \"TOKEN\""
        )));
    }
    let request = match operation {
        // There is no standard input left for a value.
        Operation::Put(put) if put.lacks_value() => {
            return Err(Failure::new(
                BAD_ARGUMENTS,
                "put command needs 1 argument and input from stdin or 2 arguments",
            ));
        }
        Operation::Put(put) => Request::RequestPut(put.request()?),
        Operation::Get(get) => Request::RequestRange(get.request()?),
        Operation::Del(del) => Request::RequestDeleteRange(del.request()?),
    };
    Ok(pb::RequestOp {
        request: Some(request),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> String {
        compare(line).expect_err("no comparison").text
    }

    #[test]
    fn comparisons_are_refused_in_etcdctls_words() {
        assert_eq!(refusal("foo"), "malformed comparison: foo");
        assert_eq!(
            refusal(r#"mod("k" > "0""#),
            r#"malformed comparison: mod("k" > "0"; got mod("k")  """#
        );
        assert_eq!(
            refusal(r#"mod("k") > "x""#),
            r#"invalid txn compare request: mod("k") > "x""#
        );
        assert_eq!(
            refusal(r#"zzz("k") > "0""#),
            r#"malformed comparison: zzz("k") > "0" (unknown target zzz)"#
        );
        assert!(refusal(r#"mod("k") >= "1""#).contains("unknown operator >="));
    }

    #[test]
    fn a_lease_is_compared_in_hexadecimal() {
        let compare = compare(r#"lease("k") = "1f""#).expect("a comparison");
        assert_eq!(compare.target_union, Some(TargetUnion::Lease(31)));
    }

    #[test]
    fn operations_take_the_flags_of_the_command_line() {
        let op = operation(r#"get "a b" --prefix --limit=3"#).expect("an operation");
        let Some(Request::RequestRange(range)) = op.request else {
            panic!("not a read: {op:?}");
        };
        assert_eq!(
            (&range.key[..], &range.range_end[..], range.limit),
            (&b"a b"[..], &b"a c"[..], 3)
        );
        assert!(operation("put k v --foo").is_err());
        assert!(operation("foo k").is_err());
        assert!(operation("put k").is_err());
        assert!(operation("put k v --fence=a/1@2").is_err());
    }
}
