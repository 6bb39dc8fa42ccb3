//! The tick thread: owns the engine, looks at the counters every 10 ms, answers what the service asks in between, and never
//! waits for either.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use levee_api::address_set::AddressSet;
use levee_api::config::ContentHash;
use levee_api::filter::{Filter, Origin};
use levee_api::grpc::FilterRequest;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::time::Timestamp;
use levee_api::zone::{Mode, Zone};
use levee_engine::detect::detector::TICK;
use levee_engine::detect::event::What;
use levee_engine::detect::snapshot::{self, Draft};
use levee_engine::engine::Engine;
use levee_engine::target::plan::Plan;
use levee_engine::verdict::Reason;

use crate::analysis::Analysis;
use crate::capture_writer::CaptureWriter;
use crate::change::{Change, Done};
use crate::dpdk::clock::Clock;
use crate::dpdk::port::PortCounters;
use crate::in_force::{self, InForce};
use crate::kill_switch::{self, Watched};
use crate::service::{Inlet, NotInstalled, Outlet, Policy, Refusal, Request, Snapshot};
use crate::source_files::{self, SourceFiles};
use crate::start::since_1970;
use crate::times::{Quantiles, WorkerTimes};
use crate::wires::Wires;
use crate::worker::PathCount;
use crate::writer::Writer;

/// How often what was learned is written to disk.
const BASELINE_EVERY: Duration = Duration::from_secs(60);
/// Changed filters are written at most this often.
const IN_FORCE_EVERY: Duration = Duration::from_millis(500);
/// Filters that the reflex renews without a word are written again after this long, well before those in the file end.
const RENEWED_EVERY: Duration = Duration::from_secs(10);
/// Filters that are listed for the file in one tick.
const FILTERS_AT_ONCE: usize = 2048;
/// Why nothing is installed.
const STOPPED: &str = "the kill switch is engaged: no filter is installed until it is released";

/// Everything the thread needs.
pub struct Tick {
    /// Decides.
    pub engine: Engine,
    /// The time that workers use too.
    pub clock: Clock,
    /// What the service asks.
    pub inlet: Inlet,
    /// What the service is told.
    pub outlet: Outlet,
    /// For counters.
    pub wires: Arc<Wires>,
    /// The times of each worker.
    pub times: Vec<Arc<WorkerTimes>>,
    /// Extracts signatures.
    pub analysis: Analysis,
    /// Writes files.
    pub writer: Writer,
    /// Writes captures.
    pub captures: CaptureWriter,
    /// Reads the files of address sets.
    pub sources: SourceFiles,
    /// What the configuration says of them.
    pub address_sets: Vec<AddressSet>,
    /// The dataplane's state directory.
    pub state: PathBuf,
    /// The configuration that was read.
    pub config: ContentHash,
    /// The ceiling that it sets.
    pub ceiling: Mode,
    /// The policy that was committed. While the kill switch is engaged, zones have not the modes that it says.
    pub policy: Policy,
    /// Ends everything that is done to packets.
    pub kill_switch: Watched,
    /// Whether everything has been ended because of it.
    pub stopped: bool,
    /// What is being changed.
    pub change: Option<Change>,
    /// What the service asks next.
    pub request: Option<Request>,
}

/// The filters in force as of a time, listed a part in each tick: of many it is more than a tick has time for.
struct Listing {
    now: Timestamp,
    at: SystemTime,
    filters: Vec<FilterRequest>,
}

impl Listing {
    fn begin(now: Timestamp) -> Self {
        Self { now, at: SystemTime::now(), filters: Vec::new() }
    }
}

/// The running thread. Told to stop and waited for when dropped; what was learned is written then.
#[derive(Debug)]
pub struct Ticking {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the tick thread had panicked");
        }
    }
}

impl Tick {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(self) -> io::Result<Ticking> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("levee-tick".to_owned()).spawn(move || self.run(&stopped))?;
        Ok(Ticking { stop, thread: Some(thread) })
    }

    fn run(mut self, stop: &AtomicBool) {
        let bell = self.inlet.bell();
        bell.hear();
        let mut next = self.clock.now() + TICK;
        let (mut baseline_at, mut in_force_at) = (next, next);
        let (mut baseline, mut in_force): (Option<Draft>, Option<Listing>) = (None, None);
        let mut in_force_changed = false;
        while !stop.load(Ordering::Relaxed) {
            let now = self.clock.now();
            if now < next {
                if let Some(outcome) = self.analysis.take() {
                    // A signature takes effect as soon as it is found.
                    self.engine.complete(outcome, now);
                } else if self.has_work() {
                    in_force_changed |= self.work(now);
                } else if !self.engine.catch_up(now) {
                    bell.wait(next.since(self.clock.now()));
                }
                continue;
            }
            // A thread that was held up does not catch up on ticks: the counters hold everything since the last one.
            next = (next + TICK).max(now);
            self.engine.tick(now);
            if let Some(task) = self.engine.next_task(now) {
                self.analysis.give(task);
            }
            if let Some(loaded) = self.sources.take() {
                source_files::tell(&self.address_sets, &loaded);
                self.engine.replace_sources(loaded.sets, self.address_sets.clone());
            }
            in_force_changed |= self.obey_kill_switch(now);
            // Something is done also when ticks leave no time between them.
            in_force_changed |= self.work(now) | self.tell(now);
            if self.change.is_none()
                && in_force.is_none()
                && self.is_in_force_due(in_force_changed, now.since(in_force_at))
            {
                in_force = Some(Listing::begin(now));
                (in_force_changed, in_force_at) = (false, now);
            }
            if in_force.as_mut().is_some_and(|listing| self.list_in_force(listing, FILTERS_AT_ONCE))
                && let Some(listing) = in_force.take()
            {
                self.write_in_force(listing);
            }
            if baseline.is_none() && now.since(baseline_at) >= BASELINE_EVERY {
                self.engine.detector.set_wall_clock(since_1970(), now);
                baseline = Some(Draft::begin(&self.engine.detector));
                baseline_at = now;
            }
            if baseline.as_mut().is_some_and(|draft| draft.go_on(&self.engine.detector))
                && let Some(draft) = baseline.take()
            {
                self.writer.save_baseline(self.state.clone(), || draft.finish());
            }
        }
        // Whole, also in the file.
        while self.change.is_some() {
            self.work(self.clock.now());
        }
        for (set, packets) in self.address_sets.iter().zip(self.engine.source_hits()) {
            tracing::info!("address set {:?}: {packets} packets came from its addresses", set.name);
        }
        let mut listing = Listing::begin(self.clock.now());
        self.list_in_force(&mut listing, usize::MAX);
        self.write_in_force(listing);
        let learned = snapshot::write(&self.engine.detector);
        self.writer.save_baseline(self.state.clone(), || learned);
    }

    /// Hands the detector's events to the service; true when filters changed.
    fn tell(&mut self, now: Timestamp) -> bool {
        let mut filters = false;
        for event in self.engine.detector.take_events() {
            filters |= matches!(event.what, What::FilterInstalled { .. } | What::FilterRemoved { .. });
            self.captures.tell(&event);
            self.outlet.tell(&event, now);
        }
        filters
    }

    fn is_in_force_due(&self, changed: bool, since: Duration) -> bool {
        let renewed = || self.engine.detector.filters().any(|(filter, _)| filter.origin == Origin::Reflex);
        since >= IN_FORCE_EVERY && (changed || (since >= RENEWED_EVERY && renewed()))
    }

    /// Lists the next filters that are in force; true when those were the last. One that comes or goes meanwhile may be
    /// missing, or another: the list is due again then.
    fn list_in_force(&self, Listing { now, filters, .. }: &mut Listing, most: usize) -> bool {
        let before = filters.len();
        let next = self.engine.detector.measures.filters().skip(before).take(most);
        filters.extend(next.map(|(filter, _)| in_force::request_of(filter, *now)));
        filters.len() - before < most
    }

    fn write_in_force(&self, Listing { at, mut filters, .. }: Listing) {
        filters.retain(|request| !request.ttl.is_zero());
        let own = self.policy.generation != 0;
        let in_force = InForce {
            config: Some(self.config),
            zones: if own { self.policy.zones.clone() } else { Vec::new() },
            protected: self.policy.protected.clone(),
            filters,
        };
        self.writer.replace(in_force::path(&self.state), move || in_force.to_bytes(at));
    }

    /// Ends everything when the kill switch is engaged, and goes back to the policy when it is released; true when
    /// that changes what is in force.
    fn obey_kill_switch(&mut self, now: Timestamp) -> bool {
        let engaged = self.kill_switch.is_engaged();
        if engaged == self.stopped || self.change.is_some() {
            return false;
        }
        self.stopped = engaged;
        // Modes first: from here on nothing is dropped, however long the filters take.
        self.engine.set_ceiling(if engaged { Mode::Monitor } else { self.ceiling });
        match self.engine.plan(&self.zones_in_force(&self.policy), &self.policy.protected) {
            Ok(Some(plan)) => self.engine.replan(plan, now),
            Ok(None) => {}
            // The same zones were laid out before.
            Err(error) => tracing::error!("the modes of zones stay as they are: {error}"),
        }
        if engaged {
            self.engine.detector.measures.withdraw_own();
            let ending = self.engine.detector.measures.external().map(|filter| filter.id).collect();
            self.begin(ending, Vec::new(), None, Done::Stopped, now);
        }
        true
    }

    /// The zones of a policy, in the modes that the kill switch leaves them.
    fn zones_in_force(&self, policy: &Policy) -> Vec<Zone> {
        if self.stopped { kill_switch::lowered(&policy.zones) } else { policy.zones.clone() }
    }

    fn has_work(&mut self) -> bool {
        if self.change.is_none() && self.request.is_none() {
            self.request = self.inlet.take();
        }
        self.change.is_some() || self.request.is_some()
    }

    /// Goes on with the change under way, or else answers the next request; true when what is in force changed.
    fn work(&mut self, now: Timestamp) -> bool {
        if !self.has_work() {
            return false;
        }
        if let Some(change) = &mut self.change {
            return change.go_on(&mut self.engine, now) && self.end_change(now);
        }
        self.request.take().is_some_and(|request| self.answer(request, now))
    }

    /// Does what was asked, or begins to; true when what is in force changed. An answer that nobody waits for any more is
    /// dropped.
    fn answer(&mut self, request: Request, now: Timestamp) -> bool {
        match request {
            Request::Replace { policy, reply } if self.stopped && !policy.filters.is_empty() => {
                drop((policy, reply.send(Err(vec![STOPPED.to_owned()]))));
                false
            }
            Request::Replace { policy, reply } => {
                let plan = match self.engine.plan(&self.zones_in_force(&policy), &policy.protected) {
                    Ok(plan) => plan,
                    Err(error) => {
                        let _ = reply.send(Err(vec![error.to_string()]));
                        return false;
                    }
                };
                // What the reflex had installed before a restart is not the control plane's to end: it has its own deadline.
                let ending = self.engine.detector.measures.external();
                let ending = ending.filter(|filter| !in_force::is_from_before_restart(filter));
                let ending = ending.map(|filter| filter.id).collect();
                let installing = policy.filters.clone();
                self.begin(ending, installing, plan, Done::Replaced(policy, reply), now)
            }
            Request::Install { reply, .. } if self.stopped => {
                let _ = reply.send(Err(NotInstalled::Refused(vec![STOPPED.to_owned()])));
                false
            }
            Request::Install { filters, reply } => self.begin(Vec::new(), filters, None, Done::Installed(reply), now),
            Request::Remove { owner, mut ids, reply } => {
                ids.retain(|id| self.engine.detector.measures.is_owned(&owner, *id));
                self.begin(ids, Vec::new(), None, Done::Removed(reply), now)
            }
            Request::Renew { owner, ids, ttl, reply } => {
                let _ = reply.send(self.renew(&owner, &ids, now + ttl));
                true
            }
            Request::Snapshot { reply } => {
                // What has been found so far must not come again after the snapshot.
                let changed = self.tell(now);
                let _ = reply.send(self.snapshot(now));
                changed
            }
            Request::Counters { only_wires, reply } => {
                let _ = reply.send(if only_wires { self.wire_counters() } else { self.counters() });
                false
            }
            Request::LegitimateShare { target, filters, reply } => {
                let rules: Vec<_> = filters.iter().map(|filter| (filter.roles, &filter.rule)).collect();
                let _ = reply.send(self.engine.detector.legitimate_share(&target, &rules));
                false
            }
            Request::Capture { target, duration, reply } => {
                self.captures.ask(target, duration, reply);
                false
            }
        }
    }

    /// Begins a change, whole or not at all; true when it was so small that it is done.
    fn begin(
        &mut self,
        ending: Vec<u64>,
        installing: Vec<FilterRequest>,
        plan: Option<Arc<Plan>>,
        done: Done,
        now: Timestamp,
    ) -> bool {
        match Change::begin(&mut self.engine, ending, installing, plan, done) {
            Ok(change) => {
                self.change = Some(change);
                self.work(now)
            }
            Err((full, done)) => {
                let refusal = vec![full.to_string()];
                match done {
                    Done::Replaced(_, reply) => drop(reply.send(Err(refusal))),
                    Done::Installed(reply) => drop(reply.send(Err(NotInstalled::NoRoom(refusal)))),
                    Done::Removed(reply) => drop(reply.send(0)),
                    Done::Stopped => {}
                }
                false
            }
        }
    }

    /// A change is complete.
    fn end_change(&mut self, now: Timestamp) -> bool {
        let Some(mut change) = self.change.take() else { return false };
        let (installed, ended) = (change.result(), change.ended());
        match change.done {
            Done::Removed(reply) => drop(reply.send(ended)),
            Done::Stopped => tracing::warn!("{ended} filters of the control plane were withdrawn"),
            Done::Installed(reply) => drop(reply.send(installed.map_err(NotInstalled::NoRoom))),
            Done::Replaced(_, reply) if installed.is_err() => drop(reply.send(installed.map(drop))),
            Done::Replaced(policy, reply) => {
                self.sources.protect(policy.protected.clone());
                self.tell(now);
                self.outlet.tell_of(
                    contract::event::What::PolicyCommitted(contract::PolicyCommitted {
                        generation: policy.generation,
                        zones: u64::try_from(policy.zones.len()).unwrap_or(u64::MAX),
                        filters: u64::try_from(policy.filters.len()).unwrap_or(u64::MAX),
                    }),
                    now,
                );
                self.policy = policy;
                let _ = reply.send(Ok(()));
            }
        }
        true
    }

    fn renew(&mut self, owner: &str, ids: &[u64], deadline: Timestamp) -> Result<(), Refusal> {
        let measures = &mut self.engine.detector.measures;
        let missing = ids.iter().filter(|id| !measures.is_owned(owner, **id));
        let missing: Refusal = missing.map(|id| format!("{owner:?} has no filter {id} in force")).collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        measures.renew_external(ids, deadline);
        self.engine.catch_up(self.clock.now());
        Ok(())
    }

    fn snapshot(&self, now: Timestamp) -> Snapshot {
        let plan = self.engine.detector.plan();
        let simulated = |filter: &Filter| {
            let zone = plan.zone_named(&filter.target.zone).and_then(|zone| plan.zone(zone));
            zone.is_some_and(|zone| zone.mode == Mode::Monitor)
        };
        Snapshot {
            at: now,
            sequence: self.outlet.sequence(),
            anomalies: self.outlet.anomalies(),
            filters: self
                .engine
                .detector
                .filters()
                .map(|(filter, packets)| (filter.clone(), packets, simulated(filter)))
                .collect(),
            counters: self.counters(),
        }
    }

    /// The wires, and when their ports were read.
    fn wire_counters(&self) -> contract::CountersResponse {
        let direction = |count: &PathCount, port: Option<PortCounters>| contract::DirectionCounters {
            received: count.received,
            forwarded: count.forwarded,
            replied: count.replied,
            dropped: Reason::ALL
                .iter()
                .zip(count.dropped)
                .filter(|(_, packets)| *packets > 0)
                .map(|(reason, packets)| (reason.name().to_owned(), packets))
                .collect(),
            lost_before: port.as_ref().map(PortCounters::lost_before),
            bytes: port.as_ref().map(|port| port.received_bytes),
        };
        let wires = self.wires.iter().map(|wire| contract::WireCounters {
            wire: wire.name.clone(),
            inbound: Some(direction(&wire.inbound.read(), wire.outside.counters())),
            outbound: Some(direction(&wire.outbound.read(), wire.inside.counters())),
        });
        contract::CountersResponse { at_ns: Some(self.clock.now().0), wires: wires.collect(), ..Default::default() }
    }

    fn counters(&self) -> contract::CountersResponse {
        let (samples_lost, notices_lost) = self.engine.detector.lost();
        contract::CountersResponse {
            zones: self
                .engine
                .detector
                .zones()
                .map(|(zone, state)| contract::ZoneCounters {
                    zone: zone.name.clone(),
                    packets: state.total.packets,
                    bytes: state.total.bytes,
                    dropped: state.total.dropped,
                })
                .collect(),
            workers: (0..).zip(&self.times).filter_map(|(worker, times)| times_of(worker, times)).collect(),
            shortage: Some(contract::Shortage {
                filters_left_out: u64::try_from(self.engine.detector.measures.table.left_out_count())
                    .unwrap_or(u64::MAX),
                samples_lost,
                notices_lost,
            }),
            ..self.wire_counters()
        }
    }
}

/// The times of a worker, if it has had packets.
fn times_of(worker: u32, times: &WorkerTimes) -> Option<contract::WorkerTimes> {
    let told = |quantiles: Quantiles| {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        contract::Quantiles {
            p50_ns: nanos(quantiles.p50),
            p99_ns: nanos(quantiles.p99),
            p999_ns: nanos(quantiles.p999),
            max_ns: nanos(quantiles.max),
        }
    };
    let (burst, transit) = (times.burst.quantiles()?, times.transit.quantiles()?);
    Some(contract::WorkerTimes {
        worker,
        burst: Some(told(burst)),
        transit: Some(told(transit)),
        busy_ns: Some(times.busy_ns()),
    })
}
