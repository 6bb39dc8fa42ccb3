//! What the control plane may set, checked again: the dataplane takes nobody's word for it.
//!
//! Pure: from what is asked for and what is in force to a policy or the reasons against it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use levee_api::config::{Config, MAX_ZONES};
use levee_api::filter::{Action, HeaderBox, Side};
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::{FieldError, FilterRequest};
use levee_api::overlap::overlaps;
use levee_api::prefix::Prefix;
use levee_api::role::RoleSet;
use levee_api::zone::{Mode, Zone};

use super::link::{Policy, Refusal};

/// Most prefixes of zones, and most protected prefixes, in one policy.
pub const MAX_PREFIXES: usize = 1 << 20;
/// Most filters of the control plane.
pub const MAX_FILTERS: usize = 1 << 17;
/// As many reasons as somebody reads.
const REASONS: usize = 20;

/// What the file says, whoever asks for what.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) ceiling: Mode,
    pub(super) max_ttl: Duration,
    pub(super) protected: Vec<Prefix>,
}

impl Limits {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            ceiling: config.appliance.mode,
            max_ttl: config.guardrails.max_ttl,
            protected: config.guardrails.protected_prefixes.clone(),
        }
    }
}

/// A generation that is being uploaded.
#[derive(Debug, Default)]
pub(super) struct Upload {
    pub(super) generation: u64,
    zones: Vec<Zone>,
    protected: Vec<Prefix>,
    filters: Vec<FilterRequest>,
    prefixes: usize,
}

impl Upload {
    pub(super) fn of(generation: u64) -> Self {
        Self { generation, ..Self::default() }
    }

    pub(super) fn counts(&self) -> contract::Counts {
        counts(self.zones.len(), self.protected.len(), self.filters.len())
    }

    /// Adds a chunk.
    pub(super) fn add(&mut self, chunk: &contract::Chunk) -> Result<(), FieldError> {
        for (index, message) in chunk.zones.iter().enumerate() {
            let zone = Zone::try_from(message).map_err(|error| error.within(format_args!("zones[{index}]")))?;
            self.prefixes += zone.prefixes.len();
            self.zones.push(zone);
        }
        for (index, message) in chunk.more_prefixes.iter().enumerate() {
            let place = || format!("more_prefixes[{index}]");
            let zone = self.zones.iter_mut().find(|zone| zone.name == message.zone);
            let zone =
                zone.ok_or_else(|| FieldError::new(place(), format!("there is no zone {:?} yet", message.zone)))?;
            self.prefixes += message.prefixes.len();
            for prefix in &message.prefixes {
                zone.prefixes.push(Prefix::try_from(prefix).map_err(|error| error.within(place()))?);
            }
        }
        for (index, message) in chunk.protected_prefixes.iter().enumerate() {
            let prefix = Prefix::try_from(message);
            self.protected.push(prefix.map_err(|error| error.within(format_args!("protected_prefixes[{index}]")))?);
        }
        for (index, message) in chunk.filters.iter().enumerate() {
            let filter = FilterRequest::try_from(message);
            self.filters.push(filter.map_err(|error| error.within(format_args!("filters[{index}]")))?);
        }
        // Here and not at the commit, so that nobody fills the memory by never committing.
        for (field, given, most) in [
            ("zones", self.zones.len(), MAX_ZONES),
            ("zones.prefixes", self.prefixes, MAX_PREFIXES),
            ("protected_prefixes", self.protected.len(), MAX_PREFIXES),
            ("filters", self.filters.len(), MAX_FILTERS),
        ] {
            if given > most {
                return Err(FieldError::new(field, format!("{given} in one generation, at most {most} are possible")));
            }
        }
        Ok(())
    }

    /// The policy that the upload amounts to.
    pub(super) fn conclude(mut self, limits: &Limits) -> Result<Policy, Refusal> {
        let mut reasons = Vec::new();
        let mut names = BTreeSet::new();
        for zone in &mut self.zones {
            zone.mode = zone.mode.min(limits.ceiling);
            if !names.insert(zone.name.as_str()) {
                reasons.push(format!("two zones are named {:?}", zone.name));
            }
        }
        reasons.extend(overlapping(&self.zones));
        // Those of the file in its order, then what is new: a policy that adds nothing is seen to change nothing.
        let mut known = HashSet::new();
        let both = limits.protected.iter().chain(&self.protected).copied();
        let protected: Vec<Prefix> = both.filter(|prefix| known.insert(*prefix)).collect();
        let scope = Scope::of(&self.zones, &protected, limits.max_ttl);
        for (index, filter) in self.filters.iter().enumerate() {
            reasons.extend(scope.refuse(filter).map(|reason| format!("filters[{index}]: {reason}")));
        }
        if reasons.is_empty() {
            let Self { generation, zones, filters, .. } = self;
            return Ok(Policy { generation, zones, protected, filters });
        }
        reasons.truncate(REASONS);
        Err(reasons)
    }
}

pub(super) fn counts(zones: usize, protected: usize, filters: usize) -> contract::Counts {
    contract::Counts { zones: zones as u64, protected_prefixes: protected as u64, filters: filters as u64 }
}

/// Checks filters that are to be added to a policy in force.
pub(super) fn admit(filters: &[FilterRequest], policy: &Policy, limits: &Limits) -> Result<(), Refusal> {
    let scope = Scope::of(&policy.zones, &policy.protected, limits.max_ttl);
    let reasons = filters.iter().enumerate();
    let reasons = reasons.filter_map(|(index, filter)| Some(format!("filters[{index}]: {}", scope.refuse(filter)?)));
    let reasons: Refusal = reasons.take(REASONS).collect();
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

fn overlapping(zones: &[Zone]) -> Vec<String> {
    let owned = zones.iter().flat_map(|zone| zone.prefixes.iter().map(move |prefix| (*prefix, &zone.name)));
    let (prefixes, owners): (Vec<Prefix>, Vec<&String>) = owned.unzip();
    let told = overlaps(&prefixes).into_iter().filter_map(|(first, second)| {
        let (first, second) = (owners.get(first)?, (prefixes.get(second)?, owners.get(second)?));
        (*first != *second.1).then(|| format!("{} of zone {:?} overlaps with zone {first:?}", second.0, second.1))
    });
    told.take(REASONS).collect()
}

/// Where filters may lie, built to be asked a hundred thousand times.
struct Scope<'p> {
    zones: HashMap<&'p str, Prefixes>,
    protected: Prefixes,
    max_ttl: Duration,
}

impl<'p> Scope<'p> {
    fn of(zones: &'p [Zone], protected: &[Prefix], max_ttl: Duration) -> Self {
        Self {
            zones: zones.iter().map(|zone| (zone.name.as_str(), zone.prefixes.iter().copied().collect())).collect(),
            protected: protected.iter().copied().collect(),
            max_ttl,
        }
    }

    /// Why a filter may not be installed.
    fn refuse(&self, filter: &FilterRequest) -> Option<String> {
        let FilterRequest { target, roles, rule, action, ttl, .. } = filter;
        if *ttl > self.max_ttl {
            return Some(format!("{ttl:?} is longer than the {:?} that [guardrails] max_ttl allows", self.max_ttl));
        }
        if RoleSet(roles.0 & !RoleSet::FILTERABLE.0) != RoleSet::NONE {
            return Some("established conversations never meet a filter".to_owned());
        }
        let Some(prefixes) = self.zones.get(target.zone.as_str()) else {
            return Some(format!("there is no zone {:?}", target.zone));
        };
        if let Some(prefix) = target.prefix
            && prefixes.covering(prefix).is_none()
        {
            return Some(format!("{prefix} lies outside of zone {:?}", target.zone));
        }
        if *action == Action::Pass {
            return None;
        }
        let reach = target.prefix.map_or_else(|| prefixes.members.iter().copied().collect(), |prefix| vec![prefix]);
        let hit = |protected: &Prefix| {
            let towards = HeaderBox::any().prefix(Side::Destination, *protected);
            !rule.matches.and(&towards).is_empty() && !rule.except.iter().any(|hole| hole.and(&towards) == towards)
        };
        let mut overlapping = reach
            .into_iter()
            .flat_map(|prefix| self.protected.covering(prefix).into_iter().chain(self.protected.inside(prefix)));
        overlapping.find(hit).map(|protected| format!("it covers {protected}, which is protected"))
    }
}

/// Prefixes to look up others in.
#[derive(Default)]
struct Prefixes {
    members: BTreeSet<Prefix>,
    /// The lengths that occur: few, so that few lookups find what covers an address.
    lengths: BTreeSet<u8>,
}

impl FromIterator<Prefix> for Prefixes {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let members: BTreeSet<Prefix> = prefixes.into_iter().collect();
        let lengths = members.iter().map(Prefix::length).collect();
        Self { members, lengths }
    }
}

impl Prefixes {
    /// The widest member that covers a prefix.
    fn covering(&self, prefix: Prefix) -> Option<Prefix> {
        let shorter = self.lengths.range(..=prefix.length());
        shorter.map(|length| Prefix::containing(prefix.address(), *length)).find(|outer| self.members.contains(outer))
    }

    /// The members inside a prefix: in the order of members they follow it.
    fn inside(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> {
        self.members.range(prefix..).take_while(move |member| prefix.covers(member)).copied()
    }
}

#[cfg(test)]
mod tests {
    use levee_api::filter::{Rule, Target};
    use levee_api::lane::Lane;
    use levee_api::role::Role;

    use super::*;

    const FILE: &str = r#"
        schema = 1
        [appliance]
        mode = "monitor"
        [guardrails]
        protected_prefixes = ["203.0.113.1/32"]
        max_ttl = "1h"
        [[zone]]
        name = "web"
        prefixes = ["203.0.113.0/24", "2001:db8::/32"]
        mode = "enforce"
    "#;

    fn limits() -> Limits {
        Limits::of(&Config::parse("levee.toml", FILE).unwrap())
    }

    fn upload(change: impl FnOnce(&mut Upload)) -> Result<Policy, Refusal> {
        let mut upload = Upload::of(1);
        upload.zones = Config::parse("levee.toml", FILE).unwrap().zones;
        change(&mut upload);
        upload.conclude(&limits())
    }

    fn filter(prefix: Option<&str>) -> FilterRequest {
        FilterRequest {
            owner: "test".into(),
            target: Target { zone: "web".into(), prefix: prefix.map(|prefix| prefix.parse().unwrap()) },
            roles: Role::Syn.set(),
            rule: Rule::of(HeaderBox::any().exact(Lane::Ttl, 64)),
            action: Action::Drop,
            ttl: Duration::from_secs(60),
            witness: String::new(),
        }
    }

    #[test]
    fn modes_are_lowered_to_the_ceiling_of_the_file() {
        let policy = upload(|upload| upload.zones[0].mode = Mode::Enforce).unwrap();
        assert_eq!(policy.zones[0].mode, Mode::Monitor);
    }

    #[test]
    fn protected_prefixes_are_extended_and_never_replaced() {
        let policy = upload(|upload| upload.protected = vec!["203.0.113.2".parse().unwrap()]).unwrap();
        assert_eq!(policy.protected.len(), 2);
        let policy = upload(|upload| upload.protected = limits().protected).unwrap();
        assert_eq!(policy.protected, limits().protected, "the file's own again is nothing new");
        for prefix in [Some("203.0.113.1"), Some("203.0.113.2"), Some("203.0.113.0/30"), Some("203.0.113.0/24"), None] {
            let refused = upload(|upload| {
                upload.protected = vec!["203.0.113.2".parse().unwrap()];
                upload.filters = vec![filter(prefix)];
            });
            assert!(refused.unwrap_err()[0].contains("which is protected"), "{prefix:?}");
        }
        for prefix in ["203.0.113.4/30", "2001:db8::1"] {
            upload(|upload| upload.filters = vec![filter(Some(prefix))]).unwrap();
        }
    }

    #[test]
    fn a_filter_that_spares_the_protected_address_or_only_lets_pass_is_allowed() {
        let mut passing = filter(None);
        passing.action = Action::Pass;
        let mut elsewhere = filter(None);
        elsewhere.rule.matches = HeaderBox::any().prefix(Side::Destination, "203.0.113.128/25".parse().unwrap());
        let mut sparing = filter(None);
        sparing.rule.except = vec![HeaderBox::any().prefix(Side::Destination, "203.0.113.0/30".parse().unwrap())];
        upload(|upload| upload.filters = vec![passing, elsewhere, sparing]).unwrap();
    }

    #[test]
    fn every_limit_is_checked() {
        type Change = fn(&mut FilterRequest);
        let cases: [(Change, &str); 4] = [
            (|f| f.ttl = Duration::from_secs(3_601), "max_ttl"),
            (|f| f.roles = f.roles.union(Role::Established.set()), "never meet a filter"),
            (|f| f.target.zone = "mail".into(), "there is no zone \"mail\""),
            (|f| f.target.prefix = Some("198.51.100.7".parse().unwrap()), "lies outside of zone \"web\""),
        ];
        for (change, reason) in cases {
            let mut filter = filter(Some("203.0.113.9"));
            change(&mut filter);
            let policy = upload(|_| {}).unwrap();
            let refused = admit(std::slice::from_ref(&filter), &policy, &limits()).unwrap_err();
            assert!(refused[0].starts_with("filters[0]: ") && refused[0].contains(reason), "{refused:?}");
        }
        let twice = upload(|upload| upload.zones.extend(upload.zones.clone())).unwrap_err();
        assert_eq!(twice, ["two zones are named \"web\""]);
        let shared = upload(|upload| {
            let mut other = upload.zones[0].clone();
            other.name = "mail".into();
            upload.zones.push(other);
        });
        assert_eq!(shared.unwrap_err().len(), 2);
    }

    #[test]
    fn a_hundred_thousand_filters_are_checked_against_a_hundred_thousand_protected_prefixes() {
        let address =
            |index: u32| std::net::IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(index) << 1).to_be_bytes());
        let protected = (0..100_000).map(|index| Prefix::host(address(index))).collect();
        let filters: Vec<FilterRequest> =
            (100_000..200_000).map(|index| filter(Some(&address(index).to_string()))).collect();
        let policy = upload(|upload| (upload.protected, upload.filters) = (protected, filters)).unwrap();
        assert_eq!((policy.protected.len(), policy.filters.len()), (100_001, 100_000));
    }
}
