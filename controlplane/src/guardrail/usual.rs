//! What usually comes to an address, as a sample that rules are held against: by how much of it they take together, however
//! their ranges are cut and however they are divided among rules.
//!
//! The sample is of no network in particular. It is there to tell a rule that selects from one that takes everything, not to
//! say what a rule would cost: that is asked of the dataplane, which knows the target's own traffic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use crate::ledger::{FlowRule, PortRange};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Packets to a server and packets to a client, so many of each.
const SAMPLE: u32 = 1_024;
const WORDS: usize = SAMPLE as usize / 64;
/// Shorter prefixes of sources are large parts of the internet.
const SHORTEST_SOURCE: (u8, u8) = (8, 16);
/// The parts of the IPv6 address space that most networks are in, by their first sixteen bits and how many of these are fixed.
const NETWORKS: [(u16, u32); 8] =
    [(0x2001, 16), (0x2400, 12), (0x2600, 12), (0x2600, 12), (0x2800, 12), (0x2a00, 12), (0x2a00, 12), (0x2c00, 12)];
/// What servers listen on.
const SERVICES: [u16; 12] = [80, 53, 22, 25, 123, 443, 853, 993, 3_389, 5_060, 8_080, 27_015];
const FLAGS: [u16; 16] =
    [0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x18, 0x18, 0x18, 0x18, 0x18, 0x02, 0x11, 0x04];
const SYN: u16 = 0x02;
/// Of SYNs, by the options that systems send.
const SYN_LENGTHS: [u16; 8] = [60, 60, 60, 60, 52, 52, 48, 64];

/// A packet, as far as rules look at it.
#[derive(Clone, Copy)]
struct Usual {
    /// By the version of the rule.
    sources: (Ipv4Addr, Ipv6Addr),
    protocol: u8,
    /// From and to; of ICMP type and code.
    ports: (u16, u16),
    length: u16,
    dscp: u16,
    tcp_flags: u16,
    later_fragment: bool,
}

/// Which of the packets are taken: of those to a server, of those to a client.
#[derive(Clone, Copy, Default)]
pub(super) struct Taken([[u64; WORDS]; 2]);

impl Taken {
    /// What a rule takes to its own destination.
    pub(super) fn by(rule: &FlowRule) -> Self {
        let mut taken = Self::default();
        for (side, packets) in taken.0.iter_mut().zip(SAMPLES.iter()) {
            for (word, packets) in side.iter_mut().zip(packets.chunks(64)) {
                *word = packets.iter().fold(0, |bits, packet| (bits << 1) | u64::from(packet.is_lost(rule)));
            }
        }
        taken
    }

    /// What two take together.
    #[must_use]
    pub(super) fn and(mut self, other: &Self) -> Self {
        let words = self.0.iter_mut().flatten().zip(other.0.iter().flatten());
        words.for_each(|(mine, others)| *mine |= others);
        self
    }

    /// To whom everything that comes is taken: three quarters of it, because what is left of a service is of no use then; of what
    /// comes to a network (and not to one host), half.
    pub(super) fn everything(&self, is_host: bool) -> Option<&'static str> {
        let most = if is_host { SAMPLE / 4 * 3 } else { SAMPLE / 2 };
        let taken = |side: &[u64; WORDS]| side.iter().map(|word| word.count_ones()).sum::<u32>();
        self.0.iter().zip(["a server", "a client"]).find(|(side, _)| taken(side) >= most).map(|(_, whom)| whom)
    }
}

static SAMPLES: LazyLock<[Vec<Usual>; 2]> =
    LazyLock::new(|| [true, false].map(|to_server| (0..SAMPLE).map(|index| Usual::new(index, to_server)).collect()));

impl Usual {
    fn new(index: u32, to_server: bool) -> Self {
        // Evenly spread in each and independent of each other: multiples of irrational numbers (a Weyl sequence).
        let [kind, port, other, length, rest, network, host] =
            [0x9e37_79b9_u32, 0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53b, 0x510e_527f, 0x9b05_688c].map(
                |step| {
                    let spread = (index + 1).wrapping_mul(step | 1);
                    u16::try_from(spread >> 16).unwrap_or(u16::MAX)
                },
            );
        let (service, ephemeral) = (service(port), among(other, 1_024, u16::MAX));
        let protocol = match kind {
            ..39_000 => TCP,
            39_000..64_000 => UDP,
            _ => ICMP,
        };
        let ports = match protocol {
            ICMP if to_server => (8, 0),
            ICMP => (0, 0),
            _ if to_server => (ephemeral, service),
            _ => (service, ephemeral),
        };
        // Below the addresses of multicast.
        let [high, low] = among(network, 0x0100, 0xdfff).to_be_bytes();
        let [third, fourth] = host.to_be_bytes();
        let (first, fixed) = NETWORKS.get(usize::from(network & 7)).copied().unwrap_or((0x2001, 16));
        let first = first | network.checked_shr(fixed).unwrap_or(0);
        Self {
            sources: (Ipv4Addr::new(high, low, third, fourth), Ipv6Addr::new(first, host, 0, 0, 0, 0, 0, 1)),
            protocol,
            ports,
            length: match length {
                ..32_768 => among(length << 1, 40, 127),
                32_768..49_152 => among(length << 2, 128, 999),
                _ => among(length << 2, 1_000, 1_500),
            },
            dscp: if rest < 0xf000 { 0 } else { rest >> 6 & 63 },
            tcp_flags: FLAGS.get(usize::from(rest & 15)).copied().unwrap_or_default(),
            later_fragment: rest >> 4 & 63 == 63,
        }
    }

    /// A packet of a connection that cannot be opened does not come at all.
    fn is_lost(&self, rule: &FlowRule) -> bool {
        let opening = || {
            let length = SYN_LENGTHS.get(usize::from(self.ports.0 & 7)).copied().unwrap_or(60);
            Self { length, tcp_flags: SYN, later_fragment: false, ..*self }
        };
        self.matches(rule) || self.protocol == TCP && opening().matches(rule)
    }

    fn matches(&self, rule: &FlowRule) -> bool {
        let FlowRule {
            destination,
            source,
            protocols,
            source_ports,
            destination_ports,
            icmp_types,
            icmp_codes,
            lengths,
            dscps,
            tcp_flags,
            later_fragment,
        } = rule;
        let everywhere = source.is_none_or(|source| {
            let shortest = if source.is_ipv4() { SHORTEST_SOURCE.0 } else { SHORTEST_SOURCE.1 };
            let ours: IpAddr = if source.is_ipv4() { self.sources.0.into() } else { self.sources.1.into() };
            source.length() < shortest || source.contains(ours)
        });
        let protocol = if self.protocol == ICMP && !destination.is_ipv4() { ICMPV6 } else { self.protocol };
        let has_ports = self.protocol != ICMP;
        everywhere
            && (protocols.is_empty() || protocols.contains(&protocol))
            && among_any(source_ports, has_ports, self.ports.0)
            && among_any(destination_ports, has_ports, self.ports.1)
            && among_any(icmp_types, !has_ports, self.ports.0)
            && among_any(icmp_codes, !has_ports, self.ports.1)
            && among_any(lengths, true, self.length)
            && among_any(dscps, true, self.dscp)
            && tcp_flags.is_none_or(|(mask, value)| mask == 0 || self.protocol == TCP && self.tcp_flags & mask == value)
            && later_fragment.is_none_or(|later| later == self.later_fragment)
    }
}

/// No condition, or one that a packet with such a number fulfils.
fn among_any(ranges: &[PortRange], has_one: bool, number: u16) -> bool {
    ranges.is_empty() || has_one && ranges.iter().any(|range| (range.first..=range.last).contains(&number))
}

/// A quarter 443, a quarter other well-known services, a quarter below 1024, the rest anywhere.
fn service(part: u16) -> u16 {
    let within = part << 2;
    match part >> 14 {
        0 => 443,
        1 => SERVICES.get(usize::from(among(within, 0, 11))).copied().unwrap_or(443),
        2 => among(within, 1, 1_023),
        _ => among(within, 1, u16::MAX),
    }
}

/// The value that lies as far between two others as `part` does between 0 and 65 536.
fn among(part: u16, first: u16, last: u16) -> u16 {
    let values = u32::from(last - first) + 1;
    first + u16::try_from((u32::from(part) * values) >> 16).unwrap_or(0)
}
