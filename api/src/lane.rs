//! Lanes: a packet as a point in 32 dimensions of 16 bits, one cache line.
//!
//! This table is the one place where the lanes are defined; `docs/reference/lanes.md` is generated from it.
//! Multi-byte values are in host order. What a packet does not have is zero. The vocabulary of matches on a
//! packet is exactly this table: see [`crate::filter::HeaderBox`].

use std::fmt;

macro_rules! lanes {
    ($($variant:ident = $index:literal, $name:literal, $doc:literal;)*) => {
        /// One 16-bit piece of a packet's headers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Lane { $(#[doc = $doc] $variant = $index,)* }

        impl Lane {
            /// All lanes, in order of their index.
            pub const ALL: [Self; LANES] = [$(Self::$variant,)*];

            /// The name used in rendered matches and in the API.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it holds.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

/// Number of lanes: 32 of 16 bits are 64 bytes.
pub const LANES: usize = 32;

lanes! {
    Src0 = 0, "src0", "source address, first 16 bits (IPv6; zero for IPv4)";
    Src1 = 1, "src1", "source address, 16 bits from 16 (IPv6)";
    Src2 = 2, "src2", "source address, 16 bits from 32 (IPv6)";
    Src3 = 3, "src3", "source address, 16 bits from 48 (IPv6)";
    Src4 = 4, "src4", "source address, 16 bits from 64 (IPv6)";
    Src5 = 5, "src5", "source address, 16 bits from 80 (IPv6)";
    Src6 = 6, "src6", "source address, 16 bits from 96 (IPv6), first half of an IPv4 address";
    Src7 = 7, "src7", "source address, last 16 bits";
    Dst0 = 8, "dst0", "destination address, first 16 bits (IPv6; zero for IPv4)";
    Dst1 = 9, "dst1", "destination address, 16 bits from 16 (IPv6)";
    Dst2 = 10, "dst2", "destination address, 16 bits from 32 (IPv6)";
    Dst3 = 11, "dst3", "destination address, 16 bits from 48 (IPv6)";
    Dst4 = 12, "dst4", "destination address, 16 bits from 64 (IPv6)";
    Dst5 = 13, "dst5", "destination address, 16 bits from 80 (IPv6)";
    Dst6 = 14, "dst6", "destination address, 16 bits from 96 (IPv6), first half of an IPv4 address";
    Dst7 = 15, "dst7", "destination address, last 16 bits";
    SrcPort = 16, "src_port", "TCP, UDP, SCTP, DCCP or UDP-Lite source port; ICMP: type";
    DstPort = 17, "dst_port", "TCP, UDP, SCTP, DCCP or UDP-Lite destination port; ICMP: code";
    Protocol = 18, "protocol", "protocol after extension headers";
    TcpFlags = 19, "tcp_flags", "TCP flags, bit lane: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128, NS 256";
    IpLength = 20, "ip_length", "IP total length in bytes (IPv6: 40 + payload)";
    PayloadLength = 21, "payload_length", "bytes after the transport header (no transport header known: after the IP headers); UDP: its length field - 8, also in a first fragment";
    Ttl = 22, "ttl", "TTL or hop limit";
    Dscp = 23, "dscp", "DSCP and ECN: the traffic class octet";
    TcpWindow = 24, "tcp_window", "TCP window, not scaled";
    Ident = 25, "ident", "IPv4 identification";
    Digest = 26, "digest", "hash of what does not fit into a lane: of TCP the layout (kinds and lengths in order) of the options, of a DNS query over UDP the last two labels of its name, in lower case; otherwise zero";
    TcpMss = 27, "tcp_mss", "TCP maximum segment size option; zero when absent";
    Payload0 = 28, "payload0", "payload bytes 0 and 1, big endian, absent bytes zero";
    Payload2 = 29, "payload2", "payload bytes 2 and 3, big endian, absent bytes zero";
    SourceClass = 30, "source_class", "which address sets the source is in, bit lane: 1 for the first of the configuration, 2 for the second, 4, 8, ...";
    Bits = 31, "bits", "properties, bit lane: see Bits";
}

impl Lane {
    /// Position in a packet's lanes.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// True for the three lanes that are bit fields, matched by mask and value instead of a range.
    pub const fn is_bits(self) -> bool {
        matches!(self, Self::TcpFlags | Self::SourceClass | Self::Bits)
    }

    /// The lane of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.name() == name)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

bitflags::bitflags! {
    /// Properties of a packet: the last lane.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Bits: u16 {
        /// IP version 6.
        const IPV6 = 1 << 0;
        /// First of several fragments.
        const FIRST_FRAGMENT = 1 << 1;
        /// Fragment with an offset: no transport header.
        const LATER_FRAGMENT = 1 << 2;
        /// Don't fragment is set (IPv4).
        const DONT_FRAGMENT = 1 << 3;
        /// IPv4 options or IPv6 extension headers present.
        const OPTIONS = 1 << 4;
        /// The port lanes hold ports.
        const PORTS = 1 << 5;
        /// Source port = destination port.
        const EQUAL_PORTS = 1 << 6;
        /// TCP acknowledgement number = 0.
        const ACK_ZERO = 1 << 7;
        /// Low 16 bits of the TCP sequence number = 0.
        const SEQ_LOW_ZERO = 1 << 8;
        /// TCP urgent pointer is not 0.
        const URGENT = 1 << 9;
        /// A checksum was found wrong (by the NIC, or the IPv4 header's in software).
        const CHECKSUM_BAD = 1 << 10;
        /// Came in a tunnel towards a configured endpoint.
        const TUNNELLED = 1 << 11;
        /// Looks like a QUIC Initial, and cannot be opened as one (looked at only at targets that are alarmed).
        const QUIC_FORGED = 1 << 12;
    }
}

bitflags::bitflags! {
    /// TCP flags as the lane holds them (RFC 9293, NS from RFC 3540).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct TcpFlags: u16 {
        /// Finish.
        const FIN = 1;
        /// Synchronise.
        const SYN = 2;
        /// Reset.
        const RST = 4;
        /// Push.
        const PSH = 8;
        /// Acknowledgement is valid.
        const ACK = 16;
        /// Urgent pointer is valid.
        const URG = 32;
        /// ECN echo.
        const ECE = 64;
        /// Congestion window reduced.
        const CWR = 128;
        /// ECN nonce.
        const NS = 256;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_numbered_without_gaps() {
        for (index, lane) in Lane::ALL.into_iter().enumerate() {
            assert_eq!(lane.index(), index);
            assert_eq!(Lane::named(lane.name()), Some(lane));
        }
    }
}
