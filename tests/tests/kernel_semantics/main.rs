//! Where routers diverge from Linux, row by row: the catalogue's number stands in each test's name. Two routers get the same
//! configuration and the same frames; what comes out is equal to the byte, and what the kernel makes of it is written down here.
//!
//! The network is that of the twin; see `tests/src/twin/base.rs`. Behind p0 live 198.19.0.0/18 and 2001:db8:f0::/48, from where
//! most packets come.
//!
//! What the kernel (6.18) does otherwise than one might think, each found by these tests or by the random cases of the twin:
//!
//! - The first fragment has no ports for `ip rule` either: the early dissection does not ask for them (D12).
//! - Forwarding switched off on an interface is silence, not an ICMP error (D23).
//! - 240/4, 0/8 less 0.0.0.0, and the network address of a subnet are forwarded, as source and as destination (D21).
//! - An ICMPv6 redirect is sent only if the next hop is a link-local address (D28).
//! - Of IPv6 routes that are equal otherwise, one that leads back to where the packet came from is taken; a blackhole nexthop object
//!   goes before all others of its metric (`find_rr_leaf`).
//! - The flow label goes into the hash of policy 0 in another byte order for ICMPv6 when a rule asks for ports (D18).
//! - A next hop by an IPv6 gateway in an IPv4 route, added while the carrier is gone, is not passed over (D18).
//! - `net.ipv6.conf.all.ignore_routes_with_linkdown` is written into that of each interface, and asked no more (D18, D51).
//! - Without rules and local routes of the operator's, a source is the router's own if an interface has the address, whatever the
//!   local table says; otherwise the tables alone decide (D20).
//!
//! The packets go to 198.18.0.0/15 and 2001:db8:100::/40: by p1 in the main table, by p2 in table 100, by p3 in 101.

mod iptables;
mod multipath;
mod policy_routing;
mod translation;
mod validity;

use shunt_tests::twin::{Command, Outcome, Packet, Twin, in_short};

/// Sources behind p0.
const SOURCE: &str = "198.19.1.1";
const SOURCE6: &str = "2001:db8:f0::1";
const TARGET: &str = "198.18.7.9";
const TARGET6: &str = "2001:db8:100::9";

/// A twin with the three ways.
struct Rows {
    twin: Twin,
}

impl Rows {
    fn new() -> Self {
        let mut rows = Rows { twin: Twin::new() };
        for (table, port) in [(254, 1), (100, 2), (101, 3)] {
            rows.set(&[
                Command::ip4(format!("route add 198.18.0.0/15 via 198.51.100.{} table {table}", port * 64 + 10)),
                Command::ip6(format!("route add 2001:db8:100::/40 via 2001:db8:{port}::a table {table}")),
            ]);
        }
        rows
    }

    /// Configures both routers; the kernel must take everything.
    fn set(&mut self, commands: &[Command]) {
        assert_eq!(self.twin.apply(commands), "", "{commands:?}");
    }

    /// Sends the packets when the mirror has followed, and asserts that both routers did the same with each. Returns it in short.
    fn ways(&mut self, packets: &[Packet]) -> Vec<String> {
        let outcomes = self.outcomes(packets);
        packets.iter().zip(&outcomes).map(|(packet, outcome)| in_short(packet, outcome)).collect()
    }

    /// The same as frames.
    fn outcomes(&mut self, packets: &[Packet]) -> Vec<Outcome> {
        self.twin.settle();
        let mut outcomes = self.twin.exchange(packets);
        for (packet, outcomes) in packets.iter().zip(&mut outcomes).filter(|(_, outcomes)| outcomes.one_is_silent()) {
            // Lost in a queue of a busy machine, or not: who is silent for a reason is silent again.
            std::thread::sleep(std::time::Duration::from_secs(1));
            outcomes.clone_from(&self.twin.exchange(std::slice::from_ref(packet))[0]);
        }
        let mut same = Vec::new();
        for (packet, outcomes) in packets.iter().zip(outcomes) {
            if !outcomes.agree() {
                let (kernel, shunt) = (in_short(packet, &outcomes.kernel), in_short(packet, &outcomes.shunt));
                panic!("{packet}: kernel {kernel}, shunt {shunt}\n{outcomes:02x?}\n{:#}", self.twin.daemon().status());
            }
            same.push(outcomes.kernel);
        }
        same
    }

    /// Sends packets and asserts what becomes of them, that both routers agree, and that shunt's workers forward those which go
    /// on as they came.
    fn expect(&mut self, expected: &[(Packet, &str)]) {
        let before = self.twin.daemon().forwarded();
        self.expect_by_anybody(expected);
        let onward = expected.iter().filter(|(_, way)| way.len() == 2).count() as u64;
        let by_workers = self.twin.daemon().forwarded() - before;
        assert!(by_workers >= onward, "{by_workers} of {onward} by the workers: {:#}", self.twin.daemon().status());
    }

    /// The same where the kernel forwards.
    fn expect_by_anybody(&mut self, expected: &[(Packet, &str)]) {
        let packets: Vec<Packet> = expected.iter().map(|(packet, _)| packet.clone()).collect();
        let ways = self.ways(&packets);
        let said = |ways: &mut dyn Iterator<Item = String>| -> String {
            packets.iter().zip(ways).map(|(packet, way)| format!("{way}  {packet}\n")).collect()
        };
        let wanted = said(&mut expected.iter().map(|(_, way)| (*way).to_owned()));
        assert_eq!(said(&mut ways.into_iter()), wanted);
    }
}

/// From behind p0 to the target.
fn four() -> Packet {
    Packet::udp(0, SOURCE, TARGET)
}

fn six() -> Packet {
    Packet::udp(0, SOURCE6, TARGET6)
}

/// From another host each.
fn four_from(host: u16) -> Packet {
    Packet::udp(0, &shunt_tests::twin::behind4(0, host), TARGET)
}

fn to(destination: &str) -> Packet {
    let source = if destination.contains(':') { SOURCE6 } else { SOURCE };
    Packet::udp(0, source, destination)
}
