//! Addresses, prefixes and durations on the command line.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use levee_api::prefix::{Prefix, PrefixError};

/// An address or a prefix.
pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(Prefix::host(address)),
        Err(_) => text.parse().map_err(|error: PrefixError| match error {
            PrefixError::Syntax(_) => {
                "write an address or a prefix, such as 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32, without a port"
                    .to_owned()
            }
            error => error.to_string(),
        }),
    }
}

/// A whole number of something, in words.
pub(super) fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "write a whole number without a unit, such as 1000000".to_owned())
}

/// As the configuration writes them.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    levee_api::config::duration(text)
}
