//! What must never happen, whatever fails.
//!
//! What is promised is taken from what the core has stored and ordered, what is so from the receivers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use std::time::Duration;

use levee_api::config::{Config, Guardrails};
use levee_controlplane::clock::Now;
use levee_controlplane::driver::{DriverName, Observed};
use levee_controlplane::guardrail::{Guards, Of};
use levee_controlplane::ledger::{IncidentId, Kind, Ledger, Mitigation, MitigationId, Operation, State};
use levee_controlplane::store::{Contents, Write};

use crate::life::SECOND;
use crate::receiver::{Receiver, Thing};

/// Where nothing has failed lately, an end is an end within this: the longest tick, the answer that is waited for, and a
/// tick again.
const PROMPT: u64 = 15 * SECOND;
/// After the last failure: an answer that never comes, the longest pause, and what is prompt again.
const HEALED: u64 = 150 * SECOND;
/// What a new configuration forbids may have an order on its way, whose answer is awaited for this long.
const ADAPTED: u64 = 90 * SECOND;

/// A mitigation at a receiver.
type Place = (DriverName, MitigationId);

/// What was ordered last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ordered {
    /// To be in force until then.
    Apply(u64),
    Withdraw,
}

/// Guardrails of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rules {
    guards: Guards,
    limits: Guardrails,
}

impl Rules {
    pub(crate) fn of(config: &Config) -> Self {
        Self { guards: Guards::new(config, []), limits: config.guardrails.clone() }
    }
}

#[derive(Debug)]
pub(crate) struct Checker {
    rules: Rules,
    /// Those of before, and until when what they allowed may be there still.
    former: Vec<Rules>,
    rules_since: u64,
    lenient_until: u64,
    ordered: BTreeMap<Place, Ordered>,
    /// What was last promised about the end of each, by the world's clock, and its number of renewals.
    ends: BTreeMap<Place, (u64, u32)>,
    /// What has ended, and that was verified.
    ended: BTreeSet<MitigationId>,
    /// What a receiver has shown all the same: an order that came late has brought it back.
    shown: BTreeSet<MitigationId>,
    /// When each was written down first, and for whom: an id is never given again.
    born: BTreeMap<MitigationId, (DriverName, Now)>,
    /// Measures that were begun within the last minute.
    begun: BTreeMap<DriverName, VecDeque<u64>>,
    /// The kill switch is engaged, and nobody has let go of it since.
    stopped: bool,
    /// Somebody was told so.
    told_stopped: bool,
    /// Since when the process runs.
    runs_since: u64,
    /// Who has approved which stage of which incident.
    approvals: BTreeMap<(IncidentId, String), BTreeSet<String>>,
}

impl Checker {
    pub(crate) const fn new(rules: Rules) -> Self {
        Self {
            rules,
            former: Vec::new(),
            rules_since: 0,
            lenient_until: 0,
            ordered: BTreeMap::new(),
            ends: BTreeMap::new(),
            ended: BTreeSet::new(),
            shown: BTreeSet::new(),
            born: BTreeMap::new(),
            begun: BTreeMap::new(),
            stopped: false,
            told_stopped: false,
            runs_since: 0,
            approvals: BTreeMap::new(),
        }
    }

    /// A process begins with what is stored.
    pub(crate) fn started(&mut self, stored: &Contents, now: &Now, at: u64) -> Result<(), String> {
        self.stopped = stored.kill_switch.as_ref().is_some_and(|switch| switch.engaged);
        if self.told_stopped && !self.stopped {
            return Err("the kill switch was answered to be engaged, and a restart has forgotten it".to_owned());
        }
        self.runs_since = at;
        self.lenient_until = at + ADAPTED;
        for entry in stored.mitigations.values().filter(|entry| !entry.has_ended()) {
            // After a reboot there is only the wall clock, which may stand anywhere: never more than was given.
            if entry.deadline.boot != now.boot
                && let Some((end, _)) = self.ends.get_mut(&(entry.driver.clone(), entry.id))
            {
                *end = (*end).max(at + entry.deadline.ttl_ns);
            }
        }
        Ok(())
    }

    /// Somebody was told how the kill switch is.
    pub(crate) const fn told_kill_switch(&mut self, engaged: bool) {
        self.told_stopped = engaged;
    }

    /// The disk is another: nothing is known of what was told.
    pub(crate) const fn forget_the_kill_switch(&mut self) {
        self.told_stopped = false;
    }

    /// A receiver says what it has.
    pub(crate) fn shown(&mut self, observed: &[Observed]) {
        self.shown.extend(observed.iter().map(|observed| observed.id).filter(|id| self.ended.contains(id)));
    }

    /// The minute is counted in the store and within a boot: it begins anew without either.
    pub(crate) fn forget_the_minute(&mut self) {
        self.begun.clear();
    }

    /// Other guardrails are in force.
    pub(crate) fn configured(&mut self, rules: Rules, at: u64) {
        if self.rules != rules {
            self.former.push(std::mem::replace(&mut self.rules, rules));
            (self.rules_since, self.lenient_until) = (at, at + ADAPTED);
        }
    }

    /// The kill switch is turned.
    pub(crate) const fn turned(&mut self, engage: bool) {
        self.stopped = engage;
        self.told_stopped &= engage;
    }

    /// Somebody says yes.
    pub(crate) fn approved(&mut self, incident: IncidentId, stage: &str, by: &str) {
        self.approvals.entry((incident, stage.to_owned())).or_default().insert(by.to_owned());
    }

    /// What the core is about to store.
    pub(crate) fn decided(&mut self, writes: &[Write], now: &Now, at: u64) {
        for entry in mitigations(writes).filter(|entry| entry.is_wanted()) {
            let end = self.ends.entry((entry.driver.clone(), entry.id)).or_insert((at, u32::MAX));
            if end.1 != entry.renewals {
                *end = (at + nanoseconds(entry, now), entry.renewals);
            }
        }
    }

    /// What has become durable.
    pub(crate) fn stored(&mut self, writes: &[Write], now: &Now, at: u64) -> Result<(), String> {
        for entry in mitigations(writes) {
            if entry.has_ended() {
                self.ended.insert(entry.id);
            }
            if !entry.is_wanted() {
                if let Some((end, _)) = self.ends.get_mut(&(entry.driver.clone(), entry.id)) {
                    *end = (*end).min(at);
                }
                continue;
            }
            // A ledger that is a copy goes on with what it was shown: until its deadline.
            if !entry.unproven && self.shown.remove(&entry.id) {
                self.ended.remove(&entry.id);
            }
            // What was decided before the guardrails changed is not asked about again.
            let recent = entry.created.boot == now.boot
                && now.since(&entry.created) < Duration::from_nanos(at - self.rules_since);
            if recent && !self.born.contains_key(&entry.id) {
                self.is_approved(entry)?;
            }
            let born = (entry.driver.clone(), entry.created);
            let known = self.born.entry(entry.id).or_insert_with(|| {
                let begun = self.begun.entry(entry.driver.clone()).or_default();
                begun.push_back(at);
                born.clone()
            });
            if *known != born {
                return Err(format!("id {} is given again: to {}, after {}", entry.id, entry.spec, known.0));
            }
        }
        let most = self.most(|rules| Some(rules.limits.max_changes_per_minute));
        for (driver, begun) in &mut self.begun {
            while begun.front().is_some_and(|begun| at - begun >= 60 * SECOND) {
                begun.pop_front();
            }
            if begun.len() > most {
                return Err(format!("{} changes of {driver} within a minute break a guardrail: {most}", begun.len()));
            }
        }
        Ok(())
    }

    /// What takes a whole prefix away two people have agreed to, where the guardrails want that.
    fn is_approved(&self, entry: &Mitigation) -> Result<(), String> {
        if !self.rules.limits.two_person || entry.spec.kind() != Kind::Divert {
            return Ok(());
        }
        let of = entry.incident.zip(entry.stage.clone());
        let people = of.and_then(|of| self.approvals.get(&of)).map_or(0, BTreeSet::len);
        if people < 2 {
            return Err(format!("{} ({}), approved by {people}, breaks a guardrail: two_person", entry.id, entry.spec));
        }
        Ok(())
    }

    /// An order to apply is about to be carried out. `entry`: its line in the store; `is_in_force`: what it asks for.
    pub(crate) fn applied(
        &mut self,
        operation: &Operation,
        entry: Option<&Mitigation>,
        is_in_force: bool,
        at: u64,
    ) -> Result<(), String> {
        if self.stopped {
            return Err(format!("{} ({}) is begun while the kill switch is engaged", operation.id, operation.spec));
        }
        let guards = &self.rules.guards;
        guards
            .check_spec(&operation.spec)
            .and_then(|()| guards.check_ttl(operation.remaining))
            .map_err(|refusal| format!("{} breaks a guardrail: {refusal}", operation.spec))?;
        if self.ended.contains(&operation.id) && !is_in_force {
            return Err(format!("{} ({}) is brought into force again after its end", operation.id, operation.spec));
        }
        let Some(entry) = entry else {
            return Err(format!("{} ({}) is ordered without a ledger entry", operation.id, operation.spec));
        };
        if !entry.touched {
            return Err(format!("{} is ordered without a ledger entry that says so", operation.id));
        }
        let end = at + u64::try_from(operation.remaining.as_nanos()).unwrap();
        let place = (operation.driver.clone(), operation.id);
        // A ledger that is a copy promises anew.
        self.ends.entry(place.clone()).or_insert((end, entry.renewals)).0 = end;
        self.ordered.insert(place, Ordered::Apply(end));
        Ok(())
    }

    /// An order to withdraw is about to be carried out.
    pub(crate) fn withdrawn(&mut self, operation: &Operation) {
        self.ordered.insert((operation.driver.clone(), operation.id), Ordered::Withdraw);
    }

    /// At every moment.
    pub(crate) fn moment(&mut self, receivers: &[Receiver], ledger: Option<&Ledger>, at: u64) -> Result<(), String> {
        let Some(ledger) = ledger else {
            // Nobody is there who could end anything.
            self.runs_since = at;
            return Ok(());
        };
        if at > self.lenient_until {
            self.former.clear();
        }
        for receiver in receivers {
            for (id, thing) in &receiver.in_force {
                self.ends_in_time(receiver, *id, thing, at)?;
            }
        }
        self.is_within_limits(receivers, ledger, at)?;
        self.is_in_force(receivers, ledger, at)
    }

    /// What has come to its end is gone, as soon as its driver lets it.
    fn ends_in_time(&self, receiver: &Receiver, id: MitigationId, thing: &Thing, at: u64) -> Result<(), String> {
        let promised = self.ends.get(&(receiver.name.clone(), id)).map(|(end, _)| *end);
        // Where nobody can look, what an order brings back that arrives late ends by itself.
        let end = if receiver.capabilities.observe { promised.unwrap_or(thing.end) } else { thing.end };
        if at > (end + PROMPT).max(receiver.failed_at.max(self.runs_since) + HEALED) {
            let late = (at - end) / SECOND;
            return Err(format!("{id} ({}) at {} is {late} s past its deadline", thing.spec, receiver.name));
        }
        Ok(())
    }

    /// Of each kind no more is in force than may be. What is being withdrawn does not count, and what was adopted: it has no
    /// line, or is on its way out.
    fn is_within_limits(&self, receivers: &[Receiver], ledger: &Ledger, at: u64) -> Result<(), String> {
        for kind in [Kind::FlowSpec, Kind::Blackhole, Kind::Divert] {
            let counts: Vec<usize> = receivers.iter().map(|receiver| self.count(receiver, kind, ledger, at)).collect();
            let Some((of, _)) = self.rules.guards.most(kind) else { continue };
            let most = self.most(|rules| rules.guards.most(kind).map(|(_, most)| most));
            let used = match of {
                Of::Driver => counts.into_iter().max(),
                Of::Everything => Some(counts.into_iter().sum()),
            };
            if used.is_some_and(|used| used > most) {
                return Err(format!("{used:?} {kind} in force break a guardrail: {most}"));
            }
        }
        Ok(())
    }

    fn count(&self, receiver: &Receiver, kind: Kind, ledger: &Ledger, at: u64) -> usize {
        let stands = |id: MitigationId| {
            let place = (receiver.name.clone(), id);
            let Some(entry) = ledger.get(id).filter(|entry| !entry.has_ended()) else { return false };
            // Its end may have to wait for an answer.
            let leaves = !entry.is_wanted() && self.ends.get(&place).is_some_and(|(end, _)| at <= end + ADAPTED);
            matches!(self.ordered.get(&place), Some(Ordered::Apply(_))) && !leaves
        };
        receiver.in_force.iter().filter(|(id, thing)| thing.spec.kind() == kind && stands(**id)).count()
    }

    /// The most that the guardrails allow, or allowed until just now.
    fn most(&self, of: impl Fn(&Rules) -> Option<u32>) -> usize {
        let all = self.former.iter().chain([&self.rules]);
        all.filter_map(of).max().map_or(usize::MAX, |most| usize::try_from(most).unwrap())
    }

    /// What the ledger holds to be in force is.
    fn is_in_force(&self, receivers: &[Receiver], ledger: &Ledger, at: u64) -> Result<(), String> {
        for entry in ledger.live().filter(|entry| entry.state == State::Active && !entry.unproven) {
            let Some(receiver) = receivers.iter().find(|receiver| receiver.name == entry.driver) else { continue };
            let ordered = self.ordered.get(&(entry.driver.clone(), entry.id));
            let shall_be = matches!(ordered, Some(Ordered::Apply(end)) if at < *end);
            // Who can look says what is not so, and that is noticed later.
            let healed = !receiver.capabilities.observe || at > receiver.failed_at.max(self.runs_since) + HEALED;
            if shall_be && healed && !receiver.in_force.contains_key(&entry.id) {
                return Err(format!("{} ({}) is active in the ledger and not in force", entry.id, entry.spec));
            }
        }
        Ok(())
    }
}

fn mitigations(writes: &[Write]) -> impl Iterator<Item = &Mitigation> {
    writes.iter().filter_map(|write| if let Write::PutMitigation(entry) = write { Some(entry) } else { None })
}

fn nanoseconds(entry: &Mitigation, now: &Now) -> u64 {
    u64::try_from(entry.remaining(now).as_nanos()).unwrap()
}
