//! Second opinions on how packets read: etherparse, and our own parser one packet at a time.

use std::net::IpAddr;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use levee_api::lane::{Bits, Lane};
use levee_engine::isa::Isa;
use levee_engine::packet::{Kind, Lanes, Layers, Marks, Packet, Parsed, parse_burst};

/// An address as the lanes hold it.
fn lanes_of(address: IpAddr) -> [u16; 8] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [0, 0, 0, 0, 0, 0, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
        }
        IpAddr::V6(address) => address.segments(),
    }
}

/// Panics when a burst at some instruction set reads a packet differently from what [`levee_engine::packet::parse`] made of it,
/// wherever in the burst it is.
pub(crate) fn reads_alike_at_every_level(packet: &Packet<'_>, layers: &Layers, lanes: &Lanes) {
    let mut parsed = Parsed::default();
    for isa in Isa::available() {
        // What was there before must not show.
        parsed.lanes.fill(Lanes([0xffff; 32]));
        parse_burst(isa, &[*packet; ALIKE], &mut parsed, |_| {});
        for at in 0..ALIKE {
            assert_eq!((&parsed.layers(at), &parsed.lanes[at]), (layers, lanes), "{isa}, {at}: {:02x?}", packet.head);
            for lane in Lane::ALL {
                let halves = parsed.columns.of(lane)[at].to_le_bytes();
                let [low, high] = [[halves[0], halves[1]], [halves[2], halves[3]]].map(u16::from_le_bytes);
                let turned = if lane.index() % 2 == 0 { low } else { high };
                assert_eq!(turned, lanes.get(lane), "{isa}, {at}: {lane}: {:02x?}", packet.head);
            }
        }
        let marked = |mark: u64| {
            if mark == 0 {
                false
            } else {
                assert_eq!(mark, (1 << ALIKE) - 1, "{isa}");
                true
            }
        };
        let Marks { tcp, udp, addressed, ipv6, fragments, special } = parsed.marks;
        let no_address = matches!(
            layers.kind,
            Kind::Other | Kind::Heartbeat | Kind::TooDeep | Kind::Malformed { addressed: false, .. }
        );
        let plain = matches!(layers.kind, Kind::Tcp | Kind::Udp | Kind::IcmpOther | Kind::OtherProtocol);
        assert_eq!((marked(tcp), marked(udp)), (layers.kind == Kind::Tcp, layers.kind == Kind::Udp), "{isa}");
        assert_eq!(marked(addressed), !no_address, "{isa}");
        assert_eq!(marked(ipv6), !no_address && lanes.bits().contains(Bits::IPV6), "{isa}");
        assert_eq!(marked(fragments), layers.piece.end > 0, "{isa}");
        assert_eq!(marked(special), !plain || layers.piece.end > 0, "{isa}");
    }
}

/// More than a block of packets that are read together, and not a whole number of blocks.
const ALIKE: usize = 18;

/// Panics where we and etherparse both understand a frame and read it differently. Says what etherparse found beyond the
/// addresses: true when it had a transport header to compare.
///
/// etherparse knows neither MPLS nor our limits, and it accepts what we call malformed: there is nothing to compare then.
pub(crate) fn compare(head: &[u8], layers: &Layers, lanes: &Lanes) -> bool {
    if matches!(layers.kind, Kind::Other | Kind::Heartbeat | Kind::TooDeep | Kind::Malformed { addressed: false, .. }) {
        return false;
    }
    let Ok(theirs) = LaxSlicedPacket::from_ethernet(head) else { return false };
    let (source, destination, payload, length, ttl, is_ipv6) = match &theirs.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            assert_eq!(lanes.get(Lane::Ident), header.identification());
            let is_malformed = matches!(layers.kind, Kind::Malformed { .. });
            assert!(is_malformed || lanes.bits().contains(Bits::DONT_FRAGMENT) == header.dont_fragment());
            (
                IpAddr::from(header.source_addr()),
                IpAddr::from(header.destination_addr()),
                ip.payload(),
                usize::from(header.total_len()),
                header.ttl(),
                false,
            )
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (
                IpAddr::from(header.source_addr()),
                IpAddr::from(header.destination_addr()),
                ip.payload(),
                40 + usize::from(header.payload_length()),
                header.hop_limit(),
                true,
            )
        }
        _ => return false,
    };
    assert_eq!(lanes.source(), lanes_of(source));
    assert_eq!(lanes.destination(), lanes_of(destination));
    assert_eq!(usize::from(lanes.get(Lane::IpLength)), length.min(65_535));
    assert_eq!(lanes.get(Lane::Ttl), u16::from(ttl));
    assert_eq!(lanes.bits().contains(Bits::IPV6), is_ipv6);
    // It follows authentication headers in IPv4 too, and not as many of IPv6's as we do.
    let same_protocol = lanes.get(Lane::Protocol) == u16::from(payload.ip_number.0);
    if matches!(layers.kind, Kind::Malformed { .. }) || theirs.stop_err.is_some() || !same_protocol {
        return false;
    }
    let fragmented = lanes.bits().intersects(Bits::FIRST_FRAGMENT | Bits::LATER_FRAGMENT);
    assert_eq!(fragmented, payload.fragmented);
    assert_eq!(usize::from(layers.l4), payload.payload.as_ptr().addr() - head.as_ptr().addr());

    match &theirs.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!(layers.kind, Kind::Tcp);
            assert_eq!(lanes.get(Lane::SrcPort), tcp.source_port());
            assert_eq!(lanes.get(Lane::DstPort), tcp.destination_port());
            assert_eq!(lanes.get(Lane::TcpWindow), tcp.window_size());
            let [length, flags] = [tcp.slice()[12], tcp.slice()[13]];
            assert_eq!(lanes.get(Lane::TcpFlags), u16::from_be_bytes([length & 1, flags]));
            assert_eq!(layers.payload(head), tcp.payload().get(..layers.payload(head).len()).unwrap_or(tcp.payload()));
            assert_eq!(lanes.bits().contains(Bits::ACK_ZERO), tcp.acknowledgment_number() == 0);
            assert_eq!(lanes.bits().contains(Bits::SEQ_LOW_ZERO), tcp.sequence_number() & 0xffff == 0);
            assert_eq!(lanes.bits().contains(Bits::URGENT), tcp.urgent_pointer() != 0);
            let mss = tcp.options_iterator().find_map(|option| match option {
                Ok(etherparse::TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
                _ => None,
            });
            assert_eq!(lanes.get(Lane::TcpMss), mss.unwrap_or_default());
            assert_eq!(lanes.get(Lane::Digest) == 0, tcp.options().is_empty());
        }
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!(layers.kind, Kind::Udp);
            assert_eq!(lanes.get(Lane::SrcPort), udp.source_port());
            assert_eq!(lanes.get(Lane::DstPort), udp.destination_port());
            // A length past the end counts what was there, and what is here may have been cut by the capture.
            if usize::from(udp.length()) <= payload.payload.len() {
                assert_eq!(lanes.get(Lane::PayloadLength), udp.length() - 8);
            }
            assert_eq!(layers.payload(head), udp.payload().get(..layers.payload(head).len()).unwrap_or(udp.payload()));
        }
        // Over the other version of IP, which etherparse accepts, it is a protocol like any other.
        Some(TransportSlice::Icmpv4(_)) if is_ipv6 => assert_eq!(layers.kind, Kind::OtherProtocol),
        Some(TransportSlice::Icmpv6(_)) if !is_ipv6 => assert_eq!(layers.kind, Kind::OtherProtocol),
        Some(TransportSlice::Icmpv4(icmp)) => {
            assert!(matches!(layers.kind, Kind::IcmpError | Kind::IcmpOther));
            assert_eq!(lanes.get(Lane::SrcPort), u16::from(icmp.type_u8()));
            assert_eq!(lanes.get(Lane::DstPort), u16::from(icmp.code_u8()));
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert!(matches!(layers.kind, Kind::IcmpError | Kind::Discovery | Kind::IcmpOther));
            assert_eq!(lanes.get(Lane::SrcPort), u16::from(icmp.type_u8()));
            assert_eq!(lanes.get(Lane::DstPort), u16::from(icmp.code_u8()));
        }
        // It reads no transport header of any fragment.
        _ => {
            assert!(fragmented || layers.kind == Kind::OtherProtocol, "{layers:?}");
            return false;
        }
    }
    true
}
