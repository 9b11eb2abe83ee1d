//! The same command lines through `etcdctl` and through `batonctl`: what they print and how they exit.
//!
//! Each script runs twice, on two servers that began empty at the same addresses, so that ids and revisions are the
//! same. Standard output, standard error and the exit code have to be equal byte for byte; what differs on purpose is
//! in [`INTENDED`], with the reason.

mod support;

use baton_test_cluster::process::{Cluster, Program};
use support::{Lines, Output, Tool, baton};

/// What `batonctl` prints otherwise than Debian's etcdctl 3.4, and why. The text is a line of the script.
const INTENDED: &[(&str, &str)] = &[
    ("get k --count-only -w fields", "newer than 3.4"),
    (
        "get k --min-create-rev=3 --max-create-rev=2",
        "newer than 3.4",
    ),
    ("get k --no-such-flag", "etcdctl prints all its help"),
    ("get k --rev x", "etcdctl prints all its help"),
    ("get k --limit", "etcdctl prints all its help"),
    ("get k --prefix=maybe", "etcdctl prints all its help"),
    ("get -x k", "etcdctl prints all its help"),
    ("no-such-command", "etcdctl says it twice"),
    (
        "member list -w fields",
        "newer ones leave a revision of 0 out",
    ),
    (
        "endpoint hashkv -w json",
        "newer ones have the revision of the hash",
    ),
    (
        "endpoint hashkv -w table",
        "newer ones have the revision of the hash",
    ),
    (
        "endpoint hashkv -w fields",
        "newer ones have the revision of the hash",
    ),
    (
        "endpoint hashkv",
        "newer ones have the revision of the hash",
    ),
    ("endpoint health", "newer ones print it on standard output"),
    ("defrag", "newer ones say how long it took"),
    ("version", "another program"),
    ("txn -w json", "newer ones name the fields as the wire does"),
    ("downgrade validate", "newer than 3.4"),
    (
        "get k --hex -w fields",
        "newer ones print ids in hexadecimal then",
    ),
    (
        "get k -w fields --hex",
        "newer ones print ids in hexadecimal then",
    ),
    ("get --prefix=maybe k", "etcdctl prints all its help"),
    (
        "alarm list -w fields",
        "etcdctl 3.4 panics on an answer of etcd 3.4",
    ),
    ("watch -i", "newer ones begin the text with a small letter"),
    ("snapshot save", "newer ones say what the argument is"),
];

fn is_intended(line: &str) -> bool {
    INTENDED.iter().any(|(intended, _)| *intended == line)
}

/// Runs the script with both tools, each on a server that begins empty.
async fn compare(program: &Program, script: Lines<'_>) {
    let Some(etcdctl) = Tool::etcdctl() else {
        return;
    };
    let mut cluster = Cluster::new(program, 1).expect("a directory");
    let mut transcripts = Vec::new();
    for tool in [etcdctl, Tool::batonctl()] {
        cluster.members[0].start().expect("it starts");
        cluster.ready().await.expect("it serves");
        let url = cluster.members[0].address();
        transcripts.push(tool.run_all(&url, script).await);
        cluster.members[0].kill();
        std::fs::remove_dir_all(cluster.members[0].data_directory()).expect("its data");
    }
    let differences: Vec<String> = script
        .iter()
        .zip(transcripts[0].iter().zip(&transcripts[1]))
        .filter(|((line, _), (theirs, ours))| !is_intended(line) && theirs != ours)
        .map(|((line, _), (theirs, ours))| format!("{line}\n etcdctl: {theirs}\nbatonctl: {ours}"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

/// Claims that two tools agree on a script, of Baton and of etcd.
macro_rules! agree {
    ($($claim:ident: $script:expr;)*) => {
        mod on_baton {
            $(#[tokio::test]
            async fn $claim() {
                super::compare(&super::baton(), $script).await;
            })*
        }
        mod on_etcd {
            $(#[tokio::test]
            async fn $claim() {
                if let Some(etcd) = crate::support::etcd() {
                    super::compare(&etcd, $script).await;
                }
            })*
        }
    };
}

agree! {
    keys_are_written_read_and_deleted_alike: &[
        ("put k 1", ""),
        ("put k 2 --prev-kv", ""),
        ("put k --ignore-value --prev-kv", ""),
        ("put k v --ignore-value", ""),
        ("put none --ignore-value", ""),
        ("put bin", "\u{1}\u{7f}\u{e9}\"\\\n"),
        ("put a -- -dashed", ""),
        ("put -- -a dashed", ""),
        ("put k", ""),
        ("put", ""),
        ("put k v --lease zz", ""),
        ("put k v --lease 99", ""),
        ("put k v --lease=7fffffffffffffffff", ""),
        ("put k 3 --prev-kv -w json", ""),
        ("put k 4 --prev-kv -w fields", ""),
        ("put k 5 -w protobuf", ""),
        ("put k 6 -w table", ""),
        ("get k", ""),
        ("get k -w json", ""),
        ("get k --limit 0x2 --rev 0b1", ""),
        ("get k -wjson", ""),
        ("get -w=json k", ""),
        ("-w json get k", ""),
        ("get k -w fields", ""),
        ("get bin -w fields", ""),
        ("get bin -w json", ""),
        ("get bin --hex", ""),
        ("get k --hex -w json", ""),
        ("get k --hex -w fields", ""),
        ("get k -w protobuf", ""),
        ("get k -w table", ""),
        ("get k -w yaml", ""),
        ("get none", ""),
        ("get none -w json", ""),
        ("get none -w fields", ""),
        ("get  --prefix", ""),
        ("get k --prefix --keys-only", ""),
        ("get a --from-key --limit 2 -w json", ""),
        ("get a c", ""),
        ("get a z extra", ""),
        ("get --prefix=true k", ""),
        ("get --prefix=false k", ""),
        ("get --prefix=maybe k", ""),
        ("get k --prefix=maybe", ""),
        ("get k --rev 2", ""),
        ("get k --rev -3", ""),
        ("get k --rev 1000", ""),
        ("get k --limit -1", ""),
        ("get k --rev x", ""),
        ("get k --limit", ""),
        ("get k --order descend --sort-by modify --prefix", ""),
        ("get k --order FOO", ""),
        ("get k --sort-by FOO", ""),
        ("get k --consistency s", ""),
        ("get k --consistency x", ""),
        ("get k --prefix --from-key", ""),
        ("get k z --prefix", ""),
        ("get k --print-value-only", ""),
        ("get k --print-value-only -w json", ""),
        ("get k --count-only -w fields", ""),
        ("get k --min-create-rev=3 --max-create-rev=2", ""),
        ("get k --no-such-flag", ""),
        ("get -x k", ""),
        ("get", ""),
        ("no-such-command", ""),
        ("del none", ""),
        ("del", ""),
        ("del a b c", ""),
        ("del k --prefix --from-key", ""),
        ("del k --prev-kv", ""),
        ("put k 7", ""),
        ("del k --prev-kv -w json", ""),
        ("put k 8", ""),
        ("del k --prev-kv -w fields", ""),
        ("put k 9", ""),
        ("del  --prefix -w json", ""),
        ("compaction", ""),
        ("compaction x", ""),
        ("compaction 1000", ""),
        ("compaction 3", ""),
        ("compaction 3", ""),
        ("compact 4 --physical", ""),
        ("get k --rev 2", ""),
        ("compact 5 -w table", ""),
    ];
    transactions_are_read_and_printed_alike: &[
        ("txn", "mod(\"k\") > \"0\"\n\nput k v\nget k\n\nput k created\nget k\ndel z\n\n"),
        ("txn", "mod(\"k\") > \"0\"\n\nput k v --prev-kv\nget k\n\nput k created\n\n"),
        ("txn -w json", "ver(\"k\") = \"2\"\n\nput k v\nget k\ndel none --prev-kv\n\n\n"),
        ("txn -w fields", "create(\"k\") < \"9\"\n\nput k v --prev-kv\nget k\ndel none\n\n\n"),
        ("txn --hex", "\nget k\n\n\n"),
        ("txn -i", "val(\"k\") = \"v\"\n\nput \"a b\" \"c\\nd\"\nput s 'x'\n\n\n"),
        ("txn", "value(\"a b\") = \"c\\nd\"\n\nget \"a b\"\nget s\n\n\n"),
        ("txn", "\n\n\n"),
        ("txn", "foo\n\n\n\n"),
        ("txn", "mod(\"k\" > \"0\"\n\n\n\n"),
        ("txn", "mod(\"k\") > \"x\"\n\n\n\n"),
        ("txn", "zzz(\"k\") > \"0\"\n\n\n\n"),
        ("txn", "mod(\"k\")>\"0\"\n\n\n\n"),
        ("txn", "mod(\"k\") > \"0\"\n"),
        ("txn", "\nput k\n\n\n"),
        ("txn", "\nget\n\n\n"),
        ("txn", "\nput k 1\nput k 2\n\n\n"),
        ("txn", "\nget k --rev 1000\n\n\n"),
        ("txn extra", ""),
    ];
    leases_are_granted_told_and_revoked_alike: &[
        ("lease list", ""),
        ("lease list -w json", ""),
        ("lease grant", ""),
        ("lease grant x", ""),
        ("lease grant 9999999999", ""),
        ("lease grant 100", ""),
        ("put k v --lease=LEASE", ""),
        ("put k v --lease LEASE", ""),
        ("get k -w json", ""),
        ("get k -w fields", ""),
        ("get k -w fields --hex", ""),
        ("lease timetolive LEASE -w json", ""),
        ("lease timetolive LEASE --keys", ""),
        ("lease timetolive LEASE --keys -w json", ""),
        ("lease timetolive LEASE --keys -w fields", ""),
        ("lease timetolive 1", ""),
        ("lease timetolive 1 -w json", ""),
        ("lease timetolive 1 -w fields", ""),
        ("lease timetolive", ""),
        ("lease timetolive zz", ""),
        ("lease list", ""),
        ("lease list -w json", ""),
        ("lease list -w fields", ""),
        ("lease keep-alive LEASE --once", ""),
        ("lease keep-alive LEASE --once -w json", ""),
        ("lease keep-alive LEASE --once -w fields", ""),
        ("lease keep-alive 1 --once", ""),
        ("lease keep-alive 1", ""),
        ("lease keep-alive zz", ""),
        ("lease keep-alive", ""),
        ("lease revoke LEASE", ""),
        ("lease revoke LEASE", ""),
        ("lease revoke", ""),
        ("lease revoke zz", ""),
        ("get k", ""),
        ("lease grant 50 -w json", ""),
        ("lease grant 50 -w fields", ""),
        ("lease grant 50 -w table", ""),
    ];
    members_and_endpoints_are_told_alike: &[
        ("member list", ""),
        ("member list -w json", ""),
        ("member list -w table", ""),
        ("member list -w fields", ""),
        ("member remove", ""),
        ("member remove zz", ""),
        ("member update 12", ""),
        ("member add", ""),
        ("member add n", ""),
        ("member add n http://127.0.0.1:1", ""),
        ("member promote", ""),
        ("move-leader", ""),
        ("move-leader zz", ""),
        ("move-leader 12", ""),
        ("endpoint hashkv", ""),
        ("endpoint hashkv -w json", ""),
        ("endpoint hashkv -w table", ""),
        ("endpoint hashkv -w fields", ""),
        ("endpoint health", ""),
        ("endpoint health -w json", ""),
        ("endpoint health -w table", ""),
        ("endpoint health -w fields", ""),
        ("endpoint health --cluster -w json", ""),
        ("alarm list", ""),
        ("alarm list -w json", ""),
        ("alarm list -w fields", ""),
        ("alarm list x", ""),
        ("alarm disarm", ""),
        ("alarm disarm -w json", ""),
        ("defrag", ""),
        ("version", ""),
        ("snapshot save", ""),
        ("watch", ""),
        ("watch --prefix a b", ""),
        ("watch k --", ""),
        ("downgrade validate", ""),
        ("lock", ""),
        ("elect", ""),
        ("elect n", ""),
        ("elect -l n v", ""),
        ("make-mirror", ""),
        ("check perf --load=foo", ""),
        ("memb li", ""),
        ("alar li extra", ""),
        ("lease gr", ""),
    ];
    watches_print_and_execute_alike: &[
        ("put k 1", ""),
        ("put k 2", ""),
        ("put k2 a", ""),
        ("del k", ""),
        ("put end x", ""),
        ("watch k --rev 2 -- sh -c printf<%s>\\n\"$ETCD_WATCH_REVISION,$ETCD_WATCH_EVENT_TYPE,$ETCD_WATCH_KEY,$ETCD_WATCH_VALUE\";test\"$ETCD_WATCH_EVENT_TYPE\"!=\\\"DELETE\\\"", ""),
        ("watch k --rev 2 -- false", ""),
        ("watch k z --rev 2 --prev-kv -- false", ""),
        ("watch --prefix k --rev 4 -w json -- false", ""),
        ("watch --prefix k --rev 2 --prev-kv -w json -- false", ""),
        ("watch k --rev 2 -w fields -- false", ""),
        ("watch k --hex --rev 2 -- false", ""),
        ("compaction 4", ""),
        ("watch k --rev 2", ""),
        ("watch k --rev 2 -w json", ""),
        ("watch -i", "foo\n"),
    ];
}

/// Only etcd answers these today.
#[tokio::test]
async fn users_and_roles_are_managed_alike_on_etcd() {
    let Some(etcd) = support::etcd() else {
        return;
    };
    let script: Lines<'_> = &[
        ("role list", ""),
        ("role add r", ""),
        ("role add r", ""),
        ("role add", ""),
        ("role grant-permission r read k", ""),
        ("role grant-permission r write a b", ""),
        ("role grant-permission r readwrite p/ --prefix", ""),
        ("role grant-permission r read z --from-key", ""),
        ("role grant-permission r read  --prefix", ""),
        ("role grant-permission r", ""),
        ("role grant-permission r foo k", ""),
        ("role grant-permission r read a b --prefix", ""),
        ("role get r", ""),
        ("role get r -w json", ""),
        ("role get none", ""),
        ("role revoke-permission r k", ""),
        ("role revoke-permission r a b", ""),
        ("role revoke-permission r z --from-key", ""),
        ("role revoke-permission r k", ""),
        ("role revoke-permission r", ""),
        ("role list", ""),
        ("role list -w json", ""),
        ("user list", ""),
        ("user add root:secret", ""),
        ("user add u:pw", ""),
        ("user add v --interactive=false", "word\n"),
        ("user add w --new-user-password=x", ""),
        ("user add u:pw", ""),
        ("user add", ""),
        ("user add :pw", ""),
        ("user grant-role u r", ""),
        ("user grant-role u none", ""),
        ("user grant-role u", ""),
        ("user get u", ""),
        ("user get u --detail", ""),
        ("user get u -w json", ""),
        ("user get none", ""),
        ("user passwd u --interactive=false", "other\n"),
        ("user list", ""),
        ("user revoke-role u r", ""),
        ("user delete v", ""),
        ("user delete", ""),
        ("auth enable extra", ""),
        ("auth enable", ""),
        ("get k", ""),
        ("get k --user u:other", ""),
        ("get k --user u:wrong", ""),
        ("get k --user root:secret", ""),
        ("get k --user root --password secret", ""),
        ("endpoint health --user u:other -w json", ""),
        ("auth disable --user root:secret", ""),
        ("get k", ""),
    ];
    compare(&etcd, script).await;
}

/// The shapes of etcdctl 3.6, where it differs from 3.4.
#[tokio::test]
async fn what_is_newer_is_printed_as_newer_ones_print_it() {
    let mut cluster = Cluster::start(&baton(), 1).await.expect("it starts");
    let address = cluster.members[0].address();
    let tool = Tool::batonctl();
    let txn = "\nput k v\nget k --keys-only\ndel none\n\n\n";
    for (line, input, text) in [
        (
            "txn -w json",
            txn,
            "\"succeeded\":true,\"responses\":[\
             {\"Response\":{\"response_put\":{\"header\":{\"revision\":2}}}},\
             {\"Response\":{\"response_range\":{\"header\":{\"revision\":2},\"kvs\":[\
             {\"key\":\"aw==\",\"create_revision\":2,\"mod_revision\":2,\"version\":1}],\"count\":1}}},\
             {\"Response\":{\"response_delete_range\":{\"header\":{\"revision\":2}}}}]}\n",
        ),
        (
            "get k --count-only -w fields",
            "",
            "\"Revision\" : 2\n\"RaftTerm\" : 1\n\"More\" : false\n\"Count\" : 1\n",
        ),
        (
            "get k --count-only",
            "",
            "Error: --count-only is only for `--write-out=fields`",
        ),
        ("get k --stream", "", "k\nv\n"),
        ("endpoint hashkv -w json", "", "\"hash_revision\":2}}]\n"),
        ("endpoint hashkv", "", ", 2\n"),
        (
            "endpoint health",
            "",
            "is healthy: successfully committed proposal: took = ",
        ),
        ("endpoint status", "", ", 3.6.0, "),
        (
            "get k --min-create-rev=3 --max-create-rev=2",
            "",
            "Error: getMinCreateRev(=3) > getMaxCreateRev(=2)\n",
        ),
        ("del a z --range", "", "1\n"),
        (
            "member list -w json --hex",
            "",
            "{\"header\":{\"cluster_id\":\"",
        ),
    ] {
        let outcome = tool.run(&address, line, input).await;
        let said = format!("{}{}", outcome.out, outcome.err);
        assert!(
            said.contains(text),
            "{line}: {text:?} is missing: {outcome}"
        );
    }
    cluster.members[0].kill();
}

/// One line at a time, on a server that stays: what a person types after a slip.
#[tokio::test]
async fn a_flag_that_is_in_the_environment_as_well_is_refused() {
    let outcome = Tool::batonctl()
        .with("ETCDCTL_ENDPOINTS", "127.0.0.1:1")
        .run("127.0.0.1:1", "get k", "")
        .await;
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.err.contains("--endpoints"), "{outcome}");
    assert!(outcome.err.contains("ETCDCTL_ENDPOINTS"), "{outcome}");
}

#[tokio::test]
async fn flags_come_from_the_environment_under_either_name() {
    let mut cluster = Cluster::start(&baton(), 1).await.expect("it starts");
    let address = cluster.members[0].address();
    for prefix in ["BATONCTL", "ETCDCTL"] {
        let outcome = Tool::batonctl()
            .with(&format!("{prefix}_ENDPOINTS"), &address)
            .with(&format!("{prefix}_WRITE_OUT"), "fields")
            .with(&format!("{prefix}_WATCH_KEY"), "k")
            .run_without_endpoint("get k")
            .await;
        assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
        assert!(outcome.out.contains("\"Count\" : 0"), "{outcome}");
    }
    cluster.members[0].kill();
}

#[tokio::test]
async fn an_endpoint_that_nobody_serves_is_named_with_what_to_do() {
    let outcome = Tool::batonctl()
        .run("127.0.0.1:1", "--dial-timeout=200ms get k", "")
        .await;
    assert_eq!(outcome.code, Some(1));
    for text in [
        "Error: context deadline exceeded",
        "127.0.0.1:1:",
        "--endpoints",
        "BATONCTL_ENDPOINTS",
    ] {
        assert!(outcome.err.contains(text), "{text} is missing: {outcome}");
    }
    let outcome = Tool::batonctl()
        .run("https://127.0.0.1:1", "--dial-timeout=200ms get k", "")
        .await;
    assert!(outcome.err.contains("http://HOST:PORT"), "{outcome}");
}

#[tokio::test]
async fn a_value_of_the_environment_that_makes_no_sense_is_refused() {
    let Output { code, err, .. } = Tool::batonctl()
        .with("BATONCTL_DIAL_TIMEOUT", "soon")
        .run_without_endpoint("get k")
        .await;
    assert_eq!(code, Some(1));
    assert!(
        err.contains("\"soon\"") && err.contains("--dial-timeout"),
        "{err}"
    );
}

#[tokio::test]
async fn every_shell_gets_a_completion_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let outcome = Tool::batonctl()
            .run_without_endpoint(&format!("completion {shell}"))
            .await;
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert!(outcome.out.contains("move-leader"), "{shell}: {outcome}");
    }
}
