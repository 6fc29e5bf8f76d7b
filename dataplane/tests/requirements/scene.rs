//! A router that translates, and what becomes of one packet after the other.
//!
//! ```text
//!   A 198.51.100.2 ─┐   ┌───────────┐   ┌─ S 203.0.113.2
//!                   ├───┤0  router 1├───┤
//!   B 198.51.100.3 ─┘   └───────────┘   └─ T 203.0.113.3
//!                            203.0.113.1, or a pool of addresses
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;
use shunt_dataplane::conn::exchange::ToWorker;
use shunt_dataplane::conn::settings::Settings;
use shunt_dataplane::sim::Router;
use shunt_policy::config::{Config, Nat, NatTo, PortRange};
use shunt_policy::{DropReason, PortId, PuntReason};

use crate::common::nat::{ends, frame, nat, nat_by, router_of};
use crate::common::{ICMP, LAN, TCP, WAN, address, own, peer};

/// Two hosts inside, two outside, and the router's address outside.
pub(crate) const A: &str = "198.51.100.2";
pub(crate) const B: &str = "198.51.100.3";
pub(crate) const S: &str = "203.0.113.2";
pub(crate) const T: &str = "203.0.113.3";
pub(crate) const PUBLIC: &str = "203.0.113.1";

/// An address and a port.
pub(crate) type At<'a> = (&'a str, u16);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// By the other port.
    Sent(Vec<u8>),
    /// As it came.
    Punted(PuntReason),
    Dropped(DropReason),
}

pub(crate) const LOCAL: Fate = Fate::Punted(PuntReason::Local);
/// Invalid by its bytes.
pub(crate) const KERNELS: Fate = Fate::Punted(PuntReason::Conntrack);

/// Source nat to these addresses, or to one of these ports; `change` says what else.
pub(crate) fn pool(addresses: Option<(&str, &str)>, change: impl FnOnce(&mut Nat)) -> Config {
    let (first, last) = addresses.unwrap_or((PUBLIC, PUBLIC));
    let mut source = Nat::plain(NatTo::Addresses(Some((address(first), address(last)))));
    change(&mut source);
    nat_by(source)
}

pub(crate) struct Scene {
    router: Router,
}

impl Scene {
    /// Masquerades; TCP to port 8080 of the router goes to port 80 of A.
    pub(crate) fn new() -> Self {
        Scene::of(&nat())
    }

    pub(crate) fn of(config: &Config) -> Self {
        Scene::with_workers(1, config)
    }

    pub(crate) fn with_workers(workers: usize, config: &Config) -> Self {
        Scene { router: router_of(workers, config) }
    }

    /// Of one worker: see [`pool`].
    pub(crate) fn pool(addresses: Option<(&str, &str)>, change: impl FnOnce(&mut Nat)) -> Self {
        Scene::of(&pool(addresses, change))
    }

    pub(crate) fn set(&mut self, settings: Settings) {
        self.tell(ToWorker::Settings(Arc::new(settings)));
    }

    pub(crate) fn tell(&mut self, message: ToWorker) {
        self.router.tell(&message);
        self.router.settle();
    }

    pub(crate) fn wait(&mut self, seconds: u64) {
        self.router.advance(Duration::from_secs(seconds));
        self.router.settle();
    }

    pub(crate) fn fate(&mut self, from: PortId, frame: &[u8]) -> Fate {
        let before = self.router.counters();
        self.router.inject(from, 0, frame);
        self.router.settle();
        let after = self.router.counters();
        let sent = self.router.take_sent(if from == LAN { WAN } else { LAN });
        let punted = self.router.take_punted();
        let reason = PuntReason::ALL.into_iter().find(|reason| after.of_punt(*reason) > before.of_punt(*reason));
        let dropped = DropReason::ALL.into_iter().find(|reason| after.of_drop(*reason) > before.of_drop(*reason));
        match (&sent[..], &punted[..], reason, dropped) {
            ([sent], [], None, None) => Fate::Sent(sent.clone()),
            ([], [(ingress, as_it_came)], Some(reason), None) => {
                assert_eq!((*ingress, &as_it_came[..]), (from, frame), "a punted frame is as it came");
                Fate::Punted(reason)
            }
            ([], [], None, Some(reason)) => Fate::Dropped(reason),
            other => panic!("{other:?}"),
        }
    }

    /// What leaves of a frame that must be sent.
    pub(crate) fn sent(&mut self, from: PortId, frame: &[u8]) -> Vec<u8> {
        match self.fate(from, frame) {
            Fate::Sent(sent) => sent,
            other => panic!("{other:?}"),
        }
    }

    /// A packet from inside; as which address and port (of ICMP the identifier) its sender appears outside.
    pub(crate) fn out(&mut self, protocol: u8, inside: At, outside: At) -> (String, u16) {
        let sent = self.sent(LAN, &packet(LAN, protocol, inside, outside));
        let (source, port, destination, to) = ends(&sent);
        let service = if protocol == ICMP { 0 } else { outside.1 };
        assert_eq!((destination, to), (address(outside.0), service), "the destination stays");
        (source.to_string(), port)
    }

    /// A packet of UDP, or an answer of ICMP, from outside.
    pub(crate) fn answer(&mut self, protocol: u8, outside: At, mapped: &(String, u16)) -> Fate {
        self.fate(WAN, &answer(protocol, outside, (&mapped.0, mapped.1)))
    }

    /// To whom inside an answer gets.
    pub(crate) fn reaches(&mut self, protocol: u8, outside: At, mapped: &(String, u16)) -> (String, u16) {
        let Fate::Sent(sent) = self.answer(protocol, outside, mapped) else { panic!("not forwarded") };
        let (source, from, destination, to) = ends(&sent);
        assert_eq!(source, address(outside.0), "the source stays");
        (destination.to_string(), if protocol == ICMP { from } else { to })
    }

    /// A TCP segment between both that has to pass; as it leaves.
    pub(crate) fn segment(
        &mut self,
        from: PortId,
        ends: (At, At),
        flags: &str,
        numbers: (u32, u32),
        payload: usize,
    ) -> Vec<u8> {
        let sent = self.sent(from, &segment(from, ends, flags, numbers, payload));
        crate::common::assert_sound(&sent);
        sent
    }

    /// The three-way handshake between client and server, started by the one behind `from`. `seen` is how each end appears to the other.
    /// Next numbers: 1001 of the client, 9001 of the server, everything acknowledged.
    pub(crate) fn connect(&mut self, from: PortId, talk: &Talk) {
        let back = if from == LAN { WAN } else { LAN };
        self.segment(from, (talk.client, talk.service), "s", (1000, 0), 0);
        self.segment(back, (talk.server, talk.caller), "sa", (9000, 1001), 0);
        self.segment(from, (talk.client, talk.service), "a", (1001, 9001), 0);
    }
}

/// Both ends of a TCP connection, and as what each sees the other.
#[derive(Clone, Copy)]
pub(crate) struct Talk {
    pub(crate) client: At<'static>,
    pub(crate) server: At<'static>,
    /// The server as the client sees it.
    pub(crate) service: At<'static>,
    /// The client as the server sees it.
    pub(crate) caller: At<'static>,
}

/// A's connection to S, which keeps its port.
pub(crate) const OUTWARD: Talk = Talk { client: (A, 4000), server: (S, 80), service: (S, 80), caller: (PUBLIC, 4000) };

/// S's connection to the forwarded port.
pub(crate) const INWARD: Talk = Talk { client: (S, 4000), server: (A, 80), service: (PUBLIC, 8080), caller: (S, 4000) };

/// UDP, a SYN, or a query of ICMP with the first port as identifier.
pub(crate) fn packet(from: PortId, protocol: u8, source: At, destination: At) -> Vec<u8> {
    let ends = (address(source.0), source.1, address(destination.0), destination.1);
    frame(from, protocol, ends, if protocol == TCP { "syn" } else { "" })
}

pub(crate) fn answer(protocol: u8, source: At, destination: At) -> Vec<u8> {
    let ends = (address(source.0), source.1, address(destination.0), destination.1);
    frame(WAN, protocol, ends, if protocol == ICMP { "reply" } else { "" })
}

/// Flags by their first letters; numbers are sequence and acknowledgement.
pub(crate) fn segment(
    from: PortId,
    (source, destination): (At, At),
    flags: &str,
    numbers: (u32, u32),
    payload: usize,
) -> Vec<u8> {
    let (IpAddr::V4(from_address), IpAddr::V4(to)) = (address(source.0), address(destination.0)) else {
        panic!("IPv4")
    };
    let ethernet = PacketBuilder::ethernet2(peer(from).0, own(from).0);
    let mut tcp = ethernet.ipv4(from_address.octets(), to.octets(), 64).tcp(source.1, destination.1, numbers.0, 65000);
    for flag in flags.chars() {
        tcp = match flag {
            's' => tcp.syn(),
            'f' => tcp.fin(),
            'r' => tcp.rst(),
            'a' => tcp.ack(numbers.1),
            other => panic!("flag {other}"),
        };
    }
    let mut frame = Vec::new();
    tcp.write(&mut frame, &vec![7; payload]).expect("written");
    frame
}

pub(crate) fn udp(from: PortId, source: At, destination: At, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(of), IpAddr::V4(to)) = (address(source.0), address(destination.0)) else { panic!("IPv4") };
    let ethernet = PacketBuilder::ethernet2(peer(from).0, own(from).0);
    let mut frame = Vec::new();
    let ip = ethernet.ipv4(of.octets(), to.octets(), 64);
    ip.udp(source.1, destination.1).write(&mut frame, payload).expect("written");
    frame
}

/// The checksum of a changed IPv4 header.
pub(crate) fn finish_header(frame: &mut [u8]) {
    let length = usize::from(frame[14] & 0xf) * 4;
    finish(&mut frame[14..14 + length], 10);
}

/// The checksum of a changed ICMP message behind an IPv4 header without options.
pub(crate) fn finish_icmp(frame: &mut [u8]) {
    finish(&mut frame[34..], 2);
}

fn finish(covered: &mut [u8], at: usize) {
    covered[at..at + 2].fill(0);
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte));
    let sum: u32 = covered.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = !((folded & 0xffff) + (folded >> 16)) as u16;
    covered[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

pub(crate) fn ports(first: u16, last: u16) -> Option<PortRange> {
    Some(PortRange { first, last })
}

/// A mapped end to compare with.
pub(crate) fn at(address: &str, port: u16) -> (String, u16) {
    (address.to_owned(), port)
}
