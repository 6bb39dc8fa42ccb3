//! Traffic filtering actions: extended communities (RFC 8955 section 7, RFC 7674, draft-ietf-idr-flowspec-redirect-ip).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use levee_api::prefix::Prefix;

use crate::ledger::{FlowAction, FlowRule};

/// What routers do with packets that match.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TrafficAction {
    /// 0x8006: bytes per second that pass; 0 drops.
    RateBytes {
        /// Of information only.
        asn: u16,
        /// Bytes per second, not bits.
        rate: f32,
    },
    /// 0x800c: packets per second that pass.
    RatePackets {
        /// Of information only.
        asn: u16,
        /// Packets per second.
        rate: f32,
    },
    /// 0x8007: whether later rules are looked at, and whether packets are sampled. Sent with both bits, or not at all: what the
    /// first means is told in two ways, and a rule that samples is to hide no other.
    TrafficAction {
        /// The T bit: further rules are looked at (RFC 8955, section 7.3).
        goes_on: bool,
        /// The S bit.
        sample: bool,
    },
    /// 0x8008: into the VRF that imports this route target.
    RedirectAs2 {
        /// Of the route target.
        asn: u16,
        /// Of the route target.
        number: u32,
    },
    /// 0x8108: the same, a route target that begins with an address.
    RedirectIpv4 {
        /// Of the route target.
        address: Ipv4Addr,
        /// Of the route target.
        number: u16,
    },
    /// 0x8208: the same, a route target that begins with a number of four bytes.
    RedirectAs4 {
        /// Of the route target.
        asn: u32,
        /// Of the route target.
        number: u16,
    },
    /// 0x010c: to the next hop of this address.
    RedirectToAddress {
        /// Which.
        address: Ipv4Addr,
        /// Packets are copied there.
        copy: bool,
    },
    /// 0x8009: the DSCP is set.
    Mark {
        /// 0 to 63.
        dscp: u8,
    },
    /// Another extended community.
    Other([u8; 8]),
}

/// A place that nothing can be redirected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRedirect {
    /// Neither.
    #[error(
        "{0:?} is no place to redirect to: give a route target such as 64496:100 or 192.0.2.1:100, or an IPv4 address"
    )]
    Syntax(String),
    /// Needs an attribute of its own (RFC 5701).
    #[error("{0} is an IPv6 address, and routers that redirect to those are rare: give a route target")]
    Ipv6(IpAddr),
    /// Nobody's, or the one that is defended.
    #[error("{0} is no place to send what comes for {1}: give the address of a router that takes it")]
    Nowhere(Ipv4Addr, Prefix),
    /// What matches is of another version than the address.
    #[error("{0} is an IPv4 address, and the rule is about IPv6: give a route target")]
    Version(Ipv4Addr),
}

impl TrafficAction {
    /// What a measure asks of routers for what a rule matches.
    ///
    /// # Errors
    /// When a redirection does not say where to.
    pub fn of(rule: &FlowRule, action: &FlowAction) -> Result<Self, BadRedirect> {
        Ok(match action {
            FlowAction::Drop => Self::RateBytes { asn: 0, rate: 0.0 },
            FlowAction::RateLimit { bps } => Self::RateBytes { asn: 0, rate: rate(*bps) / 8.0 },
            FlowAction::RateLimitPackets { pps } => Self::RatePackets { asn: 0, rate: rate(*pps) },
            FlowAction::Mark { dscp } => Self::Mark { dscp: *dscp & 63 },
            FlowAction::Sample => Self::TrafficAction { goes_on: true, sample: true },
            FlowAction::Redirect { to } => match redirect(to)? {
                Self::RedirectToAddress { address, .. } if !rule.destination.is_ipv4() => {
                    return Err(BadRedirect::Version(address));
                }
                Self::RedirectToAddress { address, .. }
                    if address.is_unspecified()
                        || address.is_loopback()
                        || address.is_multicast()
                        || address.is_broadcast()
                        || rule.destination.contains(address.into()) =>
                {
                    return Err(BadRedirect::Nowhere(address, rule.destination));
                }
                redirect => redirect,
            },
        })
    }

    /// As it stands in the attribute.
    pub fn encode(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        let mut put = |kind: [u8; 2], pieces: &[&[u8]]| {
            let all = kind.iter().chain(pieces.iter().copied().flatten());
            bytes.iter_mut().zip(all).for_each(|(byte, value)| *byte = *value);
        };
        match self {
            Self::RateBytes { asn, rate } => put([0x80, 0x06], &[&asn.to_be_bytes(), &rate.to_be_bytes()]),
            Self::RatePackets { asn, rate } => put([0x80, 0x0c], &[&asn.to_be_bytes(), &rate.to_be_bytes()]),
            Self::TrafficAction { goes_on, sample } => {
                put([0x80, 0x07], &[&[0; 5], &[u8::from(sample) << 1 | u8::from(goes_on)]]);
            }
            Self::RedirectAs2 { asn, number } => put([0x80, 0x08], &[&asn.to_be_bytes(), &number.to_be_bytes()]),
            Self::RedirectIpv4 { address, number } => put([0x81, 0x08], &[&address.octets(), &number.to_be_bytes()]),
            Self::RedirectAs4 { asn, number } => put([0x82, 0x08], &[&asn.to_be_bytes(), &number.to_be_bytes()]),
            Self::RedirectToAddress { address, copy } => {
                put([0x01, 0x0c], &[&address.octets(), &u16::from(copy).to_be_bytes()]);
            }
            Self::Mark { dscp } => put([0x80, 0x09], &[&[0; 5], &[dscp & 63]]),
            Self::Other(other) => bytes = other,
        }
        bytes
    }

    /// What an extended community asks.
    pub fn decode(bytes: [u8; 8]) -> Self {
        let [kind, subtype, a, b, c, d, e, f] = bytes;
        let first = u16::from_be_bytes([a, b]);
        let rate = f32::from_be_bytes([c, d, e, f]);
        let number = u16::from_be_bytes([e, f]);
        match (kind, subtype) {
            (0x80, 0x06) => Self::RateBytes { asn: first, rate },
            (0x80, 0x0c) => Self::RatePackets { asn: first, rate },
            (0x80, 0x07) => Self::TrafficAction { goes_on: f & 1 != 0, sample: f & 2 != 0 },
            (0x80, 0x08) => Self::RedirectAs2 { asn: first, number: u32::from_be_bytes([c, d, e, f]) },
            (0x81, 0x08) => Self::RedirectIpv4 { address: Ipv4Addr::new(a, b, c, d), number },
            (0x82, 0x08) => Self::RedirectAs4 { asn: u32::from_be_bytes([a, b, c, d]), number },
            (0x01, 0x0c) => Self::RedirectToAddress { address: Ipv4Addr::new(a, b, c, d), copy: number & 1 != 0 },
            (0x80, 0x09) => Self::Mark { dscp: f & 63 },
            _ => Self::Other(bytes),
        }
    }
}

/// The nearest that the wire can say: 24 bits of a number are kept.
#[expect(clippy::cast_precision_loss, reason = "rates on the wire are IEEE floats of 32 bits")]
const fn rate(number: u64) -> f32 {
    number as f32
}

fn redirect(to: &str) -> Result<TrafficAction, BadRedirect> {
    let wrong = || BadRedirect::Syntax(to.to_owned());
    match to.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => return Ok(TrafficAction::RedirectToAddress { address, copy: false }),
        Ok(address @ IpAddr::V6(_)) => return Err(BadRedirect::Ipv6(address)),
        Err(_) => {}
    }
    let (administrator, number) = to.split_once(':').ok_or_else(wrong)?;
    // Numbers with a sign would be read here, and not by routers.
    if to.contains('+') || administrator == "0" {
        return Err(wrong());
    }
    if let Ok(address) = administrator.parse::<Ipv4Addr>() {
        let number = number.parse().map_err(|_| wrong())?;
        return Ok(TrafficAction::RedirectIpv4 { address, number });
    }
    let asn: u32 = administrator.parse().map_err(|_| wrong())?;
    Ok(match u16::try_from(asn) {
        Ok(asn) => TrafficAction::RedirectAs2 { asn, number: number.parse().map_err(|_| wrong())? },
        Err(_) => TrafficAction::RedirectAs4 { asn, number: number.parse().map_err(|_| wrong())? },
    })
}

impl fmt::Display for TrafficAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RateBytes { rate, .. } if *rate == 0.0 => f.write_str("drop"),
            Self::RateBytes { rate, .. } => write!(f, "limit {rate} bytes per second"),
            Self::RatePackets { rate, .. } => write!(f, "limit {rate} packets per second"),
            Self::TrafficAction { goes_on, sample } => {
                let next = if *goes_on { "go on with the next rule" } else { "no further rules" };
                write!(f, "{next}{}", if *sample { ", sample" } else { "" })
            }
            Self::RedirectAs2 { asn, number } => write!(f, "redirect to {asn}:{number}"),
            Self::RedirectIpv4 { address, number } => write!(f, "redirect to {address}:{number}"),
            Self::RedirectAs4 { asn, number } => write!(f, "redirect to {asn}:{number}"),
            Self::RedirectToAddress { address, copy } => {
                write!(f, "{} {address}", if *copy { "copy to" } else { "redirect to" })
            }
            Self::Mark { dscp } => write!(f, "mark {dscp}"),
            Self::Other(bytes) => {
                f.write_str("community 0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}
