//! One scenario through the program.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    frame,
    scenario::{Label, Scenario, ScenarioError},
};

/// The program and what it is given besides captures.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    /// `levee-dataplane`, optimised.
    pub program: &'a Path,
    /// The configuration.
    pub configuration: &'a str,
    /// Where what was learned is; none: nothing was.
    pub state: Option<&'a Path>,
    /// Whether it sees what comes from inside.
    pub sees_inside: bool,
}

/// What became of a packet from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// When it arrived, nanoseconds since the epoch.
    pub unix_ns: u64,
    /// What it was.
    pub label: Label,
    /// Its conversation.
    pub flow: u64,
    /// Whether it passed.
    pub passed: bool,
    /// Whether it was answered in the place of the server.
    pub answered: bool,
}

/// What came of a scenario.
#[derive(Debug)]
pub struct Outcome {
    /// All packets from outside, in order of time.
    pub fates: Vec<Fate>,
    /// The program's own report.
    pub report: Value,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The scenario cannot be composed.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program failed.
    #[error("levee-dataplane replay: {0}")]
    Program(String),
    /// The program passed what nobody sent, or changed a time.
    #[error("a packet passed at {0} ns since the epoch, and none arrived then")]
    Unknown(u64),
}

const OUTSIDE: &str = "outside.pcap";
const INSIDE: &str = "inside.pcap";
const PASSED: &str = "passed.pcap";
const REPLIES: &str = "replies.pcap";
const REPORT: &str = "report.json";
const FATES: &str = "fates.csv";

impl Replay<'_> {
    /// Composes a scenario, runs it and reads what came of it.
    ///
    /// # Errors
    /// When that cannot be done. How badly the program did is no error.
    pub fn run(&self, scenario: &Scenario) -> Result<Outcome, MeasureError> {
        let folder = tempfile::tempdir().map_err(|source| at(Path::new("a temporary folder"), source))?;
        self.replay(scenario, folder.path())
    }

    /// The same in a folder that stays, which is made, with the fate of every packet beside the captures.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn run_in(&self, scenario: &Scenario, folder: &Path) -> Result<Outcome, MeasureError> {
        fs::create_dir_all(folder).map_err(|source| at(folder, source))?;
        let outcome = self.replay(scenario, folder)?;
        let path = folder.join(FATES);
        write_fates(&path, &outcome.fates).map_err(|source| at(&path, source))?;
        Ok(outcome)
    }

    fn replay(&self, scenario: &Scenario, folder: &Path) -> Result<Outcome, MeasureError> {
        let mut fates = Vec::new();
        let (outside, inside) = (folder.join(OUTSIDE), folder.join(INSIDE));
        scenario.write_noting(&outside, &inside, |packet| {
            let (label, flow) = (packet.label, frame::flow(&packet.frame));
            fates.push(Fate { unix_ns: packet.unix_ns, label, flow, passed: false, answered: false });
            Ok(())
        })?;
        self.execute(folder, self.state, false)?;
        let times = |name: &str| times(&folder.join(name)).map_err(|source| at(Path::new(name), source));
        mark_passed(&mut fates, times(PASSED)?)?;
        mark_answered(&mut fates, times(REPLIES)?);
        let path = folder.join(REPORT);
        let report = fs::read(&path).map_err(|source| at(&path, source))?;
        let report = serde_json::from_slice(&report).map_err(|error| MeasureError::Program(error.to_string()))?;
        Ok(Outcome { fates, report })
    }

    /// Lets the program learn from a scenario without attacks, into a folder.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn learn(&self, scenario: &Scenario, state: &Path) -> Result<(), MeasureError> {
        let folder = tempfile::tempdir().map_err(|source| at(Path::new("a temporary folder"), source))?;
        scenario.write(&folder.path().join(OUTSIDE), &folder.path().join(INSIDE), None)?;
        self.execute(folder.path(), Some(state), true)
    }

    fn execute(&self, folder: &Path, state: Option<&Path>, learn: bool) -> Result<(), MeasureError> {
        let configuration = folder.join("levee.toml");
        fs::write(&configuration, self.configuration).map_err(|source| at(&configuration, source))?;
        let mut command = Command::new(self.program);
        command.current_dir(folder).args(["replay", "--config", "levee.toml", "--outside-in", OUTSIDE]);
        command.args(["--inside-out", PASSED, "--outside-out", REPLIES, "--report", REPORT]);
        if self.sees_inside {
            command.args(["--inside-in", INSIDE]);
        }
        if let Some(state) = state {
            command.arg("--state").arg(state);
        }
        if learn {
            command.arg("--learn");
        }
        let output = command.output().map_err(|source| at(self.program, source))?;
        if output.status.success() {
            return Ok(());
        }
        Err(MeasureError::Program(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

/// One line for each packet of [`OUTSIDE`], in its order.
fn write_fates(path: &Path, fates: &[Fate]) -> io::Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    writeln!(file, "unix_ns,label,flow,passed,answered")?;
    for Fate { unix_ns, label, flow, passed, answered } in fates {
        let label = match label {
            Label::Benign => "benign".to_owned(),
            Label::Crowd => "crowd".to_owned(),
            Label::Prelude => "prelude".to_owned(),
            Label::Attack(component) => format!("attack {component}"),
        };
        writeln!(file, "{unix_ns},{label},{flow:016x},{passed},{answered}")?;
    }
    file.flush()
}

/// Both are in order of time, and no two packets have the same.
fn mark_passed(fates: &mut [Fate], passed: Vec<u64>) -> Result<(), MeasureError> {
    let mut left = fates.iter_mut();
    for unix_ns in passed {
        let fate = left.find(|fate| fate.unix_ns >= unix_ns).filter(|fate| fate.unix_ns == unix_ns);
        fate.ok_or(MeasureError::Unknown(unix_ns))?.passed = true;
    }
    Ok(())
}

/// An answer has the time of what it answers; what comes from inside has times of its own.
fn mark_answered(fates: &mut [Fate], replies: Vec<u64>) {
    for unix_ns in replies {
        if let Ok(at) = fates.binary_search_by_key(&unix_ns, |fate| fate.unix_ns) {
            fates.get_mut(at).into_iter().for_each(|fate| fate.answered = true);
        }
    }
}

/// Times of a classic pcap file with nanoseconds, little-endian, as replay writes it for captures that are.
fn times(path: &Path) -> io::Result<Vec<u64>> {
    let bytes = fs::read(path)?;
    let mut rest = bytes.get(24..).unwrap_or_default();
    let mut times = Vec::new();
    while let Some((head, body)) = rest.split_first_chunk::<16>() {
        let word =
            |at: usize| head.get(at..at + 4).and_then(|word| word.first_chunk()).map_or(0, |w| u32::from_le_bytes(*w));
        times.push(u64::from(word(0)) * 1_000_000_000 + u64::from(word(4)));
        rest = usize::try_from(word(8)).ok().and_then(|length| body.get(length..)).unwrap_or_default();
    }
    Ok(times)
}

fn at(path: &Path, source: io::Error) -> MeasureError {
    MeasureError::File { path: path.to_owned(), source }
}
