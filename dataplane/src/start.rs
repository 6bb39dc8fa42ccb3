//! What a run begins with: the policy that was in force before, if the file has not changed since, what was learned, and
//! the filters whose deadlines have not passed.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::path::Path;

use levee_api::config::{Config, Exception};
use levee_api::grpc::FilterRequest;
use levee_engine::detect::snapshot;
use levee_engine::engine::{Engine, Settings};
use levee_engine::filter::Kernel;
use levee_engine::pipeline::Pipeline;
use levee_engine::tables::OnFailure;
use levee_engine::target::plan::PlanError;
use levee_engine::time::Timestamp;

use crate::files;
use crate::in_force::{self, InForce};
use crate::service::{MAX_FILTERS, Policy};
use crate::tick::BASELINE;

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
        Self { policy, filters: before.filters }
    }
}

/// The engine with everything that is known from before, and a data path for each worker.
///
/// # Errors
/// When the zones cannot be laid out.
pub fn build_engine(
    config: &Config,
    before: &AtStart,
    state: &Path,
    workers: usize,
    now: Timestamp,
) -> Result<(Engine, Vec<Pipeline>), PlanError> {
    let random = || RandomState::new().hash_one(std::process::id());
    let settings = Settings {
        workers: u32::try_from(workers).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN),
        conversations: CONVERSATIONS,
        hosts: HOSTS,
        filters: u32::try_from(MAX_FILTERS).unwrap_or(u32::MAX),
        secret: (random(), random()),
        ceiling: config.appliance.mode,
        evicted: on_failure(config.exceptions.state_evicted),
        too_deep: on_failure(config.exceptions.encapsulation_too_deep),
        spare_slots: SPARE_SLOTS,
        learn_only: false,
        kernel: Kernel::detect(),
    };
    let (mut engine, pipelines) = Engine::build(&before.policy.zones, &before.policy.protected, settings, now)?;
    restore_baseline(&mut engine, state, now);
    for request in &before.filters {
        if let Err(error) = engine.detector.measures.install_external(in_force::filter_of(request, now)) {
            tracing::warn!("a filter from before the restart is left out: {error}");
        }
    }
    if !before.filters.is_empty() {
        tracing::info!("{} filters from before the restart are in force until their deadlines", before.filters.len());
    }
    engine.settle(now);
    Ok((engine, pipelines))
}

/// What the configuration says about decisions that cannot be made.
pub fn on_failure(exception: Exception) -> OnFailure {
    match exception {
        Exception::Pass => OnFailure::Pass,
        Exception::Drop => OnFailure::Drop,
    }
}

fn restore_baseline(engine: &mut Engine, state: &Path, now: Timestamp) {
    let path = state.join(BASELINE);
    match files::read(&path) {
        Ok(None) => {}
        Ok(Some(bytes)) => {
            if let Err(error) = snapshot::read(&mut engine.detector, &bytes, now) {
                tracing::warn!("{}: {error}; learning starts over", path.display());
            }
        }
        Err(error) => tracing::warn!("{error}; learning starts over"),
    }
}
