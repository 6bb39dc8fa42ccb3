//! The service Captures: what the dataplane has written down of attacks, read from its folder.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use levee_api::grpc::v1;
use levee_api::grpc::v1::captures_server::Captures;
use levee_api::prefix::Prefix;
use serde::Deserialize;
use tonic::{Request, Response, Status};

use super::link::Refused;
use crate::clock::UnixTime;
use crate::utc::rfc3339;

/// Descriptions larger than this are none of the dataplane's.
const MOST_BYTES: u64 = 1 << 20;

/// Where the dataplane keeps its captures.
#[derive(Debug, Clone)]
pub struct CaptureFolder(PathBuf);

/// What is in the folder.
#[derive(Debug, Default)]
struct Found {
    /// By name: the newest last.
    captures: BTreeMap<String, v1::Capture>,
    unreadable: Vec<String>,
}

/// The JSON file beside a capture, as docs/reference/captures.md describes it.
#[derive(Debug, Deserialize)]
struct Description {
    target: Option<String>,
    zone: String,
    detected_at: String,
    first_packet_at: Option<String>,
    last_packet_at: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    vectors: Vec<String>,
    attack: bool,
    packets: u64,
    packets_before: u64,
    missed: u64,
    bytes: u64,
    sha256: Option<String>,
    addresses_truncated: bool,
    sealed: bool,
    truncated: Option<String>,
}

impl CaptureFolder {
    /// Below the configured `state_dir`.
    pub fn below(state_dir: &Path) -> Self {
        Self(state_dir.join("dataplane/captures"))
    }

    /// Everything there is, read off the loop of the services.
    async fn read(&self) -> Result<Found, Status> {
        let folder = self.0.clone();
        let found = tokio::task::spawn_blocking(move || read(&folder)).await;
        let found = found.map_err(|error| Status::internal(error.to_string()))?;
        found.map_err(|error| {
            Status::failed_precondition(format!(
                "cannot read {}: {error}; the control plane's user needs the group levee",
                self.0.display()
            ))
        })
    }

    /// Names of the captures of an incident's target that were begun while it was open. What cannot be read has none: the
    /// service Captures says why.
    pub(super) async fn of(&self, incident: &v1::Incident) -> Vec<String> {
        let Ok(found) = self.read().await else { return Vec::new() };
        let target = incident.target.as_ref().and_then(|target| target.prefix.as_ref());
        let Some(target) = target.and_then(|prefix| Prefix::try_from(prefix).ok()) else { return Vec::new() };
        let from = rfc3339(UnixTime(incident.opened_unix_ns.saturating_sub(SLACK_NS)));
        let until = incident.closed_unix_ns.map(|closed| rfc3339(UnixTime(closed)));
        let captures = found.captures.values().filter(|capture| {
            let of: Option<Prefix> = capture.target.parse().ok();
            // Both are written alike, so that texts sort as times do.
            let during =
                capture.detected_at >= from && until.as_ref().is_none_or(|until| capture.detected_at <= *until);
            during && of.is_some_and(|of| target.covers(&of))
        });
        captures.map(|capture| capture.name.clone()).collect()
    }
}

/// The dataplane notices an attack, and begins its capture, before the control plane hears of it.
const SLACK_NS: u64 = 10_000_000_000;

fn read(folder: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // No attack yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension() != Some(OsStr::new("json")) {
            continue;
        }
        let Some(name) = path.file_stem().and_then(OsStr::to_str).map(str::to_owned) else { continue };
        match describe(&path, &name) {
            Ok(capture) => {
                found.captures.insert(name, capture);
            }
            // Deleted meanwhile, as the oldest are.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => found.unreadable.push(format!("{}: {error}", path.display())),
        }
    }
    Ok(found)
}

fn describe(path: &Path, name: &str) -> io::Result<v1::Capture> {
    let size = fs::metadata(path)?.len();
    if size > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{size} bytes are more than {MOST_BYTES}")));
    }
    let description: Description = serde_json::from_str(&fs::read_to_string(path)?)?;
    let packets = path.with_extension(if description.sealed { "pcapng" } else { "pcapng.partial" });
    Ok(v1::Capture {
        name: name.to_owned(),
        path: packets.display().to_string(),
        zone: description.zone,
        target: description.target.unwrap_or_default(),
        detected_at: description.detected_at,
        first_packet_at: description.first_packet_at.unwrap_or_default(),
        last_packet_at: description.last_packet_at.unwrap_or_default(),
        roles: description.roles,
        vectors: description.vectors,
        attack: description.attack,
        packets: description.packets,
        packets_before: description.packets_before,
        missed: description.missed,
        bytes: description.bytes,
        sha256: description.sha256.unwrap_or_default(),
        addresses_truncated: description.addresses_truncated,
        sealed: description.sealed,
        truncated: description.truncated.unwrap_or_default(),
    })
}

/// Lists captures.
#[derive(Debug, Clone)]
pub(super) struct CaptureService(pub(super) CaptureFolder);

#[tonic::async_trait]
impl Captures for CaptureService {
    async fn list(
        &self,
        request: Request<v1::ListCapturesRequest>,
    ) -> Result<Response<v1::ListCapturesResponse>, Status> {
        let zone = request.into_inner().zone;
        let found = self.0.read().await?;
        let captures = found.captures.into_values().rev().filter(|capture| zone.is_empty() || capture.zone == zone);
        Ok(Response::new(v1::ListCapturesResponse { captures: captures.collect(), unreadable: found.unreadable }))
    }

    async fn get(&self, request: Request<v1::GetCaptureRequest>) -> Result<Response<v1::Capture>, Status> {
        let name = request.into_inner().name;
        let mut found = self.0.read().await?;
        let capture = found.captures.remove(&name).ok_or(Refused::NotFound { what: "capture", name })?;
        Ok(Response::new(capture))
    }
}
