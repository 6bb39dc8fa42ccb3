//! How often which rate occurred: buckets that grow with the rate, so that values are told apart to 5 % whatever their size.

/// Buckets that there can be; the last begins at 300 million packets per second.
pub(super) const BUCKETS: usize = 256;
/// Ratio of neighbouring buckets: a value is at most half a step (4 %) from the middle of its bucket.
const STEP: f32 = 1.08;

/// A histogram of rates with logarithmic buckets. Only those between the lowest and the highest rate seen take memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Weight of rates below one packet per second.
    silence: f32,
    /// Number of the first of `weights`.
    first: usize,
    weights: Vec<f32>,
    /// Sum of all.
    total: f64,
}

impl Histogram {
    /// From its parts, as [`Self::parts`] gives them; none when they are impossible.
    pub fn from_parts(silence: f32, first: usize, weights: Vec<f32>) -> Option<Self> {
        let is_possible = |weight: &f32| weight.is_finite() && *weight >= 0.0;
        let fits = weights.is_empty() || (first >= 1 && first.saturating_add(weights.len()) <= BUCKETS);
        if !fits || !is_possible(&silence) || !weights.iter().all(is_possible) {
            return None;
        }
        let mut new = Self { silence, first, weights, total: 0.0 };
        new.scale(1.0);
        Some(new)
    }

    /// Weight of silence, the number of the first other bucket, and the weights from there.
    pub fn parts(&self) -> (f32, usize, &[f32]) {
        (self.silence, self.first, &self.weights)
    }

    /// Adds weight to the bucket of a rate, in packets per second.
    pub fn add(&mut self, rate: f32, weight: f32) {
        self.add_to(bucket(rate), weight);
    }

    fn add_to(&mut self, bucket: usize, weight: f32) {
        self.total += f64::from(weight);
        if bucket == 0 {
            self.silence += weight;
            return;
        }
        if self.weights.is_empty() {
            self.first = bucket;
        }
        if bucket < self.first {
            let more = self.first - bucket;
            self.weights.reserve_exact(more);
            self.weights.splice(0..0, std::iter::repeat_n(0.0, more));
            self.first = bucket;
        }
        let at = bucket - self.first;
        if self.weights.len() <= at {
            self.weights.reserve_exact(at + 1 - self.weights.len());
            self.weights.resize(at + 1, 0.0);
        }
        if let Some(sum) = self.weights.get_mut(at) {
            *sum += weight;
        }
    }

    /// Adds all that another has, at rates that are higher by `raised` packets per second.
    pub fn merge(&mut self, other: &Self, raised: f32) {
        self.add(raised, other.silence);
        for (of, weight) in (other.first..).zip(&other.weights) {
            self.add(middle(of) + raised, *weight);
        }
    }

    /// The rate below which a share of the weight lies, in packets per second; zero when there is none.
    pub fn quantile(&self, share: f32) -> f32 {
        let above = self.total * (1.0 - f64::from(share));
        let mut sum = 0.0;
        for (at, weight) in self.weights.iter().enumerate().rev() {
            sum += f64::from(*weight);
            if sum > above {
                return middle(self.first + at);
            }
        }
        0.0
    }

    /// All weight.
    pub fn total(&self) -> f64 {
        self.total
    }

    /// Ages everything by a factor.
    pub fn scale(&mut self, factor: f32) {
        self.weights.iter_mut().for_each(|weight| *weight *= factor);
        self.silence *= factor;
        self.total = f64::from(self.silence) + self.weights.iter().copied().map(f64::from).sum::<f64>();
    }

    /// Divides all rates by a factor of at least one.
    pub fn divide(&mut self, factor: f32) {
        let steps = bucket(factor).saturating_sub(1);
        let before = std::mem::take(self);
        self.add_to(0, before.silence);
        for (bucket, weight) in (before.first..).zip(before.weights) {
            self.add_to(bucket.saturating_sub(steps), weight);
        }
    }
}

/// The bucket of a rate: 0 below one packet per second.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the number of buckets before the cast"
)]
pub(super) fn bucket(rate: f32) -> usize {
    if rate < 1.0 {
        return 0;
    }
    let position = 1.0 + rate.ln() / STEP.ln();
    position.clamp(1.0, BUCKETS as f32 - 1.0) as usize
}

/// The rate that a bucket stands for, in packets per second.
#[expect(clippy::cast_precision_loss, reason = "at most 256")]
pub(super) fn middle(bucket: usize) -> f32 {
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
    fn only_what_lies_between_the_rates_seen_takes_memory() {
        let mut histogram = Histogram::default();
        for rate in [0.0, 1_000.0, 2_000.0, 500.0] {
            histogram.add(rate, 1.0);
        }
        let (silence, first, weights) = histogram.parts();
        assert_eq!((silence, first), (1.0, bucket(500.0)));
        assert_eq!(weights.len(), bucket(2_000.0) - bucket(500.0) + 1);
        assert_eq!(histogram.quantile(0.3), middle(bucket(500.0)));
        assert_eq!(Histogram::from_parts(silence, first, weights.to_vec()), Some(histogram));
    }

    #[test]
    fn merged_and_divided_histograms_keep_their_weight() {
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        one.add(100.0, 3.0);
        other.add(0.0, 2.0);
        other.add(4_000.0, 1.0);
        one.merge(&other, 0.0);
        assert_eq!(one.total(), 6.0);
        assert!((one.quantile(0.9) / 4_000.0 - 1.0).abs() < 0.05);
        one.divide(2.0);
        assert_eq!(one.total(), 6.0);
        assert!((one.quantile(0.9) / 2_000.0 - 1.0).abs() < 0.1);
        other.merge(&other.clone(), 1_000.0);
        assert!((other.quantile(0.9) / 5_000.0 - 1.0).abs() < 0.05);
        assert!((other.quantile(0.5) / 1_000.0 - 1.0).abs() < 0.05, "silence, raised");
    }

    #[test]
    fn impossible_parts_are_refused() {
        assert_eq!(Histogram::from_parts(0.0, 200, vec![1.0; 100]), None);
        assert_eq!(Histogram::from_parts(0.0, 0, vec![1.0]), None);
        assert_eq!(Histogram::from_parts(-1.0, 1, vec![]), None);
        assert_eq!(Histogram::from_parts(0.0, 1, vec![f32::NAN]), None);
    }
}
