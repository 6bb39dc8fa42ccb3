//! The schema as a whole: the shipped example, what each mistake is told, and that nothing else can happen.

use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::role::Role;
use crate::zone::{Challenge, Mode, Service, Visibility};

const EXAMPLE: &str = include_str!("../../../configs/levee.toml");

fn problems(text: &str) -> Vec<Problem> {
    Config::parse("levee.toml", text).expect_err(text).problems().to_vec()
}

/// A valid file with one zone, and the given lines in that zone.
fn zone_with(lines: &str) -> String {
    format!("schema = 1\n[[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n{lines}\n")
}

fn wire_with(outside: &str, inside: &str) -> String {
    format!("schema = 1\n[[dataplane.wire]]\nname = \"a\"\noutside = \"{outside}\"\ninside = \"{inside}\"\n")
}

fn capture_with(line: &str) -> String {
    zone_with(&format!("[dataplane.capture]\n{line}"))
}

#[test]
fn a_quota_without_room_for_an_incident_is_told_where_both_are() {
    let text = capture_with("incident_bytes = \"2MiB\"\nquota = \"1MiB\"");
    let [problem] = &problems(&text)[..] else { panic!("one problem") };
    let quota = text.lines().position(|line| line.starts_with("quota")).unwrap() + 1;
    assert_eq!((problem.line, problem.column), (quota, 9));
    assert_eq!(&text[problem.other.clone().unwrap().0], "\"2MiB\"");
}

#[test]
fn the_shipped_example_means_what_it_says() {
    let config = Config::parse("levee.toml", EXAMPLE).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.appliance.name, "edge-1");
    assert_eq!(config.dataplane.workers, [2, 3]);
    assert_eq!(config.dataplane.memory, Memory::Hugepages { bytes: 2 << 30 });
    assert_eq!(config.dataplane.idle, Idle::Spin);
    assert_eq!(
        config.dataplane.wires,
        [Wire {
            name: "uplink-a".into(),
            outside: "0000:81:00.0".into(),
            inside: "0000:81:00.1".into(),
            capacity_bps: Some(10_000_000_000),
            mtu: 1_500,
            buffers: Some(32_768)
        }]
    );
    assert_eq!(config.dataplane.capture, Capture::default(), "the file shows the defaults");
    assert_eq!(config.guardrails.max_ttl, Duration::from_secs(86_400));
    let zone = &config.zones[0];
    assert_eq!(zone.mode, Mode::Monitor, "the ceiling of the appliance holds");
    assert_eq!(zone.services[0], Service { protocol: 6, ports: vec![(80, 80), (443, 443), (8_000, 8_100)] });
    assert_eq!(zone.services[2], Service { protocol: 1, ports: vec![] });
    assert_eq!(zone.link_capacity_bps, Some(1_000_000_000));
    assert_eq!(zone.floors, [(Role::Syn, 500), (Role::UdpOpen, 1_000)]);
    assert_eq!(zone.runbook.as_deref(), Some("standard"));
}

#[test]
fn a_bare_zone_is_a_file_and_enforces_when_it_says_so() {
    let text = "[[zone]]\nname = \"z\"\nprefixes = [\"198.18.0.0/15\", \"2001:0db8:0000:0000::/64\"]\nmode = \"enforce\"\n\
                services = [\n  { proto = \"tcp\", ports = [80, 443] },\n  { proto = \"gre\" },\n]\nlink_capacity = \"10Mbps\"\n";
    let config = Config::parse("bare.toml", text).unwrap();
    assert_eq!(config.zones[0].mode, Mode::Enforce);
    assert_eq!(config.zones[0].visibility, Visibility::Auto);
    assert_eq!(config.zones[0].challenge, Challenge::Reset);
    assert_eq!(config.dataplane, Dataplane::default());
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].message.contains("schema"));
}

#[test]
fn a_template_gives_floors_that_those_of_the_zone_replace() {
    let floors = |more: &str| Config::parse("levee.toml", &zone_with(more)).unwrap().zones[0].floors.clone();
    assert_eq!(floors("template = \"server\""), []);
    assert_eq!(
        floors("template = \"dns\"\nfloors = { icmp_other = 100, udp_open = 9000 }"),
        [(Role::Syn, 200), (Role::Request, 200), (Role::UdpOpen, 9_000), (Role::IcmpOther, 100)]
    );
}

#[test]
fn a_zone_that_says_nothing_about_its_mode_is_only_watched() {
    let config = Config::parse("levee.toml", &zone_with("")).unwrap();
    assert_eq!(config.zones[0].mode, Mode::Monitor);
}

#[test]
fn an_unknown_key_is_told_with_its_place_and_the_nearest_known_one() {
    let text = "schema = 1\n[[zone]]\nname = \"web\"\n  prefix = [\"203.0.113.0/24\"]\n";
    let problems = problems(text);
    let unknown = problems.iter().find(|p| p.message.contains("unknown key")).unwrap();
    assert_eq!((unknown.line, unknown.column), (4, 3));
    assert_eq!(unknown.message, "unknown key `prefix` in zone \"web\"");
    assert!(unknown.help.starts_with("did you mean `prefixes`?"), "{}", unknown.help);
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let text = "schema = 1\n[appliance]\nmode = \"enforced\"\n[dataplane]\nmemry = \"2GiB\"\n[[zone]]\nname = \"web\"\n\
                prefixes = [\"203.0.113.7/24\", \"x\"]\nlink_capacity = \"1Gb\"\n";
    let lines: Vec<usize> = problems(text).iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [3, 5, 8, 8, 9]);
}

#[test]
fn each_mistake_is_named_and_its_remedy_told() {
    let cases = [
        ("zone = 5", "`zone` of the file cannot be a value of type integer", "a list of tables"),
        ("[zone]\nname = \"web\"", "`zone` is a list of tables", "double brackets"),
        ("[[appliance]]\nname = \"a\"", "[appliance] is given more than once", "single brackets"),
        ("schema = 2\nnews = 1", "schema 2 is not known to this version of Levee", "schema 1"),
        ("schema = \"1\"", "`schema` of the file cannot be a value of type string", "a whole number"),
        ("schema = 1", "the file has neither zones nor wires", "[[zone]]"),
        (&zone_with("prefixes = []"), "duplicate key", "toml.io"),
        ("schema = 1\n[[zone]]\nname = \"a\"\nprefixes = []", "the zone protects nothing", "203.0.113.0/24"),
        ("schema = 1\n[[zone]]\nprefixes = [\"203.0.113.0/24\"]", "zone 1 has no `name`", "name = \"web\""),
        ("schema = 1\n[[zone]]\nname = \"web\"", "zone \"web\" has no `prefixes`", "prefixes = "),
        ("schema = 1\n[[zone]]\nname = \" \"\nprefixes = [\"::/0\"]", "\" \" cannot be a name", "1 to 64 characters"),
        (&zone_with("mode = \"drop\""), "unknown value `drop` for `mode`", "monitor, enforce"),
        (
            &zone_with("challenge = \"captcha\""),
            "unknown value `captcha` for `challenge`",
            "reset, safe_reset, proxy, off",
        ),
        (
            &zone_with("challenge = \"proxy\"\nvisibility = \"inbound\""),
            "whose answers do not pass here",
            "use \"reset\" or \"safe_reset\"",
        ),
        (&zone_with("visibility = \"outbound\""), "unknown value `outbound` for `visibility`", "auto, both, inbound"),
        (&zone_with("link_capacity = 1000"), "cannot be a value of type integer", "a string in quotes"),
        (
            &zone_with("services = [{ proto = \"icmp\", ports = [8] }]"),
            "this protocol has no ports",
            "leave `ports` out",
        ),
        (&zone_with("services = [{ proto = \"tpc\" }]"), "unknown value `tpc` for `proto`", "did you mean `tcp`"),
        (&zone_with("services = [{ proto = 256 }]"), "`proto` is out of range", "from 0 to 255"),
        (&zone_with("services = [{ ports = [80] }]"), "service has no `proto`", "proto = \"tcp\""),
        (&zone_with("services = [{ proto = \"tcp\", ports = [] }]"), "the list of ports is empty", "all ports"),
        (&zone_with("services = [{ proto = \"tcp\", ports = [0] }]"), "`ports` is out of range", "from 1 to 65535"),
        (&zone_with("services = [{ proto = \"tcp\", ports = [\"90-80\"] }]"), "ends before it begins", "80-90"),
        (&zone_with("services = [{ proto = \"tcp\", ports = [\"http\"] }]"), "neither a port nor a range", "8000-8100"),
        (&zone_with("services_complete = true"), "said to be complete", "`services`"),
        (&zone_with("template = \"gaming\""), "unknown value `gaming` for `template`", "did you mean `game`"),
        (&zone_with("floors = { sin = 5 }"), "unknown key `sin` in `floors`", "did you mean `syn`"),
        (&zone_with("floors = { syn = 0 }"), "`syn` is out of range", "from 1"),
        (&zone_with("[guardrails]\nmax_ttl = \"25h\""), "a mitigation cannot last for 25h", "24h"),
        (&wire_with("0000:81:00.0", "81:00.0"), "the port \"81:00.0\" is used twice", "two ports"),
        (&wire_with("net_af_packet0,iface=a", "net_af_packet1,iface=a"), "is used twice", "two ports"),
        (&wire_with("net_null0", ""), "\"\" cannot be a port", "PCI address"),
        (&wire_with("net_null0", "net_null1\"\nmtu = 100_000 # \""), "`mtu` is out of range", "from 576 to 9600"),
        ("schema = 1\n[dataplane]\nworkers = [1, 1]", "CPU 1 is given twice", "CPU of its own"),
        ("schema = 1\n[dataplane]\nmemory = \"2GB\"", "\"GB\" is no unit of a size", "2GiB"),
        ("schema = 1\n[dataplane]\nmemory = \"1MiB\"", "1MiB is too little memory", "64MiB"),
        (&capture_with("ring = \"512KiB\""), "512KiB is out of range", "from \"1024KiB\""),
        (&capture_with("ring = \"4MiB\""), "a ring of 4194304 bytes is overwritten within a second", "`rate`"),
        (&capture_with("quota = \"16MiB\""), "has no room for one incident of 33554432 bytes", "`incident_bytes`"),
        (&capture_with("retention_days = 366"), "`retention_days` is out of range", "from 0 to 365"),
        (&capture_with("incident_duration = \"0s\""), "a capture cannot last for 0s", "\"60s\""),
        (&capture_with("peace_one_in = 0"), "`peace_one_in` is out of range", "from 1"),
        (
            &capture_with("truncate_address = true"),
            "unknown key `truncate_address`",
            "did you mean `truncate_addresses`",
        ),
        ("schema = 1\n[dataplane]\nsocket = \"run/x\"", "\"run/x\" is not an absolute path", "begin with /"),
    ];
    for (text, message, help) in cases {
        let found = problems(text);
        assert!(
            found.iter().any(|p| p.message.contains(message) && p.help.contains(help)),
            "{text}\nwanted {message:?} ({help:?}), found {found:#?}"
        );
    }
}

#[test]
fn another_schema_is_told_without_guessing_at_the_rest() {
    assert_eq!(problems("schema = 2\nnews = 1\n[[zone]]\n").len(), 1);
}

#[test]
fn zones_do_not_share_addresses() {
    let text = "schema = 1\n[[zone]]\nname = \"a\"\nprefixes = [\"198.51.100.0/24\", \"203.0.113.128/25\"]\n\
                [[zone]]\nname = \"b\"\nprefixes = [\"203.0.113.0/24\"]\n[[zone]]\nname = \"a\"\nprefixes = [\"2001:db8::/32\"]\n";
    let found = problems(text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!(found[0].message, "203.0.113.0/24 of zone \"b\" overlaps with 203.0.113.128/25 of zone \"a\"");
    assert_eq!((found[0].line, found[0].column), (7, 13));
    let (other, _) = found[0].other.clone().unwrap();
    assert_eq!(&text[other], "\"203.0.113.128/25\"");
    assert_eq!(found[1].message, "two zones are named \"a\"");
}

#[test]
fn what_is_valid_and_useless_is_a_warning() {
    let text = format!(
        "{}[guardrails]\nprotected_prefixes = [\"203.0.112.0/20\"]\nowned_prefixes = [\"198.51.100.0/24\"]\n",
        zone_with("")
    );
    let warnings = Config::parse("levee.toml", &text).unwrap().warnings;
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().all(|warning| warning.line == 4 && !warning.is_error));
}

#[test]
fn the_hash_follows_the_text_and_nothing_else() {
    assert_eq!(ContentHash::of(EXAMPLE), ContentHash::of(EXAMPLE));
    assert_ne!(ContentHash::of(EXAMPLE), ContentHash::of(&format!("{EXAMPLE}\n")));
    assert_eq!(ContentHash::of("schema = 1\n").to_string(), "0000000bbdabe1e0");
}

#[test]
fn files_that_are_no_text_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.toml");
    let error = Config::load(&missing).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }) && error.to_string().contains("missing.toml"), "{error}");
    assert!(matches!(Config::load(folder.path()), Err(ConfigError::Read { .. })));

    let garbage = folder.path().join("garbage.toml");
    std::fs::write(&garbage, b"schema = 1\nname = \"\xff\"").unwrap();
    let ConfigError::Invalid(invalid) = Config::load(&garbage).unwrap_err() else { panic!("it can be read") };
    assert_eq!((invalid.problems()[0].line, invalid.problems()[0].column), (2, 9));
}

#[test]
fn thousands_of_zones_are_checked_for_overlaps() {
    let mut text = "schema = 1\n".to_owned();
    for index in 0..4_000_u32 {
        let (high, low) = (index >> 8, index & 0xff);
        let _ = write!(text, "[[zone]]\nname = \"z{index}\"\nprefixes = [\"10.{high}.{low}.0/24\"]\n");
    }
    assert_eq!(Config::parse("levee.toml", &text).unwrap().zones.len(), 4_000);
}

/// Valid, or at least one error, each with a place inside the text; and people can be shown it.
fn is_told_or_valid(text: &str) {
    let Err(invalid) = Config::parse("levee.toml", text) else { return };
    assert!(invalid.problems().iter().any(|problem| problem.is_error), "{text}");
    let lines = text.matches('\n').count() + 1;
    for problem in invalid.problems() {
        assert!((1..=lines).contains(&problem.line) && problem.column >= 1, "{problem:?}\n{text}");
        assert!(!problem.message.is_empty() && !problem.help.is_empty(), "{problem:?}");
    }
    let mut shown = String::new();
    miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::none())
        .render_report(&mut shown, &invalid)
        .unwrap();
    assert!(shown.contains("levee.toml"), "{shown}");
}

#[test]
fn the_example_cut_anywhere_or_without_any_byte_is_valid_or_told() {
    for at in 0..EXAMPLE.len() {
        if EXAMPLE.is_char_boundary(at) && EXAMPLE.is_char_boundary(at + 1) {
            is_told_or_valid(&EXAMPLE[..at]);
            is_told_or_valid(&format!("{}{}", &EXAMPLE[..at], &EXAMPLE[at + 1..]));
        }
    }
}

proptest! {
    #[test]
    fn the_example_with_any_part_replaced_is_valid_or_told(
        from in 0..EXAMPLE.len(),
        length in 0_usize..30,
        with in prop_oneof![
            ".{0,8}",
            "[\\[\\]{}=\",#.\n 0-9a-z_-]{0,8}",
            Just("999999999999999999999999".to_owned()),
            Just("[[zone]]\n".to_owned()),
            Just("-1".to_owned()),
            Just("nan".to_owned()),
            Just("1979-05-27T07:32:00Z".to_owned()),
        ],
    ) {
        let to = (from + length).min(EXAMPLE.len());
        is_told_or_valid(&format!("{}{with}{}", &EXAMPLE[..from], &EXAMPLE[to..]));
    }

    #[test]
    fn any_text_is_valid_or_told(text in any::<String>()) {
        is_told_or_valid(&text);
    }

    #[test]
    fn tokens_in_any_order_are_valid_or_told(
        tokens in prop::collection::vec(
            prop::sample::select(EXAMPLE.split_inclusive(['\n', ' ', ',', '=']).collect::<Vec<_>>()), 0..40)
    ) {
        is_told_or_valid(&tokens.concat());
    }
}
