//! `leveectl zones`.

use std::process::ExitCode;

use levee_api::grpc::v1;
use levee_api::grpc::v1::zones_client::ZonesClient;

use super::arguments::Output;
use super::client::{CallError, Client};
use super::table::Table;
use super::times::{grouped, share};
use super::{json, or_dash, prefix_text, print};

pub(super) async fn run(client: Client, output: Output, name: Option<String>) -> Result<ExitCode, CallError> {
    let mut zones = ZonesClient::new(client.channel());
    let answer = match name {
        None => zones.list(v1::ListZonesRequest {}).await?.into_inner(),
        Some(name) => v1::ListZonesResponse { zones: vec![zones.get(v1::GetZoneRequest { name }).await?.into_inner()] },
    };
    let text = match output {
        Output::Json => json::text("ListZonesResponse", &answer)?,
        Output::Table => told(&answer),
    };
    Ok(print(&text))
}

fn told(answer: &v1::ListZonesResponse) -> String {
    let mut table =
        Table::new(&["zone", "mode", "prefixes", "runbook", ">incidents", ">packets", ">dropped", ">share"]);
    for status in &answer.zones {
        let zone = status.zone.clone().unwrap_or_default();
        let shown: Vec<String> = zone.prefixes.iter().take(2).map(prefix_text).collect();
        let more = status.prefixes.saturating_sub(shown.len() as u64);
        let counted = |value: fn(&v1::ZoneTraffic) -> u64| {
            status.traffic.as_ref().map_or_else(|| "unknown".to_owned(), |traffic| grouped(value(traffic)))
        };
        table.row([
            zone.name.clone(),
            if zone.mode() == v1::Mode::Enforce { "enforce" } else { "monitor" }.to_owned(),
            if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") },
            or_dash(zone.runbook.as_deref().unwrap_or_default()).to_owned(),
            status.incidents.to_string(),
            counted(|traffic| traffic.packets),
            counted(|traffic| traffic.dropped),
            status.traffic.as_ref().map_or_else(|| "-".to_owned(), |traffic| share(traffic.dropped, traffic.packets)),
        ]);
    }
    table.text("The configuration has no zones.")
}
