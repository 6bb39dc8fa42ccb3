//! Namespaces, links and dataplane processes for tests. Everything has a name of its own and goes when it is dropped.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take on a machine that does other things too.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Addresses of the two ends of a wire.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Whether namespaces and raw sockets are allowed; says so when they are not.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: namespaces and packet sockets need root");
    }
    root
}

/// A name that no other test and no other process of this machine uses.
fn unique(label: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("levee-{}-{}-{label}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A network namespace.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new(label: &str) -> Self {
        let name = unique(label);
        run("ip", &["netns", "add", &name]);
        Self { name }
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, arguments: &[&str]) {
        run("ip", &[&["-n", &self.name], arguments].concat());
    }

    /// A program in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `work` on a thread in it.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                let file = std::fs::File::open(Path::new("/var/run/netns").join(&self.name)).expect("the namespace");
                setns(file, CloneFlags::CLONE_NEWNET).expect("entering the namespace");
                work()
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves an interface of this namespace to another and gives it an address there.
    pub(crate) fn hand_over(&self, interface: &str, to: &Self, address: Ipv4Addr) {
        self.ip(&["link", "set", "dev", interface, "netns", &to.name]);
        to.bring_up(interface, 1500, Some(address));
    }

    fn bring_up(&self, interface: &str, mtu: u16, address: Option<Ipv4Addr>) {
        let silent = format!("net.ipv6.conf.{interface}.disable_ipv6=1");
        let output = self.command("sysctl").args(["-qw", &silent]).output().expect("sysctl");
        assert!(output.status.success(), "{silent}");
        self.ip(&["link", "set", "dev", interface, "mtu", &mtu.to_string(), "up"]);
        if let Some(address) = address {
            self.ip(&["addr", "add", &format!("{address}/24"), "dev", interface]);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Also when the test fails: takes the links with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A pair of interfaces whose ends look to each other as a cable does: nothing is left to the other side to finish.
pub(crate) fn link(one: (&Namespace, &str), other: (&Namespace, &str), mtu: u16, address: Ipv4Addr) {
    let ends =
        ["link", "add", one.1, "netns", &one.0.name, "type", "veth", "peer", "name", other.1, "netns", &other.0.name];
    run("ip", &ends);
    for (end, address) in [(one, Some(address)), (other, None)] {
        let ethtool = end
            .0
            .command("ethtool")
            .args(["-K", end.1, "tx", "off", "gso", "off", "tso", "off", "gro", "off"])
            .output();
        assert!(ethtool.expect("ethtool").status.success(), "offloads of {} off", end.1);
        end.0.bring_up(end.1, mtu, address);
    }
}

/// A client and a server with an empty place between them: interfaces `outside` and `inside` in `middle`.
pub(crate) struct Gap {
    pub(crate) client: Namespace,
    pub(crate) middle: Namespace,
    pub(crate) server: Namespace,
}

impl Gap {
    pub(crate) fn new(mtu: u16) -> Self {
        let gap = Self { client: Namespace::new("c"), middle: Namespace::new("m"), server: Namespace::new("s") };
        link((&gap.client, "eth0"), (&gap.middle, "outside"), mtu, CLIENT);
        link((&gap.server, "eth0"), (&gap.middle, "inside"), mtu, SERVER);
        gap
    }

    pub(crate) fn assert_forwards(&self) {
        assert_forwards(&self.client, &self.server);
    }
}

/// A datagram and a stream.
pub(crate) fn assert_forwards(client: &Namespace, server: &Namespace) {
    assert_datagram_crosses(client, server, 1000);
    assert_stream_crosses(client, server);
}

/// Megabytes by TCP, forth and back; what is lost on the way is sent again.
pub(crate) fn assert_stream_crosses(client: &Namespace, server: &Namespace) {
    let sent: Vec<u8> = (0..2_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    // A socket stays in the namespace that it was made in.
    let listener = server.enter(|| TcpListener::bind((SERVER, 0)).expect("listening"));
    let address = listener.local_addr().expect("an address");
    let mut stream =
        client.enter(|| TcpStream::connect_timeout(&address, DEADLINE).expect("a connection through the wire"));
    let back = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("the client's bytes");
            stream.write_all(&received).expect("sending them back");
        });
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream.write_all(&sent).expect("sending");
        stream.shutdown(Shutdown::Write).expect("ending");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("the server's bytes");
        back
    });
    assert!(back == sent, "{} bytes came back of {}", back.len(), sent.len());
}

/// A datagram of `payload` bytes, in one packet, arrives as it was sent.
pub(crate) fn assert_datagram_crosses(client: &Namespace, server: &Namespace, payload: usize) {
    let sent: Vec<u8> = (0..payload).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let to = server.enter(|| UdpSocket::bind((SERVER, 0)).expect("a socket"));
    to.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let from = client.enter(|| UdpSocket::bind((CLIENT, 0)).expect("a socket"));
    let address: SocketAddr = to.local_addr().expect("an address");
    from.send_to(&sent, address).expect("sending");
    let mut received = vec![0; 65_536];
    let (length, _) = to.recv_from(&mut received).expect("the datagram");
    assert!(received[..length] == sent[..], "{length} bytes arrived of {payload}");
}

/// A configuration with one wire, in memory that every machine has.
pub(crate) fn wire(outside: &str, inside: &str, mtu: u16) -> String {
    format!(
        "schema = 1\n[dataplane]\nmemory = \"no-huge\"\nidle = \"adaptive\"\n\
         [[dataplane.wire]]\nname = \"uplink\"\noutside = \"{outside}\"\ninside = \"{inside}\"\nmtu = {mtu}\n"
    )
}

/// The same, protecting the server's network.
pub(crate) fn protecting_wire(outside: &str, inside: &str) -> String {
    let zone = "[[zone]]\nname = \"servers\"\nprefixes = [\"192.0.2.0/24\"]\nmode = \"enforce\"\n\
                services = [{ proto = \"tcp\" }]\n";
    wire(outside, inside, 1500) + zone
}

/// A flood of large pings is answered with a filter, and a stream still crosses. Whether the filter drops them or, since
/// the server answers, holds them to a rate is what the suite `replay` looks at.
pub(crate) fn assert_filters(client: &Namespace, server: &Namespace, dataplane: Dataplane) {
    let ping =
        client.command("ping").args(["-f", "-q", "-w", "3", "-s", "600", &SERVER.to_string()]).output().expect("ping");
    let told = String::from_utf8_lossy(&ping.stdout);
    assert_stream_crosses(client, server);
    let log = dataplane.stop();
    let inbound = log.lines().find(|line| line.contains("inbound")).expect("a summary");
    assert!(inbound.contains("filter ") || inbound.contains("limit "), "{told}\n{log}");
}

/// The program, with a configuration, in a namespace or in ours.
pub(crate) fn program(place: Option<&Namespace>, folder: &Path, configuration: &str, arguments: &[&str]) -> Command {
    let file = folder.join("levee.toml");
    let own =
        format!("[appliance]\nstate_dir = \"{0}/state\"\n[dataplane]\nsocket = \"{0}/levee.sock\"\n", folder.display());
    std::fs::write(&file, configuration.replace("[dataplane]\n", &own)).expect("writing the configuration");
    let binary = env!("CARGO_BIN_EXE_levee-dataplane");
    let mut command = place.map_or_else(|| Command::new(binary), |namespace| namespace.command(binary));
    command.arg("run").arg("--config").arg(file).args(arguments);
    command
}

/// A running dataplane. Killed when dropped.
pub(crate) struct Dataplane {
    pid: Pid,
    exit: Receiver<ExitStatus>,
    log: Arc<Mutex<String>>,
    _folder: TempDir,
}

impl Dataplane {
    /// Starts it and waits until it says that it forwards.
    pub(crate) fn start(place: Option<&Namespace>, configuration: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let command = program(place, folder.path(), configuration, &[]);
        Self::spawn(command, folder)
    }

    /// As [`Self::start`], for a command that ends in the program.
    pub(crate) fn spawn(mut command: Command, folder: TempDir) -> Self {
        let notify = folder.path().join("notify");
        let socket = UnixDatagram::bind(&notify).expect("a socket to be told on");
        // As open as systemd's: the program has changed its user when it speaks.
        for (path, mode) in [(folder.path(), 0o711), (notify.as_path(), 0o777)] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
        }
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time limit");
        let mut child = command.env("NOTIFY_SOCKET", &notify).stderr(Stdio::piped()).spawn().expect("the program");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let lines = Arc::clone(&log);
        let (ended, exit) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().expect("the log").push_str(&(line + "\n"));
            }
            let _ = ended.send(child.wait().expect("an exit status"));
        });
        let dataplane = Self { pid, exit, log, _folder: folder };
        dataplane.wait_until_ready(&socket);
        dataplane
    }

    fn wait_until_ready(&self, socket: &UnixDatagram) {
        let deadline = Instant::now() + DEADLINE;
        let mut message = [0; 256];
        loop {
            if let Ok(length) = socket.recv(&mut message)
                && message[..length].starts_with(b"READY=1")
            {
                return;
            }
            if let Ok(status) = self.exit.try_recv() {
                panic!("the dataplane ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "not ready in time:\n{}", self.log());
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Waits until it has said this.
    pub(crate) fn wait_for_log(&self, words: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.log().contains(words) {
            assert!(Instant::now() < deadline, "it does not say {words:?}:\n{}", self.log());
            std::thread::yield_now();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("a running dataplane");
    }

    /// Waits for its end.
    pub(crate) fn wait(&self) -> ExitStatus {
        self.exit.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("does not end:\n{}", self.log()))
    }

    /// Ends it in order, and returns what it said.
    pub(crate) fn stop(self) -> String {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log());
        self.log()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        if let Err(mpsc::TryRecvError::Empty) = self.exit.try_recv() {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.exit.recv_timeout(DEADLINE);
        }
    }
}
