//! Sockets to accept connections on.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::config::Url;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Silence after which the system asks whether the other side is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// A bound socket: connections queue up from now on.
#[derive(Debug)]
pub enum Listener {
    /// On a port.
    Tcp(TcpListener),
    /// On a path of the file system.
    Unix(UnixListener, PathBuf),
}

/// Binds to `url`.
///
/// # Errors
/// The address is taken, or not one of this machine's.
pub fn bind(url: &Url, is_port_shared: bool) -> io::Result<Listener> {
    match url.host_port() {
        Some((host, port)) => {
            let address = resolve(host, port)?;
            bind_tcp(address, is_port_shared)
                .map(Listener::Tcp)
                .map_err(|error| explain(&error, "tcp", &address.to_string()))
        }
        None => {
            let path = PathBuf::from(url.address());
            bind_unix(&path)
                .map(|listener| Listener::Unix(listener, path))
                .map_err(|error| explain(&error, "unix", url.address()))
        }
    }
}

fn explain(error: &io::Error, network: &str, address: &str) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(
        error.kind(),
        format!("listen {network} {address}: bind: {text}"),
    )
}

/// Of several addresses the first of IPv4, as Go does.
fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    addresses
        .iter()
        .find(|address| address.is_ipv4())
        .or_else(|| addresses.first())
        .copied()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")))
}

fn bind_tcp(address: SocketAddr, is_port_shared: bool) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if is_port_shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &PathBuf) -> io::Result<UnixListener> {
    // Left over from a process that was killed; a living one would not notice, as with etcd.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Listener {
    /// Where it listens, with the port the system chose if it was to choose one.
    ///
    /// # Errors
    /// The system does not know.
    pub fn address(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Self::Unix(_, path) => Ok(path.display().to_string()),
        }
    }

    /// Gives it to the runtime in whose context this is called.
    pub(super) fn register(self) -> io::Result<Registered> {
        match self {
            Self::Tcp(listener) => tokio::net::TcpListener::from_std(listener).map(Registered::Tcp),
            Self::Unix(listener, path) => tokio::net::UnixListener::from_std(listener)
                .map(|listener| Registered::Unix(listener, path)),
        }
    }
}

/// A listener of a runtime.
pub(super) enum Registered {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener, PathBuf),
}

/// A connection that belongs to no runtime.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Registered {
    pub(super) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // The peer may be gone already, and its socket with it: serving will tell.
                let _ = stream.set_nodelay(true);
                let _ = sockopt::set_socket_keepalive(&stream, true);
                let _ = sockopt::set_tcp_keepidle(&stream, TCP_KEEPALIVE);
                let _ = sockopt::set_tcp_keepintvl(&stream, TCP_KEEPALIVE);
                stream.into_std().map(Socket::Tcp)
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                stream.into_std().map(Socket::Unix)
            }
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}
