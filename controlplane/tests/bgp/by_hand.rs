//! Measures upstream that an operator asks for with `leveectl`, from the command line to a real BIRD.

use std::process::{Command, Output};

use super::bird::Bird;
use super::dataplane::Place;
use super::process::{Running, configured, start};
use super::world::addresses;

/// A budget that a test reaches.
const GUARDRAILS: &str = "[guardrails]\nmax_flowspec_rules = 2\ntwo_person = false\n";
/// What the router is told with measures that are not rules.
const OF_PEER: &str = "source_blackhole_communities = [\"64497:667\"]\ndivert_communities = [\"64496:911\"]\n";

struct Desk {
    _running: Running,
    place: Place,
    bird: Bird,
}

impl Desk {
    async fn begin() -> Option<Self> {
        let (ours, theirs) = addresses();
        let bird = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "")?;
        bird.is_up().await;
        let place = Place::new();
        let config = configured(&place, ours, theirs, OF_PEER, super::process::EDGE);
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("[guardrails]\n", GUARDRAILS)).unwrap();
        let running = start(&place, &config);
        bird.session().await;
        let desk = Self { _running: running, place, bird };
        desk.bird.holds("an answer", || desk.says(&["status"]).map(drop)).await;
        Some(desk)
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        let mut ctl = Command::new(env!("CARGO_BIN_EXE_leveectl"));
        ctl.arg("--socket").arg(self.place.folder.path().join("controlplane.sock")).args(arguments).output().unwrap()
    }

    /// What it prints, or why it does not.
    fn says(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.ctl(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn add(&self, arguments: &[&str]) -> Result<String, String> {
        self.says(&[&["mitigations", "add"], arguments].concat())
    }

    fn refuses(&self, arguments: &[&str], reasons: &[&str]) {
        let why = self.add(arguments).unwrap_err();
        assert!(reasons.iter().all(|reason| why.contains(reason)), "{arguments:?}: {why}");
    }
}

fn number(told: &str) -> String {
    told.split([' ', ':']).nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn rules_and_blackholes_by_hand_reach_the_router_and_end() {
    let Some(desk) = Desk::begin().await else { return };
    let rule = ["flowspec", "--target", "203.0.113.7", "--match", "protocol=udp src_port=53", "--limit-bps", "1000000"];
    let rule = [&rule[..], &["--ttl", "10m", "--reason", "reflection"]].concat();
    let preview = desk.add(&[&rule[..], &["--validate-only"]].concat()).unwrap();
    assert!(preview.starts_with("It would be done: ") && preview.contains(", by core, for 10 min"), "{preview}");
    assert!(preview.contains("203.0.113.7") && preview.contains("53"), "{preview}");
    assert_eq!(desk.says(&["mitigations", "list"]).unwrap(), "There is no such measure.\n");
    assert!(!desk.bird.routes().contains("203.0.113.7"));

    let id = number(&desk.add(&rule).unwrap());
    let on_the_wire = "flow4 { dst 203.0.113.7/32; proto 17; sport 53; }";
    desk.bird.until("the rule", &[on_the_wire, "(generic, 0x80060000, 0x47f42400)", "(65535,65281)"], &[]).await;
    let id2 = number(&desk.add(&["blackhole", "--target", "203.0.113.9", "--ttl", "10m"]).unwrap());
    desk.bird.until("the blackhole", &["203.0.113.9/32", "(65535,666)"], &[]).await;
    // The router has it a moment before its acknowledgement has come back.
    let are_told = || {
        let shown = desk.says(&["flowspec", "show", "--all"])?;
        let are_told = shown.matches("# told upstream").count() == 2 && shown.contains("203.0.113.9");
        if are_told { Ok(()) } else { Err(shown) }
    };
    desk.bird.holds("both as they are shown", are_told).await;
    for id in [&id, &id2] {
        desk.says(&["mitigations", "withdraw", id, "--reason", "over"]).unwrap();
    }
    desk.bird.until("the end of both", &[], &[on_the_wire, "203.0.113.9/32"]).await;
}

#[tokio::test]
async fn diversions_sources_and_samples_by_hand_reach_the_router_and_end() {
    let Some(desk) = Desk::begin().await else { return };
    let protected = desk.add(&["divert", "--target", "203.0.113.0/24", "--ttl", "10m"]).unwrap_err();
    assert!(protected.contains("protected_prefixes"), "{protected}");
    let mut ids = Vec::new();
    for (arguments, there) in [
        (
            ["blackhole", "--source", "192.0.2.66", "--zone", "web"].as_slice(),
            ["192.0.2.66/32", "(64497,667)"].as_slice(),
        ),
        (
            &["flowspec", "--target", "203.0.113.7", "--match", "protocol=udp", "--sample"],
            &["flow4 { dst 203.0.113.7/32; proto 17; }", "(generic, 0x80070000, 0x3)"],
        ),
        (&["divert", "--target", "203.0.113.128/25"], &["203.0.113.128/25", "(64496,911)"]),
    ] {
        let arguments = [arguments, &["--ttl", "10m", "--reason", "by hand"]].concat();
        ids.push(number(&desk.add(&arguments).unwrap()));
        desk.bird.until(arguments[0], there, &[]).await;
    }
    let shown = desk.says(&["mitigations", "list"]).unwrap();
    assert!(["blackhole from 192.0.2.66/32", "sample", "divert"].iter().all(|word| shown.contains(word)), "{shown}");
    for id in &ids {
        desk.says(&["mitigations", "withdraw", id, "--reason", "over"]).unwrap();
    }
    desk.bird.until("the end of all", &[], &["192.0.2.66", "203.0.113.7/32", "203.0.113.128/25"]).await;
}

#[tokio::test]
async fn what_would_do_harm_by_hand_is_refused_with_the_reason_and_nothing_leaves() {
    let Some(desk) = Desk::begin().await else { return };
    let dns = ["--match", "protocol=udp src_port=53", "--ttl", "10m"];
    let rule = |target: &'static str| [&["flowspec", "--target", target][..], &dns].concat();
    desk.refuses(&rule("203.0.113.1"), &["protected_prefixes", "203.0.113.1"]);
    desk.refuses(&rule("192.0.2.1"), &["192.0.2.1", "in no zone"]);
    desk.refuses(&rule("203.0.113.0/24"), &["protected_prefixes"]);
    desk.refuses(&["flowspec", "--target", "203.0.113.7", "--ttl", "10m"], &["flowspec_shape", "blackhole"]);
    desk.refuses(
        &["flowspec", "--target", "203.0.113.7", "--match", "ttl=64", "--ttl", "10m"],
        &["everything to the target", "leave the match out"],
    );
    desk.refuses(
        &["flowspec", "--target", "203.0.113.7", "--match", "protocol=udp", "--ttl", "2h"],
        &["max_ttl", "3600 s"],
    );
    desk.refuses(
        &["flowspec", "--target", "203.0.113.7", "--match", "protocol=udp ttl=64", "--ttl", "10m"],
        &["routers cannot look at", "accept that it is wider"],
    );
    desk.refuses(
        &["flowspec", "--target", "203.0.113.7", "--match", "protocol=udp", "--redirect", "64496:1", "--ttl", "10m"],
        &["core cannot redirect"],
    );
    let named = [&rule("203.0.113.7")[..], &["--announcer", "cores"]].concat();
    desk.refuses(&named, &["announcer", "cores"]);
    desk.refuses(&["blackhole", "--target", "203.0.113.64/26", "--ttl", "10m"], &["blackhole_ipv4_length", "/32"]);
    desk.refuses(&["blackhole", "--source", "203.0.113.66", "--ttl", "10m"], &["owned_prefixes", "our own"]);
    desk.refuses(&["blackhole", "--ttl", "10m"], &["--target", "required"]);
    desk.refuses(&["blackhole", "--target", "203.0.113.1", "--ttl", "10m"], &["protected_prefixes"]);
    assert_eq!(desk.says(&["mitigations", "list", "--all"]).unwrap(), "There is no such measure.\n");

    // The budget is that of the announcer, whoever asks.
    for target in ["203.0.113.7", "203.0.113.8"] {
        desk.add(&rule(target)).unwrap();
    }
    desk.refuses(&rule("203.0.113.9"), &["max_flowspec_rules", "2"]);
    desk.bird.until("two rules", &["203.0.113.7/32", "203.0.113.8/32"], &["203.0.113.9"]).await;
    let wider = ["flowspec", "--target", "203.0.113.7", "--match", "protocol=udp ttl=64", "--accept-wider"];
    desk.refuses(&[&wider[..], &["--ttl", "10m"]].concat(), &["max_flowspec_rules"]);
}
