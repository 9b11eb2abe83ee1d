//! The version of this program.

use clap::Args;

use crate::failure::Result;
use crate::output;

/// The etcd API this program speaks.
const API_VERSION: &str = "3.6";

/// Print the version of batonctl
#[derive(Args, Debug)]
pub struct Version {}

impl Version {
    pub fn run(self) -> Result<()> {
        output::print(format!(
            "batonctl version: {}\nAPI version: {API_VERSION}\n",
            env!("CARGO_PKG_VERSION")
        ))
    }
}
