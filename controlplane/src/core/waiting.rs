//! Writes that the store has not taken yet. How many there are is bounded by what there is to know, not by how long the store
//! takes nothing.

use std::collections::HashSet;

use crate::store::{Record, Write};

/// Fewer are kept as they come.
const FEW: usize = 1_024;
/// Most that are kept: above that the oldest lines of timelines and messages are given up, never mitigations, ids or the kill
/// switch.
const MOST: usize = 100_000;

/// The oldest first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    writes: Vec<Write>,
    /// How many there were after earlier ones of the same records had been left out.
    apart: usize,
}

impl Waiting {
    pub(super) fn extend(&mut self, writes: Vec<Write>) {
        self.writes.extend(writes);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn all(&self) -> &[Write] {
        &self.writes
    }

    /// Whether the store takes anything can be seen by these: to prepare all, once a second, could take longer than that.
    pub(super) fn sample(&self) -> Option<&[Write]> {
        if self.writes.len() > FEW { self.writes.get(..1) } else { None }
    }

    pub(super) fn take(&mut self) -> Vec<Write> {
        self.apart = 0;
        std::mem::take(&mut self.writes)
    }

    /// The store takes nothing: of each record what was written last is enough. Looked for whenever there is twice as much.
    pub(super) fn settle(&mut self) {
        if self.writes.len() < (2 * self.apart).max(FEW) {
            return;
        }
        let mut seen: HashSet<Record<'_>> = HashSet::new();
        let last: Vec<bool> = self.writes.iter().rev().map(|write| seen.insert(write.record())).collect();
        let mut last = last.into_iter().rev();
        self.writes.retain(|_| last.next().unwrap_or(true));
        let mut excess = self.writes.len().saturating_sub(MOST);
        self.writes.retain(|write| {
            let spared = excess > 0 && matches!(write, Write::AppendTimeline(_) | Write::PutMessage(_));
            excess -= usize::from(spared);
            !spared
        });
        self.apart = self.writes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Id, IncidentId};
    use crate::store::{Contents, Position, RunbookState};

    #[test]
    fn what_waits_grows_with_what_there_is_to_know_and_not_with_time() {
        let (mut waiting, mut expected) = (Waiting::default(), Contents::default());
        let mut most = 0;
        for round in 0..20_000_u64 {
            let runbook = RunbookState {
                incident: IncidentId(round % 700),
                runbook: "web".to_owned(),
                state: serde_json::json!({ "round": round }),
            };
            let position = Position { boot_id: "run".to_owned(), sequence: round };
            let writes = vec![
                Write::PutRunbook(runbook),
                Write::PutPosition(position),
                Write::PutNextId(Id(round)),
                Write::DeleteRunbook(IncidentId(round % 300)),
            ];
            writes.iter().for_each(|write| expected.apply(write));
            waiting.extend(writes);
            waiting.settle();
            most = most.max(waiting.all().len());
        }
        assert!(most <= 2_048, "{most}");
        let mut contents = Contents::default();
        waiting.take().iter().for_each(|write| contents.apply(write));
        assert_eq!(contents, expected);
        assert!(waiting.is_empty());
    }
}
