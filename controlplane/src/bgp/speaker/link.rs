//! One TCP connection to a peer, with the session on it and what the peer was told over it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::acknowledged::{Acknowledged, Said};
use super::connection::{Connection, Event, State};
use super::export::{Policy, Withheld, export};
use super::rib::Rib;
use super::socket;
use super::status::Ids;
use super::wire::{Announced, end_of_rib};
use crate::bgp::route::{Destination, Family};
use crate::ledger::MitigationId;

/// Read at most so much before something else has its turn.
const AT_ONCE: usize = 64 << 10;
/// A peer that acknowledges nothing for so long is given up, at least (RFC 9687, which has eight minutes: for so long it would
/// keep rules that drop what they should not).
const LEAST_STALL: Duration = Duration::from_secs(20);
/// The kernel gives it up so much later.
const KERNEL_LATER: Duration = Duration::from_secs(10);
/// What is not acknowledged is looked at again after this, the first time, doubled each time: nobody tells.
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// At the latest.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// A connection with its session.
pub(super) struct Link {
    stream: TcpStream,
    pub(super) connection: Connection,
    /// We have made it.
    pub(super) ours: bool,
    local: IpAddr,
    /// What was written, or is about to be: of which measure, and since which version that is as it is.
    told: BTreeMap<Arc<Destination>, (MitigationId, u64)>,
    /// The measures that the peer's TCP has acknowledged.
    pub(super) ids: Ids,
    /// What it was not told, and why.
    pub(super) withheld: BTreeMap<MitigationId, String>,
    /// Something has to be told that has not changed.
    is_anew: bool,
    /// What is to be told is not all written into `told` yet.
    pub(super) is_behind: bool,
    /// The version of what is written and may be on its way.
    writing: u64,
    /// The version up to which everything is acknowledged.
    pub(super) heard: Option<u64>,
    /// End of RIB has been said.
    pub(super) is_complete: bool,
    /// It is acknowledged.
    pub(super) has_heard_all: bool,
    sent: Acknowledged,
    /// Since when something waits to be acknowledged of which nothing more was.
    pub(super) waiting: Option<Duration>,
    /// When that is looked at again, and after how long the next time.
    look: Option<(Duration, Duration)>,
    pub(super) updates_sent: u64,
}

impl Link {
    pub(super) fn new(stream: TcpStream, connection: Connection, ours: bool) -> io::Result<Self> {
        let local = stream.local_addr()?.ip().to_canonical();
        socket::give_up_after(&stream, LEAST_STALL + KERNEL_LATER)?;
        Ok(Self {
            stream,
            connection,
            ours,
            local,
            told: BTreeMap::new(),
            ids: Ids::default(),
            withheld: BTreeMap::new(),
            is_anew: false,
            is_behind: false,
            writing: 0,
            heard: None,
            is_complete: false,
            has_heard_all: false,
            sent: Acknowledged::default(),
            waiting: None,
            look: None,
            updates_sent: 0,
        })
    }

    /// Waits until something can be read, or written if there is something to write.
    pub(super) async fn ready(&self) {
        let interest =
            if self.connection.wants_to_send() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        // An error shows when it is read.
        let _ = self.stream.ready(interest).await;
    }

    /// When time alone is a reason to look at it.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let stall = self.waiting.map(|since| since + self.patience());
        let look = self.look.map(|(at, _)| at);
        self.connection.deadline().into_iter().chain(stall).chain(look).min()
    }

    /// The send hold time.
    fn patience(&self) -> Duration {
        LEAST_STALL.max(Duration::from_secs(u64::from(self.connection.negotiated().hold_time) * 2))
    }

    /// Reads and writes what can be.
    pub(super) fn exchange(&mut self, now: Duration) -> Vec<Event> {
        let mut events = self.read(now);
        if events.contains(&Event::Opened) {
            // Without it our own clock is the only one.
            let _ = socket::give_up_after(&self.stream, self.patience() + KERNEL_LATER);
        }
        events.extend(self.connection.tick(now));
        self.write(now, &mut events);
        events
    }

    fn read(&mut self, now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        let mut buffer = [0; 16 << 10];
        let mut read = 0;
        while read < AT_ONCE && self.connection.state() != State::Closed {
            match self.stream.try_read(&mut buffer) {
                Ok(0) => self.connection.lost("the peer has closed it".to_owned(), &mut events),
                Ok(count) => {
                    read += count;
                    events.extend(self.connection.received(buffer.get(..count).unwrap_or_default(), now));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => self.connection.lost(error.to_string(), &mut events),
            }
        }
        events
    }

    /// Sends what the connection takes, and looks at what of it has come over.
    pub(super) fn write(&mut self, now: Duration, events: &mut Vec<Event>) {
        while self.connection.wants_to_send() {
            let out = self.connection.out();
            match self.stream.try_write(out) {
                Ok(count) => {
                    out.drain(..count);
                    self.sent.hand(count);
                    self.look = Some((now, FIRST_LOOK));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.connection.lost(error.to_string(), events);
                    break;
                }
            }
        }
        self.acknowledge(now);
        if self.waiting.is_some_and(|since| now.saturating_sub(since) >= self.patience()) {
            let bytes = self.unacknowledged();
            self.connection.stalled(self.patience(), bytes, events);
        }
    }

    /// Bytes that the peer's TCP has not acknowledged, or not been sent yet.
    fn unacknowledged(&mut self) -> u64 {
        self.sent.unacknowledged() + self.connection.out().len() as u64
    }

    fn acknowledge(&mut self, now: Duration) {
        // Of a connection that is lost nothing more is heard, which shows when it is read.
        let Ok(outstanding) = socket::outstanding(&self.stream) else { return };
        let is_more = self.sent.outstanding(outstanding);
        while let Some(said) = self.sent.heard() {
            match said {
                Said::Instead { before, now } => self.ids.replace(before, now),
                Said::Version(version) => self.heard = Some(version),
                Said::Complete => self.has_heard_all = true,
            }
        }
        let is_all = self.sent.is_all();
        self.waiting = match self.waiting {
            _ if is_all && !self.connection.wants_to_send() => None,
            Some(since) if !is_more => Some(since),
            _ => Some(now),
        };
        self.look = match self.look {
            _ if is_all => None,
            Some((at, after)) if at <= now => Some((now + after, LAST_LOOK.min(after * 2))),
            look => look,
        };
    }

    /// Closes it. A peer that did not take the last word of ours learns from TCP that it is over.
    pub(super) fn close(mut self, now: Duration) {
        self.write(now, &mut Vec::new());
        if self.connection.wants_to_send() {
            let _ = socket::break_off(&self.stream);
        }
    }

    /// The peer keeps what it was told when this is lost.
    pub(super) fn is_retained(&self) -> bool {
        !self.connection.negotiated().retained.is_empty()
    }

    /// Nothing that would have to be withdrawn was written.
    pub(super) fn has_told_nothing(&self) -> bool {
        self.told.is_empty() && !self.is_complete
    }

    /// Everything of a family is to be told again. That it was told is still known: what is not wanted any more by then has
    /// to be withdrawn.
    pub(super) fn tell_again(&mut self, family: Family) {
        let of_family = self.told.iter_mut().filter(|(destination, _)| destination.family() == family);
        of_family.for_each(|(_, (_, since))| *since = 0);
        (self.is_anew, self.is_behind) = (true, true);
    }

    /// Writes what has changed since the last time: first what is gone, then what is new or other.
    pub(super) fn tell(&mut self, rib: &Rib, announcer: &str, policy: &Policy, external: bool) {
        let room = policy.max_routes.saturating_sub(self.told.len());
        // Who was told all there was, and has room for what is new, needs to look at nothing else.
        let suffices = !self.is_anew && self.withheld.is_empty();
        let few = rib.changed_since(announcer, self.writing).filter(|few| suffices && few.len() <= room);
        let mut wanted = match few {
            Some(few) => {
                let (there, gone) = few.into_iter().partition(|one| rib.chosen_for(announcer, one).is_some());
                self.untell(gone);
                let chosen = |one| rib.chosen_for(announcer, &one).map(|chosen| (one, chosen));
                BTreeSet::into_iter(there).filter_map(chosen).collect::<Vec<_>>()
            }
            None => {
                let chosen = rib.chosen(announcer);
                self.untell(self.told.keys().filter(|one| !chosen.contains_key(one)).cloned().collect());
                chosen.into_iter().map(|(one, chosen)| (Arc::clone(one), chosen)).collect()
            }
        };
        // Under a budget what is told already stays, then what was asked for first.
        wanted.sort_by_key(|(destination, (id, _))| (!self.told.contains_key(destination), *id));
        let negotiated = self.connection.negotiated().clone();
        let announced = Announced { local_as: policy.local_as, external, four_octet: negotiated.four_octet };
        self.withheld.clear();
        for (destination, (id, entry)) in wanted {
            if self.told.get(&destination) == Some(&(id, entry.since)) {
                continue;
            }
            let route = if self.told.contains_key(&destination) || self.told.len() < policy.max_routes {
                export(&entry.spec, id, policy, &negotiated, self.local)
            } else {
                Err(Withheld::Budget(policy.max_routes))
            };
            match route {
                Ok(route) => {
                    self.connection.out().extend(announced.announce(&route));
                    self.updates_sent += 1;
                    let before = self.told.insert(destination, (id, entry.since));
                    self.say(Said::Instead { before: before.map(|(before, _)| before), now: Some(id) });
                }
                Err(why) => {
                    self.untell([destination].into());
                    self.withheld.insert(id, why.to_string());
                }
            }
        }
        self.writing = rib.version();
        self.say(Said::Version(self.writing));
        (self.is_behind, self.is_anew) = (false, false);
    }

    /// Withdraws what was told of these.
    fn untell(&mut self, destinations: BTreeSet<Arc<Destination>>) {
        for destination in destinations {
            if let Some((id, _)) = self.told.remove(&destination) {
                self.connection.out().extend(Announced::withdraw(&destination));
                self.say(Said::Instead { before: Some(id), now: None });
                self.updates_sent += 1;
            }
        }
    }

    /// Says that everything has been told.
    pub(super) fn complete(&mut self) {
        for family in self.connection.negotiated().families.clone() {
            self.connection.out().extend(end_of_rib(family));
        }
        self.is_complete = true;
        self.say(Said::Complete);
    }

    /// Something is said with the last byte that was written.
    fn say(&mut self, said: Said) {
        self.sent.say(self.connection.out().len(), said);
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
