//! The rules of the ledger, as they go over the wire.

use super::nlri::{Bitmask, BitsValue, Component, Nlri, Numeric, NumericValue, Version};
use crate::ledger::{FlowRule, PortRange};

impl From<&FlowRule> for Nlri {
    /// The same rule on the wire. Whether routers take it is [`Nlri::encode`]'s to say.
    fn from(rule: &FlowRule) -> Self {
        let version = Version::of(&rule.destination);
        let mut components = vec![Component::Destination(rule.destination.into())];
        components.extend(rule.source.map(|source| Component::Source(source.into())));
        let mut numbers = |kind, values: Vec<NumericValue>| {
            if !values.is_empty() {
                components.push(Component::Numeric(kind, values));
            }
        };
        let protocols = rule.protocols.iter().map(|protocol| NumericValue::exactly((*protocol).into()));
        numbers(Numeric::Protocol, protocols.collect());
        numbers(Numeric::DestinationPort, ranges(&rule.destination_ports));
        numbers(Numeric::SourcePort, ranges(&rule.source_ports));
        numbers(Numeric::IcmpType, ranges(&rule.icmp_types));
        numbers(Numeric::IcmpCode, ranges(&rule.icmp_codes));
        if let Some((mask, value)) = rule.tcp_flags {
            components.extend(flags(mask, value).map(|values| Component::Bits(Bitmask::TcpFlags, values)));
        }
        let mut numbers = |kind, values: Vec<NumericValue>| {
            if !values.is_empty() {
                components.push(Component::Numeric(kind, values));
            }
        };
        numbers(Numeric::Length, ranges(&rule.lengths));
        numbers(Numeric::Dscp, ranges(&rule.dscps));
        components.extend(rule.later_fragment.map(|later| {
            let value = BitsValue { and: false, not: !later, all: false, value: Bitmask::IS_FRAGMENT };
            Component::Bits(Bitmask::Fragment, vec![value])
        }));
        Self { version, components }
    }
}

fn ranges(ranges: &[PortRange]) -> Vec<NumericValue> {
    let mut values = Vec::with_capacity(ranges.len() * 2);
    for range in ranges {
        if range.first == range.last {
            values.push(NumericValue::exactly(range.first.into()));
        } else {
            values.push(NumericValue::at_least(range.first.into()));
            values.push(NumericValue::and_at_most(range.last.into()));
        }
    }
    values
}

/// `flags & mask == value`: all that are to be set, and none of the others.
fn flags(mask: u16, value: u16) -> Option<Vec<BitsValue>> {
    let (set, clear) = (value & mask, mask & !value);
    let mut values = Vec::new();
    if set != 0 {
        values.push(BitsValue { and: false, not: false, all: true, value: set.into() });
    }
    if clear != 0 {
        values.push(BitsValue { and: set != 0, not: true, all: false, value: clear.into() });
    }
    (!values.is_empty()).then_some(values)
}
