use std::path::Path;
use std::time::Duration;

use clap::Parser;
use levee_engine::detect::growth::Drift;
use levee_engine::detect::threshold::{Bounds, Calendar, Levels};
use levee_engine::time::Timestamp;

use super::*;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
}

const CONFIG: &str = "schema = 1\n[[zone]]\nname = \"web\"\nprefixes = [\"203.0.113.0/24\"]\n";

/// A state directory with what was learned of two hosts of a zone and the prefix around them, and its configuration.
fn state() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("levee.toml"), CONFIG).unwrap();
    let zone = ZoneRecord { name: "web".to_owned(), observed: Duration::from_secs(3_600), ..ZoneRecord::default() };
    let targets = ["203.0.113.10", "203.0.113.11", "203.0.113.0/24"].map(|prefix| TargetRecord {
        zone: 0,
        prefix: prefix.parse().unwrap(),
        half_open: 3.0,
        unanswered: 0.0,
        heaviest: 0.0,
        baselines: vec![(Role::Syn, baseline()), (Role::UdpOpen, Baseline::default())],
    });
    let learned = Learned { written: Duration::from_secs(1_800_000_000), zones: vec![zone], targets: targets.to_vec() };
    store::save(folder.path(), &learned.to_bytes()).unwrap();
    folder
}

/// A host that had a thousand packets per second and now has ten times as many, which only an operator may accept.
fn baseline() -> Baseline {
    let mut baseline = Baseline::default();
    (0..7_000).for_each(|_| baseline.observe(1_000.0, 0.0, 1.0));
    let bounds = Bounds { role: Role::Syn, observed: Duration::from_secs(3_600), floor: 500.0, cap: 1e9 };
    let calendar = Calendar { hour: 3, weight: 1.0, seen_since: Timestamp::ZERO, is_training: false };
    baseline.refresh(&bounds, &calendar, Duration::from_secs(10));
    (0..7_000).for_each(|_| baseline.observe(10_000.0, 0.0, 1.0));
    baseline.drift = Drift { sum: 4.0, ..baseline.drift };
    baseline
}

/// Runs a command on a state directory.
fn command(state: &Path, words: &str) -> Result<String, BaselineError> {
    let mut words: Vec<String> =
        std::iter::once("levee-dataplane").chain(words.split(' ')).map(str::to_owned).collect();
    words.extend(["--config".to_owned(), state.join("levee.toml").display().to_string()]);
    words.extend(["--state".to_owned(), state.display().to_string()]);
    run(&Program::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).arguments)
}

fn levels(state: &Path, target: &str) -> Option<Levels> {
    let learned = store::load(state, |told| panic!("{told}")).unwrap();
    let target = learned.targets.iter().find(|known| known.prefix == target.parse().unwrap())?;
    target.baselines.iter().find(|(role, _)| *role == Role::Syn)?.1.levels
}

#[test]
fn thresholds_are_shown_with_what_they_follow_from() {
    let state = state();
    let text = command(state.path(), "show --target 203.0.113.10").unwrap();
    assert!(text.contains("zone web: watched for 60 min\n"), "{text}");
    let line = text.lines().find(|line| line.contains("syn")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..3], ["203.0.113.10/32", "syn", "10min"]);
    let (q999, threshold): (f32, f32) = (words[4].parse().unwrap(), words[7].parse().unwrap());
    assert!((threshold / q999 - 4.0).abs() < 0.01, "{text}");
    assert_eq!(words[8], "held");
    assert!(!text.contains("203.0.113.11"), "{text}");
}

#[test]
fn what_is_accepted_follows_at_once_and_the_rest_stays() {
    let state = state();
    let before = levels(state.path(), "203.0.113.10").unwrap();
    assert_eq!(command(state.path(), "accept --target 203.0.113.10 --role syn").unwrap(), "baselines accepted: 1\n");
    assert!(levels(state.path(), "203.0.113.10").unwrap().q999 > 9.0 * before.q999);
    assert_eq!(levels(state.path(), "203.0.113.11"), Some(before));
    assert!(!command(state.path(), "show --target 203.0.113.10").unwrap().contains("held"));
}

#[test]
fn what_is_reset_is_forgotten_and_a_zone_with_all_that_it_learned() {
    let state = state();
    command(state.path(), "reset --target 203.0.113.10").unwrap();
    assert_eq!(levels(state.path(), "203.0.113.10"), None);
    assert!(levels(state.path(), "203.0.113.11").is_some());
    command(state.path(), "reset --zone web").unwrap();
    let learned = store::load(state.path(), |told| panic!("{told}")).unwrap();
    assert!(learned.targets.is_empty());
    assert_eq!(learned.zones[0].observed, Duration::ZERO);
}

#[test]
fn what_is_exported_can_be_imported_elsewhere() {
    let (from, to) = (state(), tempfile::tempdir().unwrap());
    let text = command(from.path(), "export").unwrap();
    fs::write(to.path().join("levee.toml"), CONFIG).unwrap();
    fs::write(to.path().join("exported"), &text).unwrap();
    let import = format!("import {}", to.path().join("exported").display());
    assert_eq!(command(to.path(), &import).unwrap(), "targets taken over: 3\n");
    let open = |state: &Path| store::load(state, |told| panic!("{told}")).unwrap();
    assert_eq!(open(to.path()).targets, open(from.path()).targets);
    assert_eq!(command(to.path(), "export").unwrap(), text);
    // Into what is known already: nothing is there twice.
    command(to.path(), &import).unwrap();
    assert_eq!(command(to.path(), "export").unwrap(), text);
}

#[test]
fn json_that_cannot_be_is_refused_and_changes_nothing() {
    let state = state();
    let text = command(state.path(), "export").unwrap();
    let before = fs::read(store::newest(state.path())).unwrap();
    for (from, to, told) in [
        ("\"format\": 1", "\"format\": 9", "format 9"),
        ("\"role\": \"syn\"", "\"role\": \"sin\"", "role \"sin\""),
        ("\"factor\": 1.0", "\"factor\": -1.0", "factor"),
        ("\"zone\": \"web\"", "\"zone\": \"mail\"", "in the zone \"mail\""),
        ("203.0.113.10/32", "203.0.113.10/33", "target"),
        ("{", "[", "not what"),
    ] {
        assert!(text.contains(from), "{from}");
        let file = state.path().join("changed");
        fs::write(&file, text.replacen(from, to, 1)).unwrap();
        let error = command(state.path(), &format!("import {}", file.display())).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    assert_eq!(fs::read(store::newest(state.path())).unwrap(), before);
}

#[test]
fn nothing_is_changed_beside_a_running_dataplane() {
    let folder = state();
    let state = folder.path().join("dataplane");
    store::save(&state, &fs::read(store::newest(folder.path())).unwrap()).unwrap();
    let socket = folder.path().join("run/dataplane.sock");
    let config = format!(
        "{CONFIG}[appliance]\nstate_dir = {:?}\n[dataplane]\nsocket = {:?}\n",
        folder.path().display().to_string(),
        socket.display().to_string()
    );
    let path = folder.path().join("running.toml");
    fs::write(&path, config).unwrap();
    let reset = || {
        let words = ["levee-dataplane", "reset", "--all", "--config"].map(str::to_owned);
        let words = words.into_iter().chain([path.display().to_string()]);
        run(&Program::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).arguments)
    };
    let running = Listener::bind(&socket).unwrap();
    let error = reset().unwrap_err().to_string();
    assert!(error.contains("another instance is running"), "{error}");
    drop(running);
    assert_eq!(reset().unwrap(), "baselines forgotten: 6\n");
}

#[test]
fn a_selection_of_nothing_and_a_directory_with_nothing_are_told() {
    let state = state();
    assert!(matches!(command(state.path(), "accept --zone mail"), Err(BaselineError::NoSuch)));
    fs::remove_file(store::newest(state.path())).unwrap();
    assert!(matches!(command(state.path(), "show"), Err(BaselineError::Nothing(_))));
}
