//! Barriers.

use baton_client::{Client, Get, Put};
use baton_recipes::Barrier;

use crate::support::{Server, on_both, watching};

on_both! {
    async fn a_barrier_that_was_never_closed_is_open(server: Server) {
        let barrier = Barrier::new(&server.client, "gate").unwrap();
        assert!(!barrier.is_closed().await.unwrap());
        barrier.wait().await.unwrap();
    }

    async fn all_who_wait_go_when_it_is_opened_and_know_the_revision(server: Server) {
        let barrier = Barrier::new(&server.client, "gate").unwrap();
        let closed = barrier.close().await.unwrap();
        assert_eq!(barrier.close().await.unwrap(), closed, "closing again changes nothing");
        let waiters: Vec<_> = (0..10)
            .map(|_| {
                let barrier = barrier.clone();
                tokio::spawn(async move { barrier.wait().await })
            })
            .collect();
        let opened = barrier.open().await.unwrap();
        for waiter in waiters {
            assert!(waiter.await.unwrap().unwrap() >= opened);
        }
        assert!(!barrier.is_closed().await.unwrap());
    }

    /// Appendix B, row 5.
    async fn killing_the_watch_stream_does_not_open_a_barrier(server: Server) {
        let (proxy, client) = server.proxy().await;
        let mut watched = watching(&proxy);
        let direct = Barrier::new(&server.client, "gate").unwrap();
        direct.close().await.unwrap();
        let barrier = Barrier::new(&client, "gate").unwrap();
        let waiter = tokio::spawn(async move { barrier.wait().await });
        for streams in 1..=3 {
            watched.wait_for(|streams_so_far| *streams_so_far >= streams).await.unwrap();
            proxy.cut();
            proxy.heal();
        }
        watched.wait_for(|streams_so_far| *streams_so_far >= 4).await.unwrap();
        assert!(!waiter.is_finished());
        let opened = direct.open().await.unwrap();
        assert!(waiter.await.unwrap().unwrap() >= opened);
    }

    /// Appendix B, row 5.
    async fn a_watch_that_is_compacted_away_does_not_open_a_barrier(server: Server) {
        let (proxy, client) = server.proxy().await;
        let mut watched = watching(&proxy);
        let direct = Barrier::new(&server.client, "gate").unwrap();
        direct.close().await.unwrap();
        let barrier = Barrier::new(&client, "gate").unwrap();
        let waiter = tokio::spawn(async move { barrier.wait().await });
        watched.wait_for(|streams| *streams >= 1).await.unwrap();
        // Whatever the watch could go on from is gone when it comes back.
        proxy.cut();
        for value in ["1", "2", "3"] {
            server.client.put(Put::new("other", value)).await.unwrap();
        }
        server.compact(server.revision().await).await;
        proxy.heal();
        // The stream that learns of it, and the one behind the new read may be the same.
        watched.wait_for(|streams| *streams >= 2).await.unwrap();
        assert!(direct.is_closed().await.unwrap());
        assert!(!waiter.is_finished());
        let opened = direct.open().await.unwrap();
        assert!(waiter.await.unwrap().unwrap() >= opened);
    }

    /// etcd's own recipe holds a barrier by putting the key of its name, and releases it by deleting that.
    async fn a_barrier_is_the_key_of_its_name_as_in_etcds_recipe(server: Server) {
        server.client.put(Put::new("jobs/gate", "")).await.unwrap();
        let barrier = Barrier::new(&server.client, "jobs/gate").unwrap();
        assert!(barrier.is_closed().await.unwrap());
        barrier.open().await.unwrap();
        assert!(server.client.get(Get::key("jobs/gate")).await.unwrap().kvs.is_empty());
    }

    async fn a_waiter_that_is_dropped_leaves_nothing_behind(server: Server) {
        let barrier = Barrier::new(&server.client, "gate").unwrap();
        barrier.close().await.unwrap();
        let waiter = tokio::spawn({
            let barrier = barrier.clone();
            async move { barrier.wait().await }
        });
        waiter.abort();
        let _ = waiter.await;
        assert_eq!(server.count("").await, 1, "the barrier itself");
    }
}

#[tokio::test]
async fn a_barrier_without_a_name_is_refused_with_advice() {
    let client = Client::new(["127.0.0.1:1"]).unwrap();
    let error = Barrier::new(&client, "").unwrap_err();
    assert_eq!(
        error.to_string(),
        "a barrier needs a name: give it one of at least one character"
    );
}
