//! Where a search for a free port begins. Not a secret: whoever must not guess ports sets `fully-random`, and sees the same generator
//! only through the ports it has chosen.

/// SplitMix64.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// `get_random_u16`
    pub(super) fn port(&mut self) -> u16 {
        (self.next() >> 48) as u16
    }
}
