//! From the configuration to runbooks that can be followed.

use std::path::Path;

use levee_api::config::{
    self, Action, Approval, BUILT_IN, BlackholeDirection, Capability, Config, ConfigError, Finding, FlowSpecAction,
    Invalid, Probe,
};
use levee_api::zone::Visibility;

use super::condition::{Condition, Mistake};
use super::reach::{self, Waits};
use super::variable::Variable;
use super::{Ask, Blindness, Runbook, Stage};

/// The runbooks of a configuration, and the built-in one.
#[derive(Clone, Debug, PartialEq)]
pub struct Runbooks {
    list: Vec<Runbook>,
    built_in: Runbook,
}

impl Runbooks {
    /// Reads a file, conditions included.
    ///
    /// # Errors
    /// As [`Config::load`]; mistakes in conditions are told with the rest.
    pub fn load(path: impl AsRef<Path>) -> Result<(Config, Self), ConfigError> {
        let mut runbooks = None;
        let config = Config::load_with(path, |config| {
            let (read, findings) = Self::of(config);
            runbooks = Some(read);
            findings
        })?;
        let runbooks = runbooks.unwrap_or_else(|| Self::of(&config).0);
        Ok((config, runbooks))
    }

    /// Validates a text, conditions included; `name` is what problems call it.
    ///
    /// # Errors
    /// Every problem found.
    pub fn parse(name: &str, text: &str) -> Result<(Config, Self), Invalid> {
        let mut runbooks = None;
        let config = Config::parse_with(name, text, |config| {
            let (read, findings) = Self::of(config);
            runbooks = Some(read);
            findings
        })?;
        let runbooks = runbooks.unwrap_or_else(|| Self::of(&config).0);
        Ok((config, runbooks))
    }

    /// The runbooks of a configuration, and what is wrong with them. A stage whose condition cannot be read is never entered;
    /// that is an error among the findings.
    pub fn of(config: &Config) -> (Self, Vec<Finding>) {
        let mut findings = Vec::new();
        let list: Vec<Runbook> =
            config.runbooks.iter().map(|runbook| compile(runbook, config, &mut findings)).collect();
        // A ladder with conditions that cannot be read says nothing about where it ends.
        if findings.iter().all(|finding| !finding.is_error) {
            let ladders = list.iter().zip(&config.runbooks);
            let among = list.len();
            let ends = ladders.flat_map(|(runbook, written)| ends_early(runbook, written, among));
            findings.extend(ends.collect::<Vec<_>>());
        }
        for (runbook, written) in list.iter().zip(&config.runbooks) {
            findings.extend(never_known(runbook, written, config));
        }
        (Self { list, built_in: built_in() }, findings)
    }

    /// The runbooks of a configuration that was checked before: [`of`](Self::of) takes up to a second.
    pub fn checked(config: &Config) -> Self {
        let list = config.runbooks.iter().map(|runbook| compile(runbook, config, &mut Vec::new())).collect();
        Self { list, built_in: built_in() }
    }

    /// Validates a text that was checked before: everything but where its ladders end.
    ///
    /// # Errors
    /// Every problem found.
    pub fn parse_checked(name: &str, text: &str) -> Result<Config, Invalid> {
        Config::parse_with(name, text, |config| {
            let mut findings = Vec::new();
            for runbook in &config.runbooks {
                compile(runbook, config, &mut findings);
            }
            findings
        })
    }

    /// All that the file describes, in its order.
    pub fn list(&self) -> &[Runbook] {
        &self.list
    }

    /// By name; the built-in one has a name too, unless the file has given it to another.
    pub fn get(&self, name: &str) -> Option<&Runbook> {
        let own = self.list.iter().find(|runbook| runbook.name == name);
        own.or_else(|| (name == BUILT_IN).then_some(&self.built_in))
    }

    /// What a zone follows: what it names, or else the built-in one.
    pub fn of_zone(&self, named: Option<&str>) -> &Runbook {
        named.and_then(|name| self.get(name)).unwrap_or(&self.built_in)
    }
}

/// What the dataplane does by itself, kept and refined as long as the attack lasts, and nothing upstream.
fn built_in() -> Runbook {
    use std::time::Duration;
    Runbook {
        name: BUILT_IN.to_owned(),
        stages: vec![Stage {
            name: "local".to_owned(),
            when: None,
            written: None,
            hold: Duration::ZERO,
            calm: Duration::from_secs(120),
            min_hold: Duration::from_secs(30),
            ttl: Duration::from_secs(300),
            unjudged: Duration::MAX,
            action: Action::Filter,
            approve: None,
            notify: Vec::new(),
            blindness: Blindness::Sees,
        }],
        probe: Probe { first: Duration::from_secs(120), longest: Duration::from_secs(3_600) },
    }
}

fn compile(runbook: &config::Runbook, config: &Config, findings: &mut Vec<Finding>) -> Runbook {
    let names: Vec<&str> = runbook.stages.iter().map(|stage| stage.name.as_str()).collect();
    let stages = runbook.stages.iter().map(|stage| {
        let when = stage.when.as_ref().map(|when| {
            let mut tell = |mistakes: Vec<Mistake>, is_error| {
                findings.extend(mistakes.into_iter().map(|Mistake { at, message, help }| {
                    let message = format!("the condition of stage {:?}: {message}", stage.name);
                    Finding { span: when.place(at), message, help, is_error }
                }));
            };
            match Condition::parse(when.text(), &names) {
                Ok(condition) => {
                    tell(condition.doubts().to_vec(), false);
                    condition
                }
                Err(mistakes) => {
                    tell(mistakes, true);
                    // A stage without a condition is always entered: that is not what was meant.
                    Condition::never_known()
                }
            }
        });
        let asked = match &stage.action {
            Action::WaitForApproval(approval) => Some(approval),
            _ => stage.approve.as_ref(),
        };
        Stage {
            name: stage.name.clone(),
            when,
            written: stage.when.as_ref().map(|when| when.text().to_owned()),
            hold: stage.hold,
            calm: stage.calm,
            min_hold: stage.min_hold,
            ttl: stage.ttl,
            unjudged: config.guardrails.max_ttl,
            action: stage.action.clone(),
            approve: asked.map(|approval| ask(approval, &stage.action, config)),
            notify: stage.notify.clone(),
            blindness: blindness(&stage.action, config),
        }
    });
    Runbook { name: runbook.name.clone(), stages: stages.collect(), probe: runbook.probe }
}

fn ask(approval: &Approval, action: &Action, config: &Config) -> Ask {
    // What may take more than a host away.
    let least = &config.guardrails.blackhole_length;
    let whole_prefix = match action {
        Action::Divert(_) => true,
        Action::Blackhole(_) => least.ipv4 < 32 || least.ipv6 < 128,
        _ => false,
    };
    let two = config.guardrails.two_person && whole_prefix;
    Ask {
        roles: approval.roles.clone(),
        within: approval.within,
        otherwise: approval.otherwise,
        people: if two { 2 } else { 1 },
    }
}

fn blindness(action: &Action, config: &Config) -> Blindness {
    let can_limit = |names: &[String]| {
        names.iter().all(|name| {
            let announcer = config.announcers.iter().find(|announcer| announcer.name == *name);
            announcer.is_some_and(|announcer| {
                let has = |capability| announcer.capabilities.contains(&capability);
                has(Capability::Flowspec) && has(Capability::RateLimit)
            })
        })
    };
    let steps = |names: &[String]| if can_limit(names) { Blindness::Steps } else { Blindness::Holds };
    match action {
        Action::FlowSpec(flowspec) => match flowspec.prefer {
            FlowSpecAction::Mark { .. } | FlowSpecAction::Sample => Blindness::Sees,
            FlowSpecAction::RateLimit => Blindness::Limits,
            FlowSpecAction::Drop | FlowSpecAction::Redirect { .. } => steps(&flowspec.announcers),
        },
        // A rate limit by source would need a rule for each of them.
        Action::Blackhole(blackhole) if blackhole.direction == BlackholeDirection::Destination => {
            steps(&blackhole.announcers)
        }
        Action::Blackhole(_) | Action::Divert(_) => Blindness::Holds,
        Action::Filter
        | Action::Notify { .. }
        | Action::Capture { .. }
        | Action::Webhook { .. }
        | Action::WaitForApproval(_) => Blindness::Sees,
    }
}

/// Variables that this configuration keeps from ever being known: a condition that waits for one waits in vain.
fn never_known(runbook: &Runbook, written: &config::Runbook, config: &Config) -> Vec<Finding> {
    let wires = &config.dataplane.wires;
    let zones: Vec<_> = config.zones.iter().filter(|zone| zone.runbook.as_ref() == Some(&runbook.name)).collect();
    let why = |variable: Variable| match variable {
        Variable::UplinkUtilisation if wires.iter().all(|wire| wire.capacity_bps.is_none()) => {
            Some(("no wire has a capacity", "give each [[dataplane.wire]] its `capacity`"))
        }
        Variable::UplinkCapacity if wires.iter().any(|wire| wire.capacity_bps.is_none()) || wires.is_empty() => {
            Some(("not every wire has a capacity", "give each [[dataplane.wire]] its `capacity`"))
        }
        Variable::ZoneLinkCapacity if zones.iter().all(|zone| zone.link_capacity_bps.is_none()) => {
            Some(("no zone that follows the runbook has one", "give the zone its `link_capacity`"))
        }
        Variable::LocalGoodputRatio
            if !zones.is_empty() && zones.iter().all(|zone| zone.visibility == Visibility::Inbound) =>
        {
            Some(("what the zones send does not pass here", "ask for something else, or set `visibility` of the zone"))
        }
        _ => None,
    };
    let stages = runbook.stages.iter().zip(&written.stages);
    let asked = stages.filter_map(|(stage, written)| Some((stage, stage.when.as_ref()?, written.when.as_ref()?)));
    let findings = asked.flat_map(|(stage, when, place)| {
        let unknown = when.variables().into_iter().filter_map(|variable| Some((variable, why(variable)?)));
        let finding = |(variable, (why, help)): (Variable, (&str, &str))| Finding {
            span: place.span(),
            message: format!(
                "the condition of stage {:?} asks for {}, which is never known: {why}",
                stage.name,
                variable.name()
            ),
            help: format!("{help}; until then the rest of the condition decides"),
            is_error: false,
        };
        unknown.map(finding).collect::<Vec<_>>()
    });
    findings.collect()
}

/// A ladder never dead-ends: what acts must be reachable when everything before it has failed, and should be when something
/// before it is not entered.
fn ends_early(runbook: &Runbook, written: &config::Runbook, among: usize) -> Vec<Finding> {
    let all = |stages: &[usize]| {
        let names = stages.iter().filter_map(|at| runbook.stages.get(*at)).map(|stage| stage.name.as_str());
        names.collect::<Vec<_>>()
    };
    let findings = reach::reach(runbook, among).into_iter().filter_map(|reach| {
        let (compiled, place) = (runbook.stages.get(reach.stage)?, written.stages.get(reach.stage)?);
        let name = &compiled.name;
        let (message, help, is_error) = if reach.never {
            let message =
                format!("stage {name:?} can never be entered: it waits for itself, or for stages that wait for it");
            (message, "let its condition be true before it, or what waits for it, is entered".to_owned(), true)
        } else if let Some(first) = reach.dead_ends.first() {
            let (names, failed) = (all(first), all(first).join(" and "));
            let needed: Vec<String> = names.iter().map(|name| format!("stage.{name}.failed")).collect();
            let message = format!("the ladder ends early: stage {name:?} cannot be entered when {failed} failed");
            let needed = needed.join(" || ");
            (
                message,
                format!("let it be reached without: add `|| {needed}` where its condition asks for {failed}"),
                true,
            )
        } else {
            let Waits { stages, while_ } = reach.waits.filter(|_| compiled.has_mitigation())?;
            let names = all(&stages).join(" and ");
            let message =
                format!("the ladder may end early: stage {name:?} waits for {names}, not entered while {while_}");
            let help =
                format!("let {names} be entered then too, or ask for something else beside it in stage {name:?}");
            (message, help, false)
        };
        // What only tells or records may well depend on what it tells of.
        let is_error = is_error && (compiled.has_mitigation() || reach.never);
        let span = place.when.as_ref().map_or_else(|| place.span.clone(), config::Expression::span);
        Some(Finding { span, message, help, is_error })
    });
    findings.collect()
}
