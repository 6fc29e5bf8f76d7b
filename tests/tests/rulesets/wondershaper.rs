//! Wondershaper and its kin: interactive traffic is told by port, size and flags, gets a TOS, a class and a way of its own.

use shunt_tests::twin::{Body, Command, Packet};

use super::{BACK_ENDS, four, iptables, nft, six, stateful, stateless, syn, tcp, udp};

const MANGLE: &str = "*mangle
:INTERACTIVE - [0:0]
:ACK - [0:0]
:TOSFIX - [0:0]
-A PREROUTING -i p0 -p tcp -m tcp --dport 22 -j TOS --set-tos 0x10/0x3f
-A PREROUTING -i p0 -p tcp -m multiport --dports 20,80,443 -j TOS --set-tos 0x08/0x3f
-A PREROUTING -i p0 -p udp -m udp --dport 53 -j TOS --set-tos 0x10/0x3f
-A PREROUTING -i p0 -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j INTERACTIVE
-A PREROUTING -i p0 -p icmp -j INTERACTIVE
-A PREROUTING -i p0 -m tos --tos 0x10/0x3f -j INTERACTIVE
-A PREROUTING -i p0 -m mark --mark 0x0 -m tos --tos 0x08/0x3f -j MARK --set-xmark 0x20/0xffffffff
-A INTERACTIVE -j MARK --set-xmark 0x10/0xffffffff
-A INTERACTIVE -j RETURN
-A POSTROUTING -p tcp -m tcp --tcp-flags SYN,RST,ACK ACK -j ACK
-A POSTROUTING -p tcp -m tos --tos 0x10/0x3f -j TOSFIX
-A POSTROUTING -m mark --mark 0x10 -j CLASSIFY --set-class 0001:0010
-A POSTROUTING -m mark --mark 0x20 -j CLASSIFY --set-class 0001:0020
-A POSTROUTING -m dscp --dscp 0x2e -j CLASSIFY --set-class 0001:0005
-A ACK -m tos ! --tos 0x00/0x3f -j RETURN
-A ACK -p tcp -m length --length 0:128 -j TOS --set-tos 0x10/0x3f
-A ACK -p tcp -m length --length 129:65535 -j TOS --set-tos 0x08/0x3f
-A TOSFIX -p tcp -m length --length 0:512 -j RETURN
LIMIT
-A TOSFIX -j TOS --set-tos 0x08/0x3f
COMMIT";

fn ways() -> [Command; 4] {
    [
        Command::ip4("rule add priority 100 fwmark 0x10 lookup 100"),
        Command::ip4("rule add priority 101 fwmark 0x20 lookup 101"),
        Command::ip6("rule add priority 100 fwmark 0x10 lookup 100"),
        Command::ip6("rule add priority 101 fwmark 0x20 lookup 101"),
    ]
}

/// What the rules make of packets but for long interactive ones.
fn expected() -> Vec<(Packet, &'static str)> {
    vec![
        (tcp(four(), 22), "p2 tos 0x10"),
        (syn(four(), 22), "p2 tos 0x10"),
        (tcp(four(), 80), "p3 tos 0x08"),
        // Interactive by its flags, then bulk by its port: the mark is not taken back.
        (syn(four(), 80), "p2 tos 0x08"),
        (udp(four(), 53), "p2 tos 0x10"),
        (udp(four(), 53).tos(0xc3), "p2 tos 0xd0"),
        (udp(four(), 9), "p1"),
        (udp(four(), 9).tos(0x10), "p2"),
        (four().body(Body::Icmp(8, 0)), "p2"),
        (tcp(four(), 5000), "p1 tos 0x10"),
        (tcp(four(), 5000).fill(89), "p1 tos 0x08"),
        (tcp(four(), 5000).fill(88), "p1 tos 0x10"),
        (tcp(four(), 5000).tos(0xb8), "p1"),
        // Of another network: only what holds for all.
        (Packet { port: 3, ..tcp(Packet::udp(3, "198.19.193.1", super::TARGET), 22) }, "p1 tos 0x10"),
    ]
}

#[test]
fn privileged_interactive_packets_get_their_tos_and_way() {
    for back_end in BACK_ENDS {
        let mut rows = super::rows(back_end);
        rows.set(&ways());
        rows.set(&[iptables(back_end, &MANGLE.replace("LIMIT\n", ""))]);
        let long = (tcp(four(), 22).fill(600), "p2 tos 0x08");
        stateless(&mut rows, &[expected(), vec![long]].concat());
    }
}

/// As the original has it: a few long packets a second may keep their priority.
#[test]
fn privileged_a_limit_among_the_rules_is_the_kernels() {
    let mut rows = super::rows("");
    rows.set(&ways());
    let limit = "-A TOSFIX -m limit --limit 2/sec --limit-burst 1000 -j RETURN";
    rows.set(&[iptables("nft", &MANGLE.replace("LIMIT", limit))]);
    stateless(&mut rows, &expected());
    stateful(&mut rows, &[(tcp(four(), 22).fill(600), "p2 tos 0x10")]);
}

/// The same in nftables, for both families at once.
#[test]
fn privileged_nftables_maps_classes_to_ways() {
    let mut rows = super::rows("");
    rows.set(&ways());
    rows.set(&[nft("table inet shaper {
        map ports { type inet_proto . inet_service : mark; flags interval
            elements = { tcp . 22 : 0x10, udp . 53 : 0x10, tcp . 20-21 : 0x20, tcp . 80 : 0x20, tcp . 443 : 0x20 } }
        set voice { type dscp; elements = { ef, cs5 } }
        chain prerouting { type filter hook prerouting priority mangle; policy accept;
            iifname != \"p0\" return
            meta mark set meta l4proto . th dport map @ports counter
            meta l4proto { icmp, ipv6-icmp } meta mark set 0x10
            ip dscp @voice meta mark set 0x10
            ip6 dscp { ef, cs5 } meta mark set 0x10
            tcp flags & (fin | syn | rst | ack) == syn meta mark set meta mark and 0xffffff00 or 0x10
        }
        chain postrouting { type filter hook postrouting priority mangle; policy accept;
            meta mark vmap { 0x10 : jump interactive, 0x20 : jump bulk }
        }
        chain interactive { ip dscp set cs2; ip6 dscp set cs2; meta priority set 1:10
        }
        chain bulk { meta length < 129 return; ip dscp set cs1; ip6 dscp set cs1; meta priority set 1:20
        }
    }")]);
    stateless(
        &mut rows,
        &[
            (tcp(four(), 22), "p2 tos 0x40"),
            (tcp(six(), 22), "p2 tos 0x40"),
            (udp(six(), 53), "p2 tos 0x40"),
            (udp(six(), 53).tos(0x03), "p2 tos 0x43"),
            (tcp(four(), 80), "p3"),
            (tcp(six(), 443).fill(300), "p3 tos 0x20"),
            (tcp(four(), 21).fill(300), "p3 tos 0x20"),
            (syn(six(), 80), "p2 tos 0x40"),
            (udp(four(), 9), "p1"),
            (udp(six(), 9), "p1"),
            (udp(four(), 9).tos(0xb8), "p2 tos 0x40"),
            (udp(six(), 9).tos(0xa1), "p2 tos 0x41"),
            (six().body(Body::Icmp(128, 0)), "p2 tos 0x40"),
        ],
    );
}

/// nft (1.0.6) has the field of IPv6 shifted in the machine's byte order before it is looked up in a named set: nothing is found, whatever
/// the rule reads like.
#[test]
fn privileged_the_dscp_of_ipv6_is_in_no_named_set() {
    let mut rows = super::rows("");
    rows.set(&ways());
    rows.set(&[nft("table inet voice {
        set voice { type dscp; elements = { ef, cs5 }; }
        chain prerouting { type filter hook prerouting priority mangle; policy accept;
            ip dscp @voice meta mark set 0x10
            ip6 dscp @voice meta mark set 0x10
        }
    }")]);
    stateless(&mut rows, &[(udp(four(), 9).tos(0xb8), "p2"), (udp(four(), 9).tos(0xa1), "p2"), (udp(four(), 9), "p1")]);
    stateful(&mut rows, &[(udp(six(), 9).tos(0xb8), "p1"), (udp(six(), 9).tos(0xa1), "p1"), (udp(six(), 9), "p1")]);
}
