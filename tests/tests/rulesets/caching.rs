//! Transparent web caching by mark: requests for port 80 go to the cache, which is a host behind p2, except its own.

use shunt_tests::twin::{Command, Packet, Rows, far_mac};

use super::{BACK_ENDS, TARGET, four, iptables, nft, six, stateless, syn, tcp, udp};

const CACHE: u8 = 12;

fn to_the_cache(rows: &mut Rows) {
    rows.set(&[
        Command::ip4("rule add priority 100 fwmark 3 lookup 102"),
        Command::ip4("route add default via 198.51.100.140 dev p2 table 102"),
        Command::ip6("rule add priority 100 fwmark 3 lookup 102"),
        Command::ip6("route add default via 2001:db8:2::c dev p2 table 102"),
    ]);
}

/// The packets of the rows arrive at the cache's MAC.
fn reach_the_cache(rows: &mut Rows, packets: &[Packet]) {
    for (packet, outcome) in packets.iter().zip(rows.outcomes(packets)) {
        let macs: Vec<_> = outcome.iter().map(|(port, frame)| (*port, &frame[..6])).collect();
        assert_eq!(macs, [(2, &far_mac(2, CACHE)[..])], "{packet}");
    }
}

fn from_the_cache() -> Packet {
    Packet { sender: CACHE, ..Packet::udp(2, "198.51.100.140", TARGET) }
}

#[test]
fn privileged_requests_go_to_the_cache_and_its_own_to_the_world() {
    for back_end in BACK_ENDS {
        let mut rows = super::rows(back_end);
        to_the_cache(&mut rows);
        rows.set(&[iptables(
            back_end,
            "*mangle
-A PREROUTING -s 198.51.100.140/32 -p tcp -m tcp --dport 80 -j ACCEPT
-A PREROUTING -i p0 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x3/0xffffffff
-A PREROUTING -i p1 -p tcp -m tcp --sport 80 -j MARK --set-xmark 0x3/0xffffffff
COMMIT",
        )]);
        stateless(
            &mut rows,
            &[
                (syn(four(), 80), "p2"),
                (tcp(four(), 80), "p2"),
                (tcp(four(), 443), "p1"),
                (udp(four(), 80), "p1"),
                (syn(from_the_cache(), 80), "p1"),
                (udp(from_the_cache(), 53), "p1"),
            ],
        );
        let from_the_world =
            tcp(Packet::udp(1, TARGET, "198.19.1.1"), 4000).body(shunt_tests::twin::Body::Tcp(80, 4000));
        reach_the_cache(&mut rows, &[syn(four(), 80), tcp(four(), 80), from_the_world]);
    }
}

/// The cache speaks in the clients' names: it is told by its MAC.
#[test]
fn privileged_a_cache_is_told_by_its_mac() {
    let mac = shunt_policy::Mac(far_mac(2, CACHE));
    let own = Packet { sender: CACHE, ..Packet::udp(2, "198.19.1.1", TARGET) };
    let expected = [(syn(four(), 80), "p2"), (syn(own, 80), "p1"), (udp(four(), 80), "p1")];
    let mut rows = super::rows("");
    to_the_cache(&mut rows);
    rows.set(&[iptables(
        "nft",
        &format!(
            "*mangle\n-A PREROUTING -p tcp -m tcp --dport 80 -m mac ! --mac-source {mac} -j MARK --set-mark 3\nCOMMIT"
        ),
    )]);
    stateless(&mut rows, &expected);
    rows.set(&[
        Command::shell("iptables-nft -t mangle -F PREROUTING"),
        nft(&format!(
            "table inet cache {{ chain prerouting {{ type filter hook prerouting priority mangle;
                tcp dport 80 ether saddr != {mac} meta mark set 3;
            }}; }}"
        )),
    ]);
    stateless(&mut rows, &expected);
    stateless(&mut rows, &[(syn(six(), 80), "p2"), (udp(six(), 80), "p1")]);
    reach_the_cache(&mut rows, &[syn(four(), 80), syn(six(), 80)]);
}
