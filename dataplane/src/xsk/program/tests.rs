//! The XDP program on exact frames, run by the kernel (`BPF_PROG_RUN`) without any interface. Needs root,
//! and fails without.

use super::*;

const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
const STAND_IN: Mac = Mac([2, 9, 9, 9, 9, 9]);
const LONGEST: u32 = 1514;

fn program(punted: Option<Mac>, serving: bool) -> Program {
    let served = MappedArray::create("served", 8, 4 * 65536 + 256).expect("root may make a map");
    let program = Program::load(1, &served, None).expect("root may load the program");
    program
        .configure(PortConfig {
            mac: OWN,
            punted,
            serving,
            translates: false,
            tracks: false,
            longest: LONGEST,
            replays: false,
        })
        .expect("the port map takes its value");
    program.add_local("198.51.100.1".parse().expect("an address")).expect("room in the map");
    program.add_local("2001:db8::1".parse().expect("an address")).expect("room in the map");
    program
}

/// The verdict, and the frame afterwards.
pub(super) fn verdict(program: &Program, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut output = vec![0; frame.len() + 256];
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut options: libbpf_sys::bpf_test_run_opts = unsafe { std::mem::zeroed() };
    options.sz = size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t;
    options.data_in = frame.as_ptr().cast();
    options.data_size_in = frame.len() as u32;
    options.data_out = output.as_mut_ptr().cast();
    options.data_size_out = output.len() as u32;
    options.repeat = 1;
    // SAFETY: the descriptor is open and both buffers are as long as said and outlive the call.
    let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.program.as_raw_fd(), &raw mut options) };
    assert_eq!(result, 0, "BPF_PROG_RUN");
    output.truncate(options.data_size_out as usize);
    (options.retval, output)
}

/// The verdict, why the frame was left to the kernel (`None`: it was for us), and the frame afterwards.
///
/// Without a socket in the XSKMAP a frame for us is passed as well, but not counted.
fn run(program: &Program, frame: &[u8]) -> (u32, Option<PassReason>, Vec<u8>) {
    let before = program.passed();
    let (verdict, output) = verdict(program, frame);
    let after = program.passed();
    let counted: Vec<_> = PassReason::ALL.into_iter().filter(|r| after[r.index()] != before[r.index()]).collect();
    assert!(counted.len() <= 1, "counted once: {counted:?}");
    (verdict, counted.first().copied(), output)
}

fn ipv4() -> Vec<u8> {
    let mut frame = vec![0; 64];
    frame[..6].copy_from_slice(&OWN.0);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14] = 0x45;
    frame[17] = 50;
    frame[22] = 64;
    frame[23] = 17;
    frame[26..30].copy_from_slice(&[198, 51, 100, 2]);
    frame[30..34].copy_from_slice(&[203, 0, 113, 2]);
    frame
}

fn ipv6() -> Vec<u8> {
    let mut frame = vec![0; 74];
    frame[..6].copy_from_slice(&OWN.0);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame[14] = 0x60;
    frame[19] = 20;
    frame[20] = 17;
    frame[21] = 64;
    frame[22..26].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    frame[37] = 2;
    frame[38..42].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    frame[53] = 9;
    frame
}

fn edited(mut frame: Vec<u8>, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    edit(&mut frame);
    frame
}

#[test]
fn privileged_the_program_leaves_to_the_kernel_what_is_the_kernels() {
    let program = program(None, true);
    let reason = |frame: Vec<u8>| run(&program, &frame).1;
    let four = |edit: &dyn Fn(&mut Vec<u8>)| reason(edited(ipv4(), edit));
    let six = |edit: &dyn Fn(&mut Vec<u8>)| reason(edited(ipv6(), edit));

    assert_eq!(four(&|_| {}), None);
    assert_eq!(six(&|_| {}), None);
    assert_eq!(four(&|f| f[20] = 0x40), None, "don't fragment");
    assert_eq!(four(&|f| f.extend([0; 20])), None, "padding");

    assert_eq!(four(&|f| f[12..14].copy_from_slice(&[0x08, 0x06])), Some(PassReason::NotIp));
    assert_eq!(four(&|f| f[12..14].copy_from_slice(&[0x81, 0x00])), Some(PassReason::Vlan));
    assert_eq!(four(&|f| f[12..14].copy_from_slice(&[0x88, 0xa8])), Some(PassReason::Vlan));
    assert_eq!(four(&|f| f[5] = 2), Some(PassReason::ForeignMac));
    assert_eq!(four(&|f| f[..6].fill(0xff)), Some(PassReason::NotUnicast));
    assert_eq!(four(&|f| f[14] = 0x65), Some(PassReason::Malformed));
    assert_eq!(four(&|f| f[17] = 51), Some(PassReason::Malformed), "longer than the frame");
    assert_eq!(four(&|f| f[17] = 19), Some(PassReason::Malformed), "shorter than its header");
    assert_eq!(four(&|f| f.truncate(33)), Some(PassReason::Malformed));
    assert_eq!(four(&|f| f[14] = 0x46), Some(PassReason::Options));
    assert_eq!(four(&|f| f[20] = 0x20), Some(PassReason::Fragment));
    assert_eq!(four(&|f| f[21] = 1), Some(PassReason::Fragment));
    assert_eq!(four(&|f| f[22] = 1), Some(PassReason::TtlExpired));
    assert_eq!(four(&|f| f[22] = 0), Some(PassReason::TtlExpired));
    for first in [0, 127, 224, 239, 240, 255] {
        assert_eq!(four(&|f| f[30] = first), Some(PassReason::NotUnicast), "{first}/8");
    }
    assert_eq!(four(&|f| f[30..34].copy_from_slice(&[198, 51, 100, 1])), Some(PassReason::Local));
    assert_eq!(four(&|f| f.resize(LONGEST as usize, 0)), None);
    assert_eq!(four(&|f| f.resize(LONGEST as usize + 1, 0)), Some(PassReason::Oversize));

    assert_eq!(six(&|f| f[14] = 0x40), Some(PassReason::Malformed));
    assert_eq!(six(&|f| f[19] = 21), Some(PassReason::Malformed));
    assert_eq!(six(&|f| f[20] = 44), Some(PassReason::Fragment));
    for extension in [0, 43, 51, 60, 135, 139, 140] {
        assert_eq!(six(&|f| f[20] = extension), Some(PassReason::Options), "next header {extension}");
    }
    assert_eq!(six(&|f| f[21] = 1), Some(PassReason::TtlExpired));
    assert_eq!(six(&|f| f[38] = 0xff), Some(PassReason::NotUnicast));
    assert_eq!(six(&|f| f[38..40].copy_from_slice(&[0xfe, 0xbf])), Some(PassReason::NotUnicast));
    assert_eq!(six(&|f| f[38..54].fill(0)), Some(PassReason::NotUnicast));
    assert_eq!(six(&|f| f[53] = 1), Some(PassReason::Local));
}

#[test]
fn privileged_a_port_on_standby_is_the_kernels() {
    assert_eq!(run(&program(None, false), &ipv4()).1, Some(PassReason::Standby));
}

#[test]
fn privileged_a_punted_frame_gets_its_address_back() {
    let punted = edited(ipv4(), |frame| frame[..6].copy_from_slice(&STAND_IN.0));
    for serving in [true, false] {
        let (verdict, reason, frame) = run(&program(Some(STAND_IN), serving), &punted);
        assert_eq!((verdict, reason), (2, None), "XDP_PASS, and not counted again");
        assert_eq!(frame, ipv4());
    }
    assert_eq!(run(&program(None, true), &punted).1, Some(PassReason::ForeignMac), "native mode knows no stand-in");
}

#[test]
fn privileged_a_local_address_that_goes_is_ours_again() {
    let program = program(None, true);
    let frame = edited(ipv4(), |frame| frame[30..34].copy_from_slice(&[198, 51, 100, 1]));
    assert_eq!(run(&program, &frame).1, Some(PassReason::Local));
    program.remove_local("198.51.100.1".parse().expect("an address")).expect("it was there");
    assert_eq!(run(&program, &frame).1, None);
}
