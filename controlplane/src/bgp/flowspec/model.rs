//! What a router does with a rule, by the letter of RFC 8955 and 8956: against this the encoding is tested.

use std::net::IpAddr;

use super::nlri::{AddressPattern, Bitmask, BitsValue, Component, Nlri, Numeric, NumericValue, Version};

/// A packet as a router sees it. What it does not have is none, and then what compares it does not match.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ports: Option<(u16, u16)>,
    pub(crate) icmp: Option<(u8, u8)>,
    pub(crate) tcp_flags: Option<u16>,
    pub(crate) length: u16,
    pub(crate) dscp: u8,
    /// As in the fragment component.
    pub(crate) fragment: u64,
}

impl Packet {
    pub(crate) fn matches(&self, rule: &Nlri) -> bool {
        let version = if self.destination.is_ipv4() { Version::V4 } else { Version::V6 };
        version == rule.version && rule.components.iter().all(|component| self.component(component))
    }

    fn component(&self, component: &Component) -> bool {
        match component {
            Component::Destination(pattern) => address(pattern, self.destination),
            Component::Source(pattern) => address(pattern, self.source),
            Component::Numeric(Numeric::Port, values) => self.ports.is_some_and(|(source, destination)| {
                numbers(values, source.into()) || numbers(values, destination.into())
            }),
            Component::Numeric(numeric, values) => self.number(*numeric).is_some_and(|value| numbers(values, value)),
            Component::Bits(Bitmask::TcpFlags, values) => {
                self.tcp_flags.is_some_and(|flags| bits(values, flags.into()))
            }
            Component::Bits(Bitmask::Fragment, values) => bits(values, self.fragment),
        }
    }

    fn number(&self, numeric: Numeric) -> Option<u64> {
        Some(match numeric {
            Numeric::Protocol => self.protocol.into(),
            Numeric::DestinationPort => self.ports?.1.into(),
            Numeric::SourcePort => self.ports?.0.into(),
            Numeric::IcmpType => self.icmp?.0.into(),
            Numeric::IcmpCode => self.icmp?.1.into(),
            Numeric::Length => self.length.into(),
            Numeric::Dscp => self.dscp.into(),
            Numeric::Port | Numeric::FlowLabel => return None,
        })
    }
}

fn address(pattern: &AddressPattern, address: IpAddr) -> bool {
    let (want, have, width) = match (pattern.address, address) {
        (IpAddr::V4(want), IpAddr::V4(have)) => {
            (u128::from(u32::from(want)) << 96, u128::from(u32::from(have)) << 96, 32)
        }
        (IpAddr::V6(want), IpAddr::V6(have)) => (u128::from(want), u128::from(have), 128),
        _ => return false,
    };
    assert!(pattern.length <= width);
    (pattern.offset..pattern.length).all(|bit| (want ^ have) >> (127 - bit) & 1 == 0)
}

/// Groups of comparisons that all hold, any of which suffices.
fn any_group<T>(values: &[T], and: impl Fn(&T) -> bool, holds: impl Fn(&T) -> bool) -> bool {
    let mut result = false;
    let mut group = false;
    for (index, value) in values.iter().enumerate() {
        if index > 0 && !and(value) {
            result |= group;
            group = holds(value);
        } else {
            group = holds(value) && (index == 0 || group);
        }
    }
    result | group
}

fn numbers(values: &[NumericValue], number: u64) -> bool {
    any_group(
        values,
        |value| value.and,
        |value| {
            value.less && number < value.value
                || value.greater && number > value.value
                || value.equal && number == value.value
        },
    )
}

fn bits(values: &[BitsValue], data: u64) -> bool {
    any_group(
        values,
        |value| value.and,
        |value| (if value.all { data & value.value == value.value } else { data & value.value != 0 }) != value.not,
    )
}
