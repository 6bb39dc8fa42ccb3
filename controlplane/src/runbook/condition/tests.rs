use std::time::Duration;

use proptest::prelude::*;

use super::super::variable::{Value, Values, Variable};
use super::*;

const STAGES: &[&str] = &["local", "edge", "scrub"];

fn view(active_s: u64, failed: bool) -> StageView {
    let age = Duration::from_secs(active_s);
    StageView { state: if failed { "failed" } else { "active" }, active: active_s > 0, age, failed, effective: None }
}

fn values() -> Values {
    let mut values = Values::default();
    values.set(Variable::UplinkUtilisation, Value::Number(0.8));
    values.set(Variable::UplinkSaturated, Value::Bool(false));
    values.set(Variable::AttackPps, Value::Number(100_000.0));
    values.set(Variable::LocalCpu, Value::Number(0.0));
    values.set(Variable::AttackAge, Value::Duration(Duration::from_secs(90)));
    values.set(Variable::AttackVectors, Value::List(vec!["syn-flood".to_owned(), "dns-amplification".to_owned()]));
    values.set(Variable::ZoneName, Value::Text("web".to_owned()));
    values
}

fn says(text: &str) -> Verdict {
    let condition = Condition::parse(text, STAGES).unwrap_or_else(|mistakes| panic!("{text}: {mistakes:?}"));
    let stages = [view(60, false), view(12, false), view(0, true)];
    condition.evaluate(&Context { values: &values(), stages: &stages })
}

#[test]
fn what_is_known_decides() {
    for text in [
        "uplink.utilisation > 0.7",
        "uplink.utilisation == 0.8 && attack.pps >= 1e5",
        "attack.pps > 99999 && attack.pps < 100001u",
        "-attack.pps < -1",
        "attack.pps - 1 == 99999.0 && attack.pps * 2 / 4 == 50000 && attack.pps % 3 == 1",
        "'syn-flood' in attack.vectors && size(attack.vectors) == 2",
        "!('udp-flood' in attack.vectors)",
        "zone.name in ['web', 'mail']",
        "stage.edge.age > duration('10s') || stage.edge.failed",
        "stage.scrub.failed && stage.scrub.state == 'failed' && !stage.scrub.active",
        "attack.age > duration('1m') + duration('20s') && attack.age - duration('1m29s') == duration('1000ms')",
        "zone.name.startsWith('w') && zone.name.endsWith('b') && zone.name.contains('e') && zone.name != 'mail'",
        "(stage.edge.active ? 0.5 : 0.9) < uplink.utilisation",
        "known(uplink.bps) == false && known(uplink.utilisation)",
        "uplink.saturated == false // what follows is a comment",
    ] {
        assert_eq!(says(text), Verdict::True, "{text}");
        assert_eq!(says(&format!("!({})", text.split("//").next().unwrap())), Verdict::False, "{text}");
    }
}

#[test]
fn what_is_not_known_decides_nothing_and_what_does_not_need_it_is_decided() {
    for text in [
        "local.goodput_ratio < 0.9",
        "!(local.goodput_ratio < 0.9)",
        "local.goodput_ratio < 0.9 && uplink.utilisation > 0.7",
        "local.goodput_ratio < 0.9 || uplink.saturated",
        "stage.edge.effective",
        "attack.pps / local.cpu > 1",
        "local.cpu / local.cpu == 1",
        "attack.pps * 1e300 * 1e300 > 1",
        "attack.pps % local.cpu == 0",
        "attack.age - duration('2m') > duration('1s')",
        "local.goodput_ratio < 1 ? true : true",
    ] {
        assert_eq!(says(text), Verdict::Unknown, "{text}");
    }
    assert_eq!(says("local.goodput_ratio < 0.9 || uplink.utilisation > 0.7"), Verdict::True);
    assert_eq!(says("local.goodput_ratio < 0.9 && uplink.saturated"), Verdict::False);
    assert_eq!(says("uplink.saturated ? local.goodput_ratio < 0.9 : true"), Verdict::True);
}

#[test]
fn each_mistake_is_told_where_it_stands_and_what_to_do() {
    let cases = [
        ("uplink.utilization > 0.7", "uplink.utilization", "there is no variable", "did you mean `uplink.utilisation`"),
        ("utilisation > 0.7", "utilisation", "there is no variable", "did you mean `uplink.utilisation`"),
        ("true && local.pps > 1", "local.pps", "there is no variable `local.pps`", "`attack.pps`"),
        ("stage.egde.failed", "stage.egde.failed", "there is no stage \"egde\"", "did you mean `stage.edge`"),
        ("stage.edge.ages > duration('1s')", "stage.edge.ages", "no field `ages`", "did you mean `age`"),
        ("stage.edge", "stage.edge", "is no variable", "stage.NAME.FIELD"),
        ("uplink.utilisation", "uplink.utilisation", "this is a number", "compare it"),
        ("uplink.utilisation > '0.7'", "uplink.utilisation > '0.7'", "a number is compared with a string", "number"),
        ("stage.edge.age > 10", "stage.edge.age > 10", "a duration is compared with a number", "duration('10s')"),
        ("!attack.pps", "attack.pps", "a bool is needed here, and this is a number", "> 0.7"),
        ("uplink.saturated && attack.pps", "attack.pps", "a bool is needed here", "> 0.7"),
        ("uplink.saturated > false", "uplink.saturated > false", "cannot be compared like this", "=="),
        ("attack.vectors == ['a']", "attack.vectors == [", "cannot be compared like this", "`in`"),
        ("attack.age * 2 > duration('1s')", "attack.age * 2", "cannot be calculated", "durations are added"),
        ("attack.vectors.exists(v, v == 'a')", "exists", "macros are not allowed", "`in`"),
        ("has(attack.pps)", "has", "macros are not allowed", "known(x)"),
        ("attack.vectors.map(v, v) == []", "map", "macros are not allowed", "`in`"),
        ("duration('10 s') < attack.age", "'10 s'", "\"10 s\" is no duration", "duration('1m30s')"),
        ("duration(zone.name) < attack.age", "zone.name", "written down", "duration('10s')"),
        ("durations('10s') < attack.age", "durations('10s'", "no function `durations`", "did you mean `duration`"),
        ("size(attack.vectors, 1) > 1", "size(attack.vectors, 1", "takes one argument, and here are 2", "such as"),
        ("zone.name.matches('a.*')", "zone.name.matches('a.*'", "no function `matches`", "startsWith"),
        ("timestamp('x') > timestamp('y')", "timestamp('x'", "no function `timestamp`", "functions are"),
        ("attack.vectors[0] == 'a'", "attack.vectors[0", "operator is not allowed", "runbook-variables"),
        ("{'a': 1} == {}", "{", "does not belong", "variables"),
        ("null == null", "null", "neither bytes nor null", "numbers"),
        ("99999999999999999 > 1", "99999999999999999", "too large", "1e17"),
        ("known(1 + 1)", "1 + 1", "only of a variable", "known("),
        ("uplink.saturated = true", "=", "`=` is no operator", "=="),
        ("uplink.saturated and true", "and", "`and` is no operator", "&&"),
        ("uplink.saturated &&", "", "ends too early", "CEL expression"),
        ("uplink.saturated && && true", "&", "`&` is not expected here", "CEL expression"),
        ("zone.name == 'web", "'", "a string that is not ended", "same quote"),
        ("zone.name == 'wéb'", "é", "cannot stand in a condition", "plain letters"),
        ("  ", "  ", "the condition is empty", "leave `when` out"),
        ("attack.pps > 100000000000000000000", "100000000000000000000", "cannot be held", "1e9"),
        ("attack.pps > 1e400 && uplink.saturated", "1e400", "cannot be held", "at most 1e308"),
        ("attack.pps > 1_000", "1_000", "`1_000` is no number", "neither units nor underscores"),
        ("attack.bps > 10Gbps", "10Gbps", "`10Gbps` is no number", "10e9 for 10 Gbit/s"),
        ("attack.age > 5m", "5m", "`5m` is no number", "duration('5m')"),
        ("attack.age > 5 minutes", "5 minutes", "is no number", "duration('5m')"),
        ("attack.age > duration(10s)", "10s", "`10s` is no number", "duration('10s')"),
        ("uplink.utilisation > 70%", "%", "remainder of a division", "70 % is 0.7"),
        ("attack.pps => 5", "=>", "`=>` is no operator", "write >="),
        ("attack.pps <> 5", "<>", "`<>` is no operator", "write !="),
        ("not uplink.saturated", "not", "`not` is no operator", "write !"),
        ("uplink.saturated & uplink.saturated", "&", "`&` is no operator", "write &&"),
        ("uplink.saturated | uplink.saturated", "|", "`|` is no operator", "write ||"),
        ("attack.vectors contains dns", "contains", "`contains` is no operator", "in attack.vectors"),
        ("5 < attack.pps < 10", "5 < attack.pps < 10", "a bool is compared with a number", "joined with &&"),
        ("zone.name == web", "web", "no variable `web`", "words stand in quotes"),
        ("false", "false", "never true, whatever happens", "take the stage out"),
        ("uplink.saturated && 2 < 1", "uplink.saturated && 2 < 1", "never true", "take the stage out"),
        ("uplink.saturated || 1 / 0 > 2", "1 / 0", "a division by zero has no result", "something else"),
        ("attack.pps % (3 - 3.0) == 0", "attack.pps % (3 - 3.0", "a division by zero", "something else"),
        ("attack.pps > 1e300 * 1e300", "1e300 * 1e300", "too large", "below 1e308"),
        ("attack.age > duration('1s') - duration('1m')", "duration('1s'", "no time before none", "subtract less"),
    ];
    let mut wrong = Vec::new();
    for (text, place, message, help) in cases {
        let mistakes = Condition::parse(text, STAGES).expect_err(text);
        let first = &mistakes[0];
        let told = first.message.contains(message) && first.help.contains(help);
        if !(told && text[first.at.clone()].starts_with(place)) {
            wrong.push(format!("{text}\nwanted {message:?} ({help:?}) at {place:?}, found {mistakes:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_comes_out_the_same_whatever_happens_is_doubted_where_it_stands() {
    let cases = [
        ("true", "true", "always true, whatever happens", "leave `when` out"),
        ("1 < 2", "1 < 2", "always true", "leave `when` out"),
        ("uplink.saturated || !false", "uplink.saturated || !false", "always true", "leave `when` out"),
        ("uplink.saturated || uplink.utilisation > 70", "uplink.utilisation > 70", "never true", "half is 0.5"),
        ("85 <= local.cpu && uplink.saturated", "85 <= local.cpu", "never true", "half is 0.5"),
        ("attack.severity < 5 && uplink.saturated", "attack.severity < 5", "always true", "from 1 to 4"),
        ("now.hour == 24", "now.hour == 24", "never true", "from 0 to 23"),
        ("target.length >= 0 && uplink.saturated", "target.length >= 0", "always true", "from 0 to 128"),
        ("zone.mode == 'enforced'", "zone.mode == 'enforced'", "is never \"enforced\"", "did you mean 'enforce'"),
        ("zone.mode in ['enforce', 'off']", "zone.mode", "is never \"off\"", "enforce, monitor"),
        ("stage.edge.state == 'actve'", "stage.edge.state", "is never \"actve\"", "did you mean 'active'"),
        ("'dns-amplifcation' in attack.vectors", "'dns-amplifcation'", "is never", "did you mean 'dns-amplification'"),
    ];
    for (text, place, message, help) in cases {
        let condition = Condition::parse(text, STAGES).unwrap_or_else(|mistakes| panic!("{text}: {mistakes:?}"));
        let [doubt] = condition.doubts() else { panic!("{text}: {:?}", condition.doubts()) };
        assert!(text[doubt.at.clone()].starts_with(place.trim_end_matches(')')), "{text}: {doubt:?}");
        assert!(doubt.message.contains(message) && doubt.help.contains(help), "{text}: {doubt:?}");
    }
    for text in [
        "local.cpu > 0.85 && uplink.utilisation > 1.2 && attack.severity >= 4 && attack.confidence < 1",
        "now.hour >= 22 || now.hour < 6",
        "stage.edge.state == 'probing' && 'syn-flood' in attack.vectors && zone.mode != 'monitor'",
        "target.length == 32 || target.length == 128",
        "local.goodput_ratio < 1.5 && attack.pps > 0",
    ] {
        assert_eq!(Condition::parse(text, STAGES).unwrap().doubts(), [], "{text}");
    }
}

#[test]
fn all_mistakes_are_told_in_the_order_of_the_text() {
    let mistakes = Condition::parse("uplink.bsp > 1 && stage.egde.failed || local.cpuu > 'x'", STAGES).unwrap_err();
    assert_eq!(mistakes.iter().map(|mistake| mistake.at.start).collect::<Vec<_>>(), [0, 18, 39]);
}

#[test]
fn what_would_exhaust_a_parser_is_refused_or_read() {
    for text in ["(", "[", "{", "!(", "-(", "a(", "a[", "[{(", "true?", "a?b:"] {
        let long = text.repeat(MAX / text.len());
        assert!(Condition::parse(&long, STAGES).is_err(), "{text}");
    }
    for (text, end) in [("true&&", "true"), ("!", "true"), ("1-", "1==1"), ("true||", "true"), ("true==", "true")] {
        let long = text.repeat((MAX - end.len()) / text.len()) + end;
        let _ = Condition::parse(&long, STAGES);
    }
    let deep = format!("{}!uplink.saturated{}", "(".repeat(16), ")".repeat(16));
    assert_eq!(says(&deep), Verdict::True);
    assert_eq!(says(&("true&&".repeat(169) + "true")), Verdict::True);
    assert!(Condition::parse(&("true&&".repeat(200) + "true"), STAGES).unwrap_err()[0].message.contains("bytes"));
}

const MAX: usize = levee_api::config::MAX_CONDITION_BYTES;

/// Pieces that conditions are made of, and pieces that they are not.
const TOKENS: &[&str] = &[
    "attack.pps",
    "uplink.utilisation",
    "stage.edge.age",
    "stage.edge.failed",
    "zone.name",
    "attack.vectors",
    "local",
    ".",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "!",
    "-",
    "+",
    "*",
    "/",
    "%",
    "?",
    ":",
    "&&",
    "||",
    "==",
    "!=",
    "<",
    ">",
    "<=",
    ">=",
    "1",
    "0.5",
    "1u",
    "0x1",
    "'s'",
    "\"s\"",
    "'",
    "\"",
    " in ",
    " ",
    "\n",
    "`",
    "true",
    "null",
    "has(",
    "exists(v, ",
    "duration('1s')",
    "known(",
    "size(",
    ",",
    "b'x'",
    "r'\\'",
    "\\",
    "1e999",
    "é",
    "@",
    "//",
    "'\\xzz'",
    "'''",
    "for",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_condition_is_read_or_told_and_what_is_read_can_be_evaluated(
        tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..24),
    ) {
        let text = tokens.concat();
        match Condition::parse(&text, STAGES) {
            Ok(condition) => {
                let unknown = Values::default();
                for values in [&values(), &unknown] {
                    let stages = [view(60, false), view(12, false), view(0, true)];
                    let _ = condition.evaluate(&Context { values, stages: &stages });
                }
            }
            Err(mistakes) => {
                prop_assert!(!mistakes.is_empty());
                for mistake in mistakes {
                    prop_assert!(text.get(mistake.at.clone()).is_some(), "{text:?}: {mistake:?}");
                    prop_assert!(!mistake.message.is_empty() && !mistake.help.is_empty());
                }
            }
        }
    }

    #[test]
    fn any_text_is_told(text in ".{0,80}") {
        let _ = Condition::parse(&text, STAGES);
    }
}
