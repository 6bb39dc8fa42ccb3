//! `levee-instructions`: compares the instructions that the data path takes per packet with what was committed.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use levee_benches::instructions::{COMMITTED, TOLERANCE, compiler, count_all, read, run, write};

/// Counts with callgrind what the data path executes per packet.
#[derive(Debug, Parser)]
#[command(name = "levee-instructions", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fails if a count is more than 3 % above what benches/instructions.txt says.
    Check,
    /// Prints the counts as benches/instructions.txt holds them.
    Count,
    /// What is counted: judges packets of a row.
    #[command(hide = true)]
    Run {
        /// scalar or avx2.
        level: String,
        /// Name of a row of levee-bench.
        row: String,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run { level, row } => run(&level, &row).map(|()| true),
        Command::Count => count_all().map(|counts| {
            print!("{}", write(&compiler(), &counts));
            true
        }),
        Command::Check => check(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("levee-instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all counts are as committed. Another compiler makes other instructions, which says nothing about the code.
fn check() -> Result<bool, String> {
    let (committed_with, committed) = read(COMMITTED);
    let here = compiler();
    if here != committed_with {
        println!("SUITE SKIPPED: the committed counts are of {committed_with}, this is {here}");
        return Ok(true);
    }
    let counts = count_all()?;
    let mut good = true;
    println!("{:<8} {:<12} {:>9} {:>9} {:>7}", "level", "row", "committed", "counted", "change");
    for count in &counts {
        let before = committed.iter().find(|other| other.level == count.level && other.row == count.row);
        let Some(before) = before else {
            return Err(format!("benches/instructions.txt has no line for {} {}", count.level, count.row));
        };
        let change = count.instructions / before.instructions - 1.0;
        let verdict = if change > TOLERANCE {
            good = false;
            "  more than 3 % above"
        } else if change < -TOLERANCE {
            "  better: commit the new count"
        } else {
            ""
        };
        println!(
            "{:<8} {:<12} {:>9.1} {:>9.1} {:>+6.1}%{verdict}",
            count.level,
            count.row,
            before.instructions,
            count.instructions,
            change * 100.0
        );
    }
    Ok(good)
}
