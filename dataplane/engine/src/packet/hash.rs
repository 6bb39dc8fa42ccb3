//! A 16-bit hash of header bytes, for lanes and samples that tell things apart by equality.

/// FNV-1a, folded to 16 bits, never zero: zero is for what is absent. It needs no key: nothing is looked up by it, and who wants
/// to look like somebody else can send the same bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hash(u32);

impl Hash {
    pub(super) const fn new() -> Self {
        Self(0x811c_9dc5)
    }

    pub(super) const fn add(&mut self, octet: u8) {
        self.0 = (self.0 ^ octet as u32).wrapping_mul(0x0100_0193);
    }

    pub(super) fn finish(self) -> u16 {
        u16::try_from((self.0 ^ (self.0 >> 16)) & 0xffff).unwrap_or_default().max(1)
    }
}
