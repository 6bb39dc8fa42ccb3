//! Thresholds: what a role's rate may be before it is an alarm, learned from rates over 100 ms in peace.

use std::fmt;
use std::time::Duration;

use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::zone::Zone;

use crate::detect::growth::{self, Drift};
use crate::detect::histogram::Histogram;
use crate::detect::hours::Hours;

/// Floor in packets per second of a role towards one host, for a server; zones may replace it.
pub const fn floor(role: Role) -> u32 {
    match role {
        Role::Syn
        | Role::OutOfState
        | Role::UdpUnserved
        | Role::IcmpOther
        | Role::LaterFragment
        | Role::OtherProtocol
        | Role::Malformed => 500,
        Role::UnsolicitedSynAck | Role::UnsolicitedResponse => 200,
        Role::Request => 2_000,
        Role::UdpOpen => 1_000,
        // Any number of them may be legitimate: above this it is asked whether a few sources send them all.
        Role::Established => 20_000,
    }
}

/// Window over which rates are learned.
pub const WINDOW: Duration = Duration::from_millis(100);
/// Below this much observation a floor is not lowered: a quiet start proves nothing.
const SETTLED: Duration = Duration::from_secs(20);
/// From here on what was learned counts, and may grow only slowly.
pub const STAGE_1: Duration = Duration::from_secs(600);
const STAGE_2: Duration = Duration::from_secs(24 * 3600);
const STAGE_3: Duration = Duration::from_secs(7 * 24 * 3600);
/// Windows of a role's own without which it stays in stage 0, however long its zone has been watched.
const ENOUGH_WINDOWS: f64 = 6_000.0;
/// The least threshold of requests.
const LEAST_REQUESTS: f32 = 50.0;
/// A mean over ten seconds above this many times the 0.999 quantile is not usual.
const SLOW: f32 = 1.5;
/// Windows of an hour that tell how busy it is.
const ENOUGH_OF_AN_HOUR: f32 = 18_000.0;

/// What bounds a threshold, whatever was learned.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of this role.
    pub role: Role,
    /// How long the zone has been watched.
    pub observed: Duration,
    /// The target's floor in packets per second (a prefix has a higher one than a host).
    pub floor: f32,
    /// The most that the target's link can take, in packets per second.
    pub cap: f32,
}

/// Bytes on the wire of the smallest frame, with preamble and gap: what a capacity in bit/s is worth in packets.
const SMALLEST_FRAME_BITS: f32 = 672.0;
/// Part of a link's capacity that may be used.
const USABLE: f32 = 0.8;

impl Bounds {
    /// Those of a target in a zone that has been watched for so long. `scale`: how many times that of a host its floor is.
    #[expect(clippy::cast_precision_loss, reason = "floors and capacities are estimates")]
    pub fn of(zone: &Zone, role: Role, observed: Duration, scale: f32) -> Self {
        let own = zone.floors.iter().find(|(known, _)| *known == role).map(|(_, floor)| *floor);
        let floor = own.unwrap_or_else(|| floor(role)) as f32 * scale;
        let cap = zone.link_capacity_bps.map_or(f32::MAX, |bps| USABLE * bps as f32 / SMALLEST_FRAME_BITS);
        Self { role, observed, floor, cap }
    }
}

/// What time it is for those that learn.
#[derive(Clone, Copy, Debug)]
pub struct Calendar {
    /// Hour of the week.
    pub hour: u8,
    /// Weight of what is seen now: it grows, so that what was seen before weighs less and less.
    pub weight: f32,
    /// Nobody was watching right before this: silence counts from here on.
    pub seen_since: Timestamp,
    /// All that is seen is peace, as an operator says.
    pub is_training: bool,
}

impl Calendar {
    /// True when what is seen counts only if no alarm follows: not for the first seconds of a zone, and not where it is known
    /// to be peace.
    pub fn is_late(&self, observed: Duration) -> bool {
        observed >= SETTLED && !self.is_training
    }
}

/// How far learning has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Less than 10 minutes were watched: the floor.
    Floor,
    /// Less than a day.
    Minutes,
    /// Less than a week.
    Days,
    /// The rhythm of a week is known, too.
    Weeks,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Floor => "0",
            Self::Minutes => "10min",
            Self::Days => "day",
            Self::Weeks => "week",
        })
    }
}

/// Quantiles that thresholds are made of, as far as they may have grown, in packets per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Levels {
    /// A window in a thousand is above it.
    pub q999: f32,
    /// One in ten thousand.
    pub q9999: f32,
}

/// What was learned of one role at one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// Largest rate of a window in peace, packets per second.
    pub largest: f32,
    /// All rates of windows in peace, divided by the factor of their hour once that is in use.
    pub rates: Histogram,
    /// Quantiles of `rates`; none before there are enough.
    pub levels: Option<Levels>,
    /// Growth over weeks.
    pub drift: Drift,
    /// How busy each hour is; none before one has passed.
    pub hours: Option<Box<Hours>>,
    /// Rates are divided by the factors of hours.
    pub is_seasonal: bool,
    /// Factor of the current hour.
    pub factor: f32,
    /// The hour under way; a snapshot leaves it out.
    pub hour: Hour,
}

/// The hour under way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hour {
    /// None: learning has just begun.
    of_week: Option<u8>,
    /// Sum of the rates of windows.
    sum: f32,
    windows: f32,
}

impl Default for Baseline {
    fn default() -> Self {
        Self {
            largest: 0.0,
            rates: Histogram::default(),
            levels: None,
            drift: Drift::default(),
            hours: None,
            is_seasonal: false,
            factor: 1.0,
            hour: Hour::default(),
        }
    }
}

impl Baseline {
    /// Learns the rate of one window and that `silent` others passed without a packet.
    pub fn observe(&mut self, rate: f32, silent: f32, weight: f32) {
        self.largest = self.largest.max(rate);
        self.rates.add(rate / self.factor, weight);
        if silent > 0.0 {
            self.rates.add(0.0, silent * weight);
        }
        self.hour.sum += rate;
        self.hour.windows += 1.0 + silent;
    }

    /// Brings the quantiles up to date, some seconds after the last time; true when it has become clear that they have grown
    /// for weeks.
    pub fn refresh(&mut self, bounds: &Bounds, calendar: &Calendar, elapsed: Duration) -> bool {
        self.largest *= growth::decay(elapsed);
        if self.hour.of_week != Some(calendar.hour) {
            self.turn_hour(bounds.observed, calendar.hour);
        }
        let seen = Levels { q999: self.rates.quantile(0.999), q9999: self.rates.quantile(0.9999) };
        let Some(levels) = self.levels.filter(|_| !calendar.is_training) else {
            let is_enough = self.rates.total() >= ENOUGH_WINDOWS * f64::from(calendar.weight);
            self.levels = is_enough.then_some(seen);
            return false;
        };
        // As long as the threshold is no higher than the floor, growth harms nobody.
        let least = bounds.floor / 4.0;
        let growing = if self.drift.holds() { Duration::ZERO } else { elapsed };
        self.levels = Some(Levels {
            q999: growth::follow(levels.q999, seen.q999, least, growing),
            q9999: growth::follow(levels.q9999, seen.q9999, least, growing),
        });
        self.drift.pass(levels.q999.max(least), elapsed)
    }

    fn turn_hour(&mut self, observed: Duration, next: u8) {
        let Hour { of_week, sum, windows } =
            std::mem::replace(&mut self.hour, Hour { of_week: Some(next), ..Hour::default() });
        let mean = sum / windows.max(1.0);
        if let Some(of_week) = of_week
            && windows >= ENOUGH_OF_AN_HOUR
            && (mean >= 1.0 || self.hours.is_some())
        {
            self.hours.get_or_insert_default().learn(of_week, mean);
        }
        let Some(hours) = &self.hours else { return };
        if !self.is_seasonal && observed >= STAGE_3 && hours.is_rhythm() {
            self.is_seasonal = true;
            // High quantiles of what was learned until now are those of the busiest hour.
            let busiest = hours.largest_factor();
            self.rates.divide(busiest);
            self.drift.divide(busiest);
            if let Some(levels) = &mut self.levels {
                *levels = Levels { q999: levels.q999 / busiest, q9999: levels.q9999 / busiest };
            }
        }
        self.factor = if self.is_seasonal { hours.factor(next) } else { 1.0 };
    }

    /// Takes in what was learned of a rate that was an alarm at first. Where nothing else is known, it is all there is: then
    /// it says true, and the threshold follows at once.
    pub fn merge(&mut self, provisional: &Self) -> bool {
        self.largest = self.largest.max(provisional.largest);
        self.rates.merge(&provisional.rates, 0.0);
        let is_new = self.levels.is_none();
        if is_new {
            self.accept();
        }
        is_new
    }

    /// Learns of a prefix that what is usual at one of its members comes on top of all else.
    pub fn add_member(&mut self, member: &Self) {
        self.largest += member.largest;
        self.rates.merge(&member.rates, self.rates.quantile(0.999));
        let of_member = member.levels.unwrap_or_default();
        match &mut self.levels {
            Some(Levels { q999, q9999 }) => {
                *q999 += of_member.q999;
                *q9999 += of_member.q9999;
            }
            None => self.accept(),
        }
    }

    /// Takes the quantiles as they are, however fast they have grown.
    pub fn accept(&mut self) {
        self.levels = Some(Levels { q999: self.rates.quantile(0.999), q9999: self.rates.quantile(0.9999) });
        self.drift = Drift::default();
    }

    /// Goes on as in another process, `away` later. `weight`: how many times as much an observation weighed when this was
    /// written as it weighs now.
    pub fn age(&mut self, away: Duration, weight: f32) {
        let decay = growth::decay(away.min(10 * growth::HALF_LIFE));
        self.largest *= decay;
        self.rates.scale(decay / weight);
    }

    /// The stage of a role that has been watched for so long.
    pub fn stage(&self, observed: Duration) -> Stage {
        match self.levels {
            Some(_) if observed >= STAGE_3 => Stage::Weeks,
            Some(_) if observed >= STAGE_2 => Stage::Days,
            Some(_) if observed >= STAGE_1 => Stage::Minutes,
            _ => Stage::Floor,
        }
    }

    /// The least that [`Self::threshold`] can be, whatever was learned.
    pub fn least(bounds: &Bounds) -> f32 {
        Self::default().threshold(bounds)
    }

    /// The threshold in packets per second.
    pub fn threshold(&self, bounds: &Bounds) -> f32 {
        let Bounds { role, observed, cap, .. } = *bounds;
        let floor = bounds.floor.min(cap);
        let levels = self.levels.unwrap_or_default();
        let learned = self.factor
            * match self.stage(observed) {
                Stage::Floor if role == Role::Request => 0.0,
                Stage::Floor if observed < SETTLED => return floor,
                Stage::Floor => return (8.0 * self.largest).clamp(floor / 4.0, floor),
                Stage::Minutes => 4.0 * levels.q999,
                Stage::Days => 3.0 * levels.q9999,
                Stage::Weeks => 2.5 * levels.q9999,
            };
        if role == Role::Request {
            // Applications differ more in their requests than a floor can say.
            let most = floor.max(learned).max(LEAST_REQUESTS);
            return (3.0 * self.largest).clamp(LEAST_REQUESTS, most).min(cap.max(LEAST_REQUESTS));
        }
        learned.max(floor / 4.0).min(cap)
    }

    /// The mean over ten seconds that is unusual, although it is below the threshold, in packets per second; none in stage 0.
    pub fn slow_threshold(&self, bounds: &Bounds) -> Option<f32> {
        let levels = self.levels.filter(|_| self.stage(bounds.observed) != Stage::Floor)?;
        Some((SLOW * self.factor * levels.q999).max(bounds.floor / 4.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    fn at(seconds: u64) -> Bounds {
        Bounds { role: Role::Syn, observed: Duration::from_secs(seconds), floor: 500.0, cap: 1e6 }
    }

    fn calendar(hour: u8) -> Calendar {
        Calendar { hour, weight: 1.0, seen_since: Timestamp::ZERO, is_training: false }
    }

    /// Twenty thousand windows at a rate.
    fn steady(rate: f32) -> Baseline {
        let mut baseline = Baseline::default();
        for _ in 0..20_000 {
            baseline.observe(rate, 0.0, 1.0);
        }
        baseline.refresh(&at(700), &calendar(0), Duration::from_secs(10));
        baseline
    }

    #[test]
    fn stage_0_is_the_floor_until_peace_was_watched() {
        let mut baseline = Baseline::default();
        baseline.observe(30.0, 0.0, 1.0);
        assert_eq!(baseline.threshold(&at(5)), 500.0);
        assert_eq!(baseline.threshold(&at(30)), 240.0);
        baseline.observe(5_000.0, 0.0, 1.0);
        assert_eq!(baseline.threshold(&at(30)), 500.0, "never above the floor in stage 0");
        assert_eq!(baseline.threshold(&at(30 * DAY)), 500.0, "a role that is new at its target is in stage 0");
        assert_eq!(baseline.slow_threshold(&at(30 * DAY)), None);
    }

    #[test]
    fn later_stages_follow_the_quantiles() {
        let baseline = steady(1_000.0);
        assert!((3_800.0..4_200.0).contains(&baseline.threshold(&at(700))));
        assert!((2_850.0..3_150.0).contains(&baseline.threshold(&at(DAY + 1))));
        assert!((2_375.0..2_625.0).contains(&baseline.threshold(&at(8 * DAY))));
        assert!((1_425.0..1_575.0).contains(&baseline.slow_threshold(&at(700)).unwrap()));
    }

    #[test]
    fn capacity_caps_every_threshold() {
        let bounds = Bounds { cap: 300.0, ..at(0) };
        assert_eq!(Baseline::default().threshold(&bounds), 300.0);
        assert_eq!(steady(1_000.0).threshold(&Bounds { cap: 300.0, ..at(DAY) }), 300.0);
    }

    #[test]
    fn requests_are_bounded_by_their_largest_rate() {
        let requests = |baseline: &Baseline, seconds| {
            baseline.threshold(&Bounds { role: Role::Request, floor: 2_000.0, ..at(seconds) })
        };
        assert_eq!(requests(&Baseline::default(), 30), 50.0);
        assert!((295.0..=300.0).contains(&requests(&steady(100.0), 700)));
        assert!(
            requests(&steady(20_000.0), 700) >= 60_000.0 * 0.99,
            "one that is honestly busy is not an alarm for ever"
        );
    }

    #[test]
    fn from_stage_1_on_a_baseline_grows_by_at_most_a_quarter_a_day_unless_accepted() {
        let mut baseline = steady(1_000.0);
        let before = baseline.threshold(&at(DAY));
        // A day at ten times the rate.
        for _ in 0..8_640 {
            baseline.observe(10_000.0, 0.0, 100.0);
            baseline.refresh(&at(DAY), &calendar(0), Duration::from_secs(10));
        }
        let after = baseline.threshold(&at(DAY));
        assert!((1.2..1.26).contains(&(after / before)), "{before} became {after}");
        baseline.accept();
        assert!(baseline.threshold(&at(DAY)) > 9.0 * before);
    }

    #[test]
    fn hours_of_the_week_are_told_apart_after_a_week() {
        let (mut baseline, mut seconds) = (Baseline::default(), 0);
        let busy = |hour: u64| hour % 24 >= 12;
        let mut week = |baseline: &mut Baseline| {
            for hour in 0..168_u8 {
                for _ in 0..360 {
                    seconds += 10;
                    let rate = if busy(hour.into()) { 3_000.0 } else { 1_000.0 };
                    (0..100).for_each(|_| baseline.observe(rate, 0.0, 1.0));
                    baseline.refresh(&at(seconds), &calendar(hour), Duration::from_secs(10));
                }
            }
            seconds
        };
        week(&mut baseline);
        let seconds = week(&mut baseline);
        let mut in_hour = |hour| {
            baseline.refresh(&at(seconds), &calendar(hour), Duration::from_secs(10));
            baseline.threshold(&at(seconds))
        };
        let (night, noon) = (in_hour(3), in_hour(15));
        assert!((2.0..4.0).contains(&(night / 1_000.0)), "at night {night}");
        assert!((2.0..4.0).contains(&(noon / 3_000.0)), "at noon {noon}");
    }

    #[test]
    fn what_was_seen_before_a_long_absence_weighs_less() {
        let mut baseline = steady(1_000.0);
        let before = baseline.clone();
        baseline.age(growth::HALF_LIFE, 1.0);
        assert!((baseline.rates.total() / before.rates.total() - 0.5).abs() < 1e-3);
        assert_eq!(baseline.levels, before.levels, "quantiles stay what they were");
        baseline.age(Duration::MAX, 1.0);
        assert!(baseline.rates.quantile(0.999) > 900.0, "also after a jump of the clock by centuries");
    }
}
