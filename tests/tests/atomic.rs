//! A rule set is replaced as a whole, a thousand times under traffic, and each packet meets the old one or the new one. The network is
//! that of [`TwoWays`].
//!
//! Of the two sets, one marks packets with 1 and the other with 2, which leads them by `eth1` or by `ppp0`; behind routing each lets
//! pass only its own mark on its own way, and once more before the packet leaves. A packet that met a part of each would be lost.

use std::fmt::Write as _;
use std::time::Duration;

use shunt_tests::lab::{Stream, TwoWays};

const ROUNDS: u32 = 500;
/// Of so many packets one may be lost if it was the kernel's: it takes the rules of each hook as they are when a packet comes there, so
/// that a packet between two hooks at the moment of the change meets a mixture. Measured: one of 2,500.
const BY_THE_KERNEL: u64 = 1000;

struct Tool {
    /// Reads a rule set from a file that is named behind it.
    replace: &'static str,
    set: fn(mark: u32, egress: &str) -> String,
    /// What the loop waits for between two replacements.
    pause: &'static str,
}

/// Without a policy of drop: the kernel obeys that of a new chain before the transaction is complete.
fn nft(mark: u32, egress: &str) -> String {
    format!(
        "table inet swapped\ndelete table inet swapped\ntable inet swapped {{
            map marks {{ type ifname : mark; elements = {{ \"eth0\" : {mark} }}; }}
            chain prerouting {{ type filter hook prerouting priority mangle; meta mark set iifname map @marks; }}
            chain ways {{ oifname \"{egress}\" accept; drop; }}
            chain forward {{ type filter hook forward priority filter;
                iifname != \"eth0\" accept
                meta mark vmap {{ {mark} : goto ways }}
                drop
            }}
            chain postrouting {{ type filter hook postrouting priority mangle; iifname \"eth0\" meta mark != {mark} drop; }}
        }}\n"
    )
}

/// One table, since each is replaced by itself.
fn iptables(mark: u32, egress: &str) -> String {
    let mut text =
        "*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:WAYS - [0:0]\n"
            .to_owned();
    for rule in [
        &format!("PREROUTING -i eth0 -j MARK --set-mark {mark}"),
        &format!("FORWARD -i eth0 -m mark --mark {mark} -g WAYS"),
        "FORWARD -i eth0 -j DROP",
        &format!("WAYS -o {egress} -j RETURN"),
        "WAYS -j DROP",
        &format!("POSTROUTING -m mark --mark {:#x} -j DROP", 3 - mark),
    ] {
        let _ = writeln!(text, "-A {rule}");
    }
    text + "COMMIT\n"
}

fn is_replaced_whole(tool: &Tool) {
    let net = TwoWays::new();
    net.router.run("ip rule add fwmark 1 table 201; ip route add default via 198.51.100.10 table 201");
    net.router.run("ip rule add fwmark 2 table 202; ip route add default via 203.0.113.10 table 202");
    let Tool { replace, set, pause } = tool;
    for (name, text) in [("one", set(1, "eth1")), ("other", set(2, "ppp0"))] {
        net.router.run(&format!("cat > /run/swapped-{name} <<'END'\n{text}END"));
    }
    net.router.run(&format!("{replace} /run/swapped-one"));
    let shunt = net.router.start_shunt("");
    let (first, kernel) = (shunt.generation(), net.router.kernel_forwarded());
    let stream = Stream::start(&net.client, TwoWays::SERVER, 5000, Duration::from_millis(1));
    std::thread::sleep(Duration::from_millis(200));
    net.router.run(&format!(
        "for i in $(seq {ROUNDS}); do for set in other one; do {replace} /run/swapped-$set || exit 1; {pause}; done; done"
    ));
    std::thread::sleep(Duration::from_millis(200));
    let report = stream.finish();
    let (policies, by_kernel) = (shunt.generation() - first, net.router.kernel_forwarded() - kernel);
    println!("{replace}: {report:?}, {policies} policies, {by_kernel} forwarded by the kernel");
    let by = |who: &str| report.answers.get(who).copied().unwrap_or(0);
    assert!(by("fast") > 100 && by("slow") > 100, "the replacements did not show: {report:?}");
    assert_eq!(by("fast") + by("slow"), report.received, "somebody else answered: {report:?}");
    assert_eq!(report.duplicates, 0, "{report:?}");
    assert!(report.lost() <= by_kernel / BY_THE_KERNEL, "packets met a mixture: {report:?} {:#}", shunt.status());
}

#[test]
fn privileged_an_nftables_set_is_replaced_whole() {
    is_replaced_whole(&Tool { replace: "nft -f", set: nft, pause: "sleep 0.01" });
}

#[test]
fn privileged_an_iptables_nft_set_is_replaced_whole() {
    is_replaced_whole(&Tool { replace: "iptables-nft-restore", set: iptables, pause: "sleep 0.01" });
}

#[test]
fn privileged_an_iptables_legacy_set_is_replaced_whole() {
    is_replaced_whole(&Tool { replace: "iptables-legacy-restore -w 5", set: iptables, pause: "sleep 0.01" });
}
