//! What the operator has set for connection tracking: `net.netfilter.nf_conntrack_*`.

/// All time-outs in seconds. The defaults are the kernel's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// By [`TcpState`](super::record::TcpState), from SYN_SENT on; see `tcp_timeouts` of nf_conntrack_proto_tcp.c.
    pub tcp: TcpTimeouts,
    pub udp: u32,
    pub udp_stream: u32,
    pub icmp: u32,
    pub icmpv6: u32,
    pub generic: u32,
    pub gre: u32,
    pub gre_stream: u32,
    /// `nf_conntrack_tcp_loose`
    pub tcp_loose: bool,
    /// `nf_conntrack_tcp_be_liberal`
    pub tcp_be_liberal: bool,
    /// `nf_conntrack_tcp_max_retrans`
    pub tcp_max_retrans: u8,
    /// `nf_conntrack_tcp_ignore_invalid_rst`
    pub tcp_ignore_invalid_rst: bool,
    /// `nf_conntrack_checksum`
    pub checksum: bool,
    /// `nf_conntrack_max`: connections of all workers together.
    pub max: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TcpTimeouts {
    pub syn_sent: u32,
    pub syn_recv: u32,
    pub established: u32,
    pub fin_wait: u32,
    pub close_wait: u32,
    pub last_ack: u32,
    pub time_wait: u32,
    pub close: u32,
    pub max_retrans: u32,
    pub unacknowledged: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tcp: TcpTimeouts {
                syn_sent: 120,
                syn_recv: 60,
                established: 432_000,
                fin_wait: 120,
                close_wait: 60,
                last_ack: 30,
                time_wait: 120,
                close: 10,
                max_retrans: 300,
                unacknowledged: 300,
            },
            udp: 30,
            udp_stream: 120,
            icmp: 30,
            icmpv6: 30,
            generic: 600,
            gre: 30,
            gre_stream: 180,
            tcp_loose: true,
            tcp_be_liberal: false,
            tcp_max_retrans: 3,
            tcp_ignore_invalid_rst: false,
            checksum: true,
            max: 262_144,
        }
    }
}
