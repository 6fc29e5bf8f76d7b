//! OpenWrt's mwan3: several ways to the Internet, chosen by marks under the mask 0x3f00, and what is connected is left alone.

use shunt_tests::twin::{Body, Command, Packet, Rows, behind4};

use super::{BACK_ENDS, TARGET, answer, four, iptables, nft, stateful, stateless, syn, tcp, udp};

/// `wan` is p2 with the mark 0x100, `wanb` p3 with 0x200.
fn rules(with_connections: bool) -> String {
    let (restore, save) = if with_connections {
        (
            "-A mwan3_hook -m mark --mark 0x0/0x3f00 -j CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00\n",
            "-A mwan3_hook -j CONNMARK --save-mark --nfmask 0x3f00 --ctmask 0x3f00\n",
        )
    } else {
        ("", "")
    };
    format!(
        "*mangle
:mwan3_connected - [0:0]
:mwan3_hook - [0:0]
:mwan3_iface_in_wan - [0:0]
:mwan3_iface_in_wanb - [0:0]
:mwan3_ifaces_in - [0:0]
:mwan3_policy_wan_only - [0:0]
:mwan3_policy_wanb_only - [0:0]
:mwan3_rule_https - [0:0]
:mwan3_rules - [0:0]
-A PREROUTING -p udp -m udp --sport 5001 -j MARK --set-xmark 0x1/0xffffffff
-A PREROUTING -m multiport -p tcp --sports 5003 -j MARK --set-xmark 0x100/0xffffffff
-A PREROUTING -j mwan3_hook
-A mwan3_connected -m set --match-set mwan3_connected_v4 dst -j MARK --set-xmark 0x3f00/0x3f00
{restore}-A mwan3_hook -m mark --mark 0x0/0x3f00 -j mwan3_ifaces_in
-A mwan3_hook -m mark --mark 0x0/0x3f00 -j mwan3_connected
-A mwan3_hook -m mark --mark 0x0/0x3f00 -j mwan3_rules
{save}-A mwan3_hook -m mark ! --mark 0x3f00/0x3f00 -j mwan3_connected
-A mwan3_iface_in_wan -i p2 -m set --match-set mwan3_connected_v4 src -m mark --mark 0x0/0x3f00 -m comment --comment default -j MARK --set-xmark 0x3f00/0x3f00
-A mwan3_iface_in_wan -i p2 -m mark --mark 0x0/0x3f00 -m comment --comment wan -j MARK --set-xmark 0x100/0x3f00
-A mwan3_iface_in_wanb -i p3 -m set --match-set mwan3_connected_v4 src -m mark --mark 0x0/0x3f00 -m comment --comment default -j MARK --set-xmark 0x3f00/0x3f00
-A mwan3_iface_in_wanb -i p3 -m mark --mark 0x0/0x3f00 -m comment --comment wanb -j MARK --set-xmark 0x200/0x3f00
-A mwan3_ifaces_in -m mark --mark 0x0/0x3f00 -j mwan3_iface_in_wan
-A mwan3_ifaces_in -m mark --mark 0x0/0x3f00 -j mwan3_iface_in_wanb
-A mwan3_policy_wan_only -m mark --mark 0x0/0x3f00 -m comment --comment \"wan 3 3\" -j MARK --set-xmark 0x100/0x3f00
-A mwan3_policy_wanb_only -m mark --mark 0x0/0x3f00 -m comment --comment \"wanb 2 2\" -j MARK --set-xmark 0x200/0x3f00
-A mwan3_rule_https -m set --match-set mwan3_banks dst,dst -j mwan3_policy_wan_only
-A mwan3_rule_https -m mark --mark 0x0/0x3f00 -j mwan3_policy_wanb_only
-A mwan3_rules -p tcp -m multiport --sports 0:65535 -m multiport --dports 443 -m mark --mark 0x0/0x3f00 -m comment --comment https -j mwan3_rule_https
-A mwan3_rules -s 198.19.2.0/24 -p udp -m mark --mark 0x0/0x3f00 -m comment --comment voice -j mwan3_policy_wanb_only
-A mwan3_rules -d 198.18.9.0/24 -m mark --mark 0x0/0x3f00 -m comment --comment unreachable -j MARK --set-xmark 0x3e00/0x3f00
-A mwan3_rules -p icmp -m mark --mark 0x0/0x3f00 -m comment --comment default -j MARK --set-xmark 0x3f00/0x3f00
-A mwan3_rules -m mark --mark 0x0/0x3f00 -m comment --comment default_rule -j mwan3_policy_wan_only
COMMIT"
    )
}

/// Sets first: rules name them.
fn set_up(rows: &mut Rows, with_connections: bool, back_end: &str) {
    rows.set(&[Command::shell(
        "ipset create mwan3_connected_v4 hash:net family inet
        ipset add mwan3_connected_v4 198.51.100.0/24
        ipset add mwan3_connected_v4 203.0.113.0/24
        ipset add mwan3_connected_v4 198.19.0.0/16
        ipset add mwan3_connected_v4 198.18.128.0/17
        ipset add mwan3_connected_v4 198.18.129.0/24 nomatch
        ipset create mwan3_banks hash:ip,port family inet
        ipset add mwan3_banks 198.18.7.9,tcp:443",
    )]);
    rows.set(&[iptables(back_end, &rules(with_connections))]);
    for (priority, rule) in [
        (1001, "iif p2 lookup 254"),
        (1002, "iif p3 lookup 254"),
        (2001, "fwmark 0x100/0x3f00 lookup 100"),
        (2002, "fwmark 0x200/0x3f00 lookup 101"),
        (2061, "fwmark 0x3d00/0x3f00 blackhole"),
        (2062, "fwmark 0x3e00/0x3f00 unreachable"),
    ] {
        rows.set(&[Command::ip4(format!("rule add priority {priority} {rule}"))]);
    }
}

fn to(destination: &str) -> Packet {
    Packet::udp(0, "198.19.1.1", destination)
}

#[test]
fn privileged_policies_and_connected_networks_without_connection_marks() {
    for back_end in BACK_ENDS {
        let mut rows = super::rows(back_end);
        set_up(&mut rows, false, back_end);
        stateless(
            &mut rows,
            &[
                (four(), "p2"),
                (tcp(four(), 443), "p2"),
                (tcp(to("198.18.7.8"), 443), "p3"),
                (tcp(to("198.18.7.8"), 80), "p2"),
                (Packet::udp(0, "198.19.2.7", TARGET), "p3"),
                (tcp(Packet::udp(0, "198.19.2.7", TARGET), 22), "p2"),
                // Connected, but for a part.
                (to("198.18.130.1"), "p1"),
                (to("198.18.129.1"), "p2"),
                (to(&behind4(1, 5)), "p1"),
                (to("198.18.9.1"), "p0:3/0"),
                (four().body(Body::Icmp(8, 0)), "p1"),
                // From outside.
                (Packet::udp(2, "198.18.3.3", &behind4(0, 9)), "p0"),
                (Packet::udp(3, "198.18.3.3", &behind4(0, 9)), "p0"),
            ],
        );
        // Marked before under another part of the mask, and under this one.
        stateless(
            &mut rows,
            &[(four().body(Body::Udp(5001, 9)), "p2"), (tcp(to("198.18.7.8"), 443).body(Body::Tcp(5003, 443)), "p2")],
        );
    }
}

/// A connection keeps the way by which it came in.
#[test]
fn privileged_connection_marks_keep_a_connection_on_its_way() {
    let mut rows = super::rows("");
    set_up(&mut rows, true, "nft");
    let asked = |port: usize, source: &str| udp(Packet::udp(port, source, &behind4(0, 77)), 53);
    let (by_wan, by_wanb) = (asked(2, "198.18.3.3"), asked(3, "198.18.4.4"));
    stateful(&mut rows, &[(by_wan.clone(), "p0"), (by_wanb.clone(), "p0")]);
    let out = syn(to("198.18.7.8"), 443);
    stateful(
        &mut rows,
        &[(answer(&by_wan, 0), "p2"), (answer(&by_wanb, 0), "p3"), (four(), "p2"), (out.clone(), "p3")],
    );
    stateful(&mut rows, &[(answer(&out, 3), "p0"), (tcp(to("198.18.7.8"), 443), "p3"), (to("198.18.130.1"), "p1")]);
}

/// Its successors write nftables, with sets of their own.
#[test]
fn privileged_the_same_policies_in_nftables() {
    let mut rows = super::rows("");
    for (priority, rule) in [(2001, "fwmark 0x100/0x3f00 lookup 100"), (2002, "fwmark 0x200/0x3f00 lookup 101")] {
        rows.set(&[Command::ip4(format!("rule add priority {priority} {rule}"))]);
    }
    rows.set(&[nft("table inet mwan {
        set connected4 { type ipv4_addr; flags interval; auto-merge
            elements = { 198.51.100.0/24, 203.0.113.0/24, 198.19.0.0-198.19.255.255, 198.18.130.0/24 } }
        map policies { type ipv4_addr . inet_service : verdict; flags interval
            elements = { 198.18.7.8 . 443 : goto wanb_only, 198.18.7.0-198.18.7.255 . 0-442 : goto wan_only } }
        chain prerouting { type filter hook prerouting priority mangle + 1; policy accept;
            meta mark & 0x3f00 == 0 jump rules
        }
        chain rules {
            ip daddr @connected4 meta mark set meta mark | 0x3f00 return
            ip daddr . tcp dport vmap @policies
            iifname \"p0\" ip saddr 198.19.2.0/24 meta l4proto udp goto wanb_only
            ip saddr != 198.19.0.0/16 return
            jump wan_only
        }
        chain wan_only { meta mark & 0x3f00 == 0 meta mark set meta mark & 0xffffc0ff | 0x100; }
        chain wanb_only { meta mark & 0x3f00 == 0 meta mark set meta mark & 0xffffc0ff | 0x200; }
    }")]);
    stateless(
        &mut rows,
        &[
            (four(), "p2"),
            (tcp(to("198.18.7.8"), 443), "p3"),
            (tcp(to("198.18.7.8"), 80), "p2"),
            (Packet::udp(0, "198.19.2.7", TARGET), "p3"),
            (tcp(Packet::udp(0, "198.19.2.7", TARGET), 22), "p2"),
            (to("198.18.130.1"), "p1"),
            (Packet::udp(0, "192.0.2.9", TARGET), "p1"),
        ],
    );
}
