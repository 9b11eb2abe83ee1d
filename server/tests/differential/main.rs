//! Random requests to Baton and to a real etcd, every answer and every event compared.
//!
//! `BATON_DIFF_REQUESTS` sets how many requests are made, `BATON_DIFF_SEED` the seed, which a failure prints;
//! `BATON_DIFF_SUBJECT` names another server to judge in Baton's place. The long run is
//! `BATON_DIFF_REQUESTS=100000 cargo test --release -p batond --test differential -- --nocapture`.
#![allow(clippy::print_stderr, reason = "a test says when it is skipped")]

mod compare;
mod generate;
mod intended;
mod lockstep;
mod request;
mod streams;

use baton_test_cluster::process::Program;
use lockstep::Plant;

fn number_from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: no number"))
    })
}

/// etcd, or a line that says that the test of this name was skipped.
fn etcd_for(test: &str) -> Option<Program> {
    let etcd = Program::installed_etcd();
    if etcd.is_none() {
        eprintln!("SKIPPED {test}: no etcd in $PATH");
    }
    etcd
}

#[tokio::test]
async fn baton_answers_random_requests_as_etcd_does() {
    let Some(etcd) = etcd_for("baton_answers_random_requests_as_etcd_does") else {
        return;
    };
    let subject = std::env::var("BATON_DIFF_SUBJECT")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_batond").to_owned());
    let seed = number_from_environment("BATON_DIFF_SEED", u64::from(std::process::id()));
    let requests = number_from_environment("BATON_DIFF_REQUESTS", 6_000) as usize;
    eprintln!("{requests} requests of seed {seed}");
    for difference in intended::INTENDED {
        eprintln!("intended: {}, because {}", difference.what, difference.why);
    }
    for (what, why) in intended::NORMALISED.iter().chain(intended::AVOIDED) {
        eprintln!("not compared: {what}, because {why}");
    }
    match lockstep::run(
        &Program::new(subject),
        &etcd,
        seed,
        requests,
        Plant::Nothing,
    )
    .await
    {
        Ok(watchers) => eprintln!("no difference in {requests} requests and {watchers} watchers"),
        Err(difference) => panic!(
            "{difference}\nrepeat with BATON_DIFF_SEED={seed} BATON_DIFF_REQUESTS={requests}"
        ),
    }
}

/// Both servers are etcd, so a difference can only be the planted one.
#[tokio::test]
async fn every_planted_difference_is_noticed_in_a_run() {
    let Some(etcd) = etcd_for("every_planted_difference_is_noticed_in_a_run") else {
        return;
    };
    for plant in [
        Plant::Count,
        Plant::LostEvent,
        Plant::PreviousValue,
        Plant::Hash,
    ] {
        let outcome = lockstep::run(&etcd, &etcd, 1, 1_000, plant).await;
        assert!(outcome.is_err(), "{plant:?} went unnoticed");
    }
}
