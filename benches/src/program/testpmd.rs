//! `dpdk-testpmd`: DPDK's own forwarder, with the same ports, buffers and burst as Levee.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use super::{
    Interrupt, Interval, LOOK, MeasureError, Place, Running, START_WITHIN, buffers, hugepages_mib, vdevs, while_doing,
};

pub(super) const NAME: &str = "dpdk-testpmd";

/// What it does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forward {
    /// Nothing: it does not look at them.
    Io,
    /// Writes the Ethernet addresses.
    Mac,
    /// Swaps addresses and ports up to the transport header.
    FiveTupleSwap,
}

impl Forward {
    /// As testpmd calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Mac => "mac",
            Self::FiveTupleSwap => "5tswap",
        }
    }
}

/// Millions of packets per second that it forwards.
///
/// # Errors
/// When it does not run.
pub fn rate(
    forward: Forward,
    capture: &Path,
    packets: u32,
    place: &Place,
    interval: Interval,
    interrupt: Interrupt,
) -> Result<f64, MeasureError> {
    let worker = place.workers.first().copied().unwrap_or(0);
    if worker == place.other {
        return Err(MeasureError::Skipped("dpdk-testpmd needs two CPUs".to_owned()));
    }
    let words = command_line(forward, capture, packets, worker, place.other);
    let mut program = Running::start(NAME, Path::new(NAME), &words, &capture.with_file_name("testpmd.log"))?;
    let lines = read_lines(&mut program);
    await_line(&mut program, &lines, "packet forwarding packets/burst", interrupt)?;
    interrupt.pause(interval.warm_up)?;
    let (first, began) = forwarded(&mut program, &lines, interrupt)?;
    interrupt.pause(interval.length)?;
    let (last, ended) = forwarded(&mut program, &lines, interrupt)?;
    Ok((last - first) as f64 / (ended - began).as_secs_f64() / 1e6)
}

fn command_line(forward: Forward, capture: &Path, packets: u32, worker: usize, other: usize) -> Vec<String> {
    let [outside, inside] = vdevs(&[capture]);
    let lcores = format!("--lcores=0@{other},1@{worker}");
    let prefix = format!("--file-prefix=levee-bench-{}", std::process::id());
    let memory = hugepages_mib(packets, 1).to_string();
    let mut words =
        [&lcores, "--in-memory", "--single-file-segments", "--no-pci", "--iova-mode=va", &prefix, "-m", &memory]
            .map(str::to_owned)
            .to_vec();
    words.extend(["--force-max-simd-bitwidth=512", "--no-telemetry", "--log-level=warning"].map(str::to_owned));
    words.extend([format!("--vdev={outside}"), format!("--vdev={inside}"), "--".to_owned()]);
    // It would throw away the first packets of each queue before it starts.
    words.extend(["-i", "--auto-start", "--no-flush-rx", "--nb-cores=1"].map(str::to_owned));
    words.extend(["--rxd=1024", "--txd=1024", "--burst=64", "--mbcache=256"].map(str::to_owned));
    words.extend([format!("--forward-mode={}", forward.name()), format!("--total-num-mbufs={}", buffers(packets, 1))]);
    words
}

/// Lines of its output, each with the time at which it came.
fn read_lines(program: &mut Running) -> Receiver<(String, Instant)> {
    let (sender, lines) = channel();
    if let Some(out) = program.child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send((line, Instant::now())).is_err() {
                    break;
                }
            }
        });
    }
    lines
}

fn await_line(
    program: &mut Running,
    lines: &Receiver<(String, Instant)>,
    wanted: &str,
    interrupt: Interrupt,
) -> Result<(String, Instant), MeasureError> {
    let deadline = Instant::now() + START_WITHIN;
    loop {
        match lines.recv_timeout(LOOK) {
            Ok((line, at)) if line.contains(wanted) => return Ok((line, at)),
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(program.failed("ended"));
            }
            Err(RecvTimeoutError::Timeout) => {
                program.check()?;
                interrupt.pause(std::time::Duration::ZERO)?;
                if Instant::now() > deadline {
                    return Err(program.failed(format!("did not say {wanted:?} within {START_WITHIN:?}")));
                }
            }
        }
    }
}

/// Packets that it has received so far, and when it said so. These are the counters of its forwarding loop: those of the
/// ports include what it throws away at the start.
fn forwarded(
    program: &mut Running,
    lines: &Receiver<(String, Instant)>,
    interrupt: Interrupt,
) -> Result<(u64, Instant), MeasureError> {
    if let Some(input) = &mut program.child.stdin {
        input.write_all(b"show fwd stats all\n").map_err(while_doing("asking dpdk-testpmd"))?;
    }
    await_line(program, lines, "Accumulated forward statistics", interrupt)?;
    let (line, at) = await_line(program, lines, "RX-packets:", interrupt)?;
    let count = line.split_whitespace().nth(1).and_then(|count| count.parse().ok());
    count.map(|count| (count, at)).ok_or_else(|| program.failed(format!("says {line:?}")))
}
