//! Locks.

use baton_recipes::Error;

use crate::support::{Server, on_both};

on_both! {
    async fn a_lock_is_held_by_one_session_at_a_time_in_the_order_they_came(server: Server) {
        let (a, b) = (server.session().await, server.session().await);
        let first = a.mutex("m").lock().await.unwrap();
        let (enqueued, position) = tokio::sync::oneshot::channel();
        let lock = b.mutex("m").lock().on_enqueued(|at| enqueued.send(at).unwrap());
        let second = tokio::spawn(lock.into_future());
        assert_eq!(position.await.unwrap().0, 1);
        assert!(!second.is_finished());
        let info = a.mutex("m").inspect().await.unwrap();
        assert_eq!(info.holder.unwrap().session, Some(a.id()));
        assert_eq!(info.waiters[0].session, Some(b.id()));
        let first_token = first.token();
        first.release().await.unwrap();
        let second = second.await.unwrap().unwrap();
        assert!(second.token() > first_token);
        assert_eq!(server.count("m/").await, 1);
        second.release().await.unwrap();
        assert_eq!(server.count("m/").await, 0);
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
        guard.lost().await;
        let value = server.client.get("data").await.unwrap().kvs.pop().unwrap().value;
        assert_eq!(value, "1");
    }
}
