use std::path::PathBuf;

use anyhow::{Result, bail};
use chaos_tests::campaign;
use chaos_tests::generate::{self, Wish, fault_names};
use chaos_tests::plan::{DiskKind, Workload};
use chaos_tests::real::{boxed, episode};
use chaos_tests::verdict::Outcome;
use serde::de::DeserializeOwned;

/// The command `run`.
#[derive(clap::Args)]
pub struct Run {
    /// Where every draw of the run comes from. Drawn if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Workloads, such as `register,lease`. Drawn if none is given.
    #[arg(long = "workload", value_delimiter = ',', value_parser = named::<Workload>)]
    workloads: Vec<Workload>,
    /// Faults, such as `isolate,kill`, or `none`. Drawn if none is given.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Members of the cluster: 1, 3 or 5.
    #[arg(long)]
    members: Option<u64>,
    /// How long load and faults go on.
    #[arg(long)]
    seconds: Option<u64>,
    /// What the data directories lie on: `directory`, `ext4` or `xfs`.
    #[arg(long, value_parser = named::<DiskKind>)]
    disk: Option<DiskKind>,
    /// The server: any program that takes etcd's flags. `batond` beside this program or in the path if it is not given.
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// A further flag of every server.
    #[arg(long = "flag", value_name = "FLAG", allow_hyphen_values = true)]
    flags: Vec<String>,
    /// Where the run is kept.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

/// Something that is called as in a plan's file.
fn named<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

impl Run {
    /// Plans a run, plays and judges it.
    pub fn run(self) -> Result<Outcome> {
        let unknown = |name: &&String| *name != "none" && fault_names().all(|known| known != *name);
        if let Some(name) = self.faults.iter().find(unknown) {
            let known: Vec<&str> = fault_names().collect();
            bail!("there is no fault `{name}`; there are {}", known.join(", "));
        }
        if let Some(members) = self.members.filter(|count| ![1, 3, 5].contains(count)) {
            bail!("a cluster has 1, 3 or 5 members, not {members}");
        }
        let boxed = boxed::enter()?;
        let seed = self.seed.unwrap_or_else(rand::random);
        let server = super::server(self.bin)?;
        let wish = Wish {
            members: self.members,
            seconds: self.seconds,
            workloads: self.workloads,
            faults: self.faults,
            disk: self.disk,
            flags: self.flags,
        };
        let plan = campaign::with_gates(generate::plan(seed, &wish));
        let directory = self
            .out
            .unwrap_or_else(|| PathBuf::from(format!("out/seed-{seed}")));
        let verdict =
            super::runtime()?.block_on(episode::play(boxed, &plan, &server, &directory))?;
        super::show(&chaos_tests::run::Run::load(&directory)?, &verdict);
        Ok(verdict.outcome)
    }
}
