//! Commands under locks, as processes: what becomes of them when their `batonctl` is killed, stopped or cut off.

#[path = "support/running.rs"]
mod running;
mod support;

use baton_test_cluster::process::Cluster;
use running::{Running, Wire, gone, only_child, signal_group, tells};
use rustix::process::{Pid, Signal};
use support::{Tool, baton};
use tempfile::TempDir;

/// A server, and a directory that commands tell each other things in.
struct Scene {
    _cluster: Cluster,
    address: String,
    directory: TempDir,
}

/// Prints whether the command that wrote `first` is alive, then what else it is told.
const SECOND: &str = "if kill -0 $(cat first) 2>/dev/null; then echo BOTH; else echo ALONE; fi";

impl Scene {
    async fn begin() -> Self {
        let cluster = Cluster::start(&baton(), 1).await.expect("it starts");
        Self {
            address: cluster.members[0].address(),
            _cluster: cluster,
            directory: TempDir::new().expect("a directory"),
        }
    }

    /// Runs `script` under the lock, in the directory.
    fn lock_at(&self, endpoint: &str, flags: &[&str], script: &str) -> Running {
        let script = format!("cd {} && {script}", self.directory.path().display());
        let mut arguments = vec!["lock", "name"];
        arguments.extend(flags);
        arguments.extend(["--", "sh", "-c", &script]);
        Running::start(endpoint, &arguments)
    }

    fn lock(&self, flags: &[&str], script: &str) -> Running {
        self.lock_at(&self.address, flags, script)
    }

    /// A holder whose command says who it is, ignores what it is asked, and would go on for ever.
    async fn stubborn_holder_at(&self, endpoint: &str, ttl: &str) -> (Running, Pid) {
        let script = "trap '' TERM; echo $$ > first; echo $$; while :; do sleep 0.05; done";
        let mut holder = self.lock_at(endpoint, &["--ttl", ttl], script);
        let pid = holder.line().await.parse().expect("a pid");
        (holder, Pid::from_raw(pid).expect("a pid"))
    }

    async fn stubborn_holder(&self, ttl: &str) -> (Running, Pid) {
        self.stubborn_holder_at(&self.address, ttl).await
    }

    async fn ctl(&self, line: &str) -> support::Output {
        Tool::batonctl().run(&self.address, line, "").await
    }
}

#[tokio::test]
async fn the_exit_code_of_the_command_is_passed_on() {
    let scene = Scene::begin().await;
    let (status, story) = scene.lock(&[], "exit 7").ended().await;
    assert_eq!(status.code(), Some(7), "{story}");
    let (status, story) = scene.lock(&[], "kill -TERM $$").ended().await;
    assert_eq!(status.code(), Some(143), "{story}");
    let missing = ["lock", "name", "--", "/no/such/program"];
    let (status, story) = Running::start(&scene.address, &missing).ended().await;
    assert_eq!(status.code(), Some(127), "{story}");
    assert_eq!(scene.ctl("get name --prefix").await.out, "");
}

#[tokio::test]
async fn the_command_finds_token_and_key_in_its_environment() {
    let scene = Scene::begin().await;
    let mut running = scene.lock(&[], "echo $BATON_FENCING_TOKEN $BATON_LOCK_KEY; sleep 60");
    let line = running.line().await;
    let (token, key) = line.split_once(' ').expect("two words");
    let found = scene.ctl(&format!("get {key} -w fields")).await.out;
    assert!(
        found.contains(&format!("\"CreateRevision\" : {token}\n")),
        "{line}: {found}"
    );
}

#[tokio::test]
async fn signals_are_passed_on_to_the_command() {
    let scene = Scene::begin().await;
    let script = "trap 'echo usr1' USR1; trap 'echo int; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    let mut running = scene.lock(&[], script);
    assert_eq!(running.line().await, "ready");
    running.signal(Signal::USR1);
    assert_eq!(running.line().await, "usr1");
    running.signal(Signal::INT);
    assert_eq!(running.line().await, "int");
    let (status, story) = running.ended().await;
    assert_eq!(status.code(), Some(5), "{story}");
}

#[tokio::test]
async fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    let scene = Scene::begin().await;
    let script = "trap '' HUP; exec \"$BATONCTL\" lock name -- \
         sh -c 'trap \"exit 5\" INT; echo ready; while :; do sleep 0.05; done'";
    let mut running = Running::start_program("sh", &scene.address, &["-c", script]);
    assert_eq!(running.line().await, "ready");
    running.signal(Signal::HUP);
    running.signal(Signal::INT);
    let (status, story) = running.ended().await;
    assert_eq!(status.code(), Some(5), "{story}");
}

#[tokio::test]
async fn a_lock_whose_name_is_that_of_a_subcommand_stands_behind_a_separator() {
    let scene = Scene::begin().await;
    let mut running = Running::start(&scene.address, &["lock", "--", "list"]);
    let key = running.line().await;
    assert!(key.starts_with("list/"), "{key}");
}

#[tokio::test]
async fn a_command_dies_with_its_killed_batonctl_before_the_next_runs() {
    let scene = Scene::begin().await;
    let (holder, command) = scene.stubborn_holder("2").await;
    holder.signal(Signal::KILL);
    let mut next = scene.lock(&[], SECOND);
    assert_eq!(next.line().await, "ALONE");
    gone(command).await;
}

#[tokio::test]
async fn a_command_dies_with_its_killed_guard() {
    let scene = Scene::begin().await;
    let (holder, command) = scene.stubborn_holder("2").await;
    rustix::process::kill_process(holder.guard(), Signal::KILL).expect("it runs");
    gone(command).await;
    let (status, story) = holder.ended().await;
    assert_eq!(status.code(), Some(76), "{story}");
}

#[tokio::test]
async fn a_command_whose_guard_is_paused_dies_when_its_batonctl_is_cut_off() {
    let scene = Scene::begin().await;
    let wire = Wire::to(scene.address.clone()).await;
    let (holder, command) = scene.stubborn_holder_at(&wire.address, "2").await;
    rustix::process::kill_process(holder.guard(), Signal::STOP).expect("it runs");
    wire.cut();
    let mut next = scene.lock(&[], SECOND);
    assert_eq!(next.line().await, "ALONE");
    gone(command).await;
    let (status, story) = holder.ended().await;
    assert_eq!(status.code(), Some(76), "{story}");
}

#[tokio::test]
async fn a_command_dies_though_its_batonctl_is_paused_before_the_next_runs() {
    let scene = Scene::begin().await;
    let (holder, command) = scene.stubborn_holder("2").await;
    holder.signal(Signal::STOP);
    let mut next = scene.lock(&[], SECOND);
    assert_eq!(next.line().await, "ALONE");
    gone(command).await;
    holder.signal(Signal::CONT);
    let (status, story) = holder.ended().await;
    assert_eq!(status.code(), Some(76), "{story}");
    assert!(story.contains("lost the lock \"name\""), "{story}");
}

/// The one case in which two commands are there at once: nobody was there to stop the first.
#[tokio::test]
async fn of_a_command_that_was_paused_with_its_batonctl_and_its_guard_the_fenced_write_fails() {
    let scene = Scene::begin().await;
    let script = "echo $$ > first; echo $$; until test -e go; do sleep 0.05; done; \
         \"$BATONCTL\" put --fence result first 2>refusal; echo rc=$?; sleep 60";
    let mut holder = scene.lock(&["--ttl=4"], script);
    let command = holder.line().await.parse().expect("a pid");
    let command = Pid::from_raw(command).expect("a pid");
    let guard = holder.guard();
    assert_eq!(only_child(guard), command);
    signal_group(guard, Signal::STOP);
    holder.signal(Signal::STOP);
    signal_group(command, Signal::STOP);
    let script = format!("{SECOND}; \"$BATONCTL\" put --fence result second");
    let mut next = scene.lock(&[], &script);
    assert_eq!(next.line().await, "BOTH");
    assert_eq!(next.line().await, "OK");
    // The command goes on before anybody can stop it.
    std::fs::write(scene.directory.path().join("go"), "").expect("a file");
    signal_group(command, Signal::CONT);
    assert_eq!(holder.line().await, "rc=76");
    let refusal = std::fs::read_to_string(scene.directory.path().join("refusal"));
    assert!(
        refusal
            .expect("a file")
            .contains("is not held any more: nothing was done")
    );
    signal_group(guard, Signal::CONT);
    gone(command).await;
    holder.signal(Signal::CONT);
    let (status, story) = holder.ended().await;
    assert_eq!(status.code(), Some(76), "{story}");
    assert_eq!(scene.ctl("get result").await.out, "result\nsecond\n");
}

#[tokio::test]
async fn a_command_whose_batonctl_is_cut_off_dies_before_the_next_runs() {
    let scene = Scene::begin().await;
    let wire = Wire::to(scene.address.clone()).await;
    let (holder, command) = scene.stubborn_holder_at(&wire.address, "4").await;
    wire.cut();
    let mut next = scene.lock(&[], SECOND);
    assert_eq!(next.line().await, "ALONE");
    gone(command).await;
    let (status, story) = holder.ended().await;
    assert_eq!(status.code(), Some(76), "{story}");
    for text in [
        "a renewal has no answer",
        "stopping the command before the lock can be lost (SIGTERM",
        "killing the command (SIGKILL)",
        "lost the lock \"name\"",
    ] {
        assert!(story.contains(text), "{text:?} is missing: {story}");
    }
}

#[tokio::test]
async fn one_who_is_cut_off_while_waiting_is_told_that_the_place_is_lost() {
    let scene = Scene::begin().await;
    let wire = Wire::to(scene.address.clone()).await;
    let mut holder = scene.lock(&[], "echo ready; sleep 60");
    assert_eq!(holder.line().await, "ready");
    let waiting = scene.lock_at(&wire.address, &["--ttl=2"], "echo never");
    tells(&waiting, "waiting for the lock").await;
    wire.cut();
    let (status, story) = waiting.ended().await;
    assert_eq!(status.code(), Some(75), "{story}");
    for text in [
        "a renewal has no answer; the place in line for the lock \"name\"",
        "the lock \"name\" was not obtained, and the place in line is lost",
    ] {
        assert!(story.contains(text), "{text:?} is missing: {story}");
    }
}

#[tokio::test]
async fn a_candidate_that_repeats_leads_again_after_it_was_cut_off_for_long() {
    let scene = Scene::begin().await;
    let wire = Wire::to(scene.address.clone()).await;
    let flags = [
        "--ttl=2",
        "--repeat",
        "--dial-timeout=100ms",
        "--command-timeout=100ms",
    ];
    let mut arguments = vec!["elect", "name", "me"];
    arguments.extend(flags);
    arguments.extend(["--", "sh", "-c", "echo leads; exec sleep 600"]);
    let mut candidate = Running::start(&wire.address, &arguments);
    assert_eq!(candidate.line().await, "leads");
    wire.cut();
    tells(&candidate, "the command was stopped; standing again").await;
    // The first attempt failed as well.
    tells(&candidate, "no endpoint could be reached").await;
    wire.mend();
    assert_eq!(candidate.line().await, "leads");
}

#[tokio::test]
async fn one_who_cannot_print_its_key_lets_go_of_the_lock() {
    let scene = Scene::begin().await;
    let script = "exec \"$BATONCTL\" lock name > /dev/full";
    let running = Running::start_program("sh", &scene.address, &["-c", script]);
    let (status, story) = running.ended().await;
    assert_eq!(status.code(), Some(1), "{story}");
    assert_eq!(scene.ctl("get name/ --prefix").await.out, "", "{story}");
}

#[tokio::test]
async fn a_release_that_is_not_answered_is_told_of_and_ends() {
    let scene = Scene::begin().await;
    let wire = Wire::to(scene.address.clone()).await;
    let flags = ["--ttl=1h", "--command-timeout=100ms"];
    let mut holder = scene.lock_at(&wire.address, &flags, "echo ready; exec sleep 600");
    assert_eq!(holder.line().await, "ready");
    wire.cut();
    holder.signal(Signal::TERM);
    let (status, story) = holder.ended().await;
    assert_eq!(status.code(), Some(143), "{story}");
    let token = scene.ctl("lock list -w json").await.out;
    let token = token.split("\"token\":").nth(1).expect("it is held");
    let token = token.split(',').next().expect("a number");
    let line = format!("lock release name --token={token}");
    assert!(story.contains(&format!("batonctl {line}")), "{story}");
    assert_eq!(scene.ctl(&line).await.code, Some(0));
}

#[tokio::test]
async fn a_label_of_several_lines_takes_one() {
    let scene = Scene::begin().await;
    let mut holder = scene.lock(&["--label=a\nb\u{1b}[2J"], "echo ready; sleep 60");
    assert_eq!(holder.line().await, "ready");
    for line in ["lock list", "lock show name", "lock show name -w table"] {
        let out = scene.ctl(line).await.out;
        assert!(out.contains("a\\nb\\u{1b}[2J"), "{line}: {out}");
    }
    let (_, story) = scene.lock(&["--try"], "echo never").ended().await;
    assert!(story.contains("held by a\\nb"), "{story}");
}

#[tokio::test]
async fn a_command_that_is_stopped_takes_what_it_started_with_it() {
    let scene = Scene::begin().await;
    let mut holder = scene.lock(
        &["--ttl=2"],
        "sleep 600 & echo $!; trap 'exit 0' TERM; wait",
    );
    let child = holder.line().await.parse().expect("a pid");
    holder.signal(Signal::STOP);
    gone(Pid::from_raw(child).expect("a pid")).await;
    holder.signal(Signal::CONT);
    let (status, story) = holder.ended().await;
    assert_eq!(status.code(), Some(76), "{story}");
}

#[tokio::test]
async fn a_lock_that_is_forced_to_be_released_kills_the_command() {
    let scene = Scene::begin().await;
    let (holder, command) = scene.stubborn_holder("60").await;
    let shown = scene.ctl("lock show name -w json").await.out;
    let (_, rest) = shown.split_once("\"token\":").expect("a token");
    let token = rest.split(',').next().expect("a number");
    let released = scene
        .ctl(&format!("lock release name --token {token}"))
        .await;
    assert_eq!(released.code, Some(0), "{released}");
    gone(command).await;
    let (status, story) = holder.ended().await;
    assert_eq!(status.code(), Some(76), "{story}");
    assert!(story.contains("forced to be released"), "{story}");
    let again = scene
        .ctl(&format!("lock release name --token {token}"))
        .await;
    assert_eq!(again.code, Some(1), "{again}");
}

#[tokio::test]
async fn a_lock_that_is_taken_is_told_apart_by_the_exit_code() {
    let scene = Scene::begin().await;
    let mut holder = scene.lock(&["--label=the first"], "echo ready; sleep 60");
    assert_eq!(holder.line().await, "ready");
    for flag in ["--try", "--timeout=10ms"] {
        let (status, story) = scene.lock(&[flag], "echo never").ended().await;
        assert_eq!(status.code(), Some(75), "{story}");
        assert!(story.contains("held by the first (token "), "{story}");
    }
    let list = scene.ctl("lock list").await.out;
    assert!(
        list.contains("name") && list.contains("the first"),
        "{list}"
    );
    assert!(
        list.contains(" 0  the first"),
        "nobody waits any more: {list}"
    );
}

#[tokio::test]
async fn one_who_is_interrupted_while_waiting_leaves_no_key() {
    let scene = Scene::begin().await;
    let mut holder = scene.lock(&[], "echo ready; sleep 60");
    assert_eq!(holder.line().await, "ready");
    let waiting = scene.lock(&[], "echo never");
    tells(&waiting, "waiting for the lock").await;
    waiting.signal(Signal::INT);
    let (status, story) = waiting.ended().await;
    assert_eq!(status.code(), Some(130), "{story}");
    assert_eq!(
        scene
            .ctl("get name/ --prefix --keys-only")
            .await
            .out
            .lines()
            .count(),
        2
    );
}

#[tokio::test]
async fn a_lock_without_a_command_is_held_until_a_signal_as_etcdctl_holds_it() {
    let scene = Scene::begin().await;
    let mut holder = Running::start(&scene.address, &["lock", "name"]);
    let key = holder.line().await;
    assert!(key.starts_with("name/"), "{key}");
    assert_eq!(holder.line().await, "");
    holder.signal(Signal::TERM);
    let (status, story) = holder.ended().await;
    assert_eq!(status.code(), Some(0), "{story}");
    assert_eq!(scene.ctl("get name --prefix").await.out, "");
}

#[tokio::test]
async fn etcdctl_and_batonctl_wait_for_each_other() {
    let scene = Scene::begin().await;
    let Some(etcdctl) = Tool::etcdctl() else {
        return;
    };
    let mut holder = scene.lock(
        &[],
        "echo ready; until test -e go; do sleep 0.05; done; echo first >> order",
    );
    assert_eq!(holder.line().await, "ready");
    let order = scene.directory.path().join("order");
    let theirs = format!("lock name -- tee -a {}", order.display());
    let theirs = tokio::spawn({
        let address = scene.address.clone();
        async move { etcdctl.run(&address, &theirs, "").await }
    });
    let in_line = async {
        while scene
            .ctl("get name/ --prefix --keys-only")
            .await
            .out
            .lines()
            .count()
            < 4
        {
            baton_test_cluster::process::poll_again().await;
        }
    };
    tokio::time::timeout(support::LIMIT, in_line)
        .await
        .expect("etcdctl waits");
    let last = scene.lock(&[], "echo last >> order");
    std::fs::write(scene.directory.path().join("go"), "").expect("a file");
    let (status, story) = last.ended().await;
    assert_eq!(status.code(), Some(0), "{story}");
    assert_eq!(theirs.await.expect("it ends").code, Some(0));
    assert_eq!(
        std::fs::read_to_string(order).expect("a file"),
        "first\nlast\n"
    );
}

#[tokio::test]
async fn a_name_or_a_time_that_makes_no_sense_is_refused_with_what_to_do() {
    let scene = Scene::begin().await;
    for (line, text) in [
        ("lock  -- true", "at least one character"),
        ("lock a/ -- true", "leave the last '/' out"),
        ("lock a --ttl=0 -- true", "give it a second or more"),
        ("lock a --ttl=-3 -- true", "--ttl"),
        ("lock a --ttl=soon -- true", "--ttl"),
        ("lock a --ttl=10 --grace=9 -- true", "raise --ttl"),
        ("lock release a --token=0", "see batonctl lock show"),
        ("lock release a --token=5", "look again"),
        ("put --fence k v", "BATON_FENCING_TOKEN"),
        ("put --fence=nonsense k v", "KEY@TOKEN"),
        ("put --fence=a@0 k v", "greater than 0"),
    ] {
        let outcome = scene.ctl(line).await;
        assert_ne!(outcome.code, Some(0), "{line}: {outcome}");
        assert!(outcome.err.contains(text), "{line}: {outcome}");
    }
}

#[tokio::test]
async fn a_command_runs_only_while_its_batonctl_leads() {
    let scene = Scene::begin().await;
    let elect = |value: &str, script: &str| {
        let arguments = ["elect", "name", value, "--ttl=2", "--", "sh", "-c", script];
        Running::start(&scene.address, &arguments)
    };
    let mut listener = Running::start(&scene.address, &["elect", "-l", "name"]);
    let mut first = elect("a", "trap '' TERM; echo $$; while :; do sleep 0.05; done");
    let command = Pid::from_raw(first.line().await.parse().expect("a pid")).expect("a pid");
    assert!(listener.line().await.starts_with("name/"));
    assert_eq!(listener.line().await, "a");
    let script = "trap 'exit 4' USR1; echo $BATON_ELECTION_VALUE; while :; do sleep 0.05; done";
    let mut second = elect("b", script);
    first.signal(Signal::STOP);
    assert_eq!(second.line().await, "b");
    gone(command).await;
    // An observer is told of who leads when it looks, not of everybody who ever led.
    assert!(listener.line().await.starts_with("name/"));
    assert_eq!(listener.line().await, "b");
    second.signal(Signal::USR1);
    let (status, story) = second.ended().await;
    assert_eq!(status.code(), Some(4), "{story}");
}
