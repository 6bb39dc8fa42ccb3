//! What the first bytes of the packets in a capture are.

use std::fmt::{self, Display, Formatter};

/// A LINKTYPE_ value of the registry at tcpdump.org/linktypes.html (draft-ietf-opsawg-pcaplinktype).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkType(pub u16);

impl LinkType {
    /// Ethernet (DIX, 802.2, 802.3), the one that replay understands.
    pub const ETHERNET: Self = Self(1);

    /// The registry's name without `LINKTYPE_`, for the types that operators meet.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "NULL",
            1 => "ETHERNET",
            6 => "IEEE802_5",
            8 => "SLIP",
            9 => "PPP",
            10 => "FDDI",
            // The values that BSDs give to DLT_RAW end up in files, too.
            12 | 14 | 101 => "RAW",
            50 => "PPP_HDLC",
            51 => "PPP_ETHER",
            100 => "ATM_RFC1483",
            104 => "C_HDLC",
            105 => "IEEE802_11",
            107 => "FRELAY",
            108 => "LOOP",
            113 => "LINUX_SLL",
            117 => "PFLOG",
            119 => "IEEE802_11_PRISM",
            122 => "IP_OVER_FC",
            127 => "IEEE802_11_RADIOTAP",
            143 => "DOCSIS",
            147..=162 => "USER0..USER15",
            163 => "IEEE802_11_AVS",
            166 => "PPP_PPPD",
            187 => "BLUETOOTH_HCI_H4",
            189 => "USB_LINUX",
            192 => "PPI",
            195 => "IEEE802_15_4_WITHFCS",
            197 => "ERF",
            201 => "BLUETOOTH_HCI_H4_WITH_PHDR",
            220 => "USB_LINUX_MMAPPED",
            227 => "CAN_SOCKETCAN",
            228 => "IPV4",
            229 => "IPV6",
            230 => "IEEE802_15_4_NOFCS",
            239 => "NFLOG",
            240 => "NETANALYZER",
            242 => "IPOIB",
            247 => "INFINIBAND",
            249 => "USBPCAP",
            252 => "WIRESHARK_UPPER_PDU",
            253 => "NETLINK",
            258 => "PKTAP",
            274 => "ETHERNET_MPACKET",
            276 => "LINUX_SLL2",
            _ => return None,
        })
    }
}

impl Display for LinkType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_type_is_shown_by_name_and_number() {
        assert_eq!(LinkType(113).to_string(), "LINUX_SLL (113)");
        assert_eq!(LinkType(4711).to_string(), "4711");
    }
}
