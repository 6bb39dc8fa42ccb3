//! Zones: protected prefixes under one policy.

use std::fmt;

use crate::prefix::Prefix;
use crate::role::Role;

/// What the appliance may do on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Detect and report what would have been done; install nothing.
    Monitor,
    /// Drop attacks.
    Enforce,
}

/// Whether the return direction of a zone passes here too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Learned from the share of conversations seen both ways.
    Auto,
    /// The operator says so.
    Both,
    /// Only what comes from outside passes here.
    Inbound,
}

/// How clients are asked whether their address is their own, while a flood of SYNs that no handshake follows lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Challenge {
    /// They are not.
    Off,
    /// A SYN-ACK with a cookie; who acknowledges it is reset, and passes from then on.
    #[default]
    Reset,
    /// A SYN-ACK that acknowledges a cookie instead of the SYN; who resets that passes from then on.
    SafeReset,
    /// A SYN-ACK with a cookie; for who acknowledges it the same connection is opened with the server, and both are joined. Needs both
    /// directions.
    Proxy,
}

/// What inside offers: a protocol and, for TCP and UDP, ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// IP protocol number.
    pub protocol: u8,
    /// Inclusive ranges; empty: all ports, or a protocol without ports.
    pub ports: Vec<(u16, u16)>,
}

/// A named set of protected prefixes under one policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Unique name.
    pub name: String,
    /// Protected prefixes, IPv4 and IPv6, not overlapping those of other zones.
    pub prefixes: Vec<Prefix>,
    /// What may be done, already lowered to the appliance's ceiling.
    pub mode: Mode,
    /// What inside offers.
    pub services: Vec<Service>,
    /// True: inside offers and uses nothing else.
    pub services_complete: bool,
    /// Whether the other direction passes here.
    pub visibility: Visibility,
    /// How clients that open connections are challenged.
    pub challenge: Challenge,
    /// True: DNS queries may be answered with the request to come back over TCP.
    pub challenge_dns: bool,
    /// Capacity of the link to the zone in bits per second; none: unknown.
    pub link_capacity_bps: Option<u64>,
    /// Floors in packets per second that replace the built-in ones.
    pub floors: Vec<(Role, u32)>,
    /// Name of the runbook that the control plane follows; the dataplane ignores it.
    pub runbook: Option<String>,
}

impl Zone {
    /// True when inside serves `port` of `protocol`.
    pub fn serves(&self, protocol: u8, port: u16) -> bool {
        self.services.iter().any(|service| {
            service.protocol == protocol
                && (service.ports.is_empty()
                    || service.ports.iter().any(|(first, last)| (*first..=*last).contains(&port)))
        })
    }

    /// True when inside offers `protocol` at all.
    pub fn offers(&self, protocol: u8) -> bool {
        self.services.iter().any(|service| service.protocol == protocol)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Monitor => "monitor",
            Self::Enforce => "enforce",
        })
    }
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Both => "both",
            Self::Inbound => "inbound",
        })
    }
}
