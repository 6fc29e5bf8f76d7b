//! Rule sets as they are found on real routers, each with packets and what becomes of them. Two routers get the same rules and the same
//! frames; what comes out is equal to the byte, and what the kernel makes of it is written down here.
//!
//! The network is that of the twin; see `tests/src/twin/base.rs` and `tests/src/twin/rows.rs`: packets of behind p0 (198.19.0.0/18 and
//! 2001:db8:f0::/48) go by p1 in the main table, by p2 in table 100, by p3 in 101.

mod caching;
mod docker;
mod firewalld;
mod icmp;
mod kubernetes;
mod mss;
mod mwan3;
mod ufw;
mod wondershaper;

use shunt_tests::twin::{Body, Command, Packet, Rows};

const TARGET: &str = "198.18.7.9";
const TARGET6: &str = "2001:db8:100::9";

/// Both kinds of iptables.
const BACK_ENDS: [&str; 2] = ["nft", "legacy"];

/// The operator loads one or more tables; what they do not name stays.
fn iptables(back_end: &str, text: &str) -> Command {
    restore("iptables", back_end, text)
}

fn ip6tables(back_end: &str, text: &str) -> Command {
    restore("ip6tables", back_end, text)
}

fn restore(tool: &str, back_end: &str, text: &str) -> Command {
    // The lock is one for both routers.
    let wait = if back_end == "legacy" { "-w 10 " } else { "" };
    Command::shell(format!("{tool}-{back_end}-restore {wait}--noflush <<'END'\n{text}\nEND\n"))
}

fn nft(text: &str) -> Command {
    Command::shell(format!("nft -f - <<'END'\n{text}\nEND\n"))
}

/// What becomes of packets under rules that do not ask connection tracking: the workers do it.
fn stateless(rows: &mut Rows, expected: &[(Packet, &str)]) {
    rows.expect(expected);
    checked(rows);
}

/// The same where the kernel has to be asked.
fn stateful(rows: &mut Rows, expected: &[(Packet, &str)]) {
    rows.expect_by_anybody(expected);
    checked(rows);
}

/// `shunt check` names each rule as the operator's tool does, with the handle that nft gives it, and says what becomes of it.
fn checked(rows: &Rows) {
    let router = rows.twin.shunt();
    let tools = ["iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save", "ip6tables-legacy-save"];
    let printed = tools.map(|tool| router.run(&format!("{tool} 2>/dev/null"))).join("\n");
    let listed = router.run("nft --stateless --handle list ruleset");
    let rules = rows.twin.daemon().check().into_iter().filter(|item| {
        let source = item["source"].as_str().unwrap_or_default();
        source.starts_with("iptables") || source == "nftables"
    });
    let mut count = 0;
    for item in rules {
        let text = item["text"].as_str().expect("a text");
        if text.ends_with("policy drop") {
            continue;
        }
        count += 1;
        match text.split_once(": ") {
            Some((_, rule)) if text.starts_with("table ") => {
                assert!(
                    rule.contains("# handle ") && listed.lines().any(|line| line.trim() == rule),
                    "{item}\n{listed}"
                );
            }
            _ => assert!(printed.lines().any(|line| line == text), "{item}\n{printed}"),
        }
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let expected = match item["reason"].as_str() {
            _ if has(&["-j REDIRECT", " redirect"]) => Some("local"),
            _ if has(&["-j REJECT", " reject"]) => Some("reject"),
            reason if has(&["limit", "-j LOG", " log ", "ip6 dscp @", " fib "]) => {
                reason.filter(|word| word.starts_with("opaque_"))
            }
            _ => None,
        };
        let standing = if expected.is_some() { "punted" } else { "exact" };
        assert_eq!((&item["standing"], &item["reason"]), (&standing.into(), &expected.into()), "{item}");
    }
    assert!(count > 0, "no rule is listed");
}

/// Without rules of the twin's own.
fn rows(name: &str) -> Rows {
    let mut rows = Rows::named(name);
    rows.set(&[Command::shell("nft flush ruleset")]);
    rows
}

/// From behind p0.
fn four() -> Packet {
    Packet::udp(0, "198.19.1.1", TARGET)
}

fn six() -> Packet {
    Packet::udp(0, "2001:db8:f0::1", TARGET6)
}

fn udp(packet: Packet, port: u16) -> Packet {
    packet.body(Body::Udp(4000, port))
}

/// A segment of an established connection.
fn tcp(packet: Packet, port: u16) -> Packet {
    packet.body(Body::Tcp(4000, port))
}

fn syn(packet: Packet, port: u16) -> Packet {
    packet.syn((4000, port), 1460)
}

/// The answer to a packet, as it arrives by a port of the router. A SYN is answered by SYN and ACK.
fn answer(packet: &Packet, port: usize) -> Packet {
    let (source, destination) = packet.ports();
    let body = match packet.body {
        Body::Tcp(..) => Body::Tcp(destination, source),
        Body::Icmp(8, 0) => Body::Icmp(0, 0),
        Body::Icmp(128, 0) => Body::Icmp(129, 0),
        _ => Body::Udp(destination, source),
    };
    let tcp_flags = if packet.tcp_flags == 0x02 { 0x12 } else { packet.tcp_flags };
    Packet { port, source: packet.destination, destination: packet.source, body, tcp_flags, ..packet.clone() }
}
