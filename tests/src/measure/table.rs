//! Many replays beside each other, and what they come to.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{MeasureError, Plan, Replay, Score};
use crate::{scenario::Scenario, timeline::Share};

/// Figures of some replays of one kind.
#[derive(Clone, Debug)]
pub struct Figures {
    /// What was replayed.
    pub name: String,
    /// How long attacks were until they were dropped, in order; those that never were come last.
    pub dropped_after: Vec<Option<Duration>>,
    /// Attack packets that passed.
    pub leaked: Share,
    /// Legitimate packets that were lost.
    pub lost: Share,
    /// Packets of crowds that were lost.
    pub crowd_lost: Share,
    /// Conversations of clients that were challenged.
    pub challenged: Share,
}

/// One replay.
pub(super) struct Case<'a> {
    pub(super) name: String,
    pub(super) replay: Replay<'a>,
    pub(super) scenario: Scenario,
    /// First onsets, which are not counted.
    pub(super) known_onsets: usize,
}

/// Replays each cell so many times, all with seeds of their own, and puts together what belongs to one.
pub(super) fn measure<'a, T: Sync>(
    plan: &Plan,
    cells: Vec<T>,
    make: impl Fn(&T, u64) -> Case<'a> + Sync,
) -> Result<Vec<Figures>, MeasureError> {
    let times = usize::try_from(plan.times).unwrap_or(usize::MAX).max(1);
    let next = AtomicUsize::new(0);
    let scores = Mutex::new(Vec::new());
    let work = || -> Result<(), MeasureError> {
        loop {
            let job = next.fetch_add(1, Ordering::Relaxed);
            let Some(cell) = cells.get(job / times) else { return Ok(()) };
            let seed = plan.seed.wrapping_mul(1 << 32).wrapping_add(job as u64);
            let Case { name, replay, scenario, known_onsets } = make(cell, seed);
            let outcome = match &plan.keep {
                Some(folder) => replay.run_in(&scenario, &folder.join(format!("{job}-{}", file_name(&name))))?,
                None => replay.run(&scenario)?,
            };
            let mut score = Score::of(&scenario, &outcome);
            score.dropped_after.drain(..known_onsets.min(score.dropped_after.len()));
            scores.lock().unwrap_or_else(PoisonError::into_inner).push((job, name, score));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    let mut scores = scores.into_inner().unwrap_or_else(PoisonError::into_inner);
    scores.sort_by_key(|(job, ..)| *job);
    Ok(scores.chunk_by(|one, other| one.0 / times == other.0 / times).filter_map(Figures::of).collect())
}

/// What a row is called, as a file may be.
fn file_name(row: &str) -> String {
    row.split(|letter: char| !letter.is_alphanumeric() && letter != '.')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

impl Figures {
    fn of(scores: &[(usize, String, Score)]) -> Option<Self> {
        let sum = |share: fn(&Score) -> Share| {
            let add = |a: Share, b: Share| Share { part: a.part + b.part, whole: a.whole + b.whole };
            scores.iter().map(|(.., score)| share(score)).fold(Share { part: 0, whole: 0 }, add)
        };
        let mut dropped_after: Vec<_> = scores.iter().flat_map(|(.., score)| score.dropped_after.clone()).collect();
        dropped_after.sort_by_key(|after| after.unwrap_or(Duration::MAX));
        Some(Self {
            name: scores.first()?.1.clone(),
            dropped_after,
            leaked: sum(|score| score.leaked),
            lost: sum(|score| score.lost),
            crowd_lost: sum(|score| score.crowd_lost),
            challenged: sum(|score| score.challenged),
        })
    }

    /// Of the times until an attack was dropped the one that so many percent do not exceed; `None` if some of these never
    /// were, or there was no attack.
    pub fn quantile(&self, percent: usize) -> Option<Duration> {
        let last = self.dropped_after.len().checked_sub(1)?;
        self.dropped_after.get((last * percent).div_ceil(100)).copied().flatten()
    }

    /// The head of the table that [`Self`] is a row of.
    pub const HEAD: &str = "| | onsets | p50 ms | p99 ms | never | attack leaked % | legitimate lost % | crowd lost % | clients challenged % |\n\
        |---|---|---|---|---|---|---|---|---|";
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| match (self.dropped_after.is_empty(), self.quantile(percent)) {
            (true, _) => "-".to_owned(),
            (_, None) => "never".to_owned(),
            (_, Some(after)) => after.as_millis().to_string(),
        };
        let percent = |share: Share| share.percent().map_or("-".to_owned(), |percent| format!("{percent:.3}"));
        let never = self.dropped_after.iter().filter(|after| after.is_none()).count();
        let Self { name, leaked, lost, crowd_lost, challenged, dropped_after } = self;
        let (p50, p99, onsets) = (ms(50), ms(99), dropped_after.len());
        let [leaked, lost, crowd, challenged] = [*leaked, *lost, *crowd_lost, *challenged].map(percent);
        write!(f, "| {name} | {onsets} | {p50} | {p99} | {never} | {leaked} | {lost} | {crowd} | {challenged} |")
    }
}
