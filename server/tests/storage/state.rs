//! State stores: the real one on a real directory, the simulated one, and the same promises of both.

use std::fs;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use baton_state_machine::{RowChange, Table};
use batond::storage::{FjallStore, MemStore, SCAN_BYTES, StateError, StateStore};
use bytes::Bytes;

fn key(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn put(table: Table, number: u32) -> RowChange {
    RowChange {
        table,
        key: key(number),
        value: Some(Bytes::from(vec![number as u8; 100])),
    }
}

fn remove(table: Table, number: u32) -> RowChange {
    RowChange {
        value: None,
        ..put(table, number)
    }
}

/// Keys of a table, as numbers.
fn keys(store: &dyn StateStore, table: Table) -> Vec<u32> {
    let rows = store
        .scan(table, Bound::Unbounded, usize::MAX)
        .expect("scan");
    let number = |key: &Bytes| u32::from_be_bytes(key[..].try_into().expect("four bytes"));
    rows.iter().map(|(key, _)| number(key)).collect()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create");
    for entry in fs::read_dir(from).expect("read_dir") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy");
        }
    }
}

/// Every promise that does not need a crash.
fn keeps_the_promises_of_a_state_store(store: Arc<dyn StateStore>) {
    let shared = store;
    let store = &*shared;
    store
        .write(vec![
            put(Table::Rev, 1),
            put(Table::Rev, 2),
            put(Table::Meta, 9),
        ])
        .expect("write");
    let before = store.snapshot();
    store
        .write(vec![remove(Table::Rev, 1), put(Table::Rev, 3)])
        .expect("write");
    assert_eq!(keys(store, Table::Rev), [2, 3]);
    assert_eq!(keys(store, Table::Meta), [9], "tables do not mix");
    assert!(store.get(Table::Rev, &key(1)).expect("get").is_none());
    assert!(
        before.get(Table::Rev, &key(1)).expect("get").is_some(),
        "a snapshot stands still"
    );
    let after = key(2);
    let rows = store
        .scan(Table::Rev, Bound::Excluded(&after), 10)
        .expect("scan");
    assert_eq!(rows.len(), 1);
    assert_eq!(
        store
            .scan(Table::Rev, Bound::Unbounded, 1)
            .expect("scan")
            .len(),
        1
    );

    let large = |number| RowChange {
        value: Some(Bytes::from(vec![0; SCAN_BYTES])),
        ..put(Table::Meta, number)
    };
    store.write(vec![large(10), large(11)]).expect("write");
    let page = store.scan(Table::Meta, Bound::Unbounded, 10).expect("scan");
    assert_eq!(page.len(), 2, "a page of large rows is short");

    let row = |table, number| Ok((table, key(number), Bytes::from_static(b"new")));
    let rows = [row(Table::Rev, 7), row(Table::Rev, 8), row(Table::Meta, 1)];
    store.replace(&mut rows.into_iter()).expect("replace");
    assert_eq!(keys(store, Table::Rev), [7, 8]);
    assert_eq!(keys(store, Table::Meta), [1]);
    assert!(
        before.get(Table::Rev, &key(1)).expect("get").is_some(),
        "a snapshot outlives a replacement"
    );

    let broken = [
        row(Table::Rev, 20),
        Err(io::Error::other("connection lost")),
    ];
    store
        .replace(&mut broken.into_iter())
        .expect_err("the rows end in an error");
    assert_eq!(
        keys(store, Table::Rev),
        [7, 8],
        "a failed replacement changes nothing"
    );
    store.write(vec![put(Table::Rev, 9)]).expect("write");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let reclaimed = runtime.block_on(async { Arc::clone(&shared).reclaim().await });
    reclaimed.expect("reclaim");
    store.sync().expect("sync");
    assert_eq!(keys(store, Table::Rev), [7, 8, 9]);
}

#[test]
fn the_store_on_disk_keeps_its_promises() {
    let dir = tempfile::tempdir().expect("tempdir");
    keeps_the_promises_of_a_state_store(Arc::new(FjallStore::open(dir.path()).expect("open")));
}

#[test]
fn the_simulated_store_keeps_its_promises() {
    keeps_the_promises_of_a_state_store(Arc::new(MemStore::new()));
}

#[test]
fn a_crash_of_the_simulated_store_leaves_a_prefix_of_the_batches() {
    let store = MemStore::new();
    store.write(vec![put(Table::Rev, 1)]).expect("write");
    store.sync().expect("sync");
    for i in 2..6 {
        store
            .write(vec![
                put(Table::Rev, i),
                remove(Table::Rev, i - 1),
                put(Table::Meta, 0),
            ])
            .expect("write");
    }
    assert_eq!(store.unsynced(), 4);
    store.crash(2);
    assert_eq!(keys(&store, Table::Rev), [3]);
    store.crash(0);
    assert_eq!(
        keys(&store, Table::Rev),
        [3],
        "what is left after a crash is durable"
    );
}

#[test]
fn a_killed_process_leaves_a_prefix_of_the_batches_and_all_that_was_synced() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
    fs::create_dir(&live).expect("create");
    let store = FjallStore::open(&live).expect("open");
    for i in 0..1000 {
        store
            .write(vec![put(Table::Rev, i), put(Table::Meta, i)])
            .expect("write");
        if i == 499 {
            store.sync().expect("sync");
        }
    }
    copy_tree(&live, &copy);
    drop(store);
    let store = FjallStore::open(&copy).expect("open");
    let found = keys(&store, Table::Rev);
    assert!(found.len() >= 500, "{} rows", found.len());
    assert_eq!(found, (0..found.len() as u32).collect::<Vec<_>>());
    assert_eq!(
        keys(&store, Table::Meta),
        found,
        "no batch is there in part"
    );
}

#[test]
fn what_was_replaced_is_gone_from_the_disk_and_stays_replaced() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = FjallStore::open(dir.path()).expect("open");
    store.write(vec![put(Table::Rev, 1)]).expect("write");
    let rows = [Ok((Table::Rev, key(5), Bytes::from_static(b"new")))];
    store.replace(&mut rows.into_iter()).expect("replace");
    assert!(!dir.path().join("state-1").exists());
    drop(store);
    let store = FjallStore::open(dir.path()).expect("open");
    assert_eq!(keys(&store, Table::Rev), [5]);
}

#[test]
fn an_unfinished_replacement_is_removed_when_the_store_is_opened() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = FjallStore::open(dir.path()).expect("open");
    store.write(vec![put(Table::Rev, 1)]).expect("write");
    store.sync().expect("sync");
    drop(store);
    copy_tree(&dir.path().join("state-1"), &dir.path().join("state-2"));
    let store = FjallStore::open(dir.path()).expect("open");
    assert!(!dir.path().join("state-2").exists());
    assert_eq!(keys(&store, Table::Rev), [1]);
}

#[test]
fn a_damaged_store_says_so_and_can_be_discarded() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = FjallStore::open(dir.path()).expect("open");
    for i in 0..100 {
        store.write(vec![put(Table::Rev, i)]).expect("write");
    }
    store.sync().expect("sync");
    drop(store);
    let state = dir.path().join("state-1");
    let journal = fs::read_dir(&state)
        .expect("read_dir")
        .map(|entry| entry.expect("entry").path())
        .find(|path| path.extension().is_some_and(|ext| ext == "jnl"))
        .expect("a journal");
    let mut bytes = fs::read(&journal).expect("read");
    bytes[5000] ^= 0xff;
    fs::write(&journal, bytes).expect("write");
    let error = FjallStore::open(dir.path()).expect_err("it is damaged");
    assert!(matches!(error, StateError::Damaged { .. }), "{error}");
    FjallStore::discard(dir.path()).expect("discard");
    let store = FjallStore::open(dir.path()).expect("open");
    assert!(keys(&store, Table::Rev).is_empty());
}
