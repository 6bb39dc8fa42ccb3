//! The driver of announcers of the kind `embedded`: our own BGP speaker.
//!
//! A measure is in force when a peer of the announcer was told, which is when the peer's TCP has acknowledged it, and is said
//! to be *advertised*: BGP has no way for a peer to say that it has accepted a route. One that a router shows by BMP is *seen*.
//! What cannot be told to any peer is an error, with what each of them says; it stays wanted, and a peer is told as soon as its
//! session is there.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use levee_api::config::{Announcer, Capability};
use tokio::sync::OnceCell;

use super::{Answer, Capabilities, Driver, DriverError, DriverName, Guard, Observed, OperationKey, OwnerTag};
use crate::bgp::speaker::export::Withheld;
use crate::bgp::speaker::{Settings, Speaker, Standing, Told};
use crate::ledger::{Direction, Evidence, FlowAction, Kind, Spec};

/// How long a peer is given to take what it is told.
const PATIENCE: Duration = Duration::from_secs(5);
/// What opening sessions may take while no control plane runs.
const CLEAR_WITHIN: Duration = Duration::from_secs(15);

/// An announcer whose peers our own speaker talks to.
#[derive(Clone)]
pub struct Embedded {
    name: DriverName,
    capabilities: Vec<Capability>,
    speaker: Speaker,
    /// While no control plane runs.
    clears: Option<Arc<Clears>>,
    guard: Guard,
}

/// How peers are made to let go of what they retain.
struct Clears {
    /// The sessions over which they are.
    settings: Settings,
    /// Peers that retain and cannot be talked to, and why.
    left_out: Vec<(String, String)>,
    /// Who may have something still. It is done once: a session makes a peer let go of everything.
    done: OnceCell<Vec<(String, String)>>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Embedded {
    /// The driver of an announcer, with a speaker that runs.
    pub fn new(announcer: &Announcer, speaker: Speaker, guard: Guard) -> Self {
        let name = DriverName(announcer.name.clone());
        Self { name, capabilities: announcer.capabilities.clone(), speaker, clears: None, guard }
    }

    /// The same while no control plane runs. Then nothing is announced, but peers may retain what was: a session without
    /// retention makes them let go of it. `left_out`: peers of the announcer that retain and are not in the settings, and why.
    pub fn one_shot(announcer: &Announcer, settings: &Settings, left_out: Vec<(String, String)>, guard: Guard) -> Self {
        let mut settings = settings.clone();
        settings.peers.retain(|peer| peer.announcer == announcer.name && peer.terms.retain.is_some());
        let clears = Clears { settings, left_out, done: OnceCell::new() };
        Self { clears: Some(Arc::new(clears)), ..Self::new(announcer, Speaker::default(), guard) }
    }

    fn has(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// What the announcer's configuration says that its peers take.
    fn check(&self, spec: &Spec) -> Result<(), DriverError> {
        let needed = match spec {
            Spec::Filter(_) => {
                return Err(DriverError::Incapable { what: "filters are for the dataplane".to_owned() });
            }
            Spec::FlowSpec { action, .. } => match action {
                FlowAction::Drop => Capability::Flowspec,
                FlowAction::RateLimit { .. } | FlowAction::RateLimitPackets { .. } => Capability::RateLimit,
                FlowAction::Redirect { .. } => Capability::Redirect,
                FlowAction::Mark { .. } => Capability::Mark,
                FlowAction::Sample => Capability::Sample,
            },
            Spec::Divert { .. } => Capability::Divert,
            Spec::Blackhole { direction: Direction::Destination, .. } => Capability::Blackhole,
            Spec::Blackhole { direction: Direction::Source, .. } => Capability::SourceBlackhole,
        };
        if self.has(needed) {
            return Ok(());
        }
        Err(DriverError::Incapable { what: format!("{} has not the capability {:?}", self.name, needed.name()) })
    }

    async fn bring_about(&self, spec: &Spec, tag: &OwnerTag, remaining: Duration) -> Result<Evidence, DriverError> {
        self.check(spec)?;
        (self.guard)(spec, remaining)?;
        let told = self.speaker.announce(&self.name.0, tag.id, spec, remaining, PATIENCE).await;
        let told = told.map_err(|withheld| match withheld {
            Withheld::Unfit(_) | Withheld::Redirect(_) => DriverError::Permanent { reason: withheld.to_string() },
            _ => DriverError::Incapable { what: withheld.to_string() },
        })?;
        if told.by.is_empty() {
            return Err(DriverError::Retryable { reason: nobody(&told), retry_after: None });
        }
        // Whether a router shows it is found when it is looked at next.
        Ok(Evidence::Advertised)
    }

    async fn end(&self, tag: &OwnerTag) -> Result<(), DriverError> {
        let left = match &self.clears {
            None => self.speaker.withdraw(&self.name.0, tag.id, PATIENCE).await,
            Some(clears) => clears.done().await,
        };
        gone(&left)
    }

    fn found(&self) -> Vec<Observed> {
        let all = self.speaker.observed(&self.name.0).into_iter();
        let in_force = all.filter(|standing| !standing.told.by.is_empty());
        in_force
            .map(|Standing { id, spec, remaining, seen, .. }| Observed {
                id,
                spec,
                evidence: if seen.is_empty() { Evidence::Advertised } else { Evidence::Seen },
                remaining: Some(remaining),
                taken_bps: None,
            })
            .collect()
    }
}

impl Clears {
    async fn done(&self) -> Vec<(String, String)> {
        let work = || async { [clear(&self.settings).await, self.left_out.clone()].concat() };
        self.done.get_or_init(work).await.clone()
    }
}

/// Nobody may have it still, or an error.
fn gone(left: &[(String, String)]) -> Result<(), DriverError> {
    if left.is_empty() {
        return Ok(());
    }
    let reason = format!("it may be in force still: {}", listed(left));
    Err(DriverError::Retryable { reason, retry_after: None })
}

/// Opens sessions without retention and ends them. Peers that could not be reached, and what that means.
async fn clear(settings: &Settings) -> Vec<(String, String)> {
    if settings.peers.is_empty() {
        return Vec::new();
    }
    let mut without = settings.clone();
    without.peers.iter_mut().for_each(|peer| peer.terms.retain = None);
    let speaker = Speaker::default();
    speaker.configure(&without);
    let reached = speaker.wait_established(CLEAR_WITHIN).await;
    let left = settings.peers.iter().filter(|peer| !reached.contains(&peer.name));
    let left = left.map(|peer| {
        let seconds = peer.terms.retain.unwrap_or_default();
        (peer.name.clone(), format!("it cannot be reached, and may keep what it was told for {seconds} s"))
    });
    let left = left.collect();
    speaker.stop().await;
    left
}

fn nobody(told: &Told) -> String {
    if told.not.is_empty() {
        return "the announcer has no peer: describe one in a [[bgp.peer]] table".to_owned();
    }
    format!("no peer was told: {}", listed(&told.not))
}

fn listed(peers: &[(String, String)]) -> String {
    peers.iter().map(|(peer, why)| format!("{peer}: {why}")).collect::<Vec<_>>().join("; ")
}

impl Driver for Embedded {
    fn name(&self) -> &DriverName {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        let kinds = [
            (Kind::FlowSpec, self.has(Capability::Flowspec)),
            (Kind::Divert, self.has(Capability::Divert)),
            (Kind::Blackhole, self.has(Capability::Blackhole)),
        ];
        Capabilities {
            kinds: kinds.into_iter().filter_map(|(kind, has)| has.then_some(kind)).collect(),
            ipv4: true,
            ipv6: self.has(Capability::Ipv6),
            rate_limit: self.has(Capability::RateLimit),
            redirect: self.has(Capability::Redirect),
            mark: self.has(Capability::Mark),
            sample: self.has(Capability::Sample),
            sources: self.has(Capability::SourceBlackhole),
            observe: true,
            feedback: false,
            // The speaker withdraws at the deadline, whoever asks for nothing any more.
            expires: true,
        }
    }

    fn apply<'d>(
        &'d self,
        _: &'d OperationKey,
        spec: &'d Spec,
        tag: &'d OwnerTag,
        remaining: Duration,
    ) -> Answer<'d, Evidence> {
        Box::pin(self.bring_about(spec, tag, remaining))
    }

    fn withdraw<'d>(&'d self, _: &'d OperationKey, _: &'d Spec, tag: &'d OwnerTag) -> Answer<'d, ()> {
        Box::pin(self.end(tag))
    }

    fn observe(&self) -> Answer<'_, Vec<Observed>> {
        Box::pin(std::future::ready(Ok(self.found())))
    }

    fn restore(&self, spec: &Spec, tag: &OwnerTag, remaining: Duration) {
        // What is not possible any more is told when it is asked for again.
        if self.check(spec).is_ok() && (self.guard)(spec, remaining).is_ok() {
            let _ = self.speaker.restore(&self.name.0, tag.id, spec, remaining);
        }
    }

    fn recovered(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.speaker.recovered(&self.name.0))
    }

    fn takes_many(&self) -> bool {
        // What is announced is written at once. The answer is an acknowledgement, which some routers delay by a fifth of a second.
        true
    }

    fn ends_only_all(&self) -> bool {
        self.clears.as_ref().is_some_and(|clears| !(clears.settings.peers.is_empty() && clears.left_out.is_empty()))
    }

    fn end_unnamed(&self) -> Answer<'_, ()> {
        Box::pin(async {
            match &self.clears {
                Some(clears) => gone(&clears.done().await),
                // The speaker that runs has a name for all that it announces.
                None => Ok(()),
            }
        })
    }
}
