//! What a driver says about its port: for `levee-dataplane ports`, and for choosing offloads.

use std::ffi::c_char;
use std::fmt;
use std::mem::MaybeUninit;

use super::port::{Device, StartError, largest_mtu};
use super::{check, text};

/// Description of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// DPDK's name: the PCI address or the virtual device.
    pub name: String,
    /// Driver.
    pub driver: String,
    /// Ethernet address.
    pub mac: Mac,
    /// Link state now.
    pub link: Link,
    /// MTU now.
    pub mtu: u16,
    /// Smallest and largest MTU.
    pub mtu_range: (u16, u16),
    /// Most receive and transmit queues.
    pub queues: (u16, u16),
    /// Names of the offloads on offer, receiving and transmitting.
    pub offloads: (Vec<String>, Vec<String>),
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

/// State of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// No carrier.
    Down,
    /// Carrier, with a speed in Mbit/s when it is known.
    Up {
        /// Mbit/s.
        mbps: Option<u32>,
    },
}

impl PortInfo {
    pub(super) fn raw(device: &Device) -> Result<dpdk_sys::rte_eth_dev_info, StartError> {
        let mut info = MaybeUninit::<dpdk_sys::rte_eth_dev_info>::zeroed();
        // SAFETY: a valid port id; DPDK clears and fills the structure.
        check(unsafe { dpdk_sys::rte_eth_dev_info_get(device.id, info.as_mut_ptr()) })
            .map_err(|errno| StartError::Info { port: device.name.clone(), errno })?;
        // SAFETY: numbers and pointers, for which zero is valid.
        Ok(unsafe { info.assume_init() })
    }

    pub(super) fn of(device: &Device) -> Result<Self, StartError> {
        let raw = Self::raw(device)?;
        let mut mtu = 0;
        let mut mac = dpdk_sys::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: a valid port id, and values that are ours to write; on failure they stay zero.
        unsafe {
            dpdk_sys::rte_eth_dev_get_mtu(device.id, &raw mut mtu);
            dpdk_sys::rte_eth_macaddr_get(device.id, &raw mut mac);
        }
        Ok(Self {
            name: device.name.clone(),
            // SAFETY: null or the driver's static name.
            driver: unsafe { text(raw.driver_name) }.unwrap_or_default(),
            mac: Mac(mac.addr_bytes),
            link: Link::of(device),
            mtu,
            mtu_range: (raw.min_mtu, largest_mtu(&raw)),
            queues: (raw.max_rx_queues, raw.max_tx_queues),
            offloads: (
                offload_names(raw.rx_offload_capa, dpdk_sys::rte_eth_dev_rx_offload_name),
                offload_names(raw.tx_offload_capa, dpdk_sys::rte_eth_dev_tx_offload_name),
            ),
        })
    }
}

impl Link {
    fn of(device: &Device) -> Self {
        let mut link = MaybeUninit::<dpdk_sys::rte_eth_link>::zeroed();
        // SAFETY: a valid port id; DPDK fills the structure.
        let known = check(unsafe { dpdk_sys::rte_eth_link_get_nowait(device.id, link.as_mut_ptr()) }).is_ok();
        // SAFETY: numbers and bits, initialised to zero above.
        let link = unsafe { link.assume_init() };
        if !known || u32::from(link.link_status()) == dpdk_sys::RTE_ETH_LINK_DOWN {
            return Self::Down;
        }
        let unknown = [dpdk_sys::RTE_ETH_SPEED_NUM_NONE, dpdk_sys::RTE_ETH_SPEED_NUM_UNKNOWN];
        Self::Up { mbps: (!unknown.contains(&link.link_speed)).then_some(link.link_speed) }
    }
}

/// Names of the bits that are set.
fn offload_names(bits: u64, name: unsafe extern "C" fn(u64) -> *const c_char) -> Vec<String> {
    (0..u64::BITS)
        .map(|bit| 1_u64 << bit)
        .filter(|offload| bits & offload != 0)
        // SAFETY: both functions take any number and return a static string.
        .filter_map(|offload| unsafe { text(name(offload)) })
        .collect()
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => f.write_str("down"),
            Self::Up { mbps: None } => f.write_str("up"),
            Self::Up { mbps: Some(mbps) } if mbps % 1000 == 0 => write!(f, "up {} Gbps", mbps / 1000),
            Self::Up { mbps: Some(mbps) } => write!(f, "up {mbps} Mbps"),
        }
    }
}
