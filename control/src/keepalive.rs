//! Keeps neighbours alive that packets are sent to.
//!
//! The kernel never sees the traffic that the workers forward. It would take entries in use for idle, and a host that has gone or
//! has another MAC would never be noticed. So we say of each that it is used (`NTF_USE`), which has the effect of a packet
//! (`neigh_event_send`): a stale entry is probed, and one that is used all the time is probed before it becomes stale.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use shunt_dataplane::UsedNeighbours;
use shunt_policy::{Family, Ifindex, NeighbourSlot};

use crate::mirror::{KernelNeighbour, Neighbours, Request, nda, ntf, number, rtm};

/// How often the marks are looked at. In a time that is short beside `delay_first_probe_time` (5 s, at least 1 s).
pub const PERIOD: Duration = Duration::from_millis(500);
/// Entries spoken for at once; the others wait for the next look. A millisecond's work for the kernel.
const AT_ONCE: usize = 1024;
/// Messages in one datagram.
const BATCH: usize = 64;

type Key = (Ifindex, IpAddr);

/// Speaks to the kernel for the neighbours in use.
pub struct Keepalive {
    socket: Socket,
    turns: Turns,
    looked: Instant,
    kept: u64,
}

impl Keepalive {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Keepalive { socket, turns: Turns::default(), looked: Instant::now(), kept: 0 })
    }

    pub fn is_due(&self) -> bool {
        self.looked.elapsed() >= PERIOD
    }

    /// How often the kernel has taken an entry for used on our word.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Speaks for those that workers have `used`, as far as the kernel knows them and lets them age. `neighbours` should be as new
    /// as can be: of an entry that was made permanent in the meantime the kernel would take that off (`__neigh_update`).
    pub fn refresh(&mut self, used: &UsedNeighbours, neighbours: &Neighbours) {
        self.looked = Instant::now();
        let in_use = |key: &Key, neighbour: &KernelNeighbour| {
            neighbour.ages && neighbour.mac.is_some() && used.contains(NeighbourSlot::of(key.0, key.1))
        };
        self.turns.waiting.extend(neighbours.iter().filter(|(key, one)| in_use(key, one)).map(|(key, _)| *key));
        let mut messages = Vec::new();
        for key in self.turns.next() {
            // What has gone or stopped ageing since needs nobody.
            if let Some(neighbour) = neighbours.get(&key).filter(|one| one.ages && one.mac.is_some()) {
                messages.push(use_of(key, neighbour));
            }
        }
        self.speak(&messages);
    }

    fn speak(&mut self, messages: &[Vec<u8>]) {
        for batch in messages.chunks(BATCH) {
            if self.socket.send(&batch.concat(), 0).is_err() {
                continue;
            }
            self.kept += batch.len() as u64;
            // The kernel has done it all by now (netlink_unicast_kernel), and answers errors alone, a datagram each (netlink_ack):
            // that an entry has gone in this moment. The next packet asks anew.
            let mut answer = Vec::with_capacity(4096);
            while self.socket.recv(&mut answer, libc::MSG_DONTWAIT).is_ok() {
                self.kept = self.kept.saturating_sub(1);
                answer.clear();
            }
        }
    }
}

/// Who is spoken for next.
#[derive(Default)]
struct Turns {
    /// In use, but not spoken for yet.
    waiting: BTreeSet<Key>,
    last: Option<Key>,
}

impl Turns {
    /// Goes on behind the last one, and around: those in use all the time wait anew at every look, and would otherwise be let in
    /// before all that are higher.
    fn next(&mut self) -> Vec<Key> {
        let behind = self.last.map_or(Unbounded, Excluded);
        let mut turn: Vec<Key> = self.waiting.range((behind, Unbounded)).take(AT_ONCE).copied().collect();
        let room = AT_ONCE - turn.len();
        if let Some(last) = self.last {
            turn.extend(self.waiting.range(..=last).take(room));
        }
        for key in &turn {
            self.waiting.remove(key);
        }
        self.last = turn.last().copied().or(self.last);
        turn
    }
}

/// `struct ndmsg` with `NTF_USE`. Without `NLM_F_CREATE`: no entry comes of it. A flag that is left out is taken off
/// (`neigh_update_flags`).
fn use_of((ifindex, address): Key, neighbour: &KernelNeighbour) -> Vec<u8> {
    /// `NLM_F_REQUEST`
    const REQUEST: u16 = 1;
    let flags = ntf::USE | if neighbour.learned { ntf::EXT_LEARNED } else { 0 };
    let mut fixed = [0; 12];
    fixed[0] = number(Family::of(address));
    fixed[4..8].copy_from_slice(&ifindex.0.to_ne_bytes());
    fixed[10] = flags;
    Request::new(rtm::NEWNEIGH, REQUEST, &fixed).with_address(nda::DST, address).finish(0)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use shunt_policy::Mac;

    use super::*;

    #[test]
    fn what_the_kernel_refuses_is_not_counted() {
        let mut keepalive = Keepalive::open().unwrap();
        let neighbour =
            KernelNeighbour { mac: Some(Mac([2; 6])), valid: true, permanent: false, ages: true, learned: false };
        // Of no interface.
        let key = |host| (Ifindex(i32::MAX as u32), [192, 0, 2, host].into());
        let messages: Vec<Vec<u8>> = (0..=255).map(|host| use_of(key(host), &neighbour)).collect();
        keepalive.speak(&messages);
        assert_eq!(keepalive.kept(), 0);
    }

    #[test]
    fn all_get_their_turn_however_many_are_in_use() {
        let key = |host: u32| (Ifindex(2), Ipv4Addr::from_bits(0xc612_0000 + host).into());
        let all: BTreeSet<Key> = (0..3000).map(key).collect();
        let mut turns = Turns::default();
        for _ in 0..4 {
            let mut served = BTreeSet::new();
            for _ in 0..3 {
                turns.waiting.extend(&all);
                let turn = turns.next();
                assert_eq!(turn.len(), AT_ONCE);
                served.extend(turn);
            }
            assert_eq!(served, all);
        }
        // Used once, and no more: nobody is forgotten, and nobody speaks twice.
        let mut rest: Vec<Key> = turns.waiting.iter().copied().collect();
        let mut served = Vec::new();
        while !turns.waiting.is_empty() {
            served.extend(turns.next());
        }
        served.sort_unstable();
        rest.sort_unstable();
        assert_eq!(served, rest);
        assert!(turns.next().is_empty());
    }
}
