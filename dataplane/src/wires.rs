//! The wires of the configuration: planned before DPDK is started, then attached, given memory and started.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use levee_api::config::{self, Dataplane};
use levee_engine::packet::Direction;
use thiserror::Error;

use crate::dpdk::eal::{self, Eal, Pci};
use crate::dpdk::mempool::{self, Mempool, Shape};
use crate::dpdk::port::{self, DESCRIPTORS, Port, Running, Setup, StartedPort};
use crate::dpdk::port_name::{self, PortName};
use crate::dpdk::thread::allowed_cpus;
use crate::exchange::Exchange;
use crate::worker::{Path, PathCounters, SharedCounters};

/// More workers than these are not told apart on their way to each other.
const MAX_WORKERS: u8 = 128;

/// Packet buffers of a wire for each worker: four rings full of packets (two ports, both directions), what one worker has for
/// others on both paths, and as much again for bursts, the caches of threads and what drivers hold back.
const BUFFERS: u32 = 2 * 2 * 2 * 2 * DESCRIPTORS as u32;
/// What DPDK needs besides packet buffers: rings, queues, its own tables.
const OTHER_MEMORY_MIB: u64 = 64;
/// Pools of this process so far: each has a name of its own.
static POOLS: AtomicU32 = AtomicU32::new(0);

/// What cannot be planned: the configuration contradicts itself.
#[derive(Debug, Error)]
pub enum PlanError {
    /// A process without a wire has nothing to do.
    #[error("the configuration has no wire: add [[dataplane.wire]] with name, outside and inside")]
    NoWire,
    /// A port's name.
    #[error("wire {wire:?}: {reason}")]
    Name {
        /// The wire.
        wire: String,
        /// What is wrong.
        reason: port_name::ParseError,
    },
    /// MTU and port do not fit together.
    #[error("wire {wire:?}: {reason}")]
    FrameSize {
        /// The wire.
        wire: String,
        /// What is wrong.
        reason: port_name::FrameSizeError,
    },
    /// The packet buffers alone take more than the configuration allows.
    #[error(
        "memory = \"{given} MiB\" is too little for these wires and MTUs, which need {needed} MiB: raise it under [dataplane]"
    )]
    Memory {
        /// MiB in the configuration.
        given: u64,
        /// MiB needed.
        needed: u64,
    },
}

/// Why the wires did not come up.
#[derive(Debug, Error)]
pub enum BringUpError {
    /// A port is not there.
    #[error("wire {wire:?}: {reason}")]
    Attach {
        /// The wire.
        wire: String,
        /// What is wrong.
        reason: port::AttachError,
    },
    /// A port does not start.
    #[error("wire {wire:?}: {reason}")]
    Start {
        /// The wire.
        wire: String,
        /// What is wrong.
        reason: port::StartError,
    },
    /// No memory for a wire.
    #[error("wire {wire:?}: {reason}")]
    Memory {
        /// The wire.
        wire: String,
        /// What is wrong.
        reason: mempool::CreateError,
    },
}

/// What the configuration asks for, checked as far as it can be without DPDK.
#[derive(Clone, Debug)]
pub struct Plan {
    wires: Vec<PlannedWire>,
    /// How DPDK is started.
    pub eal: eal::Options,
}

#[derive(Clone, Debug)]
struct PlannedWire {
    name: String,
    mtu: u16,
    outside: PortName,
    inside: PortName,
    shape: Shape,
}

/// Wires whose ports are there, but do not run yet: what they can do decides who works on them.
#[derive(Debug)]
pub struct Attached {
    eal: Eal,
    wires: Vec<AttachedWire>,
    workers: u8,
}

#[derive(Debug)]
struct AttachedWire {
    planned: PlannedWire,
    outside: Port,
    inside: Port,
    /// The workers that share it, or the only one that has it.
    sharing: Sharing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// Each worker has a queue of its own on both ports.
    All,
    /// One worker has the only queue.
    One(usize),
}

/// Running wires.
#[derive(Debug)]
pub struct Wires(Vec<Wire>);

/// A running wire.
#[derive(Debug)]
pub struct Wire {
    /// Its name in the configuration.
    pub name: String,
    /// The port towards the internet.
    pub outside: StartedPort,
    /// The port towards the protected network.
    pub inside: StartedPort,
    /// Fates of packets from outside to inside.
    pub inbound: SharedCounters,
    /// Fates of packets from inside to outside.
    pub outbound: SharedCounters,
    pool: Mempool,
}

impl Plan {
    /// Plans the wires of a configuration.
    pub fn of(config: &Dataplane) -> Result<Self, PlanError> {
        if config.wires.is_empty() {
            return Err(PlanError::NoWire);
        }
        let wires = config
            .wires
            .iter()
            .enumerate()
            .map(|(index, wire)| PlannedWire::of(index, wire, config.workers.len()))
            .collect::<Result<Vec<_>, _>>()?;
        let buffers: u64 = wires.iter().map(|wire| wire.shape.bytes()).sum();
        let needed = (buffers >> 20) + 1 + OTHER_MEMORY_MIB;
        let memory = match config.memory {
            config::Memory::NoHuge => eal::Memory::NoHuge { mib: needed },
            config::Memory::Hugepages { bytes } if bytes >> 20 < needed => {
                return Err(PlanError::Memory { given: bytes >> 20, needed });
            }
            config::Memory::Hugepages { bytes } => eal::Memory::Hugepages { mib: bytes >> 20 },
        };
        let addresses = wires.iter().flat_map(|wire| [&wire.outside, &wire.inside]).filter_map(|port| match port {
            PortName::Pci(address) => Some(address.clone()),
            PortName::Virtual { .. } => None,
        });
        let eal = eal::Options { memory, pci: Pci::Only(addresses.collect()), cpus: allowed_cpus() };
        Ok(Self { wires, eal })
    }
}

impl PlannedWire {
    fn of(index: usize, wire: &config::Wire, workers: usize) -> Result<Self, PlanError> {
        let port = |text: &str, number: usize| {
            let name: PortName = text.parse().map_err(|reason| PlanError::Name { wire: wire.name.clone(), reason })?;
            name.numbered(number)
                .sized(wire.mtu)
                .map_err(|reason| PlanError::FrameSize { wire: wire.name.clone(), reason })
        };
        let (outside, outside_room) = port(&wire.outside, 2 * index)?;
        let (inside, inside_room) = port(&wire.inside, 2 * index + 1)?;
        // Both ports receive into one pool, so that what one receives the other can send.
        let workers = u32::try_from(workers.clamp(1, MAX_WORKERS.into())).unwrap_or(1);
        let least = (BUFFERS * workers).max(wire.buffers.unwrap_or(0));
        // One less than a power of two fills DPDK's ring best.
        let count = least.next_power_of_two() - 1;
        let shape = Shape { count, frame_room: outside_room.max(inside_room) };
        Ok(Self { name: wire.name.clone(), mtu: wire.mtu, outside, inside, shape })
    }
}

impl Attached {
    /// Attaches all ports, and shares the wires out among `workers` workers (at least one) by what their ports can do.
    pub fn new(eal: &Eal, plan: &Plan, workers: usize) -> Result<Self, BringUpError> {
        let count = u8::try_from(workers).unwrap_or(MAX_WORKERS).clamp(1, MAX_WORKERS);
        let mut wires = Vec::new();
        for (index, planned) in plan.wires.iter().enumerate() {
            let attach = |name| {
                Port::attach(eal, name).map_err(|reason| BringUpError::Attach { wire: planned.name.clone(), reason })
            };
            let (outside, inside) = (attach(&planned.outside)?, attach(&planned.inside)?);
            let mut sharing = Sharing::All;
            for (port, name) in [(&outside, &planned.outside), (&inside, &planned.inside)] {
                let most =
                    port.most_queues().map_err(|reason| BringUpError::Start { wire: planned.name.clone(), reason })?;
                if most < u16::from(count) {
                    sharing = Sharing::One(index % usize::from(count));
                    tracing::warn!(
                        "wire {:?} runs on one queue and one worker: {name} has {most} for {count} workers",
                        planned.name,
                    );
                }
            }
            if sharing == Sharing::All && outside.numa_node() != inside.numa_node() {
                tracing::warn!("wire {:?}: its ports are on different NUMA nodes, which costs speed", planned.name);
            }
            wires.push(AttachedWire { planned: planned.clone(), outside, inside, sharing });
        }
        let mut attached = Self { eal: eal.clone(), wires, workers: count };
        attached.warn_of_unread_queues();
        if attached.wires.iter().all(|wire| wire.sharing != Sharing::All) {
            let needed = attached.wires.len().min(count.into());
            attached.workers = u8::try_from(needed).unwrap_or(count);
        }
        Ok(attached)
    }

    /// How many of the workers have something to do: the first ones.
    pub fn workers(&self) -> usize {
        self.workers.into()
    }

    /// Queues that a virtual device was told to have receive packets whether somebody reads them or not.
    fn warn_of_unread_queues(&self) {
        for wire in &self.wires {
            let read = if wire.sharing == Sharing::All { usize::from(self.workers) } else { 1 };
            for name in [&wire.planned.outside, &wire.planned.inside] {
                if name.told_queues().is_some_and(|told| told > read) {
                    tracing::warn!(
                        "wire {:?}: what arrives on other queues of {name} than the first {read} is not read: name as many \
                         workers as queues under [dataplane]",
                        wire.planned.name
                    );
                }
            }
        }
    }

    /// Starts all ports. Each worker gets its paths, in the order of the wires, inbound before outbound.
    ///
    /// Everything between two addresses meets the memory of one worker, on whatever wire and in whatever direction it comes:
    /// all ports have the same number of queues and spread packets by the same hash, and what a port cannot spread so is
    /// handed over between workers. Wires with one queue belong to one worker.
    pub fn start(self) -> Result<(Wires, Vec<Vec<Path>>), BringUpError> {
        let mut wires = Vec::new();
        let mut paths: Vec<Vec<Path>> = (0..self.workers()).map(|_| Vec::new()).collect();
        for (index, AttachedWire { planned, outside, inside, sharing }) in self.wires.into_iter().enumerate() {
            let (workers, queues) = match sharing {
                Sharing::All => (0..usize::from(self.workers), self.workers),
                Sharing::One(worker) => (worker..worker + 1, 1),
            };
            // Numbers of ports come again as soon as a port is closed, which is before the last buffer is back in its pool.
            let name = format!("levee_wire{}", POOLS.fetch_add(1, Ordering::Relaxed));
            let pool = Mempool::create(&self.eal, &name, planned.shape, outside.numa_node())
                .map_err(|reason| BringUpError::Memory { wire: planned.name.clone(), reason })?;
            let setup = Setup { mtu: planned.mtu, pool: pool.clone(), queues: queues.into() };
            let start = |port: Port| {
                port.start(&setup).map_err(|reason| BringUpError::Start { wire: planned.name.clone(), reason })
            };
            let (outside, inside) = (start(outside)?, start(inside)?);
            let (inbound, outbound) = (SharedCounters::of(queues.into()), SharedCounters::of(queues.into()));
            let exchanges = |port: &Running| {
                let needed = queues > 1 && !port.steers;
                let ends = if needed { Exchange::between(queues) } else { Vec::new() };
                ends.into_iter().map(Some).chain(iter::repeat_with(|| None))
            };
            let ends = exchanges(&outside).zip(exchanges(&inside));
            let counters = inbound.each().zip(outbound.each());
            for ((((worker, outside), inside), counters), exchange) in
                workers.zip(outside.queues).zip(inside.queues).zip(counters).zip(ends)
            {
                let path = |direction, rx, tx, counters: &Arc<PathCounters>, exchange| Path {
                    wire: index,
                    direction,
                    rx,
                    tx,
                    counters: Arc::clone(counters),
                    exchange,
                };
                if let Some(paths) = paths.get_mut(worker) {
                    paths.push(path(Direction::Inbound, outside.0, inside.1, counters.0, exchange.0));
                    paths.push(path(Direction::Outbound, inside.0, outside.1, counters.1, exchange.1));
                }
            }
            let (outside, inside) = (outside.port, inside.port);
            wires.push(Wire { name: planned.name, outside, inside, inbound, outbound, pool });
        }
        Ok((Wires(wires), paths))
    }
}

impl Wires {
    /// The wires, in the order of the configuration.
    pub fn iter(&self) -> std::slice::Iter<'_, Wire> {
        self.0.iter()
    }

    /// Stops and closes all ports and frees the packet buffers. What fails is logged, and the rest still done.
    pub fn stop(self) {
        for Wire { name, outside, inside, pool, .. } in self.0 {
            for port in [outside, inside] {
                if let Err(error) = port.stop() {
                    tracing::warn!("wire {name:?}: {error}");
                }
            }
            // The thread that asks holds no cache of its own, and workers gave theirs back when they ended.
            let lost = pool.in_use();
            if lost > 0 {
                tracing::warn!("wire {name:?}: {lost} packet buffers were not returned by the drivers");
            }
        }
    }
}

impl Wire {
    /// Packets that ports took over and have not sent yet, as far as their own counters tell.
    pub fn unsent(&self) -> u64 {
        let (inbound, outbound) = (self.inbound.read(), self.outbound.read());
        let unsent =
            |port: &StartedPort, taken: u64| port.counters().map_or(0, |counters| taken.saturating_sub(counters.sent));
        unsent(&self.inside, inbound.forwarded + outbound.replied)
            + unsent(&self.outside, outbound.forwarded + inbound.replied)
    }
}
