//! Routes: what is announced, before and after a peer's policy has dressed it.

use std::fmt;
use std::net::IpAddr;

use levee_api::prefix::Prefix;

use super::flowspec::{Nlri, Version};

/// An address family (RFC 4760).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
    /// AFI 1, SAFI 133.
    Ipv4Flowspec,
    /// AFI 2, SAFI 133.
    Ipv6Flowspec,
}

/// What is announced, at most once to each peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// A prefix.
    Prefix(Prefix),
    /// A FlowSpec rule with its length in front, as [`Nlri::encode`] gives it.
    Rule(Version, Vec<u8>),
}

/// A community (RFC 1997).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub [u32; 3]);

/// A route as one peer is told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it is to.
    pub destination: Destination,
    /// Where packets go; none for FlowSpec.
    pub next_hop: Option<IpAddr>,
    /// How often our AS stands in the path, to an external peer.
    pub path_length: u8,
    /// Sorted.
    pub communities: Vec<Community>,
    /// The actions of a FlowSpec rule, encoded.
    pub extended: Vec<[u8; 8]>,
    /// Sorted.
    pub large: Vec<LargeCommunity>,
}

impl Family {
    /// All that we speak.
    pub const ALL: [Self; 4] = [Self::Ipv4Unicast, Self::Ipv6Unicast, Self::Ipv4Flowspec, Self::Ipv6Flowspec];

    /// Address family identifier.
    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4Unicast | Self::Ipv4Flowspec => 1,
            Self::Ipv6Unicast | Self::Ipv6Flowspec => 2,
        }
    }

    /// Subsequent address family identifier.
    pub const fn safi(self) -> u8 {
        match self {
            Self::Ipv4Unicast | Self::Ipv6Unicast => 1,
            Self::Ipv4Flowspec | Self::Ipv6Flowspec => 133,
        }
    }

    /// The family of these numbers, if we speak it.
    pub fn of(afi: u16, safi: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|family| (family.afi(), family.safi()) == (afi, safi))
    }

    /// As it is written in the configuration and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4Unicast => "ipv4-unicast",
            Self::Ipv6Unicast => "ipv6-unicast",
            Self::Ipv4Flowspec => "ipv4-flowspec",
            Self::Ipv6Flowspec => "ipv6-flowspec",
        }
    }
}

impl Destination {
    /// The family that it is announced in.
    pub fn family(&self) -> Family {
        match self {
            Self::Prefix(prefix) if prefix.is_ipv4() => Family::Ipv4Unicast,
            Self::Prefix(_) => Family::Ipv6Unicast,
            Self::Rule(Version::V4, _) => Family::Ipv4Flowspec,
            Self::Rule(Version::V6, _) => Family::Ipv6Flowspec,
        }
    }
}

impl Community {
    /// Not beyond the peer's AS (RFC 1997).
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// To nobody else (RFC 1997).
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// Drop what goes there (RFC 7999).
    pub const BLACKHOLE: Self = Self(0xffff_029a);
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NO_EXPORT => f.write_str("no-export"),
            Self::NO_ADVERTISE => f.write_str("no-advertise"),
            Self::BLACKHOLE => f.write_str("blackhole"),
            Self(number) => write!(f, "{}:{}", number >> 16, number & 0xffff),
        }
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [global, first, second] = self.0;
        write!(f, "{global}:{first}:{second}")
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Rule(version, bytes) => match Nlri::decode(*version, bytes) {
                Ok((rule, _)) => rule.fmt(f),
                Err(error) => write!(f, "a rule that cannot be read: {error}"),
            },
        }
    }
}
