use super::*;

/// The header checksum over all of it, as a sender computes it.
fn recompute(header: &[u8]) -> u16 {
    let mut copy = header.to_vec();
    copy[10..12].fill(0);
    !checksum::fold(checksum::sum(&copy))
}

#[test]
fn the_incremental_checksum_equals_the_whole_one() {
    let mut header = [0u8; 20];
    for ttl in 1..=255u8 {
        for noise in (0..=u16::MAX).step_by(97) {
            header[0] = 0x45;
            header[8] = ttl;
            header[4..6].copy_from_slice(&noise.to_be_bytes());
            let sum = recompute(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            ipv4::decrement_ttl(&mut header);
            assert_eq!(header[8], ttl - 1);
            assert_eq!(u16::from_be_bytes([header[10], header[11]]), recompute(&header), "ttl {ttl} id {noise}");
            let [old, new] = [[header[0], header[1]], [header[0], ttl]];
            let sum = checksum::amended(u16::from_be_bytes([header[10], header[11]]), old, new);
            header[1] = ttl;
            assert_eq!(sum, recompute(&header), "tos {ttl} id {noise}");
        }
    }
}

/// `ip_decrease_ttl` of include/net/ip.h, on a little-endian machine, literally.
fn kernel(check: u16) -> u16 {
    let sum = u32::from(check.swap_bytes()) + u32::from(0x0100u16.swap_bytes());
    ((sum + u32::from(sum >= 0xffff)) as u16).swap_bytes()
}

#[test]
fn the_checksum_is_bit_for_bit_the_kernels() {
    for check in 0..=u16::MAX {
        let mut header = [0u8; 20];
        header[8] = 9;
        header[10..12].copy_from_slice(&check.to_be_bytes());
        ipv4::decrement_ttl(&mut header);
        assert_eq!(u16::from_be_bytes([header[10], header[11]]), kernel(check), "{check:#06x}");
    }
}

#[test]
fn nothing_but_what_it_says_is_read_as_unfinished() {
    assert_eq!(partial(&[]), None);
    assert_eq!(partial(&[0; 14]), None);
    assert_eq!(partial(&[0x45; 60]), None);
}
