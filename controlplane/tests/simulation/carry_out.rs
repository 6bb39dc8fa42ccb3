//! Commands of the core, carried out in the world.

use levee_controlplane::core::{Command, Input};
use levee_controlplane::driver::{DriverError, DriverName};
use levee_controlplane::ledger::{Evidence, Operation, Order, Spec};
use levee_controlplane::notify::DeliveryError;
use levee_controlplane::store::Contents;

use crate::bug::Bug;
use crate::chance::Chance;
use crate::life::{SECOND, World, share};
use crate::receiver::Receiver;

impl World {
    pub(crate) fn carry_out(&mut self, command: Command) -> Result<(), String> {
        match command {
            Command::Order(Order::Apply(Operation { driver, id, key, .. })) if !self.has(&driver) => {
                let result = Err(DriverError::Incapable { what: format!("{driver} has no driver") });
                self.answer(Input::Applied { id, key, result });
            }
            Command::Order(Order::Observe { driver, round }) => {
                let (at, attacks) = (self.at, &self.attacks);
                let taken = |spec: &Spec| attacks.iter().map(|(target, (bps, _))| bps * share(spec, target)).sum();
                let receiver = self.receivers.iter_mut().find(|receiver| receiver.name == driver);
                let result = receiver.and_then(|receiver| receiver.observe(&mut self.chance, at, taken));
                if let Some(result) = result {
                    self.checker.shown(result.as_deref().unwrap_or_default());
                    self.answer(Input::Observed { driver: driver.clone(), round, result: result.clone() });
                    self.repeat(Input::Observed { driver, round, result });
                }
            }
            Command::Order(Order::Apply(operation)) => {
                self.life.orders += 1;
                // What the core believes to be stored, and what a power cut would leave.
                let survives = (self.bug == Some(Bug::Unsynced)).then(|| self.survives());
                let entry = survives.as_ref().unwrap_or(&self.stored).mitigations.get(&operation.id);
                let receiver = self.receivers.iter().find(|receiver| receiver.name == operation.driver);
                let is_in_force = receiver.is_some_and(|receiver| receiver.in_force.contains_key(&operation.id));
                self.checker.applied(&operation, entry, is_in_force, self.at)?;
                let at = self.at;
                let receiver = self.receiver(&operation.driver);
                let answer =
                    receiver.map(|(receiver, chance)| receiver.ask(true, &operation, at, chance)).unwrap_or_default();
                let said_before = self.bug == Some(Bug::BelievesRepeats) && is_in_force;
                let answer = answer.map(|result| if said_before { result.or(Ok(Evidence::Accepted)) } else { result });
                if let Some(result) = answer {
                    let Operation { id, key, .. } = operation;
                    self.answer(Input::Applied { id, key: key.clone(), result: result.clone() });
                    self.repeat(Input::Applied { id, key, result });
                }
            }
            Command::Order(Order::Withdraw(operation)) => {
                self.life.orders += 1;
                if self.bug == Some(Bug::NoWithdrawals) {
                    return Ok(());
                }
                self.checker.withdrawn(&operation);
                let at = self.at;
                let receiver = self.receiver(&operation.driver);
                let answer =
                    receiver.map(|(receiver, chance)| receiver.ask(false, &operation, at, chance)).unwrap_or_default();
                if let Some(result) = answer {
                    let (Operation { id, key, .. }, result) = (operation, result.map(|_| ()));
                    self.answer(Input::Withdrawn { id, key: key.clone(), result: result.clone() });
                    self.repeat(Input::Withdrawn { id, key, result });
                }
            }
            Command::Send(message) => {
                if self.bug == Some(Bug::LostMessages) {
                    return Ok(());
                }
                let fails = self.troubled && self.chance.percent(30);
                let reason = || "no route".to_owned();
                let result =
                    if fails { Err(DeliveryError::Retryable { reason: reason(), retry_after: None }) } else { Ok(()) };
                self.answer(Input::Sent { id: message.id, result });
            }
            Command::Capture { incident, stage, change, target, .. } => {
                let result = if self.connected { Ok(format!("{target}.pcapng")) } else { Err("gone".to_owned()) };
                self.answer(Input::Captured { incident, stage, change, result });
            }
            Command::TakeSnapshot if self.connected => {
                let snapshot = self.dataplane.snapshot(&self.arriving());
                self.dataplane.outbox.clear();
                self.feed(Input::Snapshot(Box::new(snapshot)));
            }
            Command::TakeSnapshot | Command::Upload | Command::Log(_) => {}
        }
        Ok(())
    }

    /// Whether the configuration has a driver.
    fn has(&self, driver: &DriverName) -> bool {
        self.receivers.iter().any(|receiver| receiver.name == *driver && receiver.configured)
    }

    /// On its way back.
    fn answer(&mut self, input: Input) {
        let delay = if self.troubled { self.chance.between(0, 5) * SECOND } else { 0 };
        self.answers.push((self.at + delay, input));
    }

    /// The same answer comes again, when nobody waits for it any more.
    fn repeat(&mut self, input: Input) {
        if self.troubled && self.chance.percent(10) {
            let due = self.at + self.chance.between(6, 70) * SECOND;
            self.repeats.push((due, input));
        }
    }

    /// What a power cut now would leave of the store.
    pub(crate) fn survives(&self) -> Contents {
        let disk = self.disk.clone();
        disk.survives().unwrap()
    }

    pub(crate) fn receiver(&mut self, name: &DriverName) -> Option<(&mut Receiver, &mut Chance)> {
        let receiver = self.receivers.iter_mut().find(|receiver| receiver.name == *name)?;
        Some((receiver, &mut self.chance))
    }
}
