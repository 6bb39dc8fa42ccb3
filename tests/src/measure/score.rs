//! How a replay did, from the fates of its packets.

use std::{collections::HashSet, time::Duration};

use super::Outcome;
use crate::{
    scenario::{Label, Scenario},
    timeline::Share,
};

/// An attack counts as dropped from the instant on from which every [`SPAN`] steps leak less than [`LEAK_PERCENT`].
const STEP_NS: u64 = 10_000_000;
const SPAN: usize = 10;
const LEAK_PERCENT: u32 = 5;

/// Figures of one replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    /// For each time that an attack began, by component and pulse: how long until it was dropped for good; `None`: it was
    /// not before it ended.
    pub dropped_after: Vec<Option<Duration>>,
    /// Attack packets that passed.
    pub leaked: Share,
    /// Legitimate packets that were lost, those of crowds left out.
    pub lost: Share,
    /// Packets of crowds that were lost.
    pub crowd_lost: Share,
    /// Conversations of clients, also of crowds, of which a packet was answered in the place of the server. A capture's client
    /// says nothing to that, so that what follows is not counted as lost.
    pub challenged: Share,
}

/// One span of an attack, in steps from its beginning.
struct Span {
    component: usize,
    from_ns: u64,
    to_ns: u64,
    sent: Vec<u32>,
    leaked: Vec<u32>,
}

impl Score {
    /// Of a scenario and what came of it.
    pub fn of(scenario: &Scenario, outcome: &Outcome) -> Self {
        let mut spans = spans(scenario);
        let [mut leaked, mut lost, mut crowd_lost] = [Share { part: 0, whole: 0 }; 3];
        let legitimate = outcome.fates.iter().filter(|fate| matches!(fate.label, Label::Benign | Label::Crowd));
        let flows: HashSet<u64> = legitimate.clone().map(|fate| fate.flow).collect();
        let challenged: HashSet<u64> = legitimate.filter(|fate| fate.answered).map(|fate| fate.flow).collect();
        let count = |share: &mut Share, counts: bool| {
            share.whole += 1;
            share.part += u64::from(counts);
        };
        for fate in &outcome.fates {
            match fate.label {
                Label::Benign | Label::Crowd if challenged.contains(&fate.flow) => {}
                Label::Benign => count(&mut lost, !fate.passed),
                Label::Crowd => count(&mut crowd_lost, !fate.passed),
                Label::Prelude => {}
                Label::Attack(component) => {
                    count(&mut leaked, fate.passed);
                    // What belongs to a connection may come a little after the last one began.
                    let within = |span: &&mut Span| span.component == component && span.from_ns <= fate.unix_ns;
                    if let Some(span) = spans.iter_mut().rev().find(within) {
                        span.add(fate.unix_ns, fate.passed);
                    }
                }
            }
        }
        let dropped_after = spans.iter().map(Span::dropped_after).collect();
        let challenged = Share { part: challenged.len() as u64, whole: flows.len() as u64 };
        Self { dropped_after, leaked, lost, crowd_lost, challenged }
    }
}

fn spans(scenario: &Scenario) -> Vec<Span> {
    let start = u64::from(scenario.start_unix_s) * 1_000_000_000;
    let ns = |seconds: f64| start + crate::time_bins::ns(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let mut spans = Vec::new();
    for (component, attack) in scenario.attacks.iter().enumerate() {
        for (from_s, to_s) in attack.spans() {
            let (from_ns, to_ns) = (ns(from_s), ns(to_s.min(scenario.duration_s)));
            let steps = usize::try_from(to_ns.saturating_sub(from_ns).div_ceil(STEP_NS)).unwrap_or(0);
            spans.push(Span { component, from_ns, to_ns, sent: vec![0; steps], leaked: vec![0; steps] });
        }
    }
    spans
}

impl Span {
    fn add(&mut self, unix_ns: u64, leaked: bool) {
        if unix_ns >= self.to_ns {
            return;
        }
        let step = usize::try_from((unix_ns - self.from_ns) / STEP_NS).unwrap_or(usize::MAX);
        for (counts, one) in [(&mut self.sent, true), (&mut self.leaked, leaked)] {
            if let Some(count) = counts.get_mut(step) {
                *count += u32::from(one);
            }
        }
    }

    /// From behind the last span of steps that leaks too much.
    fn dropped_after(&self) -> Option<Duration> {
        let width = SPAN.min(self.sent.len());
        let leaks = |(sent, leaked): (&[u32], &[u32])| {
            let (sent, leaked): (u32, u32) = (sent.iter().sum(), leaked.iter().sum());
            leaked > 0 && leaked * 100 >= sent * LEAK_PERCENT
        };
        let windows = self.sent.windows(width.max(1)).zip(self.leaked.windows(width.max(1)));
        let last = windows.map(leaks).rposition(|leaks| leaks);
        let steps = last.map_or(0, |last| last + 1);
        if steps + width > self.sent.len() {
            return None;
        }
        Some(Duration::from_nanos(STEP_NS * u64::try_from(steps).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::measure::Fate;

    fn scenario() -> Scenario {
        toml::from_str(
            r#"
            duration_s = 4
            start_unix_s = 0
            [[attack]]
            kind = "ack-flood"
            target = "203.0.113.9/32"
            rate_per_s = 1000
            onset_s = 1
            duration_s = 2
            pulse = { on_s = 0.5, off_s = 0.5 }
            "#,
        )
        .unwrap()
    }

    /// A packet of the attack each millisecond of its pulses, of which those pass for which `passes` says so.
    fn score(passes: impl Fn(u64) -> bool) -> Score {
        let ms = (1_000..1_500).chain(2_000..2_500);
        let fate =
            |ms: u64, label, flow, passed| Fate { unix_ns: ms * 1_000_000, label, flow, passed, answered: false };
        let attack = ms.map(|ms| fate(ms, Label::Attack(0), 1, passes(ms)));
        let lost = fate(3_000, Label::Benign, 2, false);
        let asked = Fate { answered: true, ..fate(3_100, Label::Crowd, 3, false) };
        let silent = fate(3_200, Label::Crowd, 3, false);
        let fates = attack.chain([lost, asked, silent]).collect();
        Score::of(&scenario(), &Outcome { fates, report: Value::Null })
    }

    #[test]
    fn an_attack_is_dropped_from_when_no_tenth_of_a_second_leaks_any_more() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let leaks_first = score(|at| (1_000..1_060).contains(&at));
        assert_eq!(leaks_first.dropped_after, [ms(60), ms(0)]);
        let share = |part, whole| Share { part, whole };
        assert_eq!((leaks_first.leaked, leaks_first.lost), (share(60, 1_000), share(1, 1)));
        assert_eq!((leaks_first.crowd_lost, leaks_first.challenged), (share(0, 0), share(1, 2)));
        assert_eq!(score(|at| at.is_multiple_of(50)).dropped_after, [ms(0), ms(0)], "two in a hundred");
        assert_eq!(score(|at| at < 1_100 || at == 2_499).dropped_after, [ms(100), ms(0)]);
        assert_eq!(score(|at| at > 2_480).dropped_after, [ms(0), None], "it leaks at the end");
        assert_eq!(score(|_| true).dropped_after, [None, None]);
    }
}
