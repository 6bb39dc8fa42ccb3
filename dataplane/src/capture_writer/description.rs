//! The JSON beside a capture: what it is of, and whether it is whole.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};

/// What there is to say about a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The host or prefix that was attacked.
    pub target: String,
    /// Its zone.
    pub zone: String,
    /// When the anomaly was found.
    pub detected_at: String,
    /// Time of the first packet.
    pub first_packet_at: Option<String>,
    /// Time of the last packet.
    pub last_packet_at: Option<String>,
    /// Roles that were above their thresholds.
    pub roles: Vec<String>,
    /// What the attack was classified as, most likely first.
    pub vectors: Vec<String>,
    /// There was evidence besides the rate; false: it was only watched.
    pub attack: bool,
    /// Somebody has asked for it, for as long as it says or longer.
    #[serde(default)]
    pub asked: bool,
    /// Packets in the file.
    pub packets: u64,
    /// Packets from before the anomaly was found.
    pub packets_before: u64,
    /// Records of the rings that were overwritten before they were read, while this was being written; some may have
    /// been of this target.
    pub missed: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Outside addresses are cut to /24 and /48.
    pub addresses_truncated: bool,
    /// False while it is being written.
    pub sealed: bool,
    /// When that ended.
    pub sealed_at: Option<String>,
    /// Why it ends before the incident did.
    pub truncated: Option<Truncated>,
    /// SHA-256 of the file, in hexadecimal; none while it is being written.
    pub sha256: Option<String>,
}

/// Why a capture ends before its incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncated {
    /// The bytes of an incident were used up.
    Bytes,
    /// The packets of an incident were used up.
    Packets,
    /// The time of an incident was over.
    Duration,
    /// The dataplane ended.
    Interrupted,
    /// It could not be written any more.
    Disk,
}

impl Description {
    /// Writes it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| FileError {
            doing: "write",
            path: path.to_owned(),
            reason: error.into(),
        })?;
        text.push(b'\n');
        files::replace(path, &text)
    }

    /// Reads it; none if there is none that can be understood.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&files::read(path).ok()??).ok()
    }
}
