//! What a replay reports.

use levee_engine::verdict::{Reason, Verdict};
use serde_json::{Value, json};

use super::incidents::Incident;

/// Counts of one direction.
#[derive(Debug)]
pub(super) struct Totals {
    received: u64,
    forwarded: u64,
    replied: u64,
    dropped: [u64; Reason::COUNT],
}

impl Default for Totals {
    fn default() -> Self {
        Self { received: 0, forwarded: 0, replied: 0, dropped: [0; Reason::COUNT] }
    }
}

impl Totals {
    /// Counts a packet and its verdict.
    pub(super) fn count(&mut self, verdict: Verdict) {
        self.received += 1;
        match verdict {
            Verdict::Forward | Verdict::Translate => self.forwarded += 1,
            Verdict::Reply => self.replied += 1,
            Verdict::Drop(reason) => {
                if let Some(count) = self.dropped.get_mut(reason.index()) {
                    *count += 1;
                }
            }
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "in": self.received,
            "out": self.forwarded,
            "replied": self.replied,
            "dropped": self.dropped.iter().sum::<u64>(),
        })
    }

    fn reasons(&self) -> Value {
        let counted = Reason::ALL.iter().zip(&self.dropped).filter(|(_, count)| **count > 0);
        counted
            .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// The whole report.
#[derive(Debug)]
pub(super) struct Report {
    /// From outside to inside.
    pub(super) inbound: Totals,
    /// From inside to outside.
    pub(super) outbound: Totals,
    /// What happened.
    pub(super) incidents: Vec<Incident>,
}

impl Report {
    /// The report as indented JSON.
    pub(super) fn to_json(&self) -> String {
        let report = json!({
            "totals": self.inbound.to_json(),
            "reverse": self.outbound.to_json(),
            "reasons": { "outside": self.inbound.reasons(), "inside": self.outbound.reasons() },
            "incidents": self.incidents.iter().map(Incident::to_json).collect::<Vec<_>>(),
        });
        format!("{report:#}\n")
    }
}
