//! The dataplane's events as JSON Lines: one object per line, described in `docs/reference/events.md`.

use std::net::{Ipv4Addr, Ipv6Addr};

use levee_api::filter::Action;
use levee_api::grpc::dataplane::v1 as contract;
use levee_api::grpc::dataplane::v1::event::What;
use levee_api::grpc::v1;
use levee_api::prefix::Prefix;
use serde_json::{Map, Value, json};

use crate::dataplane::Snapshot;

/// One event.
pub fn of_event(event: &contract::Event) -> Value {
    let (name, details) = match &event.what {
        Some(What::AnomalyOpened(told)) => ("anomaly_opened", anomaly(told)),
        Some(What::AnomalyUpdated(told)) => ("anomaly_updated", anomaly(told)),
        Some(What::AnomalyEnded(told)) => ("anomaly_ended", anomaly(told)),
        Some(What::FilterInstalled(told)) => ("filter_installed", filter(told)),
        Some(What::FilterRemoved(told)) => {
            let reason = match told.reason() {
                contract::RemovalReason::Expired => "expired",
                contract::RemovalReason::Retired => "retired",
                contract::RemovalReason::Replaced => "replaced",
                contract::RemovalReason::Withdrawn => "withdrawn",
                contract::RemovalReason::PolicyChanged => "policy_changed",
                contract::RemovalReason::Unspecified => "unknown",
            };
            let of = filter(told.filter.as_ref().unwrap_or(&v1::Filter::default()));
            ("filter_removed", with(of, json!({ "reason": reason })))
        }
        Some(What::StateChanged(told)) => {
            let role = role_status(told.role.as_ref().unwrap_or(&contract::RoleStatus::default()));
            ("state_changed", with(with(target(told.target.as_ref()), role), json!({ "from": state(told.from()) })))
        }
        Some(What::TargetMerged(told)) => {
            let into = told.into.as_ref().map(|into| rendered(into.prefix.as_ref()));
            ("target_merged", with(target(told.host.as_ref()), json!({ "into": into, "role": told.role })))
        }
        Some(What::VisibilityChanged(told)) => {
            ("visibility_changed", json!({ "zone": told.zone, "sees_inside": told.sees_inside }))
        }
        Some(What::BaselineChanged(told)) => {
            let lesson = match told.lesson() {
                contract::Lesson::Merged => "merged",
                contract::Lesson::Held => "held",
                contract::Lesson::Unspecified => "unknown",
            };
            let details = json!({ "role": told.role, "lesson": lesson, "threshold_pps": told.threshold_pps });
            ("baseline_changed", with(target(told.target.as_ref()), details))
        }
        Some(What::FilterLeftOut(told)) => {
            let contract::FilterLeftOut { filter, first, targets, why } = told;
            (
                "filter_left_out",
                with(target(first.as_ref()), json!({ "filter": filter, "targets": targets, "why": why })),
            )
        }
        Some(What::PolicyCommitted(told)) => {
            let contract::PolicyCommitted { generation, zones, filters } = told;
            ("policy_committed", json!({ "generation": generation, "zones": zones, "filters": filters }))
        }
        Some(What::Gap(told)) => ("gap", json!({ "reason": told.reason })),
        // A dataplane of a later minor version.
        None => ("unknown", json!({})),
    };
    let head = json!({
        "event": name,
        "time_unix_ns": event.time_unix_ns,
        "monotonic_ns": event.monotonic_ns,
        "boot_id": event.boot_id,
        "sequence": event.sequence,
    });
    with(head, details)
}

/// A snapshot: a line for each thing in force, and at last one that says that it is complete.
///
/// Only the last has a sequence number: who stopped before it has not got the snapshot.
pub fn of_snapshot(snapshot: &Snapshot) -> Vec<Value> {
    let contract::SnapshotHeader { boot_id, sequence, generation, config_hash } = &snapshot.header;
    let head = |name: &str| json!({ "event": name, "boot_id": boot_id });
    let anomalies = snapshot.anomalies.iter().map(|told| with(head("anomaly_in_force"), anomaly(told)));
    let filters = snapshot.filters.iter().map(|told| with(head("filter_in_force"), filter(told)));
    let end = json!({
        "sequence": sequence,
        "generation": generation,
        "config_hash": config_hash,
        "zones": snapshot.zones,
        "anomalies": snapshot.anomalies.len(),
        "filters": snapshot.filters.len(),
    });
    anomalies.chain(filters).chain([with(head("snapshot"), end)]).collect()
}

/// Where a file of events ends: boot id and sequence number of a line up to which nothing is missing.
pub fn position(line: &str) -> Option<(String, u64)> {
    let line: Value = serde_json::from_str(line).ok()?;
    // After a gap something is missing until the snapshot is complete.
    if line.get("event")? == "gap" {
        return None;
    }
    Some((line.get("boot_id")?.as_str()?.to_owned(), line.get("sequence")?.as_u64()?))
}

fn anomaly(told: &contract::Anomaly) -> Value {
    let vectors = told.vectors.iter().map(
        |finding| json!({ "name": finding.vector, "confidence": finding.confidence, "evidence": finding.evidence }),
    );
    let details = json!({
        "anomaly": told.id,
        "roles": told.roles.iter().map(role_status).collect::<Vec<_>>(),
        "vectors": vectors.collect::<Vec<_>>(),
        "pps": told.pps,
        "bps": told.bps,
        "dropped_pps": told.dropped_pps,
        "peak_pps": told.peak_pps,
        "peak_bps": told.peak_bps,
        "goodput_ratio": told.goodput_ratio,
        "sources": told.sources,
        "detected_at_ns": told.detected_at_ns,
    });
    with(target(told.target.as_ref()), details)
}

fn filter(told: &v1::Filter) -> Value {
    let nothing = v1::FilterRequest::default();
    let request = told.request.as_ref().unwrap_or(&nothing);
    let action = request.action.as_ref().and_then(|action| Action::try_from(action).ok());
    let action = action.map_or_else(|| "unknown".to_owned(), |action| action.to_string());
    let details = json!({
        "filter": told.id,
        "owner": if request.owner.is_empty() { "reflex" } else { &request.owner },
        "roles": request.roles,
        "match": told.r#match,
        "action": action,
        "remaining_ns": request.remaining_ns,
        "witness": request.witness,
        "hits": told.hits,
        "simulated": told.simulated,
    });
    with(target(request.target.as_ref()), details)
}

fn role_status(told: &contract::RoleStatus) -> Value {
    json!({
        "role": told.role,
        "state": state(told.state()),
        "rate_pps": told.rate_pps,
        "threshold_pps": told.threshold_pps,
        "witness": told.witness,
    })
}

fn state(state: contract::TargetState) -> &'static str {
    match state {
        contract::TargetState::Normal => "normal",
        contract::TargetState::Watch => "watch",
        contract::TargetState::Attack => "attack",
        contract::TargetState::Hold => "hold",
        contract::TargetState::Unspecified => "unknown",
    }
}

fn target(target: Option<&v1::Target>) -> Value {
    let zone = target.map(|target| target.zone.as_str());
    json!({ "target": rendered(target.and_then(|target| target.prefix.as_ref())), "zone": zone })
}

/// A host as its address, a network as its prefix, a whole zone as null.
fn rendered(prefix: Option<&v1::Prefix>) -> Option<String> {
    let message = prefix?;
    match Prefix::try_from(message) {
        Ok(prefix) if prefix.is_host() => Some(prefix.address().to_string()),
        Ok(prefix) => Some(prefix.to_string()),
        Err(_) => {
            // What breaks the contract is shown as it came.
            let bytes = message.address.as_slice();
            let address = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).to_string());
            let address =
                address.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).to_string()));
            Some(format!("{}/{}", address.unwrap_or_else(|_| format!("{bytes:?}")), message.length))
        }
    }
}

fn with(head: Value, details: Value) -> Value {
    let mut fields = match head {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    if let Value::Object(details) = details {
        fields.extend(details);
    }
    Value::Object(fields)
}
