//! The data directory: whose it is, who uses it, and what is in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use baton_state_machine::{RowChange, Table};
use batond::storage::log::{Driver, Log, LogOptions, Vote};
use batond::storage::{DataDir, DataDirError, Identity, StateStore, inspect};
use bytes::Bytes;

use crate::helpers::{append, entry, wait};

const ME: Identity = Identity {
    cluster_id: 0xc1,
    member_id: 0xa1,
};

#[test]
fn a_second_process_is_refused_and_told_the_directory() {
    let dir = tempfile::tempdir().expect("tempdir");
    let first = DataDir::open(dir.path()).expect("open");
    let error = DataDir::open(dir.path()).expect_err("it is in use");
    assert!(matches!(error, DataDirError::Locked(_)));
    assert!(
        error
            .to_string()
            .contains(&dir.path().display().to_string()),
        "{error}"
    );
    drop(first);
    DataDir::open(dir.path()).expect("it is free again");
}

#[test]
fn nobody_else_can_look_into_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("data");
    DataDir::open(&path).expect("open");
    for path in [path.clone(), path.join("member"), path.join("member/log")] {
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }
}

#[test]
fn it_belongs_to_one_member_of_one_cluster() {
    let dir = tempfile::tempdir().expect("tempdir");
    DataDir::open(dir.path())
        .expect("open")
        .claim(ME)
        .expect("claim");
    let data_dir = DataDir::open(dir.path()).expect("open");
    assert_eq!(data_dir.identity(), Some(ME));
    data_dir.check(ME).expect("it is mine");
    let other = Identity {
        cluster_id: 0xc2,
        ..ME
    };
    let error = data_dir
        .check(other)
        .expect_err("it is another's")
        .to_string();
    for part in [
        "member a1 of cluster c1",
        "member a1 of cluster c2",
        "--data-dir",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_later_format_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    DataDir::open(dir.path())
        .expect("open")
        .claim(ME)
        .expect("claim");
    let meta = dir.path().join("member/meta.json");
    fs::write(&meta, r#"{"format": 2, "who": "knows"}"#).expect("write");
    let error = DataDir::open(dir.path()).expect_err("it is too new");
    assert!(
        matches!(error, DataDirError::NewerFormat { found: 2, .. }),
        "{error}"
    );
}

#[test]
fn an_unreadable_identity_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    DataDir::open(dir.path())
        .expect("open")
        .claim(ME)
        .expect("claim");
    fs::write(dir.path().join("member/meta.json"), "{").expect("write");
    let error = DataDir::open(dir.path()).expect_err("it is damaged");
    assert!(matches!(error, DataDirError::Damaged { .. }), "{error}");
}

/// A directory with something in it.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut data_dir = DataDir::open(dir.path()).expect("open");
    let options = LogOptions {
        segment_bytes: 64 << 10,
        ..LogOptions::default()
    };
    let log = Log::open(data_dir.log_disk(), options, Driver::Thread).expect("log opens");
    data_dir.claim(ME).expect("claim");
    append(&log, vec![entry(1, 0, 10), entry(1, 1, 20)]);
    let vote = Vote {
        term: 1,
        member_id: 0xa1,
        committed: true,
    };
    wait(|done| log.save_vote(vote, done)).expect("vote");
    let state = data_dir.open_state().expect("state opens");
    let row = |number: u64| RowChange {
        table: Table::Rev,
        key: Bytes::copy_from_slice(&[&number.to_be_bytes()[..], b"_12345678"].concat()),
        value: Some(Bytes::from_static(b"value")),
    };
    state.write(vec![row(2), row(3)]).expect("write");
    state.sync().expect("sync");
    dir
}

#[test]
fn inspection_shows_identity_log_and_state() {
    let dir = filled();
    let found = inspect(dir.path(), true);
    assert_eq!(found["identity"]["member_id"], "a1");
    assert_eq!(found["log"]["vote"]["term"], 1);
    assert_eq!(found["log"]["last"]["index"], 1);
    assert_eq!(found["log"]["entries"].as_array().map(Vec::len), Some(2));
    assert_eq!(found["log"]["error"], serde_json::Value::Null);
    assert_eq!(found["state"]["newest_revision_row"], 3);
    assert_eq!(found["state"]["revision_rows"]["count"], 2);
}

#[test]
fn inspection_changes_nothing_and_reports_damage() {
    let dir = filled();
    let log = fs::read_dir(dir.path().join("member/log"))
        .expect("read_dir")
        .map(|entry| entry.expect("entry").path())
        .find(|path| path.extension().is_some_and(|ext| ext == "log"))
        .expect("a segment");
    let mut bytes = fs::read(&log).expect("read");
    // The second batch: the vote.
    bytes[1024 + 100] ^= 1;
    fs::write(&log, &bytes).expect("write");
    fs::write(dir.path().join("member/CURRENT"), "state-9\n").expect("write");
    let found = inspect(dir.path(), false);
    let error = found["log"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("at byte 1024"), "{found}");
    assert_eq!(
        found["log"]["last"]["index"], 1,
        "what is readable is shown"
    );
    assert!(found["state"]["error"].is_string(), "{found}");
    assert_eq!(fs::read(&log).expect("read"), bytes);
}

#[test]
fn inspection_of_an_empty_directory_finds_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let found = inspect(dir.path(), true);
    assert_eq!(found["identity"], serde_json::Value::Null);
    assert!(found["log"]["error"].is_string(), "{found}");
    assert_eq!(found["state"], serde_json::Value::Null);
}
