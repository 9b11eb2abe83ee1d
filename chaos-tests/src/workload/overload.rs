//! More than the cluster can take, in bursts: many writers at once, values up to the limit and beyond, whole ranges read by
//! many at once, connections and watchers that do not read. Members may refuse, but have to say so, and go on serving.
//!
//! Writes are in the history; reads of everything and idle connections are not, as they would fill it and show nothing that
//! other workloads do not check. A run is bounded in what it writes and in how much it does at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use baton_proto::etcdserverpb as pb;
use bytes::Bytes;
use pb::kv_client::KvClient;
use pb::watch_client::WatchClient;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use super::Context;
use super::watch::prefix;
use crate::history::Member;

/// Its name in histories.
pub const WORKLOAD: &str = "overload";

/// Where the keys lie.
const PREFIX: &str = "overload/";

/// How many bytes of large values a run writes.
const LARGE_BYTES: usize = 6 << 20;

/// The largest value that fits a request, with room for its key.
pub const LARGEST_VALUE: usize = (3 << 19) - 4096;

/// Writers of a burst, and what each of them writes.
const BURST: (usize, usize) = (96, 6);

/// Readers of everything at once.
const READERS: usize = 24;

/// Connections that are opened and left alone.
const IDLERS: usize = 100;

/// How long they are.
const IDLE: Duration = Duration::from_millis(1500);

/// Runs `clients` clients that each make one burst after another.
pub async fn run(context: Context, clients: u32) {
    let large_left = Arc::new(AtomicUsize::new(LARGE_BYTES));
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let overload = Overload {
            chance: context.chance(&format!("{WORKLOAD}/{number}")),
            context: context.clone(),
            number,
            serial: 0,
            large_left: large_left.clone(),
        };
        tasks.spawn(overload.run());
    }
    tasks.join_all().await;
}

struct Overload {
    context: Context,
    chance: SmallRng,
    number: u32,
    serial: u64,
    /// What is left of the large values, of all clients together.
    large_left: Arc<AtomicUsize>,
}

impl Overload {
    async fn run(mut self) {
        if self.number == 0 {
            // Too large for any request: refused, by every member.
            for member in 1..=self.context.members {
                self.put_large(member, 2 * LARGEST_VALUE).await;
            }
        }
        while !self.context.stopped() {
            match self.chance.random_range(0..6) {
                0..=1 => self.burst().await,
                2 => self.large().await,
                3..=4 => self.read_everything().await,
                _ => self.idle().await,
            }
            self.context.rest(&mut self.chance).await;
        }
    }

    fn value(&mut self, bytes: usize) -> Bytes {
        self.serial += 1;
        let mut value = format!("{WORKLOAD}/{}/{}/", self.number, self.serial).into_bytes();
        value.resize(bytes.max(value.len()), b'.');
        value.into()
    }

    fn member(&mut self) -> Member {
        self.context.any_member(&mut self.chance)
    }

    /// Many writers, all at once.
    async fn burst(&mut self) {
        let (writers, writes) = BURST;
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let member = self.member();
            let mut client = self.context.client(WORKLOAD, member);
            let values: Vec<Bytes> = (0..writes).map(|_| self.value(0)).collect();
            let key = Bytes::from(format!("{PREFIX}{}/{writer}", self.number));
            let context = self.context.clone();
            tasks.spawn(async move {
                for value in values {
                    if context.stopped() {
                        return;
                    }
                    let key = key.clone();
                    let put = pb::PutRequest {
                        key,
                        value,
                        ..Default::default()
                    };
                    client.call(put).await;
                }
            });
        }
        tasks.join_all().await;
    }

    /// A large value, as long as the run may write any.
    async fn large(&mut self) {
        let bytes = self.chance.random_range(LARGEST_VALUE / 8..=LARGEST_VALUE);
        let take = |left: usize| left.checked_sub(bytes);
        let order = Ordering::Relaxed;
        if self.large_left.fetch_update(order, order, take).is_ok() {
            let member = self.member();
            self.put_large(member, bytes).await;
        }
    }

    async fn put_large(&mut self, member: Member, bytes: usize) {
        let value = self.value(bytes);
        let mut client = self.context.client(WORKLOAD, member);
        let put = pb::PutRequest {
            key: Bytes::from(format!("{PREFIX}large/{}", self.serial)),
            value,
            ..Default::default()
        };
        client.call(put).await;
    }

    /// Everything that was written, read by many at once.
    async fn read_everything(&mut self) {
        let (key, range_end) = prefix(PREFIX);
        let mut tasks = JoinSet::new();
        for _ in 0..READERS {
            let member = self.member();
            let channel = self.context.dial.channel(member);
            let request = pb::RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                serializable: self.chance.random(),
                ..Default::default()
            };
            let patience = self.context.patience;
            tasks.spawn(async move {
                let mut kv = KvClient::new(channel).max_decoding_message_size(usize::MAX);
                // Any end of it will do: what matters is what the others meet meanwhile.
                let _ = tokio::time::timeout(patience, kv.range(request)).await;
            });
        }
        tasks.join_all().await;
    }

    /// Connections with a watcher of everything each, that nobody reads.
    async fn idle(&mut self) {
        let (key, range_end) = prefix(PREFIX);
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: 1,
            prev_kv: true,
            ..Default::default()
        };
        let mut tasks = JoinSet::new();
        for _ in 0..IDLERS {
            let member = self.member();
            let channel = self.context.dial.channel(member);
            let create = create.clone();
            let mut context = self.context.clone();
            tasks.spawn(async move {
                let first = pb::WatchRequest {
                    request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
                };
                let requests = tokio_stream::StreamExt::chain(
                    tokio_stream::once(first),
                    tokio_stream::pending(),
                );
                let mut watch = WatchClient::new(channel);
                let opening = tokio::time::timeout(context.patience, watch.watch(requests));
                let open = opening.await;
                context.sleep(IDLE).await;
                drop(open);
            });
        }
        tasks.join_all().await;
    }
}
