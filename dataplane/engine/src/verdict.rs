//! What becomes of a packet: the closed set of verdicts and of reasons for a drop.

use std::fmt;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves on the other side of the wire, unmodified.
    Forward,
    /// It leaves on the other side of the wire, rewritten: it is of a connection that was opened in the place of its server.
    Translate,
    /// It is rewritten into the answer to it, which leaves where it came from.
    Reply,
    /// It is dropped, for exactly one reason.
    Drop(Reason),
}

macro_rules! reasons {
    ($($variant:ident, $name:literal, $doc:literal;)*) => {
        /// Why a packet was dropped. `docs/reference/drop-reasons.md` is generated from this table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $doc] $variant,)* }

        impl Reason {
            /// All reasons, in order of their index.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name used in reports, metrics and the API.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What an operator should know about it.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

reasons! {
    Filter, "filter", "matched a filter with the action drop";
    Limit, "limit", "matched a filter with the action limit, above its rate";
    Challenge, "challenge", "a SYN that has to be challenged, but its source prefix has been asked as often as it may be, or it cannot be answered (fragments, IPv6 extension headers); or a segment of a client whose server has not answered yet";
    SourceBlocked, "source_blocked", "its source has matched a filter with the action block source as often as that says";
    TxFull, "tx_full", "the port that it was to leave by did not take it";
    SteerFull, "steer_full", "the worker that its addresses belong to had no room for what another worker received";
    SourceSet, "source_set", "its source is in an address set with the action drop";
    NonIpLimit, "non_ip_limit", "neither IP nor a heartbeat, above the limit of the wire";
    IcmpErrorLimit, "icmp_error_limit", "ICMP error messages to this host above their own limit";
    DiscoveryLimit, "discovery_limit", "IPv6 neighbour discovery to this host above its own limit";
    StateEvicted, "state_evicted", "its state was evicted from a full table, and the configuration says drop";
    EncapsulationTooDeep, "encapsulation_too_deep", "more tags, labels or tunnels than are followed, and the configuration says drop";
    Truncated, "malformed_truncated", "the frame ends inside a header";
    IpVersion, "malformed_ip_version", "the version field contradicts the Ethernet type";
    Ipv4HeaderLength, "malformed_ipv4_header_length", "IPv4 header length below 20 bytes or past the end of the packet";
    Ipv4Length, "malformed_ipv4_length", "IPv4 total length smaller than the header or larger than the frame";
    Ipv4SourceRoute, "malformed_ipv4_source_route", "IPv4 loose or strict source route (RFC 7126)";
    Ipv4Options, "malformed_ipv4_options", "IPv4 options whose lengths do not add up";
    Ipv6Length, "malformed_ipv6_length", "IPv6 payload length larger than the frame, or a jumbogram";
    Ipv6Extensions, "malformed_ipv6_extensions", "more than 8 IPv6 extension headers, or more than 256 bytes of them, or one past the end of the packet, or a second fragment header";
    Ipv6RoutingHeader, "malformed_ipv6_routing_header", "IPv6 routing header type 0 (RFC 5095)";
    FragmentTiny, "malformed_fragment_tiny", "first fragment without the whole transport header (RFC 1858, RFC 7112)";
    FragmentOffsetOne, "malformed_fragment_offset_one", "TCP fragment at offset 1, which would overwrite flags (RFC 1858)";
    FragmentLength, "malformed_fragment_length", "fragment that reaches past 65 535 bytes, or is empty, or is not a multiple of 8 although more follow";
    FragmentOverlap, "malformed_fragment_overlap", "fragment that overlaps an earlier one of its datagram without being the same again, or contradicts where it ends, and what follows of that datagram (RFC 5722, RFC 8200)";
    TcpHeader, "malformed_tcp_header", "TCP data offset below 5 or past the end of the packet";
    TcpFlags, "malformed_tcp_flags", "TCP flag combination that no stack sends (none, SYN+FIN, SYN+RST, FIN without ACK, ...)";
    UdpLength, "malformed_udp_length", "UDP length below 8";
    IcmpHeader, "malformed_icmp_header", "ICMP shorter than its header";
    IcmpQuote, "malformed_icmp_quote", "ICMP error message that quotes no packet of its destination";
    DiscoveryHopLimit, "malformed_discovery_hop_limit", "IPv6 neighbour discovery from another link (hop limit is not 255, RFC 4861)";
    Land, "malformed_land", "source and destination address are equal";
}

impl Reason {
    /// Position in arrays of [`Reason::COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
