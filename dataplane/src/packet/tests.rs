use super::*;

/// The header checksum over all of it, as a sender computes it.
fn recompute(header: &[u8]) -> u16 {
    let mut copy = header.to_vec();
    copy[10..12].fill(0);
    !checksum::fold(checksum::sum(&copy))
}

#[test]
fn the_incremental_checksum_equals_the_whole_one() {
    let mut frame = [0u8; 34];
    for ttl in 1..=255u8 {
        for noise in (0..=u16::MAX).step_by(97) {
            frame[14] = 0x45;
            frame[22] = ttl;
            frame[18..20].copy_from_slice(&noise.to_be_bytes());
            let sum = recompute(&frame[14..]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            ipv4::decrement_ttl(&mut frame);
            assert_eq!(frame[22], ttl - 1);
            assert_eq!(u16::from_be_bytes([frame[24], frame[25]]), recompute(&frame[14..]), "ttl {ttl} id {noise}");
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
        let mut frame = [0u8; 34];
        frame[22] = 9;
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        ipv4::decrement_ttl(&mut frame);
        assert_eq!(u16::from_be_bytes([frame[24], frame[25]]), kernel(check), "{check:#06x}");
    }
}

#[test]
fn nothing_but_what_it_says_is_read_as_unfinished() {
    assert_eq!(partial(&[]), None);
    assert_eq!(partial(&[0; 14]), None);
    assert_eq!(partial(&[0x45; 60]), None);
}

#[test]
fn editing_a_frame_too_short_changes_nothing() {
    for length in 0..34 {
        let mut frame = vec![0x45; length];
        ipv4::decrement_ttl(&mut frame);
        if length < 34 {
            assert_eq!(frame, vec![0x45; length]);
        }
    }
}
