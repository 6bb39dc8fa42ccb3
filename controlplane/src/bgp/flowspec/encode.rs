//! Rules to bytes, within what routers take.

use std::net::IpAddr;

use super::nlri::{AddressPattern, Bitmask, BitsValue, Component, Kind, Nlri, NumericValue, Version};

/// Longest NLRI in bytes, its length not counted: from 240 on the length takes two bytes, and GoBGP up to 2026 then turns
/// FlowSpec off for the session without a word.
pub const MAX_BYTES: usize = 239;
/// Most comparisons in one component: FRR resets the session at the seventh (`BGP_PBR_MATCH_VAL_MAX`).
pub const MAX_VALUES: usize = 6;

/// Why a rule is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// An empty rule is every packet.
    #[error("the rule is empty: it would match every packet that the router forwards")]
    Empty,
    /// Nothing says whose packets these are.
    #[error("the rule has no destination prefix: it would match packets of everybody")]
    NoDestination,
    /// Bytes.
    #[error(
        "the rule takes {bytes} bytes, and more than {MAX_BYTES} make some routers turn FlowSpec off: make it simpler"
    )]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// Comparisons.
    #[error(
        "{kind} has {values} comparisons, and more than {MAX_VALUES} make some routers reset the session: split the rule"
    )]
    TooManyValues {
        /// In which component.
        kind: Kind,
        /// How many.
        values: usize,
    },
    /// A component without comparisons.
    #[error("{kind} has nothing to compare with")]
    NoValues {
        /// Which.
        kind: Kind,
    },
    /// Comparisons that routers do not have in common.
    #[error("{kind} uses {sign}, which some routers reset the session for: give the ranges that match")]
    Comparison {
        /// In which component.
        kind: Kind,
        /// Which.
        sign: &'static str,
    },
    /// A list that begins in the middle.
    #[error("the first comparison of {kind} is tied to one before it, which there is not")]
    LeadingAnd {
        /// In which component.
        kind: Kind,
    },
    /// Components out of order, or twice.
    #[error("{kind} is not after {after}: components are sent in ascending order, each once")]
    Order {
        /// Which.
        kind: Kind,
        /// The one before it.
        after: Kind,
    },
    /// IPv6 patterns.
    #[error("the {kind} begins at bit {offset}: routers read that in different ways, give a prefix")]
    Offset {
        /// Of which component.
        kind: Kind,
        /// Where it begins.
        offset: u8,
    },
    /// IPv4 and IPv6 in one rule.
    #[error("the {kind} is of the other version of IP")]
    Mixed {
        /// Which component.
        kind: Kind,
    },
    /// A component or bit that this version of IP has not.
    #[error("there is no {what} in this version of IP")]
    NotInThisVersion {
        /// What.
        what: &'static str,
    },
    /// A value that the field cannot have.
    #[error("{kind} cannot be {value}")]
    Value {
        /// Of which component.
        kind: Kind,
        /// Which.
        value: u64,
    },
}

impl Nlri {
    /// The rule with its length in front, as it stands in an UPDATE.
    ///
    /// # Errors
    /// Whatever a real router was seen to choke on.
    pub fn encode(&self) -> Result<Vec<u8>, Unfit> {
        self.check()?;
        let mut bytes = vec![0];
        for component in &self.components {
            bytes.push(component.kind().0);
            match component {
                Component::Destination(pattern) | Component::Source(pattern) => {
                    put_address(pattern, self.version, &mut bytes);
                }
                Component::Numeric(_, values) => put_numbers(values, &mut bytes),
                Component::Bits(_, values) => put_bits(values, &mut bytes),
            }
        }
        let length = bytes.len() - 1;
        match u8::try_from(length).ok().filter(|_| length <= MAX_BYTES) {
            Some(length) => bytes[0] = length,
            None => return Err(Unfit::TooLong { bytes: length }),
        }
        Ok(bytes)
    }

    fn check(&self) -> Result<(), Unfit> {
        let Some(first) = self.components.first() else { return Err(Unfit::Empty) };
        if !matches!(first, Component::Destination(_)) {
            return Err(Unfit::NoDestination);
        }
        for (one, next) in self.components.iter().zip(self.components.iter().skip(1)) {
            if one.kind() >= next.kind() {
                return Err(Unfit::Order { kind: next.kind(), after: one.kind() });
            }
        }
        self.components.iter().try_for_each(|component| self.check_component(component))
    }

    fn check_component(&self, component: &Component) -> Result<(), Unfit> {
        let kind = component.kind();
        match component {
            Component::Destination(pattern) | Component::Source(pattern) => {
                let version = if pattern.address.is_ipv4() { Version::V4 } else { Version::V6 };
                if version != self.version || pattern.length > version.bits() {
                    return Err(Unfit::Mixed { kind });
                }
                if pattern.offset != 0 {
                    return Err(Unfit::Offset { kind, offset: pattern.offset });
                }
                Ok(())
            }
            Component::Numeric(numeric, values) => {
                if kind.0 == 13 && self.version == Version::V4 {
                    return Err(Unfit::NotInThisVersion { what: "flow label" });
                }
                count(kind, values.len())?;
                if values.first().is_some_and(|value| value.and) {
                    return Err(Unfit::LeadingAnd { kind });
                }
                let most = numeric.largest();
                for value in values {
                    if matches!(value.sign(), "!=" | "true" | "false") {
                        return Err(Unfit::Comparison { kind, sign: value.sign() });
                    }
                    if value.value > most {
                        return Err(Unfit::Value { kind, value: value.value });
                    }
                }
                Ok(())
            }
            Component::Bits(bitmask, values) => {
                count(kind, values.len())?;
                if values.first().is_some_and(|value| value.and) {
                    return Err(Unfit::LeadingAnd { kind });
                }
                for value in values {
                    // What follows NS in the header is the data offset; RFC 8955 has it ignored, and not all do.
                    let known = if *bitmask == Bitmask::TcpFlags { 0xff } else { 0x0f };
                    if value.value == 0 || value.value > known {
                        return Err(Unfit::Value { kind, value: value.value });
                    }
                    let dont_fragment = value.value & Bitmask::DONT_FRAGMENT != 0;
                    if *bitmask == Bitmask::Fragment && dont_fragment && self.version == Version::V6 {
                        return Err(Unfit::NotInThisVersion { what: "don't fragment" });
                    }
                }
                Ok(())
            }
        }
    }
}

impl super::nlri::Numeric {
    /// The largest number that the field can hold.
    pub const fn largest(self) -> u64 {
        match self {
            Self::Protocol | Self::IcmpType | Self::IcmpCode => 0xff,
            Self::Port | Self::DestinationPort | Self::SourcePort | Self::Length => 0xffff,
            Self::Dscp => 63,
            Self::FlowLabel => 0xf_ffff,
        }
    }
}

const fn count(kind: Kind, values: usize) -> Result<(), Unfit> {
    match values {
        0 => Err(Unfit::NoValues { kind }),
        1..=MAX_VALUES => Ok(()),
        _ => Err(Unfit::TooManyValues { kind, values }),
    }
}

fn put_address(pattern: &AddressPattern, version: Version, bytes: &mut Vec<u8>) {
    bytes.push(pattern.length);
    if version == Version::V6 {
        bytes.push(pattern.offset);
    }
    let octets = match pattern.address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.extend(octets.iter().take(usize::from(pattern.length).div_ceil(8)));
}

/// How many bytes a value takes, and the bits of the operator that say so: 1, 2, 4 or 8.
fn width(value: u64) -> (usize, u8) {
    match value {
        0..=0xff => (1, 0),
        0x100..=0xffff => (2, 0x10),
        0x1_0000..=0xffff_ffff => (4, 0x20),
        _ => (8, 0x30),
    }
}

const END: u8 = 0x80;
const AND: u8 = 0x40;

fn put(operator: u8, and: bool, is_last: bool, value: u64, bytes: &mut Vec<u8>) {
    let (width, length) = width(value);
    bytes.push(operator | length | if and { AND } else { 0 } | if is_last { END } else { 0 });
    bytes.extend(value.to_be_bytes().iter().skip(8 - width));
}

fn put_numbers(values: &[NumericValue], bytes: &mut Vec<u8>) {
    for (index, value) in values.iter().enumerate() {
        let operator = u8::from(value.less) << 2 | u8::from(value.greater) << 1 | u8::from(value.equal);
        put(operator, value.and, index + 1 == values.len(), value.value, bytes);
    }
}

fn put_bits(values: &[BitsValue], bytes: &mut Vec<u8>) {
    for (index, value) in values.iter().enumerate() {
        let operator = u8::from(value.not) << 1 | u8::from(value.all);
        put(operator, value.and, index + 1 == values.len(), value.value, bytes);
    }
}
