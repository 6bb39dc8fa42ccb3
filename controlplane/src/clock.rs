//! Time as a value: what the clock of the machine said, and deadlines that survive restarts and clock jumps.
//!
//! Nothing that decides reads a clock. The shell takes one [`Now`] per step from CLOCK_BOOTTIME and CLOCK_REALTIME. Within
//! one boot of the machine only the first counts, so that a wall clock that jumps changes nothing; after a reboot only the
//! second is left.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use levee_api::time::Timestamp;
use serde::{Deserialize, Serialize};

/// One boot of the machine: `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BootId(pub u128);

/// Nanoseconds since 1970, as the wall clock says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

/// What the clocks said at one moment: now, or when something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Now {
    /// The boot that `monotonic` counts within.
    pub boot: BootId,
    /// CLOCK_BOOTTIME: never jumps, counts while suspended.
    pub monotonic: Timestamp,
    /// CLOCK_REALTIME: for people, and all there is across a reboot.
    pub wall: UnixTime,
}

/// When something ends, whoever is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Deadline {
    /// The boot that `monotonic` counts within.
    pub boot: BootId,
    /// Within that boot this decides.
    pub monotonic: Timestamp,
    /// After a reboot this decides.
    pub wall: UnixTime,
    /// What was given: never more than this remains, whatever the clocks say.
    pub ttl_ns: u64,
}

impl Now {
    /// Time from `earlier` until this, zero when it cannot have been earlier.
    pub fn since(&self, earlier: &Self) -> Duration {
        if self.boot == earlier.boot {
            self.monotonic.since(earlier.monotonic)
        } else {
            Duration::from_nanos(self.wall.0.saturating_sub(earlier.wall.0))
        }
    }

    /// This moment as one of the boot of `now`: a moment of an earlier boot becomes `now`. How long ago it was only the wall
    /// clock could say, and that may stand anywhere: what is waited for is waited for anew.
    #[must_use]
    pub fn anchored(&self, now: &Self) -> Self {
        if self.boot == now.boot { *self } else { *now }
    }

    /// The moment `by` later, within the same boot.
    #[must_use]
    pub fn after(&self, by: Duration) -> Self {
        let wall = UnixTime(self.wall.0.saturating_add(nanoseconds(by)));
        Self { boot: self.boot, monotonic: self.monotonic + by, wall }
    }
}

impl Deadline {
    /// The moment `ttl` from now.
    pub fn after(now: &Now, ttl: Duration) -> Self {
        let end = now.after(ttl);
        Self { boot: now.boot, monotonic: end.monotonic, wall: end.wall, ttl_ns: nanoseconds(ttl) }
    }

    /// Time until it passes; zero when it has.
    pub fn remaining(&self, now: &Now) -> Duration {
        let left = if self.boot == now.boot {
            self.monotonic.since(now.monotonic)
        } else {
            Duration::from_nanos(self.wall.0.saturating_sub(now.wall.0))
        };
        left.min(Duration::from_nanos(self.ttl_ns))
    }

    /// True when nothing remains.
    pub fn has_passed(&self, now: &Now) -> bool {
        self.remaining(now).is_zero()
    }

    /// The same deadline counted in the boot of `now`, so that from then on no jump of the wall clock moves it.
    #[must_use]
    pub fn anchored(&self, now: &Now) -> Self {
        if self.boot == now.boot { *self } else { Self::after(now, self.remaining(now)) }
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A text that is no boot id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no boot id: 32 hexadecimal digits are, dashes do not matter")]
pub struct NoBootId(pub String);

impl FromStr for BootId {
    type Err = NoBootId;
    fn from_str(text: &str) -> Result<Self, NoBootId> {
        let digits: String = text.trim().chars().filter(|character| *character != '-').collect();
        let wrong = || NoBootId(text.to_owned());
        if digits.len() != 32 {
            return Err(wrong());
        }
        u128::from_str_radix(&digits, 16).map(Self).map_err(|_| wrong())
    }
}

impl From<BootId> for String {
    fn from(boot: BootId) -> Self {
        boot.to_string()
    }
}

impl TryFrom<String> for BootId {
    type Error = NoBootId;
    fn try_from(text: String) -> Result<Self, NoBootId> {
        text.parse()
    }
}

/// Where the ids of a new store begin: a number of this boot (31 bits), and the milliseconds that it has lasted. So that a
/// tag that is found outside is never that of something new: within a boot no store that was lost has given a thousand ids
/// a second, stores of two boots are far apart but for a chance of about one in a million, and the wall clock says nothing.
pub const fn first_id(now: &Now) -> u64 {
    // Bits of a boot id are random but for six; folded, so that none of those decides.
    #[expect(clippy::cast_possible_truncation, reason = "folded")]
    let folded = (now.boot.0 ^ (now.boot.0 >> 64)) as u64;
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) + now.monotonic.0 / 1_000_000
}

/// Nanoseconds of a duration, at most 584 years.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(boot: u128, monotonic_s: u64, wall_s: u64) -> Now {
        let wall = UnixTime(wall_s * 1_000_000_000);
        Now { boot: BootId(boot), monotonic: Timestamp(monotonic_s * 1_000_000_000), wall }
    }

    #[test]
    fn within_a_boot_the_wall_clock_does_not_matter() {
        let deadline = Deadline::after(&at(1, 100, 1_000_000), HOUR);
        assert_eq!(deadline.remaining(&at(1, 200, 0)), HOUR - Duration::from_secs(100));
        assert_eq!(deadline.remaining(&at(1, 200, 9_000_000)), HOUR - Duration::from_secs(100));
        assert!(deadline.has_passed(&at(1, 3700, 0)));
    }

    #[test]
    fn after_a_reboot_the_wall_clock_decides_and_never_gives_more_than_was_given() {
        let deadline = Deadline::after(&at(1, 100, 1_000_000), HOUR);
        assert_eq!(deadline.remaining(&at(2, 5, 1_000_600)), HOUR - Duration::from_secs(600));
        assert_eq!(deadline.remaining(&at(2, 5, 0)), HOUR, "a wall clock that lost its battery");
        assert!(deadline.has_passed(&at(2, 5, 2_000_000)));
    }

    #[test]
    fn an_anchored_deadline_no_longer_follows_the_wall_clock() {
        let rebooted = at(2, 5, 1_000_600);
        let deadline = Deadline::after(&at(1, 100, 1_000_000), HOUR).anchored(&rebooted);
        assert_eq!(deadline.remaining(&at(2, 10, 0)), HOUR - Duration::from_secs(605));
    }

    #[test]
    fn boot_ids_are_read_as_the_kernel_writes_them() {
        let boot: BootId = "01234567-89ab-cdef-0123-456789abcdef\n".parse().unwrap();
        assert_eq!(boot.to_string(), "0123456789abcdef0123456789abcdef");
        assert!("".parse::<BootId>().is_err());
    }
}
