//! What can be sent: each vector that Levee names, and what only makes one harder to tell.

use std::{fmt, str::FromStr};

use levee_api::vector::Vector;
use serde::{Deserialize, Deserializer, de};

use crate::address::Family;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A vector as tools make it, by its name in reports.
    Vector(Vector),
    /// `syn-mimic`: SYNs from spoofed sources that look like those of real systems.
    SynMimic,
    /// `quic-mimic`: QUIC Initials with a client hello in them, as clients send.
    QuicMimic,
    /// `established-data`: data inside connections, in sequence, which the server acknowledges like anybody's.
    EstablishedData,
}

impl Kind {
    /// All kinds: every vector but the pulse wave, which any attack with `pulse` is.
    pub fn all() -> impl Iterator<Item = Self> {
        let vectors = Vector::ALL.iter().copied().filter(|vector| *vector != Vector::PulseWave);
        vectors.map(Self::Vector).chain([Self::SynMimic, Self::QuicMimic, Self::EstablishedData])
    }

    /// The name in scenarios, options and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vector(vector) => vector.name(),
            Self::SynMimic => "syn-mimic",
            Self::QuicMimic => "quic-mimic",
            Self::EstablishedData => "established-data",
        }
    }

    /// What Levee should call it.
    pub const fn vector(self) -> Vector {
        match self {
            Self::Vector(vector) => vector,
            Self::SynMimic => Vector::SynFlood,
            Self::QuicMimic => Vector::QuicInitialFlood,
            Self::EstablishedData => Vector::EstablishedFlood,
        }
    }

    /// True when it needs connections, which come about only with the answers of a server: one packet after the other is
    /// not enough, so that it cannot be sent, only composed. Its rate is in connections a second, but for
    /// [`Vector::EstablishedFlood`], whose few connections are there before it begins.
    pub const fn needs_connections(self) -> bool {
        matches!(
            self.vector(),
            Vector::TcpConnectionFlood
                | Vector::HttpRequestFlood
                | Vector::TlsHandshakeFlood
                | Vector::EstablishedFlood
        )
    }

    /// Whether packets of a family can be of this kind.
    pub fn suits(self, family: Family) -> bool {
        match self.vector() {
            Vector::Icmpv6Flood => family == Family::V6,
            Vector::IcmpFlood | Vector::Smurf | Vector::IgmpFlood => family == Family::V4,
            _ => true,
        }
    }

    /// The port that is attacked unless another is given; none: ports at random.
    pub const fn port(self) -> Option<u16> {
        match self.vector() {
            Vector::SynFlood
            | Vector::AckFlood
            | Vector::PshAckFlood
            | Vector::RstFlood
            | Vector::FinFlood
            | Vector::XmasFlood
            | Vector::NullFlood
            | Vector::TcpFragment
            | Vector::TcpConnectionFlood
            | Vector::TlsHandshakeFlood
            | Vector::EstablishedFlood
            | Vector::QuicInitialFlood => Some(443),
            Vector::HttpRequestFlood => Some(80),
            Vector::DnsQueryFlood | Vector::DnsWaterTorture => Some(53),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no kind.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?} is no kind of attack; `levee-traffic kinds` lists them")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::all().find(|kind| kind.name() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}
