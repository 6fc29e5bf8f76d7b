//! Which worker a packet belongs to.

use shunt_policy::connection::Tuple;

use super::index::scale;

/// One of several workers that share the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub worker: usize,
    pub workers: usize,
}

impl Place {
    /// The worker that owns all packets with this tuple; the same for its inverse, whatever the addresses. Of an ICMP error ask with the
    /// tuple that it quotes.
    pub fn owner(&self, tuple: &Tuple) -> usize {
        if self.workers <= 1 {
            return 0;
        }
        let port = match tuple.protocol {
            1 | 58 => tuple.source.port,
            _ => tuple.source.port.max(tuple.destination.port),
        };
        let key = u64::from(port) << 8 | u64::from(tuple.protocol);
        let hash = (key + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        scale((hash >> 32) as u32, self.workers)
    }

    pub(super) fn owns(&self, tuple: &Tuple) -> bool {
        self.owner(tuple) == self.worker
    }
}
