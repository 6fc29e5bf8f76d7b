//! ufw: a policy of DROP, chains before, of and after the user, both families, both kinds of iptables.

use shunt_tests::twin::{Body, Packet};

use super::{BACK_ENDS, TARGET, TARGET6, answer, four, ip6tables, iptables, six, stateful, stateless, syn, udp};

fn rules(six: bool, with_connections: bool) -> String {
    let word = if six { "ufw6" } else { "ufw" };
    let (established, log) = if with_connections {
        (
            format!("-A {word}-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"),
            format!(
                "-A {word}-after-logging-forward -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix \"[UFW BLOCK] \"\n"
            ),
        )
    } else {
        (String::new(), String::new())
    };
    let icmp: String = if six {
        ["1", "2", "3", "4", "128"]
            .map(|kind| format!("-A {word}-before-forward -p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j ACCEPT\n"))
            .concat()
    } else {
        ["3", "11", "12", "8"]
            .map(|kind| format!("-A {word}-before-forward -p icmp -m icmp --icmp-type {kind} -j ACCEPT\n"))
            .concat()
    };
    let (server, blocked) = if six { (TARGET6, "2001:db8:f0:2::/64") } else { (TARGET, "198.19.2.0/24") };
    format!(
        "*filter
:FORWARD DROP [0:0]
:{word}-before-logging-forward - [0:0]
:{word}-before-forward - [0:0]
:{word}-user-forward - [0:0]
:{word}-after-forward - [0:0]
:{word}-after-logging-forward - [0:0]
:{word}-reject-forward - [0:0]
:{word}-track-forward - [0:0]
-A FORWARD -j {word}-before-logging-forward
-A FORWARD -j {word}-before-forward
-A FORWARD -j {word}-after-forward
-A FORWARD -j {word}-after-logging-forward
-A FORWARD -j {word}-reject-forward
-A FORWARD -j {word}-track-forward
{established}{icmp}-A {word}-before-forward -j {word}-user-forward
-A {word}-user-forward -s {blocked} -j DROP
-A {word}-user-forward -i p0 -o p1 -p tcp -m multiport --dports 80,443 -j ACCEPT
-A {word}-user-forward -d {server} -p udp -m udp --dport 53 -m comment --comment \"'dapp_DNS'\" -j ACCEPT
-A {word}-user-forward -i p0 -p tcp -m tcp --dport 25 -j REJECT --reject-with tcp-reset
-A {word}-user-forward -i p0 -p udp -m udp --dport 5000:5100 -j REJECT
{log}COMMIT"
    )
}

fn expected() -> Vec<(Packet, &'static str)> {
    vec![
        (syn(four(), 80), "p1"),
        (syn(six(), 443), "p1"),
        (syn(four(), 22), "-"),
        (syn(six(), 22), "-"),
        (udp(four(), 53), "p1"),
        (udp(six(), 53), "p1"),
        (udp(four(), 9), "-"),
        (udp(Packet::udp(0, "198.19.1.1", "198.18.7.8"), 53), "-"),
        (syn(four(), 25), "p0:rst"),
        (syn(six(), 25), "p0:rst"),
        (udp(four(), 5050), "p0:3/3"),
        (udp(six(), 5050), "p0:1/4"),
        (syn(Packet::udp(0, "198.19.2.4", TARGET), 80), "-"),
        (syn(Packet::udp(0, "2001:db8:f0:2::4", TARGET6), 80), "-"),
        (four().body(Body::Icmp(8, 0)), "p1"),
        (six().body(Body::Icmp(128, 0)), "p1"),
        (four().body(Body::Icmp(13, 0)), "-"),
        // Allowed before the user says no.
        (Packet::udp(0, "198.19.2.4", TARGET).body(Body::Icmp(8, 0)), "p1"),
    ]
}

#[test]
fn privileged_user_rules_between_the_fixed_ones_without_connections() {
    for back_end in BACK_ENDS {
        let mut rows = super::rows(back_end);
        rows.set(&[iptables(back_end, &rules(false, false)), ip6tables(back_end, &rules(true, false))]);
        stateless(&mut rows, &expected());
        stateless(&mut rows, &[(answer(&udp(four(), 53), 1), "-"), (answer(&udp(six(), 53), 1), "-")]);
    }
}

#[test]
fn privileged_user_rules_between_the_fixed_ones_with_connections() {
    let mut rows = super::rows("");
    rows.set(&[iptables("nft", &rules(false, true)), ip6tables("nft", &rules(true, true))]);
    stateful(&mut rows, &expected());
    let (unasked, unasked6) =
        (udp(Packet::udp(1, TARGET, "198.19.1.99"), 4000), udp(Packet::udp(1, TARGET6, "2001:db8:f0::99"), 4000));
    stateful(
        &mut rows,
        &[
            (answer(&udp(four(), 53), 1), "p0"),
            (answer(&udp(six(), 53), 1), "p0"),
            (answer(&syn(four(), 80), 1), "p0"),
            (answer(&four().body(Body::Icmp(8, 0)), 1), "p0"),
            (unasked, "-"),
            (unasked6, "-"),
        ],
    );
}
