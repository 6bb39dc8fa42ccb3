//! Baselines as a table for people.

use std::fmt::Write;
use std::time::Duration;

use levee_api::role::Role;
use levee_api::zone::Zone;
use levee_engine::detect::hours::HOURS;
use levee_engine::detect::node;
use levee_engine::detect::snapshot::{Learned, TargetRecord, ZoneRecord};
use levee_engine::detect::threshold::{Baseline, Bounds};

const COLUMNS: &str =
    "target                role                  stage     p50     p99.9    p99.99   largest threshold";

/// One block per zone, one line per target and role, rates in packets per second. `zones`: with their floors and links.
/// `hours`: also a line with the factors of each day of the week. `now`: since 1970.
pub(super) fn render(learned: &Learned, zones: &[Zone], hours: bool, now: Duration) -> String {
    let mut text = format!("written {} ago\n", age(now.saturating_sub(learned.written)));
    for (number, record) in (0..).zip(&learned.zones) {
        let mut targets = learned.targets.iter().filter(|target| target.zone == number).peekable();
        if targets.peek().is_none() {
            continue;
        }
        let zone = zones.iter().find(|zone| zone.name == record.name);
        // Writing to a String cannot fail.
        let _ = write!(text, "\nzone {}: watched for {}", record.name, age(record.observed));
        text.push_str(if zone.is_some() { "\n" } else { ", not configured\n" });
        text.push_str(COLUMNS);
        text.push('\n');
        for target in targets {
            for (role, baseline) in &target.baselines {
                line(&mut text, record, zone, target, *role, baseline);
                if hours {
                    factors(&mut text, baseline);
                }
            }
        }
    }
    text
}

fn line(
    text: &mut String,
    record: &ZoneRecord,
    zone: Option<&Zone>,
    target: &TargetRecord,
    role: Role,
    baseline: &Baseline,
) {
    let threshold = zone.map(|zone| {
        let around = zone.prefixes.iter().find(|prefix| prefix.covers(&target.prefix));
        let scale = node::scale(target.prefix, *around.unwrap_or(&target.prefix));
        baseline.threshold(&Bounds::of(zone, role, record.observed, scale))
    });
    let threshold = threshold.map_or_else(|| "-".to_owned(), |pps| format!("{pps:.0}"));
    let levels = baseline.levels.unwrap_or_default();
    let held = if baseline.drift.holds() { "  held" } else { "" };
    let (target, role, stage) = (target.prefix.to_string(), role.name(), baseline.stage(record.observed));
    let (median, largest) = (baseline.rates.quantile(0.5), baseline.largest);
    let _ = writeln!(
        text,
        "{target:<21} {role:<21} {stage:<5} {median:>7.0} {:>9.0} {:>9.0} {largest:>9.0} {threshold:>9}{held}",
        levels.q999, levels.q9999
    );
}

/// A line per day: how busy each of its hours is.
fn factors(text: &mut String, baseline: &Baseline) {
    let Some(hours) = baseline.hours.as_ref().filter(|_| baseline.is_seasonal) else { return };
    for (day, name) in (0_u8..).zip(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]) {
        let _ = write!(text, "    {name}");
        let of_day = (0..HOURS).filter(|hour| hour / 24 == usize::from(day));
        for hour in of_day.filter_map(|hour| u8::try_from(hour).ok()) {
            let _ = write!(text, " {:.1}", hours.factor(hour));
        }
        text.push('\n');
    }
}

fn age(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match minutes {
        0 => format!("{} s", time.as_secs()),
        1..=119 => format!("{minutes} min"),
        120..=2_879 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 60 / 24),
    }
}
