//! The config file: YAML with flag names as keys.

use std::collections::BTreeMap;

use serde_json::Value;

use super::flags;
use super::value::Kind;

/// Reads the file into values as they would be written on a command line.
///
/// Durations are whole nanoseconds in the file; TLS settings stand in a section each for clients
/// and for peers.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    // An empty file, or one of comments only, is a valid one.
    let top: Option<BTreeMap<String, Value>> =
        serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let mut entries = Vec::new();
    for (key, value) in top.unwrap_or_default() {
        match key.as_str() {
            "client-transport-security" => section(&key, value, client_flag, &mut entries)?,
            "peer-transport-security" => section(&key, value, peer_flag, &mut entries)?,
            _ => entries.extend(entry(&key, &value)?),
        }
    }
    Ok(entries)
}

fn section(
    name: &str,
    value: Value,
    flag_of: fn(&str) -> String,
    entries: &mut Vec<(String, String)>,
) -> Result<(), String> {
    match value {
        Value::Null => Ok(()),
        Value::Object(settings) => {
            for (key, value) in settings {
                entries.extend(entry(&flag_of(&key), &value)?);
            }
            Ok(())
        }
        _ => Err(format!("{name} is not a section")),
    }
}

fn client_flag(key: &str) -> String {
    match key {
        "allowed-hostname" => "client-cert-allowed-hostname".to_owned(),
        "allowed-cn" => "client-cert-allowed-cn".to_owned(),
        "crl-file" => "client-crl-file".to_owned(),
        _ => key.to_owned(),
    }
}

fn peer_flag(key: &str) -> String {
    match key {
        "allowed-cn" => "peer-cert-allowed-cn".to_owned(),
        "allowed-hostname" => "peer-cert-allowed-hostname".to_owned(),
        _ => format!("peer-{key}"),
    }
}

/// `None` for a key without a value.
fn entry(key: &str, value: &Value) -> Result<Option<(String, String)>, String> {
    let is_duration = flags::find(key).is_some_and(|flag| flag.kind == Kind::Duration);
    let text = match value {
        Value::Null => return Ok(None),
        Value::Number(ns) if is_duration => format!("{ns}ns"),
        Value::Array(items) => items
            .iter()
            .map(scalar)
            .collect::<Option<Vec<_>>>()
            .map(|texts| texts.join(","))
            .ok_or_else(|| format!("{key} is not a list of values"))?,
        // A key that is no flag is ignored, whatever its shape.
        Value::Object(_) if flags::find(key).is_none() => String::new(),
        _ => scalar(value).ok_or_else(|| format!("{key} is not a value"))?,
    };
    // As with the environment, an empty value is none.
    if text.is_empty() && flags::find(key).is_some() {
        return Ok(None);
    }
    Ok(Some((key.to_owned(), text)))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
