//! `net.netfilter.nf_conntrack_*` of the network namespace. None gives an event when it changes.

use std::fs;

use shunt_dataplane::conn::settings::{Settings, TcpTimeouts};

/// How connections are tracked. What this kernel does not have is as the kernel has it by default.
pub fn settings() -> Settings {
    from(&|name| fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")).ok())
}

/// What the kernel tells of its connections, `nf_conntrack_events`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Events {
    /// Nothing, except where a rule wants it (`CT --ctevents`).
    Off,
    /// All.
    On,
    /// The default since 5.19: all of those that begin while somebody listens, nothing ever of those that began before
    /// (`nf_ct_ecache_ext_add`).
    Listened,
}

pub(super) fn events() -> Events {
    match fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_events").as_deref().map(str::trim) {
        Ok("0") => Events::Off,
        Ok("1") => Events::On,
        _ => Events::Listened,
    }
}

fn from(read: &dyn Fn(&str) -> Option<String>) -> Settings {
    let number = |name: &str, default: u32| read(name).and_then(|text| text.trim().parse().ok()).unwrap_or(default);
    let flag = |name: &str, default: bool| number(name, default.into()) != 0;
    let default = Settings::default();
    let tcp = default.tcp;
    Settings {
        tcp: TcpTimeouts {
            syn_sent: number("tcp_timeout_syn_sent", tcp.syn_sent),
            syn_recv: number("tcp_timeout_syn_recv", tcp.syn_recv),
            established: number("tcp_timeout_established", tcp.established),
            fin_wait: number("tcp_timeout_fin_wait", tcp.fin_wait),
            close_wait: number("tcp_timeout_close_wait", tcp.close_wait),
            last_ack: number("tcp_timeout_last_ack", tcp.last_ack),
            time_wait: number("tcp_timeout_time_wait", tcp.time_wait),
            close: number("tcp_timeout_close", tcp.close),
            max_retrans: number("tcp_timeout_max_retrans", tcp.max_retrans),
            unacknowledged: number("tcp_timeout_unacknowledged", tcp.unacknowledged),
        },
        udp: number("udp_timeout", default.udp),
        udp_stream: number("udp_timeout_stream", default.udp_stream),
        icmp: number("icmp_timeout", default.icmp),
        icmpv6: number("icmpv6_timeout", default.icmpv6),
        generic: number("generic_timeout", default.generic),
        gre: number("gre_timeout", default.gre),
        gre_stream: number("gre_timeout_stream", default.gre_stream),
        tcp_loose: flag("tcp_loose", default.tcp_loose),
        tcp_be_liberal: flag("tcp_be_liberal", default.tcp_be_liberal),
        tcp_max_retrans: u8::try_from(number("tcp_max_retrans", default.tcp_max_retrans.into())).unwrap_or(u8::MAX),
        tcp_ignore_invalid_rst: flag("tcp_ignore_invalid_rst", default.tcp_ignore_invalid_rst),
        checksum: flag("checksum", default.checksum),
        // 0 is no limit (__nf_conntrack_alloc).
        max: match number("max", default.max) {
            0 => u32::MAX,
            max => max,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sysctl_is_read_and_what_is_missing_is_the_kernels_default() {
        assert_eq!(from(&|_| None), Settings::default());
        let asked = std::cell::RefCell::new(Vec::new());
        let ones = from(&|name| {
            asked.borrow_mut().push(name.to_owned());
            Some("1\n".to_owned())
        });
        let Settings { tcp, max, icmpv6, tcp_max_retrans, .. } = ones;
        assert_eq!((max, icmpv6, tcp_max_retrans, tcp.syn_sent, tcp.unacknowledged), (1, 1, 1, 1, 1));
        let names: std::collections::BTreeSet<_> = asked.borrow().iter().cloned().collect();
        assert_eq!(names.len(), 23);
        for name in names {
            let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
            assert!(
                std::path::Path::new(&path).exists() || !std::path::Path::new("/proc/sys/net/netfilter").exists(),
                "{path}"
            );
        }
    }
}
