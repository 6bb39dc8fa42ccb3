//! What a router has when the control plane is killed, hangs, or is gone and somebody ends its measures without it. The process
//! and the router are real.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use levee_engine::detect::event::Phase;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::bird::Bird;
use super::dataplane::{Place, World};
use super::process::{EDGE, Running, configured, signal, start};
use super::world::addresses;

/// After an error BIRD stays away for a minute if nobody says otherwise.
const PATIENT: &str = "error wait time 1, 2;";
const RULE: &str = "flow4 { dst 203.0.113.9/32; }";

/// A router that has a rule, and the control plane that has announced it.
struct Scene {
    running: Running,
    bird: Bird,
    place: Place,
    world: World,
    config: PathBuf,
}

impl Scene {
    /// None when there is no BIRD here.
    async fn begin(of_peer: &str, runbook: &str) -> Option<Self> {
        let (ours, theirs) = addresses();
        let bird = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, PATIENT)?;
        bird.is_up().await;
        let place = Place::new();
        let world = place.start();
        let config = configured(&place, ours, theirs, of_peer, runbook);
        let running = start(&place, &config);
        bird.session().await;
        world.change("203.0.113.9", Phase::Attack);
        bird.until("the rule", &[RULE], &[]).await;
        Some(Self { running, bird, place, world, config })
    }

    /// Kills the control plane, and waits until the router knows.
    async fn kill(&mut self) -> Instant {
        signal(&self.running, Signal::SIGKILL);
        let killed = Instant::now();
        self.running.0.wait().unwrap();
        self.bird.no_session().await;
        killed
    }

    fn start_again(&mut self) {
        self.running = start(&self.place, &self.config);
    }

    /// `levee-controlplane COMMAND` while none runs; its exit status and what it says.
    fn one_shot(&self, command: &str) -> (Option<i32>, String) {
        let mut one_shot = Command::new(env!("CARGO_BIN_EXE_levee-controlplane"));
        let output = one_shot.arg(command).arg("--config").arg(&self.config).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        let socket = self.place.folder.path().join("controlplane.sock").display().to_string();
        let arguments: Vec<&str> = ["--socket", &socket].into_iter().chain(arguments.iter().copied()).collect();
        super::daemon::ask(Path::new(env!("CARGO_BIN_EXE_leveectl")), &arguments)
    }

    /// Ids and states of what the ledger has that has not ended; none while nobody answers.
    fn ledger(&self) -> Option<Vec<(u64, String)>> {
        let answer: Value = serde_json::from_str(&self.ctl(&["mitigations", "list", "-o", "json"])).ok()?;
        let all = answer["mitigations"].as_array().cloned().unwrap_or_default();
        let one = |one: &Value| Some((one["id"].as_str()?.parse().ok()?, one["state"].as_str()?.to_owned()));
        all.iter().map(one).collect()
    }

    /// Until the ledger has one measure in force, and the router has the route of that one and no other of ours; or neither.
    async fn agree(&self, count: usize) {
        let tag = |id: u64| format!("(64496, {}, {})", id >> 32, id & 0xffff_ffff);
        let agrees = || {
            let ledger = self.ledger().ok_or("nobody answers")?;
            let routes = self.bird.routes();
            let told = routes.matches("BGP.large_community").count();
            let all = ledger.iter().all(|(id, state)| state.ends_with("ACTIVE") && routes.contains(&tag(*id)));
            if all && (ledger.len(), told) == (count, count) { Ok(()) } else { Err(format!("{ledger:?}\n{routes}")) }
        };
        self.bird.holds("agreement of ledger and router", agrees).await;
    }
}

#[tokio::test]
async fn a_control_plane_that_hangs_loses_its_rules_within_the_hold_time_and_announces_them_again() {
    let Some(scene) = Scene::begin("", EDGE).await else { return };
    signal(&scene.running, Signal::SIGSTOP);
    let stopped = Instant::now();
    scene.bird.until("the end of the rule with the hold time", &[], &[RULE]).await;
    // The hold time is 9 s; BIRD looks at its clock once a second, and this machine has other things to do.
    assert!(stopped.elapsed() < Duration::from_secs(14), "{:?}", stopped.elapsed());
    signal(&scene.running, Signal::SIGCONT);
    scene.bird.until("the rule after the pause", &[RULE], &[]).await;
    scene.agree(1).await;
}

#[tokio::test]
async fn what_is_retained_stays_at_the_router_no_longer_than_configured() {
    let Some(mut scene) = Scene::begin("on_loss = \"retain\"\nretain_for = \"6s\"", EDGE).await else { return };
    let killed = scene.kill().await;
    assert!(scene.bird.routes().contains(RULE), "it is retained");
    scene.bird.until("the end of the rule", &[], &[RULE]).await;
    let after = killed.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(12)).contains(&after), "{after:?}");
}

#[tokio::test]
async fn after_a_crash_ledger_and_router_agree_whether_the_attack_goes_on_or_not() {
    let Some(mut scene) = Scene::begin("on_loss = \"retain\"\nretain_for = \"2m\"", EDGE).await else { return };
    scene.agree(1).await;
    scene.kill().await;
    scene.start_again();
    scene.agree(1).await;
    scene.kill().await;
    assert!(scene.bird.routes().contains(RULE), "it is retained");
    // It ends while nobody is there to see it.
    scene.world.change("203.0.113.9", Phase::Normal);
    scene.start_again();
    scene.agree(0).await;
}

#[tokio::test]
async fn sweep_ends_at_the_router_what_is_past_its_end_and_nothing_before() {
    let runbook = EDGE.replace("ttl = \"1m\"", "ttl = \"20s\"");
    let Some(mut scene) = Scene::begin("on_loss = \"retain\"\nretain_for = \"10m\"", &runbook).await else { return };
    let (status, said) = scene.one_shot("sweep");
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("nothing to do") && scene.bird.routes().contains(RULE), "who runs ends its measures: {said}");
    scene.kill().await;
    let (mut status, mut said) = scene.one_shot("sweep");
    assert!(scene.bird.routes().contains(RULE), "its time is not over: {said}");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !said.contains("has been withdrawn") {
        assert!(Instant::now() < deadline, "{said}");
        (status, said) = scene.one_shot("sweep");
    }
    assert_eq!(status, Some(0), "{said}");
    scene.bird.until("nothing", &[], &[RULE]).await;
}

#[tokio::test]
async fn withdraw_all_leaves_nothing_at_the_router_and_a_start_afterwards_announces_nothing() {
    let Some(mut scene) = Scene::begin("on_loss = \"retain\"\nretain_for = \"10m\"", EDGE).await else { return };
    let (status, said) = scene.one_shot("withdraw-all");
    assert_eq!(status, Some(1), "beside one that runs: {said}");
    scene.kill().await;
    assert!(scene.bird.routes().contains(RULE), "it is retained");
    let (status, said) = scene.one_shot("withdraw-all");
    assert_eq!(status, Some(0), "{said}");
    scene.bird.until("nothing", &[], &[RULE]).await;
    scene.start_again();
    scene.bird.session().await;
    scene.agree(0).await;
    // The attack goes on: it was the kill switch that kept it from beginning again.
    let said = scene.ctl(&["kill-switch", "off", "--reason", "a test"]);
    scene.bird.until(&format!("the rule after the kill switch ({said})"), &[RULE], &[]).await;
    scene.agree(1).await;
}
