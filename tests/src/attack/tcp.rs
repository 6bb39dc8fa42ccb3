//! Segments of no connection.

use levee_api::vector::Vector;
use rand::RngExt;

use super::{Attack, MTU};
use crate::{
    address, amplification,
    frame::{self, Tcp, flags},
    system::System,
};

/// Services that answer SYNs from anywhere: HTTP, HTTPS, SSH, SMTP, BGP, alternatives to HTTP.
const REFLECTING: [u16; 6] = [80, 443, 22, 25, 179, 8_080];
/// What middleboxes send in the name of a forbidden site (Bock and others, USENIX Security 2021).
const BLOCK_PAGE: &[u8] = b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n\
    <html><head><title>Blocked</title></head><body>This page is not available.</body></html>";

impl Attack {
    pub(super) fn tool_syn(&mut self, frame: &mut Vec<u8>) {
        let ip = self.spoofed();
        let syn = Tcp { window: self.tool.window, options: self.tool.options, ..self.segment(flags::SYN) };
        frame::tcp(frame, self.aim.link, ip, syn, &[]);
    }

    pub(super) fn system_syn(&mut self, frame: &mut Vec<u8>) {
        let system = System::any(&mut self.rng);
        let mut ip = self.spoofed_by(system.ttl);
        ip.dont_fragment = true;
        let options = system.options(self.rng.random(), ip.source.is_ipv6());
        let source = address::ephemeral_port(&mut self.rng);
        let syn = Tcp { window: system.window, options: &options, source, ..self.segment(flags::SYN) };
        frame::tcp(frame, self.aim.link, ip, syn, &[]);
    }

    /// Data, resets and whatever else pretends to belong to a connection.
    pub(super) fn stray(&mut self, frame: &mut Vec<u8>, vector: Vector) {
        let flag = match vector {
            Vector::AckFlood => flags::ACK,
            Vector::RstFlood => flags::RST,
            Vector::FinFlood => flags::FIN | flags::ACK,
            Vector::XmasFlood => flags::FIN | flags::PSH | flags::URG,
            Vector::NullFlood => 0,
            _ => flags::PSH | flags::ACK,
        };
        let ip = self.spoofed();
        let window = self.rng.random_range(1..=u16::MAX);
        let segment = Tcp { window, ..self.segment(flag) };
        self.payload.clear();
        if flag == flags::PSH | flags::ACK {
            amplification::random(&mut self.payload, self.tool.payload.len(), &mut self.rng);
        }
        frame::tcp(frame, self.aim.link, ip, segment, &self.payload);
    }

    pub(super) fn syn_ack(&mut self, frame: &mut Vec<u8>) {
        let mut ip = self.reflector_ip();
        ip.dont_fragment = true;
        let hops = usize::from(address::hops(ip.source));
        let segment = Tcp {
            source: REFLECTING[hops % REFLECTING.len()],
            destination: self.random_ports().0,
            window: [64_240, 65_160, 65_535, 29_200][hops % 4],
            options: &[2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7],
            ..self.segment(flags::SYN | flags::ACK)
        };
        frame::tcp(frame, self.aim.link, ip, segment, &[]);
    }

    /// Three pages and a reset of each box, in any order.
    pub(super) fn block_page(&mut self, frame: &mut Vec<u8>) {
        let ip = self.reflector_ip();
        let is_page = self.rng.random_ratio(3, 4);
        let flag = if is_page { flags::PSH | flags::ACK } else { flags::RST | flags::ACK };
        let destination = self.random_ports().0;
        let segment = Tcp { source: 80, destination, window: 8_192, ..self.segment(flag) };
        frame::tcp(frame, self.aim.link, ip, segment, if is_page { BLOCK_PAGE } else { &[] });
    }

    pub(super) fn later_tcp_fragment(&mut self, frame: &mut Vec<u8>) {
        let ip = self.spoofed();
        self.payload.clear();
        amplification::random(&mut self.payload, 2_000, &mut self.rng);
        let segment = self.segment(flags::ACK);
        frame::tcp(frame, self.aim.link, ip, segment, &self.payload);
        *frame = frame::fragments(frame, MTU).pop().unwrap_or_default();
    }

    fn segment(&mut self, flag: u8) -> Tcp<'static> {
        let (_, destination) = self.random_ports();
        Tcp {
            source: self.rng.random_range(1_024..=u16::MAX),
            destination,
            sequence: self.rng.random(),
            acknowledgement: if flag & flags::ACK == 0 { 0 } else { self.rng.random() },
            flags: flag,
            ..Tcp::default()
        }
    }
}
