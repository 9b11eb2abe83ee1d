//! One module per group of commands: what it takes, and what it does with it.

pub mod alarm;
pub mod auth;
pub mod barrier;
pub mod check;
pub mod completion;
pub mod elect;
pub mod endpoint;
mod fence;
mod hold;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod member;
pub mod mirror;
pub mod queue;
pub mod txn;
pub mod version;
pub mod watch;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use bytes::Bytes;

use crate::failure::{BAD_FEATURE, Failure, Result};
use crate::go;

/// An argument's bytes, which need not be text.
fn bytes(argument: &OsStr) -> Bytes {
    Bytes::copy_from_slice(argument.as_bytes())
}

/// An argument made of bytes.
fn argument(bytes: Vec<u8>) -> OsString {
    OsString::from_vec(bytes)
}

/// An argument that has to be text.
fn text(argument: &OsStr) -> Result<&str> {
    argument.to_str().ok_or_else(|| {
        Failure::arguments(format!("{} is not UTF-8", go::quote(argument.as_bytes())))
    })
}

/// The start of a range: the wire has no empty key.
fn range_start(key: Bytes) -> Bytes {
    if key.is_empty() {
        Bytes::from_static(b"\0")
    } else {
        key
    }
}

/// Whether reads may come from what one member has applied.
fn is_serializable(consistency: &str) -> Result<bool> {
    match consistency {
        "s" => Ok(true),
        "l" => Ok(false),
        other => Err(Failure::new(
            BAD_FEATURE,
            format!("unknown consistency flag {}", go::quote(other.as_bytes())),
        )),
    }
}

/// A lease's id, in hexadecimal.
fn lease_id(argument: &OsStr) -> Result<i64> {
    go::parse_int(text(argument)?, 16).map_err(|error| {
        Failure::arguments(format!("bad lease ID arg ({error}), expecting ID in Hex"))
    })
}

/// Words of a line: plain, in single quotes, or in double quotes with escapes.
///
/// # Errors
/// If a word in double quotes has an escape that is none.
fn words(line: &str) -> std::result::Result<Vec<OsString>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        match first {
            '"' if closing_quote(rest).is_some() => {
                let (word, after) = go::unquote(rest).ok_or("invalid syntax")?;
                words.push(argument(word));
                rest = after;
            }
            '\'' if rest[1..].contains('\'') => {
                let (word, after) = rest[1..].split_once('\'').ok_or("invalid syntax")?;
                words.push(word.into());
                rest = after;
            }
            // A quote that nothing closes is no word.
            '"' | '\'' => rest = &rest[1..],
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                words.push(rest[..end].into());
                rest = &rest[end..];
            }
        }
        rest = rest.trim_start();
    }
    Ok(words)
}

/// Where the double quote that opens `text` is closed.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_falls_into_plain_and_quoted_words() {
        let words = |line| words(line).expect("words");
        assert_eq!(words(r#"put key1 "a b\n""#), ["put", "key1", "a b\n"]);
        assert_eq!(
            words("  get 'a  b'  --prefix "),
            ["get", "a  b", "--prefix"]
        );
        assert_eq!(words("k -- v\"w"), ["k", "--", "v\"w"]);
        assert!(words("  ").is_empty());
    }

    #[test]
    fn an_escape_that_is_none_is_refused() {
        assert!(words(r#"put k "\q""#).is_err());
    }
}
