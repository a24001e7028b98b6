//! Sockets: binding them, and taking connections from them whatever goes wrong.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{config::Web, metrics::Own};

/// Connections that the kernel keeps for us until we take them.
const BACKLOG: u32 = 1024;

/// Pause after an error that will still be there at the next try, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many clients at once are told that there is no room for them; more are cut off.
const REFUSALS_MAX: usize = 64;

/// How long one of them may take to hear it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// What a client over the cap is told.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 22\r\n\r\n\
    Too many connections.\n";

/// There is nothing to listen on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Address {
        /// The address as configured.
        address: SocketAddr,
        /// What the operating system answered.
        source: io::Error,
    },
    /// Nobody has passed a socket to this process.
    #[error("--web.systemd-socket is set, and systemd has passed no socket to this process")]
    NoneGiven,
    /// What was passed cannot be used.
    #[error("socket {place} of those that systemd passed is not a TCP socket that listens")]
    Given {
        /// Which one, counted from 1.
        place: usize,
        /// What the operating system answered.
        source: io::Error,
    },
}

impl BindError {
    /// What an operator can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        let source = match self {
            Self::Address { source, .. } => source,
            Self::NoneGiven => {
                return "start the .socket unit and let it start this service; see packaging/systemd";
            }
            Self::Given { .. } => {
                return "the .socket unit needs ListenStream=ADDRESS:PORT, and Accept=no, which is the default";
            }
        };
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there, perhaps a second chroma_exporter; choose another port with --web.listen-address"
            }
            io::ErrorKind::AddrNotAvailable => {
                "the address is not one of this host; see `ip address`"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one with --web.listen-address"
            }
            _ => "choose another address with --web.listen-address",
        }
    }
}

/// Sockets that listen already; nothing is answered before [`super::run`].
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<(SocketAddr, TcpListener)>,
}

impl Listeners {
    /// Listens on every address of `web`. Must be called within a tokio runtime. Errs when one of them cannot be had.
    pub fn bind(web: &Web) -> Result<Self, BindError> {
        let bind = |address: &SocketAddr| {
            bind(*address, &web.listen_addresses)
                .map_err(|source| BindError::Address { address: *address, source })
        };
        let sockets = web.listen_addresses.iter().map(bind).collect::<Result<_, _>>()?;
        Ok(Self { sockets })
    }

    /// Listens on sockets that systemd has opened. Must be called within a tokio runtime. Errs when there is none, and when one
    /// of them is no TCP socket that listens.
    pub fn of_systemd(sockets: Vec<OwnedFd>) -> Result<Self, BindError> {
        if sockets.is_empty() {
            return Err(BindError::NoneGiven);
        }
        let take = |(at, socket): (usize, OwnedFd)| {
            adopt(socket).map_err(|source| BindError::Given { place: at + 1, source })
        };
        let sockets = sockets.into_iter().enumerate().map(take).collect::<Result<_, _>>()?;
        Ok(Self { sockets })
    }

    /// The addresses in the order of the configuration, with the port that the system chose where it was 0.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|(address, _)| *address).collect()
    }

    pub(super) fn into_sockets(self) -> Vec<(SocketAddr, TcpListener)> {
        self.sockets
    }
}

fn bind(address: SocketAddr, all: &[SocketAddr]) -> io::Result<(SocketAddr, TcpListener)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // After a restart the port is free at once, although connections of the process before are still in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() && shares_port_with_ipv4(address, all) {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    Ok((listener.local_addr()?, listener))
}

fn adopt(socket: OwnedFd) -> io::Result<(SocketAddr, TcpListener)> {
    if !rustix::net::sockopt::socket_acceptconn(&socket)? {
        return Err(io::Error::other("it does not listen"));
    }
    let socket = std::net::TcpListener::from(socket);
    // Errs for what has no address and port, such as a Unix socket.
    let address = socket.local_addr()?;
    socket.set_nonblocking(true)?;
    Ok((address, TcpListener::from_std(socket)?))
}

/// `[::]` takes IPv4 too on most hosts and would collide with `0.0.0.0` of the same port.
fn shares_port_with_ipv4(address: SocketAddr, all: &[SocketAddr]) -> bool {
    address.ip() == IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
        && all.iter().any(|other| other.is_ipv4() && other.port() == address.port())
}

/// A place for a connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    own: Own,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.own.connections().dec();
    }
}

/// Room for so many connections over all listeners.
#[derive(Debug, Clone)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    size: u32,
    refusals: Arc<Semaphore>,
    own: Own,
}

impl Room {
    pub(super) fn new(connections_max: usize, own: Own) -> Self {
        let size = u32::try_from(connections_max.max(1)).unwrap_or(u32::MAX);
        Self {
            places: Arc::new(Semaphore::new(size as usize)),
            size,
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            own,
        }
    }

    fn take(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        self.own.connections().inc();
        Some(Place { _permit: permit, own: self.own.clone() })
    }

    /// Waits until every connection has ended.
    pub(super) async fn emptied(&self) {
        // Errs when the semaphore is closed, which nobody does.
        drop(self.places.acquire_many(self.size).await);
    }

    /// Tells a client that there is no room. Connections that are open go on undisturbed; a queue in the kernel, which
    /// is the alternative, would let a scraper wait until its timeout without a word.
    fn refuse(&self, stream: TcpStream) {
        self.own.count_refused();
        if let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() {
            tokio::spawn(async move {
                if timeout(REFUSAL_TIMEOUT, say_no(stream)).await.is_err() {
                    tracing::debug!("A client over the cap did not read its answer.");
                }
                drop(permit);
            });
        }
    }
}

/// Reads what the client has to say before closing: a socket closed over unread bytes sends a reset, which may throw
/// away the answer before the client has read it. Errs when the connection does.
async fn say_no(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(REFUSAL).await?;
    stream.shutdown().await?;
    let mut scrap = [0; 1024];
    while stream.read(&mut scrap).await? > 0 {}
    Ok(())
}

/// Takes connections for ever and hands each with its place to `serve`.
pub(super) async fn accept(listener: TcpListener, room: Room, serve: impl Fn(TcpStream, Place)) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if std::mem::take(&mut failing) {
                    info!("Connections are accepted again.");
                }
                // Answers are written in one piece; waiting for more to send would only delay the last packet.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY cannot be set.");
                }
                match room.take() {
                    Some(place) => serve(stream, place),
                    None => room.refuse(stream),
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "Connections cannot be accepted; trying again.");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether an error of accept(2) is about the one connection that was to be taken, so that the next may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
        )
    )
}
