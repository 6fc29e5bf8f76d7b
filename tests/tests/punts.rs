//! What is the kernel's goes to the kernel, and fares there as if we were not. Frames to the byte; the network is that of
//! [`TwoWays`], without its servers' help.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use shunt_tests::lab::{Daemon, TwoWays, Wire, eventually, ipv4_udp, ipv6_udp};

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10);
/// The UDP port whose packets are looked for; nobody listens there.
const PORT: u16 = 9;
const SOON: Duration = Duration::from_secs(1);
/// Long enough for a frame that should not come.
const NEVER: Duration = Duration::from_millis(200);

/// The client's and the fast server's ends of the wires.
struct Wires {
    client: Wire,
    server: Wire,
    /// Client to router.
    macs: ([u8; 6], [u8; 6]),
}

impl Wires {
    fn open(net: &TwoWays) -> Self {
        // The far end must not answer what is only looked at.
        net.fast.run("iptables -A INPUT -p udp --dport 9 -j DROP; ip6tables -A INPUT -p udp --dport 9 -j DROP");
        Wires {
            client: Wire::open(&net.client, "eth0"),
            server: Wire::open(&net.fast, "eth0"),
            macs: (net.client.mac("eth0"), net.router.mac("eth0")),
        }
    }

    fn ipv4(&self, ttl: u8, payload: &[u8]) -> Vec<u8> {
        ipv4_udp(self.macs, (CLIENT, SERVER), ttl, (4000, PORT), payload)
    }

    fn ipv6(&self, hops: u8, payload: &[u8]) -> Vec<u8> {
        ipv6_udp(self.macs, (CLIENT6, SERVER6), hops, (4000, PORT), payload)
    }

    /// What arrives at the server of a frame that the client sends.
    fn through(&mut self, frame: &[u8], patience: Duration) -> Option<Vec<u8>> {
        self.client.send(frame);
        self.server.receive(patience, |frame| is_udp_to(frame, PORT))
    }

    /// The ICMP error that the router sends back: type, code and source.
    fn icmp_error(&mut self, sent: &[u8]) -> Option<(u8, u8, Ipv4Addr)> {
        self.client.send(sent);
        let answer = self.client.receive(SOON, |frame| {
            frame.len() >= 36 && frame[12..14] == [8, 0] && frame[23] == 1 && frame[30..34] == sent[26..30]
        })?;
        Some((answer[34], answer[35], Ipv4Addr::new(answer[26], answer[27], answer[28], answer[29])))
    }
}

fn is_udp_to(frame: &[u8], port: u16) -> bool {
    let transport = match frame.get(12..14) {
        Some([0x08, 0x00]) if frame.get(23) == Some(&17) => 14 + usize::from(frame[14] & 15) * 4,
        Some([0x86, 0xdd]) if frame.get(20) == Some(&17) => 54,
        _ => return false,
    };
    frame.get(transport + 2..transport + 4) == Some(&port.to_be_bytes())
}

/// Sets the IPv4 header checksum anew.
fn resum(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let words = frame[14..end].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

fn kernel_did(net: &TwoWays, shunt: &Daemon, before: u64) {
    assert!(net.router.kernel_forwarded() > before, "not by the kernel: {:#}", shunt.status());
}

#[test]
fn privileged_forwarded_frames_are_right_to_the_byte() {
    let net = TwoWays::new();
    let mut wires = Wires::open(&net);
    let (to_server, from_router) = (net.fast.mac("eth0"), net.router.mac("eth1"));
    for payload in [&b""[..], b"x", b"eighteen bytes, yes", &[7; 1472]] {
        for family in [4, 6] {
            let sent =
                if family == 4 { wires.ipv4(64, payload) } else { wires.ipv6(64, &payload[..payload.len().min(1452)]) };
            let kernel = wires.through(&sent, SOON).expect("the kernel forwards");
            let shunt = net.router.start_shunt("");
            let before = net.router.kernel_forwarded();
            let mut padded = sent.clone();
            padded.resize(sent.len().max(60), 0xaa);
            let ours = wires.through(&padded, SOON).unwrap_or_else(|| panic!("lost: {:#}", shunt.status()));
            assert_eq!(ours, kernel, "IPv{family}, {} bytes", payload.len());
            assert_eq!((&ours[..6], &ours[6..12]), (&to_server[..], &from_router[..]));
            assert_eq!(net.router.kernel_forwarded(), before, "by the kernel: {:#}", shunt.status());
            assert_eq!(shunt.terminate().code, 0);
        }
    }
}

#[test]
fn privileged_a_used_up_ttl_is_answered_by_the_router() {
    let net = TwoWays::new();
    let mut wires = Wires::open(&net);
    let shunt = net.router.start_shunt("");
    let frame = wires.ipv4(1, b"one hop");
    // Time exceeded in transit, from the address on the client's side.
    assert_eq!(wires.icmp_error(&frame), Some((11, 0, Ipv4Addr::new(192, 0, 2, 1))));
    assert_eq!(shunt.counted("passed", "ttl_expired"), 1);
    let hops = net.client.run("ping -c1 -t1 198.51.100.10 || true; ping -c1 -t1 2001:db8:2::10 || true");
    assert!(hops.contains("192.0.2.1") && hops.contains("2001:db8:1::1"), "{hops}");
}

#[test]
fn privileged_routes_that_answer_do_so_by_the_kernel() {
    let net = TwoWays::new();
    let mut wires = Wires::open(&net);
    net.router.run("ip route add unreachable 198.19.1.0/24; ip route add prohibit 198.19.2.0/24; ip route add blackhole 198.19.3.0/24");
    net.router
        .run("ip rule add priority 50 to 198.19.4.0/24 prohibit; ip rule add priority 51 to 198.19.5.0/24 unreachable");
    net.router.run("sysctl -qw net.ipv4.icmp_ratelimit=0");
    // The kernel grants each host five such errors in a row (ip_error), so the second round is another host's.
    net.client.run("ip addr add 192.0.2.11/24 dev eth0");
    let nowhere =
        [[198, 19, 1, 1], [198, 19, 2, 1], [198, 19, 3, 1], [198, 19, 4, 1], [198, 19, 5, 1], [203, 0, 114, 1]];
    let mut errors = |from: Ipv4Addr| {
        nowhere.map(|to| {
            let frame = ipv4_udp(wires.macs, (from, to.into()), 64, (4000, PORT), b"to nowhere");
            wires.icmp_error(&frame)
        })
    };
    let kernel = errors(CLIENT);
    assert_eq!(kernel.map(|error| error.map(|error| error.1)), [Some(1), Some(13), None, Some(13), Some(0), Some(0)]);
    let shunt = net.router.start_shunt("");
    let ours = errors(Ipv4Addr::new(192, 0, 2, 11));
    assert_eq!(ours, kernel, "{:#}", shunt.status());
    for reason in ["unreachable_route", "prohibit_route", "prohibit_rule", "unreachable_rule", "no_route"] {
        assert_eq!(shunt.counted("punted", reason), 1, "{reason} {:#}", shunt.status());
    }
    assert_eq!(shunt.counted("dropped", "blackhole_route"), 1);
}

#[test]
fn privileged_a_narrow_egress_makes_the_kernel_answer_or_fragment() {
    let net = TwoWays::new();
    let mut wires = Wires::open(&net);
    net.router.run("ip link set eth1 mtu 1300");
    let shunt = net.router.start_shunt("");
    let mut frame = wires.ipv4(64, &[7; 1400]);
    frame[20] = 0x40;
    resum(&mut frame);
    // Fragmentation needed and DF set (RFC 1191).
    assert_eq!(wires.icmp_error(&frame), Some((3, 4, Ipv4Addr::new(192, 0, 2, 1))));
    assert!(shunt.counted("punted", "oversize") >= 1);
    frame[20] = 0;
    resum(&mut frame);
    let first = wires.through(&frame, SOON).expect("fragments");
    assert!(first.len() < 1320 && first[20] & 0x20 != 0, "more fragments follow: {first:?}");
    let too_big = net.client.run("ping -c1 -W1 -M do -s 1400 2001:db8:2::10 || true");
    assert!(too_big.contains("mtu=1300") || too_big.contains("mtu 1300") || too_big.contains("too big"), "{too_big}");
}

#[test]
fn privileged_fragments_options_and_extension_headers_are_forwarded_by_the_kernel() {
    let net = TwoWays::new();
    let mut wires = Wires::open(&net);
    let shunt = net.router.start_shunt("");
    let before = net.router.kernel_forwarded();
    net.client.run("ping -q -c2 -i0.1 -W1 -s 3000 198.51.100.10; ping -q -c2 -i0.1 -W1 -s 3000 2001:db8:2::10");
    kernel_did(&net, &shunt, before);
    assert!(shunt.counted("passed", "fragment") >= 8, "{:#}", shunt.status());

    let before = net.router.kernel_forwarded();
    let mut frame = wires.ipv4(64, b"options");
    // Four bytes of "no operation" (RFC 791).
    frame[14] = 0x46;
    frame.splice(34..34, [1, 1, 1, 0]);
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    resum(&mut frame);
    assert!(wires.through(&frame, SOON).is_some());
    kernel_did(&net, &shunt, before);
    assert_eq!(shunt.counted("passed", "options"), 1);
}

#[test]
fn privileged_an_unresolved_neighbour_is_resolved_by_the_kernel() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("");
    net.router.run("ip neigh flush all; ip -6 neigh flush all");
    for server in [TwoWays::SERVER, TwoWays::SERVER6] {
        let output = net.client.run(&format!("ping -c5 -i0.1 -W1 {server}"));
        assert!(output.contains(" 0% packet loss"), "{output}");
    }
    assert!(shunt.counted("punted", "neighbour") > 0, "{:#}", shunt.status());
    let before = net.router.kernel_forwarded();
    net.client.run(&format!("ping -q -c5 -i0.05 -W1 {}", TwoWays::SERVER));
    assert_eq!(net.router.kernel_forwarded(), before, "the workers do not follow: {:#}", shunt.status());
}

/// A tun stands in for ppp: no Ethernet, no XDP. What leaves there is punted, and arrives.
#[test]
fn privileged_an_egress_without_xdp_still_works() {
    let net = TwoWays::new();
    let mut wires = Wires::open(&net);
    // An IPv4-in-IPv4 or PPP device is not to be had everywhere; any interface that is not ours is as good.
    let shunt = net.router.start_shunt("--dev eth0");
    let before = net.router.kernel_forwarded();
    let frame = wires.ipv4(64, b"by an egress of the kernel's");
    assert!(wires.through(&frame, SOON).is_some(), "{:#}", shunt.status());
    kernel_did(&net, &shunt, before);
    assert_eq!(shunt.counted("punted", "egress_not_taken"), 1);

    net.router.run("ip tuntap add dev tun0 mode tun; ip link set tun0 up; ip route add 198.19.0.0/16 dev tun0");
    let followed = eventually(SOON, || {
        let told = shunt.explain("--iif eth0 --src 192.0.2.10 --dst 198.19.0.1 --proto udp");
        (told["end"] == "punt: egress_not_taken").then_some(())
    });
    assert!(followed.is_some());
}

#[test]
fn privileged_what_is_addressed_to_the_router_is_the_routers() {
    let net = TwoWays::new();
    let shunt = net.router.start_shunt("");
    // All of its addresses, not only the one on the client's side.
    for address in ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8:1::1", "2001:db8:2::1"] {
        net.client.run(&format!("ping -q -c2 -i0.05 -W1 {address}"));
    }
    assert!(shunt.counted("passed", "local") >= 10, "{:#}", shunt.status());
    // A new address is known at once, and a packet that slips through is punted.
    net.router.run("ip addr add 198.51.100.77/24 dev eth1");
    net.client.run("ping -q -c2 -i0.05 -W1 198.51.100.77");
}

#[test]
fn privileged_frames_that_the_kernel_would_not_forward_are_not() {
    let net = TwoWays::new();
    let mut wires = Wires::open(&net);
    let shunt = net.router.start_shunt("");
    let good = wires.ipv4(64, b"good");
    assert!(wires.through(&good, SOON).is_some());

    let mut foreign = good.clone();
    foreign[..6].copy_from_slice(&[2, 0, 0x5e, 0, 0x53, 0xff]);
    assert_eq!(wires.through(&foreign, NEVER), None, "a frame for somebody else");
    assert_eq!(shunt.counted("passed", "foreign_mac"), 1);

    let mut broadcast = good.clone();
    broadcast[..6].fill(0xff);
    assert_eq!(wires.through(&broadcast, NEVER), None, "unicast IP in a broadcast frame");

    let mut sum = good.clone();
    sum[24] ^= 1;
    assert_eq!(wires.through(&sum, NEVER), None, "a wrong header checksum");
    assert_eq!(shunt.counted("dropped", "bad_header"), 1);

    let mut short = good.clone();
    short.truncate(40);
    assert_eq!(wires.through(&short, NEVER), None, "a truncated frame");
    assert_eq!(shunt.counted("passed", "malformed"), 1);

    let mut tagged = good.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    assert_eq!(wires.through(&tagged, NEVER), None, "a VLAN that the router does not have");

    let own = ipv4_udp(wires.macs, (Ipv4Addr::new(198, 51, 100, 1), SERVER), 64, (4000, PORT), b"spoofed");
    assert_eq!(wires.through(&own, NEVER), None, "the router's own address as source");
    assert_eq!(shunt.counted("punted", "source_local"), 1);

    for source in [[127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255], [0, 0, 0, 0]] {
        let martian = ipv4_udp(wires.macs, (source.into(), SERVER), 64, (4000, PORT), b"martian");
        assert_eq!(wires.through(&martian, NEVER), None, "source {source:?}");
    }
    assert!(wires.through(&good, SOON).is_some());
}

/// Forwarding switched off under traffic: one interface, one family.
#[test]
fn privileged_the_forwarding_sysctls_are_followed() {
    let net = TwoWays::new();
    let mut wires = Wires::open(&net);
    let shunt = net.router.start_shunt("");
    let (four, six) = (wires.ipv4(64, b"four"), wires.ipv6(64, b"six"));
    assert!(wires.through(&four, SOON).is_some() && wires.through(&six, SOON).is_some());
    net.router.run("sysctl -qw net.ipv4.conf.eth0.forwarding=0");
    assert!(eventually(SOON, || wires.through(&four, NEVER).is_none().then_some(())).is_some(), "{:#}", shunt.status());
    assert!(wires.through(&six, SOON).is_some());
    net.router.run("sysctl -qw net.ipv4.conf.eth0.forwarding=1 net.ipv6.conf.all.forwarding=0");
    assert!(eventually(SOON, || wires.through(&six, NEVER).is_none().then_some(())).is_some(), "{:#}", shunt.status());
    assert!(eventually(SOON, || wires.through(&four, NEVER)).is_some());
}
