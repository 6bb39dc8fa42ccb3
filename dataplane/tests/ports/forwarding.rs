//! What goes in at one end of a wire comes out at the other, on each kind of port.

use std::net::UdpSocket;
use std::path::Path;

use levee_dataplane::capture_file;
use levee_dataplane::dpdk::thread::allowed_cpus;
use levee_engine::time::Timestamp;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::lab::{
    CLIENT, Dataplane, Gap, Namespace, SERVER, assert_datagram_crosses, assert_filters, assert_forwards,
    assert_stream_crosses, is_root, program, protecting_wire, wire,
};

const AF_PACKET: (&str, &str) = ("net_af_packet,iface=outside", "net_af_packet,iface=inside");

#[test]
fn a_wire_between_af_packet_ports_forwards_both_ways() {
    if !is_root() {
        return;
    }
    let gap = Gap::new(1500);
    let dataplane = Dataplane::start(Some(&gap.middle), &wire(AF_PACKET.0, AF_PACKET.1, 1500));
    gap.assert_forwards();
    let log = dataplane.stop();
    assert!(log.contains("dropped [], lost before 0"), "{log}");
}

#[test]
fn frames_of_9000_bytes_cross_af_packet_unharmed() {
    if !is_root() {
        return;
    }
    let gap = Gap::new(9000);
    let _dataplane = Dataplane::start(Some(&gap.middle), &wire(AF_PACKET.0, AF_PACKET.1, 9000));
    // With 28 bytes of headers an IP packet of exactly the MTU.
    assert_datagram_crosses(&gap.client, &gap.server, 8972);
    gap.assert_forwards();
}

#[test]
fn an_interface_with_a_smaller_mtu_is_given_that_of_the_wire() {
    if !is_root() {
        return;
    }
    let gap = Gap::new(9000);
    gap.middle.ip(&["link", "set", "dev", "inside", "mtu", "1500"]);
    let _dataplane = Dataplane::start(Some(&gap.middle), &wire(AF_PACKET.0, AF_PACKET.1, 9000));
    assert_datagram_crosses(&gap.client, &gap.server, 8972);
}

#[test]
fn what_finds_the_ring_full_is_counted_as_lost_before() {
    if !is_root() {
        return;
    }
    let gap = Gap::new(1500);
    let dataplane = Dataplane::start(Some(&gap.middle), &wire(AF_PACKET.0, AF_PACKET.1, 1500));
    // So that the client knows where to send.
    assert_datagram_crosses(&gap.client, &gap.server, 100);
    // The ring holds 512 frames while nobody empties it.
    dataplane.signal(Signal::SIGSTOP);
    gap.client.enter(|| {
        let socket = UdpSocket::bind((CLIENT, 0)).expect("a socket");
        for _ in 0..3000 {
            // 9 is the discard service's port.
            socket.send_to(&[0; 100], (SERVER, 9)).expect("sending");
        }
    });
    dataplane.signal(Signal::SIGCONT);
    assert_stream_crosses(&gap.client, &gap.server);
    let output =
        gap.client.command("cat").arg("/sys/class/net/eth0/statistics/tx_packets").output().expect("a counter");
    let sent: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
    let log = dataplane.stop();
    let number = |label: &str| -> u64 {
        let line = log.lines().find(|line| line.contains("inbound")).expect("a summary");
        let digits = line.split(label).nth(1).expect("the number").trim_start();
        digits.split(|c: char| !c.is_ascii_digit()).next().expect("digits").parse().expect("a number")
    };
    assert!(number("lost before") > 0, "{log}");
    assert_eq!(number("received") + number("lost before"), sent, "{log}");
}

#[test]
fn several_queues_of_af_packet_share_the_packets_of_an_interface() {
    let cpus = allowed_cpus();
    if !is_root() || cpus.len() < 2 {
        eprintln!("skipped: two workers need root and two CPUs");
        return;
    }
    let gap = Gap::new(1500);
    let configuration = wire(&format!("{},qpairs=2", AF_PACKET.0), &format!("{},qpairs=2", AF_PACKET.1), 1500);
    let workers = format!("workers = {:?}\nidle", &cpus[..2]);
    let dataplane = Dataplane::start(Some(&gap.middle), &configuration.replace("idle", &workers));
    gap.assert_forwards();
    // Larger than the MTU: first and later fragments may come on different queues.
    assert_datagram_crosses(&gap.client, &gap.server, 4000);
    let output =
        gap.client.command("cat").arg("/sys/class/net/eth0/statistics/tx_packets").output().expect("a counter");
    let sent: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
    let log = dataplane.stop();
    assert!(!log.contains("one queue"), "{log}");
    assert!(
        log.contains(&format!("inbound: received {sent}, forwarded {sent}, replied 0, dropped [], lost before 0")),
        "{log}"
    );
}

#[test]
fn a_wire_between_tap_ports_forwards() {
    if !is_root() {
        return;
    }
    let (client, middle, server) = (Namespace::new("c"), Namespace::new("m"), Namespace::new("s"));
    let _dataplane = Dataplane::start(Some(&middle), &wire("net_tap0,iface=tap-out", "net_tap1,iface=tap-in", 1500));
    middle.hand_over("tap-out", &client, CLIENT);
    middle.hand_over("tap-in", &server, SERVER);
    assert_forwards(&client, &server);
}

#[test]
fn a_wire_between_virtio_user_and_vhost_of_two_processes_forwards() {
    if !is_root() {
        return;
    }
    let gap = Gap::new(1500);
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("vhost").display().to_string();
    let vhost = wire(AF_PACKET.0, &format!("net_vhost0,iface={socket}"), 1500);
    let virtio = wire(&format!("net_virtio_user0,path={socket}"), AF_PACKET.1, 1500);
    // The side that creates the socket comes first.
    let vhost = Dataplane::start(Some(&gap.middle), &vhost);
    let virtio = Dataplane::start(Some(&gap.middle), &virtio);
    gap.assert_forwards();
    virtio.stop();
    vhost.stop();
    assert!(!Path::new(&socket).exists(), "the socket is gone");
}

#[test]
fn fragments_cross_af_packet_ports_as_they_came() {
    if !is_root() {
        return;
    }
    let gap = Gap::new(1500);
    let _dataplane = Dataplane::start(Some(&gap.middle), &wire(AF_PACKET.0, AF_PACKET.1, 1500));
    // In three fragments. Put together on the way it would fit neither the rings nor the wire.
    assert_datagram_crosses(&gap.client, &gap.server, 4000);
}

#[test]
fn a_wire_filters_between_af_packet_ports() {
    if !is_root() {
        return;
    }
    let gap = Gap::new(1500);
    let dataplane = Dataplane::start(Some(&gap.middle), &protecting_wire(AF_PACKET.0, AF_PACKET.1));
    assert_filters(&gap.client, &gap.server, dataplane);
}

#[test]
fn a_wire_filters_between_tap_ports() {
    if !is_root() {
        return;
    }
    let (client, middle, server) = (Namespace::new("c"), Namespace::new("m"), Namespace::new("s"));
    let dataplane =
        Dataplane::start(Some(&middle), &protecting_wire("net_tap0,iface=tap-out", "net_tap1,iface=tap-in"));
    middle.hand_over("tap-out", &client, CLIENT);
    middle.hand_over("tap-in", &server, SERVER);
    assert_filters(&client, &server, dataplane);
}

#[test]
fn a_wire_filters_between_virtio_user_and_vhost_of_two_processes() {
    if !is_root() {
        return;
    }
    let gap = Gap::new(1500);
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("vhost").display().to_string();
    let vhost = protecting_wire(AF_PACKET.0, &format!("net_vhost0,iface={socket}"));
    let virtio = wire(&format!("net_virtio_user0,path={socket}"), AF_PACKET.1, 1500);
    let vhost = Dataplane::start(Some(&gap.middle), &vhost);
    let _virtio = Dataplane::start(Some(&gap.middle), &virtio);
    assert_filters(&gap.client, &gap.server, vhost);
}

#[test]
fn a_wire_filters_between_captures() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let good: Vec<_> = (0..500).map(|number| datagram([198, 51, 100, 7], number)).collect();
    // From the address that they are for: no stack sends that.
    let bad: Vec<_> = (0..500).map(|number| datagram([192, 0, 2, 2], number)).collect();
    let both: Vec<_> = good.iter().zip(&bad).flat_map(|(good, bad)| [good.clone(), bad.clone()]).collect();
    write(&path("outside"), &both);
    write(&path("inside"), &[]);
    let port = |number: usize, from: &str, to: &str| {
        format!("net_pcap{number},rx_pcap={},tx_pcap={}", path(from).display(), path(to).display())
    };
    let configuration = protecting_wire(&port(0, "outside", "to-outside"), &port(1, "inside", "to-inside"));
    let output =
        program(None, folder.path(), &configuration, &["--exit-when-idle", "0.5"]).output().expect("the program");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(read(&path("to-inside")) == good, "{log}");
    assert!(log.contains("received 1000, forwarded 500, replied 0, dropped [malformed_land 500]"), "{log}");
}

/// A UDP datagram to the server.
pub(crate) fn datagram(source: [u8; 4], number: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    let [n0, n1] = number.to_be_bytes();
    frame.extend([0x45, 0, 0, 46, n0, n1, 0, 0, 64, 17, 0, 0]);
    frame.extend(source);
    frame.extend([192, 0, 2, 2, 0x30, 0x39, 0, 9, 0, 26, 0, 0]);
    frame.extend([n0; 18]);
    frame
}

#[test]
fn a_wire_between_captures_hands_every_packet_on_unchanged() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let frames = |seed: usize| (0..2000).map(|n| frame(seed + n)).collect::<Vec<_>>();
    let (outside, inside) = (frames(0), frames(7));
    write(&path("outside"), &outside);
    write(&path("inside"), &inside);
    let port = |number: usize, from: &str, to: &str| {
        format!("net_pcap{number},rx_pcap={},tx_pcap={}", path(from).display(), path(to).display())
    };
    let configuration = wire(&port(0, "outside", "to-outside"), &port(1, "inside", "to-inside"), 1500);
    let output =
        program(None, folder.path(), &configuration, &["--exit-when-idle", "0.5"]).output().expect("the program");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(read(&path("to-inside")) == outside, "{log}");
    assert!(read(&path("to-outside")) == inside, "{log}");
    assert_eq!(log.matches("received 2000, forwarded 2000, replied 0, dropped [], lost before 0").count(), 2, "{log}");
}

/// A frame of a length and content of its own, from the shortest to the longest.
fn frame(number: usize) -> Vec<u8> {
    let length = 60 + number * 37 % (1514 - 60 + 1);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.extend((frame.len()..length).map(|position| (number + position).to_le_bytes()[0]));
    frame
}

pub(crate) fn write(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = capture_file::Writer::create(path).expect("a new file");
    for frame in frames {
        writer.write(Timestamp::ZERO, frame, u32::try_from(frame.len()).expect("short")).expect("writing");
    }
    writer.finish().expect("writing");
}

fn read(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = capture_file::open(path).expect("a capture");
    let mut frames = Vec::new();
    while let Some(record) = reader.next().expect("a record") {
        frames.push(record.data.to_vec());
    }
    frames
}
