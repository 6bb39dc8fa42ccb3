//! What one peer is told of a measure, and why it is told nothing.

use std::net::IpAddr;

use super::connection::Negotiated;
use crate::bgp::flowspec::{BadRedirect, Nlri, TrafficAction, Unfit, Version};
use crate::bgp::route::{Community, Destination, Family, LargeCommunity, Route};
use crate::ledger::{Direction, MitigationId, Spec};

/// How a peer wants its routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Our AS, which the owner tag begins with.
    pub local_as: u32,
    /// Blackholes for destinations carry these.
    pub blackhole: Vec<Community>,
    /// And these.
    pub blackhole_large: Vec<LargeCommunity>,
    /// Blackholes for sources carry these; none: this peer is not asked for any (RFC 5635).
    pub source_blackhole: Vec<Community>,
    /// And these.
    pub source_blackhole_large: Vec<LargeCommunity>,
    /// Diverted prefixes carry these.
    pub divert: Vec<Community>,
    /// And these.
    pub divert_large: Vec<LargeCommunity>,
    /// FlowSpec rules and blackholes stay within the peer's AS.
    pub no_export: bool,
    /// How often our AS stands in the path of a diverted prefix, at least once.
    pub prepend: u8,
    /// Next hop of IPv4 routes instead of our own address.
    pub next_hop_ipv4: Option<IpAddr>,
    /// Next hop of IPv6 routes instead of our own address.
    pub next_hop_ipv6: Option<IpAddr>,
    /// Routes that this peer is told at most.
    pub max_routes: usize,
}

/// Why a peer is not told a measure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    /// The session does not carry such routes.
    #[error("the session does not carry {0}: enable it on both sides")]
    Family(Family),
    /// There is nothing to say where packets go.
    #[error("there is no next hop for {0} on this session: give one in `next_hops` of the announcer")]
    NextHop(Family),
    /// Not on this peer.
    #[error("this peer is not asked for blackholes of sources: they need `source_blackhole_communities`")]
    SourceBlackhole,
    /// A rule that routers choke on.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// A redirection to nowhere.
    #[error(transparent)]
    Redirect(#[from] BadRedirect),
    /// Not a route.
    #[error("filters are for the dataplane")]
    Filter,
    /// Too many already.
    #[error("this peer has {0} routes already, which is its `max_routes`")]
    Budget(usize),
}

/// What a measure is announced as, whoever is told.
///
/// # Errors
/// When it cannot be announced at all.
pub fn destination(spec: &Spec) -> Result<Destination, Withheld> {
    match spec {
        Spec::Filter(_) => Err(Withheld::Filter),
        Spec::Divert { prefix } | Spec::Blackhole { prefix, .. } => Ok(Destination::Prefix(*prefix)),
        Spec::FlowSpec { rule, action } => {
            TrafficAction::of(rule, action)?;
            Ok(Destination::Rule(Version::of(&rule.destination), Nlri::from(rule).encode()?))
        }
    }
}

/// The route of a measure as a peer is told it. `ours`: our address of the session.
///
/// # Errors
/// Why it is not told.
pub fn export(
    spec: &Spec,
    id: MitigationId,
    policy: &Policy,
    negotiated: &Negotiated,
    ours: IpAddr,
) -> Result<Route, Withheld> {
    let destination = destination(spec)?;
    let family = destination.family();
    if !negotiated.families.contains(&family) {
        return Err(Withheld::Family(family));
    }
    let next_hop = match family {
        Family::Ipv4Flowspec | Family::Ipv6Flowspec => None,
        Family::Ipv4Unicast => Some(next_hop(policy.next_hop_ipv4, ours, true).ok_or(Withheld::NextHop(family))?),
        Family::Ipv6Unicast => Some(next_hop(policy.next_hop_ipv6, ours, false).ok_or(Withheld::NextHop(family))?),
    };
    let mut route = Route {
        destination,
        next_hop,
        path_length: 1,
        communities: Vec::new(),
        extended: Vec::new(),
        large: vec![owner(policy.local_as, id)],
    };
    let mut stays = policy.no_export;
    match spec {
        Spec::Filter(_) => return Err(Withheld::Filter),
        Spec::FlowSpec { rule, action } => route.extended.push(TrafficAction::of(rule, action)?.encode()),
        Spec::Blackhole { direction: Direction::Destination, .. } => {
            route.communities.extend(&policy.blackhole);
            route.large.extend(&policy.blackhole_large);
        }
        Spec::Blackhole { direction: Direction::Source, .. } => {
            if policy.source_blackhole.is_empty() && policy.source_blackhole_large.is_empty() {
                return Err(Withheld::SourceBlackhole);
            }
            route.communities.extend(&policy.source_blackhole);
            route.large.extend(&policy.source_blackhole_large);
        }
        Spec::Divert { .. } => {
            route.communities.extend(&policy.divert);
            route.large.extend(&policy.divert_large);
            route.path_length = policy.prepend.max(1);
            // A diversion that stays with the neighbour diverts nothing.
            stays = false;
        }
    }
    if stays {
        route.communities.push(Community::NO_EXPORT);
    }
    route.communities.sort_unstable();
    route.communities.dedup();
    route.large.sort_unstable();
    route.large.dedup();
    Ok(route)
}

/// The given one, or our own address if it is of that version.
fn next_hop(given: Option<IpAddr>, ours: IpAddr, ipv4: bool) -> Option<IpAddr> {
    given.or_else(|| (ours.is_ipv4() == ipv4).then_some(ours))
}

/// The owner tag: our AS, and the two halves of the mitigation's id.
fn owner(local_as: u32, id: MitigationId) -> LargeCommunity {
    let half = |bits: u64| u32::try_from(bits & 0xffff_ffff).unwrap_or(0);
    LargeCommunity([local_as, half(id.0 >> 32), half(id.0)])
}

/// Whose route it is, if this community is our owner tag. One of the operator's own may look like it.
pub fn owned(local_as: u32, community: LargeCommunity) -> Option<MitigationId> {
    let LargeCommunity([global, high, low]) = community;
    (global == local_as).then(|| MitigationId(u64::from(high) << 32 | u64::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{FlowAction, FlowRule};

    fn all() -> Negotiated {
        Negotiated { families: Family::ALL.to_vec(), ..Negotiated::default() }
    }

    fn policy() -> Policy {
        Policy {
            local_as: 64_496,
            blackhole: vec![Community::BLACKHOLE, Community(64_497 << 16 | 666)],
            no_export: true,
            prepend: 3,
            max_routes: 100,
            ..Policy::default()
        }
    }

    fn told(spec: &Spec, policy: &Policy) -> Result<Route, Withheld> {
        export(spec, MitigationId(7 << 32 | 9), policy, &all(), "192.0.2.1".parse().unwrap())
    }

    #[test]
    fn blackholes_and_rules_stay_with_the_peer_and_diversions_do_not() {
        let prefix = "203.0.113.7".parse().unwrap();
        let blackhole = told(&Spec::Blackhole { prefix, direction: Direction::Destination }, &policy()).unwrap();
        assert_eq!(blackhole.communities, [Community(64_497 << 16 | 666), Community::BLACKHOLE, Community::NO_EXPORT]);
        assert_eq!(blackhole.large, [LargeCommunity([64_496, 7, 9])], "the owner tag");
        assert_eq!((blackhole.next_hop, blackhole.path_length), (Some("192.0.2.1".parse().unwrap()), 1));
        let rule = FlowRule { protocols: vec![17], ..FlowRule::to(prefix) };
        let flowspec = told(&Spec::FlowSpec { rule, action: FlowAction::Drop }, &policy()).unwrap();
        assert_eq!((flowspec.communities, flowspec.next_hop), (vec![Community::NO_EXPORT], None));
        let divert = told(&Spec::Divert { prefix: "203.0.113.0/24".parse().unwrap() }, &policy()).unwrap();
        assert_eq!((divert.communities, divert.path_length), (vec![], 3));
    }

    #[test]
    fn what_a_peer_cannot_be_told_is_told_to_us() {
        let v6 = Spec::Divert { prefix: "2001:db8::/48".parse().unwrap() };
        assert_eq!(told(&v6, &policy()), Err(Withheld::NextHop(Family::Ipv6Unicast)));
        let with = Policy { next_hop_ipv6: Some("2001:db8::1".parse().unwrap()), ..policy() };
        assert!(told(&v6, &with).is_ok());
        let source = Spec::Blackhole { prefix: "198.51.100.1".parse().unwrap(), direction: Direction::Source };
        assert_eq!(told(&source, &policy()), Err(Withheld::SourceBlackhole));
        let none = Negotiated { families: vec![Family::Ipv4Flowspec], ..Negotiated::default() };
        let why = export(&source, MitigationId(1), &policy(), &none, "192.0.2.1".parse().unwrap());
        assert_eq!(why, Err(Withheld::Family(Family::Ipv4Unicast)));
        let rule = FlowRule { protocols: (0..7).collect(), ..FlowRule::to("203.0.113.7".parse().unwrap()) };
        assert!(matches!(
            told(&Spec::FlowSpec { rule, action: FlowAction::Drop }, &policy()),
            Err(Withheld::Unfit(Unfit::TooManyValues { .. }))
        ));
    }
}
