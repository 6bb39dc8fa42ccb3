use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TcpHeader, TransportHeader};
use proptest::prelude::*;

use super::*;
use crate::packet::{Kind, Lanes, Packet, parse};

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [203, 0, 113, 10];

/// A segment with an option field of whole rows.
fn segment(is_v4: bool, tags: usize, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let (v6_client, v6_server) = (0x2001_0db8_u128 << 96 | 1, 0x2001_0db8_000a_u128 << 80 | 7);
    let builder = if is_v4 {
        builder.ipv4(CLIENT, SERVER, 57)
    } else {
        builder.ipv6(v6_client.to_be_bytes(), v6_server.to_be_bytes(), 57)
    };
    let mut header = TcpHeader::new(40_000, 443, 1_000, 500);
    header.acknowledgment_number = 2_000;
    header.fin = flags & 1 != 0;
    header.syn = flags & 2 != 0;
    header.rst = flags & 4 != 0;
    header.psh = flags & 8 != 0;
    header.ack = flags & 16 != 0;
    header.set_options_raw(options).unwrap();
    let mut frame = Vec::new();
    builder.tcp_header(header).write(&mut frame, payload).unwrap();
    for _ in 0..tags {
        frame.splice(12..12, [0x81, 0x00, 0x20, 0x64]);
    }
    frame
}

fn layers_of(frame: &[u8]) -> Layers {
    let packet = Packet { head: frame, wire_len: u32::try_from(frame.len()).unwrap() };
    parse(&packet, &mut Lanes::default())
}

/// What a frame becomes.
fn written(edit: Edit, frame: &[u8]) -> Option<Vec<u8>> {
    let mut room = frame.to_vec();
    room.resize(frame.len() + GROWTH, 0);
    let length = edit.write(&mut room, frame.len(), &layers_of(frame))?;
    room.truncate(length);
    Some(room)
}

/// The TCP header and payload of a frame whose checksums are right.
fn read(frame: &[u8]) -> (TcpHeader, Vec<u8>) {
    let read = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(TransportHeader::Tcp(tcp)) = read.transport else { panic!("no TCP") };
    let payload = read.payload.slice();
    let check = match read.net.unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!((ip.source, ip.destination, ip.time_to_live), (CLIENT, SERVER, 57));
            tcp.calc_checksum_ipv4(&ip, payload).unwrap()
        }
        NetHeaders::Ipv6(ip, _) => {
            assert_eq!((ip.source[15], ip.destination[15], ip.hop_limit), (1, 7, 57));
            tcp.calc_checksum_ipv6(&ip, payload).unwrap()
        }
        NetHeaders::Arp(_) => panic!("no IP"),
    };
    assert_eq!(tcp.checksum, check);
    (tcp, payload.to_vec())
}

const ACK: u8 = 16;

/// Option fields with timestamps and blocks, at even and at odd offsets.
fn field(shift: usize, stamps: bool, blocks: usize) -> Vec<u8> {
    let mut field = vec![kind::NOTHING; shift];
    if stamps {
        field.extend([kind::STAMPS, 10, 0, 0, 0, 9, 0, 0, 0, 8]);
    }
    if blocks > 0 {
        field.extend([kind::SACK, u8::try_from(2 + 8 * blocks).unwrap()]);
        for edge in 0..2 * blocks {
            field.extend(u32::try_from(3_000 + edge).unwrap().to_be_bytes());
        }
    }
    field.resize(field.len().next_multiple_of(4), kind::NOTHING);
    field
}

proptest! {
    #[test]
    fn numbers_are_translated_and_nothing_else(
        is_v4: bool, tags in 0..=2_usize, shift in 0..4_usize, stamps: bool, blocks in 0..=2_usize, sequence: u32,
        acknowledgement: u32, value: u32, echo: u32, window in -3..=3_i8, payload in 0..40_usize,
    ) {
        let frame = segment(is_v4, tags, ACK | 8, &field(shift, stamps, blocks), &vec![0xab; payload]);
        let edit = Edit::Numbers(Numbers { sequence, acknowledgement, value, echo, window });
        let out = written(edit, &frame).unwrap();
        prop_assert_eq!(out.len(), frame.len());
        let (tcp, data) = read(&out);
        prop_assert_eq!(tcp.sequence_number, 1_000_u32.wrapping_add(sequence));
        prop_assert_eq!(tcp.acknowledgment_number, 2_000_u32.wrapping_add(acknowledgement));
        prop_assert_eq!(tcp.window_size, moved(500, window));
        prop_assert_eq!(data, vec![0xab; payload]);
        for (_, kind, found) in options::each(tcp.options.as_slice()) {
            let rows: Vec<u32> = found.as_chunks().0.iter().map(|row| u32::from_be_bytes(*row)).collect();
            match kind {
                kind::STAMPS => prop_assert_eq!(rows, [9_u32.wrapping_add(value), 8_u32.wrapping_add(echo)]),
                kind::SACK => for (at, edge) in rows.into_iter().enumerate() {
                    let before = u32::try_from(3_000 + at).unwrap();
                    prop_assert_eq!(edge, before.wrapping_add(acknowledgement));
                },
                kind => prop_assert!(false, "{}", kind),
            }
        }
        // And back again.
        let back = Numbers {
            sequence: sequence.wrapping_neg(), acknowledgement: acknowledgement.wrapping_neg(),
            value: value.wrapping_neg(), echo: echo.wrapping_neg(), window: 0,
        };
        let same = Edit::Numbers(Numbers { window: 0, sequence, acknowledgement, value, echo });
        prop_assert_eq!(written(Edit::Numbers(back), &written(same, &frame).unwrap()).unwrap(), frame);
    }

    #[test]
    fn any_frame_can_be_edited_or_not(bytes in prop::collection::vec(any::<u8>(), 0..120), sequence: u32) {
        let numbers = Numbers { sequence, acknowledgement: sequence, value: 3, echo: 4, window: 1 };
        let edits = [
            Edit::None,
            Edit::Numbers(numbers),
            Edit::Refuse { sequence },
            Edit::Quote { sequence },
            Edit::Probe { sequence, stamps: Some(7), scale: 7 },
            Edit::Open { sequence, options: Options::default(), window: 9 },
        ];
        for edit in edits {
            if let Some(out) = written(edit, &bytes) {
                prop_assert!(out.len() <= bytes.len() + GROWTH);
            }
        }
    }

    #[test]
    fn an_acknowledgement_becomes_the_syn(
        is_v4: bool, tags in 0..=2_usize, sequence: u32, mss: u16, scale in prop::option::of(0..=8_u8), sack: bool, stamps: bool,
        payload in 0..40_usize, window: u16,
    ) {
        let stamps = stamps.then_some(Stamps { value: 77, echo: 0 });
        let options = Options { mss: Some(mss), scale, sack, stamps };
        let frame = segment(is_v4, tags, ACK, &field(2, true, 0), &vec![0xab; payload]);
        let out = written(Edit::Open { sequence, options, window }, &frame).unwrap();
        prop_assert_eq!(&out[..14 + 4 * tags], &frame[..14 + 4 * tags]);
        let (tcp, data) = read(&out);
        prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number, tcp.window_size), (sequence, 0, window));
        prop_assert!(tcp.syn && !tcp.ack && !tcp.psh);
        prop_assert_eq!(Options::read(tcp.options.as_slice()), options);
        prop_assert!(data.is_empty());
    }

    #[test]
    fn the_servers_syn_ack_becomes_a_probe(is_v4: bool, tags in 0..=2_usize, stamps: bool, options: bool, sequence: u32) {
        let full = Options {
            mss: Some(1460), scale: Some(7), sack: true, stamps: stamps.then_some(Stamps { value: 90, echo: 50 }),
        };
        let (rows, used) = if options { full.rows() } else { ([0; options::ROWS], 0) };
        let field: Vec<u8> = rows.iter().take(used).flat_map(|row| row.to_be_bytes()).collect();
        let frame = segment(is_v4, tags, ACK | 2, &field, b"");
        let out = written(Edit::Probe { sequence, stamps: Some(30), scale: 3 }, &frame).unwrap();
        let (tcp, data) = read(&out);
        prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (sequence, 2_000));
        prop_assert_eq!(tcp.window_size, 500 >> 3);
        prop_assert!(tcp.ack && !tcp.syn);
        let said = Options::read(tcp.options.as_slice()).stamps;
        prop_assert_eq!(said, (stamps && options).then_some(Stamps { value: 60, echo: 50 }));
        prop_assert_eq!(data, [0]);
    }
}

#[test]
fn a_refusal_has_the_number_that_the_client_waits_for() {
    let frame = segment(true, 0, ACK | 4, &[], b"");
    let (tcp, _) = read(&written(Edit::Refuse { sequence: 5 }, &frame).unwrap());
    assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (5, 2_000));
    assert!(tcp.rst && tcp.ack);
}

#[test]
fn acknowledgement_numbers_of_what_acknowledges_nothing_stay() {
    let frame = segment(true, 0, 4, &[], b"");
    let (tcp, _) = read(&written(Edit::Numbers(Numbers { acknowledgement: 9, ..Numbers::default() }), &frame).unwrap());
    assert_eq!(tcp.acknowledgment_number, 2_000);
}

#[test]
fn the_number_in_the_quote_of_an_error_is_translated() {
    for is_v4 in [true, false] {
        let mut quoted = segment(is_v4, 0, ACK, &[], &[0xab; 60]);
        // The server has sent it.
        let (from, to, length) = if is_v4 { (26, 30, 4) } else { (22, 38, 16) };
        for at in 0..length {
            quoted.swap(from + at, to + at);
        }
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame = Vec::new();
        let router = 0x2001_0db8_u128 << 96 | 99;
        let server = 0x2001_0db8_000a_u128 << 80 | 7;
        if is_v4 {
            let builder = builder.ipv4([198, 51, 100, 1], SERVER, 57).icmpv4_raw(3, 4, [0, 0, 5, 0]);
            builder.write(&mut frame, &quoted[14..]).unwrap();
        } else {
            let builder = builder.ipv6(router.to_be_bytes(), server.to_be_bytes(), 57).icmpv6_raw(2, 0, [0, 0, 5, 0]);
            builder.write(&mut frame, &quoted[14..]).unwrap();
        }
        assert_eq!(layers_of(&frame).kind, Kind::IcmpError);
        let out = written(Edit::Quote { sequence: 0xffff_ff00 }, &frame).unwrap();
        let read = PacketHeaders::from_ethernet_slice(&out).unwrap();
        let content = read.payload.slice();
        let ports = if is_v4 { 20 } else { 40 };
        assert_eq!(content[ports + 4..ports + 8], 0x0000_02e8_u32.to_be_bytes(), "1000 - 256");
        let checked = match (read.transport.unwrap(), read.net.unwrap()) {
            (TransportHeader::Icmpv4(icmp), _) => (icmp.checksum, icmp.icmp_type.calc_checksum(content)),
            (TransportHeader::Icmpv6(icmp), NetHeaders::Ipv6(ip, _)) => {
                (icmp.checksum, icmp.icmp_type.calc_checksum(ip.source, ip.destination, content).unwrap())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(checked.0, checked.1);
    }
}

#[test]
fn windows_do_not_close_or_overflow_when_they_are_moved() {
    assert_eq!((moved(0, 3), moved(0, -3), moved(1, -3), moved(u16::MAX, 1)), (0, 0, 1, u16::MAX));
    assert_eq!((moved(100, 2), moved(100, -2), moved(100, 0)), (400, 25, 100));
}
