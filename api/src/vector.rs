//! The closed list of attack vectors.

use std::fmt;
use std::str::FromStr;

macro_rules! vectors {
    ($($variant:ident, $name:literal, $doc:literal;)*) => {
        /// A classified kind of attack.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Vector { $(#[doc = $doc] $variant,)* }

        impl Vector {
            /// All vectors.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name used in reports, metrics and the API.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it is.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

vectors! {
    SynFlood, "syn-flood", "TCP SYNs that are never continued";
    SynAckReflection, "syn-ack-reflection", "SYN-ACKs that nobody asked for, reflected by real servers";
    AckFlood, "ack-flood", "bare TCP ACKs outside any connection";
    PshAckFlood, "psh-ack-flood", "TCP data outside any connection";
    RstFlood, "rst-flood", "TCP RSTs outside any connection";
    FinFlood, "fin-flood", "TCP FINs outside any connection";
    XmasFlood, "xmas-flood", "TCP with impossible flag combinations";
    NullFlood, "null-flood", "TCP without any flag";
    TcpFragment, "tcp-fragment", "later fragments of TCP without their first";
    TcpMiddleboxReflection, "tcp-middlebox-reflection", "block pages and resets that middleboxes send to whoever a forged request names";
    TcpConnectionFlood, "tcp-connection-flood", "complete handshakes followed by nothing";
    HttpRequestFlood, "http-request-flood", "requests on complete connections";
    TlsHandshakeFlood, "tls-handshake-flood", "TLS client hellos on complete connections";
    EstablishedFlood, "established-flood", "packets inside proven connections that advance nothing";
    UdpRandom, "udp-random", "UDP with varying payload";
    UdpConstant, "udp-constant", "UDP with constant payload";
    UdpFragment, "udp-fragment", "later fragments of UDP and other protocols without their first";
    IcmpFlood, "icmp-flood", "ICMP that is no error message";
    Smurf, "smurf", "ICMP echo replies that nobody asked for, reflected by whole networks";
    Icmpv6Flood, "icmpv6-flood", "ICMPv6 that is no error message and no neighbour discovery";
    GreFlood, "gre-flood", "GRE";
    EspFlood, "esp-flood", "ESP";
    IpipFlood, "ipip-flood", "IP in IP";
    IgmpFlood, "igmp-flood", "IGMP from outside";
    RandomProtocol, "random-protocol", "unusual IP protocols";
    MalformedFlood, "malformed-flood", "packets that no stack would send";
    DnsQueryFlood, "dns-query-flood", "DNS queries";
    DnsWaterTorture, "dns-water-torture", "DNS queries for random names under one domain";
    QuicInitialFlood, "quic-initial-flood", "QUIC Initials that are never continued";
    DnsAmplification, "dns-amplification", "DNS responses that nobody asked for";
    NtpAmplification, "ntp-amplification", "NTP responses that nobody asked for";
    SsdpAmplification, "ssdp-amplification", "SSDP responses that nobody asked for";
    CldapAmplification, "cldap-amplification", "CLDAP responses that nobody asked for";
    MemcachedAmplification, "memcached-amplification", "memcached responses that nobody asked for";
    ChargenAmplification, "chargen-amplification", "chargen responses that nobody asked for";
    SnmpAmplification, "snmp-amplification", "SNMP responses that nobody asked for";
    QotdAmplification, "qotd-amplification", "quote of the day responses that nobody asked for";
    RipAmplification, "rip-amplification", "RIPv1 responses that nobody asked for";
    PortmapAmplification, "portmap-amplification", "portmapper responses that nobody asked for";
    NetbiosAmplification, "netbios-amplification", "NetBIOS responses that nobody asked for";
    MssqlAmplification, "mssql-amplification", "MS SQL browser responses that nobody asked for";
    MdnsAmplification, "mdns-amplification", "mDNS responses that nobody asked for";
    WsDiscoveryAmplification, "ws-discovery-amplification", "WS-Discovery responses that nobody asked for";
    CoapAmplification, "coap-amplification", "CoAP responses that nobody asked for";
    ArdAmplification, "ard-amplification", "Apple Remote Desktop responses that nobody asked for";
    TftpAmplification, "tftp-amplification", "TFTP data that nobody asked for";
    StunAmplification, "stun-amplification", "STUN responses that nobody asked for";
    OpenvpnAmplification, "openvpn-amplification", "OpenVPN resets that nobody asked for";
    L2tpAmplification, "l2tp-amplification", "L2TP responses that nobody asked for";
    IpmiAmplification, "ipmi-amplification", "IPMI responses that nobody asked for";
    BacnetAmplification, "bacnet-amplification", "BACnet responses that nobody asked for";
    DvrAmplification, "dvr-amplification", "video recorder discovery responses that nobody asked for";
    UbiquitiAmplification, "ubiquiti-amplification", "Ubiquiti discovery responses that nobody asked for";
    PlexAmplification, "plex-amplification", "Plex discovery responses that nobody asked for";
    SlpAmplification, "slp-amplification", "SLP responses that nobody asked for";
    SentinelAmplification, "sentinel-amplification", "Sentinel licence manager responses that nobody asked for";
    IsakmpAmplification, "isakmp-amplification", "ISAKMP responses that nobody asked for";
    SteamAmplification, "steam-amplification", "game server query responses that nobody asked for";
    QuakeAmplification, "quake-amplification", "Quake-family server responses that nobody asked for";
    JenkinsAmplification, "jenkins-amplification", "Jenkins discovery responses that nobody asked for";
    OtherAmplification, "other-amplification", "responses from another port known for reflection";
    CarpetBombing, "carpet-bombing", "property of an incident: spread over many hosts of a prefix";
    PulseWave, "pulse-wave", "property of an incident: comes in pulses";
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no vector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a known vector")]
pub struct UnknownVector(pub String);

impl FromStr for Vector {
    type Err = UnknownVector;
    fn from_str(text: &str) -> Result<Self, UnknownVector> {
        Self::ALL.iter().copied().find(|vector| vector.name() == text).ok_or_else(|| UnknownVector(text.to_owned()))
    }
}
