//! The Internet checksum (RFC 1071).

/// Sum of the 16-bit big-endian words of `bytes`, an odd last byte padded with zero. Not folded, not inverted.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    u64::from(u16::from_be(fold(raw(bytes))))
}

/// The same of the words as they lie in memory, four bytes at a time: folded, it is that but for the order of its bytes (RFC 1071, 2 B).
#[inline]
pub fn raw(bytes: &[u8]) -> u64 {
    let mut total = 0u64;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let (pairs, last) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [byte] = last {
        total += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    total
}

/// Folds the carries in: the one's complement sum in 16 bits.
#[inline]
pub fn fold(sum: u64) -> u16 {
    // With its halves exchanged added, the upper half has the sum of both and the carry of the lower one.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// A checksum after two of the bytes that it is over have changed (RFC 1624, equation 3; `csum_replace2`).
pub fn amended(checksum: u16, old: [u8; 2], new: [u8; 2]) -> u16 {
    let [old, new] = [old, new].map(u16::from_be_bytes);
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn equals_the_literal_sum_at_every_length() {
        let bytes: Vec<u8> = (0..2000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for length in 0..bytes.len() {
            assert_eq!(fold(sum(&bytes[..length])), literal(&bytes[..length]), "length {length}");
        }
    }

    #[test]
    fn carries_survive() {
        assert_eq!(fold(sum(&[0xff; 4000])), literal(&[0xff; 4000]));
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0), 0);
    }

    /// 0 and 0xffff are one number in one's complement; only the sum of nothing is 0.
    #[test]
    fn folding_is_the_rest_of_a_division() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..100_000 {
            let sum = random.u64(..) >> random.u32(..64);
            let rest = (sum % 0xffff) as u16;
            assert_eq!(fold(sum), if rest == 0 && sum > 0 { 0xffff } else { rest }, "{sum:x}");
        }
    }
}
