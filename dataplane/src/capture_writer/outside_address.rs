//! Cutting addresses of the outside to networks, for those who may keep captures but not who was there.

use levee_engine::packet::{Direction, Kind, Layers};

/// Bytes of an address that go: those after the /24 of IPv4, and after the /48 of IPv6.
const HOST4: usize = 1;
const HOST6: usize = 10;

/// Zeroes the host part of the outside address in the IP header of a packet, and returns how much of the packet may be kept:
/// what quotes or carries other packets is cut before them, for they hold the address again. Checksums become wrong.
pub(super) fn truncate(bytes: &mut [u8], layers: &Layers, direction: Direction) -> usize {
    let l3 = usize::from(layers.l3);
    let inbound = direction == Direction::Inbound;
    // Offsets of source and destination: RFC 791 section 3.1, RFC 8200 section 3.
    let host = match bytes.get(l3).map(|first| first >> 4) {
        Some(6) => l3 + if inbound { 8 } else { 24 } + 16 - HOST6..l3 + if inbound { 24 } else { 40 },
        _ => l3 + if inbound { 12 } else { 16 } + 4 - HOST4..l3 + if inbound { 16 } else { 20 },
    };
    // What was cut inside the address is cut before it.
    let whole = bytes.len();
    match bytes.get_mut(host.clone()) {
        Some(host) => host.fill(0),
        None => return host.start.min(whole),
    }
    let end = match layers.kind {
        Kind::Tcp | Kind::Udp | Kind::IcmpOther | Kind::Discovery | Kind::LaterFragment => whole,
        Kind::IcmpError => usize::from(layers.payload),
        _ => usize::from(layers.l4).max(host.end),
    };
    end.min(whole)
}

#[cfg(test)]
mod tests {
    use levee_engine::packet::{Lanes, Packet, parse};

    use super::*;

    const ETHERNET4: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    const ETHERNET6: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];

    fn ipv4(protocol: u8, source: [u8; 4], destination: [u8; 4], rest: &[u8]) -> Vec<u8> {
        let length = u8::try_from(20 + rest.len()).unwrap();
        let mut frame = [0x45, 0, 0, length, 0, 0, 0, 0, 64, protocol, 0, 0].to_vec();
        frame.extend([source, destination].concat());
        frame.extend(rest);
        frame
    }

    fn cut(mut frame: Vec<u8>, direction: Direction) -> Vec<u8> {
        let mut lanes = Lanes::default();
        let layers = parse(&Packet { head: &frame, wire_len: u32::try_from(frame.len()).unwrap() }, &mut lanes);
        let keep = truncate(&mut frame, &layers, direction);
        frame.truncate(keep);
        frame
    }

    fn framed(header: [u8; 14], packet: Vec<u8>) -> Vec<u8> {
        [header.to_vec(), packet].concat()
    }

    const OUTSIDE: [u8; 4] = [198, 51, 100, 77];
    const INSIDE: [u8; 4] = [203, 0, 113, 10];
    const UDP: [u8; 12] = [0, 53, 0, 99, 0, 12, 0, 0, 1, 2, 3, 4];

    #[test]
    fn only_the_host_of_the_outside_address_goes() {
        let inbound = cut(framed(ETHERNET4, ipv4(17, OUTSIDE, INSIDE, &UDP)), Direction::Inbound);
        assert_eq!(inbound, framed(ETHERNET4, ipv4(17, [198, 51, 100, 0], INSIDE, &UDP)));
        let outbound = cut(framed(ETHERNET4, ipv4(17, INSIDE, OUTSIDE, &UDP)), Direction::Outbound);
        assert_eq!(outbound, framed(ETHERNET4, ipv4(17, INSIDE, [198, 51, 100, 0], &UDP)));
    }

    #[test]
    fn of_ipv6_the_first_48_bits_stay() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
        packet.extend([[0x11_u8; 16], [0x22; 16]].as_flattened());
        packet.extend(UDP);
        let kept = cut(framed(ETHERNET6, packet), Direction::Inbound);
        assert_eq!(kept[22..28], [0x11; 6]);
        assert_eq!(kept[28..38], [0; 10]);
        assert_eq!(kept[38..54], [0x22; 16]);
        assert_eq!(kept[54..], UDP);
    }

    #[test]
    fn what_an_error_message_or_a_tunnel_quotes_is_cut_off() {
        let quoted = ipv4(17, INSIDE, OUTSIDE, &UDP);
        let message = [vec![3, 1, 0, 0, 0, 0, 0, 0], quoted.clone()].concat();
        let kept = cut(framed(ETHERNET4, ipv4(1, [192, 0, 2, 1], INSIDE, &message)), Direction::Inbound);
        assert_eq!(kept.len(), 14 + 20 + 8);
        let kept = cut(framed(ETHERNET4, ipv4(4, OUTSIDE, INSIDE, &quoted)), Direction::Inbound);
        assert_eq!(kept.len(), 14 + 20);
        assert_eq!(kept[26..30], [198, 51, 100, 0]);
    }

    #[test]
    fn a_packet_that_ends_inside_the_address_ends_before_it() {
        let frame = framed(ETHERNET4, ipv4(17, OUTSIDE, INSIDE, &UDP));
        for length in 0..frame.len() {
            let kept = cut(frame[..length].to_vec(), Direction::Inbound);
            assert!(!kept.windows(4).any(|window| window == OUTSIDE), "{length}");
        }
    }
}
