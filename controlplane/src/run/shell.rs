//! The loop that owns the core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use levee_api::config::{Announcer, AnnouncerKind, ConfigError};
use levee_api::filter::Target;
use levee_api::grpc::socket::Listener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::carry_out::Ways;
use super::legitimate::Legitimate;
use super::session::{Policy as DataplanePolicy, Session, Wish, together};
use super::sessions;
use crate::actor::Actor;
use crate::bgp::bmp::Totals;
use crate::bgp::speaker::{PeerView, Speaker, Standing};
use crate::clock::Now;
use crate::configuration::{InForce, Plan, ReloadError};
use crate::core::{Asked, Command, Core, Input, Journal, Policy, Step};
use crate::dataplane::Dataplane;
use crate::driver::{self, Driver, DriverName, Embedded, Guard, OwnerTag};
use crate::event_file::EventFile;
use crate::guardrail::Guards;
use crate::incident::{Incident, TimelineEntry};
use crate::kill_switch::KillSwitchFiles;
use crate::ledger::{IncidentId, Mitigation, State};
use crate::machine;
use crate::notify;
use crate::notify::ChannelView;
use crate::runbook::Runbooks;
use crate::server::link::{
    self, ApprovalView, Ask, Change, DriverView, End, Knowledge, Operation, Outcome, Refused, StageView,
};
use crate::server::{About, CallCounters, CaptureFolder, metrics};
use crate::store::{KillSwitch, SqliteStore, Store, StoreError, take_if_due};
use crate::system_clock::SystemClock;

/// How often time alone is an input.
const TICK: Duration = Duration::from_millis(100);
/// How often the store is put in order.
const MAINTAIN_EVERY: Duration = Duration::from_secs(600);
/// Inputs of the session that wait for the loop: beyond them the dataplane waits.
const WAITING: usize = 4_096;
/// Steps that follow from one another at once, at most: the rest comes with the next tick.
const FOLLOWING: usize = 16;

/// How long the dataplane may take to begin a capture.
const CAPTURE_WITHIN: Duration = Duration::from_secs(5);

/// What the loop is made of.
pub(super) struct Parts {
    pub(super) path: PathBuf,
    pub(super) in_force: InForce,
    pub(super) store: SqliteStore,
    /// What the store has lost before this start.
    pub(super) loss: Option<String>,
    pub(super) events: EventFile,
    pub(super) clock: SystemClock,
}

struct Shell {
    core: Core,
    journal: Journal,
    store: SqliteStore,
    /// Told until the next start: what it left open is for people to look after.
    loss: Option<String>,
    in_force: InForce,
    clock: SystemClock,
    ways: Ways,
    speaker: Speaker,
    wishes: mpsc::Sender<Wish>,
    policy: watch::Sender<DataplanePolicy>,
    answers: mpsc::UnboundedSender<Input>,
    end: End,
    /// Something reads the file, elsewhere.
    reading: bool,
    /// Who waits to have it read afterwards.
    to_read: VecDeque<Reading>,
    read: mpsc::UnboundedSender<(Reading, Result<Plan, ConfigError>)>,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Outcome, Refused>>>,
    tickets: u64,
    kill_switch: KillSwitchFiles,
    /// Which of its files was there when it was last looked for; none before the first look.
    kill_switch_file: Option<Option<PathBuf>>,
}

/// Why the file is read.
enum Reading {
    /// A signal.
    Signal,
    /// Somebody has asked.
    Asked { asked: Box<Asked>, confirm_within: Option<Duration> },
}

/// Requests to read the file that wait for their turn, at most.
const READINGS: usize = 8;

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    kill_switch: Signal,
}

/// What a signal means.
enum Meaning {
    Stop,
    Reload,
    KillSwitch,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            kill_switch: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Meaning {
        tokio::select! {
            _ = self.terminate.recv() => Meaning::Stop,
            _ = self.interrupt.recv() => Meaning::Stop,
            _ = self.hangup.recv() => Meaning::Reload,
            _ = self.kill_switch.recv() => Meaning::KillSwitch,
        }
    }
}

/// Runs until told to stop.
pub(super) async fn run(parts: Parts) -> Result<(), String> {
    let mut signals = Signals::new().map_err(|error| format!("cannot receive signals: {error}"))?;
    let Parts { path, in_force, mut store, loss, events, clock } = parts;
    let contents = store.load().map_err(|error| error.to_string())?;
    let is_a_copy = contents.restored;
    let (answers, mut answered) = mpsc::unbounded_channel();
    let (handle, end) = link::connect(Arc::new(in_force.config().clone()));
    let name = &in_force.config().appliance.name;
    let live = contents.mitigations.values().filter(|entry| !entry.has_ended());
    let former = Former::of(live.map(|entry| (entry.tag(name), entry.driver.clone())));
    let speaker = Speaker::default();
    let (policy, ways) = configured(&in_force, &former, answers.clone(), end.dataplane.subscribe(), &speaker);
    let now = clock.now();
    let core = Core::load(policy.clone(), contents, &now);
    let (read, mut plans) = mpsc::unbounded_channel();
    let (inputs, mut told) = mpsc::channel(WAITING);
    let (wishes, wished) = mpsc::channel(16);
    let monitor = core.kill_switch_is_engaged();
    let (upload, uploads) = watch::channel(for_dataplane(&policy, monitor));
    let position = core.position();
    let session = Session {
        policy: uploads,
        wishes: wished,
        inputs,
        dataplane: end.dataplane.clone(),
        events,
        position: (position.boot_id.clone(), position.sequence),
        committed: None,
        refused: None,
        emptied: None,
    };
    let session = tokio::spawn(session.run());
    let servers = serve(&policy, handle, &path, &now).await?;
    let kill_switch = KillSwitchFiles::new(in_force.config());
    let mut shell = Shell {
        core,
        journal: Journal::default(),
        store,
        loss,
        in_force,
        clock,
        ways,
        speaker,
        wishes,
        policy: upload,
        answers,
        end,
        reading: false,
        to_read: VecDeque::new(),
        read,
        waiting: BTreeMap::new(),
        tickets: 0,
        kill_switch,
        kill_switch_file: None,
    };
    // Before anything is begun.
    shell.look_for_kill_switch();
    // The file may have changed while nothing ran: what it forbids now ends, and runbooks go on with the stages that they have.
    shell.step(Input::Configured(Box::new(policy)));
    // What a copy says may have been withdrawn since it was made: it is asked for when its turn comes.
    if !is_a_copy {
        shell.restore();
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut maintain = tokio::time::interval(MAINTAIN_EVERY);
    loop {
        tokio::select! {
            meaning = signals.next() => match meaning {
                Meaning::Stop => break,
                // A reload for another reason must not confirm what is on trial.
                Meaning::Reload if shell.in_force.confirm_by().is_some() => on_trial(),
                Meaning::Reload => shell.begin_reading(Reading::Signal),
                Meaning::KillSwitch => {
                    shell.step(Input::KillSwitch { engage: true, by: Actor::levee("signal SIGUSR1") });
                }
            },
            Some(input) = told.recv() => {
                for input in together(input, &mut told) {
                    shell.step(input);
                }
            }
            Some(input) = answered.recv() => shell.step(input),
            Some((reading, plan)) = plans.recv() => shell.was_read(reading, plan),
            Some(ask) = shell.end.asks.recv() => shell.asked(ask),
            _ = tick.tick() => shell.tick(),
            _ = maintain.tick() => {
                shell.store.maintain();
                shell.look_at_machine();
                back_up(shell.store.folder().to_owned());
            }
        }
    }
    tracing::info!("stopping; the dataplane keeps filtering, and the ledger says what is to be ended later");
    session.abort();
    servers.iter().for_each(JoinHandle::abort);
    // What is announced lives with this process: peers are told rather than left to notice.
    shell.speaker.stop().await;
    Ok(())
}

fn on_trial() {
    tracing::warn!("a configuration is on trial: confirm it (leveectl config confirm) or wait until it ends");
}

/// Takes the copy of the day if it is due, on a thread of its own: of a long store that takes a while.
fn back_up(folder: PathBuf) {
    tokio::task::spawn_blocking(move || match take_if_due(&folder, SystemTime::now()) {
        Ok(Some(copy)) => tracing::info!("the store was copied to {}", copy.display()),
        Ok(None) => {}
        Err(error) => tracing::error!("the copy of the store that is due was not taken: {error}"),
    });
}

/// The API and the metrics.
async fn serve(
    policy: &Policy,
    handle: link::Handle,
    path: &std::path::Path,
    now: &Now,
) -> Result<Vec<JoinHandle<()>>, String> {
    let config = &policy.config;
    let calls = Arc::new(CallCounters::default());
    let about = About {
        config: path.to_owned(),
        started: now.wall,
        captures: CaptureFolder::below(&config.appliance.state_dir),
    };
    let mut servers = Vec::new();
    if let Some(address) = config.controlplane.metrics {
        let listener = metrics::bind(address).await.map_err(|error| error.to_string())?;
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 with a fraction, as Prometheus has them")]
        let started = now.wall.0 as f64 / 1e9;
        let sources = metrics::Sources { handle: handle.clone(), calls: Arc::clone(&calls), started };
        servers.push(tokio::spawn(metrics::serve(listener, sources)));
    }
    match Listener::bind(&config.controlplane.socket) {
        Ok(listener) => servers.push(tokio::spawn(async move {
            if let Err(error) = crate::server::serve(&listener, handle, about, calls).await {
                tracing::error!("the API has ended: {error}");
            }
        })),
        // Whoever cannot look can still be defended.
        Err(error) => tracing::error!("there is no API: {error}"),
    }
    Ok(servers)
}

/// What the dataplane is given of a policy.
fn for_dataplane(policy: &Policy, monitor: bool) -> DataplanePolicy {
    let protected: BTreeSet<_> = policy.guards.protected().iter().map(|protected| protected.prefix).collect();
    DataplanePolicy { config: Arc::clone(&policy.config), protected: protected.into_iter().collect(), monitor }
}

/// What the ledger has not ended yet, which an earlier configuration may have begun.
struct Former {
    tags: BTreeSet<OwnerTag>,
    drivers: BTreeSet<DriverName>,
}

impl Former {
    fn of(live: impl Iterator<Item = (OwnerTag, DriverName)>) -> Self {
        let (tags, drivers) = live.unzip();
        Self { tags, drivers }
    }
}

/// Drivers of announcers that the configuration has no more, or has without a peer, and that the ledger still speaks of: they
/// begin nothing, and end what is left. Their sessions have ended with the tables of their peers.
fn leaving(former: &Former, drivers: &[Arc<dyn Driver>], speaker: &Speaker, guard: &Guard) -> Vec<Arc<dyn Driver>> {
    let gone = former.drivers.iter().filter(|name| drivers.iter().all(|driver| driver.name() != *name));
    let driver = |name: &DriverName| -> Arc<dyn Driver> {
        let announcer = Announcer {
            name: name.0.clone(),
            kind: AnnouncerKind::Embedded,
            capabilities: Vec::new(),
            neighbors: Vec::new(),
            next_hops: Vec::new(),
            span: 0..0,
        };
        Arc::new(Embedded::new(&announcer, speaker.clone(), Arc::clone(guard)))
    };
    gone.map(driver).collect()
}

/// What a configuration makes of drivers, notifiers and guardrails.
fn configured(
    in_force: &InForce,
    former: &Former,
    answers: mpsc::UnboundedSender<Input>,
    dataplane: watch::Receiver<Option<Dataplane>>,
    speaker: &Speaker,
) -> (Policy, Ways) {
    let config = Arc::new(in_force.config().clone());
    let runbooks = Runbooks::checked(&config);
    let guards = Arc::new(Guards::new(&config, machine::depends_on()));
    let checked = Arc::clone(&guards);
    let guard: Guard = Arc::new(move |spec, remaining| {
        checked.check_spec(spec)?;
        checked.check_ttl(remaining)
    });
    let mut drivers = driver::configured(&config, &guard, &former.tags, Some(speaker));
    drivers.extend(leaving(former, &drivers, speaker, &guard));
    let capabilities = drivers.iter().map(|driver| (driver.name().clone(), driver.capabilities())).collect();
    let notifiers = notify::configured(&config)
        .into_iter()
        .filter_map(|notifier| notifier.inspect_err(|error| tracing::error!("{error}; nothing is sent there")).ok());
    let legitimate = Legitimate { dataplane, config: Arc::clone(&config), guards: Arc::clone(&guards) };
    let ways = Ways::new(drivers, notifiers.collect(), answers, &legitimate);
    (Policy { config, runbooks: Arc::new(runbooks), guards, drivers: capabilities }, ways)
}

impl Shell {
    /// One input, and what follows from it at once: durable first, then done.
    fn step(&mut self, input: Input) {
        let mut inputs = vec![input];
        for _ in 0..FOLLOWING {
            let mut following = Vec::new();
            for input in std::mem::take(&mut inputs) {
                let now = self.clock.now();
                let was_stopped = self.core.kill_switch_is_engaged();
                let step = self.core.step(&now, input);
                if self.core.kill_switch_is_engaged() && !was_stopped {
                    // Before the disk is waited for: what is called off is only asked for again.
                    self.ways.call_off();
                }
                following.extend(self.carry_out(step, &now));
            }
            if following.is_empty() {
                return;
            }
            inputs = following;
        }
        for input in inputs {
            let _ = self.answers.send(input);
        }
    }

    fn carry_out(&mut self, step: Step, now: &Now) -> Vec<Input> {
        let durable = self.journal.commit(&mut self.store, step, now);
        self.end.tell(&durable.stored);
        for reply in durable.replies {
            self.reply(reply.ticket, reply.result);
        }
        for command in durable.commands {
            match command {
                Command::Order(order) => self.ways.order(order),
                Command::Send(message) => self.ways.send(*message),
                Command::Capture { incident, stage, change, target, duration } => {
                    self.capture(incident, stage, change, target, duration);
                }
                // A wish that waits already is as good.
                Command::TakeSnapshot => drop(self.wishes.try_send(Wish::Snapshot)),
                Command::Upload => self.upload(),
                Command::Log(text) => tracing::warn!("{text}"),
            }
        }
        durable.inputs
    }

    /// What was in force when the process before this one ended, and is still wanted, is in force from the beginning, whoever is
    /// slow to answer: routers that have kept it see no gap.
    fn restore(&self) {
        let (now, appliance) = (self.clock.now(), &self.in_force.config().appliance.name);
        let may_be = !self.core.kill_switch_is_engaged();
        // What was only being begun has guardrails to pass first, and what a copy says has to be looked for.
        let was_in_force = |entry: &&Mitigation| may_be && entry.state == State::Active && !entry.unproven;
        let wanted = self.core.ledger().live().filter(was_in_force);
        for entry in wanted.filter(|entry| !entry.remaining(&now).is_zero()) {
            self.ways.restore(&entry.driver, &entry.spec, &entry.tag(appliance), entry.remaining(&now));
        }
        self.speaker.is_restored();
    }

    /// Asks the dataplane beside the loop.
    fn capture(&self, incident: IncidentId, stage: String, change: u32, target: Target, duration: Duration) {
        let (dataplane, answers) = (self.end.dataplane.borrow().clone(), self.answers.clone());
        tokio::spawn(async move {
            let asked = async {
                let mut dataplane = dataplane.ok_or_else(|| "the dataplane does not answer".to_owned())?;
                if !dataplane.can("capture") {
                    return Err("this dataplane is older and captures only by itself".to_owned());
                }
                dataplane.capture(&target, duration).await.map_err(|error| error.to_string())
            };
            let late = || Err(format!("the dataplane did not answer within {CAPTURE_WITHIN:?}"));
            let result = tokio::time::timeout(CAPTURE_WITHIN, asked).await.unwrap_or_else(|_| late());
            // The loop has ended: the stage is tried again after the next start.
            let _ = answers.send(Input::Captured { incident, stage, change, result });
        });
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        if let Some(over) = self.in_force.expire(&now) {
            tracing::warn!(hash = %over.hash, "the configuration was not confirmed: what was in force before it is again");
            self.configure();
        }
        self.look_for_kill_switch();
        self.step(Input::Tick);
    }

    /// A file that stops the dataplane stops us, too.
    fn look_for_kill_switch(&mut self) {
        let Some(found) = self.kill_switch.look() else { return };
        if self.kill_switch_file.as_ref() != Some(&found) {
            self.step(Input::KillSwitchFile(found.as_ref().map(|path| path.display().to_string())));
            self.kill_switch_file = Some(found);
        }
    }

    /// Addresses come and go while we run: what this machine depends on now is protected from now on.
    fn look_at_machine(&mut self) {
        let now = Guards::new(self.in_force.config(), machine::depends_on());
        if now.protected() != self.core.policy().guards.protected() {
            tracing::info!("addresses of this machine have changed, and with them what is protected");
            self.configure();
        }
    }

    fn upload(&self) {
        self.policy.send_replace(for_dataplane(self.core.policy(), self.core.kill_switch_is_engaged()));
    }

    fn configure(&mut self) {
        let drivers = self.core.ledger().live().map(|entry| entry.driver.clone()).collect();
        let former = Former { tags: self.core.ledger().tags(), drivers };
        let dataplane = self.end.dataplane.subscribe();
        let (policy, ways) = configured(&self.in_force, &former, self.answers.clone(), dataplane, &self.speaker);
        // Their drivers and their guardrails are those of before. What they are to end they still end.
        self.ways.call_off();
        self.ways = ways;
        self.kill_switch = KillSwitchFiles::new(self.in_force.config());
        self.end.config.send_replace(Arc::clone(&policy.config));
        self.step(Input::Configured(Box::new(policy)));
        self.upload();
    }

    /// Reads the file and compares it beside the loop, which takes up to a second: everything else goes on.
    fn begin_reading(&mut self, reading: Reading) {
        if self.reading {
            if self.to_read.len() < READINGS {
                self.to_read.push_back(reading);
            } else if let Reading::Asked { asked, .. } = reading {
                let text = "the configuration is being read, and others wait for that: ask again".to_owned();
                self.reply(asked.ticket, Err(Refused::Unavailable(text)));
            }
            return;
        }
        self.reading = true;
        let (path, plan, read) = (self.in_force.path().to_owned(), self.in_force.planner(), self.read.clone());
        tokio::spawn(async move {
            let failed = |reason| ConfigError::Read { path, reason };
            let plan = tokio::task::spawn_blocking(plan).await;
            let plan = plan.unwrap_or_else(|error| Err(failed(io::Error::other(error))));
            // The loop has ended.
            let _ = read.send((reading, plan));
        });
    }

    fn was_read(&mut self, reading: Reading, plan: Result<Plan, ConfigError>) {
        self.reading = false;
        if plan.as_ref().is_ok_and(|plan| self.in_force.is_outdated(plan)) {
            // A trial has ended meanwhile.
            return self.begin_reading(reading);
        }
        self.carry_on(reading, plan);
        if let Some(next) = self.to_read.pop_front() {
            self.begin_reading(next);
        }
    }

    /// With what the file says.
    fn carry_on(&mut self, reading: Reading, plan: Result<Plan, ConfigError>) {
        let known = match &reading {
            Reading::Asked { asked, .. } => self.core.before(asked),
            Reading::Signal => Ok(None),
        };
        match reading {
            // The same request came twice, or the store takes nothing any more.
            Reading::Asked { asked, .. } if !matches!(known, Ok(None)) => {
                if let Some(answer) = known.transpose() {
                    self.reply(asked.ticket, answer);
                }
            }
            Reading::Signal if self.in_force.confirm_by().is_some() => on_trial(),
            Reading::Signal => drop(self.reload(plan, None)),
            Reading::Asked { asked, confirm_within } if asked.validate_only => {
                let planned = self.in_force.judge(plan, confirm_within).map(|plan| Outcome::Reloaded {
                    changes: plan.changes.iter().map(ToString::to_string).collect(),
                    hash: plan.hash.to_string(),
                    confirm_by: None,
                });
                let refused = |error| Refused::Precondition(format!("{error}: nothing would change"));
                self.reply(asked.ticket, planned.map_err(refused));
            }
            Reading::Asked { asked, confirm_within } => match self.reload(plan, confirm_within) {
                Ok(outcome) => self.step(Input::Done(asked, Box::new(outcome))),
                Err(refused) => self.reply(asked.ticket, Err(refused)),
            },
        }
    }

    fn reload(
        &mut self,
        plan: Result<Plan, ConfigError>,
        confirm_within: Option<Duration>,
    ) -> Result<Outcome, Refused> {
        let before = self.in_force.config().hash;
        match self.in_force.take(plan, confirm_within, &self.clock.now()) {
            Ok(reloaded) => {
                if reloaded.hash == before {
                    tracing::info!("the file has not changed");
                } else {
                    super::warn_of(self.in_force.config());
                    tracing::info!(hash = %reloaded.hash, "the file has been read again");
                    self.configure();
                }
                let changes = reloaded.changes.iter().map(ToString::to_string).collect();
                let confirm_by = reloaded.confirm_by.map(|deadline| self.at(deadline));
                Ok(Outcome::Reloaded { changes, hash: reloaded.hash.to_string(), confirm_by })
            }
            Err(error) => {
                let why = if matches!(error, ReloadError::Config(_)) { "is not valid" } else { "cannot be taken" };
                tracing::error!("the file has changed and {why}, the policy before stays: {error}");
                Err(Refused::Precondition(format!("{error}: nothing has changed")))
            }
        }
    }

    fn at(&self, deadline: crate::clock::Deadline) -> Now {
        let now = self.clock.now();
        now.after(deadline.remaining(&now))
    }

    fn asked(&mut self, ask: Ask) {
        let change = match ask {
            Ask::Query(question) => {
                question(&*self);
                return;
            }
            Ask::Change(change) => *change,
        };
        let Change { actor, request_id, digest, validate_only, operation, reply } = change;
        self.tickets = self.tickets.saturating_add(1);
        let asked = Asked { ticket: self.tickets, actor, request_id, digest, validate_only, operation };
        self.waiting.insert(asked.ticket, reply);
        if !matches!(asked.operation, Operation::Reload { .. } | Operation::Confirm) {
            self.step(Input::Change(Box::new(asked)));
            return;
        }
        // The file is read here, and the answer is kept by the core: asked again, nothing is read and nothing is confirmed.
        let result = match self.core.before(&asked) {
            Ok(None) => match asked.operation {
                Operation::Reload { confirm_within } => {
                    return self.begin_reading(Reading::Asked { asked: Box::new(asked), confirm_within });
                }
                _ => self.confirm(validate_only),
            },
            Ok(Some(known)) => {
                self.reply(asked.ticket, Ok(known));
                return;
            }
            Err(refused) => Err(refused),
        };
        match result {
            Ok(outcome) if !validate_only => self.step(Input::Done(Box::new(asked), Box::new(outcome))),
            result => self.reply(asked.ticket, result),
        }
    }

    fn confirm(&mut self, validate_only: bool) -> Result<Outcome, Refused> {
        if validate_only && self.in_force.confirm_by().is_some() {
            return Ok(Outcome::Confirmed { hash: self.in_force.config().hash.to_string() });
        }
        match self.in_force.confirm() {
            Ok(hash) => Ok(Outcome::Confirmed { hash: hash.to_string() }),
            Err(error @ ReloadError::Record { .. }) => Err(Refused::Unavailable(error.to_string())),
            Err(error) => Err(Refused::Precondition(error.to_string())),
        }
    }

    fn reply(&mut self, ticket: u64, result: Result<Outcome, Refused>) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            // Who has hung up asks again with the same id.
            let _ = waiting.send(result);
        }
    }
}

impl Knowledge for Shell {
    fn now(&self) -> Now {
        self.clock.now()
    }

    fn incidents(&self) -> Box<dyn DoubleEndedIterator<Item = &Incident> + '_> {
        Box::new(self.core.all_incidents())
    }

    fn incident(&self, id: IncidentId) -> Option<&Incident> {
        self.core.incidents().get(id)
    }

    fn timeline(&self, id: IncidentId) -> Result<Vec<TimelineEntry>, StoreError> {
        match self.core.incidents().get(id) {
            Some(incident) if !incident.is_open() => self.store.timeline(id),
            _ => Ok(self.core.incidents().timeline(id).to_vec()),
        }
    }

    fn report(&self, id: IncidentId) -> Option<String> {
        self.core.report(id, &Knowledge::timeline(self, id).ok()?)
    }

    fn stages(&self, id: IncidentId) -> Vec<StageView> {
        self.core.stages(id)
    }

    fn mitigations(&self) -> Box<dyn DoubleEndedIterator<Item = &Mitigation> + '_> {
        Box::new(self.core.ledger().iter())
    }

    fn measures(&self, of: IncidentId) -> Box<dyn Iterator<Item = &Mitigation> + '_> {
        Box::new(self.core.ledger().of_incident(of))
    }

    fn approvals(&self) -> Vec<ApprovalView> {
        self.core.approvals()
    }

    fn waits(&self, incident: IncidentId) -> bool {
        self.core.waits(incident)
    }

    fn kill_switch(&self) -> Option<&KillSwitch> {
        self.core.kill_switch()
    }

    fn troubles(&self) -> Vec<String> {
        let sessions = sessions::down(&self.speaker.peers(), self.speaker.clock());
        let told = self.loss.clone().into_iter().chain(self.in_force.trouble());
        told.chain(self.core.troubles()).chain(sessions).collect()
    }

    fn confirm_by(&self) -> Option<Now> {
        self.in_force.confirm_by().map(|deadline| self.at(deadline))
    }

    fn drivers(&self) -> Vec<DriverView> {
        self.core.drivers()
    }

    fn channels(&self) -> Vec<ChannelView> {
        self.core.channels()
    }

    fn bgp_peers(&self) -> Vec<PeerView> {
        self.speaker.peers()
    }

    fn bmp(&self) -> Option<Totals> {
        self.speaker.monitoring()
    }

    fn bgp_routes(&self) -> Vec<(String, Standing)> {
        self.speaker.routes()
    }
}
