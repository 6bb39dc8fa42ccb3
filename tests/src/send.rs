//! A flood onto an interface, paced and bounded.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    attack::Attack,
    packet_socket::{BATCH, Sender, SocketError},
    time_bins::{TimeBins, ns, unix_ns},
};

/// How much, and for how long at most.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Packets a second.
    pub rate_pps: u32,
    /// The end by the monotonic clock.
    pub duration: Duration,
    /// The end by number of packets.
    pub packets: u64,
}

/// What was sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sent {
    /// Packets that the kernel took.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// Packets that were due and not sent because the machine was too slow.
    pub behind: u64,
    /// The first packet, nanoseconds since the epoch; 0 if there was none.
    pub first_unix_ns: u64,
    /// The last packet, nanoseconds since the epoch; 0 if there was none.
    pub last_unix_ns: u64,
    /// Packets a second, reached between the first and the last.
    pub rate_pps: u64,
    /// Packets per 10 ms.
    pub over_time: TimeBins,
}

/// The token bucket holds this much of a second's packets: what a hiccup of the machine may make up for.
const DEPTH_MS: u64 = 10;

/// Sends until the time or the packets are over, or `stop` is set.
pub fn run(attack: &mut Attack, interface: &str, pace: Pace, stop: &AtomicBool) -> Result<Sent, SocketError> {
    let mut sender = Sender::open(interface)?;
    let mut frames = vec![Vec::new(); BATCH];
    let mut sent = Sent {
        packets: 0,
        bytes: 0,
        behind: 0,
        first_unix_ns: 0,
        last_unix_ns: 0,
        rate_pps: 0,
        over_time: TimeBins::new(10),
    };
    let depth = (u64::from(pace.rate_pps) * DEPTH_MS / 1_000).max(BATCH as u64);
    let start = Instant::now();
    while sent.packets < pace.packets && !stop.load(Ordering::Relaxed) {
        let elapsed = start.elapsed();
        if elapsed >= pace.duration {
            break;
        }
        let earned = mul_div(ns(elapsed), u64::from(pace.rate_pps), 1_000_000_000);
        let mut due = earned.saturating_sub(sent.packets + sent.behind);
        if due > depth {
            sent.behind += due - depth;
            due = depth;
        }
        if due == 0 {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        let count = usize::try_from(due.min(pace.packets - sent.packets)).unwrap_or(BATCH).min(BATCH);
        let batch = frames.get_mut(..count).unwrap_or_default();
        for frame in batch.iter_mut() {
            attack.next_frame(frame);
        }
        let taken = sender.send(batch)?;
        let now = unix_ns();
        if sent.packets == 0 {
            sent.first_unix_ns = now;
        }
        sent.last_unix_ns = now;
        sent.over_time.add(now, taken as u64);
        sent.packets += taken as u64;
        sent.bytes += batch.iter().take(taken).map(|frame| frame.len() as u64).sum::<u64>();
    }
    let span = sent.last_unix_ns - sent.first_unix_ns;
    sent.rate_pps = mul_div(sent.packets, 1_000_000_000, span.max(1));
    Ok(sent)
}

/// `a * b / c` without overflow in between.
fn mul_div(a: u64, b: u64, c: u64) -> u64 {
    u64::try_from(u128::from(a) * u128::from(b) / u128::from(c)).unwrap_or(u64::MAX)
}
