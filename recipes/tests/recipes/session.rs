//! Sessions.

use std::time::Duration;

use baton_client::{Client, Put};
use baton_recipes::{Error, LossReason, Session, SessionId, SessionState};
use tokio::sync::watch;

use crate::proxy::Fate;
use crate::support::{Server, on_both, puts};

const TTL: Duration = Duration::from_secs(3);

async fn bound_key(client: &Client, key: &str, session: &Session) {
    let put = Put::new(key, "").lease(session.id().lease());
    client.put(put).await.unwrap();
}

on_both! {
    async fn a_closed_session_leaves_nothing(server: Server) {
        let session = server.session().await;
        let guard = session.mutex("m").lock().await.unwrap();
        bound_key(&server.client, "k", &session).await;
        let lost = session.lost();
        session.close().await.unwrap();
        assert_eq!(server.count("k").await + server.count("m/").await, 0);
        assert_eq!(lost.await, LossReason::Closed);
        assert!(!guard.is_held());
        assert_eq!(guard.lost().await, LossReason::Closed);
        assert!(matches!(guard.release().await, Err(Error::Lost(LossReason::Closed))));
    }

    /// Appendix B, row 19.
    async fn renewals_stop_when_the_last_handle_is_dropped_and_the_lease_goes(server: Server) {
        let session = server.unaware_session().await;
        bound_key(&server.client, "k", &session).await;
        let guard = session.mutex("m").lock().await.unwrap();
        drop(session);
        assert!(guard.is_held());
        drop(guard);
        server.counted("k", 0).await;
        server.counted("m/", 0).await;
    }

    /// Appendix B, row 19.
    async fn renewals_never_stop_while_the_session_lives(server: Server) {
        let session = Session::open(&server.client, TTL).await.unwrap();
        bound_key(&server.client, "k", &session).await;
        let mut state = session.state();
        let deadline = |state: SessionState| match state {
            SessionState::Safe { until } => until,
            other => panic!("{other:?}"),
        };
        let first = deadline(*state.borrow());
        while deadline(*state.borrow_and_update()) < first.plus(TTL * 3) {
            state.changed().await.unwrap();
        }
        assert!(session.is_alive());
        assert_eq!(server.count("k").await, 1);
    }

    /// Appendix B, row 10, where the key is there still.
    async fn a_detached_session_ends_by_itself_or_is_resumed_with_what_it_holds(server: Server) {
        let session = Session::builder(&server.client).ttl(TTL).label("a").open().await.unwrap();
        let mut guard = session.mutex("m").lock().await.unwrap();
        let token = guard.token();
        let mut session = session;
        for _ in 0..20 {
            let lost = guard.lost();
            let id = session.detach();
            drop(guard);
            assert!(matches!(lost.await, LossReason::Detached | LossReason::Released));
            server.client.put(Put::new("other", "")).await.unwrap();
            session = Session::builder(&server.client).resume(id).await.unwrap();
            assert_eq!(session.label(), "a");
            guard = session.mutex("m").lock().await.unwrap();
            assert_eq!(guard.token(), token);
        }
        session.detach();
        server.counted("m/", 0).await;
    }

    /// Appendix B, row 20.
    async fn the_deadline_precedes_the_servers_when_answers_come_late(server: Server) {
        let (proxy, client) = server.proxy().await;
        proxy.rule(|path, _| match path.rsplit('/').next() {
            Some("LeaseGrant") => Fate::Delay(TTL * 9 / 10),
            // What remains is to be seen.
            Some("LeaseRevoke" | "LeaseKeepAlive") => Fate::Refuse,
            _ => Fate::Pass,
        });
        let session = Session::open(&client, TTL).await.unwrap();
        bound_key(&server.client, "k", &session).await;
        session.lost().await;
        assert_eq!(server.count("k").await, 1, "the server ended the session first");
    }

    async fn a_revoked_lease_is_noticed_at_the_next_renewal(server: Server) {
        let session = Session::open(&server.client, TTL).await.unwrap();
        server.revoke(&session).await;
        assert_eq!(session.lost().await, LossReason::Revoked);
        assert!(!session.is_alive());
        let error = session.mutex("m").lock().await.unwrap_err();
        assert!(matches!(error, Error::Lost(LossReason::Revoked)), "{error}");
    }

    async fn a_session_in_jeopardy_is_safe_again_when_a_renewal_is_answered(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(10)).await.unwrap();
        proxy.cut();
        let mut state = session.state();
        state.wait_for(|state| matches!(state, SessionState::Jeopardy { .. })).await.unwrap();
        assert!(session.is_alive());
        proxy.heal();
        state.wait_for(|state| matches!(state, SessionState::Safe { .. })).await.unwrap();
    }

    async fn a_session_that_never_was_cannot_be_resumed(server: Server) {
        let id = SessionId::from_lease(0x1234);
        let error = Session::builder(&server.client).resume(id).await.unwrap_err();
        assert!(error.to_string().contains("no session 1234"), "{error}");
        assert!(error.to_string().contains("open a new one"), "{error}");
    }

    async fn absurd_times_are_refused_with_what_to_do(server: Server) {
        let refused = async |ttl: Duration, margin: Option<Duration>| {
            let mut builder = Session::builder(&server.client).ttl(ttl);
            if let Some(margin) = margin {
                builder = builder.margin(margin);
            }
            match builder.open().await.unwrap_err() {
                Error::Invalid(why) => why,
                other => panic!("{other:?}"),
            }
        };
        let second = Duration::from_secs(1);
        assert!(refused(Duration::ZERO, None).await.contains("give it a second or more"));
        assert!(refused(Duration::MAX, None).await.contains("at most"));
        assert!(refused(10 * second, Some(second / 10)).await.contains("give it 1s or more"));
        assert!(refused(10 * second, Some(6 * second)).await.contains("half of that at most"));
    }

    /// Appendix B, row 21, where the session goes on in another process.
    async fn a_create_of_the_earlier_process_that_comes_late_creates_nothing(server: Server) {
        let (proxy, client) = server.proxy().await;
        let session = Session::open(&client, Duration::from_secs(10)).await.unwrap();
        let (sent, mut is_sent) = watch::channel(false);
        proxy.rule(move |path, message| {
            if !puts(path, message, "m/") {
                return Fate::Pass;
            }
            sent.send_replace(true);
            Fate::Keep
        });
        let lock = tokio::spawn(session.mutex("m").lock().into_future());
        is_sent.wait_for(|is_sent| *is_sent).await.unwrap();
        let id = session.detach();
        lock.await.unwrap().unwrap_err();
        let session = Session::builder(&server.client).resume(id).await.unwrap();
        assert!(proxy.kept() > 0);
        proxy.deliver().await;
        assert_eq!(server.count("m/").await, 0);
        assert!(session.is_alive());
    }

    async fn a_session_whose_runtime_is_gone_is_lost(server: Server) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let client = Client::new(server.cluster.urls()).unwrap();
        let session = runtime.spawn(async move { Session::open(&client, TTL).await });
        let session = session.await.unwrap().unwrap();
        runtime.shutdown_background();
        assert_eq!(session.lost().await, LossReason::Closed);
        assert!(!session.is_alive());
    }
}
