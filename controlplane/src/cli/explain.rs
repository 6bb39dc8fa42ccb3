//! `leveectl explain`: why was this packet dropped.

use std::fmt::Write as _;
use std::process::ExitCode;

use levee_api::filter::Action;
use levee_api::grpc::v1;
use levee_api::grpc::v1::system_client::SystemClient;
use levee_api::prefix::Prefix;

use super::arguments::Output;
use super::client::{CallError, Client};
use super::table::Table;
use super::times::{grouped, length, share};
use super::{json, prefix_text, print, target};

pub(super) async fn run(client: Client, output: Output, address: Prefix) -> Result<ExitCode, CallError> {
    let request = v1::ExplainRequest { prefix: Some(address.into()) };
    let answer = SystemClient::new(client.channel()).explain(request).await?.into_inner();
    let text = match output {
        Output::Json => json::text("Explanation", &answer)?,
        Output::Table => told(&answer),
    };
    Ok(print(&text))
}

pub(super) fn told(answer: &v1::Explanation) -> String {
    let address = answer.prefix.as_ref().map(prefix_text).unwrap_or_default();
    let mut text = match (answer.zone.as_str(), answer.mode()) {
        ("", _) => format!("{address} is in no zone: Levee forwards everything to it.\n"),
        (zone, v1::Mode::Enforce) => format!("{address} is in zone {zone}, mode enforce: attacks on it are dropped.\n"),
        (zone, _) => format!("{address} is in zone {zone}, mode monitor: nothing is dropped by filters.\n"),
    };
    if !answer.protected_by.is_empty() {
        let protected: Vec<String> = answer.protected_by.iter().map(prefix_text).collect();
        let _ = writeln!(text, "Protected by the guardrails ({}): no filter touches that.", protected.join(", "));
    }
    if !answer.owned {
        text.push_str("Outside of owned_prefixes: nothing is asked of others about it.\n");
    }
    if !answer.incidents.is_empty() {
        let _ = writeln!(text, "Incidents: {} (leveectl incidents show)", answer.incidents.join(", "));
    }
    if !answer.dataplane_answers {
        text.push_str("\nThe dataplane does not answer: filters and counters are not known.\n");
        return text;
    }
    if let Some(traffic) = &answer.traffic {
        let (dropped, packets) = (traffic.dropped, traffic.packets);
        let part = share(dropped, packets);
        let _ = writeln!(
            text,
            "The zone has had {} packets, of which {} were dropped ({part}).",
            grouped(packets),
            grouped(dropped)
        );
    }
    text.push_str("\nFilters in force on it\n");
    text.push_str(&indented(&filters(answer)));
    if answer.filter_count > answer.filters.len() as u64 {
        let _ = writeln!(text, "  and {} more", answer.filter_count - answer.filters.len() as u64);
    }
    text.push_str("\nDropped from outside to inside, all addresses together, since the dataplane started\n");
    text.push_str(&indented(&reasons(answer)));
    text
}

fn filters(answer: &v1::Explanation) -> String {
    let mut table = Table::new(&["id", ">matched", "on", "action", "for", "by", "matches", "because"]);
    for filter in &answer.filters {
        let request = filter.request.clone().unwrap_or_default();
        let action = request.action.as_ref().and_then(|action| Action::try_from(action).ok());
        let action = action.map_or_else(|| "unknown".to_owned(), |action| action.to_string());
        table.row([
            filter.id.to_string(),
            grouped(filter.hits),
            target(request.target.as_ref()),
            if filter.simulated { format!("would {action}") } else { action },
            length(request.remaining_ns),
            if request.owner.is_empty() { "reflex".to_owned() } else { request.owner.clone() },
            format!("{}: {}", request.roles.join("+"), filter.r#match),
            request.witness,
        ]);
    }
    table.text("none")
}

fn reasons(answer: &v1::Explanation) -> String {
    let mut table = Table::new(&["reason", ">packets", "meaning"]);
    let mut reasons: Vec<(&String, &u64)> = answer.dropped.iter().collect();
    reasons.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
    for (reason, count) in reasons {
        table.row([reason.clone(), grouped(*count), meaning(reason).to_owned()]);
    }
    table.text("none")
}

/// In a few words; docs/reference/drop-reasons.md has all of them.
fn meaning(reason: &str) -> &'static str {
    match reason {
        "filter" => "matched a filter that drops",
        "limit" => "matched a filter that limits, above its rate",
        "challenge" => "had to be challenged, and could not be",
        "source_blocked" => "its source was blocked by a filter",
        "tx_full" => "the port that it was to leave by did not take it",
        "steer_full" => "the worker that it belongs to had no room",
        "source_set" => "its source is in an address set that drops",
        "non_ip_limit" => "not IP, above the limit of the wire",
        "icmp_error_limit" => "ICMP errors to this host above their limit",
        "discovery_limit" => "neighbour discovery to this host above its limit",
        "state_evicted" => "its state was evicted, and the configuration says drop",
        "encapsulation_too_deep" => "too many tunnels, and the configuration says drop",
        malformed if malformed.starts_with("malformed_") => "breaks a standard as only tools and damage do",
        _ => "see docs/reference/drop-reasons.md",
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
