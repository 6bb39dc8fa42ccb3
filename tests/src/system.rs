//! How common operating systems open TCP connections. Clients do it this way, and attackers who want to look like them.

use rand::{Rng, RngExt};

/// What a system's SYN shows.
#[derive(Clone, Copy, Debug)]
pub struct System {
    /// Time to live at the sender.
    pub ttl: u8,
    /// Window, not scaled.
    pub window: u16,
    options: &'static [u8],
}

const SYSTEMS: [System; 4] = [
    // Linux
    System { ttl: 64, window: 64_240, options: &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7] },
    // Windows
    System { ttl: 128, window: 64_240, options: &[2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2] },
    // macOS, iOS
    System {
        ttl: 64,
        window: 65_535,
        options: &[2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 4, 2, 0, 0],
    },
    // Android
    System { ttl: 64, window: 65_535, options: &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 9] },
];

impl System {
    /// One of them.
    pub fn any(rng: &mut impl Rng) -> Self {
        SYSTEMS[rng.random_range(0..SYSTEMS.len())]
    }

    /// The options of a SYN; a time stamp, where there is one, says the present.
    pub fn options(&self, rng: &mut impl Rng) -> Vec<u8> {
        let mut options = self.options.to_vec();
        if let Some(at) = options.windows(2).position(|pair| pair == [8, 10])
            && let Some(value) = options.get_mut(at + 2..at + 6)
        {
            rng.fill_bytes(value);
        }
        options
    }
}
