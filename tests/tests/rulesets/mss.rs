//! MSS clamping for a PPPoE link: p1 carries 1492 bytes.

use shunt_tests::twin::{Command, Packet, Rows, behind4};

use super::{BACK_ENDS, TARGET, four, ip6tables, iptables, nft, six, stateless, syn, tcp};

const CLAMP: &str = "*mangle
-A FORWARD -o p1 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -i p1 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -o p2 -p tcp -m tcp --tcp-flags SYN,RST SYN -m tcpmss --mss 1400:65495 -j TCPMSS --set-mss 1400
COMMIT";

fn link(rows: &mut Rows) {
    rows.set(&[
        Command::ip("link set p1 mtu 1492"),
        Command::ip4("rule add priority 100 to 198.18.8.0/24 lookup 100"),
        Command::ip6("rule add priority 100 to 2001:db8:100:8::/64 lookup 100"),
        Command::ip4("route add 198.18.6.0/24 via 198.51.100.74 mtu 1300"),
        Command::ip6("route add 2001:db8:100:6::/64 via 2001:db8:1::a mtu 1300"),
    ]);
}

fn with(packet: Packet, mss: u16) -> Packet {
    packet.syn((4000, 80), mss)
}

fn back(source: &str, destination: &str) -> Packet {
    Packet { tcp_flags: 0x12, ..syn(Packet::udp(1, source, destination), 80) }
}

#[test]
fn privileged_iptables_clamps_to_the_smaller_of_both_ways() {
    for back_end in BACK_ENDS {
        let mut rows = super::rows(back_end);
        link(&mut rows);
        rows.set(&[iptables(back_end, CLAMP), ip6tables(back_end, CLAMP)]);
        let to = |destination: &str| Packet::udp(0, "198.19.1.1", destination);
        let to6 = |destination: &str| Packet::udp(0, "2001:db8:f0::1", destination);
        stateless(
            &mut rows,
            &[
                (with(four(), 1460), "p1 mss 1452"),
                (with(four(), 1452), "p1"),
                (with(four(), 536), "p1"),
                (tcp(four(), 80), "p1"),
                (
                    Packet { tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 2, 4, 5, 180], ..with(four(), 0) },
                    "p1 mss 1452",
                ),
                // An odd place in the sum's words.
                (Packet { tcp_options: vec![1, 2, 4, 5, 180, 3, 3, 7], ..with(four(), 0) }, "p1 mss 1452"),
                (with(to("198.18.6.1"), 1460), "p1 mss 1260"),
                (with(to("198.18.8.1"), 1460), "p2 mss 1400"),
                (with(to("198.18.8.1"), 1300), "p2"),
                (back(TARGET, &behind4(0, 5)), "p0 mss 1452"),
                (with(six(), 1440), "p1 mss 1432"),
                (with(six(), 1400), "p1"),
                (with(to6("2001:db8:100:6::1"), 1440), "p1 mss 1240"),
                (with(to6("2001:db8:100:8::1"), 1440), "p2 mss 1400"),
                (back(super::TARGET6, "2001:db8:f0::5"), "p0 mss 1432"),
            ],
        );
        // Without the option one is put in, and a broken one is left.
        let bare = Packet { tcp_options: Vec::new(), ..with(four(), 0) };
        let broken = Packet { tcp_options: vec![2, 3, 5, 0], ..with(four(), 0) };
        rows.outcomes(&[bare.clone(), broken, bare.fill(0)]);
    }
}

#[test]
fn privileged_nftables_sets_the_segment_size() {
    let mut rows = super::rows("");
    link(&mut rows);
    rows.set(&[nft("table inet clamp { chain forward { type filter hook forward priority mangle; policy accept;
        oifname \"p1\" tcp flags & (syn | rst) == syn counter tcp option maxseg size set rt mtu
        iifname \"p1\" tcp flags syn tcp option maxseg size set rt mtu
        oifname \"p2\" tcp flags & (syn | rst) == syn tcp option maxseg size > 1400 tcp option maxseg size set 1400
    }\n}")]);
    let bare = Packet { tcp_options: Vec::new(), ..with(four(), 0) };
    stateless(
        &mut rows,
        &[
            (with(four(), 1460), "p1 mss 1452"),
            (with(four(), 1452), "p1"),
            (with(four(), 536), "p1"),
            (bare, "p1"),
            (with(Packet::udp(0, "198.19.1.1", "198.18.6.1"), 1460), "p1 mss 1260"),
            (with(Packet::udp(0, "198.19.1.1", "198.18.8.1"), 1460), "p2 mss 1400"),
            (with(Packet::udp(0, "198.19.1.1", "198.18.8.1"), 1300), "p2"),
            // One of the named flags is enough.
            (back(TARGET, &behind4(0, 5)), "p0 mss 1452"),
            (with(Packet::udp(1, TARGET, &behind4(0, 5)), 1460), "p0 mss 1452"),
            (with(six(), 1440), "p1 mss 1432"),
        ],
    );
}
