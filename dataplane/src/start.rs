//! What a run begins with: the policy that was in force before, if the file has not changed since, what was learned, and
//! the filters whose deadlines have not passed.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, SystemTime};

use levee_api::config::{Config, Exception, Simd};
use levee_api::grpc::FilterRequest;
use levee_api::zone::Mode;
use levee_engine::engine::{Engine, Settings};
use levee_engine::isa::Isa;
use levee_engine::pipeline::Pipeline;
use levee_engine::tables::OnFailure;
use levee_engine::target::plan::PlanError;
use levee_engine::time::Timestamp;

use crate::baseline::store;
use crate::in_force::{self, InForce};
use crate::kill_switch;
use crate::service::{MAX_FILTERS, Policy};

/// Conversations that each worker remembers: 16 MiB.
const CONVERSATIONS: usize = 1 << 20;
/// IPv6 hosts that each worker counts, about 180 bytes each.
const HOSTS: usize = 1 << 16;
/// Host slots kept for zones that come later: 256 /24 networks, 8 MiB a worker.
const SPARE_SLOTS: usize = 1 << 16;

/// What there was before.
#[derive(Debug)]
pub struct AtStart {
    /// The policy to begin with.
    pub policy: Policy,
    filters: Vec<FilterRequest>,
}

impl AtStart {
    /// Reads the state directory. What the control plane had committed counts as long as the file that it came on top of is
    /// still the same; filters count until their deadlines.
    pub fn read(config: &Config, state: &Path) -> Self {
        let before = InForce::load(state);
        let same_file = before.config == Some(config.hash) && !before.zones.is_empty();
        let mut policy = Policy {
            generation: 0,
            zones: config.zones.clone(),
            protected: config.guardrails.protected_prefixes.clone(),
            filters: Vec::new(),
        };
        if same_file {
            tracing::info!("starting with the policy that was in force before");
            policy.zones = before.zones;
            // Protection can only be extended.
            policy.protected.extend(before.protected);
            policy.protected.sort();
            policy.protected.dedup();
        }
        let (filters, homeless): (Vec<_>, Vec<_>) = before
            .filters
            .into_iter()
            .partition(|filter| policy.zones.iter().any(|zone| zone.name == filter.target.zone));
        for filter in homeless {
            tracing::warn!(
                "a filter from before the restart is left out: there is no zone {:?} now",
                filter.target.zone
            );
        }
        Self { policy, filters }
    }
}

/// The engine with everything that is known from before, and a data path for each worker. `stopped`: the kill switch is
/// engaged, so that nothing is done to packets.
///
/// # Errors
/// When the zones cannot be laid out.
pub fn build_engine(
    config: &Config,
    before: &AtStart,
    state: &Path,
    workers: usize,
    stopped: bool,
    now: Timestamp,
) -> Result<(Engine, Vec<Pipeline>), PlanError> {
    let random = || RandomState::new().hash_one(std::process::id());
    let settings = Settings {
        workers: u32::try_from(workers).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN),
        conversations: CONVERSATIONS,
        hosts: HOSTS,
        filters: u32::try_from(MAX_FILTERS).unwrap_or(u32::MAX),
        secret: (random(), random()),
        ceiling: if stopped { Mode::Monitor } else { config.appliance.mode },
        evicted: on_failure(config.exceptions.state_evicted),
        too_deep: on_failure(config.exceptions.encapsulation_too_deep),
        spare_slots: SPARE_SLOTS,
        learn_only: false,
        isa: instructions(config.dataplane.simd),
    };
    let zones = if stopped { kill_switch::lowered(&before.policy.zones) } else { before.policy.zones.clone() };
    let (mut engine, pipelines) = Engine::build(&zones, &before.policy.protected, settings, now)?;
    engine.detector.set_wall_clock(since_1970(), now);
    if let Some(learned) = store::load(state, |told| tracing::warn!("{told}")) {
        learned.give(&mut engine.detector, now);
    }
    let filters = if stopped { &[] } else { before.filters.as_slice() };
    for request in filters {
        if let Err(error) = engine.detector.measures.install_external(in_force::filter_of(request, now)) {
            tracing::warn!("a filter from before the restart is left out: {error}");
        }
    }
    if !filters.is_empty() {
        tracing::info!("{} filters from before the restart are in force until their deadlines", filters.len());
    }
    engine.settle(now);
    Ok((engine, pipelines))
}

/// The instructions that the configuration asks for, if the CPU has them.
fn instructions(simd: Simd) -> Isa {
    let isa = Isa::named(simd.name()).unwrap_or_else(Isa::detect);
    if simd != Simd::Auto && isa.name() != simd.name() {
        tracing::warn!("this CPU has no {}: the data path uses {}", simd.name(), isa.name());
    }
    isa
}

/// What the configuration says about decisions that cannot be made.
pub fn on_failure(exception: Exception) -> OnFailure {
    match exception {
        Exception::Pass => OnFailure::Pass,
        Exception::Drop => OnFailure::Drop,
    }
}

/// The wall clock; zero when it is set to before 1970.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use levee_api::filter::{Action, HeaderBox, Rule, Target};
    use levee_api::role::Role;
    use levee_api::zone::Zone;

    use super::*;
    use crate::files;

    fn config(text: &str) -> Config {
        Config::parse("levee.toml", text).unwrap()
    }

    const WEB: &str = "schema = 1\n[[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n";
    const MAIL: &str = "schema = 1\n[[zone]]\nname = \"mail\"\nprefixes = [\"198.51.100.0/24\"]\n";

    /// A state directory in which these zones of the control plane came on top of a file, with a filter on each.
    fn state(file: &Config, zones: &[Zone]) -> tempfile::TempDir {
        let filter = |zone: &Zone| FilterRequest {
            owner: "incident 7".to_owned(),
            target: Target { zone: zone.name.clone(), prefix: None },
            roles: Role::Syn.set(),
            rule: Rule::of(HeaderBox::any()),
            action: Action::Drop,
            ttl: Duration::from_secs(60),
            witness: "half-open".to_owned(),
        };
        let before = InForce {
            config: Some(file.hash),
            zones: zones.to_vec(),
            filters: zones.iter().map(filter).collect(),
            ..InForce::default()
        };
        let folder = tempfile::tempdir().unwrap();
        files::replace(&in_force::path(folder.path()), &before.to_bytes(SystemTime::now())).unwrap();
        folder
    }

    fn names(start: &AtStart) -> (Vec<&str>, Vec<&str>) {
        let zones = start.policy.zones.iter().map(|zone| zone.name.as_str());
        (zones.collect(), start.filters.iter().map(|filter| filter.target.zone.as_str()).collect())
    }

    #[test]
    fn the_policy_of_the_control_plane_is_in_force_again_if_the_file_is_the_same() {
        let (file, other) = (config(WEB), config(MAIL));
        let state = state(&file, &other.zones);
        assert_eq!(names(&AtStart::read(&file, state.path())), (vec!["mail"], vec!["mail"]));
    }

    #[test]
    fn a_changed_file_counts_and_filters_stay_where_their_zone_is() {
        let (file, other) = (config(WEB), config(MAIL));
        let both = [file.zones.clone(), other.zones.clone()].concat();
        let state = state(&file, &both);
        assert_eq!(names(&AtStart::read(&other, state.path())), (vec!["mail"], vec!["mail"]));
    }
}
