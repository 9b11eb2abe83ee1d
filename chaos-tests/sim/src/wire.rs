//! The network between clients and members: gRPC over streams in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use batond::metrics::Calls;
use batond::serve::answer_grpc;
use chaos_tests::client::Dial;
use chaos_tests::history::Member;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, WriteHalf};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Endpoint;

/// Bytes under way in one direction of a connection, as in the buffers of two kernels.
const BUFFER_BYTES: usize = 64 << 10;
/// Shortest and longest time of bytes on their way, in microseconds.
const DELAY_US: (u64, u64) = (100, 1500);
/// The longest that a client takes to learn that a machine which is back does not know its connection, in milliseconds.
const ASKS_MS: u64 = 2000;
/// How long a client waits for a machine that is not there.
const CONNECT_TIME: Duration = Duration::from_secs(3);

/// Where a member serves clients.
#[derive(Clone)]
pub struct Door {
    /// Where its connections run.
    pub runtime: Handle,
    /// Its services.
    pub routes: Routes,
}

/// The connections of all clients. Cheap to clone.
#[derive(Clone)]
pub struct Wire {
    shared: Arc<Mutex<Shared>>,
    changed: watch::Sender<()>,
}

struct Shared {
    chance: SmallRng,
    doors: BTreeMap<Member, (u64, Door)>,
    doors_opened: u64,
    /// Members that clients do not reach.
    cut: BTreeSet<Member>,
    /// Members without power, and the doors they had: nobody is told that they are gone.
    dark: BTreeSet<Member>,
    dark_doors: BTreeSet<u64>,
    stalled: u64,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    /// Connections whose times are drawn from `chance`.
    pub fn new(chance: SmallRng) -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared {
                chance,
                doors: BTreeMap::new(),
                doors_opened: 0,
                cut: BTreeSet::new(),
                dark: BTreeSet::new(),
                dark_doors: BTreeSet::new(),
                stalled: 0,
            })),
            changed: watch::Sender::new(()),
        }
    }

    /// The member serves clients from now on.
    pub fn open(&self, member: Member, door: Door) {
        let mut shared = self.shared.lock();
        shared.doors_opened += 1;
        let number = shared.doors_opened;
        shared.doors.insert(member, (number, door));
        shared.dark.remove(&member);
        self.changed.send_replace(());
    }

    /// The member's process ended. Without power, nobody is told.
    pub fn close(&self, member: Member, has_power: bool) {
        let mut shared = self.shared.lock();
        let door = shared.doors.remove(&member);
        if has_power {
            shared.dark.remove(&member);
        } else {
            shared.dark.insert(member);
            shared.dark_doors.extend(door.map(|(number, _)| number));
        }
        self.changed.send_replace(());
    }

    /// Clients reach all members but these.
    pub fn cut(&self, members: BTreeSet<Member>) {
        self.shared.lock().cut = members;
        self.changed.send_replace(());
    }

    /// How often bytes or connections found their way cut.
    pub fn stalled(&self) -> u64 {
        self.shared.lock().stalled
    }

    /// How clients reach members. Connections have to be made in the runtime of the clients.
    pub fn dial(&self) -> Dial {
        let wire = self.clone();
        Dial::new(move |member| {
            let wire = wire.clone();
            let connector = tower::service_fn(move |_| wire.clone().connect(member));
            Endpoint::from_static("http://member").connect_with_connector_lazy(connector)
        })
    }

    async fn delay(&self) {
        let micros = {
            let (shortest, longest) = DELAY_US;
            self.shared.lock().chance.random_range(shortest..=longest)
        };
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    /// Returns once the way to the member is not cut.
    async fn whole(&self, member: Member) {
        let is_cut = |shared: &Shared| shared.cut.contains(&member);
        {
            let mut shared = self.shared.lock();
            shared.stalled += u64::from(is_cut(&shared));
        }
        self.over(is_cut).await;
    }

    /// Returns once the member has power.
    async fn lit(&self, member: Member) {
        self.over(|shared| shared.dark.contains(&member)).await;
    }

    /// Returns once something is not so any more.
    async fn over(&self, is: impl Fn(&Shared) -> bool) {
        let mut changed = self.changed.subscribe();
        while is(&self.shared.lock()) {
            // The sender is `self`.
            let _ = changed.changed().await;
        }
    }

    async fn connect(self, member: Member) -> io::Result<TokioIo<DuplexStream>> {
        self.delay().await;
        self.whole(member).await;
        let (door, dark) = {
            let shared = self.shared.lock();
            (
                shared.doors.get(&member).cloned(),
                shared.dark.contains(&member),
            )
        };
        let Some((number, door)) = door else {
            if dark {
                tokio::time::sleep(CONNECT_TIME).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (client, near) = tokio::io::duplex(BUFFER_BYTES);
        let (far, server) = tokio::io::duplex(BUFFER_BYTES);
        tokio::spawn(self.carry(member, number, near, far));
        let routes = door.routes;
        door.runtime.spawn(serve(server, routes));
        Ok(TokioIo::new(client))
    }

    async fn carry(self, member: Member, door: u64, near: DuplexStream, far: DuplexStream) {
        let (mut from_client, to_client) = tokio::io::split(near);
        let (from_member, to_member) = tokio::io::split(far);
        tokio::select! {
            biased;
            () = self.pump(member, from_member, to_client) => {}
            () = self.pump(member, &mut from_client, to_member) => {}
        }
        let is_dark = self.shared.lock().dark_doors.contains(&door);
        if is_dark {
            // The client hears nothing more. What it sends, be it to learn whether anybody is there, is sent again and again
            // to a machine that, once it is back, knows nothing of the connection and says so.
            let gives_up = async {
                let mut unheard = [0; 1024];
                while from_client.read(&mut unheard).await.is_ok_and(|n| n > 0) {}
            };
            let is_told = async {
                self.lit(member).await;
                let asks = self.shared.lock().chance.random_range(0..ASKS_MS);
                tokio::time::sleep(Duration::from_millis(asks)).await;
                self.whole(member).await;
            };
            tokio::select! {
                biased;
                () = gives_up => {}
                () = is_told => {}
            }
        }
    }

    async fn pump(
        &self,
        member: Member,
        mut from: impl AsyncReadExt + Unpin,
        mut to: WriteHalf<DuplexStream>,
    ) {
        let mut bytes = vec![0; BUFFER_BYTES];
        while let Ok(count) = from.read(&mut bytes).await
            && count > 0
        {
            self.delay().await;
            self.whole(member).await;
            if to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    }
}

/// Serves one connection, as the listeners of the server do.
async fn serve(stream: DuplexStream, routes: Routes) {
    let calls = Calls::new(false);
    let service = service_fn(move |request| {
        let (routes, calls) = (routes.clone(), calls.clone());
        async move { Ok::<_, Infallible>(answer_grpc(routes, &calls, request).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // The time of day is not the simulation's.
        .auto_date_header(false)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(u32::MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away ends its connection with an error.
    let _ = served.await;
}
