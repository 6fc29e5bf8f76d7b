//! SCTP's checksum (RFC 9260 appendix A), which a veth peer leaves at zero for hardware to compute
//! (`skb_crc32c_csum_help`).

const FIELD: std::ops::Range<usize> = 8..12;

/// Computes the CRC32c of an SCTP packet whose checksum is zero. A finished one is zero once in 2^32 packets, and then
/// it stays.
pub(super) fn complete(packet: &mut [u8]) {
    if packet.get(FIELD).is_none_or(|field| field != [0; 4]) {
        return;
    }
    let crc = packet.iter().fold(u32::MAX, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]);
    if let Some(field) = packet.get_mut(FIELD) {
        field.copy_from_slice(&(!crc).to_le_bytes());
    }
}

/// CRC32c (Castagnoli) by the byte, reflected.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completes_only_what_is_zero() {
        let mut packet = [7u8; 40];
        complete(&mut packet);
        assert_eq!(packet, [7; 40]);
        packet[FIELD].fill(0);
        complete(&mut packet);
        assert_ne!(packet[FIELD], [0; 4]);
    }

    #[test]
    fn is_crc32c() {
        // The check value of CRC-32C over "123456789".
        let crc = b"123456789".iter().fold(u32::MAX, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]);
        assert_eq!(!crc, 0xe306_9283);
    }
}
