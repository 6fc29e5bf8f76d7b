//! Programs at the tc hooks that no qdisc shows (tcx, Linux 6.6).

use std::io;

use libbpf_rs::libbpf_sys;
use shunt_policy::Ifindex;

/// Whether programs are attached to an interface by tcx, at its ingress or its egress. False on kernels that have no tcx.
///
/// # Errors
///
/// Where the kernel refuses to tell, for want of `CAP_NET_ADMIN` say.
pub fn has_tcx_programs(ifindex: Ifindex) -> io::Result<bool> {
    for hook in [libbpf_sys::BPF_TCX_INGRESS, libbpf_sys::BPF_TCX_EGRESS] {
        // SAFETY: all-zero is a valid value of this plain C struct.
        let mut options: libbpf_sys::bpf_prog_query_opts = unsafe { std::mem::zeroed() };
        options.sz = size_of::<libbpf_sys::bpf_prog_query_opts>() as libbpf_sys::size_t;
        // SAFETY: the options are valid and outlive the call; without buffers only the count is written.
        let result = unsafe { libbpf_sys::bpf_prog_query_opts(ifindex.0 as i32, hook, &raw mut options) };
        match -result {
            // SAFETY: both members of the union are the same plain number.
            0 if unsafe { options.__bindgen_anon_1.count } > 0 => return Ok(true),
            // ENOENT: none was ever attached. EINVAL: this kernel does not know the hook. ENODEV: nothing is attached to what is gone.
            0 | libc::ENOENT | libc::EINVAL | libc::ENODEV => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::xsk::program::punt_object;

    /// Loopback of a namespace of its own.
    const LO: Ifindex = Ifindex(1);

    #[test]
    fn privileged_a_program_is_seen_while_it_is_attached() {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
        assert!(!has_tcx_programs(LO).expect("root may ask"));
        let object = punt_object(LO).expect("root may load it");
        let program = object.progs().next().expect("the one program");
        // SAFETY: the descriptor is open; no options are given.
        let link = unsafe {
            let program = program.as_fd().as_raw_fd();
            libbpf_sys::bpf_link_create(program, LO.0 as i32, libbpf_sys::BPF_TCX_EGRESS, std::ptr::null())
        };
        assert!(link >= 0, "{}", io::Error::from_raw_os_error(-link));
        // SAFETY: a descriptor that has just been made and that nobody else knows.
        let link = unsafe { OwnedFd::from_raw_fd(link) };
        assert!(has_tcx_programs(LO).expect("root may ask"));
        drop(link);
        assert!(!has_tcx_programs(LO).expect("root may ask"));
        assert!(!has_tcx_programs(Ifindex(99)).expect("root may ask"), "an interface that is gone");
    }
}
