//! Wakes the tick thread between two ticks, when there is something for it to do.

use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

/// Rung by many, heard by one thread.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<OnceLock<Thread>>);

impl Bell {
    /// From now on this thread hears it. What was rung for before is there already: look for it first.
    pub fn hear(&self) {
        // Only the first thread hears it, and there is one.
        let _ = self.0.set(thread::current());
    }

    /// Wakes the thread, or keeps it from falling asleep.
    pub fn ring(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }

    /// Sleeps until it rings, at most this long.
    pub fn wait(&self, most: Duration) {
        thread::park_timeout(most);
    }
}
