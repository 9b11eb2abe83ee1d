//! What an operator may find in the morning: state lost or garbled, a log damaged, a disk full, a member
//! far behind. Real processes on real directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use baton_test_cluster::client::Client;
use baton_test_cluster::history::Seen;
use baton_test_cluster::process::{Cluster, Member, Program, poll_again};
use baton_test_cluster::watcher::ReconnectingWatcher;

type Result<T = ()> = anyhow::Result<T>;

fn batond() -> Program {
    Program::new(env!("CARGO_BIN_EXE_batond"))
}

/// A server that forgets its log as soon as it may.
fn forgetful() -> Program {
    batond()
        .flag("--snapshot-count=100")
        .flag("--snapshot-catchup-entries=10")
}

/// Puts a key. It has as long as the server gives it: on a busy machine many at once take their time.
async fn put(client: &Client, key: String) -> Result {
    let request = pb::PutRequest {
        key: key.into(),
        value: "value".into(),
        ..pb::PutRequest::default()
    };
    client.kv().put(request).await?;
    Ok(())
}

/// Puts `count` keys one after the other.
async fn fill(member: &Member, prefix: &str, count: usize) -> Result {
    let client = member.client();
    for number in 0..count {
        put(&client, format!("{prefix}{number}")).await?;
    }
    Ok(())
}

/// Puts `count` keys, many at a time.
async fn fill_fast(member: &Member, prefix: &str, count: usize) -> Result {
    let client = member.client();
    let puts = (0..count).map(|number| put(&client, format!("{prefix}{number}")));
    futures_util::future::try_join_all(puts).await?;
    Ok(())
}

/// Hash of everything, read from a member that has caught up with what was acknowledged.
async fn hash(member: &Member) -> Result<pb::HashKvResponse> {
    let client = member.client();
    let revision = client.revision().await?;
    Ok(client.hash_kv(revision).await?)
}

async fn assert_same_content(one: &Member, other: &Member) -> Result {
    let (one, other) = (hash(one).await?, hash(other).await?);
    assert_eq!(
        (one.hash, one.hash_revision, one.compact_revision),
        (other.hash, other.hash_revision, other.compact_revision)
    );
    Ok(())
}

fn in_member_dir(member: &Member, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(member.data_directory().join("member")) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| name.starts_with(prefix))
        })
        .collect()
}

fn remove_state(member: &Member) -> Result {
    for path in in_member_dir(member, "state-") {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

/// Writes over the beginning of every file below `path`.
fn garble(path: &Path) -> Result {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            garble(&entry?.path())?;
        }
        return Ok(());
    }
    let mut content = fs::read(path)?;
    content.iter_mut().take(64).for_each(|byte| *byte ^= 0x5a);
    Ok(fs::write(path, content)?)
}

fn first_segment(member: &Member) -> PathBuf {
    let directory = member.data_directory().join("member/log");
    let entries = fs::read_dir(directory).expect("a log");
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let segments = paths.filter(|path| path.extension().is_some_and(|end| end == "log"));
    segments.min().expect("a segment")
}

/// Starts the member again without what describes a first start.
fn without_initial_flags(member: &Member) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batond"));
    let arguments = member.arguments().into_iter();
    command.args(arguments.filter(|flag| !flag.starts_with("--initial-cluster")));
    command
}

/// The reason in the last line of a start that was refused.
fn refusal(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().expect("a last line");
    let line: serde_json::Value = serde_json::from_str(last).expect("a line of JSON");
    assert_eq!(line["level"], "error", "{last}");
    line["error"].as_str().expect("an error").to_owned()
}

fn assert_says(reason: &str, parts: &[&str]) {
    for part in parts {
        assert!(reason.contains(part), "{part:?} is not in {reason:?}");
    }
}

/// A single member with some keys, stopped hard.
async fn stopped_single(program: &Program) -> Result<Cluster> {
    let mut cluster = Cluster::start(program, 1).await?;
    fill(&cluster.members[0], "key", 20).await?;
    cluster.members[0].kill();
    Ok(cluster)
}

#[tokio::test]
async fn a_lost_state_is_rebuilt_from_the_log() -> Result {
    let mut cluster = Cluster::start(&batond(), 1).await?;
    fill(&cluster.members[0], "key", 20).await?;
    let before = hash(&cluster.members[0]).await?.hash;
    cluster.members[0].kill();
    remove_state(&cluster.members[0])?;
    cluster.members[0].start()?;
    cluster.ready().await?;
    assert_eq!(hash(&cluster.members[0]).await?.hash, before);
    Ok(())
}

#[tokio::test]
async fn a_garbled_state_is_rebuilt_from_the_log() -> Result {
    let mut cluster = Cluster::start(&batond(), 1).await?;
    fill(&cluster.members[0], "key", 20).await?;
    let before = hash(&cluster.members[0]).await?.hash;
    cluster.members[0].kill();
    for path in in_member_dir(&cluster.members[0], "state-") {
        garble(&path)?;
    }
    cluster.members[0].start()?;
    cluster.ready().await?;
    assert_eq!(hash(&cluster.members[0]).await?.hash, before);
    Ok(())
}

#[tokio::test]
async fn a_single_member_without_state_whose_log_was_purged_says_to_restore_a_backup() -> Result {
    let mut cluster = Cluster::start(&forgetful(), 1).await?;
    fill_fast(&cluster.members[0], "key", 300).await?;
    cluster.members[0].terminate().await?;
    remove_state(&cluster.members[0])?;
    let reason = refusal(&cluster.members[0].command().output()?);
    assert_says(&reason, &["the applied state is gone", "from a backup"]);
    Ok(())
}

#[tokio::test]
async fn the_damaged_state_of_a_single_member_whose_log_was_purged_is_left_alone() -> Result {
    let mut cluster = Cluster::start(&forgetful(), 1).await?;
    fill_fast(&cluster.members[0], "key", 300).await?;
    cluster.members[0].terminate().await?;
    let state = in_member_dir(&cluster.members[0], "state-").remove(0);
    garble(&state)?;
    let marks = || fs::read(state.join("version"));
    let before = marks()?;
    let reason = refusal(&cluster.members[0].command().output()?);
    assert_says(&reason, &["is damaged", "Nothing was changed", "backup"]);
    assert_eq!(marks()?, before);
    Ok(())
}

#[tokio::test]
async fn a_state_whose_creation_was_cut_short_is_created_anew() -> Result {
    let mut cluster = stopped_single(&batond()).await?;
    let state = in_member_dir(&cluster.members[0], "state-").remove(0);
    // Everything but what is written last.
    fs::remove_file(state.join("version"))?;
    cluster.members[0].start()?;
    cluster.ready().await
}

#[tokio::test]
async fn a_lost_state_beyond_a_purged_log_is_rebuilt_from_another_member() -> Result {
    let mut cluster = Cluster::start(&forgetful(), 3).await?;
    fill_fast(&cluster.members[0], "key", 300).await?;
    cluster.members[2].kill();
    remove_state(&cluster.members[2])?;
    cluster.members[2].start()?;
    cluster.ready().await?;
    assert_same_content(&cluster.members[0], &cluster.members[2]).await
}

#[tokio::test]
async fn a_lost_state_beyond_a_purged_log_asks_for_the_other_members_where_none_are_named() -> Result
{
    let mut cluster = Cluster::start(&forgetful(), 3).await?;
    fill_fast(&cluster.members[0], "key", 300).await?;
    cluster.members[2].kill();
    remove_state(&cluster.members[2])?;
    let mut command = without_initial_flags(&cluster.members[2]);
    let reason = refusal(&command.output()?);
    assert_says(&reason, &["the applied state is gone", "--initial-cluster"]);
    Ok(())
}

#[tokio::test]
async fn a_garbled_log_is_refused_by_file_and_offset() -> Result {
    let cluster = stopped_single(&batond()).await?;
    let segment = first_segment(&cluster.members[0]);
    let mut content = fs::read(&segment)?;
    content[600] ^= 1;
    fs::write(&segment, content)?;
    let reason = refusal(&cluster.members[0].command().output()?);
    let name = segment.file_name().expect("a name").to_string_lossy();
    assert_says(&reason, &[&name, "at byte 512", "Nothing was changed"]);
    Ok(())
}

#[tokio::test]
async fn a_missing_log_is_refused() -> Result {
    let cluster = stopped_single(&batond()).await?;
    let log = cluster.members[0].data_directory().join("member/log");
    fs::remove_dir_all(log)?;
    let reason = refusal(&cluster.members[0].command().output()?);
    assert_says(&reason, &["the log is gone", "restore a backup"]);
    Ok(())
}

#[tokio::test]
async fn a_directory_of_another_cluster_is_refused() -> Result {
    let cluster = stopped_single(&batond()).await?;
    let mut command = cluster.members[0].command();
    let reason = refusal(&command.arg("--initial-cluster-token=other").output()?);
    assert_says(&reason, &["belongs to member", "--initial-cluster-token"]);
    Ok(())
}

#[tokio::test]
async fn a_directory_of_a_later_format_is_refused() -> Result {
    let cluster = stopped_single(&batond()).await?;
    let meta = cluster.members[0].data_directory().join("member/meta.json");
    let mut content: serde_json::Value = serde_json::from_slice(&fs::read(&meta)?)?;
    content["format"] = 1000.into();
    fs::write(&meta, content.to_string())?;
    let reason = refusal(&cluster.members[0].command().output()?);
    assert_says(&reason, &["format 1000", "start the version that wrote it"]);
    Ok(())
}

#[tokio::test]
async fn a_second_process_on_a_directory_is_refused() -> Result {
    let one = Cluster::start(&batond(), 1).await?;
    let two = Cluster::new(&batond(), 1)?;
    let mut command = two.members[0].command();
    let data = one.members[0].data_directory();
    let output = command
        .arg(format!("--data-dir={}", data.display()))
        .output()?;
    assert_says(&refusal(&output), &["in use by another process"]);
    Ok(())
}

#[tokio::test]
async fn a_cluster_restarts_without_the_flags_of_its_first_start() -> Result {
    for count in [1, 3] {
        let mut cluster = Cluster::start(&batond(), count).await?;
        fill(&cluster.members[0], "key", 5).await?;
        let before = hash(&cluster.members[0]).await?.hash;
        for member in &mut cluster.members {
            member.kill();
        }
        let mut processes = Vec::new();
        for member in &cluster.members {
            let mut command = without_initial_flags(member);
            processes.push(command.stderr(Stdio::null()).spawn()?);
        }
        let served = tokio::time::timeout(Duration::from_secs(15), async {
            loop {
                if let Ok(after) = hash(&cluster.members[0]).await {
                    return after.hash;
                }
                poll_again().await;
            }
        })
        .await;
        for process in &mut processes {
            process.kill()?;
            process.wait()?;
        }
        assert_eq!(served?, before, "{count} members");
    }
    Ok(())
}

#[tokio::test]
async fn a_member_whose_data_is_gone_is_refused_while_others_remember_it() -> Result {
    let mut cluster = Cluster::start(&batond(), 3).await?;
    fill(&cluster.members[0], "key", 5).await?;
    cluster.members[2].kill();
    fs::remove_dir_all(cluster.members[2].data_directory())?;
    let reason = refusal(&cluster.members[2].command().output()?);
    assert_says(&reason, &["already served in this cluster", "restore"]);
    fill(&cluster.members[0], "later", 5).await
}

#[tokio::test]
async fn a_member_that_never_started_joins_late() -> Result {
    let mut cluster = Cluster::new(&batond(), 3)?;
    cluster.members[0].start()?;
    cluster.members[1].start()?;
    cluster.ready().await?;
    fill(&cluster.members[0], "key", 5).await?;
    cluster.members[2].start()?;
    cluster.ready().await?;
    assert_same_content(&cluster.members[0], &cluster.members[2]).await
}

/// Every revision was put in order and once.
fn assert_every_revision_once(seen: &[Seen], first: i64, end: i64) {
    let events = seen.iter().flat_map(|step| match step {
        Seen::Events(events) => &events[..],
        Seen::Reconnected(_) | Seen::Compacted(_) => &[],
    });
    let revisions: Vec<i64> = events.map(|event| event.revision).collect();
    let expected: Vec<i64> = (first..=end).collect();
    assert_eq!(revisions, expected);
}

#[tokio::test]
async fn a_member_far_behind_catches_up_by_snapshot_and_its_watchers_miss_nothing() -> Result {
    let mut cluster = Cluster::start(&forgetful(), 3).await?;
    let behind = (cluster.leader().await? + 1) % 3;
    let writer = (behind + 1) % 3;
    let first = cluster.members[writer].client().revision().await? + 1;
    let watcher = ReconnectingWatcher::start(vec![cluster.members[behind].url()], first, 1000);
    fill(&cluster.members[writer], "before", 20).await?;
    cluster.members[behind].kill();
    fill_fast(&cluster.members[writer], "meanwhile", 600).await?;
    cluster.members[behind].start()?;
    fill(&cluster.members[writer], "after", 20).await?;
    cluster.ready().await?;
    let end = cluster.members[writer].client().revision().await?;
    let seen = watcher.finish(end).await?;
    assert_every_revision_once(&seen, first, end);
    assert_same_content(&cluster.members[writer], &cluster.members[behind]).await
}

#[tokio::test]
async fn a_member_that_was_stalled_while_the_log_was_purged_keeps_its_watchers() -> Result {
    let mut cluster = Cluster::start(&forgetful(), 3).await?;
    let behind = (cluster.leader().await? + 1) % 3;
    let writer = (behind + 1) % 3;
    let first = cluster.members[writer].client().revision().await? + 1;
    let watcher = ReconnectingWatcher::start(vec![cluster.members[behind].url()], first, 1000);
    fill(&cluster.members[writer], "before", 20).await?;
    cluster.members[behind].signal(rustix::process::Signal::STOP);
    for round in 0..6 {
        fill_fast(&cluster.members[writer], &format!("meanwhile{round}-"), 200).await?;
    }
    cluster.members[behind].signal(rustix::process::Signal::CONT);
    cluster.ready().await?;
    fill(&cluster.members[writer], "after", 20).await?;
    let end = cluster.members[writer].client().revision().await?;
    let seen = watcher.finish(end).await?;
    assert_every_revision_once(&seen, first, end);
    assert_same_content(&cluster.members[writer], &cluster.members[behind]).await
}

/// The message of a put that has to fail.
async fn refused_put(member: &Member) -> String {
    let put = member.client().put("one more", "value").await;
    put.expect_err("a put").message().to_owned()
}

#[tokio::test]
async fn a_spent_quota_refuses_writes_until_space_is_made_and_the_alarm_disarmed() -> Result {
    const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
    let program = batond().flag("--quota-backend-bytes=200000");
    let cluster = Cluster::start(&program, 1).await?;
    let member = &cluster.members[0];
    let client = member.client();
    let mut refused = None;
    for number in 0..40 {
        if let Err(status) = client.put(format!("key{number}"), vec![b'x'; 10_000]).await {
            refused = Some(status.message().to_owned());
            break;
        }
    }
    assert_eq!(refused.as_deref(), Some(NO_SPACE));
    let lease = client
        .lease()
        .lease_grant(pb::LeaseGrantRequest { ttl: 10, id: 0 })
        .await;
    assert_eq!(lease.expect_err("a lease").message(), NO_SPACE);

    let everything = pb::DeleteRangeRequest {
        key: "key".into(),
        range_end: "kez".into(),
        ..pb::DeleteRangeRequest::default()
    };
    client.kv().delete_range(everything).await?;
    client.compact(client.revision().await?).await?;
    assert_eq!(refused_put(member).await, NO_SPACE, "the alarm stands");

    let disarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Deactivate.into(),
        member_id: client.status().await?.header.unwrap_or_default().member_id,
        alarm: pb::AlarmType::Nospace.into(),
    };
    client.maintenance().alarm(disarm).await?;
    // Compaction makes its space in the background.
    let written = async {
        while client.put("one more", "value").await.is_err() {
            client.maintenance().alarm(disarm).await?;
            poll_again().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), written).await?
}

#[tokio::test]
#[allow(clippy::print_stderr, reason = "a test says when it is skipped")]
async fn a_sync_that_fails_ends_the_process_and_loses_nothing_that_was_acknowledged() -> Result {
    let Some(strace) = Program::installed("BATON_STRACE", "strace") else {
        eprintln!("skipped: strace is not installed");
        return Ok(());
    };
    let mut cluster = Cluster::new(&batond(), 1)?;
    let member = &mut cluster.members[0];
    let mut process = Command::new(strace)
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"])
        .args(["-e", "inject=fdatasync:error=EIO:when=30"])
        .arg(env!("CARGO_BIN_EXE_batond"))
        .args(member.arguments())
        .stderr(Stdio::null())
        .spawn()?;
    let client = member.client();
    let mut acknowledged = 0;
    let status = loop {
        if let Some(status) = process.try_wait()? {
            break status;
        }
        match client.put(format!("key{acknowledged}"), "value").await {
            Ok(_) => acknowledged += 1,
            Err(_) => poll_again().await,
        }
    };
    assert_eq!(status.code(), Some(1));
    assert!(acknowledged > 0);
    member.start()?;
    cluster.ready().await?;
    let range = pb::RangeRequest {
        key: "key".into(),
        range_end: "kez".into(),
        count_only: true,
        ..pb::RangeRequest::default()
    };
    let found = cluster.members[0].client().kv().range(range).await?;
    assert!(found.into_inner().count >= acknowledged);
    Ok(())
}

/// Mounts a small file system at `$1`, runs the rest there twice, and makes room in between. The mounts are seen by
/// nobody else and go with the process. Exits with 77 where that is not allowed.
const TWICE_ON_A_SMALL_DISK: &str = r#"
    mount -t tmpfs -o size=16m none "$1" || exit 77
    disk="$1" status="$2"
    shift 2
    "$@"
    echo $? >"$status"
    mount -o remount,size=128m "$disk"
    exec "$@"
"#;

#[tokio::test]
#[allow(clippy::print_stderr, reason = "a test says when it is skipped")]
async fn a_full_disk_ends_the_process_and_loses_nothing_that_was_acknowledged() -> Result {
    let cluster = Cluster::new(&batond(), 1)?;
    let member = &cluster.members[0];
    let status = cluster.directory().join("status");
    fs::create_dir_all(member.data_directory())?;
    let spawned = Command::new("unshare")
        .args(["--mount", "sh", "-c", TWICE_ON_A_SMALL_DISK, "sh"])
        .args([&member.data_directory(), &status])
        .arg(env!("CARGO_BIN_EXE_batond"))
        .args(member.arguments())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut process) = spawned else {
        eprintln!("skipped: unshare is not installed");
        return Ok(());
    };
    let client = member.client();
    let mut acknowledged = 0;
    let found = async {
        while !status.exists() {
            if let Some(ended) = process.try_wait()? {
                assert_ne!(ended.code(), Some(0));
                return anyhow::Ok(None);
            }
            let put = client.put(format!("key{acknowledged}"), vec![b'x'; 100_000]);
            match put.await {
                Ok(_) => acknowledged += 1,
                Err(_) => poll_again().await,
            }
        }
        while client.revision().await.is_err() {
            poll_again().await;
        }
        let range = pb::RangeRequest {
            key: "key".into(),
            range_end: "kez".into(),
            count_only: true,
            ..pb::RangeRequest::default()
        };
        let found = client.kv().range(range).await?;
        Ok(Some(found.into_inner().count))
    };
    let found = tokio::time::timeout(Duration::from_secs(20), found).await;
    process.kill()?;
    process.wait()?;
    let Some(found) = found?? else {
        eprintln!("skipped: mounting is not allowed");
        return Ok(());
    };
    assert_eq!(fs::read_to_string(&status)?.trim(), "1");
    assert!(found >= acknowledged, "{found} of {acknowledged}");
    Ok(())
}
