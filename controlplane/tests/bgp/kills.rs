//! `kill -9` of the control plane at random moments while a runbook works: attacks come and go, a real BIRD upstream keeps what it
//! was told when the session is lost, and a webhook fails, says nothing, and gets things twice. Afterwards the router has what the
//! ledger says and nothing else, nobody was told less than is written down, and nothing is left when the attacks are over.
//! `LEVEE_KILLS` says how often; a handful unless it is set.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use levee_controlplane::incident::TimelineKind;
use levee_controlplane::ledger::State;
use levee_controlplane::notify::How;
use levee_controlplane::store::{Contents, SqliteStore, Store as _};
use levee_engine::detect::event::Phase;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::bird::Bird;
use super::chance::Chance;
use super::daemon;
use super::dataplane::Place;
use super::process::{configured, signal, start};
use super::world::addresses;

const PATIENT: &str = "error wait time 1, 2; connect retry time 1;";
const RETAIN: &str = "on_loss = \"retain\"\nretain_for = \"30m\"";
/// Both stages are entered and left within a second or two: most kills are in the middle of something.
const RUNBOOK: &str = r#"
[[runbook]]
name = "edge"
[[runbook.stage]]
name = "flowspec"
when = "attack.age >= duration('0s')"
for = "0s"
action = { flowspec = { announcers = ["core"] } }
ttl = "5m"
notify = ["hook"]
[[runbook.stage]]
name = "blackhole"
when = "stage.flowspec.age > duration('1s') || stage.flowspec.failed"
for = "0s"
action = { blackhole = { announcers = ["core"] } }
ttl = "5m"
notify = ["hook"]
[runbook.de_escalate]
calm = "1s"
min_hold = "1s"
probe = "1s"
probe_longest = "4s"
"#;
const HOSTS: u64 = 40;

/// What a webhook was told: how often, by the id of the message.
type Told = Arc<Mutex<BTreeMap<String, u32>>>;

/// Takes messages on loopback: some are refused, some are taken without an answer.
fn hook() -> (String, Told) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let told = Told::default();
    let keeps = Arc::clone(&told);
    std::thread::spawn(move || {
        let mut chance = Chance::new(11);
        for stream in listener.incoming().flatten() {
            // Whoever is killed while it speaks has said nothing.
            let _ = one(stream, &keeps, chance.between(0, 9));
        }
    });
    (url, told)
}

fn one(mut stream: TcpStream, told: &Told, dice: u64) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut id, mut length) = (String::new(), 0_usize);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim().to_ascii_lowercase();
        match line.split_once(": ") {
            Some(("webhook-id", value)) => value.clone_into(&mut id),
            Some(("content-length", value)) => length = value.parse().unwrap_or_default(),
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if dice == 0 {
        return stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    }
    *told.lock().unwrap().entry(id).or_default() += 1;
    if dice == 1 {
        // Taken, and nobody hears of it.
        return Ok(());
    }
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
}

fn stored(place: &Place) -> Contents {
    let folder = place.folder.path().join("controlplane");
    SqliteStore::open(&folder, SystemTime::now()).unwrap().0.load().unwrap()
}

/// Ids and states of what has not ended; an error while nobody answers.
fn ledger(place: &Place) -> Result<Vec<(u64, String, String)>, String> {
    let socket = place.folder.path().join("controlplane.sock").display().to_string();
    let said = daemon::ask(
        Path::new(env!("CARGO_BIN_EXE_leveectl")),
        &["--socket", &socket, "mitigations", "list", "-o", "json"],
    );
    let answer: Value = serde_json::from_str(&said).map_err(|_| said.clone())?;
    let all = answer["mitigations"].as_array().cloned().unwrap_or_default();
    let one = |one: &Value| {
        Some((one["id"].as_str()?.parse().ok()?, one["state"].as_str()?.to_owned(), one["incident"].to_string()))
    };
    all.iter().map(|mitigation| one(mitigation).ok_or_else(|| mitigation.to_string())).collect()
}

/// Until the router has a route for each measure in force, the tag of each, and no other of ours. `incidents`: how many have one.
async fn agree(bird: &Bird, place: &Place, incidents: usize) {
    let agrees = || {
        let ledger = ledger(place)?;
        let routes = bird.routes();
        let told = routes.matches("BGP.large_community").count();
        let tag = |id: u64| format!("(64496, {}, {})", id >> 32, id & 0xffff_ffff);
        let all = ledger.iter().all(|(id, state, _)| state.ends_with("ACTIVE") && routes.contains(&tag(*id)));
        let different: BTreeSet<&String> = ledger.iter().map(|(.., incident)| incident).collect();
        if all && told == ledger.len() && different.len() == incidents {
            Ok(())
        } else {
            Err(format!("{incidents} incidents have something in force\n{ledger:?}\n{routes}"))
        }
    };
    bird.holds("agreement of ledger and router", agrees).await;
}

fn kills() -> u64 {
    std::env::var("LEVEE_KILLS").map_or(5, |kills| kills.parse().unwrap())
}

#[tokio::test]
async fn killed_at_any_moment_of_a_runbook_router_ledger_and_messages_agree_afterwards() {
    killed("", kills(), 2_500).await;
}

/// Longer lives, for what a router retains it lets go of some seconds after a start only.
#[tokio::test]
async fn what_is_retained_over_kills_is_what_the_ledger_says_afterwards() {
    killed(RETAIN, kills().div_ceil(4), 10_000).await;
}

/// `of_peer`: what becomes of routes when the session is lost; `longest_life`: of a process, in milliseconds.
async fn killed(of_peer: &str, kills: u64, longest_life: u64) {
    let (ours, theirs) = addresses();
    let Some(bird) = Bird::start(tempfile::tempdir().unwrap(), ours, theirs, PATIENT) else { return };
    bird.is_up().await;
    let place = Place::new();
    let (url, told) = hook();
    let guardrails = "[guardrails]\nmax_changes_per_minute = 10000";
    let notifier =
        format!("[[notifier]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"{url}\"\nmax_per_minute = 6000\n");
    let config = configured(&place, ours, theirs, of_peer, &format!("{notifier}{RUNBOOK}"));
    let text = std::fs::read_to_string(&config).unwrap().replacen("[guardrails]", guardrails, 1);
    std::fs::write(&config, text).unwrap();
    let mut world = place.start();
    let mut chance = Chance::new(5);
    let mut attacked = BTreeSet::new();
    let mut sessions = 0;
    for kill in 0..kills {
        let running = start(&place, &config);
        let end = Instant::now() + Duration::from_millis(chance.between(0, longest_life));
        while Instant::now() < end {
            let host = format!("203.0.113.{}", chance.between(10, 9 + HOSTS));
            let is_attacked = !attacked.remove(&host) && attacked.insert(host.clone());
            world.change(&host, if is_attacked { Phase::Attack } else { Phase::Normal });
            // The moments are what this is about.
            let pause = Duration::from_millis(chance.between(0, 150));
            tokio::time::sleep(pause.min(end.saturating_duration_since(Instant::now()))).await;
        }
        sessions += u64::from(ledger(&place).is_ok_and(|ledger| !ledger.is_empty()));
        signal(&running, Signal::SIGKILL);
        drop(running);
        if kill % 7 == 6 {
            // The other side may go, too: attacks go with it.
            drop(world);
            world = place.start();
            attacked.clear();
        }
    }
    let mut running = start(&place, &config);
    bird.session().await;
    agree(&bird, &place, attacked.len()).await;
    let at_the_end = attacked.len();
    for host in std::mem::take(&mut attacked) {
        world.change(&host, Phase::Normal);
    }
    agree(&bird, &place, 0).await;
    // What is still to be told is told before the process has stopped, or after the next start.
    signal(&running, Signal::SIGTERM);
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    let mut contents = stored(&place);
    let begun = Instant::now();
    while contents.messages.values().any(|message| message.ended.is_none()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", contents.messages);
        let mut running = start(&place, &config);
        bird.session().await;
        signal(&running, Signal::SIGTERM);
        assert_eq!(running.0.wait().unwrap().code(), Some(0));
        contents = stored(&place);
    }
    let told = told.lock().unwrap();
    for message in contents.messages.values() {
        let ended = message.ended.as_ref().map(|ended| &ended.how);
        assert_eq!(ended, Some(&How::Delivered), "{message:?}");
        assert!(told.contains_key(&message.id.0), "{} is stored as delivered and never came", message.id.0);
    }
    for id in told.keys() {
        assert!(contents.messages.keys().any(|known| known.0 == *id), "{id} came and is not written down");
    }
    for entry in contents.mitigations.values() {
        assert_eq!(entry.state, State::Ended, "{entry:?}");
    }
    for incident in contents.incidents.values() {
        let entries = || contents.timeline.values().filter(|entry| entry.incident == incident.id);
        let numbers: Vec<u32> = entries().map(|entry| entry.number).collect();
        assert_eq!(numbers, (0..incident.next_entry).collect::<Vec<_>>(), "the timeline of {} has holes", incident.id);
        let in_force = |entry: &&_| entry_is_news(entry);
        let of = |message: &&levee_controlplane::notify::Message| message.incident == Some(incident.id);
        let news = entries().filter(in_force).count();
        let messages = contents.messages.values().filter(of).count();
        assert!(messages >= news, "incident {}: {news} times in force, {messages} messages", incident.id);
    }
    let again = told.values().filter(|times| **times > 1).count();
    println!(
        "{kills} kills, {sessions} with measures in the ledger, {} measures, {} messages ({again} of them came again), {at_the_end} attacks at the end",
        contents.mitigations.len(),
        contents.messages.len(),
    );
    assert!(
        sessions > 0 && contents.mitigations.len() as u64 >= kills / 2,
        "the process was killed before it did anything"
    );
}

/// A stage came into force, which is told.
fn entry_is_news(entry: &levee_controlplane::incident::TimelineEntry) -> bool {
    entry.kind == TimelineKind::Stage && entry.text.ends_with("is in force")
}
