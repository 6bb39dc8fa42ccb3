//! The rhythm of a week: how busy each of its hours is, compared with the others.

use std::time::Duration;

use crate::detect::histogram::{bucket, middle};

/// Hours of a week.
pub const HOURS: usize = 168;
/// Fewer known hours than this are no rhythm.
const ENOUGH: usize = HOURS / 2;
/// An hour of another week moves what is known of it by this part.
const WEIGHT: f32 = 0.3;
/// An hour differs from the average by at most this factor: what is rarer is noise, or an attack.
const MOST: f32 = 4.0;

/// An hour of the week in UTC: 0 is the one that begins with Monday.
pub fn hour_of_week(since_1970: Duration) -> u8 {
    // 1 January 1970 was a Thursday.
    u8::try_from((since_1970.as_secs() / 3600 + 3 * 24) % 168).unwrap_or(0)
}

/// Mean rate of each hour of the week, as the bucket that it falls into plus one; zero: not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours(pub [u8; HOURS]);

impl Default for Hours {
    fn default() -> Self {
        Self([0; HOURS])
    }
}

impl Hours {
    /// Learns the mean rate of an hour, in packets per second.
    pub fn learn(&mut self, hour: u8, mean: f32) {
        let Some(code) = self.0.get_mut(usize::from(hour)) else { return };
        let mean = match known(*code) {
            // A single week cannot turn what many have shown.
            Some(before) => before + WEIGHT * (mean.min(2.0 * before.max(1.0)) - before),
            None => mean,
        };
        *code = u8::try_from(bucket(mean) + 1).unwrap_or(u8::MAX);
    }

    /// How busy an hour is compared with the average; one when too little is known.
    pub fn factor(&self, hour: u8) -> f32 {
        let Some(mean) = self.0.get(usize::from(hour)).and_then(|code| known(*code)) else { return 1.0 };
        self.average().map_or(1.0, |average| (mean / average).clamp(1.0 / MOST, MOST))
    }

    /// The largest of the factors, at least one.
    pub fn largest_factor(&self) -> f32 {
        let busiest = self.0.into_iter().filter_map(known).fold(0.0, f32::max);
        self.average().map_or(1.0, |average| (busiest / average).clamp(1.0, MOST))
    }

    /// True when enough hours are known to tell them apart.
    pub fn is_rhythm(&self) -> bool {
        self.average().is_some()
    }

    fn average(&self) -> Option<f32> {
        let (mut sum, mut count) = (0.0, 0_u8);
        for mean in self.0.into_iter().filter_map(known) {
            (sum, count) = (sum + mean, count + 1);
        }
        (usize::from(count) >= ENOUGH && sum > 0.0).then(|| sum / f32::from(count))
    }
}

fn known(code: u8) -> Option<f32> {
    Some(middle(usize::from(code).checked_sub(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_week_begins_on_monday() {
        assert_eq!(hour_of_week(Duration::ZERO), 72);
        // Monday, 5 January 1970, 00:00 and the hour before.
        assert_eq!(hour_of_week(Duration::from_secs(4 * 86_400)), 0);
        assert_eq!(hour_of_week(Duration::from_secs(4 * 86_400 - 1)), 167);
    }

    #[test]
    fn busy_hours_have_a_factor_above_one_and_quiet_ones_below() {
        let mut hours = Hours::default();
        for hour in 0..168 {
            hours.learn(hour, if hour % 24 < 12 { 100.0 } else { 300.0 });
        }
        assert!((hours.factor(3) - 0.5).abs() < 0.05, "{}", hours.factor(3));
        assert!((hours.factor(15) - 1.5).abs() < 0.1, "{}", hours.factor(15));
        assert_eq!(hours.largest_factor(), hours.factor(15));
    }

    #[test]
    fn a_day_is_no_rhythm() {
        let mut hours = Hours::default();
        (0..24).for_each(|hour| hours.learn(hour, f32::from(hour) * 100.0));
        assert_eq!(hours.factor(23), 1.0);
        assert!(!hours.is_rhythm());
    }

    #[test]
    fn one_week_cannot_turn_what_others_have_shown() {
        let mut hours = Hours::default();
        (0..168).for_each(|hour| hours.learn(hour, 100.0));
        hours.learn(7, 1e6);
        assert!(hours.factor(7) < 1.4, "{}", hours.factor(7));
    }
}
