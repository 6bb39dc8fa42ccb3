//! `[controlplane]`: where it is reached, who may do what, and how long it remembers.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::dataplane::socket;
use super::general::values;
use super::problem::Fault;
use super::section::Section;

/// How the control plane runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controlplane {
    /// The unix socket of the API.
    pub socket: PathBuf,
    /// Where metrics are served over HTTP; none: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Who may do what.
    pub access: Access,
    /// How long it remembers.
    pub retention: Retention,
}

/// Users and groups (`@group`) of the machine by what they may do on the unix socket; each role may do what those before it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Look.
    pub viewer: Vec<String>,
    /// Start and end mitigations.
    pub operator: Vec<String>,
    /// Approve what runbooks ask about.
    pub approver: Vec<String>,
    /// Everything but captures.
    pub admin: Vec<String>,
    /// See captures, which hold personal data: no role includes that.
    pub captures: Vec<String>,
}

/// Days that things are kept after their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Closed incidents with their timelines.
    pub incident_days: u16,
    /// Mitigations that have ended.
    pub mitigation_days: u16,
    /// Messages that were delivered or given up.
    pub message_days: u16,
}

impl Default for Controlplane {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/levee/controlplane.sock"),
            metrics: None,
            access: Access::default(),
            retention: Retention::default(),
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self {
            viewer: vec!["@levee".to_owned()],
            operator: Vec::new(),
            approver: Vec::new(),
            admin: vec!["root".to_owned()],
            captures: vec!["root".to_owned()],
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { incident_days: 365, mitigation_days: 365, message_days: 30 }
    }
}

const DAYS: RangeInclusive<u64> = 1..=3_650;

pub(super) fn read(file: &Section<'_>) -> Controlplane {
    let default = Controlplane::default();
    let Some(section) = file.table("controlplane", "[controlplane]".to_owned()) else { return default };
    let controlplane = Controlplane {
        socket: section.parsed("socket", socket).map_or(default.socket, |path| path.value),
        metrics: section.parsed("metrics", endpoint).map(|address| address.value),
        access: access(&section),
        retention: retention(&section),
    };
    section.refuse_unknown();
    controlplane
}

fn access(section: &Section<'_>) -> Access {
    let default = Access::default();
    let Some(table) = section.table("access", "[controlplane.access]".to_owned()) else { return default };
    let names = |key, otherwise| table.parsed_list(key, user).map_or(otherwise, values);
    let access = Access {
        viewer: names("viewer", default.viewer),
        operator: names("operator", default.operator),
        approver: names("approver", default.approver),
        admin: names("admin", default.admin),
        captures: names("captures", default.captures),
    };
    table.refuse_unknown();
    access
}

fn retention(section: &Section<'_>) -> Retention {
    let default = Retention::default();
    let Some(table) = section.table("retention", "[controlplane.retention]".to_owned()) else { return default };
    let days = |key, otherwise| table.integer(key, DAYS).and_then(|days| u16::try_from(days).ok()).unwrap_or(otherwise);
    let retention = Retention {
        incident_days: days("incident_days", default.incident_days),
        mitigation_days: days("mitigation_days", default.mitigation_days),
        message_days: days("message_days", default.message_days),
    };
    table.refuse_unknown();
    retention
}

/// A name of passwd(5), or of group(5) behind an at sign.
fn user(text: &str) -> Result<String, Fault> {
    let name = text.strip_prefix('@').unwrap_or(text);
    let fits = (1..=32).contains(&name.len());
    if fits && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$')) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} is neither a user nor a group"),
        "write \"alice\" for a user and \"@noc\" for a group",
    ))
}

fn endpoint(text: &str) -> Result<SocketAddr, Fault> {
    const HELP: &str = "write one such as \"127.0.0.1:9469\" or \"[::1]:9469\"";
    let address: SocketAddr =
        text.parse().map_err(|_| Fault::new(format!("{text:?} is no address with a port"), HELP))?;
    if !address.ip().is_loopback() {
        return Err(Fault::new(
            format!("metrics are served to this machine only, and {text:?} is not one of its own"),
            HELP,
        ));
    }
    Ok(address)
}
