//! A driver without anything behind it, for tests and the simulation: it keeps what it is told in memory, and fails, lags,
//! lies and repeats itself when told to.
//!
//! What is in force is kept apart from the driver, as the receiver outlives our process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Answer, Capabilities, Driver, DriverError, DriverName, Observed, OperationKey, OwnerTag};
use crate::ledger::{Evidence, MitigationId, Spec};

/// What goes wrong with one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misbehaviour {
    /// It fails, and nothing was done.
    Fails(DriverError),
    /// It is done, and fails: the answer was lost.
    LosesAnswer,
    /// It says that it was done, and it was not.
    Lies,
    /// It is done twice, the second time before the answer.
    Repeats,
    /// Nothing happens until [`Receiver::release`].
    Lags,
}

/// One thing that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// To bring into force, for how long.
    Apply(OperationKey, MitigationId, Duration),
    /// To end.
    Withdraw(OperationKey, MitigationId),
    /// What is in force.
    Observe,
}

/// What is at the other end: it outlives drivers. Clones are the same receiver.
#[derive(Debug, Clone, Default)]
pub struct Receiver {
    state: Arc<Mutex<State>>,
    released: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    in_force: BTreeMap<OwnerTag, (Spec, Duration)>,
    next: VecDeque<Misbehaviour>,
    asked: Vec<Asked>,
}

/// The driver.
#[derive(Debug, Clone)]
pub struct Double {
    name: DriverName,
    appliance: String,
    capabilities: Capabilities,
    receiver: Receiver,
}

impl Receiver {
    /// Lets the next operations go wrong, one after the other.
    pub fn misbehave(&self, next: impl IntoIterator<Item = Misbehaviour>) {
        self.state().next.extend(next);
    }

    /// Lets everything go on that lags.
    pub fn release(&self) {
        self.released.notify_waiters();
    }

    /// What was asked so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// What is in force, whoever made it, with the time that it was given.
    pub fn in_force(&self) -> BTreeMap<OwnerTag, (Spec, Duration)> {
        self.state().in_force.clone()
    }

    /// Somebody else changes what is in force: a peer that restarts, a person.
    pub fn change(&self, change: impl FnOnce(&mut BTreeMap<OwnerTag, (Spec, Duration)>)) {
        change(&mut self.state().in_force);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is made at once: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is asked, or what goes wrong with it.
    async fn operate<T>(&self, asked: Asked, act: impl Fn(&mut State) -> T, lie: T) -> Result<T, DriverError> {
        let next = {
            let mut state = self.state();
            state.asked.push(asked);
            state.next.pop_front()
        };
        match next {
            None => Ok(act(&mut self.state())),
            Some(Misbehaviour::Fails(error)) => Err(error),
            Some(Misbehaviour::Lies) => Ok(lie),
            Some(Misbehaviour::LosesAnswer) => {
                act(&mut self.state());
                Err(DriverError::Retryable { reason: "the answer was lost".to_owned(), retry_after: None })
            }
            Some(Misbehaviour::Repeats) => {
                act(&mut self.state());
                Ok(act(&mut self.state()))
            }
            Some(Misbehaviour::Lags) => {
                self.released.notified().await;
                Ok(act(&mut self.state()))
            }
        }
    }
}

impl Double {
    /// A driver of this name, for this appliance, in front of a receiver.
    pub fn new(name: &str, appliance: &str, capabilities: Capabilities, receiver: Receiver) -> Self {
        Self { name: DriverName(name.to_owned()), appliance: appliance.to_owned(), capabilities, receiver }
    }
}

impl Driver for Double {
    fn name(&self) -> &DriverName {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    fn apply<'d>(
        &'d self,
        key: &'d OperationKey,
        spec: &'d Spec,
        tag: &'d OwnerTag,
        remaining: Duration,
    ) -> Answer<'d, Evidence> {
        Box::pin(async move {
            if !self.capabilities.kinds.contains(&spec.kind()) {
                return Err(DriverError::Incapable { what: format!("{} has no {}", self.name, spec.kind()) });
            }
            let act = |state: &mut State| {
                state.in_force.insert(tag.clone(), (spec.clone(), remaining));
                Evidence::Accepted
            };
            self.receiver.operate(Asked::Apply(key.clone(), tag.id, remaining), act, Evidence::Seen).await
        })
    }

    fn withdraw<'d>(&'d self, key: &'d OperationKey, _: &'d Spec, tag: &'d OwnerTag) -> Answer<'d, ()> {
        Box::pin(async move {
            let act = |state: &mut State| drop(state.in_force.remove(tag));
            self.receiver.operate(Asked::Withdraw(key.clone(), tag.id), act, ()).await
        })
    }

    fn observe(&self) -> Answer<'_, Vec<Observed>> {
        Box::pin(async move {
            let act = |state: &mut State| {
                let ours = state.in_force.iter().filter(|(tag, _)| tag.appliance == self.appliance);
                let observed = ours.map(|(tag, (spec, remaining))| Observed {
                    id: tag.id,
                    spec: spec.clone(),
                    evidence: Evidence::Seen,
                    remaining: self.capabilities.expires.then_some(*remaining),
                    taken_bps: None,
                });
                observed.collect()
            };
            self.receiver.operate(Asked::Observe, act, Vec::new()).await
        })
    }
}
