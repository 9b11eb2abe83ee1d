//! Queues and barriers from scripts.

#[path = "support/running.rs"]
mod running;
mod support;

use baton_test_cluster::process::Cluster;
use running::Running;
use rustix::process::Signal;
use support::{Output, Tool, baton};

struct Scene {
    _cluster: Cluster,
    address: String,
}

impl Scene {
    async fn begin() -> Self {
        let cluster = Cluster::start(&baton(), 1).await.expect("it starts");
        Self {
            address: cluster.members[0].address(),
            _cluster: cluster,
        }
    }

    async fn ctl(&self, line: &str) -> Output {
        Tool::batonctl().run(&self.address, line, "").await
    }
}

#[tokio::test]
async fn jobs_come_out_by_priority_and_then_in_the_order_they_went_in() {
    let scene = Scene::begin().await;
    for push in [
        "queue push q a",
        "queue push q b",
        "queue push q c --priority=5",
    ] {
        assert_eq!(scene.ctl(push).await.code, Some(0));
    }
    let typed = Tool::batonctl()
        .run(&scene.address, "queue push q", "d\ne")
        .await;
    assert_eq!(typed.code, Some(0), "{typed}");
    for job in ["c\n", "a\n", "b\n", "d\ne\n"] {
        assert_eq!(scene.ctl("queue pop q").await.out, job);
    }
    let none = scene.ctl("queue pop q --try").await;
    assert_eq!((none.code, none.out.as_str()), (Some(75), ""));
}

#[tokio::test]
async fn a_job_whose_command_fails_goes_back_and_one_that_is_done_does_not() {
    let scene = Scene::begin().await;
    scene.ctl("queue push q job").await;
    let failed = scene.ctl("queue pop q -q -- false").await;
    assert_eq!(failed.code, Some(1), "{failed}");
    let done = scene.ctl("queue pop q -q -- cat").await;
    assert_eq!((done.code, done.out.as_str()), (Some(0), "job"));
    assert_eq!(scene.ctl("queue pop q --try").await.code, Some(75));
}

#[tokio::test]
async fn a_job_of_a_worker_that_was_killed_goes_to_the_next() {
    let scene = Scene::begin().await;
    scene.ctl("queue push q job").await;
    let pop = [
        "queue",
        "pop",
        "q",
        "--ttl=2",
        "--",
        "sh",
        "-c",
        "echo began; sleep 600",
    ];
    let mut worker = Running::start(&scene.address, &pop);
    assert_eq!(worker.line().await, "began");
    let list = scene.ctl("queue list q").await.out;
    assert!(list.starts_with("1 jobs, 1 of them taken"), "{list}");
    worker.signal(Signal::KILL);
    assert_eq!(scene.ctl("queue pop q").await.out, "job\n");
}

#[tokio::test]
async fn who_waits_at_a_barrier_goes_when_it_is_opened() {
    let scene = Scene::begin().await;
    assert_eq!(scene.ctl("barrier wait b").await.code, Some(0));
    assert_eq!(scene.ctl("barrier close b").await.code, Some(0));
    assert_eq!(
        scene.ctl("barrier status b").await.out,
        "Barrier b is closed\n"
    );
    let given_up = scene.ctl("barrier wait b --timeout=10ms").await;
    assert_eq!(given_up.code, Some(75), "{given_up}");
    let waiting = Running::start(&scene.address, &["barrier", "wait", "b"]);
    assert_eq!(scene.ctl("barrier open b").await.code, Some(0));
    let (status, story) = waiting.ended().await;
    assert_eq!(status.code(), Some(0), "{story}");
}
