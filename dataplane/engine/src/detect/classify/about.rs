//! How each vector is told, in words: for the reference, and held against what [`super::classify`] does by its tests.

use levee_api::role::{Role, RoleSet};
use levee_api::vector::Vector;

use super::amplification::CLASSES;

/// What leads to a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Roles of packets that can say so; none: it is no kind of packet but the course of an attack.
    pub roles: RoleSet,
    /// What says so.
    pub evidence: String,
}

/// What leads to a vector.
pub fn about(vector: Vector) -> About {
    const STRAY: RoleSet = Role::OutOfState.set();
    const DATAGRAM: RoleSet = Role::UdpOpen.set().union(Role::UdpUnserved.set());
    const ANSWER: RoleSet = Role::UnsolicitedResponse.set();
    let (roles, evidence) = match vector {
        Vector::SynFlood => (Role::Syn.set(), "SYN"),
        Vector::SynAckReflection => {
            (STRAY.union(Role::UnsolicitedSynAck.set()), "SYN-ACK that nobody inside asked for")
        }
        Vector::AckFlood => (STRAY, "ACK, with data or without, but without PSH"),
        Vector::PshAckFlood => (STRAY, "PSH"),
        Vector::RstFlood => (STRAY, "RST"),
        Vector::FinFlood => (STRAY, "FIN"),
        Vector::XmasFlood => {
            (STRAY.union(Role::Malformed.set()), "TCP flags that contradict each other, or only FIN, PSH or URG")
        }
        Vector::NullFlood => (STRAY.union(Role::Malformed.set()), "no TCP flag"),
        Vector::TcpFragment => (Role::LaterFragment.set(), "TCP"),
        Vector::TcpMiddleboxReflection => (STRAY, "HTTP response; beside those also RST and FIN from ports 80 and 443"),
        Vector::TcpConnectionFlood => (
            Role::Request.set().union(Role::Syn.set()),
            "first data that is neither TLS nor HTTP; SYNs, if the handshakes are completed and nothing is sent on the connections",
        ),
        Vector::HttpRequestFlood => (Role::Request.set(), "HTTP method"),
        Vector::TlsHandshakeFlood => (Role::Request.set(), "TLS client hello"),
        Vector::EstablishedFlood => (
            STRAY.union(Role::Established.set()),
            "bare ACK, if at least 20 are on fewer connections than three quarters of their number",
        ),
        Vector::UdpRandom => {
            (DATAGRAM, "first 16 bytes of payload that fewer than one in 20 share; nothing below fits")
        }
        Vector::UdpConstant => {
            (DATAGRAM, "first 16 bytes of payload that at least one in 20 share, or none; nothing below fits")
        }
        Vector::UdpFragment => (Role::LaterFragment.set(), "any protocol but TCP"),
        Vector::IcmpFlood => (Role::IcmpOther.set(), "ICMP that is no echo reply"),
        Vector::Smurf => (Role::IcmpOther.set(), "ICMP echo reply"),
        Vector::Icmpv6Flood => (Role::IcmpOther.set(), "ICMPv6"),
        Vector::GreFlood => (Role::OtherProtocol.set(), "protocol 47"),
        Vector::EspFlood => (Role::OtherProtocol.set(), "protocol 50 or 51"),
        Vector::IpipFlood => (Role::OtherProtocol.set(), "protocol 4 or 41"),
        Vector::IgmpFlood => (Role::OtherProtocol.set(), "protocol 2"),
        Vector::RandomProtocol => (Role::OtherProtocol.set(), "any other protocol"),
        Vector::MalformedFlood => (STRAY.union(Role::Malformed.set()), "what no stack sends, but for TCP flags"),
        Vector::DnsQueryFlood => (DATAGRAM, "DNS query to port 53"),
        Vector::DnsWaterTorture => (
            DATAGRAM,
            "DNS query to port 53; of 20 or more for names of one domain, which are at least one in 20 of all, more than half \
             have a name of their own",
        ),
        Vector::QuicInitialFlood => (DATAGRAM, "QUIC Initial of version 1 or 2, at least 1200 bytes"),
        Vector::TftpAmplification => {
            let evidence = format!("{}; from any port the first block of a transfer", answer_of_class(vector));
            return About { roles: ANSWER.union(DATAGRAM), evidence };
        }
        Vector::SsdpAmplification => {
            let evidence = format!("{}; from any port an HTTP response", answer_of_class(vector));
            return About { roles: ANSWER.union(DATAGRAM), evidence };
        }
        Vector::CarpetBombing => (RoleSet::NONE, "the target is a prefix"),
        Vector::PulseWave => (RoleSet::NONE, "the attack came back while its filters waited for it"),
        Vector::DnsAmplification
        | Vector::NtpAmplification
        | Vector::CldapAmplification
        | Vector::MemcachedAmplification
        | Vector::ChargenAmplification
        | Vector::SnmpAmplification
        | Vector::QotdAmplification
        | Vector::RipAmplification
        | Vector::PortmapAmplification
        | Vector::NetbiosAmplification
        | Vector::MssqlAmplification
        | Vector::MdnsAmplification
        | Vector::WsDiscoveryAmplification
        | Vector::CoapAmplification
        | Vector::ArdAmplification
        | Vector::StunAmplification
        | Vector::OpenvpnAmplification
        | Vector::L2tpAmplification
        | Vector::IpmiAmplification
        | Vector::BacnetAmplification
        | Vector::DvrAmplification
        | Vector::UbiquitiAmplification
        | Vector::PlexAmplification
        | Vector::SlpAmplification
        | Vector::SentinelAmplification
        | Vector::IsakmpAmplification
        | Vector::SteamAmplification
        | Vector::QuakeAmplification
        | Vector::JenkinsAmplification
        | Vector::OtherAmplification => return About { roles: ANSWER, evidence: answer_of_class(vector) },
    };
    About { roles, evidence: evidence.to_owned() }
}

fn answer_of_class(vector: Vector) -> String {
    let classes = CLASSES.iter().filter(|class| class.vector == vector);
    let ports: Vec<String> = classes.flat_map(|class| class.ports).map(u16::to_string).collect();
    format!("an answer from UDP port {}", ports.join(", "))
}
