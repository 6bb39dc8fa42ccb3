//! Levee's own BGP speaker: it announces to routers upstream, and imports nothing.
//!
//! Everything that decides is without input and output: a [`connection`] is fed bytes and time, the [`rib`] holds what shall
//! be announced, [`export`] says what one peer is told of it. Around them each peer has a task of its own, so that none waits
//! for another. What is announced here lives and dies with this process, or at most as long as `retain_for` of a peer.

mod acknowledged;
pub mod connection;
pub mod export;
mod gtsm;
mod lines;
mod link;
mod listener;
mod pauses;
mod peer;
pub mod rib;
mod settings;
pub mod socket;
mod status;
pub mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

pub use settings::{PeerSettings, Settings};
pub use status::{Ids, Status};

use crate::bgp::bmp::{self, RouterView, Sighting, Sightings};
use crate::bgp::route::Destination;
use crate::ledger::{MitigationId, Spec};
use export::Withheld;
use listener::{Caller, Expected, Listening};
use peer::Peer;
use rib::Rib;
use wire::cease;

/// What the peers share.
struct Shared {
    rib: Mutex<Rib>,
    changed: watch::Sender<u64>,
    /// Everything that was in force before this process is in the RIB.
    is_whole: AtomicBool,
    started: Instant,
}

/// A speaker. Clones are the same one.
#[derive(Clone)]
pub struct Speaker {
    shared: Arc<Shared>,
    running: Arc<Mutex<Running>>,
}

#[derive(Default)]
struct Running {
    peers: BTreeMap<String, RunningPeer>,
    listening: BTreeMap<SocketAddr, Listening>,
    expiry: Option<JoinHandle<()>>,
    bmp: Option<bmp::Listener>,
}

struct RunningPeer {
    settings: PeerSettings,
    incoming: mpsc::Sender<tokio::net::TcpStream>,
    stop: watch::Sender<Option<u8>>,
    status: watch::Receiver<Status>,
    task: JoinHandle<()>,
}

/// What the peers of an announcer say about one measure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Peers that were told.
    pub by: Vec<String>,
    /// Peers that were not, and why.
    pub not: Vec<(String, String)>,
}

/// One measure that shall be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub id: MitigationId,
    /// What it is.
    pub spec: Spec,
    /// What it is announced as.
    pub destination: Arc<Destination>,
    /// Time until it ends by itself.
    pub remaining: Duration,
    /// Who was told.
    pub told: Told,
    /// Which routers say that they have it.
    pub seen: Vec<Sighting>,
}

/// One peer, for whoever looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// As it is configured.
    pub settings: PeerSettings,
    /// How it is.
    pub status: Status,
}

impl Default for Speaker {
    fn default() -> Self {
        let (changed, _) = watch::channel(0);
        let shared =
            Shared { rib: Mutex::default(), changed, is_whole: AtomicBool::new(false), started: Instant::now() };
        Self { shared: Arc::new(shared), running: Arc::default() }
    }
}

impl std::fmt::Debug for Speaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Speaker").field("peers", &self.running().peers.keys()).finish_non_exhaustive()
    }
}

impl Shared {
    fn rib(&self) -> MutexGuard<'_, Rib> {
        // Each change is made at once: a panic elsewhere leaves nothing half done.
        self.rib.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }
}

impl Speaker {
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Becomes what the settings say. Sessions whose settings are as before are not touched. To be called within a runtime.
    pub fn configure(&self, settings: &Settings) {
        let mut running = self.running();
        let stays = |known: &RunningPeer| settings.peers.contains(&known.settings);
        let gone: Vec<String> =
            running.peers.iter().filter(|(_, known)| !stays(known)).map(|(name, _)| name.clone()).collect();
        let now = self.shared.now();
        // Our farewell may not reach it: a peer that retains counts as one that does, until it was told everything anew.
        let retains_until = |settings: &PeerSettings| Some(now + Duration::from_secs(settings.terms.retain?.into()));
        let mut retained = BTreeMap::new();
        for name in gone {
            let again = settings.peers.iter().any(|peer| peer.name == name);
            if let Some(known) = running.peers.remove(&name) {
                let until = known.status.borrow().retained_until.max(retains_until(&known.settings));
                retained.insert(name, until);
                let _ = known.stop.send(Some(if again { cease::CHANGED } else { cease::DECONFIGURED }));
            }
        }
        for peer in &settings.peers {
            if !running.peers.contains_key(&peer.name) {
                // Of one that is new here it is not known what the process before this one told it.
                let until = retained.remove(&peer.name).unwrap_or_else(|| retains_until(peer));
                let started = self.start(peer.clone(), until);
                running.peers.insert(peer.name.clone(), started);
            }
        }
        let expected: Expected = running
            .peers
            .values()
            .map(|peer| {
                let protection = peer.settings.protection.clone();
                (peer.settings.address.ip(), Caller { peer: peer.incoming.clone(), protection })
            })
            .collect();
        running.listening.retain(|on, _| settings.listen.contains(on));
        for on in &settings.listen {
            match running.listening.get(on) {
                Some(listening) => listening.expect(expected.clone()),
                None => {
                    let listening = Listening::new(*on, expected.clone());
                    running.listening.insert(*on, listening);
                }
            }
        }
        if running.bmp.as_ref().map(bmp::Listener::settings) != settings.bmp.as_ref() {
            running.bmp = settings.bmp.clone().map(bmp::Listener::new);
        }
        if running.expiry.is_none() {
            running.expiry = Some(tokio::spawn(expire(Arc::clone(&self.shared))));
        }
    }

    fn start(&self, settings: PeerSettings, retained_until: Option<Duration>) -> RunningPeer {
        let (incoming, accepted) = mpsc::channel(4);
        let (stop, stopped) = watch::channel(None);
        let (status, watched) = watch::channel(Status { retained_until, ..Status::default() });
        let peer = Peer::new(settings.clone(), Arc::clone(&self.shared), accepted, stopped, status);
        RunningPeer { settings, incoming, stop, status: watched, task: tokio::spawn(peer.run()) }
    }

    /// Announces a measure, or changes it, or moves its end, and waits until a peer of the announcer has been told, at most for
    /// `patience`. Whoever cannot be told now is told as soon as that is possible.
    ///
    /// # Errors
    /// When it cannot be announced at all.
    pub async fn announce(
        &self,
        announcer: &str,
        id: MitigationId,
        spec: &Spec,
        remaining: Duration,
        patience: Duration,
    ) -> Result<Told, Withheld> {
        let version = {
            let mut rib = self.shared.rib();
            rib.announce(announcer, id, spec, self.shared.now() + remaining)?
        };
        self.shared.changed.send_replace(version);
        let all = async {
            // Right after a start sessions are being opened: that is worth waiting for, one that failed before is not.
            if let Some(opening) = patience.checked_sub(self.shared.now()) {
                let _ = tokio::time::timeout(opening, self.tried(announcer)).await;
            }
            self.settle(announcer, version).await;
        };
        let told = async {
            tokio::select! {
                // One is enough for a measure to be in force: whoever takes nothing must not hold up what is decided next.
                () = self.heard(announcer, version) => {}
                () = all => {}
            }
        };
        let _ = tokio::time::timeout(patience, told).await;
        Ok(self.told(announcer, id))
    }

    /// Puts back what was in force before this process: it is announced with everything else, and nobody waits for it.
    ///
    /// # Errors
    /// When it cannot be announced at all.
    pub fn restore(&self, announcer: &str, id: MitigationId, spec: &Spec, remaining: Duration) -> Result<(), Withheld> {
        let version = self.shared.rib().announce(announcer, id, spec, self.shared.now() + remaining)?;
        self.shared.changed.send_replace(version);
        Ok(())
    }

    /// Everything is put back: what peers have kept and are not told now they are to let go of.
    pub fn is_restored(&self) {
        self.shared.is_whole.store(true, Ordering::Release);
        self.shared.changed.send_modify(|_| {});
    }

    /// Withdraws a measure. The peers that may have it still, and why.
    pub async fn withdraw(&self, announcer: &str, id: MitigationId, patience: Duration) -> Vec<(String, String)> {
        let version = self.shared.rib().withdraw(announcer, id);
        self.shared.changed.send_replace(version);
        let _ = tokio::time::timeout(patience, self.let_go(announcer, version)).await;
        let now = self.shared.now();
        let may_have_it = |peer: &PeerView| match (peer.status.is_established(), peer.status.retained_until) {
            (true, _) if peer.status.told < version => Some("its TCP has not acknowledged that".to_owned()),
            // A peer keeps what it had from an earlier session until it hears that it has heard everything.
            (true, Some(_)) => Some("it was not told everything again yet, and may keep what it had".to_owned()),
            (false, Some(until)) if until > now => {
                let seconds = (until - now).as_secs() + 1;
                Some(format!("the session is lost, and it keeps what it was told for {seconds} s (retain_for)"))
            }
            _ => None,
        };
        self.peers_of(announcer)
            .iter()
            .filter_map(|peer| Some((peer.settings.name.clone(), may_have_it(peer)?)))
            .collect()
    }

    fn sightings(&self) -> Option<Sightings> {
        self.running().bmp.as_ref().map(|bmp| bmp.sightings().clone())
    }

    /// The routers that tell us what they have.
    pub fn routers(&self) -> Vec<RouterView> {
        self.sightings().map(|sightings| sightings.views()).unwrap_or_default()
    }

    /// What the station for BMP has counted; none: there is none.
    pub fn monitoring(&self) -> Option<bmp::Totals> {
        self.sightings().map(|sightings| sightings.totals())
    }

    /// Waits until a peer has been told everything up to a version.
    async fn heard(&self, announcer: &str, version: u64) {
        let mut waiting = JoinSet::new();
        for mut status in self.watched(announcer) {
            let heard = move |status: &Status| status.is_established() && status.told >= version;
            waiting.spawn(async move { status.wait_for(heard).await.is_ok() });
        }
        first(waiting).await;
    }

    /// Waits until the peers that have a session have been told everything up to a version, or have lost it.
    async fn settle(&self, announcer: &str, version: u64) {
        for mut status in self.watched(announcer) {
            // A peer that is gone has nothing to be waited for.
            let _ = status.wait_for(|status| !status.is_established() || status.told >= version).await;
        }
    }

    /// Waits until the peers that have a session have let go of what is not wanted at a version, or have lost it.
    async fn let_go(&self, announcer: &str, version: u64) {
        for mut status in self.watched(announcer) {
            let done = |status: &Status| status.told >= version && status.retained_until.is_none();
            // A peer that is gone has nothing to be waited for.
            let _ = status.wait_for(|status| !status.is_established() || done(status)).await;
        }
    }

    /// Waits until a peer that has no session has one, over which it was told everything.
    pub async fn recovered(&self, announcer: &str) {
        let mut waiting = JoinSet::new();
        for mut status in self.watched(announcer) {
            waiting.spawn(async move {
                let is_there = |status: &Status| status.is_established() && status.retained_until.is_none();
                let lost = status.wait_for(|status| !is_there(status)).await.is_ok();
                lost && status.wait_for(is_there).await.is_ok()
            });
        }
        first(waiting).await;
    }

    /// Waits until each peer has a session, or a reason why not. Whether one that has to connect to us does nobody knows: it is
    /// told when it has.
    async fn tried(&self, announcer: &str) {
        let peers = {
            let running = self.running();
            let of = running.peers.values().filter(|peer| peer.settings.announcer == announcer);
            of.map(|peer| (peer.settings.passive, peer.status.clone())).collect::<Vec<_>>()
        };
        for (passive, mut status) in peers {
            let is_absent = |status: &Status| status.error.is_some() || passive && status.state.is_none();
            let _ = status.wait_for(|status| status.is_established() || is_absent(status)).await;
        }
    }

    fn watched(&self, announcer: &str) -> Vec<watch::Receiver<Status>> {
        let running = self.running();
        let of = running.peers.values().filter(|peer| peer.settings.announcer == announcer);
        of.map(|peer| peer.status.clone()).collect()
    }

    /// Waits until all peers have a session, at most so long. Those that have.
    pub async fn wait_established(&self, patience: Duration) -> Vec<String> {
        let watched: Vec<watch::Receiver<Status>> =
            self.running().peers.values().map(|peer| peer.status.clone()).collect();
        let all = async {
            for mut status in watched {
                // A peer that is gone has nothing to be waited for.
                let _ = status.wait_for(Status::is_established).await;
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
        let established = self.peers().into_iter().filter(|peer| peer.status.is_established());
        established.map(|peer| peer.settings.name).collect()
    }

    /// Which peers have a measure.
    pub fn told(&self, announcer: &str, id: MitigationId) -> Told {
        let peers = self.peers_of(announcer);
        Told::of(&peers, &self.shared.rib().alike(announcer, id))
    }

    /// What of an announcer shall be in force, and who has it.
    pub fn observed(&self, announcer: &str) -> Vec<Standing> {
        let now = self.shared.now();
        let peers = self.peers_of(announcer);
        let sightings = self.sightings();
        let rib = self.shared.rib();
        let standing = |(id, entry): (MitigationId, &rib::Entry)| {
            let alike = rib.alike(announcer, id);
            // The route says whose it is: of several that ask for the same it is one.
            let seen_as = |id: &MitigationId| Some(sightings.as_ref()?.of(*id, &entry.destination));
            let seen = alike.iter().flatten().filter_map(seen_as).find(|seen| !seen.is_empty());
            Standing {
                id,
                spec: entry.spec.clone(),
                destination: Arc::clone(&entry.destination),
                remaining: entry.until.saturating_sub(now),
                told: Told::of(&peers, &alike),
                seen: seen.unwrap_or_default(),
            }
        };
        rib.of(announcer).map(standing).collect()
    }

    /// The same of all announcers.
    pub fn routes(&self) -> Vec<(String, Standing)> {
        let announcers = self.shared.rib().announcers();
        let of = |announcer: String| self.observed(&announcer).into_iter().map(move |one| (announcer.clone(), one));
        announcers.into_iter().flat_map(of).collect()
    }

    /// The peers of an announcer.
    pub fn peers_of(&self, announcer: &str) -> Vec<PeerView> {
        let running = self.running();
        let of = running.peers.values().filter(|peer| peer.settings.announcer == announcer);
        of.map(PeerView::of).collect()
    }

    /// How long it has been running: the clock of [`Status`].
    pub fn clock(&self) -> Duration {
        self.shared.now()
    }

    /// All peers.
    pub fn peers(&self) -> Vec<PeerView> {
        self.running().peers.values().map(PeerView::of).collect()
    }

    /// Ends all sessions, so that nothing stays at any peer, and waits until they have been told.
    pub async fn stop(&self) {
        let peers = {
            let mut running = self.running();
            running.listening.clear();
            running.bmp = None;
            if let Some(expiry) = running.expiry.take() {
                expiry.abort();
            }
            std::mem::take(&mut running.peers)
        };
        for peer in peers.values() {
            let _ = peer.stop.send(Some(cease::SHUTDOWN));
        }
        for peer in peers.into_values() {
            // One that has panicked has no session any more.
            let _ = peer.task.await;
        }
    }
}

impl Told {
    /// Of measures that are alike, or of one that another is announced in place of.
    fn of(peers: &[PeerView], alike: &Result<Vec<MitigationId>, MitigationId>) -> Self {
        let mut told = Self::default();
        for PeerView { settings, status } in peers {
            let name = settings.name.clone();
            if !status.is_established() {
                told.not.push((name, status.trouble()));
                continue;
            }
            let alike = match alike {
                Ok(alike) => alike,
                Err(other) => {
                    told.not.push((name, format!("measure {other}, which does something else, has its place")));
                    continue;
                }
            };
            if alike.iter().any(|id| status.ids.contains(*id)) {
                told.by.push(name);
            } else {
                let why = alike.iter().find_map(|id| status.withheld.get(id)).cloned();
                told.not.push((name, why.unwrap_or_else(|| "its TCP has not acknowledged it".to_owned())));
            }
        }
        told
    }
}

impl PeerView {
    fn of(peer: &RunningPeer) -> Self {
        Self { settings: peer.settings.clone(), status: peer.status.borrow().clone() }
    }
}

/// Withdraws what has come to its end, whoever hangs.
async fn expire(shared: Arc<Shared>) {
    let mut changed = shared.changed.subscribe();
    loop {
        let next = shared.rib().next_end();
        let sleep = async {
            match next {
                Some(at) => tokio::time::sleep_until(tokio::time::Instant::from_std(shared.started + at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The speaker is gone.
            result = changed.changed() => if result.is_err() { return },
            () = sleep => {
                let mut rib = shared.rib();
                if rib.expire(shared.now()) {
                    let version = rib.version();
                    drop(rib);
                    shared.changed.send_replace(version);
                }
            }
        }
    }
}

/// Waits until something has come about; for ever where it cannot: a peer that is gone does not come back.
async fn first(mut waiting: JoinSet<bool>) {
    while let Some(one) = waiting.join_next().await {
        if one.is_ok_and(|came| came) {
            return;
        }
    }
    std::future::pending().await
}
