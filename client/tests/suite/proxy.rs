//! A server's address at which answers can be withheld and connections cut; and servers that only pretend.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a proxy does with what passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Both ways.
    Pass,
    /// Requests arrive, answers do not.
    Mute,
    /// The same on so many connections that were made first; later ones pass.
    MuteFirst(usize),
    /// Connections are closed, and new ones at once.
    Cut,
}

/// Stands between clients and one server.
pub struct Proxy {
    address: String,
    mode: watch::Sender<Mode>,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    pub async fn of(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address").to_string();
        let (mode, modes) = watch::channel(Mode::Pass);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(pass(client, server.clone(), modes.clone(), number));
            }
        });
        Self {
            address,
            mode,
            connections,
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets no answer pass on the connections there are.
    pub fn mute_these(&self) {
        self.set(Mode::MuteFirst(self.connections.load(Ordering::SeqCst)));
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

/// Passes bytes between a client and the server until one of them, or the mode, ends it. `number` is the
/// connection's, from 0.
pub async fn pass(
    client: impl AsyncRead + AsyncWrite + Unpin,
    server: String,
    mut modes: watch::Receiver<Mode>,
    number: usize,
) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let mode = modes.clone();
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = server.into_split();
    let requests = tokio::io::copy(&mut from_client, &mut to_server);
    let answers = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = from_server.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            let passes = match *mode.borrow() {
                Mode::Pass => true,
                Mode::MuteFirst(count) => number >= count,
                Mode::Mute | Mode::Cut => false,
            };
            if !passes {
                continue;
            }
            if to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = requests => {}
        () = answers => {}
        _ = modes.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

/// A server that takes a connection, reads until a request has come, and says what it is told to.
pub async fn says(frames: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
                client.write_all(&settings).await.expect("settings");
                let mut buffer = vec![0; 64 << 10];
                let mut read = 0;
                // Preface, settings and windows are shorter than a request.
                while read < 200 {
                    match client.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(count) => read += count,
                    }
                }
                client.write_all(frames).await.expect("frames");
                while client.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    format!("http://{address}")
}
