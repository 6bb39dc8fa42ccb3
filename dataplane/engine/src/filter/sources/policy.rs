//! What zones do with address sets.

use std::sync::Arc;

use levee_api::address_set::{AddressSet, SetAction};
use levee_api::zone::Zone;

use super::SourceSets;

/// The address sets in force, and what each zone does with their members. Part of a table generation.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    sets: Arc<SourceSets>,
    uses: Vec<SetUse>,
}

/// Classes, by what a zone does with their members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetUse {
    drop: u16,
    pass: u16,
}

impl Sources {
    /// For zones in the order of the plan; `sets` was built from `described`, in this order.
    pub fn of(sets: Arc<SourceSets>, described: &[AddressSet], zones: &[Zone]) -> Self {
        Self { sets, uses: zones.iter().map(|zone| SetUse::of(described, &zone.name)).collect() }
    }

    /// The sets.
    pub fn sets(&self) -> &SourceSets {
        &self.sets
    }

    /// What a zone does.
    #[inline]
    pub fn used_by(&self, zone: u16) -> SetUse {
        self.uses.get(usize::from(zone)).copied().unwrap_or_default()
    }
}

impl SetUse {
    fn of(sets: &[AddressSet], zone: &str) -> Self {
        let mut used = Self::default();
        for (bit, set) in (0..16).zip(sets) {
            if set.zones.is_empty() || set.zones.iter().any(|name| name == zone) {
                match set.action {
                    SetAction::None => {}
                    SetAction::Drop => used.drop |= 1 << bit,
                    SetAction::Pass => used.pass |= 1 << bit,
                }
            }
        }
        used
    }

    /// True when packets of a class are dropped: a set says so, and none that they should pass.
    #[inline]
    pub fn drops(self, class: u16) -> bool {
        class & self.drop != 0 && !self.passes(class)
    }

    /// True when packets of a class meet no filter.
    #[inline]
    pub fn passes(self, class: u16) -> bool {
        class & self.pass != 0
    }
}
