//! The ledger: every mitigation from the intent to its verified end, and what is to be done about it next.
//!
//! Nothing is attempted that was not written down before: a step returns what to store and what to order, and the caller
//! stores first. An order may be repeated after a restart, with the same key. An end is an end when the driver has said so
//! and, where it can look, no longer finds it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use levee_api::time::Timestamp;

use super::effect::Effect;
use super::entry::{Evidence, IncidentId, Mitigation, MitigationId, Outcome, State};
use super::spec::{Kind, Spec};
use crate::actor::Actor;
use crate::clock::{Deadline, Now};
use crate::driver::{Capabilities, DriverName, OperationKey, OwnerTag};
use crate::guardrail::Refusal;
use crate::incident::Rates;
use crate::store::Write;

/// An answer that has not come for so long is not awaited any more.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// What changes are counted within.
const MINUTE: Duration = Duration::from_secs(60);

/// What is to be carried out. To be handed to a driver only after the writes of the same step are durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Bring it into force, or move its end.
    Apply(Operation),
    /// End it.
    Withdraw(Operation),
    /// Tell what of ours is in force.
    Observe {
        /// Who.
        driver: DriverName,
        /// To be given back with the answer.
        round: u64,
    },
}

/// One operation on one mitigation.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Who carries it out.
    pub driver: DriverName,
    /// The same for every attempt.
    pub key: OperationKey,
    /// Which mitigation.
    pub id: MitigationId,
    /// What it is.
    pub spec: Spec,
    /// What it carries outside.
    pub tag: OwnerTag,
    /// Time until its end.
    pub remaining: Duration,
}

/// What has become of a mitigation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The driver has it in force.
    InForce {
        /// Which.
        id: MitigationId,
        /// How far that is known.
        evidence: Evidence,
    },
    /// It could not be brought into force so far, or never will.
    Failed {
        /// Which.
        id: MitigationId,
        /// Why, in words.
        reason: String,
        /// What said no, if that was a guardrail.
        refusal: Option<Refusal>,
    },
    /// It was gone, and is brought back.
    Missing {
        /// Which.
        id: MitigationId,
    },
    /// It was found with our tag and without a line in the ledger, and is withdrawn.
    Adopted {
        /// Which.
        id: MitigationId,
    },
    /// It cannot be ended so far: somebody has to look.
    Stuck {
        /// Which.
        id: MitigationId,
    },
    /// It has ended, and that was verified as far as the driver can.
    Ended {
        /// Which.
        id: MitigationId,
    },
}

/// What somebody wants to be in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// Who is to carry it out.
    pub driver: DriverName,
    /// What it is.
    pub spec: Spec,
    /// What comes for it now, if that will show what it does.
    pub effect: Option<Effect>,
    /// Name of the zone that it protects.
    pub zone: String,
    /// What it is part of.
    pub incident: Option<IncidentId>,
    /// The stage that it belongs to.
    pub stage: Option<String>,
    /// Who asks.
    pub asked_by: Actor,
    /// Why, in words.
    pub reason: String,
    /// For how long.
    pub ttl: Duration,
}

/// What is known of a live mitigation beyond what is stored. Lost in a restart, and then everything is asked again.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    /// Waiting for an answer since.
    pub(super) asked: Option<Now>,
    /// Key of the operation that is waited for.
    pub(super) key: Option<OperationKey>,
    /// An earlier attempt may have been carried out, whatever the next answer says.
    pub(super) doubt: bool,
    /// It was stored by an earlier process: nothing is on its way that an observation could have missed.
    pub(super) loaded: bool,
    /// The driver says that it has ended it.
    pub(super) withdrawn: bool,
    /// The round of observation that was the last to begin before the last answer came.
    pub(super) settled: u64,
    /// What the receiver reports that it takes, bits per second.
    pub(super) taken_bps: Option<u64>,
}

/// Observation of one driver.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) capabilities: Capabilities,
    pub(super) due: Timestamp,
    pub(super) asked: Option<(u64, Now)>,
    pub(super) failures: u32,
}

/// All mitigations.
#[derive(Debug, Default)]
pub struct Ledger {
    pub(super) appliance: String,
    pub(super) entries: BTreeMap<MitigationId, Mitigation>,
    pub(super) live: BTreeMap<MitigationId, Course>,
    by_incident: BTreeMap<IncidentId, BTreeSet<MitigationId>>,
    pub(super) drivers: BTreeMap<DriverName, Watch>,
    /// Counts observations that were begun, of any driver.
    pub(super) rounds: u64,
    /// What ended in which round: an observation that began before may still show it.
    pub(super) ended_in: BTreeMap<MitigationId, u64>,
    /// When each live mitigation is to be looked at next.
    queue: BTreeSet<(Timestamp, MitigationId)>,
    queued: BTreeMap<MitigationId, Timestamp>,
    changed: BTreeSet<MitigationId>,
    /// When measures upstream were begun, by driver, the oldest first. One that had to be tried again was begun again.
    changes: BTreeMap<DriverName, VecDeque<(Now, MitigationId)>>,
}

impl Ledger {
    /// What was stored. Deadlines are counted in this boot from now on, and nothing that was asked is believed answered.
    /// `restored`: it comes from a backup, and what it holds to be in force may have ended since.
    pub fn load(appliance: &str, entries: BTreeMap<MitigationId, Mitigation>, restored: bool, now: &Now) -> Self {
        let mut ledger = Self { appliance: appliance.to_owned(), entries, ..Self::default() };
        let live: Vec<MitigationId> =
            ledger.entries.values().filter(|entry| !entry.has_ended()).map(|entry| entry.id).collect();
        for entry in ledger.entries.values() {
            if let Some(incident) = entry.incident {
                ledger.by_incident.entry(incident).or_default().insert(entry.id);
            }
        }
        for id in live {
            ledger.live.insert(id, Course { doubt: true, loaded: true, ..Course::default() });
            if let Some(entry) = ledger.entries.get_mut(&id) {
                let anchored = entry.deadline.anchored(now);
                // A pause counts within one boot only.
                let paused = entry.retry_at.is_some_and(|at| at.boot != now.boot);
                let unproven = entry.unproven || restored && entry.is_wanted();
                // Of a version that kept no name: it cannot have been another then.
                let nameless = entry.appliance.is_none();
                entry.appliance.get_or_insert_with(|| appliance.to_owned());
                if anchored != entry.deadline || paused || unproven != entry.unproven || nameless {
                    entry.deadline = anchored;
                    entry.retry_at = if paused { None } else { entry.retry_at };
                    entry.unproven = unproven;
                    ledger.changed.insert(id);
                }
            }
            ledger.wake(id, now.monotonic);
        }
        // A restart must not give the minute anew.
        let begun = ledger.entries.values().filter(|entry| counts(&entry.spec) && is_recent(&entry.begun(), now));
        let begun = begun.map(|entry| (entry.driver.clone(), entry.begun().anchored(now), entry.id));
        let mut begun: Vec<(DriverName, Now, MitigationId)> = begun.collect();
        begun.sort_by_key(|(_, at, _)| (at.wall, at.monotonic));
        for (driver, at, id) in begun {
            ledger.changes.entry(driver).or_default().push_back((at, id));
        }
        ledger
    }

    /// The drivers that there are. Each is asked at once what it has of ours.
    pub fn configure(&mut self, drivers: BTreeMap<DriverName, Capabilities>, now: &Now) {
        let watch = |capabilities| Watch { capabilities, due: now.monotonic, asked: None, failures: 0 };
        self.drivers = drivers.into_iter().map(|(name, capabilities)| (name, watch(capabilities))).collect();
    }

    /// What a driver can do; none when there is no such driver.
    pub fn capabilities(&self, driver: &DriverName) -> Option<&Capabilities> {
        self.drivers.get(driver).map(|watch| &watch.capabilities)
    }

    /// One of them.
    pub fn get(&self, id: MitigationId) -> Option<&Mitigation> {
        self.entries.get(&id)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Mitigation> {
        self.entries.values()
    }

    /// Those that have not ended.
    pub fn live(&self) -> impl Iterator<Item = &Mitigation> {
        self.live.keys().filter_map(|id| self.entries.get(id))
    }

    /// How many have ended.
    pub fn ended_count(&self) -> usize {
        self.entries.len().saturating_sub(self.live.len())
    }

    /// Those of an incident.
    pub fn of_incident(&self, incident: IncidentId) -> impl Iterator<Item = &Mitigation> {
        let ids = self.by_incident.get(&incident).into_iter().flatten();
        ids.filter_map(|id| self.entries.get(id))
    }

    /// True when an answer is awaited.
    pub fn is_waiting(&self, id: MitigationId) -> bool {
        self.live.get(&id).is_some_and(|course| course.asked.is_some())
    }

    /// Changes at a peer within the last minute: what guardrails bound. Ends do not count, nor do filters: the dataplane is
    /// no peer, and dampens nothing.
    pub fn recent_changes(&mut self, driver: &DriverName, now: &Now) -> usize {
        let Some(changes) = self.changes.get_mut(driver) else { return 0 };
        while changes.front().is_some_and(|(at, _)| now.since(at) >= MINUTE) {
            changes.pop_front();
        }
        changes.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len()
    }

    /// An attempt to begin a measure is made: a peer may see a change now, and not when it was asked for.
    pub(super) fn begin(&mut self, id: MitigationId, now: &Now) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.evidence.is_none() && counts(&entry.spec) {
            entry.begun = Some(*now);
            self.changes.entry(entry.driver.clone()).or_default().push_back((*now, id));
        }
    }

    /// What all that has not ended carries outside.
    pub fn tags(&self) -> BTreeSet<OwnerTag> {
        self.live().map(|entry| entry.tag(&self.appliance)).collect()
    }

    /// The appliance has another name: what is begun from now on carries that.
    pub fn rename(&mut self, appliance: &str) {
        appliance.clone_into(&mut self.appliance);
    }

    /// What the receiver of a measure reported last that it takes, bits per second.
    pub fn taken_bps(&self, id: MitigationId) -> Option<u64> {
        self.live.get(&id)?.taken_bps
    }

    /// Writes an intent down. It is ordered by the next [`Self::advance`].
    pub fn plan(&mut self, id: MitigationId, intent: Intent, now: &Now) {
        let entry = Mitigation { appliance: Some(self.appliance.clone()), ..draft(id, intent, now) };
        if counts(&entry.spec) {
            self.changes.entry(entry.driver.clone()).or_default().push_back((*now, id));
        }
        if let Some(incident) = entry.incident {
            self.by_incident.entry(incident).or_default().insert(id);
        }
        self.entries.insert(id, entry);
        self.live.insert(id, Course::default());
        self.touch(id, now);
    }

    /// Moves the end. Nothing when it shall end anyway.
    pub fn renew(&mut self, id: MitigationId, ttl: Duration, now: &Now) -> bool {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.is_wanted()) else { return false };
        // What has passed has passed: a renewal that comes late does not bring it back.
        if entry.deadline.has_passed(now) {
            return false;
        }
        entry.deadline = Deadline::after(now, ttl);
        entry.renewals = entry.renewals.saturating_add(1);
        if entry.state == State::Active {
            entry.state = State::Applying;
        }
        self.touch(id, now);
        true
    }

    /// Wants it ended. Nothing when that is wanted already.
    pub fn end(&mut self, id: MitigationId, outcome: Outcome, now: &Now) -> bool {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.is_wanted()) else { return false };
        entry.state = State::Withdrawing;
        entry.since = *now;
        entry.outcome = Some(outcome);
        entry.failures = 0;
        entry.retry_at = None;
        entry.unproven = false;
        if let Some(course) = self.live.get_mut(&id) {
            course.withdrawn = false;
        }
        self.touch(id, now);
        true
    }

    /// Looks at what comes for a measure now. Something when something new was found.
    pub fn look(&mut self, id: MitigationId, rates: &Rates, now: &Now) -> Option<Effect> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.state == State::Active)?;
        let effect = entry.effect.as_mut()?;
        let before = *effect;
        let news = effect.look(&entry.spec, rates, now);
        let found = *effect;
        if found.verdict.is_some_and(|verdict| verdict.effective) {
            entry.evidence = Some(Evidence::Effective);
        }
        if found != before {
            self.touch(id, now);
        }
        news.then_some(found)
    }

    /// Another stage has acted: what this one takes away cannot be told apart any more. Nothing where that is known.
    pub fn overtake(&mut self, id: MitigationId, now: &Now) {
        let effect = self.entries.get_mut(&id).and_then(|entry| entry.effect.as_mut());
        if let Some(effect) = effect.filter(|effect| !effect.overtaken) {
            effect.overtaken = true;
            self.touch(id, now);
        }
    }

    /// Nothing waits for its next attempt any more: whoever a driver talks to is there again.
    pub fn retry_soon(&mut self, driver: &DriverName, now: &Now) {
        let paused = self.live.keys().filter_map(|id| self.entries.get(id));
        let paused = paused.filter(|entry| entry.driver == *driver && entry.retry_at.is_some());
        let paused: Vec<MitigationId> = paused.map(|entry| entry.id).collect();
        for id in paused {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.retry_at = None;
            }
            self.touch(id, now);
        }
        self.observe_soon(driver, now);
    }

    /// Asks a driver soon what it has of ours: it was away, or something is to be verified.
    pub fn observe_soon(&mut self, driver: &DriverName, now: &Now) {
        if let Some(watch) = self.drivers.get_mut(driver) {
            watch.due = watch.due.min(now.monotonic);
        }
    }

    /// Writes down what has changed. To be called at the end of every step.
    pub fn write(&mut self, writes: &mut Vec<Write>) {
        for id in std::mem::take(&mut self.changed) {
            writes.extend(self.entries.get(&id).cloned().map(Write::PutMitigation));
        }
    }

    /// Forgets what has ended, here and in the store. Nothing when it has not.
    pub fn forget(&mut self, id: MitigationId, writes: &mut Vec<Write>) {
        if self.live.contains_key(&id) {
            return;
        }
        if let Some(entry) = self.entries.remove(&id) {
            if let Some(of) = entry.incident.and_then(|incident| self.by_incident.get_mut(&incident)) {
                of.remove(&id);
            }
            self.changed.remove(&id);
            self.ended_in.remove(&id);
            writes.push(Write::DeleteMitigation(id));
        }
    }

    pub(super) fn tag(&self, id: MitigationId) -> OwnerTag {
        let of_today = || OwnerTag { appliance: self.appliance.clone(), id };
        self.entries.get(&id).map_or_else(of_today, |entry| entry.tag(&self.appliance))
    }

    /// To be stored, and looked at now.
    pub(super) fn touch(&mut self, id: MitigationId, now: &Now) {
        self.changed.insert(id);
        self.wake(id, now.monotonic);
    }

    /// To be looked at then, and not before.
    pub(super) fn wake(&mut self, id: MitigationId, at: Timestamp) {
        if let Some(before) = self.queued.insert(id, at) {
            self.queue.remove(&(before, id));
        }
        self.queue.insert((at, id));
    }

    pub(super) fn first_to_wake(&self) -> Option<Timestamp> {
        self.queue.first().map(|(at, _)| *at)
    }

    pub(super) fn next_to_wake(&mut self, now: &Now) -> Option<MitigationId> {
        let first = *self.queue.first().filter(|(at, _)| *at <= now.monotonic)?;
        self.queue.remove(&first);
        self.queued.remove(&first.1);
        Some(first.1)
    }

    /// Nothing more is to be done about it.
    pub(super) fn conclude(&mut self, id: MitigationId, now: &Now) -> Notice {
        if let Some(entry) = self.entries.get_mut(&id) {
            let never = matches!(entry.outcome, Some(Outcome::Failed | Outcome::Refused | Outcome::Incapable));
            entry.state = if never && entry.evidence.is_none() { State::Failed } else { State::Ended };
            entry.since = *now;
            entry.retry_at = None;
        }
        self.live.remove(&id);
        if let Some(at) = self.queued.remove(&id) {
            self.queue.remove(&(at, id));
        }
        self.ended_in.insert(id, self.rounds);
        self.changed.insert(id);
        Notice::Ended { id }
    }

    /// Takes something of ours that the ledger does not know, or believed ended, so that it can be ended.
    pub(super) fn adopt(&mut self, id: MitigationId, driver: &DriverName, spec: &Spec, now: &Now) -> Notice {
        let entry = self.entries.entry(id).or_insert_with(|| Mitigation {
            id,
            driver: driver.clone(),
            spec: spec.clone(),
            zone: String::new(),
            incident: None,
            stage: None,
            asked_by: Actor::levee("reconciler"),
            reason: "found with our tag and without a line in the ledger".to_owned(),
            created: *now,
            begun: None,
            deadline: Deadline::after(now, Duration::ZERO),
            renewals: 0,
            state: State::Withdrawing,
            since: *now,
            outcome: Some(Outcome::Orphaned),
            evidence: Some(Evidence::Seen),
            touched: true,
            failures: 0,
            retry_at: None,
            error: None,
            appliance: None,
            effect: None,
            unproven: false,
        });
        entry.state = State::Withdrawing;
        entry.since = *now;
        entry.touched = true;
        entry.outcome.get_or_insert(Outcome::Orphaned);
        entry.failures = 0;
        entry.retry_at = None;
        self.live.insert(id, Course { doubt: true, ..Course::default() });
        self.ended_in.remove(&id);
        self.touch(id, now);
        Notice::Adopted { id }
    }
}

/// The entry of an intent that was only written down.
pub fn draft(id: MitigationId, intent: Intent, now: &Now) -> Mitigation {
    let Intent { driver, spec, effect, zone, incident, stage, asked_by, reason, ttl } = intent;
    Mitigation {
        id,
        driver,
        spec,
        zone,
        incident,
        stage,
        asked_by,
        reason,
        created: *now,
        begun: None,
        deadline: Deadline::after(now, ttl),
        renewals: 0,
        state: State::Planned,
        since: *now,
        outcome: None,
        evidence: None,
        touched: false,
        failures: 0,
        retry_at: None,
        error: None,
        appliance: None,
        effect,
        unproven: false,
    }
}

/// Whether something was within the last minute. What a wall clock that was set back shows as yet to come, after a reboot,
/// was not: it would count as just now until that clock has caught up.
fn is_recent(at: &Now, now: &Now) -> bool {
    (at.boot == now.boot || at.wall <= now.wall) && now.since(at) < MINUTE
}

/// Whether a measure changes routing somewhere.
fn counts(spec: &Spec) -> bool {
    spec.kind() != Kind::Filter
}
