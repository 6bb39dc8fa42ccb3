//! People: what they ask for, what they were told, and that they ask again until they were.

use std::collections::BTreeMap;
use std::time::Duration;

use levee_controlplane::actor::{Actor, Role};
use levee_controlplane::core::{Asked, Input, Reply};
use levee_controlplane::ledger::{Direction, FlowAction, FlowRule, MitigationId, Spec};
use levee_controlplane::runbook::StageState;
use levee_controlplane::server::link::{Operation, Outcome, Refused};

use crate::life::{Process, World, host};

/// Who there is; each may approve.
const PEOPLE: [&str; 3] = ["ann", "bob", "eve"];

#[derive(Debug, Default)]
pub(crate) struct Operators {
    asked: u64,
    /// By the ticket: what has no answer yet.
    waiting: BTreeMap<u64, Asked>,
    /// Measures by the request that they came of: the same again is not done again.
    given: BTreeMap<String, MitigationId>,
    /// A request that was answered, to be repeated.
    answered: Option<Asked>,
}

impl Operators {
    /// The store that knew what was answered is gone.
    pub(crate) fn forget(&mut self) {
        self.given.clear();
        self.answered = None;
    }
}

impl World {
    /// Somebody asks for something, or again for what has no answer, or again for what has one.
    pub(crate) fn ask(&mut self) {
        let some = usize::try_from(self.chance.between(0, 1_000)).unwrap();
        let waiting = &self.operators.waiting;
        let again = match self.chance.between(0, 9) {
            0..=2 if !waiting.is_empty() => waiting.values().nth(some % waiting.len()).cloned(),
            3 => self.operators.answered.clone(),
            _ => None,
        };
        let asked = again.or_else(|| {
            let operation = self.wish(some)?;
            let validate_only = self.chance.percent(10);
            Some(Asked { validate_only, ..self.request(PEOPLE[some % PEOPLE.len()], operation) })
        });
        if let Some(asked) = asked {
            self.send(asked);
        }
    }

    /// Somebody asks for this.
    pub(crate) fn ask_for(&mut self, operation: Operation) {
        let asked = self.request(PEOPLE[0], operation);
        self.send(asked);
    }

    fn send(&mut self, asked: Asked) {
        self.operators.waiting.insert(asked.ticket, asked.clone());
        self.feed(Input::Change(Box::new(asked)));
    }

    fn request(&mut self, name: &str, operation: Operation) -> Asked {
        self.operators.asked += 1;
        Asked {
            ticket: self.operators.asked,
            actor: Actor::Operator { name: name.to_owned(), role: Role::Approver },
            request_id: format!("request-{}", self.operators.asked),
            digest: format!("{operation:?}"),
            validate_only: false,
            operation,
        }
    }

    fn wish(&mut self, some: usize) -> Option<Operation> {
        let ttl = Duration::from_secs(self.chance.between(5, 700));
        let reason = "seen in the capture".to_owned();
        let process = self.process.as_ref()?;
        let live: Vec<MitigationId> = process.core.ledger().live().map(|entry| entry.id).collect();
        let id = || live.get(some % live.len().max(1)).copied();
        let waits = process.core.incidents().open().flat_map(|incident| {
            let stages = process.core.progress(incident).map(|progress| progress.stages.as_slice()).unwrap_or_default();
            let waiting = stages.iter().filter(|stage| matches!(stage.state, StageState::Waiting { .. }));
            waiting.map(move |stage| (incident, stage.name.clone()))
        });
        let waits: Vec<_> = waits.collect();
        match self.chance.between(0, 9) {
            9 if some < 200 => Some(Operation::KillSwitch { on: some < 50, reason }),
            0 | 1 => id().map(|id| Operation::Renew { id, ttl }),
            2 | 3 => id().map(|id| Operation::Withdraw { id, reason }),
            4..=6 if !waits.is_empty() => {
                let (incident, stage) = waits[some % waits.len()].clone();
                Some(Operation::Decide { incident, stage, approve: self.chance.percent(85), reason })
            }
            _ => {
                let target = host(u8::try_from(self.chance.between(5, 12)).unwrap());
                let mut prefix = target.prefix?;
                if self.chance.percent(20) {
                    // Protected, and not ours.
                    prefix = if some.is_multiple_of(2) { "198.51.100.1/32" } else { "192.0.2.1/32" }.parse().unwrap();
                }
                let spec = match self.chance.between(0, 2) {
                    0 => Spec::Blackhole { prefix, direction: Direction::Destination },
                    1 => Spec::Divert { prefix: "203.0.113.0/24".parse().unwrap() },
                    _ => {
                        let action = FlowAction::RateLimit { bps: 1_000_000 };
                        Spec::FlowSpec { rule: FlowRule::to(prefix), action }
                    }
                };
                let zone = Some(target.zone);
                Some(Operation::Add { incident: None, zone, driver: None, spec: Box::new(spec), ttl, reason })
            }
        }
    }

    /// What was asked for by people ends: they take it back, and ask until it is done.
    pub(crate) fn take_back(&mut self) {
        let Some(process) = &self.process else { return };
        let theirs = process
            .core
            .ledger()
            .live()
            .filter(|entry| entry.is_wanted() && matches!(entry.asked_by, Actor::Operator { .. }));
        let ids: Vec<MitigationId> = theirs.map(|entry| entry.id).collect();
        for id in ids {
            self.operators.asked += 1;
            let ticket = self.operators.asked;
            self.feed(Input::Change(Box::new(Asked {
                ticket,
                actor: Actor::Operator { name: PEOPLE[0].to_owned(), role: Role::Operator },
                request_id: format!("back-{ticket}"),
                digest: id.to_string(),
                validate_only: false,
                operation: Operation::Withdraw { id, reason: "over".to_owned() },
            })));
        }
    }

    /// Somebody was answered: what was said is so, and stored.
    pub(crate) fn told(&mut self, reply: Reply, failing: bool) -> Result<(), String> {
        let Some(asked) = self.operators.waiting.remove(&reply.ticket) else { return Ok(()) };
        let request = &asked.request_id;
        match (&asked.operation, &reply.result) {
            (_, Err(Refused::Unavailable(_))) => {
                self.operators.waiting.insert(asked.ticket, asked);
                return Ok(());
            }
            _ if asked.validate_only => return Ok(()),
            (Operation::Add { .. }, Ok(Outcome::Mitigation { mitigation })) => {
                let id = mitigation.id;
                if !self.stored.mitigations.contains_key(&id) {
                    return Err(format!("{request}: {id} was answered without a ledger entry"));
                }
                let known = *self.operators.given.entry(request.clone()).or_insert(id);
                if known != id {
                    return Err(format!("{request} was done twice: {known} and {id}"));
                }
            }
            (Operation::KillSwitch { .. }, Ok(Outcome::KillSwitch { state, .. })) => {
                // An answer that is given again tells how it was.
                let is_so = |process: &Process| process.core.kill_switch_is_engaged() == state.engaged;
                if self.process.as_ref().is_some_and(is_so) {
                    self.checker.told_kill_switch(state.engaged);
                }
            }
            (Operation::Withdraw { id, .. }, Ok(_)) => {
                let wanted = self.stored.mitigations.get(id).is_some_and(|entry| entry.is_wanted());
                // On a full disk it ends all the same, and the answer cannot wait for the store.
                if wanted && !failing {
                    return Err(format!("{request}: {id} was answered to be ending, and the store wants it"));
                }
            }
            _ => {}
        }
        if reply.result.is_ok() {
            self.operators.answered = Some(asked);
        }
        Ok(())
    }
}
