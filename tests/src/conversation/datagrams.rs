//! Conversations over UDP and ICMP.

use std::net::IpAddr;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use super::{Event, Talk};
use crate::{address, frame::Link, quic};

pub(super) fn game(at_ns: u64, host: IpAddr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut talk = Talk::new(at_ns, host, 27_015, link, rng);
    for _ in 0..talk.rng.random_range(60..=180) {
        let (question, answer) = (talk.rng.random_range(30..=120), talk.rng.random_range(60..=400));
        let (question, answer) = (talk.noise(question), talk.noise(answer));
        talk.udp(true, &question);
        talk.udp(false, &answer);
        talk.pause(28, 38);
    }
    talk.events
}

pub(super) fn query(at_ns: u64, host: IpAddr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut talk = Talk::new(at_ns, host, 53, link, rng);
    let (question, answer) = question_and_answer(false, talk.rng);
    talk.udp(true, &question);
    talk.udp(false, &answer);
    talk.events
}

pub(super) fn lookup(at_ns: u64, host: IpAddr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut talk = Talk::new(at_ns, host, address::ephemeral_port(rng), link, rng);
    talk.client_port = 53;
    let long = talk.rng.random_ratio(1, 20);
    let (question, answer) = question_and_answer(long, talk.rng);
    talk.udp(false, &question);
    talk.travel();
    talk.udp(true, &answer);
    talk.events
}

pub(super) fn quic(at_ns: u64, host: IpAddr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut talk = Talk::new(at_ns, host, 443, link, rng);
    let initial = quic::initial(talk.rng);
    let ids = [talk.noise(8), talk.noise(8)];
    let short = |talk: &mut Talk<'_>, inbound: bool, length: usize| {
        let first: u8 = 0x40 | talk.rng.random::<u8>() & 0x3f;
        let data = [&[first], &ids[usize::from(!inbound)][..], &talk.noise(length)].concat();
        talk.udp(inbound, &data);
    };
    talk.udp(true, &initial);
    for length in [1_200, 1_200, 700] {
        // Initial and Handshake packets of the server (RFC 9000 section 17.2).
        let kind = if length == 700 { 0xe3 } else { 0xc3 };
        let data = [&[kind, 0, 0, 0, 1, 8][..], &ids[1], &[8], &ids[0], &talk.noise(length - 23)].concat();
        talk.udp(false, &data);
    }
    talk.travel();
    let acknowledged = quic::initial(talk.rng);
    talk.udp(true, &acknowledged);
    for _ in 0..talk.rng.random_range(1..=4) {
        let length = talk.rng.random_range(80..=600);
        short(&mut talk, true, length);
        talk.pause(1, 20);
        for i in 0..talk.rng.random_range(2..=20) {
            short(&mut talk, false, 1_200);
            if i % 4 == 3 {
                short(&mut talk, true, 30);
            }
        }
        talk.travel();
        short(&mut talk, true, 30);
        talk.pause(50, 800);
    }
    talk.events
}

pub(super) fn voip(at_ns: u64, host: IpAddr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut talk = Talk::new(at_ns, host, 5_060, link, rng);
    talk.client_port = 5_060;
    let call: u32 = talk.rng.random();
    let message = |first: &str, cseq: &str| {
        format!(
            "{first}\r\nVia: SIP/2.0/UDP host;branch=z9hG4bK{call:x}\r\nCall-ID: {call:x}\r\nCSeq: 1 {cseq}\r\n\r\n"
        )
    };
    talk.udp(true, message("INVITE sip:someone@example.com SIP/2.0", "INVITE").as_bytes());
    talk.udp(false, message("SIP/2.0 100 Trying", "INVITE").as_bytes());
    talk.pause(100, 400);
    talk.udp(false, message("SIP/2.0 200 OK", "INVITE").as_bytes());
    talk.travel();
    talk.udp(true, message("ACK sip:someone@example.com SIP/2.0", "ACK").as_bytes());
    let signalling = (talk.client_port, talk.server_port);
    talk.client_port = talk.rng.random_range(8_192..=16_000) * 2;
    talk.server_port = talk.rng.random_range(8_192..=8_499) * 2;
    let (sources, mut sequence, mut stamp): ([u32; 2], u16, u32) = talk.rng.random();
    for _ in 0..talk.rng.random_range(100..=250) {
        for inbound in [false, true] {
            // Version 2, G.711 (RFC 3550 section 5.1), 20 ms.
            let mut data = vec![0x80, 0];
            data.extend(sequence.to_be_bytes());
            data.extend(stamp.to_be_bytes());
            data.extend(sources[usize::from(inbound)].to_be_bytes());
            data.extend(talk.noise(160));
            talk.udp(inbound, &data);
        }
        (sequence, stamp) = (sequence.wrapping_add(1), stamp.wrapping_add(160));
        talk.pause(18, 20);
    }
    (talk.client_port, talk.server_port) = signalling;
    talk.udp(true, message("BYE sip:someone@example.com SIP/2.0", "BYE").as_bytes());
    talk.udp(false, message("SIP/2.0 200 OK", "BYE").as_bytes());
    talk.events
}

pub(super) fn ping(at_ns: u64, host: IpAddr, link: Link, rng: &mut ChaCha8Rng) -> Vec<Event> {
    let mut talk = Talk::new(at_ns, host, 0, link, rng);
    let [high, low]: [u8; 2] = talk.rng.random();
    let data = talk.noise(56);
    for sequence in 1..=4 {
        talk.echo(true, true, [high, low, 0, sequence], &data);
        talk.echo(false, false, [high, low, 0, sequence], &data);
        talk.pause(990, 1_010);
    }
    talk.events
}

/// A query for a name's address and what a server says to it (RFC 1035 section 4).
fn question_and_answer(long: bool, rng: &mut impl Rng) -> (Vec<u8>, Vec<u8>) {
    const HOSTS: [&[u8]; 4] = [b"\x03www", b"\x04mail", b"\x03api", b"\x06static"];
    const DOMAINS: [&[u8]; 3] = [b"\x07example\x03com\x00", b"\x07example\x03net\x00", b"\x07example\x03org\x00"];
    let id: [u8; 2] = rng.random();
    let host = HOSTS[rng.random_range(0..HOSTS.len())];
    let domain = DOMAINS[rng.random_range(0..DOMAINS.len())];
    let kind = [1, 28, 65][rng.random_range(0..3)];
    let question = [host, domain, &[0, kind, 0, 1]].concat();
    let query = [&id[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &question].concat();
    let records = if long { 120 } else { rng.random_range(1..=3) };
    let mut answer = [&id[..], &[0x81, 0x80, 0, 1, 0, records, 0, 0, 0, 0], &question].concat();
    for _ in 0..records {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(rng.random::<[u8; 4]>());
    }
    (query, answer)
}
