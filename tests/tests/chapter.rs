//! The "marking packets" chapter, by each kind of iptables and in both families. The network is that of [`TwoWays`].

use std::time::Duration;

use shunt_tests::lab::{Daemon, TwoWays};

struct Dialect {
    family: &'static str,
    iptables: &'static str,
    ip: &'static str,
    server: &'static str,
    gateway: &'static str,
    client: &'static str,
}

const V4: Dialect = Dialect {
    family: "ipv4",
    iptables: "iptables-nft",
    ip: "ip",
    server: TwoWays::SERVER,
    gateway: "203.0.113.10",
    client: "192.0.2.10",
};
const V6: Dialect = Dialect {
    family: "ipv6",
    iptables: "ip6tables-nft",
    ip: "ip -6",
    server: TwoWays::SERVER6,
    gateway: "2001:db8:3::10",
    client: "2001:db8:1::10",
};

const DIALECTS: [Dialect; 4] =
    [V4, V6, Dialect { iptables: "iptables-legacy", ..V4 }, Dialect { iptables: "ip6tables-legacy", ..V6 }];

impl Dialect {
    fn asked(&self, net: &TwoWays, port: u16) -> String {
        net.client.ask_tcp(self.server, port).unwrap_or_else(|error| panic!("{} port {port}: {error}", self.iptables))
    }

    /// What `explain` says of a mail from the client.
    fn mail(&self, shunt: &Daemon) -> String {
        let Dialect { client, server, .. } = self;
        shunt.explain_text(&format!("--iif eth0 --src {client} --dst {server} --proto tcp --sport 4000 --dport 25"))
    }
}

/// Marks mail, gives it a table with the slow link, and asks who answers: mail the slow one, all else the fast one.
fn mail_by_the_slow_link(dialect: &Dialect) {
    let Dialect { family, iptables, ip, server, gateway, client } = dialect;
    let net = TwoWays::new();
    net.router.run(&format!("{iptables} -A PREROUTING -i eth0 -t mangle -p tcp --dport 25 -j MARK --set-mark 1"));
    net.router.run("echo 201 mail.out >> /etc/iproute2/rt_tables");
    net.router.run(&format!("{ip} rule add fwmark 1 table mail.out"));
    net.router.run(&format!("{ip} route add default via {gateway} dev ppp0 table mail.out"));
    let shunt = net.router.start_shunt("");

    let kernel = net.router.kernel_forwarded();
    assert_eq!(dialect.asked(&net, 25), "slow");
    assert_eq!(dialect.asked(&net, 80), "fast");
    assert_eq!(net.router.kernel_forwarded(), kernel, "{iptables}: the kernel forwarded: {:#}", shunt.status());

    let told = dialect.mail(&shunt);
    for word in [
        "--dport 25",
        "mark 0x0 -> 0x1",
        "fwmark 0x1 lookup mail.out",
        "table mail.out: default via",
        &format!("kernel  via {gateway} dev ppp0 (same)"),
        "forward by ppp0",
    ] {
        assert!(told.contains(word), "{iptables}: {word:?} is not in\n{told}");
    }
    for text in ["--set-xmark 0x1/0xffffffff", "fwmark 0x1 lookup mail.out", "table mail.out: 1 "] {
        let items = shunt.checked(text);
        assert!(!items.is_empty(), "{iptables}: {text} is not in {:#?}", shunt.check());
        assert!(items.iter().all(|item| item["standing"] == "exact"), "{iptables}: {items:?}");
    }

    // First exception: a host that is to use the fast link for mail, too. The change is live.
    net.router.run(&format!("{iptables} -t mangle -I PREROUTING 1 -s {client} -j ACCEPT"));
    arrives(dialect, &net, 25, "fast");
    net.router.run(&format!("{iptables} -t mangle -D PREROUTING 1"));
    arrives(dialect, &net, 25, "slow");

    // Second exception: a rule of lower priority number that points to main.
    net.router.run(&format!("{ip} rule add priority 1000 to {server} table main"));
    arrives(dialect, &net, 25, "fast");
    net.router.run(&format!("{ip} rule del priority 1000"));
    arrives(dialect, &net, 25, "slow");

    // The same with a user chain, a multiport match, and marks set bit by bit.
    net.router.run(&format!("{iptables} -t mangle -F PREROUTING; {iptables} -t mangle -N MAIL"));
    net.router.run(&format!("{iptables} -t mangle -A PREROUTING -p tcp -m multiport --dports 25,465,587 -j MAIL"));
    net.router.run(&format!("{iptables} -t mangle -A MAIL -s {client} ! -i ppp0 -j MARK --or-mark 0x11"));
    net.router.run(&format!("{iptables} -t mangle -A MAIL -m mark --mark 0x10/0x10 -j MARK --and-mark 0xf"));
    arrives(dialect, &net, 25, "slow");
    net.router.run(&format!("{iptables} -t mangle -I MAIL 1 -j RETURN"));
    arrives(dialect, &net, 25, "fast");
    assert_eq!(net.router.kernel_forwarded(), kernel, "{iptables} {family}: {:#}", shunt.status());
    assert_eq!(shunt.terminate().code, 0);
}

/// Soon after the change; how soon is measured in another story.
fn arrives(dialect: &Dialect, net: &TwoWays, port: u16, by: &str) {
    let answered = shunt_tests::lab::eventually(Duration::from_secs(3), || {
        // A connection that a change cuts in two is reset by the second server.
        net.client.ask_tcp(dialect.server, port).is_ok_and(|answer| answer == by).then_some(())
    });
    assert!(answered.is_some(), "{}: port {port} is not answered by {by}", dialect.iptables);
}

#[test]
fn privileged_mail_leaves_by_the_slow_link_iptables_nft() {
    mail_by_the_slow_link(&DIALECTS[0]);
}

#[test]
fn privileged_mail_leaves_by_the_slow_link_ip6tables_nft() {
    mail_by_the_slow_link(&DIALECTS[1]);
}

#[test]
fn privileged_mail_leaves_by_the_slow_link_iptables_legacy() {
    mail_by_the_slow_link(&DIALECTS[2]);
}

#[test]
fn privileged_mail_leaves_by_the_slow_link_ip6tables_legacy() {
    mail_by_the_slow_link(&DIALECTS[3]);
}

/// `tos` rules compare three bits in IPv4 and six in IPv6: the workers and the kernel choose alike, whatever the byte.
#[test]
fn privileged_tos_rules_choose_as_the_kernel_does() {
    let net = TwoWays::new();
    net.router.run("ip rule add iif eth0 tos 0x10 table 201; ip route add default via 203.0.113.10 table 201");
    net.router.run("ip -6 rule add iif eth0 tos 0x10 table 201; ip -6 route add default via 2001:db8:3::10 table 201");
    // `ping -Q` sets the whole byte; the echo requests that a host receives tell by which way they came.
    let came = |tos: u8, server: &str| -> &'static str {
        let before = [net.fast.packets("eth0").0, net.slow.packets("eth0").0];
        net.client.run(&format!("ping -q -c3 -i0.02 -W1 -Q {tos} {server}"));
        let by_slow = net.slow.packets("eth0").0 - before[1];
        let by_fast = net.fast.packets("eth0").0 - before[0];
        if by_slow > by_fast { "slow" } else { "fast" }
    };
    let bytes = [0u8, 0x10, 0x11, 0x08, 0x18, 0xb0, 0x90, 0xfc];
    let all = || -> Vec<&'static str> {
        [TwoWays::SERVER, TwoWays::SERVER6].iter().flat_map(|server| bytes.map(|tos| came(tos, server))).collect()
    };
    let kernel = all();
    let shunt = net.router.start_shunt("");
    let before = net.router.kernel_forwarded();
    assert_eq!(all(), kernel);
    assert!(kernel.contains(&"slow") && kernel.contains(&"fast"), "the story tells nothing: {kernel:?}");
    assert_eq!(net.router.kernel_forwarded(), before, "the kernel forwarded: {:#}", shunt.status());
}
