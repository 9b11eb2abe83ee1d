//! Building the state from its rows.

use baton_state_machine::{LoadError, Rev, State, Table};

use crate::world::{Rows, World, compact, delete, grant, leased, put};

fn load(rows: &Rows) -> Result<State, LoadError> {
    State::load(&mut rows.all())
}

#[test]
fn no_rows_are_a_fresh_state() {
    assert_eq!(load(&Rows::default()), Ok(State::new()));
}

#[test]
fn the_rows_are_all_of_the_state() {
    let mut world = World::new();
    world.apply(grant(7, 60));
    world.apply(leased("a", "1", 7));
    world.apply(put("b", ""));
    world.apply(delete("b"));
    world.apply(compact(2));
    assert_eq!(world.reloaded(), world.state);
    assert_eq!(world.reloaded().size_bytes(), world.state.size_bytes());
}

#[test]
fn rows_of_the_layer_above_are_passed_over() {
    let mut rows = Rows::default();
    rows.insert(Table::Meta, b"server/applied", b"anything");
    assert_eq!(load(&rows), Ok(State::new()));
}

#[test]
fn rows_of_no_known_kind_or_content_are_refused() {
    let pair = Rev { main: 2, sub: 0 }.row_key();
    let tombstone = [&pair[..], b"t"].concat();
    let bad: [(Table, &[u8], &[u8]); 9] = [
        (Table::Rev, b"short", b""),
        (Table::Rev, &pair, b"\xff"),
        (Table::Rev, &pair, b""),
        (Table::Rev, &tombstone, b"\x20\x01"),
        (Table::Meta, b"unknown", b""),
        (Table::Meta, b"compact", b"short"),
        (Table::Meta, b"lease/\0\0\0\0\0\0\0\x07", b"\x08\x08"),
        (Table::Meta, b"member/\0\0\0\0\0\0\0\x07", b""),
        (Table::Meta, b"alarm/\0\0\0\0\0\0\0\x07\x63", b""),
    ];
    for (table, key, value) in bad {
        let mut rows = Rows::default();
        rows.insert(table, key, value);
        assert!(
            matches!(load(&rows), Err(LoadError::Malformed { .. })),
            "{key:?}"
        );
    }
}

#[test]
fn rows_out_of_order_are_refused() {
    let mut world = World::new();
    world.apply(put("a", ""));
    world.apply(put("a", ""));
    world.apply(grant(7, 60));
    let mut rows: Vec<_> = world.rows.all().collect();
    rows.swap(0, 1);
    let swapped = State::load(&mut rows.clone().into_iter());
    assert!(matches!(
        swapped,
        Err(LoadError::OutOfOrder {
            table: Table::Rev,
            ..
        })
    ));
    rows.reverse();
    assert!(matches!(
        State::load(&mut rows.into_iter()),
        Err(LoadError::OutOfOrder { .. })
    ));
}

#[test]
fn a_key_whose_lease_is_missing_is_refused() {
    let mut world = World::new();
    world.apply(grant(7, 60));
    world.apply(leased("a", "", 7));
    let rows: Vec<_> = world
        .rows
        .all()
        .filter(|(table, ..)| *table == Table::Rev)
        .collect();
    let loaded = State::load(&mut rows.into_iter());
    assert!(matches!(
        loaded,
        Err(LoadError::LeaseMissing { lease: 7, .. })
    ));
}
