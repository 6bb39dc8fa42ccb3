//! How common operating systems open TCP connections. Clients do it this way, and attackers who want to look like them.

use rand::{Rng, RngExt};

/// What a system's segments show.
#[derive(Clone, Copy, Debug)]
pub struct System {
    /// Time to live at the sender.
    pub ttl: u8,
    /// Window of the SYN, not scaled.
    pub window: u16,
    /// Window later, scaled.
    pub scaled_window: u16,
    options: &'static [u8],
}

const SYSTEMS: [System; 4] = [
    // Linux
    System {
        ttl: 64,
        window: 64_240,
        scaled_window: 502,
        options: &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7],
    },
    // Windows
    System { ttl: 128, window: 64_240, scaled_window: 1_026, options: &[2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2] },
    // macOS, iOS
    System {
        ttl: 64,
        window: 65_535,
        scaled_window: 2_058,
        options: &[2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 4, 2, 0, 0],
    },
    // Android
    System {
        ttl: 64,
        window: 65_535,
        scaled_window: 343,
        options: &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 9],
    },
];

impl System {
    /// One of them.
    pub fn any(rng: &mut impl Rng) -> Self {
        SYSTEMS[rng.random_range(0..SYSTEMS.len())]
    }

    /// Whether its SYN carries a time stamp (RFC 7323).
    pub fn has_stamps(&self) -> bool {
        self.stamp_at().is_some()
    }

    /// The options of a SYN whose time stamp, where there is one, says `stamp`. Over IPv6 segments are 20 bytes shorter.
    pub fn options(&self, stamp: u32, ipv6: bool) -> Vec<u8> {
        let mut options = self.options.to_vec();
        if let Some(value) = self.stamp_at().and_then(|at| options.get_mut(at..at + 4)) {
            value.copy_from_slice(&stamp.to_be_bytes());
        }
        if let (Some(low), true) = (options.get_mut(3), ipv6) {
            *low -= 20;
        }
        options
    }

    fn stamp_at(&self) -> Option<usize> {
        self.options.windows(2).position(|pair| pair == [8, 10]).map(|at| at + 2)
    }
}
