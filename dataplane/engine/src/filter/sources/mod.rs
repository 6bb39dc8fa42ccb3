//! Address sets: which lists a packet's source is on, answered for a burst at a time, however long the lists are.
//!
//! All lists together are one immutable longest-prefix structure. An address has a *class*, a bit for each of at most
//! [`MAX_SETS`] sets, set when any prefix or range of that set covers it. Internally the combinations of sets that occur
//! are numbered, and seven bits hold such a number; a small table turns it into the class.
//!
//! * `build`: overlapping ranges to disjoint ones. * `ipv4`: a byte per /24, then a 64-byte bucket.
//! * `ipv6`, `node`: a tree of 64-byte nodes. * [`list`]: files to ranges. * `policy`: what zones do with sets.

mod build;
mod ipv4;
mod ipv6;
pub mod list;
mod node;
mod policy;
#[cfg(test)]
mod tests;

use levee_api::lane::Lane;

pub use build::{BuildError, Ranges, Set};
pub use policy::{SetUse, Sources};

use crate::isa::Isa;
use crate::packet::{Parsed, columns};
use crate::pipeline::{BURST, set_bits};
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
const BATCH: usize = BURST;

/// All address sets, ready to be asked. Immutable; part of a table generation.
#[derive(Debug, Default)]
pub struct SourceSets {
    ipv4: Ipv4,
    ipv6: Ipv6,
    /// From the number of a combination to the class.
    classes: Vec<u16>,
    protected: u16,
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

    /// Asks for what [`Self::classify`] reads first of sources whose last pair of lanes this is.
    #[inline]
    pub fn prefetch(&self, sources: &[u32]) {
        if !self.ipv4.is_empty() {
            for pair in sources {
                self.ipv4.prefetch(columns::address_of(*pair));
            }
        }
    }

    /// The class of the source of each of the first `count` packets: bit `i` is set when it is in set `i`. A bit for each packet
    /// whose source is in any. What is not IP has no source, and what is written for it means nothing.
    #[inline(never)]
    pub fn classify(&self, isa: Isa, parsed: &Parsed, count: usize, classes: &mut [u16; BURST]) -> u64 {
        if self.is_empty() {
            classes.fill(0);
            return 0;
        }
        let mut numbers = [0; BURST];
        let mut addresses = [0; BURST];
        for (address, pair) in addresses.iter_mut().zip(parsed.columns.of(Lane::Src6)) {
            *address = columns::address_of(*pair);
        }
        if let (Some(addresses), Some(numbers)) = (addresses.get(..count), numbers.get_mut(..count)) {
            self.ipv4.look_up(addresses, numbers);
        }
        if parsed.marks.ipv6 != 0 {
            self.look_up_v6(isa, parsed, &mut numbers);
        }
        if numbers == [0; BURST] {
            classes.fill(0);
            return 0;
        }
        let mut members = 0;
        for (at, (class, number)) in classes.iter_mut().zip(numbers).enumerate() {
            *class = self.class(number);
            members |= u64::from(*class != 0) << at;
        }
        members & parsed.marks.addressed
    }

    #[inline(never)]
    fn look_up_v6(&self, isa: Isa, Parsed { columns, marks, .. }: &Parsed, numbers: &mut [u8; BURST]) {
        let (mut networks, mut packets, mut found) = ([0; BURST], [0; BURST], [0; BURST]);
        let count = marks.ipv6.count_ones() as usize;
        for ((at, network), packet) in set_bits(marks.ipv6).zip(&mut networks).zip(&mut packets) {
            (*network, *packet) = (columns.half(Lane::Src0, at), at);
        }
        if let (Some(networks), Some(found)) = (networks.get(..count), found.get_mut(..count)) {
            let host = |packet: usize| columns.half(Lane::Src4, packets.get(packet).copied().unwrap_or(0));
            self.ipv6.look_up(isa, networks, host, found);
        }
        for (at, found) in packets.into_iter().zip(found).take(count) {
            if let Some(number) = numbers.get_mut(at) {
                *number = found;
            }
        }
    }

    /// The class of one source address.
    pub fn class_of(&self, address: std::net::IpAddr) -> u16 {
        let mut number = [0];
        match address {
            std::net::IpAddr::V4(address) => self.ipv4.look_up(&[u32::from(address)], &mut number),
            std::net::IpAddr::V6(address) => {
                let address = address.into();
                self.ipv6.look_up(Isa::SCALAR, &[ipv6::high(address)], |_| ipv6::low(address), &mut number);
            }
        }
        let [number] = number;
        self.class(number)
    }

    #[inline(always)]
    fn class(&self, number: u8) -> u16 {
        self.classes.get(usize::from(number)).copied().unwrap_or(0)
    }
}
