//! Lets contenders of any make contend for one name and judges what they say: no two hold at once, and they hold in the
//! order in which their keys were created.
//!
//! A contender is a command. It is given the endpoints, the name and the number of its turns as its last arguments, and says
//! on its standard output `enter TOKEN NANOSECONDS` once it holds and `leave TOKEN NANOSECONDS` before it releases, by
//! `CLOCK_MONOTONIC`. One that is to crash is given `stay` as well: after its turns it takes one more and stays in it, until
//! it is killed.
#![allow(clippy::print_stdout, reason = "a command line tool")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "runs real processes"
)]

mod history;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};

use history::{Hold, handoffs};

#[derive(Parser)]
#[command(name = "trial", about = "Contenders of any make for one name")]
struct Arguments {
    /// Client addresses, as contenders are given them.
    #[arg(long)]
    endpoints: String,
    /// What they contend for.
    #[arg(long)]
    name: String,
    /// Turns of each.
    #[arg(long, default_value_t = 20)]
    turns: usize,
    /// Seconds after which the trial has failed.
    #[arg(long, default_value_t = 120)]
    limit: u64,
    /// Commands of contenders that are killed while they hold, once they have had their turns.
    #[arg(long)]
    crash: Vec<String>,
    /// Commands of contenders, words parted by blanks.
    #[arg(required = true)]
    contenders: Vec<String>,
}

/// What a contender said, or that it is done.
enum Said {
    Line(String),
    End,
}

struct Contender {
    who: String,
    child: Child,
    stays: bool,
    entered: usize,
    /// The hold it has not left yet: token and time.
    inside: Option<(i64, i64)>,
    done: bool,
}

impl Drop for Contender {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let commands = arguments
        .crash
        .iter()
        .map(|command| (command, true))
        .chain(arguments.contenders.iter().map(|command| (command, false)));
    let (tell, told) = channel();
    let mut contenders = Vec::new();
    for (index, (command, stays)) in commands.enumerate() {
        contenders.push(start(&arguments, index, command, stays, tell.clone())?);
    }
    drop(tell);
    let holds = listen(&arguments, &mut contenders, &told)?;
    let count = holds.len();
    let expected: usize = contenders
        .iter()
        .map(|contender| arguments.turns + usize::from(contender.stays))
        .sum();
    if count != expected {
        bail!("{count} holds, not {expected}");
    }
    let changed = handoffs(holds).map_err(anyhow::Error::msg)?;
    if changed < contenders.len() {
        bail!("{changed} handoffs: the contenders did not meet");
    }
    println!(
        "{count} holds of {} contenders, {changed} times from one to another, {} crashes: exclusive and in order",
        contenders.len(),
        arguments.crash.len(),
    );
    Ok(())
}

fn start(
    arguments: &Arguments,
    index: usize,
    command: &str,
    stays: bool,
    tell: Sender<(usize, Said)>,
) -> Result<Contender> {
    let mut words = command.split_whitespace();
    let program = words.next().context("an empty command")?;
    let mut child = Command::new(program)
        .args(words)
        .args([&arguments.endpoints, &arguments.name])
        .arg(arguments.turns.to_string())
        .args(stays.then_some("stay"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command}"))?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if tell.send((index, Said::Line(line))).is_err() {
                return;
            }
        }
        // Nobody may listen any more.
        let _ = tell.send((index, Said::End));
    });
    Ok(Contender {
        who: format!("#{index} {command}"),
        child,
        stays,
        entered: 0,
        inside: None,
        done: false,
    })
}

/// Returns when all contenders are done; kills those that stay.
fn listen(
    arguments: &Arguments,
    contenders: &mut [Contender],
    told: &Receiver<(usize, Said)>,
) -> Result<Vec<Hold>> {
    let until = Instant::now() + Duration::from_secs(arguments.limit);
    let mut holds = Vec::new();
    while contenders.iter().any(|contender| !contender.done) {
        let left = until.saturating_duration_since(Instant::now());
        let Ok((index, said)) = told.recv_timeout(left) else {
            let waiting: BTreeMap<_, _> = contenders
                .iter()
                .filter(|contender| !contender.done)
                .map(|contender| (&contender.who, contender.entered))
                .collect();
            bail!(
                "not done after {} s, with so many turns: {waiting:?}",
                arguments.limit
            );
        };
        let contender = &mut contenders[index];
        match said {
            Said::Line(line) => {
                contender.hear(&line, arguments.turns, &mut holds)?;
            }
            Said::End => {
                let status = contender.child.wait()?;
                if !status.success() && !contender.stays {
                    bail!("{} failed: {status}", contender.who);
                }
                contender.done = true;
            }
        }
    }
    Ok(holds)
}

impl Contender {
    fn hear(&mut self, line: &str, turns: usize, holds: &mut Vec<Hold>) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let [word, token, time] = words[..] else {
            bail!("{} said {line:?}", self.who);
        };
        let (token, time) = (token.parse()?, time.parse()?);
        match (word, self.inside.take()) {
            ("enter", None) => {
                self.entered += 1;
                if self.stays && self.entered > turns {
                    self.child.kill()?;
                    holds.push(self.hold(token, time, now()));
                } else {
                    self.inside = Some((token, time));
                }
            }
            ("leave", Some((entered, since))) if entered == token => {
                holds.push(self.hold(token, since, time));
            }
            _ => bail!("{} said {line:?} out of turn", self.who),
        }
        Ok(())
    }

    fn hold(&self, token: i64, enter: i64, leave: i64) -> Hold {
        Hold {
            who: self.who.clone(),
            token,
            enter,
            leave,
        }
    }
}

fn now() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
