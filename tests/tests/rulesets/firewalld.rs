//! firewalld: one table of family `inet`, zones by interface, policies between zones. p0 is `internal`, p1 `external`, p2 `dmz`.

use shunt_tests::twin::{Body, Packet, behind4, behind6};

use super::{TARGET, TARGET6, answer, four, nft, six, stateful, stateless, syn, tcp, udp};

fn rules(with_connections: bool) -> String {
    let (established, invalid, source) = if with_connections {
        (
            "ct state { established, related } accept
            ct status dnat accept",
            "ct state { invalid } drop",
            "meta nfproto ipv6 fib saddr . mark . iif oif missing drop",
        )
    } else {
        ("", "", "")
    };
    format!(
        "table inet firewalld {{
        set blocked {{ type ipv4_addr; flags interval; elements = {{ 198.19.2.0/24, 198.19.3.3 }} }}
        chain mangle_PREROUTING {{ type filter hook prerouting priority mangle + 10; policy accept; jump mangle_PREROUTING_ZONES; }}
        chain mangle_PREROUTING_ZONES {{
            iifname \"p0\" goto mangle_PRE_internal
            iifname \"p1\" goto mangle_PRE_external
            goto mangle_PRE_public
        }}
        chain mangle_PRE_internal {{ jump mangle_PRE_internal_allow; }}
        chain mangle_PRE_internal_allow {{ tcp dport 8443 counter meta mark set meta mark or 0x40; }}
        chain mangle_PRE_external {{ }}
        chain mangle_PRE_public {{ }}
        chain filter_PREROUTING {{ type filter hook prerouting priority filter + 10; policy accept;
            icmpv6 type {{ nd-router-advert, nd-neighbor-solicit }} accept
            {source}
        }}
        chain filter_FORWARD {{ type filter hook forward priority filter + 10; policy accept;
            {established}
            iifname \"lo\" accept
            ip6 daddr {{ ::/96, ::ffff:0.0.0.0/96, 2002::/24, 2002:a00::/24, 2001:db8:100:6::/64 }} reject with icmpv6 type addr-unreachable
            jump filter_FORWARD_POLICIES
            {invalid}
            reject with icmpx type admin-prohibited
        }}
        chain filter_FORWARD_POLICIES {{
            iifname \"p0\" oifname \"p0\" accept
            iifname . oifname vmap {{ \"p0\" . \"p1\" : jump filter_FWD_internal_external, \"p0\" . \"p2\" : jump filter_FWD_internal_dmz,
                \"p1\" . \"p2\" : jump filter_FWD_external_dmz, \"p2\" . \"p1\" : goto filter_FWD_dmz_external }}
        }}
        chain filter_FWD_internal_external {{
            jump filter_FWD_internal_external_deny
            jump filter_FWD_internal_external_allow
        }}
        chain filter_FWD_internal_external_deny {{
            ip saddr @blocked counter drop
            ether saddr 02:00:00:00:02:0e reject
        }}
        chain filter_FWD_internal_external_allow {{
            tcp dport {{ 80, 443, 8000-8999 }} accept
            udp dport vmap {{ 53 : accept, 9 : drop, 123 : accept }}
            icmp type echo-request accept
            icmpv6 type {{ echo-request, packet-too-big }} accept
            meta mark & 0x40 == 0x40 accept
        }}
        chain filter_FWD_internal_dmz {{ accept; }}
        chain filter_FWD_external_dmz {{
            ip daddr 198.51.100.138 tcp dport 80 accept
            ip6 daddr 2001:db8:2::a tcp dport 80 accept
        }}
        chain filter_FWD_dmz_external {{ tcp flags & (syn | ack) == syn drop; counter accept; }}
    }}"
    )
}

/// What both forms do with the first packets of a connection.
fn expected() -> Vec<(Packet, &'static str)> {
    let blocked = |source: &str| Packet::udp(0, source, TARGET);
    vec![
        (syn(four(), 80), "p1"),
        (syn(six(), 443), "p1"),
        (syn(four(), 8443), "p1"),
        (syn(four(), 25), "p0:3/13"),
        (syn(six(), 25), "p0:1/1"),
        (udp(four(), 53), "p1"),
        (udp(six(), 53), "p1"),
        (udp(four(), 9), "-"),
        (udp(six(), 9), "-"),
        (udp(four(), 54), "p0:3/13"),
        (four().body(Body::Icmp(8, 0)), "p1"),
        (six().body(Body::Icmp(128, 0)), "p1"),
        (four().body(Body::Icmp(13, 0)), "p0:3/13"),
        (syn(blocked("198.19.2.9"), 80), "-"),
        (syn(blocked("198.19.3.3"), 80), "-"),
        (syn(blocked("198.19.3.4"), 80), "p1"),
        (Packet { sender: 0x0e, ..syn(four(), 80) }, "p0:3/3"),
        (Packet { sender: 0x0e, ..syn(six(), 80) }, "p0:1/4"),
        (syn(Packet::udp(0, "2001:db8:f0::1", "2001:db8:100:6::9"), 80), "p0:1/3"),
        (udp(Packet::udp(0, "198.19.1.1", "198.51.100.138"), 777), "p2"),
        (syn(Packet::udp(1, TARGET, "198.51.100.138"), 80), "p2"),
        (syn(Packet::udp(1, TARGET, "198.51.100.139"), 80), "p1:3/13"),
        (syn(Packet::udp(1, TARGET6, "2001:db8:2::a"), 80), "p2"),
        (syn(Packet::udp(2, "198.51.100.138", TARGET), 80), "-"),
        (udp(Packet::udp(2, "198.51.100.138", TARGET), 9), "p1"),
        (udp(Packet::udp(3, &behind4(3, 1), TARGET), 53), "p3:3/13"),
    ]
}

#[test]
fn privileged_zones_and_policies_without_connections() {
    let mut rows = super::rows("");
    rows.set(&[nft(&rules(false))]);
    stateless(&mut rows, &expected());
    // Nobody knows of the request.
    stateless(&mut rows, &[(answer(&udp(four(), 53), 1), "p1:3/13"), (answer(&udp(six(), 53), 1), "p1:1/1")]);
}

#[test]
fn privileged_zones_and_policies_with_connections() {
    let mut rows = super::rows("");
    rows.set(&[nft(&rules(true))]);
    stateful(&mut rows, &expected());
    let unasked = |to: &str| udp(Packet::udp(1, if to.contains(':') { TARGET6 } else { TARGET }, to), 4000);
    stateful(
        &mut rows,
        &[
            (answer(&udp(four(), 53), 1), "p0"),
            (answer(&udp(six(), 53), 1), "p0"),
            (answer(&syn(four(), 80), 1), "p0"),
            (unasked(&behind4(0, 99)), "p1:3/13"),
            (unasked(&behind6(0, 99)), "p1:1/1"),
            // A segment of a connection whose beginning nobody saw.
            (tcp(Packet { tcp_flags: 0x18, ..Packet::udp(1, TARGET, "198.19.1.9") }, 7777), "p1:3/13"),
        ],
    );
}
