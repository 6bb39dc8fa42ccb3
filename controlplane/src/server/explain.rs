//! "Why was this packet dropped": what is known of one address, from both planes.

use std::collections::BTreeMap;
use std::time::Duration;

use levee_api::grpc::v1;
use levee_api::prefix::Prefix;

use super::link::{Handle, Refused};
use super::zones::traffic;
use crate::dataplane::Snapshot;

/// Filters that are shown.
const SHOWN: usize = 100;
/// How long the dataplane may take to tell what is in force.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Everything known of an address.
pub(super) async fn explanation(handle: &Handle, prefix: Prefix) -> Result<v1::Explanation, Refused> {
    let config = handle.config();
    let zone = config.zones.iter().find(|zone| zone.prefixes.iter().any(|own| own.overlaps(&prefix)));
    let snapshot = snapshot(handle).await;
    let stopped = handle.query(|known| known.kill_switch().is_some_and(|switch| switch.engaged)).await?;
    let incidents = handle.query(move |known| {
        let concerned = known.incidents().filter(|incident| {
            incident.is_open() && incident.target.prefix.is_some_and(|target| target.overlaps(&prefix))
        });
        concerned.map(|incident| incident.id.to_string()).collect()
    });
    let zone_name = zone.map(|zone| zone.name.as_str());
    let filters = snapshot.as_ref().map(|snapshot| in_force_on(snapshot, prefix, zone_name)).unwrap_or_default();
    let guardrails = &config.guardrails;
    let protected = guardrails.protected_prefixes.iter().filter(|protected| protected.overlaps(&prefix));
    let mode = match zone {
        Some(_) if stopped => v1::Mode::Monitor,
        Some(zone) => v1::Mode::from(zone.mode),
        None => v1::Mode::Unspecified,
    };
    Ok(v1::Explanation {
        prefix: Some(prefix.into()),
        zone: zone.map(|zone| zone.name.clone()).unwrap_or_default(),
        mode: mode.into(),
        protected_by: protected.copied().map(Into::into).collect(),
        owned: guardrails.owned_prefixes.iter().any(|owned| owned.covers(&prefix)),
        filter_count: filters.len() as u64,
        filters: filters.into_iter().take(SHOWN).collect(),
        incidents: incidents.await?,
        dropped: snapshot.as_ref().map(dropped).unwrap_or_default(),
        traffic: zone.and_then(|zone| traffic(&snapshot.as_ref()?.counters, &zone.name)),
        dataplane_answers: snapshot.is_some(),
    })
}

async fn snapshot(handle: &Handle) -> Option<Snapshot> {
    let mut dataplane = handle.dataplane()?;
    tokio::time::timeout(ANSWER_WITHIN, dataplane.snapshot()).await.ok()?.ok()
}

/// The filters whose target covers the address or is inside it, and those of its whole zone; most hits first.
fn in_force_on(snapshot: &Snapshot, prefix: Prefix, zone: Option<&str>) -> Vec<v1::Filter> {
    let concerns = |filter: &&v1::Filter| {
        let target = filter.request.as_ref().and_then(|request| request.target.as_ref());
        target.is_some_and(|target| match &target.prefix {
            Some(on) => Prefix::try_from(on).is_ok_and(|on| on.overlaps(&prefix)),
            None => zone == Some(target.zone.as_str()),
        })
    };
    let mut filters: Vec<v1::Filter> = snapshot.filters.iter().filter(concerns).cloned().collect();
    filters.sort_by_key(|filter| (std::cmp::Reverse(filter.hits), filter.id));
    filters
}

/// Packets dropped on all wires from outside to inside.
fn dropped(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for direction in snapshot.counters.wires.iter().filter_map(|wire| wire.inbound.as_ref()) {
        for (reason, count) in direction.dropped.iter().filter(|(_, count)| **count > 0) {
            *all.entry(reason.clone()).or_default() += count;
        }
    }
    all
}
