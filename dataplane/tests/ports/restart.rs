//! What a SIGKILL in the middle of an attack costs.

use std::fs;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use levee_dataplane::in_force::{self, InForce};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::lab::{
    CLIENT, DEADLINE, Dataplane, Gap, Namespace, SERVER, assert_stream_crosses, is_root, program, protecting_wire,
};

/// Nobody listens on it as far as the zone says.
const ATTACKED_PORT: u16 = 9_999;
const PEACE: Duration = Duration::from_secs(4);
/// Packets of a flood between two pauses of a millisecond.
const VOLLEY: u64 = 5;

/// A flood of equal datagrams from the client for as long as `work` takes; it is given the number sent so far.
fn under_attack<T>(client: &Namespace, work: impl FnOnce(&AtomicU64) -> T) -> T {
    /// Ends the flood also when `work` panics.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let from = client.enter(|| UdpSocket::bind((CLIENT, 0)).expect("a socket"));
    let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let end = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for _ in 0..VOLLEY {
                    // What the server's errors and a wire that is cut do to a socket does not end an attack.
                    let _ = from.send_to(&[0x5a; 400], (SERVER, ATTACKED_PORT));
                }
                sent.fetch_add(VOLLEY, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let result = work(&sent);
        drop(end);
        result
    })
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until a datagram from the server, sent again and again, reaches the client.
fn wait_for_the_wire(gap: &Gap) {
    let client = gap.client.enter(|| UdpSocket::bind((CLIENT, 0)).expect("a socket"));
    let server = gap.server.enter(|| UdpSocket::bind((SERVER, 0)).expect("a socket"));
    client.set_read_timeout(Some(Duration::from_millis(1))).expect("a time limit");
    let address = client.local_addr().expect("an address");
    let deadline = Instant::now() + DEADLINE;
    loop {
        let _ = server.send_to(b"are you there", address);
        if client.recv(&mut [0; 64]).is_ok() {
            return;
        }
        assert!(Instant::now() < deadline, "the wire stays cut");
    }
}

/// Empties a socket, and says how many datagrams there were.
fn drain(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok()).map(|_| 1).sum()
}

#[test]
fn after_sigkill_in_mid_attack_it_forwards_with_the_filters_it_had() {
    if !is_root() {
        return;
    }
    let (gap, folder) = (Gap::new(1500), TempDir::new().expect("a folder"));
    let zone = protecting_wire("net_af_packet,iface=outside", "net_af_packet,iface=inside") + "visibility = \"both\"\n";
    let start = || {
        let command = program(Some(&gap.middle), folder.path(), &zone, &[]);
        Dataplane::spawn(command, TempDir::new().expect("a folder"))
    };
    let attacked = gap.server.enter(|| UdpSocket::bind((SERVER, ATTACKED_PORT)).expect("a socket"));
    attacked.set_nonblocking(true).expect("a socket that does not wait");
    let state = folder.path().join("state/dataplane");
    let filters = || InForce::load(&state).filters.len();
    let written = || fs::metadata(in_force::path(&state)).and_then(|file| file.modified()).expect("a time");

    let first = start();
    // What is rare in peace may be dropped whole, so there has to be peace: traffic counts as that after two seconds.
    let begun = Instant::now();
    while begun.elapsed() < PEACE {
        assert_stream_crosses(&gap.client, &gap.server);
    }
    under_attack(&gap.client, |sent| {
        wait_until("filters on disk", || filters() > 0);
        // While the attack lasts the reflex renews its filters, and nothing else changes.
        let first_written = written();
        wait_until("renewed filters on disk", || written() > first_written + Duration::from_secs(5));
        let before = filters();
        let killed = Instant::now();
        first.signal(Signal::SIGKILL);
        let second = start();
        wait_for_the_wire(&gap);
        println!("forwards again {:.0?} after SIGKILL, {before} filters in force", killed.elapsed());

        drain(&attacked);
        let from = sent.load(Ordering::Relaxed);
        wait_until("more of the attack", || sent.load(Ordering::Relaxed) > from + 2_000);
        let (sent, passed) = (sent.load(Ordering::Relaxed) - from, drain(&attacked));
        let log = second.stop();
        assert!(log.contains("filters from before the restart are in force"), "{log}");
        assert!(passed * 10 < sent, "{passed} of {sent} passed:\n{log}");
    });
}
