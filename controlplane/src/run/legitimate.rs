//! What a rule that drops would have done to legitimate traffic, asked of the dataplane when it is to be carried out: the
//! dataplane has samples from before the attack, and nobody upstream has.

use std::sync::Arc;
use std::time::Duration;

use levee_api::config::Config;
use tokio::sync::watch;

use crate::dataplane::Dataplane;
use crate::guardrail::{Guards, Refusal, dropped};
use crate::ledger::Spec;

/// An answer that does not come in this time is none.
const WITHIN: Duration = Duration::from_secs(2);

/// Asks the dataplane that is connected, whichever that is.
#[derive(Clone)]
pub(super) struct Legitimate {
    pub(super) dataplane: watch::Receiver<Option<Dataplane>>,
    pub(super) config: Arc<Config>,
    pub(super) guards: Arc<Guards>,
}

impl Legitimate {
    /// Whether a measure may be carried out.
    pub(super) async fn check(&self, spec: &Spec) -> Result<(), Refusal> {
        let share = tokio::time::timeout(WITHIN, self.share(spec)).await.unwrap_or_default();
        self.guards.check_legitimate_share(share)
    }

    /// The part that it would have hit; none: not known.
    async fn share(&self, spec: &Spec) -> Option<f64> {
        let zone = |prefix: &levee_api::prefix::Prefix| {
            let zones = self.config.zones.iter();
            let mut zones = zones.filter(|zone| zone.prefixes.iter().any(|known| known.covers(prefix)));
            zones.next().map(|zone| zone.name.clone())
        };
        let (target, filters) = dropped(spec, zone)?;
        let mut dataplane = self.dataplane.borrow().clone().filter(|dataplane| dataplane.can("legitimate-share"))?;
        match dataplane.legitimate_share(&target, &filters).await {
            Ok(share) => share,
            Err(error) => {
                tracing::warn!("what {spec} would have done to legitimate traffic is not known: {error}");
                None
            }
        }
    }
}
