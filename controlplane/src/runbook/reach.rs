//! How each stage is reached when the ones before it fail: shown by `check`, so that nobody learns it at 3 AM.

use super::Runbook;

/// How one stage is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Position of the stage.
    pub stage: usize,
    /// Stages before it that its condition asks about.
    pub asks: Vec<usize>,
    /// Sets of stages before it whose failure makes it unreachable, the smallest first.
    pub dead_ends: Vec<Vec<usize>>,
}

/// For each stage of a runbook.
pub fn reach(runbook: &Runbook) -> Vec<Reach> {
    runbook
        .stages
        .iter()
        .enumerate()
        .map(|(at, stage)| {
            let Some(when) = &stage.when else { return Reach { stage: at, asks: Vec::new(), dead_ends: Vec::new() } };
            let asks: Vec<usize> = when.stages().into_iter().filter(|asked| *asked < at).collect();
            let dead_ends = failures(&asks).into_iter().filter(|failed| !when.can_hold(failed)).collect();
            Reach { stage: at, asks, dead_ends }
        })
        .collect()
}

/// Each alone, each two, and all of them: what is reached in spite of those is reached in spite of others too, unless
/// somebody has written a riddle.
fn failures(asked: &[usize]) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = asked.iter().map(|stage| vec![*stage]).collect();
    for (at, first) in asked.iter().enumerate() {
        sets.extend(asked.iter().skip(at + 1).map(|second| vec![*first, *second]));
    }
    if asked.len() > 2 {
        sets.push(asked.to_vec());
    }
    sets
}
