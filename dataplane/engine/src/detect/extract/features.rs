//! What a sample is looked at for: each feature reads one value from a sample and says which condition asks for that
//! value; beside them stand ranges and single bits. What a rule cannot ask for (the suffix of a DNS name, the data
//! offset as such) is not here: the data offset follows from the option layout.

use std::net::{Ipv4Addr, Ipv6Addr};

use levee_api::filter::{HeaderBox, Pattern, Side};
use levee_api::lane::{Bits, Lane, TcpFlags};
use levee_api::prefix::Prefix;
use levee_api::role::Role;

use super::condition::{Condition, Population, payload};
use crate::packet::udp;
use crate::sample::Sample;

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Options,
    Window,
    Mss,
    Ident,
    TcpFlags,
    AckZero,
    SequenceLowZero,
    Urgent,
    PayloadBytes,
    DnsSuffix,
    Forged,
    SourcePort,
    EqualPorts,
    Length,
    PayloadLength,
    IcmpType,
    IcmpCode,
    IpOptions,
    DontFragment,
    Ttl,
    TrafficClass,
    PayloadByte,
    Protocol,
    Version,
    Fragment,
    DestinationPort,
    SourcePrefix,
    SourceClass,
    LengthRange,
    WindowRange,
    TtlRange,
    SourcePortRange,
    PayloadByteRange,
}

impl Kind {
    /// True for exact values that a sender keeps for as long as it runs, wherever it sends from and to.
    pub(super) const fn lasts(self) -> bool {
        !matches!(
            self,
            Self::Ttl
                | Self::SourcePrefix
                | Self::SourceClass
                | Self::DestinationPort
                | Self::LengthRange
                | Self::WindowRange
                | Self::TtlRange
                | Self::SourcePortRange
                | Self::PayloadByteRange
        )
    }
}

/// A value that can be read from a sample, and asked for by a rule.
pub(super) struct Feature {
    pub(super) kind: Kind,
    /// The value; none when the packet has no such thing.
    pub(super) value: fn(&Sample) -> Option<u64>,
    /// The condition that asks for a value.
    pub(super) condition: fn(u64) -> Condition,
}

/// A condition worth trying, with what it is about and the value it asks for (bits: 0 or 1; ranges: 0).
pub(super) struct Candidate {
    pub(super) kind: Kind,
    pub(super) value: u64,
    pub(super) condition: Condition,
}

/// Features that a hole can be made of too: headers and the first four payload bytes.
pub(super) const HEADER: &[Feature] = &[
    Feature { kind: Kind::Options, value: |s| tcp(s, Lane::Digest), condition: |v| exact(Lane::Digest, v) },
    Feature { kind: Kind::Window, value: |s| tcp(s, Lane::TcpWindow), condition: |v| exact(Lane::TcpWindow, v) },
    Feature { kind: Kind::Mss, value: |s| tcp(s, Lane::TcpMss), condition: |v| exact(Lane::TcpMss, v) },
    Feature { kind: Kind::TcpFlags, value: |s| tcp(s, Lane::TcpFlags), condition: tcp_flags },
    Feature {
        kind: Kind::Ident,
        value: ident,
        condition: |v| header(any().exact(Lane::Ident, piece(v, 0)).bits(Bits::IPV6, Bits::empty())),
    },
    Feature {
        kind: Kind::DnsSuffix,
        value: |s| s.dns_suffix().map(u64::from),
        condition: |v| header(any().exact(Lane::Digest, piece(v, 0)).exact(Lane::Protocol, u16::from(udp::PROTOCOL))),
    },
    Feature { kind: Kind::PayloadBytes, value: |s| first_bytes(s, 4), condition: first_four },
    Feature { kind: Kind::PayloadBytes, value: |s| first_bytes(s, 2), condition: first_two },
    Feature { kind: Kind::PayloadBytes, value: second_two_value, condition: second_two },
    Feature { kind: Kind::PayloadByte, value: |s| first_bytes(s, 1), condition: first_one },
    Feature {
        kind: Kind::SourcePort,
        value: |s| port(s, Lane::SrcPort),
        condition: |v| header(any().port(Side::Source, piece(v, 0), piece(v, 0))),
    },
    Feature {
        kind: Kind::DestinationPort,
        value: |s| port(s, Lane::DstPort),
        condition: |v| header(any().port(Side::Destination, piece(v, 0), piece(v, 0))),
    },
    Feature { kind: Kind::IcmpType, value: |s| icmp(s, Lane::SrcPort), condition: |v| exact(Lane::SrcPort, v) },
    Feature { kind: Kind::IcmpCode, value: |s| icmp(s, Lane::DstPort), condition: |v| exact(Lane::DstPort, v) },
    Feature {
        kind: Kind::Length,
        value: |s| Some(u64::from(s.lanes.get(Lane::IpLength))),
        condition: |v| exact(Lane::IpLength, v),
    },
    Feature {
        kind: Kind::PayloadLength,
        value: |s| Some(u64::from(s.lanes.get(Lane::PayloadLength))),
        condition: |v| exact(Lane::PayloadLength, v),
    },
    Feature { kind: Kind::Ttl, value: |s| Some(u64::from(s.lanes.get(Lane::Ttl))), condition: |v| exact(Lane::Ttl, v) },
    Feature {
        kind: Kind::TrafficClass,
        value: |s| Some(u64::from(s.lanes.get(Lane::Dscp))),
        condition: |v| exact(Lane::Dscp, v),
    },
];

/// Features that only a rule can ask for: holes have no payload pattern, and no hole is made for who or what protocol
/// somebody is.
pub(super) const RULE_ONLY: &[Feature] = &[
    Feature { kind: Kind::PayloadBytes, value: |s| window_value(s, 0, 8), condition: |v| window(v, 0, 8) },
    Feature { kind: Kind::PayloadBytes, value: |s| window_value(s, 4, 4), condition: |v| window(v, 4, 4) },
    Feature { kind: Kind::PayloadBytes, value: |s| window_value(s, 8, 8), condition: |v| window(v, 8, 8) },
    Feature { kind: Kind::PayloadBytes, value: |s| window_value(s, 16, 8), condition: |v| window(v, 16, 8) },
    Feature { kind: Kind::PayloadBytes, value: last_bytes_value, condition: last_bytes },
    Feature {
        kind: Kind::Protocol,
        value: |s| Some(u64::from(s.lanes.get(Lane::Protocol))),
        condition: |v| exact(Lane::Protocol, v),
    },
    Feature { kind: Kind::SourcePrefix, value: |s| source(s, 8, 32), condition: |v| source_prefix(v, 8, 32) },
    Feature { kind: Kind::SourcePrefix, value: |s| source(s, 16, 48), condition: |v| source_prefix(v, 16, 48) },
    Feature { kind: Kind::SourcePrefix, value: |s| source(s, 24, 64), condition: |v| source_prefix(v, 24, 64) },
    Feature {
        kind: Kind::SourceClass,
        value: |s| Some(u64::from(s.lanes.get(Lane::SourceClass))),
        condition: |v| exact(Lane::SourceClass, v),
    },
];

/// Ranges and bits that are tried whatever the samples look like, and the range that the attack itself spans.
pub(super) fn fixed(role: Role, attack: &Population<'_>) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut add = |kind, matches| found.push(Candidate { kind, value: 0, condition: header(matches) });
    // Where real packets pile up: bare headers, common option sets, small datagrams, tunnels, full frames.
    for edge in [44, 52, 60, 64, 72, 80, 100, 128, 160, 200, 256, 320, 400, 512, 640, 800, 1000, 1200, 1280, 1400, 1500]
    {
        add(Kind::LengthRange, any().range(Lane::IpLength, edge, u16::MAX));
        add(Kind::LengthRange, any().range(Lane::IpLength, 0, edge - 1));
    }
    // Stacks start at 32, 64, 128 or 255 and no path is longer than some 40 hops.
    for (lo, hi) in [(0, 32), (33, 64), (65, 128), (129, 255), (200, 255)] {
        add(Kind::TtlRange, any().range(Lane::Ttl, lo, hi));
    }
    for (kind, of) in
        [(Kind::LengthRange, Lane::IpLength), (Kind::TtlRange, Lane::Ttl), (Kind::WindowRange, Lane::TcpWindow)]
    {
        if let Some((lo, hi)) = attack.span(of, attack.size() / 200) {
            add(kind, any().range(of, lo, hi));
        }
    }
    for (lo, hi) in [(0, 1023), (1024, u16::MAX), (0, 4095), (4096, u16::MAX)] {
        add(Kind::WindowRange, any().range(Lane::TcpWindow, lo, hi));
    }
    if role != Role::IcmpOther {
        for (lo, hi) in [(0, 1023), (1024, u16::MAX), (32_768, u16::MAX), (49_152, u16::MAX)] {
            add(Kind::SourcePortRange, any().port(Side::Source, lo, hi));
        }
    }
    // The two bits in which RTP, STUN, QUIC and DTLS tell themselves apart (RFC 7983, RFC 9443).
    for (lo, hi) in [(0, 0x3fff), (0x4000, 0x7fff), (0x8000, 0xbfff), (0xc000, 0xffff)] {
        add(Kind::PayloadByteRange, any().range(Lane::Payload0, lo, hi).range(Lane::PayloadLength, 1, u16::MAX));
    }
    for flag in [TcpFlags::FIN, TcpFlags::RST, TcpFlags::PSH, TcpFlags::ACK, TcpFlags::URG] {
        add(Kind::TcpFlags, any().flags(flag, flag));
        add(Kind::TcpFlags, any().flags(flag, TcpFlags::empty()));
    }
    // A checksum verdict depends on the NIC and a tunnel on configuration: neither describes a packet.
    for (kind, bit) in [
        (Kind::Version, Bits::IPV6),
        (Kind::Fragment, Bits::FIRST_FRAGMENT),
        (Kind::Fragment, Bits::LATER_FRAGMENT),
        (Kind::DontFragment, Bits::DONT_FRAGMENT),
        (Kind::IpOptions, Bits::OPTIONS),
        (Kind::EqualPorts, Bits::EQUAL_PORTS),
        (Kind::AckZero, Bits::ACK_ZERO),
        (Kind::SequenceLowZero, Bits::SEQ_LOW_ZERO),
        (Kind::Urgent, Bits::URGENT),
        (Kind::Forged, Bits::QUIC_FORGED),
    ] {
        for set in [Bits::empty(), bit] {
            let condition = header(any().bits(bit, set));
            found.push(Candidate { kind, value: u64::from(!set.is_empty()), condition });
        }
    }
    found
}

const fn any() -> HeaderBox {
    HeaderBox::any()
}

const fn header(matches: HeaderBox) -> Condition {
    Condition::header(matches)
}

/// 16 bits of a value, counted from its least significant end.
fn piece(value: u64, shift: u32) -> u16 {
    u16::try_from(value >> shift & 0xffff).unwrap_or(u16::MAX)
}

fn exact(lane: Lane, value: u64) -> Condition {
    header(any().exact(lane, piece(value, 0)))
}

fn of_protocol(sample: &Sample, protocols: &[u16], of: Lane) -> Option<u64> {
    protocols.contains(&sample.lanes.get(Lane::Protocol)).then(|| u64::from(sample.lanes.get(of)))
}

fn tcp(sample: &Sample, of: Lane) -> Option<u64> {
    of_protocol(sample, &[6], of).filter(|_| sample.lanes.get(Lane::Bits) & Bits::LATER_FRAGMENT.bits() == 0)
}

fn icmp(sample: &Sample, of: Lane) -> Option<u64> {
    of_protocol(sample, &[1, 58], of).filter(|_| sample.lanes.get(Lane::Bits) & Bits::LATER_FRAGMENT.bits() == 0)
}

fn port(sample: &Sample, of: Lane) -> Option<u64> {
    (sample.lanes.get(Lane::Bits) & Bits::PORTS.bits() != 0).then(|| u64::from(sample.lanes.get(of)))
}

fn tcp_flags(value: u64) -> Condition {
    header(any().flags(TcpFlags::all(), TcpFlags::from_bits_truncate(piece(value, 0))))
}

fn ident(sample: &Sample) -> Option<u64> {
    (sample.lanes.get(Lane::Bits) & Bits::IPV6.bits() == 0).then(|| u64::from(sample.lanes.get(Lane::Ident)))
}

/// The first bytes as the two payload lanes hold them, if the packet has that many.
fn first_bytes(sample: &Sample, count: u16) -> Option<u64> {
    let first = u64::from(sample.lanes.get(Lane::Payload0)) << 16 | u64::from(sample.lanes.get(Lane::Payload2));
    (sample.lanes.get(Lane::PayloadLength) >= count).then(|| first >> (32 - 8 * u32::from(count)))
}

/// Absent bytes are zero in the lanes: when the last of `count` bytes is zero, the length must tell that it is there.
fn present(matches: HeaderBox, value: u64, count: u16) -> Condition {
    let told = value & 0xff != 0;
    header(if told { matches } else { matches.range(Lane::PayloadLength, count, u16::MAX) })
}

fn first_one(value: u64) -> Condition {
    let byte = piece(value << 8, 0);
    present(any().range(Lane::Payload0, byte, byte | 0xff), value, 1)
}

fn first_two(value: u64) -> Condition {
    present(any().exact(Lane::Payload0, piece(value, 0)), value, 2)
}

fn second_two_value(sample: &Sample) -> Option<u64> {
    (sample.lanes.get(Lane::PayloadLength) >= 4).then(|| u64::from(sample.lanes.get(Lane::Payload2)))
}

fn second_two(value: u64) -> Condition {
    present(any().exact(Lane::Payload2, piece(value, 0)), value, 4)
}

fn first_four(value: u64) -> Condition {
    present(any().exact(Lane::Payload0, piece(value, 16)).exact(Lane::Payload2, piece(value, 0)), value, 4)
}

/// `length` payload bytes from `offset` on as one number.
fn window_value(sample: &Sample, offset: usize, length: usize) -> Option<u64> {
    let bytes = payload(sample).get(offset..offset + length)?;
    Some(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn window(value: u64, offset: u16, length: u8) -> Condition {
    let (mut bytes, mut mask) = ([0; 16], [0; 16]);
    let shifted = value << (64 - 8 * u32::from(length));
    for ((byte, care), wanted) in bytes.iter_mut().zip(&mut mask).zip(shifted.to_be_bytes()).take(usize::from(length)) {
        (*byte, *care) = (wanted, 0xff);
    }
    Condition { matches: any(), pattern: Some(Pattern { offset, length, bytes, mask }) }
}

/// The last four bytes of a payload that is present in full and longer than what the first bytes tell; with its length,
/// because a rule counts from the front.
fn last_bytes_value(sample: &Sample) -> Option<u64> {
    let present = payload(sample);
    let whole = usize::from(sample.lanes.get(Lane::PayloadLength)) == present.len() && present.len() > 8;
    let last = whole.then(|| window_value(sample, present.len() - 4, 4)).flatten()?;
    Some(u64::from(sample.lanes.get(Lane::PayloadLength)) << 32 | last)
}

fn last_bytes(value: u64) -> Condition {
    let length = piece(value, 32);
    let last = window(value & 0xffff_ffff, length.saturating_sub(4), 4);
    Condition { matches: any().exact(Lane::PayloadLength, length), ..last }
}

/// The network of a source: IPv4 as it is; IPv6 by its first 64 bits, with the top bit set to tell it apart. Global
/// IPv6 addresses begin with 001 (RFC 4291), so that bit is free; others are no network to filter on.
fn source(sample: &Sample, ipv4_length: u32, ipv6_length: u32) -> Option<u64> {
    let pair = |first, second| u64::from(sample.lanes.get(first)) << 16 | u64::from(sample.lanes.get(second));
    if sample.lanes.get(Lane::Bits) & Bits::IPV6.bits() == 0 {
        return Some(pair(Lane::Src6, Lane::Src7) & u64::from(u32::MAX << (32 - ipv4_length)));
    }
    let first = pair(Lane::Src0, Lane::Src1) << 32 | pair(Lane::Src2, Lane::Src3);
    (first >> 61 == 1).then(|| IPV6_MARK | first & u64::MAX << (64 - ipv6_length))
}

const IPV6_MARK: u64 = 1 << 63;

fn source_prefix(value: u64, ipv4_length: u8, ipv6_length: u8) -> Condition {
    let prefix = if value & IPV6_MARK == 0 {
        Prefix::containing(Ipv4Addr::from(u32::try_from(value).unwrap_or(0)).into(), ipv4_length)
    } else {
        Prefix::containing(Ipv6Addr::from(u128::from(value & !IPV6_MARK) << 64).into(), ipv6_length)
    };
    header(any().prefix(Side::Source, prefix))
}

#[cfg(test)]
mod tests {
    use super::super::tests::population::{Random, packet, set, set_bits, set_payload};
    use super::*;

    #[test]
    fn the_condition_of_a_value_holds_for_the_sample_that_it_was_read_from() {
        let mut random = Random(3);
        for round in 0..400_u16 {
            let mut sample = packet(Role::UdpOpen, &mut random);
            for lane in Lane::ALL {
                let value = random.within(0, u16::MAX);
                set(&mut sample, lane, value);
            }
            set(&mut sample, Lane::Protocol, random.pick(&[(1, 6), (1, 17), (1, 1)]));
            // A global IPv6 address in every second IPv6 packet.
            set(&mut sample, Lane::Src0, if round % 2 == 0 { 0x2001 } else { 0xfe80 });
            set_bits(&mut sample, Bits::IPV6, round % 4 < 2);
            if round % 4 >= 2 {
                for lane in [Lane::Src0, Lane::Src1, Lane::Src2, Lane::Src3, Lane::Src4, Lane::Src5] {
                    set(&mut sample, lane, 0);
                }
            }
            let length = random.within(0, 40);
            set_payload(&mut sample, &[0, 0], length, 28, &mut random);
            let population = Population::of(vec![&sample]);
            for feature in HEADER.iter().chain(RULE_ONLY) {
                let Some(value) = (feature.value)(&sample) else { continue };
                let condition = (feature.condition)(value);
                assert_eq!(population.members(&condition).count(), 1, "{:?} {value:#x}: {condition:?}", feature.kind);
            }
        }
    }
}
