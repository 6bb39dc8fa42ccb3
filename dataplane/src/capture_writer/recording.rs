//! One capture while it is being written: its budget, and what is known of it.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use levee_api::prefix::Prefix;
use levee_api::role::Role;
use levee_engine::capture::{Fate, Record, SNAP};
use levee_engine::packet::{Direction, Layers};
use levee_engine::time::Timestamp;
use sha2::{Digest, Sha256};

use super::description::{Description, Truncated};
use super::filter_ids::FilterIds;
use super::outside_address;
use super::store::{Begun, hexadecimal};
use super::{Moment, Setup, utc};
use crate::capture_file::pcapng_blocks;
use crate::files::FileError;

/// What of an incident's bytes is kept for the description beside the file.
pub(super) const DESCRIPTION_ROOM: u64 = 4 << 10;
/// Collected bytes are written when there are more than so many.
const PENDING: usize = 1 << 20;

/// A capture that is being written.
pub(super) struct Recording {
    /// What it is of.
    pub(super) prefix: Prefix,
    /// What is known of it.
    pub(super) description: Description,
    begun: Begun,
    /// Blocks that are not in the file yet.
    pending: Vec<u8>,
    hash: Sha256,
    /// Bytes in the file.
    written: u64,
    bytes_left: u64,
    packets_left: u64,
    detected_at: Timestamp,
    until: Timestamp,
    /// The epoch on the clock of packets: the time of the world when that clock stood at zero.
    zero: Duration,
    truncate_addresses: bool,
    full: Option<Truncated>,
    /// Until when somebody wants it, whatever becomes of the alarm.
    asked_until: Option<Timestamp>,
}

impl Recording {
    /// The description a capture begins with.
    pub(super) fn describe(target: &Prefix, zone: &str, setup: &Setup, moment: Moment) -> Description {
        Description {
            target: target.to_string(),
            zone: zone.to_owned(),
            detected_at: utc::rfc3339(moment.wall),
            addresses_truncated: setup.capture.truncate_addresses,
            ..Description::default()
        }
    }

    /// The beginning of a file for what was `detected_at` this time.
    pub(super) fn new(
        prefix: Prefix,
        begun: Begun,
        mut description: Description,
        setup: &Setup,
        detected_at: Timestamp,
        moment: Moment,
    ) -> Self {
        let mut pending = Vec::new();
        let since_epoch = moment.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let zero = since_epoch.saturating_sub(Duration::from_nanos(moment.now.0));
        description.detected_at = utc::rfc3339(UNIX_EPOCH + zero + Duration::from_nanos(detected_at.0));
        let mut comment = format!("packets to and from {prefix} of zone {:?}", description.zone);
        if setup.capture.truncate_addresses {
            comment += "; outside addresses are cut to their /24 or /48, so checksums do not match";
        }
        pcapng_blocks::section_header(&mut pending, concat!("Levee ", env!("CARGO_PKG_VERSION")), &comment);
        for wire in &setup.wires {
            for direction in ["inbound", "outbound"] {
                pcapng_blocks::interface(
                    &mut pending,
                    &format!("{wire}/{direction}"),
                    u32::try_from(SNAP).unwrap_or(u32::MAX),
                );
            }
        }
        let header = u64::try_from(pending.len()).unwrap_or(u64::MAX);
        let bytes = setup.capture.incident_bytes.saturating_sub(DESCRIPTION_ROOM);
        Self {
            prefix,
            description,
            begun,
            pending,
            hash: Sha256::new(),
            written: 0,
            bytes_left: bytes.saturating_sub(header),
            packets_left: setup.capture.incident_packets,
            detected_at,
            until: detected_at + setup.capture.incident_duration,
            zero,
            truncate_addresses: setup.capture.truncate_addresses,
            full: None,
            asked_until: None,
        }
    }

    /// Somebody wants it until then at least.
    pub(super) fn ask_for(&mut self, until: Timestamp) {
        self.description.asked = true;
        self.asked_until = self.asked_until.max(Some(until));
        self.until = self.until.max(until);
    }

    /// True while somebody wants it.
    pub(super) fn is_asked_for(&self, now: Timestamp) -> bool {
        self.asked_until.is_some_and(|until| now <= until)
    }

    /// Name of its file, once it is complete.
    pub(super) fn file_name(&self) -> String {
        self.begun.file_name()
    }

    /// Adds a packet, unless the budget is used up.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn add(&mut self, record: &Record, layers: &Layers, filters: &FilterIds) -> io::Result<()> {
        if self.full.is_some() {
            return Ok(());
        }
        if record.at > self.until || self.packets_left == 0 {
            self.full = Some(if self.packets_left == 0 { Truncated::Packets } else { Truncated::Duration });
            return Ok(());
        }
        let mut cut = [0; SNAP];
        let mut data = record.bytes();
        if self.truncate_addresses
            && let Some(copy) = cut.get_mut(..data.len())
        {
            copy.copy_from_slice(data);
            let keep = outside_address::truncate(copy, layers, record.direction);
            data = copy.get(..keep).unwrap_or_default();
        }
        let at = self.zero + Duration::from_nanos(record.at.0);
        let before = self.pending.len();
        let packet = pcapng_blocks::Packet {
            interface: u32::from(record.wire) * 2 + u32::from(record.direction == Direction::Outbound),
            at: Timestamp(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)),
            direction: record.direction,
            data,
            wire_len: record.wire_len,
            comment: &comment(record, filters),
        };
        pcapng_blocks::packet(&mut self.pending, &packet);
        let length = u64::try_from(self.pending.len() - before).unwrap_or(u64::MAX);
        let Some(bytes_left) = self.bytes_left.checked_sub(length) else {
            self.pending.truncate(before);
            self.full = Some(Truncated::Bytes);
            return Ok(());
        };
        (self.bytes_left, self.packets_left) = (bytes_left, self.packets_left - 1);
        self.tell(record, UNIX_EPOCH + at);
        if self.pending.len() >= PENDING { self.flush() } else { Ok(()) }
    }

    fn tell(&mut self, record: &Record, at: SystemTime) {
        let about = &mut self.description;
        about.packets += 1;
        about.packets_before += u64::from(record.at < self.detected_at);
        about.last_packet_at = Some(utc::rfc3339(at));
        if about.first_packet_at.is_none() {
            about.first_packet_at.clone_from(&about.last_packet_at);
        }
    }

    /// Notes a role that is above its threshold.
    pub(super) fn add_role(&mut self, role: Role) {
        if !self.description.roles.iter().any(|known| known == role.name()) {
            self.description.roles.push(role.name().to_owned());
        }
    }

    /// Writes what was collected.
    ///
    /// # Errors
    /// When the system refuses; then the file is as it was, but for a part of a block that sealing cuts off.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.begun.file.write_all(&self.pending)?;
        self.hash.update(&self.pending);
        self.written += u64::try_from(self.pending.len()).unwrap_or(u64::MAX);
        self.pending.clear();
        Ok(())
    }

    /// Why it ends now although the incident goes on; none: it does not.
    pub(super) fn end(&self, now: Timestamp) -> Option<Truncated> {
        self.full.or((now > self.until).then_some(Truncated::Duration))
    }

    /// What the store needs to seal it.
    pub(super) fn finish(self, truncated: Option<Truncated>, wall: SystemTime) -> (Begun, u64, Description) {
        let mut description = self.description;
        description.bytes = self.written;
        description.truncated = truncated;
        description.sealed = true;
        description.sealed_at = Some(utc::rfc3339(wall));
        description.sha256 = Some(hexadecimal(self.hash));
        (self.begun, self.written, description)
    }

    /// What could not be done with its file.
    pub(super) fn failure(&self, reason: io::Error, store: &super::store::Store) -> FileError {
        FileError { doing: "write", path: store.partial(&self.begun), reason }
    }
}

/// What became of a packet, in words that filters of Wireshark can look for (`frame.comment contains "verdict=drop"`).
fn comment(record: &Record, filters: &FilterIds) -> String {
    let mut comment = match record.fate {
        Fate::Passed => "verdict=pass".to_owned(),
        Fate::WouldDrop(reason) => format!("verdict=pass would=drop reason={reason}"),
        Fate::Dropped(reason) => format!("verdict=drop reason={reason}"),
        Fate::Answered => "verdict=reply".to_owned(),
    };
    if let Some(filter) = record.filter.and_then(|counter| filters.at(counter, record.at)) {
        comment += &format!(" filter={filter}");
    }
    if let Some(role) = record.role {
        comment += &format!(" role={role}");
    }
    comment
}
