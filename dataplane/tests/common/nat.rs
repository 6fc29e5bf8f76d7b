//! The router translates what goes from port 0 to port 1, and back.
//!
//! ```text
//!   198.51.100.0/24   ┌───────────┐   203.0.113.0/24, masqueraded behind .1
//!   2001:db8:1::/64 ──┤0  router 1├── 2001:db8:2::/64, masqueraded behind ::1
//!                     └───────────┘
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use shunt_dataplane::sim::{Router, SimSpec};
use shunt_policy::config::{
    BaseChain, ChainPolicy, ChainRule, Config, Conntrack, CounterSlot, Hook, LinkAddress, Nat, NatTo, Neighbour,
    Origin, Route, RouteKind, Source, Step, Test, Verdict,
};
use shunt_policy::{Family, Generation, PortId, Prefix, TableId, compile};

use super::{LAN, TCP, UDP, WAN, address, assert_sound, config, ifindex, own, peer};

/// Masquerades what leaves by WAN; what comes to port 8080 of the router goes to port 80 of the host in the LAN.
pub(crate) fn nat() -> Config {
    nat_by(Nat::plain(NatTo::Masquerade))
}

/// The same with another translation of IPv4 sources.
pub(crate) fn nat_by(source: Nat) -> Config {
    let mut config = config();
    let links = Arc::make_mut(&mut config.links);
    let on = |address: &str, length| {
        let address = super::address(address);
        let network = Prefix::new(address, length).expect("a prefix");
        LinkAddress { address, network, scope: 0, secondary: false, preferred: true }
    };
    links[1].addresses = vec![on("203.0.113.1", 24), on("2001:db8:2::1", 64)];
    for (host, port) in [("198.51.100.3", LAN), ("203.0.113.3", WAN)] {
        let (ifindex, mac) = (ifindex(port), Some(peer(port)));
        let neighbour = Neighbour { ifindex, address: address(host), mac, valid: true };
        Arc::make_mut(&mut config.neighbours).push(neighbour);
    }
    let mut rib = super::rib();
    for own in ["203.0.113.1", "2001:db8:2::1"] {
        rib.append(TableId::LOCAL, Prefix::host(address(own)), Route::new(0, RouteKind::Local(Some(ifindex(WAN)))));
    }
    config.tables = rib.tables().clone();
    let rule = |steps: Vec<Step>| ChainRule {
        steps,
        counter: CounterSlot(0),
        origin: Origin::new(Source::Nftables, "a rule"),
    };
    let is = |test| Step::Match(shunt_policy::config::Match { not: false, test });
    let base = |family, hook, rules| BaseChain {
        family,
        hook,
        priority: if hook == Hook::Prerouting { -100 } else { 100 },
        unordered: false,
        name: "a chain".to_owned(),
        nat: true,
        rules,
        policy: ChainPolicy::Accept,
        user: Vec::new(),
    };
    let translate = |source: Nat| vec![rule(vec![is(Test::oif("eth1")), Step::Verdict(Verdict::Nat(source.into()))])];
    let to: IpAddr = address("198.51.100.2");
    let port = shunt_policy::config::PortRange { first: 80, last: 80 };
    let dnat = Nat { ports: Some(port), ..Nat::plain(NatTo::Addresses(Some((to, to)))) };
    let field = shunt_policy::config::Field::DestinationPort;
    let forwarded = vec![rule(vec![
        is(Test::protocol(TCP)),
        is(Test::of(field, [shunt_policy::config::Value::one(8080u16)])),
        is(Test::destination(Prefix::host(address("203.0.113.1")))),
        Step::Verdict(Verdict::Nat(dnat.into())),
    ])];
    config.chains = Arc::new(vec![
        base(Family::V4, Hook::Prerouting, forwarded),
        base(Family::V4, Hook::Postrouting, translate(source)),
        base(Family::V6, Hook::Postrouting, translate(Nat::plain(NatTo::Masquerade))),
    ]);
    config.conntrack = [Conntrack::Translates; 2];
    config
}

pub(crate) fn router(workers: usize) -> Router {
    router_of(workers, &nat())
}

pub(crate) fn router_of(workers: usize, config: &Config) -> Router {
    let ports = [LAN, WAN].map(|id| SimSpec { id, ifindex: ifindex(id), queues: 1 });
    Router::new(workers, &ports, Arc::new(compile(config, Generation(1))))
}

/// Both ends of a packet: addresses and ports, the identifier of an ICMP echo in both places.
pub(crate) type Ends = (IpAddr, u16, IpAddr, u16);

pub(crate) fn ends(frame: &[u8]) -> Ends {
    assert_sound(frame);
    let packet = SlicedPacket::from_ethernet(frame).expect("a readable frame");
    let (source, destination): (IpAddr, IpAddr) = match packet.net.expect("an IP packet") {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        _ => panic!("neither IPv4 nor IPv6"),
    };
    let (from, to) = match packet.transport.expect("a transport header") {
        TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port()),
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port()),
        TransportSlice::Icmpv4(icmp) => {
            let sum = icmp.header();
            assert_eq!(sum.icmp_type.calc_checksum(icmp.payload()), icmp.checksum(), "ICMP checksum");
            (u16::from_be_bytes([icmp.slice()[4], icmp.slice()[5]]), 0)
        }
        TransportSlice::Icmpv6(icmp) => (u16::from_be_bytes([icmp.slice()[4], icmp.slice()[5]]), 0),
        _ => panic!("another transport"),
    };
    (source, from, destination, to)
}

/// TCP with the flags that are named; an echo is a request unless it is a `reply`.
pub(crate) fn frame(from: PortId, protocol: u8, ends: Ends, flags: &str) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(peer(from).0, own(from).0);
    let (source, sport, destination, dport) = ends;
    let ip = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ethernet.ipv4(source.octets(), destination.octets(), 64),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ethernet.ipv6(source.octets(), destination.octets(), 64),
        _ => panic!("two families"),
    };
    let mut frame = Vec::new();
    let payload = if flags.contains("syn") { &b""[..] } else { b"some bytes" };
    match protocol {
        TCP => {
            let mut tcp = ip.tcp(sport, dport, if flags == "syn" { 1000 } else { 5000 }, 65000);
            if flags.contains("syn") {
                tcp = tcp.syn();
            }
            if flags.contains("ack") {
                tcp = tcp.ack(1001);
            }
            tcp.write(&mut frame, payload).expect("written");
        }
        UDP => ip.udp(sport, dport).write(&mut frame, payload).expect("written"),
        1 if flags == "reply" => ip.icmpv4_echo_reply(dport, 7).write(&mut frame, payload).expect("written"),
        1 => ip.icmpv4_echo_request(sport, 7).write(&mut frame, payload).expect("written"),
        58 if flags == "reply" => ip.icmpv6_echo_reply(dport, 7).write(&mut frame, payload).expect("written"),
        58 => ip.icmpv6_echo_request(sport, 7).write(&mut frame, payload).expect("written"),
        other => panic!("protocol {other}"),
    }
    frame
}

fn only(frames: Vec<Vec<u8>>) -> Vec<u8> {
    assert_eq!(frames.len(), 1, "one frame");
    frames.into_iter().next().expect("one")
}

/// Sends a packet in by one port; what leaves by the other.
pub(crate) fn through(router: &mut Router, from: PortId, to: PortId, frame: &[u8]) -> Vec<u8> {
    router.inject(from, 0, frame);
    router.settle();
    let sent = router.take_sent(to);
    assert_eq!(sent.len(), 1, "punted {:?}, counters {:?}", router.take_punted(), router.counters());
    only(sent)
}

/// An ICMP error of this type and code about the packet whose IP header `quoted` starts with.
pub(crate) fn icmp_error(
    from: PortId,
    (source, destination): (IpAddr, IpAddr),
    (kind, code): (u8, u8),
    quoted: &[u8],
) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { panic!("IPv4") };
    let mut error = Vec::new();
    PacketBuilder::ethernet2(peer(from).0, own(from).0)
        .ipv4(source.octets(), destination.octets(), 64)
        .icmpv4_raw(kind, code, [0; 4])
        .write(&mut error, quoted)
        .expect("written");
    error
}
