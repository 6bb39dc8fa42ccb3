//! How bad an incident is: from its effect first, from its rate where the effect is not known.

use super::record::Severity;

/// What severity depends on. Unknown decides nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Effect {
    /// There is evidence that it is an attack.
    pub witnessed: bool,
    /// What the target answers now ÷ what is usual for it.
    pub goodput_ratio: Option<f64>,
    /// Ingress ÷ capacity of the uplink.
    pub uplink_utilisation: Option<f64>,
    /// The uplink is full.
    pub uplink_saturated: Option<bool>,
    /// What reaches the zone ÷ the capacity of its link.
    pub zone_utilisation: Option<f64>,
}

/// Clean traffic suffers below this.
const GOODPUT_SUFFERS: f64 = 0.9;
/// A link is filling above this.
const LINK_FILLS: f64 = 0.7;
/// A link is full above this.
pub const LINK_FULL: f64 = 0.95;

/// How bad it is now.
pub fn severity(effect: &Effect) -> Severity {
    let above = |value: Option<f64>, limit: f64| value.is_some_and(|value| value >= limit);
    let full = effect.uplink_saturated == Some(true)
        || above(effect.uplink_utilisation, LINK_FULL)
        || above(effect.zone_utilisation, LINK_FULL);
    let suffers = effect.goodput_ratio.is_some_and(|ratio| ratio < GOODPUT_SUFFERS);
    let fills = above(effect.uplink_utilisation, LINK_FILLS) || above(effect.zone_utilisation, LINK_FILLS);
    match effect {
        // A full link during what is not known to be an attack may be a crowd: bad enough to look at.
        Effect { witnessed: false, .. } if full || suffers => Severity::Medium,
        Effect { witnessed: false, .. } => Severity::Low,
        _ if full => Severity::Critical,
        _ if suffers || fills => Severity::High,
        _ => Severity::Medium,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_follows_the_effect_and_unknown_decides_nothing() {
        let attack = Effect { witnessed: true, ..Effect::default() };
        assert_eq!(severity(&Effect::default()), Severity::Low);
        assert_eq!(severity(&attack), Severity::Medium);
        assert_eq!(severity(&Effect { goodput_ratio: Some(0.5), ..attack }), Severity::High);
        assert_eq!(
            severity(&Effect { goodput_ratio: Some(1.0), uplink_utilisation: Some(0.8), ..attack }),
            Severity::High
        );
        assert_eq!(severity(&Effect { uplink_saturated: Some(true), ..attack }), Severity::Critical);
        assert_eq!(severity(&Effect { uplink_saturated: Some(true), ..Effect::default() }), Severity::Medium);
    }
}
