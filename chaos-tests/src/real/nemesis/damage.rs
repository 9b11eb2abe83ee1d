//! Damage to what a member has on disk, done while it is down.
//!
//! A member may refuse to start on damaged files: that is a right answer, and what it knew last is put back then. One that
//! has lost what it acknowledged must not take part under its old identity. So every damaged member first starts cut off from
//! everybody. With damage to its log, its vote or its identity it stays cut off, and gets its files back before it meets the
//! others; with damage to its applied state, which it can make anew, it may join them if it has not refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::process::{kill_all, start_again};
use super::{Act, Trouble, need, places, skip};
use crate::check::faults::REFUSED;
use crate::plan::{FileKind, Target};
use crate::real::net::{Place, Rule, between};
use crate::real::node::Node;
use crate::real::tool::run;

/// How long a member may take to refuse its files.
const REFUSES: Duration = Duration::from_secs(2);

/// How long a member may take to make its state anew and answer.
const REBUILDS: Duration = Duration::from_secs(15);

/// What is done to files.
#[derive(Debug, Clone, Copy)]
pub(super) enum Harm {
    /// So many bits of one file flip.
    Flip(u32),
    /// One file loses its end.
    Truncate,
    /// Two files change places.
    Swap,
    /// All files are gone.
    Lose,
}

pub(super) async fn files(
    act: &mut Act,
    target: Target,
    kind: FileKind,
    harm: Harm,
) -> Result<(), Trouble> {
    let nodes = take_few(act, target).await?;
    let needed = if matches!(harm, Harm::Swap) { 2 } else { 1 };
    for node in &nodes {
        if files_of(node.data(), kind)?.len() < needed {
            return skip(format!("m{} has too few files of this kind", node.member));
        }
    }
    act.installing();
    let excuses: Vec<_> = nodes.iter().map(Node::excuse).collect();
    kill_all(&nodes).await;
    let mut said = Vec::new();
    for node in &nodes {
        copy(node.data(), &saved(act, node)).await?;
        let done = harm.apply(node.data(), kind, &mut act.chance)?;
        said.push(format!("m{}: {done}", node.member));
    }
    let cut_off = cut_off(act, &nodes).await?;
    let refused = start_alone(&nodes, &mut said).await?;
    act.proved(said.join("; "));
    let rebuilds = kind == FileKind::State && !refused;
    let mut cut_off = Some(cut_off);
    let mut answered = false;
    if rebuilds {
        if let Some(rule) = cut_off.take() {
            rule.remove().await?;
        }
        answered = true;
        for node in &nodes {
            answered &= node.answers(REBUILDS).await;
        }
    }
    act.hold().await;
    act.healing();
    if answered {
        for node in &nodes {
            fs::remove_dir_all(saved(act, node))?;
        }
        drop(excuses);
        let text = start_again(&nodes).await?;
        act.healed(format!("made anew by the member itself; {text}"));
        return Ok(());
    }
    if rebuilds && nodes.iter().any(|node| node.runs()) {
        // It may have taken part by now, so what was saved is not the newest any more.
        drop(excuses);
        act.healed("left to the member, which runs and has not answered yet");
        return Ok(());
    }
    for node in &nodes {
        node.kill().await;
        put_back(&saved(act, node), node).await?;
    }
    if let Some(rule) = cut_off {
        rule.remove().await?;
    }
    drop(excuses);
    let text = start_again(&nodes).await?;
    act.healed(format!("its files were put back; {text}"));
    Ok(())
}

pub(super) async fn roll_back(act: &mut Act, target: Target) -> Result<(), Trouble> {
    let nodes = take_few(act, target).await?;
    act.installing();
    kill_all(&nodes).await;
    let old = |node: &Node| node.home().join(format!("old-{}", node.member));
    for node in &nodes {
        copy(node.data(), &old(node)).await?;
    }
    start_again(&nodes).await?;
    // There has to be something that it forgets.
    act.until = tokio::time::Instant::now() + act.hold;
    act.hold().await;
    let excuses: Vec<_> = nodes.iter().map(Node::excuse).collect();
    kill_all(&nodes).await;
    let mut said = Vec::new();
    for node in &nodes {
        copy(node.data(), &saved(act, node)).await?;
        put_back(&old(node), node).await?;
        let aged = age(&saved(act, node), node.data())?;
        said.push(format!("m{}: {aged}", node.member));
    }
    let cut_off = cut_off(act, &nodes).await?;
    start_alone(&nodes, &mut said).await?;
    act.proved(said.join("; "));
    act.healing();
    for node in &nodes {
        node.kill().await;
        put_back(&saved(act, node), node).await?;
    }
    cut_off.remove().await?;
    drop(excuses);
    let text = start_again(&nodes).await?;
    act.healed(format!("its newest files were put back; {text}"));
    Ok(())
}

impl Harm {
    /// Does it and says what was done.
    fn apply(self, data: &Path, kind: FileKind, chance: &mut SmallRng) -> Result<String> {
        let mut files = files_of(data, kind)?;
        files.shuffle(chance);
        let name = |path: &Path| {
            path.strip_prefix(data)
                .unwrap_or(path)
                .display()
                .to_string()
        };
        let first = files.first().context("no file of this kind")?.clone();
        match self {
            Self::Flip(bits) => {
                let mut bytes = fs::read(&first)?;
                let used = used(&bytes);
                for _ in 0..bits {
                    let byte = chance.random_range(0..used);
                    bytes[byte] ^= 1 << chance.random_range(0..8);
                }
                fs::write(&first, bytes)?;
                Ok(format!("{bits} bits of {} flipped", name(&first)))
            }
            Self::Truncate => {
                let bytes = fs::read(&first)?;
                let used = used(&bytes);
                let left = chance.random_range(used / 2..used);
                let file = fs::File::options().write(true).open(&first)?;
                file.set_len(u64::try_from(left)?)?;
                Ok(format!(
                    "{} cut from {} to {left} bytes",
                    name(&first),
                    bytes.len()
                ))
            }
            Self::Swap => {
                let second = files.get(1).context("no second file of this kind")?;
                let aside = first.with_extension("aside");
                fs::rename(&first, &aside)?;
                fs::rename(second, &first)?;
                fs::rename(&aside, second)?;
                Ok(format!("{} and {} swapped", name(&first), name(second)))
            }
            Self::Lose => {
                for file in &files {
                    fs::remove_file(file)?;
                }
                Ok(format!("{} files lost", files.len()))
            }
        }
    }
}

/// The bytes of a file up to the zeros that it was made longer by in advance.
fn used(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(1, |last| last + 1)
}

/// Targets of damage: no more than a minority.
async fn take_few(act: &mut Act, target: Target) -> Result<Vec<Arc<Node>>, Trouble> {
    need("cp")?;
    need("nft")?;
    let nodes = act.take(target).await?;
    if nodes.len() > (act.everybody().len() - 1) / 2 {
        return skip("damage to more than a minority loses what was acknowledged");
    }
    Ok(nodes)
}

/// Files of a kind in a data directory that hold something, in a fixed order.
fn files_of(data: &Path, kind: FileKind) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![data.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if kind_of(path.strip_prefix(data)?) == Some(kind) && path.metadata()?.len() > 0
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What a file is for, by the names that Baton and etcd give their files.
fn kind_of(path: &Path) -> Option<FileKind> {
    let names: Vec<&str> = path.iter().filter_map(|name| name.to_str()).collect();
    let last = names.last().copied().unwrap_or_default();
    if last == "LOCK" || last == "lock" {
        None
    } else if names.iter().any(|name| *name == "log" || *name == "wal") {
        Some(FileKind::Log)
    } else if last == "db"
        || last == "CURRENT"
        || names.iter().any(|name| name.starts_with("state-"))
    {
        Some(FileKind::State)
    } else {
        Some(FileKind::Meta)
    }
}

/// Where what a member knew last is kept.
fn saved(act: &Act, node: &Node) -> PathBuf {
    node.home().join(format!("saved-{}", act.number))
}

async fn copy(from: &Path, to: &Path) -> Result<()> {
    let text = |path: &Path| path.to_str().map(str::to_owned);
    let from = text(from).context("paths of a run have to be UTF-8")?;
    let to = text(to).context("paths of a run have to be UTF-8")?;
    run("cp", &["--archive", "--sparse=always", &from, &to]).await?;
    Ok(())
}

/// Replaces a member's data by what was saved.
async fn put_back(saved: &Path, node: &Node) -> Result<()> {
    fs::remove_dir_all(node.data())?;
    copy(saved, node.data()).await?;
    // A later power cut must not take what the member itself had synced.
    let data = node.data().to_string_lossy();
    run("sync", &["--file-system", &data]).await?;
    fs::remove_dir_all(saved)?;
    Ok(())
}

/// Cuts members off from all others and from clients.
async fn cut_off(act: &Act, nodes: &[Arc<Node>]) -> Result<Rule> {
    let inside: Vec<_> = nodes.iter().map(|node| node.member).collect();
    let mut outside = act.everybody();
    outside.retain(|member| !inside.contains(member));
    let mut outside = places(&outside);
    outside.push(Place::Clients);
    let mut pairs = between(&places(&inside), &outside);
    pairs.extend(between(&places(&inside), &places(&inside)));
    pairs.sort_unstable();
    pairs.dedup();
    Rule::install(&pairs, "", "drop").await
}

/// Starts members that are cut off and adds what each does to what is said; whether one refuses.
async fn start_alone(nodes: &[Arc<Node>], said: &mut [String]) -> Result<bool> {
    for node in nodes {
        node.start()?;
    }
    let mut refused = false;
    for (node, said) in nodes.iter().zip(said) {
        if node.ended(REFUSES).await {
            refused = true;
            said.push_str(&format!(", and {REFUSED}: {}", node.last_words()));
        } else {
            said.push_str(", and it starts");
        }
    }
    Ok(refused)
}

/// How much of the newest data the old data lacks.
fn age(newest: &Path, old: &Path) -> Result<String> {
    let all = [FileKind::Log, FileKind::State, FileKind::Meta];
    let mut changed = 0;
    for kind in all {
        for file in files_of(newest, kind)? {
            let before = old.join(file.strip_prefix(newest)?);
            if fs::read(&file)? != fs::read(&before).unwrap_or_default() {
                changed += 1;
            }
        }
    }
    anyhow::ensure!(changed > 0, "nothing has changed since the older copy");
    Ok(format!("{changed} files are as they were before"))
}
