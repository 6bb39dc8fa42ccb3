//! How a life stands, and what is left of it at the end.

use levee_api::filter::Target;
use levee_controlplane::runbook::StageState;

use crate::life::World;

impl World {
    pub(crate) fn is_at_the_top(&self, target: &Target) -> bool {
        let Some(process) = &self.process else { return false };
        let Some(id) = process.core.incidents().on(target) else { return false };
        let progress = process.core.progress(id);
        progress
            .and_then(|progress| progress.stages.last())
            .is_some_and(|top| matches!(top.state, StageState::Active { .. }))
    }

    pub(crate) fn stages(&self, target: &Target) -> String {
        let Some(process) = &self.process else { return "no process".to_owned() };
        let Some(id) = process.core.incidents().on(target) else { return "no incident".to_owned() };
        let of = self.stored.timeline.values().filter(|entry| entry.incident == id).rev();
        let last: Vec<&str> = of.take(5).map(|entry| entry.text.as_str()).collect();
        let phase = process.core.incidents().get(id).map(|incident| &incident.phase);
        format!("{:?}; {phase:?}, last {last:?}", process.core.stages(id))
    }

    pub(crate) fn is_over(&self) -> bool {
        let Some(process) = &self.process else { return false };
        self.receivers.iter().all(|receiver| receiver.in_force.is_empty() && receiver.late.is_empty())
            && process.core.ledger().live().next().is_none()
            && process.core.incidents().open_count() == 0
            && self.stored.messages.values().all(|message| message.ended.is_some())
            && !process.journal.is_failing()
    }

    pub(crate) fn left(&self) -> String {
        let Some(process) = &self.process else { return "no process".to_owned() };
        let things: Vec<String> = self
            .receivers
            .iter()
            .flat_map(|receiver| {
                receiver.in_force.iter().map(move |(id, thing)| format!("{id} {} at {}", thing.spec, receiver.name))
            })
            .collect();
        let live: Vec<String> = process.core.ledger().live().map(|entry| format!("{entry:?}")).collect();
        let open: Vec<String> = process
            .core
            .incidents()
            .open()
            .map(|id| {
                let incident = process.core.incidents().get(id);
                let view = incident
                    .map(|incident| (incident.phase, &incident.anomalies, incident.merged_into, &incident.target));
                format!(
                    "{id}: {view:?} {:?}",
                    process.core.stages(id).iter().map(|stage| stage.state.clone()).collect::<Vec<_>>()
                )
            })
            .collect();
        let messages = self.stored.messages.values().filter(|message| message.ended.is_none()).count();
        let mut left = Vec::new();
        for (what, things) in [("in force", things), ("live", live), ("open", open)] {
            if !things.is_empty() {
                left.push(format!("{what}: {}", things.join(", ")));
            }
        }
        if messages > 0 {
            left.push(format!("{messages} messages wait"));
        }
        left.join("; ")
    }
}
