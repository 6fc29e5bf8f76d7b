//! Connections through the workers: what is translated comes back, and every checksum is right.
//!
//! ```text
//!   198.51.100.0/24   ┌───────────┐   203.0.113.0/24, masqueraded behind .1
//!   2001:db8:1::/64 ──┤0  router 1├── 2001:db8:2::/64, masqueraded behind ::1
//!                     └───────────┘
//! ```

mod common;

use std::net::IpAddr;
use std::sync::Arc;

use common::{LAN, WAN, address, assert_sound, config, ifindex, make_partial, own, peer};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use shunt_dataplane::sim::{Router, SimSpec};
use shunt_policy::config::{
    BaseChain, ChainPolicy, ChainRule, Config, Conntrack, CounterSlot, Hook, LinkAddress, Nat, NatTo, Origin, Route,
    RouteKind, Source, Step, Test, Verdict,
};
use shunt_policy::{Family, Generation, Policy, PortId, Prefix, PuntReason, TableId, compile};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Masquerades what leaves by WAN; what comes to port 8080 of the router goes to port 80 of the host in the LAN.
fn nat() -> Config {
    let mut config = config();
    let links = Arc::make_mut(&mut config.links);
    let on = |address: &str, length| {
        let address = common::address(address);
        let network = Prefix::new(address, length).expect("a prefix");
        LinkAddress { address, network, scope: 0, secondary: false, preferred: true }
    };
    links[1].addresses = vec![on("203.0.113.1", 24), on("2001:db8:2::1", 64)];
    let mut rib = common::rib();
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
    let masquerade =
        || vec![rule(vec![is(Test::oif("eth1")), Step::Verdict(Verdict::Nat(Nat::plain(NatTo::Masquerade).into()))])];
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
        base(Family::V4, Hook::Postrouting, masquerade()),
        base(Family::V6, Hook::Postrouting, masquerade()),
    ]);
    config.conntrack = [Conntrack::Translates; 2];
    config
}

fn policy() -> Arc<Policy> {
    Arc::new(compile(&nat(), Generation(1)))
}

fn router(workers: usize) -> Router {
    let ports = [LAN, WAN].map(|id| SimSpec { id, ifindex: ifindex(id), queues: 1 });
    Router::new(workers, &ports, policy())
}

/// Both ends of a packet: addresses and ports, the identifier of an ICMP echo in both places.
type Ends = (IpAddr, u16, IpAddr, u16);

fn ends(frame: &[u8]) -> Ends {
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

fn frame(from: PortId, protocol: u8, ends: Ends, flags: &str) -> Vec<u8> {
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
fn through(router: &mut Router, from: PortId, to: PortId, frame: &[u8]) -> Vec<u8> {
    router.inject(from, 0, frame);
    router.settle();
    let sent = router.take_sent(to);
    assert_eq!(sent.len(), 1, "punted {:?}, counters {:?}", router.take_punted(), router.counters());
    only(sent)
}

#[test]
fn a_masqueraded_connection_goes_both_ways_and_comes_back_to_its_worker() {
    for workers in [1, 2] {
        let mut router = router(workers);
        for (protocol, inside, outside) in [
            (UDP, "198.51.100.2", "203.0.113.2"),
            (TCP, "198.51.100.2", "203.0.113.2"),
            (1, "198.51.100.2", "203.0.113.2"),
            (UDP, "2001:db8:1::2", "2001:db8:2::2"),
            (TCP, "2001:db8:1::2", "2001:db8:2::2"),
            (58, "2001:db8:1::2", "2001:db8:2::2"),
        ] {
            let public = address(if inside.contains(':') { "2001:db8:2::1" } else { "203.0.113.1" });
            for port in [4000u16, 4001, 40_000, 40_001] {
                let service = if matches!(protocol, 1 | 58) { 0 } else { 53 };
                let asked = (address(inside), port, address(outside), service);
                let out = through(&mut router, LAN, WAN, &frame(LAN, protocol, asked, "syn"));
                assert_eq!(ends(&out), (public, port, address(outside), service), "protocol {protocol}");
                let answer = match protocol {
                    1 | 58 => frame(WAN, protocol, (address(outside), 0, public, port), "reply"),
                    TCP => frame(WAN, TCP, (address(outside), 53, public, port), "syn ack"),
                    _ => frame(WAN, UDP, (address(outside), 53, public, port), ""),
                };
                let back = through(&mut router, WAN, LAN, &answer);
                let (source, from, destination, to) = ends(&back);
                assert_eq!((source, destination), (address(outside), address(inside)));
                assert!(to == port || from == port, "protocol {protocol}");
            }
        }
        assert!(router.take_punted().is_empty());
    }
}

#[test]
fn unfinished_checksums_are_finished_for_the_new_addresses() {
    let mut router = router(1);
    for protocol in [UDP, TCP] {
        let asked = (address("198.51.100.2"), 4000, address("203.0.113.2"), 53);
        let mut unfinished = frame(LAN, protocol, asked, "syn");
        make_partial(&mut unfinished, protocol);
        let out = through(&mut router, LAN, WAN, &unfinished);
        assert_eq!(ends(&out), (address("203.0.113.1"), 4000, address("203.0.113.2"), 53));
    }
}

#[test]
fn a_udp_packet_without_a_checksum_stays_without() {
    let mut router = router(1);
    let mut plain = frame(LAN, UDP, (address("198.51.100.2"), 4000, address("203.0.113.2"), 53), "");
    plain[40..42].fill(0);
    let out = through(&mut router, LAN, WAN, &plain);
    assert_eq!(out[40..42], [0, 0]);
    assert_eq!(ends(&out).0, address("203.0.113.1"));
}

#[test]
fn a_forwarded_port_leads_inside_and_its_answers_out() {
    for workers in [1, 2] {
        let mut router = router(workers);
        let (client, public, server) = (address("203.0.113.2"), address("203.0.113.1"), address("198.51.100.2"));
        for port in [40_000, 40_001, 40_002] {
            let syn = frame(WAN, TCP, (client, port, public, 8080), "syn");
            assert_eq!(ends(&through(&mut router, WAN, LAN, &syn)), (client, port, server, 80));
            let answer = frame(LAN, TCP, (server, 80, client, port), "syn ack");
            assert_eq!(ends(&through(&mut router, LAN, WAN, &answer)), (public, 8080, client, port));
        }
    }
}

#[test]
fn an_error_about_a_translated_packet_finds_the_sender() {
    let mut router = router(2);
    let (client, server, public) = (address("198.51.100.2"), address("203.0.113.2"), address("203.0.113.1"));
    let out = through(&mut router, LAN, WAN, &frame(LAN, UDP, (client, 4000, server, 53), ""));
    // Port unreachable, about what the server has seen.
    let quoted = &out[14..];
    let mut payload = vec![0; 4];
    payload.extend_from_slice(quoted);
    let mut error = Vec::new();
    let unreachable = etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    let (IpAddr::V4(from), IpAddr::V4(to)) = (server, public) else { panic!("IPv4") };
    PacketBuilder::ethernet2(peer(WAN).0, own(WAN).0)
        .ipv4(from.octets(), to.octets(), 64)
        .icmpv4(unreachable)
        .write(&mut error, quoted)
        .expect("written");
    let back = through(&mut router, WAN, LAN, &error);
    assert_eq!((ends(&back).0, ends(&back).2), (server, client));
    let inner = &back[14 + 20 + 8..];
    assert_eq!(inner[12..16], [198, 51, 100, 2], "the quoted source is the client");
    let sum: u32 = inner[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the quoted header's checksum");
    let mut quoted_udp = Vec::from(&frame(LAN, UDP, (client, 4000, server, 53), "")[34..]);
    quoted_udp.truncate(inner.len() - 20);
    assert_eq!(inner[20..], quoted_udp, "ports and checksum are those that the client sent");
}

#[test]
fn what_is_addressed_to_the_router_itself_is_the_kernels() {
    let mut router = router(1);
    for protocol in [UDP, TCP] {
        router.inject(WAN, 0, &frame(WAN, protocol, (address("203.0.113.2"), 4000, address("203.0.113.1"), 22), "ack"));
    }
    router.settle();
    assert_eq!(router.take_punted().len(), 2);
    assert_eq!(router.counters().of_punt(PuntReason::Local), 2);
}
