//! The stage machine: what happened goes in, what is to be done comes out. Pure: no clock, no input or output, no chance.
//!
//! * A stage is entered when its condition has been known to hold for `for`, and left when it has been known not to hold
//!   for `calm` and no higher stage is in force any more. Not knowing does neither.
//! * What a stage changes by itself, it changes at most once in [`Stage::pace`]. Attempts that failed changed nothing.
//! * A stage that cannot be entered has failed, the stages behind it see that, and it is tried again at growing intervals
//!   if what failed may pass.
//! * A measure that hides the attack makes its own condition false. Whether it is calm is then said by its receiver, or
//!   tried by stepping down ([`Blindness`]).

use std::time::Duration;

use levee_api::config::{Action, Otherwise};

use super::command::{Command, Input, News, Outcome, Report, Sight};
use super::condition::{Context, Verdict};
use super::progress::{Failure, Progress, StageProgress, StageState};
use super::variable::{Value, Values, Variable};
use super::{Blindness, Runbook, Stage};
use crate::clock::Now;

/// Between two evaluations so far apart anything may have happened: the time is not counted to what a condition said.
const LONGEST_GAP: Duration = Duration::from_secs(10);

/// First time before a failed stage is tried again, doubled each time, and the longest.
const RETRY: Duration = Duration::from_secs(30);
const LONGEST_RETRY: Duration = Duration::from_secs(600);

/// What is seen no better for waiting is tried again after a time that doubles at most so often.
const MAX_DOUBLINGS: u32 = 3;

impl Runbook {
    /// Takes in what happened, and says what is to be done.
    pub fn step(&self, progress: &mut Progress, now: &Now, input: Input<'_>) -> Vec<Command> {
        let mut step = Step { runbook: self, progress, now, commands: Vec::new() };
        match input {
            Input::Measured { values, sights } => step.measured(values, sights),
            Input::Result { stage, change, outcome } => step.result(stage, change, outcome),
            Input::Answer { stage, by, yes } => step.answer(stage, by, yes),
            Input::Bar { stage } => {
                if let Some(state) = step.progress.stages.get_mut(stage) {
                    state.barred = true;
                    step.give_up(stage, News::Leaving, false);
                }
            }
            Input::Revert { stage } => step.give_up(stage, News::Reverted, true),
            Input::End { at_once } => {
                step.progress.ending = true;
                step.end(at_once);
            }
        }
        step.commands
    }
}

struct Step<'a> {
    runbook: &'a Runbook,
    progress: &'a mut Progress,
    now: &'a Now,
    commands: Vec<Command>,
}

impl<'a> Step<'a> {
    fn measured(&mut self, values: &Values, sights: &[Sight]) {
        let passed = self.progress.measured.map_or(Duration::ZERO, |last| self.now.since(&last));
        let passed = if passed <= LONGEST_GAP { passed } else { Duration::ZERO };
        self.progress.measured = Some(*self.now);
        let views = self.progress.views(self.now);
        let context = Context { values, stages: &views };
        let attacked = match values.get(Variable::AttackActive) {
            Some(Value::Bool(flag)) => Verdict::of(Some(*flag)),
            _ => Verdict::Unknown,
        };
        for (at, (stage, state)) in self.runbook.stages.iter().zip(&mut self.progress.stages).enumerate() {
            let sight = sights.get(at).copied().unwrap_or_default();
            let holds = stage.when.as_ref().map_or(Verdict::True, |when| when.evaluate(&context));
            state.effective = sight.effective;
            state.count(attacked.and(holds), sight.report, passed);
        }
        if self.progress.ending {
            self.end(false);
            return;
        }
        // Down before up, the highest first down and the lowest first up.
        for at in (0..self.runbook.stages.len()).rev() {
            let report = sights.get(at).copied().unwrap_or_default().report;
            self.down(at, report);
        }
        for at in 0..self.runbook.stages.len() {
            self.up(at);
        }
        self.renew();
    }

    /// De-escalation of one stage, and what a probe has found.
    fn down(&mut self, at: usize, report: Report) {
        let (now, above) = (*self.now, self.in_force_above(at));
        let Some((stage, state)) = self.stage(at) else { return };
        let calm = state.falsehood() >= stage.calm;
        match &state.state {
            StageState::Idle | StageState::Leaving { .. } => {
                if calm {
                    state.forget();
                }
            }
            StageState::Failed { .. } => {
                if calm {
                    state.forget();
                    state.state = StageState::Idle;
                }
            }
            StageState::Waiting { .. } => {
                if calm {
                    let change = state.change;
                    state.forget();
                    state.state = StageState::Idle;
                    self.commands.push(Command::Unask { stage: at, change });
                }
            }
            StageState::Entering { .. } | StageState::Active { .. } if above => {}
            StageState::Entering { since } | StageState::Active { since } => {
                let (since, confirmed) = (*since, matches!(state.state, StageState::Active { .. }));
                match self.judge(at, report, since) {
                    Judgement::Leave => self.leave(at, News::Leaving, false),
                    Judgement::StepDown if confirmed => self.step_to(at, since, false),
                    Judgement::StepDown | Judgement::Keep => {}
                }
            }
            StageState::Probing { since } => {
                let since = *since;
                if !state.is_settled(stage, &now) {
                    return;
                }
                if state.verdict == Verdict::True || report == Report::Attack || above {
                    // Stepping up that failed is tried again as entering is: the stages behind see it meanwhile.
                    let waited = state.failures == 0
                        || state.changed.is_none_or(|changed| now.since(&changed) >= pause(stage, state.failures));
                    if waited {
                        self.step_to(at, since, true);
                    }
                } else if calm {
                    self.leave(at, News::Leaving, false);
                }
            }
        }
    }

    /// Whether what is in force can go.
    fn judge(&self, at: usize, report: Report, since: Now) -> Judgement {
        let (Some(stage), Some(state)) = (self.runbook.stages.get(at), self.progress.stages.get(at)) else {
            return Judgement::Keep;
        };
        let held = self.now.since(&since);
        if state.falsehood() < stage.calm || held < stage.min_hold || !state.is_settled(stage, self.now) {
            return Judgement::Keep;
        }
        // Each time that it came back, it is kept for longer.
        let doublings = state.entries.saturating_sub(1).min(MAX_DOUBLINGS);
        let held_long = held >= stage.pace().saturating_mul(1 << doublings);
        let reported = state.reported() >= stage.calm;
        match stage.blindness {
            Blindness::Sees => Judgement::Leave,
            Blindness::Limits | Blindness::Holds if reported || held_long => Judgement::Leave,
            Blindness::Limits | Blindness::Holds => Judgement::Keep,
            Blindness::Steps if reported => Judgement::Leave,
            // A receiver that reports is asked, not tried.
            Blindness::Steps if report != Report::None => Judgement::Keep,
            Blindness::Steps => {
                let probe = self.runbook.probe;
                let wait = probe.first.saturating_mul(1 << state.tries.min(16)).min(probe.longest);
                let quiet = state.changed.is_none_or(|changed| self.now.since(&changed) >= wait);
                if quiet { Judgement::StepDown } else { Judgement::Keep }
            }
        }
    }

    /// Escalation of one stage.
    fn up(&mut self, at: usize) {
        let now = *self.now;
        let Some((stage, state)) = self.stage(at) else { return };
        let holds = state.verdict == Verdict::True;
        let long_enough = holds && state.truth() >= stage.hold;
        match &state.state {
            StageState::Idle => {
                if state.barred || !state.is_settled(stage, &now) || !(long_enough || holds && state.approved) {
                    return;
                }
                if stage.approve.is_some() && !state.approved {
                    self.ask(at);
                } else {
                    self.enter(at);
                }
            }
            StageState::Waiting { since, .. } => {
                let Some(ask) = &stage.approve else { return };
                if now.since(since) < ask.within {
                    return;
                }
                match ask.otherwise {
                    Otherwise::Proceed => {
                        state.approved = true;
                        state.state = StageState::Idle;
                        self.tell(at, News::Unanswered);
                        self.up(at);
                    }
                    Otherwise::Skip => self.fail(at, Failure::Denied),
                }
            }
            StageState::Failed { since, failure } => {
                let waited = now.since(since) >= pause(stage, state.failures) && state.is_settled(stage, &now);
                if failure.may_pass() && long_enough && waited && !state.barred {
                    // Nobody was asked: the runbook has wanted that since it was changed only.
                    if stage.approve.is_some() && !state.approved {
                        self.ask(at);
                    } else {
                        self.enter(at);
                    }
                }
            }
            _ => {}
        }
    }

    fn ask(&mut self, at: usize) {
        let change = self.next_change();
        let now = *self.now;
        let Some((stage, state)) = self.stage(at) else { return };
        let Some(ask) = &stage.approve else { return };
        let within = ask.within;
        state.change = change;
        state.state = StageState::Waiting { since: now, yes: Vec::new() };
        self.commands.push(Command::Ask { stage: at, change, within });
        self.tell(at, News::Asked);
    }

    fn enter(&mut self, at: usize) {
        let change = self.next_change();
        let now = *self.now;
        let Some((stage, state)) = self.stage(at) else { return };
        state.change = change;
        state.tries = 0;
        state.falsehood_ns = 0;
        state.reported_ns = 0;
        if matches!(stage.action, Action::WaitForApproval(_)) {
            // The yes was all that it wanted.
            state.come_into_force(now);
            state.changed = Some(now);
            self.tell(at, News::InForce);
            return;
        }
        state.given = Some(now);
        state.renewals = 0;
        state.state = StageState::Entering { since: now };
        let ttl = stage.ttl;
        self.commands.push(Command::Enter { stage: at, change, ttl });
        self.tell(at, News::Entering);
    }

    /// Steps an active stage down, or a probing one up again.
    fn step_to(&mut self, at: usize, since: Now, up: bool) {
        let change = self.next_change();
        let now = *self.now;
        let Some((stage, state)) = self.stage(at) else { return };
        state.change = change;
        state.changed = Some(now);
        state.given = Some(now);
        state.renewals = 0;
        state.count_anew();
        let ttl = stage.ttl;
        if up {
            state.tries = state.tries.saturating_add(1);
            state.state = StageState::Active { since };
            self.commands.push(Command::StepUp { stage: at, change, ttl });
            self.tell(at, News::SteppedUp);
        } else {
            state.state = StageState::Probing { since };
            self.commands.push(Command::StepDown { stage: at, change, ttl });
            self.tell(at, News::SteppedDown);
        }
    }

    fn leave(&mut self, at: usize, news: News, harmful: bool) {
        let change = self.next_change();
        let now = *self.now;
        let Some((stage, state)) = self.stage(at) else { return };
        state.change = change;
        state.changed = Some(now);
        self.tell(at, news);
        if stage.has_mitigation() {
            if let Some(state) = self.progress.stages.get_mut(at) {
                state.state = StageState::Leaving { since: now, harmful };
            }
            self.commands.push(Command::Leave { stage: at, change });
        } else {
            // What was told or written down cannot be taken back.
            if let Some(state) = self.progress.stages.get_mut(at) {
                state.come_to_rest(now, harmful);
            }
            self.tell(at, News::Left);
        }
    }

    /// Ends a stage now, whatever its condition and its pace say.
    fn give_up(&mut self, at: usize, news: News, harmful: bool) {
        let now = *self.now;
        let Some((_, state)) = self.stage(at) else { return };
        match &mut state.state {
            StageState::Entering { .. } | StageState::Active { .. } | StageState::Probing { .. } => {
                self.leave(at, news, harmful);
            }
            StageState::Leaving { harmful: known, .. } => *known |= harmful,
            StageState::Waiting { .. } => {
                let change = state.change;
                state.state = StageState::Idle;
                state.changed = Some(now);
                self.commands.push(Command::Unask { stage: at, change });
            }
            StageState::Idle | StageState::Failed { .. } => {}
        }
    }

    fn end(&mut self, at_once: bool) {
        for at in (0..self.runbook.stages.len()).rev() {
            if at_once || !self.in_force_above(at) {
                self.give_up(at, News::Leaving, false);
            }
        }
    }

    fn result(&mut self, at: usize, change: u32, outcome: Outcome) {
        let now = *self.now;
        let Some((_, state)) = self.stage(at) else { return };
        if state.change != change {
            return;
        }
        match (outcome, &state.state) {
            (Outcome::InForce, StageState::Entering { since }) => {
                state.changed = Some(*since);
                state.come_into_force(now);
                self.tell(at, News::InForce);
            }
            (Outcome::Failed(failure), StageState::Entering { .. }) => {
                state.failures = state.failures.saturating_add(1);
                self.fail(at, failure);
            }
            // Stepping down failed: what is in force is what was, and nothing has been tried.
            (Outcome::Failed(failure), StageState::Probing { since }) => {
                state.state = StageState::Active { since: *since };
                self.renew_now(at);
                self.tell(at, News::Kept(failure));
            }
            // Stepping up failed: less is in force than the stage is for, and the stages behind it have to know.
            (Outcome::Failed(failure), StageState::Active { since }) => {
                state.failures = state.failures.saturating_add(1);
                state.state = StageState::Probing { since: *since };
                self.renew_now(at);
                self.tell(at, News::Failed(failure));
            }
            (Outcome::InForce, StageState::Active { .. }) => state.failures = 0,
            (
                Outcome::Gone(failure),
                StageState::Entering { .. } | StageState::Active { .. } | StageState::Probing { .. },
            ) => {
                state.changed = Some(now);
                let (failures, approved, approvers) =
                    (state.failures.saturating_add(1), state.approved, std::mem::take(&mut state.approvers));
                state.come_to_rest(now, false);
                (state.failures, state.approved, state.approvers) = (failures, approved, approvers);
                self.fail(at, failure);
            }
            (Outcome::Failed(_) | Outcome::Gone(_) | Outcome::Ended, StageState::Leaving { harmful, .. }) => {
                let harmful = *harmful;
                state.come_to_rest(now, harmful);
                self.tell(at, if harmful { News::Failed(Failure::Harmful) } else { News::Left });
            }
            (Outcome::Ended, StageState::Entering { .. } | StageState::Active { .. } | StageState::Probing { .. }) => {
                state.changed = Some(now);
                state.come_to_rest(now, false);
                self.tell(at, News::Lost);
            }
            _ => {}
        }
        if self.progress.ending {
            self.end(false);
        }
    }

    fn answer(&mut self, at: usize, by: &str, yes: bool) {
        let Some((stage, state)) = self.stage(at) else { return };
        let Some(ask) = &stage.approve else { return };
        let StageState::Waiting { yes: said, .. } = &mut state.state else { return };
        if !yes {
            self.fail(at, Failure::Denied);
            return;
        }
        if !said.iter().any(|known| known == by) {
            said.push(by.to_owned());
        }
        if said.len() < usize::from(ask.people) {
            return;
        }
        state.approvers = std::mem::take(said);
        state.approved = true;
        state.state = StageState::Idle;
        self.tell(at, News::Approved);
        if !self.progress.ending {
            self.up(at);
        }
    }

    fn fail(&mut self, at: usize, failure: Failure) {
        let now = *self.now;
        let Some((_, state)) = self.stage(at) else { return };
        state.state = StageState::Failed { since: now, failure };
        self.tell(at, News::Failed(failure));
    }

    /// Mitigations that are kept are given more time when a third of what they have is left.
    fn renew(&mut self) {
        for (at, (stage, state)) in self.runbook.stages.iter().zip(&mut self.progress.stages).enumerate() {
            let kept = matches!(
                state.state,
                StageState::Entering { .. } | StageState::Active { .. } | StageState::Probing { .. }
            );
            let due = state.given.is_some_and(|given| self.now.since(&given) >= stage.ttl - stage.ttl / 3);
            // Whatever nobody can judge ends some day.
            let is_judged = Duration::from_nanos(state.unknown_ns) < stage.unjudged;
            if kept && due && is_judged && stage.has_mitigation() {
                self.commands.push(renewal(at, stage, state, *self.now));
            }
        }
    }

    /// What took the place of what is in force would have been given its time now. It was not to be, so that goes on.
    fn renew_now(&mut self, at: usize) {
        let now = *self.now;
        let Some((stage, state)) = self.stage(at) else { return };
        let renewal = renewal(at, stage, state, now);
        self.commands.push(renewal);
    }

    fn stage(&mut self, at: usize) -> Option<(&'a Stage, &mut StageProgress)> {
        let runbook: &'a Runbook = self.runbook;
        Some((runbook.stages.get(at)?, self.progress.stages.get_mut(at)?))
    }

    fn in_force_above(&self, at: usize) -> bool {
        self.progress.stages.iter().skip(at + 1).any(|stage| stage.state.may_be_in_force())
    }

    fn next_change(&mut self) -> u32 {
        self.progress.changes = self.progress.changes.saturating_add(1);
        self.progress.changes
    }

    fn tell(&mut self, stage: usize, news: News) {
        self.commands.push(Command::Tell { stage, news });
    }
}

/// More time for the mitigations of a stage.
fn renewal(at: usize, stage: &Stage, state: &mut StageProgress, now: Now) -> Command {
    state.given = Some(now);
    state.renewals = state.renewals.saturating_add(1);
    Command::Renew { stage: at, change: state.change, renewal: state.renewals, ttl: stage.ttl }
}

/// Before what has failed so often in a row is tried again.
fn pause(stage: &Stage, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    RETRY.max(stage.hold).saturating_mul(1 << doublings).min(LONGEST_RETRY)
}

enum Judgement {
    Keep,
    StepDown,
    Leave,
}

impl StageProgress {
    /// True when the last change is long enough ago for another one.
    fn is_settled(&self, stage: &Stage, now: &Now) -> bool {
        self.changed.is_none_or(|changed| now.since(&changed) >= stage.pace())
    }

    fn come_into_force(&mut self, now: Now) {
        self.state = StageState::Active { since: now };
        self.failures = 0;
        self.entries = self.entries.saturating_add(1);
    }

    fn come_to_rest(&mut self, now: Now, harmful: bool) {
        self.count_anew();
        self.approved = false;
        self.approvers.clear();
        self.effective = None;
        self.given = None;
        self.state =
            if harmful { StageState::Failed { since: now, failure: Failure::Harmful } } else { StageState::Idle };
    }

    /// It has been calm: what was failed, denied or barred may be tried anew.
    fn forget(&mut self) {
        self.failures = 0;
        self.approved = false;
        self.approvers.clear();
        self.barred = false;
    }
}
