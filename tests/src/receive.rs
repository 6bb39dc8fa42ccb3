//! Counts what arrives at an interface: attack packets, known by their source ([`crate::address`]), and the rest.

use std::{
    fs,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    address,
    packet_socket::{Receiver, SocketError},
    time_bins::TimeBins,
};

/// What arrived of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Arrivals {
    /// Packets.
    pub packets: u64,
    /// The first, nanoseconds since the epoch; 0 if there was none.
    pub first_unix_ns: u64,
    /// The last, nanoseconds since the epoch; 0 if there was none.
    pub last_unix_ns: u64,
    /// Packets per 10 ms.
    pub over_time: TimeBins,
}

/// What arrived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// IP packets from the attack set.
    pub attack: Arrivals,
    /// Everything else.
    pub other: Arrivals,
    /// Packets that the interface counted and this program did not see: it was too slow. The counts are sure only if
    /// this is (close to) zero.
    pub unseen: u64,
}

/// Counts for `duration`, or until `stop` is set.
pub fn run(interface: &str, duration: Duration, stop: &AtomicBool) -> Result<Report, SocketError> {
    let mut receiver = Receiver::open(interface)?;
    let before = interface_counter(interface);
    let mut report = Report { attack: Arrivals::none(), other: Arrivals::none(), unseen: 0 };
    let start = Instant::now();
    while start.elapsed() < duration && !stop.load(Ordering::Relaxed) {
        receiver.receive(|frame| {
            let kind = if source(frame.head).is_some_and(address::is_attacker) {
                &mut report.attack
            } else {
                &mut report.other
            };
            kind.count(frame.unix_ns);
        })?;
    }
    let arrived = interface_counter(interface).saturating_sub(before);
    report.unseen = arrived.saturating_sub(report.attack.packets + report.other.packets);
    Ok(report)
}

impl Arrivals {
    fn none() -> Self {
        Self { packets: 0, first_unix_ns: 0, last_unix_ns: 0, over_time: TimeBins::new(10) }
    }

    fn count(&mut self, unix_ns: u64) {
        if self.packets == 0 {
            self.first_unix_ns = unix_ns;
        }
        self.packets += 1;
        self.last_unix_ns = unix_ns;
        self.over_time.add(unix_ns, 1);
    }
}

/// The IP source of an untagged Ethernet frame.
fn source(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some((*frame.get(26..)?.first_chunk::<4>()?).into()),
        [0x86, 0xdd] => Some((*frame.get(22..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// Packets that an interface has received; 0 where the kernel does not say.
pub fn interface_counter(interface: &str) -> u64 {
    fs::read_to_string(format!("/sys/class/net/{interface}/statistics/rx_packets"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}
