//! The machine's clocks, read for those who decide by them.

use std::io;
use std::time::Duration;

use levee_api::time::Timestamp;
use nix::time::{ClockId, clock_gettime};

use crate::clock::{BootId, Now, UnixTime, nanoseconds};

/// Which boot of the machine this is does not change while a process runs.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    boot: BootId,
}

impl SystemClock {
    /// The clocks of this boot.
    ///
    /// # Errors
    /// When the kernel does not say which boot it is.
    pub fn new() -> io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot =
            boot.parse().map_err(|error| io::Error::other(format!("/proc/sys/kernel/random/boot_id: {error}")))?;
        Ok(Self { boot })
    }

    /// Now.
    pub fn now(&self) -> Now {
        Now {
            boot: self.boot,
            monotonic: Timestamp(read(ClockId::CLOCK_BOOTTIME)),
            wall: UnixTime(read(ClockId::CLOCK_REALTIME)),
        }
    }
}

/// Zero when the clock stands before its beginning.
fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux since 2.6.39.
    clock_gettime(clock).map_or(0, |time| nanoseconds(Duration::from(time)))
}

#[cfg(test)]
mod tests {

    use std::time::SystemTime;

    use super::*;

    #[test]
    fn it_goes_on_and_says_what_time_it_is() {
        let clock = SystemClock::new().unwrap();
        let (first, second) = (clock.now(), clock.now());
        assert!(second.monotonic >= first.monotonic && first.monotonic > Timestamp(0));
        assert_ne!(first.boot, BootId::default());
        let wall = SystemTime::UNIX_EPOCH + Duration::from_nanos(first.wall.0);
        let apart = SystemTime::now().duration_since(wall).unwrap_or_else(|error| error.duration());
        assert!(apart < Duration::from_secs(60), "{apart:?}");
    }
}
