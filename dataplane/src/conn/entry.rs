//! What is kept of a connection (`struct nf_conn`), as small as it goes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shunt_policy::Ifindex;
use shunt_policy::connection::{Connection, Endpoint, Tuple};

use super::record::Record;
use super::seen::{Kind, Segment};
use super::settings::Settings;
use super::tcp::Tcp;
use super::timeouts;

/// An `IPS_*` bit beside those of [`Connection`].
pub(super) const FIXED_TIMEOUT: u16 = 1 << 10;
pub(super) const NAT: u16 = Connection::SRC_NAT | Connection::DST_NAT;

/// No entry, in a list.
pub(super) const NONE: u32 = u32::MAX;

/// Aligned so that it never lies in more than three cache lines.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct Entry {
    /// Monotonic, ns. From then on it does not exist.
    pub(super) expires: u64,
    pub(super) original: Ends,
    pub(super) reply: Ends,
    pub(super) protocol: u8,
    /// `LIVE`, `V6` and so on.
    pub(super) flags: u8,
    pub(super) status: u16,
    pub(super) mark: u32,
    /// While the kernel does not know it: when it began, in ms, wrapping. Then: when the kernel's copy ends, in s; 0 until we have told
    /// the kernel anything of what was its own. Both monotonic.
    pub(super) clock: u32,
    /// Interface behind which it is masqueraded, or 0 (`masq_index`).
    pub(super) masquerade: u32,
    /// Others that were translated from a source with the same hash (`nat_bysource`); of a free entry, the next free one.
    pub(super) next: u32,
    pub(super) previous: u32,
    pub(super) progress: Progress,
}

impl Entry {
    pub(super) const LIVE: u8 = 1;
    pub(super) const V6: u8 = 1 << 1;
    /// The kernel's: its packets are punted.
    pub(super) const KERNELS: u8 = 1 << 2;
    /// Ours, and the kernel has a copy.
    pub(super) const KNOWN: u8 = 1 << 3;
    /// It has changed since the kernel was told.
    pub(super) const CHANGED: u8 = 1 << 4;
    /// It stands in the list of its source.
    pub(super) const BY_SOURCE: u8 = 1 << 5;
    /// The kernel has said that it has the copy, as it was told last, or by itself.
    pub(super) const HELD: u8 = 1 << 6;
    /// The kernel's for good: it gets all packets of one direction anyhow, or of some we cannot know whether they are tracked.
    pub(super) const LEFT: u8 = 1 << 7;

    pub(super) const FREE: Entry = Entry {
        expires: 0,
        original: Ends::NONE,
        reply: Ends::NONE,
        protocol: 0,
        flags: 0,
        status: 0,
        mark: 0,
        clock: 0,
        masquerade: 0,
        next: NONE,
        previous: NONE,
        progress: Progress::Plain,
    };

    /// Without any progress yet.
    pub(super) fn new(original: &Tuple, reply: &Tuple) -> Self {
        let v6 = if original.source.address.is_ipv6() { Entry::V6 } else { 0 };
        Entry {
            original: Ends::from(original),
            reply: Ends::from(reply),
            protocol: original.protocol,
            flags: Entry::LIVE | v6,
            ..Entry::FREE
        }
    }

    /// The tuples whose packets may be addressed to this machine, although they are ours: those of a translated connection.
    pub(super) fn served(&self) -> [Option<Tuple>; 2] {
        let ours = !self.is(Entry::KERNELS);
        let if_set = |bit: u16, reply: bool| (ours && self.status & bit != 0).then(|| self.tuple(reply));
        [if_set(Connection::DST_NAT, false), if_set(Connection::SRC_NAT, true)]
    }

    /// To what the source is translated; itself if it is not. Of ICMP with the identifier.
    pub(super) fn mapped(&self) -> Endpoint {
        let reply = self.tuple(true);
        reply.inverse().map_or(reply.destination, |mapped| mapped.source)
    }

    pub(super) fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Ours, but the kernel has kept its copy by itself so far, and that is exact.
    pub(super) fn is_untold(&self) -> bool {
        self.is(Entry::KNOWN) && self.is(Entry::HELD) && self.clock == 0
    }

    pub(super) fn ends(&self, reply: bool) -> &Ends {
        if reply { &self.reply } else { &self.original }
    }

    pub(super) fn tuple(&self, reply: bool) -> Tuple {
        let v6 = self.is(Entry::V6);
        let Ends { source, destination, ports } = self.ends(reply);
        Tuple {
            source: Endpoint { address: address(source, v6), port: ports[0] },
            destination: Endpoint { address: address(destination, v6), port: ports[1] },
            protocol: self.protocol,
        }
    }

    pub(super) fn key(&self, reply: bool) -> Key {
        Key { ends: *self.ends(reply), protocol: self.protocol, v6: self.is(Entry::V6) }
    }

    /// With the time that is left as its time-out, in whole seconds, rounded up.
    pub(super) fn record(&self, now: u64) -> Record {
        let tcp = match &self.progress {
            Progress::Tcp(tcp) => Some(tcp.record()),
            _ => None,
        };
        let timeout = self.expires.saturating_sub(now).div_ceil(timeouts::SECOND);
        Record {
            original: self.tuple(false),
            reply: self.tuple(true),
            status: self.status.into(),
            mark: shunt_policy::Mark(self.mark),
            timeout: u32::try_from(timeout).unwrap_or(u32::MAX),
            tcp,
            kernels: self.is(Entry::KERNELS),
            masquerade: (self.masquerade != 0).then_some(Ifindex(self.masquerade)),
        }
    }
}

/// How far it is, as far as its protocol has anything to say (`union nf_conntrack_proto`).
#[derive(Clone, Copy)]
pub(super) enum Progress {
    Tcp(Tcp),
    /// From when on an answered one counts as a stream, in ms, wrapping (`stream_ts`).
    Udp {
        stream: u32,
    },
    Plain,
}

/// What a packet does to a connection (`nf_conntrack_handle_packet`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// It belongs to it. From now on it lives so many seconds, unless this is `None`; `assured` sets that bit.
    Accept { timeout: Option<u32>, assured: bool },
    /// The packet is of no connection. The connection now lives so many seconds, unless this is `None`.
    Invalid { timeout: Option<u32> },
    /// The packet belongs to it, and it ends.
    Kill,
    /// It ends, and the packet begins a new one (`NF_REPEAT`).
    Reopen,
}

/// What a step may ask of the connection beside its progress.
pub(super) struct About<'a> {
    pub(super) protocol: u8,
    pub(super) reply: bool,
    pub(super) status: u16,
    /// Seconds that it would still live.
    pub(super) left: u64,
    /// Monotonic, ns.
    pub(super) now: u64,
    pub(super) settings: &'a Settings,
}

impl<'a> About<'a> {
    /// Of an entry that has not expired.
    pub(super) fn of(entry: &Entry, reply: bool, now: u64, settings: &'a Settings) -> Self {
        let left = (entry.expires - now) / timeouts::SECOND;
        About { protocol: entry.protocol, reply, status: entry.status, left, now, settings }
    }
}

impl Progress {
    /// Of a connection that this packet begins; `None` if it cannot (`tcp_new`, `nf_conntrack_icmp_packet`).
    pub(super) fn begin(kind: &Kind, tuple: &Tuple, now: u64, settings: &Settings) -> Option<Self> {
        match kind {
            Kind::Tcp(segment) => Tcp::begin(segment, settings.tcp_loose).map(Progress::Tcp),
            Kind::Udp => Some(Progress::Udp { stream: timeouts::milliseconds(now).wrapping_add(2000) }),
            Kind::Icmp => timeouts::icmp_begins(tuple).then_some(Progress::Plain),
            Kind::UdpLite | Kind::Other => Some(Progress::Plain),
            Kind::IcmpError { .. } | Kind::Malformed | Kind::Untracked => None,
        }
    }

    pub(super) fn step(&mut self, segment: Option<&Segment>, about: &About) -> Step {
        match (self, segment) {
            (Progress::Tcp(tcp), Some(segment)) => tcp.packet(segment, about),
            (Progress::Udp { stream }, _) => timeouts::udp(*stream, about),
            _ => timeouts::plain(about),
        }
    }
}

/// Both ends of one direction. IPv4 stands in the last four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ends {
    source: [u8; 16],
    destination: [u8; 16],
    /// Source and destination, as in [`Tuple`].
    ports: [u16; 2],
}

impl Ends {
    const NONE: Ends = Ends { source: [0; 16], destination: [0; 16], ports: [0; 2] };

    pub(super) fn from(tuple: &Tuple) -> Self {
        Ends {
            source: octets(tuple.source.address),
            destination: octets(tuple.destination.address),
            ports: [tuple.source.port, tuple.destination.port],
        }
    }
}

/// What is looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    pub(super) ends: Ends,
    protocol: u8,
    v6: bool,
}

impl Key {
    pub(super) fn from(tuple: &Tuple) -> Self {
        Key { ends: Ends::from(tuple), protocol: tuple.protocol, v6: tuple.source.address.is_ipv6() }
    }

    pub(super) fn is_of(&self, entry: &Entry, reply: bool) -> bool {
        entry.ends(reply) == &self.ends && entry.protocol == self.protocol && entry.is(Entry::V6) == self.v6
    }

    pub(super) fn hash(&self, seed: u64) -> u32 {
        let Key { ends: Ends { source, destination, ports }, .. } = self;
        let ports = u64::from(ports[0]) << 16 | u64::from(ports[1]);
        let rest = ports << 16 | self.family_and_protocol();
        let hash = fold(fold(seed ^ rest, low(source)), low(destination));
        if self.v6 { (fold(fold(hash, high(source)), high(destination)) >> 32) as u32 } else { (hash >> 32) as u32 }
    }

    /// Of the source and the protocol alone (`hash_by_src`).
    pub(super) fn source_hash(&self, seed: u64) -> u64 {
        let Key { ends: Ends { source, ports, .. }, .. } = self;
        let rest = u64::from(ports[0]) << 16 | self.family_and_protocol();
        fold(fold(!seed ^ rest, low(source)), high(source))
    }

    pub(super) fn is_v6(&self) -> bool {
        self.v6
    }

    /// `same_src`
    pub(super) fn is_from(&self, entry: &Entry) -> bool {
        entry.original.source == self.ends.source
            && entry.original.ports[0] == self.ends.ports[0]
            && entry.protocol == self.protocol
            && entry.is(Entry::V6) == self.v6
    }

    fn family_and_protocol(&self) -> u64 {
        u64::from(self.v6) << 8 | u64::from(self.protocol)
    }
}

/// Multiplies, and lets the upper half of the product reach the lower.
fn fold(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ 0x9e37_79b9_7f4a_7c15) * u128::from(word ^ 0xd6e8_feb8_6659_fd93);
    (product as u64) ^ (product >> 64) as u64
}

fn high(octets: &[u8; 16]) -> u64 {
    (u128::from_be_bytes(*octets) >> 64) as u64
}

fn low(octets: &[u8; 16]) -> u64 {
    u128::from_be_bytes(*octets) as u64
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()).to_be_bytes(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn address(octets: &[u8; 16], v6: bool) -> IpAddr {
    match v6 {
        false => IpAddr::V4(Ipv4Addr::from_bits(u128::from_be_bytes(*octets) as u32)),
        true => IpAddr::V6(Ipv6Addr::from(*octets)),
    }
}
