//! Connections that peers make.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
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
    expected: Arc<Mutex<Expected>>,
    socket: Arc<Mutex<Option<Arc<TcpListener>>>>,
    task: JoinHandle<()>,
    on: SocketAddr,
}

impl Listening {
    pub(super) fn new(on: SocketAddr, expected: Expected) -> Self {
        let expected = Arc::new(Mutex::new(expected));
        let socket = Arc::new(Mutex::new(None));
        let task = tokio::spawn(run(on, Arc::clone(&expected), Arc::clone(&socket)));
        Self { expected, socket, task, on }
    }

    /// Others are expected from now on.
    pub(super) fn expect(&self, expected: Expected) {
        let before = std::mem::replace(&mut *lock(&self.expected), expected);
        let now = lock(&self.expected).clone();
        if let Some(socket) = lock(&self.socket).clone() {
            for address in before.keys().filter(|address| !now.contains_key(address)) {
                let _ = socket::sign(socket.as_ref(), *address, None);
            }
            sign_all(&socket, self.on, &now);
        }
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

fn sign_all(socket: &TcpListener, on: SocketAddr, expected: &Expected) {
    for (address, (_, key)) in expected.iter().filter(|(address, _)| address.is_ipv4() == on.is_ipv4()) {
        if let Err(error) = socket::sign(socket, *address, key.as_ref()) {
            tracing::error!("connections of {address} to {on} cannot be signed, and will not come about: {error}");
        }
    }
}

async fn run(on: SocketAddr, expected: Arc<Mutex<Expected>>, place: Arc<Mutex<Option<Arc<TcpListener>>>>) {
    let mut told = false;
    let listener = loop {
        match socket::listen(on) {
            Ok(listener) => break Arc::new(listener),
            Err(error) if !told => {
                tracing::error!("cannot take BGP connections on {on}: {error}; it is tried again");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    };
    *lock(&place) = Some(Arc::clone(&listener));
    sign_all(&listener, on, &lock(&expected).clone());
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let known = lock(&expected).get(&from.ip().to_canonical()).map(|(peer, _)| peer.clone());
                match known {
                    // One that does not fit is closed: the peer tries again.
                    Some(peer) => drop(peer.try_send(stream)),
                    None => tracing::debug!("{from} is no peer"),
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
