//! The pages of `docs/reference` that are made from tables in the code say what the code says.
//!
//! With `LEVEE_WRITE_DOCS=1` in the environment they are written instead of checked.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use levee_api::lane::{Bits, Lane, TcpFlags};
use levee_api::role::{Role, RoleSet};
use levee_api::vector::Vector;
use levee_api::zone::{Challenge, Mode, Visibility, Zone};
use levee_engine::detect::classify::about::about;
use levee_engine::detect::node::Peace;
use levee_engine::reflex::{Answer, Target, answer};
use levee_engine::verdict::Reason;

fn check(page: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(page);
    if std::env::var_os("LEVEE_WRITE_DOCS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, expected).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == expected,
        "docs/reference/{page} differs from the code: run `LEVEE_WRITE_DOCS=1 cargo test -p levee-engine --test \
         reference_pages` and review the change"
    );
}

/// A table with a header line; cells are escaped.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let line = |cells: [String; N]| format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    let mut table = line(head.map(str::to_owned)) + &"|---".repeat(N) + "|\n";
    table.extend(rows.map(line));
    table
}

fn bits(name: &str, value: u16) -> [String; 3] {
    [value.trailing_zeros().to_string(), format!("{value:#06x}"), name.replace('_', " ")]
}

#[test]
fn lanes_are_documented() {
    let lanes = table(
        ["lane", "name", "what it holds"],
        Lane::ALL
            .into_iter()
            .map(|lane| [lane.index().to_string(), format!("`{lane}`"), lane.description().to_owned()]),
    );
    let properties = table(
        ["bit", "value", "property"],
        Bits::all().iter_names().map(|(name, bit)| bits(&name.to_lowercase(), bit.bits())),
    );
    let flags =
        table(["bit", "value", "flag"], TcpFlags::all().iter_names().map(|(name, flag)| bits(name, flag.bits())));
    let page = format!(
        "# Lanes\n\nA packet is read into 32 lanes of 16 bits, and everything after that decides on them alone: they are what a \
         filter can match. Values are in host order; what a packet does not have is zero. Of malformed packets the lanes hold \
         what was read before the mistake.\n\n{lanes}\n## Properties: the lane `bits`\n\n{properties}\n## TCP flags: the lane \
         `tcp_flags`\n\n{flags}"
    );
    check("lanes.md", &page);
}

#[test]
fn drop_reasons_are_documented() {
    let reasons = table(
        ["reason", "in reports and metrics", "what it means"],
        Reason::ALL
            .iter()
            .map(|reason| [reason.index().to_string(), format!("`{reason}`"), reason.description().to_owned()]),
    );
    let page = format!(
        "# Drop reasons\n\nEvery packet that Levee drops is counted under exactly one of these reasons, per wire and direction: \
         received = forwarded + replied + the sum of them. Those that begin with `malformed_` are \
         for packets that break a standard in a way that only tools and damage do.\n\n{reasons}"
    );
    check("drop-reasons.md", &page);
}

/// What answers packets of these roles in a zone that has had peace without them.
fn answers(roles: RoleSet) -> String {
    let zone = Zone {
        name: "zone".to_owned(),
        prefixes: Vec::new(),
        mode: Mode::Enforce,
        services: Vec::new(),
        services_complete: false,
        visibility: Visibility::Both,
        link_capacity_bps: None,
        floors: Vec::new(),
        challenge: Challenge::default(),
        challenge_dns: false,
        runbook: None,
    };
    let mut peace = Peace::default();
    peace.packets = 1e6;
    let (peace, zone_peace) = (&peace, &peace);
    let target = Target { zone: &zone, peace, zone_peace, is_rare: true, sees_inside: true, is_ipv6: false };
    let of = |role: Role| match answer(role, &target, None) {
        Answer::DropRole | Answer::DropOnly(_) => format!("{role}: dropped"),
        Answer::LimitRole | Answer::LimitPings(_) => format!("{role}: limited"),
        Answer::Challenge(_) => format!("{role}: challenged"),
        Answer::LimitSources(_) => format!("{role}: each source limited"),
        Answer::BlockIdle => format!("{role}: sources blocked"),
        Answer::Signature => format!("{role}: signature"),
        Answer::None => format!("{role}: dropped at once, attack or not"),
    };
    roles.iter().map(of).collect::<Vec<_>>().join("; ")
}

#[test]
fn vectors_are_documented() {
    let vectors = table(
        ["vector", "what it is", "told by", "answer by role"],
        Vector::ALL.iter().map(|vector| {
            let about = about(*vector);
            [format!("`{vector}`"), vector.description().to_owned(), about.evidence, answers(about.roles)]
        }),
    );
    let page = format!(
        "# Attack vectors\n\nWhat an attack is, is told from samples of the role that is above its threshold. A vector is named when at \
         least one in 20 samples shows it, so that an attack may have several, and anew each second while it lasts. Its confidence is the \
         share of samples that show it times how clearly they do; its evidence says how many do, and what else they have in common.\n\n\
         The answer follows from the role, not from the vector. *dropped*: in the tick of the alarm, everything of the role, if there was \
         next to none of it in peace and, where the role relies on the memory of conversations, this is old enough; else as with a \
         signature. *challenged*: \
         sources are asked whether they are what they say, as the zone has it, while a signature is looked for. Connections that are opened and not used are answered by blocking their sources. *each source limited*: to one and a half times the most that one has sent in peace. *signature*: what tells the attack from peace is looked for, and dropped once it is found; echo replies that nobody asked for are dropped as such, and sources of many echo requests limited to five a second each. Where the return direction is not seen, nothing is dropped: it is limited to what of it was there in peace. The last two vectors are \
         properties of an attack, named beside the others.\n\n{vectors}"
    );
    check("vectors.md", &page);
}
