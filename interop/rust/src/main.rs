//! Drives a running cluster with the `etcd-client` crate; panics at the first thing that is not as it should be.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions, PutOptions, Txn,
    TxnOp, WatchOptions,
};

type Outcome = Result<(), Error>;

#[tokio::main]
async fn main() -> Outcome {
    let endpoints: Vec<String> = std::env::args()
        .nth(1)
        .expect("endpoints")
        .split(',')
        .map(str::to_owned)
        .collect();
    let mut client = Client::connect(&endpoints, None).await?;
    client
        .delete("rust/", Some(DeleteOptions::new().with_prefix()))
        .await?;
    keys(&mut client).await?;
    println!("ok: keys");
    transactions(&mut client).await?;
    println!("ok: transactions");
    watches(&mut client).await?;
    println!("ok: watches");
    leases(&mut client).await?;
    println!("ok: leases");
    for endpoint in &endpoints {
        let mut client = Client::connect([endpoint], None).await?;
        let status = client.status().await?;
        assert_ne!(status.leader(), 0);
        assert_eq!(
            client.get("rust/t", None).await?.kvs().len(),
            1,
            "{endpoint}"
        );
    }
    println!("ok: every member");
    Ok(())
}

async fn keys(client: &mut Client) -> Outcome {
    for key in ["rust/a", "rust/b", "rust/c"] {
        client.put(key, key, None).await?;
    }
    let previous = client
        .put("rust/a", "2", Some(PutOptions::new().with_prev_key()))
        .await?;
    assert_eq!(
        previous.prev_key().expect("a previous pair").value(),
        b"rust/a"
    );
    let page = client
        .get("rust/", Some(GetOptions::new().with_prefix().with_limit(2)))
        .await?;
    assert_eq!((page.kvs().len(), page.more(), page.count()), (2, true, 3));
    let deleted = client
        .delete("rust/", Some(DeleteOptions::new().with_prefix()))
        .await?;
    assert_eq!(deleted.deleted(), 3);
    let refused = client.put("", "", None).await.expect_err("an empty key");
    assert!(
        refused
            .to_string()
            .contains("etcdserver: key is not provided"),
        "{refused}"
    );
    Ok(())
}

async fn transactions(client: &mut Client) -> Outcome {
    for expected in [true, false] {
        let txn = Txn::new()
            .when([Compare::create_revision("rust/t", CompareOp::Equal, 0)])
            .and_then([TxnOp::put("rust/t", "1", None)])
            .or_else([TxnOp::get("rust/t", None)]);
        assert_eq!(client.txn(txn).await?.succeeded(), expected);
    }
    Ok(())
}

async fn watches(client: &mut Client) -> Outcome {
    let start = client
        .put("rust/w", "0", None)
        .await?
        .header()
        .expect("a header")
        .revision();
    let mut stream = client
        .watch(
            "rust/w",
            Some(
                WatchOptions::new()
                    .with_start_revision(start)
                    .with_prev_key(),
            ),
        )
        .await?;
    client.put("rust/w", "1", None).await?;
    client.delete("rust/w", None).await?;
    let mut seen = Vec::new();
    let mut watch_id = 0;
    while seen.len() < 3 {
        let response = stream.message().await?.expect("an open stream");
        watch_id = response.watch_id();
        seen.extend(response.events().iter().map(|event| {
            (
                event.event_type(),
                event.prev_kv().map(|kv| kv.value().to_vec()),
            )
        }));
    }
    let expected = [
        (EventType::Put, None),
        (EventType::Put, Some(b"0".to_vec())),
        (EventType::Delete, Some(b"1".to_vec())),
    ];
    assert_eq!(seen, expected);
    stream.cancel(watch_id).await?;
    Ok(())
}

async fn leases(client: &mut Client) -> Outcome {
    let lease = client.lease_grant(2, None).await?;
    client
        .put(
            "rust/leased",
            "",
            Some(PutOptions::new().with_lease(lease.id())),
        )
        .await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(lease.id()).await?;
    for _ in 0..3 {
        keeper.keep_alive().await?;
        assert_eq!(answers.message().await?.expect("an open stream").ttl(), 2);
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    assert_eq!(
        client.get("rust/leased", None).await?.kvs().len(),
        1,
        "it was kept alive"
    );
    let mut gone = client.watch("rust/leased", None).await?;
    let ended = async {
        loop {
            let response = gone.message().await?.expect("an open stream");
            if let Some(event) = response.events().first() {
                return Ok::<EventType, Error>(event.event_type());
            }
        }
    };
    let event = tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .expect("it ends by itself")?;
    assert_eq!(event, EventType::Delete);
    Ok(())
}
