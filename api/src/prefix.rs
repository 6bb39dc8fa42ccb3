//! Address prefixes, IPv4 and IPv6.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A prefix with no host bits set; a host is a prefix of full length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Prefix(IpNet);

/// Why a text is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Neither ADDRESS/LENGTH nor an address.
    #[error("{0:?} is not a prefix: write ADDRESS/LENGTH, such as 203.0.113.0/24 or 2001:db8::/32")]
    Syntax(String),
    /// Bits after the prefix length are set.
    #[error("{given} has bits set after its prefix length: did you mean {meant}?")]
    HostBits {
        /// As written.
        given: String,
        /// The prefix that contains it.
        meant: Prefix,
    },
}

impl Prefix {
    /// The prefix of `length` bits that contains `address`; a longer length than the address has is cut.
    pub fn containing(address: IpAddr, length: u8) -> Self {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let net = IpNet::new(address, length.min(most)).unwrap_or_else(|_| IpNet::from(address));
        Self(net.trunc())
    }

    /// The prefix of full length.
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// First address.
    pub fn address(&self) -> IpAddr {
        self.0.network()
    }

    /// Length in bits.
    pub fn length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// True for 32 bits of IPv4 and 128 of IPv6.
    pub fn is_host(&self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }

    /// True for IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.0.addr().is_ipv4()
    }

    /// True when `address` lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// True when all of `other` lies inside.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// True when the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let trimmed = text.trim();
        if let Ok(address) = trimmed.parse::<IpAddr>() {
            return Ok(Self::host(address));
        }
        let net: IpNet = trimmed.parse().map_err(|_| PrefixError::Syntax(text.to_owned()))?;
        let prefix = Self(net.trunc());
        if net.addr() == prefix.address() {
            Ok(prefix)
        } else {
            Err(PrefixError::HostBits { given: trimmed.to_owned(), meant: prefix })
        }
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self::host(address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_with_host_bits_names_the_prefix_that_was_meant() {
        let error = "203.0.113.7/24".parse::<Prefix>().unwrap_err();
        assert!(error.to_string().contains("did you mean 203.0.113.0/24"), "{error}");
    }

    #[test]
    fn an_address_alone_is_a_host() {
        let host: Prefix = "2001:db8::1".parse().unwrap();
        assert!(host.is_host());
        assert!("2001:db8::/32".parse::<Prefix>().unwrap().covers(&host));
        assert!(!"0.0.0.0/0".parse::<Prefix>().unwrap().covers(&host), "versions never mix");
    }
}
