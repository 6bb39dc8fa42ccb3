//! What the services stand on: records in memory, changed by a loop that does what is asked without deciding anything.
//! The decisions of the real core have tests of their own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use levee_api::config::Config;
use levee_api::filter::Target;
use levee_api::grpc::socket::Listener;
use levee_api::time::Timestamp;
use levee_controlplane::actor::Actor;
use levee_controlplane::bgp::bmp::Totals;
use levee_controlplane::clock::{BootId, Deadline, Now, UnixTime};
use levee_controlplane::dataplane::Dataplane;
use levee_controlplane::driver::DriverName;
use levee_controlplane::guardrail::Refusal;
use levee_controlplane::incident::{Incident, Peak, Phase, Rates, Severity, TimelineEntry, TimelineKind};
use levee_controlplane::ledger::{IncidentId, Mitigation, MitigationId, Outcome as End, State};
use levee_controlplane::notify::ChannelView;
use levee_controlplane::server::link::{
    ApprovalView, Ask, Change, DriverView, End as LoopEnd, Knowledge, Operation, Outcome, Refused, StageView,
};
use levee_controlplane::server::metrics::Sources;
use levee_controlplane::server::{About, CallCounters, CaptureFolder, connect, metrics, serve};
use levee_controlplane::store::{Contents, KillSwitch, Request, StoreError, Write};
use tokio::sync::{mpsc, oneshot};

use crate::world::{Place, World, file_for};

/// A control plane without a core, beside a dataplane without a data path.
pub(crate) struct Appliance {
    pub(crate) place: Place,
    pub(crate) metrics: std::net::SocketAddr,
    writes: mpsc::UnboundedSender<Vec<Write>>,
    /// Ends the thread when it is dropped, before the dataplane.
    _stop: oneshot::Sender<()>,
    _thread: std::thread::JoinHandle<()>,
    _world: Option<World>,
}

impl Appliance {
    pub(crate) fn start() -> Self {
        let place = Place::new();
        let world = place.start();
        Self::beside(place, Some(world))
    }

    pub(crate) fn without_dataplane() -> Self {
        Self::beside(Place::new(), None)
    }

    fn beside(place: Place, world: Option<World>) -> Self {
        let text = file_for(&place.socket());
        let file = place.folder.path().join("levee.toml");
        std::fs::write(&file, &text).unwrap();
        let config = Config::parse("levee.toml", &text).unwrap();
        let listener = Listener::bind(&place.folder.path().join("controlplane.sock")).unwrap();
        let (handle, end) = connect(Arc::new(config));
        let (writes, written) = mpsc::unbounded_channel();
        let counters = Arc::new(CallCounters::default());
        let captures = CaptureFolder::below(place.folder.path());
        let about = About { config: file, started: UnixTime(1), captures };
        let sources = Sources { handle: handle.clone(), calls: Arc::clone(&counters), started: 1.0 };
        let (socket, connected) = (place.socket(), world.is_some());
        let (bound, address) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        // A runtime of its own, as the process has.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                if connected {
                    end.dataplane.send_replace(Some(Dataplane::connect(&socket).await.unwrap()));
                }
                tokio::spawn(run(end, written));
                let tcp = metrics::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
                bound.send(tcp.local_addr().unwrap()).unwrap();
                tokio::spawn(metrics::serve(tcp, sources));
                tokio::select! {
                    served = serve(&listener, handle, about, counters) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        let metrics = address.recv().unwrap();
        Self { place, metrics, writes, _stop: stop, _thread: thread, _world: world }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.place.folder.path().join("controlplane.sock")
    }

    /// Becomes known, and durable.
    pub(crate) fn write(&self, writes: Vec<Write>) {
        self.writes.send(writes).unwrap();
    }

    /// An incident of the zone `web`, opened so many seconds after the first moment.
    pub(crate) fn open(&self, id: u64, host: &str, after_s: u64) {
        let incident = incident(id, host, after_s);
        let text = format!("syn at 900 pps, threshold 500 pps, on {host}");
        let opened = entry(id, 0, after_s, TimelineKind::Opened, &text);
        self.write(vec![Write::PutIncident(incident), Write::AppendTimeline(opened)]);
    }
}

pub(crate) fn at(seconds: u64) -> Now {
    let wall = UnixTime(1_767_323_045_000_000_000 + seconds * 1_000_000_000);
    Now { boot: BootId(1), monotonic: Timestamp(seconds * 1_000_000_000), wall }
}

pub(crate) fn incident(id: u64, host: &str, after_s: u64) -> Incident {
    Incident {
        id: IncidentId(id),
        target: Target { zone: "web".into(), prefix: Some(host.parse().unwrap()) },
        opened: at(after_s),
        phase: Phase::Attack,
        severity: Severity::Medium,
        vectors: Vec::new(),
        roles: Vec::new(),
        anomalies: Vec::new(),
        rates: Rates { pps: 900.0, bps: 432_000.0, dropped_pps: 700.0, ..Rates::default() },
        peak: Peak { pps: 1_200.0, bps: 500_000.0 },
        hosts: Vec::new(),
        host_count: 0,
        merged_into: None,
        runbook: None,
        next_entry: 1,
        entries_left_out: 0,
    }
}

pub(crate) fn entry(id: u64, number: u32, after_s: u64, kind: TimelineKind, text: &str) -> TimelineEntry {
    TimelineEntry {
        incident: IncidentId(id),
        number,
        at: at(after_s),
        kind,
        text: text.to_owned(),
        actor: None,
        stage: None,
        mitigation: None,
    }
}

struct Records(Contents);

impl Knowledge for Records {
    fn now(&self) -> Now {
        at(100)
    }
    fn incidents(&self) -> Box<dyn DoubleEndedIterator<Item = &Incident> + '_> {
        Box::new(self.0.incidents.values())
    }
    fn incident(&self, id: IncidentId) -> Option<&Incident> {
        self.0.incidents.get(&id)
    }
    fn timeline(&self, id: IncidentId) -> Result<Vec<TimelineEntry>, StoreError> {
        Ok(self.0.timeline.values().filter(|entry| entry.incident == id).cloned().collect())
    }
    fn report(&self, _: IncidentId) -> Option<String> {
        None
    }
    fn stages(&self, _: IncidentId) -> Vec<StageView> {
        Vec::new()
    }
    fn mitigations(&self) -> Box<dyn DoubleEndedIterator<Item = &Mitigation> + '_> {
        Box::new(self.0.mitigations.values())
    }
    fn measures(&self, of: IncidentId) -> Box<dyn Iterator<Item = &Mitigation> + '_> {
        Box::new(self.0.mitigations.values().filter(move |one| one.incident == Some(of)))
    }
    fn approvals(&self) -> Vec<ApprovalView> {
        Vec::new()
    }
    fn waits(&self, _: IncidentId) -> bool {
        false
    }
    fn kill_switch(&self) -> Option<&KillSwitch> {
        self.0.kill_switch.as_ref()
    }
    fn troubles(&self) -> Vec<String> {
        Vec::new()
    }
    fn confirm_by(&self) -> Option<Now> {
        None
    }
    fn drivers(&self) -> Vec<DriverView> {
        vec![DriverView { name: "dataplane".into(), succeeded: 3, failed: 1, refused: 0 }]
    }
    fn bmp(&self) -> Option<Totals> {
        Some(Totals { routers: 1, routes: 4, sessions: 2, messages: 90, malformed: 1, ..Totals::default() })
    }
    fn channels(&self) -> Vec<ChannelView> {
        vec![ChannelView { name: "noc".into(), waiting: 2, delivered: 5, failed: 1, ..ChannelView::default() }]
    }
}

async fn run(mut end: LoopEnd, mut written: mpsc::UnboundedReceiver<Vec<Write>>) {
    let mut records = Records(Contents::default());
    loop {
        tokio::select! {
            biased;
            Some(writes) = written.recv() => commit(&mut records, &end, writes),
            Some(ask) = end.asks.recv() => match ask {
                Ask::Query(query) => query(&records),
                Ask::Change(change) => changed(&mut records, &end, *change),
            },
            else => return,
        }
    }
}

fn commit(records: &mut Records, end: &LoopEnd, writes: Vec<Write>) {
    writes.iter().for_each(|write| records.0.apply(write));
    end.tell(&writes);
}

fn changed(records: &mut Records, end: &LoopEnd, change: Change) {
    let Change { actor, request_id, digest, validate_only, operation, reply } = change;
    let answer = match records.0.requests.get(&request_id) {
        Some(before) if before.digest == digest => Ok(serde_json::from_str(&before.answer).unwrap()),
        Some(_) => Err(Refused::IdTaken(request_id.clone())),
        None => {
            let done = done(records, &actor, operation);
            if let (Ok((outcome, mut writes)), false) = (done.clone(), validate_only) {
                let answer = serde_json::to_string(&outcome).unwrap();
                writes.push(Write::PutRequest(Request { id: request_id, actor, at: at(100), digest, answer }));
                commit(records, end, writes);
            }
            done.map(|(outcome, _)| outcome)
        }
    };
    let _ = reply.send(answer);
}

fn done(records: &Records, actor: &Actor, operation: Operation) -> Result<(Outcome, Vec<Write>), Refused> {
    let existing = |id: MitigationId| {
        let unknown = || Refused::NotFound { what: "mitigation", name: id.to_string() };
        records.0.mitigations.get(&id).cloned().ok_or_else(unknown)
    };
    let told =
        |one: Mitigation| (Outcome::Mitigation { mitigation: Box::new(one.clone()) }, vec![Write::PutMitigation(one)]);
    match operation {
        Operation::Add { incident, zone, driver, spec, ttl, reason } => {
            if ttl > Duration::from_secs(3600) {
                return Err(Refused::Guardrail(Refusal {
                    guardrail: "max_ttl".into(),
                    value: format!("{ttl:?}"),
                    limit: "1h".into(),
                    text: "it would last too long".into(),
                }));
            }
            let id = MitigationId(records.0.mitigations.len() as u64 + 1);
            Ok(told(Mitigation {
                id,
                driver: driver.unwrap_or_else(DriverName::dataplane),
                spec: *spec,
                zone: zone.unwrap_or_else(|| "web".to_owned()),
                incident,
                stage: None,
                asked_by: actor.clone(),
                reason,
                created: at(100),
                begun: None,
                deadline: Deadline::after(&at(100), ttl),
                renewals: 0,
                state: State::Planned,
                since: at(100),
                outcome: None,
                evidence: None,
                touched: false,
                failures: 0,
                retry_at: None,
                error: None,
                appliance: None,
                effect: None,
                unproven: false,
            }))
        }
        Operation::Renew { id, ttl } => {
            let one = existing(id)?;
            Ok(told(Mitigation { deadline: Deadline::after(&at(100), ttl), renewals: one.renewals + 1, ..one }))
        }
        Operation::Withdraw { id, .. } => {
            let one = existing(id)?;
            Ok(told(Mitigation { state: State::Withdrawing, outcome: Some(End::Withdrawn), ..one }))
        }
        Operation::KillSwitch { on, reason } => {
            let state = KillSwitch { engaged: on, by: actor.clone(), at: at(100), reason };
            let withdrawing = records.0.mitigations.len() as u64;
            Ok((Outcome::KillSwitch { state: state.clone(), withdrawing }, vec![Write::PutKillSwitch(state)]))
        }
        Operation::Decide { incident, .. } => Err(Refused::NotFound { what: "incident", name: incident.to_string() }),
        Operation::Reload { .. } => {
            let changes = vec!["zone web changed".to_owned()];
            Ok((Outcome::Reloaded { changes, hash: "00".into(), confirm_by: Some(at(400)) }, Vec::new()))
        }
        Operation::Confirm => Err(Refused::Precondition("no configuration is on trial".into())),
    }
}
