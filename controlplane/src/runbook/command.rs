//! What goes into the engine and what comes out of it.

use std::time::Duration;

use super::progress::Failure;
use super::variable::Values;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Time has passed, and this is what is known now. Given about once a second, and after each event.
    Measured {
        /// Everything but stages.
        values: &'a Values,
        /// By stage; what is not given is not known.
        sights: &'a [Sight],
    },
    /// What came of a command.
    Result {
        /// Position of the stage.
        stage: usize,
        /// The number of the command; answers to earlier ones are of no interest any more.
        change: u32,
        /// What came of it.
        outcome: Outcome,
    },
    /// Somebody whose role may do so has answered.
    Answer {
        /// Position of the stage.
        stage: usize,
        /// Who, so that two answers of one person count once.
        by: &'a str,
        /// Yes or no.
        yes: bool,
    },
    /// An operator ends a stage: at once, and it is not entered again before its condition has been false for a while.
    Bar {
        /// Position of the stage.
        stage: usize,
    },
    /// What a stage does harms clean traffic and not the attack: it is ended at once.
    Revert {
        /// Position of the stage.
        stage: usize,
    },
    /// The incident is over, or everything shall stop: stages are left, the highest first, and none is entered.
    End {
        /// All at the same time, whatever the order.
        at_once: bool,
    },
}

/// What is known about the effect of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// What it does was seen to help; none: not measured.
    pub effective: Option<bool>,
    /// What its receiver says.
    pub report: Report,
}

/// What the receiver of a measure says about the attack: the only eyes there are while the measure hides it from us.
/// Of a rate limit our own measurement is a report too: what passes shows whether the limit is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Report {
    /// Nothing.
    #[default]
    None,
    /// It goes on.
    Attack,
    /// It has ended.
    Calm,
}

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force, as commanded.
    InForce,
    /// It is not, and that was verified. Of a step up or down: what was in force before it still is.
    Failed(Failure),
    /// What was in force was replaced by something that could not be brought into force: nothing is.
    Gone(Failure),
    /// It was in force, and is not any more: left, expired, or ended by somebody else.
    Ended,
}

/// What is to be done. Stages are given by their position, changes by a number that is never used twice in an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Bring the stage's action into force for this long.
    Enter {
        /// Position of the stage.
        stage: usize,
        /// Number of the change.
        change: u32,
        /// From now.
        ttl: Duration,
    },
    /// Move the end of what is in force: from now, this long.
    Renew {
        /// Position of the stage.
        stage: usize,
        /// Number of the change that is renewed.
        change: u32,
        /// How often it was renewed, this time included.
        renewal: u32,
        /// From now.
        ttl: Duration,
    },
    /// Replace what is in force by a rate limit, to see whether the attack goes on.
    StepDown {
        /// Position of the stage.
        stage: usize,
        /// Number of the change.
        change: u32,
        /// From now.
        ttl: Duration,
    },
    /// The attack goes on: replace the rate limit by the action.
    StepUp {
        /// Position of the stage.
        stage: usize,
        /// Number of the change.
        change: u32,
        /// From now.
        ttl: Duration,
    },
    /// End what is in force, and keep at it until it has ended.
    Leave {
        /// Position of the stage.
        stage: usize,
        /// Number of the change.
        change: u32,
    },
    /// Ask people.
    Ask {
        /// Position of the stage.
        stage: usize,
        /// Number of the change that is asked for.
        change: u32,
        /// How long is waited.
        within: Duration,
    },
    /// The question has lost its object.
    Unask {
        /// Position of the stage.
        stage: usize,
        /// Number of the change that was asked for.
        change: u32,
    },
    /// For the timeline and for those whom the stage notifies.
    Tell {
        /// Position of the stage.
        stage: usize,
        /// What happened.
        news: News,
    },
}

/// What happened to a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    /// Its condition has held long enough: it begins.
    Entering,
    /// It is in force.
    InForce,
    /// People are asked.
    Asked,
    /// They have said yes.
    Approved,
    /// Nobody has answered, and that means yes.
    Unanswered,
    /// It could not be entered.
    Failed(Failure),
    /// It was stepped down to see whether the attack goes on.
    SteppedDown,
    /// It could not be stepped down.
    Kept(Failure),
    /// The attack goes on.
    SteppedUp,
    /// Its condition has been false long enough: it ends.
    Leaving,
    /// It did harm: it ends.
    Reverted,
    /// It has ended.
    Left,
    /// It has ended without our doing.
    Lost,
}

impl Command {
    /// Position of the stage.
    pub const fn stage(&self) -> usize {
        match self {
            Self::Enter { stage, .. }
            | Self::Renew { stage, .. }
            | Self::StepDown { stage, .. }
            | Self::StepUp { stage, .. }
            | Self::Leave { stage, .. }
            | Self::Ask { stage, .. }
            | Self::Unask { stage, .. }
            | Self::Tell { stage, .. } => *stage,
        }
    }

    /// True when it changes what is in force; renewals do not.
    pub const fn is_change(&self) -> bool {
        matches!(self, Self::Enter { .. } | Self::StepDown { .. } | Self::StepUp { .. } | Self::Leave { .. })
    }
}

impl News {
    /// For timelines and messages: the stage is ...
    pub const fn words(self) -> &'static str {
        match self {
            Self::Entering => "is entered",
            Self::InForce => "is in force",
            Self::Asked => "waits for approval",
            Self::Approved => "was approved",
            Self::Unanswered => "proceeds without an answer",
            Self::Failed(Failure::Refused) => "failed: refused by a guardrail",
            Self::Failed(Failure::Incapable) => "failed: nothing here can do it",
            Self::Failed(Failure::Denied) => "failed: not approved",
            Self::Failed(Failure::Error) => "failed: error",
            Self::Failed(Failure::Harmful) => "failed: it did harm",
            Self::SteppedDown => "is stepped down, to see whether the attack goes on",
            Self::Kept(_) => "cannot be stepped down, and stays as it is",
            Self::SteppedUp => "is stepped up again: the attack goes on",
            Self::Leaving => "is left",
            Self::Reverted => "is reverted: it harms clean traffic and not the attack",
            Self::Left => "has ended",
            Self::Lost => "has ended without being told to",
        }
    }
}
