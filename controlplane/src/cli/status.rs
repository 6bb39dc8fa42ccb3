//! `leveectl status` and `leveectl kill-switch`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Subcommand;
use levee_api::grpc::v1;
use levee_api::grpc::v1::system_client::SystemClient;

use super::arguments::{Changing, Output};
use super::client::{CallError, Client};
use super::table::Table;
use super::times::{between, grouped, moment, now, share};
use super::{json, print};

#[derive(Debug, Subcommand)]
pub(super) enum KillSwitchCommand {
    /// Withdraw everything, and only watch from now on.
    On {
        /// Why; it is written down.
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        changing: Changing,
    },
    /// Go on as the configuration says.
    Off {
        /// Why; it is written down.
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        changing: Changing,
    },
}

pub(super) async fn run(client: Client, output: Output) -> Result<ExitCode, CallError> {
    let mut system = SystemClient::new(client.channel());
    let status = system.get_status(v1::GetStatusRequest {}).await?.into_inner();
    let text = match output {
        Output::Json => json::text("Status", &status)?,
        Output::Table => told(&status, now()),
    };
    Ok(print(&text))
}

fn told(status: &v1::Status, now: u64) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14}{value}");
    };
    let config = status.config.clone().unwrap_or_default();
    line("appliance", &format!("{}, Levee {}", status.appliance, status.version));
    line("up", &format!("{} (since {})", between(status.started_unix_ns, now), moment(status.started_unix_ns)));
    line("ceiling", if status.mode() == v1::Mode::Enforce { "enforce" } else { "monitor" });
    line("configuration", &format!("{} ({})", config.path, config.hash));
    if let Some(until) = config.confirm_by_unix_ns {
        line("", &format!("on trial: goes back in {} unless confirmed", between(now, until)));
    }
    if let Some(switch) = status.kill_switch.as_ref().filter(|switch| switch.on) {
        let since = switch.since_unix_ns.map(moment).unwrap_or_default();
        let why = if switch.reason.is_empty() { String::new() } else { format!(": {}", switch.reason) };
        line("KILL SWITCH", &format!("on since {since}, by {}{why}", switch.by));
    }
    let dataplane = status.dataplane.clone().unwrap_or_default();
    if dataplane.connected {
        line("dataplane", &format!("connected, policy generation {}", dataplane.generation));
    } else {
        line("dataplane", "does not answer");
    }
    let incidents = status.incidents.unwrap_or_default();
    let v1::IncidentCounts { attack, calm, closed } = incidents;
    line("incidents", &format!("{attack} under attack, {calm} calm, {closed} closed"));
    let v1::MitigationCounts { pending, active, withdrawing, failed } = status.mitigations.unwrap_or_default();
    line("mitigations", &format!("{active} active, {pending} pending, {withdrawing} being withdrawn, {failed} failed"));
    if !dataplane.wires.is_empty() {
        text.push('\n');
        text.push_str(&wires(&dataplane.wires));
    }
    for trouble in &status.troubles {
        let _ = write!(text, "\nATTENTION: {trouble}");
    }
    if !status.troubles.is_empty() {
        text.push('\n');
    }
    text
}

fn wires(wires: &[v1::WireStatus]) -> String {
    let mut table = Table::new(&[
        "wire",
        "direction",
        ">received",
        ">forwarded",
        ">answered",
        ">dropped",
        ">share",
        ">lost before",
    ]);
    for wire in wires {
        for (direction, traffic) in [("inbound", &wire.inbound), ("outbound", &wire.outbound)] {
            let Some(traffic) = traffic else { continue };
            let dropped: u64 = traffic.dropped.values().sum();
            table.row([
                wire.name.clone(),
                direction.to_owned(),
                grouped(traffic.received),
                grouped(traffic.forwarded),
                grouped(traffic.replied),
                grouped(dropped),
                share(dropped, traffic.received),
                traffic.lost_before.map_or_else(|| "unknown".to_owned(), grouped),
            ]);
        }
    }
    table.text("")
}

pub(super) async fn kill_switch(
    client: Client,
    output: Output,
    command: KillSwitchCommand,
) -> Result<ExitCode, CallError> {
    let (on, reason, changing) = match command {
        KillSwitchCommand::On { reason, changing } => (true, reason, changing),
        KillSwitchCommand::Off { reason, changing } => (false, reason, changing),
    };
    let request = v1::SetKillSwitchRequest { request_id: changing.id(), validate_only: changing.dry_run, on, reason };
    let answer = SystemClient::new(client.channel()).set_kill_switch(request).await?.into_inner();
    let text = match output {
        Output::Json => json::text("SetKillSwitchResponse", &answer)?,
        Output::Table if changing.dry_run => "It would be done.\n".to_owned(),
        Output::Table if on => {
            format!("The kill switch is on: {} measures are being withdrawn, zones only watch.\n", answer.withdrawing)
        }
        Output::Table => "The kill switch is off: zones do what the configuration says.\n".to_owned(),
    };
    Ok(print(&text))
}
