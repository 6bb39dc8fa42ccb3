//! What an attack is besides its packets: spread over a prefix, or coming and going.

use std::time::Duration;

use levee_api::prefix::Prefix;
use levee_api::vector::Vector;

use crate::detect::event::Finding;

/// The properties of an attack on a target that paused for at most `longest_gap` so far.
pub fn properties(target: &Prefix, longest_gap: Duration) -> Vec<Finding> {
    let carpet = !target.is_host();
    let pulse = !longest_gap.is_zero();
    let findings = [
        (carpet, Vector::CarpetBombing, format!("the hosts of {target} together are above its threshold")),
        (pulse, Vector::PulseWave, format!("came back after {:.1} s of silence", longest_gap.as_secs_f64())),
    ];
    let holds = findings.into_iter().filter(|(holds, ..)| *holds);
    holds.map(|(_, vector, why)| Finding { vector, confidence: 1.0, evidence: vec![why] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_carpet_and_what_came_back_is_a_pulse() {
        let vectors = |target: &str, gap_s| -> Vec<Vector> {
            let found = properties(&target.parse().unwrap(), Duration::from_secs(gap_s));
            assert!(found.iter().all(|finding| !finding.evidence.is_empty()));
            found.into_iter().map(|finding| finding.vector).collect()
        };
        assert_eq!(vectors("203.0.113.10", 0), []);
        assert_eq!(vectors("2001:db8::/56", 0), [Vector::CarpetBombing]);
        assert_eq!(vectors("203.0.113.10", 3), [Vector::PulseWave]);
        assert_eq!(vectors("203.0.113.0/24", 3), [Vector::CarpetBombing, Vector::PulseWave]);
    }
}
