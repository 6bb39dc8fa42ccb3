//! The whole control plane as a process: a dataplane tells of an attack, a real BIRD upstream gets the rule, and it goes again
//! when the process is killed or told to stop, and when somebody pulls the kill switch.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use levee_engine::detect::event::Phase;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bird::Bird;
use super::dataplane::{Place, file_for};
use super::world::{OUR_AS, PORT, THEIR_AS, addresses};

pub(super) struct Running(pub(super) Child, PathBuf);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the control plane says:\n{}", std::fs::read_to_string(&self.1).unwrap_or_default());
            let socket = self.1.with_file_name("controlplane.sock").display().to_string();
            for question in [
                ["incidents", "list", "--all"].as_slice(),
                &["incidents", "show", "1"],
                &["mitigations", "list", "--all"],
            ] {
                let arguments: Vec<&str> = ["--socket", &socket].into_iter().chain(question.iter().copied()).collect();
                eprintln!("{}", super::daemon::ask(Path::new(env!("CARGO_BIN_EXE_leveectl")), &arguments));
            }
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A runbook that announces as soon as there is an attack, and takes back soon after it.
pub(super) const EDGE: &str = "[[runbook]]\nname = \"edge\"\n\
    [[runbook.stage]]\nname = \"flowspec\"\nwhen = \"attack.age >= duration('0s')\"\nfor = \"0s\"\n\
    action = { flowspec = { announcers = [\"core\"] } }\nttl = \"1m\"\n[runbook.de_escalate]\ncalm = \"1s\"\nmin_hold = \"1s\"\n";

/// A configuration with one peer, about which `of_peer` says more, and a runbook.
pub(super) fn configured(place: &Place, ours: Ipv4Addr, theirs: Ipv4Addr, of_peer: &str, runbook: &str) -> PathBuf {
    let file = file_for(&place.socket())
        .replace("[guardrails]\n", "[guardrails]\nowned_prefixes = [\"203.0.113.0/24\"]\n")
        .replace("name = \"web\"\n", "name = \"web\"\nrunbook = \"edge\"\n");
    let text = format!(
        "{file}\n[bgp]\nas = {OUR_AS}\nrouter_id = \"{ours}\"\n\
         [[bgp.peer]]\nname = \"upstream\"\nannouncer = \"core\"\naddress = \"{theirs}\"\nport = {PORT}\nas = {THEIR_AS}\n\
         local_address = \"{ours}\"\nhold_time = \"9s\"\n{of_peer}\n\
         [[announcer]]\nname = \"core\"\nkind = \"embedded\"\n\
         capabilities = [\"flowspec\", \"rate-limit\", \"sample\", \"blackhole\", \"source-blackhole\", \"divert\"]\n{runbook}"
    );
    let path = place.folder.path().join("levee.toml");
    std::fs::write(&path, text).unwrap();
    path
}

pub(super) fn start(place: &Place, config: &Path) -> Running {
    let path = place.folder.path().join("log");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_levee-controlplane"))
        .args(["run", "--config"])
        .arg(config)
        .args(["--events", "/dev/null"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Running(child, path)
}

pub(super) fn signal(running: &Running, signal: Signal) {
    kill(Pid::from_raw(running.0.id().try_into().unwrap()), signal).unwrap();
}

#[tokio::test]
async fn an_attack_leads_to_a_rule_at_the_router_upstream_which_goes_whatever_becomes_of_us() {
    let (ours, theirs) = addresses();
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, "") else { return };
    bird.is_up().await;
    let place = Place::new();
    let world = place.start();
    let config = configured(&place, ours, theirs, "", EDGE);
    let running = start(&place, &config);
    bird.session().await;
    world.change("203.0.113.9", Phase::Attack);
    let rule = "flow4 { dst 203.0.113.9/32; }";
    // Nothing is known of the attack but its target: everything to it is limited.
    bird.until("the rule", &[rule, "(generic, 0x80060000, 0x49989680)"], &[]).await;
    let socket = place.folder.path().join("controlplane.sock").display().to_string();
    let arguments = ["--socket", &socket, "flowspec", "show", "--syntax", "exabgp"];
    // The router has it a moment before its acknowledgement has come back.
    bird.holds("the rule as it is shown", || {
        let shown = super::daemon::ask(Path::new(env!("CARGO_BIN_EXE_leveectl")), &arguments);
        let parts = ["by core, ", "# told upstream\n", "# 060120cb007109 ", "destination 203.0.113.9/32"];
        if parts.iter().all(|part| shown.contains(part)) { Ok(()) } else { Err(shown) }
    })
    .await;
    // A crash ends the session, and the rule with it; the next start finds the attack and announces again.
    signal(&running, Signal::SIGKILL);
    bird.until("the end of the rule with the process", &[], &[rule]).await;
    drop(running);
    let mut running = start(&place, &config);
    bird.until("the rule after the restart", &[rule], &[]).await;
    signal(&running, Signal::SIGTERM);
    bird.until("the end of the rule with a clean stop", &[], &[rule]).await;
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    drop(running);
    let running = start(&place, &config);
    bird.until("the rule after the clean stop", &[rule], &[]).await;
    // The file by which the dataplane is stopped stops measures upstream, too; when it is gone they come back.
    let file = place.folder.path().join("dataplane/kill-switch");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "").unwrap();
    bird.until("the end of the rule with the file", &[], &[rule]).await;
    std::fs::remove_file(&file).unwrap();
    bird.until("the rule after the file", &[rule], &[]).await;
    let arguments = ["--socket", &socket, "kill-switch", "on", "--reason", "a test"];
    let said = super::daemon::ask(Path::new(env!("CARGO_BIN_EXE_leveectl")), &arguments);
    bird.until(&format!("the end of the rule with the kill switch ({said})"), &[], &[rule]).await;
    let arguments = ["--socket", &socket, "kill-switch", "off", "--reason", "a test"];
    let said = super::daemon::ask(Path::new(env!("CARGO_BIN_EXE_leveectl")), &arguments);
    bird.until(&format!("the rule after the kill switch ({said})"), &[rule], &[]).await;
    // A reload that takes the announcer's peer away ends what it announces, and one that brings it back does not bring that back.
    let text = std::fs::read_to_string(&config).unwrap();
    let (before, peer) = text.split_once("[[bgp.peer]]").unwrap();
    let (_, after) = peer.split_once("[[announcer]]").unwrap();
    std::fs::write(&config, format!("{before}[[announcer]]{after}")).unwrap();
    signal(&running, Signal::SIGHUP);
    bird.until("the end of the rule with the peer", &[], &[rule]).await;
    let listed = || {
        let arguments = ["--socket", &socket, "mitigations", "list"];
        super::daemon::ask(Path::new(env!("CARGO_BIN_EXE_leveectl")), &arguments)
    };
    let mut left = listed();
    for _ in 0..100 {
        if !left.contains("203.0.113.9") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        left = listed();
    }
    assert!(!left.contains("203.0.113.9"), "what nobody announces is not in force: {left}");
    std::fs::write(&config, text).unwrap();
    signal(&running, Signal::SIGHUP);
    bird.session().await;
    assert!(!bird.routes().contains(rule), "what was begun before is not brought back");
    let log = std::fs::read_to_string(place.folder.path().join("log")).unwrap();
    assert!(log.contains("the BGP session is established"), "{log}");
}
