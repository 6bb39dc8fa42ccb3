//! Connections of routers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use super::{BmpSettings, Sightings};
use crate::bgp::speaker::socket;

/// What has to pass before an address that cannot be listened on is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Read at once.
const CHUNK: usize = 16 << 10;
/// Connections that are open at once: a router that connects anew before its old connection was given up has two.
const MOST_PER_ROUTER: usize = 4;

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Listener {
    settings: BmpSettings,
    sightings: Sightings,
    tasks: Vec<JoinHandle<()>>,
}

impl Listener {
    /// Begins. To be called within a runtime.
    pub fn new(settings: BmpSettings) -> Self {
        let sightings = Sightings::default();
        let start = |on: &SocketAddr| tokio::spawn(run(*on, settings.clone(), sightings.clone()));
        let tasks = settings.listen.iter().map(start).collect();
        Self { settings, sightings, tasks }
    }

    /// As it was begun.
    pub const fn settings(&self) -> &BmpSettings {
        &self.settings
    }

    /// What the routers say.
    pub const fn sightings(&self) -> &Sightings {
        &self.sightings
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn run(on: SocketAddr, settings: BmpSettings, sightings: Sightings) {
    let mut told = false;
    let listener = loop {
        match socket::listen(on, |_| {}) {
            Ok(listener) => break listener,
            Err(error) if !told => {
                tracing::error!("cannot take BMP connections on {on}: {error}; it is tried again");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    };
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, from)) => {
                let router = from.ip().to_canonical();
                if !settings.routers.contains(&router) {
                    tracing::warn!("{router} is not among the routers of [bgp.bmp], and is not listened to");
                    sightings.refused();
                } else if connections.len() < MOST_PER_ROUTER * settings.routers.len() {
                    connections.spawn(listen(stream, router, settings.local_as, sightings.clone()));
                } else {
                    sightings.refused();
                }
            }
            // Out of descriptors: what is waiting waits.
            Err(error) => {
                tracing::warn!("a BMP connection could not be taken: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn listen(stream: TcpStream, router: IpAddr, local_as: u32, sightings: Sightings) {
    let connection = Connection { number: sightings.connected(router, local_as), router, sightings };
    if let Err(why) = connection.read(stream).await {
        tracing::warn!(%router, "a BMP connection has ended: {why}");
    }
}

/// What was seen over it is forgotten with it, however it ends.
struct Connection {
    router: IpAddr,
    number: u64,
    sightings: Sightings,
}

impl Connection {
    async fn read(&self, mut stream: TcpStream) -> Result<(), String> {
        // A router that is gone without a word has nothing of ours.
        socket::notice_silence(&stream).map_err(|error| error.to_string())?;
        tracing::info!(router = %self.router, "a router tells what it has by BMP");
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = stream.read(&mut buffer).await.map_err(|error| error.to_string())?;
            if count == 0 {
                return Err("the router has closed it".to_owned());
            }
            let read = buffer.get(..count).unwrap_or_default();
            if !self.sightings.received(self.router, self.number, read).map_err(|error| error.to_string())? {
                return Ok(());
            }
            // Many messages that have come at once are no reason to let the others wait.
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.sightings.lost(self.router, self.number);
    }
}
