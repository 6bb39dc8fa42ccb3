//! One table of all rows, for people and as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::latency::{self, Between};
use crate::machine::Machine;
use crate::measure::{Outcome, median};
use crate::pipeline;
use crate::plot::Plot;
use crate::program::levee::Quantiles;

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The command that made it.
    pub command: String,
    /// Where.
    pub machine: Machine,
    /// The data path alone.
    pub pipeline: Vec<pipeline::Outcome>,
    /// The programs.
    pub rows: Vec<Outcome>,
    /// What the box adds to the way of a packet.
    pub latency: Vec<latency::Outcome>,
    /// The programs over something that grows.
    pub plots: Vec<Plot>,
}

/// The lines of a case of the data path alone.
pub fn case(outcome: &pipeline::Outcome) -> String {
    let lines = outcome.figures.iter().map(|figures| {
        format!(
            "{:<8} {:>9} {:>9.1} {:>9.1} {:>9.1} {:>8.1}%  {}",
            figures.isa,
            figures.working_set,
            figures.median(),
            figures.best(),
            1e3 / figures.median(),
            figures.dropped * 100.0,
            outcome.what
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Titles of their columns.
pub fn case_header() -> String {
    format!(
        "{:<8} {:>9} {:>9} {:>9} {:>9} {:>9}  {}",
        "pipeline", "packets", "ns/packet", "best", "Mpps", "dropped", "what"
    )
}

/// The machine in one line.
pub fn machine(machine: &Machine) -> String {
    format!(
        "{}, {} CPUs ({}), Linux {}, DPDK {}, load {}, hugepages {} of {} free",
        machine.cpu,
        machine.cpus,
        machine.simd,
        machine.kernel,
        machine.dpdk,
        machine.load,
        machine.hugepages.1,
        machine.hugepages.0,
    )
}

/// Titles of the columns of latencies.
pub fn latency_header() -> String {
    format!(
        "{:<9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>6} {:>9}",
        "between", "p50 us", "p99 us", "p99.9 us", "+ p50", "+ p99", "+ p99.9", "lost", "idle CPU"
    )
}

/// One line each: from socket to socket, and how much more that is than without the box.
pub fn latency(outcomes: &[latency::Outcome]) -> String {
    let figures = |outcome: &latency::Outcome| outcome.result.clone().ok();
    let wire = outcomes.iter().find(|outcome| outcome.between == Between::Wire).and_then(figures);
    let lines = outcomes.iter().map(|outcome| {
        let name = format!("{:?}", outcome.between).to_lowercase();
        let figures = match &outcome.result {
            Ok(figures) => figures,
            Err(reason) => return format!("{name:<9} not measured: {reason}"),
        };
        let all = |times: Quantiles| [times.p50, times.p99, times.p999].map(|nanos| nanos as f64 / 1e3);
        let mut line = format!("{name:<9}");
        for micros in all(figures.one_way) {
            line.push_str(&format!(" {micros:>9.1}"));
        }
        let compared = wire.as_ref().filter(|_| outcome.between != Between::Wire);
        for (index, micros) in all(figures.one_way).into_iter().enumerate() {
            let before = compared.and_then(|wire| all(wire.one_way).get(index).copied());
            line.push_str(&before.map_or(format!(" {:>9}", ""), |before| format!(" {:>9.1}", micros - before)));
        }
        let idle = figures.idle_cpu.map_or(String::new(), |share| format!("{:.0}%", share * 100.0));
        format!("{line} {:>6} {idle:>9}", figures.lost)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Titles of the columns.
pub fn header() -> String {
    format!(
        "{:<14} {:>9} {:>7} {:>7} {:>7} {:>7} {:>6} {:>6} {:>9}  {}",
        "row", "packets", "Mpps", "against", "value", "best", "must", "aim", "p99.9 us", "what it shows"
    )
}

/// A row of the table.
pub fn row(outcome: &Outcome) -> String {
    let mut line = format!("{:<14} {:>9} ", outcome.name, outcome.packets);
    let promise = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.2}"));
    // Writing to a String cannot fail.
    let _ = match &outcome.result {
        Ok(figures) => {
            let against =
                if figures.reference.is_empty() { String::new() } else { format!("{:.2}", median(&figures.reference)) };
            let missed = outcome.must.is_some_and(|must| figures.value() < must);
            write!(
                line,
                "{:>7.2} {:>7} {:>7.3} {:>7.3} {:>6} {:>6} {:>9}  {}{}{}{}",
                median(&figures.subject),
                against,
                figures.value(),
                figures.best(),
                promise(outcome.must),
                promise(outcome.aim),
                figures.burst.map_or(String::new(), |burst| format!("{:.1}", burst.p999 as f64 / 1e3)),
                outcome.what,
                if figures.generations > 0.0 {
                    format!(" ({:.0} generations/s)", figures.generations)
                } else {
                    String::new()
                },
                if missed { " (missed)" } else { "" },
                if figures.anomalies > 0 { format!(" ({} anomalies open)", figures.anomalies) } else { String::new() },
            )
        }
        Err(reason) => write!(line, "not measured: {reason}"),
    };
    line
}
