//! Configurations that are in force by turns: the file is changed and read again, or found changed by the next start.

use std::collections::BTreeMap;
use std::sync::Arc;

use levee_api::config::Config;
use levee_controlplane::core::{Input, Policy};
use levee_controlplane::driver::{Capabilities, DriverName};
use levee_controlplane::guardrail::Guards;
use levee_controlplane::runbook::Runbooks;

use crate::bug::Bug;
use crate::check::Rules;
use crate::life::World;

const LADDER: &str = include_str!("ladder.toml");
const STAGE: &str = "[[runbook.stage]]\n";

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// As it is written.
    Whole,
    /// Less is allowed than is in force.
    LowLimits,
    /// The announcer is gone, and the stages that need it.
    NoAnnouncer,
    /// The runbook has other stages, in another order.
    OtherStages,
    /// Two people have to approve diversions.
    TwoPeople,
}

impl Variant {
    pub(crate) const ALL: [Self; 5] =
        [Self::Whole, Self::LowLimits, Self::NoAnnouncer, Self::OtherStages, Self::TwoPeople];

    fn text(self) -> String {
        let end = LADDER.find("[runbook.de_escalate]").unwrap();
        let parts: Vec<&str> = LADDER[..end].split(STAGE).collect();
        let [head, _, packets, edge, scrub, blackhole] = parts[..] else { panic!("{parts:?}") };
        let with = |parts: &[&str]| parts.join(STAGE) + &LADDER[end..];
        match self {
            Self::Whole => LADDER.to_owned(),
            Self::LowLimits => {
                let changed = [
                    ("max_flowspec_rules = 6", "max_flowspec_rules = 2"),
                    ("max_blackholes = 3", "max_blackholes = 1"),
                    ("max_diversions = 3", "max_diversions = 1"),
                    ("max_changes_per_minute = 12", "max_changes_per_minute = 3"),
                    ("max_ttl = \"10m\"", "max_ttl = \"1m\""),
                ];
                changed.into_iter().fold(LADDER.to_owned(), |text, (from, to)| replaced(&text, from, to))
            }
            Self::NoAnnouncer => {
                let at = head.find("[[announcer]]").unwrap();
                let end_at = head.find("[[scrubber]]").unwrap();
                let head = format!("{}{}", &head[..at], &head[end_at..]);
                let scrub = replaced(scrub, " && (stage.edge.age > duration('5s') || stage.edge.failed)", "");
                with(&[&head, packets, &scrub])
            }
            Self::OtherStages => {
                let edge = replaced(edge, "prefer = \"drop\"", "prefer = \"rate-limit\"");
                let when = " && (stage.scrub.failed || stage.scrub.age > duration('20s'))";
                with(&[head, packets, &replaced(blackhole, when, ""), &edge])
            }
            Self::TwoPeople => {
                let text = replaced(LADDER, "[guardrails]\n", "[guardrails]\ntwo_person = true\n");
                replaced(&text, scrub, &replaced(scrub, "otherwise = \"proceed\"", "otherwise = \"skip\""))
            }
        }
    }

    pub(crate) fn config(self, bug: Option<Bug>) -> Config {
        let text = self.text();
        let text = if bug == Some(Bug::DeadEnd) { text.replace("stage.scrub.failed || ", "") } else { text };
        // Not through the check of whole files: it refuses ladders that dead-end, and one is planted here.
        Config::parse("levee.toml", &text).unwrap()
    }
}

/// A replacement that replaces nothing would change nothing.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in {text:?}");
    text.replace(from, to)
}

/// Guardrails as the core has them.
fn planned(config: &Config, bug: Option<Bug>) -> Guards {
    if bug != Some(Bug::NoGuardrails) {
        return Guards::new(config, []);
    }
    let mut config = config.clone();
    config.guardrails.protected_prefixes.clear();
    config.guardrails.max_flowspec_rules = 1_000;
    Guards::new(&config, [])
}

impl World {
    /// What the file makes of the core now. `live`: drivers that the ledger still speaks of; they end what is left.
    pub(crate) fn policy(&self, live: impl IntoIterator<Item = DriverName>) -> Policy {
        let config = self.variant.config(self.bug);
        let (runbooks, _) = Runbooks::of(&config);
        let has = |name: &DriverName| {
            config.announcers.iter().any(|announcer| announcer.name == name.0)
                || config.scrubbers.iter().any(|scrubber| scrubber.name == name.0)
        };
        let live: Vec<DriverName> = live.into_iter().collect();
        let drivers: BTreeMap<DriverName, Capabilities> = self
            .receivers
            .iter()
            .filter(|receiver| has(&receiver.name) || live.contains(&receiver.name))
            .map(|receiver| {
                let mut capabilities = receiver.capabilities.clone();
                if !has(&receiver.name) {
                    capabilities.kinds.clear();
                }
                (receiver.name.clone(), capabilities)
            })
            .collect();
        let guards = Arc::new(planned(&config, self.bug));
        Policy { config: Arc::new(config), runbooks: Arc::new(runbooks), guards, drivers }
    }

    /// Another file, which is read again at once or found by the next start.
    pub(crate) fn change_configuration(&mut self, variant: Variant) {
        self.variant = variant;
        self.reload_due = self.process.is_some();
    }

    /// The file is read again.
    pub(crate) fn reload(&mut self) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        let live: Vec<DriverName> = process.core.ledger().live().map(|entry| entry.driver.clone()).collect();
        let policy = self.policy(live);
        self.take_effect(&policy);
        self.step(Input::Configured(Box::new(policy)))
    }

    /// Guardrails hold from now on. With an announcer that is gone its sessions end, and what its peers had of us.
    pub(crate) fn take_effect(&mut self, policy: &Policy) {
        self.checker.configured(Rules::of(&policy.config), self.at);
        for receiver in &mut self.receivers {
            receiver.configured = policy.drivers.get(&receiver.name).is_some_and(|can| !can.kinds.is_empty());
            if !receiver.configured {
                receiver.in_force.clear();
                receiver.late.clear();
            }
        }
    }
}
