//! `[[runbook]]`: ordered stages with conditions; what the control plane does about an incident.
//!
//! What can be said without knowing how conditions are written is checked here; the conditions themselves are the
//! control plane's, which gets each with its place in the file.

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use super::action::{self, Action};
use super::expression::Expression;
use super::general::{name, values};
use super::guardrails::Guardrails;
use super::problem::{Fault, Problems};
use super::quantity;
use super::section::{Located, Section};

/// The runbook of zones that name none: the dataplane's own filters, kept and refined, and nothing upstream.
pub const BUILT_IN: &str = "standard";

/// Most runbooks, and most stages of one.
pub const MAX_RUNBOOKS: usize = 64;
/// Most stages of a runbook.
pub const MAX_STAGES: usize = 16;
/// Longest condition, in bytes.
pub const MAX_CONDITION_BYTES: usize = 1_024;

/// Stages in the order in which an incident climbs them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runbook {
    /// Unique name.
    pub name: String,
    /// At least one, their names unique.
    pub stages: Vec<Stage>,
    /// How a mitigation that hides the attack is tried, see [`Probe`].
    pub probe: Probe,
}

/// One step of the ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Unique within the runbook, a name that conditions can speak of.
    pub name: String,
    /// When it is entered and kept; none: as long as the attack lasts.
    pub when: Option<Expression>,
    /// The condition has to be true for so long before the stage is entered.
    pub hold: Duration,
    /// What it does.
    pub action: Action,
    /// What its mitigations are given at a time.
    pub ttl: Duration,
    /// Who has to say yes first.
    pub approve: Option<Approval>,
    /// The condition has to be false for so long before the stage is left.
    pub calm: Duration,
    /// It is kept for at least so long.
    pub min_hold: Duration,
    /// Names of notifiers that are told of its changes.
    pub notify: Vec<String>,
    /// Where its name stands, in bytes of the file.
    pub span: Range<usize>,
}

/// Who has to say yes, and what happens if nobody answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Roles whose word counts.
    pub roles: Vec<ApprovalRole>,
    /// How long is waited.
    pub within: Duration,
    /// What silence means.
    pub otherwise: Otherwise,
}

/// Roles that may approve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApprovalRole {
    /// May start and end mitigations.
    Operator,
    /// May approve.
    Approver,
    /// May do everything.
    Admin,
}

/// What happens when nobody has answered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Otherwise {
    /// The stage is entered.
    Proceed,
    /// The stage has failed, the next one can be entered.
    Skip,
}

/// How a mitigation that hides the attack is stepped down to see whether it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// From the last change to the first try.
    pub first: Duration,
    /// Each try that found the attack doubles the time to the next one, up to this.
    pub longest: Duration,
}

const DURATION: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 60 * 60);
const CALM: Duration = Duration::from_secs(120);
const MIN_HOLD: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(300);
/// Less would be renewed all the time, and lapse when anything is slow.
const LEAST_TTL: Duration = Duration::from_secs(10);
/// A condition that has to hold for a moment is not entered by one sample.
const HOLD: Duration = Duration::from_secs(3);
const PROBE: Probe = Probe { first: Duration::from_secs(120), longest: Duration::from_secs(3_600) };

pub(super) fn read(file: &Section<'_>, guardrails: &Guardrails) -> Vec<Runbook> {
    let tables = file.tables("runbook");
    if tables.len() > MAX_RUNBOOKS {
        let message = format!("{} runbooks are too many", tables.len());
        file.problems()
            .error(file.place("runbook"), Fault::new(message, format!("at most {MAX_RUNBOOKS} are possible")));
        return Vec::new();
    }
    let mut names = HashMap::new();
    tables.into_iter().filter_map(|table| runbook(table, guardrails, &mut names)).collect()
}

/// Takes note of a name, and tells when it was taken.
pub(super) fn once(
    what: &str,
    name: &Located<String>,
    names: &mut HashMap<String, Range<usize>>,
    problems: &Problems<'_>,
) {
    if let Some(first) = names.insert(name.value.clone(), name.span.clone()) {
        let fault = Fault::new(format!("two {what} are named {:?}", name.value), "give each a name of its own");
        problems.conflict(name.span.clone(), fault, first, "first here");
    }
}

/// What the stages of a runbook share.
struct Defaults {
    calm: Duration,
    min_hold: Option<Duration>,
    max_ttl: Duration,
}

fn runbook(
    mut table: Section<'_>,
    guardrails: &Guardrails,
    names: &mut HashMap<String, Range<usize>>,
) -> Option<Runbook> {
    let problems = table.problems();
    let name = table.required("name", "\"standard\"", |table, key| table.parsed(key, name));
    if let Some(name) = &name {
        table.rename(format!("runbook {:?}", name.value));
        once("runbooks", name, names, problems);
    }
    let (defaults, probe) = de_escalate(&table, guardrails);
    let stages = table.tables("stage");
    let stages: Vec<Stage> = if stages.is_empty() && !table.has("stage") {
        let fault = Fault::new("the runbook has no stage", "add a [[runbook.stage]] with `name` and `action`");
        problems.error(table.place("name"), fault);
        Vec::new()
    } else if stages.len() > MAX_STAGES {
        let message = format!("{} stages are too many", stages.len());
        problems.error(table.place("stage"), Fault::new(message, format!("at most {MAX_STAGES} are possible")));
        Vec::new()
    } else {
        let mut names = HashMap::new();
        stages.into_iter().filter_map(|table| stage(table, &defaults, &mut names)).collect()
    };
    table.refuse_unknown();
    Some(Runbook { name: name?.value, stages, probe })
}

fn de_escalate(runbook: &Section<'_>, guardrails: &Guardrails) -> (Defaults, Probe) {
    let mut defaults = Defaults { calm: CALM, min_hold: None, max_ttl: guardrails.max_ttl };
    let mut probe = PROBE;
    let Some(table) = runbook.table("de_escalate", "de_escalate".to_owned()) else { return (defaults, probe) };
    let read = |key| table.parsed(key, positive);
    defaults.calm = read("calm").map_or(defaults.calm, |calm| calm.value);
    defaults.min_hold = table.parsed("min_hold", duration).map(|hold| hold.value);
    probe.first = read("probe").map_or(probe.first, |first| first.value);
    probe.longest = read("probe_longest").map_or(probe.longest.max(probe.first), |longest| longest.value);
    if probe.longest < probe.first {
        let fault = Fault::new("the longest time between tries is shorter than the first", "raise `probe_longest`");
        table.problems().conflict(table.place("probe_longest"), fault, table.place("probe"), "the first");
    }
    table.refuse_unknown();
    (defaults, probe)
}

fn stage(mut table: Section<'_>, defaults: &Defaults, names: &mut HashMap<String, Range<usize>>) -> Option<Stage> {
    let problems = table.problems();
    let name = table.required("name", "\"local\"", |table, key| table.parsed(key, stage_name));
    if let Some(name) = &name {
        table.rename(format!("stage {:?}", name.value));
        once("stages of this runbook", name, names, problems);
    }
    let when = table.string("when").map(|when| condition(&when, problems));
    let action = table.required("action", "{ filter = {} }", action::read);
    let ttl = table.parsed("ttl", duration).map_or(TTL.min(defaults.max_ttl), |ttl| {
        if ttl.value > defaults.max_ttl || ttl.value < LEAST_TTL {
            let (least, most) = (LEAST_TTL.as_secs(), defaults.max_ttl.as_secs());
            let fault = Fault::new(
                format!("a mitigation of this stage cannot be given {} s", ttl.value.as_secs_f64()),
                format!("give \"{least}s\" to \"{most}s\", which is `max_ttl` of [guardrails]: it is renewed as long as needed"),
            );
            problems.error(ttl.span.clone(), fault);
        }
        ttl.value
    });
    // Nothing tells whether the attack behind a diversion goes on but its provider, or time.
    let usual_hold = if matches!(action, Some(Action::Divert(_))) { ttl } else { MIN_HOLD };
    let min_hold = table.parsed("min_hold", duration).map(|hold| hold.value).or(defaults.min_hold);
    let hold = table.parsed("for", duration).map(|hold| hold.value);
    if table.has("for") && !table.has("when") {
        let fault = Fault::new("`for` without `when` has no effect", "leave it out, or say when the stage is entered");
        problems.error(table.place("for"), fault);
    }
    let approve = table.table("approve", "approve".to_owned()).and_then(|table| {
        let approval = approval(&table);
        table.refuse_unknown();
        approval
    });
    if let (Some(_), Some(Action::WaitForApproval(_))) = (&approve, &action) {
        let fault = Fault::new("the stage asks twice", "leave `approve` out: the action asks already");
        problems.error(table.place("approve"), fault);
    }
    let stage = Stage {
        span: name.as_ref().map_or(0..0, |name| name.span.clone()),
        name: name.as_ref().map_or_else(String::new, |name| name.value.clone()),
        hold: hold.unwrap_or(if when.is_some() { HOLD } else { Duration::ZERO }),
        when,
        ttl,
        approve,
        calm: table.parsed("calm", positive).map_or(defaults.calm, |calm| calm.value),
        min_hold: min_hold.unwrap_or(usual_hold),
        notify: values(table.parsed_list("notify", super::general::name).unwrap_or_default()),
        // A stage without a readable action has left its error; what is made of it is never used.
        action: action.unwrap_or(Action::Filter),
    };
    table.refuse_unknown();
    name.map(|_| stage)
}

fn condition(when: &Located<&str>, problems: &Problems<'_>) -> Expression {
    if when.value.len() > MAX_CONDITION_BYTES {
        let fault = Fault::new(
            format!("the condition has {} bytes", when.value.len()),
            format!("at most {MAX_CONDITION_BYTES} are allowed: what needs more is not understood at 3 AM either"),
        );
        problems.error(when.span.clone(), fault);
    }
    Expression::found(when, problems.text())
}

/// Reads `roles`, `within` and `otherwise`.
pub(super) fn approval(table: &Section<'_>) -> Option<Approval> {
    const ROLES: &[(&str, ApprovalRole)] =
        &[("operator", ApprovalRole::Operator), ("approver", ApprovalRole::Approver), ("admin", ApprovalRole::Admin)];
    const WORDS: &[(&str, Otherwise)] = &[("proceed", Otherwise::Proceed), ("skip", Otherwise::Skip)];
    let roles = table.required("roles", "[\"operator\"]", |table, key| {
        table.parsed_list(key, |text| super::section::choose(key, text, ROLES))
    });
    if table.list("roles").is_some_and(<[_]>::is_empty) {
        let fault = Fault::new("nobody may approve", "name at least one role: operator, approver, admin");
        table.problems().error(table.place("roles"), fault);
    }
    let within = table.required("within", "\"2m\"", |table, key| table.parsed(key, positive));
    let otherwise = table.required("otherwise", "\"skip\"", |table, key| table.choice(key, WORDS));
    Some(Approval { roles: values(roles?), within: within?.value, otherwise: otherwise? })
}

/// A name that a condition can speak of: `stage.NAME.active`.
fn stage_name(text: &str) -> Result<String, Fault> {
    /// What CEL reserves (its language definition, "Syntax").
    const RESERVED: &[&str] = &[
        "as",
        "break",
        "const",
        "continue",
        "else",
        "false",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "namespace",
        "null",
        "package",
        "return",
        "true",
        "var",
        "void",
        "while",
    ];
    let word = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let begins = text.chars().next().is_some_and(|first| first.is_ascii_lowercase());
    if word && begins && text.len() <= 32 && !RESERVED.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} cannot be the name of a stage"),
        "conditions speak of it as stage.NAME: use at most 32 of a-z, 0-9 and _, a letter first, and no word of CEL",
    ))
}

pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    let duration = quantity::duration(text)?;
    if DURATION.contains(&duration) {
        return Ok(duration);
    }
    Err(Fault::new(format!("{text} is too long"), "give at most \"24h\""))
}

fn positive(text: &str) -> Result<Duration, Fault> {
    match duration(text)? {
        Duration::ZERO => {
            Err(Fault::new("no time at all would let it change with every sample", "give at least \"1s\""))
        }
        duration => Ok(duration),
    }
}
