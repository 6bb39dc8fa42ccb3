//! Every vector that samples can show, from a packet of its kind.

use levee_api::lane::Lane;
use levee_api::time::Timestamp;

use super::*;
use crate::packet::Lanes;
use crate::sample::SAMPLE_PAYLOAD;

fn sample(values: &[(Lane, u16)], payload: &[u8]) -> Sample {
    let mut lanes = Lanes::default();
    let mut bytes = [0; SAMPLE_PAYLOAD];
    let present = payload.len().min(SAMPLE_PAYLOAD);
    bytes[..present].copy_from_slice(&payload[..present]);
    lanes.set(Lane::Payload0, u16::from_be_bytes([bytes[0], bytes[1]]));
    lanes.set(Lane::Payload2, u16::from_be_bytes([bytes[2], bytes[3]]));
    lanes.set(Lane::PayloadLength, u16::try_from(payload.len()).unwrap());
    for (lane, value) in values {
        lanes.set(*lane, *value);
    }
    Sample {
        lanes,
        payload: bytes,
        at: Timestamp(0),
        conversation: 0,
        slot: 0,
        role: Role::Syn,
        passed: true,
        present: u8::try_from(present).unwrap(),
    }
}

/// The only vector of a hundred such packets, which must be clear.
fn vector(role: Role, values: &[(Lane, u16)], payload: &[u8]) -> Vector {
    let findings = classify(role, &vec![sample(values, payload); 100]);
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert!(finding.confidence > 0.5 && finding.confidence <= 1.0 && !finding.evidence.is_empty(), "{finding:?}");
    assert!(about::about(finding.vector).roles.contains(role), "{role} is not documented for {}", finding.vector);
    finding.vector
}

#[test]
fn tcp_vectors_are_told_by_their_flags() {
    let tcp = |role, flags: TcpFlags| vector(role, &[(Lane::Protocol, 6), (Lane::TcpFlags, flags.bits())], b"");
    assert_eq!(tcp(Role::Syn, TcpFlags::SYN), Vector::SynFlood);
    assert_eq!(tcp(Role::UnsolicitedSynAck, TcpFlags::SYN | TcpFlags::ACK), Vector::SynAckReflection);
    assert_eq!(tcp(Role::OutOfState, TcpFlags::SYN | TcpFlags::ACK), Vector::SynAckReflection);
    assert_eq!(tcp(Role::OutOfState, TcpFlags::ACK), Vector::EstablishedFlood, "a hundred on one connection");
    assert_eq!(tcp(Role::OutOfState, TcpFlags::ACK | TcpFlags::PSH), Vector::PshAckFlood);
    assert_eq!(tcp(Role::OutOfState, TcpFlags::RST), Vector::RstFlood);
    assert_eq!(tcp(Role::OutOfState, TcpFlags::FIN | TcpFlags::ACK), Vector::FinFlood);
    assert_eq!(tcp(Role::Malformed, TcpFlags::empty()), Vector::NullFlood);
    assert_eq!(tcp(Role::Malformed, TcpFlags::FIN | TcpFlags::PSH | TcpFlags::URG), Vector::XmasFlood);
    assert_eq!(tcp(Role::Malformed, TcpFlags::SYN | TcpFlags::FIN), Vector::XmasFlood);
    assert_eq!(tcp(Role::Malformed, TcpFlags::ACK), Vector::MalformedFlood);
    assert_eq!(tcp(Role::Established, TcpFlags::ACK), Vector::EstablishedFlood);
}

#[test]
fn requests_are_told_by_their_first_bytes() {
    let request = |payload| vector(Role::Request, &[(Lane::Protocol, 6)], payload);
    assert_eq!(request(b"GET / HTTP/1.1\r\n"), Vector::HttpRequestFlood);
    assert_eq!(request(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]), Vector::TlsHandshakeFlood);
    assert_eq!(request(&[9; 20]), Vector::TcpConnectionFlood);
}

#[test]
fn block_pages_out_of_nowhere_are_laid_to_middleboxes_and_so_are_resets_beside_them() {
    let page =
        sample(&[(Lane::SrcPort, 80), (Lane::TcpFlags, (TcpFlags::ACK | TcpFlags::PSH).bits())], b"HTTP/1.1 403");
    let reset = sample(&[(Lane::SrcPort, 80), (Lane::TcpFlags, TcpFlags::RST.bits())], b"");
    let vectors = |samples: &[Sample]| -> Vec<Vector> {
        classify(Role::OutOfState, samples).into_iter().map(|finding| finding.vector).collect()
    };
    assert_eq!(vectors(&[vec![page; 50], vec![reset; 50]].concat()), [Vector::TcpMiddleboxReflection]);
    assert_eq!(vectors(&[reset; 50]), [Vector::RstFlood]);
}

#[test]
fn acknowledgements_that_are_many_on_few_connections_are_a_flood_inside_them() {
    let ack = |conversation| Sample { conversation, ..sample(&[(Lane::TcpFlags, TcpFlags::ACK.bits())], b"") };
    let vectors = |connections: u64| -> Vec<Vector> {
        let samples: Vec<Sample> = (0..60).map(|packet| ack(packet % connections)).collect();
        classify(Role::OutOfState, &samples).into_iter().map(|finding| finding.vector).collect()
    };
    assert_eq!(vectors(40), [Vector::EstablishedFlood]);
    assert_eq!(vectors(60), [Vector::AckFlood]);
}

#[test]
fn queries_for_names_that_nobody_else_asks_for_are_water_torture() {
    let query = |label: u8, digest: u16| {
        let payload =
            [&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, b'a', b'a', label][..], b"\x07example\x03net\0"].concat();
        sample(&[(Lane::Protocol, 17), (Lane::DstPort, 53), (Lane::Digest, digest)], &payload)
    };
    let vectors = |samples: &[Sample]| -> Vec<Vector> {
        classify(Role::UdpOpen, samples).into_iter().map(|finding| finding.vector).collect()
    };
    let random: Vec<Sample> = (0..100).map(|label| query(label, 7)).collect();
    let usual: Vec<Sample> = (0..100).map(|label| query(label % 4, 9)).collect();
    assert_eq!(vectors(&random), [Vector::DnsWaterTorture]);
    assert_eq!(vectors(&usual), [Vector::DnsQueryFlood]);
    let mixed: Vec<Sample> = [random, usual].concat();
    assert_eq!(vectors(&mixed), [Vector::DnsQueryFlood, Vector::DnsWaterTorture], "as likely, in order of the list");
}

#[test]
fn ip_vectors_are_told_by_their_protocol() {
    let other = |protocol| vector(Role::OtherProtocol, &[(Lane::Protocol, protocol)], b"");
    assert_eq!(other(47), Vector::GreFlood);
    assert_eq!(other(50), Vector::EspFlood);
    assert_eq!(other(4), Vector::IpipFlood);
    assert_eq!(other(2), Vector::IgmpFlood);
    assert_eq!(other(253), Vector::RandomProtocol);
    assert_eq!(vector(Role::IcmpOther, &[(Lane::Protocol, 1), (Lane::SrcPort, 8)], &[1; 56]), Vector::IcmpFlood);
    assert_eq!(vector(Role::IcmpOther, &[(Lane::Protocol, 58), (Lane::SrcPort, 128)], &[1; 56]), Vector::Icmpv6Flood);
    assert_eq!(vector(Role::IcmpOther, &[(Lane::Protocol, 1), (Lane::SrcPort, 0)], &[1; 56]), Vector::Smurf);
    assert_eq!(vector(Role::LaterFragment, &[(Lane::Protocol, 17)], &[1; 56]), Vector::UdpFragment);
    assert_eq!(vector(Role::LaterFragment, &[(Lane::Protocol, 6)], &[1; 56]), Vector::TcpFragment);
    assert_eq!(vector(Role::Malformed, &[(Lane::Protocol, 17)], b""), Vector::MalformedFlood);
}

#[test]
fn random_protocols_are_one_vector_whatever_numbers_they_draw() {
    let samples: Vec<Sample> = (0..256).map(|protocol| sample(&[(Lane::Protocol, protocol)], b"")).collect();
    let findings = classify(Role::OtherProtocol, &samples);
    assert_eq!(findings.iter().map(|finding| finding.vector).collect::<Vec<_>>(), [Vector::RandomProtocol]);
}

#[test]
fn udp_floods_are_told_by_whether_payloads_repeat() {
    let payload = |n: u8| if n.is_multiple_of(2) { vec![0x7a; 64] } else { vec![n; 40] };
    let mixed: Vec<Sample> = (0..100).map(|n| sample(&[(Lane::Protocol, 17)], &payload(n))).collect();
    let findings = classify(Role::UdpUnserved, &mixed);
    let vectors: Vec<Vector> = findings.iter().map(|finding| finding.vector).collect();
    assert_eq!(vectors, [Vector::UdpRandom, Vector::UdpConstant]);
    assert!(findings.iter().all(|finding| (0.4..0.5).contains(&finding.confidence)), "half of the samples each");
}

#[test]
fn queries_and_handshakes_are_told_by_their_payload() {
    let udp = |port, payload: &[u8]| vector(Role::UdpOpen, &[(Lane::Protocol, 17), (Lane::DstPort, port)], payload);
    let query = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, b'w', b'w', b'w', 0, 0, 1, 0, 1];
    assert_eq!(udp(53, &query), Vector::DnsQueryFlood);
    let mut initial = [0; 1200];
    initial[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
    assert_eq!(udp(443, &initial), Vector::QuicInitialFlood);
    assert_eq!(udp(443, &initial[..100]), Vector::UdpConstant, "an Initial is never that short");
    assert_eq!(udp(40_000, &[0, 3, 0, 1, 7, 7, 7, 7]), Vector::TftpAmplification, "whatever the source port");
    assert_eq!(udp(40_000, b"HTTP/1.1 200 OK\r\n"), Vector::SsdpAmplification, "whatever the source port");
}

#[test]
fn every_class_of_amplification_is_named() {
    let mut named: Vec<Vector> = Vec::new();
    for class in amplification::CLASSES {
        for port in class.ports {
            let head = (0..=u16::MAX)
                .flat_map(|first| {
                    [0, 0x8180, 0x4954, 0x5450, 0x502f, 0x4749, 0x7564, 0xffff].map(|second| (first, second))
                })
                .find(|(first, second)| (class.answers)(u32::from(*first) << 16 | u32::from(*second)))
                .unwrap_or_else(|| panic!("{} has no answer", class.name));
            let bytes = [u16::to_be_bytes(head.0), u16::to_be_bytes(head.1)].concat();
            let lanes = [(Lane::Protocol, 17), (Lane::SrcPort, *port), (Lane::DstPort, 4444)];
            let found = vector(Role::UnsolicitedResponse, &lanes, &bytes);
            assert_eq!(found, class.vector, "{} from {port}", class.name);
            named.push(found);
        }
    }
    let missing: Vec<&Vector> = Vector::ALL
        .iter()
        .filter(|vector| vector.name().ends_with("-amplification") && !named.contains(vector))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_mixed_attack_is_several_vectors_and_what_is_rare_is_none() {
    let answer = sample(&[(Lane::SrcPort, 53)], &[0x12, 0x34, 0x81, 0x80, 0, 1]);
    let clock = sample(&[(Lane::SrcPort, 123)], &[0xd7, 0, 3, 0x2a]);
    let rare = sample(&[(Lane::SrcPort, 1900)], b"HTTP/1.1 200 OK");
    let samples = [vec![answer; 600], vec![clock; 380], vec![rare; 20]].concat();
    let findings = classify(Role::UnsolicitedResponse, &samples);
    let vectors: Vec<Vector> = findings.iter().map(|finding| finding.vector).collect();
    assert_eq!(vectors, [Vector::DnsAmplification, Vector::NtpAmplification]);
    assert!(findings[0].confidence > findings[1].confidence);
}

#[test]
fn a_tools_defaults_are_evidence() {
    let hping = sample(&[(Lane::TcpFlags, TcpFlags::SYN.bits()), (Lane::TcpWindow, 512), (Lane::Protocol, 6)], b"");
    let findings = classify(Role::Syn, &[hping; 50]);
    let evidence = findings[0].evidence.join("; ");
    assert!(evidence.contains("hping3") && evidence.contains("TCP window 512 in 100 %"), "{evidence}");
    let mirai = [(Lane::TcpFlags, 2), (Lane::IpLength, 60), (Lane::TcpMss, 1407), (Lane::Digest, 9)];
    let findings = classify(Role::Syn, &[sample(&mirai, b""); 50]);
    assert!(findings[0].evidence.join("; ").contains("Mirai"), "{findings:?}");
}

#[test]
fn no_samples_are_no_vectors() {
    assert_eq!(classify(Role::Syn, &[]), []);
}
