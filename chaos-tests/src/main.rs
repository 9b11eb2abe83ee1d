//! `chaos`: fault campaigns from the command line.

fn main() {}
