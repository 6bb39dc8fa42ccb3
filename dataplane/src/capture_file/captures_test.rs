//! Real captures, against a second opinion: Wireshark's capinfos.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use levee_engine::time::Timestamp;

use super::{Fault, OpenError, open};

/// The folder of real captures: `captures` in `$LEVEE_SHARED`, else in `../shared` beside the workspace. They have
/// licences of their own and are not part of the repository, so it may be absent.
fn folder() -> Option<PathBuf> {
    if let Some(shared) = std::env::var_os("LEVEE_SHARED") {
        let folder = Path::new(&shared).join("captures");
        assert!(folder.is_dir(), "LEVEE_SHARED is set, but there is no folder {}", folder.display());
        return Some(folder);
    }
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures")).filter(|folder| folder.is_dir())
}

/// What capinfos tells about a file.
struct Expected {
    encapsulation: String,
    packets: u64,
    bytes_on_wire: u64,
    /// Seconds with as many digits as it thinks the file has; absent when a packet has no time.
    times: Option<[String; 2]>,
}

/// One run for all files: a table with a tab between name, encapsulation, packets, bytes, earliest and latest time.
fn capinfos(folder: &Path, names: &[String]) -> Option<BTreeMap<String, Expected>> {
    let output = Command::new("capinfos")
        .args(["-T", "-M", "-r", "-E", "-c", "-d", "-a", "-e", "-S"])
        .args(names)
        .current_dir(folder)
        .output();
    let Ok(output) = output else { return None };
    let text = String::from_utf8(output.stdout).unwrap();
    let rows = text.lines().map(|line| {
        let [name, encapsulation, packets, bytes, first, last] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("unexpected row of capinfos: {line}");
        };
        let expected = Expected {
            encapsulation: encapsulation.to_owned(),
            packets: packets.parse().unwrap(),
            bytes_on_wire: bytes.parse().unwrap(),
            times: (first != "n/a").then(|| [first.to_owned(), last.to_owned()]),
        };
        (name.to_owned(), expected)
    });
    Some(rows.collect())
}

/// Reads a whole file and compares.
fn compare(path: &Path, expected: &Expected) -> Result<(), OpenError> {
    let mut reader = open(path)?;
    let (mut packets, mut bytes_on_wire, mut first, mut last) = (0, 0, Timestamp::NEVER, Timestamp::ZERO);
    while let Some(record) = reader.next().unwrap_or_else(|error| panic!("{error}")) {
        packets += 1;
        bytes_on_wire += u64::from(record.wire_len);
        first = first.min(record.at);
        last = last.max(record.at);
    }
    // The two files that are deliberately understood otherwise: one claims that a packet of 34 captured bytes had
    // 32 on the wire, one has a packet with a negative fraction, which Wireshark orders by its seconds alone.
    if path.ends_with("tcpdump__aoe-oobr-1.pcap") {
        bytes_on_wire -= 2;
    } else if path.ends_with("malcolm__protocols_RADIUS.pcap") {
        assert_eq!(first, Timestamp(1_614_578_398_860_908_000));
        first = Timestamp(1_614_578_399_791_491_000);
    }
    assert_eq!((packets, bytes_on_wire), (expected.packets, expected.bytes_on_wire), "{}", path.display());
    for (at, shown) in [first, last].into_iter().zip(expected.times.iter().flatten()) {
        let time = at.to_string();
        assert!(time.starts_with(shown), "{}: {time} is not {shown}", path.display());
    }
    Ok(())
}

#[test]
fn real_captures_are_read_as_wireshark_reads_them() {
    let Some(folder) = folder() else {
        eprintln!("skipped: no real captures; set LEVEE_SHARED to the folder that has captures/");
        return;
    };
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = entries.filter(|name| name.contains(".pcap")).collect();
    let Some(expected) = capinfos(&folder, &names) else {
        eprintln!("skipped: capinfos is not installed (Debian package wireshark-common)");
        return;
    };
    assert_eq!(expected.len(), names.len(), "capinfos reads every file");
    for (name, expected) in expected {
        match compare(&folder.join(&name), &expected).map_err(|error| error.fault) {
            Ok(()) => assert_eq!(expected.encapsulation, "ether", "{name}"),
            Err(Fault::LinkType { .. }) => assert_ne!(expected.encapsulation, "ether", "{name}"),
            // libpcap refuses 2.5, too; Wireshark does not.
            Err(Fault::Version { major: 2, minor: 5, .. }) => {}
            Err(fault) => panic!("{name}: {fault}"),
        }
    }
}
