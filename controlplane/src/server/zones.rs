//! The service Zones.

use std::collections::BTreeMap;
use std::time::Duration;

use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::v1;
use levee_api::grpc::v1::zones_server::Zones;
use levee_api::zone::Zone;
use tonic::{Request, Response, Status};

use super::link::{Handle, Knowledge, Refused};

/// Prefixes of a zone that are shown.
const SHOWN: usize = 100;
/// How long the dataplane may take to tell its counters.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Reads the configuration in force, and the dataplane's counters.
#[derive(Debug, Clone)]
pub(super) struct ZoneService(pub(super) Handle);

#[tonic::async_trait]
impl Zones for ZoneService {
    async fn list(&self, _: Request<v1::ListZonesRequest>) -> Result<Response<v1::ListZonesResponse>, Status> {
        let zones = self.statuses(|_| true).await?;
        Ok(Response::new(v1::ListZonesResponse { zones }))
    }

    async fn get(&self, request: Request<v1::GetZoneRequest>) -> Result<Response<v1::ZoneStatus>, Status> {
        let name = request.into_inner().name;
        let zone = self.statuses(|zone| zone.name == name).await?.pop();
        Ok(Response::new(zone.ok_or(Refused::NotFound { what: "zone", name })?))
    }
}

impl ZoneService {
    async fn statuses(&self, wanted: impl Fn(&Zone) -> bool) -> Result<Vec<v1::ZoneStatus>, Status> {
        let counters = counters(&self.0).await;
        let open = self.0.query(open_by_zone).await?;
        let config = self.0.config();
        let status = |zone: &Zone| v1::ZoneStatus {
            zone: Some(v1::Zone::from(&Zone {
                prefixes: zone.prefixes.iter().take(SHOWN).copied().collect(),
                ..zone.clone()
            })),
            prefixes: zone.prefixes.len() as u64,
            incidents: open.get(&zone.name).copied().unwrap_or_default(),
            traffic: counters.as_ref().and_then(|counters| traffic(counters, &zone.name)),
        };
        Ok(config.zones.iter().filter(|zone| wanted(zone)).map(status).collect())
    }
}

/// Incidents that are not closed, by zone.
pub(super) fn open_by_zone(known: &dyn Knowledge) -> BTreeMap<String, u64> {
    let mut open = BTreeMap::new();
    for incident in known.incidents().filter(|incident| incident.is_open()) {
        *open.entry(incident.target.zone.clone()).or_default() += 1;
    }
    open
}

/// The dataplane's counters, if it answers soon.
pub(super) async fn counters(handle: &Handle) -> Option<contract::CountersResponse> {
    let mut dataplane = handle.dataplane()?;
    let answer = tokio::time::timeout(ANSWER_WITHIN, dataplane.client.counters(contract::CountersRequest::default()));
    match answer.await {
        Ok(Ok(counters)) => Some(counters.into_inner()),
        Ok(Err(status)) => {
            tracing::debug!(%status, "the dataplane does not tell its counters");
            None
        }
        Err(_) => None,
    }
}

/// Those of one zone.
pub(super) fn traffic(counters: &contract::CountersResponse, zone: &str) -> Option<v1::ZoneTraffic> {
    let zone = counters.zones.iter().find(|counted| counted.zone == zone)?;
    Some(v1::ZoneTraffic { packets: zone.packets, bytes: zone.bytes, dropped: zone.dropped })
}
