//! What an attack keeps for a while only: where packets get past a rule by one of its conditions alone, that condition was no
//! property of the attack, but a counter of its tool, or a choice that it makes anew. It is left out of the next rule.

use levee_api::filter::{Constraint, Rule};
use levee_api::lane::{LANES, Lane};

use super::condition::{Condition, payload};
use crate::sample::Sample;

/// This share of what got past has to agree.
const MOST: (usize, usize) = (4, 5);

/// Lanes, and payload bytes, whose values change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drift {
    lanes: [bool; LANES],
    pattern: bool,
}

impl Drift {
    /// What has changed since these rules were found, by the samples that none of them selects.
    pub(super) fn of(installed: &[Rule], left: &[&Sample]) -> Self {
        let mut drift = Self::default();
        for rule in installed {
            drift.note(rule, left);
        }
        drift
    }

    fn note(&mut self, rule: &Rule, left: &[&Sample]) {
        let constraints: Vec<Constraint> = rule.matches.constraints().collect();
        let mut alone = vec![0_usize; constraints.len() + 1];
        for sample in left {
            let fails = |constraint: &Constraint| match *constraint {
                Constraint::Range { lane, lo, hi } => !(lo..=hi).contains(&sample.lanes.get(lane)),
                Constraint::Mask { lane, masked } => !masked.matches(sample.lanes.get(lane)),
            };
            let in_payload = rule.pattern.is_some_and(|pattern| !pattern.matches(payload(sample)));
            let mut failing = constraints.iter().map(fails).chain([in_payload]).enumerate().filter(|(_, fails)| *fails);
            if let (Some((at, _)), None) = (failing.next(), failing.next())
                && let Some(count) = alone.get_mut(at)
            {
                *count += 1;
            }
        }
        let (most, of) = MOST;
        let changed = alone.iter().position(|count| *count * of >= left.len() * most);
        match changed.map(|at| constraints.get(at)) {
            Some(Some(Constraint::Range { lane, .. } | Constraint::Mask { lane, .. })) => self.add(*lane),
            Some(None) => self.pattern = true,
            None => {}
        }
    }

    fn add(&mut self, lane: Lane) {
        if let Some(drifts) = self.lanes.get_mut(lane.index()) {
            *drifts = true;
        }
    }

    /// True when a condition asks for what changes.
    pub(super) fn concerns(&self, condition: &Condition) -> bool {
        let drifts = |lane: Lane| self.lanes.get(lane.index()).copied().unwrap_or(false);
        let mut constraints = condition.matches.constraints();
        self.pattern && condition.pattern.is_some()
            || constraints.any(|(Constraint::Range { lane, .. } | Constraint::Mask { lane, .. })| drifts(lane))
    }
}

#[cfg(test)]
mod tests {
    use levee_api::filter::HeaderBox;
    use levee_api::role::Role;

    use super::super::tests::population::{Random, packet, set};
    use super::*;

    #[test]
    fn a_counter_of_the_tool_is_no_property_of_the_attack() {
        let mut random = Random(7);
        let samples: Vec<Sample> = (0..200)
            .map(|_| {
                let mut sample = packet(Role::Syn, &mut random);
                set(&mut sample, Lane::Ident, 500);
                set(&mut sample, Lane::Ttl, 99);
                sample
            })
            .collect();
        let left: Vec<&Sample> = samples.iter().collect();
        let condition = |lane, value| Condition::header(HeaderBox::any().exact(lane, value));
        let rule = condition(Lane::Ident, 400).and(&condition(Lane::Ttl, 99)).unwrap().rule(Vec::new());
        let drift = Drift::of(&[rule], &left);
        assert!(drift.concerns(&condition(Lane::Ident, 500)) && !drift.concerns(&condition(Lane::Ttl, 99)));
        let other = condition(Lane::Ident, 400).and(&condition(Lane::Ttl, 98)).unwrap().rule(Vec::new());
        assert_eq!(Drift::of(&[other], &left), Drift::default(), "another attack");
    }
}
