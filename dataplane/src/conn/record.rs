//! A connection as ctnetlink shows it: what the kernel and the workers tell each other.

use shunt_policy::connection::Tuple;
use shunt_policy::{Ifindex, Mark};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub original: Tuple,
    /// What answers look like; with translation not the inverse of `original`.
    pub reply: Tuple,
    /// `IPS_*` of `linux/netfilter/nf_conntrack_common.h`.
    pub status: u32,
    pub mark: Mark,
    /// Seconds until it ends if nothing comes.
    pub timeout: u32,
    pub tcp: Option<TcpRecord>,
    /// The kernel has to look into its packets or to number them anew, or it belongs to a zone: a helper, an expectation, a sequence
    /// adjustment. It stays the kernel's.
    pub kernels: bool,
    /// The interface behind which it is masqueraded (`nf_conn_nat::masq_index`), if that is known: ctnetlink does not tell.
    pub masquerade: Option<Ifindex>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpRecord {
    pub state: TcpState,
    /// Window scale, original and reply.
    pub scale: [u8; 2],
    /// `IP_CT_TCP_FLAG_*`, original and reply.
    pub flags: [u8; 2],
}

/// `enum tcp_conntrack`, with its numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum TcpState {
    None = 0,
    SynSent = 1,
    SynRecv = 2,
    Established = 3,
    FinWait = 4,
    CloseWait = 5,
    LastAck = 6,
    TimeWait = 7,
    Close = 8,
    /// A SYN of the other side crossed ours (`TCP_CONNTRACK_SYN_SENT2`).
    SynSent2 = 9,
}
