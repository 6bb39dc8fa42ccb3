//! Runs rows: subject and reference by turns, so that what else the machine does meets both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::machine::require_hugepages;
use crate::pipeline;
use crate::program::levee::{self, Quantiles};
use crate::program::{Interrupt, Interval, MeasureError, Place, hugepages_mib, testpmd, while_doing};
use crate::row::{Reference, Row, Setup};
use crate::sources;
use crate::traffic::Traffic;

/// How rows are run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where.
    pub place: Place,
    /// How long each time.
    pub interval: Interval,
    /// How often each.
    pub times: usize,
    /// Captures are made no longer than this.
    pub packets: u32,
    /// For captures, configurations and logs.
    pub folder: PathBuf,
}

/// What became of a row.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The row.
    pub name: &'static str,
    /// What it shows.
    pub what: &'static str,
    /// Packets before they repeat.
    pub packets: u32,
    /// What must be reached.
    pub must: Option<f64>,
    /// What is wanted.
    pub aim: Option<f64>,
    /// The figures, or why there are none.
    pub result: Result<Figures, String>,
}

/// Rates of a row, in millions of packets per second.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// What was measured, one each time.
    pub subject: Vec<f64>,
    /// What it is divided by, one each time.
    pub reference: Vec<f64>,
    /// Shares of packets dropped in the last run, by reason.
    pub dropped: BTreeMap<String, f64>,
    /// Anomalies that were open at the end of the last run.
    pub anomalies: usize,
    /// Generations of tables published per second in the last run, on request of the row.
    pub generations: f64,
    /// What bursts took in the last run, in nanoseconds.
    pub burst: Option<Quantiles>,
}

impl Figures {
    /// The figure that the promise is about: the ratio of medians, or the median rate if nothing is compared.
    pub fn value(&self) -> f64 {
        if self.reference.is_empty() { median(&self.subject) } else { median(&self.subject) / median(&self.reference) }
    }

    /// The same of the fastest runs: on a machine that does other things too, nearer to what it can do.
    pub fn best(&self) -> f64 {
        let most = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
        if self.reference.is_empty() { most(&self.subject) } else { most(&self.subject) / most(&self.reference) }
    }
}

/// The value in the middle, or the mean of both there.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |position: usize| sorted.get(position).copied().unwrap_or(f64::NAN);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { f64::midpoint(at(middle.wrapping_sub(1)), at(middle)) } else { at(middle) }
}

/// Measures a row.
///
/// # Errors
/// Only [`MeasureError::Interrupted`]: other failures are the row's outcome.
pub fn measure(row: &Row, plan: &Plan, interrupt: Interrupt) -> Result<Outcome, MeasureError> {
    let result = match figures(row, plan, interrupt) {
        Ok(figures) => Ok(figures),
        Err(MeasureError::Interrupted) => return Err(MeasureError::Interrupted),
        Err(error) => Err(error.to_string()),
    };
    Ok(Outcome {
        name: row.name,
        what: row.what,
        packets: limited(row.subject, plan).traffic.packets,
        must: row.must,
        aim: row.aim,
        result,
    })
}

fn limited(setup: Setup, plan: &Plan) -> Setup {
    Setup { traffic: Traffic { packets: setup.traffic.packets.min(plan.packets), ..setup.traffic }, ..setup }
}

fn figures(row: &Row, plan: &Plan, interrupt: Interrupt) -> Result<Figures, MeasureError> {
    let subject = limited(row.subject, plan);
    if row.reference == Reference::EmptyTables {
        return plan.place.on_worker(|| pipeline::full_against_empty(subject.traffic, plan, interrupt));
    }
    let captures = Captures::write(subject, "subject", plan)?;
    let reference = match row.reference {
        Reference::Levee(setup) => {
            Some((limited(setup, plan), Captures::write(limited(setup, plan), "reference", plan)?))
        }
        Reference::Testpmd(_) | Reference::EmptyTables | Reference::Nothing => None,
    };
    let mut figures = Figures::default();
    for _ in 0..plan.times {
        if let Some((setup, captures)) = &reference {
            figures.reference.push(levee::rate(*setup, captures, &plan.place, plan.interval, interrupt)?.mpps);
        }
        if let Reference::Testpmd(forward) = row.reference {
            let packets = subject.traffic.packets;
            let outside = captures.outside.first().map_or(Path::new(""), PathBuf::as_path);
            let rate = testpmd::rate(forward, outside, packets, &plan.place, plan.interval, interrupt)?;
            figures.reference.push(rate);
        }
        let rate = levee::rate(subject, &captures, &plan.place, plan.interval, interrupt)?;
        figures.subject.push(rate.mpps);
        figures.dropped = rate.dropped;
        figures.anomalies = rate.anomalies;
        figures.generations = rate.generations;
        figures.burst = rate.burst;
    }
    Ok(figures)
}

/// Millions of packets per second that Levee takes in, measured once.
///
/// # Errors
/// When it does not run.
pub fn levee_rate(setup: Setup, plan: &Plan, interrupt: Interrupt) -> Result<f64, MeasureError> {
    let setup = limited(setup, plan);
    let captures = Captures::write(setup, "subject", plan)?;
    Ok(levee::rate(setup, &captures, &plan.place, plan.interval, interrupt)?.mpps)
}

/// The files of a setup.
#[derive(Clone, Debug)]
pub struct Captures {
    /// What comes from outside, by queue.
    pub outside: Vec<PathBuf>,
    /// The set of source prefixes.
    pub prefixes: PathBuf,
}

impl Captures {
    fn write(setup: Setup, name: &str, plan: &Plan) -> Result<Self, MeasureError> {
        let mib = hugepages_mib(setup.traffic.packets, setup.workers);
        require_hugepages(mib).map_err(MeasureError::Skipped)?;
        let outside: Vec<_> =
            (0..setup.workers).map(|queue| plan.folder.join(format!("{name}-{queue}.pcap"))).collect();
        setup.traffic.write_queues(&outside, setup.mixed).map_err(while_doing(plan.folder.display().to_string()))?;
        let family = setup.traffic.family;
        // Written once: it takes longer than a measurement.
        let prefixes = plan.folder.join(format!("{family:?}-{}.netset", setup.prefixes));
        if !prefixes.exists() {
            sources::write(&prefixes, family, setup.prefixes).map_err(while_doing(prefixes.display().to_string()))?;
        }
        Ok(Self { outside, prefixes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
