//! Cuts: packets between some places are dropped, all others pass.
//!
//! A cut is proved by datagrams that do not cross and by the rule's counter; that it is gone, by datagrams that do.

use std::time::Duration;

use futures_util::future::try_join_all;
use rand::seq::SliceRandom;
use tokio::time::Instant;

use super::{Act, OnTheNetwork, Trouble, names, need, places, skip};
use crate::history::Member;
use crate::plan::Target;
use crate::real::crossing::{self, KNOCK};
use crate::real::net::{Place, Rule, between};

/// How long a path that was opened may take to let something through.
const OPENS: Duration = Duration::from_secs(2);

pub(super) async fn isolate(act: &mut Act, target: Target) -> Result<(), Trouble> {
    let inside = act.aim(target).await?;
    let outside = others(act, &inside)?;
    let pairs = between(&places(&inside), &places(&outside));
    let text = format!(
        "nothing passes between {} and {}",
        names(&inside),
        names(&outside)
    );
    hold(act, pairs, text).await
}

pub(super) async fn one_way(act: &mut Act, target: Target, inbound: bool) -> Result<(), Trouble> {
    let inside = act.aim(target).await?;
    let outside = others(act, &inside)?;
    let pairs = between(&places(&inside), &places(&outside));
    let inside = places(&inside);
    let one_way = pairs
        .into_iter()
        .filter(|(_, to)| inside.contains(to) == inbound)
        .collect();
    let text = if inbound {
        "the target hears nothing from the others"
    } else {
        "the others hear nothing from the target"
    };
    hold(act, one_way, text.to_owned()).await
}

pub(super) async fn bridge(act: &mut Act) -> Result<(), Trouble> {
    let mut all = act.everybody();
    if all.len() < 3 {
        return skip("a bridge needs two sides");
    }
    all.shuffle(&mut act.chance);
    let (middle, sides) = (all[0], &all[1..]);
    let (left, right) = sides.split_at(sides.len() / 2);
    let pairs = between(&places(left), &places(right));
    let text = format!(
        "{} and {} see each other only through m{middle}",
        names(left),
        names(right)
    );
    act.members = all.clone();
    hold(act, pairs, text).await
}

pub(super) async fn ring(act: &mut Act) -> Result<(), Trouble> {
    let mut all = act.everybody();
    let count = all.len();
    if count < 5 {
        return skip("a ring of overlapping majorities needs five members");
    }
    all.shuffle(&mut act.chance);
    let mut pairs = Vec::new();
    for (index, a) in all.iter().enumerate() {
        for (other, b) in all.iter().enumerate().skip(index + 1) {
            let apart = other - index;
            if apart != 1 && apart != count - 1 {
                pairs.extend(between(&places(&[*a]), &places(&[*b])));
            }
        }
    }
    act.members = all.clone();
    let text = format!("each sees only its neighbours in {}", names(&all));
    hold(act, pairs, text).await
}

pub(super) async fn clients(act: &mut Act, target: Target) -> Result<(), Trouble> {
    let inside = act.aim(target).await?;
    let pairs = between(&places(&inside), &[Place::Clients]);
    let text = format!("no client gets through to {}", names(&inside));
    hold(act, pairs, text).await
}

pub(super) async fn flap(act: &mut Act, target: Target, period_ms: u64) -> Result<(), Trouble> {
    let inside = act.aim(target).await?;
    let outside = others(act, &inside)?;
    let pairs = between(&places(&inside), &places(&outside));
    let period = Duration::from_millis(period_ms);
    need("nft")?;
    let network = act.on_the_network();
    act.installing();
    let mut rule = Some(Rule::install(&pairs, "", "drop").await?);
    prove(act, &pairs, rule.as_ref(), "cut and joined, over and over").await?;
    let mut cuts = 1;
    while act.holds() {
        act.wait(period).await;
        match rule.take() {
            Some(rule) => rule.remove().await?,
            None => {
                rule = Some(Rule::install(&pairs, "", "drop").await?);
                cuts += 1;
            }
        }
    }
    act.healing();
    if let Some(rule) = rule {
        rule.remove().await?;
    }
    healed(act, &pairs, &network, &format!(" after {cuts} cuts")).await
}

pub(super) async fn swizzle(act: &mut Act) -> Result<(), Trouble> {
    let mut all = act.everybody();
    if all.len() < 2 {
        return skip("there is nobody to be cut off from");
    }
    need("nft")?;
    act.members = all.clone();
    let network = act.on_the_network();
    act.installing();
    all.shuffle(&mut act.chance);
    let step = act.hold / u32::try_from(all.len() * 2).unwrap_or(2);
    let mut rules = Vec::new();
    let mut pairs = Vec::new();
    for member in &all {
        let alone = between(&places(&[*member]), &places(&act.everybody()));
        let rule = Rule::install(&alone, "", "drop").await?;
        if rules.is_empty() {
            prove(
                act,
                &alone,
                Some(&rule),
                "the first is cut off, the others follow",
            )
            .await?;
        }
        rules.push(rule);
        pairs.extend(alone);
        act.wait(step).await;
    }
    rules.shuffle(&mut act.chance);
    act.healing();
    let mut cut_off = rules.len();
    for rule in rules {
        rule.remove().await?;
        cut_off -= 1;
        if cut_off > 0 {
            act.wait(step).await;
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    healed(act, &pairs, &network, " in another order").await
}

/// Everybody who is not among `inside`.
fn others(act: &Act, inside: &[Member]) -> Result<Vec<Member>, Trouble> {
    let mut outside = act.everybody();
    outside.retain(|member| !inside.contains(member));
    if outside.is_empty() {
        return skip("there is nobody to be cut off from");
    }
    Ok(outside)
}

async fn hold(act: &mut Act, pairs: Vec<(Place, Place)>, text: String) -> Result<(), Trouble> {
    need("nft")?;
    let network = act.on_the_network();
    act.installing();
    let rule = Rule::install(&pairs, "", "drop").await?;
    prove(act, &pairs, Some(&rule), &text).await?;
    act.hold().await;
    act.healing();
    let hits = rule.hits().await?;
    rule.remove().await?;
    healed(
        act,
        &pairs,
        &network,
        &format!(" after {hits} packets were dropped"),
    )
    .await
}

async fn prove(
    act: &mut Act,
    pairs: &[(Place, Place)],
    rule: Option<&Rule>,
    text: &str,
) -> Result<(), Trouble> {
    let knocks = pairs.iter().map(|(from, to)| async {
        let open = crossing::send(*from, *to, KNOCK).await?.arrived > 0;
        let path = format!("{} to {}", from.address(), to.address());
        anyhow::Ok(open.then_some(path))
    });
    let open: Vec<String> = try_join_all(knocks).await?.into_iter().flatten().collect();
    let hits = match rule {
        Some(rule) => rule.hits().await?,
        None => 0,
    };
    if open.is_empty() && hits > 0 {
        act.proved(format!(
            "{text}: no datagram crosses, {hits} packets dropped"
        ));
    } else {
        act.unproved(format!("open: {}; {hits} packets dropped", open.join(", ")));
    }
    Ok(())
}

async fn healed(
    act: &Act,
    pairs: &[(Place, Place)],
    network: &OnTheNetwork,
    text: &str,
) -> Result<(), Trouble> {
    let began = Instant::now();
    for (from, to) in pairs {
        while crossing::send(*from, *to, KNOCK).await?.arrived == 0 {
            if network.has_company() {
                act.healed(format!(
                    "its rules are gone{text}; another fault holds the network"
                ));
                return Ok(());
            }
            if began.elapsed() > OPENS {
                return Err(Trouble::Failed(anyhow::anyhow!(
                    "nothing gets from {} to {} though the cut is gone",
                    from.address(),
                    to.address()
                )));
            }
        }
    }
    act.healed(format!("datagrams cross again{text}"));
    Ok(())
}
