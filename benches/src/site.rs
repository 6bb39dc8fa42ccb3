//! What is protected, and by what: zones, hosts, targets and their filters. Packets are made to fit ([`crate::traffic`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use levee_api::filter::{Action, HeaderBox, Per, Rule, Target};
use levee_api::grpc::FilterRequest;
use levee_api::lane::Lane;
use levee_api::prefix::Prefix;
use levee_api::role::{Role, RoleSet};

/// Protected hosts: the first so many addresses of [`PREFIX4`], or one in each /64 of [`PREFIX6`].
pub const HOSTS: u32 = 100_000;
/// The zone in IPv4 (RFC 2544).
pub const PREFIX4: &str = "198.18.0.0/15";
/// The zone in IPv6 (RFC 3849).
pub const PREFIX6: &str = "2001:db8::/32";
/// Source port that the first filter of a list wants; the following ones want the following ports.
pub const FIRST_PORT: u16 = 1024;
/// Name of the zone.
pub const ZONE: &str = "bench";

/// In no list: payloads that begin with it, or with more, match nothing.
pub const NO_LIST: u16 = 0x8000;
/// What limits let pass: less than comes to most of them.
const LIMIT_PPS: u32 = 10;

const FIRST_HOST4: u32 = 0xc612_0000;
const FIRST_HOST6: u128 = 0x2001_0db8 << 96;
/// Longer than any measurement.
const FILTER_TTL: Duration = Duration::from_secs(3600);

/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which hosts have filters, and how many of their lists differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mitigations {
    /// Hosts with filters.
    pub targets: u32,
    /// Filters of each.
    pub filters: u16,
    /// Different lists among them.
    pub lists: u32,
    /// Targets are spread evenly over the first so many hosts.
    pub among: u32,
    /// The filters of one list in place of all, on the prefix of those hosts: as few filters as can match the same packets.
    pub on_prefix: bool,
    /// Every SYN is challenged.
    pub challenge: bool,
}

impl Mitigations {
    /// No host is a target.
    pub const NONE: Self = Self { targets: 0, filters: 10, lists: 1, among: HOSTS, on_prefix: false, challenge: false };

    /// The list of a target.
    pub fn list(self, target: u32) -> u16 {
        u16::try_from(target % self.lists.max(1)).unwrap_or(u16::MAX)
    }

    /// Number of the host that is a target.
    pub fn host(self, target: u32) -> u32 {
        let host = u64::from(target) * u64::from(self.among) / u64::from(self.targets.max(1));
        u32::try_from(host).unwrap_or(u32::MAX)
    }

    /// All filters, target by target.
    pub fn requests(self, family: Family) -> Vec<FilterRequest> {
        let targets = if self.on_prefix { self.targets.min(1) } else { self.targets };
        let of_targets = (0..targets)
            .flat_map(|target| (0..self.filters).map(move |position| self.request(family, target, position)));
        let challenge = self.challenge.then(|| FilterRequest {
            target: Target { zone: ZONE.to_owned(), prefix: None },
            roles: Role::Syn.set(),
            rule: Rule::of(HeaderBox::any()),
            action: Action::Challenge { above_pps: 0 },
            ..self.request(family, 0, 0)
        });
        of_targets.chain(challenge).collect()
    }

    /// One filter of a target.
    pub fn request(self, family: Family, target: u32, position: u16) -> FilterRequest {
        FilterRequest {
            owner: "levee-bench".to_owned(),
            target: Target { zone: ZONE.to_owned(), prefix: Some(self.prefix(family, target)) },
            roles: RoleSet::FILTERABLE,
            rule: Rule::of(self.signature(target, position)),
            action: action(position),
            ttl: FILTER_TTL,
            witness: "measurement".to_owned(),
        }
    }

    /// What the filters of a target are on.
    fn prefix(self, family: Family, target: u32) -> Prefix {
        let host = address(family, self.host(target));
        if !self.on_prefix {
            return Prefix::host(host);
        }
        let bits = u8::try_from(self.among.next_power_of_two().trailing_zeros()).unwrap_or(0);
        let shortest = match family {
            Family::V4 => 32,
            Family::V6 => 64,
        };
        Prefix::containing(host, shortest - bits)
    }

    /// The signature at a position of a target's list: four conditions, as extraction finds them. What stands for all
    /// lists asks for a payload of any of them.
    fn signature(self, target: u32, position: u16) -> HeaderBox {
        let shape = HeaderBox::any()
            .exact(Lane::Protocol, protocol(position).into())
            .range(Lane::Ttl, 30, 200)
            .exact(Lane::SrcPort, FIRST_PORT + position);
        if self.on_prefix {
            shape.range(Lane::Payload0, 0, NO_LIST - 1)
        } else {
            shape.exact(Lane::Payload0, self.list(target))
        }
    }
}

/// What the filter at a position of a list does.
fn action(position: u16) -> Action {
    match position % 10 {
        3 => Action::Limit { pps: LIMIT_PPS, per: Per::Target },
        6 => Action::Limit { pps: LIMIT_PPS, per: Per::Source },
        9 => Action::Limit { pps: LIMIT_PPS, per: Per::SourcePrefix },
        _ => Action::Drop,
    }
}

/// Half of a list is about UDP, half about TCP.
pub fn protocol(position: u16) -> u8 {
    if position.is_multiple_of(2) { 17 } else { 6 }
}

/// Address of a host.
pub fn address(family: Family, host: u32) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(FIRST_HOST4 + host)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(FIRST_HOST6 | u128::from(host) << 64 | 1)),
    }
}

/// The zone in the configuration. Floors are out of reach: what is in force is what the row says, not what the reflex adds.
pub fn zone_text() -> String {
    let floors: Vec<String> = Role::ALL
        .into_iter()
        .filter(|role| !matches!(role, Role::Malformed | Role::Established))
        .map(|role| format!("{role} = {}", u32::MAX))
        .collect();
    format!(
        "[[zone]]\nname = \"{ZONE}\"\nprefixes = [\"{PREFIX4}\", \"{PREFIX6}\"]\nmode = \"enforce\"\nvisibility = \"both\"\n\
         services = [ {{ proto = \"udp\", ports = [443] }}, {{ proto = \"tcp\", ports = [443] }} ]\n\
         floors = {{ {} }}\n",
        floors.join(", ")
    )
}
