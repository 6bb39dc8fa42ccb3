//! The protected site that everything is measured on: some servers of each kind in one zone, whose thresholds are known
//! because its floors are given and too little was learned to lower them.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use levee_api::{role::Role, vector::Vector};
use tempfile::TempDir;

use super::{MeasureError, Replay};
use crate::{
    amplification::REFLECTORS,
    attack,
    conversation::Kind,
    scenario::{Benign, Scenario},
};

/// Thresholds of a host, packets a second. Malformed packets, which are dropped whatever their number, have none.
const FLOORS: [(Role, u32); 11] = [
    (Role::Syn, 500),
    (Role::OutOfState, 500),
    (Role::UnsolicitedSynAck, 200),
    (Role::Request, 50),
    (Role::UdpOpen, 1_000),
    (Role::UdpUnserved, 500),
    (Role::UnsolicitedResponse, 200),
    (Role::IcmpOther, 500),
    (Role::LaterFragment, 500),
    (Role::OtherProtocol, 500),
    (Role::Established, 4_000),
];
/// The threshold of a /24 is that of a host times this.
const PREFIX_FACTOR: u32 = 2;

/// Below 20 s together with what is measured: from then on floors are lowered to what was learned.
const LEARNING_S: f64 = 8.0;

/// Where the attacks go.
const TARGET: &str = "203.0.113.10/32";
const TARGET_V6: &str = "2001:db8:a::9/128";
const NETWORK: &str = "203.0.113.0/24";

const CONFIGURATION: &str = r#"
schema = 1

[[zone]]
name = "site"
prefixes = ["203.0.113.0/24", "2001:db8:a::/48"]
mode = "enforce"
services = [
  { proto = "tcp", ports = [22, 80, 443] },
  { proto = "udp", ports = [53, 443, 5060, 27015, "16384-16999"] },
]
link_capacity = "1Gbps"
"#;

/// A site that has been watched for a while.
#[derive(Debug)]
pub struct Site {
    program: PathBuf,
    configuration: String,
    state: TempDir,
    sees_inside: bool,
}

impl Site {
    /// Lets the program learn from some seconds of peace. `sees_inside`: also from what comes from inside, which it will see
    /// later, too.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn learned(program: &Path, seed: u64, sees_inside: bool) -> Result<Self, MeasureError> {
        let mut floors = String::new();
        for (role, pps) in FLOORS {
            let _ = write!(floors, "{}{role} = {pps}", if floors.is_empty() { "" } else { ", " });
        }
        let configuration = format!("{CONFIGURATION}floors = {{ {floors} }}\n");
        let state =
            tempfile::tempdir().map_err(|source| MeasureError::File { path: "a temporary folder".into(), source })?;
        let site = Self { program: program.to_owned(), configuration, state, sees_inside };
        let peace = site.peace(seed, LEARNING_S);
        site.replay().learn(&peace, site.state.path())?;
        Ok(site)
    }

    /// The program with what it has learned.
    pub fn replay(&self) -> Replay<'_> {
        Replay {
            program: &self.program,
            configuration: &self.configuration,
            state: Some(self.state.path()),
            sees_inside: self.sees_inside,
        }
    }

    /// A while without attacks.
    pub fn peace(&self, seed: u64, duration_s: f64) -> Scenario {
        use Kind::{Fetch, Game, Lookup, Ping, Query, Quic, Ssh, Upload, Voip, Web};
        let per_s = BTreeMap::from([
            (Web, 40.0),
            (Ssh, 1.0),
            (Fetch, 3.0),
            (Game, 3.0),
            (Query, 40.0),
            (Lookup, 15.0),
            (Quic, 10.0),
            (Voip, 2.0),
            (Upload, 1.0),
            (Ping, 2.0),
        ]);
        let mut servers: Vec<IpAddr> = (9..13).map(|host| IpAddr::from([203, 0, 113, host])).collect();
        servers.extend(TARGET_V6.parse::<IpNet>().map(|target| target.addr()));
        Scenario {
            seed,
            duration_s,
            start_unix_s: 1_750_000_000,
            benign: Benign { servers, per_s },
            crowds: Vec::new(),
            attacks: Vec::new(),
        }
    }

    /// All of the site that speaks IPv4.
    pub fn network() -> Option<IpNet> {
        NETWORK.parse().ok()
    }

    /// What an attack of a kind is aimed at.
    pub fn target(kind: attack::Kind) -> Option<IpNet> {
        let target = match kind.vector() {
            Vector::Icmpv6Flood => TARGET_V6,
            Vector::CarpetBombing => NETWORK,
            _ => TARGET,
        };
        target.parse().ok()
    }
}

/// The threshold of the role that packets of a kind have on the site, packets a second; for packets that are malformed, which
/// have none, that of most others.
pub fn threshold_pps(kind: attack::Kind) -> f64 {
    let floor = |role| FLOORS.iter().find(|(known, _)| *known == role).map_or(500, |(_, floor)| *floor);
    let role = match kind.vector() {
        _ if kind == attack::Kind::EstablishedData => Role::Established,
        Vector::SynFlood | Vector::TcpConnectionFlood => Role::Syn,
        Vector::SynAckReflection => Role::UnsolicitedSynAck,
        Vector::HttpRequestFlood | Vector::TlsHandshakeFlood => Role::Request,
        Vector::DnsQueryFlood | Vector::DnsWaterTorture | Vector::QuicInitialFlood => Role::UdpOpen,
        // From any port: nothing tells its datagrams from others before their content is looked at.
        Vector::TftpAmplification => Role::UdpUnserved,
        vector if REFLECTORS.iter().any(|reflector| reflector.vector == vector) => Role::UnsolicitedResponse,
        Vector::CarpetBombing => return f64::from(PREFIX_FACTOR * floor(Role::UdpUnserved)),
        _ => Role::OutOfState,
    };
    f64::from(floor(role))
}

/// The threshold of the same role for the whole of [`Site::network`].
pub fn prefix_threshold_pps(kind: attack::Kind) -> f64 {
    f64::from(PREFIX_FACTOR) * threshold_pps(kind)
}
