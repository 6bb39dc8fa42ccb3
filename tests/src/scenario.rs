//! Captures composed of legitimate conversations and attacks, with labels of truth.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    net::Ipv4Addr,
    path::Path,
};

use ipnet::Ipv4Net;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::{
    attack::{Attack, Kind},
    capture::Capture,
    conversation::{self, Event},
    frame::Link,
};

const SECOND: u64 = 1_000_000_000;

/// What happens in a capture. Times are in seconds from its start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Everything random follows from it.
    #[serde(default)]
    pub seed: u64,
    /// Length; conversations that are still open then are cut off.
    pub duration_s: u32,
    /// The first second of the capture by the wall clock.
    #[serde(default = "june_2025")]
    pub start_unix_s: u32,
    /// Legitimate traffic.
    #[serde(default)]
    pub benign: Benign,
    /// Attacks, side by side.
    #[serde(default, rename = "attack")]
    pub attacks: Vec<Component>,
}

/// Legitimate traffic: how many conversations begin each second.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Benign {
    /// The protected hosts that take part.
    pub servers: Vec<Ipv4Addr>,
    /// TCP connections to port 443.
    pub web_per_s: u32,
    /// Players on UDP port 27015.
    pub game_per_s: u32,
    /// Lookups by the protected hosts.
    pub dns_per_s: u32,
}

/// One attack.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// What is sent.
    pub kind: Kind,
    /// Attacked prefix; one address as `/32`.
    pub target: Ipv4Net,
    /// Attacked port.
    pub port: Option<u16>,
    /// Packets a second.
    pub rate_pps: u32,
    /// Beginning.
    pub onset_s: f64,
    /// From the beginning to the end.
    pub duration_s: f64,
    /// A pulse wave: so long on and off in turn.
    pub pulse: Option<Pulse>,
}

/// A pulse wave.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pulse {
    /// Length of a pulse.
    pub on_s: f64,
    /// Length of the gap behind it.
    pub off_s: f64,
}

fn june_2025() -> u32 {
    1_750_000_000
}

/// One packet of a composed capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since the epoch; strictly increasing.
    pub unix_ns: u64,
    /// Whether it comes from outside.
    pub inbound: bool,
    /// What it belongs to; `None` for legitimate traffic.
    pub attack: Option<Kind>,
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
    Output(io::Error),
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
}

impl Scenario {
    /// Reads a scenario file (TOML; the fields of this type).
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|source| at(path, source))?;
        toml::from_str(&text)
            .map_err(|source| ScenarioError::Syntax { path: path.display().to_string(), source: Box::new(source) })
    }

    /// Hands out all packets in order of time.
    pub fn compose(&self, mut take: impl FnMut(Packet) -> io::Result<()>) -> Result<(), ScenarioError> {
        let mut benign = self.conversations()?.into_iter().peekable();
        let mut floods: Vec<Flood> = (0u64..).zip(&self.attacks).map(|(i, c)| Flood::new(c, self.seed, i)).collect();
        let end = u64::from(self.duration_s) * SECOND;
        let start = u64::from(self.start_unix_s) * SECOND;
        let mut last = 0;
        loop {
            let flood = floods.iter_mut().filter(|flood| !flood.over()).min_by_key(|flood| flood.next_ns);
            let (at, packet) = match (benign.peek(), flood) {
                (Some(event), Some(flood)) if flood.next_ns < event.at_ns => (flood.next_ns, flood.packet()),
                (Some(_), _) => match benign.next() {
                    Some(event) => (event.at_ns, (event.inbound, None, event.frame)),
                    None => break,
                },
                (None, Some(flood)) => (flood.next_ns, flood.packet()),
                (None, None) => break,
            };
            if at >= end {
                break;
            }
            last = (start + at).max(last + 1);
            let (inbound, attack, frame) = packet;
            take(Packet { unix_ns: last, inbound, attack, frame }).map_err(ScenarioError::Output)?;
        }
        Ok(())
    }

    /// Writes both captures and, on request, the labels of the packets from outside (CSV: number from 1, label).
    pub fn write(&self, outside: &Path, inside: &Path, labels: Option<&Path>) -> Result<(), ScenarioError> {
        let mut captures = [
            Capture::create(inside).map_err(|source| at(inside, source))?,
            Capture::create(outside).map_err(|source| at(outside, source))?,
        ];
        let mut labels_out = match labels {
            Some(path) => Some(BufWriter::new(File::create(path).map_err(|source| at(path, source))?)),
            None => None,
        };
        if let Some(out) = &mut labels_out {
            writeln!(out, "packet,label").map_err(ScenarioError::Output)?;
        }
        let mut number = 0u64;
        self.compose(|packet| {
            captures[usize::from(packet.inbound)].write(packet.unix_ns, &packet.frame)?;
            if packet.inbound {
                number += 1;
                if let Some(out) = &mut labels_out {
                    let label = packet.attack.map_or("benign".to_owned(), |kind| kind.to_string());
                    writeln!(out, "{number},{label}")?;
                }
            }
            Ok(())
        })?;
        for capture in captures {
            capture.finish().map_err(ScenarioError::Output)?;
        }
        labels_out.map_or(Ok(()), |mut out| out.flush().map_err(ScenarioError::Output))
    }

    fn conversations(&self) -> Result<Vec<Event>, ScenarioError> {
        let benign = &self.benign;
        let kinds = [benign.web_per_s, benign.game_per_s, benign.dns_per_s];
        if benign.servers.is_empty() && kinds.iter().any(|rate| *rate > 0) {
            return Err(ScenarioError::NoServers);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let end = u64::from(self.duration_s) * SECOND;
        let mut events = Vec::new();
        for (kind, rate) in kinds.into_iter().enumerate().filter(|(_, rate)| *rate > 0) {
            let gap = SECOND / u64::from(rate);
            let mut at = rng.random_range(0..=gap);
            while at < end {
                let server = benign.servers[rng.random_range(0..benign.servers.len())];
                events.extend(match kind {
                    0 => conversation::web(at, server, 443, Link::default(), &mut rng),
                    1 => conversation::game(at, server, 27_015, Link::default(), &mut rng),
                    _ => conversation::dns(at, server, Link::default(), &mut rng),
                });
                at += rng.random_range(0..=2 * gap);
            }
        }
        events.sort_by_key(|event| event.at_ns);
        Ok(events)
    }
}

/// An attack on the scenario's clock.
struct Flood {
    kind: Kind,
    attack: Attack,
    gap_ns: u64,
    next_ns: u64,
    end_ns: u64,
    pulse: Option<(u64, u64)>,
    onset_ns: u64,
    rng: ChaCha8Rng,
}

impl Flood {
    fn new(component: &Component, seed: u64, index: u64) -> Self {
        // Side by side, attacks of one scenario must differ though they share its seed.
        let seed = seed.wrapping_mul(1_000).wrapping_add(index + 1);
        let onset_ns = nanoseconds(component.onset_s);
        Self {
            kind: component.kind,
            attack: Attack::new(component.kind, component.target, component.port, seed, Link::default()),
            gap_ns: SECOND / u64::from(component.rate_pps.max(1)),
            next_ns: onset_ns,
            end_ns: onset_ns.saturating_add(nanoseconds(component.duration_s)),
            pulse: component.pulse.map(|pulse| (nanoseconds(pulse.on_s), nanoseconds(pulse.off_s))),
            onset_ns,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn over(&self) -> bool {
        self.next_ns >= self.end_ns
    }

    fn packet(&mut self) -> (bool, Option<Kind>, Vec<u8>) {
        let mut frame = Vec::new();
        self.attack.next_frame(&mut frame);
        self.next_ns += self.rng.random_range(0..=2 * self.gap_ns).max(1);
        if let Some((on, off)) = self.pulse {
            let phase = (self.next_ns - self.onset_ns) % (on + off).max(1);
            if phase >= on {
                self.next_ns += on + off - phase;
            }
        }
        (true, Some(self.kind), frame)
    }
}

/// Seconds to nanoseconds; negative and absurd values become the nearest possible.
fn nanoseconds(seconds: f64) -> u64 {
    crate::time_bins::ns(std::time::Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default())
}

fn at(path: &Path, source: io::Error) -> ScenarioError {
    ScenarioError::File { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;

    const TEXT: &str = r#"
        seed = 9
        duration_s = 4
        [benign]
        servers = ["203.0.113.9", "203.0.113.10"]
        web_per_s = 20
        game_per_s = 2
        dns_per_s = 5
        [[attack]]
        kind = "syn-flood"
        target = "203.0.113.9/32"
        rate_pps = 2000
        onset_s = 1.5
        duration_s = 2
        pulse = { on_s = 0.5, off_s = 0.5 }
        [[attack]]
        kind = "dns-amplification"
        target = "203.0.113.0/24"
        rate_pps = 1000
        onset_s = 2
        duration_s = 1
    "#;

    fn packets(scenario: &Scenario) -> Vec<Packet> {
        let mut all = Vec::new();
        scenario
            .compose(|packet| {
                all.push(packet);
                Ok(())
            })
            .unwrap();
        all
    }

    #[test]
    fn a_scenario_is_the_same_every_time_in_order_and_labelled_by_truth() {
        let scenario: Scenario = toml::from_str(TEXT).unwrap();
        let all = packets(&scenario);
        assert_eq!(all, packets(&scenario));
        assert!(all.is_sorted_by(|a, b| a.unix_ns < b.unix_ns));
        for packet in all.iter().filter(|packet| packet.inbound) {
            let source: [u8; 4] = packet.frame[26..30].try_into().unwrap();
            assert_eq!(packet.attack.is_some(), address::is_attacker(source.into()));
        }
        let of = |kind| all.iter().filter(|p| p.attack == kind).count();
        assert!((1_700..2_300).contains(&of(Some(Kind::SynFlood))), "{}", of(Some(Kind::SynFlood)));
        assert!((850..1_150).contains(&of(Some(Kind::DnsAmplification))), "{}", of(Some(Kind::DnsAmplification)));
        assert!(of(None) > 1_000);
    }

    #[test]
    fn attacks_keep_to_their_times() {
        let scenario: Scenario = toml::from_str(TEXT).unwrap();
        let start = u64::from(scenario.start_unix_s) * SECOND;
        for packet in packets(&scenario).iter().filter(|p| p.attack == Some(Kind::SynFlood)) {
            let ms = (packet.unix_ns - start) / 1_000_000;
            assert!((1_500..2_000).contains(&ms) || (2_500..3_000).contains(&ms), "{ms}");
        }
    }

    #[test]
    fn files_and_labels_agree() {
        let scenario: Scenario = toml::from_str(TEXT).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        scenario.write(&path("out.pcap"), &path("in.pcap"), Some(&path("labels.csv"))).unwrap();
        let all = packets(&scenario);
        let size = |inbound: bool| {
            24 + all.iter().filter(|p| p.inbound == inbound).map(|p| 16 + p.frame.len() as u64).sum::<u64>()
        };
        assert_eq!(std::fs::metadata(path("out.pcap")).unwrap().len(), size(true));
        assert_eq!(std::fs::metadata(path("in.pcap")).unwrap().len(), size(false));
        let labels = std::fs::read_to_string(path("labels.csv")).unwrap();
        assert_eq!(labels.lines().count(), 1 + all.iter().filter(|p| p.inbound).count());
        assert_eq!(
            labels.lines().filter(|line| line.ends_with("syn-flood")).count(),
            all.iter().filter(|p| p.attack == Some(Kind::SynFlood)).count()
        );
    }

    #[test]
    fn clients_without_servers_are_an_error() {
        let scenario: Scenario = toml::from_str("duration_s = 1\nbenign = { web_per_s = 1 }").unwrap();
        assert!(matches!(scenario.compose(|_| Ok(())), Err(ScenarioError::NoServers)));
    }
}
