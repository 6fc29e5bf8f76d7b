//! Docker: two bridges, p2 and p3, that do not see each other; published ports; the operator's own chain before all.

use shunt_tests::twin::{Packet, behind4, net4};

use super::{BACK_ENDS, TARGET, answer, four, iptables, stateful, stateless, syn, tcp, udp};

fn rules(with_connections: bool) -> String {
    let established = |bridge: &str| {
        if with_connections {
            format!("-A FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n")
        } else {
            String::new()
        }
    };
    let bridge = |bridge: &str| {
        format!(
            "{}-A FORWARD -o {bridge} -j DOCKER\n-A FORWARD -i {bridge} ! -o {bridge} -j ACCEPT\n-A FORWARD -i {bridge} -o {bridge} -j ACCEPT\n",
            established(bridge)
        )
    };
    let nat = "*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 198.51.100.128/26 ! -o p2 -j MASQUERADE
-A DOCKER -i p2 -j RETURN
-A DOCKER ! -i p2 -p udp -m udp --dport 5353 -j DNAT --to-destination 198.51.100.138:53
COMMIT
";
    format!(
        "*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
{}{}-A DOCKER -d 198.51.100.138/32 ! -i p2 -o p2 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -d 198.51.100.138/32 ! -i p2 -o p2 -p udp -m udp --dport 53 -j ACCEPT
-A DOCKER -d 198.51.100.202/32 ! -i p3 -o p3 -p tcp -m tcp --dport 5432 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i p2 ! -o p2 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -i p3 ! -o p3 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o p2 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -o p3 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -i p0 -s 198.19.2.0/24 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
{}",
        bridge("p2"),
        bridge("p3"),
        if with_connections { nat } else { "" }
    )
}

fn to(destination: &str) -> Packet {
    Packet::udp(0, "198.19.1.1", destination)
}

fn of(port: usize, destination: &str) -> Packet {
    Packet::udp(port, &net4(port, 10), destination)
}

fn expected() -> Vec<(Packet, &'static str)> {
    vec![
        (syn(to("198.51.100.138"), 80), "p2"),
        (udp(to("198.51.100.138"), 53), "p2"),
        (syn(to("198.51.100.138"), 81), "-"),
        (syn(to("198.51.100.139"), 80), "-"),
        (syn(to("198.51.100.202"), 5432), "p3"),
        (syn(Packet::udp(0, "198.19.2.9", "198.51.100.138"), 80), "-"),
        (syn(of(2, "198.51.100.202"), 5432), "-"),
        (syn(of(3, "198.51.100.138"), 80), "-"),
        (syn(of(3, TARGET), 443), "p1"),
        (udp(of(3, &behind4(0, 7)), 9), "p0"),
        (udp(four(), 53), "-"),
    ]
}

#[test]
fn privileged_bridges_and_published_ports_without_connections() {
    for back_end in BACK_ENDS {
        let mut rows = super::rows(back_end);
        rows.set(&[iptables(back_end, &rules(false))]);
        stateless(&mut rows, &expected());
        stateless(
            &mut rows,
            &[
                (udp(of(2, TARGET), 53), "p1"),
                (tcp(of(2, &behind4(0, 8)), 9), "p0"),
                (answer(&syn(of(3, TARGET), 443), 1), "-"),
            ],
        );
    }
}

#[test]
fn privileged_bridges_and_published_ports_with_connections() {
    let mut rows = super::rows("");
    rows.set(&[iptables("nft", &rules(true))]);
    stateful(&mut rows, &expected());
    stateful(
        &mut rows,
        &[
            (answer(&syn(of(3, TARGET), 443), 1), "p3"),
            (answer(&syn(to("198.51.100.138"), 80), 2), "p0"),
            (syn(Packet::udp(1, TARGET, "198.51.100.202"), 22), "-"),
        ],
    );
    // Out under the router's address, and in by a published port of it.
    let outcomes = rows.outcomes(&[udp(of(2, TARGET), 53), udp(Packet::udp(0, "198.19.1.2", "198.51.100.1"), 5353)]);
    let [(1, masqueraded)] = &outcomes[0][..] else { panic!("{outcomes:02x?}") };
    assert_eq!(masqueraded[26..30], [198, 51, 100, 65]);
    let [(2, translated)] = &outcomes[1][..] else { panic!("{outcomes:02x?}") };
    assert_eq!(translated[30..34], [198, 51, 100, 138]);
}
