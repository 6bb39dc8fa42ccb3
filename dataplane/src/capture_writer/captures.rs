//! Which packets go into which file: from the detector's events and the workers' rings to captures.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use levee_api::filter::Target;
use levee_api::lane::Bits;
use levee_api::role::Role;
use levee_engine::capture::{Consumer, Record};
use levee_engine::detect::event::{Event, Phase, What};
use levee_engine::packet::{Direction, Kind, Lanes, Layers, Packet, parse};
use levee_engine::time::Timestamp;

use super::description::{Description, Truncated};
use super::filter_ids::FilterIds;
use super::recording::Recording;
use super::store::{CreateError, Store};
use super::{Counts, Moment, Setup};
use crate::files::FileError;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything about captures, without a thread or a clock of its own.
pub struct Captures {
    setup: Setup,
    store: Store,
    rings: Vec<Ring>,
    /// Roles that are above their threshold, of targets that have any.
    alarmed: BTreeMap<Target, BTreeSet<Role>>,
    recordings: BTreeMap<Target, Recording>,
    filters: FilterIds,
    counts: Arc<Counts>,
    /// The last capture could not be written: told once.
    failing: bool,
}

struct Ring {
    consumer: Consumer,
    /// The record to be read next; it means nothing while nothing is recorded.
    next: u64,
}

/// A record, and what parsing it found.
struct Seen {
    record: Record,
    layers: Layers,
    /// The address inside.
    address: IpAddr,
}

impl Captures {
    /// Looks at what is on disk; nothing is recorded yet.
    pub fn new(setup: Setup, rings: Vec<Consumer>, counts: Arc<Counts>, moment: Moment) -> Self {
        let retention = DAY * u32::from(setup.capture.retention_days);
        let store = Store::open(setup.folder.clone(), setup.capture.quota_bytes, retention, moment.wall);
        Self {
            setup,
            store,
            rings: rings.into_iter().map(|consumer| Ring { consumer, next: 0 }).collect(),
            alarmed: BTreeMap::new(),
            recordings: BTreeMap::new(),
            filters: FilterIds::default(),
            counts,
            failing: false,
        }
    }

    /// True while some capture is being written.
    pub fn is_recording(&self) -> bool {
        !self.recordings.is_empty()
    }

    /// Begins, extends and ends captures as the detector's findings demand.
    pub fn observe(&mut self, event: &Event, moment: Moment) {
        match &event.what {
            What::FilterInstalled { filter, counter, .. } => self.filters.learn(*counter, filter.id, event.at),
            What::Classified { target, vectors, .. } => {
                if let Some(recording) = self.recordings.get_mut(target) {
                    let names = vectors.iter().map(|found| found.vector.to_string());
                    for name in names {
                        if !recording.description.vectors.contains(&name) {
                            recording.description.vectors.push(name);
                        }
                    }
                }
            }
            What::Phase { target, role, to: Phase::Normal, .. } | What::Merged { host: target, role, .. } => {
                self.calm(target, *role, moment);
            }
            What::Phase { target, role, to, .. } => {
                let known = self.alarmed.contains_key(target);
                self.alarmed.entry(target.clone()).or_default().insert(*role);
                if !known && !self.recordings.contains_key(target) {
                    // Why there is none is told where it is found.
                    let _ = self.begin(target, event.at, None, moment);
                }
                if let Some(recording) = self.recordings.get_mut(target) {
                    recording.add_role(*role);
                    recording.description.attack |= *to == Phase::Attack;
                }
            }
            _ => {}
        }
    }

    /// A role of a target is over, or goes on as that of its prefix.
    fn calm(&mut self, target: &Target, role: Role, moment: Moment) {
        let Some(roles) = self.alarmed.get_mut(target) else { return };
        roles.remove(&role);
        if roles.is_empty() {
            self.alarmed.remove(target);
            self.read_rings(moment);
            if self.recordings.get(target).is_some_and(|recording| !recording.is_asked_for(moment.now)) {
                self.seal(target, None, moment);
            }
        }
    }

    /// Begins the capture that somebody asks for, or goes on for longer with the one that is being written: the name of its
    /// file, once it is complete.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn ask(&mut self, target: &Target, duration: Option<Duration>, moment: Moment) -> Result<String, String> {
        let most = self.setup.capture.incident_duration;
        let until = moment.now + duration.map_or(most, |duration| duration.min(most));
        if !self.recordings.contains_key(target) {
            self.begin(target, moment.now, Some(until), moment)?;
        }
        let recording = self.recordings.get_mut(target).ok_or("nothing could be written")?;
        recording.ask_for(until);
        Ok(recording.file_name())
    }

    /// Takes over what the workers have captured since.
    pub fn read_rings(&mut self, moment: Moment) {
        if self.recordings.is_empty() {
            return;
        }
        let (seen, missed) =
            self.rings.iter_mut().map(Ring::read).fold((Vec::new(), 0), |(mut all, missed), (seen, more)| {
                all.extend(seen);
                (all, missed + more)
            });
        Counts::add(&self.counts.missed_packets, missed);
        for recording in self.recordings.values_mut() {
            recording.description.missed += missed;
        }
        let everybody: Vec<Target> = self.recordings.keys().cloned().collect();
        self.deliver(seen, &everybody, moment);
    }

    /// Deletes captures whose time is over.
    pub fn sweep(&mut self, moment: Moment) {
        self.store.sweep(moment.wall);
    }

    /// Seals what is being written.
    pub fn end(&mut self, moment: Moment) {
        self.read_rings(moment);
        while let Some(target) = self.recordings.keys().next().cloned() {
            self.seal(&target, Some(Truncated::Interrupted), moment);
        }
    }

    /// The capture of a target: first what the rings hold of it.
    /// `asked`: until when somebody wants it.
    fn begin(
        &mut self,
        target: &Target,
        at: Timestamp,
        asked: Option<Timestamp>,
        moment: Moment,
    ) -> Result<(), String> {
        let Some(prefix) = target.prefix else {
            return Err("a capture is of a prefix, not of a whole zone".to_owned());
        };
        if !self.setup.capture.is_on() || self.rings.is_empty() {
            return Err("captures are switched off: see [dataplane.capture]".to_owned());
        }
        self.read_rings(moment);
        if self.recordings.is_empty() {
            // Nobody has read on.
            self.rings.iter_mut().for_each(|ring| ring.next = ring.consumer.head());
        }
        let description = Recording::describe(&prefix, &target.zone, &self.setup, moment);
        match self.store.create(&prefix, moment.wall, self.setup.capture.incident_bytes, &description) {
            Ok(begun) => {
                let mut recording = Recording::new(prefix, begun, description, &self.setup, at, moment);
                if let Some(until) = asked {
                    recording.ask_for(until);
                }
                self.recordings.insert(target.clone(), recording);
                let history = self.rings.iter().flat_map(Ring::history).collect();
                self.deliver(history, std::slice::from_ref(target), moment);
                Ok(())
            }
            Err(error @ CreateError::Full { .. }) => {
                Counts::add(&self.counts.refused, 1);
                tracing::info!("no capture of {prefix}: {error}");
                Err(error.to_string())
            }
            Err(CreateError::File(error)) => {
                self.fail(&error);
                Err(error.to_string())
            }
        }
    }

    /// Writes what is of these targets, in the order of time, and ends captures that are full.
    fn deliver(&mut self, mut seen: Vec<Seen>, targets: &[Target], moment: Moment) {
        seen.sort_by_key(|seen| seen.record.at);
        for target in targets {
            let is_alarmed = self.alarmed.contains_key(target);
            let Some(recording) = self.recordings.get_mut(target) else { continue };
            let prefix = recording.prefix;
            let written = seen
                .iter()
                .filter(|seen| prefix.contains(seen.address))
                .try_for_each(|seen| recording.add(&seen.record, &seen.layers, &self.filters))
                .and_then(|()| recording.flush());
            let over = !is_alarmed && !recording.is_asked_for(moment.now);
            match (written, recording.end(moment.now)) {
                (Err(reason), _) => self.abandon(target, reason, moment),
                (Ok(()), Some(end)) => self.seal(target, Some(end), moment),
                (Ok(()), None) if over => self.seal(target, None, moment),
                (Ok(()), None) => {}
            }
        }
    }

    fn seal(&mut self, target: &Target, truncated: Option<Truncated>, moment: Moment) {
        let Some(recording) = self.recordings.remove(target) else { return };
        let (begun, length, description) = recording.finish(truncated, moment.wall);
        match self.store.seal(begun, length, &description) {
            Ok(()) => {
                Counts::add(&self.counts.sealed, 1);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("captures are written again");
                }
                let Description { target, packets, packets_before, .. } = &description;
                tracing::info!("captured {packets} packets of {target}, {packets_before} from before it was noticed");
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Gives up a capture that cannot be written; what there is of it is kept, if that is possible.
    fn abandon(&mut self, target: &Target, reason: io::Error, moment: Moment) {
        let Some(recording) = self.recordings.get(target) else { return };
        let error = recording.failure(reason, &self.store);
        self.seal(target, Some(Truncated::Disk), moment);
        self.fail(&error);
    }

    fn fail(&mut self, error: &FileError) {
        Counts::add(&self.counts.failed, 1);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!("captures stop, forwarding and filtering go on: {error}; each new incident tries again");
        }
    }
}

impl Ring {
    /// What has come since the last time, and how much of that was overwritten before.
    fn read(&mut self) -> (Vec<Seen>, u64) {
        let head = self.consumer.head();
        let oldest = self.consumer.oldest(head).max(self.next);
        let mut missed = oldest - self.next;
        let seen = self.copy(oldest, head, &mut missed);
        self.next = head;
        (seen, missed)
    }

    /// All that is there of what has been read before.
    fn history(&self) -> Vec<Seen> {
        // The oldest ones go while they are being read, which is in the nature of a ring.
        self.copy(self.consumer.oldest(self.consumer.head()), self.next, &mut 0)
    }

    fn copy(&self, from: u64, to: u64, missed: &mut u64) -> Vec<Seen> {
        let mut words = [0; _];
        let read = |number| {
            let there = self.consumer.read(number, &mut words);
            *missed += u64::from(!there);
            there.then(|| Seen::of(Record::decode(&words)?)).flatten()
        };
        (from..to).filter_map(read).collect()
    }
}

impl Seen {
    /// None for packets without addresses.
    fn of(record: Record) -> Option<Self> {
        let mut lanes = Lanes::default();
        let layers = parse(&Packet { head: record.bytes(), wire_len: record.wire_len }, &mut lanes);
        if matches!(
            layers.kind,
            Kind::Other | Kind::Heartbeat | Kind::TooDeep | Kind::Malformed { addressed: false, .. }
        ) {
            return None;
        }
        let pieces = if record.direction == Direction::Inbound { lanes.destination() } else { lanes.source() };
        let address = match pieces {
            [.., high, low] if !lanes.bits().contains(Bits::IPV6) => {
                IpAddr::from(((u32::from(high) << 16) | u32::from(low)).to_be_bytes())
            }
            pieces => IpAddr::from(pieces),
        };
        Some(Self { record, layers, address })
    }
}

#[cfg(test)]
#[path = "captures_test.rs"]
mod tests;
