//! `levee-traffic`: floods, clients and captures for tests.

use std::{
    fs,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use clap::{Parser, Subcommand};
use ipnet::IpNet;
use levee_tests::{
    address::{self, Family},
    attack::{Aim, Attack, Kind, UnknownKind},
    events,
    frame::{Link, Mac},
    http, packet_socket, receive, scenario, send, timeline,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Serialize, de::DeserializeOwned};

/// Generates, sends, receives and records test traffic. Meant for network namespaces and files, never for a network
/// that is not yours.
#[derive(Parser)]
#[command(name = "levee-traffic", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send a flood through an interface; print what was sent as JSON.
    Send {
        /// Interface in this network namespace.
        #[arg(long)]
        interface: String,
        /// What to send: one of `levee-traffic kinds`.
        #[arg(long, value_parser = single_packets)]
        kind: Kind,
        /// Attacked address or prefix.
        #[arg(long, value_parser = target)]
        target: IpNet,
        /// Attacked port.
        #[arg(long)]
        port: Option<u16>,
        /// Packets a second.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        rate: u32,
        /// How long.
        #[arg(long, value_parser = seconds)]
        seconds: Duration,
        /// Stop after so many packets.
        #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
        packets: u64,
        /// Everything random follows from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Hardware address of the next hop.
        #[arg(long, value_parser = mac, default_value = "ff:ff:ff:ff:ff:ff")]
        to_mac: Mac,
    },
    /// Print all kinds of attack, one a line; those that need connections can be composed and not sent.
    Kinds,
    /// Count what arrives at an interface until the time is over or SIGTERM; print it as JSON.
    Receive {
        /// Interface in this network namespace.
        #[arg(long)]
        interface: String,
        /// How long.
        #[arg(long, value_parser = seconds)]
        seconds: Duration,
    },
    /// Compose captures of both directions from a scenario file.
    Write {
        /// What happens (TOML).
        #[arg(long)]
        scenario: PathBuf,
        /// Packets from outside.
        #[arg(long)]
        outside: PathBuf,
        /// Packets from inside.
        #[arg(long)]
        inside: PathBuf,
        /// CSV with a label for each packet from outside.
        #[arg(long)]
        labels: Option<PathBuf>,
    },
    /// Request pages at a steady rate until the time is over or SIGTERM; print what came of it as JSON.
    Http {
        /// Server and port.
        #[arg(long)]
        server: SocketAddr,
        /// Client addresses, comma-separated, taken in turn.
        #[arg(long, value_delimiter = ',')]
        sources: Vec<IpAddr>,
        /// New connections a second.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        rate: u32,
        /// Requests on each connection.
        #[arg(long, default_value_t = 2)]
        requests: u32,
        /// How long.
        #[arg(long, value_parser = seconds)]
        seconds: Duration,
        /// How often a connection that is reset is opened again.
        #[arg(long, default_value_t = 0)]
        retries: u32,
        /// How long a request may take.
        #[arg(long, value_parser = seconds, default_value = "1")]
        patience: Duration,
    },
    /// Tell what an attack did from the reports of `send`, `receive` and `http`; fail if Levee's promises were not kept.
    Timeline {
        /// Kind of the attack.
        #[arg(long)]
        kind: String,
        /// What was attacked.
        #[arg(long)]
        target: String,
        /// What `send` printed.
        #[arg(long)]
        sent: PathBuf,
        /// What `receive` printed.
        #[arg(long)]
        received: PathBuf,
        /// What `http` printed.
        #[arg(long)]
        http: PathBuf,
        /// Event lines of the control plane; left out when the file does not exist.
        #[arg(long)]
        events: Option<PathBuf>,
    },
    /// Print client addresses that no attack uses, one a line.
    Clients {
        /// How many.
        #[arg(long, default_value_t = 32)]
        count: usize,
        /// Which.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// IPv6 addresses.
        #[arg(long)]
        ipv6: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("levee-traffic: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    match command {
        Command::Send { interface, kind, target, port, rate, seconds, packets, seed, to_mac } => {
            let link = Link { source: packet_socket::mac(&interface)?, destination: to_mac };
            let mut attack = Attack::new(Aim { kind, target, port, sources: None, seed, link });
            let pace = send::Pace { rate_pps: rate, duration: seconds, packets };
            print(&send::run(&mut attack, &interface, pace, &stop)?)?;
        }
        Command::Kinds => {
            let mut out = io::stdout().lock();
            Kind::all().try_for_each(|kind| {
                writeln!(out, "{kind}{}", if kind.needs_connections() { " (connections)" } else { "" })
            })?;
        }
        Command::Receive { interface, seconds } => print(&receive::run(&interface, seconds, &stop)?)?,
        Command::Write { scenario, outside, inside, labels } => {
            scenario::Scenario::read(&scenario)?.write(&outside, &inside, labels.as_deref())?;
        }
        Command::Http { server, sources, rate, requests, seconds, retries, patience } => {
            let load =
                http::Load { server, sources, connections_per_s: rate, requests, duration: seconds, retries, patience };
            print(&http::run(&load, &stop)?)?;
        }
        Command::Clients { count, seed, ipv6 } => {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let family = if ipv6 { Family::V6 } else { Family::V4 };
            let mut out = io::stdout().lock();
            (0..count).try_for_each(|_| writeln!(out, "{}", address::client(family, &mut rng)))?;
        }
        Command::Timeline { kind, target, sent, received, http, events } => {
            let (sent, received, clients) = (parse(&sent)?, parse(&received)?, parse(&http)?);
            let happenings = match events.filter(|path| path.exists()) {
                Some(path) => events::read(&path)?,
                None => Vec::new(),
            };
            let page = timeline::Page {
                kind: &kind,
                target: &target,
                sent: &sent,
                received: &received,
                clients: &clients,
                happenings: &happenings,
            };
            writeln!(io::stdout(), "{page}")?;
            if !timeline::Outcome::of(&sent, &received, &clients).broken_promises().is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parse<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn print(report: &impl Serialize) -> Result<(), Box<dyn std::error::Error>> {
    Ok(writeln!(io::stdout(), "{}", serde_json::to_string(report)?)?)
}

fn target(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "expected an address or prefix, such as 203.0.113.10 or 2001:db8::/64".into())
}

fn single_packets(text: &str) -> Result<Kind, String> {
    let kind: Kind = text.parse().map_err(|error: UnknownKind| error.to_string())?;
    if kind.needs_connections() {
        return Err(format!(
            "{kind} needs connections, which this command cannot have; `levee-traffic write` composes it"
        ));
    }
    Ok(kind)
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "expected a number of seconds, such as 10 or 0.5".into())
}

fn mac(text: &str) -> Result<Mac, String> {
    let bytes: Vec<u8> = text.split(':').map_while(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes.try_into().map_err(|_| "expected a hardware address, such as 02:00:00:00:00:01".into())
}
