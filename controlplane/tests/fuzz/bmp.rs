//! BMP, and what UPDATEs announce: what a router says of its peers, damaged.

use std::collections::BTreeSet;

use levee_controlplane::bgp::bmp::Station;
use levee_controlplane::bgp::route::Family;
use levee_controlplane::bgp::speaker::wire::{Announced, Received};

use super::chance::Chance;
use super::damage::{pick, some};
use super::messages::framed;
use super::{fuzz, message, seeds};

const OUR_AS: u32 = 64_496;

/// A message with its frame.
fn bmp(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(6 + body.len()).unwrap().to_be_bytes();
    [&[3], &length[..], &[kind], body].concat()
}

/// What a router may say: routes most of the time.
fn said(updates: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut header = vec![0; 42];
    header[0] = *pick(chance, &[0, 0, 0, 3, 1]);
    header[1] = *pick(chance, &[0, 0x40, 0x80, 0x10]);
    header[25] = *pick(chance, &[1, 2]);
    let (kind, body) = match chance.between(0, 9) {
        0 => (4, b"\x00\x02\x00\x06edge-1\x00\x01\x00\x04FRR ".to_vec()),
        1 => (2, [header, vec![1]].concat()),
        2 => (3, [header, vec![0; 20], seeds::open().encode(), seeds::open().encode()].concat()),
        3 => (1, [header, vec![0; 20]].concat()),
        4 => (0, [header, pick(chance, updates).clone()].concat()),
        _ => (0, [header, message::damaged(updates, chance)].concat()),
    };
    let (mut body, elsewhere) = (body, pick(chance, updates).clone());
    if chance.percent(15) {
        some(&mut body, &elsewhere, chance);
    }
    let mut message = bmp(kind, &body);
    if chance.percent(3) {
        some(&mut message, &elsewhere, chance);
    }
    message
}

#[test]
fn a_router_that_says_anything_at_all_is_read_or_hung_up_on() {
    let updates = seeds::updates();
    let (mut with_routes, mut malformed, mut ended) = (0_u64, 0_u64, 0_u64);
    fuzz(
        "bmp",
        |chance| (0..chance.between(1, 6)).flat_map(|_| said(&updates, chance)).collect(),
        |bytes, chance| {
            let (mut whole, mut pieces) = (Station::new(OUR_AS), Station::new(OUR_AS));
            let read = whole.received(bytes).map(|_| ());
            let size = usize::try_from(chance.between(1, 300)).unwrap();
            let again = bytes.chunks(size).try_for_each(|piece| pieces.received(piece).map(|_| ()));
            assert_eq!(read, again, "however it is cut");
            assert_eq!(
                (whole.count(), whole.messages, whole.malformed),
                (pieces.count(), pieces.messages, pieces.malformed)
            );
            assert!(whole.name().is_none_or(|name| name.chars().count() <= 64));
            with_routes += u64::from(whole.count() > 0);
            malformed += whole.malformed;
            ended += u64::from(read.is_err());
            // An earlier session's routes do not outlive it.
            for host in [1, 2] {
                for (kind, flags) in [(0, 0), (0, 0x80), (3, 0)] {
                    let mut header = [0; 42];
                    (header[0], header[1], header[25]) = (kind, flags, host);
                    let _ = whole.received(&bmp(2, &header));
                }
            }
            assert!(whole.count() <= pieces.count());
        },
    );
    assert!(with_routes > 2_000 && malformed > 2_000 && ended > 200, "{with_routes}, {malformed}, {ended}");
}

#[test]
fn what_an_update_announces_is_read_alike_when_it_is_written_again() {
    let updates = seeds::updates();
    let (mut announced, mut withdrawn, mut with_ids) = (0_u64, 0_u64, 0_u64);
    fuzz(
        "updates",
        |chance| message::damaged(&updates, chance),
        |bytes, _| {
            let Some((2, body)) = framed(bytes) else { return };
            // Whether there are path identifiers nothing in the message says.
            with_ids += u64::from(Received::read(body, &Family::ALL).is_some_and(|told| !told.announced.is_empty()));
            let Some(received) = Received::read(body, &[]) else { return };
            assert!(received.announced.is_disjoint(&received.withdrawn));
            assert!(!received.malformed || received.announced.is_empty(), "RFC 7606: as if withdrawn");
            for path in received.announced.iter().chain(&received.withdrawn) {
                let destination = &path.destination;
                assert!(!destination.to_string().is_empty());
                let update = Announced::withdraw(destination);
                let again = Received::read(&update[19..], &[]).unwrap();
                assert_eq!(again.withdrawn, BTreeSet::from([path.clone()]));
            }
            announced += received.announced.len() as u64;
            withdrawn += received.withdrawn.len() as u64;
        },
    );
    assert!(announced > 2_000 && withdrawn > 2_000 && with_ids > 0, "{announced}, {withdrawn}, {with_ids}");
}
