//! The machine that a figure belongs to.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

const HUGEPAGE_MIB: u64 = 2;
const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// What one needs to know to compare figures.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs that we may use.
    pub cpus: usize,
    /// Vector instructions that matter.
    pub simd: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Version of DPDK.
    pub dpdk: String,
    /// Hugepages of 2 MiB, reserved and free.
    pub hugepages: (u64, u64),
    /// Average number of running threads over the last minute, before the measurement.
    pub load: String,
}

impl Machine {
    /// Looks.
    pub fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value).to_owned()
        };
        let flags = field("flags");
        let simd =
            ["avx2", "avx512bw", "avx512vbmi"].into_iter().filter(|name| flags.split(' ').any(|flag| flag == *name));
        Self {
            cpu: field("model name"),
            cpus: cpus().len(),
            simd: simd.collect::<Vec<_>>().join(" "),
            kernel: read("/proc/sys/kernel/osrelease"),
            dpdk: output("pkg-config", &["--modversion", "libdpdk"]),
            hugepages: (pages("nr_hugepages"), pages("free_hugepages")),
            load: read("/proc/loadavg").split(' ').next().unwrap_or("unknown").to_owned(),
        }
    }
}

/// CPUs that we may use.
pub fn cpus() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Sees to it that so much hugepage memory is free. What others have is never taken away.
///
/// # Errors
/// With what to do, when the kernel gives less.
pub fn require_hugepages(mib: u64) -> Result<(), String> {
    let wanted = mib.div_ceil(HUGEPAGE_MIB);
    let missing = wanted.saturating_sub(pages("free_hugepages"));
    if missing > 0 {
        let reserved = pages("nr_hugepages") + missing;
        write(reserved).map_err(|error| {
            format!("{mib} MiB of hugepages are needed: echo {reserved} > {PAGES}/nr_hugepages ({error})")
        })?;
    }
    let free = pages("free_hugepages");
    if free < wanted {
        return Err(format!(
            "{mib} MiB of hugepages are needed, and the kernel has {} MiB to give",
            free * HUGEPAGE_MIB
        ));
    }
    Ok(())
}

/// Sees to it that this session comes before others that the kernel weighs against it (`CONFIG_SCHED_AUTOGROUP`), as long as
/// the value lives: on a busy machine what asks the programs would be late.
#[derive(Debug)]
pub struct Precedence(Option<String>);

const AUTOGROUP: &str = "/proc/self/autogroup";

impl Precedence {
    /// From now on. Where the kernel does not weigh sessions, or does not let us, nothing changes.
    pub fn take() -> Self {
        let before = read(AUTOGROUP).rsplit_once(' ').map(|(_, nice)| nice.to_owned());
        Self(before.filter(|_| fs::write(AUTOGROUP, "-20").is_ok()))
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // It was written before.
            let _ = fs::write(AUTOGROUP, before);
        }
    }
}

fn write(pages: u64) -> io::Result<()> {
    fs::write(Path::new(PAGES).join("nr_hugepages"), pages.to_string())
}

fn pages(name: &str) -> u64 {
    read(&format!("{PAGES}/{name}")).parse().unwrap_or(0)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn output(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    output.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
