//! Whether a measure upstream takes anything away: by what comes in here for what it matches, before and after it was told.
//!
//! The dataplane tells rates by target, so that several rules on one target are judged together, and an attack that ends in the
//! same moment looks like an effect.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::{Direction, FlowAction, FlowRule, Kind, Spec};
use crate::clock::Now;
use crate::incident::Rates;

/// What is measured within this of the telling began before it: rates are means of a second.
const STILL_BEFORE: Duration = Duration::from_millis(1_500);
/// The same for rules that select: what they match is what filters drop here, which begins with the attack, and is a mean of a
/// second as well.
const STILL_COUNTED: Duration = Duration::from_millis(3_000);
/// What has fallen stays so for so long, or it was a pause.
const STAYS: Duration = Duration::from_secs(3);
/// What has taken nothing away by then is told.
const JUDGED_AFTER: Duration = Duration::from_secs(10);
/// What falls later falls for another reason.
const AT_THE_LATEST: Duration = Duration::from_secs(30);
/// Less than this share of what there was: it helps.
const HELPS_BELOW: f64 = 0.7;

/// What came for a measure before it was told, and what our own measurement says of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The most that came before it was told, bits per second.
    pub before_bps: f64,
    /// When its receiver was told; none: not yet.
    pub told: Option<Now>,
    /// What was found; none: nothing yet.
    pub verdict: Option<Verdict>,
    /// Since when less comes; none: it does not.
    #[serde(default)]
    pub fell: Option<Now>,
    /// Another stage has acted since: what falls now may be its doing.
    #[serde(default)]
    pub overtaken: bool,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What comes fell.
    pub effective: bool,
    /// What came then, bits per second.
    pub after_bps: f64,
}

impl Effect {
    /// Of a measure that is asked for now. None when it takes nothing away that we could see.
    pub fn expected(spec: &Spec, rates: &Rates) -> Option<Self> {
        let before_bps = match spec {
            Spec::FlowSpec { action, .. } if action.lets_all_pass() => None,
            _ => matched_bps(spec, rates),
        };
        Some(Self { before_bps: before_bps?, told: None, verdict: None, fell: None, overtaken: false })
    }

    /// Takes in what comes now. True when something new was found.
    pub(super) fn look(&mut self, spec: &Spec, rates: &Rates, now: &Now) -> bool {
        if self.overtaken {
            return false;
        }
        let Some(after_bps) = matched_bps(spec, rates) else { return false };
        let before = if selects(spec) { STILL_COUNTED } else { STILL_BEFORE };
        if self.told.is_none_or(|told| now.since(&told) <= before) {
            self.before_bps = self.before_bps.max(after_bps);
            return false;
        }
        let fell = after_bps < self.below();
        self.fell = if fell { self.fell.or(Some(*now)) } else { None };
        let in_time = |fell: &Now| self.told.is_some_and(|told| fell.since(&told) <= AT_THE_LATEST);
        let effective = match self.helps(spec, rates, now) {
            Some(true) if self.fell.as_ref().is_some_and(in_time) => true,
            Some(false) => false,
            _ => return false,
        };
        // What has helped once has: that the attack grows afterwards is another matter.
        let news = self.verdict.is_none_or(|known| effective && !known.effective);
        if news {
            self.verdict = Some(Verdict { effective, after_bps });
        }
        news
    }

    /// Whether it helps now; of what was overtaken, whether it did. None: that cannot be known, or not yet.
    pub fn helps(&self, spec: &Spec, rates: &Rates, now: &Now) -> Option<bool> {
        if self.overtaken {
            return self.verdict.map(|verdict| verdict.effective);
        }
        let held = now.since(self.told.as_ref()?);
        // What passes by the rule itself is no reason to call it useless.
        let passes = match spec {
            Spec::FlowSpec { action: FlowAction::RateLimit { bps }, .. } => {
                u32::try_from(bps / 1_000).unwrap_or(u32::MAX)
            }
            _ => 0,
        };
        if self.below() <= 1_000.0 * f64::from(passes) {
            return None;
        }
        if matched_bps(spec, rates)? < self.below() {
            return self.fell.filter(|fell| now.since(fell) >= STAYS).map(|_| true);
        }
        (held >= JUDGED_AFTER).then_some(false)
    }

    /// Less than this is a fall.
    const fn below(&self) -> f64 {
        HELPS_BELOW * self.before_bps
    }
}

/// What of it a measure matches, bits per second. A rule that selects is made of what filters drop here, which is counted in
/// packets: they are taken to be of the target's mean size.
fn matched_bps(spec: &Spec, rates: &Rates) -> Option<f64> {
    if spec.kind() == Kind::Filter {
        return None;
    }
    let share = if selects(spec) && rates.pps > 0.0 { (rates.dropped_pps / rates.pps).clamp(0.0, 1.0) } else { 1.0 };
    Some(rates.bps * share)
}

/// True of what takes only a part of what comes for its target.
fn selects(spec: &Spec) -> bool {
    match spec {
        Spec::FlowSpec { rule, .. } => *rule != FlowRule::to(rule.destination),
        Spec::Blackhole { direction, .. } => *direction == Direction::Source,
        Spec::Divert { .. } | Spec::Filter(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{BootId, UnixTime};
    use levee_api::time::Timestamp;

    fn at(millis: u64) -> Now {
        Now { boot: BootId(1), monotonic: Timestamp(millis * 1_000_000), wall: UnixTime(millis * 1_000_000) }
    }

    fn rates(bps: f64, dropped: f64) -> Rates {
        Rates { pps: 1_000.0, bps, dropped_pps: dropped, ..Rates::default() }
    }

    fn hole() -> Spec {
        Spec::Blackhole { prefix: "203.0.113.7".parse().unwrap(), direction: Direction::Destination }
    }

    fn rule(action: FlowAction) -> Spec {
        let rule = FlowRule { protocols: vec![17], ..FlowRule::to("203.0.113.7".parse().unwrap()) };
        Spec::FlowSpec { rule, action }
    }

    /// What is found of a measure that is told at one second, by seconds and rates.
    fn found(spec: &Spec, first: Rates, looks: &[(u64, Rates)]) -> Vec<(u64, bool)> {
        let mut effect = Effect::expected(spec, &first).unwrap();
        effect.told = Some(at(1_000));
        let mut found = Vec::new();
        for (seconds, rates) in looks {
            if effect.look(spec, rates, &at(seconds * 1_000)) {
                found.push((*seconds, effect.verdict.unwrap().effective));
            }
        }
        found
    }

    #[test]
    fn what_falls_is_effective_and_what_stays_is_told_once() {
        let full = rates(1e9, 0.0);
        let none = rates(0.0, 0.0);
        assert_eq!(found(&hole(), full, &[(2, full), (3, none), (5, none), (6, none), (7, none)]), [(6, true)]);
        assert_eq!(found(&hole(), full, &[(2, full), (6, full), (11, full), (20, full)]), [(11, false)]);
        assert_eq!(found(&hole(), full, &[(8, none), (9, full), (11, full)]), [(11, false)], "a pause");
        let slow = [(11, full), (20, none), (23, none)];
        assert_eq!(found(&hole(), full, &slow), [(11, false), (23, true)], "a router that is slow");
        let ended = [(11, full), (90, none), (93, none)];
        assert_eq!(found(&hole(), full, &ended), [(11, false)], "the attack has ended by itself");
        let early = [(2, full), (4, none), (7, none)];
        assert_eq!(found(&hole(), none, &early), [(7, true)], "it was told as the attack began");
        assert_eq!(found(&hole(), none, &[(2, none), (30, full)]), [], "nothing came, so nothing can fall");
    }

    #[test]
    fn a_rule_that_selects_is_judged_by_what_filters_drop_here() {
        let (drops, spared) = (rates(1e9, 500.0), rates(9e8, 0.0));
        assert_eq!(
            found(&rule(FlowAction::Drop), drops, &[(5, spared), (8, spared)]),
            [(8, true)],
            "the rest still comes"
        );
        let early = [(3, rates(1e9, 300.0)), (4, drops), (11, drops)];
        assert_eq!(
            found(&rule(FlowAction::Drop), rates(1e9, 0.0), &early),
            [(11, false)],
            "nothing was dropped yet when it was told"
        );
        assert_eq!(found(&hole(), drops, &[(4, spared), (11, spared)]), [(11, false)]);
    }

    #[test]
    fn a_limit_is_not_judged_by_what_it_lets_pass_and_a_mark_not_at_all() {
        let limit = rule(FlowAction::RateLimit { bps: 400_000_000 });
        let (drops, less) = (rates(1e9, 500.0), rates(1e9, 450.0));
        assert_eq!(found(&limit, drops, &[(11, less)]), [], "500 Mbit/s came, 400 may");
        assert_eq!(found(&rule(FlowAction::Drop), drops, &[(11, less)]), [(11, false)]);
        assert_eq!(Effect::expected(&rule(FlowAction::Mark { dscp: 8 }), &drops), None);
    }
}
