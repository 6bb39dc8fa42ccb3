//! Durable first, then done: what stands between the core and the store.

use std::time::Duration;

use super::waiting::Waiting;
use super::{Command, Health, Input, Reply, Step};
use crate::clock::Now;
use crate::driver::DriverError;
use crate::ledger::Order;
use crate::server::link::Refused;
use crate::store::{KillSwitch, Store, StoreError, Write};

/// A store that takes nothing is asked again no more often than this: while somebody else holds its lock each attempt waits
/// for it, and the loop has events and operators to serve meanwhile.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Writes on their way to the store.
#[derive(Debug, Default)]
pub struct Journal {
    waiting: Waiting,
    failing: Option<Failing>,
    /// The kill switch was engaged, and that is nowhere but here.
    unnoted: Option<KillSwitch>,
}

/// The last attempt that failed.
#[derive(Debug)]
struct Failing {
    error: StoreError,
    at: Now,
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
    /// when it began, and a restart would end it again; what an operator has ended is noted beside the store. Nothing else is
    /// begun. It is tried again with whatever is written next, at most once a second.
    pub fn commit(&mut self, store: &mut dyn Store, step: Step, now: &Now) -> Durable {
        let Step { writes, commands, replies } = step;
        for write in &writes {
            if let Write::PutKillSwitch(state) = write {
                self.unnoted = Some(state.clone()).filter(|state| state.engaged);
            }
        }
        self.waiting.extend(writes);
        if self.waiting.is_empty() {
            return Durable { commands, replies, ..Durable::default() };
        }
        if let Some(failing) = &self.failing
            && now.since(&failing.at) < AGAIN_AFTER
        {
            let error = failing.error.clone();
            return self.go_on_without(store, &error, commands, replies);
        }
        let sample = self.waiting.sample().filter(|_| self.failing.is_some());
        match sample.map_or(Ok(()), |few| store.commit(few)).and_then(|()| store.commit(self.waiting.all())) {
            Ok(()) => {
                let stored = self.waiting.take();
                let inputs = if self.failing.is_some() { vec![Input::Store(Health::Good)] } else { Vec::new() };
                (self.failing, self.unnoted) = (None, None);
                Durable { commands, replies, inputs, stored }
            }
            Err(error) => {
                let durable = self.go_on_without(store, &error, commands, replies);
                self.failing = Some(Failing { error, at: *now });
                durable
            }
        }
    }

    /// True while the store takes nothing.
    pub const fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    fn go_on_without(
        &mut self,
        store: &mut dyn Store,
        error: &StoreError,
        commands: Vec<Command>,
        replies: Vec<Reply>,
    ) -> Durable {
        self.waiting.settle();
        let mut durable = Durable::default();
        let noted = self.unnoted.as_ref().map_or(Ok(()), |state| store.note_kill_switch(state));
        if noted.is_ok() {
            self.unnoted = None;
        }
        // Told once: each time would be one more step, which would fail again.
        if self.failing.is_none() {
            durable.commands.push(Command::Log(format!("{error}; nothing new is begun until that is over")));
            durable.inputs.push(Input::Store(Health::Failing(error.to_string())));
        }
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
                crate::server::link::Outcome::KillSwitch { .. } => match &noted {
                    Ok(()) => Ok(outcome),
                    Err(noted) => Err(Refused::Unavailable(format!(
                        "everything is stopped, but that could not be written down ({error}; {noted}): a restart before there is \
                         room would begin again"
                    ))),
                },
                crate::server::link::Outcome::Mitigation { ref mitigation } if !mitigation.is_wanted() => {
                    match store.note_end(mitigation.id) {
                        Ok(()) => Ok(outcome),
                        Err(noted) => Err(Refused::Unavailable(format!(
                            "it is withdrawn, but that could not be written down ({error}; {noted}): a restart before there is \
                             room would begin it again"
                        ))),
                    }
                }
                _ => Err(Refused::Unavailable(format!(
                    "it is not known whether this will be done, for it could not be written down: {error}; ask again with the same request_id"
                ))),
            }),
            ..reply
        }));
        durable
    }
}

#[cfg(test)]
mod tests {
    use levee_api::time::Timestamp;

    use super::*;
    use crate::ledger::{Id, MitigationId, State};
    use crate::server::link::Outcome;
    use crate::store::behaviour::mitigation;
    use crate::store::{Contents, Disk, Fault};

    /// Held by somebody else for so many attempts.
    struct Held {
        attempts: u32,
        held: u32,
    }

    impl Store for Held {
        fn load(&mut self) -> Result<Contents, StoreError> {
            Ok(Contents::default())
        }

        fn commit(&mut self, _: &[Write]) -> Result<(), StoreError> {
            self.attempts += 1;
            if self.attempts > self.held { Ok(()) } else { Err(StoreError::Busy("somebody looks into it".into())) }
        }

        fn note_kill_switch(&mut self, _: &KillSwitch) -> Result<(), StoreError> {
            Ok(())
        }

        fn note_end(&mut self, _: MitigationId) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn at(milliseconds: u64) -> Now {
        Now { monotonic: Timestamp(milliseconds * 1_000_000), ..Now::default() }
    }

    fn step(id: u64) -> Step {
        Step { writes: vec![Write::PutNextId(Id(id))], ..Step::default() }
    }

    #[test]
    fn a_store_that_takes_nothing_is_asked_again_at_most_once_a_second_and_then_given_everything() {
        let (mut journal, mut store) = (Journal::default(), Held { attempts: 0, held: 3 });
        // Ten steps a second for four seconds.
        let mut stored = Vec::new();
        for tenth in 0..40 {
            stored.extend(journal.commit(&mut store, step(tenth), &at(tenth * 100)).stored);
            if tenth <= 30 {
                assert_eq!(u64::from(store.attempts), tenth / 10 + 1, "attempts within {tenth} steps");
            }
            assert_eq!(journal.is_failing(), tenth < 30, "step {tenth}");
            if tenth == 30 {
                assert_eq!(stored.len(), 31, "what waited and what came with it");
            }
        }
        assert_eq!(stored, (0..40).map(|id| Write::PutNextId(Id(id))).collect::<Vec<_>>());
    }

    #[test]
    fn a_withdrawal_is_answered_when_a_restart_would_not_undo_it_and_said_to_be_in_danger_when_it_would() {
        for (crashed, answered) in [(false, true), (true, false)] {
            let disk = Disk::new();
            let mut store = disk.open().unwrap();
            store.commit(&[Write::PutMitigation(mitigation(1, State::Active))]).unwrap();
            let ended = mitigation(1, State::Withdrawing);
            disk.fault_at(disk.commits(), if crashed { Fault::CrashBefore } else { Fault::Full });
            let outcome = Outcome::Mitigation { mitigation: ended.clone().into() };
            let replies = vec![Reply { ticket: 1, result: Ok(outcome) }];
            let step = Step { writes: vec![Write::PutMitigation(ended)], replies, ..Step::default() };
            let durable = Journal::default().commit(&mut store, step, &at(0));
            assert_eq!(durable.replies[0].result.is_ok(), answered, "{:?}", durable.replies[0]);
            drop(store);
            let stored = disk.open().unwrap().load().unwrap().mitigations;
            assert_eq!(stored[&MitigationId(1)].state == State::Withdrawing, answered);
        }
    }
}
