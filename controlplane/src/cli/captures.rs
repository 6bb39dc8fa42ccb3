//! `leveectl capture`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use levee_api::grpc::v1;
use levee_api::grpc::v1::captures_client::CapturesClient;

use super::arguments::Output;
use super::client::{CallError, Client};
use super::table::Table;
use super::times::grouped;
use super::{json, or_dash, print};

#[derive(Debug, Subcommand)]
pub(super) enum CaptureCommand {
    /// All captures, the newest first.
    List {
        /// Only those of this zone.
        #[arg(long, default_value = "")]
        zone: String,
    },
    /// What is known of one capture; with --to, a copy of its packets.
    Get {
        /// Its name.
        name: String,
        /// Copy the packets into this file, which must not exist. Needs the right to read the original.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

pub(super) async fn run(client: Client, output: Output, command: CaptureCommand) -> Result<ExitCode, CallError> {
    let mut captures = CapturesClient::new(client.channel());
    match command {
        CaptureCommand::List { zone } => {
            let answer = captures.list(v1::ListCapturesRequest { zone }).await?.into_inner();
            let text = match output {
                Output::Json => json::text("ListCapturesResponse", &answer)?,
                Output::Table => listed(&answer),
            };
            Ok(print(&text))
        }
        CaptureCommand::Get { name, to } => {
            let capture = captures.get(v1::GetCaptureRequest { name }).await?.into_inner();
            if let Some(to) = &to {
                copy(&capture, to)?;
            }
            let text = match output {
                Output::Json => json::text("Capture", &capture)?,
                Output::Table => told(&capture),
            };
            Ok(print(&text))
        }
    }
}

/// A copy that only its owner and his group may read, as the original.
fn copy(capture: &v1::Capture, to: &std::path::Path) -> Result<(), CallError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |what: &str, error: std::io::Error| CallError::Here(format!("cannot {what}: {error}"));
    let mut from =
        std::fs::File::open(&capture.path).map_err(|error| failed(&format!("read {}", capture.path), error))?;
    let copy = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(to);
    let mut copy = copy.map_err(|error| failed(&format!("write {}", to.display()), error))?;
    std::io::copy(&mut from, &mut copy).map_err(|error| failed(&format!("write {}", to.display()), error))?;
    copy.sync_all().map_err(|error| failed(&format!("write {}", to.display()), error))
}

fn listed(answer: &v1::ListCapturesResponse) -> String {
    let mut table = Table::new(&["capture", "zone", "target", "attack", ">packets", ">bytes", "state"]);
    for capture in &answer.captures {
        let attack =
            if capture.attack { or_dash(&capture.vectors.join(", ")).to_owned() } else { "watched".to_owned() };
        table.row([
            capture.name.clone(),
            capture.zone.clone(),
            capture.target.clone(),
            attack,
            grouped(capture.packets),
            grouped(capture.bytes),
            state(capture),
        ]);
    }
    let mut text = table.text("There are no captures.");
    for unreadable in &answer.unreadable {
        let _ = writeln!(text, "cannot be read: {unreadable}");
    }
    text
}

fn state(capture: &v1::Capture) -> String {
    match (capture.sealed, capture.truncated.as_str()) {
        (false, _) => "being written".to_owned(),
        (true, "") => "whole".to_owned(),
        (true, why) => format!("cut ({why})"),
    }
}

fn told(capture: &v1::Capture) -> String {
    let vectors = capture.vectors.join(", ");
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line("capture", &capture.name);
    line("file", &capture.path);
    line("target", &format!("{} in zone {}", capture.target, capture.zone));
    line("detected", &capture.detected_at);
    line("packets", &format!("{}, {} from before", grouped(capture.packets), grouped(capture.packets_before)));
    line("from, to", &format!("{}, {}", or_dash(&capture.first_packet_at), or_dash(&capture.last_packet_at)));
    line("roles", or_dash(&capture.roles.join(", ")));
    line("attack", if capture.attack { or_dash(&vectors) } else { "only watched" });
    line("bytes", &grouped(capture.bytes));
    line("sha256", or_dash(&capture.sha256));
    line("addresses", if capture.addresses_truncated { "cut to /24 and /48" } else { "whole" });
    line("state", &state(capture));
    text
}
