//! Measures: the filters that answer attacks, on whom they are enforced, and when they end.
//!
//! A signature belongs to a zone and a role. It is enforced on the targets under attack, and everywhere else in the zone
//! it lets [`HELD_PPS`] packets per second pass: peace is not touched, and a pulse that comes back, on any host, meets it
//! at once, in the worker, before detection has noticed. A coarse measure (everything of a role) does so only for roles that
//! the whole zone has next to nothing of in peace, and lets somewhat more pass than that; else it stays with its target.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use levee_api::filter::{Action, Filter, Origin, Per, Rule, Target};
use levee_api::prefix::Prefix;
use levee_api::role::{Role, RoleSet};
use levee_api::time::Timestamp;

use crate::detect::event::Removal;
use crate::detect::track::HOLD_MOST;
use crate::filter::{Rank, TableBuilder};

/// What a remembered signature lets pass per second where it is not enforced.
pub const HELD_PPS: u32 = 50;
/// A filter ends this long after evidence was last renewed, whoever is alive.
pub const TTL: Duration = Duration::from_secs(60);
/// It is renewed when less than this is left.
const RENEW: Duration = Duration::from_secs(30);
/// A signature that has matched nothing for this long ends.
const UNUSED: Duration = HOLD_MOST;
/// Signatures remembered per zone; the oldest makes room. A list holds 64 rules: some are left for its hosts' own.
const MOST_PER_ZONE: usize = 48;

/// One signature, or everything of a role, and where it is in force.
#[derive(Debug)]
pub struct Measure {
    /// Index of the zone.
    pub zone: u16,
    /// The role it answers.
    pub role: Role,
    /// The roles that its filters look at.
    pub roles: RoleSet,
    /// The signature.
    pub rule: Rule,
    /// What happens where it is enforced.
    pub action: Action,
    /// Everything of the role, not a signature.
    pub coarse: bool,
    /// The evidence.
    pub witness: String,
    /// When it was found.
    pub since: Timestamp,
    /// What it lets pass per second where it waits.
    pub held_pps: u32,
    /// Of a coarse measure: the zone remembers it, too.
    pub is_remembered: bool,
    /// What its filters had matched when they last matched anything, and when that was.
    matched: (u64, Timestamp),
    placements: Vec<Placement>,
}

/// One filter of a measure.
#[derive(Debug)]
struct Placement {
    filter: Filter,
    enforced: bool,
    /// Index of its hit counters.
    counter: u32,
    /// When it decides among the filters of its target.
    rank: Rank,
}

/// What changed, for events.
#[derive(Clone, Debug, PartialEq)]
pub enum Placed {
    /// A filter took effect, with the index of its counters.
    Installed(Filter, u32),
    /// A filter ended, with the index of its counters.
    Removed(Filter, Removal, u32),
}

/// Ranks of filters of one target: the control plane's decide first, then signatures, then coarse measures. What a target has
/// of its own decides before what its zone remembers.
const EXTERNAL: u8 = 0;
const SIGNATURE: u8 = 1;
const COARSE: u8 = 2;

/// Everything in force: the reflex's own measures and the filters of the control plane.
#[derive(Default)]
pub struct Measures {
    all: Vec<Measure>,
    /// By id, which is the order in which they decide; each with the index of its counters.
    external: BTreeMap<u64, (Filter, u32)>,
    /// When they end.
    deadlines: BTreeSet<(Timestamp, u64)>,
    next_id: u64,
    free_counters: Vec<u32>,
    next_counter: u32,
    most_counters: u32,
    /// Counters kept for filters of the control plane that are about to be installed.
    reserved: usize,
    /// A change of the control plane's filters is under way: workers see it once it is complete.
    pub held: bool,
    changes: Vec<Placed>,
    /// The table that they make for the workers.
    pub table: TableBuilder,
}

/// Why the control plane's filter was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// No room.
    #[error("{0} filters are installed, no more are possible: remove some first")]
    Full(u32),
}

impl Measures {
    /// Room for `most` filters.
    pub fn new(most: u32) -> Self {
        Self { most_counters: most, ..Self::default() }
    }

    /// Takes what was installed and removed since the last call.
    pub fn take_changes(&mut self) -> Vec<Placed> {
        std::mem::take(&mut self.changes)
    }

    /// All filters with the index of their counters, in the order in which they decide: the control plane's first, then
    /// signatures before coarse measures.
    pub fn filters(&self) -> impl Iterator<Item = (&Filter, u32)> {
        let own = |coarse| {
            self.all
                .iter()
                .filter(move |measure| measure.coarse == coarse)
                .flat_map(|measure| measure.placements.iter().map(|placed| (&placed.filter, placed.counter)))
        };
        self.external.values().map(|(filter, counter)| (filter, *counter)).chain(own(false)).chain(own(true))
    }

    /// True when some measure of the role is enforced on a prefix, or on one that covers it.
    pub fn enforced_on(&self, zone: u16, role: Role, prefix: &Prefix) -> bool {
        self.of(zone, role).any(|measure| measure.is_enforced_on(prefix))
    }

    /// True when everything of the role is dropped on a prefix.
    pub fn drops_all_on(&self, zone: u16, role: Role, prefix: &Prefix) -> bool {
        self.of(zone, role).any(|m| m.drops_all() && m.is_enforced_on(prefix))
    }

    /// True when this happens to everything of the role on a prefix.
    pub fn does_to_all_on(&self, action: Action, zone: u16, role: Role, prefix: &Prefix) -> bool {
        self.of(zone, role).any(|m| m.coarse && m.action == action && m.is_enforced_on(prefix))
    }

    /// Since when the role is challenged on a prefix, if it is.
    pub fn challenged_since(&self, zone: u16, role: Role, prefix: &Prefix) -> Option<Timestamp> {
        let is_challenge = |m: &&Measure| matches!(m.action, Action::Challenge { .. }) && m.is_enforced_on(prefix);
        self.of(zone, role).find(is_challenge).map(|measure| measure.since)
    }

    /// What passes per second unasked where a challenge waits on a prefix, if one does.
    pub fn challenge_waits(&self, zone: u16, role: Role, prefix: &Prefix) -> Option<u32> {
        let on_prefix = |placed: &&Placement| !placed.enforced && placed.filter.target.prefix == Some(*prefix);
        self.of(zone, role).find_map(|measure| match measure.placements.iter().find(on_prefix)?.filter.action {
            Action::Challenge { above_pps } => Some(above_pps),
            _ => None,
        })
    }

    /// Signatures do without asking everybody on a target: its challenge waits for what is above a rate, in case the attack changes.
    pub fn rest_challenge(&mut self, zone: u16, role: Role, on: Prefix, above_pps: u32) {
        self.change_challenge(zone, role, on, |_, placed| {
            placed.enforced = false;
            placed.filter.action = Action::Challenge { above_pps };
        });
    }

    /// Everybody is asked on a target again; false when no challenge waits there.
    pub fn resume_challenge(&mut self, zone: u16, role: Role, on: Prefix, now: Timestamp) -> bool {
        self.challenge_waits(zone, role, &on).is_some()
            && self.change_challenge(zone, role, on, |measure, placed| {
                measure.since = now;
                placed.enforced = true;
                placed.filter.action = measure.action;
                placed.filter.deadline = now + TTL;
            })
    }

    fn change_challenge(
        &mut self,
        zone: u16,
        role: Role,
        on: Prefix,
        change: impl Fn(&mut Measure, &mut Placement),
    ) -> bool {
        let mut any = false;
        let theirs = |measure: &&mut Measure| {
            measure.zone == zone && measure.role == role && matches!(measure.action, Action::Challenge { .. })
        };
        for measure in self.all.iter_mut().filter(theirs) {
            let mut placements = std::mem::take(&mut measure.placements);
            for placed in placements.iter_mut().filter(|placed| placed.filter.target.prefix == Some(on)) {
                change(measure, placed);
                self.table.put(&placed.filter, placed.counter, placed.rank);
                any = true;
            }
            measure.placements = placements;
        }
        any
    }

    /// True when everything of the role is limited on a prefix.
    pub fn limits_all_on(&self, zone: u16, role: Role, prefix: &Prefix) -> bool {
        self.of(zone, role).any(|m| matches!(m.action, Action::Limit { .. }) && m.coarse && m.is_enforced_on(prefix))
    }

    /// The signatures that are remembered for a role of a zone, or looked for on a target.
    pub fn signatures(&self, zone: u16, role: Role, on: Prefix) -> impl Iterator<Item = &Measure> {
        self.of(zone, role).filter(move |measure| !measure.coarse && measure.concerns(on))
    }

    fn of(&self, zone: u16, role: Role) -> impl Iterator<Item = &Measure> {
        self.all.iter().filter(move |measure| measure.zone == zone && measure.role == role)
    }

    /// Installs a new measure on a target; the whole zone remembers it if it is a signature. False when there was no room
    /// to enforce it.
    pub fn install(&mut self, mut measure: Measure, zone_name: &str, on: Prefix, now: Timestamp) -> bool {
        if !measure.coarse {
            let remembered = self.all.iter().filter(|known| known.zone == measure.zone && !known.coarse).count();
            if remembered >= MOST_PER_ZONE {
                self.retire_oldest(measure.zone, now);
            }
            self.remember(&mut measure, zone_name, now);
        } else if measure.is_remembered && !self.of(measure.zone, measure.role).any(Measure::waits_in_zone) {
            self.remember(&mut measure, zone_name, now);
        }
        let target = Target { zone: zone_name.to_owned(), prefix: Some(on) };
        let action = measure.action;
        let enforced = self.place(&mut measure, target, action, true, now);
        if !measure.placements.is_empty() {
            self.all.push(measure);
        }
        enforced
    }

    /// Lets a measure that blocks sources count their matches on a target, before there is a reason to enforce it.
    pub fn observe(&mut self, mut measure: Measure, zone_name: &str, on: Prefix, now: Timestamp) {
        let target = Target { zone: zone_name.to_owned(), prefix: Some(on) };
        if self.place(&mut measure, target, Action::BlockSource { after: 0 }, false, now) {
            self.all.push(measure);
        }
    }

    /// Sources are blocked at their first match, wherever the signatures that a target has are enforced from now on.
    pub fn block_at_once(&mut self, zone: u16, role: Role, on: Prefix) {
        let theirs = |measure: &&mut Measure| measure.zone == zone && measure.role == role && measure.concerns(on);
        for measure in self.all.iter_mut().filter(theirs) {
            if let Action::BlockSource { after } = &mut measure.action {
                *after = 1;
            }
        }
    }

    /// Enforces what is remembered of a role on a target that is attacked (again); true when there was anything.
    pub fn enforce_remembered(&mut self, zone: u16, role: Role, zone_name: &str, on: Prefix, now: Timestamp) -> bool {
        let mut any = false;
        let mut all = std::mem::take(&mut self.all);
        let theirs = |measure: &&mut Measure| measure.zone == zone && measure.role == role && measure.concerns(on);
        for measure in all.iter_mut().filter(theirs) {
            if !measure.coarse && measure.placements.iter().all(|placed| placed.filter.target.prefix.is_some()) {
                self.remember(measure, zone_name, now);
            }
            match measure.placements.iter_mut().find(|placed| placed.filter.target.prefix == Some(on)) {
                Some(placed) if !placed.enforced => {
                    placed.enforced = true;
                    placed.filter.action = measure.action;
                    placed.filter.deadline = now + TTL;
                    self.table.put(&placed.filter, placed.counter, placed.rank);
                    any = true;
                }
                Some(_) => any = true,
                None if measure.coarse => {}
                None => {
                    let target = Target { zone: zone_name.to_owned(), prefix: Some(on) };
                    let action = measure.action;
                    any |= self.place(measure, target, action, true, now);
                }
            }
        }
        self.all = all;
        any
    }

    /// The attack on a target has stopped: its filters wait.
    pub fn hold(&mut self, zone: u16, role: Role, on: Prefix) {
        let mut removed = Vec::new();
        let is_told_apart = self.of(zone, role).any(|measure| !measure.coarse && measure.action == Action::Drop);
        for measure in self.all.iter_mut().filter(|measure| measure.zone == zone && measure.role == role) {
            let (coarse, held_pps) = (measure.coarse, measure.held_pps);
            // Where a signature waits, nobody has to be asked.
            let is_over = is_told_apart && matches!(measure.action, Action::Challenge { .. });
            measure.placements.retain_mut(|placed| {
                if placed.filter.target.prefix != Some(on) {
                    return true;
                }
                if coarse && !is_over {
                    placed.enforced = false;
                    placed.filter.action = match placed.filter.action {
                        Action::Challenge { .. } => Action::Challenge { above_pps: held_pps },
                        // Who keeps to it is not touched.
                        of_sources @ (Action::Limit { per: Per::Source, .. } | Action::BlockSource { .. }) => {
                            of_sources
                        }
                        _ => Action::Limit { pps: held_pps, per: Per::Target },
                    };
                    self.table.put(&placed.filter, placed.counter, placed.rank);
                    return true;
                }
                // The zone's own placement remembers the signature.
                self.table.remove(&placed.filter.target, placed.rank);
                let why = if coarse { Removal::Replaced } else { Removal::Retired };
                removed.push(Placed::Removed(placed.filter.clone(), why, placed.counter));
                false
            });
        }
        self.all.retain(|measure| !measure.placements.is_empty());
        self.release(removed);
    }

    /// The hold time of a target has passed. `last`: no other target of the zone needs this role's measures, so that the
    /// oldest is forgotten too.
    pub fn retire(&mut self, zone: u16, role: Role, on: Prefix, last: bool) {
        self.remove(Removal::Retired, |measure, placed| {
            measure.zone == zone
                && measure.role == role
                && (placed.filter.target.prefix == Some(on) || (last && placed.filter.target.prefix.is_none()))
        });
    }

    /// A covering prefix has become the target: the host's own measures end. Signatures stay remembered in the zone.
    pub fn replace(&mut self, zone: u16, role: Role, on: Prefix) {
        self.remove(Removal::Replaced, |measure, placed| {
            measure.zone == zone && measure.role == role && placed.filter.target.prefix == Some(on)
        });
    }

    /// Signatures have been found: what was coarse on the target ends.
    pub fn replace_coarse(&mut self, zone: u16, role: Role, on: Prefix) {
        self.remove(Removal::Replaced, |measure, placed| {
            measure.coarse && measure.zone == zone && measure.role == role && placed.filter.target.prefix == Some(on)
        });
    }

    /// Ends everything against a role of a zone.
    pub fn forget(&mut self, zone: u16, role: Role) {
        self.remove(Removal::Retired, |measure, _| measure.zone == zone && measure.role == role);
    }

    /// The whole zone remembers a signature.
    fn remember(&mut self, measure: &mut Measure, zone_name: &str, now: Timestamp) {
        let held = Action::Limit { pps: measure.held_pps, per: Per::Target };
        self.place(measure, Target { zone: zone_name.to_owned(), prefix: None }, held, false, now);
    }

    fn retire_oldest(&mut self, zone: u16, now: Timestamp) {
        let oldest = self
            .all
            .iter()
            .filter(|measure| measure.zone == zone && !measure.coarse)
            .map(|measure| measure.since)
            .min()
            .unwrap_or(now);
        self.remove(Removal::Retired, |measure, _| measure.zone == zone && !measure.coarse && measure.since == oldest);
    }

    /// Renews what `wanted` says there is still evidence for, and ends what has passed its deadline.
    ///
    /// A signature that the zone remembers is wanted for the zone as a whole (no prefix).
    pub fn renew_and_expire(&mut self, wanted: impl Fn(u16, Role, Option<&Prefix>) -> bool, now: Timestamp) {
        for measure in &mut self.all {
            for placed in &mut measure.placements {
                if placed.filter.deadline.since(now) < RENEW
                    && wanted(measure.zone, measure.role, placed.filter.target.prefix.as_ref())
                {
                    placed.filter.deadline = now + TTL;
                    self.table.put(&placed.filter, placed.counter, placed.rank);
                }
            }
        }
        self.remove(Removal::Expired, |_, placed| placed.filter.deadline <= now);
        let ended: Vec<u64> = self.deadlines.range(..=(now, u64::MAX)).map(|(_, id)| *id).collect();
        self.remove_external(Removal::Expired, ended);
    }

    /// Ends signatures that have matched nothing for as long as any attack is waited for: what they were found for does not come
    /// any more, whatever else does. `hits`: packets that a counter has seen.
    pub fn retire_unused(&mut self, hits: impl Fn(u32) -> u64, now: Timestamp) {
        for measure in self.all.iter_mut().filter(|measure| !measure.coarse) {
            let matched = measure.placements.iter().map(|placed| hits(placed.counter)).sum();
            if measure.matched.0 != matched {
                measure.matched = (matched, now);
            }
        }
        self.remove(Removal::Retired, |measure, _| !measure.coarse && now.since(measure.matched.1) >= UNUSED);
    }

    /// The filters of the control plane.
    pub fn external(&self) -> impl Iterator<Item = &Filter> {
        self.external.values().map(|(filter, _)| filter)
    }

    /// Installs a filter of the control plane; an id that is known is replaced.
    ///
    /// # Errors
    /// When there is no room.
    pub fn install_external(&mut self, mut filter: Filter) -> Result<u64, InstallError> {
        if let Some((known, counter)) = self.external.get_mut(&filter.id) {
            self.deadlines.remove(&(known.deadline, known.id));
            self.table.remove(&known.target, external(known));
            known.clone_from(&filter);
            self.deadlines.insert((known.deadline, known.id));
            self.table.put(known, *counter, external(known));
            return Ok(filter.id);
        }
        let counter = self.counter().ok_or(InstallError::Full(self.most_counters))?;
        self.reserved = self.reserved.saturating_sub(1);
        if filter.id == 0 {
            filter.id = self.id();
        }
        let id = filter.id;
        self.changes.push(Placed::Installed(filter.clone(), counter));
        self.table.put(&filter, counter, external(&filter));
        self.deadlines.insert((filter.deadline, id));
        self.external.insert(id, (filter, counter));
        Ok(id)
    }

    /// Keeps room for filters of the control plane beside the reflex's own. `ending`: so many of them are about to end.
    ///
    /// # Errors
    /// When they do not fit; then nothing is kept.
    pub fn reserve(&mut self, filters: usize, ending: usize) -> Result<(), InstallError> {
        if self.room() + ending < filters {
            return Err(InstallError::Full(self.most_counters));
        }
        self.reserved = filters;
        Ok(())
    }

    fn room(&self) -> usize {
        let never_used = self.most_counters - self.next_counter;
        self.free_counters.len() + usize::try_from(never_used).unwrap_or(usize::MAX)
    }

    /// True when a filter of the control plane is in force for this owner.
    pub fn is_owned(&self, owner: &str, id: u64) -> bool {
        let origin = self.external.get(&id).map(|(filter, _)| &filter.origin);
        matches!(origin, Some(Origin::ControlPlane { owner: known }) if known == owner)
    }

    /// Moves the deadline of filters of the control plane.
    pub fn renew_external(&mut self, ids: &[u64], deadline: Timestamp) {
        for id in ids {
            let Some((filter, counter)) = self.external.get_mut(id) else { continue };
            self.deadlines.remove(&(filter.deadline, *id));
            self.deadlines.insert((deadline, *id));
            filter.deadline = deadline;
            self.table.put(filter, *counter, external(filter));
        }
    }

    /// Ends filters of the control plane; says how many were in force.
    pub fn withdraw(&mut self, ids: impl IntoIterator<Item = u64>) -> usize {
        let before = self.external.len();
        self.remove_external(Removal::Withdrawn, ids);
        before - self.external.len()
    }

    /// Ends everything of the reflex's.
    pub fn withdraw_own(&mut self) {
        self.remove(Removal::Withdrawn, |_, _| true);
    }

    /// Ends everything of zones that `keep` refuses, and gives the others their new index.
    pub fn rezone(&mut self, index_of: impl Fn(&str) -> Option<u16>) {
        self.remove(Removal::PolicyChanged, |_, placed| index_of(&placed.filter.target.zone).is_none());
        let ended = self.external().filter(|filter| index_of(&filter.target.zone).is_none());
        let ended: Vec<u64> = ended.map(|filter| filter.id).collect();
        self.remove_external(Removal::PolicyChanged, ended);
        for measure in &mut self.all {
            if let Some(zone) = measure.placements.first().and_then(|placed| index_of(&placed.filter.target.zone)) {
                measure.zone = zone;
            }
        }
    }

    fn remove_external(&mut self, why: Removal, ids: impl IntoIterator<Item = u64>) {
        let mut removed = Vec::new();
        for id in ids {
            let Some((filter, counter)) = self.external.remove(&id) else { continue };
            self.deadlines.remove(&(filter.deadline, id));
            self.table.remove(&filter.target, external(&filter));
            removed.push(Placed::Removed(filter, why, counter));
        }
        self.release(removed);
    }

    fn remove(&mut self, why: Removal, which: impl Fn(&Measure, &Placement) -> bool) {
        let mut removed = Vec::new();
        for measure in &mut self.all {
            let placements = std::mem::take(&mut measure.placements);
            for placed in placements {
                if which(measure, &placed) {
                    self.table.remove(&placed.filter.target, placed.rank);
                    removed.push(Placed::Removed(placed.filter, why, placed.counter));
                } else {
                    measure.placements.push(placed);
                }
            }
        }
        self.all.retain(|measure| !measure.placements.is_empty());
        self.release(removed);
    }

    fn release(&mut self, removed: Vec<Placed>) {
        for placed in removed {
            if let Placed::Removed(_, _, counter) = placed {
                self.free_counters.push(counter);
            }
            self.changes.push(placed);
        }
    }

    fn place(&mut self, measure: &mut Measure, target: Target, action: Action, enforced: bool, now: Timestamp) -> bool {
        if self.room() <= self.reserved {
            return false;
        }
        let Some(counter) = self.counter() else { return false };
        let filter = Filter {
            id: self.id(),
            target,
            roles: measure.roles,
            rule: measure.rule.clone(),
            action,
            deadline: now + TTL,
            origin: Origin::Reflex,
            witness: measure.witness.clone(),
        };
        self.changes.push(Placed::Installed(filter.clone(), counter));
        let rank = Rank { class: if measure.coarse { COARSE } else { SIGNATURE }, number: filter.id };
        self.table.put(&filter, counter, rank);
        measure.placements.push(Placement { filter, enforced, counter, rank });
        true
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn counter(&mut self) -> Option<u32> {
        self.free_counters.pop().or_else(|| {
            let counter = self.next_counter;
            (counter < self.most_counters).then(|| self.next_counter += 1)?;
            Some(counter)
        })
    }
}

fn external(filter: &Filter) -> Rank {
    Rank { class: EXTERNAL, number: filter.id }
}

impl Measure {
    /// A measure that is nowhere in force yet.
    pub fn new(zone: u16, role: Role, rule: Rule, action: Action, witness: String, now: Timestamp) -> Self {
        Self {
            zone,
            role,
            roles: role.set(),
            rule,
            action,
            coarse: false,
            witness,
            since: now,
            held_pps: HELD_PPS,
            is_remembered: false,
            matched: (0, now),
            placements: Vec::new(),
        }
    }

    /// Everything of a role; where it waits it lets `held_pps` pass.
    #[must_use]
    pub fn coarse(mut self, held_pps: u32) -> Self {
        self.coarse = true;
        self.held_pps = held_pps;
        self
    }

    /// The same with filters that look at another role, too.
    #[must_use]
    pub fn with(self, role: Role) -> Self {
        Self { roles: self.roles.union(role.set()), ..self }
    }

    /// The same, for a role that the whole zone has at most so much of: the zone remembers it.
    #[must_use]
    pub fn remembered(self) -> Self {
        Self { is_remembered: true, ..self }
    }

    /// True when the zone remembers all of the role.
    fn waits_in_zone(&self) -> bool {
        self.coarse && self.placements.iter().any(|placed| placed.filter.target.prefix.is_none())
    }

    /// False for what is only observed, on another target.
    fn concerns(&self, on: Prefix) -> bool {
        self.coarse || self.placements.iter().any(|placed| placed.filter.target.prefix.is_none_or(|its| its == on))
    }

    fn drops_all(&self) -> bool {
        self.coarse && self.action == Action::Drop && self.rule.matches.is_any()
    }

    fn is_enforced_on(&self, prefix: &Prefix) -> bool {
        self.placements
            .iter()
            .any(|placed| placed.enforced && placed.filter.target.prefix.is_some_and(|on| on.covers(prefix)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_api::filter::HeaderBox;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn signature() -> Measure {
        let rule = Rule::of(HeaderBox::any().exact(levee_api::lane::Lane::Ttl, 64));
        Measure::new(0, Role::Syn, rule, Action::Drop, "half-open".to_owned(), NOW)
    }

    fn host(last: u8) -> Prefix {
        Prefix::host(std::net::IpAddr::from([203, 0, 113, last]))
    }

    fn actions(measures: &Measures) -> Vec<(String, Action)> {
        measures.filters().map(|(filter, _)| (filter.target.to_string(), filter.action)).collect()
    }

    #[test]
    fn a_signature_is_enforced_on_its_target_and_remembered_in_the_zone() {
        let mut measures = Measures::new(16);
        measures.install(signature(), "web", host(1), NOW);
        let zone = ("zone web".to_owned(), Action::Limit { pps: HELD_PPS, per: Per::Target });
        assert_eq!(actions(&measures), [zone.clone(), ("203.0.113.1".to_owned(), Action::Drop)]);
        measures.hold(0, Role::Syn, host(1));
        assert_eq!(actions(&measures), [zone]);
        assert!(measures.enforce_remembered(0, Role::Syn, "web", host(2), NOW), "a pulse on another host");
        assert!(measures.enforced_on(0, Role::Syn, &host(2)));
        measures.retire(0, Role::Syn, host(2), true);
        assert_eq!(actions(&measures), []);
    }

    #[test]
    fn a_signature_that_matches_nothing_any_more_ends_although_the_attack_goes_on() {
        let mut measures = Measures::new(16);
        measures.install(signature(), "web", host(1), NOW);
        let (used, unused) = (NOW + UNUSED / 2, NOW + UNUSED);
        measures.retire_unused(|_| 7, used);
        measures.retire_unused(|_| 7, unused);
        assert_eq!(measures.filters().count(), 2);
        measures.retire_unused(|_| 7, used + UNUSED);
        assert_eq!(measures.filters().count(), 0);
    }

    #[test]
    fn a_zone_remembers_a_coarse_measure_once_if_it_is_to() {
        let mut measures = Measures::new(16);
        let all = || {
            let all = Rule::of(HeaderBox::any());
            Measure::new(0, Role::OutOfState, all, Action::Drop, String::new(), NOW).coarse(20).remembered()
        };
        for last in [1, 2] {
            measures.install(all(), "web", host(last), NOW);
        }
        let of_zone = |measures: &Measures| {
            let limit = Action::Limit { pps: 20, per: Per::Target };
            actions(measures).iter().filter(|known| **known == ("zone web".to_owned(), limit)).count()
        };
        assert_eq!((of_zone(&measures), measures.filters().count()), (1, 3));
        measures.retire(0, Role::OutOfState, host(1), false);
        assert_eq!((of_zone(&measures), measures.filters().count()), (1, 2));
        measures.retire(0, Role::OutOfState, host(2), true);
        assert_eq!(measures.filters().count(), 0);
    }

    #[test]
    fn a_challenge_that_signatures_do_without_waits_for_what_they_let_pass() {
        let mut measures = Measures::new(16);
        let challenge = Action::Challenge { above_pps: 0 };
        let asked = Measure::new(0, Role::Syn, Rule::of(HeaderBox::any()), challenge, String::new(), NOW).coarse(500);
        assert!(measures.install(asked, "web", host(1), NOW));
        assert!(!measures.resume_challenge(0, Role::Syn, host(1), NOW), "it does not wait");
        measures.rest_challenge(0, Role::Syn, host(1), 900);
        assert_eq!(measures.challenge_waits(0, Role::Syn, &host(1)), Some(900));
        assert_eq!(measures.challenged_since(0, Role::Syn, &host(1)), None);
        assert_eq!(actions(&measures), [("203.0.113.1".to_owned(), Action::Challenge { above_pps: 900 })]);

        let later = NOW + Duration::from_secs(1);
        assert!(measures.resume_challenge(0, Role::Syn, host(1), later));
        assert!(!measures.resume_challenge(0, Role::Syn, host(2), later));
        assert_eq!(measures.challenged_since(0, Role::Syn, &host(1)), Some(later));
        assert_eq!(actions(&measures), [("203.0.113.1".to_owned(), challenge)]);
    }

    #[test]
    fn nobody_is_challenged_between_pulses_that_a_signature_waits_for() {
        let mut measures = Measures::new(16);
        let ask = Measure::new(
            0,
            Role::Syn,
            Rule::of(HeaderBox::any()),
            Action::Challenge { above_pps: 0 },
            String::new(),
            NOW,
        );
        measures.install(ask.coarse(500), "web", host(1), NOW);
        measures.hold(0, Role::Syn, host(1));
        assert_eq!(actions(&measures), [("203.0.113.1".to_owned(), Action::Challenge { above_pps: 500 })]);
        measures.install(signature(), "web", host(1), NOW);
        measures.hold(0, Role::Syn, host(1));
        assert_eq!(actions(&measures), [("zone web".to_owned(), Action::Limit { pps: HELD_PPS, per: Per::Target })]);
    }

    #[test]
    fn a_coarse_measure_stays_with_its_target() {
        let mut measures = Measures::new(16);
        let all = Measure::new(0, Role::OutOfState, Rule::of(HeaderBox::any()), Action::Drop, String::new(), NOW);
        measures.install(all.coarse(500), "web", host(1), NOW);
        measures.hold(0, Role::OutOfState, host(1));
        assert_eq!(actions(&measures), [("203.0.113.1".to_owned(), Action::Limit { pps: 500, per: Per::Target })]);
        assert!(!measures.enforce_remembered(0, Role::OutOfState, "web", host(2), NOW));
        assert!(measures.enforce_remembered(0, Role::OutOfState, "web", host(1), NOW));
        assert_eq!(actions(&measures), [("203.0.113.1".to_owned(), Action::Drop)]);
    }

    #[test]
    fn filters_end_at_their_deadline_unless_evidence_renews_them() {
        let mut measures = Measures::new(16);
        measures.install(signature(), "web", host(1), NOW);
        let later = NOW + Duration::from_secs(45);
        measures.renew_and_expire(|_, _, _| true, later);
        measures.renew_and_expire(|_, _, _| false, NOW + Duration::from_secs(100));
        assert_eq!(measures.filters().count(), 2);
        measures.renew_and_expire(|_, _, _| false, later + TTL);
        assert_eq!(measures.filters().count(), 0);
        assert_eq!(measures.take_changes().len(), 4);
    }

    #[test]
    fn counters_are_used_again() {
        let mut measures = Measures::new(2);
        for _ in 0..10 {
            measures.install(signature(), "web", host(1), NOW);
            assert_eq!(measures.filters().count(), 2);
            measures.retire(0, Role::Syn, host(1), true);
        }
    }

    #[test]
    fn filters_of_the_control_plane_are_kept_apart() {
        let mut measures = Measures::new(2);
        let filter = Filter {
            id: 0,
            target: Target { zone: "web".to_owned(), prefix: Some(host(1)) },
            roles: levee_api::role::RoleSet::FILTERABLE,
            rule: Rule::of(HeaderBox::any()),
            action: Action::Drop,
            deadline: NOW + TTL,
            origin: Origin::ControlPlane { owner: "incident-7".to_owned() },
            witness: String::new(),
        };
        let id = measures.install_external(filter).unwrap();
        measures.retire(0, Role::Syn, host(1), true);
        assert!(measures.is_owned("incident-7", id) && !measures.is_owned("incident-8", id));
        measures.renew_external(&[id], NOW + TTL + TTL);
        measures.renew_and_expire(|_, _, _| false, NOW + TTL);
        assert_eq!(measures.filters().count(), 1);
        assert_eq!((measures.withdraw([id]), measures.withdraw([id])), (1, 0));
    }

    #[test]
    fn the_reflex_leaves_room_for_what_the_control_plane_is_about_to_install() {
        let mut measures = Measures::new(3);
        assert_eq!(measures.reserve(4, 0), Err(InstallError::Full(3)));
        assert_eq!(measures.reserve(3, 0), Ok(()));
        assert!(!measures.install(signature(), "web", host(1), NOW));
        assert_eq!(measures.reserve(1, 0), Ok(()));
        assert!(measures.install(signature(), "web", host(1), NOW), "two are left");
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Install { coarse: bool },
        Enforce,
        Hold,
        Retire { last: bool },
        Replace,
        Tick { seconds: u64, wanted: bool },
    }

    fn step() -> impl Strategy<Value = (Step, u8, bool)> {
        let step = prop_oneof![
            3 => any::<bool>().prop_map(|coarse| Step::Install { coarse }),
            2 => Just(Step::Enforce),
            2 => Just(Step::Hold),
            2 => any::<bool>().prop_map(|last| Step::Retire { last }),
            1 => Just(Step::Replace),
            2 => (1_u64..40, any::<bool>()).prop_map(|(seconds, wanted)| Step::Tick { seconds, wanted }),
        ];
        (step, 0_u8..4, any::<bool>())
    }

    proptest! {
        /// Whatever happens: what is in force is what was told to be installed and not removed, no counter serves two
        /// filters, no measure is kept without a filter, and without evidence everything ends and every counter is free.
        #[test]
        fn every_filter_ends_and_every_counter_comes_back(
            steps in proptest::collection::vec(step(), 0..120),
            room in 1_u32..24,
        ) {
            let (mut measures, mut now) = (Measures::new(room), NOW);
            let mut told = std::collections::BTreeMap::new();
            for (step, last_octet, syn) in steps {
                let (role, on) = (if syn { Role::Syn } else { Role::OutOfState }, host(last_octet));
                match step {
                    Step::Install { coarse } => {
                        let measure = Measure { role, since: now, ..signature() };
                        measures.install(if coarse { measure.coarse(500) } else { measure }, "web", on, now);
                    }
                    Step::Enforce => {
                        measures.enforce_remembered(0, role, "web", on, now);
                    }
                    Step::Hold => measures.hold(0, role, on),
                    Step::Retire { last } => measures.retire(0, role, on, last),
                    Step::Replace => measures.replace(0, role, on),
                    Step::Tick { seconds, wanted } => {
                        now = now + Duration::from_secs(seconds);
                        measures.renew_and_expire(|_, _, _| wanted, now);
                    }
                }
                for change in measures.take_changes() {
                    match change {
                        Placed::Installed(filter, counter) => prop_assert_eq!(told.insert(filter.id, counter), None),
                        Placed::Removed(filter, _, counter) => prop_assert_eq!(told.remove(&filter.id), Some(counter)),
                    }
                }
                let in_force: std::collections::BTreeMap<_, _> = measures.filters().map(|(f, at)| (f.id, at)).collect();
                prop_assert_eq!(&in_force, &told);
                let counters: HashSet<_> = in_force.values().collect();
                prop_assert_eq!(counters.len(), in_force.len());
                prop_assert!(measures.all.iter().all(|measure| !measure.placements.is_empty()));
                prop_assert!(measures.filters().all(|(filter, _)| filter.deadline <= now + TTL));
            }
            measures.renew_and_expire(|_, _, _| false, now + TTL);
            prop_assert_eq!(measures.filters().count(), 0);
            prop_assert!(measures.all.is_empty());
            let free: HashSet<_> = measures.free_counters.iter().collect();
            prop_assert_eq!((free.len(), measures.free_counters.len()), (measures.next_counter as usize, free.len()));
        }
    }
}
