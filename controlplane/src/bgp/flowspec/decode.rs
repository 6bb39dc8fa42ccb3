//! Bytes to rules: everything that the RFCs allow, also what we would not send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::nlri::{AddressPattern, Bitmask, BitsValue, Component, Kind, Nlri, Numeric, NumericValue, Version};

/// Why bytes are no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("the rule ends in the middle of {0}")]
    Short(&'static str),
    /// A rule of no components.
    #[error("the rule is empty")]
    Empty,
    /// Not a type that there is.
    #[error("{0} is no type of component")]
    Type(u8),
    /// Components out of order, or twice (RFC 8955, section 4.2).
    #[error("{kind} comes after {after}: components are in ascending order")]
    Order {
        /// Which.
        kind: Kind,
        /// The one before it.
        after: Kind,
    },
    /// A prefix that is longer than an address, or begins behind its end.
    #[error("the {kind} is from bit {offset} to bit {length}")]
    Length {
        /// Of which component.
        kind: Kind,
        /// First bit.
        offset: u8,
        /// The bit behind the last.
        length: u8,
    },
}

impl Nlri {
    /// The first rule of `bytes`, and how many bytes it took.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(version: Version, bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        let mut reader = Reader { bytes };
        let length = match reader.byte("its length")? {
            // Two bytes, of which the first four bits say that they are two (RFC 8955, section 4.1).
            high @ 0xf0..=0xff => usize::from(high & 0x0f) << 8 | usize::from(reader.byte("its length")?),
            short => usize::from(short),
        };
        if length == 0 {
            return Err(DecodeError::Empty);
        }
        let body = reader.take(length, "its components")?;
        let taken = bytes.len() - reader.bytes.len();
        let mut reader = Reader { bytes: body };
        let mut components: Vec<Component> = Vec::new();
        while !reader.bytes.is_empty() {
            let component = reader.component(version)?;
            let kind = component.kind();
            match components.last() {
                Some(last) if last.kind() >= kind => return Err(DecodeError::Order { kind, after: last.kind() }),
                _ => components.push(component),
            }
        }
        Ok((Self { version, components }, taken))
    }
}

struct Reader<'b> {
    bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'b [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(DecodeError::Short(what))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let (first, rest) = self.bytes.split_first().ok_or(DecodeError::Short(what))?;
        self.bytes = rest;
        Ok(*first)
    }

    fn component(&mut self, version: Version) -> Result<Component, DecodeError> {
        let code = self.byte("a type")?;
        match (code, Numeric::of(code), Bitmask::of(code)) {
            (1, ..) => Ok(Component::Destination(self.address(Kind(1), version)?)),
            (2, ..) => Ok(Component::Source(self.address(Kind(2), version)?)),
            (13, ..) if version == Version::V4 => Err(DecodeError::Type(13)),
            (_, Some(numeric), _) => Ok(Component::Numeric(numeric, self.list(numeric.name(), number)?)),
            (_, None, Some(bitmask)) => Ok(Component::Bits(bitmask, self.list(bitmask.name(), bits)?)),
            (_, None, None) => Err(DecodeError::Type(code)),
        }
    }

    fn address(&mut self, kind: Kind, version: Version) -> Result<AddressPattern, DecodeError> {
        let length = self.byte(kind.name())?;
        let offset = if version == Version::V6 { self.byte(kind.name())? } else { 0 };
        // Length 0 is every address, whatever the offset says (RFC 8956, section 3.1).
        let offset = if length == 0 { 0 } else { offset };
        if length > version.bits() || (offset >= length && length != 0) {
            return Err(DecodeError::Length { kind, offset, length });
        }
        // The pattern stands left-aligned in as many bytes as it needs.
        let count = usize::from(length - offset).div_ceil(8);
        let mut octets = [0_u8; 16];
        for (octet, byte) in octets.iter_mut().zip(self.take(count, kind.name())?) {
            *octet = *byte;
        }
        let width = u32::from(length - offset);
        let pattern = u128::from_be_bytes(octets);
        // Padding is ignored.
        let masked = if width == 0 { 0 } else { pattern >> (128 - width) << (128 - width) };
        let placed = masked >> u32::from(offset);
        let address = match version {
            Version::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(placed >> 96).unwrap_or(0))),
            Version::V6 => IpAddr::V6(Ipv6Addr::from(placed)),
        };
        Ok(AddressPattern { address, offset, length })
    }

    /// Operators and values up to the one that ends the list.
    fn list<T>(&mut self, what: &'static str, read: impl Fn(u8, bool, u64) -> T) -> Result<Vec<T>, DecodeError> {
        let mut values = Vec::new();
        loop {
            let operator = self.byte(what)?;
            let value = self.take(1 << (operator >> 4 & 0x03), what)?;
            let value = value.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
            // The first has nothing before it: its AND bit means nothing (RFC 8955, section 4.2.1.1).
            values.push(read(operator, operator & 0x40 != 0 && !values.is_empty(), value));
            if operator & 0x80 != 0 {
                return Ok(values);
            }
        }
    }
}

const fn number(operator: u8, and: bool, value: u64) -> NumericValue {
    NumericValue { and, less: operator & 0x04 != 0, greater: operator & 0x02 != 0, equal: operator & 0x01 != 0, value }
}

const fn bits(operator: u8, and: bool, value: u64) -> BitsValue {
    BitsValue { and, not: operator & 0x02 != 0, all: operator & 0x01 != 0, value }
}
