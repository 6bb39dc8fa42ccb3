//! What is at the other end of a driver: things in force, and a driver that fails, lags, lies and repeats.

use std::collections::BTreeMap;
use std::time::Duration;

use levee_controlplane::driver::{Capabilities, DriverError, DriverName, Observed, OperationKey};
use levee_controlplane::ledger::{Evidence, Kind, MitigationId, Operation, Spec};

use crate::chance::Chance;

/// Something in force.
#[derive(Debug, Clone)]
pub(crate) struct Thing {
    pub(crate) spec: Spec,
    /// When it has to be gone, by the world's clock.
    pub(crate) end: u64,
}

/// One driver and its receiver.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) name: DriverName,
    pub(crate) capabilities: Capabilities,
    pub(crate) in_force: BTreeMap<MitigationId, Thing>,
    /// Operations that arrive again, or only later, by the world's clock.
    pub(crate) late: Vec<(u64, bool, Operation)>,
    /// What it was asked last about each.
    asked: BTreeMap<MitigationId, OperationKey>,
    /// Operations that fail, of a hundred.
    pub(crate) failing: u64,
    /// It never takes anything.
    pub(crate) broken: bool,
    /// The configuration has it.
    pub(crate) configured: bool,
    /// When something last went wrong with it, by the world's clock.
    pub(crate) failed_at: u64,
}

impl Receiver {
    /// `expires`: it ends things by itself. `observe`: it can say what it has; if not, it has to end things by itself.
    /// `feedback`: it says how much it takes.
    pub(crate) fn new(name: &str, kinds: &[Kind], expires: bool, observe: bool, feedback: bool) -> Self {
        let capabilities = Capabilities {
            kinds: kinds.to_vec(),
            ipv4: true,
            ipv6: true,
            rate_limit: true,
            observe,
            feedback,
            expires,
            ..Capabilities::default()
        };
        Self {
            name: DriverName(name.to_owned()),
            capabilities,
            in_force: BTreeMap::new(),
            late: Vec::new(),
            asked: BTreeMap::new(),
            failing: 0,
            broken: false,
            configured: true,
            failed_at: 0,
        }
    }

    /// What has become due by itself.
    pub(crate) fn pass(&mut self, at: u64) {
        if !self.configured {
            // Nothing can be done about it.
            self.failed_at = at;
        }
        let (due, late): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.late).into_iter().partition(|(due, ..)| *due <= at);
        self.late = late;
        for (_, apply, operation) in due {
            self.failed_at = at;
            // Where nobody can look, nobody would know that something old has shortened what came after it: such a receiver
            // tells one from the other, as the numbers of DOTS's messages do.
            let is_overtaken = apply && self.asked.get(&operation.id).is_some_and(|key| *key != operation.key);
            if self.capabilities.observe || !is_overtaken {
                self.carry_out(apply, &operation, at);
            }
        }
        if self.capabilities.expires {
            self.in_force.retain(|_, thing| thing.end > at);
        }
    }

    fn carry_out(&mut self, apply: bool, operation: &Operation, at: u64) {
        if apply {
            let end = at + u64::try_from(operation.remaining.as_nanos()).unwrap();
            self.in_force.insert(operation.id, Thing { spec: operation.spec.clone(), end });
        } else {
            self.in_force.remove(&operation.id);
        }
    }

    /// Does it, or not, and says so, or not. None: no answer ever comes.
    pub(crate) fn ask(
        &mut self,
        apply: bool,
        operation: &Operation,
        at: u64,
        chance: &mut Chance,
    ) -> Option<Result<Evidence, DriverError>> {
        let retryable = |reason: &str| Err(DriverError::Retryable { reason: reason.to_owned(), retry_after: None });
        if self.broken && apply {
            self.failed_at = at;
            return Some(Err(DriverError::Permanent { reason: "the peer is gone for good".to_owned() }));
        }
        self.asked.insert(operation.id, operation.key.clone());
        if !chance.percent(self.failing) {
            self.carry_out(apply, operation, at);
            return Some(Ok(Evidence::Advertised));
        }
        self.failed_at = at;
        match chance.between(0, 7) {
            0 => Some(retryable("nothing was sent")),
            1 => {
                self.carry_out(apply, operation, at);
                Some(retryable("the answer was lost"))
            }
            2 => {
                self.carry_out(apply, operation, at);
                None
            }
            3 => {
                // Arrives when nobody expects it any more.
                self.late.push((at + chance.between(1, 90) * 1_000_000_000, apply, operation.clone()));
                Some(retryable("timed out"))
            }
            4 => {
                self.carry_out(apply, operation, at);
                self.late.push((at + chance.between(1, 60) * 1_000_000_000, apply, operation.clone()));
                Some(Ok(Evidence::Accepted))
            }
            // Who cannot be looked at has to be believed.
            5 if self.capabilities.observe => Some(Ok(Evidence::Accepted)),
            6 if apply => Some(Err(DriverError::Permanent { reason: "the peer does not take that".to_owned() })),
            _ => Some(Err(DriverError::Retryable {
                reason: "too many requests".to_owned(),
                retry_after: Some(Duration::from_secs(chance.between(1, 20))),
            })),
        }
    }

    /// What it has of ours, and what that takes.
    pub(crate) fn observe(
        &mut self,
        chance: &mut Chance,
        at: u64,
        taken: impl Fn(&Spec) -> f64,
    ) -> Option<Result<Vec<Observed>, DriverError>> {
        if chance.percent(self.failing / 2) {
            self.failed_at = at;
            let reason = "not now".to_owned();
            return chance.percent(70).then_some(Err(DriverError::Retryable { reason, retry_after: None }));
        }
        let observed = self.in_force.iter().map(|(id, thing)| Observed {
            id: *id,
            spec: thing.spec.clone(),
            evidence: Evidence::Seen,
            remaining: self.capabilities.expires.then(|| Duration::from_nanos(thing.end.saturating_sub(at))),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bits per second")]
            taken_bps: self.capabilities.feedback.then(|| taken(&thing.spec) as u64),
        });
        Some(Ok(observed.collect()))
    }
}
