//! `levee-measure`: how good `levee-dataplane replay` is, in tables.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, ValueEnum};
use levee_tests::{
    attack::Kind,
    measure::{Figures, MeasureError, Peace, Plan, conditions, crowds, floods, shapes, weeks},
};

/// Composes captures, runs the program on them and prints how it did, as a table in Markdown.
#[derive(Parser)]
#[command(name = "levee-measure", version)]
struct Arguments {
    /// The program, optimised.
    #[arg(long, default_value = "target/release/levee-dataplane")]
    dataplane: PathBuf,
    /// What to measure; without it everything.
    #[arg(long, value_delimiter = ',')]
    tables: Vec<Table>,
    /// Kinds of attack for the first table; without it all.
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Rates of attacks for the first table, in thresholds.
    #[arg(long, value_delimiter = ',', default_values_t = [1.5, 2.0, 5.0, 50.0])]
    rates: Vec<f64>,
    /// Replays for each row.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// Servers say nothing to attacks.
    #[arg(long)]
    silent: bool,
    /// Days of peace for the last table.
    #[arg(long, default_value_t = 7)]
    days: u64,
    /// Replays at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Everything random follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder that keeps captures and report of each replay, and the fate of each packet, to look into (some 100 MB each).
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Table {
    /// Every kind of attack at every rate.
    Floods,
    /// Attacks that go from host to host, and that come back.
    Shapes,
    /// Sudden crowds, alone and beside an attack.
    Crowds,
    /// Without the return direction, and with a start in the middle.
    Conditions,
    /// Days of peace, in this process.
    Weeks,
}

/// A table's rows.
type Measure = fn(&std::path::Path, &Plan) -> Result<Vec<Figures>, MeasureError>;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("levee-measure: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let kinds = if arguments.kinds.is_empty() { Kind::all().collect() } else { arguments.kinds.clone() };
    let plan = Plan {
        kinds,
        factors: arguments.rates.clone(),
        times: arguments.times,
        answered: !arguments.silent,
        jobs: arguments.jobs,
        seed: arguments.seed,
        keep: arguments.keep.clone(),
    };
    let tables: [(Table, Measure); 4] =
        [(Table::Floods, floods), (Table::Shapes, shapes), (Table::Crowds, crowds), (Table::Conditions, conditions)];
    let is_wanted = |table| arguments.tables.is_empty() || arguments.tables.contains(&table);
    let mut out = io::stdout().lock();
    for (_, measure) in tables.iter().filter(|(table, _)| is_wanted(*table)) {
        let path = &arguments.dataplane;
        let program = path.canonicalize();
        let program = program
            .map_err(|error| format!("{}: {error}: cargo build --release --workspace --bins", path.display()))?;
        writeln!(out, "{}", Figures::HEAD)?;
        for row in measure(&program, &plan)? {
            writeln!(out, "{row}")?;
        }
        writeln!(out)?;
    }
    if is_wanted(Table::Weeks) {
        writeln!(out, "{}\n{}", Peace::HEAD, weeks(arguments.days, arguments.seed)?)?;
    }
    Ok(())
}
