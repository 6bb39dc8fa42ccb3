//! Samples: copies of packets' headers that workers hand to detection.

use levee_api::lane::Lane;
use levee_api::role::Role;
use levee_api::time::Timestamp;

use crate::packet::{Lanes, udp};

/// How many payload bytes a sample keeps.
pub const SAMPLE_PAYLOAD: usize = 32;

/// A copy of what a packet looked like.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Headers.
    pub lanes: Lanes,
    /// First bytes after the transport header; absent bytes are zero.
    pub payload: [u8; SAMPLE_PAYLOAD],
    /// When it arrived.
    pub at: Timestamp,
    /// Keyed hash of its conversation (addresses, ports, protocol).
    pub conversation: u64,
    /// Host slot of its destination in the worker that sampled it.
    pub slot: u32,
    /// What it was in its conversation.
    pub role: Role,
    /// Its fate when it was sampled: true when no filter dropped it.
    pub passed: bool,
    /// How many bytes of `payload` are present.
    pub present: u8,
}

impl Sample {
    /// The slot of what was not sampled by chance, but as an example of what conversations explain.
    pub const EXAMPLE: u32 = u32::MAX;

    /// True for an example of what conversations explain: it says nothing about how much there is.
    pub const fn is_example(&self) -> bool {
        self.slot == Self::EXAMPLE
    }

    /// Hash of the last two labels of the name in a DNS query; none when it is none.
    pub fn dns_suffix(&self) -> Option<u16> {
        let digest = self.lanes.get(Lane::Digest);
        (self.lanes.get(Lane::Protocol) == u16::from(udp::PROTOCOL) && digest != 0).then_some(digest)
    }
}
