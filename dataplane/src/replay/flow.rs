//! What an entry of the map `flows` holds: `struct flow` of replay.h.

use std::net::IpAddr;

use shunt_policy::connection::Endpoint;
use shunt_policy::{Egress, Ifindex, Transport};

use crate::packet::{Packet, checksum};

/// An entry in words of 8 bytes.
pub(super) const WORDS: usize = 16;
/// Places in it.
pub(super) const VERSION: usize = 0;
pub(super) const COUNT: usize = 7;
/// The key.
pub(super) const KEY: [usize; 6] = [1, 2, 3, 4, 5, 6];
/// What is done: `struct action`.
pub(super) const ACTION: std::ops::Range<usize> = 8..16;
pub(super) const LAST: usize = 14;

/// Bit of the first packet in the word [`COUNT`].
pub(super) const PACKETS: u32 = 40;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

pub(super) const TRACKED: u8 = 1;
pub(super) const VERIFY: u8 = 2;
pub(super) const TRANSLATES: u8 = 4;
pub(super) const AMENDS: u8 = 8;
pub(super) const WINDOWS: u8 = 16;
const REPLY: u8 = 32;
/// For workers alone.
pub(super) const UNSENT: u8 = 64;

/// What all packets of a flow have in common, as it lies in them: the words of [`KEY`], but for the bits that are not the key's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key([u64; KEY.len()]);

/// How the packets of a flow leave, and which of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Action {
    macs: [u8; 12],
    source: [u32; 4],
    destination: [u32; 4],
    ports: u32,
    transport: u16,
    header: u16,
    port: u16,
    tos: u8,
    flags: u8,
    longest: u16,
}

/// How long an entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Until {
    /// Until nothing has come for so long, in steps of the programs' clock.
    Idle(u32),
    /// While the packets lie in the windows of TCP with this number, and those say that the connection lives.
    Windows { number: u32, reply: bool },
}

/// What conntrack has to do with a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checks {
    pub tracked: bool,
    /// `nf_conntrack_checksum`
    pub verified: bool,
    /// The driver of the egress takes no frames from others.
    pub unsent: bool,
}

impl Key {
    /// `None` for what is not replayed: all but TCP and UDP, and packets of these that may decide about a connection or that rules may look
    /// into.
    pub fn of(packet: &Packet, iif: Ifindex) -> Option<Self> {
        const FIN_SYN_RST: u8 = 0x07;
        let Transport::Ports { source, destination } = packet.transport else { return None };
        let replayed = match packet.protocol {
            TCP => packet.tcp.flags & FIN_SYN_RST == 0 && packet.tcp.mss.is_none(),
            UDP => true,
            _ => false,
        };
        let (family, head) = match packet.source {
            IpAddr::V4(_) => (4, packet.tos.into()),
            IpAddr::V6(_) => (6, (6 << 28 | u32::from(packet.tos) << 20 | packet.flow_label).to_be()),
        };
        let ports = ports(source, destination);
        let ends = [words(packet.source), words(packet.destination)];
        replayed.then(|| Key::new(iif, head, (ports, packet.protocol, family), ends))
    }

    /// `head`: IPv4 has the TOS there, IPv6 the first word of its header. `ports` with the protocol and the family (4 or 6).
    #[inline]
    pub(super) fn new(iif: Ifindex, head: u32, (ports, protocol, family): (u32, u8, u8), ends: [[u32; 4]; 2]) -> Self {
        let [source, destination] = ends;
        Key([
            pair(iif.0, head),
            pair(ports, u32::from(protocol) | u32::from(family) << 8),
            pair(source[0], source[1]),
            pair(source[2], source[3]),
            pair(destination[0], destination[1]),
            pair(destination[2], destination[3]),
        ])
    }

    #[inline]
    pub(super) fn words(&self) -> &[u64; KEY.len()] {
        &self.0
    }

    #[inline]
    pub(super) fn is_ipv6(&self) -> bool {
        (self.0[1] >> 40) as u8 == 6
    }

    #[inline]
    pub(super) fn protocol(&self) -> u8 {
        (self.0[1] >> 32) as u8
    }

    /// As in replay.h, where the upper half says where the flow stands.
    #[inline(always)]
    pub(super) fn hash(&self) -> u64 {
        let [iif, ports, s01, s23, d01, d23] = self.0;
        let (low, high) = (|word: u64| word & 0xffff_ffff, |word: u64| word >> 32);
        let mut hash = mixed(0, d01 << 32 | low(s01));
        if self.is_ipv6() {
            hash = mixed(hash, s23 << 32 | high(s01));
            hash = mixed(hash, d23 << 32 | high(d01));
            hash = mixed(hash, d23 & !0xffff_ffff | high(s23));
        }
        // Not with the addresses at once: they often count up together, and would undo each other.
        mixed(hash, iif << 32 | low(ports))
    }
}

#[inline]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[inline]
fn mixed(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 32
}

impl Action {
    /// What [`Packet::rewrite`] does to this packet and, where no rule looks at what [varies](shunt_policy::Policy::varies), to all others of
    /// its flow.
    pub fn of(packet: &Packet, egress: &Egress, checks: Checks) -> Option<Self> {
        let Transport::Ports { source, destination } = packet.transport else { return None };
        let before = [packet.source, packet.destination];
        let ends =
            [(packet.source, source, egress.new_source()), (packet.destination, destination, egress.new_destination())];
        let after = ends.map(|(address, port, new)| new.unwrap_or(Endpoint { address, port }));
        let translates = egress.new_source().is_some() || egress.new_destination().is_some();
        let addresses = after.map(|end| end.address);
        let (old, new) = (ports(source, destination), ports(after[0].port, after[1].port));
        let tos = |tos: u8| u32::from(u16::from_ne_bytes([0x45, tos]));
        let header = delta(before, addresses, tos(packet.tos), tos(egress.tos()));
        let amends = translates || egress.tos() != packet.tos;
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&egress.destination().0);
        macs[6..].copy_from_slice(&egress.source().0);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        Some(Action {
            macs,
            source: words(addresses[0]),
            destination: words(addresses[1]),
            ports: new,
            transport: delta(before, addresses, old, new),
            header,
            port: egress.port().0,
            tos: egress.tos(),
            flags: flag(checks.tracked, TRACKED)
                | flag(checks.tracked && checks.verified, VERIFY)
                | flag(translates, TRANSLATES)
                | flag(amends, AMENDS)
                | flag(checks.unsent, UNSENT),
            longest: u16::try_from(egress.longest()).unwrap_or(u16::MAX),
        })
    }
}

/// The entry but for its first word. `last` is in steps of the programs' clock.
pub(super) fn encode(key: &Key, action: &Action, last: u32, until: Until) -> [u64; WORDS] {
    let [a1, a2, a3, a4, a5, a6] = key.0;
    let Action { macs, source: s, destination: d, ports: new, transport, header, port, tos, flags, longest } = *action;
    let [a, b, c] = macs.as_chunks::<4>().0 else { unreachable!("12 bytes are three words") };
    let [a, b, c] = [a, b, c].map(|word| u32::from_ne_bytes(*word));
    let (idle, more) = match until {
        Until::Idle(steps) => (steps, 0),
        Until::Windows { number, reply } => (number, WINDOWS | if reply { REPLY } else { 0 }),
    };
    let end = u32::from(port) | u32::from(tos) << 16 | u32::from(flags | more) << 24;
    [
        0,
        a1,
        a2 | u64::from(longest) << 48,
        a3,
        a4,
        a5,
        a6,
        0,
        pair(a, b),
        pair(c, s[0]),
        pair(s[1], s[2]),
        pair(s[3], d[0]),
        pair(d[1], d[2]),
        pair(d[3], new),
        pair(u32::from(transport) | u32::from(header) << 16, last),
        pair(idle, end),
    ]
}

/// Which bits of a word of [`KEY`] are the key's: all but the longest packet.
pub(super) fn mask(at: usize) -> u64 {
    if at == 2 { u64::MAX >> 16 } else { u64::MAX }
}

/// Both ports as they lie in a packet.
fn ports(source: u16, destination: u16) -> u32 {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// An address as it lies in a packet; IPv4 in the first word.
fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [u32::from_ne_bytes(address.octets()), 0, 0, 0],
        IpAddr::V6(address) => {
            let octets = address.octets();
            let (words, _) = octets.as_chunks::<4>();
            std::array::from_fn(|at| u32::from_ne_bytes(words[at]))
        }
    }
}

/// What is added to an inverted checksum when the addresses and one more word change: `!old + new`, in the order of bytes in memory.
fn delta(before: [IpAddr; 2], after: [IpAddr; 2], old: u32, new: u32) -> u16 {
    let addresses = |addresses: [IpAddr; 2]| addresses.into_iter().flat_map(words);
    let removed: u64 = addresses(before).chain([old]).map(|word| u64::from(!word)).sum();
    let added: u64 = addresses(after).chain([new]).map(u64::from).sum();
    checksum::fold(removed + added)
}
