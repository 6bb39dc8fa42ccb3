//! Conversations over TCP.

use std::net::IpAddr;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use super::{Event, Talk};
use crate::{
    amplification::random,
    frame::{Link, flags, low16},
};

pub(super) fn web(at_ns: u64, host: IpAddr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let port = if rng.random_ratio(1, 5) { 80 } else { 443 };
    let mut talk = Talk::new(at_ns, host, port, link, rng);
    load(&mut talk);
    talk.events
}

/// Both ends as in [`web`], with the near one as the client.
pub(super) fn fetch(at_ns: u64, host: IpAddr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let far = crate::address::client(crate::address::Family::of(host), rng);
    let mut talk = Talk::with(host, at_ns, far, 443, link.reversed(), rng);
    load(&mut talk);
    talk.events.into_iter().map(|event| Event { inbound: !event.inbound, ..event }).collect()
}

pub(super) fn ssh(at_ns: u64, host: IpAddr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut talk = Talk::new(at_ns, host, 22, link, rng);
    talk.handshake();
    talk.tcp(true, flags::PSH | flags::ACK, b"SSH-2.0-OpenSSH_9.2\r\n");
    talk.tcp(false, flags::PSH | flags::ACK, b"SSH-2.0-OpenSSH_9.2\r\n");
    for length in [1_400, 48, 16, 500] {
        let data = talk.noise(length);
        talk.travel();
        talk.bulk(true, &data);
        talk.bulk(false, &data);
    }
    for _ in 0..talk.rng.random_range(20..=120) {
        talk.pause(60, 500);
        let (key, screen) = (talk.noise(36), talk.rng.random_ratio(1, 10));
        talk.tcp(true, flags::PSH | flags::ACK, &key);
        let shown = talk.noise(if screen { 4_000 } else { 36 });
        talk.bulk(false, &shown);
        talk.travel();
        talk.tcp(true, flags::ACK, &[]);
    }
    talk.close();
    talk.events
}

/// A file of some megabytes at most, as fast as a window allows that grows to 30 segments.
pub(super) fn upload(at_ns: u64, host: IpAddr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut talk = Talk::new(at_ns, host, 443, link, rng);
    talk.handshake();
    let hello = client_hello(talk.rng);
    talk.bulk(true, &hello);
    let answer = record(0x16, 2, 3_000, talk.rng);
    talk.bulk(false, &answer);
    talk.travel();
    let (mut left, mut window) = (talk.rng.random_range(100..=1_500), 10);
    while left > 0 {
        let flight = left.min(window);
        let data = record(0x17, talk.rng.random(), flight * 1_400, talk.rng);
        talk.bulk(true, &data);
        talk.travel();
        (left, window) = (left - flight, (window * 2).min(30));
    }
    let answer = record(0x17, talk.rng.random(), 400, talk.rng);
    talk.bulk(false, &answer);
    talk.travel();
    talk.tcp(true, flags::ACK, &[]);
    talk.close();
    talk.events
}

/// A connection of a browser: handshake, TLS unless it is port 80, requests and responses, end.
fn load(talk: &mut Talk<'_>) {
    talk.handshake();
    let tls = talk.server_port == 443;
    if tls {
        let hello = client_hello(talk.rng);
        talk.bulk(true, &hello);
        let answer = record(0x16, 2, talk.rng.random_range(2_500..=4_500), talk.rng);
        talk.bulk(false, &answer);
        talk.travel();
        let finished = record(0x14, 1, 74, talk.rng);
        talk.tcp(true, flags::PSH | flags::ACK, &finished);
    }
    for request in 0..talk.rng.random_range(1..=3) {
        if request > 0 {
            talk.pause(200, 1_500);
        }
        // One in ten requests is an upload.
        let upload = talk.rng.random_ratio(1, 10);
        let length = if upload { talk.rng.random_range(2_000..=60_000) } else { talk.rng.random_range(180..=900) };
        let asked = if tls { record(0x17, talk.rng.random(), length, talk.rng) } else { get(length, talk.rng) };
        talk.bulk(true, &asked);
        talk.pause(1, 20);
        let length = talk.rng.random_range(400..=40_000);
        let answer = record(0x17, talk.rng.random(), length, talk.rng);
        talk.bulk(false, &answer);
        talk.travel();
        talk.tcp(true, flags::ACK, &[]);
    }
    talk.close();
}

/// A request in clear text, with headers of some length.
fn get(length: usize, rng: &mut impl Rng) -> Vec<u8> {
    let page: u32 = rng.random();
    let mut text = format!("GET /{page:x} HTTP/1.1\r\nHost: www.example.com\r\nCookie: ").into_bytes();
    let room = length.saturating_sub(text.len() + 4);
    text.extend((0..room).map(|_| rng.random_range(b'a'..=b'z')));
    text.extend(b"\r\n\r\n");
    text
}

/// A TLS client hello as browsers send it, with random numbers (RFC 8446 section 4.1.2).
pub(crate) fn client_hello(rng: &mut impl Rng) -> Vec<u8> {
    record(0x16, 1, 512, rng)
}

/// A TLS record whose first byte is `message` (RFC 8446 section 5.1); in a handshake that is followed by its length.
fn record(kind: u8, message: u8, length: usize, rng: &mut impl Rng) -> Vec<u8> {
    let version = if kind == 0x16 { 1 } else { 3 };
    let mut data = vec![kind, 3, version];
    data.extend(low16(length).to_be_bytes());
    data.push(message);
    if kind == 0x16 {
        data.push(0);
        data.extend(low16(length.saturating_sub(4)).to_be_bytes());
        data.extend([3, 3]);
    }
    let rest = (5 + length).saturating_sub(data.len());
    random(&mut data, rest, rng);
    data
}
