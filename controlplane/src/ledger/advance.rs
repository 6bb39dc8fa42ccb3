//! What is to be done next about each mitigation, and what an answer means.

use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use levee_api::time::Timestamp;

use super::book::{ANSWER_WITHIN, Ledger, Notice, Operation, Order};
use super::entry::{Evidence, Mitigation, MitigationId, Outcome, State};
use crate::clock::Now;
use crate::driver::{DriverError, OperationKey};

/// First pause after a failure; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often each driver is asked what it has of ours.
const OBSERVE_EVERY: Duration = Duration::from_secs(30);

impl Ledger {
    /// Everything that is due now.
    pub fn advance(&mut self, now: &Now, orders: &mut Vec<Order>, notices: &mut Vec<Notice>) {
        while let Some(id) = self.next_to_wake(now) {
            self.next(id, now, orders, notices);
        }
        self.observe_due(now, orders);
    }

    fn next(&mut self, id: MitigationId, now: &Now, orders: &mut Vec<Order>, notices: &mut Vec<Notice>) {
        let (Some(entry), Some(course)) = (self.entries.get_mut(&id), self.live.get_mut(&id)) else { return };
        if entry.is_wanted() && entry.deadline.has_passed(now) {
            self.end(id, Outcome::Expired, now);
            // `end` has put it into the queue again.
            return;
        }
        if let Some(asked) = course.asked {
            if now.since(&asked) < ANSWER_WITHIN {
                let mut until = asked.monotonic + ANSWER_WITHIN;
                if entry.is_wanted() {
                    until = until.min(entry.deadline.monotonic);
                }
                self.wake(id, until);
                return;
            }
            course.asked = None;
            course.doubt = true;
            entry.failures = entry.failures.saturating_add(1);
            entry.error = Some(format!("no answer within {ANSWER_WITHIN:?}"));
        }
        if entry.unproven && entry.is_wanted() {
            let (driver, end) = (entry.driver.clone(), entry.deadline.monotonic);
            if self.drivers.get(&driver).is_some_and(|watch| watch.capabilities.observe) {
                // What the driver finds says whether it is in force still.
                self.wake(id, end);
            } else {
                self.end(id, Outcome::Outdated, now);
            }
            return;
        }
        if !entry.is_wanted() && !entry.touched {
            notices.push(self.conclude(id, now));
            return;
        }
        if let Some(retry_at) = entry.retry_at.filter(|at| at.monotonic > now.monotonic) {
            let mut until = retry_at.monotonic;
            if entry.is_wanted() {
                until = until.min(entry.deadline.monotonic);
            }
            self.wake(id, until);
            return;
        }
        match entry.state {
            State::Planned | State::Applying => {
                entry.state = State::Applying;
                entry.touched = true;
                let renewals = entry.renewals;
                self.begin(id, now);
                let key = OperationKey(format!("apply-{id}-{renewals}"));
                orders.push(Order::Apply(self.order(id, key, now)));
            }
            State::Active => {
                let end = entry.deadline.monotonic;
                self.wake(id, end);
            }
            State::Withdrawing if course.withdrawn => {
                // The next observation says whether it has gone.
                let driver = entry.driver.clone();
                match self.drivers.get(&driver) {
                    Some(watch) if watch.capabilities.observe => self.observe_soon(&driver, now),
                    _ => notices.push(self.conclude(id, now)),
                }
            }
            State::Withdrawing => {
                let key = OperationKey(format!("withdraw-{id}"));
                orders.push(Order::Withdraw(self.order(id, key, now)));
            }
            State::Ended | State::Failed => {}
        }
    }

    fn order(&mut self, id: MitigationId, key: OperationKey, now: &Now) -> Operation {
        self.touch(id, now);
        if let Some(course) = self.live.get_mut(&id) {
            course.loaded = false;
            course.asked = Some(*now);
            course.key = Some(key.clone());
        }
        self.wake(id, now.monotonic + ANSWER_WITHIN);
        let tag = self.tag(id);
        // Both are there: the caller has looked at the entry.
        let entry = &self.entries[&id];
        Operation {
            driver: entry.driver.clone(),
            key,
            id,
            spec: entry.spec.clone(),
            tag,
            remaining: entry.deadline.remaining(now),
        }
    }

    /// What a driver says about an order to apply.
    pub fn applied(
        &mut self,
        id: MitigationId,
        key: &OperationKey,
        result: Result<Evidence, DriverError>,
        now: &Now,
        notices: &mut Vec<Notice>,
    ) {
        if !self.answered(id, key, now) {
            return;
        }
        let (Some(entry), Some(course)) = (self.entries.get_mut(&id), self.live.get_mut(&id)) else { return };
        if !entry.is_wanted() {
            // It was ended meanwhile: whatever the answer, the end comes next.
            course.withdrawn = false;
            return;
        }
        match result {
            Ok(evidence) => {
                // Moved again while the answer was on its way: that is asked next.
                let last = OperationKey(format!("apply-{id}-{}", entry.renewals));
                if last == *key {
                    entry.state = State::Active;
                    entry.since = *now;
                }
                entry.evidence = entry.evidence.max(Some(evidence));
                if let Some(effect) = &mut entry.effect {
                    effect.told.get_or_insert(*now);
                }
                entry.failures = 0;
                entry.retry_at = None;
                entry.error = None;
                let evidence = entry.evidence.unwrap_or(evidence);
                notices.push(Notice::InForce { id, evidence });
            }
            Err(DriverError::Retryable { reason, retry_after }) => {
                course.doubt = true;
                entry.failures = entry.failures.saturating_add(1);
                entry.retry_at = Some(now.after(pause(id, entry.failures, retry_after)));
                entry.error = Some(reason.clone());
                if entry.failures == Mitigation::FAILURES_TOLD {
                    notices.push(Notice::Failed { id, reason, refusal: None });
                }
            }
            Err(error) => {
                let outcome = match &error {
                    DriverError::Refused(_) => Outcome::Refused,
                    DriverError::Incapable { .. } => Outcome::Incapable,
                    DriverError::Permanent { .. } | DriverError::Retryable { .. } => Outcome::Failed,
                };
                let reason = error.to_string();
                entry.error = Some(reason.clone());
                if !course.doubt && entry.evidence.is_none() {
                    // The first attempt, and it was not carried out: there is nothing to take back.
                    entry.touched = false;
                }
                let refusal = if let DriverError::Refused(refusal) = error { Some(refusal) } else { None };
                notices.push(Notice::Failed { id, reason, refusal });
                self.end(id, outcome, now);
            }
        }
    }

    /// What a driver says about an order to withdraw.
    pub fn withdrawn(
        &mut self,
        id: MitigationId,
        key: &OperationKey,
        result: Result<(), DriverError>,
        now: &Now,
        notices: &mut Vec<Notice>,
    ) {
        if !self.answered(id, key, now) {
            return;
        }
        let (Some(entry), Some(course)) = (self.entries.get_mut(&id), self.live.get_mut(&id)) else { return };
        match result {
            Ok(()) => {
                course.withdrawn = true;
                entry.failures = 0;
                entry.retry_at = None;
                entry.error = None;
            }
            Err(error) => {
                let retry_after =
                    if let DriverError::Retryable { retry_after, .. } = &error { *retry_after } else { None };
                entry.failures = entry.failures.saturating_add(1);
                entry.retry_at = Some(now.after(pause(id, entry.failures, retry_after)));
                entry.error = Some(error.to_string());
                if entry.failures == Mitigation::FAILURES_TOLD {
                    notices.push(Notice::Stuck { id });
                }
            }
        }
    }

    /// Takes note that an answer has come. False when it is not the one that is waited for.
    fn answered(&mut self, id: MitigationId, key: &OperationKey, now: &Now) -> bool {
        let rounds = self.rounds;
        let Some(course) = self.live.get_mut(&id) else { return false };
        if course.asked.is_none() || course.key.as_ref() != Some(key) {
            // Late or repeated: it may have been carried out after all.
            course.doubt = true;
            return false;
        }
        course.asked = None;
        course.settled = rounds;
        self.touch(id, now);
        true
    }

    /// Asks the drivers whose turn it is.
    fn observe_due(&mut self, now: &Now, orders: &mut Vec<Order>) {
        let rounds = &mut self.rounds;
        for (name, watch) in &mut self.drivers {
            let late = watch.asked.is_some_and(|(_, at)| now.since(&at) >= ANSWER_WITHIN);
            if late {
                watch.asked = None;
            }
            if watch.capabilities.observe && watch.asked.is_none() && watch.due <= now.monotonic {
                *rounds = rounds.saturating_add(1);
                watch.asked = Some((*rounds, *now));
                watch.due = now.monotonic + OBSERVE_EVERY;
                orders.push(Order::Observe { driver: name.clone(), round: *rounds });
            }
        }
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Timestamp> {
        let queue = self.first_to_wake();
        let watches = self.drivers.values().filter(|watch| watch.asked.is_none() && watch.capabilities.observe);
        queue.into_iter().chain(watches.map(|watch| watch.due)).min()
    }
}

/// Twice as long after each failure, at least what the receiver asks for, and not the same for all.
pub(super) fn pause(id: MitigationId, failures: u32, retry_after: Option<Duration>) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(7)).min(LONGEST_PAUSE);
    // FNV-1a of what is known: the same after a restart, and another for every mitigation and attempt.
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    (id, failures).hash(&mut hasher);
    let jitter = doubled.mul_f64(f64::from(u32::try_from(hasher.finish() % 1_000).unwrap_or(0)) / 2_000.0);
    let asked = retry_after.unwrap_or_default().min(Duration::from_secs(3_600));
    asked.max(doubled / 2 + jitter)
}

struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
