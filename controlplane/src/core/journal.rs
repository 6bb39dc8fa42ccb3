//! Durable first, then done: what stands between the core and the store.

use super::{Command, Health, Input, Reply, Step};
use crate::driver::DriverError;
use crate::ledger::Order;
use crate::server::link::Refused;
use crate::store::{Store, StoreError, Write};

/// Most writes that are kept while the store takes none: above that the oldest lines of timelines and messages are given up,
/// never mitigations, ids or the kill switch.
const MOST_WAITING: usize = 100_000;

/// Writes that the store has not taken yet, the oldest first.
#[derive(Debug, Default)]
pub struct Journal {
    waiting: Vec<Write>,
    failing: bool,
}

/// What may be done now.
#[derive(Debug, Default)]
pub struct Durable {
    /// To be carried out.
    pub commands: Vec<Command>,
    /// To be told.
    pub replies: Vec<Reply>,
    /// To be given to the core next.
    pub inputs: Vec<Input>,
    /// What has become durable.
    pub stored: Vec<Write>,
}

impl Journal {
    /// Stores what a step wrote. While the store takes nothing, what only ends mitigations goes on: its intent was stored
    /// when it began, and a restart would end it again. Nothing else is begun.
    pub fn commit(&mut self, store: &mut dyn Store, step: Step) -> Durable {
        let Step { writes, commands, replies } = step;
        self.waiting.extend(writes);
        if self.waiting.is_empty() {
            return Durable { commands, replies, ..Durable::default() };
        }
        match store.commit(&self.waiting) {
            Ok(()) => {
                let stored = std::mem::take(&mut self.waiting);
                let inputs = if self.failing { vec![Input::Store(Health::Good)] } else { Vec::new() };
                self.failing = false;
                Durable { commands, replies, inputs, stored }
            }
            Err(error) => self.go_on_without(&error, commands, replies),
        }
    }

    /// True while the store takes nothing.
    pub const fn is_failing(&self) -> bool {
        self.failing
    }

    fn go_on_without(&mut self, error: &StoreError, commands: Vec<Command>, replies: Vec<Reply>) -> Durable {
        let mut excess = self.waiting.len().saturating_sub(MOST_WAITING);
        self.waiting.retain(|write| {
            let spared = excess > 0 && matches!(write, Write::AppendTimeline(_) | Write::PutMessage(_));
            excess -= usize::from(spared);
            !spared
        });
        let mut durable = Durable::default();
        // Told once: each time would be one more step, which would fail again.
        if !self.failing {
            durable.commands.push(Command::Log(format!("{error}; nothing new is begun until that is over")));
            durable.inputs.push(Input::Store(Health::Failing(error.to_string())));
        }
        self.failing = true;
        for command in commands {
            match command {
                Command::Order(Order::Apply(operation)) => {
                    let reason = format!("not begun, for it cannot be written down: {error}");
                    let result = Err(DriverError::Retryable { reason, retry_after: None });
                    durable.inputs.push(Input::Applied { id: operation.id, key: operation.key, result });
                }
                Command::Send(message) => {
                    let reason = format!("not sent, for it cannot be written down: {error}");
                    let result = Err(crate::notify::DeliveryError::Retryable { reason, retry_after: None });
                    durable.inputs.push(Input::Sent { id: message.id, result });
                }
                super::Command::Capture { incident, stage, change, .. } => {
                    let result = Err(format!("not asked for, for it cannot be written down: {error}"));
                    durable.inputs.push(Input::Captured { incident, stage, change, result });
                }
                command => durable.commands.push(command),
            }
        }
        durable.replies.extend(replies.into_iter().map(|reply| Reply {
            result: reply.result.and_then(|outcome| match outcome {
                // These go on without the store.
                crate::server::link::Outcome::KillSwitch { .. } => Ok(outcome),
                crate::server::link::Outcome::Mitigation { ref mitigation } if !mitigation.is_wanted() => Ok(outcome),
                _ => Err(Refused::Unavailable(format!(
                    "it is not known whether this will be done, for it could not be written down: {error}; ask again with the same request_id"
                ))),
            }),
            ..reply
        }));
        durable
    }
}
