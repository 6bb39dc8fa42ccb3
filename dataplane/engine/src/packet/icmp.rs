//! ICMP (RFC 792) and ICMPv6 (RFC 4443), with the packets that their errors quote.

use levee_api::lane::{Bits, Lane};

use super::frame::{Frame, offset, saturated};
use super::{Datagram, Kind, Lanes, Layers, Packet, has_ports, ipv4, ipv6};
use crate::verdict::Reason;

/// Protocol number of ICMP; over IPv6 it is a protocol like any other.
pub(super) const V4: u8 = 1;
/// Protocol number of ICMPv6; over IPv4 it is a protocol like any other.
pub(super) const V6: u8 = 58;
/// Type, code, checksum, and four bytes whose meaning depends on the type: what all messages that cross routers have.
const HEADER: usize = 8;

/// Unreachable, time exceeded, parameter problem. Source quench and redirect are no errors of the path that anything may still
/// send through here (RFC 6633, RFC 1812 section 5.3.7): they count as other ICMP.
const V4_ERRORS: [u8; 3] = [3, 11, 12];
/// Unreachable, too big, time exceeded, parameter problem.
const V6_ERRORS: [u8; 4] = [1, 2, 3, 4];
/// Router and neighbour solicitation and advertisement, redirect (RFC 4861). Multicast listener messages are not among them:
/// hosts send them with hop limit 1.
const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
const DISCOVERY_HOP_LIMIT: u16 = 255;

/// Protocol numbers, as they are in columns.
pub const PROTOCOLS: [u32; 2] = [V4 as u32, V6 as u32];
/// Protocol and type of an echo reply.
pub const ECHO_REPLY: (u16, u16) = (1, 0);
/// The same over IPv6.
pub const ECHO_REPLY_V6: (u16, u16) = (58, 129);
/// Protocol and type of an echo request, over either.
const ECHO_REQUESTS: [(u16, u16); 2] = [(1, 8), (58, 128)];

/// True for an echo reply.
pub fn is_echo_reply(lanes: &Lanes) -> bool {
    [ECHO_REPLY, ECHO_REPLY_V6].contains(&(lanes.get(Lane::Protocol), lanes.get(Lane::SrcPort)))
}

/// True for an echo request.
pub fn is_echo_request(lanes: &Lanes) -> bool {
    ECHO_REQUESTS.contains(&(lanes.get(Lane::Protocol), lanes.get(Lane::SrcPort)))
}

pub(super) fn parse_v4(
    frame: &Frame<'_>,
    datagram: &Datagram,
    lanes: &mut Lanes,
    layers: &mut Layers,
) -> Result<Kind, Reason> {
    let kind = header(frame, datagram, lanes, layers)?;
    if !V4_ERRORS.contains(&kind) {
        return Ok(Kind::IcmpOther);
    }
    let quote = frame.header(datagram.at + HEADER, datagram.end, datagram.missing(Reason::IcmpQuote))?;
    error(Quoted::v4(quote), lanes)
}

pub(super) fn parse_v6(
    frame: &Frame<'_>,
    datagram: &Datagram,
    lanes: &mut Lanes,
    layers: &mut Layers,
) -> Result<Kind, Reason> {
    let kind = header(frame, datagram, lanes, layers)?;
    if DISCOVERY.contains(&kind) {
        let on_link = lanes.get(Lane::Ttl) == DISCOVERY_HOP_LIMIT;
        return if on_link { Ok(Kind::Discovery) } else { Err(Reason::DiscoveryHopLimit) };
    }
    if !V6_ERRORS.contains(&kind) {
        return Ok(Kind::IcmpOther);
    }
    let quote = frame.header(datagram.at + HEADER, datagram.end, datagram.missing(Reason::IcmpQuote))?;
    error(Quoted::v6(quote), lanes)
}

/// An error is one for whoever sent the packet that it quotes.
fn error(quoted: Option<Quoted>, lanes: &Lanes) -> Result<Kind, Reason> {
    match quoted {
        Some(quoted) if quoted.src == lanes.destination() => Ok(Kind::IcmpError),
        _ => Err(Reason::IcmpQuote),
    }
}

/// Reads type and code into the port lanes and returns the type.
fn header(frame: &Frame<'_>, datagram: &Datagram, lanes: &mut Lanes, layers: &mut Layers) -> Result<u8, Reason> {
    let [kind, code, ..] = *frame.header::<HEADER>(datagram.at, datagram.end, datagram.missing(Reason::IcmpHeader))?;
    lanes.set(Lane::SrcPort, kind.into());
    lanes.set(Lane::DstPort, code.into());
    lanes.set(Lane::PayloadLength, saturated(datagram.length() - HEADER));
    layers.payload = offset(datagram.at + HEADER);
    Ok(kind)
}

/// The packet that an error quotes, in the form of the lanes: host order, IPv4 addresses in the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Source address: the destination of the error.
    pub src: [u16; 8],
    /// Destination address.
    pub dst: [u16; 8],
    /// Source port; zero when the protocol has none or the quote does not reach it.
    pub sport: u16,
    /// Destination port; zero as above.
    pub dport: u16,
    /// Protocol after extension headers; the first header of a chain that the quote does not hold whole.
    pub protocol: u8,
}

impl Quoted {
    /// The lanes that tell its conversation. `first`: its first byte, in which the version is.
    pub fn lanes(&self, first: Option<u8>) -> Lanes {
        let mut lanes = Lanes::default();
        for (place, piece) in lanes.0.iter_mut().zip(self.src.into_iter().chain(self.dst)) {
            *place = piece;
        }
        lanes.set_ports(self.sport, self.dport);
        lanes.set(Lane::Protocol, self.protocol.into());
        if first.is_some_and(|first| first >> 4 == 6) {
            lanes.add(Bits::IPV6);
        }
        lanes
    }

    fn v4(header: &[u8; ipv4::HEADER]) -> Option<Self> {
        #[rustfmt::skip] // rows as in RFC 791's picture
        let [
            ihl, _,        _, _,
            _,   _,        _, _,
            _,   protocol, _, _,
            addresses @ ..
        ] = header;
        let mut lanes = Lanes::default();
        let (src, dst) = addresses.split_at(4);
        lanes.fill(Lane::Src6, src);
        lanes.fill(Lane::Dst6, dst);
        (ihl >> 4 == 4 && ihl & 0x0f >= 5).then(|| Self::new(&lanes, *protocol))
    }

    fn v6(header: &[u8; ipv6::HEADER]) -> Option<Self> {
        #[rustfmt::skip] // rows as in RFC 8200's picture
        let [
            version, _, _,        _,
            _,       _, protocol, _,
            addresses @ ..
        ] = header;
        let mut lanes = Lanes::default();
        lanes.fill(Lane::Src0, addresses);
        (version >> 4 == 6).then(|| Self::new(&lanes, *protocol))
    }

    fn new(lanes: &Lanes, protocol: u8) -> Self {
        Self { src: lanes.source(), dst: lanes.destination(), sport: 0, dport: 0, protocol }
    }
}

/// The packet that an error quotes; `None` for all other packets.
///
/// `layers` is what [`super::parse`] made of `head`.
pub fn quoted(layers: &Layers, head: &[u8]) -> Option<Quoted> {
    if layers.kind != Kind::IcmpError {
        return None;
    }
    let (at, end) = (usize::from(layers.payload), usize::from(layers.end));
    let frame = Frame::new(&Packet { head: head.get(..end)?, wire_len: 0 });
    let (quoted, ports) = match frame.version(at)? {
        4 => {
            let header = frame.array::<{ ipv4::HEADER }>(at)?;
            let quoted = Quoted::v4(header)?;
            (quoted, ipv4::transport_of(at, header))
        }
        _ => {
            let quoted = Quoted::v6(frame.array(at)?)?;
            match ipv6::follow(&frame, at + ipv6::HEADER, end, quoted.protocol) {
                Ok(datagram) => (Quoted { protocol: datagram.protocol, ..quoted }, datagram.transport()),
                Err(_) => (quoted, None),
            }
        }
    };
    match ports.filter(|_| has_ports(quoted.protocol)).and_then(|at| frame.array(at)) {
        Some([s0, s1, d0, d1]) => {
            Some(Quoted { sport: u16::from_be_bytes([*s0, *s1]), dport: u16::from_be_bytes([*d0, *d1]), ..quoted })
        }
        None => Some(quoted),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{
        DESTINATION, DESTINATION6, Read, SOURCE, SOURCE6, ipv4, ipv6, join, read, read_snapped, udp,
    };
    use super::*;

    /// A message with its type and code, and what follows the first eight bytes.
    fn message(kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
        join(&[&[kind, code, 0xab, 0xcd, 0, 0, 0, 0], body])
    }

    /// The header of a packet from the destination of the fixtures to their source: what an error to it quotes.
    fn quote(protocol: u8, content: &[u8]) -> Vec<u8> {
        #[rustfmt::skip]
        let fixed = [
            0x45, 0x00,     0x05, 0xdc,
            0x00, 0x01,     0x40, 0x00,
            0x40, protocol, 0x00, 0x00,
        ];
        join(&[&fixed, &DESTINATION, &SOURCE, content])
    }

    fn quote6(next: u8, content: &[u8]) -> Vec<u8> {
        join(&[&[0x60, 0, 0, 0, 0x05, 0xb4, next, 64], &DESTINATION6, &SOURCE6, content])
    }

    fn v4(message: &[u8]) -> Read {
        read(&ipv4(V4, message))
    }

    fn v6(message: &[u8]) -> Read {
        read(&ipv6(V6, message))
    }

    fn quoted_of(read: &Read) -> Option<Quoted> {
        quoted(&read.layers, &read.frame)
    }

    #[test]
    fn an_echo_request_has_type_and_code_instead_of_ports() {
        let read = v4(&message(8, 0, b"abcdefgh"));
        assert_eq!(read.layers.kind, Kind::IcmpOther);
        assert_eq!((read.lane(Lane::SrcPort), read.lane(Lane::DstPort)), (8, 0));
        assert!(!read.lanes.bits().contains(levee_api::lane::Bits::PORTS));
        assert_eq!((read.payload(), read.lane(Lane::PayloadLength)), (&b"abcdefgh"[..], 8));
        assert_eq!(read.lane(Lane::Payload0), 0x6162);
        assert_eq!(quoted_of(&read), None);
    }

    #[test]
    fn a_message_shorter_than_its_header_is_malformed() {
        for length in 0..8 {
            assert_eq!(v4(&[8; 8][..length]).reason(), Some(Reason::IcmpHeader));
            assert_eq!(v6(&[128; 8][..length]).reason(), Some(Reason::IcmpHeader));
        }
    }

    #[test]
    fn errors_of_the_path_quote_a_packet_of_their_destination() {
        for kind in [3, 11, 12] {
            let read = v4(&message(kind, 4, &quote(17, &udp(5353, 53, &[]))));
            assert_eq!(
                (read.layers.kind, read.lane(Lane::SrcPort), read.lane(Lane::DstPort)),
                (Kind::IcmpError, kind.into(), 4)
            );
        }
        for kind in [1, 2, 3, 4] {
            let read = v6(&message(kind, 0, &quote6(17, &udp(5353, 53, &[]))));
            assert_eq!(read.layers.kind, Kind::IcmpError);
        }
        // Source quench and redirect.
        for kind in [4, 5] {
            assert_eq!(v4(&message(kind, 0, &quote(17, &[0; 8]))).layers.kind, Kind::IcmpOther);
        }
    }

    #[test]
    fn errors_that_quote_nothing_or_somebody_else_are_malformed() {
        let foreign = &quote(17, &[0; 8]).as_chunks::<4>().0.to_vec();
        let foreign = [&foreign[..3], &[[203, 0, 113, 9]], &foreign[4..]].concat().concat();
        let mut short_ihl = quote(17, &[0; 8]);
        short_ihl[0] = 0x44;
        for body in
            [&[][..], &quote(17, &[])[..19], &foreign, &quote6(17, &[0; 8]), &short_ihl, b"flood flood flood flood!"]
        {
            assert_eq!(v4(&message(3, 1, body)).reason(), Some(Reason::IcmpQuote));
        }
        let mut foreign = quote6(17, &[0; 8]);
        foreign[23] ^= 1;
        for body in [&[][..], &quote6(17, &[])[..39], &foreign, &join(&[&quote(17, &[]), &[0; 28]])] {
            assert_eq!(v6(&message(2, 0, body)).reason(), Some(Reason::IcmpQuote));
        }
    }

    #[test]
    fn a_quote_that_a_capture_cut_is_truncated() {
        let frame = ipv4(V4, &message(3, 1, &quote(17, &[0; 8])));
        assert_eq!(read_snapped(&frame, 14 + 20 + 8 + 19).reason(), Some(Reason::Truncated));
    }

    #[test]
    fn the_quoted_packet_is_read_as_far_as_it_goes() {
        let v4_expected = Quoted {
            src: [0, 0, 0, 0, 0, 0, 0xc633, 0x6407],
            dst: [0, 0, 0, 0, 0, 0, 0xc000, 0x0201],
            sport: 5353,
            dport: 53,
            protocol: 17,
        };
        let unported = Quoted { sport: 0, dport: 0, ..v4_expected };
        assert_eq!(quoted_of(&v4(&message(3, 3, &quote(17, &udp(5353, 53, &[]))))), Some(v4_expected));
        assert_eq!(quoted_of(&v4(&message(3, 3, &quote(17, &[])))), Some(unported));
        assert_eq!(quoted_of(&v4(&message(3, 3, &quote(17, &[1, 2, 3])))), Some(unported));
        let echo = quote(1, &[8, 0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(quoted_of(&v4(&message(3, 3, &echo))), Some(Quoted { protocol: 1, ..unported }));
        let mut with_options = quote(17, &join(&[&[1; 4], &udp(5353, 53, &[])]));
        with_options[0] = 0x46;
        assert_eq!(quoted_of(&v4(&message(3, 3, &with_options))), Some(v4_expected));
        let mut later = quote(17, &udp(5353, 53, &[]));
        later[7] = 5;
        assert_eq!(quoted_of(&v4(&message(11, 1, &later))), Some(unported));
    }

    #[test]
    fn the_quoted_packet_is_read_through_extension_headers() {
        let expected = Quoted {
            src: [0x2001, 0x0db8, 0x000a, 0, 0, 0, 0, 7],
            dst: [0x2001, 0x0db8, 0, 0, 0, 0, 0, 1],
            sport: 5353,
            dport: 53,
            protocol: 17,
        };
        let datagram = udp(5353, 53, &[]);
        assert_eq!(quoted_of(&v6(&message(2, 0, &quote6(17, &datagram)))), Some(expected));
        let first = join(&[&[17, 0, 0, 1, 0, 0, 0, 9], &datagram]);
        assert_eq!(quoted_of(&v6(&message(2, 0, &quote6(44, &first)))), Some(expected));
        let later = join(&[&[17, 0, 1, 0, 0, 0, 0, 9], &datagram]);
        let unported = Quoted { sport: 0, dport: 0, ..expected };
        assert_eq!(quoted_of(&v6(&message(2, 0, &quote6(44, &later)))), Some(unported));
        let cut = Quoted { protocol: 44, ..unported };
        assert_eq!(quoted_of(&v6(&message(2, 0, &quote6(44, &[17, 0])))), Some(cut));
    }

    #[test]
    fn discovery_comes_from_this_link() {
        for kind in 133..=137 {
            let mut frame = ipv6(V6, &message(kind, 0, &[0; 16]));
            assert_eq!(read(&frame).layers.kind, Kind::Discovery);
            frame[21] = 254;
            assert_eq!(read(&frame).reason(), Some(Reason::DiscoveryHopLimit));
        }
        // Multicast listener messages have hop limit 1.
        for kind in [130, 131, 132, 143] {
            let mut frame = ipv6(V6, &message(kind, 0, &[0; 16]));
            frame[21] = 1;
            assert_eq!(read(&frame).layers.kind, Kind::IcmpOther);
        }
    }

    #[test]
    fn each_version_has_its_own_icmp() {
        assert_eq!(read(&ipv4(V6, &message(3, 1, &[]))).layers.kind, Kind::OtherProtocol);
        assert_eq!(read(&ipv6(V4, &message(3, 1, &[]))).layers.kind, Kind::OtherProtocol);
    }
}
