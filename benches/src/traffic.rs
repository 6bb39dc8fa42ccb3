//! Packets for measurements: a capture of as many frames as a row wants, the same for the same description on every
//! machine. Frames are the shortest there are: 64 bytes on the wire, 60 without the checksum.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use levee_engine::packet::steer;
use levee_tests::capture::Capture;
use levee_tests::frame::{self, Link, Tcp, flags};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::site::{FIRST_PORT, Family, HOSTS, Mitigations, NO_LIST, address, protocol};
use crate::sources;

const SEED: u64 = 0x6c_6576_6565;
/// Shortest frame without the checksum (IEEE 802.3).
const SHORTEST: usize = 60;
/// Captures need a time; nothing looks at it.
const SOME_TIME_NS: u64 = 1_700_000_000_000_000_000;
const ETHERNET: usize = 14;
const IDENTIFICATION: usize = ETHERNET + 4;
/// Cuts a datagram behind 24 bytes: the whole UDP header and some payload in the first, the rest in the second.
const FRAGMENT_MTU: usize = 44;

/// Which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Traffic {
    /// How many, before they repeat.
    pub packets: u32,
    /// Version of IP.
    pub family: Family,
    /// What the filters are that some of them match.
    pub mitigations: Mitigations,
    /// Share of packets towards targets, in percent; the others go to any host.
    pub to_targets: u8,
    /// Share of packets towards targets that match a filter, each position as often, in percent.
    pub matching: u8,
    /// What is special about them.
    pub kind: Kind,
}

/// What is special about packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing: half TCP, half UDP, any source.
    Plain,
    /// A VLAN tag (IEEE 802.1Q).
    Vlan,
    /// A third each: first fragments, the later fragments that belong to them, later fragments without a first.
    Fragments,
    /// Impossible in one of several ways.
    Malformed,
    /// Sources from the loaded set.
    FromSet,
    /// From inside, each of another conversation.
    FromInside,
    /// Tuples that a weak hash cannot tell apart: the same exclusive or of addresses, the same sum of ports.
    Colliding,
    /// All the same tuple.
    OneKey,
    /// SYNs without options, as forged ones are.
    Syn,
}

impl Traffic {
    /// Writes the capture.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(self, path: &Path) -> io::Result<()> {
        let mut capture = Capture::create(path)?;
        self.compose(|frame| capture.write(SOME_TIME_NS, frame))?;
        capture.finish().map(drop)
    }

    /// Writes a capture for each of several queues: what belongs to its worker, or all of it to each.
    ///
    /// # Errors
    /// What writing says.
    pub fn write_queues(self, paths: &[PathBuf], mixed: bool) -> io::Result<()> {
        if mixed || paths.len() < 2 {
            return paths.iter().try_for_each(|path| self.write(path));
        }
        let mut captures = paths.iter().map(|path| Capture::create(path)).collect::<io::Result<Vec<_>>>()?;
        self.compose(|frame| {
            let own = captures.get_mut(steer::worker(frame, paths.len()));
            own.map_or(Ok(()), |capture| capture.write(SOME_TIME_NS, frame))
        })?;
        captures.into_iter().try_for_each(|capture| capture.finish().map(drop))
    }

    /// Makes the frames one after the other.
    ///
    /// # Errors
    /// What `take` returns.
    pub fn compose(self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let mut frame = Vec::new();
        for number in 0..self.packets {
            self.frame(number, &mut random, &mut frame);
            take(&frame)?;
        }
        Ok(())
    }

    fn frame(self, number: u32, random: &mut ChaCha8Rng, frame: &mut Vec<u8>) {
        match self.kind {
            Kind::Plain => self.packet(random).build(frame),
            Kind::FromInside => {
                let mut packet = self.packet(random);
                (packet.source, packet.destination) = (packet.destination, packet.source);
                packet.ports = (packet.ports.1, random.random_range(1024..=u16::MAX));
                packet.build(frame);
            }
            Kind::Syn => self.packet(random).build_syn(random.random(), frame),
            Kind::OneKey => self.packet(&mut seeded(0)).build(frame),
            Kind::Colliding => {
                let mut packet = self.packet(random);
                packet.source = mirrored(packet.destination);
                packet.ports.1 = 0_u16.wrapping_sub(packet.ports.0);
                packet.build(frame);
            }
            Kind::FromSet => {
                let mut packet = self.packet(random);
                packet.source = sources::member(self.family, random);
                packet.build(frame);
            }
            Kind::Malformed => {
                self.packet(random).build(frame);
                spoil(frame, random);
            }
            Kind::Vlan => {
                self.packet(random).build(frame);
                frame.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
            }
            Kind::Fragments => {
                let mut packet = self.packet(&mut seeded(number / 3));
                packet.tcp = false;
                packet.build(frame);
                let (first, later) = in_two(frame);
                let is_first = number.is_multiple_of(3);
                *frame = if is_first { first } else { later };
                if number % 3 == 2 {
                    // Of another packet, whose first fragment never comes.
                    put(frame, IDENTIFICATION, random.random());
                }
            }
        }
        frame.resize(frame.len().max(SHORTEST), 0);
    }

    fn packet(self, random: &mut ChaCha8Rng) -> Packet {
        let to_target = self.mitigations.targets > 0 && random.random_range(0..100) < self.to_targets;
        let matches = to_target && random.random_range(0..100) < self.matching;
        let position = random.random_range(0..self.mitigations.filters.max(1));
        let (host, list) = if to_target {
            let target = random.random_range(0..self.mitigations.targets);
            (self.mitigations.host(target), self.mitigations.list(target))
        } else {
            (random.random_range(0..HOSTS), 0)
        };
        Packet {
            source: sources::stranger(self.family, random),
            destination: address(self.family, host),
            ttl: random.random_range(32..=128),
            identification: random.random(),
            tcp: protocol(position) == 6,
            ports: (FIRST_PORT + position, 443),
            payload: if matches { list } else { list | NO_LIST },
        }
    }
}

fn seeded(number: u32) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(SEED + 1 + u64::from(number))
}

/// What frames are built from.
#[derive(Clone, Copy, Debug)]
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    identification: u16,
    tcp: bool,
    ports: (u16, u16),
    /// The first two bytes of the payload.
    payload: u16,
}

impl Packet {
    fn build(self, frame: &mut Vec<u8>) {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.build4(source, destination, frame),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.build6(source, destination, frame),
            _ => unreachable!("both addresses are of one family"),
        }
    }

    fn tcp(self) -> Tcp<'static> {
        Tcp {
            source: self.ports.0,
            destination: self.ports.1,
            sequence: 1,
            acknowledgement: 1,
            flags: flags::ACK | flags::PSH,
            window: 1024,
            options: &[],
        }
    }

    fn build_syn(self, sequence: u32, frame: &mut Vec<u8>) {
        let ip = frame::Ip {
            source: self.source,
            destination: self.destination,
            ttl: self.ttl,
            identification: self.identification,
            dont_fragment: true,
        };
        let syn = Tcp { sequence, acknowledgement: 0, flags: flags::SYN, window: 64_240, ..self.tcp() };
        frame::tcp(frame, Link::default(), ip, syn, &[]);
    }

    fn build4(self, source: Ipv4Addr, destination: Ipv4Addr, frame: &mut Vec<u8>) {
        let ip = frame::Ip {
            source: source.into(),
            destination: destination.into(),
            ttl: self.ttl,
            identification: self.identification,
            dont_fragment: false,
        };
        let [a, b] = self.payload.to_be_bytes();
        if self.tcp {
            frame::tcp(frame, Link::default(), ip, self.tcp(), &[a, b, 0, 0, 0, 0]);
        } else {
            frame::udp(frame, Link::default(), ip, self.ports, &[a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
    }

    /// The shortest that holds a payload is 64 bytes without the checksum for UDP, 76 for TCP (RFC 8200). Checksums of
    /// the transport are left zero: nothing on the way looks at them.
    fn build6(self, source: Ipv6Addr, destination: Ipv6Addr, frame: &mut Vec<u8>) {
        let link = Link::default();
        frame.clear();
        frame.extend(link.destination);
        frame.extend(link.source);
        let (next, length) = if self.tcp { (6_u8, 22_u16) } else { (17, 10) };
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([next, self.ttl]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        frame.extend(self.ports.0.to_be_bytes());
        frame.extend(self.ports.1.to_be_bytes());
        if self.tcp {
            frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags::ACK | flags::PSH, 4, 0, 0, 0, 0, 0]);
        } else {
            frame.extend(length.to_be_bytes());
            frame.extend([0, 0]);
        }
        frame.extend(self.payload.to_be_bytes());
    }
}

/// Both fragments of a frame.
fn in_two(frame: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut pieces = frame::fragments(frame, FRAGMENT_MTU).into_iter();
    (pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default())
}

/// Makes a frame that no sender with a working network stack sends.
fn spoil(frame: &mut [u8], random: &mut ChaCha8Rng) {
    match random.random_range(0..4) {
        // A header length below the smallest.
        0 => put(frame, ETHERNET, 0x4200),
        // More bytes than there are.
        1 => put(frame, ETHERNET + 2, 1500),
        // The version of the other family.
        2 => put(frame, ETHERNET, 0x6500),
        // Less than a header.
        _ => put(frame, ETHERNET + 2, 8),
    }
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// An address whose exclusive or with the given one is always the same.
fn mirrored(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) ^ 0x2a2a_2a2a).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) ^ 0x2a2a).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::ROWS;

    fn frames(traffic: Traffic) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        traffic
            .compose(|frame| {
                frames.push(frame.to_vec());
                Ok(())
            })
            .expect("nothing is written");
        frames
    }

    #[test]
    fn the_same_description_gives_the_same_packets() {
        for row in ROWS {
            let traffic = Traffic { packets: 300, ..row.subject.traffic };
            assert_eq!(frames(traffic), frames(traffic), "{}", row.name);
        }
    }

    #[test]
    fn frames_are_as_short_as_they_can_be() {
        for row in ROWS {
            for frame in frames(Traffic { packets: 300, ..row.subject.traffic }) {
                let longest = match (row.subject.traffic.family, row.subject.traffic.kind) {
                    (Family::V6, _) => 76,
                    (_, Kind::Vlan) => 64,
                    _ => 60,
                };
                assert!((60..=longest).contains(&frame.len()), "{}: {} bytes", row.name, frame.len());
            }
        }
    }

    #[test]
    fn fragments_come_in_pairs_beside_some_that_belong_to_nothing() {
        let kind = Kind::Fragments;
        let traffic = Traffic {
            packets: 3,
            family: Family::V4,
            mitigations: Mitigations::NONE,
            to_targets: 0,
            matching: 0,
            kind,
        };
        let fields: Vec<_> = frames(traffic)
            .iter()
            .map(|frame| (frame[18..20].to_vec(), u16::from_be_bytes([frame[20], frame[21]])))
            .collect();
        assert_eq!(fields[0].1, 0x2000, "more follow");
        assert_eq!(fields[1].1, 3, "24 bytes from the start, the last");
        assert_eq!(fields[0].0, fields[1].0, "of the same packet");
        assert_ne!(fields[1].0, fields[2].0, "of another packet");
    }
}
