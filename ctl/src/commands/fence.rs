//! Writes that are done only while a lock is held.

use baton_client::{Compare, Op, Txn};
use baton_proto::etcdserverpb as pb;
use clap::Args;
use pb::response_op::Response;

use crate::cli::Context;
use crate::failure::{Failure, LOST, Result};
use crate::go;

/// The condition that a lock is still held by who it was given to.
#[derive(Args, Debug)]
pub struct Fence {
    /// Write only while a lock is held: the one of the command this runs in, or KEY@TOKEN as its environment has them
    #[arg(
        long,
        value_name = "KEY@TOKEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
    )]
    fence: Option<String>,
}

impl Fence {
    /// The flag is there.
    pub fn is_given(&self) -> bool {
        self.fence.is_some()
    }

    /// `None` without the flag.
    pub fn compare(&self) -> Result<Option<Compare>> {
        let Some(fence) = &self.fence else {
            return Ok(None);
        };
        let (key, token) = if fence.is_empty() {
            from_environment()?
        } else {
            let (key, token) = fence.rsplit_once('@').ok_or_else(|| {
                Failure::arguments(format!("--fence={fence}: expected KEY@TOKEN"))
            })?;
            (key.to_owned(), token.to_owned())
        };
        match go::parse_int(&token, 10) {
            Ok(token @ 1..) => Ok(Some(Compare::created_at(key, token))),
            _ => Err(Failure::arguments(format!(
                "{token:?} is no fencing token: it is a number greater than 0"
            ))),
        }
    }
}

fn from_environment() -> Result<(String, String)> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    variable("BATON_LOCK_KEY")
        .zip(variable("BATON_FENCING_TOKEN"))
        .ok_or_else(|| {
            Failure::arguments(
                "--fence without a value is for commands run by `batonctl lock` or `batonctl elect`: BATON_LOCK_KEY and \
                 BATON_FENCING_TOKEN are not in the environment. Give it as --fence=KEY@TOKEN",
            )
        })
}

/// Does an operation if the lock is held; gives its answer and the header of the whole.
pub async fn fenced(
    context: &Context,
    held: Compare,
    op: impl Into<Op>,
) -> Result<(Option<pb::ResponseHeader>, Response)> {
    let key = held.compare.key.clone();
    let mut answer = context.client.txn(Txn::new().when(held).then(op)).await?;
    if !answer.succeeded {
        return Err(Failure::new(
            LOST,
            format!(
                "the lock with the key {} and this token is not held any more: nothing was done",
                go::quote(&key)
            ),
        ));
    }
    let response = answer.responses.pop().and_then(|it| it.response);
    Ok((answer.header, response.ok_or_else(unexpected)?))
}

/// The server's answer makes no sense.
pub fn unexpected() -> Failure {
    Failure::error("the server answered another operation than the one that was asked")
}
