//! Links that are bad without being cut: slow, lossy, repeating, out of order, reset.
//!
//! Each is proved by what becomes of datagrams, and by the counter of whatever makes it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Act, OnTheNetwork, Trouble, need, places, skip};
use crate::history::Member;
use crate::plan::Target;
use crate::real::crossing::{self, Crossing, KNOCK, Volley};
use crate::real::net::{Place, Rule, between, duplicate, some};
use crate::real::shaper::Shaper;
use crate::real::tool::run;
use crate::real::wait::until;
use crate::seed;

/// How long after healing a link may take to be as before.
const RECOVERS: Duration = Duration::from_secs(5);

pub(super) async fn delay(act: &mut Act, ms: u64, jitter_ms: u64) -> Result<(), Trouble> {
    need("iptables")?;
    let (delay, jitter) = (Duration::from_millis(ms), Duration::from_millis(jitter_ms));
    let (from, to) = ends(act)?;
    let network = act.on_the_network();
    act.installing();
    let chance = seed::stream(act.scene.seed, &format!("fault/{}/packets", act.number));
    let shaper = match Shaper::install(delay, jitter, chance).await {
        Ok(shaper) => shaper,
        Err(error) => return skip(format!("{error:#}")),
    };
    let volley = Volley {
        count: 30,
        gap: Duration::from_millis(5),
        patience: delay + jitter + Duration::from_millis(500),
        ..KNOCK
    };
    let seen = crossing::send(from, to, volley).await?;
    let least = delay.saturating_sub(jitter);
    // Times that differ by several gaps between datagrams put some out of order.
    let reordered = seen.overtaken > 0 || jitter < 4 * volley.gap || network.has_company();
    let late = seen.median() >= least || (seen.arrived == 0 && network.has_company());
    let text = format!(
        "half of {} datagrams took {:?} or longer, {} were overtaken; {} packets delayed",
        seen.arrived,
        seen.median(),
        seen.overtaken,
        shaper.delayed()
    );
    act.proved_if(late && reordered && shaper.delayed() > 0, text);
    act.hold().await;
    act.healing();
    let delayed = shaper.delayed();
    shaper.remove().await?;
    let quick = |seen: &Crossing| {
        seen.delays
            .iter()
            .min()
            .is_some_and(|fastest| *fastest < least)
    };
    recovered(&network, from, to, KNOCK, |seen| {
        least.is_zero() || quick(seen)
    })
    .await?;
    act.healed(format!("not late any more, after {delayed} packets"));
    Ok(())
}

pub(super) async fn loss(act: &mut Act, percent: u32) -> Result<(), Trouble> {
    need("nft")?;
    let (from, to) = ends(act)?;
    let everybody = places(&act.everybody());
    let mut pairs = between(&everybody, &everybody);
    pairs.sort_unstable();
    pairs.dedup();
    let network = act.on_the_network();
    act.installing();
    let rule = Rule::install(&pairs, &some(percent), "drop").await?;
    let seen = crossing::send(from, to, many(percent)).await?;
    let hits = rule.hits().await?;
    let lost = seen.sent - seen.arrived;
    act.proved_if(
        lost > 0 && hits > 0,
        format!(
            "{lost} of {} datagrams lost, {hits} packets dropped",
            seen.sent
        ),
    );
    act.hold().await;
    act.healing();
    let hits = rule.hits().await?;
    rule.remove().await?;
    recovered(&network, from, to, KNOCK, |seen| seen.arrived == seen.sent).await?;
    act.healed(format!("datagrams arrive again, after {hits} lost packets"));
    Ok(())
}

pub(super) async fn repeat(act: &mut Act, percent: u32) -> Result<(), Trouble> {
    need("nft")?;
    let (from, to) = ends(act)?;
    let network = act.on_the_network();
    act.installing();
    let rule = match duplicate(&act.everybody(), percent).await {
        Ok(rule) => rule,
        Err(error) => return skip(format!("{error:#}")),
    };
    let volley = Volley {
        linger: true,
        ..many(percent)
    };
    let began = Instant::now();
    let mut seen = crossing::send(from, to, volley).await?;
    // What another fault takes from the volley may have been all that was repeated of it.
    while seen.again == 0 && network.has_company() && began.elapsed() < RECOVERS {
        seen = crossing::send(from, to, volley).await?;
    }
    let hits = rule.hits().await?;
    let twice = seen.again > 0 || (seen.arrived == 0 && network.has_company());
    act.proved_if(
        twice && hits > 0,
        format!(
            "{} of {} datagrams came twice, {hits} packets repeated",
            seen.again, seen.arrived
        ),
    );
    act.hold().await;
    act.healing();
    let hits = rule.hits().await?;
    rule.remove().await?;
    let whole = Volley {
        linger: true,
        ..KNOCK
    };
    recovered(&network, from, to, whole, |seen| seen.again == 0).await?;
    act.healed(format!(
        "nothing comes twice, after {hits} repeated packets"
    ));
    Ok(())
}

pub(super) async fn slow(act: &mut Act, target: Target, kbit: u64) -> Result<(), Trouble> {
    need("tc")?;
    let targets = act.aim(target).await?;
    {
        let mut slow = act.scene.slow.lock();
        if targets.iter().any(|member| slow.contains(member)) {
            return skip("its link is slow already");
        }
        slow.extend(&targets);
    }
    let network = act.on_the_network();
    act.installing();
    let rate = format!("{kbit}kbit");
    for member in &targets {
        let shape = [
            "root", "tbf", "rate", &rate, "burst", "2kb", "latency", "2s",
        ];
        let (outward, inward) = (format!("cn{member}"), format!("cv{member}"));
        let mut out = vec!["-n", &outward, "qdisc", "replace", "dev", "eth0"];
        let mut back = vec!["qdisc", "replace", "dev", &inward];
        out.extend(shape);
        back.extend(shape);
        run("tc", &out).await?;
        run("tc", &back).await?;
    }
    let from = Place::Member(targets[0]);
    // About half a second's worth, and more than the burst that passes at once.
    let volley = Volley {
        count: u32::try_from(kbit / 16).unwrap_or(u32::MAX).clamp(10, 500),
        gap: Duration::from_micros(200),
        bytes: 1000,
        patience: Duration::from_secs(4),
        linger: false,
    };
    let seen = crossing::send(from, Place::Observer, volley).await?;
    let measured = rate_of(&seen, volley.bytes);
    let slow = seen.arrived < seen.sent || measured < kbit.saturating_mul(2);
    act.proved_if(
        slow,
        format!(
            "{} of {} datagrams at {measured} kbit/s",
            seen.arrived, seen.sent
        ),
    );
    act.hold().await;
    act.healing();
    for member in &targets {
        let (outward, inward) = (format!("cn{member}"), format!("cv{member}"));
        run(
            "tc",
            &["-n", &outward, "qdisc", "del", "dev", "eth0", "root"],
        )
        .await?;
        run("tc", &["qdisc", "del", "dev", &inward, "root"]).await?;
    }
    let fast = |seen: &Crossing| rate_of(seen, volley.bytes) > kbit;
    recovered(&network, from, Place::Observer, volley, fast).await?;
    let mut slow = act.scene.slow.lock();
    slow.retain(|member| !targets.contains(member));
    drop(slow);
    act.healed("as fast as before");
    Ok(())
}

pub(super) async fn reset(act: &mut Act, target: Target) -> Result<(), Trouble> {
    need("ss")?;
    let targets = act.aim(target).await?;
    act.installing();
    let Some(gone) = until(RECOVERS, || some_of(&targets, true)).await else {
        return skip("nobody is connected to the targets");
    };
    let gone = gone?;
    act.proved(format!("{gone} connections reset"));
    act.hold().await;
    act.healing();
    let new = until(RECOVERS, || some_of(&targets, false)).await;
    let new = new.transpose()?.unwrap_or_default();
    // Nothing is left of a reset: whether new connections are made is up to both ends.
    act.healed(format!("{new} connections made since"));
    Ok(())
}

/// Counts, or also resets, the connections of members, if there are any.
async fn some_of(members: &[Member], reset: bool) -> Option<anyhow::Result<usize>> {
    let mut all = 0;
    for member in members {
        match connections(*member, reset).await {
            Ok(count) => all += count,
            Err(error) => return Some(Err(error)),
        }
    }
    (all > 0).then_some(Ok(all))
}

/// Counts, or also resets, the connections of a member.
async fn connections(member: u64, reset: bool) -> anyhow::Result<usize> {
    let namespace = format!("--net=/run/netns/cn{member}");
    let mut arguments = vec![namespace.as_str(), "--", "ss", "-H", "-tn"];
    if reset {
        arguments.push("-K");
    }
    arguments.extend(["state", "established"]);
    Ok(run("nsenter", &arguments).await?.lines().count())
}

/// Two members whose link stands for all.
fn ends(act: &mut Act) -> Result<(Place, Place), Trouble> {
    act.members = act.everybody();
    match act.members[..] {
        [first, second, ..] => Ok((Place::Member(first), Place::Member(second))),
        _ => skip("there is no link between members"),
    }
}

/// So many that some of them are met by what meets `percent` of a hundred.
fn many(percent: u32) -> Volley {
    Volley {
        count: (800 / percent.max(1)).clamp(50, 800),
        gap: Duration::from_micros(500),
        ..KNOCK
    }
}

/// Kilobits per second.
fn rate_of(seen: &Crossing, bytes: usize) -> u64 {
    let bits = u64::from(seen.arrived) * u64::try_from(bytes).unwrap_or(u64::MAX) * 8;
    let millis = u64::try_from(seen.took.as_millis()).unwrap_or(u64::MAX);
    bits / millis.max(1)
}

/// Sends datagrams until they arrive as they should.
async fn recovered(
    network: &OnTheNetwork,
    from: Place,
    to: Place,
    volley: Volley,
    well: impl Fn(&Crossing) -> bool,
) -> Result<(), Trouble> {
    let began = Instant::now();
    loop {
        let seen = crossing::send(from, to, volley).await?;
        if well(&seen) || network.has_company() {
            return Ok(());
        }
        if began.elapsed() > RECOVERS {
            let what = anyhow::anyhow!("the link is not as it was: {seen:?}");
            return Err(Trouble::Failed(what));
        }
    }
}
