//! What each match of iptables means. A packet that a rule of PREROUTING or FORWARD matches gets a bit of the mark, and POSTROUTING
//! writes the marks into the TOS byte: so the frames show which of eight rules matched.

use shunt_tests::twin::{Body, Command, Packet};

use super::{Rows, four, six};

/// How often a match holds of the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holds {
    Sometimes,
    Always,
    Never,
}

use Holds::{Always, Never, Sometimes};

const BOTH: [(&str, Holds); 54] = [
    ("-i p0", Always),
    ("-i p+", Always),
    ("! -i p0", Never),
    ("-p udp", Sometimes),
    ("! -p udp", Sometimes),
    ("-p gre", Sometimes),
    ("-p udp --dport 9", Sometimes),
    ("-p udp ! --dport 10:20", Sometimes),
    ("-p udp --sport 4001:", Sometimes),
    ("-p tcp --sport 80 --dport 1:1000", Sometimes),
    ("-p tcp ! --dport :442", Sometimes),
    ("-p sctp --dport 9", Sometimes),
    ("-p udp -m multiport --dports 10,12:14", Sometimes),
    ("-p udp -m multiport ! --sports 4000,4002", Sometimes),
    ("-p tcp -m multiport --ports 80,7000", Sometimes),
    ("-p udplite -m multiport ! --ports 80,7000", Sometimes),
    ("-p tcp --tcp-flags ACK,SYN ACK", Sometimes),
    ("-p tcp --syn", Never),
    ("-p tcp ! --syn", Sometimes),
    ("-p tcp ! --tcp-flags FIN,PSH NONE", Never),
    ("-m tos --tos 0x10/0x3f", Sometimes),
    ("-m tos ! --tos 0x10/0xff", Sometimes),
    ("-m tos --tos 0x11/0x10", Never),
    ("-m dscp --dscp 46", Sometimes),
    ("-m dscp ! --dscp 0", Sometimes),
    ("-m ecn --ecn-ip-ect 3", Sometimes),
    ("-m ecn ! --ecn-ip-ect 0", Sometimes),
    ("-p tcp -m ecn ! --ecn-tcp-cwr ! --ecn-tcp-ece", Sometimes),
    ("-m length --length 100:200", Sometimes),
    ("-m length ! --length 52:72", Sometimes),
    ("-m length --length 1000:", Sometimes),
    ("-m mark --mark 0/0xffff", Always),
    ("-m mark ! --mark 0x0/0x4000", Never),
    ("-m mark --mark 0x4000/0x8000", Never),
    ("-m mac --mac-source 02:00:00:00:02:0f", Always),
    ("-m mac ! --mac-source 02:00:00:00:02:0e", Always),
    ("-m pkttype --pkt-type unicast", Always),
    ("-m pkttype ! --pkt-type multicast", Always),
    ("-m devgroup --src-group 0", Always),
    ("-m devgroup ! --src-group 0x5/0xf", Always),
    ("-m comment --comment \"-p tcp -j DROP\"", Always),
    ("-m set --match-set port dst", Sometimes),
    ("-m set ! --match-set port src", Sometimes),
    ("-m set --match-set addresses src", Sometimes),
    ("-m set ! --match-set addresses src,dst", Sometimes),
    ("-m set --match-set nets src", Sometimes),
    ("-m set ! --match-set nets src", Sometimes),
    ("-m set --match-set ports src,dst", Sometimes),
    ("-m set ! --match-set ports src,dst", Sometimes),
    ("-m set --match-set ports src", Never),
    ("-m set ! --match-set ports src", Always),
    ("-m set --match-set netports src,dst", Sometimes),
    ("-m set --match-set three src,dst,dst", Sometimes),
    ("-m set --match-set all src,src", Sometimes),
];

const FOUR: [(&str, Holds); 24] = [
    ("-s 198.19.1.0/24", Sometimes),
    ("! -s 198.19.1.0/24", Sometimes),
    ("-s 0.0.1.0/0.0.255.0", Sometimes),
    ("! -d 198.18.0.9/255.255.0.255", Sometimes),
    ("-p icmp", Sometimes),
    ("-p icmp --icmp-type 8", Sometimes),
    ("-p icmp ! --icmp-type 8", Sometimes),
    ("-p icmp --icmp-type 3/4", Sometimes),
    ("-p icmp --icmp-type any", Sometimes),
    ("-p icmp ! --icmp-type any", Never),
    ("-p icmp --icmp-type 200", Sometimes),
    ("-m ttl --ttl-eq 64", Sometimes),
    ("-m ttl ! --ttl-eq 64", Sometimes),
    ("-m ttl --ttl-lt 64", Sometimes),
    ("-m ttl --ttl-gt 64", Sometimes),
    ("-m ttl --ttl-lt 0", Never),
    ("-m iprange --src-range 198.19.1.2-198.19.2.1", Sometimes),
    ("-m iprange ! --src-range 198.19.1.2-198.19.2.1 --dst-range 198.18.7.9-198.18.7.9", Sometimes),
    ("-m addrtype --dst-type UNICAST", Always),
    ("-m addrtype ! --src-type LOCAL,BROADCAST", Always),
    ("! -f", Always),
    ("-f", Never),
    ("-m set --match-set mapped src", Sometimes),
    ("-m set --match-set masked src", Sometimes),
];

const SIX: [(&str, Holds); 16] = [
    ("-s 2001:db8:f0::/112", Sometimes),
    ("! -s 2001:db8:f0::1", Sometimes),
    ("-s 0:0:f0::1/0:0:ff:ffff:ffff:ffff:ffff:ffff", Sometimes),
    ("-p icmpv6", Sometimes),
    // That is the kernel's, and not among the packets.
    ("-p icmp", Never),
    ("-p icmpv6 --icmpv6-type 128", Sometimes),
    ("-p icmpv6 ! --icmpv6-type 128", Sometimes),
    ("-p icmpv6 --icmpv6-type 1/4", Sometimes),
    ("-p icmpv6 --icmpv6-type 255", Sometimes),
    ("-p icmpv6 ! --icmpv6-type 255", Sometimes),
    ("-m hl --hl-eq 64", Sometimes),
    ("-m hl ! --hl-eq 64", Sometimes),
    ("-m hl --hl-lt 64", Sometimes),
    ("-m hl --hl-gt 64", Sometimes),
    ("-m iprange --src-range 2001:db8:f0::2-2001:db8:f0::1:0", Sometimes),
    ("-m iprange ! --dst-range 2001:db8:100::9-2001:db8:100::9", Sometimes),
];

const SETS: &str = "\
create port bitmap:port range 0-1024
add port 9
create addresses hash:ip family FAMILY
add addresses SOURCE1
create nets hash:net family FAMILY
add nets NET
add nets NARROW nomatch
add nets SOURCE1
create ports hash:ip,port family FAMILY
add ports SOURCE1,udp:9
add ports SOURCE1,tcp:443
add ports SOURCE1,ICMP:echo-request
add ports SOURCE1,gre:0
add ports SOURCE2,sctp:9
create netports hash:net,port family FAMILY
add netports NET,udp:9
add netports NARROW,udp:9 nomatch
add netports NET,tcp:443
create three hash:ip,port,ip family FAMILY
add three SOURCE1,udp:9,TARGET
create all list:set
add all addresses
add all nets
";

#[test]
fn privileged_iptables_nft_matches() {
    matches("iptables-nft", &[&BOTH[..], &FOUR].concat(), &packets(four(), 8));
}

#[test]
fn privileged_iptables_legacy_matches() {
    matches("iptables-legacy", &[&BOTH[..], &FOUR, &[("! -s 0.0.0.0/0", Never)]].concat(), &packets(four(), 8));
}

#[test]
fn privileged_ip6tables_nft_matches() {
    matches("ip6tables-nft", &[&BOTH[..], &SIX].concat(), &packets(six(), 128));
}

#[test]
fn privileged_ip6tables_legacy_matches() {
    matches("ip6tables-legacy", &[&BOTH[..], &SIX, &[("! -d ::/0", Never)]].concat(), &packets(six(), 128));
}

/// Each by packets to a port of its own, from port 9000 on.
const TARGETS: [&str; 16] = [
    "MARK --set-mark 0x5",
    "MARK --set-mark 0x5/0x3",
    "MARK --set-xmark 0x5/0x3",
    "MARK --and-mark 0x3c",
    "MARK --or-mark 0x3",
    "MARK --xor-mark 0xff",
    "TOS --set-tos 0x10",
    "TOS --set-tos 0x1e/0x0f",
    "TOS --and-tos 0xf0",
    "TOS --or-tos 0x08",
    "TOS --xor-tos 0xff",
    "DSCP --set-dscp 46",
    "TTL --ttl-set 7",
    "TTL --ttl-inc 200",
    "TTL --ttl-dec 9",
    "CLASSIFY --set-class 1:10",
];

#[test]
fn privileged_iptables_nft_targets() {
    targets("iptables-nft", &four());
}

#[test]
fn privileged_iptables_legacy_targets() {
    targets("iptables-legacy", &four());
}

#[test]
fn privileged_ip6tables_nft_targets() {
    targets("ip6tables-nft", &six());
}

#[test]
fn privileged_ip6tables_legacy_targets() {
    targets("ip6tables-legacy", &six());
}

/// In FORWARD; the mark is written into the TOS byte of packets to the first ports.
fn targets(tool: &str, base: &Packet) {
    let mut rows = Rows::new();
    let mut script =
        format!("iptables -t mangle -F; ip6tables -t mangle -F\n{tool} -t mangle -A FORWARD -j MARK --set-mark 0x5a\n");
    for (number, target) in TARGETS.iter().enumerate() {
        let target = if tool.starts_with("ip6") {
            target.replace("TTL", "HL").replace("ttl", "hl")
        } else {
            (*target).to_owned()
        };
        script += &format!("{tool} -t mangle -A FORWARD -p udp --dport {} -j {target}\n", 9000 + number);
    }
    for bit in [1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80] {
        let marked = format!("-p udp --dport 9000:9005 -m mark --mark {bit}/{bit}");
        script += &format!("{tool} -t mangle -A POSTROUTING {marked} -j TOS --or-tos {bit}\n");
    }
    rows.set(&[Command::shell(format!("set -e\n{script}"))]);
    let to = |number: u16| base.clone().body(Body::Udp(4000, 9000 + number));
    let mut packets: Vec<Packet> = (0..6).map(to).collect();
    packets.extend((6..16).map(to).flat_map(|packet| [packet.clone().tos(0xa5), packet.tos(0x5a)]));
    packets.push(base.clone());
    let before = rows.twin.daemon().forwarded();
    let outcomes = rows.outcomes(&packets);
    let by_workers = rows.twin.daemon().forwarded() - before;
    assert!(by_workers >= packets.len() as u64, "{by_workers} by workers: {script}{:#}", rows.twin.daemon().status());
    // All marks come out, each another one.
    let tos = |outcome: &[(usize, Vec<u8>)]| {
        let frame = &outcome[0].1;
        if base.source.is_ipv4() { frame[15] } else { frame[14] << 4 | frame[15] >> 4 }
    };
    let marks: Vec<u8> = outcomes[..6].iter().map(|outcome| tos(outcome)).collect();
    assert_eq!(marks, [0x05, 0x5d, 0x5d, 0x18, 0x5b, 0xa5]);
}

/// In PREROUTING, and again in FORWARD, where the TTL is one less and the egress known.
fn matches(tool: &str, matches: &[(&str, Holds)], packets: &[Packet]) {
    let mut rows = Rows::new();
    rows.set(&[Command::shell(sets(tool)), Command::shell("iptables -t mangle -F; ip6tables -t mangle -F")]);
    for batch in matches.chunks(8) {
        reveal(&mut rows, tool, "PREROUTING", batch, packets);
    }
    let forward: Vec<_> =
        matches.iter().filter(|(text, _)| text.contains("-m ttl") || text.contains("-m hl")).collect();
    let mut forward: Vec<(String, Holds)> =
        forward.into_iter().map(|(text, holds)| (text.replace("64", "63"), *holds)).collect();
    let more = [("-o p1", Always), ("! -o p+", Never), ("-o p2", Never), ("-m devgroup ! --dst-group 1", Always)];
    forward.extend(more.map(|(text, holds)| (text.to_owned(), holds)));
    let forward: Vec<(&str, Holds)> = forward.iter().map(|(text, holds)| (text.as_str(), *holds)).collect();
    for batch in forward.chunks(8) {
        reveal(&mut rows, tool, "FORWARD", batch, packets);
    }
    // In a chain that PREROUTING leads to there is no egress to compare.
    rows.set(&[Command::shell(format!("{tool} -t mangle -N own"))]);
    reveal(&mut rows, tool, "own", &[("-o p1", Never), ("! -o p1", Always)], packets);
}

fn reveal(rows: &mut Rows, tool: &str, chain: &str, matches: &[(&str, Holds)], packets: &[Packet]) {
    let mut script = format!("{tool} -t mangle -F\n");
    if chain == "own" {
        script += &format!("{tool} -t mangle -A PREROUTING -j own\n");
    }
    script += &format!("{tool} -t mangle -A POSTROUTING -j TOS --set-tos 0/0xff\n");
    for (bit, (text, _)) in matches.iter().enumerate() {
        let bit = 1 << bit;
        script += &format!("{tool} -t mangle -A {chain} {text} -j MARK --or-mark {:#x}\n", bit << 16);
        let marked = format!("-m mark --mark {0:#x}/{0:#x}", bit << 16);
        script += &format!("{tool} -t mangle -A POSTROUTING {marked} -j TOS --set-tos {bit}/{bit}\n");
    }
    rows.set(&[Command::shell(format!("set -e\n{script}"))]);
    let before = rows.twin.daemon().forwarded();
    let outcomes = rows.outcomes(packets);
    let by_workers = rows.twin.daemon().forwarded() - before;
    assert!(by_workers >= packets.len() as u64, "{by_workers} by workers: {script}{:#}", rows.twin.daemon().status());
    let mut seen = vec![(0, 0); matches.len()];
    for (packet, outcome) in packets.iter().zip(&outcomes) {
        let [(_, frame)] = &outcome[..] else { panic!("{packet}: {outcome:02x?}") };
        let tos = if packet.source.is_ipv4() { frame[15] } else { frame[14] << 4 | frame[15] >> 4 };
        for (bit, (yes, no)) in seen.iter_mut().enumerate() {
            *(if tos & 1 << bit != 0 { yes } else { no }) += 1;
        }
    }
    for ((text, holds), (yes, no)) in matches.iter().zip(seen) {
        let found = match (yes, no) {
            (0, _) => Never,
            (_, 0) => Always,
            _ => Sometimes,
        };
        assert_eq!(found, *holds, "{tool} {chain} {text}: {yes} yes, {no} no");
    }
}

/// The sets, of the tool's family.
fn sets(tool: &str) -> String {
    let (of_family, more): (&[_], _) = match tool.starts_with("ip6") {
        false => (
            &[
                ("FAMILY", "inet"),
                ("ICMP", "icmp"),
                ("SOURCE1", "198.19.1.1"),
                ("SOURCE2", "198.19.1.2"),
                ("NET", "198.19.0.0/16"),
                ("NARROW", "198.19.1.0/24"),
                ("TARGET", "198.18.7.9"),
            ],
            "create mapped bitmap:ip range 198.19.1.0-198.19.1.255\nadd mapped 198.19.1.2\n\
             create masked hash:ip netmask 24\nadd masked 198.19.1.0\n",
        ),
        true => (
            &[
                ("FAMILY", "inet6"),
                ("ICMP", "icmpv6"),
                ("SOURCE1", "2001:db8:f0::1"),
                ("SOURCE2", "2001:db8:f0::2"),
                ("NET", "2001:db8:f0::/48"),
                ("NARROW", "2001:db8:f0::/112"),
                ("TARGET", "2001:db8:100::9"),
            ],
            "",
        ),
    };
    let text = of_family.iter().fold(SETS.to_owned(), |text, (word, value)| text.replace(word, value));
    format!("ipset restore <<'.'\n{text}{more}.\n")
}

/// Packets of all kinds, from and to several hosts.
fn packets(base: Packet, echo: u8) -> Vec<Packet> {
    let six = base.source.is_ipv6();
    let from = |text: &str, text6: &str| Packet {
        source: if six { text6 } else { text }.parse().expect("an address"),
        ..base.clone()
    };
    let to = |text: &str, text6: &str| Packet {
        destination: if six { text6 } else { text }.parse().expect("an address"),
        ..base.clone()
    };
    let mut all = vec![
        base.clone(),
        from("198.19.1.2", "2001:db8:f0::2"),
        from("198.19.2.1", "2001:db8:f0::1:0"),
        from("198.19.2.2", "2001:db8:f0::1:1"),
        to("198.18.8.8", "2001:db8:100::8"),
        base.clone().body(Body::Udp(4001, 10)),
        base.clone().body(Body::Udp(9, 13)),
        base.clone().body(Body::Udp(4002, 21)),
        base.clone().body(Body::Tcp(80, 443)),
        base.clone().body(Body::Tcp(443, 80)),
        base.clone().body(Body::Tcp(9, 442)),
        base.clone().body(Body::Sctp(5, 9)),
        from("198.19.1.2", "2001:db8:f0::2").body(Body::Sctp(9, 9)),
        base.clone().body(Body::Sctp(9, 10)),
        base.clone().body(Body::UdpLite(80, 9)),
        base.clone().body(Body::UdpLite(9, 9)),
        base.clone().body(Body::Esp(9)),
        base.clone().body(Body::Other(47)),
        base.clone().body(Body::Icmp(echo, 0)),
        base.clone().body(Body::Icmp(echo, 1)),
        base.clone().body(Body::Icmp(200, 7)),
        base.clone().body(Body::Icmp(255, 0)),
        base.clone().body(Body::IcmpError(if six { 1 } else { 3 }, 4, base.source)),
        base.clone().ttl(63),
        base.clone().ttl(65),
        base.clone().ttl(2),
        base.clone().fill(40),
        base.clone().fill(100),
        base.clone().fill(1200),
    ];
    all.extend([0x10, 0x50, 0xb8, 0x03, 0x02, 0x11, 0xff].map(|tos| base.clone().tos(tos)));
    all
}
