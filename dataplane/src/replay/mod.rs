//! `levee-dataplane replay`: the same pipeline, detector and reflex, driven by a capture's clock. Needs no DPDK, no root
//! and no hugepages, and an hour of traffic runs in seconds. The same input, configuration and state give the same output,
//! to the byte.

mod clock;
mod incidents;
mod merge;
mod report;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use levee_api::config::{Config, ConfigError};
use levee_engine::challenge::translation::GROWTH;
use levee_engine::detect::snapshot;
use levee_engine::engine::{Engine, Settings};
use levee_engine::isa::Isa;
use levee_engine::packet::{Direction, Packet};
use levee_engine::pipeline::Pipeline;
use levee_engine::target::plan::PlanError;
use levee_engine::time::Timestamp;
use levee_engine::verdict::Verdict;

use crate::baseline::store;
use crate::capture_file::{OpenError, ReadError, WriteError, Writer};
use crate::files::{self, FileError};
use crate::source_files::{self, SourceFileError};
use crate::start::on_failure;

use self::clock::Clock;
use self::incidents::Incidents;
use self::merge::Merged;
use self::report::{Report, Totals};

/// What to replay, and where to.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration; its wires are not used.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Capture of what arrived from outside (pcap or pcapng).
    #[arg(long, value_name = "CAPTURE")]
    outside_in: PathBuf,
    /// Capture of what arrived from inside.
    #[arg(long, value_name = "CAPTURE")]
    inside_in: Option<PathBuf>,
    /// Where to write what passes to the inside.
    #[arg(long, value_name = "CAPTURE")]
    inside_out: PathBuf,
    /// Where to write what passes to the outside, and replies.
    #[arg(long, value_name = "CAPTURE")]
    outside_out: Option<PathBuf>,
    /// Where to write the report (JSON).
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
    /// Directory with what was learned before; with --learn it is written.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Only learn what is usual: nothing is an attack. Needs --state.
    #[arg(long, requires = "state")]
    learn: bool,
}

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The zones cannot be laid out.
    #[error("{path}: {reason}", path = path.display())]
    Plan {
        /// The configuration file.
        path: PathBuf,
        /// Why.
        reason: PlanError,
    },
    /// A capture cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A capture is damaged.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file of the state or the report cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An address set cannot be read.
    #[error(transparent)]
    Sources(#[from] SourceFileError),
    /// An output would overwrite another output or an input.
    #[error("{path} ({second}) is the file of {first} too: give each its own", path = path.display())]
    SameFile {
        /// As given for the output.
        path: PathBuf,
        /// The option it was given for.
        second: &'static str,
        /// The option that has it already.
        first: &'static str,
    },
}

/// Conversations and hosts remembered in replay; a capture of minutes at lab rates needs less.
const CONVERSATIONS: usize = 1 << 18;
const HOSTS: usize = 1 << 13;
const FILTERS: u32 = 1 << 13;
/// Any constant will do: a capture cannot aim at the tables of the process that reads it.
const SECRET: (u64, u64) = (0x6c65_7665_655f_7265, 0x706c_6179_5f6b_6579);

/// Replays.
///
/// # Errors
/// When an input cannot be read or is damaged, or an output cannot be written. A capture that ends in the middle of a
/// packet is no error: what came before is used, and a line on stderr says so.
pub fn replay(arguments: &Arguments) -> Result<(), ReplayError> {
    refuse_same_files(arguments)?;
    let config = Config::load(&arguments.config)?;
    let mut merged = Merged::open(&arguments.outside_in, arguments.inside_in.as_deref())?;
    let start = merged.first_at()?.unwrap_or(Timestamp::ZERO);
    let settings = Settings {
        workers: NonZeroU32::MIN,
        conversations: CONVERSATIONS,
        hosts: HOSTS,
        filters: FILTERS,
        secret: SECRET,
        ceiling: config.appliance.mode,
        evicted: on_failure(config.exceptions.state_evicted),
        too_deep: on_failure(config.exceptions.encapsulation_too_deep),
        spare_slots: 0,
        learn_only: arguments.learn,
        isa: Isa::detect(),
    };
    let (mut engine, pipelines) = Engine::build(&config.zones, &config.guardrails.protected_prefixes, settings, start)
        .map_err(|reason| ReplayError::Plan { path: arguments.config.clone(), reason })?;
    let loaded = source_files::load(&config.address_sets, &config.guardrails.protected_prefixes)?;
    engine.replace_sources(loaded.sets, config.address_sets.clone());
    if let Some(state) = &arguments.state {
        let mut is_there = arguments.learn;
        let told = |told: String| {
            is_there = true;
            eprintln!("levee-dataplane: {told}");
        };
        match store::load(state, told) {
            Some(learned) => learned.give(&mut engine.detector, start),
            None if is_there => {}
            None => eprintln!(
                "levee-dataplane: {} does not exist: nothing has been learned; a replay with --learn writes it",
                store::newest(state).display()
            ),
        }
    }
    let outcome = drive(arguments, &mut merged, engine, pipelines)?;
    if let (Some(state), true) = (&arguments.state, arguments.learn) {
        store::save(state, &snapshot::write(&outcome.engine.detector))?;
    }
    files::replace(&arguments.report, outcome.report.to_json().as_bytes())?;
    Ok(())
}

struct Done {
    engine: Engine,
    report: Report,
}

/// Packet by packet, with the ticks that lie between.
fn drive(
    arguments: &Arguments,
    merged: &mut Merged,
    engine: Engine,
    mut pipelines: Vec<Pipeline>,
) -> Result<Done, ReplayError> {
    let mut inside_out = Writer::create(&arguments.inside_out)?;
    let mut outside_out = arguments.outside_out.as_ref().map(Writer::create).transpose()?;
    let (mut inbound, mut outbound) = (Totals::default(), Totals::default());
    let mut clock = Clock::new(engine, Incidents::default());
    let mut frame = Vec::new();
    let mut progress = Progress::new(merged.len_hint());
    while let Some((direction, record)) = merged.next()? {
        let now = clock.advance(record.at);
        let packet = Packet { head: record.data, wire_len: record.wire_len };
        let mut verdict = [Verdict::Forward];
        if let Some(pipeline) = pipelines.first_mut() {
            pipeline.burst(0, direction, &[packet], now, &mut verdict);
        }
        let [verdict] = verdict;
        let (totals, out, back) = match direction {
            Direction::Inbound => (&mut inbound, Some(&mut inside_out), outside_out.as_mut()),
            Direction::Outbound => (&mut outbound, outside_out.as_mut(), Some(&mut inside_out)),
        };
        totals.count(verdict);
        match (verdict, out, back) {
            (Verdict::Forward, Some(out), _) => out.write(record.at, record.data, record.wire_len)?,
            (Verdict::Translate, Some(out), _) => {
                frame.clear();
                frame.extend_from_slice(record.data);
                frame.resize(record.data.len() + GROWTH, 0);
                let pipeline = pipelines.first();
                let length = pipeline.and_then(|pipeline| pipeline.translate(0, &mut frame, record.data.len()));
                if let Some((length, passed)) = length.and_then(|length| Some((length, frame.get(..length)?))) {
                    let cut = record.wire_len.saturating_sub(u32::try_from(record.data.len()).unwrap_or(u32::MAX));
                    let wire_len = u32::try_from(length).unwrap_or(u32::MAX).saturating_add(cut);
                    out.write(record.at, passed, wire_len)?;
                }
            }
            (Verdict::Reply, _, Some(back)) => {
                frame.clear();
                frame.extend_from_slice(record.data);
                let answer = pipelines.first().and_then(|pipeline| pipeline.reply(0, &mut frame));
                if let Some(answer) = answer.and_then(|length| frame.get(..length)) {
                    back.write(record.at, answer, u32::try_from(answer.len()).unwrap_or(u32::MAX))?;
                }
            }
            _ => {}
        }
        progress.show(merged.bytes_read());
    }
    if let Some(cut) = merged.cut() {
        eprintln!("levee-dataplane: {cut}; what came before is used");
    }
    inside_out.finish()?;
    if let Some(out) = outside_out {
        out.finish()?;
    }
    let (engine, incidents) = clock.finish();
    let report = Report { inbound, outbound, incidents: incidents.conclude(&engine.detector) };
    Ok(Done { engine, report })
}

/// Nothing may be written over what is read or written besides, whatever name it is given by.
fn refuse_same_files(arguments: &Arguments) -> Result<(), ReplayError> {
    let inputs = [
        ("--config", Some(&arguments.config)),
        ("--outside-in", Some(&arguments.outside_in)),
        ("--inside-in", arguments.inside_in.as_ref()),
    ];
    let outputs = [
        ("--inside-out", Some(&arguments.inside_out)),
        ("--outside-out", arguments.outside_out.as_ref()),
        ("--report", Some(&arguments.report)),
    ];
    let mut taken: Vec<(&'static str, PathBuf)> = Vec::new();
    for (option, path) in inputs.into_iter().filter_map(|(option, path)| Some((option, path?))) {
        taken.push((option, place(path)));
    }
    for (second, path) in outputs.into_iter().filter_map(|(option, path)| Some((option, path?))) {
        // A device or a pipe takes more than one.
        if path.metadata().is_ok_and(|known| !known.is_file()) {
            continue;
        }
        let place = place(path);
        if let Some((first, _)) = taken.iter().find(|(_, known)| *known == place) {
            return Err(ReplayError::SameFile { path: path.clone(), second, first });
        }
        taken.push((second, place));
    }
    Ok(())
}

/// The same for all names of a file, as far as it can be known; the file need not be there yet.
fn place(path: &Path) -> PathBuf {
    let in_folder = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(folder.canonicalize().ok()?.join(path.file_name()?))
    };
    path.canonicalize().ok().or_else(in_folder).unwrap_or_else(|| path.to_owned())
}

/// A line on stderr every so many bytes of long captures.
struct Progress {
    total: Option<u64>,
    next: u64,
}

const PROGRESS_BYTES: u64 = 256 << 20;

impl Progress {
    fn new(total: Option<u64>) -> Self {
        Self { total, next: PROGRESS_BYTES }
    }

    fn show(&mut self, read: u64) {
        if read < self.next {
            return;
        }
        self.next += PROGRESS_BYTES;
        match self.total {
            Some(total) if total > 0 => {
                eprintln!("levee-dataplane: {} of {} MB read", read >> 20, total >> 20);
            }
            _ => eprintln!("levee-dataplane: {} MB read", read >> 20),
        }
    }
}
