//! A change of what the control plane has in force, of any size: done in parts between ticks, each about a millisecond long,
//! and seen by the workers at once, when all of it is there. What can be refused is refused before the first part.

use std::sync::Arc;

use levee_api::grpc::FilterRequest;
use levee_api::time::Timestamp;
use levee_engine::detect::measures::InstallError;
use levee_engine::engine::Engine;
use levee_engine::target::plan::Plan;

use crate::in_force;
use crate::service::{Policy, Refusal, Reply};

/// Filters that one part ends or installs.
const PART: usize = 256;

/// A change under way.
pub struct Change {
    ending: Vec<u64>,
    installing: Vec<FilterRequest>,
    plan: Option<Arc<Plan>>,
    installed: Vec<u64>,
    ended: usize,
    refused: Option<InstallError>,
    /// Who is told when it is done.
    pub done: Done,
}

/// What the change was asked for.
pub enum Done {
    /// Another policy.
    Replaced(Policy, Reply<Result<(), Refusal>>),
    /// Further filters.
    Installed(Reply<Result<Vec<u64>, Refusal>>),
    /// An end of filters.
    Removed(Reply<u64>),
}

impl Change {
    /// Begins to end some filters, to install others and to put zones in force.
    ///
    /// # Errors
    /// When there is no room for the filters; then nothing changes, and `done` comes back.
    pub fn begin(
        engine: &mut Engine,
        ending: Vec<u64>,
        installing: Vec<FilterRequest>,
        plan: Option<Arc<Plan>>,
        done: Done,
    ) -> Result<Self, (InstallError, Done)> {
        if let Err(full) = engine.detector.measures.reserve(installing.len(), ending.len()) {
            return Err((full, done));
        }
        engine.hold();
        Ok(Self { ending, installing, plan, installed: Vec::new(), ended: 0, refused: None, done })
    }

    /// Does the next part; true when it was the last.
    pub fn go_on(&mut self, engine: &mut Engine, now: Timestamp) -> bool {
        if !self.ending.is_empty() {
            let rest = self.ending.len().saturating_sub(PART);
            self.ended += engine.detector.measures.withdraw(self.ending.drain(rest..));
            return false;
        }
        let next = self.installing.iter().skip(self.installed.len()).take(PART);
        for request in next.clone() {
            match engine.detector.measures.install_external(in_force::filter_of(request, now)) {
                Ok(id) => self.installed.push(id),
                Err(full) => {
                    // Room was kept for it: this cannot be, and is not hidden.
                    self.refused = Some(full);
                    self.installing.clear();
                    self.plan = None;
                    self.ending = std::mem::take(&mut self.installed);
                    return false;
                }
            }
        }
        if next.len() > 0 && self.installed.len() < self.installing.len() || engine.catch_up(now) {
            return false;
        }
        if let Some(plan) = self.plan.take() {
            engine.replan(plan, now);
        }
        engine.release(now);
        true
    }

    /// What the filters that were installed are called, in order, or why they were not.
    pub fn result(&mut self) -> Result<Vec<u64>, Refusal> {
        match self.refused.take() {
            Some(full) => Err(vec![full.to_string()]),
            None => Ok(std::mem::take(&mut self.installed)),
        }
    }

    /// How many filters it ended.
    pub fn ended(&self) -> u64 {
        u64::try_from(self.ended).unwrap_or(u64::MAX)
    }
}
