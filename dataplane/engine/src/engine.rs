//! The parts put together: workers' data paths, the detector, and the tables between them.

use std::num::NonZeroU32;
use std::sync::Arc;

use levee_api::address_set::AddressSet;
use levee_api::filter::Action;
use levee_api::prefix::Prefix;
use levee_api::time::Timestamp;
use levee_api::zone::{Mode, Zone};

use crate::detect::detector::{Detector, Outcome, Task};
use crate::filter::shares::Rebalance;
use crate::filter::sources::{MAX_SETS, Sources};
use crate::filter::{FilterTable, SourceSets};
use crate::generation::Published;
use crate::isa::Isa;
use crate::link::{self, SourceHits};
use crate::pipeline::{Parts, Pipeline};
use crate::tables::{OnFailure, Tables};
use crate::target::conversation::Conversations;
use crate::target::hosts::Hosts;
use crate::target::keyed::Keyed;
use crate::target::plan::{Plan, PlanError};

/// Lists that are compiled at once: about a millisecond's work.
const LISTS_AT_ONCE: usize = 256;

/// Sizes and rules that hold from start to end.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number of workers.
    pub workers: NonZeroU32,
    /// Conversations that each worker remembers, 16 bytes each.
    pub conversations: usize,
    /// Hosts without a computed slot (IPv6) that each worker counts, about 180 bytes each.
    pub hosts: usize,
    /// Filters that can be in force.
    pub filters: u32,
    /// Secret of the keyed tables: new for every start live, fixed in replay.
    pub secret: (u64, u64),
    /// Ceiling of what may be done.
    pub ceiling: Mode,
    /// What to do with a packet that only the memory of conversations speaks against, while that has lost some.
    pub evicted: OnFailure,
    /// What to do with deeper encapsulation than is followed.
    pub too_deep: OnFailure,
    /// Slots kept for zones that come later, besides those of the zones at the start.
    pub spare_slots: usize,
    /// Only learn: nothing is ever an attack.
    pub learn_only: bool,
    /// Which instructions the data path may use.
    pub isa: Isa,
}

/// What decides, apart from the workers: ticks the detector and publishes its tables.
pub struct Engine {
    /// Detection.
    pub detector: Detector,
    published: Published<Tables>,
    rebalance: Rebalance,
    settings: Settings,
    direct_slots: usize,
    sets: Arc<SourceSets>,
    described: Vec<AddressSet>,
    sources: Arc<Sources>,
    source_hits: Vec<Arc<SourceHits>>,
    /// A table waits for the end of a change.
    withheld: bool,
}

impl Engine {
    /// Everything for these zones: the engine, and a data path for each worker.
    ///
    /// # Errors
    /// When the zones cannot be laid out.
    pub fn build(
        zones: &[Zone],
        protected: &[Prefix],
        settings: Settings,
        now: Timestamp,
    ) -> Result<(Self, Vec<Pipeline>), PlanError> {
        let plan = Arc::new(Plan::new(zones, protected)?);
        let direct_slots = plan.slots() + settings.spare_slots;
        let first_hashed = u32::try_from(direct_slots).unwrap_or(u32::MAX);
        let slots = direct_slots + Hosts::slots(settings.hosts);
        let workers = usize::try_from(settings.workers.get()).unwrap_or(1);
        let filters = usize::try_from(settings.filters).unwrap_or(0);
        let (worker_ends, detector_ends, watch) = link::connect(workers, slots, filters);
        let ends = worker_ends.iter().map(|end| (Arc::clone(&end.hits), Arc::clone(&end.shares)));
        let rebalance = Rebalance::of(ends.collect());
        let source_hits = detector_ends.iter().map(|end| Arc::clone(&end.source_hits)).collect();
        let mut published = Published::new(Tables {
            plan: Arc::clone(&plan),
            filters: FilterTable::default(),
            sources: Arc::default(),
            ceiling: settings.ceiling,
            evicted: settings.evicted,
            too_deep: settings.too_deep,
        });
        let keyed = Keyed::new(settings.secret);
        let pipelines = worker_ends
            .into_iter()
            .map(|link| {
                Pipeline::new(Parts {
                    tables: published.reader(),
                    isa: settings.isa,
                    keyed,
                    link,
                    workers: settings.workers,
                    conversations: Conversations::new(settings.conversations, keyed),
                    hosts: Hosts::new(settings.hosts, first_hashed, keyed),
                })
            })
            .collect();
        let Settings { filters, learn_only, isa, .. } = settings;
        let mut detector = Detector::new(plan, detector_ends, watch, filters, learn_only, isa, now);
        detector.set_keyed(keyed);
        let sources = Arc::default();
        let (sets, described) = Default::default();
        let mut engine = Self {
            detector,
            published,
            rebalance,
            settings,
            direct_slots,
            sets,
            described,
            sources,
            source_hits,
            withheld: false,
        };
        engine.publish(0);
        Ok((engine, pipelines))
    }

    /// Publishes all that changed besides ticks: filters of the control plane.
    pub fn settle(&mut self, now: Timestamp) {
        self.detector.tell_changes(now);
        self.publish(usize::MAX);
    }

    /// One tick: looks at what happened, and publishes new tables if the filters changed, with as many changes as a tick
    /// has time for.
    pub fn tick(&mut self, now: Timestamp) {
        self.detector.tick(now);
        let limits = self.detector.measures.filters();
        let limits =
            limits.filter(|(filter, _)| matches!(filter.action, Action::Limit { .. } | Action::Challenge { .. }));
        self.rebalance.tick(limits.map(|(_, counter)| counter));
        self.published.reclaim();
        self.publish(LISTS_AT_ONCE);
    }

    /// Publishes a part of what waits to be, in about a millisecond; true while more waits.
    pub fn catch_up(&mut self, now: Timestamp) -> bool {
        self.detector.tell_changes(now);
        self.publish(LISTS_AT_ONCE);
        self.detector.measures.table.is_behind()
    }

    /// The most urgent task, if there is one.
    pub fn next_task(&mut self, now: Timestamp) -> Option<Task> {
        self.detector.next_task(now)
    }

    /// Takes back a task that was run.
    pub fn complete(&mut self, outcome: Outcome, now: Timestamp) {
        self.detector.complete(outcome, now);
        self.publish(LISTS_AT_ONCE);
    }

    /// Lays out other zones; none: they are those in force.
    ///
    /// # Errors
    /// When they cannot be laid out.
    pub fn plan(&self, zones: &[Zone], protected: &[Prefix]) -> Result<Option<Arc<Plan>>, PlanError> {
        if self.detector.plan().zones() == zones && self.detector.plan().protected() == protected {
            return Ok(None);
        }
        let plan = Plan::new(zones, protected)?;
        if plan.slots() > self.direct_slots {
            return Err(PlanError::TooManySlots { needed: plan.slots(), available: self.direct_slots });
        }
        Ok(Some(Arc::new(plan)))
    }

    /// Puts zones in force that [`Self::plan`] has laid out.
    pub fn replan(&mut self, plan: Arc<Plan>, now: Timestamp) {
        self.detector.replan(plan, now);
        self.use_sources();
        self.publish(LISTS_AT_ONCE);
    }

    /// Puts other zones in force. The same ones again change nothing.
    ///
    /// # Errors
    /// When they cannot be laid out; then nothing changes.
    pub fn replace_zones(&mut self, zones: &[Zone], protected: &[Prefix], now: Timestamp) -> Result<(), PlanError> {
        if let Some(plan) = self.plan(zones, protected)? {
            self.replan(plan, now);
        }
        Ok(())
    }

    /// Moves the ceiling for what is done to packets of no zone; those of zones have the modes of [`Self::replan`].
    pub fn set_ceiling(&mut self, ceiling: Mode) {
        self.settings.ceiling = ceiling;
        let (plan, filters) = (Arc::clone(self.detector.plan()), self.detector.measures.table.current().clone());
        self.put(plan, filters);
    }

    /// From now on workers see no change, until [`Self::release`]: of what the reflex decides meanwhile neither.
    pub fn hold(&mut self) {
        self.detector.measures.held = true;
    }

    /// Lets workers see all changes at once.
    pub fn release(&mut self, now: Timestamp) {
        self.detector.measures.held = false;
        self.detector.tell_changes(now);
        if std::mem::take(&mut self.withheld) {
            self.put(Arc::clone(self.detector.plan()), self.detector.measures.table.current().clone());
        }
        self.publish(LISTS_AT_ONCE);
    }

    /// Puts other address sets in force: `sets` was built from `described`, in this order.
    pub fn replace_sources(&mut self, sets: Arc<SourceSets>, described: Vec<AddressSet>) {
        (self.sets, self.described) = (sets, described);
        self.use_sources();
        let plan = Arc::clone(self.detector.plan());
        let filters = self.detector.measures.table.current().clone();
        self.put(plan, filters);
    }

    /// Packets from members of each set that met it, over all workers.
    pub fn source_hits(&self) -> [u64; MAX_SETS] {
        self.source_hits.iter().fold([0; MAX_SETS], |mut sum, hits| {
            sum.iter_mut().zip(hits.read()).for_each(|(sum, hits)| *sum += hits);
            sum
        })
    }

    fn use_sources(&mut self) {
        let zones = self.detector.plan().zones();
        self.sources = Arc::new(Sources::of(Arc::clone(&self.sets), &self.described, zones));
    }

    fn publish(&mut self, most: usize) {
        let plan = Arc::clone(self.detector.plan());
        if let Some(filters) = self.detector.measures.table.advance(&plan, most) {
            self.rebalance.filters_changed();
            self.put(plan, filters);
        }
    }

    fn put(&mut self, plan: Arc<Plan>, filters: FilterTable) {
        if self.detector.measures.held {
            self.withheld = true;
            return;
        }
        self.published.publish(Tables {
            plan,
            filters,
            sources: Arc::clone(&self.sources),
            ceiling: self.settings.ceiling,
            evicted: self.settings.evicted,
            too_deep: self.settings.too_deep,
        });
    }
}
