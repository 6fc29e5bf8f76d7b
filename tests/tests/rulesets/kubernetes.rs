//! kube-proxy's chain of FORWARD, and a network plugin's behind it. 198.19.0.0/18 are pods of this node, p3 leads to other nodes.

use shunt_tests::twin::{Packet, behind4};

use super::{BACK_ENDS, TARGET, answer, four, iptables, stateful, stateless, syn, udp};

fn rules(with_connections: bool) -> String {
    let (invalid, established, marks) = if with_connections {
        (
            "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n",
            "-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
            "*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-DNS - [0:0]
:KUBE-SEP-DNS - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-SERVICES -d 203.0.114.10/32 -p udp -m comment --comment \"kube-system/kube-dns:dns cluster IP\" -m udp --dport 53 -j KUBE-SVC-DNS
-A KUBE-SVC-DNS ! -s 198.19.0.0/16 -d 203.0.114.10/32 -p udp -m udp --dport 53 -j KUBE-MARK-MASQ
-A KUBE-SVC-DNS -m comment --comment \"kube-system/kube-dns:dns -> 198.19.192.10:53\" -j KUBE-SEP-DNS
-A KUBE-SEP-DNS -p udp -m udp -j DNAT --to-destination 198.19.192.10:53
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
COMMIT",
        )
    } else {
        ("", "", "*mangle\n-A PREROUTING -i p1 -p tcp -m tcp --dport 80 -j MARK --or-mark 0x4000\nCOMMIT")
    };
    format!(
        "*filter
:FORWARD DROP [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD
{invalid}-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
{established}-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A FLANNEL-FWD -s 198.19.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT
-A FLANNEL-FWD -d 198.19.192.0/18 -m comment --comment \"flanneld forward\" -j ACCEPT
COMMIT
{marks}"
    )
}

fn expected() -> Vec<(Packet, &'static str)> {
    vec![
        (udp(four(), 9), "p1"),
        (syn(four(), 80), "p1"),
        (udp(Packet::udp(0, "198.19.1.1", &behind4(3, 10)), 8080), "p3"),
        (udp(Packet::udp(1, TARGET, &behind4(3, 10)), 8080), "p3"),
        (udp(Packet::udp(1, TARGET, &behind4(0, 10)), 8080), "-"),
        (syn(Packet::udp(1, TARGET, &behind4(0, 10)), 22), "-"),
    ]
}

#[test]
fn privileged_marked_packets_and_pods_without_connections() {
    for back_end in BACK_ENDS {
        let mut rows = super::rows(back_end);
        rows.set(&[iptables(back_end, &rules(false))]);
        stateless(&mut rows, &expected());
        let from_outside = |port: u16| syn(Packet::udp(1, TARGET, &behind4(0, 10)), port);
        stateless(&mut rows, &[(from_outside(80), "p0"), (from_outside(81), "-"), (answer(&udp(four(), 9), 1), "-")]);
    }
}

#[test]
fn privileged_services_and_pods_with_connections() {
    let mut rows = super::rows("");
    rows.set(&[iptables("nft", &rules(true))]);
    stateful(&mut rows, &expected());
    let service = udp(Packet::udp(0, "198.19.1.1", "203.0.114.10"), 53);
    let outcomes = rows.outcomes(&[service]);
    let [(3, translated)] = &outcomes[0][..] else { panic!("{outcomes:02x?}") };
    assert_eq!(translated[30..34], [198, 19, 192, 10]);
    // The pod's answer comes from the service's address again.
    let outcomes = rows
        .outcomes(&[answer(&udp(Packet::udp(0, "198.19.1.1", "198.19.192.10"), 53), 3), answer(&udp(four(), 9), 1)]);
    let [(0, translated)] = &outcomes[0][..] else { panic!("{outcomes:02x?}") };
    assert_eq!(translated[26..30], [203, 0, 114, 10]);
    assert_eq!(outcomes[1].len(), 1, "an answer is let in");
}
