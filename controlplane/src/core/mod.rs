//! The core of the control plane: everything that decides, in one deterministic state machine.
//!
//! ```text
//!   dataplane, drivers, notifiers, operators, time ──► Core::step(now, input) ──► Step { writes, commands, replies }
//! ```
//!
//! It has no clock, no input or output and no chance of its own: the same inputs give the same outputs. The caller makes
//! the writes durable first ([`Journal`]) and only then carries the commands out. After a crash at any instruction
//! [`Core::load`] goes on from what was stored: orders without an answer are given again with the same keys, and drivers
//! are asked what of ours is in force.

mod caps;
mod configure;
mod effect;
mod evaluate;
mod flow;
mod guard;
mod journal;
mod knowledge;
mod measure;
#[cfg(test)]
mod measured_test;
mod operator;
mod results;
mod sight;
mod specs;
mod stages;
mod told;
mod waiting;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use levee_api::config::Config;
use levee_api::filter::Target;
use levee_api::grpc::dataplane::v1 as contract;

use crate::actor::Actor;
use crate::clock::{Now, first_id};
use crate::dataplane::Snapshot;
use crate::driver::{Capabilities, DriverError, DriverName, Observed, OperationKey};
use crate::guardrail::Guards;
use crate::incident::Incidents;
use crate::ledger::{Evidence, Id, IncidentId, Ledger, MitigationId, Order};
use crate::notify::{DeliveryError, Message, MessageId, Outbox};
use crate::runbook::{Progress, Runbooks};
use crate::server::link::{Operation, Outcome, Refused};
use crate::store::{Contents, KillSwitch, Position, Request, Write};

pub use journal::{Durable, Journal};
use measure::Meters;
use sight::Before;

/// What holds until the configuration is read again.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The file.
    pub config: Arc<Config>,
    /// Its runbooks.
    pub runbooks: Arc<Runbooks>,
    /// Its guardrails, with what this machine depends on.
    pub guards: Arc<Guards>,
    /// The drivers that there are, and what each can do.
    pub drivers: BTreeMap<DriverName, Capabilities>,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// Another configuration is in force.
    Configured(Box<Policy>),
    /// A dataplane has introduced itself.
    Connected {
        /// Its run.
        boot_id: String,
    },
    /// It is gone, or hangs.
    Disconnected,
    /// What it tells, in order.
    Events(Vec<contract::Event>),
    /// All that goes on in it.
    Snapshot(Box<Snapshot>),
    /// What it has counted.
    Counters(Box<contract::CountersResponse>),
    /// What it makes of the policy that it was given.
    Policy {
        /// Why it keeps another one; none: it has taken it.
        refused: Option<String>,
    },
    /// A driver has answered an order to apply.
    Applied {
        /// Which mitigation.
        id: MitigationId,
        /// Of the order.
        key: OperationKey,
        /// What it says.
        result: Result<Evidence, DriverError>,
    },
    /// A driver has answered an order to withdraw.
    Withdrawn {
        /// Which mitigation.
        id: MitigationId,
        /// Of the order.
        key: OperationKey,
        /// What it says.
        result: Result<(), DriverError>,
    },
    /// A driver has looked what is in force.
    Observed {
        /// Who.
        driver: DriverName,
        /// Of the order.
        round: u64,
        /// What it says.
        result: Result<Vec<Observed>, DriverError>,
    },
    /// Whoever a driver talks to has come back.
    Recovered {
        /// Who talks to it.
        driver: DriverName,
    },
    /// A notifier has answered.
    Sent {
        /// Which message.
        id: MessageId,
        /// What it says.
        result: Result<(), DeliveryError>,
    },
    /// The dataplane has begun a capture for a stage, or not.
    Captured {
        /// Of which incident.
        incident: IncidentId,
        /// Name of the stage.
        stage: String,
        /// Of the command.
        change: u32,
        /// Name of the file, or why there is none.
        result: Result<String, String>,
    },
    /// Somebody wants something.
    Change(Box<Asked>),
    /// Something that was asked for was done outside of this: the answer is to be kept and given.
    Done(Box<Asked>, Box<Outcome>),
    /// The kill switch, from elsewhere than the API: a signal.
    KillSwitch {
        /// True: stop everything.
        engage: bool,
        /// Who.
        by: Actor,
    },
    /// Which of the files that stop the dataplane is there.
    KillSwitchFile(Option<String>),
    /// How the store does.
    Store(Health),
    /// Time has passed. To be given about ten times a second.
    Tick,
}

/// What somebody wants.
#[derive(Debug, Clone)]
pub struct Asked {
    /// To find the one who waits for the answer.
    pub ticket: u64,
    /// Who.
    pub actor: Actor,
    /// The same again gets the same answer.
    pub request_id: String,
    /// What was asked for, to tell a repeated request from another one.
    pub digest: String,
    /// Only say whether it would be done.
    pub validate_only: bool,
    /// What.
    pub operation: Operation,
}

/// How the store does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It takes everything.
    Good,
    /// It takes nothing: what only ends mitigations goes on without it.
    Failing(String),
}

/// What is to be carried out, after the writes of the same step are durable.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all commands are orders")]
pub enum Command {
    /// For a driver.
    Order(Order),
    /// For a notifier.
    Send(Box<Message>),
    /// Ask the dataplane to write packets down.
    Capture {
        /// For which incident.
        incident: IncidentId,
        /// Name of the stage.
        stage: String,
        /// Of the stage, to be said with the answer.
        change: u32,
        /// Whose packets.
        target: Target,
        /// For so long at least.
        duration: Duration,
    },
    /// Ask the dataplane for all that goes on.
    TakeSnapshot,
    /// Give the dataplane its policy anew: the kill switch was turned.
    Upload,
    /// Tell whoever reads the log.
    Log(String),
}

/// An answer for somebody who waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Of the question.
    pub ticket: u64,
    /// What to say once the writes are durable.
    pub result: Result<Outcome, Refused>,
}

/// What came of an input.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// To be stored first, whole or not at all.
    pub writes: Vec<Write>,
    /// To be carried out then.
    pub commands: Vec<Command>,
    /// To be told then.
    pub replies: Vec<Reply>,
}

/// The state machine.
#[derive(Debug)]
pub struct Core {
    policy: Policy,
    incidents: Incidents,
    ledger: Ledger,
    outbox: Outbox,
    /// Where the runbooks of open incidents stand.
    progress: BTreeMap<IncidentId, Progress>,
    /// By incident and position of the stage: what was measured before it came into force.
    before: BTreeMap<(IncidentId, String), Before>,
    meters: Meters,
    requests: BTreeMap<String, Request>,
    /// Messages that have ended and are kept for a while, with when that was.
    sent: BTreeMap<MessageId, Now>,
    kill_switch: Option<KillSwitch>,
    /// The file that stops the dataplane.
    kill_switch_file: Option<String>,
    /// Why the dataplane has another policy than it was given.
    policy_refused: Option<String>,
    /// The store came from a backup, and that is not written down as dealt with.
    restored: bool,
    position: Position,
    position_stored: Position,
    /// The run of the dataplane that we talk to.
    connected: Option<String>,
    /// A snapshot was asked for and has not come.
    awaits_snapshot: bool,
    next_id: u64,
    next_id_stored: u64,
    health: Health,
    /// What was last evaluated on the way around all incidents.
    cursor: IncidentId,
    evaluated: BTreeMap<IncidentId, Now>,
    /// To be evaluated in this step.
    stirred: BTreeSet<IncidentId>,
    /// Mitigations whose course needs somebody to look, and why.
    stuck: BTreeMap<MitigationId, String>,
    results: BTreeMap<DriverName, DriverResults>,
    tidied: Option<Now>,
    caps: caps::Caps,
    forgotten: caps::Forgotten,
    now: Now,
}

/// What was asked of one driver since the start, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DriverResults {
    succeeded: u64,
    failed: u64,
    refused: u64,
}

/// Where ids go on in a copy of a store: more than a day has use for.
const BEYOND_A_COPY: u64 = 1_000_000;

impl Core {
    /// Goes on from what was stored.
    pub fn load(policy: Policy, contents: Contents, now: &Now) -> Self {
        let incidents = Incidents::load(&contents, now);
        let mut ledger = Ledger::load(&policy.config.appliance.name, contents.mitigations, contents.restored, now);
        ledger.configure(policy.drivers.clone(), now);
        let stuck =
            ledger.live().filter(|entry| entry.is_stuck()).map(|entry| (entry.id, results::stuck(entry))).collect();
        let mut progress = BTreeMap::new();
        for (id, state) in contents.runbooks {
            let read: Result<Progress, _> = serde_json::from_value(state.state);
            if let Ok(mut read) = read {
                // What was measured before the restart says nothing about the time without us.
                read.measured = None;
                read.anchor(now);
                progress.insert(id, read);
            }
        }
        let mut outbox = Outbox::new(
            told::channels(&policy.config),
            now.boot.0.to_le_bytes().iter().fold(0, |seed, byte| seed * 31 % 1_000_003 + u64::from(*byte)),
        );
        let mut sent = BTreeMap::new();
        for mut message in contents.messages.into_values() {
            // A pause counts within one boot only: how much of it is left the wall clock may say anything about.
            message.retry_at = message.retry_at.filter(|at| at.boot == now.boot);
            if let Some(ended) = &message.ended {
                sent.insert(message.id.clone(), ended.at);
            }
            outbox.add(message);
        }
        let next_id = match contents.next_id {
            None => first_id(now),
            // The store before it has given ids since the copy was made, and so has one that the same copy was put back for.
            Some(id) if contents.restored => id.0.saturating_add(BEYOND_A_COPY).saturating_add(first_id(now)),
            Some(id) => id.0,
        };
        let position = contents.position.unwrap_or_default();
        Self {
            policy,
            incidents,
            ledger,
            outbox,
            progress,
            before: BTreeMap::new(),
            meters: Meters::default(),
            requests: contents.requests,
            sent,
            kill_switch: contents.kill_switch,
            kill_switch_file: None,
            policy_refused: None,
            restored: contents.restored,
            position_stored: position.clone(),
            position,
            connected: None,
            awaits_snapshot: false,
            next_id,
            next_id_stored: 0,
            health: Health::Good,
            cursor: IncidentId(0),
            evaluated: BTreeMap::new(),
            stirred: BTreeSet::new(),
            stuck,
            results: BTreeMap::new(),
            tidied: None,
            caps: caps::Caps::default(),
            forgotten: caps::Forgotten::default(),
            now: *now,
        }
    }

    /// Takes in what happened, and says what is to be stored and then done.
    pub fn step(&mut self, now: &Now, input: Input) -> Step {
        let mut step = Step::default();
        self.now = *now;
        match input {
            Input::Configured(policy) => self.configure(*policy, now, &mut step),
            Input::Connected { boot_id } => self.connect(boot_id, now, &mut step),
            Input::Disconnected => {
                self.connected = None;
                self.awaits_snapshot = false;
                self.meters.forget();
            }
            Input::Events(events) => self.take_events(&events, now, &mut step),
            Input::Snapshot(snapshot) => self.resume(&snapshot, now, &mut step),
            Input::Counters(counters) => {
                if !self.take_counters(&counters, now) {
                    return step;
                }
            }
            Input::Applied { id, key, result } => self.applied(id, &key, result, now, &mut step),
            Input::Withdrawn { id, key, result } => self.withdrawn(id, &key, result, now, &mut step),
            Input::Observed { driver, round, result } => {
                let mut notices = Vec::new();
                self.ledger.observed(&driver, round, result, now, &mut notices);
                self.noticed(notices, now, &mut step);
            }
            Input::Recovered { driver } => self.ledger.retry_soon(&driver, now),
            Input::Sent { id, result } => self.sent(&id, result, now, &mut step),
            Input::Captured { incident, stage, change, result } => {
                self.captured(incident, &stage, change, result, now, &mut step);
            }
            Input::Policy { refused } => self.policy_refused = refused,
            Input::Change(asked) => self.asked(*asked, now, &mut step),
            Input::Done(asked, outcome) => self.done(&asked, *outcome, now, &mut step),
            Input::KillSwitch { engage, by } => {
                self.turn_kill_switch(engage, by, "", now, &mut step);
            }
            Input::KillSwitchFile(file) => self.take_kill_switch_file(file, now, &mut step),
            Input::Store(health) => self.health = health,
            Input::Tick => self.tick(now, &mut step),
        }
        self.settle(now, &mut step);
        step
    }

    /// What the step has stirred up is decided, ordered and written down.
    fn settle(&mut self, now: &Now, step: &mut Step) {
        // What a decision orders can fail at once, and failing can be a reason for the next: twice around is enough, the
        // rest comes with the next tick.
        for _ in 0..2 {
            for id in std::mem::take(&mut self.stirred) {
                self.evaluate(id, now, step);
            }
            let (mut orders, mut notices) = (Vec::new(), Vec::new());
            self.ledger.advance(now, &mut orders, &mut notices);
            step.commands.extend(orders.into_iter().map(Command::Order));
            self.noticed(notices, now, step);
        }
        let (messages, concluded) = self.outbox.due(now);
        step.commands.extend(messages.into_iter().map(|message| Command::Send(Box::new(message))));
        self.concluded(concluded, step);
        self.incidents.write(now, &mut step.writes);
        self.ledger.write(&mut step.writes);
        if std::mem::take(&mut self.restored) {
            // With what it led to in the ledger, or not at all.
            step.writes.push(Write::PutRestored(false));
        }
        if self.next_id != self.next_id_stored {
            self.next_id_stored = self.next_id;
            step.writes.push(Write::PutNextId(Id(self.next_id)));
        }
        // A position alone is stored with the tick: events that are read again change nothing.
        if self.position != self.position_stored && !step.writes.is_empty() {
            self.position_stored = self.position.clone();
            step.writes.push(Write::PutPosition(self.position.clone()));
        }
    }

    fn next_id(&mut self) -> u64 {
        // What was found outside and belongs to a store that was lost may stand in the way.
        while self.ledger.get(MitigationId(self.next_id)).is_some() {
            self.next_id = self.next_id.saturating_add(1);
        }
        let id = self.next_id;
        self.next_id = self.next_id.saturating_add(1);
        id
    }

    fn is_stopped(&self) -> bool {
        self.kill_switch.as_ref().is_some_and(|switch| switch.engaged)
    }

    /// Everything that has not ended and all that is known, for tests and checks.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// All incidents that are kept.
    pub const fn incidents(&self) -> &Incidents {
        &self.incidents
    }

    /// Where the runbook of an open incident stands.
    pub fn progress(&self, id: IncidentId) -> Option<&Progress> {
        self.progress.get(&id)
    }

    /// How far the dataplane's events have been taken in.
    pub const fn position(&self) -> &Position {
        &self.position
    }

    /// What is in force.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// True while everything is stopped.
    pub fn kill_switch_is_engaged(&self) -> bool {
        self.is_stopped()
    }
}
