//! What was in force when the process ended: the policy of the control plane and all filters, with the wall-clock time at
//! which that was written, so that deadlines go on while nobody is there to watch them.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use levee_api::config::ContentHash;
use levee_api::filter::{Filter, Origin};
use levee_api::grpc::FilterRequest;
use levee_api::grpc::dataplane::v1::Chunk;
use levee_api::grpc::v1;
use levee_api::prefix::Prefix;
use levee_api::time::Timestamp;
use levee_api::zone::Zone;
use levee_engine::sealed::{self, Kind};
use prost::Message;

use crate::files::{self, FileError};

const KIND: Kind = Kind { magic: *b"LVPF", version: 1 };
/// Name of the file in the dataplane's state directory.
const NAME: &str = "in-force";
/// Owner of what the reflex had installed before a restart: it ends by itself, detection decides anew.
const BEFORE_RESTART: &str = "reflex before the restart";

/// What was in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InForce {
    /// The file that the policy came on top of.
    pub config: Option<ContentHash>,
    /// Zones of the control plane.
    pub zones: Vec<Zone>,
    /// Protected prefixes.
    pub protected: Vec<Prefix>,
    /// Filters with the time that is left to them.
    pub filters: Vec<FilterRequest>,
}

/// Where it is kept.
pub fn path(state: &Path) -> PathBuf {
    state.join(NAME)
}

/// The filter that a request asks for; its id is given when it is installed.
pub fn filter_of(request: &FilterRequest, now: Timestamp) -> Filter {
    Filter {
        id: 0,
        target: request.target.clone(),
        roles: request.roles,
        rule: request.rule.clone(),
        action: request.action,
        deadline: now + request.ttl,
        origin: Origin::ControlPlane { owner: request.owner.clone() },
        witness: request.witness.clone(),
    }
}

/// A filter as it is asked for again after a restart.
pub fn request_of(filter: &Filter, now: Timestamp) -> FilterRequest {
    let owner = match &filter.origin {
        Origin::Reflex => BEFORE_RESTART.to_owned(),
        Origin::ControlPlane { owner } => owner.clone(),
    };
    FilterRequest {
        owner,
        target: filter.target.clone(),
        roles: filter.roles,
        rule: filter.rule.clone(),
        action: filter.action,
        ttl: filter.deadline.since(now),
        witness: filter.witness.clone(),
    }
}

/// Whether the reflex had installed a filter before a restart.
pub fn is_from_before_restart(filter: &Filter) -> bool {
    matches!(&filter.origin, Origin::ControlPlane { owner } if owner == BEFORE_RESTART)
}

impl InForce {
    /// As bytes of a file, written at `at`.
    pub fn to_bytes(&self, at: SystemTime) -> Vec<u8> {
        let chunk = Chunk {
            generation: self.config.map_or(0, |hash| hash.0),
            zones: self.zones.iter().map(v1::Zone::from).collect(),
            protected_prefixes: self.protected.iter().map(|prefix| v1::Prefix::from(*prefix)).collect(),
            filters: self.filters.iter().map(v1::FilterRequest::from).collect(),
            more_prefixes: Vec::new(),
        };
        let mut payload = unix_ns(at).to_le_bytes().to_vec();
        payload.extend(chunk.encode_to_vec());
        sealed::seal(KIND, &payload)
    }

    /// From the bytes of a file, as of `now`: filters whose deadline has passed meanwhile are left out. A clock that went
    /// back counts as no time.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn from_bytes(bytes: &[u8], now: SystemTime) -> Result<Self, String> {
        let payload = sealed::open(KIND, bytes).map_err(|error| error.to_string())?;
        let (at, chunk) = payload.split_first_chunk::<8>().ok_or("it is too short")?;
        let chunk = Chunk::decode(chunk).map_err(|error| error.to_string())?;
        let away = Duration::from_nanos(unix_ns(now).saturating_sub(u64::from_le_bytes(*at)));
        let filters: Result<Vec<FilterRequest>, _> = chunk.filters.iter().map(FilterRequest::try_from).collect();
        let mut filters = filters.map_err(|error| error.to_string())?;
        filters.retain_mut(|filter| {
            filter.ttl = filter.ttl.saturating_sub(away);
            !filter.ttl.is_zero()
        });
        let zones: Result<_, _> = chunk.zones.iter().map(Zone::try_from).collect();
        let protected: Result<_, _> = chunk.protected_prefixes.iter().map(Prefix::try_from).collect();
        Ok(Self {
            config: (chunk.generation != 0).then_some(ContentHash(chunk.generation)),
            zones: zones.map_err(|error| error.to_string())?,
            protected: protected.map_err(|error| error.to_string())?,
            filters,
        })
    }

    /// Reads the file of a state directory; nothing when there is none. One that cannot be used is told and left out.
    pub fn load(state: &Path) -> Self {
        let path = path(state);
        let read = files::read(&path).map_err(|error: FileError| error.to_string());
        let found = read.and_then(|bytes| match bytes {
            Some(bytes) => {
                Self::from_bytes(&bytes, SystemTime::now()).map_err(|reason| format!("{}: {reason}", path.display()))
            }
            None => Ok(Self::default()),
        });
        found.unwrap_or_else(|reason| {
            tracing::warn!("{reason}; starting with the configuration alone");
            Self::default()
        })
    }
}

fn unix_ns(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_api::filter::{Action, HeaderBox, Rule, Target};
    use levee_api::role::Role;

    fn in_force(ttl_s: u64) -> InForce {
        let filter = FilterRequest {
            owner: "incident-7".to_owned(),
            target: Target { zone: "web".to_owned(), prefix: Some("203.0.113.9".parse().unwrap()) },
            roles: Role::Syn.set(),
            rule: Rule::of(HeaderBox::any()),
            action: Action::Drop,
            ttl: Duration::from_secs(ttl_s),
            witness: "half-open".to_owned(),
        };
        InForce { config: Some(ContentHash(7)), filters: vec![filter], ..InForce::default() }
    }

    #[test]
    fn deadlines_go_on_while_the_process_is_away() {
        let then = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let bytes = in_force(60).to_bytes(then);
        let after = |seconds| InForce::from_bytes(&bytes, then + Duration::from_secs(seconds)).unwrap();
        assert_eq!(after(0), in_force(60));
        assert_eq!(after(45), in_force(15));
        assert_eq!(after(61).filters, []);
        assert_eq!(InForce::from_bytes(&bytes, then - Duration::from_secs(9)).unwrap(), in_force(60));
    }

    #[test]
    fn a_torn_file_is_refused() {
        let bytes = in_force(60).to_bytes(UNIX_EPOCH);
        for at in 0..bytes.len() {
            assert!(InForce::from_bytes(&bytes[..at], UNIX_EPOCH).is_err());
        }
    }
}
