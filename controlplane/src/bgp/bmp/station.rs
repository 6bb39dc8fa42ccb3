//! What one router has said over one connection, without input and output: bytes go in, and are asked for routes of ours.

use std::collections::BTreeMap;

use super::message::{BmpError, Frame, Monitored, Said, Table, cut, read};
use crate::bgp::flowspec::MAX_BYTES;
use crate::bgp::route::{Destination, Family};
use crate::bgp::speaker::export::owned;
use crate::bgp::speaker::wire::{Path, Received};
use crate::ledger::MitigationId;

/// Routes with our tag that are remembered of one router, in all its tables: what is more is counted, and not seen.
pub const MAX_ROUTES: usize = 40_000;
/// Sessions of one router with path identifiers that are told apart: with more, routes of other sessions are passed over.
const MOST_PEERS: usize = 10_000;
/// Communities that could be our tag, of one route.
const MOST_TAGS: usize = 8;

/// A session of the router, one of its tables, and which of several routes for the same destination.
type Place = (Monitored, Table, u32);

/// One connection of a router.
#[derive(Debug)]
pub struct Station {
    local_as: u32,
    /// What is no whole message yet.
    bytes: Vec<u8>,
    /// The router's name, as it gives it.
    name: Option<String>,
    /// Where routes with our tag are, and whose the tags may be.
    routes: BTreeMap<Destination, BTreeMap<Place, Vec<MitigationId>>>,
    /// The sessions whose routes have path identifiers, and in which families.
    with_ids: BTreeMap<Monitored, Vec<Family>>,
    /// Those were too many.
    too_many: bool,
    /// How many there are in all tables.
    count: usize,
    /// Messages that were read.
    pub messages: u64,
    /// Messages that were not right, and passed over.
    pub malformed: u64,
    /// Routes of ours that there was no place for.
    pub left_out: u64,
}

impl Station {
    /// Of a router that has just connected. `local_as`: what our owner tag begins with.
    pub const fn new(local_as: u32) -> Self {
        Self {
            local_as,
            bytes: Vec::new(),
            name: None,
            routes: BTreeMap::new(),
            with_ids: BTreeMap::new(),
            too_many: false,
            count: 0,
            messages: 0,
            malformed: 0,
            left_out: 0,
        }
    }

    /// Bytes have come. True when routes of ours have come or gone.
    ///
    /// # Errors
    /// When it is not BMP: the connection is of no use any more.
    pub fn received(&mut self, bytes: &[u8]) -> Result<bool, BmpError> {
        self.bytes.extend_from_slice(bytes);
        let mut all = std::mem::take(&mut self.bytes);
        let (mut taken, mut changed) = (0, false);
        while let Some(Frame { kind, body, length }) = cut(all.get(taken..).unwrap_or_default())? {
            self.messages = self.messages.saturating_add(1);
            match read(kind, body) {
                Some(said) => changed |= self.said(said),
                None => self.malformed = self.malformed.saturating_add(1),
            }
            taken += length;
        }
        all.drain(..taken);
        self.bytes = all;
        Ok(changed)
    }

    fn said(&mut self, said: Said) -> bool {
        match said {
            Said::Initiation { name } => {
                self.name = name.or_else(|| self.name.take());
                false
            }
            // What was told over an earlier session is not said again.
            Said::PeerUp(peer, families) => {
                self.with_ids.remove(&peer);
                if self.with_ids.len() >= MOST_PEERS {
                    self.too_many |= !families.is_empty();
                } else if !families.is_empty() {
                    self.with_ids.insert(peer, families);
                }
                self.forget(|(of, ..)| *of == peer)
            }
            Said::PeerDown(peer) => {
                self.with_ids.remove(&peer);
                self.forget(|(of, ..)| *of == peer)
            }
            Said::Routes(peer, table, update) => match self.update(&peer, &update) {
                Some(received) => self.routes((peer, table), received),
                None => {
                    self.malformed = self.malformed.saturating_add(1);
                    false
                }
            },
            Said::Other => false,
            Said::Termination => self.forget(|_| true),
        }
    }

    /// What a session tells; none when it cannot be known.
    fn update(&self, peer: &Monitored, update: &[u8]) -> Option<Received> {
        match self.with_ids.get(peer) {
            Some(families) => Received::read(update, families),
            None if self.too_many => None,
            None => Received::read(update, &[]),
        }
    }

    fn routes(&mut self, (peer, table): (Monitored, Table), received: Received) -> bool {
        self.malformed = self.malformed.saturating_add(received.malformed.into());
        let tags = received.large.iter().filter_map(|community| owned(self.local_as, *community));
        let tags: Vec<MitigationId> = tags.take(MOST_TAGS).collect();
        let mut changed = false;
        for Path { destination, id } in received.withdrawn {
            changed |= self.remove(&destination, (peer, table, id));
        }
        for Path { destination, id } in received.announced {
            let place = (peer, table, id);
            changed |=
                if tags.is_empty() { self.remove(&destination, place) } else { self.put(destination, place, &tags) };
        }
        changed
    }

    fn put(&mut self, destination: Destination, place: Place, tags: &[MitigationId]) -> bool {
        let is_ours = !matches!(&destination, Destination::Rule(_, bytes) if bytes.len() > MAX_BYTES + 1);
        let known = self.routes.get(&destination).and_then(|places| places.get(&place));
        if known.is_some_and(|known| known == tags) || !is_ours {
            return false;
        }
        if known.is_none() {
            if self.count >= MAX_ROUTES {
                self.left_out = self.left_out.saturating_add(1);
                return false;
            }
            self.count += 1;
        }
        self.routes.entry(destination).or_default().insert(place, tags.to_vec());
        true
    }

    fn remove(&mut self, destination: &Destination, place: Place) -> bool {
        let Some(places) = self.routes.get_mut(destination) else { return false };
        let gone = places.remove(&place).is_some();
        self.count -= usize::from(gone);
        if places.is_empty() {
            self.routes.remove(destination);
        }
        gone
    }

    fn forget(&mut self, is_gone: impl Fn(&Place) -> bool) -> bool {
        let before = self.count;
        self.routes.retain(|_, places| {
            let had = places.len();
            places.retain(|place, _| !is_gone(place));
            self.count -= had - places.len();
            !places.is_empty()
        });
        self.count != before
    }

    /// The router's name, as it gives it.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Routes with our tag, in all tables.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The tables in which the router has the route of a measure, from whichever peer.
    pub fn tables(&self, id: MitigationId, destination: &Destination) -> Vec<Table> {
        let places = self.routes.get(destination).into_iter().flatten();
        let mut tables: Vec<Table> =
            places.filter(|(_, tags)| tags.contains(&id)).map(|((_, table, _), _)| *table).collect();
        tables.sort_unstable();
        tables.dedup();
        tables
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::bgp::route::{Community, LargeCommunity, Route};
    use crate::bgp::speaker::wire::Announced;

    const ID: MitigationId = MitigationId(7 << 32 | 9);

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![3];
        bytes.extend(u32::try_from(6 + body.len()).unwrap().to_be_bytes());
        bytes.push(kind);
        bytes.extend(body);
        bytes
    }

    fn of_peer(kind: u8, flags: u8, more: &[u8]) -> Vec<u8> {
        let mut body = vec![0; 42];
        body[1] = flags;
        body[22..26].copy_from_slice(&[192, 0, 2, 1]);
        body.extend(more);
        message(kind, &body)
    }

    fn blackhole() -> Destination {
        Destination::Prefix("203.0.113.7".parse().unwrap())
    }

    fn update(large: &[[u32; 3]]) -> Vec<u8> {
        let route = Route {
            destination: blackhole(),
            next_hop: Some(IpAddr::from([192, 0, 2, 1])),
            path_length: 1,
            communities: vec![Community::BLACKHOLE],
            extended: Vec::new(),
            large: large.iter().map(|numbers| LargeCommunity(*numbers)).collect(),
        };
        Announced { local_as: 64_496, external: true, four_octet: true }.announce(&route)
    }

    #[test]
    fn a_route_of_ours_is_seen_where_it_is_and_no_longer_than_it_is() {
        let mut station = Station::new(64_496);
        let ours = update(&[[64_496, 0, 666], [64_496, 7, 9]]);
        let mut stream = message(4, b"\x00\x02\x00\x06edge-1\x00\x01\x00\x01x");
        stream.extend(of_peer(0, 0, &ours));
        for byte in &stream {
            station.received(&[*byte]).unwrap();
        }
        assert_eq!((station.name(), station.messages, station.malformed), (Some("edge-1"), 2, 0));
        assert_eq!(station.tables(ID, &blackhole()), [Table::BeforePolicy]);
        assert_eq!(station.received(&of_peer(0, 0x40, &ours)), Ok(true));
        assert_eq!(station.received(&of_peer(0, 0x40, &ours)), Ok(false), "the same again");
        assert_eq!(station.tables(ID, &blackhole()), [Table::BeforePolicy, Table::AfterPolicy]);
        assert_eq!(station.tables(MitigationId(9), &blackhole()), [], "of another measure");
        assert_eq!(station.tables(ID, &Destination::Prefix("203.0.113.8".parse().unwrap())), []);
        // What it tells others is not what it has.
        assert_eq!(station.received(&of_peer(0, 0x50, &ours)), Ok(false));
        let withdrawal = Announced::withdraw(&blackhole());
        assert_eq!(station.received(&of_peer(0, 0x40, &withdrawal)), Ok(true));
        assert_eq!(station.tables(ID, &blackhole()), [Table::BeforePolicy]);
        // Somebody else's route in its place.
        assert_eq!(station.received(&of_peer(0, 0, &update(&[[64_497, 7, 9]]))), Ok(true));
        assert_eq!((station.tables(ID, &blackhole()), station.count()), (vec![], 0));
        station.received(&of_peer(0, 0, &ours)).unwrap();
        assert_eq!(station.received(&of_peer(2, 0, &[1])), Ok(true), "the session is over");
        assert_eq!((station.tables(ID, &blackhole()), station.count()), (vec![], 0));
    }

    #[test]
    fn routes_with_path_identifiers_are_told_apart_by_them() {
        use crate::bgp::speaker::wire::{AddPath, Open};
        let open = |receives, sends| Open {
            asn: 64_497,
            hold_time: 90,
            router_id: [192, 0, 2, 1].into(),
            families: vec![(1, 1)],
            four_octet: true,
            route_refresh: false,
            extended_message: false,
            graceful_restart: None,
            add_path: vec![AddPath { family: (1, 1), receives, sends }],
        };
        let up =
            |sent: &Open, received: &Open| of_peer(3, 0, &[&[0; 20], &*sent.encode(), &received.encode()].concat());
        // With the number of the path in front of the prefix, which is the last in the message.
        let with_id = |update: Vec<u8>, id: u8| {
            let at = update.len() - 5;
            let mut with = [&update[..at], &[0, 0, 0, id], &update[at..]].concat();
            let length = u16::try_from(with.len()).unwrap().to_be_bytes();
            with[16..18].copy_from_slice(&length);
            with
        };
        let ours = |id| of_peer(0, 0, &with_id(update(&[[64_496, 7, 9]]), id));
        let mut station = Station::new(64_496);
        station.received(&up(&open(true, false), &open(false, true))).unwrap();
        for id in [1, 2] {
            assert_eq!(station.received(&ours(id)), Ok(true));
        }
        assert_eq!((station.tables(ID, &blackhole()), station.count()), (vec![Table::BeforePolicy], 2));
        // Another's route comes in the place of one of them.
        let theirs = of_peer(0, 0, &with_id(update(&[[64_497, 7, 9]]), 1));
        assert_eq!(station.received(&theirs), Ok(true));
        assert_eq!((station.tables(ID, &blackhole()), station.count()), (vec![Table::BeforePolicy], 1));
        assert_eq!((station.malformed, station.received(&of_peer(2, 0, &[1]))), (0, Ok(true)));
        // Where only one side speaks of it there are none.
        station.received(&up(&open(false, true), &open(false, true))).unwrap();
        assert_eq!(station.received(&of_peer(0, 0, &update(&[[64_496, 7, 9]]))), Ok(true));
        assert_eq!((station.tables(ID, &blackhole()), station.malformed), (vec![Table::BeforePolicy], 0));
        station.received(&up(&open(true, false), &open(false, false))).unwrap();
        assert_eq!(station.count(), 0, "a session that is new");
        // A session of which we cannot know is as it was.
        station.received(&of_peer(3, 0, &[0; 60])).unwrap();
        assert_eq!(station.malformed, 1);
    }

    #[test]
    fn what_is_not_right_is_passed_over_and_what_is_not_bmp_ends_it() {
        let mut station = Station::new(64_496);
        let ours = update(&[[64_496, 7, 9]]);
        station.received(&of_peer(0, 0, &ours)).unwrap();
        // A community that is cut short: the route counts as withdrawn (RFC 7606).
        let mut damaged = ours.clone();
        let at = damaged.windows(3).position(|three| three == [0xc0, 32, 12]).unwrap();
        damaged[at + 2] = 11;
        damaged.remove(at + 3 + 11);
        let length = damaged.len();
        damaged[16..18].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        let total = u16::from_be_bytes([damaged[21], damaged[22]]) - 1;
        damaged[21..23].copy_from_slice(&total.to_be_bytes());
        assert_eq!(station.received(&of_peer(0, 0, &damaged)), Ok(true));
        assert_eq!((station.count(), station.malformed), (0, 1));
        assert_eq!(station.received(&of_peer(0, 0, &ours[..30])), Ok(false));
        assert_eq!(station.received(&message(9, &[])), Ok(false));
        assert_eq!(station.malformed, 3);
        assert_eq!(station.received(&[4]), Err(BmpError::Version(4)));
        assert_eq!(Station::new(1).received(&[3, 0, 0, 0, 5, 0]), Err(BmpError::Length(5)));
        assert_eq!(Station::new(1).received(&[3, 0xff, 0, 0, 5, 0]), Err(BmpError::Length(0xff00_0005)));
    }

    #[test]
    fn a_router_cannot_fill_us() {
        let mut station = Station::new(64_496);
        let peer = Monitored { distinguisher: 0, address: IpAddr::from([192, 0, 2, 1]) };
        for number in 0..u32::try_from(MAX_ROUTES).unwrap() + 7 {
            let prefix = levee_api::prefix::Prefix::host(std::net::Ipv4Addr::from(number).into());
            station.put(Destination::Prefix(prefix), (peer, Table::BeforePolicy, 0), &[ID]);
        }
        assert_eq!((station.count(), station.left_out), (MAX_ROUTES, 7));
    }
}
