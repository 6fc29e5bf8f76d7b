//! Policies for ICMP: types that a network needs pass, others do not (RFC 4890 for IPv6).

use shunt_tests::twin::{Body, Command, Packet};

use super::{BACK_ENDS, four, ip6tables, iptables, nft, six, stateless, udp};

fn four_of(kind: u8, code: u8) -> Packet {
    four().body(Body::Icmp(kind, code))
}

fn six_of(kind: u8, code: u8) -> Packet {
    six().body(Body::Icmp(kind, code))
}

/// An error about a packet that came from `to`.
fn error(packet: Packet, kind: u8, code: u8) -> Packet {
    let to = packet.source;
    packet.body(Body::IcmpError(kind, code, to))
}

fn expected() -> Vec<(Packet, &'static str)> {
    vec![
        (four_of(8, 0), "p1"),
        (four_of(0, 0), "p1"),
        (error(four(), 3, 4), "p1"),
        (error(four(), 3, 1), "-"),
        (error(four(), 11, 0), "p1"),
        (error(four(), 12, 0), "p1"),
        (error(four(), 4, 0), "-"),
        (four_of(13, 0), "-"),
        (four_of(17, 0), "-"),
        (four_of(8, 7), "-"),
        (six_of(128, 0), "p1"),
        (six_of(129, 0), "p1"),
        (error(six(), 1, 0), "p1"),
        (error(six(), 2, 0), "p1"),
        (error(six(), 3, 0), "p1"),
        (error(six(), 3, 1), "-"),
        (error(six(), 4, 1), "p1"),
        (error(six(), 4, 0), "-"),
        (six_of(139, 0), "-"),
        (six_of(200, 0), "-"),
        (udp(four(), 9), "p1"),
        (udp(six(), 9), "p1"),
    ]
}

#[test]
fn privileged_iptables_lets_pass_what_a_network_needs() {
    let rules = |family: &str, types: &[&str]| {
        let (protocol, module, option) = match family {
            "4" => ("icmp", "icmp", "--icmp-type"),
            _ => ("ipv6-icmp", "icmp6", "--icmpv6-type"),
        };
        let types: String =
            types.iter().map(|kind| format!("-A ICMP -p {protocol} -m {module} {option} {kind} -j RETURN\n")).collect();
        format!("*filter\n:ICMP - [0:0]\n-A FORWARD -p {protocol} -j ICMP\n{types}-A ICMP -j DROP\nCOMMIT")
    };
    for back_end in BACK_ENDS {
        let mut rows = super::rows(back_end);
        rows.set(&[
            iptables(back_end, &rules("4", &["8/0", "0", "fragmentation-needed", "time-exceeded", "12"])),
            ip6tables(back_end, &rules("6", &["128", "129", "1", "packet-too-big", "3/0", "4/1"])),
        ]);
        stateless(&mut rows, &expected());
    }
}

#[test]
fn privileged_nftables_lets_pass_what_a_network_needs() {
    let mut rows = super::rows("");
    rows.set(&[nft("table inet pings {
        chain forward { type filter hook forward priority filter; policy accept;
            meta l4proto vmap { icmp : jump four, ipv6-icmp : jump six }
        }
        chain four {
            icmp type { echo-reply, time-exceeded, parameter-problem } accept
            icmp type . icmp code { echo-request . 0, destination-unreachable . frag-needed } accept
            drop
        }
        chain six {
            icmpv6 type { echo-request, echo-reply, destination-unreachable, packet-too-big } accept
            icmpv6 type time-exceeded icmpv6 code 0 accept
            icmpv6 type parameter-problem icmpv6 code 1 accept
            drop
        }
    }")]);
    stateless(&mut rows, &expected());
}

/// Refused with an answer, and echo requests marked to go another way.
#[test]
fn privileged_echo_goes_its_own_way_and_timestamps_are_refused() {
    let mut rows = super::rows("");
    rows.set(&[
        Command::ip4("rule add priority 100 fwmark 0x8 lookup 100"),
        Command::ip6("rule add priority 100 fwmark 0x8 lookup 100"),
        iptables(
            "nft",
            "*mangle\n-A PREROUTING -i p0 -p icmp -m icmp --icmp-type 8 -j MARK --set-mark 8\nCOMMIT
*filter\n-A FORWARD -p icmp -m icmp ! --icmp-type 8 -j REJECT --reject-with icmp-host-prohibited\nCOMMIT",
        ),
        ip6tables(
            "nft",
            "*mangle\n-A PREROUTING -i p0 -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j MARK --set-mark 8\nCOMMIT
*filter\n-A FORWARD -p ipv6-icmp -m icmp6 ! --icmpv6-type 128 -j REJECT --reject-with icmp6-adm-prohibited\nCOMMIT",
        ),
    ]);
    stateless(
        &mut rows,
        &[
            (four_of(8, 0), "p2"),
            (four_of(13, 0), "p0:3/10"),
            // No error about an error.
            (error(four(), 3, 1), "-"),
            (six_of(128, 0), "p2"),
            (six_of(139, 0), "p0:1/1"),
            (error(six(), 1, 0), "-"),
        ],
    );
}
