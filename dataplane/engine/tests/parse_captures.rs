//! Real captures, where they are present: nothing legitimate is called malformed, and etherparse reads them as we do.
//!
//! The captures are not part of this repository. They are looked for in `LEVEE_SHARED`, else in `shared` beside it.
#![expect(clippy::unwrap_used, reason = "a test")]

mod oracle;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use levee_api::lane::Lane;
use levee_engine::packet::{Kind, Lanes, Packet, parse, quic};
use levee_engine::verdict::Reason;

/// The folder beside the repository, or nothing, with the reason printed.
fn shared() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = std::env::var_os("LEVEE_SHARED").map_or_else(beside, PathBuf::from);
    if folder.join("captures").is_dir() {
        return Some(folder);
    }
    println!("skipped: no captures in {} (set LEVEE_SHARED)", folder.display());
    None
}

/// Calls `each` for every packet of a classic Ethernet capture, up to its end or damage; for none of other files.
fn read(path: &Path, mut each: impl FnMut(Packet<'_>)) {
    let bytes = std::fs::read(path).unwrap();
    let number = |at: usize| -> Option<u32> {
        let field = *bytes.get(at..)?.first_chunk()?;
        let swapped = matches!(bytes.get(..2), Some([0xa1, _]));
        Some(if swapped { u32::from_be_bytes(field) } else { u32::from_le_bytes(field) })
    };
    let is_known = matches!(number(0), Some(0xa1b2_c3d4 | 0xa1b2_3c4d));
    if !is_known || number(20).is_none_or(|link| link & 0xffff != 1) {
        return;
    }
    let mut at = 24;
    while let (Some(present), Some(wire_len)) = (number(at + 8), number(at + 12)) {
        let end = at + 16 + usize::try_from(present).unwrap();
        let Some(head) = bytes.get(at + 16..end) else { return };
        each(Packet { head, wire_len });
        at = end;
    }
}

/// What legitimate captures hold that no network does. Everything else in them is legal.
const RECORDED_OTHERWISE: [(&str, &[Reason]); 3] = [
    // Client and server on one host, over its loopback address.
    ("malcolm__protocols_MySQL.pcap", &[Reason::Land]),
    ("retina__traces_quic_retry.pcapng", &[Reason::Land]),
    // Its bytes were damaged at random before it was published.
    (
        "malcolm__protocols_RADIUS.pcap",
        &[
            Reason::FragmentLength,
            Reason::IpVersion,
            Reason::Ipv4Length,
            Reason::Ipv4Options,
            Reason::Land,
            Reason::UdpLength,
        ],
    ),
];

/// The captures that the manifest beside them calls legitimate traffic.
fn benign(shared: &Path) -> Vec<PathBuf> {
    let manifest = std::fs::read_to_string(shared.join("eval/captures.toml")).unwrap();
    let value = |line: &str| line.split('"').nth(1).map(str::to_owned);
    let mut file = None;
    let mut files = Vec::new();
    for line in manifest.lines() {
        if line.starts_with("file = ") {
            file = value(line);
        } else if line == "class = \"benign\"" {
            files.extend(file.take().map(|file| shared.join("captures").join(file)));
        }
    }
    files
}

#[test]
fn nothing_legitimate_is_called_malformed() {
    let Some(shared) = shared() else { return };
    let mut packets = 0;
    for path in benign(&shared) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let excepted =
            RECORDED_OTHERWISE.iter().find(|(file, _)| *file == name).map_or(&[][..], |(_, reasons)| reasons);
        let mut counts: BTreeMap<Reason, u32> = BTreeMap::new();
        read(&path, |packet| {
            packets += 1;
            match parse(&packet, &mut Lanes::default()).kind {
                Kind::Malformed { reason, .. } if !excepted.contains(&reason) => {
                    *counts.entry(reason).or_default() += 1;
                }
                Kind::TooDeep => panic!("{name}: too deep"),
                _ => {}
            }
        });
        assert_eq!(counts, BTreeMap::new(), "{name}");
    }
    assert!(packets > 10_000, "read only {packets} packets");
}

#[test]
fn no_client_s_first_initial_is_called_forged() {
    let Some(shared) = shared() else { return };
    let (mut seen, mut initials) = (HashSet::new(), 0);
    for path in benign(&shared) {
        read(&path, |packet| {
            let mut lanes = Lanes::default();
            let layers = parse(&packet, &mut lanes);
            let ports = [lanes.get(Lane::SrcPort), lanes.get(Lane::DstPort)];
            let both = [(lanes.source(), ports), (lanes.destination(), [ports[1], ports[0]])];
            // Later ones carry the server's connection ID.
            if layers.kind != Kind::Udp || !seen.insert((path.clone(), both.iter().min().copied())) {
                return;
            }
            let from = usize::from(layers.payload);
            let whole = packet.head.get(from..from + usize::from(lanes.get(Lane::PayloadLength)));
            if let Some(whole) = whole.filter(|_| quic::may_be_initial(&lanes)) {
                initials += 1;
                assert!(!quic::is_forged(whole), "{}", path.display());
            }
        });
    }
    assert!(initials >= 5, "read only {initials}");
}

#[test]
fn etherparse_reads_captures_as_we_do() {
    let Some(shared) = shared() else { return };
    let (mut packets, mut compared) = (0, 0);
    let mut files: Vec<_> =
        std::fs::read_dir(shared.join("captures")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for path in files {
        read(&path, |packet| {
            packets += 1;
            let mut lanes = Lanes::default();
            let layers = parse(&packet, &mut lanes);
            oracle::reads_alike_at_every_level(&packet, &layers, &lanes);
            if oracle::compare(packet.head, &layers, &lanes) {
                compared += 1;
            }
        });
    }
    assert!(compared > packets / 2, "compared only {compared} of {packets} packets");
}
