//! `leveectl flowspec show`: what is announced, to whom, and who has it.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use levee_api::grpc::v1;
use levee_api::grpc::v1::mitigations_client::MitigationsClient;

use super::arguments::Output;
use super::client::{CallError, Client};
use super::mitigations::evidence;
use super::times::length;
use super::{json, print};
use crate::bgp::render::Syntax;

#[derive(Debug, Args)]
pub(super) struct Show {
    /// In which language.
    #[arg(long, value_enum, default_value_t = Syntax::Levee)]
    syntax: Syntax,
    /// Also blackholes and diversions.
    #[arg(long)]
    all: bool,
    /// So many routes at most, up to 1000.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

pub(super) async fn run(client: Client, output: Output, show: Show) -> Result<ExitCode, CallError> {
    let request = v1::ListRoutesRequest {
        syntax: show.syntax.name().to_owned(),
        rules_only: !show.all,
        page_size: show.limit,
        page_token: String::new(),
    };
    let answer = MitigationsClient::new(client.channel()).list_routes(request).await?.into_inner();
    let text = match output {
        Output::Json => json::text("ListRoutesResponse", &answer)?,
        Output::Table => shown(&answer),
    };
    Ok(print(&text))
}

/// Each route with what is known of it before it, as comments.
fn shown(answer: &v1::ListRoutesResponse) -> String {
    if answer.routes.is_empty() {
        return "Nothing is announced.\n".to_owned();
    }
    let mut text = String::new();
    for route in &answer.routes {
        let v1::AnnouncedRoute { mitigation, announcer, remaining_ns, .. } = route;
        let evidence = evidence(route.evidence());
        let _ = writeln!(text, "# measure {mitigation} by {announcer}, {evidence}, ends in {}", length(*remaining_ns));
        if !route.told.is_empty() {
            let _ = writeln!(text, "# told {}", route.told.join(", "));
        }
        for untold in &route.untold {
            let _ = writeln!(text, "# not told {}: {}", untold.peer, untold.reason);
        }
        for seen in &route.seen {
            let _ = writeln!(text, "# {} has it: {}", seen.router, seen.tables.join(", "));
        }
        if !route.nlri.is_empty() {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let actions: Vec<String> = route.actions.iter().map(|action| hex(action)).collect();
            let _ = writeln!(text, "# {} {}", hex(&route.nlri), actions.join(" "));
        }
        let _ = writeln!(text, "{}", route.text);
    }
    if answer.total > answer.routes.len() as u64 {
        let _ = writeln!(text, "# {} of {}; --limit shows more", answer.routes.len(), answer.total);
    }
    text
}
