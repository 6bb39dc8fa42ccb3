//! What shall be announced, by which announcer, until when.

use std::collections::BTreeMap;
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
    pub destination: Destination,
    /// When it ends by itself, on the speaker's clock.
    pub until: Duration,
}

/// Everything that shall be announced.
#[derive(Debug, Default)]
pub struct Rib {
    entries: BTreeMap<(String, MitigationId), Entry>,
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
        let destination = destination(spec)?;
        let entry = Entry { spec: spec.clone(), destination, until };
        let before = self.entries.insert((announcer.to_owned(), id), entry);
        if before.is_none_or(|before| before.spec != *spec) {
            self.version += 1;
        }
        Ok(self.version)
    }

    /// Withdraws a measure. The version from which on it is gone.
    pub fn withdraw(&mut self, announcer: &str, id: MitigationId) -> u64 {
        if self.entries.remove(&(announcer.to_owned(), id)).is_some() {
            self.version += 1;
        }
        self.version
    }

    /// Withdraws what has come to its end; true when something has.
    pub fn expire(&mut self, now: Duration) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.until > now);
        let changed = self.entries.len() != before;
        self.version += u64::from(changed);
        changed
    }

    /// When something comes to its end next.
    pub fn next_end(&self) -> Option<Duration> {
        self.entries.values().map(|entry| entry.until).min()
    }

    /// Counts changes.
    pub const fn version(&self) -> u64 {
        self.version
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
    pub fn chosen<'r>(&'r self, announcer: &'r str) -> BTreeMap<&'r Destination, (MitigationId, &'r Spec)> {
        self.of(announcer).map(|(id, entry)| (&entry.destination, (id, &entry.spec))).collect()
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
        let chosen =
            |rib: &Rib| rib.chosen("core").into_values().map(|(id, spec)| (id.0, spec.clone())).collect::<Vec<_>>();
        assert_eq!(chosen(&rib), [(2, drop)]);
        let version = rib.version();
        assert!(rib.expire(Duration::from_secs(30)) && rib.version() > version);
        assert_eq!(chosen(&rib), [(1, limit)]);
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
}
