//! What this machine depends on: its own addresses, its gateways, its resolvers. Nobody lists them, and whoever cuts them off
//! cuts off the appliance, or whoever looks after it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;

use crate::guardrail::resolvers;

/// Addresses with a word on what each is, sorted. What cannot be read is left out: without it there is nothing to protect.
pub fn depends_on() -> Vec<(IpAddr, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let own = interfaces().into_iter().map(|(name, address)| (address, format!("this machine on {name}")));
    let gateways = gateways_v4(&read("/proc/net/route")).into_iter().chain(gateways_v6(&read("/proc/net/ipv6_route")));
    let gateways = gateways.map(|address| (address, "a gateway of this machine".to_owned()));
    let resolvers = resolvers(&read("/etc/resolv.conf")).into_iter();
    let resolvers = resolvers.map(|address| (address, "a resolver of this machine".to_owned()));
    // One word for each address: the last that was said.
    let all: BTreeMap<IpAddr, String> = resolvers.chain(gateways).chain(own).filter(|(of, _)| is_reached(of)).collect();
    all.into_iter().collect()
}

/// Names and addresses of the interfaces.
fn interfaces() -> Vec<(String, IpAddr)> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        let address = v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))?;
        Some((interface.interface_name, address))
    };
    interfaces.filter_map(address).collect()
}

/// False for what never leaves this machine or this link: nobody upstream has a route to it.
const fn is_reached(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_loopback() || address.is_link_local() || address.is_unspecified() || address.is_multicast())
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_unspecified()
                || address.is_multicast())
        }
    }
}

/// Gateways of /proc/net/route, whose third column is the address as the machine has it in memory.
fn gateways_v4(routes: &str) -> Vec<IpAddr> {
    let gateway = |line: &str| {
        let word = line.split_whitespace().nth(2)?;
        let address = u32::from_str_radix(word, 16).ok().filter(|_| word.len() == 8)?;
        Some(IpAddr::from(Ipv4Addr::from(address.to_ne_bytes())))
    };
    routes.lines().skip(1).filter_map(gateway).collect()
}

/// Gateways of /proc/net/ipv6_route, whose fifth column is the address as it is sent.
fn gateways_v6(routes: &str) -> Vec<IpAddr> {
    let gateway = |line: &str| {
        let word = line.split_whitespace().nth(4)?;
        let address = u128::from_str_radix(word, 16).ok().filter(|_| word.len() == 32)?;
        Some(IpAddr::from(Ipv6Addr::from(address)))
    };
    routes.lines().filter_map(gateway).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_read_as_the_kernel_writes_them() {
        let routes = format!(
            "Iface\tDestination\tGateway \tFlags\neth0\t00000000\t{:08X}\t0003\t0\neth0\t000200C0\t00000000\t0001\nnonsense\n",
            u32::from_ne_bytes([192, 0, 2, 1])
        );
        let gateways = gateways_v4(&routes);
        assert_eq!(gateways, ["192.0.2.1".parse::<IpAddr>().unwrap(), "0.0.0.0".parse().unwrap()]);
        let none = "00000000000000000000000000000000";
        let routes = format!(
            "{none} 00 {none} 00 20010db8000000000000000000000001 00000400 00000001 00000000 00000003 eth0\nshort\n"
        );
        assert_eq!(gateways_v6(&routes), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_is_only_reached_from_here_is_not_depended_on() {
        for (address, is) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("169.254.1.1", false),
            ("0.0.0.0", false),
            ("192.0.2.1", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(is_reached(&address.parse().unwrap()), is, "{address}");
        }
        assert!(interfaces().iter().any(|(_, address)| address.is_loopback()), "each machine has one");
        assert!(depends_on().iter().all(|(address, what)| is_reached(address) && !what.is_empty()));
    }
}
