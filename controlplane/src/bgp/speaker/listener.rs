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

use super::gtsm;
use super::socket::{self, Protection, sign};

/// Who may connect.
pub(super) type Expected = BTreeMap<IpAddr, Caller>;

/// A peer that may connect.
#[derive(Clone)]
pub(super) struct Caller {
    /// Where its connections go.
    pub(super) peer: mpsc::Sender<TcpStream>,
    /// What they have to have.
    pub(super) protection: Protection,
}

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
    /// Peers with a password or a hop limit that the kernel was not told of: nobody comes in with their address.
    unguarded: BTreeSet<IpAddr>,
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
                let _ = sign(socket.as_ref(), *address, None);
            }
            door.unguarded = guard(socket.as_ref(), self.on, &door.expected);
        }
    }
}

impl Door {
    /// Whom a connection is for.
    fn peer(&self, from: IpAddr) -> Option<mpsc::Sender<TcpStream>> {
        let caller = self.expected.get(&from).filter(|_| !self.unguarded.contains(&from))?;
        Some(caller.peer.clone())
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

/// Tells the kernel who has to sign, and whose packets must not have been forwarded. Those of whom it could not be told.
fn guard(socket: &impl AsFd, on: SocketAddr, expected: &Expected) -> BTreeSet<IpAddr> {
    let mut unguarded = BTreeSet::new();
    let callers = || expected.iter().filter(|(address, _)| address.is_ipv4() == on.is_ipv4());
    for (address, Caller { protection, .. }) in callers() {
        let key = protection.password.as_ref();
        // A key that is not taken away keeps out who does not sign, as before.
        if let Err(error) = sign(socket, *address, key)
            && key.is_some()
        {
            tracing::error!("connections of {address} to {on} cannot be signed, and are not taken: {error}");
            unguarded.insert(*address);
        }
    }
    let neighbours = callers().filter(|(_, caller)| caller.protection.ttl_security);
    let neighbours: Vec<IpAddr> = neighbours.map(|(address, _)| *address).collect();
    if let Err(error) = gtsm::only_neighbours(socket, &neighbours) {
        tracing::error!("hop limits cannot be looked at on {on}, and peers with ttl_security are not taken: {error}");
        unguarded.extend(neighbours);
    }
    unguarded
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
    let mut unguarded = BTreeSet::new();
    let listener = Arc::new(socket::listen(on, |socket| unguarded = guard(socket, on, &door.expected))?);
    door.unguarded = unguarded;
    door.socket = Some(Arc::clone(&listener));
    Ok(listener)
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
