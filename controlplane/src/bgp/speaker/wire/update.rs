//! UPDATE: routes announced and withdrawn.

use std::net::IpAddr;

use super::{AS_TRANS, message};
use crate::bgp::route::{Destination, Family, Route};

/// Who tells a route to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Our AS.
    pub local_as: u32,
    /// The peer is in another AS.
    pub external: bool,
    /// Both know AS numbers of four bytes.
    pub four_octet: bool,
}

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const EXTENDED: u8 = 0x10;

/// Adds one attribute.
fn put(attributes: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(length) => attributes.extend([flags, code, length]),
        Err(_) => {
            let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
            attributes.extend([flags | EXTENDED, code, high, low]);
        }
    }
    attributes.extend(value);
}

impl Announced {
    /// An UPDATE that announces one route.
    pub fn announce(self, route: &Route) -> Vec<u8> {
        let family = route.destination.family();
        let nlri = nlri(&route.destination);
        let mut attributes = Vec::new();
        put(&mut attributes, TRANSITIVE, 1, &[0]);
        self.path(route.path_length, &mut attributes);
        if let (Family::Ipv4Unicast, Some(IpAddr::V4(next_hop))) = (family, route.next_hop) {
            put(&mut attributes, TRANSITIVE, 3, &next_hop.octets());
        }
        if !self.external {
            // What RFC 4271 asks for within an AS; 100 is what everybody takes as given.
            put(&mut attributes, TRANSITIVE, 5, &100_u32.to_be_bytes());
        }
        if !route.communities.is_empty() {
            let value: Vec<u8> = route.communities.iter().flat_map(|community| community.0.to_be_bytes()).collect();
            put(&mut attributes, OPTIONAL | TRANSITIVE, 8, &value);
        }
        if family != Family::Ipv4Unicast {
            let next_hop = match route.next_hop {
                Some(IpAddr::V6(address)) => address.octets().to_vec(),
                Some(IpAddr::V4(address)) => address.octets().to_vec(),
                None => Vec::new(),
            };
            let [high, low] = family.afi().to_be_bytes();
            let mut value = vec![high, low, family.safi(), u8::try_from(next_hop.len()).unwrap_or(0)];
            value.extend(next_hop);
            value.push(0);
            value.extend(&nlri);
            put(&mut attributes, OPTIONAL, 14, &value);
        }
        if !route.extended.is_empty() {
            put(&mut attributes, OPTIONAL | TRANSITIVE, 16, &route.extended.concat());
        }
        if !self.four_octet && u16::try_from(self.local_as).is_err() && self.external {
            let path = vec![self.local_as; route.path_length.into()];
            let mut value = vec![2, route.path_length];
            value.extend(path.iter().flat_map(|asn| asn.to_be_bytes()));
            put(&mut attributes, OPTIONAL | TRANSITIVE, 17, &value);
        }
        if !route.large.is_empty() {
            let value: Vec<u8> =
                route.large.iter().flat_map(|community| community.0).flat_map(u32::to_be_bytes).collect();
            put(&mut attributes, OPTIONAL | TRANSITIVE, 32, &value);
        }
        update(&[], &attributes, if family == Family::Ipv4Unicast { &nlri } else { &[] })
    }

    /// A sequence of our own AS to an external peer; empty to one of our own.
    fn path(self, length: u8, attributes: &mut Vec<u8>) {
        let mut value = Vec::new();
        if self.external && length > 0 {
            value.extend([2, length]);
            for _ in 0..length {
                if self.four_octet {
                    value.extend(self.local_as.to_be_bytes());
                } else {
                    value.extend(u16::try_from(self.local_as).unwrap_or(AS_TRANS).to_be_bytes());
                }
            }
        }
        put(attributes, TRANSITIVE, 2, &value);
    }

    /// An UPDATE that withdraws one route.
    pub fn withdraw(destination: &Destination) -> Vec<u8> {
        let family = destination.family();
        let nlri = nlri(destination);
        if family == Family::Ipv4Unicast {
            return update(&nlri, &[], &[]);
        }
        let mut attributes = Vec::new();
        let [high, low] = family.afi().to_be_bytes();
        let mut value = vec![high, low, family.safi()];
        value.extend(nlri);
        put(&mut attributes, OPTIONAL, 15, &value);
        update(&[], &attributes, &[])
    }
}

/// The message after which everything of a family has been told (RFC 4724, section 2).
pub fn end_of_rib(family: Family) -> Vec<u8> {
    if family == Family::Ipv4Unicast {
        return update(&[], &[], &[]);
    }
    let mut attributes = Vec::new();
    let [high, low] = family.afi().to_be_bytes();
    put(&mut attributes, OPTIONAL, 15, &[high, low, family.safi()]);
    update(&[], &attributes, &[])
}

fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = |part: &[u8]| u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut body = length(withdrawn).to_vec();
    body.extend(withdrawn);
    body.extend(length(attributes));
    body.extend(attributes);
    body.extend(nlri);
    message(2, &body)
}

fn nlri(destination: &Destination) -> Vec<u8> {
    match destination {
        Destination::Rule(_, bytes) => bytes.clone(),
        Destination::Prefix(prefix) => {
            let octets = match prefix.address() {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let mut bytes = vec![prefix.length()];
            bytes.extend(octets.iter().take(usize::from(prefix.length()).div_ceil(8)));
            bytes
        }
    }
}
