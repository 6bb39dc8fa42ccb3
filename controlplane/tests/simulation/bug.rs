//! Bugs to plant, one of each kind that must not happen.

use levee_controlplane::core::{Command, Core, Input, Step};
use levee_controlplane::ledger::Order;

/// What is wrong with the program under simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The core plans without guardrails.
    NoGuardrails,
    /// Commands are carried out before their writes are durable.
    CommandsFirst,
    /// The disk says that it has synced, and has not.
    Unsynced,
    /// Orders to withdraw get lost.
    NoWithdrawals,
    /// What is observed and not in the ledger is not looked at.
    NoAdoption,
    /// A driver's word that something has ended is taken for it.
    BelievesEnds,
    /// A stage asks for one before it that never comes into force, and not for its failure.
    DeadEnd,
    /// What a backup holds to be in force is taken for it.
    TrustsBackups,
    /// Answers of notifiers get lost.
    LostMessages,
    /// The core's clock follows the wall clock.
    WallClock,
    /// What was answered once, and comes again, is taken for the answer to what was asked later.
    BelievesRepeats,
    /// A store that is lost takes the ids that were given with it.
    ReusedIds,
    /// On a full disk measures are begun all the same.
    FullDisk,
    /// The kill switch is not obeyed.
    NoKillSwitch,
}

/// What the core is given in the place of an input.
pub(crate) fn spoilt(bug: Option<Bug>, mut input: Input, core: &Core) -> Input {
    match (bug, &mut input) {
        (Some(Bug::NoAdoption), Input::Observed { result: Ok(list), .. }) => {
            list.retain(|observed| core.ledger().get(observed.id).is_some_and(|entry| !entry.has_ended()));
        }
        (Some(Bug::BelievesEnds), Input::Observed { result: Ok(list), .. }) => list.clear(),
        _ => {}
    }
    input
}

/// What a step begins.
pub(crate) fn begins(step: &Step) -> Vec<Command> {
    let begins = |command: &&Command| matches!(command, Command::Order(Order::Apply(_)));
    step.commands.iter().filter(begins).cloned().collect()
}
