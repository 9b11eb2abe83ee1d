//! Locks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use baton_client::{Client, Delete, Options, Put};
use baton_recipes::{Error, LossReason, MutexGuard, Position, Session};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::proxy::Fate;
use crate::support::{Server, deletes, on_both, puts};

/// Waits in line in the background; done when it stands there.
async fn waiting(session: &Session, name: &str) -> JoinHandle<Result<MutexGuard, Error>> {
    let (enqueued, position) = oneshot::channel();
    let lock = session.mutex(name).lock();
    let lock = lock.on_enqueued(|position| enqueued.send(position).unwrap());
    let lock = tokio::spawn(lock.into_future());
    assert!(position.await.unwrap() > Position(0));
    lock
}

on_both! {
    async fn a_lock_is_held_by_one_session_at_a_time_in_the_order_they_came(server: Server) {
        let (a, b, c) = (server.session().await, server.session().await, server.session().await);
        let first = a.mutex("m").lock().await.unwrap();
        let second = waiting(&b, "m").await;
        let third = waiting(&c, "m").await;
        let info = a.mutex("m").inspect().await.unwrap();
        assert_eq!(info.holder.unwrap().session, Some(a.id()));
        let waiters: Vec<_> = info.waiters.iter().map(|waiter| waiter.session.unwrap()).collect();
        assert_eq!(waiters, [b.id(), c.id()]);
        assert!(!second.is_finished() && !third.is_finished());
        let first_token = first.token();
        first.release().await.unwrap();
        let second = second.await.unwrap().unwrap();
        assert!(!third.is_finished());
        assert!(second.token() > first_token);
        let second_token = second.token();
        second.release().await.unwrap();
        let third = third.await.unwrap().unwrap();
        assert!(third.token() > second_token);
        third.release().await.unwrap();
        assert_eq!(server.count("m/").await, 0);
    }

    async fn tasks_of_one_session_hold_a_lock_one_at_a_time_with_a_token_each(server: Server) {
        let session = server.session().await;
        let held = std::sync::Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..8).map(|_| {
            let (mutex, held) = (session.mutex("m"), held.clone());
            tokio::spawn(async move {
                let guard = mutex.lock().await.unwrap();
                assert!(!held.swap(true, Ordering::SeqCst));
                tokio::task::yield_now().await;
                assert!(held.swap(false, Ordering::SeqCst));
                let token = guard.token();
                guard.release().await.unwrap();
                token
            })
        }).collect();
        let mut tokens = std::collections::BTreeSet::new();
        for task in tasks {
            tokens.insert(task.await.unwrap());
        }
        assert_eq!(tokens.len(), 8);
    }

    /// Appendix B, row 1.
    async fn a_waiter_whose_lease_is_revoked_gets_an_error_at_once_and_never_holds(server: Server) {
        let (a, b) = (server.session().await, server.unaware_session().await);
        let guard = a.mutex("m").lock().await.unwrap();
        let waiter = waiting(&b, "m").await;
        server.revoke(&b).await;
        // The holder holds on: nothing but the waiter's own key tells.
        let error = waiter.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Lost(LossReason::Revoked)), "{error}");
        assert!(guard.is_held());
        assert_eq!(server.count("m/").await, 1);
    }

    /// Appendix B, row 1, for a key that goes alone.
    async fn a_waiter_whose_key_is_removed_gets_an_error_at_once_and_its_session_goes_on(server: Server) {
        let (a, b) = (server.session().await, server.session().await);
        let guard = a.mutex("m").lock().await.unwrap();
        let waiter = waiting(&b, "m").await;
        let token = a.mutex("m").inspect().await.unwrap().waiters[0].token;
        a.mutex("m").force_release(token).await.unwrap();
        let error = waiter.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Lost(LossReason::Removed)), "{error}");
        assert!(b.is_alive());
        guard.release().await.unwrap();
        b.mutex("m").lock().await.unwrap().release().await.unwrap();
    }

    /// Appendix B, row 1: wake-ups are hints. The waiter is told that its predecessor is gone, and not that
    /// it is gone itself: what it watches says nothing.
    async fn a_waiter_without_a_key_does_not_hold_when_its_predecessor_leaves(server: Server) {
        let (proxy, client) = server.proxy().await;
        let (a, b) = (server.session().await, Session::open(&client, Duration::from_secs(10)).await.unwrap());
        let guard = a.mutex("m").lock().await.unwrap();
        let waiter = waiting(&b, "m").await;
        proxy.cut();
        server.revoke(&b).await;
        guard.release().await.unwrap();
        proxy.heal();
        let error = waiter.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Lost(_)), "{error}");
        assert_eq!(server.count("m/").await, 0);
    }

    /// Appendix B, row 2.
    async fn a_waiter_hit_by_compaction_keeps_its_place(server: Server) {
        let (proxy, client) = server.proxy().await;
        let a = server.session().await;
        let b = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        let c = server.session().await;
        let guard = a.mutex("m").lock().await.unwrap();
        let waiter = waiting(&b, "m").await;
        let behind = waiting(&c, "m").await;
        let token = a.mutex("m").inspect().await.unwrap().waiters[0].token;
        proxy.cut();
        let put = server.client.put(Put::new("other", "")).await.unwrap();
        server.compact(put.header.unwrap().revision).await;
        proxy.heal();
        guard.release().await.unwrap();
        let guard = waiter.await.unwrap().unwrap();
        assert_eq!(guard.token(), token);
        assert!(!behind.is_finished());
        guard.release().await.unwrap();
        drop(behind.await.unwrap().unwrap());
    }

    /// Appendix B, row 2: what it waits for happens where it cannot see it.
    async fn a_waiter_whose_turn_was_compacted_before_it_was_told_holds(server: Server) {
        let (proxy, client) = server.proxy().await;
        let a = server.session().await;
        let b = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        let guard = a.mutex("m").lock().await.unwrap();
        let waiter = waiting(&b, "m").await;
        proxy.cut();
        guard.release().await.unwrap();
        let put = server.client.put(Put::new("other", "")).await.unwrap();
        server.compact(put.header.unwrap().revision).await;
        proxy.heal();
        waiter.await.unwrap().unwrap().release().await.unwrap();
    }

    /// Appendix B, row 3: the answer to the create is lost, and the caller gives up.
    async fn a_lock_that_was_given_up_without_an_answer_leaves_no_key(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        proxy.rule(|path, message| match puts(path, message, "m/") {
            true => Fate::LoseAnswer,
            false => Fate::Pass,
        });
        let lock = session.mutex("m").lock().timeout(Duration::from_millis(200));
        assert!(matches!(lock.await, Err(Error::TimedOut(_))));
        server.counted("m/", 0).await;
        assert!(session.is_alive());
    }

    /// Appendix B, row 3: the create may or may not have been done, and then all is refused.
    async fn a_lock_refused_after_an_unknown_outcome_leaves_no_key(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        let guard = server.session().await.mutex("m").lock().await.unwrap();
        let is_first = AtomicBool::new(true);
        proxy.rule(move |path, message| {
            if !puts(path, message, "m/") {
                Fate::Pass
            } else if is_first.swap(false, Ordering::SeqCst) {
                Fate::LoseAnswer
            } else {
                Fate::Deny
            }
        });
        let error = session.mutex("m").lock().await.unwrap_err();
        assert!(matches!(error, Error::Client(_)), "{error}");
        server.counted("m/", 1).await;
        assert!(guard.is_held());
    }

    /// Appendix B, row 9.
    async fn a_release_between_the_look_and_the_watch_is_not_missed(server: Server) {
        let (proxy, client) = server.proxy().await;
        let a = server.session().await;
        let b = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        let guard = a.mutex("m").lock().await.unwrap();
        let (open, gate) = watch::channel(false);
        proxy.rule(move |path, _| match path.ends_with("/Watch") {
            true => Fate::After(gate.clone()),
            false => Fate::Pass,
        });
        let waiter = waiting(&b, "m").await;
        guard.release().await.unwrap();
        open.send_replace(true);
        waiter.await.unwrap().unwrap().release().await.unwrap();
    }

    /// Appendix B, row 10.
    async fn a_session_that_locks_again_holds_at_once(server: Server) {
        let session = server.session().await;
        for _ in 0..3 {
            session.mutex("m").lock().await.unwrap().release().await.unwrap();
            drop(session.mutex("m").lock().await.unwrap());
        }
        drop(session.mutex("m").lock().await.unwrap());
    }

    /// Appendix B, row 13.
    async fn of_two_tries_on_a_lock_whose_release_was_acknowledged_one_wins(server: Server) {
        let (a, b) = (server.session().await, server.session().await);
        for _ in 0..20 {
            a.mutex("m").lock().await.unwrap().release().await.unwrap();
            let (x, y) = (a.mutex("m"), b.mutex("m"));
            let (x, y) = tokio::join!(x.try_lock(), y.try_lock());
            let (x, y) = (x.unwrap(), y.unwrap());
            assert!(x.is_some() != y.is_some());
            for guard in x.into_iter().chain(y) {
                guard.release().await.unwrap();
            }
        }
    }

    /// Appendix B, row 13, within one session.
    async fn a_lock_is_free_to_its_own_session_once_its_release_was_acknowledged(server: Server) {
        let session = server.session().await;
        for _ in 0..50 {
            let guard = session.mutex("m").try_lock().await.unwrap();
            guard.expect("it is free").release().await.unwrap();
        }
    }

    async fn a_try_on_a_lock_that_is_held_never_stands_in_line(server: Server) {
        let (a, b) = (server.session().await, server.session().await);
        let guard = a.mutex("m").lock().await.unwrap();
        let before = server.revision().await;
        assert!(b.mutex("m").try_lock().await.unwrap().is_none());
        assert!(a.mutex("m").try_lock().await.unwrap().is_none());
        assert_eq!(server.revision().await, before);
        guard.release().await.unwrap();
        drop(b.mutex("m").try_lock().await.unwrap().unwrap());
    }

    /// Appendix B, row 18: in series they would take longer than the test may.
    async fn dead_waiters_in_front_cost_their_time_to_live_once(server: Server) {
        const DEAD: usize = 20;
        const TTL: Duration = Duration::from_secs(3);
        let (proxy, client) = server.proxy().await;
        let a = server.session().await;
        let guard = a.mutex("m").lock().await.unwrap();
        let mut dead = Vec::new();
        for _ in 0..DEAD {
            let session = Session::open(&client, TTL).await.unwrap();
            let waiter = waiting(&session, "m").await;
            dead.push((session, waiter));
        }
        let live = waiting(&server.session().await, "m").await;
        proxy.cut();
        guard.release().await.unwrap();
        let held = tokio::time::timeout(TTL * 10, live).await;
        let held = held.expect("dead waiters are waited for one after the other");
        drop(held.unwrap().unwrap());
        for (session, waiter) in dead {
            session.lost().await;
            assert!(matches!(waiter.await.unwrap(), Err(Error::Lost(_))));
        }
    }

    /// Appendix B, row 21.
    async fn a_create_that_arrives_after_the_release_creates_nothing(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        let is_first = AtomicBool::new(true);
        proxy.rule(move |path, message| {
            let is_create = puts(path, message, "m/");
            match is_create && is_first.swap(false, Ordering::SeqCst) {
                true => Fate::Keep,
                false => Fate::Pass,
            }
        });
        session.mutex("m").lock().await.unwrap().release().await.unwrap();
        assert_eq!(proxy.kept(), 1);
        proxy.deliver().await;
        assert_eq!(server.count("m/").await, 0);
        session.mutex("m").lock().await.unwrap().release().await.unwrap();
        assert_eq!(server.count("m/").await, 0);
    }

    /// Appendix B, row 21, where the attempt was given up.
    async fn a_create_that_arrives_after_its_attempt_was_given_up_creates_nothing(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        let (withdrawn, mut is_withdrawn) = watch::channel(false);
        proxy.rule(move |path, message| {
            if puts(path, message, "m/") {
                return Fate::Keep;
            }
            if deletes(path, message, "m/") {
                withdrawn.send_replace(true);
            }
            Fate::Pass
        });
        let lock = session.mutex("m").lock().timeout(Duration::from_millis(100));
        assert!(matches!(lock.await, Err(Error::TimedOut(_))));
        is_withdrawn.wait_for(|is_withdrawn| *is_withdrawn).await.unwrap();
        // The next attempt begins when the one before is undone.
        proxy.rule(|_, _| Fate::Pass);
        let guard = session.mutex("m").lock().await.unwrap();
        let token = guard.token();
        guard.release().await.unwrap();
        assert!(proxy.kept() > 0);
        proxy.deliver().await;
        assert_eq!(server.count("m/").await, 0, "after token {token}");
    }

    /// Appendix B, row 24.
    async fn a_late_release_does_not_remove_a_newer_key_of_the_same_session(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        let is_first = AtomicBool::new(true);
        proxy.rule(move |path, message| {
            let is_release = deletes(path, message, "m/");
            match is_release && is_first.swap(false, Ordering::SeqCst) {
                true => Fate::Keep,
                false => Fate::Pass,
            }
        });
        session.mutex("m").lock().await.unwrap().release().await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        assert_eq!(proxy.kept(), 1);
        proxy.deliver().await;
        guard.fence().verify(&server.client).await.unwrap();
        guard.put("data", "1").await.unwrap();
    }

    async fn a_release_without_an_answer_is_repeated_until_it_is_known(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        let is_first = AtomicBool::new(true);
        proxy.rule(move |path, message| {
            let is_release = deletes(path, message, "m/");
            match is_release && is_first.swap(false, Ordering::SeqCst) {
                true => Fate::LoseAnswer,
                false => Fate::Pass,
            }
        });
        guard.release().await.unwrap();
        assert_eq!(server.count("m/").await, 0);
    }

    async fn a_session_whose_release_cannot_be_confirmed_is_not_renewed(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(3)).await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        proxy.rule(|path, message| match deletes(path, message, "m/") {
            true => Fate::Refuse,
            false => Fate::Pass,
        });
        let error = guard.release().await.unwrap_err();
        assert!(matches!(error, Error::Lost(LossReason::DeadlinePassed)), "{error}");
        server.counted("m/", 0).await;
    }

    async fn a_fenced_write_fails_once_the_lock_was_forced_from_its_holder(server: Server) {
        let session = server.session().await;
        let guard = session.mutex("m").lock().await.unwrap();
        guard.put("data", "1").await.unwrap();
        let fence = guard.fence().clone();
        fence.verify(&server.client).await.unwrap();
        session.mutex("m").force_release(guard.token()).await.unwrap();
        let error = guard.put("data", "2").await.unwrap_err();
        assert!(matches!(error, Error::Stale { .. } | Error::Lost(_)), "{error}");
        assert!(matches!(fence.verify(&server.client).await, Err(Error::Stale { .. })));
        assert_eq!(guard.lost().await, LossReason::Removed);
        assert!(!guard.is_held());
        let value = server.client.get("data").await.unwrap().kvs.pop().unwrap().value;
        assert_eq!(value, "1");
    }

    async fn a_fenced_transaction_chooses_its_branch_by_its_own_conditions(server: Server) {
        use baton_client::{Compare, Get, Txn};
        let session = server.session().await;
        let guard = session.mutex("m").lock().await.unwrap();
        let once = || Txn::new().when(Compare::absent("k")).then(Put::new("k", "1")).or_else(Get::key("k"));
        assert!(guard.txn(once()).await.unwrap().succeeded);
        let answer = guard.txn(once()).await.unwrap();
        assert!(!answer.succeeded);
        assert_eq!(answer.responses.len(), 1);
        server.client.delete(Delete::key(&guard.fence().key)).await.unwrap();
        assert!(guard.txn(once()).await.is_err());
    }

    async fn a_body_is_dropped_when_its_lock_is_lost(server: Server) {
        let session = server.session().await;
        let mutex = session.mutex("m");
        let (dropped, is_dropped) = oneshot::channel::<()>();
        let error = mutex.run(async |grant| {
            let _dropped = dropped;
            session.mutex("m").force_release(grant.token()).await.unwrap();
            std::future::pending::<()>().await;
        }).await.unwrap_err();
        assert!(matches!(error, Error::Lost(LossReason::Removed)), "{error}");
        assert!(is_dropped.await.is_err());
        assert_eq!(mutex.run(async |_| 7).await.unwrap(), 7);
        assert_eq!(server.count("m/").await, 0);
    }

    async fn a_holder_can_be_asked_to_release_and_learns_why(server: Server) {
        let (a, b) = (server.session().await, server.session().await);
        assert_eq!(b.mutex("m").request_release("deploy").await.unwrap(), None);
        let guard = a.mutex("m").lock().await.unwrap();
        let asked = b.mutex("m").request_release("deploy").await.unwrap();
        assert_eq!(asked, Some(guard.token()));
        assert_eq!(guard.on_revocation().await, "deploy");
        guard.release().await.unwrap();
        // What was asked of the hold before is not asked of this one.
        let guard = a.mutex("m").lock().await.unwrap();
        let (again, ()) = tokio::join!(guard.on_revocation(), async {
            b.mutex("m").request_release("again").await.unwrap();
        });
        assert_eq!(again, "again");
    }

    async fn whoever_looks_sees_labels_values_and_tokens_in_order(server: Server) {
        let a = Session::builder(&server.client).label("worker 1").open().await.unwrap();
        let b = Session::builder(&server.client).label("worker 2").open().await.unwrap();
        let guard = a.mutex("m").lock().value("v1").await.unwrap();
        let _waiter = waiting(&b, "m").await;
        let info = b.mutex("m").inspect().await.unwrap();
        let holder = info.holder.unwrap();
        assert_eq!((&*holder.label, &*holder.value), ("worker 1", &b"v1"[..]));
        assert_eq!(holder.token, guard.token());
        assert_eq!(info.waiters.len(), 1);
        assert_eq!(info.waiters[0].label, "worker 2");
        assert!(info.waiters[0].token > holder.token);
        guard.set_value("v2").await.unwrap();
        let holder = b.mutex("m").inspect().await.unwrap().holder.unwrap();
        assert_eq!((&*holder.value, holder.token), (&b"v2"[..], guard.token()));
    }

    async fn names_that_make_no_sense_are_refused_by_every_request(server: Server) {
        let session = server.session().await;
        for name in ["", "a/", "a\0", "baton.recipes/sessions"] {
            let mutex = session.mutex(name);
            assert!(matches!(mutex.lock().await, Err(Error::Invalid(_))), "{name:?}");
            assert!(matches!(mutex.try_lock().await, Err(Error::Invalid(_))), "{name:?}");
            assert!(matches!(mutex.inspect().await, Err(Error::Invalid(_))), "{name:?}");
            assert!(matches!(mutex.request_release("").await, Err(Error::Invalid(_))), "{name:?}");
        }
    }

    async fn a_token_that_nobody_has_forces_nothing(server: Server) {
        let session = server.session().await;
        let first = session.mutex("m").lock().await.unwrap();
        let token = first.token();
        first.release().await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        let error = session.mutex("m").force_release(token).await.unwrap_err();
        assert!(error.to_string().contains("look again"), "{error}");
        guard.fence().verify(&server.client).await.unwrap();
    }

    async fn a_plain_key_under_the_name_stands_in_line_as_in_etcd(server: Server) {
        let session = server.session().await;
        server.client.put(Put::new("m/x", "")).await.unwrap();
        let waiter = waiting(&session, "m").await;
        let info = session.mutex("m").inspect().await.unwrap();
        assert_eq!(info.holder.unwrap().session, None);
        let error = session.mutex("m").request_release("").await.unwrap_err();
        assert!(error.to_string().contains("remove the key"), "{error}");
        server.client.delete(Delete::key("m/x")).await.unwrap();
        drop(waiter.await.unwrap().unwrap());
    }

    async fn whoever_asks_the_lock_service_stands_in_the_same_line(server: Server) {
        let (a, b) = (server.session().await, server.session().await);
        let guard = a.mutex("m").lock().await.unwrap();
        let lease = server.client.grant(Duration::from_secs(60), 0).await.unwrap().id;
        let client = server.client.clone();
        let second = tokio::spawn(async move { client.lock("m", lease, None).await });
        server.counted("m/", 2).await;
        let third = waiting(&b, "m").await;
        guard.release().await.unwrap();
        let second = second.await.unwrap().unwrap();
        assert!(!third.is_finished());
        server.client.unlock(&second.key).await.unwrap();
        third.await.unwrap().unwrap().release().await.unwrap();
    }

    async fn a_callback_that_panics_costs_nobody_the_lock(server: Server) {
        let session = server.session().await;
        let lock = session.mutex("m").lock();
        let guard = lock.on_enqueued(|_| panic!("the caller's own fault")).await.unwrap();
        guard.release().await.unwrap();
        assert_eq!(server.count("m/").await, 0);
    }

    async fn whoever_cannot_reach_the_server_waits_for_it(server: Server) {
        let proxy = server.proxy().await.0;
        let patience = Duration::from_millis(100);
        let options = Options { request_timeout: patience, ..Options::default() };
        let client = Client::with_options([proxy.address()], options).unwrap();
        let session = Session::open(&client, Duration::from_secs(60)).await.unwrap();
        proxy.cut();
        let mut lock = session.mutex("m").lock().into_future();
        let waited = tokio::time::timeout(patience * 5, &mut lock).await;
        assert!(waited.is_err(), "{waited:?}");
        proxy.heal();
        lock.await.unwrap().release().await.unwrap();
    }

    async fn a_holder_is_told_that_its_key_is_gone_though_nobody_can_say_why(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(600)).await.unwrap();
        let guard = session.mutex("m").lock().await.unwrap();
        proxy.rule(|path, _| match path.ends_with("/LeaseKeepAlive") {
            true => Fate::Refuse,
            false => Fate::Pass,
        });
        server.client.delete(Delete::key(&guard.fence().key)).await.unwrap();
        assert_eq!(guard.lost().await, LossReason::Removed);
        assert!(session.is_alive());
    }

    async fn a_release_that_finds_the_lease_gone_is_over(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(3600)).await.unwrap();
        let (_gate, closed) = watch::channel(false);
        let is_first = AtomicBool::new(true);
        proxy.rule(move |path, message| match path {
            // What it would tell is to be found out otherwise.
            path if path.ends_with("/Watch") => Fate::After(closed.clone()),
            path if puts(path, message, "m/") && is_first.swap(false, Ordering::SeqCst) => Fate::LoseAnswer,
            _ => Fate::Pass,
        });
        let guard = session.mutex("m").lock().await.unwrap();
        server.revoke(&session).await;
        let error = guard.release().await.unwrap_err();
        assert!(matches!(error, Error::Lost(LossReason::Revoked)), "{error}");
    }

    async fn a_place_that_cannot_be_taken_up_again_is_left(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = server.session().await;
        let guard = session.mutex("m").lock().value("old").await.unwrap();
        let id = session.detach();
        drop(guard);
        let session = Session::builder(&client).resume(id).await.unwrap();
        let writes = AtomicUsize::new(0);
        proxy.rule(move |path, message| match puts(path, message, "m/") {
            // The create finds the key; what is refused is the new value.
            true if writes.fetch_add(1, Ordering::SeqCst) == 1 => Fate::Deny,
            _ => Fate::Pass,
        });
        let error = session.mutex("m").lock().value("new").await.unwrap_err();
        assert!(matches!(error, Error::Client(_)), "{error}");
        server.counted("m/", 0).await;
    }
}
