//! Ladders that end early, and those that do not.

use levee_api::config::{Invalid, Problem};

use super::*;

const HEAD: &str = r#"
schema = 1
[guardrails]
owned_prefixes = ["203.0.113.0/24"]
[[announcer]]
name = "core"
kind = "embedded"
capabilities = ["flowspec", "rate-limit", "blackhole", "ipv6"]
[[zone]]
name = "web"
prefixes = ["203.0.113.0/24"]
[[dataplane.wire]]
name = "up"
outside = "net_null0"
inside = "net_null1"
capacity = "10Gbps"
[[runbook]]
name = "r"
"#;

const LIMIT: &str = "flowspec = { announcers = [\"core\"] }";
const GIVE_UP: &str = "blackhole = { announcers = [\"core\"] }";
const ASK: &str = "wait-for-approval = { roles = [\"operator\"], within = \"1m\", otherwise = \"skip\" }";

fn file(stages: &[(&str, &str, &str)]) -> String {
    stages.iter().fold(HEAD.to_owned(), |text, (name, when, action)| {
        format!("{text}[[runbook.stage]]\nname = \"{name}\"\nwhen = \"{when}\"\naction = {{ {action} }}\n")
    })
}

/// What is told about the ladder, errors and warnings alike, each with the text that it points at.
fn told(stages: &[(&str, &str, &str)]) -> Vec<(bool, String, String)> {
    let text = file(stages);
    let problems = match Runbooks::parse("test.toml", &text) {
        Ok((config, _)) => config.warnings,
        Err(invalid) => Invalid::problems(&invalid).to_vec(),
    };
    let ladder = |problem: &Problem| ["ladder", "never be entered"].iter().any(|word| problem.message.contains(word));
    let told = problems.into_iter().filter(ladder);
    told.map(|problem| (problem.is_error, problem.message, text[problem.span].to_owned())).collect()
}

#[test]
fn waiting_for_a_stage_that_is_not_entered_is_told_with_an_example() {
    let upper = "uplink.saturated && (stage.edge.failed || stage.edge.age > duration('1m'))";
    let ladder = |edge| told(&[("edge", edge, LIMIT), ("last", upper, GIVE_UP)]);
    let [(false, message, place)] = &ladder("uplink.utilisation > 0.7 || local.cpu > 0.8")[..] else {
        panic!("{:?}", ladder("uplink.utilisation > 0.7 || local.cpu > 0.8"))
    };
    assert!(message.contains("stage \"last\" waits for edge, not entered while"), "{message}");
    assert!(message.contains("uplink.saturated is true") && message.contains("uplink.utilisation is 0."), "{message}");
    assert_eq!(place, &format!("\"{upper}\""));
    for edge in ["uplink.saturated || uplink.utilisation > 0.7", "uplink.saturated"] {
        assert_eq!(ladder(edge), [], "{edge}");
    }
    // What is not known does not lead to it either.
    assert_eq!(ladder("local.goodput_ratio < 0.9").len(), 1);
    assert!(ladder("known(local.goodput_ratio) ? local.goodput_ratio < 2 : true").len() == 1, "it may be 3");
}

#[test]
fn what_leads_to_a_stage_leads_to_those_that_it_waits_for() {
    let edge = ("edge", "uplink.utilisation > 0.6 || attack.bps > 20e9", LIMIT);
    let scrub = (
        "scrub",
        "(uplink.utilisation > 0.75 || attack.bps > 40e9) && (stage.edge.failed || stage.edge.active)",
        LIMIT,
    );
    assert_eq!(told(&[edge, scrub]), [], "more than 0.75 is more than 0.6");
    let last = ("last", "uplink.saturated && (stage.scrub.failed || stage.scrub.active)", GIVE_UP);
    let found = told(&[edge, scrub, last]);
    assert!(found.len() == 1 && found[0].1.contains("waits for scrub"), "{found:?}");
    let last = ("last", "attack.bps > 50e9 && (stage.scrub.failed || stage.scrub.active)", GIVE_UP);
    assert_eq!(told(&[edge, scrub, last]), [], "through two stages");
    let last = (
        "last",
        "attack.pps > 1e6 && (stage.scrub.active || stage.scrub.failed || attack.age > duration('10m'))",
        GIVE_UP,
    );
    assert_eq!(told(&[edge, scrub, last]), [], "an attack that goes on gets older");
    let both =
        "uplink.saturated && (stage.scrub.active && stage.edge.active || stage.scrub.failed && stage.edge.failed)";
    let last = ("last", both, GIVE_UP);
    let found = told(&[edge, scrub, last]);
    assert!(found.len() == 1 && found[0].1.contains("waits for edge and scrub"), "{found:?}");
}

#[test]
fn what_waits_for_itself_is_never_entered() {
    let itself = told(&[("edge", "uplink.saturated && stage.edge.active", LIMIT)]);
    assert!(itself.len() == 1 && itself[0].0 && itself[0].1.contains("\"edge\" can never be entered"), "{itself:?}");
    let circle = told(&[
        ("edge", "uplink.saturated && stage.last.active", LIMIT),
        ("last", "uplink.saturated && (stage.edge.failed || stage.edge.active)", GIVE_UP),
    ]);
    assert_eq!(circle.iter().map(|(error, ..)| *error).collect::<Vec<_>>(), [true, true], "{circle:?}");
    // Kept because of itself, and entered for another reason.
    assert_eq!(told(&[("edge", "uplink.utilisation > (stage.edge.active ? 0.5 : 0.8)", LIMIT)]), []);
    // Down here because of what is above: that one begins.
    assert_eq!(told(&[("edge", "stage.last.active", LIMIT), ("last", "uplink.saturated", GIVE_UP)]), []);
}

#[test]
fn a_stage_that_needs_a_yes_may_wait_for_one() {
    let stages = [("ask", "uplink.saturated", ASK), ("last", "uplink.saturated && stage.ask.active", GIVE_UP)];
    assert_eq!(told(&stages), []);
    let (_, runbooks) = Runbooks::parse("test.toml", &file(&stages)).unwrap();
    let reached = reach(&runbooks.list()[0], 1).remove(1);
    assert_eq!((reached.after_yes, reached.dead_ends), (vec![0], vec![]));
    // It has to be asked first.
    let found = told(&[stages[0], ("last", "attack.bps > 1e9 && stage.ask.active", GIVE_UP)]);
    assert!(found.len() == 1 && found[0].1.contains("waits for ask"), "{found:?}");
}

#[test]
fn what_only_tells_may_wait_for_anything() {
    let capture = "capture = {}";
    assert_eq!(
        told(&[("edge", "uplink.saturated", LIMIT), ("tell", "stage.edge.active && attack.bps > 1", capture)]).len(),
        1
    );
    let (_, runbooks) = Runbooks::parse("test.toml", &file(&[("edge", "uplink.saturated", LIMIT)])).unwrap();
    assert_eq!(reach(&runbooks.list()[0], 1)[0].waits, None);
}

#[test]
fn a_riddle_is_looked_at_in_bounded_time() {
    let vectors: Vec<&str> = levee_api::vector::Vector::ALL.iter().map(|vector| vector.name()).take(20).collect();
    let riddle = format!("uplink.saturated || size(attack.vectors) > 3 || zone.name in ['{}']", vectors.join("', '"));
    let upper = "(attack.pps / attack.sources > 100 || attack.bps - uplink.bps * 0.5 > 1e9 || now.hour > 3 || local.cpu > 0.2 || \
                 target.length == 32 || attack.severity > 2) && (stage.edge.failed || stage.edge.active)";
    let begun = std::time::Instant::now();
    assert_eq!(told(&[("edge", &riddle, LIMIT), ("last", upper, GIVE_UP)]).len(), 1);
    assert!(begun.elapsed().as_secs() < 20, "far above what it needs");
}

#[test]
fn the_more_there_is_to_look_at_the_fewer_examples_are_tried() {
    let stages: Vec<(String, String)> = (0..levee_api::config::MAX_STAGES)
        .map(|at| {
            let next = (at + 1).min(levee_api::config::MAX_STAGES - 1);
            (format!("s{at}"), format!("attack.pps > {at}000 || attack.bps > 1e{at} || stage.s{next}.failed"))
        })
        .collect();
    let stages: Vec<_> = stages.iter().map(|(name, when)| (name.as_str(), when.as_str(), LIMIT)).collect();
    let few = |stages: &[(&str, &str, &str)], among| {
        let config = levee_api::config::Config::parse("test.toml", &file(stages)).unwrap();
        super::reach::examples(&Runbooks::checked(&config).list()[0], among)
    };
    assert!(few(&stages[..2], 1) > 4_096, "all of them");
    let (alone, among) = (few(&stages, 1), few(&stages, levee_api::config::MAX_RUNBOOKS));
    assert!(among * levee_api::config::MAX_RUNBOOKS <= alone && alone < 4_096 && among > 0, "{alone} {among}");
}

#[test]
fn shipped_runbooks_have_no_end_but_their_top() {
    for name in ["hosting", "game-servers", "isp"] {
        let file = format!("{}/../configs/runbook-{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let (_, runbooks) = Runbooks::load(&file).unwrap();
        for reach in runbooks.list().iter().flat_map(|runbook| reach(runbook, 1)) {
            assert!(!reach.never && reach.dead_ends.is_empty() && reach.waits.is_none(), "{name}: {reach:?}");
        }
    }
}
