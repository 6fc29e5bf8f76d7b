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
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
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
}
