//! What the embedded speaker announces, to whom, and who has it.

use std::collections::BTreeMap;

use levee_api::grpc::v1;

use super::fields::{Page, Paged};
use super::link::Knowledge;
use super::view;
use crate::bgp::flowspec::TrafficAction;
use crate::bgp::render::{Syntax, render};
use crate::bgp::route::Destination;
use crate::bgp::speaker::Standing;
use crate::clock::nanoseconds;
use crate::ledger::{Evidence, MitigationId, Spec};

/// A page of routes, the newest measure first, each in this language.
pub(super) fn listed(known: &dyn Knowledge, syntax: Syntax, rules_only: bool, page: Page) -> Paged<v1::AnnouncedRoute> {
    let mut all = known.bgp_routes();
    all.retain(|(_, standing)| !rules_only || matches!(standing.spec, Spec::FlowSpec { .. }));
    all.sort_by_key(|(_, standing)| std::cmp::Reverse(standing.id));
    let Paged { entries, next, total } = page.of(all.into_iter().map(|one| (one.1.id.0, one)));
    let ids = |(_, standing): &(String, Standing)| standing.id;
    let wanted: Vec<MitigationId> = entries.iter().map(ids).collect();
    let evidence: BTreeMap<MitigationId, Option<Evidence>> =
        known.mitigations().filter(|one| wanted.contains(&one.id)).map(|one| (one.id, one.evidence)).collect();
    let route = |(announcer, standing): (String, Standing)| {
        let evidence = evidence.get(&standing.id).copied().flatten();
        one(announcer, standing, evidence, syntax)
    };
    Paged { entries: entries.into_iter().map(route).collect(), next, total }
}

fn one(announcer: String, standing: Standing, evidence: Option<Evidence>, syntax: Syntax) -> v1::AnnouncedRoute {
    let Standing { id, spec, destination, remaining, told, seen } = standing;
    let nlri = match destination.as_ref() {
        Destination::Rule(_, bytes) => bytes.clone(),
        Destination::Prefix(_) => Vec::new(),
    };
    let (actions, text) = match &spec {
        Spec::FlowSpec { rule, action } => {
            let community = TrafficAction::of(rule, action).map(|action| action.encode().to_vec());
            let text = render(syntax, &format!("levee-{id}"), rule, action).unwrap_or_else(|why| format!("# {why}"));
            (community.into_iter().collect(), text)
        }
        other => (Vec::new(), other.to_string()),
    };
    v1::AnnouncedRoute {
        mitigation: id.to_string(),
        announcer,
        evidence: evidence.map_or(v1::Evidence::Unspecified, view::evidence).into(),
        spec: spec.to_string(),
        text,
        nlri,
        actions,
        remaining_ns: nanoseconds(remaining),
        told: told.by,
        untold: told.not.into_iter().map(|(peer, reason)| v1::UntoldPeer { peer, reason }).collect(),
        seen: seen
            .into_iter()
            .map(|sighting| v1::RouteSighting {
                router: sighting.router,
                tables: sighting.tables.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    }
}
