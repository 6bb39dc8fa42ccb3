//! Thresholds: what a role's rate may be before it is an alarm, learned from rates over 100 ms in peace.

use std::time::Duration;

use levee_api::role::Role;

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
        // Its limit is per source and comes with the established role's own mechanism.
        Role::Established => u32::MAX,
    }
}

/// Window over which rates are learned.
pub const WINDOW: Duration = Duration::from_millis(100);
/// Below this much observation a floor is not lowered: a quiet start proves nothing.
const SETTLED: Duration = Duration::from_secs(20);
const STAGE_1: Duration = Duration::from_secs(600);
const STAGE_2: Duration = Duration::from_secs(24 * 3600);
const STAGE_3: Duration = Duration::from_secs(7 * 24 * 3600);

/// What was learned of one role at one target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Baseline {
    /// Largest rate of a window in peace, packets per second.
    pub largest: f32,
    /// All rates of windows in peace.
    pub rates: Histogram,
}

impl Baseline {
    /// Learns the rate of one window.
    pub fn observe(&mut self, rate: f32) {
        self.largest = self.largest.max(rate);
        self.rates.add(rate, 1.0);
    }

    /// Learns that `windows` passed without a packet.
    pub fn observe_silence(&mut self, windows: f32) {
        self.rates.add(0.0, windows);
    }

    /// The least that [`Self::threshold`] can be, whatever was learned.
    pub fn least(role: Role, observed: Duration, floor: f32, cap: f32) -> f32 {
        Self::default().threshold(role, observed, floor, cap)
    }

    /// The threshold in packets per second. `observed`: how long the zone has been watched; `floor` and `cap` are the
    /// target's (a prefix has a higher floor than a host).
    pub fn threshold(&self, role: Role, observed: Duration, floor: f32, cap: f32) -> f32 {
        let floor = floor.min(cap);
        if role == Role::Request {
            return (3.0 * self.largest).clamp(50.0, floor.max(50.0)).min(cap.max(50.0));
        }
        let (quantile, factor) = if observed < SETTLED {
            return floor;
        } else if observed < STAGE_1 {
            return (8.0 * self.largest).clamp(floor / 4.0, floor);
        } else if observed < STAGE_2 {
            (0.999, 4.0)
        } else if observed < STAGE_3 {
            (0.9999, 3.0)
        } else {
            (0.9999, 2.5)
        };
        (factor * self.rates.quantile(quantile)).max(floor / 4.0).min(cap)
    }
}

/// A histogram of rates with logarithmic buckets: values are told apart to 5 %.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Weight per bucket; bucket 0 is silence. Grows to the largest bucket used, at most [`BUCKETS`].
    weights: Vec<f32>,
    /// Their sum.
    total: f64,
}

const BUCKETS: usize = 256;
/// Ratio of neighbouring buckets: a value is at most half a step (4 %) from the middle of its bucket.
const STEP: f32 = 1.08;

impl Histogram {
    /// Adds weight to the bucket of a rate.
    pub fn add(&mut self, rate: f32, weight: f32) {
        let bucket = bucket(rate);
        if self.weights.len() <= bucket {
            self.weights.resize(bucket + 1, 0.0);
        }
        if let Some(sum) = self.weights.get_mut(bucket) {
            *sum += weight;
            self.total += f64::from(weight);
        }
    }

    /// The rate below which a share of the weight lies; zero when there is none.
    pub fn quantile(&self, share: f32) -> f32 {
        // From the top: high quantiles, asked for in every tick, are a few buckets away from there.
        let above = self.total * (1.0 - f64::from(share));
        let mut sum = 0.0;
        for (bucket, weight) in self.weights.iter().enumerate().rev() {
            sum += f64::from(*weight);
            if sum > above {
                return middle(bucket);
            }
        }
        0.0
    }

    /// The weights, for a snapshot.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// From the weights of a snapshot; impossible ones are dropped.
    pub fn from_weights(weights: Vec<f32>) -> Self {
        let weights: Vec<f32> =
            weights.into_iter().take(BUCKETS).map(|w| if w.is_finite() && w >= 0.0 { w } else { 0.0 }).collect();
        let total = weights.iter().copied().map(f64::from).sum();
        Self { weights, total }
    }

    /// Ages everything by a factor.
    pub fn scale(&mut self, factor: f32) {
        for weight in &mut self.weights {
            *weight *= factor;
        }
        self.total *= f64::from(factor);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the number of buckets before the cast"
)]
fn bucket(rate: f32) -> usize {
    if rate < 1.0 {
        return 0;
    }
    let position = 1.0 + rate.ln() / STEP.ln();
    position.clamp(1.0, BUCKETS as f32 - 1.0) as usize
}

#[expect(clippy::cast_precision_loss, reason = "at most 256")]
fn middle(bucket: usize) -> f32 {
    if bucket == 0 { 0.0 } else { STEP.powf(bucket as f32 - 0.5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_five_percent() {
        for truth in [3.0_f32, 100.0, 4_321.0, 1e6, 5e7] {
            let mut histogram = Histogram::default();
            histogram.add(truth, 10.0);
            let found = histogram.quantile(0.999);
            assert!((found / truth - 1.0).abs() < 0.05, "{truth} became {found}");
        }
    }

    #[test]
    fn stage_0_is_the_floor_until_peace_was_watched() {
        let mut baseline = Baseline::default();
        baseline.observe(30.0);
        let at = |baseline: &Baseline, seconds| baseline.threshold(Role::Syn, Duration::from_secs(seconds), 500.0, 1e6);
        assert_eq!(at(&baseline, 5), 500.0);
        assert_eq!(at(&baseline, 30), 240.0);
        baseline.observe(5_000.0);
        assert_eq!(at(&baseline, 30), 500.0, "never above the floor in stage 0");
    }

    #[test]
    fn later_stages_follow_the_quantiles() {
        let mut baseline = Baseline::default();
        for _ in 0..20_000 {
            baseline.observe(1_000.0);
        }
        let day = 24 * 3600;
        let at = |seconds| baseline.threshold(Role::Syn, Duration::from_secs(seconds), 500.0, 1e6);
        assert!((3_800.0..4_200.0).contains(&at(700)), "{}", at(700));
        assert!((2_850.0..3_150.0).contains(&at(day + 1)));
        assert!((2_375.0..2_625.0).contains(&at(8 * day)));
    }

    #[test]
    fn capacity_caps_every_threshold() {
        let baseline = Baseline::default();
        assert_eq!(baseline.threshold(Role::UdpOpen, Duration::ZERO, 1_000.0, 300.0), 300.0);
    }
}
