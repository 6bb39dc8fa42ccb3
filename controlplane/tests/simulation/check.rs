//! What must never happen, and what must have happened at the end.

use std::collections::{BTreeMap, BTreeSet};

use levee_controlplane::guardrail::Guards;
use levee_controlplane::ledger::{Ledger, MitigationId, Operation};
use levee_controlplane::store::Contents;

use crate::receiver::Receiver;

/// A receiver may have things for so long after their deadline while it fails: an answer that never comes, and the longest
/// pause, and once more. One that ends things by itself too, for an order that arrives late brings its time along.
const OVERDUE: u64 = 300_000_000_000;

#[derive(Debug)]
pub(crate) struct Checker {
    pub(crate) guards: Guards,
    /// What was last promised about the end of each, by the world's clock.
    pub(crate) ends: BTreeMap<MitigationId, u64>,
    /// What has ended, and that was verified.
    pub(crate) ended: BTreeSet<MitigationId>,
}

impl Checker {
    /// An order to apply is about to be carried out. `is_in_force`: what it asks for.
    pub(crate) fn applied(
        &mut self,
        operation: &Operation,
        stored: &Contents,
        is_in_force: bool,
        at: u64,
    ) -> Result<(), String> {
        self.guards
            .check_spec(&operation.spec)
            .map_err(|refusal| format!("{} breaks a guardrail: {refusal}", operation.spec))?;
        self.guards
            .check_ttl(operation.remaining)
            .map_err(|refusal| format!("{} breaks a guardrail: {refusal}", operation.spec))?;
        // An order that came late may have brought it back, and a ledger that is a copy then goes on with it: until its deadline.
        if self.ended.contains(&operation.id) && !is_in_force {
            return Err(format!("{} ({}) is brought into force again after its end", operation.id, operation.spec));
        }
        let Some(entry) = stored.mitigations.get(&operation.id) else {
            return Err(format!("{} ({}) is ordered without a ledger entry", operation.id, operation.spec));
        };
        if !entry.touched {
            return Err(format!("{} is ordered without a ledger entry that says so", operation.id));
        }
        self.ends.insert(operation.id, at + u64::try_from(operation.remaining.as_nanos()).unwrap());
        Ok(())
    }

    /// At every moment.
    pub(crate) fn moment(&self, receivers: &[Receiver], ledger: Option<&Ledger>, at: u64) -> Result<(), String> {
        for receiver in receivers {
            for (id, thing) in &receiver.in_force {
                let end = self.ends.get(id).copied().unwrap_or(thing.end);
                if at > end.saturating_add(OVERDUE) {
                    let late = (at - end) / 1_000_000_000;
                    return Err(format!("{id} ({}) at {} is {late} s past its deadline", thing.spec, receiver.name));
                }
            }
        }
        let Some(ledger) = ledger else { return Ok(()) };
        let limits =
            [(levee_controlplane::ledger::Kind::FlowSpec, 6), (levee_controlplane::ledger::Kind::Blackhole, 3)];
        for receiver in receivers {
            for (kind, limit) in limits {
                // What is being withdrawn was within the limit when it began; what was adopted was never asked for.
                let of_kind = ledger
                    .live()
                    .filter(|entry| entry.driver == receiver.name && entry.spec.kind() == kind && entry.is_wanted());
                let count = of_kind.count();
                if count > limit {
                    return Err(format!("{count} {kind} at {} break a guardrail: {limit}", receiver.name));
                }
            }
        }
        Ok(())
    }
}
