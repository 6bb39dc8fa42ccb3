//! Synthetic traffic for tests: what legitimate stacks and applications send, and what attack tools send.

use levee_api::lane::{Bits, Lane, TcpFlags};
use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::packet::Lanes;
use crate::sample::{SAMPLE_PAYLOAD, Sample};

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Uniform in `lo..=hi`.
    pub(crate) fn within(&mut self, lo: u16, hi: u16) -> u16 {
        let span = u64::from(hi - lo) + 1;
        lo + u16::try_from(self.next() % span).unwrap()
    }

    /// True with a probability of `percent`.
    pub(crate) fn percent(&mut self, percent: u16) -> bool {
        self.within(0, 99) < percent
    }

    /// One of `weighted`, as often as its weight says.
    pub(crate) fn pick<T: Copy>(&mut self, weighted: &[(u16, T)]) -> T {
        let mut left = self.within(0, weighted.iter().map(|(weight, _)| weight).sum::<u16>() - 1);
        for (weight, what) in weighted {
            if left < *weight {
                return *what;
            }
            left -= weight;
        }
        unreachable!()
    }
}

/// `count` samples of what `one` makes.
pub(crate) fn many(count: usize, random: &mut Random, one: impl Fn(&mut Random) -> Sample) -> Vec<Sample> {
    (0..count).map(|_| one(random)).collect()
}

/// A packet of `role` from a random IPv4 source to 203.0.113.10.
pub(crate) fn packet(role: Role, random: &mut Random) -> Sample {
    let mut sample = Sample {
        lanes: Lanes::default(),
        payload: [0; SAMPLE_PAYLOAD],
        at: Timestamp(0),
        conversation: random.next(),
        slot: 0,
        role,
        passed: true,
        present: 0,
    };
    set(&mut sample, Lane::Src6, random.within(0x0100, 0xdfff));
    set(&mut sample, Lane::Src7, random.within(0, u16::MAX));
    set(&mut sample, Lane::Dst6, 0xcb00);
    set(&mut sample, Lane::Dst7, 0x710a);
    sample
}

pub(crate) fn set(sample: &mut Sample, lane: Lane, value: u16) {
    sample.lanes.0[lane.index()] = value;
}

pub(crate) fn set_bits(sample: &mut Sample, bits: Bits, on: bool) {
    let lane = &mut sample.lanes.0[Lane::Bits.index()];
    *lane = if on { *lane | bits.bits() } else { *lane & !bits.bits() };
}

/// Ports, and the bits that follow from them.
pub(crate) fn set_ports(sample: &mut Sample, source: u16, destination: u16) {
    set(sample, Lane::SrcPort, source);
    set(sample, Lane::DstPort, destination);
    set_bits(sample, Bits::PORTS, true);
    set_bits(sample, Bits::EQUAL_PORTS, source == destination);
}

/// A payload of `length` bytes that begins with `head`, after `headers` bytes of IP and transport headers; the rest is random.
pub(crate) fn set_payload(sample: &mut Sample, head: &[u8], length: u16, headers: u16, random: &mut Random) {
    let present = usize::from(length).min(SAMPLE_PAYLOAD);
    for (index, byte) in sample.payload.iter_mut().enumerate().take(present) {
        *byte = head.get(index).copied().unwrap_or_else(|| random.next().to_be_bytes()[0]);
    }
    sample.payload[present..].fill(0);
    sample.present = u8::try_from(present).unwrap();
    let pair = |at: usize| u16::from_be_bytes([sample.payload[at], sample.payload[at + 1]]);
    let (first, second) = (pair(0), pair(2));
    set(sample, Lane::Payload0, first);
    set(sample, Lane::Payload2, second);
    set(sample, Lane::PayloadLength, length);
    set(sample, Lane::IpLength, headers + length);
}

/// TTL after 4 to 28 hops, as clients all over the internet have it.
fn travel(sample: &mut Sample, initial: u16, random: &mut Random) {
    let hops = random.within(2, 14) + random.within(2, 14);
    set(sample, Lane::Ttl, initial - hops);
}

/// How an operating system opens a connection.
#[derive(Clone, Copy)]
pub(crate) struct Stack {
    pub(crate) options: u16,
    pub(crate) window: u16,
    pub(crate) length: u16,
    pub(crate) ttl: u16,
    /// The identification is zero.
    pub(crate) no_ident: bool,
}

const fn stack(options: u16, window: u16, length: u16, ttl: u16, no_ident: bool) -> Stack {
    Stack { options, window, length, ttl, no_ident }
}

/// Stacks by how common they are.
pub(crate) const STACKS: &[(u16, Stack)] = &[
    (25, stack(0x1a01, 64_240, 60, 64, false)),
    (22, stack(0x2b02, 64_240, 52, 128, false)),
    (18, stack(0x3c03, 65_535, 64, 64, true)),
    (15, stack(0x1a01, 65_535, 60, 64, false)),
    (8, stack(0x2b02, 65_535, 52, 128, false)),
    (5, stack(0x1a01, 29_200, 60, 64, false)),
    (4, stack(0x2b02, 8_192, 52, 128, false)),
    (2, stack(0x4d04, 14_600, 48, 64, false)),
    (1, stack(0x5e05, 5_840, 44, 255, false)),
];

/// A SYN of one stack.
pub(crate) fn syn_of(stack: Stack, random: &mut Random) -> Sample {
    let mut sample = packet(Role::Syn, random);
    let ports = (random.within(1024, u16::MAX), 443);
    set_ports(&mut sample, ports.0, ports.1);
    set(&mut sample, Lane::Protocol, 6);
    set(&mut sample, Lane::TcpFlags, TcpFlags::SYN.bits());
    set(&mut sample, Lane::IpLength, stack.length);
    set(&mut sample, Lane::TcpWindow, stack.window);
    set(&mut sample, Lane::Digest, stack.options);
    let mss = random.pick(&[(60, 1460_u16), (15, 1452), (10, 1440), (8, 1400), (7, 1380)]);
    set(&mut sample, Lane::TcpMss, mss);
    let ident = if stack.no_ident { 0 } else { random.within(0, u16::MAX) };
    set(&mut sample, Lane::Ident, ident);
    set_bits(&mut sample, Bits::DONT_FRAGMENT | Bits::ACK_ZERO, true);
    travel(&mut sample, stack.ttl, random);
    sample
}

/// A legitimate SYN.
pub(crate) fn syn(random: &mut Random) -> Sample {
    let stack = random.pick(STACKS);
    syn_of(stack, random)
}

/// A spoofed SYN of a tool: no options, fixed window and TTL, random identification.
pub(crate) fn tool_syn(random: &mut Random) -> Sample {
    let mut sample = syn_of(stack(0, 512, 40, 128, false), random);
    set(&mut sample, Lane::TcpMss, 0);
    set(&mut sample, Lane::Ttl, 241);
    sample
}

/// A SYN whose window is random and whose options are one of four layouts, some of them common.
pub(crate) fn mixed_syn(random: &mut Random) -> Sample {
    let shape = random.pick(&[(1, (0_u16, 40_u16)), (1, (0x1a01, 60)), (1, (0x7777, 52)), (1, (0x8888, 48))]);
    let mut sample = syn_of(stack(shape.0, 0, shape.1, 255, false), random);
    set(&mut sample, Lane::TcpWindow, random.within(0, u16::MAX));
    if shape.0 == 0 {
        set(&mut sample, Lane::TcpMss, 0);
    }
    sample
}

/// A UDP datagram to a served port.
pub(crate) fn udp(head: &[u8], length: u16, ports: (u16, u16), initial_ttl: u16, random: &mut Random) -> Sample {
    let mut sample = packet(Role::UdpOpen, random);
    set(&mut sample, Lane::Protocol, 17);
    set_ports(&mut sample, ports.0, ports.1);
    set(&mut sample, Lane::Ident, random.within(0, u16::MAX));
    set_payload(&mut sample, head, length, 28, random);
    travel(&mut sample, initial_ttl, random);
    sample
}

/// The first datagram of a player: queries, connection requests of two kinds, voice.
pub(crate) fn game(random: &mut Random) -> Sample {
    let source = random.within(1024, u16::MAX);
    let ttl = random.pick(&[(70, 128), (30, 64)]);
    let (head, length): (&[u8], u16) = random.pick(&[
        (35, (b"\xff\xff\xff\xffTSource Engine Query\0".as_slice(), 25)),
        (15, (b"\xff\xff\xff\xffU\xff\xff\xff\xff".as_slice(), 9)),
        (25, (b"\xff\xff\xff\xffqconnect0x".as_slice(), 23)),
        (15, (b"\xff\xff\xff\xffV\xff\xff\xff\xff".as_slice(), 9)),
        (6, (b"TS3INIT1\x00\x65\x00\x00\x88".as_slice(), 34)),
        (4, (b"\x01\x00\x00\x00".as_slice(), 33)),
    ]);
    udp(head, length, (source, 27_015), ttl, random)
}

/// UDP of random length and content from spoofed sources.
pub(crate) fn random_udp(random: &mut Random) -> Sample {
    let (source, length) = (random.within(1024, u16::MAX), random.within(64, 1000));
    let mut sample = udp(&[], length, (source, 27_015), 255, random);
    set(&mut sample, Lane::Ttl, random.within(30, 255));
    sample
}

/// UDP with the same 512 bytes in every datagram, from bots behind many paths.
pub(crate) fn constant_udp(random: &mut Random) -> Sample {
    let source = random.within(1024, u16::MAX);
    udp(&[0x7a; SAMPLE_PAYLOAD], 512, (source, 27_015), 64, random)
}

/// A DNS response with random transaction and name, flags 0x8180.
pub(crate) fn dns_response(random: &mut Random) -> Sample {
    let length = random.within(600, 1472);
    let id = random.next().to_be_bytes();
    let head = [id[0], id[1], 0x81, 0x80, 0, 1, 0, random.next().to_be_bytes()[0] % 30 + 1, 0, 0, 0, 1];
    let port = random.within(1024, u16::MAX);
    let mut sample = udp(&head, length, (53, port), 64, random);
    sample.role = Role::UnsolicitedResponse;
    sample
}

/// An ICMP message.
pub(crate) fn icmp(kind: u16, length: u16, initial_ttl: u16, random: &mut Random) -> Sample {
    let mut sample = packet(Role::IcmpOther, random);
    set(&mut sample, Lane::Protocol, 1);
    set(&mut sample, Lane::SrcPort, kind);
    set(&mut sample, Lane::Ident, random.within(0, u16::MAX));
    set_payload(&mut sample, &[], length, 28, random);
    travel(&mut sample, initial_ttl, random);
    sample
}

/// A ping as people and monitors send it.
pub(crate) fn ping(random: &mut Random) -> Sample {
    let (length, ttl) = random.pick(&[(60, (56, 64)), (30, (32, 128)), (6, (64, 64)), (4, (1472, 64))]);
    icmp(8, length, ttl, random)
}
