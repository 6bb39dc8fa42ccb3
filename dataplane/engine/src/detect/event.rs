//! What the detector tells: every change of state, every filter, with the evidence.

use std::fmt;

use levee_api::filter::{Filter, Target};
use levee_api::role::Role;
use levee_api::time::Timestamp;
use levee_api::vector::Vector;

use crate::detect::track::Lesson;
use crate::filter::table::LeftOut;

/// State of a role at a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Below its threshold.
    #[default]
    Normal,
    /// Above it, without a witness: nothing is learned, everything of the role is sampled, nothing is dropped.
    Watch,
    /// An attack.
    Attack,
    /// The attack has stopped; its filters wait for it to come back.
    Hold,
}

/// Why a filter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Removal {
    /// Its deadline passed.
    Expired,
    /// The attack ended and the hold time passed.
    Retired,
    /// A more precise filter, or one on the covering prefix, took its place.
    Replaced,
    /// Its owner took it away.
    Withdrawn,
    /// The policy changed and its zone is gone.
    PolicyChanged,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// The kinds of things that happen.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A role changed its state at a target.
    Phase {
        /// The target.
        target: Target,
        /// The role.
        role: Role,
        /// From this state.
        from: Phase,
        /// To this one.
        to: Phase,
        /// Rate of the role, packets per second.
        rate_pps: f32,
        /// Its threshold, packets per second.
        threshold_pps: f32,
        /// The evidence; none for what needs none (the end of a state).
        witness: Option<String>,
    },
    /// A baseline changed in a way that operators want to know.
    Learned {
        /// The target.
        target: Target,
        /// The role.
        role: Role,
        /// How.
        lesson: Lesson,
        /// The threshold from now on, packets per second.
        threshold_pps: f32,
    },
    /// An attack was classified, or classified anew.
    Classified {
        /// The target.
        target: Target,
        /// The role.
        role: Role,
        /// What it is, most likely first.
        vectors: Vec<Finding>,
    },
    /// Rates of a target under attack, also while it pauses, each second.
    Rates {
        /// The target.
        target: Target,
        /// Packets per second of everything towards it.
        pps: f64,
        /// Bits per second of everything towards it.
        bps: f64,
        /// Packets per second that filters drop.
        dropped_pps: f64,
        /// Packets that the target sends, by what it sent in peace during the hour before; none: not known, or not seen.
        goodput_ratio: Option<f64>,
        /// Different sources that were sampled since the attack began; none: nothing was.
        sources: Option<u64>,
    },
    /// Host targets became part of a prefix target: carpet bombing.
    Merged {
        /// The host.
        host: Target,
        /// The prefix that took it in.
        into: Target,
        /// The role.
        role: Role,
    },
    /// A filter took effect.
    FilterInstalled {
        /// The filter.
        filter: Filter,
        /// Index of its hit counter, until it is removed.
        counter: u32,
        /// True: the zone is in mode monitor, so nothing is dropped, only counted.
        simulated: bool,
    },
    /// A filter ended.
    FilterRemoved {
        /// The filter.
        filter: Filter,
        /// Why.
        why: Removal,
        /// Packets it matched.
        packets: u64,
    },
    /// A filter is not in force everywhere that its target says.
    FilterLeftOut(LeftOut),
    /// The return direction of a zone has become visible, or stopped being.
    Visibility {
        /// Name of the zone.
        zone: String,
        /// True: the return direction passes here.
        sees_inside: bool,
    },
}

/// A vector with what speaks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The vector.
    pub vector: Vector,
    /// 0..=1.
    pub confidence: f64,
    /// In words.
    pub evidence: Vec<String>,
}

impl Phase {
    /// The name used in events and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Watch => "watch",
            Self::Attack => "attack",
            Self::Hold => "hold",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Removal {
    /// The name used in events and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Retired => "retired",
            Self::Replaced => "replaced",
            Self::Withdrawn => "withdrawn",
            Self::PolicyChanged => "policy_changed",
        }
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
