//! One TCP connection to a peer, with the session on it and what the peer was told over it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::connection::{Connection, Event, State};
use super::export::{Policy, Withheld, export};
use super::rib::Rib;
use super::status::Ids;
use super::wire::{Announced, end_of_rib};
use crate::bgp::route::{Destination, Family};
use crate::ledger::MitigationId;

/// Read at most so much before something else has its turn.
const AT_ONCE: usize = 64 << 10;
/// A peer that takes nothing for so long is given up, at least (RFC 9687).
const LEAST_STALL: Duration = Duration::from_secs(20);

/// A connection with its session.
pub(super) struct Link {
    stream: TcpStream,
    pub(super) connection: Connection,
    /// We have made it.
    pub(super) ours: bool,
    local: IpAddr,
    /// What the peer was told: of which measure, and since which version that is as it is.
    told: BTreeMap<Arc<Destination>, (MitigationId, u64)>,
    /// The measures that it was told.
    pub(super) ids: Ids,
    /// What it was not told, and why.
    pub(super) withheld: BTreeMap<MitigationId, String>,
    /// Something has to be told that has not changed.
    is_anew: bool,
    /// What is to be told is not all written into `told` yet.
    pub(super) is_behind: bool,
    /// The version of what is written and may be on its way.
    writing: u64,
    /// End of RIB has been said.
    pub(super) is_complete: bool,
    /// When something could be sent last, or had to be.
    progress: Duration,
    pub(super) updates_sent: u64,
}

impl Link {
    pub(super) fn new(stream: TcpStream, connection: Connection, ours: bool, now: Duration) -> io::Result<Self> {
        let local = stream.local_addr()?.ip().to_canonical();
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
            is_complete: false,
            progress: now,
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
        let stall = self.connection.wants_to_send().then(|| self.progress + self.patience());
        self.connection.deadline().into_iter().chain(stall).min()
    }

    fn patience(&self) -> Duration {
        LEAST_STALL.max(Duration::from_secs(u64::from(self.connection.negotiated().hold_time) * 2))
    }

    /// Reads and writes what can be.
    pub(super) fn exchange(&mut self, now: Duration) -> Vec<Event> {
        let mut events = self.read(now);
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

    /// Sends what the connection takes.
    pub(super) fn write(&mut self, now: Duration, events: &mut Vec<Event>) {
        if !self.connection.wants_to_send() {
            self.progress = now;
            return;
        }
        loop {
            let out = self.connection.out();
            if out.is_empty() {
                break;
            }
            match self.stream.try_write(out) {
                Ok(count) => {
                    out.drain(..count);
                    self.progress = now;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if now.saturating_sub(self.progress) >= self.patience() {
                        let text = format!("the peer has taken nothing for {:?}", self.patience());
                        self.connection.lost(text, events);
                    }
                    break;
                }
                Err(error) => {
                    self.connection.lost(error.to_string(), events);
                    break;
                }
            }
        }
    }

    /// The version up to which everything has been handed to TCP.
    pub(super) fn told_version(&self) -> Option<u64> {
        (!self.connection.wants_to_send() && !self.is_behind && self.connection.state() == State::Established)
            .then_some(self.writing)
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
                    self.ids.replace(before.map(|(before, _)| before), Some(id));
                }
                Err(why) => {
                    self.untell([destination].into());
                    self.withheld.insert(id, why.to_string());
                }
            }
        }
        self.writing = rib.version();
        (self.is_behind, self.is_anew) = (false, false);
    }

    /// Withdraws what was told of these.
    fn untell(&mut self, destinations: BTreeSet<Arc<Destination>>) {
        for destination in destinations {
            if let Some((id, _)) = self.told.remove(&destination) {
                self.ids.replace(Some(id), None);
                self.connection.out().extend(Announced::withdraw(&destination));
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
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::bgp::route::Community;
    use crate::bgp::speaker::connection::Terms;
    use crate::ledger::{Direction, Spec};

    /// A session between two of ours, of which only what we say is looked at.
    async fn link() -> Link {
        let terms = |ours, theirs, id| Terms {
            local_as: ours,
            peer_as: theirs,
            router_id: Ipv4Addr::new(192, 0, 2, id),
            hold_time: 90,
            families: Family::ALL.to_vec(),
            retain: None,
        };
        let mut connection = Connection::new(terms(64_496, 64_497, 1), false, Duration::ZERO);
        let mut peer = Connection::new(terms(64_497, 64_496, 2), false, Duration::ZERO);
        while connection.wants_to_send() || peer.wants_to_send() {
            peer.received(&std::mem::take(connection.out()), Duration::ZERO);
            connection.received(&std::mem::take(peer.out()), Duration::ZERO);
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        Link::new(stream, connection, true, Duration::ZERO).unwrap()
    }

    #[tokio::test]
    async fn what_ends_while_everything_is_asked_for_again_is_withdrawn_all_the_same() {
        let mut link = link().await;
        let policy =
            Policy { local_as: 64_496, blackhole: vec![Community::BLACKHOLE], max_routes: 9, ..Policy::default() };
        let mut rib = Rib::default();
        for id in [1, 2] {
            let prefix = format!("203.0.113.{id}").parse().unwrap();
            let spec = Spec::Blackhole { prefix, direction: Direction::Destination };
            rib.announce("core", MitigationId(id), &spec, Duration::from_secs(60)).unwrap();
        }
        link.tell(&rib, "core", &policy, true);
        assert_eq!((link.withheld.len(), link.ids.len(), link.updates_sent), (0, 2, 2));
        link.connection.out().clear();
        link.tell_again(Family::Ipv4Unicast);
        rib.withdraw("core", MitigationId(1));
        link.tell(&rib, "core", &policy, true);
        let out = link.connection.out().clone();
        let withdrawal = Announced::withdraw(&Destination::Prefix("203.0.113.1".parse().unwrap()));
        assert!(out.starts_with(&withdrawal), "{out:02x?}");
        assert!(out.len() > withdrawal.len(), "the other one is told once more");
        assert_eq!((link.ids.len(), link.updates_sent), (1, 4));
    }
}
