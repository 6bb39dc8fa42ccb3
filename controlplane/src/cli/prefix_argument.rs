//! Addresses, prefixes and durations on the command line.

use std::net::IpAddr;
use std::time::Duration;

use levee_api::prefix::Prefix;

/// An address or a prefix.
pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(Prefix::host(address)),
        Err(_) => text.parse().map_err(|error: levee_api::prefix::PrefixError| error.to_string()),
    }
}

/// As the configuration writes them.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    levee_api::config::duration(text)
}
