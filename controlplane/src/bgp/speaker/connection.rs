//! One connection to a peer, from OPEN to its end (RFC 4271, section 8), without input and output: bytes and time go in, bytes
//! and events come out. Connecting, retrying and choosing between two connections is the peer's.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::wire::{GracefulRestart, LONGEST, LONGEST_EXTENDED, Message, Notification, Open, Update, keepalive};
use crate::bgp::route::Family;

/// What we say of ourselves, and expect of the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Our AS.
    pub local_as: u32,
    /// The AS that the peer has to be in.
    pub peer_as: u32,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// Seconds, 0 or at least 3.
    pub hold_time: u16,
    /// What we announce.
    pub families: Vec<Family>,
    /// Seconds that the peer may keep our routes when the session is lost; none: it shall drop them.
    pub retain: Option<u16>,
}

/// What both can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's BGP identifier, as a number.
    pub router_id: u32,
    /// Families that both speak.
    pub families: Vec<Family>,
    /// AS numbers have four bytes.
    pub four_octet: bool,
    /// Messages may have up to 65 535 bytes.
    pub extended_message: bool,
    /// The peer keeps routes of these families when the session is lost.
    pub retained: Vec<Family>,
    /// A NOTIFICATION does not make it drop them, only a hard reset does.
    pub hard_reset: bool,
    /// Seconds; 0: none.
    pub hold_time: u16,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Our OPEN is sent.
    OpenSent,
    /// Its OPEN has come.
    OpenConfirm,
    /// Routes go.
    Established,
    /// It is over.
    Closed,
}

/// What a peer makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its OPEN has come: now two connections can be told apart.
    Opened,
    /// Routes can be sent.
    Established,
    /// It wants everything of a family again.
    Refresh(Family),
    /// It is over: what is still to be sent is sent, and the connection is closed.
    Closed(Why),
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The other side said so.
    #[error("the peer ended the session: {0}")]
    Told(Notification),
    /// The other side said so, in a way that is wrong.
    #[error("the peer ended the session with a NOTIFICATION that cannot be read: {0}")]
    Unreadable(Notification),
    /// We did.
    #[error("ended by us: {0}")]
    Sent(Notification),
    /// The other side is in another AS.
    #[error("the peer is in AS {found}, not {expected}: correct `as` of the peer, or of its configuration")]
    WrongAs {
        /// What its OPEN says.
        found: u32,
        /// What is configured.
        expected: u32,
    },
    /// It has our own identifier.
    #[error("the peer has our own router id {0}: give one of the two another")]
    SameRouterId(Ipv4Addr),
    /// It asks never to be given up for silence, and we ask for the opposite.
    #[error(
        "the peer's hold time is 0, so that a path that is lost would never be noticed: set one there, or hold_time = \"0s\" \
         here"
    )]
    NoHoldTime,
    /// None of our families.
    #[error("the peer speaks none of {0}: enable them there")]
    NoFamily(String),
    /// It does not take what it is sent (RFC 9687).
    #[error("the send hold time is over: the peer has acknowledged nothing for {} s, and {bytes} bytes wait", .time.as_secs())]
    Stalled {
        /// For so long.
        time: Duration,
        /// So much is on its way, or waits to be.
        bytes: u64,
    },
    /// The connection broke.
    #[error("the connection was lost: {0}")]
    Lost(String),
}

/// What the other side is given to say OPEN.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// Updates that are wrong, and more than can be counted as a slip, are told once.
const UNIT: Duration = Duration::from_secs(1);

/// A connection.
#[derive(Debug)]
pub struct Connection {
    terms: Terms,
    state: State,
    framer: super::wire::Framer,
    negotiated: Negotiated,
    hold_until: Option<Duration>,
    keepalive_at: Option<Duration>,
    /// To be sent, oldest first.
    out: Vec<u8>,
    /// Updates that were not read.
    pub ignored_updates: u64,
    /// Updates that were not right, and tolerated (RFC 7606).
    pub malformed_updates: u64,
}

impl Connection {
    /// A connection that has just been made. `now` is any clock that does not go back.
    pub fn new(terms: Terms, restarting: bool, now: Duration) -> Self {
        let families = terms.families.iter().map(|family| (family.afi(), family.safi())).collect();
        let graceful_restart = terms.retain.map(|time| GracefulRestart {
            restarting,
            notification: true,
            time,
            families: terms.families.iter().map(|family| (family.afi(), family.safi(), true)).collect(),
        });
        let open = Open {
            asn: terms.local_as,
            hold_time: terms.hold_time,
            router_id: terms.router_id,
            families,
            four_octet: true,
            route_refresh: true,
            extended_message: true,
            graceful_restart,
            add_path: Vec::new(),
        };
        Self {
            out: open.encode(),
            terms,
            state: State::OpenSent,
            framer: super::wire::Framer::default(),
            negotiated: Negotiated::default(),
            hold_until: Some(now + OPEN_WITHIN),
            keepalive_at: None,
            ignored_updates: 0,
            malformed_updates: 0,
        }
    }

    /// How far it is.
    pub const fn state(&self) -> State {
        self.state
    }

    /// What both can do; of meaning from [`Event::Opened`] on.
    pub const fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// What is to be sent; who has sent some of it takes it out.
    pub const fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Something is to be sent.
    pub const fn wants_to_send(&self) -> bool {
        !self.out.is_empty()
    }

    /// When [`tick`](Self::tick) has to be called.
    pub fn deadline(&self) -> Option<Duration> {
        self.hold_until.into_iter().chain(self.keepalive_at).min()
    }

    /// Bytes have come.
    pub fn received(&mut self, bytes: &[u8], now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        self.framer.push(bytes);
        while self.state != State::Closed {
            match self.framer.next_message() {
                Ok(Some(message)) => self.message(message, now, &mut events),
                Ok(None) => break,
                // One that is wrong is not answered either (RFC 4271, section 6.4).
                Err(wrong) if self.framer.is_at_notification() => {
                    self.out.clear();
                    self.close(Why::Unreadable(wrong), &mut events);
                }
                Err(notification) => self.end(notification, &mut events),
            }
        }
        events
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        if self.hold_until.is_some_and(|until| until <= now) {
            self.end(Notification::new(4, 0), &mut events);
        }
        if self.keepalive_at.is_some_and(|at| at <= now) {
            self.out.extend(keepalive());
            self.keep_alive(now);
        }
        events
    }

    /// The other side is told, and it is over.
    pub fn end(&mut self, notification: Notification, events: &mut Vec<Event>) {
        if self.state == State::Closed {
            return;
        }
        let hard = self.state == State::Established && self.negotiated.hard_reset && notification.code == 6;
        let sent = if hard { notification.clone().hard() } else { notification.clone() };
        self.out.extend(sent.encode());
        self.close(Why::Sent(notification), events);
    }

    /// The connection has broken.
    pub fn lost(&mut self, reason: String, events: &mut Vec<Event>) {
        self.close(Why::Lost(reason), events);
    }

    /// The peer takes nothing. It is told, if that is at the beginning of a message.
    pub fn stalled(&mut self, time: Duration, bytes: u64, events: &mut Vec<Event>) {
        if self.out.is_empty() && self.state != State::Closed {
            self.out.extend(Notification::new(8, 0).encode());
        }
        self.close(Why::Stalled { time, bytes }, events);
    }

    fn close(&mut self, why: Why, events: &mut Vec<Event>) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Closed;
        (self.hold_until, self.keepalive_at) = (None, None);
        events.push(Event::Closed(why));
    }

    /// The other side is told one thing, and people another.
    fn refuse(&mut self, notification: &Notification, why: Why, events: &mut Vec<Event>) {
        self.out.extend(notification.encode());
        self.close(why, events);
    }

    fn message(&mut self, message: Message, now: Duration, events: &mut Vec<Event>) {
        match (self.state, message) {
            (_, Message::Notification(notification)) => {
                self.out.clear();
                self.close(Why::Told(notification), events);
            }
            (State::OpenSent, Message::Open(open)) => self.opened(&open, now, events),
            (State::OpenConfirm, Message::Keepalive) => {
                self.state = State::Established;
                self.hear(now);
                events.push(Event::Established);
            }
            (State::Established, Message::Keepalive) => self.hear(now),
            (State::Established, Message::Update(update)) => {
                self.hear(now);
                match update {
                    Update::Ignored => self.ignored_updates = self.ignored_updates.saturating_add(1),
                    Update::Malformed => self.malformed_updates = self.malformed_updates.saturating_add(1),
                }
            }
            (State::Established, Message::RouteRefresh(family)) => {
                self.hear(now);
                // For a family that was not agreed upon it is ignored (RFC 2918, section 4).
                let known = family.filter(|family| self.negotiated.families.contains(family));
                events.extend(known.map(Event::Refresh));
            }
            // At the wrong time (RFC 6608).
            (State::OpenSent, _) => self.end(Notification::new(5, 1), events),
            (State::OpenConfirm, _) => self.end(Notification::new(5, 2), events),
            (State::Established, Message::Open(_)) => self.end(Notification::new(5, 3), events),
            (State::Closed, _) => {}
        }
    }

    fn opened(&mut self, open: &Open, now: Duration, events: &mut Vec<Event>) {
        let expected = self.terms.peer_as;
        if open.asn != expected {
            let why = Why::WrongAs { found: open.asn, expected };
            return self.refuse(&Notification::new(2, 2), why, events);
        }
        if open.router_id == self.terms.router_id && open.asn == self.terms.local_as {
            return self.refuse(&Notification::new(2, 3), Why::SameRouterId(open.router_id), events);
        }
        // The smaller one counts, and 0 is the smallest: the peer alone would decide that our rules outlive us.
        if open.hold_time == 0 && self.terms.hold_time != 0 {
            return self.refuse(&Notification::new(2, 6), Why::NoHoldTime, events);
        }
        let families: Vec<Family> = self
            .terms
            .families
            .iter()
            .copied()
            .filter(|family| open.families.contains(&(family.afi(), family.safi())))
            .collect();
        if families.is_empty() {
            let ours: Vec<&str> = self.terms.families.iter().map(|family| family.name()).collect();
            return self.refuse(&Notification::new(2, 7), Why::NoFamily(ours.join(", ")), events);
        }
        let restart = open.graceful_restart.as_ref().filter(|_| self.terms.retain.is_some());
        self.negotiated = Negotiated {
            router_id: u32::from(open.router_id),
            // A peer that speaks of graceful restart at all keeps what *we* have listed.
            retained: if restart.is_some() { families.clone() } else { Vec::new() },
            hard_reset: restart.is_some_and(|restart| restart.notification),
            families,
            four_octet: open.four_octet,
            extended_message: open.extended_message,
            hold_time: self.terms.hold_time.min(open.hold_time),
        };
        self.framer.extend(if open.extended_message { LONGEST_EXTENDED } else { LONGEST });
        self.state = State::OpenConfirm;
        self.hear(now);
        self.out.extend(keepalive());
        self.keep_alive(now);
        events.push(Event::Opened);
    }

    /// Something was heard.
    fn hear(&mut self, now: Duration) {
        let hold = self.negotiated.hold_time;
        self.hold_until = (hold > 0).then(|| now + UNIT * u32::from(hold));
    }

    /// A third of the hold time until the next one (RFC 4271, section 4.4).
    fn keep_alive(&mut self, now: Duration) {
        let hold = self.negotiated.hold_time;
        self.keepalive_at = (hold > 0).then(|| now + UNIT * u32::from(hold) / 3);
    }
}

/// Of two connections with the same peer, whether the one that we made is kept (RFC 4271, section 6.8, and RFC 6286).
pub const fn keeps_ours(ours: (u32, u32), theirs: (u32, u32)) -> bool {
    let ((our_id, our_as), (their_id, their_as)) = (ours, theirs);
    our_id > their_id || our_id == their_id && our_as > their_as
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
