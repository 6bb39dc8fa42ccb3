//! How many instructions the data path takes per packet, counted by callgrind: the same on every machine, so that a change of
//! one in a hundred shows where clocks tell nothing.
//!
//! Valgrind does not know AVX-512, so AVX2 and scalar are counted. Counted is what our own program executes while one pass
//! over the packets is judged; the C library is left out, since it chooses its functions by the CPU.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use levee_engine::isa::Isa;

use crate::pipeline::{Buffers, Site};
use crate::row;
use crate::site::Mitigations;
use crate::traffic::Traffic;

/// The counts that are promised.
pub const COMMITTED: &str = include_str!("../instructions.txt");
/// More than this over the promise is a failure.
pub const TOLERANCE: f64 = 0.03;
/// Levels that valgrind knows.
const LEVELS: [&str; 2] = ["scalar", "avx2"];
/// Rows of the table whose packets are counted.
const ROWS: [&str; 6] = ["full", "no-attack", "ipv6", "vlan", "fragments", "malformed"];
/// Few, because valgrind is slow; enough that what happens once in a burst counts as it should.
const PACKETS: u32 = 8_192;
const TARGETS: u32 = 100;
/// Looking a source up takes the same instructions among these as among a million.
const SOURCE_PREFIXES: u32 = 10_000;
/// The function that is counted with all that it calls; callgrind finds it by this part of its name.
const COUNTED: &str = "counted_pass";

/// Instructions per packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    /// Level of instructions.
    pub level: String,
    /// Which packets.
    pub row: String,
    /// Instructions per packet.
    pub instructions: f64,
}

/// What callgrind runs: judges packets twice, the second time counted.
///
/// # Errors
/// When there is no such row, or the CPU has no such level.
pub fn run(level: &str, row: &str) -> Result<(), String> {
    let isa = Isa::named(level).ok_or_else(|| format!("this CPU has no {level}"))?;
    let row = row::find(row).ok_or_else(|| format!("there is no row {row:?}"))?;
    let traffic = row.subject.traffic;
    let targets = TARGETS.min(traffic.mitigations.targets);
    let mitigations = Mitigations { targets, lists: targets.max(1), ..traffic.mitigations };
    let traffic = Traffic { packets: PACKETS, mitigations, ..traffic };
    let buffers = Buffers::of(traffic);
    let mut site = Site::new(traffic, isa, SOURCE_PREFIXES);
    site.pass(&buffers);
    counted_pass(&mut site, &buffers);
    Ok(())
}

#[inline(never)]
fn counted_pass(site: &mut Site, buffers: &Buffers) {
    std::hint::black_box(site.pass(std::hint::black_box(buffers)));
}

/// Counts everything; each count is a run of this program under callgrind.
///
/// # Errors
/// When callgrind does not run or finds nothing.
pub fn count_all() -> Result<Vec<Count>, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let cases = LEVELS.into_iter().flat_map(|level| ROWS.into_iter().map(move |row| (level, row)));
    cases.map(|(level, row)| count(level, row, folder.path())).collect()
}

fn count(level: &str, row: &str, folder: &Path) -> Result<Count, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let out = folder.join(format!("{level}-{row}"));
    let output = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind", "--compress-pos=no", "--dump-line=no"])
        .arg(format!("--toggle-collect=*{COUNTED}*"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(&program)
        .args(["run", level, row])
        .output()
        .map_err(|error| format!("valgrind: {error}; scripts/setup installs it"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("valgrind ended with {}:\n{said}", output.status));
    }
    let profile = std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    match own_instructions(&profile, &program.display().to_string()) {
        0 => Err(format!("callgrind saw no instruction of {}:\n{said}", program.display())),
        own => {
            Ok(Count { level: level.to_owned(), row: row.to_owned(), instructions: own as f64 / f64::from(PACKETS) })
        }
    }
}

/// Instructions of one object in a callgrind profile, without those of functions that it calls in others (Callgrind Format
/// Specification 1: `ob=` names the object of the lines below, the line after `calls=` is what a call costs).
fn own_instructions(profile: &str, object: &str) -> u64 {
    let (mut names, mut is_own, mut is_call, mut own) = (HashMap::new(), false, false, 0);
    for line in profile.lines() {
        if let Some((key, name)) = line.split_once('=').filter(|(key, _)| *key == "ob" || *key == "cob") {
            let (id, text) = name.split_once(' ').unwrap_or((name, ""));
            if !text.is_empty() {
                names.insert(id, text);
            }
            if key == "ob" {
                is_own = names.get(id).is_some_and(|text| *text == object);
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
            if is_own && !is_call {
                own += cost.unwrap_or(0);
            }
            is_call = false;
        }
    }
    own
}

/// The file of counts: which compiler, then one line for each.
pub fn write(compiler: &str, counts: &[Count]) -> String {
    let mut text = String::from(
        "# Instructions per packet (levee-instructions). Moved only by a commit that says why.\n# level row instructions\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(text, "compiler {compiler}");
    for Count { level, row, instructions } in counts {
        let _ = writeln!(text, "{level} {row} {instructions:.1}");
    }
    text
}

/// Reads what [`write`] wrote: the compiler and the counts.
pub fn read(text: &str) -> (String, Vec<Count>) {
    let lines = || text.lines().filter(|line| !line.starts_with('#'));
    let compiler = lines().find_map(|line| line.strip_prefix("compiler ")).unwrap_or_default();
    let counts = lines().filter_map(|line| {
        let [level, row, instructions] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let instructions = instructions.parse().ok()?;
        Some(Count { level: level.to_owned(), row: row.to_owned(), instructions })
    });
    (compiler.to_owned(), counts.collect())
}

/// The compiler that is used here.
pub fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_own_instructions_count() {
        let profile = "events: Ir\nob=(1) /bin/own\nfl=(1) a.rs\nfn=(1) a\n0 5\ncob=(2) /lib/libc.so\ncfn=(2) memcpy\n\
                       calls=1 0\n0 100\n0 2\nob=(2)\nfn=(2)\n0 100\nob=(1)\nfn=(3) b\n0 7\n";
        assert_eq!(own_instructions(profile, "/bin/own"), 14);
    }

    #[test]
    fn counts_survive_a_round_trip() {
        let counts = vec![Count { level: "avx2".to_owned(), row: "full".to_owned(), instructions: 12.5 }];
        assert_eq!(read(&write("rustc 1.90.0 (x)", &counts)), ("rustc 1.90.0 (x)".to_owned(), counts));
    }

    #[test]
    fn every_level_and_row_has_a_committed_count() {
        let (compiler, counts) = read(COMMITTED);
        assert!(compiler.starts_with("rustc "));
        assert_eq!(counts.len(), LEVELS.len() * ROWS.len());
        assert!(counts.iter().all(|count| row::find(&count.row).is_some()));
    }
}
