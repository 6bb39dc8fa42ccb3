//! Desired against observed: what is missing is brought back, what should have gone is ended, what is ours and unknown is
//! adopted and ended.

use std::collections::BTreeMap;
use std::time::Duration;

use super::book::{Ledger, Notice};
use super::entry::{Evidence, Mitigation, MitigationId, Outcome, State};
use crate::clock::Now;
use crate::driver::{DriverError, DriverName, Observed};

/// A receiver may show a change later than it says that it has made it.
const SHOWN_WITHIN: Duration = Duration::from_secs(2);
/// Ends that differ by less are the same.
const SAME_END: Duration = Duration::from_secs(5);
/// After an observation that failed, or one that still shows what should have gone.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

impl Ledger {
    /// What a driver has of ours. `round` is that of the order: what was answered since it began is newer than this.
    pub fn observed(
        &mut self,
        driver: &DriverName,
        round: u64,
        result: Result<Vec<Observed>, DriverError>,
        now: &Now,
        notices: &mut Vec<Notice>,
    ) {
        let Some(watch) = self.drivers.get_mut(driver) else { return };
        if watch.asked.is_none_or(|(asked, _)| asked != round) {
            return;
        }
        watch.asked = None;
        let Ok(list) = result else {
            watch.failures = watch.failures.saturating_add(1);
            let pause = super::advance::pause(MitigationId(round), watch.failures, None).max(AGAIN_AFTER);
            watch.due = watch.due.min(now.monotonic + pause);
            return;
        };
        watch.failures = 0;
        let found: BTreeMap<MitigationId, Observed> =
            list.into_iter().map(|observed| (observed.id, observed)).collect();
        let of_driver: Vec<MitigationId> =
            self.live().filter(|entry| entry.driver == *driver).map(|entry| entry.id).collect();
        for id in of_driver {
            let newer = self.live.get(&id).is_none_or(|course| course.asked.is_some() || course.settled >= round);
            if !newer {
                self.compare(id, found.get(&id), now, notices);
            }
        }
        for (id, observed) in &found {
            let known = self.live.contains_key(id);
            // It ended while the driver was looking.
            let ended_meanwhile = self.ended_in.get(id).is_some_and(|ended| *ended >= round);
            if !known && !ended_meanwhile {
                notices.push(self.adopt(*id, driver, &observed.spec, now));
            }
        }
        let past = |ended: &u64| *ended < round;
        self.ended_in
            .retain(|id, ended| !past(ended) || self.entries.get(id).is_some_and(|entry| entry.driver != *driver));
        let waiting = self
            .live()
            .any(|entry| entry.driver == *driver && self.live.get(&entry.id).is_some_and(|course| course.withdrawn));
        if waiting && let Some(watch) = self.drivers.get_mut(driver) {
            watch.due = watch.due.min(now.monotonic + AGAIN_AFTER);
        }
    }

    fn compare(&mut self, id: MitigationId, found: Option<&Observed>, now: &Now, notices: &mut Vec<Notice>) {
        let (Some(entry), Some(course)) = (self.entries.get_mut(&id), self.live.get_mut(&id)) else { return };
        course.taken_bps = found.and_then(|observed| observed.taken_bps);
        if entry.unproven {
            if let Some(observed) = found {
                // It goes on. An order to make it what the line says would bring it back if it went meanwhile.
                entry.unproven = false;
                entry.touched = true;
                entry.state = if differs(entry, observed, now) { State::Applying } else { State::Active };
                entry.evidence = entry.evidence.max(Some(observed.evidence));
                self.touch(id, now);
            } else {
                entry.error = Some("its line came back from a backup, and it is not in force any more".to_owned());
                self.end(id, Outcome::Outdated, now);
            }
            return;
        }
        match (entry.state, found) {
            (State::Withdrawing, Some(_)) if course.withdrawn => {
                // It says that it has ended it, and has not.
                course.withdrawn = false;
                entry.failures = entry.failures.saturating_add(1);
                entry.retry_at = Some(now.after(super::advance::pause(id, entry.failures, None)));
                entry.error = Some("the driver says that it has ended, and still shows it".to_owned());
                if entry.failures == Mitigation::FAILURES_TOLD {
                    notices.push(Notice::Stuck { id });
                }
                self.touch(id, now);
            }
            (State::Withdrawing, None) if course.withdrawn => notices.push(self.conclude(id, now)),
            (State::Active, None) if course.loaded || now.since(&entry.since) >= SHOWN_WITHIN => {
                entry.state = State::Applying;
                notices.push(Notice::Missing { id });
                self.touch(id, now);
            }
            (State::Active, Some(observed)) => {
                if differs(entry, observed, now) {
                    entry.state = State::Applying;
                    self.touch(id, now);
                } else if entry.evidence < Some(observed.evidence) {
                    entry.evidence = Some(observed.evidence);
                    notices.push(Notice::InForce { id, evidence: observed.evidence });
                    self.touch(id, now);
                } else if entry.evidence == Some(Evidence::Seen) && observed.evidence < Evidence::Seen {
                    // Whoever had it has it no more, or does not say so any more.
                    entry.evidence = Some(observed.evidence);
                    self.touch(id, now);
                }
            }
            _ => {}
        }
    }
}

/// True when what is in force is not what is wanted.
fn differs(entry: &Mitigation, observed: &Observed, now: &Now) -> bool {
    let remaining = entry.remaining(now);
    let end_differs = observed.remaining.is_some_and(|theirs| theirs.abs_diff(remaining) > SAME_END);
    (observed.spec != entry.spec || end_differs) && now.since(&entry.since) >= SHOWN_WITHIN
}

/// What a one-shot sweep has to withdraw: what may be in force and should not be, from the ledger alone.
pub fn past_end<'m>(
    entries: impl IntoIterator<Item = &'m Mitigation>,
    now: &Now,
) -> impl Iterator<Item = &'m Mitigation> {
    entries
        .into_iter()
        .filter(move |entry| entry.may_be_in_force() && (!entry.is_wanted() || entry.deadline.has_passed(now)))
}
