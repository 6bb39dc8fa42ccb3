//! What shall be announced, by which announcer, until when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::export::{Withheld, destination};
use crate::bgp::route::Destination;
use crate::ledger::{MitigationId, Spec};

/// One measure to be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub spec: Spec,
    /// What it is announced as.
    pub destination: Arc<Destination>,
    /// The version from which on it is what it is.
    pub since: u64,
    /// When it ends by itself, on the speaker's clock.
    pub until: Duration,
}

/// Changes that are remembered: a peer that is behind by more is told by looking at everything.
const REMEMBERED: usize = 4_096;

/// Everything that shall be announced.
#[derive(Debug, Default)]
pub struct Rib {
    entries: BTreeMap<(String, MitigationId), Entry>,
    /// The measures that ask for the same.
    asking: BTreeMap<(String, Arc<Destination>), BTreeSet<MitigationId>>,
    /// The last changes, oldest first.
    changes: VecDeque<(u64, String, Arc<Destination>)>,
    /// The version up to which changes are not remembered any more.
    forgotten: u64,
    version: u64,
}

impl Rib {
    /// Announces a measure, or changes it, or moves its end. The version from which on it is.
    ///
    /// # Errors
    /// When it cannot be announced at all.
    pub fn announce(
        &mut self,
        announcer: &str,
        id: MitigationId,
        spec: &Spec,
        until: Duration,
    ) -> Result<u64, Withheld> {
        if let Some(entry) = self.entries.get_mut(&(announcer.to_owned(), id))
            && entry.spec == *spec
        {
            entry.until = until;
            return Ok(self.version);
        }
        let destination = Arc::new(destination(spec)?);
        self.version += 1;
        self.remove(announcer, id);
        let entry = Entry { spec: spec.clone(), destination: Arc::clone(&destination), since: self.version, until };
        self.asking.entry((announcer.to_owned(), Arc::clone(&destination))).or_default().insert(id);
        self.entries.insert((announcer.to_owned(), id), entry);
        self.changed(announcer, destination);
        Ok(self.version)
    }

    /// Withdraws a measure. The version from which on it is gone.
    pub fn withdraw(&mut self, announcer: &str, id: MitigationId) -> u64 {
        if self.entries.contains_key(&(announcer.to_owned(), id)) {
            self.version += 1;
            self.remove(announcer, id);
        }
        self.version
    }

    /// Withdraws what has come to its end; true when something has.
    pub fn expire(&mut self, now: Duration) -> bool {
        let ended = self.entries.iter().filter(|(_, entry)| entry.until <= now);
        let ended: Vec<(String, MitigationId)> = ended.map(|(key, _)| key.clone()).collect();
        self.version += u64::from(!ended.is_empty());
        ended.iter().for_each(|(announcer, id)| self.remove(announcer, *id));
        !ended.is_empty()
    }

    /// Takes one away, at the version that is now.
    fn remove(&mut self, announcer: &str, id: MitigationId) {
        let Some(entry) = self.entries.remove(&(announcer.to_owned(), id)) else { return };
        let key = (announcer.to_owned(), entry.destination);
        if let Some(asking) = self.asking.get_mut(&key) {
            asking.remove(&id);
            if asking.is_empty() {
                self.asking.remove(&key);
            }
        }
        self.changed(announcer, key.1);
    }

    fn changed(&mut self, announcer: &str, destination: Arc<Destination>) {
        self.changes.push_back((self.version, announcer.to_owned(), destination));
        while self.changes.len() > REMEMBERED {
            self.forgotten = self.changes.pop_front().map_or(self.forgotten, |(version, ..)| version);
        }
    }

    /// What was changed for an announcer after a version, each once; none when that is not remembered.
    pub fn changed_since(&self, announcer: &str, version: u64) -> Option<BTreeSet<Arc<Destination>>> {
        let later = self.changes.iter().rev().take_while(|(at, ..)| *at > version);
        let of_announcer = later.filter(|(_, name, _)| name == announcer);
        (version >= self.forgotten).then(|| of_announcer.map(|(.., destination)| Arc::clone(destination)).collect())
    }

    /// When something comes to its end next.
    pub fn next_end(&self) -> Option<Duration> {
        self.entries.values().map(|entry| entry.until).min()
    }

    /// Counts changes.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The announcers that something is announced by.
    pub fn announcers(&self) -> BTreeSet<String> {
        self.entries.keys().map(|(announcer, _)| announcer.clone()).collect()
    }

    /// Everything of an announcer.
    pub fn of<'r>(&'r self, announcer: &'r str) -> impl Iterator<Item = (MitigationId, &'r Entry)> {
        let from = (announcer.to_owned(), MitigationId(0));
        self.entries
            .range(from..)
            .take_while(move |((name, _), _)| name == announcer)
            .map(|((_, id), entry)| (*id, entry))
    }

    /// What is announced for each destination: when several measures ask for the same, the one that was asked for last.
    pub fn chosen<'r>(&'r self, announcer: &'r str) -> BTreeMap<&'r Arc<Destination>, (MitigationId, &'r Entry)> {
        self.of(announcer).map(|(id, entry)| (&entry.destination, (id, entry))).collect()
    }

    /// The measures that ask for what one asks for, itself included: all are in force when one of them is announced.
    ///
    /// # Errors
    /// The measure that is announced in its place: it was asked for later, with the same destination, and does something else.
    pub fn alike(&self, announcer: &str, id: MitigationId) -> Result<Vec<MitigationId>, MitigationId> {
        let spec_of = |id: MitigationId| Some(&self.entries.get(&(announcer.to_owned(), id))?.spec);
        let Some(entry) = self.entries.get(&(announcer.to_owned(), id)) else { return Ok(vec![id]) };
        let asking = self.asking.get(&(announcer.to_owned(), Arc::clone(&entry.destination)));
        let asking = || asking.into_iter().flatten().copied();
        match asking().last() {
            Some(last) if spec_of(last) != Some(&entry.spec) => Err(last),
            _ => Ok(asking().filter(|id| spec_of(*id) == Some(&entry.spec)).collect()),
        }
    }

    /// What is announced for one destination.
    pub fn chosen_for(&self, announcer: &str, destination: &Arc<Destination>) -> Option<(MitigationId, &Entry)> {
        let id = *self.asking.get(&(announcer.to_owned(), Arc::clone(destination)))?.last()?;
        Some((id, self.entries.get(&(announcer.to_owned(), id))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{FlowAction, FlowRule};

    fn spec(action: FlowAction) -> Spec {
        let rule = FlowRule { protocols: vec![17], ..FlowRule::to("203.0.113.7".parse().unwrap()) };
        Spec::FlowSpec { rule, action }
    }

    #[test]
    fn of_several_measures_for_one_destination_the_last_is_announced_and_then_the_one_before() {
        let mut rib = Rib::default();
        let (limit, drop) = (spec(FlowAction::RateLimit { bps: 1_000_000 }), spec(FlowAction::Drop));
        rib.announce("core", MitigationId(1), &limit, Duration::from_secs(60)).unwrap();
        rib.announce("core", MitigationId(2), &drop, Duration::from_secs(30)).unwrap();
        rib.announce("other", MitigationId(3), &limit, Duration::from_secs(60)).unwrap();
        let chosen = |rib: &Rib| {
            rib.chosen("core").into_values().map(|(id, entry)| (id.0, entry.spec.clone())).collect::<Vec<_>>()
        };
        assert_eq!(chosen(&rib), [(2, drop)]);
        assert_eq!(rib.alike("core", MitigationId(1)), Err(MitigationId(2)));
        assert_eq!(rib.alike("core", MitigationId(2)), Ok(vec![MitigationId(2)]));
        rib.announce("core", MitigationId(4), &limit, Duration::from_secs(20)).unwrap();
        assert_eq!(rib.alike("core", MitigationId(1)), Ok(vec![MitigationId(1), MitigationId(4)]));
        assert_eq!(rib.alike("core", MitigationId(2)), Err(MitigationId(4)));
        let version = rib.version();
        assert!(rib.expire(Duration::from_secs(30)) && rib.version() > version);
        assert_eq!(chosen(&rib), [(1, limit)]);
        assert_eq!(rib.alike("core", MitigationId(1)), Ok(vec![MitigationId(1)]));
    }

    #[test]
    fn the_same_again_is_no_change() {
        let mut rib = Rib::default();
        let one = spec(FlowAction::Drop);
        let version = rib.announce("core", MitigationId(1), &one, Duration::from_secs(60)).unwrap();
        assert_eq!(rib.announce("core", MitigationId(1), &one, Duration::from_secs(90)), Ok(version));
        assert_eq!(rib.next_end(), Some(Duration::from_secs(90)), "only its end has moved");
        assert_eq!(rib.withdraw("core", MitigationId(7)), version, "what is not there is not withdrawn");
        assert!(rib.withdraw("core", MitigationId(1)) > version);
    }

    #[test]
    fn what_has_changed_since_is_known_for_a_while() {
        let mut rib = Rib::default();
        let spec = |host: u32| {
            let address = std::net::Ipv4Addr::from(0xcb00_7100 + host);
            let prefix = levee_api::prefix::Prefix::host(address.into());
            Spec::Blackhole { prefix, direction: crate::ledger::Direction::Destination }
        };
        let announce = |rib: &mut Rib, id: u32| {
            rib.announce("core", MitigationId(id.into()), &spec(id), Duration::from_secs(60)).unwrap()
        };
        let first = announce(&mut rib, 1);
        announce(&mut rib, 2);
        rib.announce("other", MitigationId(9), &spec(9), Duration::from_secs(60)).unwrap();
        rib.withdraw("core", MitigationId(1));
        let changed = |rib: &Rib, since| rib.changed_since("core", since).map(|changed| changed.len());
        assert_eq!((changed(&rib, 0), changed(&rib, first), changed(&rib, rib.version())), (Some(2), Some(2), Some(0)));
        let gone = Arc::new(destination(&spec(1)).unwrap());
        assert_eq!(rib.chosen_for("core", &gone), None);
        assert!(rib.changed_since("core", first).unwrap().contains(&gone));
        for id in 10..10 + u32::try_from(REMEMBERED).unwrap() {
            announce(&mut rib, id);
        }
        assert_eq!((changed(&rib, first), changed(&rib, rib.version() - 3)), (None, Some(3)));
    }
}
