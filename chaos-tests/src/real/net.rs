//! The network of a run: a bridge, and at it a network namespace with an address for every member.
//!
//! Clients and the observer sit at the bridge itself, with an address each, so that clients can be cut off while members
//! are still observed. Nobody dials anything but these addresses.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::crossing::{self, KNOCK};
use super::tool::{run, run_with};
use crate::client::Dial;
use crate::history::Member;

/// The port of every member's client listener.
pub const CLIENT_PORT: u16 = 2379;
/// The port of every member's peer listener.
pub const PEER_PORT: u16 = 2380;
/// Where clients dial from.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
/// Where members are observed from.
const OBSERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 253);

/// Somebody with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A member.
    Member(Member),
    /// All clients.
    Clients,
    /// Whoever polls the status of members.
    Observer,
}

impl Place {
    /// Its address.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Member(member) => Ipv4Addr::new(10, 77, 0, u8::try_from(member).unwrap_or(0)),
            Self::Clients => CLIENTS,
            Self::Observer => OBSERVER,
        }
    }

    /// Its network namespace; clients and observer are in that of the harness.
    pub fn namespace(self) -> Option<PathBuf> {
        match self {
            Self::Member(member) => Some(PathBuf::from(format!("/run/netns/cn{member}"))),
            Self::Clients | Self::Observer => None,
        }
    }
}

/// Everybody cut off from everybody on the other side, both ways.
pub fn between(left: &[Place], right: &[Place]) -> Vec<(Place, Place)> {
    let mut pairs = Vec::new();
    for &a in left {
        for &b in right {
            if a != b {
                pairs.extend([(a, b), (b, a)]);
            }
        }
    }
    pairs
}

/// Lays the network out for members 1 to `members`.
///
/// # Errors
/// The kernel or `ip` refuses.
pub async fn build(members: u64) -> Result<()> {
    clear(members).await;
    let mut script = String::from("link add ct0 type bridge\n");
    for place in [Place::Clients, Place::Observer] {
        script.push_str(&format!("addr add {}/24 dev ct0\n", place.address()));
    }
    script.push_str("link set ct0 up\n");
    for member in 1..=members {
        script.push_str(&format!(
            "netns add cn{member}\n\
             link add cv{member} type veth peer name eth0 netns cn{member}\n\
             link set cv{member} master ct0 up\n"
        ));
    }
    run_with("ip", &["-batch", "-"], &script).await?;
    for member in 1..=members {
        let address = Place::Member(member).address();
        let script = format!("addr add {address}/24 dev eth0\nlink set eth0 up\nlink set lo up\n");
        run_with(
            "ip",
            &["-n", &format!("cn{member}"), "-batch", "-"],
            &script,
        )
        .await?;
    }
    for member in 1..=members {
        carries(member).await?;
    }
    Ok(())
}

/// Waits until a new link carries packets, which the kernel sees to in its own time.
async fn carries(member: Member) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let began = Instant::now();
    loop {
        let knock = crossing::send(Place::Member(member), Place::Observer, KNOCK).await?;
        if knock.arrived > 0 {
            return Ok(());
        }
        let so_far = began.elapsed();
        anyhow::ensure!(
            so_far < PATIENCE,
            "the link of m{member} carries nothing after {so_far:?}"
        );
    }
}

/// Takes it all away, for the next run in this box.
///
/// # Errors
/// The kernel or `ip` refuses.
pub async fn tear_down(members: u64) -> Result<()> {
    remove_all_rules().await?;
    run_with("ip", &["-batch", "-"], &removal(members)).await?;
    Ok(())
}

/// Removes what a run that failed has left, if anything.
async fn clear(members: u64) {
    // Most of it is not there.
    let _ = run_with("ip", &["-force", "-batch", "-"], &removal(members)).await;
}

fn removal(members: u64) -> String {
    let mut script = String::from("link del ct0\n");
    for member in 1..=members {
        // The other end of a link goes with the namespace it is in, but only when nothing holds that any more.
        script.push_str(&format!("link del cv{member}\nnetns del cn{member}\n"));
    }
    script
}

/// Dials members from `place`.
pub fn dial(place: Place) -> Dial {
    Dial::new(move |member| channel(place, member))
}

fn channel(from: Place, member: Member) -> Channel {
    let to = Place::Member(member).address();
    let uri = Uri::builder()
        .scheme("http")
        .authority(format!("{to}:{CLIENT_PORT}"))
        .path_and_query("/")
        .build()
        .unwrap_or_default();
    Endpoint::from(uri).connect_with_connector_lazy(service_fn(move |_: Uri| async move {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from.address(), 0).into())?;
        let stream = socket.connect((to, CLIENT_PORT).into()).await?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(TokioIo::new(stream))
    }))
}

/// A rule for packets between places, with a counter.
#[derive(Debug)]
pub struct Rule {
    family: &'static str,
    table: String,
}

/// The prefix of tables of rules.
const TABLE: &str = "chaos";

impl Rule {
    /// Does `verdict` to all packets that go from the first to the second of a pair and meet `condition`, both in the
    /// words of nft.
    ///
    /// # Errors
    /// nft refuses.
    pub async fn install(pairs: &[(Place, Place)], condition: &str, verdict: &str) -> Result<Self> {
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(from, to)| format!("{} . {}", from.address(), to.address()))
            .collect();
        let table = table_name();
        let rule = format!(
            "ip saddr . ip daddr {{ {} }} {condition} counter name hits {verdict}",
            pairs.join(", ")
        );
        let mut script = format!("table bridge {table} {{\ncounter hits {{ }}\n");
        // Between members packets are forwarded; clients are at the bridge itself.
        for hook in ["forward", "input", "output"] {
            script.push_str(&format!(
                "chain at_{hook} {{\ntype filter hook {hook} priority 0; policy accept;\n{rule}\n}}\n"
            ));
        }
        script.push_str("}\n");
        run_with("nft", &["-f", "-"], &script).await?;
        Ok(Self {
            family: "bridge",
            table,
        })
    }

    /// How many packets it met.
    ///
    /// # Errors
    /// nft does not say.
    pub async fn hits(&self) -> Result<u64> {
        let text = run(
            "nft",
            &["-j", "list", "counters", "table", self.family, &self.table],
        )
        .await?;
        let listed: serde_json::Value = serde_json::from_str(&text)?;
        listed["nftables"]
            .as_array()
            .and_then(|items| {
                items
                    .iter()
                    .find_map(|item| item["counter"]["packets"].as_u64())
            })
            .context("nft lists no counter")
    }

    /// Takes it away.
    ///
    /// # Errors
    /// nft refuses.
    pub async fn remove(self) -> Result<()> {
        run("nft", &["delete", "table", self.family, &self.table]).await?;
        Ok(())
    }
}

/// What a packet that was repeated is marked with, so that it is not repeated again.
const REPEATED: u32 = 0xba70;

/// Repeats some of the packets between members: so many of a hundred. It does so where they leave the bridge, so that what
/// is cut off there is not repeated.
///
/// # Errors
/// The kernel cannot repeat packets, or nft refuses.
pub async fn duplicate(members: &[Member], percent: u32) -> Result<Rule> {
    let table = table_name();
    let some = some(percent);
    let mut script = format!("table netdev {table} {{\ncounter hits {{ }}\n");
    for to in members {
        script.push_str(&format!(
            "chain to{to} {{\ntype filter hook egress device \"cv{to}\" priority 0; policy accept;\n"
        ));
        for from in members.iter().filter(|from| *from != to) {
            let address = Place::Member(*from).address();
            script.push_str(&format!(
                "ip saddr {address} meta mark != {REPEATED} {some} counter name hits meta mark set {REPEATED} \
                 dup to \"cv{to}\"\n"
            ));
        }
        script.push_str("}\n");
    }
    script.push_str("}\n");
    run_with("nft", &["-f", "-"], &script).await?;
    Ok(Rule {
        family: "netdev",
        table,
    })
}

/// The condition, in the words of nft, that so many of a hundred packets meet.
pub fn some(percent: u32) -> String {
    match percent {
        // What is always true is refused.
        100.. => String::new(),
        _ => format!("numgen random mod 100 < {percent}"),
    }
}

/// A name for a table that no other fault has.
fn table_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{TABLE}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Takes every rule of every fault away.
///
/// # Errors
/// nft refuses.
pub async fn remove_all_rules() -> Result<()> {
    let listed = run("nft", &["list", "tables"]).await?;
    for line in listed.lines() {
        let mut words = line.split_whitespace().skip(1);
        if let (Some(family), Some(table)) = (words.next(), words.next())
            && table.starts_with(TABLE)
        {
            run("nft", &["delete", "table", family, table]).await?;
        }
    }
    Ok(())
}
