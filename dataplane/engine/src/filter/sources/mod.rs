//! Address sets: which lists a packet's source is on, answered for a burst at a time, however long the lists are.
//!
//! All lists together are one immutable longest-prefix structure. An address has a *class*, a bit for each of at most
//! [`MAX_SETS`] sets, set when any prefix or range of that set covers it. Internally the combinations of sets that occur
//! are numbered, and seven bits hold such a number; a small table turns it into the class.
//!
//! * `build`: overlapping ranges to disjoint ones. * `ipv4`: a byte per /24, then a 64-byte bucket.
//! * `ipv6`: a tree of 64-byte nodes. * [`list`]: files to ranges. * `policy`: what zones do with sets.

mod build;
mod ipv4;
mod ipv6;
pub mod list;
mod policy;
#[cfg(test)]
mod tests;

use levee_api::lane::{Bits, Lane};

pub use build::{BuildError, Ranges, Set};
pub use policy::{SetUse, Sources};

use crate::packet::Lanes;
use build::Numbered;
use ipv4::Ipv4;
use ipv6::Ipv6;

/// Named sets that there can be: the class is a mask of 16 bits.
pub const MAX_SETS: usize = levee_api::address_set::MAX_ADDRESS_SETS;
/// Different combinations of sets that may occur, besides "none": seven bits, and one value says "look elsewhere".
pub const MAX_COMBINATIONS: usize = 126;
/// Ranges of all sets together: at most 1.3 GiB of tables, when no two are in one /24.
pub const MAX_RANGES: usize = 4 << 20;

/// Packets that are looked up together.
const BATCH: usize = 64;

/// All address sets, ready to be asked. Immutable; part of a table generation.
#[derive(Debug, Default)]
pub struct SourceSets {
    ipv4: Ipv4,
    ipv6: Ipv6,
    /// From the number of a combination to the class.
    classes: Vec<u16>,
    protected: u16,
}

/// The addresses of one version in a batch, and which packets they belong to.
struct Batch<A> {
    addresses: [A; BATCH],
    packets: [u8; BATCH],
    count: usize,
}

impl SourceSets {
    /// Builds the structure; set `i` is bit `i` of the class. Addresses in `protected` are taken out of every set that
    /// does not say otherwise.
    ///
    /// # Errors
    /// Too many sets, ranges or combinations.
    pub fn build(sets: &[Set], protected: &Ranges) -> Result<Self, BuildError> {
        let Numbered { ipv4, ipv6, classes, protected } = Numbered::of(sets, protected)?;
        Ok(Self { ipv4: Ipv4::build(&ipv4), ipv6: Ipv6::build(&ipv6), classes, protected })
    }

    /// True when no address is in any set: there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }

    /// The sets (bit `i`: set `i`) from which protected addresses were taken out.
    pub fn protected(&self) -> u16 {
        self.protected
    }

    /// Bytes of the tables.
    pub fn bytes(&self) -> usize {
        self.ipv4.bytes() + self.ipv6.bytes()
    }

    /// The class of the source of each packet: bit `i` is set when it is in set `i`. What is not IP has no source, and
    /// what is written for it means nothing.
    #[inline(never)]
    pub fn classify(&self, lanes: &[Lanes], classes: &mut [u16]) {
        if self.is_empty() {
            return classes.fill(0);
        }
        for (lanes, classes) in lanes.chunks(BATCH).zip(classes.chunks_mut(BATCH)) {
            self.classify_batch(lanes, classes);
        }
    }

    /// The class of one source address.
    pub fn class_of(&self, address: std::net::IpAddr) -> u16 {
        let mut number = [0];
        match address {
            std::net::IpAddr::V4(address) => self.ipv4.look_up(&[u32::from(address)], &mut number),
            std::net::IpAddr::V6(address) => self.ipv6.look_up(&[u128::from(address)], &mut number),
        }
        let [number] = number;
        self.class(number)
    }

    fn classify_batch(&self, lanes: &[Lanes], classes: &mut [u16]) {
        let mut ipv4 = Batch { addresses: [0_u32; BATCH], packets: [0; BATCH], count: 0 };
        let mut ipv6 = Batch { addresses: [0_u128; BATCH], packets: [0; BATCH], count: 0 };
        for (packet, lanes) in (0_u8..).zip(lanes) {
            if lanes.bits().contains(Bits::IPV6) {
                ipv6.push(packet, lanes.source().into_iter().fold(0, |sum, piece| sum << 16 | u128::from(piece)));
            } else {
                ipv4.push(packet, u32::from(lanes.get(Lane::Src6)) << 16 | u32::from(lanes.get(Lane::Src7)));
            }
        }
        let mut numbers = [0; BATCH];
        if let (Some(addresses), Some(numbers)) = (ipv4.addresses.get(..ipv4.count), numbers.get_mut(..ipv4.count)) {
            self.ipv4.look_up(addresses, numbers);
        }
        self.write(&ipv4, &numbers, classes);
        if ipv6.count > 0 {
            if let (Some(addresses), Some(numbers)) = (ipv6.addresses.get(..ipv6.count), numbers.get_mut(..ipv6.count))
            {
                self.ipv6.look_up(addresses, numbers);
            }
            self.write(&ipv6, &numbers, classes);
        }
    }

    #[inline(always)]
    fn write<A>(&self, batch: &Batch<A>, numbers: &[u8; BATCH], classes: &mut [u16]) {
        for (packet, number) in batch.packets.iter().zip(numbers).take(batch.count) {
            if let Some(class) = classes.get_mut(usize::from(*packet)) {
                *class = self.class(*number);
            }
        }
    }

    #[inline(always)]
    fn class(&self, number: u8) -> u16 {
        self.classes.get(usize::from(number)).copied().unwrap_or(0)
    }
}

impl<A> Batch<A> {
    #[inline(always)]
    fn push(&mut self, packet: u8, address: A) {
        if let (Some(to), Some(at)) = (self.addresses.get_mut(self.count), self.packets.get_mut(self.count)) {
            (*to, *at) = (address, packet);
            self.count += 1;
        }
    }
}
