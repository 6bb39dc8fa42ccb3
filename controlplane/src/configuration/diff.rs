//! What another configuration would change, key by key, and when each change takes effect.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;

use levee_api::config::{Config, ConfigError};
use toml::{Table, Value};

use super::meaning::Meaning;
use crate::config_check::INVALID;
use crate::runbook::Runbooks;

/// One key that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Where: `zone "web": mode`.
    pub place: String,
    /// What it says, as TOML; none: the key is new.
    pub before: Option<String>,
    /// What it will say; none: the key goes.
    pub after: Option<String>,
    /// When it takes effect.
    pub effect: Effect,
}

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// With the reload.
    AtOnce,
    /// When the control plane starts the next time.
    ControlplaneRestart,
    /// When the dataplane starts the next time.
    DataplaneRestart,
    /// With the reload as far as the control plane goes; the dataplane keeps to what it was started with.
    DataplaneLater,
    /// When both have started again: they share it.
    BothRestart,
}

/// What is different between two valid texts: not what is only written in another way.
pub fn compare(before: &str, after: &str) -> Vec<Change> {
    // Valid configurations are valid TOML.
    let read = |text: &str| text.parse::<Table>().unwrap_or_default();
    let (first, second) = (read(before), read(after));
    let mut found = Vec::new();
    tables(&mut found, &[], "", &first, &second);
    let meaning = Meaning::of(before, after, found.len());
    found.retain(|found| match found.path[..] {
        // Under a ceiling both may mean the same, until that is raised.
        ["zone", _, "mode"] => mode(found.change.before.as_deref()) != mode(found.change.after.as_deref()),
        _ => !meaning.as_ref().is_some_and(|meaning| meaning.is_same(&found.path)),
    });
    found.into_iter().map(|found| found.change).collect()
}

fn mode(written: Option<&str>) -> &str {
    written.unwrap_or("\"monitor\"")
}

/// A change, and the keys and names that lead to it.
struct Found<'t> {
    change: Change,
    path: Vec<&'t str>,
}

/// `leveectl config diff A B`: 0 when they say the same, 1 when not or when one cannot be read, 78 when one is not valid.
pub fn diff(before: &Path, after: &Path) -> ExitCode {
    let read = |path: &Path| -> Result<Config, ConfigError> { Ok(Runbooks::load(path)?.0) };
    match read(before).and_then(|before| Ok((before, read(after)?))) {
        Ok((before, after)) => {
            let changes = compare(&before.text, &after.text);
            let mut out = std::io::stdout().lock();
            for change in &changes {
                // A reader that has gone away has seen enough.
                let _ = writeln!(out, "{change}");
            }
            if changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            let status = if matches!(error, ConfigError::Invalid(_)) { INVALID } else { 1 };
            // Without a standard error there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{:?}", miette::Report::new(error));
            ExitCode::from(status)
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "~ {} = {before} -> {after}", self.place)?,
            (None, Some(after)) => write!(f, "+ {} = {after}", self.place)?,
            (Some(before), None) => write!(f, "- {} = {before}", self.place)?,
            (None, None) => write!(f, "  {}", self.place)?,
        }
        match self.effect {
            Effect::AtOnce => Ok(()),
            Effect::ControlplaneRestart => f.write_str(" (when the control plane restarts)"),
            Effect::DataplaneRestart => f.write_str(" (when the dataplane restarts)"),
            Effect::DataplaneLater => f.write_str(" (in the control plane at once, in the dataplane when it restarts)"),
            Effect::BothRestart => f.write_str(" (when both processes restart)"),
        }
    }
}

fn tables<'t>(changes: &mut Vec<Found<'t>>, path: &[&'t str], place: &str, before: &'t Table, after: &'t Table) {
    let keys: BTreeSet<&str> = before.keys().chain(after.keys()).map(String::as_str).collect();
    for key in keys {
        let path: Vec<&str> = path.iter().copied().chain([key]).collect();
        values(changes, &path, &within(place, key), before.get(key), after.get(key));
    }
}

fn values<'t>(
    changes: &mut Vec<Found<'t>>,
    path: &[&'t str],
    place: &str,
    before: Option<&'t Value>,
    after: Option<&'t Value>,
) {
    if before == after {
        return;
    }
    match (before.map(Value::as_table), after.map(Value::as_table)) {
        (Some(None), _) | (_, Some(None)) | (None, None) => {}
        (before, after) => {
            return tables(
                changes,
                path,
                place,
                before.flatten().unwrap_or(empty()),
                after.flatten().unwrap_or(empty()),
            );
        }
    }
    if let (Some(before), Some(after)) = (named(before), named(after)) {
        let names: BTreeSet<&'t str> = before.iter().chain(&after).map(|(name, _)| *name).collect();
        for name in names {
            let of =
                |side: &[(&'t str, &'t Table)]| side.iter().find(|(found, _)| *found == name).map(|(_, table)| *table);
            let place = format!("{place} {name:?}");
            let path: Vec<&str> = path.iter().copied().chain([name]).collect();
            tables(changes, &path, &place, of(&before).unwrap_or(empty()), of(&after).unwrap_or(empty()));
        }
        return order(changes, path, place, &before, &after);
    }
    let text = |value: &Value| value.to_string();
    let effect = effect(path, before, after);
    let (before, after) = (before.map(text), after.map(text));
    let change = Change { place: place.to_owned(), before, after, effect };
    changes.push(Found { change, path: path.to_vec() });
}

fn empty() -> &'static Table {
    static EMPTY: LazyLock<Table> = LazyLock::new(Table::new);
    &EMPTY
}

/// The order of stages is the ladder; that of zones and others is nothing but the order of the file.
fn order<'t>(
    changes: &mut Vec<Found<'t>>,
    path: &[&'t str],
    place: &str,
    before: &[(&str, &Table)],
    after: &[(&str, &Table)],
) {
    let common = |side: &[(&str, &Table)], other: &[(&str, &Table)]| -> Vec<String> {
        let both = side.iter().filter(|(name, _)| other.iter().any(|(found, _)| found == name));
        both.map(|(name, _)| (*name).to_owned()).collect()
    };
    let (from, to) = (common(before, after), common(after, before));
    if path.last() == Some(&"stage") && from != to {
        let (before, after) = (Some(from.join(", ")), Some(to.join(", ")));
        let change = Change { place: within(place, "order"), before, after, effect: effect(path, None, None) };
        changes.push(Found { change, path: path.iter().copied().chain(["order"]).collect() });
    }
}

/// A list of tables that have names; none: another kind of value. What is not there is an empty list.
fn named(value: Option<&Value>) -> Option<Vec<(&str, &Table)>> {
    let Some(value) = value else { return Some(Vec::new()) };
    let tables: Option<Vec<&Table>> = value.as_array()?.iter().map(Value::as_table).collect();
    let tables = tables.filter(|tables| !tables.is_empty())?;
    tables.into_iter().map(|table| Some((table.get("name")?.as_str()?, table))).collect()
}

fn within(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}: {key}") }
}

/// The dataplane keeps to the limits of the file that it was started with, and is handed zones, their modes and what is
/// protected besides.
fn effect(path: &[&str], before: Option<&Value>, after: Option<&Value>) -> Effect {
    match path {
        // A lower ceiling comes with the modes of the zones.
        ["appliance", "mode"] if after.and_then(Value::as_str) == Some("monitor") => Effect::AtOnce,
        ["appliance", "mode" | "name"] | ["guardrails", "kill_switch"] | ["dataplane", "socket"] => {
            Effect::DataplaneLater
        }
        ["appliance", "state_dir"] => Effect::BothRestart,
        ["guardrails", "max_ttl"] => Effect::DataplaneLater,
        ["guardrails", "protected_prefixes"] => {
            let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
            let (before, after) = (list(before), list(after));
            if before.iter().all(|prefix| after.contains(prefix)) { Effect::AtOnce } else { Effect::DataplaneLater }
        }
        ["dataplane" | "exceptions" | "address_set", ..] => Effect::DataplaneRestart,
        ["controlplane", "socket" | "metrics"] => Effect::ControlplaneRestart,
        _ => Effect::AtOnce,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        schema = 1
        [dataplane]
        workers = [1]
        [[zone]]
        name = "web"
        prefixes = ["203.0.113.0/24"]
        [[zone]]
        name = "mail"
        prefixes = ["198.51.100.0/24"]
        [[runbook]]
        name = "standard"
        [[runbook.stage]]
        name = "local"
        [[runbook.stage]]
        name = "edge"
        ttl = "5m"
    "#;

    fn told(changes: &[(&str, &str)]) -> Vec<String> {
        let mut after = FILE.to_owned();
        for (from, to) in changes {
            assert!(after.contains(from), "{from}");
            after = after.replacen(from, to, 1);
        }
        compare(FILE, &after).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_change_is_told_with_its_place_both_values_and_when_it_takes_effect() {
        assert_eq!(told(&[]), [""; 0]);
        assert_eq!(told(&[("[[zone]]", "# a comment\n[[zone]]"), ("\"5m\"", "\"5m\"   ")]), [""; 0]);
        for (from, to, expected) in [
            ("[1]", "[1, 2]", &["~ dataplane: workers = [1] -> [1, 2] (when the dataplane restarts)"][..]),
            ("\"5m\"", "\"6m\"", &["~ runbook \"standard\": stage \"edge\": ttl = \"5m\" -> \"6m\""]),
            ("name = \"web\"", "name = \"web\"\nmode = \"enforce\"", &["+ zone \"web\": mode = \"enforce\""]),
            (
                "name = \"mail\"",
                "name = \"post\"",
                &[
                    "- zone \"mail\": name = \"mail\"",
                    "- zone \"mail\": prefixes = [\"198.51.100.0/24\"]",
                    "+ zone \"post\": name = \"post\"",
                    "+ zone \"post\": prefixes = [\"198.51.100.0/24\"]",
                ],
            ),
            (
                "[dataplane]",
                "[controlplane]\nmetrics = \"127.0.0.1:9469\"\n[dataplane]",
                &["+ controlplane: metrics = \"127.0.0.1:9469\" (when the control plane restarts)"],
            ),
        ] {
            assert_eq!(told(&[(from, to)]), expected);
        }
    }

    #[test]
    fn what_the_dataplane_keeps_until_it_restarts_is_told_apart_from_what_works_at_once() {
        let file = "[appliance]\nmode = \"enforce\"\n[guardrails]\nprotected_prefixes = [\"203.0.113.1/32\"]\n\
                    [[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n";
        let told = |from: &str, to: &str| {
            assert!(file.contains(from), "{from}");
            let there = compare(file, &file.replacen(from, to, 1));
            let back = compare(&file.replacen(from, to, 1), file);
            let [there, back] =
                [there, back].map(|changes| changes.iter().map(|change| change.effect).collect::<Vec<_>>());
            (there, back)
        };
        let (at_once, later) = (vec![Effect::AtOnce], vec![Effect::DataplaneLater]);
        assert_eq!(told("\"enforce\"", "\"monitor\""), (at_once.clone(), later.clone()));
        assert_eq!(told("/32\"", "/32\", \"203.0.113.2/32\""), (at_once, later.clone()));
        assert_eq!(told("[appliance]", "[appliance]\nname = \"edge-2\""), (later.clone(), later.clone()));
        assert_eq!(told("[guardrails]", "[guardrails]\nmax_ttl = \"2h\""), (later.clone(), later));
        let both = vec![Effect::BothRestart];
        assert_eq!(told("[appliance]", "[appliance]\nstate_dir = \"/srv/levee\""), (both.clone(), both));
    }

    #[test]
    fn modes_are_compared_as_they_are_written_also_below_a_ceiling() {
        let file = "[appliance]\nmode = \"monitor\"\n[[zone]]\nname = \"web\"\nmode = \"monitor\"\n\
                    prefixes = [\"203.0.113.0/24\"]\n";
        let told = |from: &str, to: &str| {
            compare(file, &file.replacen(from, to, 1)).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let enforced = told("\"web\"\nmode = \"monitor\"", "\"web\"\nmode = \"enforce\"");
        assert_eq!(enforced, ["~ zone \"web\": mode = \"monitor\" -> \"enforce\""]);
        assert_eq!(told("\"web\"\nmode = \"monitor\"", "\"web\""), [""; 0], "that is the default");
    }

    #[test]
    fn what_is_only_written_in_another_way_is_no_change() {
        let file = "schema = 1\n[dataplane]\nworkers = [1]\n[controlplane.retention]\nincident_days = 30 # a month\n\
                    [[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n";
        let told = |from: &str, to: &str| {
            assert!(file.contains(from), "{from}");
            let after = file.replacen(from, to, 1);
            let told = |a: &str, b: &str| compare(a, b).iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(told(&after, file).len(), told(file, &after).len(), "there and back: {to}");
            told(file, &after)
        };
        for (from, to) in [
            ("workers", "idle = \"adaptive\"\nworkers"),
            ("schema = 1\n", ""),
            ("[1]", "[\n  1,\n]"),
            ("= 30", "= 3_0"),
            ("name", "mode = \"monitor\"\nname"),
        ] {
            assert_eq!(told(from, to), [""; 0], "{to}");
        }
        let idle = told("workers", "idle = \"spin\"\nworkers");
        assert_eq!(idle, ["+ dataplane: idle = \"spin\" (when the dataplane restarts)"]);
        assert_eq!(told("= 30", "= 31"), ["~ controlplane: retention: incident_days = 30 -> 31"]);
        assert_eq!(told("[1]", "[1, 2]").len(), 1);
    }

    #[test]
    fn the_order_of_stages_is_a_change_and_that_of_zones_is_none() {
        let stages = told(&[
            ("\"local\"", "\"first\""),
            ("\"edge\"", "\"local\""),
            ("\"first\"", "\"edge\""),
            ("ttl = \"5m\"", ""),
        ]);
        assert!(
            stages.contains(&"~ runbook \"standard\": stage: order = local, edge -> edge, local".to_owned()),
            "{stages:?}"
        );
        let swapped = [("\"web\"", "\"x\""), ("\"mail\"", "\"web\""), ("\"x\"", "\"mail\"")];
        let prefixes = [("203.0.113", "x"), ("198.51.100", "203.0.113"), ("x.0/24", "198.51.100.0/24")];
        assert_eq!(told(&[swapped.as_slice(), prefixes.as_slice()].concat()), [""; 0]);
    }
}
