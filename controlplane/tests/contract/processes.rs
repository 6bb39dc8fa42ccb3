//! `levee-controlplane run` as a process, with everything that can happen to it and to its peer.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use levee_api::zone::Mode;
use levee_engine::detect::event::Phase;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::world::{FILE, Place, file_for};

/// Longer than anything waited for takes, shorter than anybody's patience.
const DEADLINE: Duration = Duration::from_secs(60);

/// A process that ends with its test, and the lines it prints.
struct Running {
    child: Child,
    lines: Receiver<String>,
    told: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, told) = (lines_of(child.stdout.take().unwrap()), lines_of(child.stderr.take().unwrap()));
        Self { child, lines, told }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// The first event of this name.
    fn event(&self, name: &str) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let wait = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(wait).unwrap_or_else(|_| panic!("no event {name}"));
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == name {
                return event;
            }
        }
    }

    /// The first line of the log with this text.
    fn log(&self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let wait = deadline.saturating_duration_since(Instant::now());
            let line = self.told.recv_timeout(wait).unwrap_or_else(|_| panic!("nothing said of {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn control_plane(config: &Path, events: &str) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_levee-controlplane"));
    Running::start(command.args(["run", "--config"]).arg(config).args(["--events", events]))
}

/// Writes the file for the place's socket.
fn configured(place: &Place) -> std::path::PathBuf {
    let path = place.folder.path().join("levee.toml");
    std::fs::write(&path, file_for(&place.socket())).unwrap();
    path
}

/// What an operator reads.
fn shown(place: &Place, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveectl"));
    command.arg("--socket").arg(place.folder.path().join("controlplane.sock")).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until it holds.
fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn the_policy_of_the_file_is_handed_over_and_events_are_written() {
    let place = Place::new();
    let world = place.start();
    let mut running = control_plane(&configured(&place), "-");
    let snapshot = running.event("snapshot");
    assert_eq!((&snapshot["generation"], &snapshot["zones"]), (&1.into(), &2.into()));
    world.change("203.0.113.9", Phase::Attack);
    let changed = running.event("state_changed");
    assert_eq!((&changed["target"], &changed["zone"]), (&"203.0.113.9".into(), &"web".into()));
    assert_eq!((&changed["from"], &changed["state"]), (&"normal".into(), &"attack".into()));
    assert_eq!(running.event("anomaly_opened")["roles"][0]["role"], "syn");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

/// What `leveectl` says; nothing while the control plane does not answer.
fn leveectl(place: &Place, arguments: &[&str]) -> Option<Value> {
    let socket = place.folder.path().join("controlplane.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveectl"));
    let output = command.args(arguments).args(["-o", "json", "--socket"]).arg(socket).output().unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

/// The first answer that is right: asked again as long as that may take.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match ask() {
            Some(answer) => return answer,
            None => assert!(Instant::now() < deadline, "{what}"),
        }
    }
}

#[test]
fn a_stage_captures_and_a_rule_that_would_drop_clients_is_refused() {
    let place = Place::new();
    let world = place.start();
    let path = configured(&place);
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replacen("name = \"web\"\n", "name = \"web\"\nrunbook = \"own\"\n", 1);
    let runbook = "[[runbook]]\nname = \"own\"\n[[runbook.stage]]\nname = \"evidence\"\naction = { capture = { duration = \"9s\" } }\n";
    std::fs::write(&path, format!("{text}{runbook}")).unwrap();
    let running = control_plane(&path, "-");
    running.event("snapshot");
    world.change("203.0.113.9", Phase::Attack);
    running.event("anomaly_opened");
    let says = |story: &Value, text: &str| {
        let timeline = story["timeline"].as_array().into_iter().flatten();
        timeline.into_iter().any(|entry| entry["text"].as_str().is_some_and(|told| told.contains(text)))
    };
    let list = || leveectl(&place, &["incidents", "list"]);
    let id = until("an incident", || Some(list()?["incidents"][0]["id"].as_str()?.to_owned()));
    until("the capture", || leveectl(&place, &["incidents", "show", &id]).filter(|story| says(story, "web.pcapng")));

    // The dataplane here says that every filter takes a tenth of what is legitimate; 0.05 are allowed.
    let add = |action: &[&str]| {
        let filter = ["mitigations", "add", "filter", "--zone", "web", "--target", "203.0.113.8", "--ttl", "5m"];
        let rest = ["--match", "protocol=udp src_port=53", "--reason", "a test", "--role", "udp_open"];
        let added = leveectl(&place, &[&filter[..], &rest[..], action].concat()).unwrap();
        added["mitigation"]["id"].as_str().or(added["id"].as_str()).unwrap_or_else(|| panic!("{added}")).to_owned()
    };
    let (dropping, limiting) = (add(&[]), add(&["--action", "limit", "--pps", "100"]));
    let mitigation = |id: &str| {
        let all = leveectl(&place, &["mitigations", "list", "--all"])?;
        all["mitigations"].as_array()?.iter().find(|one| one["id"] == id).cloned()
    };
    let refused = until("a refusal", || mitigation(&dropping).filter(|one| one["outcome"] == "refused"));
    assert!(refused["error"].as_str().unwrap().contains("max_legitimate_share"), "{refused}");
    until("a limit", || mitigation(&limiting).filter(|one| one["state"] == "MITIGATION_STATE_ACTIVE"));
}

#[test]
fn a_dataplane_that_restarts_gets_its_policy_back() {
    let place = Place::new();
    let world = place.start();
    let running = control_plane(&configured(&place), "-");
    let before = running.event("snapshot");
    drop(world);
    running.log("trying again until it works");
    let _world = place.start();
    assert!(running.event("gap")["reason"].as_str().unwrap().contains("restarted"));
    let after = running.event("snapshot");
    assert_ne!(before["boot_id"], after["boot_id"]);
    assert_eq!((&after["generation"], &after["zones"]), (&1.into(), &2.into()));
}

#[test]
fn a_control_plane_that_was_killed_goes_on_where_its_file_ends() {
    let place = Place::new();
    let world = place.start();
    let config = configured(&place);
    let file = place.folder.path().join("events.jsonl");
    std::fs::write(&file, "").unwrap();
    // tail waits for the file to grow, so that nobody here has to look again and again.
    let written = Running::start(Command::new("tail").args(["-n", "+1", "-f"]).arg(&file));

    let running = control_plane(&config, file.to_str().unwrap());
    written.event("snapshot");
    world.change("203.0.113.9", Phase::Attack);
    let last = written.event("anomaly_opened")["sequence"].as_u64().unwrap();
    running.signal(Signal::SIGKILL);
    drop(running);
    world.change("203.0.113.8", Phase::Attack);

    let _running = control_plane(&config, file.to_str().unwrap());
    assert_eq!(written.event("state_changed")["sequence"], last + 1);
    written.event("anomaly_opened");
    let text = std::fs::read_to_string(&file).unwrap();
    let sequences: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["event"] != "gap" && event["event"] != "snapshot")
        .filter_map(|event| event["sequence"].as_u64())
        .collect();
    assert!(sequences.windows(2).all(|pair| pair[0] + 1 == pair[1]), "nothing twice, nothing missing: {sequences:?}");
    assert_eq!(text.matches("\"gap\"").count(), 1, "only the first start had nothing to go on from: {text}");
}

#[test]
fn the_file_is_read_again_on_sighup_and_kept_when_it_is_not_valid() {
    let place = Place::new();
    let _world = place.start();
    let config = configured(&place);
    let running = control_plane(&config, "-");
    running.event("snapshot");

    let text = file_for(&place.socket());
    std::fs::write(&config, text.replace("prefixes", "prefxies")).unwrap();
    running.signal(Signal::SIGHUP);
    assert!(running.log("not valid").contains("prefxies"));

    let third = "[[zone]]\nname = \"third\"\nprefixes = [\"192.0.2.0/24\"]\n";
    std::fs::write(&config, format!("{text}{third}")).unwrap();
    running.signal(Signal::SIGHUP);
    let committed = running.event("policy_committed");
    assert_eq!((&committed["zones"], &committed["generation"]), (&3.into(), &2.into()));
}

#[test]
fn a_peer_that_sends_garbage_is_left_and_tried_again() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    let running = control_plane(&configured(&place), "-");
    for _ in 0..3 {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(&[0xa5; 4_096]);
    }
    running.log("no dataplane answers on");
    drop(listener);
    let _world = place.start();
    running.event("snapshot");
}

#[test]
fn a_file_that_is_not_valid_ends_the_start_with_78() {
    let place = Place::new();
    let config = place.folder.path().join("levee.toml");
    std::fs::write(&config, FILE.replace("mode", "mood")).unwrap();
    let mut running = control_plane(&config, "-");
    running.log("did you mean `mode`?");
    assert_eq!(running.child.wait().unwrap().code(), Some(78));
}

#[test]
fn a_restart_with_a_file_that_is_not_valid_goes_on_with_what_was_in_force_and_says_so() {
    let place = Place::new();
    let world = place.start();
    let config = configured(&place);
    let good = std::fs::read_to_string(&config).unwrap();
    let running = control_plane(&config, "-");
    running.event("snapshot");
    running.signal(Signal::SIGKILL);
    drop(running);
    std::fs::write(&config, good.replace("prefixes", "prefxies")).unwrap();
    let running = control_plane(&config, "-");
    running.log("what was in force before the file stays");
    assert_eq!(running.event("snapshot")["zones"], 2);
    world.change("203.0.113.9", Phase::Attack);
    running.event("anomaly_opened");
    assert!(shown(&place, &["status"]).contains("what was in force before the file stays"));
    std::fs::write(&config, good).unwrap();
    shown(&place, &["config", "reload"]);
    assert!(!shown(&place, &["status"]).contains("what was in force"));
}

#[test]
fn a_store_that_somebody_holds_keeps_neither_events_nor_operators_waiting() {
    let place = Place::new();
    let world = place.start();
    let running = control_plane(&configured(&place), "-");
    running.event("snapshot");
    let store = rusqlite::Connection::open(place.folder.path().join("controlplane/store.sqlite")).unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    let status = || shown(&place, &["status"]);
    // Ten commits would have waited five seconds each.
    let begun = Instant::now();
    for host in 10..20 {
        world.change(&format!("203.0.113.{host}"), Phase::Attack);
        running.event("anomaly_opened");
        status();
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    running.log("nothing new is begun until that is over");
    assert!(status().contains("the store takes nothing"), "{}", status());
    store.execute_batch("ROLLBACK").unwrap();
    while status().contains("the store takes nothing") {
        assert!(begun.elapsed() < DEADLINE, "{}", status());
    }
    running.signal(Signal::SIGKILL);
    drop(running);
    let incidents: i64 =
        store.query_row("SELECT count(*) FROM record WHERE kind = 'incident'", [], |row| row.get(0)).unwrap();
    assert_eq!(incidents, 10, "what could not be stored was stored when it could");
}

#[test]
fn a_kill_switch_that_the_dataplane_refuses_is_handed_over_until_it_is_taken() {
    let place = Place::new();
    let world = place.start();
    let running = control_plane(&configured(&place), "-");
    running.event("snapshot");
    world.steered.refuses.store(1, Ordering::SeqCst);
    shown(&place, &["kill-switch", "on", "--reason", "customers are cut off"]);
    running.log("no room for these zones");
    // Until it takes zones that only watch it has none, and drops nothing.
    let zones = || world.steered.zones.lock().unwrap().clone();
    wait_for("neither emptied nor lowered", || zones().iter().all(|zone| zone.mode == Mode::Monitor));
    wait_for("zones that only watch", || zones().len() == 2);
    assert!(zones().iter().all(|zone| zone.mode == Mode::Monitor));
    let status = shown(&place, &["status"]);
    assert!(status.contains("customers are cut off") && !status.contains("no room"), "{status}");
}

#[test]
fn a_policy_that_is_handed_over_leaves_the_filters_of_mitigations_in_force() {
    let place = Place::new();
    let _world = place.start();
    let config = configured(&place);
    // This dataplane says of every filter that clients would be hit.
    let text = file_for(&place.socket()).replacen("[guardrails]", "[guardrails]\nmax_legitimate_share = 1.0", 1);
    std::fs::write(&config, &text).unwrap();
    let running = control_plane(&config, "-");
    running.event("snapshot");
    let rule = ["--zone", "web", "--target", "203.0.113.9", "--match", "protocol=udp src_port=53", "--ttl", "10m"];
    shown(&place, &[&["mitigations", "add", "filter"][..], &rule].concat());
    wait_for("in force", || shown(&place, &["mitigations", "list"]).contains("active"));
    let third = "[[zone]]\nname = \"third\"\nprefixes = [\"192.0.2.0/24\"]\n";
    std::fs::write(&config, format!("{text}{third}")).unwrap();
    running.signal(Signal::SIGHUP);
    let committed = running.event("policy_committed");
    assert_eq!((&committed["zones"], &committed["filters"]), (&3.into(), &1.into()), "it came with the policy");
}

#[test]
fn a_reload_and_a_confirmation_that_are_asked_for_twice_are_done_once() {
    let place = Place::new();
    let _world = place.start();
    let config = configured(&place);
    let running = control_plane(&config, "-");
    running.event("snapshot");
    let text = file_for(&place.socket());
    let zone = |name: &str, prefix: &str| format!("[[zone]]\nname = \"{name}\"\nprefixes = [\"{prefix}\"]\n");
    let third = format!("{text}{}", zone("third", "192.0.2.0/25"));
    std::fs::write(&config, &third).unwrap();
    let reload = || shown(&place, &["config", "reload", "--confirm", "5m", "--request-id", "reload-1", "-o", "json"]);
    let first = reload();
    assert!(first.contains("third"), "{first}");
    // The file is another by now, and the same request is not for that.
    std::fs::write(&config, format!("{third}{}", zone("fourth", "192.0.2.128/25"))).unwrap();
    assert_eq!(reload(), first);
    let confirm = || shown(&place, &["config", "confirm", "--request-id", "confirm-1", "-o", "json"]);
    let first = confirm();
    assert_eq!(confirm(), first, "nothing is on trial any more, and it was this request that kept it");
    let zones = shown(&place, &["zones"]);
    assert!(zones.contains("third") && !zones.contains("fourth"), "{zones}");
}

#[test]
fn everything_goes_on_while_a_file_is_read_that_takes_long_to_check() {
    let place = Place::new();
    let _world = place.start();
    let config = configured(&place);
    let running = control_plane(&config, "-");
    running.event("snapshot");
    let mut text = file_for(&place.socket());
    for runbook in 0..16 {
        text.push_str(&format!("[[runbook]]\nname = \"r{runbook}\"\n"));
        for stage in 0..16 {
            let when = format!(
                "attack.pps > {stage}000.0 || attack.bps > {stage}1.0 || attack.severity > 0.{stage} || stage.s{}.failed",
                (stage + 1) % 16
            );
            text.push_str(&format!(
                "[[runbook.stage]]\nname = \"s{stage}\"\nwhen = \"{when}\"\naction = {{ filter = {{}} }}\n"
            ));
        }
    }
    std::fs::write(&config, text).unwrap();
    let socket = place.folder.path().join("controlplane.sock");
    let mut reload = Command::new(env!("CARGO_BIN_EXE_leveectl"))
        .arg("--socket")
        .arg(&socket)
        .args(["config", "reload"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = 0;
    while reload.try_wait().unwrap().is_none() {
        shown(&place, &["status"]);
        answers += 1;
    }
    let output = reload.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(answers > 3, "{answers} answers while the file was read");
}

#[test]
fn trials_have_a_shortest_and_a_longest_time_and_are_not_confirmed_by_the_way() {
    let place = Place::new();
    let _world = place.start();
    let config = configured(&place);
    let running = control_plane(&config, "-");
    running.event("snapshot");
    let refused = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveectl"));
        command.arg("--socket").arg(place.folder.path().join("controlplane.sock")).args(arguments);
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for time in ["1ns", "9s", "25h"] {
        assert!(refused(&["config", "reload", "--confirm", time]).contains("10 s to 24 h"));
    }
    let third = "[[zone]]\nname = \"third\"\nprefixes = [\"192.0.2.0/24\"]\n";
    std::fs::write(&config, format!("{}{third}", file_for(&place.socket()))).unwrap();
    shown(&place, &["config", "reload", "--confirm", "10m"]);
    for more in [&[][..], &["--dry-run"]] {
        assert!(refused(&[&["config", "reload"], more].concat()).contains("on trial"));
    }
    assert!(shown(&place, &["status", "-o", "json"]).contains("confirm_by"), "it is on trial still");
}

#[test]
fn what_a_damaged_store_has_lost_needs_attention_until_the_next_start() {
    let place = Place::new();
    let _world = place.start();
    let config = configured(&place);
    let status = |damaged: bool| {
        let mut running = control_plane(&config, "/dev/null");
        until("an answer", || leveectl(&place, &["status"]));
        let status = shown(&place, &["status"]);
        assert_eq!(status.contains("ATTENTION: the store is damaged"), damaged, "{status}");
        running.signal(Signal::SIGTERM);
        assert_eq!(running.child.wait().unwrap().code(), Some(0));
    };
    status(false);
    std::fs::write(place.folder.path().join("controlplane/store.sqlite"), "nonsense ".repeat(1_000)).unwrap();
    status(true);
    status(false);
}

#[test]
fn a_filter_over_what_is_protected_is_refused_at_once_and_another_says_what_became_of_it() {
    let place = Place::new();
    let _world = place.start();
    let running = control_plane(&configured(&place), "-");
    running.event("snapshot");
    let add = |matches: &str, target: &[&str]| {
        let filter = ["mitigations", "add", "filter", "--zone", "web", "--match", matches, "--ttl", "10m"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveectl"));
        command.arg("--socket").arg(place.folder.path().join("controlplane.sock")).args(filter).args(target);
        let output = command.output().unwrap();
        let told = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (output.status.success(), told)
    };
    for target in [&[][..], &["--target", "203.0.113.0/24"]] {
        let (done, told) = add("any", target);
        assert!(!done && told.contains("protected_prefixes") && told.contains("203.0.113.1/32"), "{told}");
    }
    let (done, told) = add("any", &["--target", "203.0.113.9"]);
    assert!(!done && told.contains("failed: guardrail max_legitimate_share"), "{told}");
    let more = file_for(&place.socket()).replacen("max_ttl", "max_legitimate_share = 0.2\nmax_ttl", 1);
    std::fs::write(place.folder.path().join("levee.toml"), more).unwrap();
    shown(&place, &["config", "reload"]);
    let (done, told) = add("protocol=udp src_port=53", &["--target", "203.0.113.9"]);
    assert!(done && told.contains("active"), "{told}");
    assert!(shown(&place, &["mitigations", "list"]).contains("all roles"));
}
