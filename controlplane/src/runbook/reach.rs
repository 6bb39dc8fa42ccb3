//! How each stage is reached when the ones before it fail or are never entered: shown by `check`, so that nobody learns it
//! at 3 AM.

use levee_api::config::Action;

use super::Runbook;
use super::condition::Assumed;
use super::worlds::Worlds;

/// How one stage is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Position of the stage.
    pub stage: usize,
    /// Stages before it that its condition asks about.
    pub asks: Vec<usize>,
    /// Those of them that do nothing but wait for a yes, and without which it is not entered.
    pub after_yes: Vec<usize>,
    /// Sets of the others whose failure makes it unreachable, the smallest first.
    pub dead_ends: Vec<Vec<usize>>,
    /// True when it is not entered whatever happens: it waits for itself, or for stages that wait for it.
    pub never: bool,
    /// Something in which it waits for stages that are not entered.
    pub waits: Option<Waits>,
}

/// A stage waits for others that are not entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// The stages that are not entered, by position.
    pub stages: Vec<usize>,
    /// What is so then, in words.
    pub while_: String,
}

/// Parts of conditions that are looked at for all runbooks of a file in the search for something in which a stage waits:
/// about half a second's worth. Where ladders are many, long or wordy, fewer examples are tried.
const WORK: usize = 20_000_000;
/// What it takes to make an example up, in parts of conditions.
const WORLD: usize = 100;

/// For each stage of one of so many runbooks, which share the work that may be done.
pub fn reach(runbook: &Runbook, runbooks: usize) -> Vec<Reach> {
    let most = examples(runbook, runbooks);
    let ever = entered(runbook, None);
    let stages = runbook.stages.iter().enumerate().map(|(at, stage)| {
        let (asks, after_yes, dead_ends) = (Vec::new(), Vec::new(), Vec::new());
        let nothing = Reach { stage: at, asks, after_yes, dead_ends, never: false, waits: None };
        let Some(when) = &stage.when else { return nothing };
        let asks: Vec<usize> = when.stages().into_iter().filter(|asked| *asked < at).collect();
        let is_question = |asked: &usize| {
            runbook.stages.get(*asked).is_some_and(|stage| matches!(stage.action, Action::WaitForApproval(_)))
        };
        let ends_without = |failed: &[usize]| !when.can_hold(&assume(runbook, failed, Assumed::Failed), None);
        // No is an answer, and not a failure.
        let (questions, others): (Vec<usize>, Vec<usize>) = asks.iter().copied().partition(is_question);
        let after_yes = questions.into_iter().filter(|asked| ends_without(&[*asked])).collect();
        let dead_ends = failures(&others).into_iter().filter(|failed| ends_without(failed)).collect();
        let never = !ever.get(at).copied().unwrap_or_default();
        let waits = if never { None } else { waits(runbook, at, most) };
        Reach { stage: at, asks, after_yes, dead_ends, never, waits }
    });
    stages.collect()
}

/// How many examples may be tried for one stage.
pub(super) fn examples(runbook: &Runbook, runbooks: usize) -> usize {
    let size = |stage: &super::Stage| stage.when.as_ref().map_or(1, super::condition::Condition::size);
    let once: usize = runbook.stages.iter().map(size).sum();
    let stages = runbook.stages.len();
    // Each round may find no more than one stage that is entered, and passes over those.
    let rounds = stages / 2 + 1;
    let work = WORK / runbooks.max(1) / stages.max(1);
    work / once.saturating_mul(rounds).saturating_add(WORLD)
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

fn assume(runbook: &Runbook, stages: &[usize], assumed: Assumed) -> Vec<Assumed> {
    let all = 0..runbook.stages.len();
    all.map(|at| if stages.contains(&at) { assumed } else { Assumed::Anything }).collect()
}

/// Which stages are entered sooner or later, when what is known stays as it is; without values: when anything may happen.
fn entered(runbook: &Runbook, values: Option<&super::variable::Values>) -> Vec<bool> {
    let mut entered = vec![false; runbook.stages.len()];
    loop {
        let assumed: Vec<Assumed> =
            entered.iter().map(|entered| if *entered { Assumed::Anything } else { Assumed::Idle }).collect();
        let mut more = false;
        for (stage, entered) in runbook.stages.iter().zip(&mut entered) {
            let can_hold = || stage.when.as_ref().is_none_or(|when| when.can_hold(&assumed, values));
            if !*entered && can_hold() {
                (*entered, more) = (true, true);
            }
        }
        if !more {
            return entered;
        }
    }
}

/// Looks for something in which the stage would be entered if only those had been that it asks for.
fn waits(runbook: &Runbook, at: usize, most: usize) -> Option<Waits> {
    let when = runbook.stages.get(at)?.when.as_ref()?;
    let asked: Vec<usize> = when.stages().into_iter().filter(|asked| *asked != at).collect();
    // What asks for nothing but stages is wanted only after them.
    if asked.is_empty() || when.variables().is_empty() {
        return None;
    }
    let conditions = closure(runbook, at).into_iter().filter_map(|stage| runbook.stages.get(stage)?.when.as_ref());
    let worlds = Worlds::of(conditions);
    worlds.iter(most).find_map(|world| {
        let values = Some(&world.values);
        let entered = entered(runbook, values);
        let is_wanted = || when.can_hold(&[], values);
        if entered.get(at).copied().unwrap_or_default() || !is_wanted() {
            return None;
        }
        let idle: Vec<usize> =
            asked.iter().copied().filter(|asked| !entered.get(*asked).copied().unwrap_or_default()).collect();
        // One that is missing is told before all that are.
        let enough = |stage: &usize| {
            let others: Vec<usize> = idle.iter().copied().filter(|other| other != stage).collect();
            when.can_hold(&assume(runbook, &others, Assumed::Idle), values)
        };
        let stages = idle.iter().copied().find(enough).map_or_else(|| idle.clone(), |stage| vec![stage]);
        Some(Waits { stages, while_: world.to_string() })
    })
}

/// A stage and those that it asks for, directly or not.
fn closure(runbook: &Runbook, at: usize) -> Vec<usize> {
    let mut found = vec![at];
    let mut looked_at = 0;
    while let Some(stage) = found.get(looked_at).copied() {
        looked_at += 1;
        let asks = runbook.stages.get(stage).and_then(|stage| stage.when.as_ref()).map(|when| when.stages());
        for asked in asks.unwrap_or_default() {
            if !found.contains(&asked) {
                found.push(asked);
            }
        }
    }
    found
}
