//! Ports: attached, then started, which is what gives them queues; stopped when the queues are back.

use std::cell::Cell;
use std::ffi::CString;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, PoisonError};

use levee_engine::packet::steer;
use thiserror::Error;

use super::af_packet::{RingDrops, SocketNotFound};
use super::eal::Eal;
use super::mbuf::Burst;
use super::mempool::Mempool;
use super::port_info::PortInfo;
use super::port_name::PortName;
use super::{Errno, af_packet, check, text, vhost};

/// Descriptors asked for in each ring. 1024 of them fill in 69 µs at 10 Gbit/s and 64-byte frames, three times the
/// longest sleep of an idle worker.
pub const DESCRIPTORS: u16 = 1024;
/// Length of the key that most cards want.
const HASH_KEY_BYTES: usize = 40;

/// Why a port could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// No driver knows the virtual device, or what its arguments name is not there.
    #[error(
        "{port}: no driver can open it: check the driver's name, that what its arguments name exists, and that this is started as root, which most drivers need at first (DPDK says more above)"
    )]
    Probe {
        /// As in the configuration.
        port: String,
    },
    /// The socket of a process that was killed.
    #[error("{port}: its socket is left from a process that is gone and cannot be removed: {reason}")]
    StaleSocket {
        /// As in the configuration.
        port: String,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// The sockets of `qpairs=` cannot be made to share the packets of the interface.
    #[error("{port}: the kernel does not spread the packets of its interface over qpairs: {reason}")]
    Fanout {
        /// As in the configuration.
        port: String,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// The address has no device that DPDK drives.
    #[error("{port}: no such port; is the card there (lspci -D) and bound to vfio-pci (dpdk-devbind.py --status)?")]
    NotFound {
        /// As in the configuration.
        port: String,
    },
}

/// Why a port did not start. Each names the port.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum StartError {
    /// The driver does not describe its port.
    #[error("{port}: the driver does not describe the port: {errno}")]
    Info { port: String, errno: Errno },
    /// The hardware is too small.
    #[error("{port}: an MTU of {mtu} is not possible, the port carries {min} to {max}")]
    Mtu { port: String, mtu: u16, min: u16, max: u16 },
    /// The kernel's interface is too small and cannot be made larger.
    #[error("{port}: the interface {interface} cannot carry an MTU of {mtu}: {reason}")]
    InterfaceMtu { port: String, interface: String, mtu: u16, reason: std::io::Error },
    /// The driver refused the MTU although it lies within its range.
    #[error("{port}: the driver refuses an MTU of {mtu}: {errno}")]
    SetMtu { port: String, mtu: u16, errno: Errno },
    /// `rte_eth_dev_configure` failed.
    #[error("{port}: cannot be configured: {errno}")]
    Configure { port: String, errno: Errno },
    /// A receive or transmit queue could not be set up.
    #[error(
        "{port}: its queues cannot be set up: {errno}{}",
        if port.contains("af_xdp") { "; take the program of an earlier run off the interface: ip link set dev IF xdp off" } else { "" }
    )]
    Queue { port: String, errno: Errno },
    /// `rte_eth_dev_start` failed.
    #[error("{port}: does not start: {errno}")]
    Start { port: String, errno: Errno },
    /// A bridge has to receive what is not addressed to it.
    #[error("{port}: cannot be made promiscuous: {errno}")]
    Promiscuous { port: String, errno: Errno },
}

/// Why a port did not stop.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum StopError {
    /// Somebody still polls.
    #[error("{port}: {queues} of its queues are still in use")]
    InUse { port: String, queues: usize },
    /// `rte_eth_dev_stop` or `rte_eth_dev_close` failed.
    #[error("{port}: does not stop: {errno}")]
    Device { port: String, errno: Errno },
}

/// How to run a port.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Where received packets go. It outlives the port.
    pub pool: Mempool,
    /// How many queues in each direction, at least one and at most [`Port::most_queues`].
    pub queues: u16,
}

/// What starting a port gives.
#[derive(Debug)]
pub struct Running {
    /// To stop it.
    pub port: StartedPort,
    /// Its queues.
    pub queues: Vec<(RxQueue, TxQueue)>,
    /// Whether each packet arrives at the queue that [`steer`] says.
    pub steers: bool,
}

/// An attached port. Closed when dropped.
#[derive(Debug)]
pub struct Port {
    device: Device,
    /// The kernel's interface that the driver rides on, if its MTU is ours to see to.
    interface: Option<String>,
    /// A network card, whose promises about spreading packets count. Virtual devices make them too, and some do not mean it.
    physical: bool,
}

/// A running port. [`StartedPort::stop`] needs all queues back.
#[derive(Debug)]
pub struct StartedPort {
    shared: Arc<Device>,
}

/// The receiving end of a port.
#[derive(Debug)]
pub struct RxQueue {
    port: u16,
    queue: u16,
    _shared: Arc<Device>,
    _not_sync: PhantomData<Cell<()>>,
}

/// The sending end of a port.
#[derive(Debug)]
pub struct TxQueue {
    port: u16,
    queue: u16,
    takes_segments: bool,
    _shared: Arc<Device>,
    _not_sync: PhantomData<Cell<()>>,
}

/// The port's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Packets received.
    pub received: u64,
    /// Bytes of those received.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent: u64,
    /// Lost because the receive queue was full.
    pub missed: u64,
    /// Received damaged.
    pub errors: u64,
    /// Lost because no buffer was free.
    pub no_buffer: u64,
}

impl PortCounters {
    /// What the port lost before we saw it.
    pub const fn lost_before(&self) -> u64 {
        self.missed + self.errors + self.no_buffer
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Attached,
    Started,
    Closed,
}

/// What control functions need besides DPDK.
#[derive(Debug, Default)]
struct Control {
    /// For drivers that do not count what found their ring full; an error when that cannot be known either.
    ring_drops: Option<Result<RingDrops, SocketNotFound>>,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: u16,
    pub(super) name: String,
    state: State,
    /// Outlives the queues that put packets into it.
    pool: Option<Mempool>,
    _eal: Eal,
    /// Control functions of one port may not run at the same time.
    control: Mutex<Control>,
}

impl Port {
    /// Attaches the port, creating it if it is a virtual device.
    pub fn attach(eal: &Eal, name: &PortName) -> Result<Self, AttachError> {
        if let Some(socket) = name.vhost_socket() {
            vhost::remove_stale_socket(socket)
                .map_err(|reason| AttachError::StaleSocket { port: name.to_string(), reason })?;
        }
        Self::probe(eal, name)?;
        let not_found = || AttachError::NotFound { port: name.to_string() };
        let device = CString::new(name.device()).map_err(|_| not_found())?;
        let mut id = 0;
        // SAFETY: the string is terminated, `id` is ours to write.
        check(unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(device.as_ptr(), &raw mut id) })
            .map_err(|_| not_found())?;
        let mut port = Self::from_id(eal, id, name.device().to_owned());
        port.interface = name.af_packet_interface().map(str::to_owned);
        port.physical = matches!(name, PortName::Pci(_));
        if let Some(interface) = &port.interface {
            af_packet::spread(interface).map_err(|reason| AttachError::Fanout { port: name.to_string(), reason })?;
        }
        let ring_drops = port.interface.as_deref().map(RingDrops::of);
        port.device.control = Mutex::new(Control { ring_drops });
        Ok(port)
    }

    /// Creates a virtual device; [`Self::all`] lists it from then on. PCI devices are there from the start.
    pub fn probe(_eal: &Eal, name: &PortName) -> Result<(), AttachError> {
        if matches!(name, PortName::Pci(_)) {
            return Ok(());
        }
        let refused = || AttachError::Probe { port: name.to_string() };
        let device = CString::new(name.to_string()).map_err(|_| refused())?;
        // SAFETY: DPDK is initialised, as the Eal shows, and copies the terminated string. The code it returns is the
        // driver's, mostly -1 for anything.
        let probe = || check(unsafe { dpdk_sys::rte_dev_probe(device.as_ptr()) }).map_err(|_| refused());
        match name.af_packet_interface() {
            Some(_) => af_packet::without_fanout(probe).unwrap_or_else(|_| Err(refused())),
            None => probe(),
        }
    }

    /// All ports that DPDK has attached, for listing.
    pub fn all(eal: &Eal) -> Vec<Self> {
        let mut ports = Vec::new();
        let mut from = 0;
        loop {
            // SAFETY: reads DPDK's list of ports.
            let id = unsafe { dpdk_sys::rte_eth_find_next(from) };
            if u32::from(id) >= dpdk_sys::RTE_MAX_ETHPORTS {
                return ports;
            }
            ports.push(Self::from_id(eal, id, name_of(id)));
            from = id + 1;
        }
    }

    fn from_id(eal: &Eal, id: u16, name: String) -> Self {
        let device =
            Device { id, name, state: State::Attached, pool: None, _eal: eal.clone(), control: Mutex::default() };
        Self { device, interface: None, physical: false }
    }

    /// What the driver says about it.
    pub fn info(&self) -> Result<PortInfo, StartError> {
        PortInfo::of(&self.device)
    }

    /// DPDK's number of the port, which no other has.
    pub fn number(&self) -> u16 {
        self.device.id
    }

    /// NUMA node that the port is attached to; `SOCKET_ID_ANY` (-1) when there is none.
    pub fn numa_node(&self) -> i32 {
        // SAFETY: a valid port id.
        unsafe { dpdk_sys::rte_eth_dev_socket_id(self.device.id) }
    }

    /// How many queues it can have in each direction.
    pub fn most_queues(&self) -> Result<u16, StartError> {
        let info = PortInfo::raw(&self.device)?;
        Ok(info.max_rx_queues.min(info.max_tx_queues))
    }

    /// Configures and starts the port, promiscuous.
    pub fn start(mut self, setup: &Setup) -> Result<Running, StartError> {
        let port = || self.device.name.clone();
        let id = self.device.id;
        let info = PortInfo::raw(&self.device)?;
        let declared_mtu = self.declared_mtu(setup.mtu, &info)?;
        // SAFETY: all-zero is DPDK's documented default configuration.
        let mut configuration: dpdk_sys::rte_eth_conf = unsafe { MaybeUninit::zeroed().assume_init() };
        configuration.rxmode.mtu = u32::from(declared_mtu);
        configuration.rxmode.offloads = info.rx_offload_capa & dpdk_sys::LEVEE_RX_OFFLOAD_SCATTER;
        configuration.txmode.offloads = info.tx_offload_capa & dpdk_sys::LEVEE_TX_OFFLOAD_MULTI_SEGS;
        let spreading = if self.physical && setup.queues > 1 { Spreading::of(&info) } else { Spreading::None };
        let mut key = steer::KEY.repeat(usize::from(info.hash_key_size).max(HASH_KEY_BYTES).div_ceil(steer::KEY.len()));
        spreading.configure(&info, &mut key, &mut configuration);
        // SAFETY: a valid port id that is not started; the configuration, and the key that it points to, are read during
        // the call.
        check(unsafe { dpdk_sys::rte_eth_dev_configure(id, setup.queues, setup.queues, &raw const configuration) })
            .map_err(|errno| StartError::Configure { port: port(), errno })?;
        self.set_mtu(setup.mtu)?;
        for queue in 0..setup.queues {
            self.set_up_queue(queue, setup)?;
        }
        // SAFETY: configured, with all queues set up.
        check(unsafe { dpdk_sys::rte_eth_dev_start(id) }).map_err(|errno| StartError::Start { port: port(), errno })?;
        // SAFETY: a valid port id.
        match check(unsafe { dpdk_sys::rte_eth_promiscuous_enable(id) }) {
            // Files, rings and sockets receive everything anyway and have no such mode.
            Err(errno) if errno.code() != nix::errno::Errno::ENOTSUP as i32 => {
                // SAFETY: started above.
                unsafe { dpdk_sys::rte_eth_dev_stop(id) };
                return Err(StartError::Promiscuous { port: port(), errno });
            }
            _ => {}
        }
        let steers = spreading == Spreading::ByAddresses && fill_table(id, info.reta_size, setup.queues);
        self.device.state = State::Started;
        self.device.pool = Some(setup.pool.clone());
        let takes_segments = configuration.txmode.offloads & dpdk_sys::LEVEE_TX_OFFLOAD_MULTI_SEGS != 0;
        let shared = Arc::new(self.device);
        let pair = |queue| {
            let rx = RxQueue { port: id, queue, _shared: Arc::clone(&shared), _not_sync: PhantomData };
            let tx = TxQueue { port: id, queue, takes_segments, _shared: Arc::clone(&shared), _not_sync: PhantomData };
            (rx, tx)
        };
        let queues = (0..setup.queues).map(pair).collect();
        Ok(Running { port: StartedPort { shared }, queues, steers })
    }

    /// The MTU that DPDK is told, after a check that the port carries `mtu`.
    fn declared_mtu(&self, mtu: u16, info: &dpdk_sys::rte_eth_dev_info) -> Result<u16, StartError> {
        let (min, max) = (info.min_mtu, largest_mtu(info));
        if self.interface.is_some() {
            return Ok(mtu.min(max).max(min));
        }
        if (min..=max).contains(&mtu) {
            Ok(mtu)
        } else {
            Err(StartError::Mtu { port: self.device.name.clone(), mtu, min, max })
        }
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), StartError> {
        let port = || self.device.name.clone();
        if let Some(interface) = &self.interface {
            return af_packet::raise_mtu(interface, mtu).map_err(|reason| StartError::InterfaceMtu {
                port: port(),
                interface: interface.clone(),
                mtu,
                reason,
            });
        }
        // SAFETY: a configured port.
        match check(unsafe { dpdk_sys::rte_eth_dev_set_mtu(self.device.id, mtu) }) {
            // Without the function, the MTU given at configuration is all there is.
            Err(errno) if errno.code() != nix::errno::Errno::ENOTSUP as i32 => {
                Err(StartError::SetMtu { port: port(), mtu, errno })
            }
            _ => Ok(()),
        }
    }

    fn set_up_queue(&self, queue: u16, setup: &Setup) -> Result<(), StartError> {
        let id = self.device.id;
        let (mut rx_descriptors, mut tx_descriptors) = (DESCRIPTORS, DESCRIPTORS);
        // SAFETY: a configured port; both numbers are ours to write. On failure they stay as they are.
        unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx_descriptors, &raw mut tx_descriptors) };
        let node = u32::from_ne_bytes(self.numa_node().to_ne_bytes());
        let error = |errno| StartError::Queue { port: self.device.name.clone(), errno };
        // SAFETY: a configured port; a null configuration means the driver's own; the pool is kept by the device.
        check(unsafe {
            dpdk_sys::rte_eth_rx_queue_setup(id, queue, rx_descriptors, node, std::ptr::null(), setup.pool.as_ptr())
        })
        .map_err(error)?;
        // SAFETY: as above.
        check(unsafe { dpdk_sys::rte_eth_tx_queue_setup(id, queue, tx_descriptors, node, std::ptr::null()) })
            .map_err(error)
    }
}

/// How a card spreads packets over queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spreading {
    /// It does not.
    None,
    /// By what it likes.
    Somehow,
    /// By the addresses of all IP packets, and by nothing else.
    ByAddresses,
}

impl Spreading {
    fn of(info: &dpdk_sys::rte_eth_dev_info) -> Self {
        let offered = info.flow_type_rss_offloads;
        // Cards that offer only finer kinds (TCP over IPv4, ...) hash ports with those, and leave alone what is not asked for.
        let all = dpdk_sys::LEVEE_RSS_IPV4 | dpdk_sys::LEVEE_RSS_IPV6;
        let table = usize::from(info.reta_size);
        if offered & all == all && table > 0 && table.is_multiple_of(steer::BUCKETS) {
            Self::ByAddresses
        } else if offered & (dpdk_sys::LEVEE_RSS_IP | dpdk_sys::LEVEE_RSS_TRANSPORT) != 0 {
            Self::Somehow
        } else {
            Self::None
        }
    }

    fn configure(self, info: &dpdk_sys::rte_eth_dev_info, key: &mut [u8], configuration: &mut dpdk_sys::rte_eth_conf) {
        let kinds = match self {
            Self::None => return,
            Self::Somehow => dpdk_sys::LEVEE_RSS_IP | dpdk_sys::LEVEE_RSS_TRANSPORT,
            Self::ByAddresses => dpdk_sys::LEVEE_RSS_IP,
        };
        configuration.rxmode.mq_mode = dpdk_sys::RTE_ETH_MQ_RX_RSS;
        let spread = &mut configuration.rx_adv_conf.rss_conf;
        spread.rss_hf = kinds & info.flow_type_rss_offloads;
        spread.rss_key = key.as_mut_ptr();
        // Cards say how long in eight bits.
        spread.rss_key_len = u8::try_from(key.len()).unwrap_or(0);
    }
}

/// Tells a running card which queue each hash belongs to; false when it does not take that.
fn fill_table(port: u16, entries: u16, queues: u16) -> bool {
    let mut group = dpdk_sys::rte_eth_rss_reta_entry64 { mask: u64::MAX, reta: [0; steer::BUCKETS] };
    for (bucket, queue) in group.reta.iter_mut().enumerate() {
        *queue = u16::try_from(steer::worker_of(bucket, usize::from(queues))).unwrap_or(0);
    }
    let mut table = vec![group; usize::from(entries) / steer::BUCKETS];
    // SAFETY: a running port, and as many groups of 64 entries as its table has.
    check(unsafe { dpdk_sys::rte_eth_dev_rss_reta_update(port, table.as_mut_ptr(), entries) }).is_ok()
}

impl StartedPort {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The port's counters, `None` when they cannot be told.
    pub fn counters(&self) -> Option<PortCounters> {
        let mut control = self.shared.control.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stats = MaybeUninit::<dpdk_sys::rte_eth_stats>::zeroed();
        // SAFETY: a valid port id; DPDK clears and fills the structure.
        check(unsafe { dpdk_sys::rte_eth_stats_get(self.shared.id, stats.as_mut_ptr()) }).ok()?;
        // SAFETY: numbers, initialised to zero above.
        let stats = unsafe { stats.assume_init() };
        let ring_full = match &mut control.ring_drops {
            Some(drops) => drops.as_mut().ok()?.read()?,
            None => 0,
        };
        Some(PortCounters {
            received: stats.ipackets,
            received_bytes: stats.ibytes,
            sent: stats.opackets,
            missed: stats.imissed + ring_full,
            errors: stats.ierrors,
            no_buffer: stats.rx_nombuf,
        })
    }

    /// What the driver says about it.
    pub fn info(&self) -> Result<PortInfo, StartError> {
        let _turn = self.shared.control.lock().unwrap_or_else(PoisonError::into_inner);
        PortInfo::of(&self.shared)
    }

    /// Stops and closes the port.
    pub fn stop(self) -> Result<(), StopError> {
        let queues = Arc::strong_count(&self.shared) - 1;
        let name = self.shared.name.clone();
        let mut device = Arc::into_inner(self.shared).ok_or(StopError::InUse { port: name, queues })?;
        device.stop().map_err(|errno| StopError::Device { port: device.name.clone(), errno })
    }
}

impl RxQueue {
    /// Receives what there is and fits into `burst`; returns how many packets came.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        let before = burst.len();
        burst.fill(|mbufs, room| {
            // SAFETY: the queue belongs to a started port (kept by _shared) and is polled by this thread alone (&mut, not
            // Sync); DPDK writes at most `room` mbufs, which become the burst's.
            unsafe { dpdk_sys::rte_eth_rx_burst(self.port, self.queue, mbufs, room) }
        });
        burst.len() - before
    }
}

impl TxQueue {
    /// Sends `burst`, which is empty afterwards, and returns how many packets the port took; the others are in `rest`.
    #[inline]
    pub fn send(&mut self, burst: &mut Burst, rest: &mut Burst) -> usize {
        if !self.takes_segments {
            burst.linearise(rest);
        }
        burst.drain(rest, |mbufs, count| {
            // SAFETY: as for receive; the port takes over the first mbufs, as many as it returns.
            unsafe { dpdk_sys::rte_eth_tx_burst(self.port, self.queue, mbufs, count) }
        })
    }
}

impl Device {
    fn stop(&mut self) -> Result<(), Errno> {
        let stopped = match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed => return Ok(()),
            // SAFETY: a started port whose queues are gone.
            State::Started => check(unsafe { dpdk_sys::rte_eth_dev_stop(self.id) }),
            State::Attached => Ok(()),
        };
        // SAFETY: a port that does not run.
        let closed = check(unsafe { dpdk_sys::rte_eth_dev_close(self.id) });
        stopped.and(closed)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Err(errno) = self.stop() {
            tracing::warn!("{}: does not stop: {errno}", self.name);
        }
    }
}

/// Drivers state a largest MTU, a longest frame, or both; what is between them is the frame's overhead.
pub(super) fn largest_mtu(info: &dpdk_sys::rte_eth_dev_info) -> u16 {
    /// Ethernet header and checksum, what DPDK assumes of drivers that state no MTU.
    const OVERHEAD: u32 = 18;
    if info.max_mtu != u16::MAX {
        return info.max_mtu;
    }
    u16::try_from(info.max_rx_pktlen.saturating_sub(OVERHEAD)).unwrap_or(u16::MAX)
}

fn name_of(id: u16) -> String {
    let mut name = [0; dpdk_sys::RTE_ETH_NAME_MAX_LEN as usize];
    // SAFETY: room for RTE_ETH_NAME_MAX_LEN bytes, which DPDK fills with a terminated string.
    match check(unsafe { dpdk_sys::rte_eth_dev_get_name_by_port(id, name.as_mut_ptr()) }) {
        // SAFETY: as above.
        Ok(()) => unsafe { text(name.as_ptr()) }.unwrap_or_default(),
        Err(_) => String::new(),
    }
}
