//! Memory that the detector takes for 1 000, 100 000 and 1 000 000 destinations, with one worker and with 16: what the process
//! holds before there is an engine, with one, and after every destination has had some traffic of one role, or much of four.
//!
//! Each case is a process of its own, so that none reuses what another has freed.
//!
//! `cargo bench -p levee-benches --bench memory`

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::process::Command;

use levee_api::prefix::Prefix;
use levee_api::time::Timestamp;
use levee_api::zone::{Challenge, Mode, Service, Visibility, Zone};
use levee_engine::detect::detector::TICK;
use levee_engine::engine::{Engine, Settings};
use levee_engine::isa::Isa;
use levee_engine::packet::{Direction, Packet};
use levee_engine::tables::OnFailure;
use levee_engine::verdict::Verdict;

/// First address of the zone, 198.16.0.0.
const FIRST: u32 = 0xc610_0000;
/// Destinations, length of the zone's prefix, workers, packets of one role in a second, seconds.
const CASES: [(u32, u8, u32, [u32; 2]); 8] = [
    (1_000, 22, 1, [2, 20]),
    (1_000, 22, 1, [200, 20]),
    (1_000, 22, 16, [2, 20]),
    (1_000, 22, 16, [200, 20]),
    (100_000, 15, 1, [2, 5]),
    (100_000, 15, 1, [100, 5]),
    (100_000, 15, 16, [2, 5]),
    (1_000_000, 12, 1, [2, 5]),
];

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    match arguments.next().and_then(|number| number.parse::<usize>().ok()) {
        Some(number) => CASES.get(number).into_iter().for_each(|case| measure(*case)),
        None => {
            for number in 0..CASES.len() {
                let program = std::env::current_exe().unwrap_or_else(|error| unreachable!("{error}"));
                let ended = Command::new(program).arg(number.to_string()).status();
                assert!(ended.is_ok_and(|status| status.success()), "case {number} failed");
            }
        }
    }
}

fn measure((hosts, length, workers, [rate, seconds]): (u32, u8, u32, [u32; 2])) {
    let empty = resident_kib();
    let mut now = Timestamp(1_000_000_000_000);
    let settings = Settings {
        workers: NonZeroU32::new(workers).unwrap_or(NonZeroU32::MIN),
        conversations: 1 << 10,
        hosts: 1 << 10,
        filters: 1 << 10,
        secret: (3, 4),
        ceiling: Mode::Enforce,
        too_deep: OnFailure::Pass,
        evicted: OnFailure::Pass,
        spare_slots: 0,
        learn_only: true,
        isa: Isa::detect(),
    };
    let (mut engine, mut paths) =
        Engine::build(&[zone(length)], &[], settings, now).unwrap_or_else(|error| unreachable!("{error}"));
    let built = resident_kib();
    let is_busy = rate > 2;
    for tick in 0..seconds * 100 {
        for host in 0..hosts {
            // Rates change all the time, so that histograms have many buckets.
            let due = is_busy && (tick * 7 + host) % 100 < 1 + tick % (rate / 2) || (tick + host).is_multiple_of(50);
            if !due {
                continue;
            }
            for kind in 0..if is_busy { 4 } else { 1 } {
                let frame = packet(host, kind, tick);
                let path = usize::try_from(host % workers).unwrap_or(0);
                let mut verdicts = [Verdict::Forward];
                let packets = [Packet { head: &frame, wire_len: 60 }];
                paths.get_mut(path).into_iter().for_each(|path| {
                    path.burst(0, Direction::Inbound, &packets, now, &mut verdicts);
                });
            }
        }
        now = now + TICK;
        engine.tick(now);
    }
    let full = resident_kib();
    let per = |kib: u64| kib * 1024 / u64::from(hosts);
    println!(
        "{hosts} {} destinations, {workers} workers: {} MiB for the engine, {} bytes each; {} MiB for what is known of them, \
         {} bytes each",
        if is_busy { "busy" } else { "quiet" },
        (built - empty) >> 10,
        per(built - empty),
        (full - built) >> 10,
        per(full - built),
    );
}

fn zone(length: u8) -> Zone {
    Zone {
        name: "lab".to_owned(),
        prefixes: vec![Prefix::containing(IpAddr::V4(FIRST.into()), length)],
        mode: Mode::Enforce,
        services: vec![Service { protocol: 17, ports: vec![(443, 443)] }],
        services_complete: false,
        visibility: Visibility::Auto,
        link_capacity_bps: None,
        floors: Vec::new(),
        challenge: Challenge::default(),
        challenge_dns: false,
        runbook: None,
    }
}

/// A datagram to a port that is served, or to one that is not, a ping, or a packet of another protocol.
fn packet(host: u32, kind: u32, n: u32) -> Vec<u8> {
    let protocol = [17, 17, 1, 47].into_iter().nth(usize::try_from(kind).unwrap_or(0)).unwrap_or(17);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 46, 0, 1, 0x40, 0, 57, protocol];
    frame.extend([0, 0, 192, 0, 2, 1]);
    frame.extend((FIRST + host).to_be_bytes());
    let source = u16::try_from(20_000 + n % 40_000).unwrap_or(0).to_be_bytes();
    match kind {
        0 => frame.extend([source[0], source[1], 0x01, 0xbb, 0, 26, 0, 0]),
        1 => frame.extend([source[0], source[1], 0x27, 0x0f, 0, 26, 0, 0]),
        2 => frame.extend([8, 0, 0, 0, 0, 1, 0, 1]),
        _ => {}
    }
    frame.resize(60, 0xab);
    frame
}

/// What the process holds of the machine's memory.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
