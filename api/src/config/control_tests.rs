//! The sections of the control plane: what each mistake is told.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SHIPPED: [&str; 3] = [
    include_str!("../../../configs/runbook-hosting.toml"),
    include_str!("../../../configs/runbook-game-servers.toml"),
    include_str!("../../../configs/runbook-isp.toml"),
];

const HEAD: &str = "schema = 1\n[[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n";

const UPSTREAM: &str = "[guardrails]\nowned_prefixes = [\"203.0.113.0/24\"]\n[[announcer]]\nname = \"core\"\nkind = \"frr\"\n\
                        [[scrubber]]\nname = \"provider\"\nkind = \"dots\"\n[[notifier]]\nname = \"noc\"\nkind = \"log\"\n";

/// A valid file with one stage, and these lines in it.
fn stage(lines: &str) -> String {
    format!("{HEAD}{UPSTREAM}[[runbook]]\nname = \"r\"\n[[runbook.stage]]\nname = \"s\"\n{lines}\n")
}

fn action(action: &str) -> String {
    stage(&format!("action = {{ {action} }}"))
}

fn with(lines: &str) -> String {
    format!("{HEAD}{lines}\n")
}

#[test]
fn each_mistake_is_named_and_its_remedy_told() {
    let cases = [
        (with("[[runbook]]\nname = \"r\""), "the runbook has no stage", "[[runbook.stage]]"),
        (with("[[runbook]]\nstage = []"), "runbook 1 has no `name`", "name = \"standard\""),
        (stage(""), "stage \"s\" has no `action`", "{ filter = {} }"),
        (action(""), "the action does nothing", "filter"),
        (action("flowspecs = {}"), "unknown key `flowspecs` in the action", "did you mean `flowspec`"),
        (action("filter = {}, capture = {}"), "does two: filter and capture", "a stage of each"),
        (action("filter = { hard = true }"), "unknown key `hard` in filter", "known here"),
        (action("filter = 5"), "cannot be a value of type integer", "a table"),
        (action("flowspec = {}"), "flowspec has no `announcers`", "core-a"),
        (action("flowspec = { announcers = [] }"), "`announcers` is empty", "at least one"),
        (
            action("flowspec = { announcers = [\"cor\"] }"),
            "the announcer \"cor\", which there is not",
            "did you mean \"core\"",
        ),
        (
            action("flowspec = { announcers = [\"core\"], prefer = \"block\" }"),
            "unknown value `block`",
            "rate-limit, drop",
        ),
        (action("flowspec = { announcers = [\"core\"], prefer = \"redirect\" }"), "has no `redirect`", "64496:666"),
        (
            action("flowspec = { announcers = [\"core\"], rate = \"1bps\" }"),
            "a limit of 1bps lets nearly nothing pass",
            "100kbps",
        ),
        (action("flowspec = { announcers = [\"core\"], dscp = 8 }"), "`dscp` has no effect here", "prefer = \"mark\""),
        (
            action("flowspec = { announcers = [\"core\"], prefer = \"mark\", dscp = 64 }"),
            "`dscp` is out of range",
            "63",
        ),
        (
            action("flowspec = { announcers = [\"core\"], prefer = \"mark\", dscp = 8 }"),
            "needs `mark`, which the announcer \"core\" cannot do",
            "`capabilities`",
        ),
        (action("divert = {}"), "the diversion has no taker", "`scrubber`"),
        (action("divert = { scrubber = \"provider\", announcers = [\"core\"] }"), "two takers", "not both"),
        (
            action("divert = { scrubber = \"providers\" }"),
            "the scrubber \"providers\", which there is not",
            "\"provider\"",
        ),
        (
            action("divert = { scrubber = \"provider\", ipv4_length = 20 }"),
            "allow no shorter than /24",
            "longer prefix",
        ),
        (action("divert = { announcers = [\"core\"] }"), "needs `divert`", "`capabilities`"),
        (
            action("blackhole = { announcers = [\"core\"], direction = \"source\" }"),
            "needs `source-blackhole`",
            "capab",
        ),
        (action("capture = { duration = \"2h\" }"), "a capture cannot last for 2h", "\"1h\""),
        (action("notify = { channels = [\"nok\"] }"), "the notifier \"nok\", which there is not", "\"noc\""),
        (action("webhook = { notifier = \"noc\" }"), "which is a log", "kind = \"webhook\""),
        (
            action("wait-for-approval = { roles = [\"boss\"], within = \"1m\", otherwise = \"skip\" }"),
            "`boss`",
            "operator",
        ),
        (
            action("wait-for-approval = { roles = [], within = \"1m\", otherwise = \"skip\" }"),
            "nobody may approve",
            "role",
        ),
        (stage("action = { filter = {} }\nttl = \"25h\""), "25h is too long", "24h"),
        (stage("action = { filter = {} }\nttl = \"1s\""), "cannot be given 1 s", "10s"),
        (stage("action = { filter = {} }\nttl = \"1ms\""), "cannot be given 0.001 s", "10s"),
        (stage("action = { filter = {} }\nfor = \"3s\""), "`for` without `when`", "leave it out"),
        (stage("action = { filter = {} }\ncalm = \"0s\""), "no time at all", "1s"),
        (stage("action = { filter = {} }\nwhen = 5"), "cannot be a value of type integer", "a string in quotes"),
        (stage("action = { filter = {} }\nnotify = [\"noc2\"]"), "the notifier \"noc2\"", "did you mean \"noc\""),
        (stage(&format!("action = {{ filter = {{}} }}\nwhen = \"{}\"", "x".repeat(1_025))), "has 1025 bytes", "1024"),
        (
            stage("action = { filter = {} }\napprove = { roles = [\"operator\"], within = \"1m\" }"),
            "has no `otherwise`",
            "\"skip\"",
        ),
        (action("filter = {}").replace("\"s\"", "\"S-1\""), "cannot be the name of a stage", "a-z, 0-9 and _"),
        (action("filter = {}").replace("\"s\"", "\"in\""), "cannot be the name of a stage", "no word of CEL"),
        (
            action("filter = {}") + "[[runbook.stage]]\nname = \"s\"\naction = { filter = {} }",
            "two stages of this runbook are named \"s\"",
            "a name of its own",
        ),
        (
            action("filter = {}") + "[runbook.de_escalate]\nprobe = \"1h\"\nprobe_longest = \"1m\"",
            "shorter than the first",
            "probe_longest",
        ),
        (
            action("filter = {}")
                .replace("prefixes = [\"203.0.113.0/24\"]\n", "prefixes = [\"203.0.113.0/24\"]\nrunbook = \"rr\"\n"),
            "the runbook \"rr\", which there is not",
            "did you mean \"r\"",
        ),
        (
            action("blackhole = { announcers = [\"core\"] }").replace("owned_prefixes = [\"203.0.113.0/24\"]", ""),
            "no prefix is owned",
            "`owned_prefixes`",
        ),
        (
            action("blackhole = { announcers = [\"core\"] }")
                .replace("[guardrails]", "[guardrails]\nmax_blackholes = 0"),
            "the guardrails allow none",
            "`max_blackholes`",
        ),
        (
            action("divert = { scrubber = \"provider\" }").replace("[guardrails]", "[guardrails]\ntwo_person = true"),
            "two people have to approve",
            "`approve`",
        ),
        (with("[guardrails]\nmax_legitimate_share = 2"), "`max_legitimate_share` is out of range", "from 0 to 1"),
        (with("[guardrails]\nmax_legitimate_share = nan"), "`max_legitimate_share` is out of range", "from 0 to 1"),
        (with("[guardrails]\nmax_legitimate_share = \"5%\""), "type string", "0.05"),
        (with("[guardrails]\nblackhole_ipv4_length = 16"), "`blackhole_ipv4_length` is out of range", "from 24 to 32"),
        (with("[guardrails]\nmanagement_ports = [0]"), "`management_ports` is out of range", "65535"),
        (with("[[announcer]]\nname = \"a\""), "announcer \"a\" has no `kind`", "embedded"),
        (with("[[announcer]]\nname = \"a\"\nkind = \"bgp\""), "unknown value `bgp`", "gobgp"),
        (
            with("[[announcer]]\nname = \"a\"\nkind = \"frr\"\nneighbors = [\"x\"]"),
            "\"x\" is not an address",
            "192.0.2.1",
        ),
        (
            with("[[announcer]]\nname = \"a\"\nkind = \"frr\"\ncapabilities = [\"flow\"]"),
            "unknown value `flow`",
            "flowspec",
        ),
        (with("[[notifier]]\nname = \"n\"\nkind = \"webhook\""), "has no `url`", "https://"),
        (
            with("[[notifier]]\nname = \"n\"\nkind = \"webhook\"\nurl = \"ftp://x\""),
            "is no URL of a webhook",
            "https://",
        ),
        (
            with("[[notifier]]\nname = \"n\"\nkind = \"webhook\"\nurl = \"https://u:p@x/\""),
            "an URL with a password",
            "before @",
        ),
        (
            with("[[notifier]]\nname = \"n\"\nkind = \"webhook\"\nurl = \"https://x/\"\nsecret = \"hunter2\""),
            "a secret must not stand in this file",
            "credential",
        ),
        (
            with("[[notifier]]\nname = \"n\"\nkind = \"webhook\"\nurl = \"https://x/\"\nsecret = {}"),
            "the secret has not one place",
            "{ file",
        ),
        (
            with(
                "[[notifier]]\nname = \"n\"\nkind = \"webhook\"\nurl = \"https://x/\"\nsecret = { credential = \"../x\" }",
            ),
            "cannot be a credential",
            "letters",
        ),
        (with("[[notifier]]\nname = \"n\"\nkind = \"log\"\nurl = \"https://x/\""), "unknown key `url`", "known here"),
        (
            with("[[maintenance]]\nname = \"m\"\nfrom = \"2:00\"\nto = \"24:00\""),
            "\"24:00\" is no time of day",
            "02:00",
        ),
        (
            with("[[maintenance]]\nname = \"m\"\nfrom = \"02:00\"\nto = \"03:00\"\nzones = [\"wen\"]"),
            "the zone \"wen\", which there is not",
            "did you mean \"web\"",
        ),
        (with("[controlplane]\nmetrics = \"localhost\""), "is no address with a port", "127.0.0.1:9469"),
        (with("[controlplane]\nsocket = \"x\""), "is not an absolute path", "begin with /"),
        (with("[controlplane.access]\nadmin = [\"a b\"]"), "neither a user nor a group", "@noc"),
        (with("[controlplane.retention]\nincident_days = 0"), "`incident_days` is out of range", "from 1"),
    ];
    let mut wrong = Vec::new();
    for (text, message, help) in cases {
        let found = match Config::parse("levee.toml", &text) {
            Ok(_) => Vec::new(),
            Err(invalid) => invalid.problems().to_vec(),
        };
        if !found.iter().any(|p| p.is_error && p.message.contains(message) && p.help.contains(help)) {
            wrong.push(format!("{text}\nwanted {message:?} ({help:?}), found {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_secret_is_not_repeated_when_it_is_refused() {
    let text = with("[[notifier]]\nname = \"n\"\nkind = \"webhook\"\nurl = \"https://x/\"\nsecret = \"hunter2\"");
    let invalid = Config::parse("levee.toml", &text).unwrap_err();
    assert!(
        invalid.problems().iter().all(|problem| !format!("{} {}", problem.message, problem.help).contains("hunter2"))
    );
}

#[test]
fn the_defaults_are_told_and_kept() {
    let config = Config::parse("levee.toml", &action("divert = { scrubber = \"provider\" }")).unwrap();
    let stage = &config.runbooks[0].stages[0];
    assert_eq!(
        (stage.hold, stage.ttl, stage.calm),
        (Duration::ZERO, Duration::from_secs(300), Duration::from_secs(120))
    );
    assert_eq!(stage.min_hold, stage.ttl, "of a diversion");
    assert_eq!(config.warnings.len(), 2, "neither announcer nor scrubber can be reached yet: {:?}", config.warnings);
    assert_eq!(config.controlplane, Controlplane::default());
}

#[test]
fn a_runbook_that_there_is_not_is_a_warning_only_where_there_is_none_at_all() {
    let text = with("").replace("/24\"]\n", "/24\"]\nrunbook = \"own\"\n");
    let warnings = Config::parse("levee.toml", &text).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].help.contains("\"standard\""), "{warnings:?}");
    let text = text.replace("\"own\"", "\"standard\"");
    assert_eq!(Config::parse("levee.toml", &text).unwrap().warnings, []);
}

fn webhook(lines: &str) -> String {
    with(&format!("[[notifier]]\nname = \"noc\"\nkind = \"webhook\"\n{lines}"))
}

#[test]
fn a_secret_that_stands_in_the_file_is_shown_nowhere() {
    let url = "url = \"https://noc.example\"\n";
    for lines in [
        format!("{url}secret = \"sésame\""),
        format!("{url}secret = 'sésame'\ntimeout = \"-5s\""),
        format!("{url}secret = \"\"\"\n  sésame\n\"\"\""),
        format!("{url}secret = [\"sésame\"]"),
        format!("{url}secret = {{ value = \"sésame\" }}"),
        format!("{url}secret.value = \"sésame\""),
        "url = \"https://noc:sésame@noc.example\"".to_owned(),
        // No TOML: what stands behind the name is hidden.
        format!("{url}secret = sésame"),
        format!("{url}secret = \"sésame\ntimeout = \"5s\""),
        format!("{url}\"secret\"= \"\"\"\nsésame\n\"\"\"\n= 5"),
    ] {
        let invalid = Config::parse("levee.toml", &webhook(&lines)).unwrap_err();
        let plain = format!("{invalid}\n{invalid:?}");
        let told = format!("{plain}\n{:?}", miette::Report::new(invalid));
        assert!(told.contains("***"), "{lines}: {told}");
        assert!(!told.contains("same"), "{lines}: {told}");
    }
}

#[test]
fn a_notifier_that_is_wrong_is_not_missing_besides() {
    let text = format!(
        "{}[[runbook]]\nname = \"r\"\n[[runbook.stage]]\nname = \"s\"\naction = {{ webhook = {{ notifier = \"noc\" }} }}\n\
         notify = [\"noc\"]\n",
        webhook("url = \"https://noc.example\"\nsecret = \"open\"\n")
    );
    let invalid = Config::parse("levee.toml", &text).unwrap_err();
    let told: Vec<&str> = invalid.problems().iter().map(|problem| problem.message.as_str()).collect();
    assert!(told.len() == 1 && told[0].starts_with("a secret must not stand"), "{told:?}");
}

#[test]
fn messages_in_the_clear_stay_on_this_machine_or_are_warned_of() {
    for (url, warned) in [
        ("https://noc.example/x", false),
        ("http://localhost:8080/x", false),
        ("http://127.0.0.1/x", false),
        ("http://[::1]:8080/x", false),
        ("http://noc.example/x", true),
        ("http://127.0.0.1.noc.example", true),
        ("http://[2001:db8::1]:8080/x", true),
    ] {
        let config = Config::parse("levee.toml", &webhook(&format!("url = {url:?}"))).unwrap();
        let told = config.warnings.iter().any(|warning| warning.message.contains("can be read and changed"));
        assert_eq!(told, warned, "{url}");
    }
}

fn is_told_or_valid(text: &str) {
    if let Err(invalid) = Config::parse("levee.toml", text) {
        assert!(!invalid.problems().is_empty());
        for problem in invalid.problems() {
            assert!(
                problem.line >= 1 && problem.column >= 1 && !problem.message.is_empty() && !problem.help.is_empty()
            );
            assert!(problem.span.end <= text.len().max(1) && problem.span.start <= problem.span.end, "{problem:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_shipped_runbook_with_any_part_replaced_is_valid_or_told(
        which in 0_usize..3,
        from in any::<prop::sample::Index>(),
        length in 0_usize..40,
        with in prop_oneof![
            ".{0,8}",
            "[\\[\\]{}=\",#.\n 0-9a-z_-]{0,8}",
            Just("[[runbook]]\n".to_owned()),
            Just("[[runbook.stage]]\n".to_owned()),
            Just("\"\"\"".to_owned()),
            Just("{ file = 1 }".to_owned()),
        ],
    ) {
        let text = SHIPPED[which];
        let mut from = from.index(text.len());
        let mut to = (from + length).min(text.len());
        while !text.is_char_boundary(from) { from -= 1; }
        while !text.is_char_boundary(to) { to += 1; }
        is_told_or_valid(&format!("{}{with}{}", &text[..from], &text[to..]));
    }
}

#[test]
fn owning_large_parts_of_the_internet_is_doubted() {
    let warned = |owned: &str| {
        let text = format!(
            "[guardrails]\nowned_prefixes = [\"{owned}\"]\n[[zone]]\nname = \"web\"\nprefixes = [\"192.0.2.0/24\"]\n"
        );
        let warnings = Config::parse("levee.toml", &text).unwrap().warnings;
        warnings.iter().any(|warning| warning.message.contains("more than anybody owns"))
    };
    for (owned, doubted) in
        [("0.0.0.0/0", true), ("192.0.0.0/7", true), ("192.0.0.0/8", false), ("::/0", true), ("2001::/16", false)]
    {
        assert_eq!(warned(owned), doubted, "{owned}");
    }
}
