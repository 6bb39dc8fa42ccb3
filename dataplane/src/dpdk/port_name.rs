//! How a port is named in the configuration: a PCI address, or a DPDK virtual device with its arguments.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use thiserror::Error;

/// Bytes that a frame has besides the MTU: Ethernet header and two VLAN tags. The checksum never reaches memory.
pub const FRAME_OVERHEAD: u16 = 22;
/// Frames of a wire with the usual MTU of 1500 fit here, which is also `net_af_packet`'s default.
const SMALLEST_ROOM: u16 = 2048;
/// The kernel's and the driver's bookkeeping in front of a frame in a ring of `net_af_packet`: `TPACKET2_HDRLEN` and
/// alignment, rounded up. With the default of 2048 bytes, 1982 of a frame arrive.
const AF_PACKET_OVERHEAD: u16 = 128;
const AF_PACKET: [&str; 2] = ["net_af_packet", "eth_af_packet"];

/// A port's name. Parsing accepts what DPDK can be asked for; whether it exists is known when it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortName {
    /// A network card by its full PCI address, for example `0000:81:00.0`.
    Pci(String),
    /// A virtual device: driver, an optional number, arguments.
    Virtual {
        /// For example `net_af_packet` or `net_tap0`.
        device: String,
        /// `key=value` pairs, in order; a flag has an empty value.
        arguments: Vec<(String, String)>,
    },
}

/// The text names no port.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Neither form.
    #[error(
        "{0:?} names no port: give a PCI address such as \"0000:81:00.0\", or a DPDK virtual device such as \
         \"net_af_packet,iface=eth1\""
    )]
    Form(String),
    /// DPDK's names are at most 63 bytes.
    #[error("{0:?} is too long for a DPDK device: at most 60 characters before the first comma")]
    TooLong(String),
}

/// The port cannot hold the wire's frames.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameSizeError {
    /// `framesz` is given and would cut frames without an error.
    #[error(
        "{port}: framesz={given} cuts frames of an MTU of {mtu}, which need framesz={needed}; leave framesz and blocksz \
         away to have them chosen"
    )]
    AfPacketFrame {
        /// The port.
        port: String,
        /// Its argument.
        given: String,
        /// What would do.
        needed: u16,
        /// The wire's MTU.
        mtu: u16,
    },
    /// No buffer is that large.
    #[error("an MTU of {mtu} is more than a packet buffer can hold (65 535 bytes with all overhead)")]
    Mtu {
        /// The wire's MTU.
        mtu: u16,
    },
}

impl FromStr for PortName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let form = || ParseError::Form(text.to_owned());
        // The domain may be left out, as lspci does.
        for address in [text.to_ascii_lowercase(), format!("0000:{}", text.to_ascii_lowercase())] {
            if is_pci_address(&address) {
                return Ok(Self::Pci(address));
            }
        }
        let mut parts = text.split(',');
        let device = parts.next().unwrap_or_default().trim();
        let virtual_device = ["net_", "eth_"].iter().any(|prefix| device.starts_with(prefix));
        if !virtual_device || !device.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
            return Err(form());
        }
        if device.len() > 60 {
            return Err(ParseError::TooLong(text.to_owned()));
        }
        let arguments = parts
            .map(|part| match part.split_once('=') {
                Some((key, value)) => (key.trim().to_owned(), value.trim().to_owned()),
                None => (part.trim().to_owned(), String::new()),
            })
            .collect::<Vec<_>>();
        if arguments.iter().any(|(key, _)| key.is_empty()) || text.contains('\0') {
            return Err(form());
        }
        Ok(Self::Virtual { device: device.to_owned(), arguments })
    }
}

impl PortName {
    /// DPDK tells devices of one driver apart by a number at the end of the name: the one given, else `number`.
    pub fn numbered(mut self, number: usize) -> Self {
        if let Self::Virtual { device, .. } = &mut self
            && !device.ends_with(|last: char| last.is_ascii_digit())
        {
            device.push_str(&number.to_string());
        }
        self
    }

    /// What DPDK calls the device.
    pub fn device(&self) -> &str {
        match self {
            Self::Pci(address) => address,
            Self::Virtual { device, .. } => device,
        }
    }

    /// Whether it belongs to this driver.
    pub fn is_driver(&self, driver: &str) -> bool {
        matches!(self, Self::Virtual { device, .. } if device.trim_end_matches(|last: char| last.is_ascii_digit()) == driver)
    }

    /// The kernel's interface that `net_af_packet` rides on.
    pub fn af_packet_interface(&self) -> Option<&str> {
        self.argument("iface").filter(|_| AF_PACKET.iter().any(|driver| self.is_driver(driver)))
    }

    /// The socket that `net_vhost` creates, unless it is the side that connects.
    pub fn vhost_socket(&self) -> Option<&Path> {
        let connects = self.argument("client") == Some("1");
        self.argument("iface").filter(|_| self.is_driver("net_vhost") && !connects).map(Path::new)
    }

    /// How many receive queues the arguments ask for, where they do.
    pub fn told_queues(&self) -> Option<usize> {
        let Self::Virtual { arguments, .. } = self else { return None };
        let captures = arguments.iter().filter(|(key, _)| key == "rx_pcap" || key == "rx_iface").count();
        let pairs = self.argument("qpairs").and_then(|count| count.parse().ok());
        pairs.or_else(|| (captures > 0).then_some(captures))
    }

    fn argument(&self, wanted: &str) -> Option<&str> {
        let Self::Virtual { arguments, .. } = self else { return None };
        arguments.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str())
    }

    /// Bytes of frame that a buffer must hold for this port at `mtu`, and the port with the arguments that it needs for
    /// them. `net_af_packet` cuts longer frames without an error, so its rings are sized here.
    pub fn sized(mut self, mtu: u16) -> Result<(Self, u16), FrameSizeError> {
        let too_large = || FrameSizeError::Mtu { mtu };
        let needed = mtu
            .checked_add(FRAME_OVERHEAD + AF_PACKET_OVERHEAD)
            .and_then(|bytes| bytes.checked_next_multiple_of(1024))
            .ok_or_else(too_large)?
            .max(SMALLEST_ROOM);
        if !AF_PACKET.iter().any(|driver| self.is_driver(driver)) {
            return Ok((self, needed));
        }
        let port = self.to_string();
        let given = self.argument("framesz").map(str::to_owned);
        let Self::Virtual { arguments, .. } = &mut self else { return Ok((self, needed)) };
        let Some(given) = given else {
            if needed > SMALLEST_ROOM {
                arguments.push(("framesz".into(), needed.to_string()));
                // Four to a block: the kernel wants whole pages in a block, the driver a whole number of blocks.
                arguments.retain(|(key, _)| key != "blocksz");
                arguments.push(("blocksz".into(), (u32::from(needed) * 4).to_string()));
            }
            return Ok((self, needed));
        };
        match given.parse::<u16>() {
            // The driver refuses buffers that are smaller than its frames.
            Ok(frame) if frame >= mtu.saturating_add(FRAME_OVERHEAD + AF_PACKET_OVERHEAD) => {
                Ok((self, needed.max(frame)))
            }
            _ => Err(FrameSizeError::AfPacketFrame { port, given, needed, mtu }),
        }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.device())?;
        if let Self::Virtual { arguments, .. } = self {
            for (key, value) in arguments {
                if value.is_empty() { write!(f, ",{key}")? } else { write!(f, ",{key}={value}")? }
            }
        }
        Ok(())
    }
}

/// `dddd:bb:dd.f`, hexadecimal.
fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, digits: usize| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = text.splitn(3, ':');
    let (Some(domain), Some(bus), Some(rest)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let Some((device, function)) = rest.split_once('.') else { return false };
    hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(text: &str) -> PortName {
        text.parse().expect("a port")
    }

    #[test]
    fn names_survive_a_round_trip() {
        for text in [
            "0000:81:00.1",
            "net_null0,size=64",
            "net_pcap0,rx_pcap=/tmp/a b.pcap,tx_pcap=x,infinite_rx=1",
            "net_tap,flag",
        ] {
            assert_eq!(port(text).to_string(), text);
        }
    }

    #[test]
    fn a_pci_address_may_leave_out_its_domain() {
        assert_eq!(port("81:00.0"), port("0000:81:00.0"));
        assert_eq!(port("AF:00.1").to_string(), "0000:af:00.1");
    }

    #[test]
    fn what_names_no_port_is_refused() {
        for text in ["", "eth1", "81:00", "net_null0,,", "net null", "net_tap,=3", "/dev/null", "net_null\0"] {
            assert!(text.parse::<PortName>().is_err(), "{text:?}");
        }
        let long = format!("net_{}", "x".repeat(60));
        assert_eq!(long.parse::<PortName>(), Err(ParseError::TooLong(long)));
    }

    #[test]
    fn a_device_without_a_number_gets_one() {
        assert_eq!(port("net_af_packet,iface=veth0").numbered(3).to_string(), "net_af_packet3,iface=veth0");
        assert_eq!(port("net_tap7,iface=veth0").numbered(3).device(), "net_tap7");
    }

    #[test]
    fn rings_of_af_packet_are_made_to_hold_jumbo_frames() {
        let (usual, room) = port("net_af_packet,iface=a").sized(1500).expect("fits");
        assert_eq!((usual.to_string().as_str(), room), ("net_af_packet,iface=a", 2048));
        let (jumbo, room) = port("net_af_packet,iface=a").sized(9000).expect("fits");
        assert_eq!((jumbo.to_string().as_str(), room), ("net_af_packet,iface=a,framesz=9216,blocksz=36864", 9216));
        let (own, room) = port("net_af_packet,iface=a,framesz=16384,blocksz=65536").sized(9000).expect("fits");
        assert_eq!((own.to_string().as_str(), room), ("net_af_packet,iface=a,framesz=16384,blocksz=65536", 16384));
    }

    #[test]
    fn a_ring_that_would_cut_frames_is_refused() {
        assert!(matches!(
            port("net_af_packet,iface=a,framesz=2048").sized(9000),
            Err(FrameSizeError::AfPacketFrame { needed: 9216, .. })
        ));
        assert_eq!(port("net_tap").sized(65_500), Err(FrameSizeError::Mtu { mtu: 65_500 }));
    }
}
