//! One filter to one rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use levee_api::filter::{Constraint, HeaderBox, Masked, Side};
use levee_api::lane::{Bits, LANES, Lane, TcpFlags};
use levee_api::prefix::Prefix;

use super::{LeftOut, Lowered, Wanted};
use crate::bgp::flowspec::MAX_VALUES;
use crate::ledger::{FlowRule, PortRange};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// The TCP flags of the fourteenth byte of the header, the only one that all routers compare.
const FLAGS: u16 = 0xff;

/// What a filter asks for, lane by lane.
struct Asked {
    ranges: [(u16, u16); LANES],
    flags: Masked,
    classes: Masked,
    bits: Masked,
}

/// The rule that is being made, and what it had to leave out.
struct Making {
    rule: FlowRule,
    omitted: Vec<String>,
    wider_bits: f64,
}

pub(super) fn lower(wanted: &Wanted<'_>, destination: Prefix) -> Result<Lowered, LeftOut> {
    let never = || LeftOut::NeverMatches(destination);
    let matches = wanted.rule.matches.prefix(Side::Destination, destination);
    if matches.is_empty() {
        return Err(never());
    }
    let asked = Asked::of(&matches);
    if asked.bits.value & Bits::TUNNELLED.bits() != 0 {
        return Err(LeftOut::Tunnelled);
    }
    let mut making = Making { rule: FlowRule::to(destination), omitted: Vec::new(), wider_bits: 0.0 };
    making.addresses(&asked, destination.is_ipv4()).ok_or_else(never)?;
    making.protocols(&asked).ok_or_else(never)?;
    making.flags(&asked);
    making.ports(&asked).ok_or_else(never)?;
    making.whole_packet(&asked).ok_or_else(never)?;
    making.fragments(&asked).ok_or_else(never)?;
    making.not_for_routers(&asked);
    if let Some(pattern) = wanted.rule.pattern {
        let bits: u32 = pattern.mask.iter().take(usize::from(pattern.length)).map(|mask| mask.count_ones()).sum();
        making.omit(format!("{} bytes of payload", pattern.length), f64::from(bits));
    }
    if !wanted.rule.except.is_empty() {
        making.omit(format!("{} exceptions", wanted.rule.except.len()), 0.0);
    }
    if wanted.by_role {
        making.omit("roles in conversations".to_owned(), 0.0);
    }
    let Making { rule, omitted, wider_bits } = making;
    let exact = omitted.is_empty();
    if !exact && rule.is_bare() || rule == FlowRule::to(rule.destination) && !wanted.rule.matches.is_any() {
        return Err(LeftOut::Everything);
    }
    Ok(Lowered { rule, exact, omitted, wider_bits, effect: wanted.effect, filters: Vec::new() })
}

impl Asked {
    fn of(matches: &HeaderBox) -> Self {
        let mut asked = Self {
            ranges: [(0, u16::MAX); LANES],
            flags: Masked::default(),
            classes: Masked::default(),
            bits: Masked::default(),
        };
        for constraint in matches.constraints() {
            match constraint {
                Constraint::Range { lane, lo, hi } => {
                    if let Some(range) = asked.ranges.get_mut(lane.index()) {
                        *range = (lo, hi);
                    }
                }
                Constraint::Mask { lane: Lane::TcpFlags, masked } => asked.flags = masked,
                Constraint::Mask { lane: Lane::SourceClass, masked } => asked.classes = masked,
                Constraint::Mask { masked, .. } => asked.bits = masked,
            }
        }
        asked
    }

    fn range(&self, lane: Lane) -> (u16, u16) {
        self.ranges.get(lane.index()).copied().unwrap_or((0, u16::MAX))
    }

    /// A property has to be there, or must not; none when that is no matter.
    const fn wants(&self, bit: Bits) -> Option<bool> {
        if self.bits.mask & bit.bits() == 0 { None } else { Some(self.bits.value & bit.bits() != 0) }
    }
}

impl Making {
    fn omit(&mut self, what: String, bits: f64) {
        self.omitted.push(what);
        self.wider_bits += bits;
    }

    /// The narrowest prefixes around the addresses. None when an IPv4 packet cannot have them.
    fn addresses(&mut self, asked: &Asked, is_ipv4: bool) -> Option<()> {
        for (side, first) in [(Side::Source, Lane::Src0), (Side::Destination, Lane::Dst0)] {
            let lanes = asked.ranges.get(first.index()..first.index() + 8)?;
            let (unused, used) = lanes.split_at(if is_ipv4 { 6 } else { 0 });
            if unused.iter().any(|(lo, _)| *lo != 0) {
                return None;
            }
            let (prefix, spare) = around(used);
            match side {
                Side::Destination => self.rule.destination = prefix,
                Side::Source => self.rule.source = (prefix.length() > 0).then_some(prefix),
            }
            if spare > 0.0 {
                let which = if side == Side::Source { "source" } else { "destination" };
                self.omit(format!("{which} addresses that are no prefix"), spare);
            }
        }
        Some(())
    }

    fn protocols(&mut self, asked: &Asked) -> Option<()> {
        let (lo, hi) = asked.range(Lane::Protocol);
        if lo > 255 {
            return None;
        }
        let (lo, hi) = (u8::try_from(lo).ok()?, u8::try_from(hi.min(255)).ok()?);
        if usize::from(hi - lo) < MAX_VALUES {
            self.rule.protocols = (lo..=hi).collect();
        } else if asked.flags.value != 0 {
            // Nothing else has flags.
            self.rule.protocols = (lo..=hi).contains(&TCP).then(|| vec![TCP])?;
        } else if (lo, hi) != (0, 255) {
            self.omit(format!("protocols {lo} to {hi}"), spare(256, lo.into(), hi.into()));
        }
        Some(())
    }

    /// A router compares flags where there is a TCP header; that a flag is *not* set also holds where there is none.
    fn flags(&mut self, asked: &Asked) {
        let Masked { mask, value } = asked.flags;
        if mask == 0 {
            return;
        }
        let beyond = mask & !FLAGS;
        if self.rule.protocols == [TCP] && value & FLAGS != 0 {
            self.rule.tcp_flags = Some((mask & FLAGS, value & FLAGS));
            if beyond != 0 {
                self.omit("TCP flag ns".to_owned(), f64::from(beyond.count_ones()));
            }
        } else {
            let names: Vec<String> =
                TcpFlags::from_bits_truncate(mask).iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect();
            self.omit(format!("TCP flags {}", names.join("+")), f64::from(mask.count_ones()));
        }
    }

    /// Ports, or type and code of ICMP: what a router compares where there is a header, and the box also where there is
    /// none, as zero. None when no packet has such numbers.
    fn ports(&mut self, asked: &Asked) -> Option<()> {
        let (source, destination) = (asked.range(Lane::SrcPort), asked.range(Lane::DstPort));
        let protocols = &self.rule.protocols;
        let version = if self.rule.destination.is_ipv4() { ICMP } else { ICMPV6 };
        let has_ports = !protocols.is_empty() && protocols.iter().all(|protocol| matches!(*protocol, TCP | UDP));
        let has_types = *protocols == [version];
        // A number that is not zero is one of a header, and with one number of it the other is there too.
        let has_header = source.0 > 0 || destination.0 > 0 || has_ports && asked.wants(Bits::PORTS) == Some(true);
        let largest = if has_types { 255 } else { u16::MAX };
        if source.0 > largest || destination.0 > largest {
            return None;
        }
        let mut named = false;
        for ((lo, hi), is_source) in [(source, true), (destination, false)] {
            let hi = hi.min(largest);
            if (lo, hi) == (0, largest) {
                continue;
            }
            let range = vec![PortRange { first: lo, last: hi }];
            let place = match (has_types, is_source) {
                (true, true) => &mut self.rule.icmp_types,
                (true, false) => &mut self.rule.icmp_codes,
                (false, true) => &mut self.rule.source_ports,
                (false, false) => &mut self.rule.destination_ports,
            };
            if (has_ports || has_types) && has_header {
                *place = range;
                named = true;
            } else {
                let which = if is_source { "source port or type" } else { "destination port or code" };
                self.omit(format!("{which} {lo} to {hi}"), spare(u32::from(largest) + 1, lo, hi));
            }
        }
        match asked.wants(Bits::PORTS) {
            None => {}
            // What compares ports has them.
            Some(true) if has_ports && named => {}
            Some(true) if has_types => return None,
            Some(true) => {
                self.rule.later_fragment = Some(false);
                self.omit("a header with ports".to_owned(), 1.0);
            }
            Some(false) if has_types => {}
            Some(false) => self.omit("no header with ports".to_owned(), 1.0),
        }
        Some(())
    }

    /// None when no packet has such a traffic class.
    fn whole_packet(&mut self, asked: &Asked) -> Option<()> {
        let (lo, hi) = asked.range(Lane::IpLength);
        if (lo, hi) != (0, u16::MAX) {
            self.rule.lengths = vec![PortRange { first: lo, last: hi }];
        }
        let (lo, hi) = asked.range(Lane::Dscp);
        if lo > 255 {
            return None;
        }
        let hi = hi.min(255);
        let (first, last) = (lo >> 2, hi >> 2);
        if (first, last) != (0, 63) {
            self.rule.dscps = vec![PortRange { first, last }];
        }
        if lo & 3 != 0 || hi & 3 != 3 {
            let (whole, asked) = (f64::from((last - first + 1) * 4), f64::from(hi - lo + 1));
            self.omit("congestion notification (ECN)".to_owned(), (whole / asked).log2());
        }
        Some(())
    }

    /// None when no packet is such a fragment: later ones have no header of what they carry.
    fn fragments(&mut self, asked: &Asked) -> Option<()> {
        let FlowRule { source_ports, destination_ports, icmp_types, icmp_codes, tcp_flags, later_fragment, .. } =
            &self.rule;
        let numbers = [source_ports, destination_ports, icmp_types, icmp_codes];
        let has_header =
            *later_fragment == Some(false) || tcp_flags.is_some() || numbers.iter().any(|numbers| !numbers.is_empty());
        let wants_later = asked.wants(Bits::LATER_FRAGMENT);
        if wants_later == Some(true) && (has_header || asked.wants(Bits::FIRST_FRAGMENT) == Some(true)) {
            return None;
        }
        self.rule.later_fragment = wants_later.or(self.rule.later_fragment);
        match asked.wants(Bits::FIRST_FRAGMENT) {
            None => {}
            Some(true) => {
                self.rule.later_fragment = Some(false);
                self.omit("first fragments only".to_owned(), 1.0);
            }
            Some(false) => self.omit("no first fragments".to_owned(), 1.0),
        }
        Some(())
    }

    fn not_for_routers(&mut self, asked: &Asked) {
        for lane in [
            Lane::PayloadLength,
            Lane::Ttl,
            Lane::TcpWindow,
            Lane::Ident,
            Lane::Digest,
            Lane::TcpMss,
            Lane::Payload0,
            Lane::Payload2,
        ] {
            let (lo, hi) = asked.range(lane);
            if (lo, hi) != (0, u16::MAX) {
                let values = if lane == Lane::Ttl { 256 } else { 65_536 };
                self.omit(format!("{lane} {lo} to {hi}"), spare(values, lo, hi));
            }
        }
        if asked.classes.mask != 0 {
            self.omit("address sets".to_owned(), f64::from(asked.classes.mask.count_ones()));
        }
        let known = Bits::IPV6 | Bits::PORTS | Bits::LATER_FRAGMENT | Bits::FIRST_FRAGMENT;
        let others = Bits::from_bits_truncate(asked.bits.mask & !known.bits());
        for (name, bit) in others.iter_names() {
            let sign = if asked.bits.value & bit.bits() != 0 { '+' } else { '-' };
            self.omit(format!("{sign}{}", name.to_ascii_lowercase()), 1.0);
        }
    }
}

/// How many times larger all values are than those asked for, in powers of two.
fn spare(values: u32, lo: u16, hi: u16) -> f64 {
    let asked = u32::from(hi.max(lo) - lo) + 1;
    (f64::from(values) / f64::from(asked.min(values))).log2()
}

/// The narrowest prefix around addresses whose pieces are in these ranges, and how much larger it is, in powers of two.
fn around(pieces: &[(u16, u16)]) -> (Prefix, f64) {
    let mut address: u128 = 0;
    let mut length: u8 = 0;
    let mut spare = 0.0;
    let mut is_fixed = true;
    for (lo, hi) in pieces {
        let asked = f64::from(hi - lo) + 1.0;
        if is_fixed {
            let common = u8::try_from((lo ^ hi).leading_zeros()).unwrap_or(16);
            let free = 16 - common;
            address = address << 16 | u128::from(u32::from(*lo) >> free << free);
            length += common;
            spare += f64::from(free) - asked.log2();
            is_fixed = common == 16;
        } else {
            address <<= 16;
            spare += 16.0 - asked.log2();
        }
    }
    let address = match u32::try_from(address) {
        Ok(v4) if pieces.len() == 2 => IpAddr::V4(Ipv4Addr::from(v4)),
        _ => IpAddr::V6(Ipv6Addr::from(address)),
    };
    (Prefix::containing(address, length), spare)
}
