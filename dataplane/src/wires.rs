//! The wires of the configuration: planned before DPDK is started, then attached, given memory and started.

use std::sync::Arc;

use levee_api::config::{self, Dataplane};
use levee_engine::packet::Direction;
use thiserror::Error;

use crate::dpdk::eal::{self, Eal, Pci};
use crate::dpdk::mempool::{self, Mempool, Shape};
use crate::dpdk::port::{self, DESCRIPTORS, Port, Setup, StartedPort};
use crate::dpdk::port_name::{self, PortName};
use crate::dpdk::thread::allowed_cpus;
use crate::worker::{Path, PathCounters};

/// Packet buffers of a wire: four rings full of packets (two ports, both directions) and as much again for bursts, the
/// caches of threads and what drivers hold back. One less than a power of two fills DPDK's ring best.
const BUFFERS: u32 = 2 * 2 * 2 * 2 * DESCRIPTORS as u32 - 1;
/// What DPDK needs besides packet buffers: rings, queues, its own tables.
const OTHER_MEMORY_MIB: u64 = 64;

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
    pub inbound: Arc<PathCounters>,
    /// Fates of packets from inside to outside.
    pub outbound: Arc<PathCounters>,
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
            .map(|(index, wire)| PlannedWire::of(index, wire))
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
    fn of(index: usize, wire: &config::Wire) -> Result<Self, PlanError> {
        let port = |text: &str, number: usize| {
            let name: PortName = text.parse().map_err(|reason| PlanError::Name { wire: wire.name.clone(), reason })?;
            name.numbered(number)
                .sized(wire.mtu)
                .map_err(|reason| PlanError::FrameSize { wire: wire.name.clone(), reason })
        };
        let (outside, outside_room) = port(&wire.outside, 2 * index)?;
        let (inside, inside_room) = port(&wire.inside, 2 * index + 1)?;
        // Both ports receive into one pool, so that what one receives the other can send.
        let shape = Shape { count: BUFFERS, frame_room: outside_room.max(inside_room) };
        Ok(Self { name: wire.name.clone(), mtu: wire.mtu, outside, inside, shape })
    }
}

impl Wires {
    /// Attaches and starts all ports. The paths are in the order of the wires, inbound before outbound.
    ///
    /// Each wire runs on one queue, so everything between two addresses meets the same memory; workers share the wires.
    /// More queues per wire need ports that steer symmetrically, with the same key on both: this is the place.
    pub fn start(eal: &Eal, plan: &Plan) -> Result<(Self, Vec<Path>), BringUpError> {
        let mut wires = Vec::new();
        let mut paths = Vec::new();
        for (index, wire) in plan.wires.iter().enumerate() {
            let attach = |name| {
                Port::attach(eal, name).map_err(|reason| BringUpError::Attach { wire: wire.name.clone(), reason })
            };
            let (outside, inside) = (attach(&wire.outside)?, attach(&wire.inside)?);
            let pool = Mempool::create(eal, &format!("levee_wire{index}"), wire.shape, outside.numa_node())
                .map_err(|reason| BringUpError::Memory { wire: wire.name.clone(), reason })?;
            let setup = Setup { mtu: wire.mtu, pool: pool.clone() };
            let start = |port: Port| {
                port.start(&setup).map_err(|reason| BringUpError::Start { wire: wire.name.clone(), reason })
            };
            let (outside, outside_rx, outside_tx) = start(outside)?;
            let (inside, inside_rx, inside_tx) = start(inside)?;
            let inbound = Arc::new(PathCounters::default());
            let outbound = Arc::new(PathCounters::default());
            paths.push(Path {
                wire: index,
                direction: Direction::Inbound,
                rx: outside_rx,
                tx: inside_tx,
                counters: Arc::clone(&inbound),
            });
            paths.push(Path {
                wire: index,
                direction: Direction::Outbound,
                rx: inside_rx,
                tx: outside_tx,
                counters: Arc::clone(&outbound),
            });
            wires.push(Wire { name: wire.name.clone(), outside, inside, inbound, outbound, pool });
        }
        Ok((Self(wires), paths))
    }

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
        let unsent = |port: &StartedPort, path: &PathCounters| {
            port.counters().map_or(0, |counters| path.read().forwarded.saturating_sub(counters.sent))
        };
        unsent(&self.inside, &self.inbound) + unsent(&self.outside, &self.outbound)
    }
}
