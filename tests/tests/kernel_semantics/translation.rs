//! D13 to D16 and D27, which need address translation or connection marks: whatever those could touch is the kernel's, and the
//! order of things around it is right.

use shunt_tests::twin::{Body, Command, Packet, behind4};

use super::{Rows, TARGET, four, four_from, to};

#[test]
fn privileged_d13_rules_see_the_mark_of_before_and_the_address_of_after_translation() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::shell("iptables -t mangle -A PREROUTING -p udp --dport 9 -j MARK --set-mark 7"),
        Command::shell(
            "iptables -t nat -A PREROUTING -p udp -d 198.18.7.9 --dport 9 -j DNAT --to-destination 198.18.8.8:99",
        ),
        Command::ip4("rule add priority 50 fwmark 7 to 198.18.8.8 lookup 100"),
        Command::ip4("rule add priority 51 fwmark 7 to 198.18.7.9 lookup 101"),
    ]);
    let outcomes = rows.outcomes(&[four(), to("198.18.6.6")]);
    assert_eq!(outcomes.iter().map(|outcome| outcome[0].0).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(outcomes[0][0].1[30..34], [198, 18, 8, 8]);
}

#[test]
fn privileged_d14_replies_are_marked_by_the_address_on_the_wire() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::shell("iptables -t nat -A POSTROUTING -o p1 -j MASQUERADE"),
        Command::shell("iptables -t mangle -A PREROUTING -i p1 -d 198.51.100.65 -j MARK --set-mark 8"),
        Command::shell("iptables -t mangle -A PREROUTING -i p1 -d 198.19.0.0/18 -j MARK --set-mark 9"),
        Command::ip4("route add 198.19.0.0/18 via 198.51.100.138 table 108"),
        Command::ip4("route add 198.19.0.0/18 via 198.51.100.202 table 109"),
        Command::ip4("rule add priority 50 fwmark 8 lookup 108"),
        Command::ip4("rule add priority 51 fwmark 9 lookup 109"),
    ]);
    let out = rows.outcomes(&[four()]);
    assert_eq!((out[0][0].0, &out[0][0].1[26..30]), (1, &[198, 51, 100, 65][..]), "masqueraded");
    let reply = Packet::udp(1, TARGET, "198.51.100.65").body(Body::Udp(9, 4000));
    let back = rows.outcomes(&[reply]);
    assert_eq!(
        (back[0][0].0, &back[0][0].1[30..34]),
        (2, &[198, 19, 1, 1][..]),
        "by the way of the mark of its own address"
    );
}

#[test]
fn privileged_d15_a_mark_of_forward_or_postrouting_does_not_reroute() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::shell("iptables -t mangle -A FORWARD -p udp --dport 9 -j MARK --set-mark 7"),
        Command::shell("iptables -t mangle -A POSTROUTING -p udp --dport 10 -j MARK --set-mark 7"),
        Command::ip4("rule add priority 50 fwmark 7 lookup 100"),
    ]);
    let port = |port| four().body(Body::Udp(4000, port));
    rows.expect_by_anybody(&[(port(9), "p1"), (port(10), "p1"), (port(11), "p1")]);
}

/// A multi-WAN rule set in the manner of mwan3: new connections get a mark, replies of a connection leave by the link it came in.
#[test]
fn privileged_d16_connection_marks_are_saved_and_restored_under_masks() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::shell("iptables -t mangle -N hook"),
        Command::shell("iptables -t mangle -A PREROUTING -j hook"),
        Command::shell("iptables -t mangle -A hook -j CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00"),
        Command::shell("iptables -t mangle -A hook -m mark --mark 0/0x3f00 -i p2 -j MARK --set-xmark 0x200/0x3f00"),
        Command::shell("iptables -t mangle -A hook -m mark --mark 0/0x3f00 -i p3 -j MARK --or-mark 0x300"),
        Command::shell("iptables -t mangle -A hook -j CONNMARK --save-mark --nfmask 0x3f00 --ctmask 0x3f00"),
        Command::ip4("rule add priority 50 fwmark 0x200/0x3f00 iif p0 lookup 100"),
        Command::ip4("rule add priority 51 fwmark 0x300/0x3f00 iif p0 lookup 101"),
    ]);
    let inbound = |port: usize, source: &str| Packet::udp(port, source, &behind4(0, 5)).body(Body::Udp(777, 80));
    let reply = |target: &str| Packet::udp(0, &behind4(0, 5), target).body(Body::Udp(80, 777));
    rows.expect_by_anybody(&[(inbound(2, "198.18.2.2"), "p0"), (inbound(3, "198.18.3.3"), "p0")]);
    rows.expect_by_anybody(&[(reply("198.18.2.2"), "p2"), (reply("198.18.3.3"), "p3"), (reply("198.18.4.4"), "p1")]);
}

/// A traceroute through both kinds of translation: errors quote what their receiver has sent.
#[test]
fn privileged_d27_errors_about_translated_packets_quote_the_senders_view() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::shell("iptables -t nat -A POSTROUTING -o p1 -j SNAT --to-source 198.51.100.66"),
        Command::shell("iptables -t nat -A PREROUTING -p udp -d 198.18.9.9 -j DNAT --to-destination 198.18.8.8"),
        Command::ip("link set p1 mtu 1300"),
    ]);
    let large = |packet: Packet| Packet { dont_fragment: true, ..packet.fill(1350) };
    let outcomes = rows.outcomes(&[
        four_from(1).ttl(1),
        Packet { destination: "198.18.9.9".parse().expect("an address"), ..four_from(2) }.ttl(1),
        large(four_from(3)),
        large(Packet { destination: "198.18.9.9".parse().expect("an address"), ..four_from(4) }),
    ]);
    for (outcome, target) in outcomes.iter().zip([[198, 18, 7, 9], [198, 18, 9, 9], [198, 18, 7, 9], [198, 18, 9, 9]]) {
        let [(0, error)] = &outcome[..] else { panic!("{outcome:02x?}") };
        assert_eq!(error[14 + 20 + 8 + 16..][..4], target, "the quoted destination");
    }
}

/// The rule sees the first packet of a connection only; the translation is of all of them, and of errors that quote one.
#[test]
fn privileged_d37_all_of_a_translated_connection_is_translated() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::shell("iptables -t nat -A POSTROUTING -o p1 -p tcp --syn -j MASQUERADE"),
        Command::shell("iptables -t nat -A POSTROUTING -o p1 -p udp -j MASQUERADE"),
    ]);
    let segment = |flags: u8| Packet { tcp_flags: flags, ..four().body(Body::Tcp(4000, 80)) };
    let answer = Packet { tcp_flags: 0x12, ..Packet::udp(1, TARGET, "198.51.100.65").body(Body::Tcp(80, 4000)) };
    // What an inside host says of an answer that nobody there waits for: it quotes a packet from port 4000 to 9.
    let error = four().body(Body::IcmpError(3, 3, four().source));
    let by_masquerade = |rows: &mut Rows, packet: Packet| {
        let out = rows.outcomes(&[packet]);
        assert_eq!((out[0][0].0, &out[0][0].1[26..30]), (1, &[198, 51, 100, 65][..]), "masqueraded");
    };
    by_masquerade(&mut rows, segment(0x02));
    assert_eq!(rows.outcomes(&[answer])[0][0].0, 0);
    by_masquerade(&mut rows, segment(0x10));
    by_masquerade(&mut rows, four().body(Body::Udp(9, 4000)));
    by_masquerade(&mut rows, error);
}

/// nft hides what a match of iptables asks in a table that iptables does not understand any more.
#[test]
fn privileged_d39_a_hidden_question_for_the_connection_is_one() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::shell("iptables -P FORWARD DROP; iptables -A FORWARD -i p0 -j ACCEPT"),
        Command::shell("iptables -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT"),
        Command::shell("nft insert rule ip filter FORWARD fib saddr type broadcast drop"),
    ]);
    let request = four().body(Body::Udp(4000, 53));
    let answer = Packet::udp(1, TARGET, super::SOURCE).body(Body::Udp(53, 4000));
    rows.expect_by_anybody(&[(request, "p1")]);
    rows.expect_by_anybody(&[(answer.clone(), "p0"), (answer.body(Body::Udp(54, 4000)), "-")]);
}

/// The state of an ICMP error is that of the connection that it quotes, whatever the rule says of ICMP alone.
#[test]
fn privileged_d39_errors_about_connections_are_related() {
    let mut rows = Rows::new();
    rows.set(&[
        Command::shell("iptables -A FORWARD -p icmp -m conntrack --ctstate RELATED -j ACCEPT"),
        Command::shell("iptables -A FORWARD -p icmp -j DROP"),
    ]);
    let request = four().body(Body::Udp(4000, 9));
    // It quotes a packet from port 4000 of its receiver to port 9 of this address.
    let error = |quoted: &str| {
        Packet::udp(1, TARGET, super::SOURCE).body(Body::IcmpError(3, 3, quoted.parse().expect("an address")))
    };
    rows.expect_by_anybody(&[(request, "p1")]);
    rows.expect_by_anybody(&[(error(TARGET), "p0"), (error("198.18.7.10"), "-")]);
}
