//! What the process must be allowed to do, asked before anything is touched.

/// A capability that is not there.
#[derive(thiserror::Error, PartialEq, Eq, Debug)]
#[error(
    "missing capability {name}: needed to {purpose}; run as root, or grant it (systemd: AmbientCapabilities={name})"
)]
pub struct Missing {
    pub name: &'static str,
    pub purpose: &'static str,
}

/// Bits of `linux/capability.h`.
const NEEDED: [(u32, &str, &str); 4] = [
    (12, "CAP_NET_ADMIN", "attach XDP programs, make the punt devices and read netfilter"),
    (13, "CAP_NET_RAW", "open AF_XDP sockets"),
    (14, "CAP_IPC_LOCK", "lock the packet memory"),
    (39, "CAP_BPF", "load BPF programs"),
];
const CAP_SYS_ADMIN: u32 = 21;

/// Checks the effective set of this process (`/proc/self/status`, `CapEff`).
pub fn check() -> Result<(), Missing> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    // A kernel that does not tell is asked later, by doing.
    let Some(effective) = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else { return Ok(()) };
    missing(effective)
}

fn missing(effective: u64) -> Result<(), Missing> {
    let has = |bit: u32| effective >> bit & 1 == 1;
    for (bit, name, purpose) in NEEDED {
        // CAP_SYS_ADMIN contains CAP_BPF (`bpf_capable`).
        let contained = name == "CAP_BPF" && has(CAP_SYS_ADMIN);
        if !has(bit) && !contained {
            return Err(Missing { name, purpose });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_one_is_named() {
        assert_eq!(missing(u64::MAX), Ok(()));
        assert_eq!(missing(!(1 << 39)), Ok(()), "CAP_SYS_ADMIN stands in for CAP_BPF");
        let without = |bits: &[u32]| missing(bits.iter().fold(u64::MAX, |all, bit| all & !(1 << bit)));
        assert_eq!(without(&[39, 21]).unwrap_err().name, "CAP_BPF");
        assert_eq!(without(&[13]).unwrap_err().name, "CAP_NET_RAW");
    }
}
