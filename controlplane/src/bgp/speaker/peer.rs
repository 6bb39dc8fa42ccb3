//! One peer: connecting, choosing between two connections, telling it what shall be announced.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::connection::{Connection, Event, State, Why, keeps_ours};
use super::lines::Lines;
use super::link::Link;
use super::pauses::Pauses;
use super::settings::PeerSettings;
use super::socket;
use super::status::{Ids, Status};
use super::wire::{Notification, cease};

/// What connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// What a peer is given to take our farewell.
const FAREWELL: Duration = Duration::from_secs(1);
/// Acknowledgements may take as long as this.
const MOMENT: Duration = Duration::from_secs(1);
/// After a start, what a peer has kept is not called complete before everything is put back, or so long after it.
const LEDGER_WITHIN: Duration = Duration::from_secs(5);

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// What has come.
enum Turn {
    Stop,
    /// What shall be announced.
    Changed,
    Accepted(TcpStream),
    Connected(io::Result<TcpStream>),
    /// Bytes, room for bytes, or a time.
    Ready,
}

/// A peer while it runs.
pub(super) struct Peer {
    settings: PeerSettings,
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<TcpStream>,
    stop: watch::Receiver<Option<u8>>,
    status: watch::Sender<Status>,
    links: [Option<Link>; 2],
    connecting: Option<Connecting>,
    pauses: Pauses,
    established_at: Duration,
    lines: Lines,
}

impl Peer {
    pub(super) fn new(
        settings: PeerSettings,
        shared: Arc<Shared>,
        incoming: mpsc::Receiver<TcpStream>,
        stop: watch::Receiver<Option<u8>>,
        status: watch::Sender<Status>,
    ) -> Self {
        Self {
            settings,
            shared,
            incoming,
            stop,
            status,
            links: [None, None],
            connecting: None,
            pauses: Pauses::default(),
            established_at: Duration::ZERO,
            lines: Lines::default(),
        }
    }

    /// Runs until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut changed = self.shared.changed.subscribe();
        loop {
            let now = self.shared.now();
            if !self.settings.passive
                && self.connecting.is_none()
                && self.links.iter().all(Option::is_none)
                && self.pauses.connect_at() <= now
            {
                self.connecting = Some(self.connect());
            }
            let wake = self.deadline().map(|at| self.shared.started + at);
            match self.turn(&mut changed, wake).await {
                Turn::Stop => break,
                Turn::Changed => self.links.iter_mut().flatten().for_each(|link| link.is_behind = true),
                Turn::Accepted(stream) => self.accept(stream),
                Turn::Connected(connected) => {
                    self.connecting = None;
                    self.connected(connected);
                }
                Turn::Ready => {
                    self.exchange(0);
                    self.exchange(1);
                }
            }
            self.tell();
        }
        self.farewell().await;
    }

    /// Waits for whatever comes first.
    async fn turn(&mut self, changed: &mut watch::Receiver<u64>, wake: Option<std::time::Instant>) -> Turn {
        let [one, other] = &self.links;
        let connecting = &mut self.connecting;
        let connected = async {
            match connecting {
                Some(connecting) => connecting.await,
                None => pending().await,
            }
        };
        let time = async {
            match wake {
                Some(at) => sleep_until(Instant::from_std(at)).await,
                None => pending().await,
            }
        };
        tokio::select! {
            // A sender that is gone has nothing more to say either.
            _ = self.stop.wait_for(Option::is_some) => Turn::Stop,
            Ok(()) = changed.changed() => Turn::Changed,
            Some(stream) = self.incoming.recv() => Turn::Accepted(stream),
            connected = connected => Turn::Connected(connected),
            () = ready(one) => Turn::Ready,
            () = ready(other) => Turn::Ready,
            () = time => Turn::Ready,
        }
    }

    fn connect(&self) -> Connecting {
        let (from, to) = (self.settings.local_address, self.settings.address);
        let protection = self.settings.protection.clone();
        Box::pin(async move {
            tokio::time::timeout(CONNECT_WITHIN, socket::connect(from, to, &protection)).await.unwrap_or_else(|_| {
                Err(io::Error::new(io::ErrorKind::TimedOut, "no answer, as when the password is wrong"))
            })
        })
    }

    fn deadline(&self) -> Option<Duration> {
        let links = self.links.iter().flatten().filter_map(Link::deadline);
        let idle = self.connecting.is_none() && self.links.iter().all(Option::is_none) && !self.settings.passive;
        let complete =
            self.links.iter().flatten().any(|link| link.connection.state() == State::Established && !link.is_complete);
        links.chain(idle.then_some(self.pauses.connect_at())).chain(complete.then(|| self.complete_at())).min()
    }

    /// From when on what was told is called complete.
    fn complete_at(&self) -> Duration {
        if self.settings.terms.retain.is_some() && !self.shared.is_whole() { LEDGER_WITHIN } else { Duration::ZERO }
    }

    fn connected(&mut self, connected: io::Result<TcpStream>) {
        let address = self.settings.address;
        match connected {
            Ok(stream) => self.begin(stream, true),
            Err(error) => self.failed(format!("cannot connect to {address}: {error}")),
        }
    }

    fn accept(&mut self, stream: TcpStream) {
        if !self.pauses.takes(self.shared.now()) {
            tracing::debug!(peer = %self.settings.name, "its sessions end too soon: this connection is not taken");
            return;
        }
        match socket::accepted(&stream, &self.settings.protection) {
            Ok(()) => self.begin(stream, false),
            Err(error) => self.note(format!("a connection of the peer could not be used: {error}")),
        }
    }

    fn begin(&mut self, stream: TcpStream, ours: bool) {
        let now = self.shared.now();
        let restarting = now < LEDGER_WITHIN && self.status.borrow().established == 0;
        let connection = Connection::new(self.settings.terms.clone(), restarting, now);
        // A peer that connects once more has given up the connection that it made before.
        let place = self.links.iter().position(|link| {
            link.as_ref().is_none_or(|link| !ours && !link.ours && link.connection.state() < State::Established)
        });
        match (place.and_then(|place| self.links.get_mut(place)), Link::new(stream, connection, ours)) {
            (Some(place), Ok(link)) => *place = Some(link),
            (None, _) => {}
            (_, Err(error)) => self.failed(format!("the connection was lost: {error}")),
        }
        self.exchange(0);
        self.exchange(1);
    }

    fn exchange(&mut self, index: usize) {
        let now = self.shared.now();
        let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) else { return };
        for event in link.exchange(now) {
            self.event(index, event, now);
        }
    }

    fn event(&mut self, index: usize, event: Event, now: Duration) {
        match event {
            Event::Opened => self.opened(index, now),
            Event::Established => {
                self.established_at = now;
                let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) else { return };
                link.is_behind = true;
                let negotiated = link.connection.negotiated().clone();
                if let Some(line) = self.lines.next("the BGP session is established", now) {
                    tracing::info!(peer = %self.settings.name, "{line}");
                }
                self.status.send_modify(|status| {
                    status.established += 1;
                    status.since = now;
                    status.negotiated = Some(negotiated);
                });
            }
            Event::Refresh(family) => {
                if let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) {
                    link.tell_again(family);
                }
            }
            Event::Closed(why) => self.closed(index, &why, now),
        }
    }

    /// Its OPEN has come: of two connections one is kept.
    fn opened(&mut self, index: usize, now: Duration) {
        let Some(link) = self.links.get(index).and_then(Option::as_ref) else { return };
        let other = 1 - index;
        let Some(rival) = self.links.get(other).and_then(Option::as_ref) else { return };
        let terms = &self.settings.terms;
        let theirs = (link.connection.negotiated().router_id, terms.peer_as);
        let keep_ours = keeps_ours((u32::from(terms.router_id), terms.local_as), theirs);
        let loser = match rival.connection.state() {
            State::Established if !link.ours && rival.is_retained() => return self.supersede(other, now),
            State::Established => index,
            State::OpenConfirm if link.ours == keep_ours => other,
            State::OpenConfirm => index,
            // What the other side is there is not known yet.
            State::OpenSent | State::Closed => return,
        };
        self.end(loser, Notification::cease(cease::COLLISION), now);
    }

    /// The peer has begun anew and knows nothing of this connection any more: it is closed without a word (RFC 4724, section
    /// 4.2). Its OPEN is waited for, not only its connection, which anybody at its address can make.
    fn supersede(&mut self, index: usize, now: Duration) {
        if self.links.get_mut(index).and_then(Option::take).is_none() {
            return;
        }
        let line = "the peer has begun a new session: the one before it is over";
        if let Some(line) = self.lines.next(line, now) {
            tracing::info!(peer = %self.settings.name, "{line}");
        }
        self.pauses.ended(&self.settings.name, self.lasted(now), now);
        self.may_retain(now);
    }

    /// What the peer was told it may keep, until it was told everything anew.
    fn may_retain(&self, now: Duration) {
        let until = now + Duration::from_secs(self.settings.terms.retain.unwrap_or(0).into());
        self.status.send_modify(|status| status.retained_until = Some(until));
    }

    /// For how long it has been established, if it is.
    fn lasted(&self, now: Duration) -> Option<Duration> {
        self.status.borrow().negotiated.is_some().then(|| now.saturating_sub(self.established_at))
    }

    fn end(&mut self, index: usize, notification: Notification, now: Duration) {
        let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) else { return };
        let mut events = Vec::new();
        link.connection.end(notification, &mut events);
        link.write(now, &mut Vec::new());
        for event in events {
            self.event(index, event, now);
        }
    }

    fn closed(&mut self, index: usize, why: &Why, now: Duration) {
        let Some(link) = self.links.get_mut(index).and_then(Option::take) else { return };
        let rival = self.links.iter().flatten().any(|link| link.connection.state() > State::OpenSent);
        let collision = matches!(why, Why::Sent(Notification { code: 6, subcode: cease::COLLISION, .. }))
            || matches!(why, Why::Told(Notification { code: 6, subcode: cease::COLLISION, .. }));
        let (ours, was_complete) = (link.ours, link.is_complete);
        let (has_told_nothing, is_retained) = (link.has_told_nothing(), link.is_retained());
        link.close(now);
        if rival && (collision || has_told_nothing) {
            return;
        }
        let lasted = self.lasted(now);
        if !ours || lasted.is_some() {
            self.pauses.ended(&self.settings.name, lasted, now);
        }
        // Before everything was told it keeps what it had from an earlier session, and what it was told over this one.
        if lasted.is_some() && is_retained {
            self.may_retain(now);
        }
        self.status.send_modify(|status| {
            status.stalls += u64::from(matches!(why, Why::Stalled { .. }));
            if was_complete {
                status.since = now;
            }
        });
        self.failed(why.to_string());
    }

    fn failed(&mut self, text: String) {
        self.pauses.failed(&self.settings.name, self.shared.now());
        self.note(text);
    }

    fn note(&mut self, text: String) {
        if self.status.borrow().error.as_ref() != Some(&text)
            && let Some(line) = self.lines.next(&text, self.shared.now())
        {
            tracing::warn!(peer = %self.settings.name, "{line}");
        }
        self.status.send_modify(|status| status.error = Some(text));
    }

    /// Tells the peer what has changed, and everybody how the session is.
    fn tell(&mut self) {
        let now = self.shared.now();
        let complete_at = self.complete_at();
        let external = self.settings.terms.local_as != self.settings.terms.peer_as;
        for index in 0..self.links.len() {
            let Some(link) = self.links.get_mut(index).and_then(Option::as_mut) else { continue };
            if link.connection.state() != State::Established {
                continue;
            }
            // What the peer has not taken yet is not added to.
            if !link.connection.wants_to_send() {
                if link.is_behind {
                    let rib = self.shared.rib();
                    link.tell(&rib, &self.settings.announcer, &self.settings.policy, external);
                }
                if !link.is_complete && complete_at <= now {
                    link.complete();
                }
            }
            let mut events = Vec::new();
            link.write(now, &mut events);
            for event in events {
                self.event(index, event, now);
            }
        }
        self.publish(now);
    }

    fn publish(&self, now: Duration) {
        let best = self.links.iter().flatten().max_by_key(|link| link.connection.state());
        self.status.send_if_modified(|status| {
            let mut next = status.clone();
            next.state = best.map(|link| link.connection.state());
            match best.filter(|link| link.connection.state() == State::Established) {
                Some(link) => {
                    next.ids = link.ids.clone();
                    next.withheld.clone_from(&link.withheld);
                    next.told = link.heard.unwrap_or(0);
                    next.stuck = link.waiting.filter(|since| now.saturating_sub(*since) >= MOMENT);
                    next.updates_sent = link.updates_sent;
                    next.updates_ignored = link.connection.ignored_updates;
                    next.updates_malformed = link.connection.malformed_updates;
                    if link.has_heard_all {
                        (next.retained_until, next.error) = (None, None);
                    }
                }
                None => {
                    next.negotiated = None;
                    if !next.ids.is_empty() {
                        next.ids = Ids::default();
                    }
                    (next.told, next.stuck) = (0, None);
                    next.retained_until = next.retained_until.filter(|until| *until > now);
                }
            }
            let changed = next != *status;
            *status = next;
            changed
        });
    }

    /// The peer is told that it is over, and given a moment to take that.
    async fn farewell(mut self) {
        let subcode = (*self.stop.borrow()).unwrap_or(cease::SHUTDOWN);
        let until = Instant::now() + FAREWELL;
        for mut link in self.links.iter_mut().filter_map(Option::take) {
            link.connection.end(Notification::cease(subcode), &mut Vec::new());
            while link.connection.wants_to_send() {
                link.write(self.shared.now(), &mut Vec::new());
                if !link.connection.wants_to_send() || tokio::time::timeout_at(until, link.ready()).await.is_err() {
                    break;
                }
            }
            link.close(self.shared.now());
        }
        self.status.send_modify(|status| *status = Status::default());
    }
}

async fn ready(link: &Option<Link>) {
    match link {
        Some(link) => link.ready().await,
        None => pending().await,
    }
}
