//! Services that answer strangers with more than they were asked: the closed table of source ports that reflection
//! comes from, with what an answer begins with and what legitimate traffic could be taken for one.
//!
//! Ports from 1024 on are also drawn by NATs and clients for any conversation (RFC 6056), so that of 64 000 legitimate
//! conversations one has source port 1900. Most classes therefore ask for first bytes that such a client does not
//! send; where they cannot ([`Class::lookalike`] says so), a threshold and a second condition have to tell.
//!
//! Not here, because answers come from any port or real peers look the same: BitTorrent, TFTP transfers (by payload in
//! [`super`]), BFD, QUIC and DTLS from port 443, IKE behind NAT from port 4500.

use levee_api::lane::Lane;
use levee_api::vector::Vector;

use crate::packet::Lanes;

/// A service that can be abused for reflection.
#[derive(Debug)]
pub struct Class {
    /// Name of the service.
    pub name: &'static str,
    /// What an attack through it is called.
    pub vector: Vector,
    /// UDP ports it answers from, ascending.
    pub ports: &'static [u16],
    /// Peers use the same port on both ends, so that a packet between equal ports may be the first of a conversation.
    pub both_ends: bool,
    /// True when the first four payload bytes (big endian, absent ones zero) can begin an answer.
    pub answers: fn(u32) -> bool,
    /// Legitimate traffic from these ports that nobody inside asked for.
    pub lookalike: &'static str,
}

/// The class of a source port: one load for a port that is in none, one more for the others.
pub const fn class_of(port: u16) -> Option<&'static Class> {
    #[expect(clippy::indexing_slicing, reason = "both arrays have a place for every port")]
    let class = if PORTS[port as usize / 64] >> (port % 64) & 1 == 0 { NONE } else { INDEX[port as usize] };
    match CLASSES.split_at_checked(class as usize) {
        Some((_, [class, ..])) => Some(class),
        _ => None,
    }
}

/// The class that a UDP packet with ports is an answer of, by source port, first bytes and, for peers, the other port:
/// whoever asks a server from that server's own port is no answer.
pub fn answer_of(lanes: &Lanes) -> Option<&'static Class> {
    let port = lanes.get(Lane::SrcPort);
    let first = u32::from(lanes.get(Lane::Payload0)) << 16 | u32::from(lanes.get(Lane::Payload2));
    let peers = |class: &Class| class.both_ends && lanes.get(Lane::DstPort) == port;
    class_of(port).filter(|class| lanes.get(Lane::PayloadLength) > 0 && !peers(class) && (class.answers)(first))
}

/// No class.
const NONE: u8 = u8::MAX;

/// One bit per port: 8 KiB, so that the ports of ordinary traffic do not push anything out of the first-level cache.
#[expect(clippy::indexing_slicing, reason = "evaluated at build time, where a wrong index does not compile")]
static PORTS: [u64; 1024] = {
    let mut ports = [0; 1024];
    let mut port = 0;
    while port < INDEX.len() {
        ports[port / 64] |= ((INDEX[port] != NONE) as u64) << (port % 64);
        port += 1;
    }
    ports
};

/// Position in [`CLASSES`] by port; only those few places are ever read that [`PORTS`] points out.
#[expect(clippy::indexing_slicing, reason = "evaluated at build time, where a wrong index does not compile")]
static INDEX: [u8; 65_536] = {
    assert!(CLASSES.len() < NONE as usize);
    let mut index = [NONE; 65_536];
    let mut class = 0;
    while class < CLASSES.len() {
        let mut at = 0;
        while at < CLASSES[class].ports.len() {
            #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
            let position = class as u8;
            index[CLASSES[class].ports[at] as usize] = position;
            at += 1;
        }
        class += 1;
    }
    index
};

/// QR is set in the flags of a DNS header (RFC 1035 section 4.1.1): the third byte's top bit.
const fn is_dns_response(first: u32) -> bool {
    first & 0x8000 != 0
}

const fn any(_first: u32) -> bool {
    true
}

/// `HTTP`
const HTTP: u32 = 0x4854_5450;
/// What out-of-band packets of game servers begin with.
const OUT_OF_BAND: u32 = 0xffff_ffff;

const fn class(
    name: &'static str,
    vector: Vector,
    ports: &'static [u16],
    answers: fn(u32) -> bool,
    lookalike: &'static str,
) -> Class {
    Class { name, vector, ports, both_ends: false, answers, lookalike }
}

const fn peers(
    name: &'static str,
    vector: Vector,
    ports: &'static [u16],
    answers: fn(u32) -> bool,
    lookalike: &'static str,
) -> Class {
    Class { both_ends: true, ..class(name, vector, ports, answers, lookalike) }
}

const CLIENT: &str = "a client that happens to use this port, if its first bytes fit";
const ANY_CLIENT: &str = "a client that happens to use this port, whatever it sends";

/// All classes, by port. Ports and first bytes: CISA TA14-017A, the protocols' documents, reports on each service.
pub static CLASSES: &[Class] = &[
    class("qotd", Vector::QotdAmplification, &[17], any, "none"),
    class("chargen", Vector::ChargenAmplification, &[19], any, "none"),
    class(
        "dns",
        Vector::DnsAmplification,
        &[53],
        is_dns_response,
        "late or repeated answers to a resolver inside; queries of old resolvers from port 53 have QR clear",
    ),
    // Opcodes 3 to 6 (RFC 1350, RFC 2347). Real servers answer from a new port: see the payload check in classification.
    class("tftp", Vector::TftpAmplification, &[69], |first| matches!(first >> 16, 3..=6), "none"),
    class("portmap", Vector::PortmapAmplification, &[111], any, "none"),
    // Modes 4 to 7 (RFC 5905 section 7.3, RFC 9327); 1, 2 and 3 are peers and clients that use port 123 themselves.
    class(
        "ntp",
        Vector::NtpAmplification,
        &[123],
        |first| first & 0x0400_0000 != 0,
        "late answers to a clock inside; symmetric peers and clients have other modes",
    ),
    peers("netbios", Vector::NetbiosAmplification, &[137, 138], is_dns_response, "none from the internet"),
    // BER SEQUENCE, as every SNMP message and LDAP message is.
    class(
        "snmp",
        Vector::SnmpAmplification,
        &[161],
        |first| first >> 24 == 0x30,
        "answers to a poller inside that gave up",
    ),
    class("xdmcp", Vector::OtherAmplification, &[177], |first| first >> 16 == 1, "none"),
    class("cldap", Vector::CldapAmplification, &[389], |first| first >> 24 == 0x30, "none from the internet"),
    // Versions 1 and 2 (RFC 2608); functions 2 and up.
    peers("slp", Vector::SlpAmplification, &[427], |first| matches!(first >> 24, 1 | 2), "none from the internet"),
    // The first packet of an IKE peer goes from 500 to 500; from 500 to any other port go only answers to forged ones.
    peers("isakmp", Vector::IsakmpAmplification, &[500], any, "peers behind a NAT that keeps the port"),
    // Command 2, version 1 or 2 (RFC 2453).
    peers(
        "rip",
        Vector::RipAmplification,
        &[520],
        |first| matches!(first >> 16, 0x0201 | 0x0202),
        "none from the internet",
    ),
    // RMCP version 6, class ASF or IPMI.
    class("ipmi", Vector::IpmiAmplification, &[623], |first| first >> 24 == 6, "none from the internet"),
    // P_CONTROL_HARD_RESET_SERVER_V2, any key.
    peers("openvpn", Vector::OpenvpnAmplification, &[1194], |first| first >> 27 == 8, CLIENT),
    // SVR_RESP of the SQL Server resolution protocol (MC-SQLR section 2.2.5).
    class("mssql", Vector::MssqlAmplification, &[1434], |first| first >> 24 == 5, CLIENT),
    class("citrix", Vector::OtherAmplification, &[1604], any, ANY_CLIENT),
    // Control message with length and sequence, version 2 (RFC 2661 section 3.1).
    peers("l2tp", Vector::L2tpAmplification, &[1701], |first| first >> 16 == 0xc802, CLIENT),
    class("ssdp", Vector::SsdpAmplification, &[1900], |first| first == HTTP, CLIENT),
    // "DIGI"
    class("digi", Vector::OtherAmplification, &[2362], |first| first == 0x4449_4749, CLIENT),
    class("ard", Vector::ArdAmplification, &[3283], |first| first >> 16 == 1, CLIENT),
    class("rdp", Vector::OtherAmplification, &[3389], any, ANY_CLIENT),
    // Success and error responses: both class bits tell an answer (RFC 8489 section 5).
    class(
        "stun",
        Vector::StunAmplification,
        &[3478],
        |first| first >> 24 & 0xc1 == 0x01,
        "answers to a call inside that has ended",
    ),
    // XML, perhaps after a byte order mark.
    class(
        "ws-discovery",
        Vector::WsDiscoveryAmplification,
        &[3702],
        |first| matches!(first >> 24, 0x3c | 0xef),
        CLIENT,
    ),
    // "SIP/": requests begin with a method.
    class(
        "sip",
        Vector::OtherAmplification,
        &[5060],
        |first| first == 0x5349_502f,
        "answers to a call inside that has ended",
    ),
    class("sentinel", Vector::SentinelAmplification, &[5093], any, ANY_CLIENT),
    // Version 0, opcode of a response (RFC 6886 section 3).
    class("nat-pmp", Vector::OtherAmplification, &[5351], |first| first >> 23 == 1, CLIENT),
    peers("mdns", Vector::MdnsAmplification, &[5353], is_dns_response, CLIENT),
    // Version 1 with a response code, class 2 to 5 (RFC 7252 section 3).
    peers(
        "coap",
        Vector::CoapAmplification,
        &[5683],
        |first| first >> 30 == 1 && matches!(first >> 21 & 7, 2..=5),
        CLIENT,
    ),
    // Versions 1 and 2 of the discovery protocol.
    class("ubiquiti", Vector::UbiquitiAmplification, &[10_001], |first| matches!(first >> 24, 1 | 2), CLIENT),
    class("tp240", Vector::OtherAmplification, &[10_074], any, ANY_CLIENT),
    class("memcached", Vector::MemcachedAmplification, &[11_211], any, ANY_CLIENT),
    class("vxworks", Vector::OtherAmplification, &[17_185], any, ANY_CLIENT),
    peers(
        "quake",
        Vector::QuakeAmplification,
        &[20_100, 27_950, 27_960, 27_961, 27_962, 27_963, 28_960, 30_120, 30_720],
        |first| first == OUT_OF_BAND,
        "servers that report to a master inside, if that listens elsewhere",
    ),
    peers(
        "steam",
        Vector::SteamAmplification,
        &[2302, 27_015, 27_016, 27_017, 27_018, 27_019, 27_020, 27_021, 27_036],
        |first| first == OUT_OF_BAND,
        "servers that report to a master inside, if that listens elsewhere; players use 27005",
    ),
    class("lantronix", Vector::OtherAmplification, &[30_718], |first| first >> 8 == 0, CLIENT),
    class("plex", Vector::PlexAmplification, &[32_410, 32_412, 32_414], |first| first == HTTP, CLIENT),
    // "<hud"
    class("jenkins", Vector::JenkinsAmplification, &[33_848], |first| first == 0x3c68_7564, CLIENT),
    class("dvr", Vector::DvrAmplification, &[37_810], |first| first >> 24 == 0x20, CLIENT),
    class("crestron", Vector::OtherAmplification, &[41_794], |first| first >> 24 == 0x15, CLIENT),
    // BACnet/IP (ANSI/ASHRAE 135 annex J).
    peers("bacnet", Vector::BacnetAmplification, &[47_808], |first| first >> 24 == 0x81, CLIENT),
    class("netis", Vector::OtherAmplification, &[53_413], any, ANY_CLIENT),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(source: u16, destination: u16, head: [u8; 4]) -> Lanes {
        let mut lanes = Lanes::default();
        lanes.set(Lane::SrcPort, source);
        lanes.set(Lane::DstPort, destination);
        lanes.set(Lane::PayloadLength, 100);
        lanes.set(Lane::Payload0, u16::from_be_bytes([head[0], head[1]]));
        lanes.set(Lane::Payload2, u16::from_be_bytes([head[2], head[3]]));
        lanes
    }

    fn name(source: u16, destination: u16, head: [u8; 4]) -> Option<&'static str> {
        answer_of(&datagram(source, destination, head)).map(|class| class.name)
    }

    #[test]
    fn every_port_of_the_table_and_no_other_has_a_class() {
        for port in 0..=u16::MAX {
            let of: Vec<_> = CLASSES.iter().filter(|class| class.ports.contains(&port)).map(|c| c.name).collect();
            assert!(of.len() <= 1, "{port} belongs to {of:?}");
            assert_eq!(class_of(port).map(|class| class.name), of.first().copied(), "{port}");
        }
    }

    #[test]
    fn answers_are_known_by_port_and_first_bytes() {
        assert_eq!(name(53, 4444, [0x12, 0x34, 0x81, 0x80]), Some("dns"));
        assert_eq!(name(123, 4444, [0xd7, 0, 3, 0x2a]), Some("ntp"));
        assert_eq!(name(389, 4444, [0x30, 0x84, 0, 0]), Some("cldap"));
        assert_eq!(name(1900, 4444, *b"HTTP"), Some("ssdp"));
        assert_eq!(name(3478, 4444, [1, 1, 0, 48]), Some("stun"));
        assert_eq!(name(5683, 4444, [0x60, 0x45, 0x12, 0x34]), Some("coap"));
        assert_eq!(name(1194, 4444, [0x40, 9, 9, 9]), Some("openvpn"));
        assert_eq!(name(47_808, 4444, [0x81, 0x0a, 0, 9]), Some("bacnet"));
    }

    #[test]
    fn clients_and_peers_on_those_ports_are_no_answers() {
        assert_eq!(name(53, 53, [0x12, 0x34, 0x01, 0x00]), None, "a query of an old resolver");
        assert_eq!(name(123, 123, [0x21, 0, 6, 0xec]), None, "a symmetric peer");
        assert_eq!(name(123, 123, [0x23, 0, 6, 0xec]), None, "a client that uses the server's port");
        assert_eq!(name(500, 500, [1, 2, 3, 4]), None, "an IKE peer");
        assert_eq!(name(1900, 443, [0xc3, 0, 0, 0]), None, "a QUIC client behind a NAT that gave it port 1900");
        assert_eq!(name(3478, 3478, [0, 1, 0, 0]), None, "a STUN request");
        assert_eq!(name(5060, 5060, *b"INVI"), None, "a call");
        assert_eq!(name(5683, 5683, [0x40, 1, 2, 3]), None, "a CoAP request");
        assert_eq!(name(27_005, 27_015, [0xff; 4]), None, "a player");
        assert_eq!(name(40_000, 53, [0; 4]), None);
    }

    #[test]
    fn an_empty_datagram_is_no_answer() {
        let mut lanes = datagram(19, 4444, [0; 4]);
        lanes.set(Lane::PayloadLength, 0);
        assert!(answer_of(&lanes).is_none());
    }
}
