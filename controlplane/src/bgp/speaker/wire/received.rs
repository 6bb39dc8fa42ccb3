//! What an UPDATE of somebody else announces and withdraws: of prefixes and FlowSpec rules, with large communities.
//!
//! The speaker does not look at it; of routes that a router has from us it tells that they have arrived.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use levee_api::prefix::Prefix;

use crate::bgp::flowspec::{Nlri, Version};
use crate::bgp::route::{Destination, Family, LargeCommunity};

/// What an UPDATE says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// What there is from now on.
    pub announced: BTreeSet<Path>,
    /// What there is no more.
    pub withdrawn: BTreeSet<Path>,
    /// What those that are announced carry.
    pub large: BTreeSet<LargeCommunity>,
    /// Something was not right, and the routes with it count as withdrawn (RFC 7606).
    pub malformed: bool,
}

/// One of the routes for a destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// What it is to.
    pub destination: Destination,
    /// What tells it apart from others to the same (RFC 7911); 0 where there is one.
    pub id: u32,
}

impl Received {
    /// Reads what follows the header. `with_ids`: the families in which routes have path identifiers; nothing in the message
    /// says so. None: not even what the routes are can be told, so that nothing is known of them.
    pub fn read(body: &[u8], with_ids: &[Family]) -> Option<Self> {
        let (withdrawn, rest) = counted(body)?;
        let (attributes, routes) = counted(rest)?;
        let mut received = Self::default();
        routes_of(withdrawn, Family::Ipv4Unicast, with_ids, &mut received.withdrawn)?;
        routes_of(routes, Family::Ipv4Unicast, with_ids, &mut received.announced)?;
        let mut seen = BTreeSet::new();
        let mut rest = attributes;
        while !rest.is_empty() {
            // What is behind an attribute of a length that cannot be is not found any more.
            let Some((code, value, after)) = attribute(rest) else {
                received.malformed = true;
                break;
            };
            rest = after;
            let is_first = seen.insert(code);
            match code {
                // Said twice it may mean either (RFC 7606, section 3 g).
                14 | 15 if !is_first => return None,
                14 => reached(value, with_ids, &mut received)?,
                15 => unreached(value, with_ids, &mut received)?,
                // The first of several counts (the same section).
                32 if is_first => received.communities(value),
                _ => {}
            }
        }
        if received.malformed {
            received.withdrawn.append(&mut received.announced);
        }
        // What is withdrawn and announced at once is there (RFC 4271, section 4.3).
        let announced = &received.announced;
        received.withdrawn.retain(|path| !announced.contains(path));
        Some(received)
    }

    fn communities(&mut self, value: &[u8]) {
        let (communities, rest) = value.as_chunks::<12>();
        self.malformed |= !rest.is_empty() || communities.is_empty();
        let number = |four: &[u8]| four.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        self.large.extend(communities.iter().map(|twelve| {
            let [a, b, c] = [&twelve[..4], &twelve[4..8], &twelve[8..]].map(number);
            LargeCommunity([a, b, c])
        }));
    }
}

/// What two bytes say the length of, and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let ([high, low], rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))
}

/// Code, value, and what follows.
fn attribute(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([flags, code], rest) = bytes.split_first_chunk()?;
    let (value, after) = if flags & 0x10 != 0 {
        counted(rest)?
    } else {
        let (length, rest) = rest.split_first()?;
        rest.split_at_checked(usize::from(*length))?
    };
    Some((*code, value, after))
}

/// MP_REACH_NLRI (RFC 4760, section 3). What is of another family is not looked at.
fn reached(value: &[u8], with_ids: &[Family], received: &mut Received) -> Option<()> {
    let ([high, low, safi, next_hop], rest) = value.split_first_chunk()?;
    let (_, rest) = rest.split_at_checked(usize::from(*next_hop))?;
    let (_, routes) = rest.split_first()?;
    match Family::of(u16::from_be_bytes([*high, *low]), *safi) {
        Some(family) => routes_of(routes, family, with_ids, &mut received.announced),
        None => Some(()),
    }
}

/// MP_UNREACH_NLRI (RFC 4760, section 4).
fn unreached(value: &[u8], with_ids: &[Family], received: &mut Received) -> Option<()> {
    let ([high, low, safi], routes) = value.split_first_chunk()?;
    match Family::of(u16::from_be_bytes([*high, *low]), *safi) {
        Some(family) => routes_of(routes, family, with_ids, &mut received.withdrawn),
        None => Some(()),
    }
}

fn routes_of(mut bytes: &[u8], family: Family, with_ids: &[Family], into: &mut BTreeSet<Path>) -> Option<()> {
    let has_ids = with_ids.contains(&family);
    while !bytes.is_empty() {
        let mut id = 0;
        if has_ids {
            let (number, rest) = bytes.split_first_chunk()?;
            (id, bytes) = (u32::from_be_bytes(*number), rest);
        }
        let (destination, rest) = match family {
            Family::Ipv4Unicast | Family::Ipv6Unicast => prefix(bytes, family)?,
            Family::Ipv4Flowspec => rule(bytes, Version::V4)?,
            Family::Ipv6Flowspec => rule(bytes, Version::V6)?,
        };
        into.insert(Path { destination, id });
        bytes = rest;
    }
    Some(())
}

/// The first prefix, and what follows.
fn prefix(bytes: &[u8], family: Family) -> Option<(Destination, &[u8])> {
    let most = if family.afi() == 1 { 32 } else { 128 };
    let (length, rest) = bytes.split_first()?;
    let (value, rest) = rest.split_at_checked(usize::from(*length).div_ceil(8))?;
    if *length > most {
        return None;
    }
    let mut octets = [0_u8; 16];
    octets.iter_mut().zip(value).for_each(|(octet, byte)| *octet = *byte);
    let [a, b, c, d, ..] = octets;
    let address = if most == 32 { IpAddr::V4(Ipv4Addr::new(a, b, c, d)) } else { IpAddr::V6(Ipv6Addr::from(octets)) };
    // Bits behind the prefix mean nothing (RFC 4271, section 4.3).
    Some((Destination::Prefix(Prefix::containing(address, *length)), rest))
}

/// The first rule, and what follows.
fn rule(bytes: &[u8], version: Version) -> Option<(Destination, &[u8])> {
    let (rule, taken) = Nlri::decode(version, bytes).ok()?;
    let (one, rest) = bytes.split_at_checked(taken)?;
    // Routers may write a number in more bytes than it needs: told apart are rules, not how they are written.
    Some((Destination::Rule(version, rule.encode().unwrap_or_else(|_| one.to_vec())), rest))
}
