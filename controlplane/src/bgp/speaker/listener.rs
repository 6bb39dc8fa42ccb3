//! Connections that peers make.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::socket;
use crate::secret::Secret;

/// Who may connect, and with which key.
pub(super) type Expected = BTreeMap<IpAddr, (mpsc::Sender<TcpStream>, Option<Secret>)>;

/// What has to pass before an address that cannot be listened on is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Listens on one address.
pub(super) struct Listening {
    door: Arc<Mutex<Door>>,
    task: JoinHandle<()>,
    on: SocketAddr,
}

/// What is known of who may come in.
#[derive(Default)]
struct Door {
    expected: Expected,
    /// Peers with a password that the kernel was not told of: nobody comes in with their address.
    unsigned: BTreeSet<IpAddr>,
    socket: Option<Arc<TcpListener>>,
}

impl Listening {
    pub(super) fn new(on: SocketAddr, expected: Expected) -> Self {
        let door = Arc::new(Mutex::new(Door { expected, ..Door::default() }));
        let task = tokio::spawn(run(on, Arc::clone(&door)));
        Self { door, task, on }
    }

    /// Others are expected from now on.
    pub(super) fn expect(&self, expected: Expected) {
        let mut door = lock(&self.door);
        let before = std::mem::replace(&mut door.expected, expected);
        if let Some(socket) = door.socket.clone() {
            for address in before.keys().filter(|address| !door.expected.contains_key(address)) {
                // What stays signed keeps somebody out who is not expected anyway.
                let _ = socket::sign(socket.as_ref(), *address, None);
            }
            door.unsigned = sign_all(socket.as_ref(), self.on, &door.expected);
        }
    }
}

impl Door {
    /// Whom a connection is for.
    fn peer(&self, from: IpAddr) -> Option<mpsc::Sender<TcpStream>> {
        let (peer, _) = self.expected.get(&from).filter(|_| !self.unsigned.contains(&from))?;
        Some(peer.clone())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the kernel who has to sign. Those with a password that it does not take.
fn sign_all(socket: &impl AsFd, on: SocketAddr, expected: &Expected) -> BTreeSet<IpAddr> {
    let mut unsigned = BTreeSet::new();
    for (address, (_, key)) in expected.iter().filter(|(address, _)| address.is_ipv4() == on.is_ipv4()) {
        // A key that is not taken away keeps out who does not sign, as before.
        if let Err(error) = socket::sign(socket, *address, key.as_ref())
            && key.is_some()
        {
            tracing::error!("connections of {address} to {on} cannot be signed, and are not taken: {error}");
            unsigned.insert(*address);
        }
    }
    unsigned
}

async fn run(on: SocketAddr, door: Arc<Mutex<Door>>) {
    let mut told = false;
    let listener = loop {
        match open(on, &mut lock(&door)) {
            Ok(listener) => break listener,
            Err(error) if !told => {
                tracing::error!("cannot take BGP connections on {on}: {error}; it is tried again");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    };
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let known = lock(&door).peer(from.ip());
                match known {
                    // One that does not fit is closed: the peer tries again.
                    Some(peer) => drop(peer.try_send(stream)),
                    None => tracing::debug!("{from} is no peer, or cannot prove that it is"),
                }
            }
            // Out of descriptors: what is waiting waits.
            Err(error) => {
                tracing::warn!("a BGP connection could not be taken: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn open(on: SocketAddr, door: &mut Door) -> io::Result<Arc<TcpListener>> {
    let mut unsigned = BTreeSet::new();
    let listener = Arc::new(socket::listen(on, |socket| unsigned = sign_all(socket, on, &door.expected))?);
    door.unsigned = unsigned;
    door.socket = Some(Arc::clone(&listener));
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Whether a connection from an address that has this key comes in, without a signature.
    async fn comes_in(key: Option<Secret>) -> bool {
        // Nobody else of this machine listens on this address.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let on: SocketAddr = (([127, 64 | high & 0x3f, low, 1 + u8::from(key.is_some())]), 1790).into();
        let (peer, mut incoming) = mpsc::channel(4);
        let listening = Listening::new(on, Expected::from([(on.ip(), (peer, key))]));
        let socket = loop {
            if let Some(socket) = lock(&listening.door).socket.clone() {
                break socket;
            }
            tokio::task::yield_now().await;
        };
        let from = tokio::net::TcpSocket::new_v4().unwrap();
        from.bind((on.ip(), 0).into()).unwrap();
        let mut stream = from.connect(socket.local_addr().unwrap()).await.unwrap();
        let mut byte = [0];
        tokio::select! {
            Some(_) = incoming.recv() => true,
            read = stream.read(&mut byte) => {
                assert_eq!(read.unwrap_or_default(), 0);
                false
            }
        }
    }

    #[tokio::test]
    async fn who_should_have_signed_and_cannot_be_asked_to_does_not_come_in() {
        assert!(comes_in(None).await);
        // The kernel does not take a key that is as long as this.
        assert!(!comes_in(Some(Secret::new(vec![7; 100]))).await);
    }
}
