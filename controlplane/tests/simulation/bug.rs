//! Bugs to plant, one of each kind that must not happen.

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
}
