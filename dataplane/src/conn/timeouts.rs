//! How long connections without a state of their own live (`nf_conntrack_proto_{udp,icmp,icmpv6,gre,generic}.c`), and the clock.

use shunt_policy::connection::{Connection, Tuple};

use super::entry::{About, Step};

/// ns
pub(super) const SECOND: u64 = 1_000_000_000;

const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const DCCP: u8 = 33;
pub(super) const GRE: u8 = 47;
pub(super) const ICMPV6: u8 = 58;
pub(super) const SCTP: u8 = 132;
const UDPLITE: u8 = 136;

/// `nf_conntrack_udp_packet`
pub(super) fn udp(stream: u32, about: &About) -> Step {
    if about.status & Connection::SEEN_REPLY == 0 {
        return accept(about.settings.udp, false);
    }
    let is_stream = milliseconds(about.now).wrapping_sub(stream) as i32 > 0;
    match is_stream {
        true => accept(about.settings.udp_stream, about.status & Connection::ASSURED == 0),
        false => accept(about.settings.udp, false),
    }
}

/// `nf_conntrack_udplite_packet`, `nf_conntrack_gre_packet`, `nf_conntrack_icmp_packet`, `nf_conntrack_icmpv6_packet`, `generic_packet`
pub(super) fn plain(about: &About) -> Step {
    let settings = about.settings;
    let answered = about.status & Connection::SEEN_REPLY != 0;
    match about.protocol {
        UDPLITE => accept(if answered { settings.udp_stream } else { settings.udp }, answered),
        GRE => accept(if answered { settings.gre_stream } else { settings.gre }, answered),
        ICMP => accept(settings.icmp, false),
        ICMPV6 => accept(settings.icmpv6, false),
        _ => accept(settings.generic, false),
    }
}

/// `valid_new` of `nf_conntrack_icmp_packet` and `nf_conntrack_icmpv6_packet`
pub(super) fn icmp_begins(tuple: &Tuple) -> bool {
    let kind = tuple.destination.port >> 8;
    match tuple.protocol {
        ICMP => matches!(kind, 8 | 13 | 15 | 17),
        _ => matches!(kind, 128 | 139),
    }
}

/// Of a monotonic clock, wrapping.
pub(super) fn milliseconds(now: u64) -> u32 {
    (now / 1_000_000) as u32
}

pub(super) fn seconds(now: u64) -> u32 {
    u32::try_from(now / SECOND).unwrap_or(u32::MAX)
}

/// When something of so many seconds is over.
pub(super) fn after(now: u64, seconds: u32) -> u64 {
    now.saturating_add(u64::from(seconds) * SECOND)
}

fn accept(timeout: u32, assured: bool) -> Step {
    Step::Accept { timeout: Some(timeout), assured }
}
