//! Baton's command line.

fn main() {}
