//! The XDP program, a worker that knows flows, and one that decides about every packet anew: what one sends the others would send, to the
//! byte. Packets arrive by the loopback interface, from
//! which `BPF_PROG_RUN` says that they come.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use etherparse::PacketBuilder;
use shunt_policy::config::{
    Action, BaseChain, ChainPolicy, ChainRule, Config, CounterSlot, Hook, Hops, Link, Nat, NatTo, Neighbour, Origin,
    Route, RouteKind, Rule, RuleAction, RuleSelector, Source, Step, Verdict,
};
use shunt_policy::{Family, Generation, Policy, Prefix, Priority, Rib, TableId, compile};

use super::tests::verdict;
use super::*;
use crate::sim::{Router, SimSpec};

const LAN: PortId = PortId(0);
const WAN: PortId = PortId(1);
const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
const LONGEST: u32 = 1514;
const REDIRECT: u32 = 4;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What the router does to packets.
#[derive(Clone, Copy, Debug, Default)]
struct Does {
    snat: bool,
    dnat: bool,
    tos: bool,
}

fn policy(does: Does, generation: u64) -> Arc<Policy> {
    let lan = Link::port(Ifindex(1), "lan", OWN, LAN);
    let wan = Link { takes_redirected: true, ..Link::port(Ifindex(2), "wan", Mac([2, 0, 0, 0, 0, 2]), WAN) };
    let mut rib = Rib::default();
    let mut neighbours = Vec::new();
    let mut chains = Vec::new();
    let ways = [
        (Family::V4, "0.0.0.0", "203.0.113.1", ("198.51.100.0", 24), "198.51.100.2"),
        (Family::V6, "::", "2001:db8:2::1", ("2001:db8:1::", 64), "2001:db8:1::2"),
    ];
    for (family, any, gateway, (network, length), client) in ways {
        let mut route = |prefix: Prefix, oif, via| {
            rib.append(TableId::MAIN, prefix, Route::new(0, RouteKind::Unicast(Hops::one(oif, via))));
        };
        route(Prefix::new(ip(any), 0).expect("a prefix"), Ifindex(2), Some(ip(gateway)));
        route(Prefix::new(ip(network), length).expect("a prefix"), Ifindex(1), None);
        for (ifindex, address, last) in [(Ifindex(2), gateway, 9), (Ifindex(1), client, 7)] {
            let mac = Some(Mac([2, 0, 0, 0, 0, last]));
            neighbours.push(Neighbour { ifindex, address: ip(address), mac, valid: true });
        }
        let rule = |steps: Vec<Step>, slot: u32| ChainRule {
            steps: [vec![Step::Count], steps].concat(),
            counter: CounterSlot(slot),
            origin: Origin::new(Source::Nftables, "test"),
        };
        let chain = |hook, priority, nat, rule| BaseChain {
            family,
            hook,
            priority,
            unordered: false,
            name: "test".to_owned(),
            nat,
            rules: vec![rule],
            policy: ChainPolicy::Accept,
            user: Vec::new(),
        };
        let to = |four: &str, six: &str| {
            let address = ip(if family == Family::V4 { four } else { six });
            let nat = Nat { ports: None, ..Nat::plain(NatTo::Addresses(Some((address, address)))) };
            vec![Step::Verdict(Verdict::Nat(nat.into()))]
        };
        if does.tos {
            let tos = Step::Do(Action::Tos { clear: 0xfc, flip: 0xb8 });
            chains.push(chain(Hook::Prerouting, -150, false, rule(vec![tos], 0)));
        }
        if does.dnat {
            chains.push(chain(Hook::Prerouting, -100, true, rule(to("192.0.2.77", "2001:db8:7::77"), 1)));
        }
        if does.snat {
            chains.push(chain(Hook::Postrouting, 100, true, rule(to("203.0.113.50", "2001:db8:2::50"), 2)));
        }
    }
    let rules = Family::BOTH.map(|family| Rule {
        family,
        priority: Priority(32766),
        selector: RuleSelector::default(),
        action: RuleAction::lookup(TableId::MAIN),
        origin: Origin::new(Source::Rule, "test"),
    });
    let config = Config {
        links: Arc::new(vec![lan, wan]),
        neighbours: Arc::new(neighbours),
        rules: Arc::new(rules.to_vec()),
        tables: rib.tables().clone(),
        chains: Arc::new(chains),
        ..Config::default()
    };
    Arc::new(compile(&config, Generation(generation)))
}

/// A worker and a program that share flows, and beside them a worker that knows none.
struct Pair {
    router: Router,
    plain: Router,
    flows: Flows,
    program: Program,
}

impl Pair {
    fn new(does: Does) -> Self {
        let served = MappedArray::create("served", 8, 4 * 65536 + 256).expect("root may make a map");
        let flows = Flows::create(1024).expect("root may make a map");
        let maps = ReplayMaps::create(flows.clone(), 2).expect("root may make a map");
        // The loopback interface stands in for the egress: nothing is sent.
        maps.lead_to(WAN, Ifindex(1)).expect("there is a loopback interface");
        let program = Program::load(1, &served, Some(&maps)).expect("root may load the program");
        let config = PortConfig {
            mac: OWN,
            punted: None,
            serving: true,
            translates: false,
            tracks: false,
            longest: LONGEST,
            replays: true,
        };
        program.configure(config).expect("the port map takes its value");
        let ports = [(LAN, 1), (WAN, 2)].map(|(id, number)| SimSpec { id, ifindex: Ifindex(number), queues: 1 });
        let router = Router::with_flows(1, &ports, policy(does, 1), &flows);
        let plain = Router::without_flows(1, &ports, policy(does, 1));
        Pair { router, plain, flows, program }
    }

    /// What the workers send, if they send anything.
    fn worker(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        self.sends(Talk::CLIENT, frame)
    }

    /// The same of a packet from either side.
    fn sends(&mut self, from: usize, frame: &[u8]) -> Option<Vec<u8>> {
        let (ingress, egress) = if from == Talk::CLIENT { (LAN, WAN) } else { (WAN, LAN) };
        let [known, plain] = [&mut self.router, &mut self.plain].map(|router| {
            router.inject(ingress, 0, frame);
            router.settle();
            router.take_sent(egress).pop()
        });
        assert_eq!(known, plain, "{frame:02x?}");
        known
    }

    fn publish(&mut self, does: Does, generation: u64) {
        self.flows.set_generation(Generation(generation));
        self.router.publish(policy(does, generation));
        self.plain.publish(policy(does, generation));
    }

    /// What the program sends; if it does not, the frame is as it was.
    fn program(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let (verdict, after) = verdict(&self.program, frame);
        if verdict != REDIRECT {
            assert_eq!(after, frame, "left alone");
            return None;
        }
        Some(after)
    }

    /// Both; whatever the program sends the worker would send as well.
    fn both(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let replayed = self.program(frame);
        let sent = self.worker(frame);
        if replayed.is_some() {
            assert_eq!(replayed, sent, "{frame:02x?}");
        }
        replayed
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    six: bool,
    tcp: bool,
    ttl: u8,
    payload: usize,
    padding: usize,
}

const PLAIN: Sample = Sample { six: false, tcp: false, ttl: 64, payload: 22, padding: 0 };

fn frame(sample: Sample, random: &mut fastrand::Rng) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 7], OWN.0);
    let builder = match sample.six {
        false => builder.ipv4([198, 51, 100, 2], [192, 0, 2, 9], sample.ttl),
        true => {
            let octets = |text: &str| match ip(text) {
                IpAddr::V6(address) => address.octets(),
                IpAddr::V4(_) => unreachable!("an IPv6 address"),
            };
            builder.ipv6(octets("2001:db8:1::2"), octets("2001:db8:7::9"), sample.ttl)
        }
    };
    let payload: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(sample.payload).collect();
    let mut frame = Vec::new();
    let written = match sample.tcp {
        false => builder.udp(4000, 53).write(&mut frame, &payload),
        true => builder.tcp(4000, 80, random.u32(..), 8000).ack(random.u32(..)).write(&mut frame, &payload),
    };
    written.expect("a vector takes it");
    frame.extend(std::iter::repeat_n(0, sample.padding));
    frame
}

fn every_way() -> impl Iterator<Item = Does> {
    (0..8).map(|bits| Does { snat: bits & 1 != 0, dnat: bits & 2 != 0, tos: bits & 4 != 0 })
}

/// Of both families and protocols; of TCP that is tracked see below.
fn kinds(does: Does) -> impl Iterator<Item = Sample> {
    let all = [(false, false), (true, false), (false, true), (true, true)].into_iter();
    let tracks = does.snat || does.dnat;
    all.filter(move |(_, tcp)| !(*tcp && tracks)).map(|(six, tcp)| Sample { six, tcp, ..PLAIN })
}

#[test]
fn privileged_what_is_replayed_a_worker_would_have_sent() {
    let mut random = fastrand::Rng::with_seed(1);
    for does in every_way() {
        for like in kinds(does) {
            let mut pair = Pair::new(does);
            let first = frame(like, &mut random);
            assert_eq!(pair.both(&first), None, "nobody has decided yet");
            pair.both(&first);
            let mut replayed = 0;
            for _ in 0..150 {
                let payload = random.usize(0..1400);
                let padding = if random.u8(..4) == 0 { random.usize(0..20) } else { 0 };
                let frame = frame(Sample { ttl: random.u8(2..), payload, padding, ..like }, &mut random);
                replayed += usize::from(pair.both(&frame).is_some());
            }
            assert!(replayed > 145, "{does:?} {like:?}: {replayed} replayed");
        }
    }
}

#[test]
fn privileged_what_is_damaged_is_not_sent_otherwise_than_by_a_worker() {
    let mut random = fastrand::Rng::with_seed(2);
    for does in every_way() {
        for like in kinds(does) {
            let mut pair = Pair::new(does);
            let whole = frame(like, &mut random);
            (0..2).for_each(|_| drop(pair.both(&whole)));
            for _ in 0..200 {
                let mut frame = frame(Sample { payload: random.usize(0..60), ..like }, &mut random);
                let at = random.usize(12..frame.len().min(80));
                frame[at] = random.u8(..);
                if random.u8(..8) == 0 {
                    frame.truncate(random.usize(0..frame.len()).max(14));
                }
                pair.both(&frame);
            }
        }
    }
}

#[test]
fn privileged_what_is_a_workers_comes_to_it() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut pair = Pair::new(Does { snat: true, ..Does::default() });
    let whole = frame(PLAIN, &mut random);
    assert_eq!(
        [pair.both(&whole).is_some(), pair.both(&whole).is_some()],
        [false; 2],
        "one begins it, one is like all others"
    );
    assert!(pair.both(&whole).is_some());
    let is_replayed = |pair: &mut Pair, sample| pair.both(&frame(sample, &mut fastrand::Rng::with_seed(4))).is_some();
    assert!(!is_replayed(&mut pair, Sample { ttl: 1, ..PLAIN }), "the kernel answers");
    assert!(!is_replayed(&mut pair, Sample { payload: 1500 - 27, ..PLAIN }), "too long");
    assert!(is_replayed(&mut pair, Sample { payload: 1500 - 28, ..PLAIN }));
    assert!(!is_replayed(&mut pair, Sample { six: true, ..PLAIN }), "of another flow");

    let mut partial = whole.clone();
    partial[40..42].copy_from_slice(&[0, 0]);
    assert!(pair.both(&partial).is_some(), "a sender without a checksum");
    let addresses = crate::packet::checksum::sum(&whole[26..34]);
    let pseudo = crate::packet::checksum::fold(addresses + 17 + 30);
    partial[40..42].copy_from_slice(&pseudo.to_be_bytes());
    assert!(pair.both(&partial).is_none(), "a sender that has left it to its hardware");
    assert!(pair.both(&whole).is_some());

    pair.flows.set_generation(Generation(2));
    assert!(pair.program(&whole).is_none(), "the policy has changed, whether or not a worker knows");
    pair.publish(Does { snat: true, tos: true, ..Does::default() }, 2);
    assert!(pair.both(&whole).is_none());
    assert!(pair.both(&whole).is_some(), "decided anew");

    // The answer changes the connection: it is established now.
    let answer = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 9], [203, 0, 113, 50], 64)
        .udp(53, 4000);
    let mut bytes = Vec::new();
    answer.write(&mut bytes, &[0; 22]).expect("a vector takes it");
    assert!(pair.sends(1, &bytes).is_some());
    assert!(pair.both(&whole).is_none(), "the very next packet");
}

#[test]
fn privileged_what_is_replayed_is_counted_and_keeps_its_connection() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut pair = Pair::new(Does { snat: true, tos: true, ..Does::default() });
    let whole = frame(PLAIN, &mut random);
    (0..2).for_each(|_| drop(pair.worker(&whole)));
    let before = pair.router.counters();
    for _ in 0..100 {
        assert!(pair.program(&whole).is_some());
    }
    // 30 s is the time-out of a connection without an answer.
    for _ in 0..3 {
        pair.router.advance(Duration::from_secs(20));
        pair.router.settle();
        let after = pair.router.counters();
        assert_eq!((after.replayed - before.replayed, after.forwarded - before.forwarded), (100, 100));
    }
    let counts = pair.router.rule_count(CounterSlot(0));
    assert_eq!((counts.packets, counts.bytes), (102, 102 * 50));
    assert_eq!(pair.router.rule_count(CounterSlot(2)).packets, 1, "nat is asked once");
    assert_eq!(pair.router.workers()[0].connections, 0, "nothing came for 60 s");
    assert!(pair.program(&whole).is_none());
}

/// Programs count while the worker takes what they have counted.
#[test]
fn privileged_nothing_is_lost_while_it_is_collected() {
    let mut pair = Pair::new(Does { snat: true, tos: true, ..Does::default() });
    let whole = frame(PLAIN, &mut fastrand::Rng::with_seed(7));
    (0..2).for_each(|_| drop(pair.worker(&whole)));
    let before = pair.router.counters();
    let Pair { router, program, .. } = &mut pair;
    let stop = AtomicBool::new(false);
    let replay = || std::iter::from_fn(|| (!stop.load(Relaxed)).then(|| verdict(program, &whole).0 == REDIRECT));
    let replayed: usize = thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| replay().filter(|sent| *sent).count()));
        // Less than the time-out of a connection without an answer: 30 s.
        for _ in 0..45 {
            router.advance(Duration::from_millis(600));
            router.settle();
            thread::sleep(Duration::from_millis(2));
        }
        stop.store(true, Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    router.advance(Duration::from_secs(1));
    router.settle();
    assert_eq!(router.counters().replayed - before.replayed, replayed as u64);
    assert_eq!(router.rule_count(CounterSlot(0)).packets, replayed as u64 + 2);
    assert!(replayed > 1000, "{replayed}");
}

/// A conversation of TCP through source nat: one side's view of it.
struct Talk {
    sequence: [u32; 2],
    /// Bytes sent that the other side has not acknowledged yet.
    acknowledged: [u32; 2],
}

impl Talk {
    /// The other one is the server.
    const CLIENT: usize = 0;

    fn segment(&self, from: usize, flags: u8, window: u16, payload: &[u8]) -> Vec<u8> {
        self.segment_at(from, self.sequence[from], self.acknowledged[1 - from], flags, window, payload)
    }

    fn segment_at(&self, from: usize, sequence: u32, ack: u32, flags: u8, window: u16, payload: &[u8]) -> Vec<u8> {
        let builder = match from {
            Talk::CLIENT => PacketBuilder::ethernet2([2, 0, 0, 0, 0, 7], OWN.0)
                .ipv4([198, 51, 100, 2], [192, 0, 2, 9], 64)
                .tcp(4000, 80, sequence, window),
            _ => PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 2])
                .ipv4([192, 0, 2, 9], [203, 0, 113, 50], 64)
                .tcp(80, 4000, sequence, window),
        };
        let set = |bit: u8| flags & bit != 0;
        let mut builder = if set(0x10) { builder.ack(ack) } else { builder };
        builder = if set(0x02) { builder.syn() } else { builder };
        builder = if set(0x01) { builder.fin() } else { builder };
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("a vector takes it");
        frame
    }
}

/// Through random segments of one connection whatever the program forwards a worker would have forwarded, and they know the same of it
/// afterwards.
#[test]
fn privileged_windows_are_followed_as_by_a_worker() {
    let mut random = fastrand::Rng::with_seed(6);
    let (mut replayed, mut refused) = (0, 0);
    for _ in 0..20 {
        let mut pair = Pair::new(Does { snat: true, ..Does::default() });
        let mut talk = Talk { sequence: [1000, 0xffff_f000], acknowledged: [0; 2] };
        pair.sends(0, &talk.segment(0, 0x02, 4000, &[]));
        talk.sequence[0] += 1;
        talk.acknowledged[0] = talk.sequence[0];
        pair.sends(1, &talk.segment(1, 0x12, 3000, &[]));
        talk.sequence[1] = talk.sequence[1].wrapping_add(1);
        talk.acknowledged[1] = talk.sequence[1];
        for _ in 0..3 {
            pair.sends(0, &talk.segment(0, 0x10, 4000, &[]));
            pair.sends(1, &talk.segment(1, 0x10, 3000, &[]));
        }
        for _ in 0..120 {
            let from = usize::from(random.u8(..3) == 0);
            let payload = vec![7; random.usize(..600)];
            let window = if random.u8(..20) == 0 { 0 } else { random.u16(500..5000) };
            // Now and then something that is not quite what the other side expects.
            let shift = |random: &mut fastrand::Rng, span: u32| match random.u8(..8) {
                0 => random.u32(..2 * span).wrapping_sub(span),
                _ => 0,
            };
            let sequence = talk.sequence[from].wrapping_add(shift(&mut random, 6000));
            let ack = talk.acknowledged[1 - from].wrapping_add(shift(&mut random, 2000));
            let frame = talk.segment_at(from, sequence, ack, 0x10, window, &payload);
            // The program is asked about what the client sends: that comes by the port that it serves.
            let by_program = (from == Talk::CLIENT).then(|| pair.program(&frame)).flatten();
            let sent = if by_program.is_some() {
                replayed += 1;
                pair.plain.inject(LAN, 0, &frame);
                pair.plain.settle();
                let sent = pair.plain.take_sent(WAN).pop();
                assert_eq!(by_program, sent);
                sent
            } else {
                refused += usize::from(from == Talk::CLIENT);
                pair.sends(from, &frame)
            };
            if sent.is_some() && sequence == talk.sequence[from] {
                talk.sequence[from] = sequence.wrapping_add(payload.len() as u32);
            }
            if random.bool() {
                talk.acknowledged[from] = talk.sequence[from];
            }
        }
    }
    assert!(replayed > 600 && refused > 50, "{replayed} by the program, {refused} left to the worker");
}
