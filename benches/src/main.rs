//! `levee-bench`: what the programs do, in one table. `scripts/bench` builds everything and runs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use levee_benches::machine::{Machine, Precedence, cpus};
use levee_benches::measure::{Plan, measure};
use levee_benches::program::{Interrupt, Interval, Place};
use levee_benches::report::{self, Report};
use levee_benches::row::{self, ROWS, Row};
use levee_benches::{latency, pipeline, sweep};

/// A layer of the measurement, usable alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// The data path over packet buffers that were filled before.
    Pipeline,
    /// levee-dataplane against dpdk-testpmd and itself.
    Program,
    /// What levee-dataplane adds to the way of a packet.
    Latency,
}

/// Measures levee-dataplane against dpdk-testpmd and against itself.
#[derive(Debug, Parser)]
#[command(name = "levee-bench", version)]
struct Arguments {
    /// Rows of the program to measure, all by default; --list names them.
    rows: Vec<String>,
    /// Only this layer; all by default, and the program's if rows are named.
    #[arg(long)]
    layer: Option<Layer>,
    /// Also draws rates over filters, targets, sources and working set, as SVG into a folder.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Names the rows.
    #[arg(long)]
    list: bool,
    /// Shorter intervals and fewer repetitions.
    #[arg(long)]
    quick: bool,
    /// Also writes everything to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each program runs, by turns.
    #[arg(long, value_name = "N")]
    times: Option<usize>,
    /// Seconds of each measurement.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Makes no capture longer than this.
    #[arg(long, value_name = "N", default_value_t = u32::MAX)]
    packets: u32,
    /// Folder of levee-dataplane; by default where this program is.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for row in ROWS {
            println!("{:<14} {}", row.name, row.what);
        }
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(complete) if complete => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("levee-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every row has figures.
fn run(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let rows = arguments.rows.iter().map(|name| find(name)).collect::<Result<Vec<&Row>, _>>()?;
    let rows = if rows.is_empty() { ROWS.iter().collect() } else { rows };
    let interrupt = Interrupt::listen()?;
    let _first = Precedence::take();
    let folder = tempfile::Builder::new().prefix("levee-bench-").tempdir()?;
    let seconds = arguments.seconds.unwrap_or(if arguments.quick { 0.4 } else { 1.0 });
    let plan = Plan {
        place: place(arguments)?,
        interval: Interval {
            warm_up: Duration::from_millis(if arguments.quick { 500 } else { 1000 }),
            length: Duration::try_from_secs_f64(seconds)?,
        },
        times: arguments.times.unwrap_or(if arguments.quick { 1 } else { 5 }).max(1),
        packets: arguments.packets.max(1),
        folder: folder.path().to_owned(),
    };
    let mut report = Report {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        machine: Machine::here(),
        pipeline: Vec::new(),
        rows: Vec::new(),
        latency: Vec::new(),
        plots: Vec::new(),
    };
    println!("{}", report::machine(&report.machine));
    let only = arguments.layer.or(if arguments.rows.is_empty() { None } else { Some(Layer::Program) });
    let wanted = |layer| only.is_none_or(|only| only == layer);
    if wanted(Layer::Pipeline) {
        println!("\n{}", report::case_header());
        for case in pipeline::cases() {
            let length = plan.interval.length.div_f64(if arguments.quick { 10.0 } else { 2.0 });
            let outcome = plan.place.on_worker(|| pipeline::measure(&case, plan.times.max(3), length));
            println!("{}", report::case(&outcome));
            report.pipeline.push(outcome);
            interrupt.pause(Duration::ZERO)?;
        }
    }
    if wanted(Layer::Program) {
        println!("\n{}", report::header());
        for row in rows {
            let outcome = measure(row, &plan, interrupt)?;
            println!("{}", report::row(&outcome));
            report.rows.push(outcome);
        }
    }
    if wanted(Layer::Latency) {
        println!("\n{}", report::latency_header());
        report.latency = latency::measure(&plan, interrupt)?;
        println!("{}", report::latency(&report.latency));
    }
    if let Some(folder) = &arguments.plots {
        std::fs::create_dir_all(folder)?;
        report.plots = sweep::plots(&plan, interrupt)?;
        for plot in &report.plots {
            std::fs::write(folder.join(plot.name).with_extension("svg"), plot.svg())?;
        }
    }
    let complete = report.rows.iter().all(|outcome| outcome.result.is_ok());
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(complete)
}

fn find(name: &str) -> Result<&'static Row, String> {
    row::find(name).ok_or_else(|| format!("there is no row {name:?}; --list names them"))
}

/// Forwarding threads get the last CPUs that are ours: the first is where the system's own work tends to be.
fn place(arguments: &Arguments) -> Result<Place, Box<dyn std::error::Error>> {
    let cpus = cpus();
    let programs = match &arguments.programs {
        Some(folder) => folder.clone(),
        None => std::env::current_exe()?.parent().map(PathBuf::from).unwrap_or_default(),
    };
    let other = cpus.first().copied().ok_or("the system does not say which CPUs there are")?;
    Ok(Place { workers: cpus.into_iter().rev().collect(), other, programs })
}
