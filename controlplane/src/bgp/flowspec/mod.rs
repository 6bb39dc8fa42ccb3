//! FlowSpec rules and actions on the wire: RFC 8955 for IPv4, RFC 8956 for IPv6.
//!
//! [`Nlri`] is everything that a rule can be; it is decoded as the RFCs have it. What is *encoded* has to keep within what
//! real routers were seen to take ([`Unfit`]): one rule that a router cannot read resets its session, or turns FlowSpec off
//! without a word.

mod action;
mod decode;
mod encode;
mod from_ledger;
mod nlri;

pub use action::{BadRedirect, TrafficAction};
pub use decode::DecodeError;
pub use encode::{MAX_BYTES, MAX_VALUES, Unfit};
pub use nlri::{AddressPattern, Bitmask, BitsValue, Component, Kind, Nlri, Numeric, NumericValue, Version};

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;
