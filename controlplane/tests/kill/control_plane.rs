//! The whole control plane: its process, its store on disk, real incidents, filters in a dataplane behind the real contract,
//! operators who ask, repeat what was not answered, and believe what was. Whatever the moment of the kill: nothing that was
//! answered is lost, nothing is done twice, nothing is left in force that the ledger does not want, and afterwards ledger and
//! dataplane agree.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use hyper_util::rt::TokioIo;
use levee_api::filter::{Action, HeaderBox, Rule};
use levee_api::grpc::v1;
use levee_api::grpc::v1::mitigations_client::MitigationsClient;
use levee_api::grpc::v1::system_client::SystemClient;
use levee_api::lane::Lane;
use levee_api::prefix::Prefix;
use levee_controlplane::dataplane::Dataplane;
use levee_controlplane::driver::OwnerTag;
use levee_controlplane::incident::Phase as IncidentPhase;
use levee_controlplane::ledger::{MitigationId, State};
use levee_controlplane::store::{Contents, SqliteStore, Store as _};
use levee_engine::detect::event::Phase;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::world::{Place, World, file_for};

/// Longer than anything takes, shorter than anybody's patience.
const DEADLINE: Duration = Duration::from_secs(90);
/// A process lives for no longer than this.
const LONGEST_LIFE: u64 = 700;
const HOSTS: u64 = 20;
/// Measures that are in force at the same time: then one is withdrawn for each that is added.
const MOST: usize = 30;

/// What an operator has asked for and has no answer to.
#[derive(Debug, Clone)]
enum Ask {
    Add { host: u64 },
    Renew { id: String },
    Withdraw { id: String },
}

/// Operators and attackers, and what they know.
struct Load {
    chance: u64,
    requests: u64,
    /// By the id of the request: whoever has no answer asks again with the same.
    unanswered: BTreeMap<String, Ask>,
    /// By the id that was answered: whether it shall be in force.
    wanted: BTreeMap<String, bool>,
    attacked: BTreeSet<u64>,
    answered: u64,
}

impl Load {
    fn between(&mut self, first: u64, last: u64) -> u64 {
        self.chance = BuildHasherDefault::<DefaultHasher>::default().hash_one(self.chance);
        first + self.chance % (last - first + 1)
    }

    /// Asks and attacks until the connection ends.
    async fn go_on(&mut self, socket: PathBuf, world: &World) {
        let mut client = MitigationsClient::new(connected(socket).await);
        loop {
            if self.repeat(&mut client).await.is_none() {
                return;
            }
            let host = self.between(10, 10 + HOSTS);
            let attacked = !self.attacked.remove(&host) && self.attacked.insert(host);
            world.change(&address(host), if attacked { Phase::Attack } else { Phase::Normal });
            self.requests += 1;
            let in_force: Vec<String> =
                self.wanted.iter().filter(|(_, wanted)| **wanted).map(|(id, _)| id.clone()).collect();
            let some = usize::try_from(self.between(0, 1_000)).unwrap();
            let ask = match self.between(0, 9) {
                0..=4 if in_force.len() < MOST => Ask::Add { host },
                5 | 6 if !in_force.is_empty() => Ask::Renew { id: in_force[some % in_force.len()].clone() },
                _ if !in_force.is_empty() => Ask::Withdraw { id: in_force[some % in_force.len()].clone() },
                _ => Ask::Add { host },
            };
            self.unanswered.insert(format!("request-{}", self.requests), ask);
        }
    }

    /// Asks for everything that has no answer. None: the connection has ended.
    async fn repeat(&mut self, client: &mut MitigationsClient<Channel>) -> Option<()> {
        for (request_id, ask) in self.unanswered.clone() {
            let answer = match &ask {
                Ask::Add { host } => {
                    client.add(wanted(&request_id, *host)).await.map(|answer| answer.into_inner().mitigation)
                }
                Ask::Renew { id } => {
                    let (request_id, id) = (request_id.clone(), id.clone());
                    let ttl_ns = 3_600_000_000_000;
                    let renew = v1::RenewMitigationRequest { request_id, id, ttl_ns, ..Default::default() };
                    client.renew(renew).await.map(|answer| answer.into_inner().mitigation)
                }
                Ask::Withdraw { id } => {
                    let (request_id, id) = (request_id.clone(), id.clone());
                    let withdraw = v1::WithdrawMitigationRequest { request_id, id, ..Default::default() };
                    client.withdraw(withdraw).await.map(|answer| answer.into_inner().mitigation)
                }
            };
            let mitigation = match answer {
                Ok(mitigation) => mitigation.unwrap_or_default(),
                Err(status)
                    if matches!(
                        status.code(),
                        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted
                    ) =>
                {
                    return None;
                }
                Err(status) => panic!("{request_id} {ask:?}: {status}"),
            };
            self.unanswered.remove(&request_id);
            self.answered += 1;
            match ask {
                Ask::Add { .. } => {
                    let before = self.wanted.insert(mitigation.id.clone(), true);
                    assert_eq!(before, None, "{request_id}: mitigation {} was given twice", mitigation.id);
                }
                Ask::Withdraw { id } => drop(self.wanted.insert(id, false)),
                Ask::Renew { .. } => {}
            }
        }
        Some(())
    }
}

fn address(host: u64) -> String {
    format!("203.0.113.{host}")
}

fn wanted(request_id: &str, host: u64) -> v1::AddMitigationRequest {
    let prefix: Prefix = address(host).parse().unwrap();
    let filter = v1::FilterMeasure {
        target: Some(v1::Target { zone: "web".into(), prefix: Some(prefix.into()) }),
        roles: vec!["syn".into()],
        rule: Some((&Rule::of(HeaderBox::any().exact(Lane::Ttl, 64))).into()),
        action: Some(Action::Drop.into()),
    };
    v1::AddMitigationRequest {
        request_id: request_id.into(),
        ttl_ns: 3_600_000_000_000,
        reason: "seen in the capture".into(),
        measure: Some(v1::add_mitigation_request::Measure::Filter(filter)),
        ..Default::default()
    }
}

/// As soon as somebody answers there.
async fn connected(socket: PathBuf) -> Channel {
    loop {
        let path = socket.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        if let Ok(channel) = Endpoint::from_static("http://test.invalid").connect_with_connector(connector).await {
            return channel;
        }
        tokio::task::yield_now().await;
    }
}

/// The process, killed when dropped.
struct Process(Child);

impl Process {
    fn start(place: &Place) -> Self {
        let config = place.folder.path().join("levee.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_levee-controlplane"));
        command.args(["run", "--config"]).arg(config).arg("--events").arg(place.folder.path().join("events.jsonl"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(place.folder.path().join("log")).unwrap();
        Self(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// In order.
    fn stop(mut self) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is in force with our tag, mitigation by mitigation, and how many filters of each.
async fn in_force(place: &Place) -> BTreeMap<MitigationId, usize> {
    let snapshot = Dataplane::connect(&place.socket()).await.unwrap().snapshot().await.unwrap();
    let mut found = BTreeMap::new();
    for filter in &snapshot.filters {
        let tag: OwnerTag = filter.request.as_ref().unwrap().owner.parse().unwrap();
        assert_eq!(tag.appliance, "edge-1");
        *found.entry(tag.id).or_default() += 1;
    }
    found
}

fn stored(place: &Place) -> Contents {
    let folder = place.folder.path().join("controlplane");
    SqliteStore::open(&folder, SystemTime::now()).unwrap().0.load().unwrap()
}

/// Until the dataplane has exactly these, once each.
async fn settled(place: &Place, expected: &BTreeMap<MitigationId, usize>, seed: &str) {
    let begun = Instant::now();
    loop {
        let found = in_force(place).await;
        if found == *expected {
            return;
        }
        let log = || std::fs::read_to_string(place.folder.path().join("log")).unwrap_or_default();
        assert!(begun.elapsed() < DEADLINE, "{seed}: {found:?} in force, {expected:?} wanted\n{}", log());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_left_behind_whenever_the_control_plane_is_killed() {
    let kills = crate::kills();
    let place = Place::new();
    // This dataplane says of every filter that clients would be hit.
    let text = file_for(&place.socket()).replacen("[guardrails]", "[guardrails]\nmax_legitimate_share = 1.0", 1);
    std::fs::write(place.folder.path().join("levee.toml"), text).unwrap();
    let socket = place.folder.path().join("controlplane.sock");
    let mut world = place.start();
    let mut load = Load {
        chance: 7,
        requests: 0,
        unanswered: BTreeMap::new(),
        wanted: BTreeMap::new(),
        attacked: BTreeSet::new(),
        answered: 0,
    };
    for kill in 0..kills {
        let process = Process::start(&place);
        // The moment is what this is about; some are within the start.
        let life = Duration::from_millis(load.between(0, LONGEST_LIFE));
        let _ = tokio::time::timeout(life, load.go_on(socket.clone(), &world)).await;
        drop(process);
        if kill % 7 == 6 {
            // The other side may go, too: filters and attacks go with it.
            drop(world);
            world = place.start();
            load.attacked.clear();
        }
    }
    // The last start: what has no answer is asked once more, and then everything comes to agree.
    let process = Process::start(&place);
    let channel = connected(socket.clone()).await;
    load.repeat(&mut MitigationsClient::new(channel.clone())).await.unwrap();
    let expected: BTreeMap<MitigationId, usize> =
        load.wanted.iter().filter(|(_, wanted)| **wanted).map(|(id, _)| (id.parse().unwrap(), 1)).collect();
    settled(&place, &expected, &format!("after {kills} kills")).await;
    // The dataplane's word is in the ledger, too, before it is looked at.
    let begun = Instant::now();
    let mut mitigations = MitigationsClient::new(channel.clone());
    loop {
        let request = v1::ListMitigationsRequest { page_size: 1_000, ..Default::default() };
        let live = mitigations.list(request).await.unwrap().into_inner().mitigations;
        let active = live.iter().all(|one| one.state() == v1::MitigationState::Active);
        if active && live.len() == expected.len() {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "{live:?}");
        tokio::task::yield_now().await;
    }
    process.stop();
    let contents = stored(&place);
    for (id, wanted) in &load.wanted {
        let id: MitigationId = id.parse().unwrap();
        let entry = contents.mitigations.get(&id).unwrap_or_else(|| panic!("mitigation {id} was answered and is lost"));
        let state = if *wanted { State::Active } else { State::Ended };
        assert_eq!(entry.state, state, "{entry:?}");
    }
    assert_eq!(contents.mitigations.len(), load.wanted.len(), "what nobody was answered is nobody's");
    for incident in contents.incidents.values() {
        let entries: Vec<u32> = contents
            .timeline
            .values()
            .filter(|entry| entry.incident == incident.id)
            .map(|entry| entry.number)
            .collect();
        assert_eq!(entries, (0..incident.next_entry).collect::<Vec<_>>(), "the timeline of {} has holes", incident.id);
    }
    // The last attacks may have come while nobody looked: the next start learns of them.
    let process = Process::start(&place);
    let channel = connected(socket).await;
    let under_attack = |contents: &Contents| -> Vec<String> {
        let attacked = contents.incidents.values().filter(|incident| incident.phase == IncidentPhase::Attack);
        let mut hosts: Vec<String> =
            attacked.map(|incident| incident.target.prefix.unwrap().address().to_string()).collect();
        hosts.sort();
        hosts
    };
    let mut attacked: Vec<String> = load.attacked.iter().map(|host| address(*host)).collect();
    attacked.sort();
    let begun = Instant::now();
    loop {
        let counts = SystemClient::new(channel.clone()).get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        if counts.incidents.unwrap().attack == attacked.len() as u64 {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "{:?}", counts.incidents);
        tokio::task::yield_now().await;
    }
    // And the kill switch leaves nothing.
    let request = v1::SetKillSwitchRequest { request_id: "last".into(), on: true, ..Default::default() };
    SystemClient::new(channel).set_kill_switch(request).await.unwrap();
    settled(&place, &BTreeMap::new(), "with the kill switch").await;
    process.stop();
    assert_eq!(under_attack(&stored(&place)), attacked, "one incident for each attack that goes on, and none besides");
    let (answered, measures) = (load.answered, load.wanted.len());
    println!(
        "{kills} kills, {answered} requests answered, {measures} measures, {} in force at the end",
        expected.len()
    );
    assert!(answered >= kills, "the process was killed before it did anything: {answered}");
}
