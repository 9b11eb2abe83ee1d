//! Double barriers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton_client::{Client, Get, Put};
use baton_recipes::{DoubleBarrier, EnterError, Error, Inside, Session};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::proxy::{Fate, Proxy};
use crate::support::{Server, deletes, drop_without_runtime, limit, on_both, puts, watching};

const ROOT: &str = "baton.recipes/double-barrier/stage/";
const MEMBERS: &str = "baton.recipes/double-barrier/stage/member/";
const READY: &str = "baton.recipes/double-barrier/stage/ready";

const GENERATION: &str = "baton.recipes/double-barrier/stage/generation";

const NAMES: [&str; 3] = ["a", "b", "c"];

async fn member(server: &Server, me: &str) -> DoubleBarrier {
    member_of(&server.session().await, me)
}

fn member_of(session: &Session, me: &str) -> DoubleBarrier {
    session.double_barrier("stage", NAMES, me).unwrap()
}

/// Enters in the background; done when the member has come.
async fn entering(
    server: &Server,
    barrier: &DoubleBarrier,
    place: i64,
) -> JoinHandle<Result<Inside, EnterError>> {
    let barrier = barrier.clone();
    let entering = tokio::spawn(async move { barrier.enter().await });
    server.counted(MEMBERS, place).await;
    entering
}

/// All three, inside, each with a session of its own.
async fn inside(server: &Server, sessions: &[Session; 3]) -> [Inside; 3] {
    let [a, b, c] = [0, 1, 2].map(|index| member_of(&sessions[index], NAMES[index]));
    let a = entering(server, &a, 1).await;
    let b = entering(server, &b, 2).await;
    let c = c.enter().await.unwrap();
    [a.await.unwrap().unwrap(), b.await.unwrap().unwrap(), c]
}

async fn three_sessions(server: &Server) -> [Session; 3] {
    [
        server.session().await,
        server.session().await,
        server.session().await,
    ]
}

fn leaving(inside: Inside) -> JoinHandle<Result<(), Error>> {
    tokio::spawn(inside.leave())
}

on_both! {
    async fn all_members_enter_together_and_leave_together_again_and_again(server: Server) {
        for generation in 0..3 {
            let mut members = Vec::new();
            for me in NAMES {
                let barrier = member(&server, me).await;
                members.push(tokio::spawn(async move {
                    let inside = barrier.enter().await.unwrap();
                    assert_eq!(inside.generation(), generation);
                    let mut roster = inside.members().to_vec();
                    roster.sort();
                    assert_eq!(roster, NAMES);
                    inside.leave().await
                }));
            }
            for member in members {
                member.await.unwrap().unwrap();
            }
        }
        assert_eq!(server.count(ROOT).await, 1, "the count of generations");
    }

    async fn members_with_one_session_each_go_through_many_generations_without_meeting_a_stale_one(server: Server) {
        let mut members = Vec::new();
        for (me, session) in NAMES.into_iter().zip(three_sessions(&server).await) {
            let barrier = member_of(&session, me);
            members.push(tokio::spawn(async move {
                for generation in 0..10 {
                    let inside = barrier.enter().await.unwrap();
                    assert_eq!(inside.generation(), generation);
                    inside.leave().await.unwrap();
                }
            }));
        }
        for member in members {
            member.await.unwrap();
        }
    }

    async fn nobody_is_inside_before_all_have_come_nor_outside_before_all_have_left(server: Server) {
        let a = member(&server, "a").await;
        let a = entering(&server, &a, 1).await;
        let b = member(&server, "b").await;
        let b = entering(&server, &b, 2).await;
        assert!(!a.is_finished() && !b.is_finished());
        let c = member(&server, "c").await.enter().await.unwrap();
        let (a, b) = (a.await.unwrap().unwrap(), b.await.unwrap().unwrap());
        let left = format!("{ROOT}left/");
        let a = leaving(a);
        server.counted(&left, 1).await;
        let b = leaving(b);
        server.counted(&left, 2).await;
        assert!(!a.is_finished() && !b.is_finished());
        c.leave().await.unwrap();
        a.await.unwrap().unwrap();
        b.await.unwrap().unwrap();
    }

    /// Appendix B, row 8.
    async fn the_others_enter_though_the_last_to_come_died_before_it_said_ready(server: Server) {
        let a = member(&server, "a").await;
        let a = entering(&server, &a, 1).await;
        let b = member(&server, "b").await;
        let b = entering(&server, &b, 2).await;
        // All that the last one did: it came.
        let dead = server.session().await;
        let key = format!("{MEMBERS}c");
        server.client.put(Put::new(key, "3").lease(dead.id().lease())).await.unwrap();
        let a = a.await.unwrap().unwrap();
        let b = b.await.unwrap().unwrap();
        assert_eq!(a.members(), NAMES);
        assert_eq!(b.members(), NAMES);
        // It does not hold up who leaves either.
        server.revoke(&dead).await;
        let a = leaving(a);
        b.leave().await.unwrap();
        a.await.unwrap().unwrap();
    }

    /// Appendix B, row 8.
    async fn who_waits_for_a_member_that_died_times_out_with_its_name(server: Server) {
        let (a, b) = (member(&server, "a").await, member(&server, "b").await);
        let dead = server.session().await;
        let c = member_of(&dead, "c");
        let c = entering(&server, &c, 1).await;
        server.revoke(&dead).await;
        c.await.unwrap().unwrap_err();
        let limit = Duration::from_millis(300);
        let (a, b) = tokio::join!(a.enter_within(limit), b.enter_within(limit));
        for error in [a.unwrap_err(), b.unwrap_err()] {
            let EnterError::TimedOut { absent, .. } = &error else {
                panic!("{error}");
            };
            assert!(absent.contains(&"c".to_owned()), "{error}");
            assert!(error.to_string().contains("missing: "), "{error}");
        }
        server.counted(MEMBERS, 0).await;
    }

    /// Appendix B, row 5.
    async fn killing_the_watch_stream_does_not_open_a_double_barrier(server: Server) {
        let (proxy, client) = server.proxy().await;
        let mut watched = watching(&proxy);
        let (a, b) = (through(&client, "a").await, through(&client, "b").await);
        let a = entering(&server, &a, 1).await;
        let b = entering(&server, &b, 2).await;
        for streams in 1..=3 {
            watched.wait_for(|streams_so_far| *streams_so_far >= streams).await.unwrap();
            proxy.cut();
            proxy.heal();
        }
        watched.wait_for(|streams_so_far| *streams_so_far >= 4).await.unwrap();
        assert!(!a.is_finished() && !b.is_finished());
        assert_eq!(server.count(READY).await, 0);
        let c = member(&server, "c").await.enter().await.unwrap();
        drop((a.await.unwrap().unwrap(), b.await.unwrap().unwrap(), c));
    }

    /// Appendix B, row 5.
    async fn a_watch_that_is_compacted_away_does_not_open_a_double_barrier(server: Server) {
        let (proxy, client) = server.proxy().await;
        let mut watched = watching(&proxy);
        let a = through(&client, "a").await;
        let a = entering(&server, &a, 1).await;
        watched.wait_for(|streams| *streams >= 1).await.unwrap();
        proxy.cut();
        for value in ["1", "2", "3"] {
            server.client.put(Put::new("other", value)).await.unwrap();
        }
        server.compact(server.revision().await).await;
        proxy.heal();
        watched.wait_for(|streams| *streams >= 2).await.unwrap();
        let b = member(&server, "b").await;
        let b = entering(&server, &b, 2).await;
        assert!(!a.is_finished() && !b.is_finished());
        let c = member(&server, "c").await.enter().await.unwrap();
        drop((a.await.unwrap().unwrap(), b.await.unwrap().unwrap(), c));
    }

    async fn a_restarted_member_takes_its_old_place_and_is_not_one_too_many(server: Server) {
        let [a, b, c] = three_sessions(&server).await;
        let before = c.clone();
        let inside = inside(&server, &[a, b, c]).await;
        // As in a crash: the old key is still there, and nobody removes it.
        before.detach();
        let again = member(&server, "c").await.enter().await.unwrap();
        assert_eq!(again.generation(), 0);
        assert_eq!(again.members(), NAMES);
        let [a, b, old] = inside;
        drop(old);
        let (a, b) = (leaving(a), leaving(b));
        again.leave().await.unwrap();
        a.await.unwrap().unwrap();
        b.await.unwrap().unwrap();
    }

    async fn a_member_that_dies_inside_does_not_hold_up_who_leaves(server: Server) {
        let sessions = three_sessions(&server).await;
        let [a, b, dead] = inside(&server, &sessions).await;
        let (a, b) = (leaving(a), leaving(b));
        server.counted(&format!("{ROOT}left/"), 2).await;
        server.revoke(&sessions[2]).await;
        a.await.unwrap().unwrap();
        b.await.unwrap().unwrap();
        drop(dead);
    }

    async fn where_all_died_inside_the_next_to_come_meet_no_open_barrier(server: Server) {
        let sessions = three_sessions(&server).await;
        let dead = inside(&server, &sessions).await;
        for session in &sessions {
            server.revoke(session).await;
        }
        assert_eq!(server.count(READY).await, 1);
        let a = member(&server, "a").await;
        let a = entering(&server, &a, 1).await;
        assert_eq!(server.count(READY).await, 0);
        assert!(!a.is_finished());
        drop(dead);
    }

    async fn a_copy_of_ready_that_comes_a_generation_late_opens_nothing(server: Server) {
        let (proxy, client) = server.proxy().await;
        let kept = AtomicBool::new(false);
        proxy.rule(move |path, message| {
            let is_first = puts(path, message, READY) && !kept.swap(true, Ordering::SeqCst);
            if is_first { Fate::Keep } else { Fate::Pass }
        });
        let mut members = Vec::new();
        for (place, me) in (1..).zip(NAMES) {
            let barrier = through(&client, me).await;
            let entering = if place < 3 {
                entering(&server, &barrier, place).await
            } else {
                let barrier = barrier.clone();
                tokio::spawn(async move { barrier.enter().await })
            };
            members.push((barrier, entering));
        }
        let (mut barriers, mut leaves) = (Vec::new(), Vec::new());
        for (barrier, entering) in members {
            leaves.push(leaving(entering.await.unwrap().unwrap()));
            barriers.push(barrier);
        }
        for left in leaves {
            left.await.unwrap().unwrap();
        }
        let again = entering(&server, &barriers[0], 1).await;
        assert_eq!(proxy.kept(), 1);
        proxy.deliver().await;
        assert_eq!(server.count(READY).await, 0);
        assert!(!again.is_finished());
    }

    async fn a_generation_is_not_over_for_who_comes_back_into_it(server: Server) {
        let sessions = three_sessions(&server).await;
        let dead = inside(&server, &sessions).await;
        server.revoke(&sessions[0]).await;
        server.revoke(&sessions[1]).await;
        // One is on its way back while the last that was inside dies.
        let (proxy, client) = server.proxy().await;
        let (come, is_coming) = held_back(&proxy, MEMBERS);
        let b = through(&client, "b").await;
        let b = tokio::spawn(async move { b.enter().await });
        reached(is_coming).await;
        server.revoke(&sessions[2]).await;
        // Another sees nobody inside, and is about to say that this was it.
        let (proxy, client) = server.proxy().await;
        let (finish, is_finishing) = held_back(&proxy, GENERATION);
        let a = through(&client, "a").await;
        let a = tokio::spawn(async move { a.enter().await });
        reached(is_finishing).await;
        come.send_replace(true);
        let b = b.await.unwrap().unwrap();
        finish.send_replace(true);
        let a = a.await.unwrap().unwrap();
        assert_eq!((a.generation(), b.generation()), (0, 0));
        drop(dead);
    }

    async fn who_leaves_as_the_last_waits_for_who_comes_back_meanwhile(server: Server) {
        let (proxy, client) = server.proxy().await;
        let (finish, is_finishing) = held_back(&proxy, GENERATION);
        let through_proxy = Session::open(&client, limit()).await.unwrap();
        let sessions = [through_proxy, server.session().await, server.session().await];
        let [a, b, c] = inside(&server, &sessions).await;
        server.revoke(&sessions[1]).await;
        server.revoke(&sessions[2]).await;
        let a = leaving(a);
        reached(is_finishing).await;
        let back = member(&server, "b").await.enter().await.unwrap();
        finish.send_replace(true);
        // It has said that it left, and waits.
        server.counted(&format!("{ROOT}left/a"), 1).await;
        assert_eq!(server.count(GENERATION).await, 0);
        assert!(!a.is_finished());
        back.leave().await.unwrap();
        a.await.unwrap().unwrap();
        drop((b, c));
    }

    async fn a_member_that_waits_for_another_number_is_told_so(server: Server) {
        let session = server.session().await;
        let three = session.double_barrier("stage", 3, "a").unwrap();
        let waiting = entering(&server, &three, 1).await;
        let other = server.session().await;
        let two = other.double_barrier("stage", 2, "b").unwrap();
        let error = two.enter().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "this member waits for 2 members, but the others wait for 3: give all the same number"
        );
        assert!(!waiting.is_finished());
        server.counted(MEMBERS, 1).await;
    }

    async fn a_member_too_many_is_told_who_has_the_places(server: Server) {
        let sessions = three_sessions(&server).await;
        let inside = inside(&server, &sessions).await;
        let session = server.session().await;
        let error = session.double_barrier("stage", 3, "d").unwrap().enter().await.unwrap_err();
        assert!(error.to_string().starts_with("all 3 places are taken, by a, b, c"), "{error}");
        drop(inside);
    }

    async fn a_member_whose_name_another_process_takes_is_told(server: Server) {
        let first = member(&server, "a").await;
        let first = entering(&server, &first, 1).await;
        let second = member(&server, "a").await;
        let second = tokio::spawn(async move { second.enter().await });
        // The one that waits alone sees every change.
        let error = first.await.unwrap().unwrap_err();
        assert!(matches!(error, EnterError::Replaced { .. }), "{error}");
        assert!(!second.is_finished());
    }

    async fn a_member_that_stops_waiting_leaves_no_key(server: Server) {
        let barrier = member(&server, "a").await;
        for _ in 0..5 {
            let waiting = entering(&server, &barrier, 1).await;
            waiting.abort();
            server.counted(MEMBERS, 0).await;
        }
        assert_eq!(server.count(ROOT).await, 0);
    }

    /// Appendix B, row 21.
    async fn a_copy_of_an_arrival_that_comes_late_makes_no_member(server: Server) {
        let (proxy, client) = server.proxy().await;
        let barrier = through(&client, "a").await;
        let kept = AtomicBool::new(false);
        proxy.rule(move |path, message| {
            let is_first = puts(path, message, MEMBERS)
                && !kept.swap(true, Ordering::SeqCst);
            if is_first { Fate::Keep } else { Fate::Pass }
        });
        let waiting = entering(&server, &barrier, 1).await;
        waiting.abort();
        server.counted(MEMBERS, 0).await;
        assert_eq!(proxy.kept(), 1);
        proxy.deliver().await;
        assert_eq!(server.count(MEMBERS).await, 0);
    }

    async fn who_is_dropped_inside_has_left(server: Server) {
        let sessions = three_sessions(&server).await;
        let [a, b, c] = inside(&server, &sessions).await;
        drop(a);
        drop(b);
        c.leave().await.unwrap();
        let generation = server.client.get(Get::key(format!("{ROOT}generation"))).await.unwrap();
        assert_eq!(generation.kvs[0].value, "1");
    }

    async fn what_makes_no_sense_is_refused_with_advice(server: Server) {
        let session = server.session().await;
        let refused = |name: &str, members: &[&str], me: &str| {
            session.double_barrier(name, members, me).unwrap_err().to_string()
        };
        assert!(refused("", &["a"], "a").contains("double barrier's name cannot be empty"));
        assert!(refused("x/y", &["a"], "a").contains("use \"-\" or \".\""));
        assert!(refused("x", &["a"], "").contains("member's name cannot be empty"));
        assert!(refused("x", &["a/b"], "a/b").contains("use \"-\" or \".\""));
        assert!(refused("x", &[], "a").contains("say how many there are"));
        assert!(refused("x", &["a", "a"], "a").contains("named twice"));
        assert!(refused("x", &["a", "b"], "c").contains("not one of the members a, b"));
        let none = session.double_barrier("x", 0, "a").unwrap_err().to_string();
        assert!(none.contains("say how many there are"));
    }

    async fn a_session_that_cannot_take_its_member_away_is_not_renewed(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(3)).await.unwrap();
        let barrier = session.double_barrier("stage", ["a"], "a").unwrap();
        let inside = barrier.enter().await.unwrap();
        proxy.rule(|path, message| match deletes(path, message, MEMBERS) {
            true => Fate::Deny,
            false => Fate::Pass,
        });
        drop(inside);
        session.lost().await;
        server.counted(MEMBERS, 0).await;
    }

    async fn a_member_that_is_dropped_on_any_thread_leaves(server: Server) {
        let session = server.session().await;
        let barrier = session.double_barrier("stage", ["a"], "a").unwrap();
        let inside = barrier.enter().await.unwrap();
        drop_without_runtime(inside);
        server.counted(MEMBERS, 0).await;
    }
}

async fn through(client: &Client, me: &str) -> DoubleBarrier {
    let session = Session::open(client, limit()).await.unwrap();
    member_of(&session, me)
}

/// Transactions that put a key with this prefix wait until the first of what this returns is set to true; that one
/// has come is told by the second.
fn held_back(proxy: &Proxy, prefix: &'static str) -> (watch::Sender<bool>, watch::Receiver<bool>) {
    let (gate, closed) = watch::channel(false);
    let (come, has_come) = watch::channel(false);
    proxy.rule(move |path, message| {
        if !puts(path, message, prefix) {
            return Fate::Pass;
        }
        come.send_replace(true);
        Fate::After(closed.clone())
    });
    (gate, has_come)
}

async fn reached(mut gate: watch::Receiver<bool>) {
    gate.wait_for(|reached| *reached).await.unwrap();
}
