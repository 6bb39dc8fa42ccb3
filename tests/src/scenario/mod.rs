//! Captures composed of legitimate conversations and attacks, with labels of truth.

mod packets;
mod queue;
mod schedule;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write},
    net::IpAddr,
    path::Path,
};

use ipnet::IpNet;
use serde::Deserialize;

use crate::{attack, capture::Capture, conversation};

pub use packets::Packets;
pub(crate) use queue::Queue;
pub use schedule::{Pulse, Ramp};

/// What happens in a capture. Times are in seconds from its start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Everything random follows from it.
    #[serde(default)]
    pub seed: u64,
    /// Length; conversations that are still open then are cut off.
    pub duration_s: f64,
    /// The first second of the capture by the wall clock.
    #[serde(default = "june_2025")]
    pub start_unix_s: u32,
    /// Legitimate traffic.
    #[serde(default)]
    pub benign: Benign,
    /// Legitimate traffic that rises suddenly.
    #[serde(default, rename = "crowd")]
    pub crowds: Vec<Crowd>,
    /// Attacks, side by side.
    #[serde(default, rename = "attack")]
    pub attacks: Vec<Component>,
}

/// Legitimate traffic.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Benign {
    /// The protected hosts that take part.
    pub servers: Vec<IpAddr>,
    /// Conversations that begin each second, by kind, on average and at random.
    pub per_s: BTreeMap<conversation::Kind, f64>,
}

/// Legitimate traffic that rises suddenly.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crowd {
    /// What everybody wants.
    pub kind: conversation::Kind,
    /// From whom.
    pub server: IpAddr,
    /// Conversations that begin each second, in the end.
    pub per_s: f64,
    /// Beginning.
    pub onset_s: f64,
    /// From the beginning until nobody comes any more.
    pub duration_s: f64,
    /// From nothing to the full rate.
    #[serde(default)]
    pub rise_s: f64,
}

/// One attack.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// What is sent.
    pub kind: attack::Kind,
    /// Attacked prefix; one address as `/32` or `/128`.
    pub target: IpNet,
    /// Attacked port; without one that of the kind, or ports at random.
    pub port: Option<u16>,
    /// Number of attacking addresses; without one as many as is usual for the kind.
    pub sources: Option<u32>,
    /// Packets a second, where a datagram in fragments is one, or connections a second of a kind that needs them.
    pub rate_per_s: f64,
    /// Beginning.
    pub onset_s: f64,
    /// From the beginning to the end.
    pub duration_s: f64,
    /// Servers answer what reaches them, as the kind makes them do. Connections are answered in any case.
    #[serde(default)]
    pub answered: bool,
    /// A pulse wave: so long on and off in turn.
    pub pulse: Option<Pulse>,
    /// A slow beginning.
    pub ramp: Option<Ramp>,
    /// One address after the other, so long each, instead of all at random.
    pub dwell_s: Option<f64>,
}

impl Component {
    /// Beginning and end of each time that packets come: one, or one for each pulse. Seconds from the start.
    pub fn spans(&self) -> Vec<(f64, f64)> {
        let end_s = self.onset_s + self.duration_s;
        let Some(Pulse { on_s, off_s }) = self.pulse else { return vec![(self.onset_s, end_s)] };
        let onsets = (0u32..).map(|pulse| self.onset_s + f64::from(pulse) * (on_s + off_s));
        onsets.take_while(|onset_s| *onset_s < end_s).map(|onset_s| (onset_s, (onset_s + on_s).min(end_s))).collect()
    }
}

fn june_2025() -> u32 {
    1_750_000_000
}

/// The truth about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Legitimate.
    Benign,
    /// Legitimate, of a crowd.
    Crowd,
    /// Of an attacker, before the attack and like anyone else's.
    Prelude,
    /// Of an attack: its position in [`Scenario::attacks`].
    Attack(usize),
}

/// One packet of a composed capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since the epoch; strictly increasing.
    pub unix_ns: u64,
    /// Whether it comes from outside.
    pub inbound: bool,
    /// What it belongs to.
    pub label: Label,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Why a scenario cannot be composed.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A file cannot be read or created.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A composed packet cannot be handed on.
    #[error("writing the captures: {0}")]
    Output(#[from] io::Error),
    /// Not a scenario.
    #[error("{path}: {source}")]
    Syntax {
        /// Which file.
        path: String,
        /// Line, column and what is wrong.
        source: Box<toml::de::Error>,
    },
    /// Legitimate traffic without anybody to talk to.
    #[error("benign traffic needs `servers`: list at least one protected address in [benign]")]
    NoServers,
    /// A rate that says nothing.
    #[error("{what}: a rate of {rate} a second is none: give a number above 0, at most 100000000")]
    Rate {
        /// Of what.
        what: String,
        /// As given.
        rate: f64,
    },
    /// There are no such packets.
    #[error("{kind} does not exist towards {target}: give it a target of the other version of IP")]
    Family {
        /// What was to be sent.
        kind: attack::Kind,
        /// To whom.
        target: IpNet,
    },
}

impl Scenario {
    /// Reads a scenario file (TOML; the fields of this type).
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|source| at(path, source))?;
        toml::from_str(&text)
            .map_err(|source| ScenarioError::Syntax { path: path.display().to_string(), source: Box::new(source) })
    }

    /// All packets in order of time, made as they are asked for.
    ///
    /// # Errors
    /// When it asks for what does not exist.
    pub fn packets(&self) -> Result<Packets, ScenarioError> {
        Packets::new(self)
    }

    /// Writes both captures and, on request, the labels of the packets from outside (CSV: number from 1, label).
    ///
    /// # Errors
    /// When it asks for what does not exist, or a file cannot be written.
    pub fn write(&self, outside: &Path, inside: &Path, labels: Option<&Path>) -> Result<(), ScenarioError> {
        let mut labels =
            labels.map(|path| File::create(path).map(BufWriter::new).map_err(|source| at(path, source))).transpose()?;
        if let Some(out) = &mut labels {
            writeln!(out, "packet,label")?;
        }
        let mut number = 0u64;
        self.write_noting(outside, inside, |packet| {
            number += 1;
            labels.as_mut().map_or(Ok(()), |out| writeln!(out, "{number},{}", self.name(packet.label)))
        })?;
        Ok(labels.map_or(Ok(()), |mut out| out.flush())?)
    }

    /// Writes both captures and shows each packet from outside to `note`.
    ///
    /// # Errors
    /// As [`Self::write`], and those of `note`.
    pub fn write_noting(
        &self,
        outside: &Path,
        inside: &Path,
        mut note: impl FnMut(&Packet) -> io::Result<()>,
    ) -> Result<(), ScenarioError> {
        let packets = self.packets()?;
        let mut captures = [
            Capture::create(inside).map_err(|source| at(inside, source))?,
            Capture::create(outside).map_err(|source| at(outside, source))?,
        ];
        for packet in packets {
            captures[usize::from(packet.inbound)].write(packet.unix_ns, &packet.frame)?;
            if packet.inbound {
                note(&packet)?;
            }
        }
        for capture in captures {
            capture.finish()?;
        }
        Ok(())
    }

    /// The name of a label in files: an attack's is its kind.
    pub fn name(&self, label: Label) -> &'static str {
        match label {
            Label::Benign => "benign",
            Label::Crowd => "crowd",
            Label::Prelude => "prelude",
            Label::Attack(at) => self.attacks.get(at).map_or("attack", |attack| attack.kind.name()),
        }
    }
}

fn at(path: &Path, source: io::Error) -> ScenarioError {
    ScenarioError::File { path: path.display().to_string(), source }
}
