//! From packets and events to files, with a virtual clock, real rings and a real folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use levee_api::config::Capture;
use levee_api::filter::{Action, Filter, HeaderBox, Origin, Rule};
use levee_api::vector::Vector;
use levee_engine::capture::{Offer, RECORD_BYTES, Settings, Tap};
use levee_engine::detect::event::Finding;
use levee_engine::verdict::{Reason, Verdict};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::*;
use crate::capture_file;
use crate::capture_writer::description::Description;

const MS: u64 = 1_000_000;
const TARGET: [u8; 4] = [203, 0, 113, 10];
const OTHER: [u8; 4] = [203, 0, 113, 11];
const CLIENT: [u8; 4] = [198, 51, 100, 77];

/// Two workers, their taps wide open, and what writes captures of what they see.
struct Site {
    folder: PathBuf,
    captures: Captures,
    taps: Vec<Tap>,
    counts: Arc<Counts>,
    _made: TempDir,
}

impl Site {
    fn new(change: impl FnOnce(&mut Capture)) -> Self {
        let made = TempDir::new().unwrap();
        Self::at(made.path().join("captures"), made, change)
    }

    fn at(folder: PathBuf, made: TempDir, change: impl FnOnce(&mut Capture)) -> Self {
        let mut capture = Capture::default();
        change(&mut capture);
        let settings = Settings { ring_bytes: RECORD_BYTES as u64 * 64, peace_one_in: 1, bytes_per_second: u64::MAX };
        let (taps, rings) = (0..2).map(|_| Tap::new(&settings)).unzip();
        let setup = Setup { capture, folder: folder.clone(), wires: vec!["uplink-a".into(), "uplink-b".into()] };
        let counts = Arc::new(Counts::default());
        let captures = Captures::new(setup, rings, Arc::clone(&counts), moment(0));
        Self { folder, captures, taps, counts, _made: made }
    }

    /// A packet at a worker; `number` tells it from others.
    fn packet(&mut self, worker: usize, at_ms: u64, number: u8, change: impl FnOnce(&mut Offer<'_>)) {
        let frame = udp(CLIENT, TARGET, number);
        let mut offer = offer(&frame, at_ms);
        change(&mut offer);
        self.taps[worker].burst(1, offer.at, None::<fn(usize) -> bool>, |_| Some(offer));
    }

    fn event(&mut self, at_ms: u64, what: What) {
        self.captures.observe(&Event { at: Timestamp(at_ms * MS), what }, moment(at_ms));
    }

    fn phase(&mut self, at_ms: u64, prefix: &str, role: Role, to: Phase) {
        let target = Target { zone: "web".into(), prefix: Some(prefix.parse().unwrap()) };
        let what =
            What::Phase { target, role, from: Phase::Normal, to, rate_pps: 0.0, threshold_pps: 0.0, witness: None };
        self.event(at_ms, what);
    }

    fn read(&mut self, at_ms: u64) {
        self.captures.read_rings(moment(at_ms));
    }

    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.to_str().unwrap().ends_with(ending));
        files.sort();
        files
    }

    /// The only capture there is: last payload byte of each packet, and the description.
    fn only(&self) -> (Vec<u8>, Description) {
        let [file] = &self.files(".pcapng")[..] else { panic!("{:?}", self.files("")) };
        (numbers(file), Description::read(&file.with_extension("json")).unwrap())
    }
}

fn moment(ms: u64) -> Moment {
    Moment { now: Timestamp(ms * MS), wall: wall(ms) }
}

/// 2026-01-01, so many milliseconds after the clock of packets began.
fn wall(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600) + Duration::from_millis(ms)
}

fn offer(frame: &[u8], at_ms: u64) -> Offer<'_> {
    Offer {
        packet: Packet { head: frame, wire_len: u32::try_from(frame.len()).unwrap() },
        at: Timestamp(at_ms * MS),
        wire: 0,
        direction: Direction::Inbound,
        verdict: Verdict::Forward,
        reason: None,
        filter: None,
        role: Some(Role::UdpOpen),
    }
}

fn udp(source: [u8; 4], destination: [u8; 4], number: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    frame.extend([0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([source, destination].concat());
    frame.extend([0x30, 0x39, 0x01, 0xbb, 0, 40, 0, 0]);
    frame.extend([0; 31]);
    frame.push(number);
    frame
}

fn numbers(file: &Path) -> Vec<u8> {
    let mut reader = capture_file::open(file).unwrap();
    let mut numbers = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        numbers.push(record.data[73]);
    }
    numbers
}

fn filter(id: u64) -> Filter {
    Filter {
        id,
        target: Target { zone: "web".into(), prefix: Some("203.0.113.10".parse().unwrap()) },
        roles: Role::UdpOpen.set(),
        rule: Rule::of(HeaderBox::any()),
        action: Action::Drop,
        deadline: Timestamp::NEVER,
        origin: Origin::Reflex,
        witness: String::new(),
    }
}

#[test]
fn what_somebody_asks_for_is_captured_as_long_as_that_and_with_what_was_before() {
    let mut site = Site::new(|_| {});
    let target = Target { zone: "web".into(), prefix: Some("203.0.113.10/32".parse().unwrap()) };
    site.packet(0, 90, 1, |_| {});
    let name = site.captures.ask(&target, Some(Duration::from_millis(500)), moment(100)).unwrap();
    site.packet(0, 200, 2, |_| {});
    // An alarm that comes and goes meanwhile neither begins another nor ends this one.
    site.phase(250, "203.0.113.10/32", Role::UdpOpen, Phase::Watch);
    site.phase(300, "203.0.113.10/32", Role::UdpOpen, Phase::Normal);
    site.packet(1, 400, 3, |_| {});
    site.read(410);
    assert_eq!(site.captures.ask(&target, Some(Duration::from_millis(600)), moment(450)).unwrap(), name, "the same");
    site.read(1_040);
    assert_eq!(site.files(".pcapng"), [] as [PathBuf; 0]);
    site.read(1_060);
    let (packets, description) = site.only();
    assert_eq!((packets, description.asked, description.truncated), (vec![1, 2, 3], true, None));
    assert!(site.files(".pcapng")[0].ends_with(&name), "{name}");

    let zone = Target { prefix: None, ..target.clone() };
    assert!(site.captures.ask(&zone, None, moment(2_000)).unwrap_err().contains("whole zone"));
    let mut off = Site::new(|capture| capture.enabled = false);
    assert!(off.captures.ask(&target, None, moment(0)).unwrap_err().contains("switched off"));
}

#[test]
fn a_capture_begins_before_the_anomaly_and_ends_with_it() {
    let mut site = Site::new(|_| {});
    for number in 0..10 {
        site.packet(usize::from(number % 2), 100 + u64::from(number), number, |_| {});
    }
    site.phase(110, "203.0.113.10", Role::UdpOpen, Phase::Watch);
    assert!(site.captures.is_recording());
    assert_eq!((site.files(".pcapng.partial").len(), site.files(".pcapng").len()), (1, 0));
    for number in 10..20 {
        site.packet(usize::from(number % 2), 101 + u64::from(number), number, |_| {});
        site.read(102 + u64::from(number));
    }
    site.phase(150, "203.0.113.10", Role::UdpOpen, Phase::Attack);
    let vectors = vec![Finding { vector: Vector::ALL[0], confidence: 1.0, evidence: Vec::new() }];
    let target = Target { zone: "web".into(), prefix: Some("203.0.113.10".parse().unwrap()) };
    site.event(151, What::Classified { target, role: Role::UdpOpen, vectors });
    site.packet(0, 160, 20, |_| {});
    site.phase(170, "203.0.113.10", Role::UdpOpen, Phase::Normal);
    site.packet(0, 180, 21, |_| {});
    site.read(190);

    assert!(!site.captures.is_recording());
    let (numbers, about) = site.only();
    assert_eq!(numbers, (0..=20).collect::<Vec<_>>(), "in the order of time, of both workers");
    assert_eq!((about.packets, about.packets_before, about.missed), (21, 10, 0));
    assert_eq!((about.target.as_str(), about.zone.as_str()), ("203.0.113.10/32", "web"));
    assert_eq!(about.detected_at, "2026-01-01T00:00:00.110000000Z");
    assert_eq!(about.first_packet_at.as_deref(), Some("2026-01-01T00:00:00.100000000Z"));
    assert_eq!(about.last_packet_at.as_deref(), Some("2026-01-01T00:00:00.160000000Z"));
    assert_eq!((about.roles, about.vectors), (vec!["udp_open".to_owned()], vec![Vector::ALL[0].to_string()]));
    assert_eq!((about.attack, about.sealed, about.truncated), (true, true, None));
    let bytes = fs::read(&site.files(".pcapng")[0]).unwrap();
    assert_eq!(about.bytes, bytes.len() as u64);
    let sum = Command::new("sha256sum").arg(&site.files(".pcapng")[0]).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(&about.sha256.unwrap()));
}

#[test]
fn wireshark_reads_the_verdict_of_each_packet() {
    let mut site = Site::new(|_| {});
    site.event(50, What::FilterInstalled { filter: filter(17), counter: 3, simulated: false });
    site.packet(0, 100, 1, |_| {});
    site.packet(0, 101, 2, |offer| {
        offer.verdict = Verdict::Drop(Reason::Filter);
        offer.reason = Some(Reason::Filter);
        offer.filter = Some(3);
    });
    site.packet(0, 102, 3, |offer| {
        offer.wire = 1;
        offer.reason = Some(Reason::Limit);
        offer.packet.wire_len = 1_400;
    });
    let answer = udp(TARGET, CLIENT, 4);
    site.taps[1].burst(1, Timestamp(103 * MS), None::<fn(usize) -> bool>, |_| {
        Some(Offer { direction: Direction::Outbound, role: None, ..offer(&answer, 103) })
    });
    site.phase(104, "203.0.113.10", Role::UdpOpen, Phase::Attack);
    site.captures.end(moment(105));

    let fields = ["frame.time_epoch", "frame.interface_name", "frame.len", "frame.cap_len", "frame.comment", "ip.dst"];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&site.files(".pcapng")[0]).args(["-T", "fields", "-E", "separator=|"]);
    let output = tshark.args(fields.iter().flat_map(|field| ["-e", field])).output().expect("tshark is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = "\
        1767225600.100000000|uplink-a/inbound|74|74|verdict=pass role=udp_open|203.0.113.10\n\
        1767225600.101000000|uplink-a/inbound|74|74|verdict=drop reason=filter filter=17 role=udp_open|203.0.113.10\n\
        1767225600.102000000|uplink-b/inbound|1400|74|verdict=pass would=drop reason=limit role=udp_open|203.0.113.10\n\
        1767225600.103000000|uplink-a/outbound|74|74|verdict=pass|198.51.100.77\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[test]
fn each_target_has_its_own_packets_and_one_file_for_all_its_vectors() {
    let mut site = Site::new(|_| {});
    let other = udp(CLIENT, OTHER, 100);
    site.taps[0].burst(1, Timestamp(90 * MS), None::<fn(usize) -> bool>, |_| Some(offer(&other, 90)));
    site.packet(0, 91, 1, |_| {});
    site.phase(100, "203.0.113.10", Role::UdpOpen, Phase::Watch);
    site.phase(110, "203.0.113.10", Role::Syn, Phase::Attack);
    site.phase(115, "203.0.113.0/24", Role::Syn, Phase::Attack);
    site.phase(120, "203.0.113.10", Role::UdpOpen, Phase::Normal);
    site.packet(1, 125, 2, |_| {});
    site.phase(130, "203.0.113.10", Role::Syn, Phase::Hold);
    site.phase(140, "203.0.113.10", Role::Syn, Phase::Normal);
    site.packet(1, 150, 3, |_| {});
    site.captures.end(moment(160));
    let [host, net] = &site.files(".pcapng")[..] else { panic!("{:?}", site.files("")) };
    assert_eq!(numbers(host), [1, 2]);
    assert_eq!(numbers(net), [100, 1, 2, 3]);
    let about = Description::read(&host.with_extension("json")).unwrap();
    assert_eq!(about.roles, ["udp_open", "syn"]);
    assert_eq!(about.truncated, None);
    assert_eq!(Description::read(&net.with_extension("json")).unwrap().truncated, Some(Truncated::Interrupted));
    // The same target again is another incident, which goes on in its prefix's.
    let of = |prefix: &str| Target { zone: "web".into(), prefix: Some(prefix.parse().unwrap()) };
    site.phase(2_000, "203.0.113.10", Role::Syn, Phase::Attack);
    site.phase(2_010, "203.0.113.0/25", Role::Syn, Phase::Attack);
    site.event(2_010, What::Merged { host: of("203.0.113.10"), into: of("203.0.113.0/25"), role: Role::Syn });
    assert!(site.captures.is_recording());
    assert_eq!((site.files(".pcapng").len(), site.files(".partial").len()), (3, 1));
}

/// Attacks for 20 seconds with a packet each 100 ms, and returns how many were captured and why it ended.
fn until_full(change: impl FnOnce(&mut Capture)) -> (Vec<u8>, Description, u64) {
    let mut site = Site::new(change);
    site.phase(1_000, "203.0.113.10", Role::UdpOpen, Phase::Attack);
    for number in 0..200 {
        site.packet(0, 1_000 + 100 * u64::from(number), number, |_| {});
        site.read(1_000 + 100 * u64::from(number));
    }
    site.phase(30_000, "203.0.113.10", Role::UdpOpen, Phase::Normal);
    let bytes = site.files("").iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    let (numbers, about) = site.only();
    (numbers, about, bytes)
}

#[test]
fn a_capture_ends_when_any_part_of_its_budget_is_used_up() {
    let (numbers, about, _) = until_full(|capture| capture.incident_packets = 50);
    assert_eq!((numbers, about.truncated), ((0..50).collect(), Some(Truncated::Packets)));
    let (numbers, about, _) = until_full(|capture| capture.incident_duration = Duration::from_secs(5));
    assert_eq!((numbers, about.truncated), ((0..=50).collect(), Some(Truncated::Duration)));
    let (numbers, about, bytes) = until_full(|capture| capture.incident_bytes = 20 << 10);
    assert!((50..150).contains(&numbers.len()), "{}", numbers.len());
    assert_eq!(about.truncated, Some(Truncated::Bytes));
    assert!((12 << 10..=20 << 10).contains(&bytes), "{bytes} with its description");
    assert_eq!(until_full(|_| {}).0.len(), 200);
}

#[test]
fn a_capture_in_which_nothing_happens_any_more_ends_in_time() {
    let mut site = Site::new(|capture| capture.incident_duration = Duration::from_secs(5));
    site.phase(1_000, "203.0.113.10", Role::UdpOpen, Phase::Watch);
    site.read(6_000);
    assert!(site.captures.is_recording());
    site.read(6_001);
    assert!(!site.captures.is_recording());
}

#[test]
fn the_quota_holds_over_many_incidents_and_the_retention_over_many_days() {
    const QUOTA: u64 = 200 << 10;
    const DAY_MS: u64 = 86_400_000;
    let mut site = Site::new(|capture| {
        (capture.incident_bytes, capture.quota_bytes, capture.retention_days) = (64 << 10, QUOTA, 3);
    });
    let bytes = |site: &Site| site.files("").iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>();
    for incident in 0..30_u8 {
        let at = 1_000 + u64::from(incident) * 1_000;
        site.phase(at, &format!("203.0.113.{incident}"), Role::UdpOpen, Phase::Attack);
        let frame = udp(CLIENT, [203, 0, 113, incident], incident);
        for _ in 0..200 {
            site.taps[0].burst(1, Timestamp(at * MS), None::<fn(usize) -> bool>, |_| Some(offer(&frame, at)));
            site.read(at + 1);
            assert!(bytes(&site) <= QUOTA, "{}", bytes(&site));
        }
        site.phase(at + 10, &format!("203.0.113.{incident}"), Role::UdpOpen, Phase::Normal);
    }
    let newest: Vec<u8> = site.files(".pcapng").iter().map(|file| numbers(file)[0]).collect();
    assert!(newest.len() >= 3 && newest.ends_with(&[28, 29]), "{newest:?}");
    site.captures.sweep(moment(3 * DAY_MS));
    assert_eq!(site.files(".pcapng").len(), newest.len());
    site.captures.sweep(moment(3 * DAY_MS + 60_000));
    assert!(site.files("").is_empty());
}

#[test]
fn what_is_recorded_has_its_room_and_others_are_refused() {
    let mut site = Site::new(|capture| (capture.incident_bytes, capture.quota_bytes) = (64 << 10, 140 << 10));
    for host in 1..=3 {
        site.phase(100, &format!("203.0.113.{host}"), Role::Syn, Phase::Attack);
    }
    assert_eq!(site.files(".partial").len(), 2);
    assert_eq!(site.counts.refused.load(Ordering::Relaxed), 1);
    site.captures.end(moment(200));
    assert_eq!(site.counts.sealed.load(Ordering::Relaxed), 2);
}

#[test]
fn without_captures_nothing_is_written() {
    let changes: [fn(&mut Capture); 2] = [|capture| capture.enabled = false, |capture| capture.retention_days = 0];
    for change in changes {
        let mut site = Site::new(change);
        site.packet(0, 90, 1, |_| {});
        site.phase(100, "203.0.113.10", Role::UdpOpen, Phase::Attack);
        site.captures.end(moment(110));
        assert!(!site.folder.exists());
    }
}

#[test]
fn no_outside_host_is_in_a_capture_with_truncated_addresses() {
    let mut site = Site::new(|capture| capture.truncate_addresses = true);
    site.packet(0, 90, 1, |_| {});
    site.phase(100, "203.0.113.10", Role::UdpOpen, Phase::Attack);
    site.captures.end(moment(110));
    let bytes = fs::read(&site.files(".pcapng")[0]).unwrap();
    assert!(!bytes.windows(4).any(|window| window == CLIENT));
    assert!(bytes.windows(8).any(|window| window == [198, 51, 100, 0, 203, 0, 113, 10]));
    let comment = b"outside addresses are cut to their /24 or /48, so checksums do not match";
    assert!(bytes.windows(comment.len()).any(|window| window == comment));
    assert!(site.only().1.addresses_truncated);
}

#[test]
fn what_a_slow_disk_misses_is_counted() {
    let mut site = Site::new(|_| {});
    site.phase(100, "203.0.113.10", Role::UdpOpen, Phase::Attack);
    for number in 0..100 {
        site.packet(0, 101, number, |_| {});
    }
    site.captures.end(moment(110));
    let (numbers, about) = site.only();
    assert_eq!((numbers, about.missed), ((36..100).collect(), 36), "the ring holds 64");
    assert_eq!(site.counts.missed_packets.load(Ordering::Relaxed), 36);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_tried_again_with_each_incident() {
    let made = TempDir::new().unwrap();
    let file = made.path().join("in-the-way");
    fs::write(&file, "").unwrap();
    let mut site = Site::at(file.join("captures"), made, |_| {});
    site.phase(100, "203.0.113.10", Role::UdpOpen, Phase::Attack);
    assert_eq!((site.captures.is_recording(), site.counts.failed.load(Ordering::Relaxed)), (false, 1));
    fs::remove_file(file).unwrap();
    site.phase(200, "203.0.113.11", Role::UdpOpen, Phase::Attack);
    site.captures.end(moment(300));
    assert_eq!(site.files(".pcapng").len(), 1);
}

#[test]
fn a_full_disk_ends_a_capture_and_what_was_written_can_be_read() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: a small file system needs root");
    }
    // A name space of this thread's own: what is mounted in it goes with it.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let made = TempDir::new().unwrap();
    mount(Some("tmpfs"), made.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
    let mut site = Site::at(made.path().join("captures"), made, |_| {});
    site.phase(100, "203.0.113.10", Role::UdpOpen, Phase::Attack);
    let mut sent = 0_u64;
    while site.captures.is_recording() {
        site.packet(0, 100 + sent, 7, |_| {});
        site.read(100 + sent);
        sent += 1;
        assert!(sent < 1_000, "64 KiB are full by now");
    }
    assert!(site.counts.failed.load(Ordering::Relaxed) >= 1);
    let [file] = &[site.files(".pcapng"), site.files(".pcapng.partial")].concat()[..] else { panic!() };
    let packets = numbers(file).len();
    assert!(packets > 100, "{packets}");
    // Its folder leaves before the file system does.
    fs::remove_dir_all(&site.folder).unwrap();
    nix::mount::umount(site._made.path()).unwrap();
}
