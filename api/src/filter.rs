//! A filter as a region of header space: the meaning of a match, shared by the dataplane's tables, FlowSpec and
//! provider rules. How a table compiles it is the engine's business.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::lane::{Bits, LANES, Lane, TcpFlags};
use crate::prefix::Prefix;
use crate::role::RoleSet;
use crate::time::Timestamp;

/// A region: `lo[i] <= lane[i] <= hi[i]` for all lanes, plus masked compares on the three bit lanes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeaderBox {
    lo: [u16; LANES],
    hi: [u16; LANES],
    flags: Masked,
    classes: Masked,
    bits: Masked,
}

/// A masked compare: `lane & mask == value`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Masked {
    /// Which bits matter; none: always true.
    pub mask: u16,
    /// What they must be.
    pub value: u16,
}

/// One condition of a box, as tables and renderings see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Constraint {
    /// `lo <= lane <= hi`.
    Range {
        /// A lane that is not a bit field.
        lane: Lane,
        /// Smallest value that matches.
        lo: u16,
        /// Largest value that matches.
        hi: u16,
    },
    /// `lane & mask == value`.
    Mask {
        /// A lane that is a bit field.
        lane: Lane,
        /// The compare.
        masked: Masked,
    },
}

/// Which address of a packet a prefix speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Source address.
    Source,
    /// Destination address.
    Destination,
}

impl Default for HeaderBox {
    fn default() -> Self {
        Self::any()
    }
}

impl HeaderBox {
    /// The box of everything.
    pub const fn any() -> Self {
        Self {
            lo: [0; LANES],
            hi: [u16::MAX; LANES],
            flags: Masked { mask: 0, value: 0 },
            classes: Masked { mask: 0, value: 0 },
            bits: Masked { mask: 0, value: 0 },
        }
    }

    /// Narrows a lane to `lo..=hi`; a bit lane is not touched (use [`Self::flags`], [`Self::classes`] and [`Self::bits`]).
    #[must_use]
    pub fn range(mut self, lane: Lane, lo: u16, hi: u16) -> Self {
        if !lane.is_bits() {
            let at = lane.index();
            if let (Some(low), Some(high)) = (self.lo.get_mut(at), self.hi.get_mut(at)) {
                *low = (*low).max(lo);
                *high = (*high).min(hi);
            }
        }
        self
    }

    /// Narrows a lane to one value.
    #[must_use]
    pub fn exact(self, lane: Lane, value: u16) -> Self {
        self.range(lane, value, value)
    }

    /// Narrows a port lane, and requires that the lane holds a port at all.
    #[must_use]
    pub fn port(self, side: Side, lo: u16, hi: u16) -> Self {
        let lane = match side {
            Side::Source => Lane::SrcPort,
            Side::Destination => Lane::DstPort,
        };
        self.range(lane, lo, hi).bits(Bits::PORTS, Bits::PORTS)
    }

    /// Narrows an address to a prefix, and fixes the IP version.
    #[must_use]
    pub fn prefix(self, side: Side, prefix: Prefix) -> Self {
        let first = match side {
            Side::Source => Lane::Src0.index(),
            Side::Destination => Lane::Dst0.index(),
        };
        let (address, length, version) = match prefix.address() {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), u32::from(prefix.length()) + 96, Bits::empty()),
            IpAddr::V6(v6) => (u128::from(v6), u32::from(prefix.length()), Bits::IPV6),
        };
        let span = u128::MAX.checked_shr(length).unwrap_or(0);
        let mut narrowed = self.bits(Bits::IPV6, version);
        for piece in 0..8_usize {
            let shift = 112 - 16 * piece;
            let of = |value: u128| u16::try_from(value >> shift & 0xffff).unwrap_or(u16::MAX);
            if let Some(lane) = Lane::ALL.get(first + piece) {
                narrowed = narrowed.range(*lane, of(address), of(address | span));
            }
        }
        narrowed
    }

    /// Requires TCP flags: `flags & mask == value`.
    #[must_use]
    pub fn flags(mut self, mask: TcpFlags, value: TcpFlags) -> Self {
        self.flags = self.flags.and(Masked { mask: mask.bits(), value: value.bits() });
        self
    }

    /// Requires membership in address sets, bit `i` for set `i`: `class & mask == value`.
    #[must_use]
    pub fn classes(mut self, mask: u16, value: u16) -> Self {
        self.classes = self.classes.and(Masked { mask, value });
        self
    }

    /// True when packets in different address sets differ.
    pub const fn asks_for_class(&self) -> bool {
        self.classes.mask != 0
    }

    /// Requires properties: `bits & mask == value`.
    #[must_use]
    pub fn bits(mut self, mask: Bits, value: Bits) -> Self {
        self.bits = self.bits.and(Masked { mask: mask.bits(), value: value.bits() });
        self
    }

    /// True when the packet lies inside: the meaning that every compiled kernel must agree with.
    pub fn contains(&self, lanes: &[u16; LANES]) -> bool {
        let inside = self.lo.iter().zip(&self.hi).zip(lanes).all(|((lo, hi), lane)| lo <= lane && lane <= hi);
        let at = |lane: Lane| lanes.get(lane.index()).copied().unwrap_or(0);
        inside
            && self.flags.matches(at(Lane::TcpFlags))
            && self.classes.matches(at(Lane::SourceClass))
            && self.bits.matches(at(Lane::Bits))
    }

    /// The conditions that are not "any", in lane order.
    pub fn constraints(&self) -> impl Iterator<Item = Constraint> + '_ {
        Lane::ALL.into_iter().filter_map(|lane| match lane {
            Lane::TcpFlags => (self.flags.mask != 0).then_some(Constraint::Mask { lane, masked: self.flags }),
            Lane::SourceClass => (self.classes.mask != 0).then_some(Constraint::Mask { lane, masked: self.classes }),
            Lane::Bits => (self.bits.mask != 0).then_some(Constraint::Mask { lane, masked: self.bits }),
            _ => {
                let (lo, hi) = (*self.lo.get(lane.index())?, *self.hi.get(lane.index())?);
                (lo != 0 || hi != u16::MAX).then_some(Constraint::Range { lane, lo, hi })
            }
        })
    }

    /// The box of some conditions.
    pub fn of(constraints: impl IntoIterator<Item = Constraint>) -> Self {
        constraints.into_iter().fold(Self::any(), |narrowed, constraint| match constraint {
            Constraint::Range { lane, lo, hi } => narrowed.range(lane, lo, hi),
            Constraint::Mask { lane, masked } => {
                let mut narrowed = narrowed;
                match lane {
                    Lane::TcpFlags => narrowed.flags = narrowed.flags.and(masked),
                    Lane::SourceClass => narrowed.classes = narrowed.classes.and(masked),
                    _ => narrowed.bits = narrowed.bits.and(masked),
                }
                narrowed
            }
        })
    }

    /// The intersection with another box.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self::of(self.constraints().chain(other.constraints()))
    }

    /// True when no packet can lie inside.
    pub fn is_empty(&self) -> bool {
        self.lo.iter().zip(&self.hi).any(|(lo, hi)| lo > hi)
            || self.flags.is_empty()
            || self.classes.is_empty()
            || self.bits.is_empty()
    }

    /// True when every packet lies inside.
    pub fn is_any(&self) -> bool {
        *self == Self::any()
    }
}

impl Masked {
    /// Both compares at once; contradictions end up empty.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        let clash = (self.value ^ other.value) & self.mask & other.mask;
        // A contradiction is kept as a value outside its mask, which nothing equals.
        let mask = (self.mask | other.mask) & !clash;
        Self { mask, value: (self.value & self.mask) | (other.value & other.mask) | clash }
    }

    /// True when the lane's value passes.
    pub const fn matches(self, lane: u16) -> bool {
        lane & self.mask == self.value
    }

    /// True when no value passes.
    pub const fn is_empty(self) -> bool {
        self.value & !self.mask != 0
    }
}

/// Payload bytes at an offset: an optional second stage for the few packets whose box matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// Bytes after the transport header.
    pub offset: u16,
    /// How many of the 16 bytes are compared.
    pub length: u8,
    /// What they must be after masking.
    pub bytes: [u8; 16],
    /// Which bits matter.
    pub mask: [u8; 16],
}

impl Pattern {
    /// True when `payload` (as far as it is present) holds the pattern.
    pub fn matches(&self, payload: &[u8]) -> bool {
        let (from, length) = (usize::from(self.offset), usize::from(self.length).min(16));
        payload.get(from..from + length).is_some_and(|found| {
            found.iter().zip(&self.mask).zip(&self.bytes).all(|((byte, mask), want)| byte & mask == want & mask)
        })
    }
}

/// A region with holes: the box minus its exceptions, and the payload pattern if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What matches.
    pub matches: HeaderBox,
    /// Payload bytes that must be there too.
    pub pattern: Option<Pattern>,
    /// What is taken out again.
    pub except: Vec<HeaderBox>,
}

impl Rule {
    /// A rule without pattern and exceptions.
    pub const fn of(matches: HeaderBox) -> Self {
        Self { matches, pattern: None, except: Vec::new() }
    }

    /// True when a packet with these lanes and this payload matches.
    pub fn contains(&self, lanes: &[u16; LANES], payload: &[u8]) -> bool {
        self.matches.contains(lanes)
            && self.pattern.is_none_or(|pattern| pattern.matches(payload))
            && !self.except.iter().any(|hole| hole.contains(lanes))
    }
}

/// What happens to a packet that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It passes, whatever later filters say.
    Pass,
    /// It is dropped.
    Drop,
    /// It is dropped while what shares the limit exceeds this many packets per second.
    Limit {
        /// Packets per second.
        pps: u32,
        /// What shares one limit.
        per: Per,
    },
    /// A SYN or a DNS query passes if its source is verified, or if the filter has matched at most this many per second; else it
    /// is answered with the challenge of its zone. Everything else passes.
    Challenge {
        /// Packets per second that pass unasked.
        above_pps: u32,
    },
    /// A packet passes, but if it is the one of so many within ten seconds from its source to its target, everything of that
    /// source to that target is dropped for a minute. Of a filter for SYNs and requests both, a request takes a SYN back: what
    /// counts is connections that are not used.
    BlockSource {
        /// 0: matches are only counted.
        after: u8,
    },
}

/// What shares the rate of one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Per {
    /// Everything that the filter matches.
    #[default]
    Target,
    /// What comes from one source address.
    Source,
    /// What comes from one source prefix: [`Per::IPV4_LENGTH`] or [`Per::IPV6_LENGTH`] bits.
    SourcePrefix,
}

impl Per {
    /// Bits of a source prefix in IPv4: what one network announces at least.
    pub const IPV4_LENGTH: u8 = 24;
    /// Bits of a source prefix in IPv6: what one site is usually given.
    pub const IPV6_LENGTH: u8 = 48;

    /// The name used in rendered filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Source => "source",
            Self::SourcePrefix => "source_prefix",
        }
    }
}

/// What a filter is installed on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// Name of the zone.
    pub zone: String,
    /// Host or prefix inside it; none: the whole zone.
    pub prefix: Option<Prefix>,
}

/// Who asked for a filter, and so who ends it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The dataplane's own reflex.
    Reflex,
    /// The control plane, for the owner it names.
    ControlPlane {
        /// Opaque to the dataplane: an incident, an operator.
        owner: String,
    },
}

/// A signature with an action and a deadline, installed on a target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Unique within one run of the dataplane.
    pub id: u64,
    /// What it is installed on.
    pub target: Target,
    /// The roles it applies to; [`crate::role::Role::Established`] only to limit its sources.
    pub roles: RoleSet,
    /// The signature.
    pub rule: Rule,
    /// What happens to what matches.
    pub action: Action,
    /// The dataplane ends it here, whoever is alive.
    pub deadline: Timestamp,
    /// Who asked.
    pub origin: Origin,
    /// The evidence that allowed it, in words.
    pub witness: String,
}

impl fmt::Display for HeaderBox {
    /// `protocol=17 src_port=53 ip_length=1400-1500 bits&0x0020=0x0020`; `any` for the box of everything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for constraint in self.constraints() {
            if !first {
                f.write_str(" ")?;
            }
            first = false;
            match constraint {
                Constraint::Range { lane, lo, hi } if lo == hi => match lane {
                    Lane::Payload0 | Lane::Payload2 | Lane::Digest => write!(f, "{lane}={lo:#06x}")?,
                    _ => write!(f, "{lane}={lo}")?,
                },
                Constraint::Range { lane, lo, hi } => write!(f, "{lane}={lo}-{hi}")?,
                Constraint::Mask { lane, masked } => {
                    write_mask(f, lane, masked)?;
                }
            }
        }
        if first { f.write_str("any") } else { Ok(()) }
    }
}

/// `+syn -ack`: names of the bits that must be set and must be clear.
fn write_mask(f: &mut fmt::Formatter<'_>, lane: Lane, masked: Masked) -> fmt::Result {
    if masked.is_empty() {
        return write!(f, "{lane}=never");
    }
    let mut first = true;
    for bit in 0..16 {
        let mask = 1_u16 << bit;
        if masked.mask & mask == 0 {
            continue;
        }
        let name = match lane {
            Lane::TcpFlags => TcpFlags::from_bits_truncate(mask).iter_names().next().map(|(name, _)| name),
            Lane::Bits => Bits::from_bits_truncate(mask).iter_names().next().map(|(name, _)| name),
            _ => None,
        };
        let sign = if masked.value & mask != 0 { '+' } else { '-' };
        if !first {
            f.write_str(" ")?;
        }
        first = false;
        match name {
            Some(name) => write!(f, "{sign}{}", name.to_ascii_lowercase())?,
            None => write!(f, "{sign}{lane}:{bit}")?,
        }
    }
    Ok(())
}

impl fmt::Debug for HeaderBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeaderBox({self})")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.matches)?;
        if let Some(pattern) = self.pattern {
            write!(f, " payload[{}]=", pattern.offset)?;
            for byte in pattern.bytes.iter().take(usize::from(pattern.length)) {
                write!(f, "{byte:02x}")?;
            }
        }
        for hole in &self.except {
            write!(f, " except ({hole})")?;
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::Drop => f.write_str("drop"),
            Self::Limit { pps, per: Per::Target } => write!(f, "limit {pps} pps"),
            Self::Limit { pps, per } => write!(f, "limit {pps} pps per {}", per.name()),
            Self::Challenge { above_pps: 0 } => f.write_str("challenge"),
            Self::Challenge { above_pps } => write!(f, "challenge above {above_pps} pps"),
            Self::BlockSource { after: 0 } => f.write_str("count sources"),
            Self::BlockSource { after: 1 } => f.write_str("block source"),
            Self::BlockSource { after } => write!(f, "block source after {after} matches"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(prefix) if prefix.is_host() => write!(f, "{}", prefix.address()),
            Some(prefix) => write!(f, "{prefix}"),
            None => write!(f, "zone {}", self.zone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(pairs: &[(Lane, u16)]) -> [u16; LANES] {
        let mut lanes = [0; LANES];
        for (lane, value) in pairs {
            lanes[lane.index()] = *value;
        }
        lanes
    }

    #[test]
    fn a_prefix_is_a_box() {
        let net = HeaderBox::any().prefix(Side::Destination, "203.0.113.0/24".parse().unwrap());
        assert!(net.contains(&lanes(&[(Lane::Dst6, 0xcb00), (Lane::Dst7, 0x71ff)])));
        assert!(!net.contains(&lanes(&[(Lane::Dst6, 0xcb00), (Lane::Dst7, 0x7200)])));
        let v6 = HeaderBox::any().prefix(Side::Source, "2001:db8::/32".parse().unwrap());
        let bits = Bits::IPV6.bits();
        assert!(v6.contains(&lanes(&[(Lane::Src0, 0x2001), (Lane::Src1, 0xdb8), (Lane::Src7, 9), (Lane::Bits, bits)])));
        assert!(!v6.contains(&lanes(&[(Lane::Src0, 0x2001), (Lane::Src1, 0xdb8)])), "an IPv4 packet is never in it");
    }

    #[test]
    fn constraints_rebuild_the_box() {
        let shape = HeaderBox::any()
            .port(Side::Source, 53, 53)
            .range(Lane::IpLength, 400, 1500)
            .flags(TcpFlags::SYN | TcpFlags::ACK, TcpFlags::SYN)
            .prefix(Side::Destination, "2001:db8:1::/48".parse().unwrap());
        assert_eq!(HeaderBox::of(shape.constraints()), shape);
        assert_eq!(shape.and(&shape), shape);
    }

    #[test]
    fn contradicting_masks_match_nothing() {
        let never = HeaderBox::any().flags(TcpFlags::SYN, TcpFlags::SYN).flags(TcpFlags::SYN, TcpFlags::empty());
        assert!(never.is_empty());
        for flags in 0..512 {
            assert!(!never.contains(&lanes(&[(Lane::TcpFlags, flags)])));
        }
    }

    #[test]
    fn a_rule_is_a_box_minus_boxes() {
        let rule = Rule {
            matches: HeaderBox::any().exact(Lane::Protocol, 17),
            pattern: Some(Pattern { offset: 1, length: 2, bytes: [2; 16], mask: [0xff; 16] }),
            except: vec![HeaderBox::any().exact(Lane::Ttl, 64)],
        };
        assert!(rule.contains(&lanes(&[(Lane::Protocol, 17)]), &[1, 2, 2]));
        assert!(!rule.contains(&lanes(&[(Lane::Protocol, 17)]), &[1, 2]), "too short for the pattern");
        assert!(!rule.contains(&lanes(&[(Lane::Protocol, 17), (Lane::Ttl, 64)]), &[1, 2, 2]));
        assert_eq!(rule.to_string(), "protocol=17 payload[1]=0202 except (ttl=64)");
    }
}
