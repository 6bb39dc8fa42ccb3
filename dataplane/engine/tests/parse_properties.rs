//! What holds for the parser whatever it is given, and that etherparse reads well-formed packets as we do.
#![expect(clippy::unwrap_used, reason = "a test")]

mod oracle;

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpAuthHeader, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, PacketBuilder, TcpHeader,
};
use levee_api::lane::{Bits, Lane};
use levee_engine::packet::{HEAD_BYTES, Kind, Lanes, Layers, Packet, dns, icmp, parse, udp};
use proptest::collection::vec;
use proptest::prelude::*;

/// Parses a frame, of which a capture holds the first `snap` bytes, and checks what always holds.
fn read(frame: &[u8], snap: usize) -> (Layers, Lanes) {
    let head = &frame[..snap];
    let packet = Packet { head, wire_len: u32::try_from(frame.len()).unwrap() };
    let mut lanes = Lanes::default();
    let layers = parse(&packet, &mut lanes);

    let mut dirty = Lanes([0xffff; 32]);
    assert_eq!((parse(&packet, &mut dirty), dirty), (layers, lanes), "lanes are overwritten completely");
    oracle::reads_alike_at_every_level(&packet, &layers, &lanes);
    let Layers { kind, l3, l4, payload, end, fragment, piece } = layers;
    assert!(l3 <= l4 && l4 <= payload && payload <= end && usize::from(end) <= snap, "{layers:?}");
    if matches!(kind, Kind::Other | Kind::Heartbeat | Kind::TooDeep | Kind::Malformed { addressed: false, .. }) {
        assert_eq!(lanes, Lanes::default(), "{kind:?}");
        assert_eq!((l4, payload, end), (l3, l3, l3));
    }
    assert_eq!(layers.payload(head).len(), usize::from(end - payload));
    // The same, however much of the frame is contiguous.
    let shortest = Packet { head: &head[..snap.min(HEAD_BYTES)], ..packet };
    let mut lanes_of_shortest = Lanes::default();
    assert_eq!((parse(&shortest, &mut lanes_of_shortest), lanes_of_shortest), (layers, lanes));

    let is_fragment = lanes.bits().intersects(Bits::FIRST_FRAGMENT | Bits::LATER_FRAGMENT);
    assert!(is_fragment || fragment == 0);
    assert_eq!(is_fragment, piece.end > 0);
    assert_eq!(lanes.bits().contains(Bits::FIRST_FRAGMENT), is_fragment && piece.start == 0);

    let quoted = icmp::quoted(&layers, head);
    assert_eq!(quoted.is_some(), kind == Kind::IcmpError);
    assert!(quoted.is_none_or(|quoted| quoted.src == lanes.destination()));
    assert!(!udp::is_error_answer(&layers, head, &lanes) || kind == Kind::Udp);
    dns::query_suffix(layers.payload(head));
    (layers, lanes)
}

/// What a generated packet carries.
#[derive(Clone, Debug)]
enum Transport {
    Tcp(Box<TcpHeader>),
    Udp(u16, u16),
    Echo(u16, u16),
    Other(u8),
}

#[derive(Clone, Debug)]
struct Generated {
    frame: Vec<u8>,
    transport: Transport,
    payload: Vec<u8>,
}

fn transports() -> impl Strategy<Value = Transport> {
    // Every flag that goes with ACK alone, and what options look like.
    let options = prop_oneof![
        Just(vec![]),
        Just(vec![2, 4, 5, 0xb4]),
        Just(vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]),
        vec(any::<u8>(), 0..40),
    ];
    let tcp = (any::<(u16, u16, u32, u32, u16, u16)>(), any::<[bool; 6]>(), options).prop_map(
        |((source, destination, sequence, acknowledgment, window, urgent), flags, options)| {
            let mut header = TcpHeader::new(source, destination, sequence, window);
            [header.ns, header.psh, header.urg, header.ece, header.cwr, header.fin] = flags;
            header.ack = true;
            header.acknowledgment_number = acknowledgment;
            header.urgent_pointer = urgent;
            header.set_options_raw(&options).unwrap();
            Transport::Tcp(Box::new(header))
        },
    );
    // GRE, ESP, OSPF: nothing that we or etherparse look into.
    let other = prop_oneof![Just(47), Just(50), Just(89)].prop_map(Transport::Other);
    prop_oneof![
        4 => tcp,
        4 => any::<(u16, u16)>().prop_map(|(source, destination)| Transport::Udp(source, destination)),
        1 => any::<(u16, u16)>().prop_map(|(id, sequence)| Transport::Echo(id, sequence)),
        1 => other,
    ]
}

fn networks() -> impl Strategy<Value = IpHeaders> {
    let v4 = (any::<([u8; 4], [u8; 4], u8, u16, bool)>(), 0..=10_usize).prop_map(
        |((source, destination, ttl, identification, dont_fragment), options)| {
            let mut header = Ipv4Header::new(0, ttl, IpNumber(0), source, destination).unwrap();
            header.identification = identification;
            header.dont_fragment = dont_fragment;
            header.options = vec![1; options * 4].as_slice().try_into().unwrap();
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        },
    );
    let raw = |payload: &[u8]| Ipv6RawExtHeader::new_raw(IpNumber(0), payload).unwrap();
    let v6 = (any::<([u8; 16], [u8; 16], u8, u8)>(), any::<[bool; 4]>()).prop_map(
        move |((source, destination, hop_limit, traffic_class), present)| {
            let header = Ipv6Header { source, destination, hop_limit, traffic_class, ..Ipv6Header::default() };
            let atomic = Ipv6FragmentHeader::new(IpNumber(0), 0.try_into().unwrap(), false, 9);
            let extensions = Ipv6Extensions {
                hop_by_hop_options: present[0].then(|| raw(&[5, 2, 0, 0, 1, 0])),
                destination_options: present[1].then(|| raw(&[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
                routing: None,
                fragment: present[2].then_some(atomic),
                auth: present[3].then(|| IpAuthHeader::new(IpNumber(0), 1, 1, &[0; 12]).unwrap()),
            };
            IpHeaders::Ipv6(header, extensions)
        },
    );
    prop_oneof![v4, v6]
}

/// Well-formed packets with up to two tags.
fn packets() -> impl Strategy<Value = Generated> {
    (0..=2_usize, networks(), transports(), vec(any::<u8>(), 0..600)).prop_map(|(tags, network, transport, payload)| {
        let is_ipv6 = matches!(network, IpHeaders::Ipv6(..));
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(network);
        let mut frame = Vec::new();
        match &transport {
            Transport::Tcp(header) => step.tcp_header((**header).clone()).write(&mut frame, &payload).unwrap(),
            Transport::Udp(source, destination) => {
                step.udp(*source, *destination).write(&mut frame, &payload).unwrap();
            }
            Transport::Echo(id, sequence) if is_ipv6 => {
                step.icmpv6_echo_request(*id, *sequence).write(&mut frame, &payload).unwrap();
            }
            Transport::Echo(id, sequence) => {
                step.icmpv4_echo_request(*id, *sequence).write(&mut frame, &payload).unwrap();
            }
            Transport::Other(protocol) => step.write(&mut frame, IpNumber(*protocol), &payload).unwrap(),
        }
        frame.splice(12..12, [[0x81, 0, 0, 7], [0x88, 0xa8, 0, 9]].concat()[..tags * 4].to_vec());
        Generated { frame, transport, payload }
    })
}

/// The part of the payload that a head can hold.
fn visible(payload: &[u8], layers: &Layers) -> usize {
    payload.len().min(HEAD_BYTES - usize::from(layers.payload))
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read(frame in vec(any::<u8>(), 0..700), snap in any::<prop::sample::Index>()) {
        read(&frame, snap.index(frame.len() + 1));
    }

    #[test]
    fn arbitrary_bytes_in_a_frame_are_read(
        kind in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8847, 0x8100]),
        version in prop::sample::select(vec![0x45_u8, 0x46, 0x60]),
        mut frame in vec(any::<u8>(), 15..700),
    ) {
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        frame[14] = version;
        read(&frame, frame.len());
    }

    #[test]
    fn well_formed_packets_read_as_they_were_written(generated in packets()) {
        let Generated { frame, transport, payload } = generated;
        let (layers, lanes) = read(&frame, frame.len());
        let seen = visible(&payload, &layers);
        let length = lanes.get(Lane::PayloadLength);
        let expected = match transport {
            Transport::Tcp(header) => {
                prop_assert_eq!(lanes.get(Lane::SrcPort), header.source_port);
                prop_assert_eq!(lanes.get(Lane::TcpWindow), header.window_size);
                Kind::Tcp
            }
            Transport::Udp(source, destination) => {
                prop_assert_eq!((lanes.get(Lane::SrcPort), lanes.get(Lane::DstPort)), (source, destination));
                Kind::Udp
            }
            Transport::Echo(..) => Kind::IcmpOther,
            Transport::Other(protocol) => {
                prop_assert_eq!(lanes.get(Lane::Protocol), u16::from(protocol));
                Kind::OtherProtocol
            }
        };
        prop_assert_eq!(layers.kind, expected);
        prop_assert_eq!(usize::from(length), payload.len());
        prop_assert_eq!(layers.payload(&frame), &payload[..seen]);
        let first = [lanes.get(Lane::Payload0).to_be_bytes(), lanes.get(Lane::Payload2).to_be_bytes()].concat();
        let expected: Vec<u8> = payload.iter().copied().chain([0; 4]).take(4).collect();
        prop_assert_eq!(first, expected);
        oracle::compare(&frame, &layers, &lanes);
    }

    #[test]
    fn tags_and_padding_change_no_lane(generated in packets(), padding in 0..64_usize) {
        let Generated { frame, .. } = generated;
        let (layers, lanes) = read(&frame, frame.len());
        let padded = [&frame[..], &vec![0xa5; padding]].concat();
        prop_assert_eq!(read(&padded, padded.len()), (layers, lanes));
        let untagged = [&frame[..12], &frame[usize::from(layers.l3) - 2..]].concat();
        let (without, lanes_without) = read(&untagged, untagged.len());
        prop_assert_eq!((without.kind, lanes_without), (layers.kind, lanes));
        let labelled =
            [&untagged[..12], &[0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64], &untagged[14..]].concat();
        let (below, lanes_below) = read(&labelled, labelled.len());
        prop_assert_eq!((below.kind, lanes_below), (layers.kind, lanes));
    }

    #[test]
    fn a_snapped_capture_reads_the_same_or_is_truncated(generated in packets()) {
        let Generated { frame, .. } = generated;
        let (whole, lanes) = read(&frame, frame.len());
        for snap in 0..frame.len() {
            let (layers, snapped) = read(&frame, snap);
            if snap >= usize::from(whole.payload) {
                prop_assert_eq!(layers.kind, whole.kind);
                let mut expected = lanes;
                if snap < usize::from(whole.payload) + 4 {
                    expected.set(Lane::Payload0, snapped.get(Lane::Payload0));
                    expected.set(Lane::Payload2, snapped.get(Lane::Payload2));
                }
                prop_assert_eq!(snapped, expected);
            } else if !matches!(whole.kind, Kind::OtherProtocol) {
                let truncated = matches!(
                    layers.kind,
                    Kind::Malformed { reason: levee_engine::verdict::Reason::Truncated, .. }
                );
                prop_assert!(truncated, "{} of {}: {:?}", snap, frame.len(), layers);
            }
        }
    }

    #[test]
    fn a_frame_that_ends_early_is_malformed(generated in packets()) {
        let Generated { frame, .. } = generated;
        for length in 0..frame.len() {
            let (layers, _) = read(&frame[..length], length);
            prop_assert!(matches!(layers.kind, Kind::Malformed { .. }), "{} of {}: {:?}", length, frame.len(), layers);
        }
    }

    #[test]
    fn errors_are_read_whatever_they_quote(
        is_ipv6: bool,
        next in prop::sample::select(vec![0_u8, 6, 17, 43, 44, 51, 60]),
        quote in vec(any::<u8>(), 0..200),
        snap in any::<prop::sample::Index>(),
    ) {
        let (mut quote, mut frame) = (quote, Vec::new());
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        if is_ipv6 {
            let header = [&[0x60, 0, 0, 0, 1, 0, next, 64], &[0x21; 16][..], &[0x22; 16]].concat();
            quote.splice(0..0, header);
            let message = Icmpv6Type::TimeExceeded(etherparse::icmpv6::TimeExceededCode::HopLimitExceeded);
            builder.ipv6([0x20; 16], [0x21; 16], 64).icmpv6(message).write(&mut frame, &quote).unwrap();
        } else {
            // Options and fragment fields as they come.
            quote.resize(quote.len().max(8), 0);
            let header = [&[0x45 | quote[0] & 0x0f, 0, 1, 0], &quote[1..5], &[64, next, 0, 0], &[0x21; 4], &[0x22; 4]].concat();
            quote.splice(0..0, header);
            let message = Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit);
            builder.ipv4([0x20; 4], [0x21; 4], 64).icmpv4(message).write(&mut frame, &quote).unwrap();
        }
        let (layers, _) = read(&frame, frame.len());
        prop_assert_eq!(layers.kind, Kind::IcmpError);
        read(&frame, snap.index(frame.len() + 1));
    }

    #[test]
    fn flipped_bits_are_read(generated in packets(), flips in vec(any::<prop::sample::Index>(), 1..6)) {
        let Generated { mut frame, .. } = generated;
        for flip in flips {
            let bit = flip.index(frame.len().min(120) * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        let (layers, lanes) = read(&frame, frame.len());
        oracle::compare(&frame, &layers, &lanes);
    }
}

/// An error of either version that quotes the beginning of a packet from its destination.
#[test]
fn errors_that_etherparse_writes_quote_what_they_should() {
    let inner = |frame: Vec<u8>| frame[14..].to_vec();
    let mut quote = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([198, 51, 100, 7], [192, 0, 2, 1], 64)
        .udp(53, 4000)
        .write(&mut quote, b"answer")
        .unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([203, 0, 113, 9], [198, 51, 100, 7], 64)
        .icmpv4(Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit))
        .write(&mut frame, &inner(quote))
        .unwrap();
    let (layers, lanes) = read(&frame, frame.len());
    let quoted = icmp::quoted(&layers, &frame).unwrap();
    assert_eq!((layers.kind, quoted.src, quoted.sport, quoted.dport), (Kind::IcmpError, lanes.destination(), 53, 4000));

    let (router, source, destination) = ([0x20; 16], [0x21; 16], [0x22; 16]);
    let mut quote = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(source, destination, 64)
        .tcp(443, 5000, 1, 2)
        .ack(3)
        .write(&mut quote, &[7; 1400])
        .unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(router, source, 64)
        .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 })
        .write(&mut frame, &inner(quote)[..1232])
        .unwrap();
    let (layers, _) = read(&frame, frame.len());
    let quoted = icmp::quoted(&layers, &frame).unwrap();
    assert_eq!((quoted.protocol, quoted.sport, quoted.dport), (6, 443, 5000));
}
