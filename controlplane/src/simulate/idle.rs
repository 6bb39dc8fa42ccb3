//! Assumptions of the command line that would change nothing: whoever writes one expects that it does.

use std::collections::BTreeSet;

use levee_api::config::Action;

use super::attack::Report;
use super::command::Arguments;
use crate::runbook::variable::{StageField, Variable};
use crate::runbook::{Runbook, Stage};

/// What would change nothing, and what is there instead; none: everything has an effect.
pub(super) fn idle(arguments: &Arguments, followed: &[&Runbook], report: &Report) -> Option<String> {
    // Of a report without an attack nothing is simulated at all, which is said.
    if followed.is_empty() {
        return None;
    }
    let fails: Vec<&str> = arguments.fail.iter().map(|(stage, _)| stage.as_str()).collect();
    let answers: Vec<&str> = arguments.answer.iter().map(|(stage, _)| stage.as_str()).collect();
    let ineffective: Vec<&str> = arguments.ineffective.iter().map(String::as_str).collect();
    let assumed: Vec<&str> = arguments.assume.iter().map(|assumption| assumption.0.name()).collect();
    let twice = [("--fail", &fails), ("--answer", &answers), ("--ineffective", &ineffective), ("--assume", &assumed)];
    let twice = twice.into_iter().find_map(|(option, names)| Some((option, repeated(names)?)));
    twice
        .map(|(option, name)| {
            format!("{option} is given twice for {name}: once is enough, and only the last would count")
        })
        .or_else(|| fails.iter().find_map(|stage| cannot_fail(followed, stage)))
        .or_else(|| answers.iter().find_map(|stage| asks_nobody(followed, stage)))
        .or_else(|| ineffective.iter().find_map(|stage| takes_nothing(followed, stage, &fails)))
        .or_else(|| arguments.assume.iter().find_map(|assumption| nobody_asks(followed, assumption.0)))
        .or_else(|| {
            let all_end = report.attacks.iter().all(|attack| attack.ended_at_ns.is_some());
            let told = "--lasts changes nothing: the report says of each attack when it ended";
            (arguments.lasts.is_some() && all_end).then(|| told.to_owned())
        })
}

fn repeated<'n>(names: &[&'n str]) -> Option<&'n str> {
    let mut seen = BTreeSet::new();
    names.iter().copied().find(|name| !seen.insert(*name))
}

/// The stages of what is followed, and what they are called when they are like this.
fn stages<'r>(followed: &[&'r Runbook], is_so: impl Fn(&'r Runbook, &'r Stage) -> bool) -> BTreeSet<&'r str> {
    let all = followed.iter().flat_map(|runbook| runbook.stages.iter().map(move |stage| (*runbook, stage)));
    all.filter(|(runbook, stage)| is_so(runbook, stage)).map(|(_, stage)| stage.name.as_str()).collect()
}

/// Only these would have an effect.
fn others(of: &str, those: &BTreeSet<&str>) -> String {
    if those.is_empty() {
        return format!("no stage {of}");
    }
    format!("what {of}: {}", those.iter().copied().collect::<Vec<_>>().join(", "))
}

fn unless(those: &BTreeSet<&str>, stage: &str, told: impl FnOnce() -> String) -> Option<String> {
    (!those.contains(stage)).then(told)
}

fn cannot_fail(followed: &[&Runbook], stage: &str) -> Option<String> {
    let does = stages(followed, |_, stage| !matches!(stage.action, Action::WaitForApproval(_)));
    unless(&does, stage, || {
        format!("--fail {stage} changes nothing: it only waits for a yes; answer it with --answer {stage}=no")
    })
}

fn asks_nobody(followed: &[&Runbook], stage: &str) -> Option<String> {
    let asks = stages(followed, |_, stage| stage.approve.is_some());
    unless(&asks, stage, || {
        format!("--answer {stage} changes nothing: the stage asks nobody; {}", others("asks", &asks))
    })
}

fn takes_nothing(followed: &[&Runbook], stage: &str, fails: &[&str]) -> Option<String> {
    if fails.contains(&stage) {
        return Some(format!(
            "--ineffective {stage} changes nothing: it is to fail, so that it takes nothing away anyway"
        ));
    }
    let takes = stages(followed, |runbook, stage| {
        let upstream = matches!(stage.action, Action::FlowSpec(_) | Action::Divert(_) | Action::Blackhole(_));
        let position = runbook.stages.iter().position(|known| known.name == stage.name).unwrap_or_default();
        let mut conditions = runbook.stages.iter().filter_map(|stage| stage.when.as_ref());
        upstream || conditions.any(|when| when.reads(position, StageField::Effective))
    });
    unless(&takes, stage, || {
        format!(
            "--ineffective {stage} changes nothing: the stage takes nothing away before the uplink; {}",
            others("does", &takes)
        )
    })
}

fn nobody_asks(followed: &[&Runbook], variable: Variable) -> Option<String> {
    use Variable::{AttackSeverity, UplinkBps, UplinkCapacity, UplinkSaturated, UplinkUtilisation};
    let conditions = followed.iter().flat_map(|runbook| runbook.stages.iter().filter_map(|stage| stage.when.as_ref()));
    let asked: BTreeSet<Variable> = conditions.flat_map(crate::runbook::condition::Condition::variables).collect();
    // What is calculated from it in the simulated world.
    let leads_to: &[Variable] = match variable {
        // An attack that is over, or that is not.
        Variable::AttackActive => return None,
        UplinkBps | UplinkCapacity => &[UplinkUtilisation, UplinkSaturated, AttackSeverity],
        UplinkUtilisation => &[UplinkSaturated, AttackSeverity],
        _ => &[],
    };
    if asked.contains(&variable) || leads_to.iter().any(|variable| asked.contains(variable)) {
        return None;
    }
    let (name, asked) = (variable.name(), asked.iter().map(|variable| variable.name()).collect::<Vec<_>>());
    let asked = if asked.is_empty() { "nothing".to_owned() } else { asked.join(", ") };
    Some(format!("--assume {name} changes nothing: no condition that is followed asks for it; they ask for {asked}"))
}
