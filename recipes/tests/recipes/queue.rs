//! Queues.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use baton_client::{Client, Delete, Put, Txn};
use baton_recipes::{Error, Job, LossReason, Queue, Session};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::proxy::{Fate, Proxy};
use crate::support::{Server, deletes, drop_without_runtime, on_both, puts};

const JOBS: &str = "baton.recipes/queue/mail/job/";
const CLAIMS: &str = "baton.recipes/queue/mail/claim/";
const LINE: &str = "baton.recipes/queue/mail/line/";

async fn mail(server: &Server) -> Queue {
    server.session().await.queue("mail").unwrap()
}

/// A queue whose every request goes through the proxy.
async fn mail_through(client: &Client) -> Queue {
    let session = Session::open(client, Duration::from_secs(10))
        .await
        .unwrap();
    session.queue("mail").unwrap()
}

fn popping(queue: &Queue) -> JoinHandle<Result<Job, Error>> {
    let queue = queue.clone();
    tokio::spawn(async move { queue.pop().await })
}

/// The first call that `is_it` meets that fate, and all that do after it wait for the gate.
fn first_then_gate(
    proxy: &Proxy,
    first: impl Fn() -> Fate + Send + Sync + 'static,
    is_it: impl Fn(&str, &[u8]) -> bool + Send + Sync + 'static,
) -> watch::Sender<bool> {
    let (gate, closed) = watch::channel(false);
    let met = AtomicUsize::new(0);
    proxy.rule(move |path, message| {
        if !is_it(path, message) {
            Fate::Pass
        } else if met.fetch_add(1, Ordering::SeqCst) == 0 {
            first()
        } else {
            Fate::After(closed.clone())
        }
    });
    gate
}

on_both! {
    async fn jobs_go_out_in_the_order_they_were_pushed(server: Server) {
        let queue = mail(&server).await;
        for job in ["a", "b", "c"] {
            queue.push(job).await.unwrap();
        }
        for expected in ["a", "b", "c"] {
            let job = queue.pop().await.unwrap();
            assert_eq!(job.payload(), expected);
            job.ack().await.unwrap();
        }
        assert!(queue.try_pop().await.unwrap().is_none());
        assert!(queue.is_empty().await.unwrap());
    }

    async fn the_most_urgent_job_goes_first_and_among_equals_the_oldest(server: Server) {
        let queue = mail(&server).await;
        for (job, priority) in [("c", 7), ("a", 2), ("e", 65535), ("d", 7), ("b", 2)] {
            queue.push_with_priority(job, priority).await.unwrap();
        }
        let mut order = Vec::new();
        while let Some(job) = queue.try_pop().await.unwrap() {
            order.push(job.payload().clone());
            job.ack().await.unwrap();
        }
        assert_eq!(order, ["a", "b", "c", "d", "e"]);
    }

    /// Appendix B, row 6.
    async fn a_queue_named_job_never_delivers_from_a_queue_named_jobs(server: Server) {
        let session = server.session().await;
        let (job, jobs) = (session.queue("job").unwrap(), session.queue("jobs").unwrap());
        jobs.push("not yours").await.unwrap();
        assert!(job.try_pop().await.unwrap().is_none());
        assert_eq!(job.len().await.unwrap(), 0);
        assert_eq!(jobs.try_pop().await.unwrap().unwrap().payload(), "not yours");
    }

    /// Appendix B, row 7.
    async fn a_woken_worker_gets_the_best_job_and_not_the_one_that_woke_it(server: Server) {
        let (proxy, client) = server.proxy().await;
        let mut watched = crate::support::watching(&proxy);
        let worker = popping(&mail_through(&client).await);
        watched.wait_for(|streams| *streams >= 1).await.unwrap();
        server.counted(LINE, 1).await;
        // Both events come in one notification, the worse job's first.
        let both = Txn::new()
            .then(Put::new(format!("{JOBS}00009/worse"), "worse"))
            .then(Put::new(format!("{JOBS}00001/better"), "better"));
        server.client.txn(both).await.unwrap();
        assert_eq!(worker.await.unwrap().unwrap().payload(), "better");
    }

    /// Appendix B, row 17.
    async fn a_push_that_is_sent_again_after_its_answer_was_lost_makes_one_job(server: Server) {
        let (proxy, client) = server.proxy().await;
        let gate = first_then_gate(&proxy, || Fate::LoseAnswer, |path, message| {
            puts(path, message, JOBS)
        });
        let producer = mail_through(&client).await;
        let push = tokio::spawn(async move { producer.push("once").await });
        // The job is done and gone before the push is sent again.
        let queue = mail(&server).await;
        queue.pop().await.unwrap().ack().await.unwrap();
        gate.send_replace(true);
        push.await.unwrap().unwrap();
        assert_eq!(server.count(JOBS).await, 0);
    }

    /// Appendix B, row 21.
    async fn a_copy_of_a_push_that_arrives_after_the_job_was_done_pushes_nothing(server: Server) {
        let (proxy, client) = server.proxy().await;
        let gate = first_then_gate(&proxy, || Fate::Keep, |path, message| {
            puts(path, message, JOBS)
        });
        gate.send_replace(true);
        // Kept: what the copy would need, the producer's lease, is there.
        let producer = mail_through(&client).await;
        producer.push("once").await.unwrap();
        mail(&server).await.pop().await.unwrap().ack().await.unwrap();
        assert_eq!(proxy.kept(), 1);
        proxy.deliver().await;
        assert_eq!(server.count(JOBS).await, 0);
    }

    /// Appendix B, row 21.
    async fn a_copy_of_a_claim_that_arrives_after_the_job_was_given_back_takes_nothing(server: Server) {
        let (proxy, client) = server.proxy().await;
        let gate = first_then_gate(&proxy, || Fate::Keep, |path, message| {
            puts(path, message, CLAIMS)
        });
        gate.send_replace(true);
        let queue = mail_through(&client).await;
        queue.push("job").await.unwrap();
        queue.pop().await.unwrap().release().await.unwrap();
        assert_eq!(proxy.kept(), 1);
        proxy.deliver().await;
        assert_eq!(server.count(CLAIMS).await, 0);
    }

    /// Appendix B, row 21.
    async fn a_copy_of_a_claim_that_came_second_takes_nothing_when_the_job_is_free_again(server: Server) {
        let (proxy, client) = server.proxy().await;
        let (sent, mut is_sent) = watch::channel(false);
        let keep = move || {
            sent.send_replace(true);
            Fate::Keep
        };
        let gate = first_then_gate(&proxy, keep, |path, message| puts(path, message, CLAIMS));
        let (slow, quick) = (mail_through(&client).await, mail(&server).await);
        quick.push("job").await.unwrap();
        let trying = slow.clone();
        let trying = tokio::spawn(async move { trying.try_pop().await });
        is_sent.wait_for(|sent| *sent).await.unwrap();
        let job = quick.pop().await.unwrap();
        gate.send_replace(true);
        assert!(trying.await.unwrap().unwrap().is_none());
        job.release().await.unwrap();
        proxy.deliver().await;
        assert_eq!(server.count(CLAIMS).await, 0);
    }

    async fn what_a_job_results_in_is_written_once_though_the_answer_was_lost(server: Server) {
        let (proxy, client) = server.proxy().await;
        let gate = first_then_gate(&proxy, || Fate::LoseAnswer, |path, message| {
            deletes(path, message, JOBS)
        });
        gate.send_replace(true);
        let queue = mail_through(&client).await;
        queue.push("job").await.unwrap();
        let job = queue.pop().await.unwrap();
        let done = job.ack_with([Put::new("result", "42")]).await.unwrap();
        let result = server.client.get("result").await.unwrap().kvs.pop().unwrap();
        assert_eq!((result.version, result.mod_revision), (1, done));
        assert_eq!(server.count(JOBS).await + server.count(CLAIMS).await, 0);
    }

    async fn a_job_that_is_dropped_goes_back_to_its_old_place(server: Server) {
        let queue = mail(&server).await;
        queue.push("first").await.unwrap();
        queue.push("second").await.unwrap();
        let job = queue.pop().await.unwrap();
        let token = job.token();
        drop(job);
        server.counted(CLAIMS, 0).await;
        let again = queue.pop().await.unwrap();
        assert_eq!(again.payload(), "first");
        assert!(again.token() > token);
    }

    async fn a_job_of_a_worker_whose_session_ended_goes_to_the_next(server: Server) {
        let queue = mail(&server).await;
        let dying = server.session().await;
        queue.push("job").await.unwrap();
        let job = dying.queue("mail").unwrap().pop().await.unwrap();
        let next = popping(&queue);
        server.counted(LINE, 1).await;
        server.revoke(&dying).await;
        assert_eq!(next.await.unwrap().unwrap().payload(), "job");
        drop(job);
    }

    async fn a_worker_that_lost_its_claim_cannot_acknowledge(server: Server) {
        let queue = mail(&server).await;
        let dying = server.session().await;
        queue.push("job").await.unwrap();
        let late = dying.queue("mail").unwrap().pop().await.unwrap();
        server.revoke(&dying).await;
        let job = queue.pop().await.unwrap();
        assert!(job.token() > late.token());
        let error = late.ack_with([Put::new("result", "late")]).await.unwrap_err();
        assert!(matches!(error, Error::Stale { .. } | Error::Lost(_)), "{error}");
        assert_eq!(server.count("result").await, 0);
        job.ack().await.unwrap();
    }

    async fn a_worker_whose_claim_was_removed_cannot_acknowledge_though_its_session_lives(server: Server) {
        let (late, next) = (mail(&server).await, mail(&server).await);
        late.push("job").await.unwrap();
        let late = late.pop().await.unwrap();
        server.client.delete(Delete::prefix(CLAIMS)).await.unwrap();
        let job = next.pop().await.unwrap();
        assert!(job.token() > late.token());
        let error = late.ack_with([Put::new("result", "late")]).await.unwrap_err();
        assert!(matches!(error, Error::Stale { .. }), "{error}");
        assert_eq!(server.count("result").await, 0);
        job.ack().await.unwrap();
    }

    async fn of_workers_that_try_at_the_same_time_no_two_get_the_same_job(server: Server) {
        const JOBS: usize = 8;
        let queue = mail(&server).await;
        let mut workers = Vec::new();
        for job in 0..JOBS {
            queue.push(job.to_string()).await.unwrap();
            workers.push(mail(&server).await);
        }
        let tries = workers.iter().map(Queue::try_pop);
        let jobs = futures_util::future::try_join_all(tries).await.unwrap();
        let ids: BTreeSet<String> = jobs.iter().flatten().map(|job| job.id().to_string()).collect();
        assert_eq!(ids.len(), JOBS);
    }

    async fn a_job_in_hand_is_given_to_nobody_else(server: Server) {
        let (one, other) = (mail(&server).await, mail(&server).await);
        one.push("job").await.unwrap();
        let job = one.pop().await.unwrap();
        assert!(other.try_pop().await.unwrap().is_none());
        assert!(other.peek().await.unwrap().is_none());
        let info = other.inspect().await.unwrap();
        assert_eq!((info.jobs, info.claims.len()), (1, 1));
        assert_eq!(info.claims[0].token, job.token());
        assert_eq!(info.claims[0].session, job.fence().session);
        job.fence().verify(&server.client).await.unwrap();
    }

    async fn workers_take_turns_in_the_order_they_came(server: Server) {
        let mut workers = Vec::new();
        for place in 1..=4 {
            workers.push(popping(&mail(&server).await));
            server.counted(LINE, place).await;
        }
        let queue = mail(&server).await;
        assert_eq!(queue.inspect().await.unwrap().idle.len(), 4);
        for (turn, worker) in workers.into_iter().enumerate() {
            queue.push(turn.to_string()).await.unwrap();
            let job = worker.await.unwrap().unwrap();
            assert_eq!(job.payload(), turn.to_string().as_bytes());
            job.ack().await.unwrap();
        }
    }

    async fn a_job_wakes_one_worker_and_not_all_that_wait(server: Server) {
        const WORKERS: usize = 40;
        let (proxy, client) = server.proxy().await;
        let mut workers = Vec::new();
        for place in 1..=WORKERS {
            workers.push(popping(&mail_through(&client).await));
            server.counted(LINE, i64::try_from(place).unwrap()).await;
        }
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        proxy.rule(move |path, _| {
            if path.starts_with("/etcdserverpb.KV/") {
                counter.fetch_add(1, Ordering::SeqCst);
            }
            Fate::Pass
        });
        let queue = mail(&server).await;
        for worker in workers.into_iter().take(3) {
            queue.push("job").await.unwrap();
            worker.await.unwrap().unwrap().ack().await.unwrap();
        }
        let calls = calls.load(Ordering::SeqCst);
        assert!(calls < WORKERS, "{calls} calls for three jobs");
    }

    async fn a_waiting_worker_whose_session_ends_is_told_and_gets_nothing(server: Server) {
        let session = server.session().await;
        let worker = popping(&session.queue("mail").unwrap());
        server.counted(LINE, 1).await;
        server.revoke(&session).await;
        let error = worker.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Lost(LossReason::Revoked)), "{error}");
        let queue = mail(&server).await;
        queue.push("job").await.unwrap();
        assert_eq!(queue.pop().await.unwrap().payload(), "job");
    }

    async fn a_waiting_worker_survives_a_cut_connection_and_a_compaction(server: Server) {
        let (proxy, client) = server.proxy().await;
        let mut watched = crate::support::watching(&proxy);
        let worker = popping(&mail_through(&client).await);
        server.counted(LINE, 1).await;
        watched.wait_for(|streams| *streams >= 1).await.unwrap();
        proxy.cut();
        let queue = mail(&server).await;
        queue.push("job").await.unwrap();
        queue.try_pop().await.unwrap().unwrap().ack().await.unwrap();
        server.compact(server.revision().await).await;
        proxy.heal();
        queue.push("another").await.unwrap();
        assert_eq!(worker.await.unwrap().unwrap().payload(), "another");
    }

    async fn a_foreign_key_among_the_jobs_is_an_error_that_names_it(server: Server) {
        let queue = mail(&server).await;
        server.client.put(Put::new(format!("{JOBS}hello"), "")).await.unwrap();
        let error = queue.pop().await.unwrap_err();
        assert!(error.to_string().contains("/job/hello is no job of the queue mail: remove it"), "{error}");
    }

    async fn names_that_break_the_layout_are_refused_with_advice(server: Server) {
        let session = server.session().await;
        let error = session.queue("").unwrap_err().to_string();
        assert_eq!(error, "a queue's name cannot be empty: give it at least one character");
        let error = session.queue("a/job").unwrap_err().to_string();
        assert!(error.contains("use \"-\" or \".\""), "{error}");
    }

    async fn a_job_that_is_dropped_on_any_thread_goes_back(server: Server) {
        let queue = mail(&server).await;
        queue.push("a").await.unwrap();
        let job = queue.pop().await.unwrap();
        drop_without_runtime(job);
        assert_eq!(queue.pop().await.unwrap().payload(), "a");
    }

    async fn a_session_that_cannot_give_a_job_back_is_not_renewed(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(3)).await.unwrap();
        let queue = session.queue("mail").unwrap();
        queue.push("a").await.unwrap();
        let job = queue.pop().await.unwrap();
        proxy.rule(|path, message| match deletes(path, message, CLAIMS) {
            true => Fate::Deny,
            false => Fate::Pass,
        });
        drop(job);
        assert_eq!(session.lost().await, LossReason::DeadlinePassed);
        server.counted(CLAIMS, 0).await;
    }
}
