//! What nothing may touch: what the configuration lists, and what we depend on without listing it.

use std::net::IpAddr;

use levee_api::config::Config;
use levee_api::prefix::Prefix;

/// A prefix that nothing may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Which.
    pub prefix: Prefix,
    /// What it is, for refusals.
    pub what: String,
}

pub(super) fn collect(config: &Config, ours: impl IntoIterator<Item = (IpAddr, String)>) -> Vec<Protected> {
    let listed = config
        .guardrails
        .protected_prefixes
        .iter()
        .map(|prefix| Protected { prefix: *prefix, what: "what is listed as protected".to_owned() });
    let of_announcers = config.announcers.iter().flat_map(|announcer| {
        let neighbors = announcer.neighbors.iter().map(|address| (*address, "a BGP neighbor"));
        let next_hops = announcer.next_hops.iter().map(|address| (*address, "a next hop"));
        neighbors.chain(next_hops).map(|(address, what)| Protected {
            prefix: Prefix::host(address),
            what: format!("{what} of announcer {:?}", announcer.name),
        })
    });
    let mut all: Vec<Protected> = listed.chain(of_announcers).collect();
    all.extend(ours.into_iter().map(|(address, what)| Protected { prefix: Prefix::host(address), what }));
    all
}

/// The resolvers of a resolv.conf(5): without them notifications reach nobody.
pub fn resolvers(resolv_conf: &str) -> Vec<IpAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            // A scope behind % belongs to the interface, not to the address.
            (words.next()? == "nameserver").then(|| words.next()?.split('%').next()?.parse().ok())?
        })
        .collect()
}
