//! How fast what was learned may grow: an attack that rises slowly enough is never an alarm, and teaches us that it is usual.
//!
//! What was learned falls at once and rises by at most a quarter a day. What does that for weeks on end is told apart by a
//! sum of the days on which it was more than twice what it had been four weeks before (a CUSUM), and rises no further.

use std::time::Duration;

use crate::detect::threshold::STAGE_1;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Growth in a day.
const A_DAY: f32 = 1.25;
/// What was seen weighs half as much after this long.
pub const HALF_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A learned rate that follows what was seen: `level` becomes `seen`, but for what it may not have grown in `elapsed`. Below
/// `least` growth harms nobody.
pub fn follow(level: f32, seen: f32, least: f32, elapsed: Duration) -> f32 {
    seen.min(level.max(least) * A_DAY.powf(elapsed.div_duration_f32(DAY)))
}

/// A largest value that was learned, after another was seen during `elapsed`: it grows as [`follow`] lets it, but for the first
/// minutes of observation, and is forgotten as time passes.
pub fn most(level: f32, seen: f32, least: f32, observed: Duration, elapsed: Duration) -> f32 {
    let seen = if observed < STAGE_1 { seen } else { follow(level, seen, least, elapsed) };
    seen.max(level * decay(elapsed))
}

/// What is left of a weight after a time.
pub fn decay(elapsed: Duration) -> f32 {
    (-elapsed.div_duration_f32(HALF_LIFE)).exp2()
}

/// Days after which a level is that of a week.
pub const WEEK_DAYS: u8 = 7;
/// More than this many doublings above the level of four weeks ago count.
const SLACK: f32 = 1.0;
/// Sum of doublings and days at which growth ends: growth at the most that is possible is found out after a week, at five
/// times the level before.
const ENOUGH: f32 = 3.0;

/// Growth over weeks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drift {
    /// Seconds of the current day that have passed.
    pub seconds: f32,
    /// Days of the current week that have passed.
    pub days: u8,
    /// Levels at the ends of weeks, the oldest first, packets per second; zero: not known.
    pub weeks: [f32; 4],
    /// What has added up.
    pub sum: f32,
}

impl Drift {
    /// Passes time at a level; true when it has just become clear that it has grown too far.
    pub fn pass(&mut self, level: f32, elapsed: Duration) -> bool {
        if self.weeks == [0.0; 4] {
            *self = Self { weeks: [0.0, 0.0, 0.0, level], ..Self::default() };
        }
        self.seconds += elapsed.min(DAY).as_secs_f32();
        if self.seconds < DAY.as_secs_f32() {
            return false;
        }
        self.seconds = 0.0;
        let before = self.holds();
        let reference = self.weeks.into_iter().find(|level| *level > 0.0).unwrap_or(level);
        self.sum = (self.sum + (level / reference).max(f32::MIN_POSITIVE).log2() - SLACK).clamp(0.0, 2.0 * ENOUGH);
        self.days += 1;
        if self.days >= WEEK_DAYS {
            let [_, rest @ ..] = self.weeks;
            let [second, third, newest] = rest;
            (self.days, self.weeks) = (0, [second, third, newest, level]);
        }
        self.holds() && !before
    }

    /// True when growth has ended, until an operator accepts it or four weeks have passed at this level.
    pub fn holds(&self) -> bool {
        self.sum > ENOUGH
    }

    /// The same with all levels divided.
    pub fn divide(&mut self, factor: f32) {
        self.weeks.iter_mut().for_each(|level| *level /= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_falls_at_once_and_grows_by_a_quarter_a_day() {
        assert_eq!(follow(1_000.0, 300.0, 125.0, Duration::ZERO), 300.0);
        let mut level = 1_000.0;
        for _ in 0..8_640 {
            level = follow(level, 50_000.0, 125.0, Duration::from_secs(10));
        }
        assert!((1_240.0..1_260.0).contains(&level), "{level}");
        assert_eq!(follow(3.0, 100.0, 125.0, Duration::ZERO), 100.0, "below the least it follows");
    }

    #[test]
    fn growth_at_the_most_that_is_possible_ends_within_two_weeks() {
        let (mut drift, mut level, mut days) = (Drift::default(), 1_000.0, 0);
        while !drift.pass(level, DAY) {
            level *= A_DAY;
            days += 1;
            assert!(days < 14, "not found out");
        }
        assert!(level < 8_000.0, "{level} after {days} days");
    }

    #[test]
    fn a_service_that_doubles_once_is_no_drift_and_one_that_stays_grown_is_let_go() {
        let mut drift = Drift::default();
        drift.pass(1_000.0, DAY);
        assert!(!(0..60).any(|_| drift.pass(1_900.0, DAY)));
        let mut drift = Drift::default();
        drift.pass(1_000.0, DAY);
        assert!((0..28).any(|_| drift.pass(4_000.0, DAY)));
        assert!(!(0..28).any(|_| drift.pass(4_000.0, DAY)), "told once");
        assert!(!drift.holds(), "{drift:?}");
    }
}
