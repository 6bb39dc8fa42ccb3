//! When a rule is good enough, in numbers: gain, collateral, lift, and what may never be a rule by itself.

use levee_api::role::Role;
use levee_api::zone::Service;

use super::features::Kind;

/// A rule must explain at least this share of the attack.
pub(super) const MIN_GAIN: f64 = 0.05;
const MIN_GAIN_TO_BLOCK: f64 = 0.25;
/// A rule must select the attack this many times as often as legitimate traffic.
const MIN_LIFT: f64 = 20.0;
/// Largest upper bound of collateral for a drop, unless the reservoir is too small to show it: then [`FEW_HITS`].
const DROP_COLLATERAL: f64 = 0.005;
/// With a small reservoir of `M` samples the bound cannot be lower than some 4 / M; one hit makes it 5.7 / M, two 7.3 / M.
const FEW_HITS: f64 = 6.0;
/// Largest upper bound of collateral for a limit.
const LIMIT_COLLATERAL: f64 = 0.02;
/// Above this share of legitimate traffic in the window, gain is noise divided by little.
pub(super) const MAX_RHO: f64 = 0.6;
/// How much of the excess the rules of a pass must take away together: crowds fall apart into small rules.
pub(super) const MIN_COVERED: f64 = 0.5;
/// Below this many samples a reservoir does not speak, and [`super::natural`] stands in for it: 6 / M would be more than
/// 3 %, and a shape of which 1 % of the clients are would be missing from one reservoir in seven.
pub(super) const MIN_REFERENCE: u32 = 200;
/// How many samples the natural share is worth against a reservoir that does not speak.
const NATURAL_WEIGHT: f64 = 30.0;
/// Without a reservoir: largest expected collateral for roles that crowds of newcomers are made of.
const UNSEEN_CROWD: f64 = 0.005;
/// Without a reservoir: the same for roles that legitimate traffic hardly has, and that are dropped whole meanwhile.
const UNSEEN_RARE: f64 = 0.05;
/// What holds for no more than this share of echo requests is no ping program's: not one that many have at the same time.
const UNSEEN_PING: f64 = 0.01;
/// Share of the attack that one exception may let through.
const MAX_SPARED_ATTACK: f64 = 0.005;
/// What one unit of collateral costs in units of gain.
const COLLATERAL_WEIGHT: f64 = 6.0;
/// What each condition costs, so that of two rules the simpler wins.
const CONDITION_COST: f64 = 0.002;
/// 97.5 % quantile of the normal distribution.
const Z: f64 = 1.96;

/// What counts are measured against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) role: Role,
    /// Samples in the window.
    pub(super) attack: u32,
    /// Samples in the reservoir.
    pub(super) legitimate: u32,
    /// Share of legitimate traffic in the window.
    pub(super) rho: f64,
    /// Nothing but what nobody's programs send will do.
    pub(super) only_unnatural: bool,
    /// Clients send much of the role.
    pub(super) is_common: bool,
}

/// How strictly a rule is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Everything that matches may go (for [`Role::Request`]: counts as a match of its source).
    Drop,
    /// What matches may be limited to the baseline.
    Limit,
}

impl Scale {
    /// True when the reservoir is large enough to judge by.
    pub(super) fn has_reference(&self) -> bool {
        self.legitimate >= MIN_REFERENCE
    }

    /// Share of the attack that `attack` hits in the window explain, after taking out what legitimate traffic would
    /// have hit, 0..=1.
    pub(super) fn gain(&self, attack: u32, legitimate: u32) -> f64 {
        let expected = self.rho * share(legitimate, self.legitimate);
        ((share(attack, self.attack) - expected) / (1.0 - self.rho)).clamp(0.0, 1.0)
    }

    /// What a rule gains at least. One for requests blocks its sources: it must select more than clients that nobody has seen
    /// before could be.
    pub(super) fn least_gain(&self) -> f64 {
        if self.role == Role::Request { MIN_GAIN_TO_BLOCK.max(2.0 * self.rho) } else { MIN_GAIN }
    }

    /// Upper bound of the share of legitimate traffic that is hit, from the reservoir alone; 1 when it is empty.
    pub(super) fn collateral(&self, legitimate: u32) -> f64 {
        wilson_upper(legitimate, self.legitimate)
    }

    /// The share of legitimate traffic that must be reckoned with: the upper bound, or without a reference what is
    /// natural, corrected by the few samples there are.
    pub(super) fn risk(&self, legitimate: u32, natural: f64) -> f64 {
        if self.has_reference() {
            return self.collateral(legitimate);
        }
        (f64::from(legitimate) + NATURAL_WEIGHT * natural) / (f64::from(self.legitimate) + NATURAL_WEIGHT)
    }

    /// What the search maximises.
    pub(super) fn score(&self, gain: f64, risk: f64, conditions: usize) -> f64 {
        let conditions = u32::try_from(conditions).unwrap_or(u32::MAX);
        gain - COLLATERAL_WEIGHT * risk - CONDITION_COST * f64::from(conditions)
    }

    /// True when at most 0.5 % of the attack have something, beyond what legitimate traffic in the window explains and
    /// beyond chance (two standard deviations of a count).
    pub(super) fn hardly_of_the_attack(&self, attack: u32, legitimate: u32) -> bool {
        self.gain(attack, legitimate) <= MAX_SPARED_ATTACK + 2.0 * f64::from(attack).sqrt() / f64::from(self.attack)
    }

    /// True when sparing `legitimate` hits is worth losing `attack` hits.
    pub(super) fn worth_sparing(&self, legitimate: u32, attack: u32) -> bool {
        COLLATERAL_WEIGHT * share(legitimate, self.legitimate) > self.gain(attack, legitimate)
    }

    /// How many times as often the attack is selected as legitimate traffic is.
    pub(super) fn lift(&self, attack: u32, legitimate: u32, natural: f64) -> f64 {
        let expected = if self.has_reference() {
            (f64::from(legitimate) + 0.5) / (f64::from(self.legitimate) + 1.0)
        } else {
            self.risk(legitimate, natural)
        };
        share(attack, self.attack) / expected.max(f64::MIN_POSITIVE)
    }

    /// True when next to no client sends what has this natural share.
    pub(super) fn is_unnatural(&self, natural: f64) -> bool {
        natural <= if self.role == Role::IcmpOther { UNSEEN_PING } else { UNSEEN_CROWD }
    }

    fn is_of_newcomers(&self) -> bool {
        matches!(self.role, Role::Syn | Role::Request | Role::UdpOpen) || self.is_common
    }

    /// What a rule with this lift and risk is good for.
    pub(super) fn tier(&self, lift: f64, risk: f64) -> Option<Tier> {
        if lift < MIN_LIFT {
            return None;
        }
        let (drop, limit) = match (self.has_reference(), self.is_of_newcomers()) {
            (true, _) => (DROP_COLLATERAL.max(FEW_HITS / f64::from(self.legitimate)), LIMIT_COLLATERAL),
            (false, true) => (UNSEEN_CROWD, 0.0),
            (false, false) => (UNSEEN_RARE, UNSEEN_RARE),
        };
        match risk {
            risk if risk <= drop => Some(Tier::Drop),
            risk if risk <= limit => Some(Tier::Limit),
            _ => None,
        }
    }
}

/// `part` of `whole`; 0 of nothing.
pub(super) fn share(part: u32, whole: u32) -> f64 {
    if whole == 0 { 0.0 } else { f64::from(part) / f64::from(whole) }
}

/// Upper end of the 95 % Wilson score interval for a proportion (Wilson 1927); 1 when nothing was observed.
fn wilson_upper(hits: u32, of: u32) -> f64 {
    if of == 0 {
        return 1.0;
    }
    let (n, p) = (f64::from(of), share(hits, of));
    let centre = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((centre + spread) / (1.0 + Z * Z / n)).min(1.0)
}

/// True for conditions that describe legitimate traffic as well as any other, however rare they were so far: no rule
/// consists of these alone.
pub(super) fn never_alone(role: Role, served: &[Service], kind: Kind, value: u64) -> bool {
    match kind {
        Kind::DestinationPort
        | Kind::Protocol
        | Kind::Version
        | Kind::Fragment
        | Kind::DontFragment
        | Kind::TrafficClass
        | Kind::Ttl
        | Kind::TtlRange
        | Kind::PayloadByte
        | Kind::PayloadByteRange
        | Kind::SourcePortRange
        | Kind::SourcePrefix
        | Kind::SourceClass
        | Kind::IcmpType
        | Kind::IcmpCode => true,
        // The length of a SYN is that of its options: a range of it is many stacks.
        Kind::LengthRange => role == Role::Syn,
        // Outside a connection each flag combination is a kind of packet, not a sender.
        Kind::TcpFlags => role != Role::Syn,
        // IKE behind NAT (RFC 3948), and peers that use a service's own port on both ends.
        Kind::SourcePort => value == 4500 || value == 500 || serves(served, value),
        _ => false,
    }
}

fn serves(served: &[Service], port: u64) -> bool {
    served
        .iter()
        .any(|service| service.ports.iter().any(|(first, last)| (u64::from(*first)..=u64::from(*last)).contains(&port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(legitimate: u32, rho: f64) -> Scale {
        Scale { role: Role::Syn, attack: 1000, legitimate, rho, only_unnatural: false, is_common: false }
    }

    #[test]
    fn gain_takes_out_what_legitimate_traffic_would_have_hit() {
        // 20 % of the window is legitimate, a tenth of which the rule hits: 820 hits are the whole attack.
        assert!((scale(1000, 0.2).gain(820, 100) - 1.0).abs() < 1e-9);
        assert!((scale(1000, 0.2).gain(20, 100) - 0.0).abs() < 1e-9);
    }

    #[test]
    fn the_bound_of_an_empty_reservoir_is_everything() {
        assert!((scale(0, 0.0).collateral(0) - 1.0).abs() < 1e-12);
        let few = scale(300, 0.0);
        assert!(few.collateral(1) < FEW_HITS / 300.0 && few.collateral(2) > FEW_HITS / 300.0);
    }

    #[test]
    fn a_small_reservoir_does_not_license_what_is_natural() {
        assert_eq!(scale(0, 0.0).tier(50.0, scale(0, 0.0).risk(0, 0.6)), None);
        assert_eq!(scale(0, 0.0).tier(50.0, scale(0, 0.0).risk(0, 0.005)), Some(Tier::Drop));
        assert_eq!(scale(100, 0.0).tier(50.0, scale(100, 0.0).risk(3, 0.005)), None, "what was seen counts too");
    }
}
