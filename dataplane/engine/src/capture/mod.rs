//! Captures: what was on the wire around an attack, from before it was noticed.
//!
//! Each worker writes copies of packets into a [`ring`] of its own that never stops; [`Tap`] decides which, within a
//! budget. When the detector finds an anomaly, a thread that may wait for a disk copies the ring's [`Record`]s of that
//! target into a file, and goes on with what follows. The worker takes no part in that and is never waited for.

mod record;
pub mod ring;
mod tap;

pub use record::{Fate, Record, SNAP};
pub use tap::{Offer, Tap};

use self::record::WORDS;

/// The reader's end of a worker's ring.
pub type Consumer = ring::Consumer<WORDS>;
/// Memory that a record takes in a ring, in bytes.
pub const RECORD_BYTES: usize = ring::slot_bytes::<WORDS>();

/// How much a worker captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Memory of each worker's ring in bytes; rounded down to a power of two records, at least two.
    pub ring_bytes: u64,
    /// Of packets to targets in peace, one in so many is copied; at least 1.
    pub peace_one_in: u32,
    /// Bytes of the ring that a worker fills per second at most: with `ring_bytes`, how far back it always reaches.
    pub bytes_per_second: u64,
}
