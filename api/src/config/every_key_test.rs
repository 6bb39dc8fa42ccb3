//! Each key of the file, wrong in each way: never a panic, always a place, and the right one.
//!
//! The files here have every key that is read. That is not taken on trust: a key that nobody knows is put into each table,
//! and what is told about it names those that are known there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::*;

const FILES: [(&str, &str); 5] = [
    ("levee.toml", include_str!("../../../configs/levee.toml")),
    ("hosting", include_str!("../../../configs/runbook-hosting.toml")),
    ("game servers", include_str!("../../../configs/runbook-game-servers.toml")),
    ("isp", include_str!("../../../configs/runbook-isp.toml")),
    ("the rest", REST),
];

/// What the shipped files do not have.
const REST: &str = r#"
schema = 1
[dataplane]
socket = "/run/levee/dataplane.sock"
[[dataplane.wire]]
name = "up"
outside = "net_null0"
inside = "net_null1"
capacity = "10Gbps"
[guardrails]
owned_prefixes = ["203.0.113.0/24"]
[bgp]
as = 64496
router_id = "192.0.2.2"
listen = ["192.0.2.2", "[2001:db8::2]:1179"]
[bgp.bmp]
listen = ["192.0.2.2:11019"]
routers = ["192.0.2.1"]
[[bgp.peer]]
name = "left"
announcer = "core"
address = "192.0.2.1"
port = 1179
as = 64497
local_address = "192.0.2.2"
passive = true
password = { credential = "bgp-left" }
ttl_security = true
hold_time = "30s"
families = ["ipv4-unicast", "ipv4-flowspec"]
on_loss = "retain"
retain_for = "5m"
no_export = true
blackhole_communities = ["blackhole"]
source_blackhole_communities = ["64497:667"]
divert_communities = ["64497:668"]
prepend = 2
max_routes = 100
[[bgp.peer]]
name = "right"
announcer = "core"
address = "192.0.2.5"
as = 64497
password = { file = "/etc/levee/bgp.key" }
[[announcer]]
name = "core"
kind = "embedded"
capabilities = ["flowspec", "rate-limit", "redirect", "mark", "sample", "blackhole", "source-blackhole", "divert", "report", "ipv6"]
neighbors = ["192.0.2.9"]
next_hops = ["192.0.2.10"]
[[scrubber]]
name = "provider"
kind = "dots"
capabilities = ["divert", "ipv6", "report"]
[[notifier]]
name = "noc"
kind = "webhook"
url = "https://noc.example/levee"
secret = { file = "/etc/levee/noc.key" }
timeout = "5s"
max_per_minute = 10
[[zone]]
name = "names"
prefixes = ["203.0.113.0/24"]
mode = "enforce"
services = [{ proto = "udp", ports = [53] }, { proto = "tcp", ports = [53] }]
challenge_dns = true
template = "dns"
runbook = "all"
floors = { syn = 1, out_of_state = 2, unsolicited_syn_ack = 3, request = 4, udp_open = 5, udp_unserved = 6, unsolicited_response = 7, icmp_other = 8, later_fragment = 9, other_protocol = 10, established = 11 }
[[runbook]]
name = "all"
[[runbook.stage]]
name = "ask"
action = { wait-for-approval = { roles = ["operator"], within = "1m", otherwise = "skip" } }
[[runbook.stage]]
name = "tell"
action = { notify = { channels = ["noc"] } }
[[runbook.stage]]
name = "call"
action = { webhook = { notifier = "noc" } }
[[runbook.stage]]
name = "redirect"
when = "uplink.saturated"
for = "1s"
calm = "3m"
min_hold = "2m"
approve = { roles = ["admin"], within = "2m", otherwise = "proceed" }
action = { flowspec = { announcers = ["core"], prefer = "redirect", redirect = "64496:666", rate = "1Mbps", max_rules = 3 } }
[[runbook.stage]]
name = "mark"
action = { flowspec = { announcers = ["core"], prefer = "mark", dscp = 8 } }
[[runbook.stage]]
name = "divert"
action = { divert = { scrubber = "provider", ipv4_length = 24, ipv6_length = 48 } }
[[runbook.stage]]
name = "sources"
action = { blackhole = { announcers = ["core"], direction = "source", rate = "1Mbps" } }
"#;

/// Values of every kind.
const VALUES: &[&str] = &[
    "5",
    "-1",
    "0.5",
    "nan",
    "true",
    "\"\"",
    "\"x\"",
    "\"5m\"",
    "[]",
    "[1]",
    "[\"x\"]",
    "{}",
    "{ x = 1 }",
    "[{}]",
    "1979-05-27",
    "99999999999999999999",
    "\"\\u0000\"",
];

/// Those that are never right, but for names: others may be right by themselves, and wrong beside another key.
const UNFIT: &[&str] = &["-1", "nan", "\"\"", "\"x\"", "[1]", "[\"x\"]", "99999999999999999999", "\"\\u0000\""];

/// Names of what is described elsewhere in the file.
const NAMES: &[&str] = &[
    "maintenance.zones",
    "bgp.peer.announcer",
    "runbook.stage.notify",
    "runbook.stage.action.flowspec.announcers",
    "runbook.stage.action.divert.announcers",
    "runbook.stage.action.divert.scrubber",
    "runbook.stage.action.blackhole.announcers",
    "runbook.stage.action.notify.channels",
    "runbook.stage.action.webhook.notifier",
];

/// Keys whose value may be of several kinds: one that is right by itself can be wrong beside another key.
const SEVERAL_KINDS: &[&str] = &["zone.services.proto", "zone.services.ports", "address_set.column"];

/// Keys that are known in order to be refused with a word on why.
const REFUSED: &[&str] = &["bgp.peer.tcp_ao"];

/// A key that has a value of its own.
struct Key {
    /// Tables and the key, such as `runbook.stage.action.flowspec.rate`.
    path: String,
    value: Range<usize>,
}

/// A table, and where a line can be put into it.
struct Table {
    path: String,
    inline: bool,
    first_key: usize,
    keys: BTreeSet<String>,
}

#[derive(Default)]
struct Found {
    keys: Vec<Key>,
    tables: Vec<Table>,
}

impl Found {
    fn of(text: &str) -> Self {
        let mut found = Self::default();
        let table = DeTable::parse(text).unwrap();
        found.table("", false, table.get_ref(), text);
        found
    }

    fn table(&mut self, path: &str, inline: bool, table: &DeTable<'_>, text: &str) {
        let within = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        let keys: BTreeSet<String> = table.keys().map(|key| key.get_ref().to_string()).collect();
        // The key of a table with a header stands in that header.
        let own = table.iter().filter(|(_, value)| !is_header(text, &value.span()));
        if let Some(first_key) = own.map(|(key, _)| key.span().start).min() {
            self.tables.push(Table { path: path.to_owned(), inline, first_key, keys });
        }
        for (key, value) in table {
            self.value(&within(key.get_ref()), value, text);
        }
    }

    fn value(&mut self, path: &str, value: &Spanned<DeValue<'_>>, text: &str) {
        let inline = text[value.span()].starts_with(['{', '[']) && !is_header(text, &value.span());
        match value.get_ref() {
            DeValue::Table(table) => {
                if inline {
                    self.keys.push(Key { path: path.to_owned(), value: value.span() });
                }
                self.table(path, inline, table, text);
            }
            DeValue::Array(values) => {
                let of_tables = values.iter().any(|value| matches!(value.get_ref(), DeValue::Table(_)));
                if inline || !of_tables {
                    self.keys.push(Key { path: path.to_owned(), value: value.span() });
                }
                for value in values.iter().filter(|_| of_tables) {
                    self.value(path, value, text);
                }
            }
            _ => self.keys.push(Key { path: path.to_owned(), value: value.span() }),
        }
    }
}

/// `[name]` or `[[name]]` at the beginning of a line is a header, behind `=` a value.
fn is_header(text: &str, span: &Range<usize>) -> bool {
    let line = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
    text[span.start..].starts_with('[') && text[line..span.start].trim().is_empty()
}

/// The type of a value, as TOML has it.
fn kind(value: &str) -> String {
    let text = format!("a = {value}");
    let table = DeTable::parse(&text).unwrap();
    table.get_ref().get("a").unwrap().get_ref().type_str().to_owned()
}

fn problems(text: &str) -> Vec<Problem> {
    match Config::parse("levee.toml", text) {
        Ok(_) => Vec::new(),
        Err(invalid) => invalid.problems().to_vec(),
    }
}

#[test]
fn the_files_are_valid_and_have_every_key_that_is_read() {
    let (mut known, mut there): (BTreeMap<String, BTreeSet<String>>, BTreeMap<String, BTreeSet<String>>) =
        (BTreeMap::new(), BTreeMap::new());
    for (name, text) in FILES {
        assert!(problems(text).is_empty(), "{name}: {:#?}", problems(text));
        for table in Found::of(text).tables {
            let strange = if table.inline { "zzzzzz = 1, " } else { "zzzzzz = 1\n" };
            let changed = format!("{}{strange}{}", &text[..table.first_key], &text[table.first_key..]);
            let told = problems(&changed);
            let told = told.iter().find(|problem| problem.message.contains("unknown key `zzzzzz`"));
            let told = told.unwrap_or_else(|| panic!("{name}: an unknown key in {} is not told", table.path));
            assert!(changed[told.span.clone()].starts_with("zzzzzz"), "{name}, {}: {told:?}", table.path);
            let (_, keys) = told.help.split_once("nown here: ").unwrap();
            let keys = keys.split(", ").filter(|key| !key.is_empty()).map(str::to_owned);
            known.entry(table.path.clone()).or_default().extend(keys);
            there.entry(table.path).or_default().extend(table.keys);
        }
    }
    let missing =
        known.iter().flat_map(|(path, keys)| keys.difference(&there[path]).map(move |key| format!("{path}.{key}")));
    let missing: Vec<String> = missing.filter(|path| !REFUSED.contains(&path.as_str())).collect();
    assert!(missing.is_empty(), "no file of this test has {missing:#?}");
    assert!(known.len() > 25, "{} kinds of tables", known.len());
}

#[test]
fn each_key_wrong_in_each_way_is_told_where_it_stands() {
    // Whether a wrong value was told where it stands, by key.
    let mut told: BTreeMap<String, bool> = BTreeMap::new();
    let mut elsewhere = Vec::new();
    for (name, text) in FILES {
        for Key { path, value } in Found::of(text).keys {
            let before = kind(&text[value.clone()]);
            for wrong in VALUES {
                let changed = format!("{}{wrong}{}", &text[..value.start], &text[value.end..]);
                let place = value.start..value.start + wrong.len();
                let problems = problems(&changed);
                let at = format!("{name}: {path} = {wrong}");
                for problem in &problems {
                    assert!(!problem.message.is_empty() && !problem.help.is_empty(), "{at}: {problem:?}");
                    let span = &problem.span;
                    assert!(
                        span.start < span.end && span.end <= changed.len() || has_no_place(problem),
                        "{at}: {problem:?}"
                    );
                    let line = changed[..span.start].matches('\n').count() + 1;
                    assert_eq!(problem.line, line, "{at}: {problem:?}");
                }
                let is_here = |span: &Range<usize>| span.start < place.end && place.start < span.end;
                let here = problems.iter().any(|problem| {
                    problem.is_error
                        && (is_here(&problem.span) || problem.other.as_ref().is_some_and(|(other, _)| is_here(other)))
                });
                *told.entry(path.clone()).or_default() |= here;
                let by_itself = kind(wrong) != before && !SEVERAL_KINDS.contains(&path.as_str());
                let is_unfit = UNFIT.contains(wrong) && !path.ends_with("name") && !names_it(&path, &problems);
                if (by_itself || is_unfit) && !here && !problems.is_empty() {
                    elsewhere.push(format!("{at}: {problems:?}"));
                }
            }
        }
    }
    assert!(elsewhere.is_empty(), "told elsewhere: {elsewhere:#?}");
    let silent: Vec<&String> = told.iter().filter(|(_, told)| !**told).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "nothing is wrong for {silent:#?}");
}

/// A name of something that there is not is told at the name of who asks for it, and is said.
fn names_it(path: &str, problems: &[Problem]) -> bool {
    NAMES.contains(&path) && problems.iter().any(|problem| problem.message.contains("\"x\", which there is not"))
}

/// What is missing altogether stands nowhere.
fn has_no_place(problem: &Problem) -> bool {
    ["neither zones nor wires", "does not say its schema", "has no zone"]
        .iter()
        .any(|told| problem.message.contains(told))
}
