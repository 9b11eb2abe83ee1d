//! One server of a comparison.

use std::path::PathBuf;

use anyhow::{Context, Result};
use baton_test_cluster::process::{Cluster, Program};
use clap::Args;

use crate::usage::Usage;

/// Which two servers are measured in turn.
#[derive(Args, Clone)]
pub struct Sides {
    /// The first server. Default: batond beside this executable.
    #[arg(long)]
    a: Option<PathBuf>,
    /// The second. Default: the installed etcd.
    #[arg(long)]
    b: Option<PathBuf>,
    /// Members of each cluster.
    #[arg(long, default_value_t = 3)]
    pub members: usize,
    /// Rounds; each measures both.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
}

impl Sides {
    /// A running cluster of each.
    ///
    /// # Errors
    /// If one cannot be found or does not start.
    pub async fn start(&self) -> Result<[Side; 2]> {
        let a = match &self.a {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("batond"),
        };
        let b = match &self.b {
            Some(path) => Program::new(path),
            None => {
                Program::installed_etcd().context("no etcd is installed; name a server by --b")?
            }
        };
        Ok([
            Side::start(Program::new(a), self.members).await?,
            Side::start(b, self.members).await?,
        ])
    }
}

/// A running cluster.
pub struct Side {
    /// The name of its executable.
    pub name: String,
    cluster: Cluster,
}

impl Side {
    async fn start(program: Program, members: usize) -> Result<Self> {
        let name = program
            .path()
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let cluster = Cluster::start(&program, members).await?;
        Ok(Self { name, cluster })
    }

    /// Client URLs of all members.
    pub fn urls(&self) -> Vec<String> {
        self.cluster.urls()
    }

    /// What its processes used since they were started.
    ///
    /// # Errors
    /// If one is gone.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.cluster.members.iter().filter_map(|m| m.pid()))
    }
}
