//! What this host can do to a cluster, found out by doing it, in a box.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::boxed::Boxed;
use super::crossing::{self, KNOCK};
use super::disk::Disk;
use super::host::Ability;
use super::net::{self, Place, Rule, between, duplicate};
use super::shaper::Shaper;
use super::tool::run;
use super::{clock, host};
use crate::plan::DiskKind;
use crate::seed;

const FIRST: Place = Place::Member(1);
const SECOND: Place = Place::Member(2);

/// Everything that faults need, and whether it is here.
pub async fn abilities(boxed: Boxed) -> Vec<Ability> {
    let mut found = Vec::new();
    for name in NAMES {
        let missing = missing(boxed, name).await;
        found.push(Ability {
            name: name.to_owned(),
            missing,
        });
    }
    found
}

/// The names of all abilities.
pub const NAMES: [&str; 15] = [
    "a network of its own",
    "cuts and loss",
    "duplication",
    "delays",
    "slow links",
    "resets",
    "power cuts on ext4",
    "power cuts on XFS",
    "hung disks",
    "read-only disks",
    "processor limits",
    "memory limits",
    "slow and failing syncs",
    "clocks",
    "descriptor limits",
];

/// Why the ability of this name is not here; nothing if it is.
pub async fn missing(boxed: Boxed, name: &str) -> Option<String> {
    let tried = match name {
        "a network of its own" => on_a_network(async { Ok(()) }).await,
        "cuts and loss" => on_a_network(cuts()).await,
        "duplication" => on_a_network(repeats()).await,
        "delays" => on_a_network(delays()).await,
        "slow links" => on_a_network(slow_links()).await,
        "resets" => resets().await,
        "power cuts on ext4" => on_a_disk(boxed, DiskKind::Ext4, cut_power).await,
        "power cuts on XFS" => on_a_disk(boxed, DiskKind::Xfs, cut_power).await,
        "hung disks" => on_a_disk(boxed, DiskKind::Ext4, hang).await,
        "read-only disks" => on_a_disk(boxed, DiskKind::Ext4, turn_read_only).await,
        "processor limits" => group("cpu", "cpu.cfs_quota_us"),
        "memory limits" => group("memory", "memory.limit_in_bytes"),
        "slow and failing syncs" => traced_syncs().await,
        "clocks" => clocks().await,
        "descriptor limits" => Ok(()),
        _ => Err(anyhow!("nothing of this name is known")),
    };
    tried.err().map(|error| format!("{error:#}"))
}

async fn on_a_network(what: impl Future<Output = Result<()>>) -> Result<()> {
    net::build(2).await?;
    let done = what.await;
    net::tear_down(2).await?;
    done
}

async fn cuts() -> Result<()> {
    let rule = Rule::install(&between(&[FIRST], &[SECOND]), "", "drop").await?;
    let seen = crossing::send(FIRST, SECOND, KNOCK).await?;
    ensure!(
        seen.arrived == 0 && rule.hits().await? > 0,
        "a cut has no effect"
    );
    rule.remove().await?;
    let seen = crossing::send(FIRST, SECOND, KNOCK).await?;
    ensure!(seen.arrived > 0, "a cut does not heal");
    Ok(())
}

async fn repeats() -> Result<()> {
    let _rule = duplicate(&[1, 2], 100).await?;
    let volley = crossing::Volley {
        linger: true,
        ..KNOCK
    };
    let seen = crossing::send(FIRST, SECOND, volley).await?;
    ensure!(seen.again > 0, "packets do not come twice");
    Ok(())
}

async fn delays() -> Result<()> {
    let delay = Duration::from_millis(50);
    let shaper = Shaper::install(delay, Duration::ZERO, seed::stream(0, "probe")).await?;
    let seen = crossing::send(FIRST, SECOND, KNOCK).await?;
    shaper.remove().await?;
    ensure!(seen.median() >= delay, "packets are not late");
    Ok(())
}

async fn slow_links() -> Result<()> {
    let shape = ["rate", "100kbit", "burst", "2kb", "latency", "2s"];
    let arguments = [
        "-n", "cn1", "qdisc", "replace", "dev", "eth0", "root", "tbf",
    ];
    run("tc", &[&arguments[..], &shape[..]].concat()).await?;
    Ok(())
}

async fn resets() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let _connection = TcpStream::connect(address).await?;
    let port = format!("( dport = :{} )", address.port());
    let gone = run("ss", &["-K", "-H", "-tn", "state", "established", &port]).await?;
    ensure!(!gone.is_empty(), "the kernel ends no connections of others");
    Ok(())
}

/// Does something with a disk whose place is told first.
async fn on_a_disk<F: Future<Output = Result<()>>>(
    boxed: Boxed,
    kind: DiskKind,
    what: impl FnOnce(Disk) -> F,
) -> Result<()> {
    ensure!(boxed.privileged(), "only root may mount disks");
    let home = tempfile::tempdir()?;
    let disk = Disk::make(&home.path().join("image"), &home.path().join("mount"), kind).await?;
    what(disk.context("no disk")?).await
}

async fn cut_power(disk: Disk) -> Result<()> {
    disk.cut_power().await?;
    let probe = fs::write(disk.path().join("probe"), "");
    disk.discard().await?;
    ensure!(probe.is_err(), "the filesystem goes on");
    Ok(())
}

async fn hang(disk: Disk) -> Result<()> {
    host::program("fsfreeze").map_err(anyhow::Error::msg)?;
    disk.freeze().await?;
    disk.thaw().await?;
    disk.discard().await
}

async fn turn_read_only(disk: Disk) -> Result<()> {
    host::program("e2fsck").map_err(anyhow::Error::msg)?;
    let turned = disk.turn_read_only();
    let probe = fs::write(disk.path().join("probe"), "");
    disk.discard().await?;
    turned?;
    ensure!(probe.is_err(), "the filesystem goes on");
    Ok(())
}

/// Whether control groups of a controller can be made, with this file in them.
fn group(controller: &str, file: &str) -> Result<()> {
    let name = format!("chaos-probe-{}", std::process::id());
    let group = Path::new("/sys/fs/cgroup").join(controller).join(name);
    fs::create_dir(&group).with_context(|| format!("no control group {}", group.display()))?;
    let there = group.join(file).is_file();
    fs::remove_dir(&group)?;
    ensure!(there, "control groups have no {file}");
    Ok(())
}

async fn traced_syncs() -> Result<()> {
    let home = tempfile::tempdir()?;
    let log = home.path().join("log");
    let log = log.to_str().context("paths have to be UTF-8")?;
    let inject = "inject=fsync,fdatasync,sync_file_range,msync:error=EIO";
    let arguments = ["-f", "-o", log, "-e", inject, "sync", "-d", log];
    // It is to fail.
    let failed = run("strace", &arguments).await.is_err();
    let injected = fs::read_to_string(log)?.contains("INJECTED");
    ensure!(failed && injected, "strace makes no sync fail");
    Ok(())
}

async fn clocks() -> Result<()> {
    let home = tempfile::tempdir()?;
    let moved = clock::Clock::make(home.path())?;
    moved.set("+1000000")?;
    let now = run("date", &["+%s"]).await?;
    if let Some(reason) = clock::missing(&host::program("date").map_err(anyhow::Error::msg)?) {
        return Err(anyhow!(reason));
    }
    let output = Command::new("date")
        .arg("+%s")
        .envs(moved.environment())
        .stdin(Stdio::null())
        .output()
        .await?;
    let later: i64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    ensure!(
        later - now.trim().parse::<i64>()? > 500_000,
        "the clock does not move"
    );
    Ok(())
}
