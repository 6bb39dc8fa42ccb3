//! Rates over something that grows: the pictures beside the table.

use levee_api::config::Simd;

use crate::measure::{Plan, levee_rate, median};
use crate::plot::{Curve, Plot};
use crate::program::{Interrupt, MeasureError};
use crate::row::{self, Setup};
use crate::site::Mitigations;
use crate::traffic::Traffic;

/// A picture to be: what grows, and how the program is run at each value.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    name: &'static str,
    title: &'static str,
    x: &'static str,
    values: &'static [u32],
    setup: fn(Setup, u32) -> Setup,
}

const SWEEPS: &[Sweep] = &[
    Sweep {
        name: "filters",
        title: "1 000 targets, each with a list of its own",
        x: "filters of each target",
        values: &[1, 2, 5, 10, 20, 50],
        setup: |setup, filters| {
            let filters = u16::try_from(filters).unwrap_or(u16::MAX);
            with(setup, Mitigations { targets: 1_000, filters, lists: 1_000, ..setup.traffic.mitigations })
        },
    },
    Sweep {
        name: "targets",
        title: "10 filters for each target, lists all different",
        x: "targets",
        values: &[1, 10, 100, 1_000, 10_000],
        setup: |setup, targets| with(setup, Mitigations { targets, lists: targets, ..setup.traffic.mitigations }),
    },
    Sweep {
        name: "sources",
        title: "Source prefixes in a set that drops, of which no packet comes",
        x: "prefixes",
        values: &[1_000, 10_000, 100_000, 1_000_000],
        setup: |setup, prefixes| Setup { prefixes, ..setup },
    },
    Sweep {
        name: "working-set",
        title: "10 000 targets x 10 filters, 500 lists",
        x: "packets before they come again",
        values: &[256, 1_024, 4_096, 16_384, 65_536, 240_000],
        setup: |setup, packets| Setup { traffic: Traffic { packets, ..setup.traffic }, ..setup },
    },
];

fn with(setup: Setup, mitigations: Mitigations) -> Setup {
    Setup { traffic: Traffic { mitigations, ..setup.traffic }, ..setup }
}

/// Measures all of them, `plan.times` each.
///
/// # Errors
/// When a program does not run.
pub fn plots(plan: &Plan, interrupt: Interrupt) -> Result<Vec<Plot>, MeasureError> {
    let Some(full) = row::find("full").map(|row| row.subject) else { return Ok(Vec::new()) };
    SWEEPS.iter().map(|sweep| sweep.plot(full, plan, interrupt)).collect()
}

impl Sweep {
    fn plot(&self, full: Setup, plan: &Plan, interrupt: Interrupt) -> Result<Plot, MeasureError> {
        let mut curves = Vec::new();
        for simd in [Simd::Auto, Simd::Avx2, Simd::Scalar] {
            let mut points = Vec::new();
            for value in self.values {
                let setup = Setup { simd, ..(self.setup)(full, *value) };
                let rates =
                    (0..plan.times).map(|_| levee_rate(setup, plan, interrupt)).collect::<Result<Vec<_>, _>>()?;
                points.push((f64::from(*value), median(&rates)));
            }
            let name = if simd == Simd::Auto { "all instructions of the CPU" } else { simd.name() };
            curves.push(Curve { name: name.to_owned(), points });
        }
        Ok(Plot { name: self.name, title: self.title.to_owned(), x: self.x, y: "Mpps", curves })
    }
}
