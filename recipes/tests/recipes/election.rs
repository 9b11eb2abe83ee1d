//! Elections.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use baton_client::Put;
use baton_recipes::{Error, LeaderEvent, Leadership, LossReason, Position, Session};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::proxy::Fate;
use crate::support::{Server, deletes, on_both, puts};

/// Campaigns in the background; done when it stands in line.
async fn standing(session: &Session, value: &str) -> JoinHandle<Result<Leadership, Error>> {
    let (enqueued, position) = oneshot::channel();
    let campaign = session.election("e").campaign(value);
    let campaign = campaign.on_enqueued(|position| enqueued.send(position).unwrap());
    let campaign = tokio::spawn(campaign.into_future());
    assert!(position.await.unwrap() > Position(0));
    campaign
}

on_both! {
    async fn candidates_lead_in_the_order_they_came(server: Server) {
        let (a, b) = (server.session().await, server.session().await);
        let election = a.election("e");
        assert!(election.leader().await.unwrap().is_none());
        let first = election.campaign("a").await.unwrap();
        let second = standing(&b, "b").await;
        let leader = election.leader().await.unwrap().unwrap();
        assert_eq!((leader.candidate.session, &*leader.candidate.value), (Some(a.id()), &b"a"[..]));
        let candidates = election.candidates().await.unwrap();
        let sessions: Vec<_> = candidates.iter().map(|it| it.session.unwrap()).collect();
        assert_eq!(sessions, [a.id(), b.id()]);
        first.resign().await.unwrap();
        let second = second.await.unwrap().unwrap();
        assert_eq!(election.leader().await.unwrap().unwrap().candidate.token, second.term());
    }

    /// Appendix B, row 1.
    async fn a_candidate_whose_lease_is_revoked_gets_an_error_at_once_and_never_leads(server: Server) {
        let (a, b) = (server.session().await, server.unaware_session().await);
        let leadership = a.election("e").campaign("a").await.unwrap();
        let candidate = standing(&b, "b").await;
        server.revoke(&b).await;
        let error = candidate.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Lost(LossReason::Revoked)), "{error}");
        assert!(leadership.is_held());
        leadership.resign().await.unwrap();
        assert!(a.election("e").leader().await.unwrap().is_none());
    }

    /// Appendix B, row 3.
    async fn a_campaign_that_was_given_up_leaves_no_candidate(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        let leadership = server.session().await.election("e").campaign("a").await.unwrap();
        proxy.rule(|path, message| match puts(path, message, "e/") {
            true => Fate::LoseAnswer,
            false => Fate::Pass,
        });
        let campaign = session.election("e").campaign("b").timeout(Duration::from_millis(100));
        assert!(matches!(campaign.await, Err(Error::TimedOut(_))));
        server.counted("e/", 1).await;
        leadership.resign().await.unwrap();
        assert!(session.election("e").leader().await.unwrap().is_none());
    }

    async fn a_deposed_leader_cannot_proclaim(server: Server) {
        let session = server.session().await;
        let leadership = session.election("e").campaign("a").await.unwrap();
        leadership.proclaim("b").await.unwrap();
        let leader = session.election("e").leader().await.unwrap().unwrap();
        assert_eq!((&*leader.candidate.value, leader.candidate.token), (&b"b"[..], leadership.term()));
        session.mutex("e").force_release(leadership.term()).await.unwrap();
        let error = leadership.proclaim("c").await.unwrap_err();
        assert!(matches!(error, Error::Stale { .. } | Error::Lost(_)), "{error}");
        assert!(session.election("e").leader().await.unwrap().is_none());
    }

    async fn an_observer_is_told_of_leaders_values_and_their_absence(server: Server) {
        let (a, b) = (server.session().await, server.session().await);
        let mut events = a.election("e").observe();
        let mut next = async || events.next().await.unwrap().unwrap();
        assert!(matches!(next().await, LeaderEvent::NoLeader { .. }));
        let first = a.election("e").campaign("1").await.unwrap();
        let LeaderEvent::Elected(leader) = next().await else { panic!() };
        assert_eq!((leader.candidate.token, &*leader.candidate.value), (first.term(), &b"1"[..]));
        first.proclaim("2").await.unwrap();
        let LeaderEvent::Updated(leader) = next().await else { panic!() };
        assert_eq!((leader.candidate.token, &*leader.candidate.value), (first.term(), &b"2"[..]));
        let second = standing(&b, "3").await;
        first.resign().await.unwrap();
        let LeaderEvent::Elected(leader) = next().await else { panic!() };
        let second = second.await.unwrap().unwrap();
        assert_eq!((leader.candidate.token, &*leader.candidate.value), (second.term(), &b"3"[..]));
        drop(second);
        assert!(matches!(next().await, LeaderEvent::NoLeader { .. }));
    }

    async fn an_observer_that_missed_compacted_changes_says_so_and_goes_on(server: Server) {
        let (proxy, client) = server.proxy().await;
        let observing = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        let a = server.session().await;
        let first = a.election("e").campaign("1").await.unwrap();
        let mut events = observing.election("e").observe();
        assert!(matches!(events.next().await, Some(Ok(LeaderEvent::Elected(_)))));
        // Told of a value, it is watching.
        first.proclaim("2").await.unwrap();
        assert!(matches!(events.next().await, Some(Ok(LeaderEvent::Updated(_)))));
        let next = tokio::spawn(async move { (events.next().await, events) });
        proxy.cut();
        first.resign().await.unwrap();
        let second = a.election("e").campaign("3").await.unwrap();
        let put = server.client.put(Put::new("other", "")).await.unwrap();
        server.compact(put.header.unwrap().revision).await;
        proxy.heal();
        let (mut event, mut events) = next.await.unwrap();
        if let Some(Ok(LeaderEvent::Resynced)) = event {
            event = events.next().await;
        }
        let Some(Ok(LeaderEvent::Elected(leader))) = event else { panic!("{event:?}") };
        assert_eq!(leader.candidate.token, second.term());
    }

    async fn work_ends_with_the_leadership_and_begins_again_with_the_next(server: Server) {
        let session = server.session().await;
        let terms = Arc::new(AtomicUsize::new(0));
        let result = session.election("e").lead("a", |leadership| {
            let (terms, session) = (terms.clone(), session.clone());
            async move {
                if terms.fetch_add(1, Ordering::SeqCst) == 0 {
                    session.mutex("e").force_release(leadership.term()).await.unwrap();
                    std::future::pending::<()>().await;
                }
                ControlFlow::Break("done")
            }
        }).await.unwrap();
        assert_eq!((result, terms.load(Ordering::SeqCst)), ("done", 2));
        assert_eq!(server.count("e/").await, 0);
    }

    async fn work_ends_with_an_error_when_the_session_does(server: Server) {
        let session = server.session().await;
        let closing = session.clone();
        let error = session.election("e").lead("a", |_| {
            let closing = closing.clone();
            async move {
                closing.close().await.unwrap();
                std::future::pending::<ControlFlow<()>>().await
            }
        }).await.unwrap_err();
        assert!(matches!(error, Error::Lost(LossReason::Closed)), "{error}");
    }

    async fn a_task_spawned_under_a_leadership_ends_with_it(server: Server) {
        let session = server.session().await;
        let leadership = session.election("e").campaign("a").await.unwrap();
        let task = leadership.spawn(std::future::pending::<()>());
        leadership.resign().await.unwrap();
        assert!(matches!(task.await.unwrap(), Err(Error::Lost(LossReason::Released))));
    }

    async fn a_resumed_candidate_keeps_its_place_and_tells_its_new_value(server: Server) {
        let session = server.session().await;
        let leadership = session.election("e").campaign("old").await.unwrap();
        let term = leadership.term();
        let id = session.detach();
        let session = Session::builder(&server.client).resume(id).await.unwrap();
        let leadership = session.election("e").campaign("new").await.unwrap();
        assert_eq!(leadership.term(), term);
        let leader = session.election("e").leader().await.unwrap().unwrap();
        assert_eq!(&*leader.candidate.value, b"new");
    }

    /// Appendix B, row 3.
    async fn a_resumed_candidate_whose_value_is_refused_leaves_no_key(server: Server) {
        let session = server.session().await;
        let leadership = session.election("e").campaign("old").await.unwrap();
        let id = session.detach();
        drop(leadership);
        let (proxy, client) = server.proxy().await;
        let session = Session::builder(&client).resume(id).await.unwrap();
        let put = AtomicUsize::new(0);
        proxy.rule(move |path, message| {
            // The first would create the key, and finds it; the second has the new value.
            let is_value = puts(path, message, "e/") && put.fetch_add(1, Ordering::SeqCst) == 1;
            if is_value { Fate::Deny } else { Fate::Pass }
        });
        let error = session.election("e").campaign("new").await.unwrap_err();
        assert!(matches!(error, Error::Client(_)), "{error}");
        server.counted("e/", 0).await;
        assert!(session.is_alive());
    }

    /// Appendix B, row 16.
    async fn a_latch_is_off_when_its_key_is_gone_and_on_with_a_new_term(server: Server) {
        let session = server.session().await;
        let latch = session.election("e").latch("a");
        let mut changes = latch.changes();
        let first = changes.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(latch.is_leader());
        session.mutex("e").force_release(first.token()).await.unwrap();
        first.lost().await;
        let is_next = |grant: &Option<baton_recipes::Grant>| {
            grant.as_ref().is_some_and(|grant| grant.token() > first.token())
        };
        changes.wait_for(is_next).await.unwrap();
        assert!(latch.is_leader() && !first.is_held());
        latch.close().await;
        assert_eq!(server.count("e/").await, 0);
    }

    /// Appendix B, row 16.
    async fn a_latch_is_off_for_good_when_the_session_that_owns_the_key_ends(server: Server) {
        let (a, b) = (server.session().await, server.session().await);
        let latch = a.election("e").latch("a");
        latch.changes().wait_for(Option::is_some).await.unwrap();
        let other = standing(&b, "b").await;
        server.revoke(&a).await;
        let _other = other.await.unwrap().unwrap();
        a.lost().await;
        assert!(!latch.is_leader());
        let mut changes = latch.changes();
        while changes.changed().await.is_ok() {}
        assert!(changes.borrow().is_none());
    }

    /// Appendix B, row 16: the connection breaks at the first call, at the second, and so on, before or
    /// after it is done.
    async fn a_latch_is_on_only_while_its_own_key_leads_wherever_the_connection_breaks(server: Server) {
        for at in 0..8 {
            for fate in [true, false] {
                let (proxy, client) = server.proxy().await;
                let session = Session::open(&client, Duration::from_secs(30)).await.unwrap();
                let calls = AtomicUsize::new(0);
                proxy.rule(move |_, _| match calls.fetch_add(1, Ordering::SeqCst) {
                    call if call != at => Fate::Pass,
                    _ if fate => Fate::LoseAnswer,
                    _ => Fate::Refuse,
                });
                let latch = session.election("e").latch("a");
                let mut changes = latch.changes();
                let first = changes.wait_for(Option::is_some).await.unwrap().clone().unwrap();
                let leader = session.election("e").leader().await;
                if let Ok(leader) = leader {
                    assert_eq!(leader.unwrap().candidate.token, first.token());
                }
                server.client.delete(&*first.fence().key).await.unwrap();
                first.lost().await;
                let second = changes.wait_for(|grant| {
                    grant.as_ref().is_some_and(|grant| grant.token() > first.token())
                }).await.unwrap().clone().unwrap();
                second.fence().verify(&server.client).await.unwrap();
                assert!(latch.is_leader());
                latch.close().await;
                assert_eq!(server.count("e/").await, 0);
            }
        }
    }

    async fn a_closed_latch_stands_nowhere(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(30)).await.unwrap();
        let leader = server.session().await.election("e").campaign("first").await.unwrap();
        let latch = session.election("e").latch("second");
        server.counted("e/", 2).await;
        proxy.rule(|path, message| match deletes(path, message, "e/") {
            true => Fate::Delay(Duration::from_millis(100)),
            false => Fate::Pass,
        });
        latch.close().await;
        assert_eq!(server.count("e/").await, 1);
        leader.resign().await.unwrap();
    }

    async fn work_that_gave_its_leadership_to_others_gives_it_up_all_the_same(server: Server) {
        let session = server.session().await;
        let kept = parking_lot::Mutex::new(Vec::new());
        session.election("e").lead("a", |leadership| {
            kept.lock().push(leadership);
            let is_over = kept.lock().len() == 2;
            async move {
                if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
        }).await.unwrap();
        assert_eq!(server.count("e/").await, 0);
        assert!(kept.lock().iter().all(|leadership| !leadership.is_held()));
    }
}
