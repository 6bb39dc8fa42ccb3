//! What survives: a batch of writes is durable whole, or not at all.

mod backup;
mod ballast;
mod ends;
mod lock;
mod owner;
mod record;
mod row;
mod schema;
mod sqlite;
mod twin;
mod witness;

#[cfg(test)]
pub(crate) mod behaviour;
#[cfg(test)]
mod damage_test;

use crate::ledger::MitigationId;

pub use backup::{BackupError, back_up, restore, take_if_due};
pub use record::{Contents, KillSwitch, Position, Record, Request, RunbookState, Write};
pub use sqlite::{Beginning, SqliteStore};
pub use twin::{Disk, Fault, Twin};

/// Why nothing was stored or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No room: what only ends mitigations goes on without being stored.
    #[error("the disk is full: {0}")]
    Full(String),
    /// Another process has it.
    #[error("the store is in use by another process: {0}")]
    Locked(String),
    /// Another program is writing to the file.
    #[error("the store is held by another program: {0}")]
    Busy(String),
    /// What is there cannot be understood.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Anything else.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// Where the control plane keeps what must survive it.
pub trait Store: Send {
    /// Everything that is stored.
    ///
    /// # Errors
    /// When it cannot be read.
    fn load(&mut self) -> Result<Contents, StoreError>;

    /// Stores the batch; when this returns without an error, it survives a power failure.
    ///
    /// # Errors
    /// Then nothing of the batch is stored.
    fn commit(&mut self, batch: &[Write]) -> Result<(), StoreError>;

    /// Notes beside the store that an operator has ended a mitigation, while it takes no batch: what is loaded after a
    /// restart has it ended all the same.
    ///
    /// # Errors
    /// Then a restart would begin it again.
    fn note_end(&mut self, id: MitigationId) -> Result<(), StoreError>;

    /// Notes beside the store that everything was stopped, while it takes no batch.
    ///
    /// # Errors
    /// Then a restart would begin again.
    fn note_kill_switch(&mut self, engaged: &KillSwitch) -> Result<(), StoreError>;
}
