//! A lab of a test's own, gone when the test ends, however it ends.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper that fails fails its test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use levee_tests::send;
use nix::{sys::signal, unistd::Pid};
use serde::de::DeserializeOwned;

/// A running lab.
pub(crate) struct Lab {
    name: String,
    _machine: MutexGuard<'static, ()>,
}

/// Labs may run beside each other, but what they measure then is how they share the processors.
static MACHINE: Mutex<()> = Mutex::new(());

/// Why the lab cannot be used here, if it cannot.
pub(crate) fn skip_reason(with_levee: bool) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    let program = programs(with_levee).join("levee-dataplane");
    (with_levee && !program.exists())
        .then(|| format!("{} is missing: cargo build --release --workspace --bins", program.display()))
}

impl Lab {
    /// A lab with a name of its own.
    pub(crate) fn up(name: &str, arguments: &[&str]) -> Self {
        let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Self { name: format!("test-{}-{name}", std::process::id()), _machine: machine };
        if let Err(output) = lab.run("up", arguments) {
            panic!("the lab did not come up: {output}");
        }
        lab
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn namespace(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// A file of the lab's.
    pub(crate) fn state(&self, file: &str) -> PathBuf {
        Path::new("/run/levee-lab").join(&self.name).join(file)
    }

    /// `scripts/lab COMMAND ARGUMENTS`.
    pub(crate) fn command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut lab = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/lab"));
        let with_levee = !(arguments.contains(&"--without-levee") || self.is_plain());
        lab.arg(command).args(arguments).env("LEVEE_LAB", &self.name).env("LEVEE_BIN", programs(with_levee));
        lab
    }

    /// Runs a command of the lab to its end; its output is the error.
    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> Result<(), String> {
        let output = self.command(command, arguments).output().map_err(|error| error.to_string())?;
        let text = [output.stdout, output.stderr].concat();
        println!("{}", String::from_utf8_lossy(&text));
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&text).into()) }
    }

    /// Attacks; an error if the promises were not kept.
    pub(crate) fn attack(&self, kind: &str, arguments: &[&str]) -> Result<(), String> {
        self.run("attack", &[&[kind], arguments].concat())
    }

    /// A report of an attack that is over.
    pub(crate) fn report<T: DeserializeOwned>(&self, name: &str) -> T {
        let path = self.state("runs").join(name).with_extension("json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Ids of the processes in one namespace.
    pub(crate) fn processes(&self, part: &str) -> Vec<Pid> {
        let output = Command::new("ip").args(["netns", "pids", &self.namespace(part)]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().map(|line| Pid::from_raw(line.parse().unwrap())).collect()
    }

    /// The process in one namespace that runs a program.
    pub(crate) fn process(&self, part: &str, program: &str) -> Pid {
        let runs = |pid: &Pid| Path::new(&command_line(*pid)[0]).file_name().is_some_and(|name| name == program);
        self.processes(part).into_iter().find(runs).unwrap_or_else(|| panic!("no {program} in {part}"))
    }

    /// Returns when a request of a client has been answered.
    pub(crate) fn await_request(&self) {
        let mut curl = Command::new("ip");
        curl.args(["netns", "exec", &self.namespace("internet"), "curl", "-s", "-f", "-m", "0.1", "-o", "/dev/null"])
            .arg("http://203.0.113.10/");
        await_until("a request is answered", || curl.status().unwrap().success());
    }

    /// Returns when the outer port is busier than clients alone make it.
    pub(crate) fn await_packets_from_the_flood(&self) {
        let before = self.counter("outside", "rx_packets");
        await_until("the flood begins", || self.counter("outside", "rx_packets") > before + 20_000);
    }

    /// A program in one namespace.
    pub(crate) fn inside(&self, part: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(part), program]);
        command
    }

    /// What a program in one namespace prints.
    pub(crate) fn ask(&self, part: &str, program: &str, arguments: &[&str]) -> String {
        let output = self.inside(part, program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sets kernel parameters in one namespace.
    pub(crate) fn sysctl(&self, part: &str, settings: &[&str]) {
        let set = self.inside(part, "sysctl").arg("-qw").args(settings).status().unwrap();
        assert!(set.success(), "{settings:?}");
    }

    /// Addresses of clients that nobody has seen before, IPv4 or IPv6.
    pub(crate) fn add_clients(&self, seed: u32, count: usize, ipv6: bool) -> Vec<String> {
        let mut list = Command::new(env!("CARGO_BIN_EXE_levee-traffic"));
        list.args(["clients", "--seed", &seed.to_string(), "--count", &count.to_string()]);
        if ipv6 {
            list.arg("--ipv6");
        }
        let listed = list.output().unwrap();
        let sources: Vec<String> = String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect();
        let length = if ipv6 { 128 } else { 32 };
        let batch: String = sources.iter().map(|source| format!("address add {source}/{length} dev lo\n")).collect();
        let file = self.state(&format!("clients-{seed}"));
        fs::write(&file, batch).unwrap();
        let added = Command::new("ip").args(["-n", &self.namespace("internet"), "-batch"]).arg(file).status().unwrap();
        assert!(added.success());
        sources
    }

    /// Begins a flood at an address; it ends with what it returns.
    pub(crate) fn flood(&self, kind: &str, target: &str, port: u16, rate_pps: u32) -> Flood {
        let mut command = self.inside("internet", env!("CARGO_BIN_EXE_levee-traffic"));
        let (rate, port) = (rate_pps.to_string(), port.to_string());
        command.args(["send", "--interface", "wan", "--to-mac", &self.next_hop_mac(), "--kind", kind]);
        command.args(["--target", target, "--port", &port, "--rate", &rate, "--seconds", "300"]);
        Flood(Some(command.stdout(Stdio::piped()).spawn().unwrap()))
    }

    /// Link address of whoever brings packets to the protected network: the router if there is one, else the server.
    pub(crate) fn next_hop_mac(&self) -> String {
        let has_router = namespaces().contains(&self.namespace("router"));
        let (part, port) = if has_router { ("router", "internet") } else { ("server", "lan") };
        self.ask(part, "cat", &[&format!("/sys/class/net/{port}/address")]).trim().to_owned()
    }

    /// What the kernel has counted on one of the ports.
    pub(crate) fn counter(&self, port: &str, name: &str) -> u64 {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.namespace("levee"), "cat"])
            .arg(format!("/sys/class/net/{port}/statistics/{name}"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }

    fn is_plain(&self) -> bool {
        !self.state("levee.toml").exists() && self.state("").exists()
    }
}

/// A flood that runs.
pub(crate) struct Flood(Option<Child>);

impl Flood {
    /// Ends it, and says what was sent.
    pub(crate) fn end(mut self) -> send::Sent {
        let child = self.0.take().unwrap();
        terminate(&child);
        serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            terminate(&child);
            let _ = child.wait();
        }
    }
}

/// SIGTERM, to one process of ours.
fn terminate(child: &Child) {
    let process = Pid::from_raw(child.id().try_into().unwrap());
    let _ = signal::kill(process, signal::SIGTERM);
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.command("down", &[]).status();
    }
}

/// Names of the network namespaces of this machine.
pub(crate) fn namespaces() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// SIGKILL, to one process.
pub(crate) fn kill(process: Pid) {
    // It may have ended by itself, together with its parent.
    let _ = signal::kill(process, signal::SIGKILL);
}

/// Returns when all threads of a process have ended: until then its files, and who answers on its sockets, remain.
pub(crate) fn await_end(process: Pid) {
    let tasks = || fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count);
    let status = || fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    await_until("the process ends", || tasks() == 0 || tasks() == 1 && status().contains("State:\tZ"));
}

/// Program and arguments of a process.
pub(crate) fn command_line(process: Pid) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

/// Returns when something holds.
pub(crate) fn await_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
    }
}

/// Levee itself is tested optimised, the tools beside it as they were built for the test.
fn programs(with_levee: bool) -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_levee-traffic")).parent().unwrap().to_owned();
    match std::env::var_os("LEVEE_BIN") {
        _ if !with_levee => built,
        Some(path) => path.into(),
        None => built.parent().unwrap().join("release"),
    }
}
