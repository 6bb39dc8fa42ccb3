//! A peer that does what a router should not, over real TCP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use levee_controlplane::bgp::route::Family;
use levee_controlplane::bgp::speaker::wire::{GracefulRestart, Open, keepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::daemon::PATIENCE;
use super::world::{PORT, THEIR_AS};

pub(super) const UPDATE: u8 = 2;
pub(super) const NOTIFICATION: u8 = 3;
pub(super) const KEEPALIVE: u8 = 4;

/// Its end of a connection.
pub(super) struct Fake {
    pub(super) stream: TcpStream,
}

/// What it says of itself. With `restart` it keeps our routes for a while when the session is lost.
pub(super) fn open(router_id: Ipv4Addr, restart: bool) -> Open {
    let families = || Family::ALL.iter().map(|family| (family.afi(), family.safi()));
    let graceful_restart = restart.then(|| GracefulRestart {
        restarting: false,
        notification: true,
        time: 120,
        families: families().map(|(afi, safi)| (afi, safi, true)).collect(),
    });
    Open {
        asn: THEIR_AS,
        hold_time: 9,
        router_id,
        families: families().collect(),
        four_octet: true,
        route_refresh: true,
        extended_message: false,
        graceful_restart,
        add_path: Vec::new(),
    }
}

/// Listens, with little room for what it does not read.
pub(super) fn listen(on: Ipv4Addr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.bind(SocketAddr::new(on.into(), PORT)).unwrap();
    socket.listen(9).unwrap()
}

pub(super) fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

impl Fake {
    pub(super) async fn accept(listener: &TcpListener) -> Self {
        let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
        Self { stream: accepted.unwrap().unwrap().0 }
    }

    pub(super) async fn connect(from: Ipv4Addr, to: Ipv4Addr) -> Self {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((IpAddr::V4(from), 0).into()).unwrap();
            match socket.connect((IpAddr::V4(to), PORT).into()).await {
                Ok(stream) => return Self { stream },
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "nobody listens at {to}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next message, kind and body; none when the connection has ended.
    pub(super) async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let next = async {
            let mut header = [0; 19];
            self.stream.read_exact(&mut header).await.ok()?;
            let [.., high, low, kind] = header;
            let mut body = vec![0; usize::from(u16::from_be_bytes([high, low])) - 19];
            self.stream.read_exact(&mut body).await.ok()?;
            if kind == KEEPALIVE {
                // Whoever has closed it hears no more.
                let _ = self.stream.write_all(&keepalive()).await;
            }
            Some((kind, body))
        };
        tokio::time::timeout(PATIENCE, next).await.unwrap()
    }

    /// The next one that is of this kind.
    pub(super) async fn next_of(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let (found, body) = self.next().await.unwrap();
            if found == kind {
                return body;
            }
            assert_ne!(found, NOTIFICATION, "{body:?}");
        }
    }

    /// Until both have said that the session is there.
    pub(super) async fn establish(&mut self, open: &Open) {
        assert!(self.try_establish(open).await, "the connection has ended");
    }

    /// True when both have said that the session is there, false when the connection has ended.
    pub(super) async fn try_establish(&mut self, open: &Open) -> bool {
        let said = [open.encode(), keepalive()].concat();
        if self.stream.write_all(&said).await.is_err() {
            return false;
        }
        loop {
            match self.next().await {
                Some((KEEPALIVE, _)) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    }

    /// From now on it says that it is there, and reads nothing, until it is dropped.
    pub(super) fn deaf(self) -> Deaf {
        let (read, mut write) = self.stream.into_split();
        let says = tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_secs(1));
            loop {
                beat.tick().await;
                if let Err(error) = write.write_all(&keepalive()).await {
                    return error;
                }
            }
        });
        Deaf { _read: read, says }
    }
}

/// A peer that listens to nothing.
pub(super) struct Deaf {
    _read: tokio::net::tcp::OwnedReadHalf,
    /// Ends when nobody takes its KEEPALIVEs any more.
    pub(super) says: JoinHandle<std::io::Error>,
}

impl Drop for Deaf {
    fn drop(&mut self) {
        self.says.abort();
    }
}
