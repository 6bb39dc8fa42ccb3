//! `[[address_set]]`: lists of source addresses, and what happens to packets from them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

use super::general::{absolute_path, name, prefix, values};
use super::guardrails::Guardrails;
use super::problem::Fault;
use super::section::{Located, Section};
use crate::address_set::{AddressSet, Column, ListFormat, MAX_ADDRESS_SETS, SetAction};
use crate::prefix::Prefix;
use crate::zone::Zone;

const ACTIONS: &[(&str, SetAction)] =
    &[("none", SetAction::None), ("drop", SetAction::Drop), ("pass", SetAction::Pass)];

/// Words for the ways to write a list; a CSV file has a column besides.
#[derive(Clone, Copy)]
enum Written {
    Auto,
    Lines,
    Csv,
}

const FORMATS: &[(&str, Written)] =
    &[("auto", Written::Auto), ("list", Written::Lines), ("netset", Written::Lines), ("csv", Written::Csv)];

pub(super) fn read(file: &Section<'_>, zones: &[Zone], guardrails: &Guardrails) -> Vec<AddressSet> {
    let tables = file.tables("address_set");
    if tables.len() > MAX_ADDRESS_SETS {
        let fault = Fault::new(
            format!("{} address sets are too many", tables.len()),
            format!("at most {MAX_ADDRESS_SETS} are possible; a set may have several files"),
        );
        file.problems().error(file.place("address_set"), fault);
        return Vec::new();
    }
    let mut names = HashMap::new();
    tables.into_iter().filter_map(|table| address_set(table, zones, guardrails, &mut names)).collect()
}

fn address_set(
    mut table: Section<'_>,
    zones: &[Zone],
    guardrails: &Guardrails,
    names: &mut HashMap<String, Range<usize>>,
) -> Option<AddressSet> {
    let problems = table.problems();
    let name = table.required("name", "\"bogons\"", |table, key| table.parsed(key, name));
    if let Some(name) = &name {
        table.rename(format!("address_set {:?}", name.value));
        if let Some(first) = names.insert(name.value.clone(), name.span.clone()) {
            let fault =
                Fault::new(format!("two address sets are named {:?}", name.value), "give each set a name of its own");
            problems.conflict(name.span.clone(), fault, first, "first here");
        }
    }
    let files: Vec<PathBuf> = values(table.parsed_list("files", absolute_path).unwrap_or_default());
    let prefixes = table.parsed_list("prefixes", prefix).unwrap_or_default();
    if !table.has("files") && !table.has("prefixes") {
        let fault = Fault::new("the set has no members", "give `files`, `prefixes` or both");
        problems.error(table.place("name"), fault);
    }
    let action = table.choice("action", ACTIONS).unwrap_or_default();
    if action != SetAction::Pass {
        prefixes.iter().for_each(|prefix| refuse_protected(&table, prefix, guardrails));
    }
    let set = AddressSet {
        name: name.as_ref().map_or_else(String::new, |name| name.value.clone()),
        files,
        format: format(&table),
        prefixes: values(prefixes),
        action,
        zones: zone_names(&table, zones),
    };
    table.refuse_unknown();
    name.map(|_| set)
}

fn refuse_protected(table: &Section<'_>, prefix: &Located<Prefix>, guardrails: &Guardrails) {
    if let Some(protected) = guardrails.protected_prefixes.iter().find(|known| known.overlaps(&prefix.value)) {
        let fault = Fault::new(
            format!("{} overlaps with the protected prefix {protected}", prefix.value),
            "protected addresses can be in no set but one with action = \"pass\": take one of the two out",
        );
        table.problems().error(prefix.span.clone(), fault);
    }
}

fn format(table: &Section<'_>) -> ListFormat {
    let column = column(table);
    match (table.choice("format", FORMATS), column) {
        (None | Some(Written::Auto), None) => ListFormat::Auto,
        // Only a CSV file has columns.
        (Some(Written::Csv), column) => ListFormat::Csv(column.unwrap_or_default()),
        (None | Some(Written::Auto), Some(column)) => ListFormat::Csv(column),
        (Some(Written::Lines), None) => ListFormat::Lines,
        (Some(Written::Lines), Some(_)) => {
            let fault = Fault::new("a list has no columns", "leave `column` out, or give format = \"csv\"");
            table.problems().error(table.place("column"), fault);
            ListFormat::Lines
        }
    }
}

/// The number of a column, or its name in the header.
fn column(table: &Section<'_>) -> Option<Column> {
    if table.is_integer("column") {
        let number = table.integer("column", 1..=1_000)?;
        return usize::try_from(number).ok().map(Column::Number);
    }
    table.string("column").map(|name| Column::Named(name.value.to_owned()))
}

fn zone_names(table: &Section<'_>, zones: &[Zone]) -> Vec<String> {
    let known = |text: &str| {
        if zones.iter().any(|zone| zone.name == text) {
            return Ok(text.to_owned());
        }
        let all: Vec<String> = zones.iter().map(|zone| format!("{:?}", zone.name)).collect();
        Err(Fault::new(format!("there is no zone {text:?}"), format!("the zones are: {}", all.join(", "))))
    };
    let names = table.parsed_list("zones", known).unwrap_or_default();
    if table.list("zones").is_some_and(<[_]>::is_empty) {
        let fault = Fault::new("the list of zones is empty", "leave `zones` out to mean all zones");
        table.problems().error(table.place("zones"), fault);
    }
    values(names)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parse(sets: &str) -> Result<Vec<AddressSet>, String> {
        let text = format!(
            "schema = 1\n[guardrails]\nprotected_prefixes = [\"192.0.2.1/32\"]\n[[zone]]\nname = \"web\"\n\
             prefixes = [\"203.0.113.0/24\"]\n{sets}"
        );
        Config::parse("levee.toml", &text).map(|config| config.address_sets).map_err(|invalid| format!("{invalid:?}"))
    }

    #[test]
    fn every_key_is_read() {
        let sets = parse(
            "[[address_set]]\nname = \"geo\"\nfiles = [\"/a\", \"/b\"]\nformat = \"csv\"\ncolumn = \"network\"\n\
             prefixes = [\"198.51.100.0/24\"]\naction = \"drop\"\nzones = [\"web\"]\n\
             [[address_set]]\nname = \"office\"\nprefixes = [\"192.0.2.0/24\"]\naction = \"pass\"",
        );
        let geo = AddressSet {
            name: "geo".to_owned(),
            files: vec!["/a".into(), "/b".into()],
            format: ListFormat::Csv(Column::Named("network".to_owned())),
            prefixes: vec!["198.51.100.0/24".parse().unwrap()],
            action: SetAction::Drop,
            zones: vec!["web".to_owned()],
        };
        let office = AddressSet {
            name: "office".to_owned(),
            files: Vec::new(),
            format: ListFormat::Auto,
            prefixes: vec!["192.0.2.0/24".parse().unwrap()],
            action: SetAction::Pass,
            zones: Vec::new(),
        };
        assert_eq!(sets, Ok(vec![geo, office]));
    }

    #[test]
    fn a_set_that_cannot_be_meant_is_refused() {
        let refused = |set: &str, why: &str| {
            let told = parse(&format!("[[address_set]]\nname = \"x\"\n{set}")).unwrap_err();
            assert!(told.contains(why), "{told}");
        };
        refused("prefixes = [\"192.0.2.0/24\"]\naction = \"drop\"", "overlaps with the protected prefix 192.0.2.1/32");
        refused("prefixes = [\"192.0.2.0/24\"]", "overlaps with the protected prefix");
        refused("action = \"drop\"", "has no members");
        refused("files = [\"feed\"]", "is not an absolute path");
        refused("files = [\"/feed\"]\nzones = [\"mail\"]", "there is no zone");
        refused("files = [\"/feed\"]\nzones = []", "list of zones is empty");
        refused("files = [\"/feed\"]\nformat = \"netset\"\ncolumn = 2", "has no columns");
        refused(
            "files = [\"/feed\"]\n[[address_set]]\nname = \"x\"\nfiles = [\"/feed\"]",
            "two address sets are named",
        );
    }
}
