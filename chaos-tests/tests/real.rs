//! The box, the network, the disks and the faults of real-process mode, each in a box of its own. Where the host cannot make
//! one, or lacks a tool, a test says so and passes.
#![allow(clippy::print_stderr, reason = "a test that is skipped says why")]

use std::future::Future;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use chaos_tests::plan::{DiskKind, Fault, Plan, PlannedFault, Server, Target};
use chaos_tests::real::boxed::{self, Boxed};
use chaos_tests::real::crossing::{self, KNOCK, Volley};
use chaos_tests::real::disk::Disk;
use chaos_tests::real::host::program;
use chaos_tests::real::net::{self, Place, Rule, between};
use chaos_tests::real::shaper::Shaper;
use chaos_tests::real::{episode, probe};
use chaos_tests::seed;

const FIRST: Place = Place::Member(1);
const SECOND: Place = Place::Member(2);

/// Runs `body` in a box: this test's program starts once more, inside, with this test alone.
fn in_a_box<F: Future<Output = ()>>(test: &str, needed: &[&str], body: impl FnOnce(Boxed) -> F) {
    let lacking = needed.iter().find_map(|name| program(name).err());
    if let Some(reason) = lacking.or_else(boxed::missing) {
        eprintln!("{test} is skipped: {reason}");
        return;
    }
    if boxed::is_inside() {
        let boxed = boxed::enter().unwrap();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(body(boxed));
        return;
    }
    let mut inside = boxed::command().unwrap();
    let this = std::env::current_exe().unwrap();
    let status = inside
        .arg(this)
        .args(["--exact", test, "--nocapture"])
        .status();
    assert!(status.unwrap().success(), "{test} failed in its box");
}

#[test]
fn a_cut_holds_both_ways_and_heals() {
    let test = "a_cut_holds_both_ways_and_heals";
    in_a_box(test, &["ip", "nft"], |_| async {
        net::build(2).await.unwrap();
        let open = crossing::send(FIRST, SECOND, KNOCK).await.unwrap();
        assert_eq!(open.arrived, open.sent);

        let pairs = between(&[FIRST], &[SECOND]);
        let rule = Rule::install(&pairs, "", "drop").await.unwrap();
        for (from, to) in pairs {
            assert_eq!(crossing::send(from, to, KNOCK).await.unwrap().arrived, 0);
        }
        assert!(rule.hits().await.unwrap() > 0);
        let clients = crossing::send(Place::Clients, FIRST, KNOCK).await.unwrap();
        assert_eq!(clients.arrived, clients.sent, "clients are not cut off");

        rule.remove().await.unwrap();
        let open = crossing::send(FIRST, SECOND, KNOCK).await.unwrap();
        assert_eq!(open.arrived, open.sent);
        net::tear_down(2).await.unwrap();
        net::build(2).await.unwrap();
    });
}

#[test]
fn a_cut_of_one_direction_leaves_the_other_open() {
    let test = "a_cut_of_one_direction_leaves_the_other_open";
    in_a_box(test, &["ip", "nft"], |_| async {
        net::build(2).await.unwrap();
        let _rule = Rule::install(&[(FIRST, SECOND)], "", "drop").await.unwrap();
        let there = crossing::send(FIRST, SECOND, KNOCK).await.unwrap();
        let back = crossing::send(SECOND, FIRST, KNOCK).await.unwrap();
        assert_eq!((there.arrived, back.arrived), (0, KNOCK.count));
    });
}

#[test]
fn delayed_packets_come_late_and_out_of_order() {
    let test = "delayed_packets_come_late_and_out_of_order";
    in_a_box(test, &["ip", "iptables"], |boxed| async move {
        if let Some(reason) = probe::missing(boxed, "delays").await {
            return eprintln!("{test} is skipped: {reason}");
        }
        net::build(2).await.unwrap();
        let (delay, jitter) = (Duration::from_millis(60), Duration::from_millis(40));
        let chance = seed::stream(1, "delays");
        let shaper = Shaper::install(delay, jitter, chance).await.unwrap();
        let volley = Volley {
            count: 40,
            gap: Duration::from_millis(2),
            patience: Duration::from_secs(2),
            ..KNOCK
        };
        let seen = crossing::send(FIRST, SECOND, volley).await.unwrap();
        assert_eq!(seen.arrived, seen.sent);
        assert!(seen.delays.iter().all(|taken| *taken >= delay - jitter));
        assert!(seen.overtaken > 0);
        assert!(shaper.delayed() >= u64::from(seen.sent));
        shaper.remove().await.unwrap();
    });
}

async fn a_power_cut_on(kind: DiskKind) {
    let home = tempfile::tempdir().unwrap();
    let (image, mount) = (home.path().join("image"), home.path().join("mount"));
    let disk = Disk::make(&image, &mount, kind).await.unwrap().unwrap();
    let (kept, lost) = (mount.join("kept"), mount.join("lost"));
    std::fs::write(&kept, "kept").unwrap();
    for path in [&kept, &mount] {
        std::fs::File::open(path).unwrap().sync_all().unwrap();
    }
    std::fs::write(&lost, "lost").unwrap();
    assert_eq!(read(&lost), "lost", "it is there as long as the power is");

    disk.cut_power().await.unwrap();
    disk.unmount().await.unwrap();
    disk.mount().await.unwrap();
    assert_eq!(read(&kept), "kept");
    assert_eq!(read(&lost), "");
    disk.discard().await.unwrap();
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_power_cut_loses_what_was_not_synced_and_nothing_else() {
    let test = "a_power_cut_loses_what_was_not_synced_and_nothing_else";
    in_a_box(test, &["xfs_io"], |boxed| async move {
        for (kind, ability) in [
            (DiskKind::Ext4, "power cuts on ext4"),
            (DiskKind::Xfs, "power cuts on XFS"),
        ] {
            match probe::missing(boxed, ability).await {
                None => a_power_cut_on(kind).await,
                Some(reason) => eprintln!("{test}, {kind:?}, is skipped: {reason}"),
            }
        }
    });
}

#[test]
fn everything_in_a_box_ends_with_it_even_if_it_is_killed() {
    if let Some(reason) = boxed::missing() {
        return eprintln!("skipped: {reason}");
    }
    let mut inside = boxed::command().unwrap();
    let script = "sleep 1000 & setsid sleep 1000 & echo started; wait";
    inside.args(["sh", "-c", script]).stdout(Stdio::piped());
    let mut outside = inside.spawn().unwrap();
    let mut output = outside.stdout.take().unwrap();
    let mut started = [0; 8];
    output.read_exact(&mut started).unwrap();
    outside.kill().unwrap();
    outside.wait().unwrap();
    // Everybody in the box can write here, so this ends when nobody is left.
    assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn nothing_in_a_box_reaches_the_network_outside() {
    let test = "nothing_in_a_box_reaches_the_network_outside";
    let port = std::env::var("CHAOS_TEST_PORT");
    let Ok(port) = port else {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if let Some(reason) = boxed::missing() {
            return eprintln!("{test} is skipped: {reason}");
        }
        let mut inside: Command = boxed::command().unwrap();
        inside.arg(std::env::current_exe().unwrap());
        inside.args(["--exact", test]);
        inside.env("CHAOS_TEST_PORT", port.to_string());
        assert!(inside.status().unwrap().success());
        return;
    };
    boxed::enter().unwrap();
    let reached = std::net::TcpStream::connect(format!("127.0.0.1:{port}"));
    assert!(reached.is_err());
}

/// `batond` of the same build, or an etcd.
fn a_server() -> Result<std::path::PathBuf, String> {
    let this = std::env::current_exe().unwrap_or_default();
    let built = this.parent().and_then(Path::parent);
    let built = built.map(|directory| directory.join("batond"));
    match built.filter(|server| server.is_file()) {
        Some(server) => Ok(server),
        None => program("batond").or_else(|_| program("etcd")),
    }
}

#[test]
fn faults_of_a_plan_are_made_proved_and_healed() {
    let test = "faults_of_a_plan_are_made_proved_and_healed";
    let server = match a_server() {
        Ok(server) => server,
        Err(reason) => return eprintln!("{test} is skipped: {reason}"),
    };
    in_a_box(test, &["ip", "nft", "nsenter"], |boxed| async move {
        let target = Target::Leader;
        let faults = [
            Fault::Pause { target },
            Fault::Isolate { target },
            Fault::Kill { target },
        ];
        let planned = (0..).zip(faults).map(|(number, fault)| PlannedFault {
            at_ms: 200 + 2500 * number,
            hold_ms: 300,
            fault,
        });
        let plan = Plan {
            name: test.into(),
            seed: 1,
            members: 3,
            server: Server::default(),
            duration_ms: 7000,
            workloads: Vec::new(),
            faults: planned.collect(),
            gates: Vec::new(),
        };
        let home = tempfile::tempdir().unwrap();
        let verdict = episode::play(boxed, &plan, &server, home.path()).await;
        let verdict = verdict.unwrap();
        let faults = verdict.judgements.iter().find(|it| it.checker == "faults");
        let faults = faults.unwrap();
        assert_eq!(faults.facts["proved"], 3, "{faults:?}");
        assert!(faults.harness_errors.is_empty(), "{faults:?}");
        let run = chaos_tests::run::Run::load(home.path()).unwrap();
        assert!(run.log(1).is_file());
    });
}
