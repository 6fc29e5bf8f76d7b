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

mod iptables;
mod multipath;
mod policy_routing;
mod translation;
mod validity;

use shunt_tests::twin::{Packet, Rows};

/// Sources behind p0.
const SOURCE: &str = "198.19.1.1";
const SOURCE6: &str = "2001:db8:f0::1";
const TARGET: &str = "198.18.7.9";
const TARGET6: &str = "2001:db8:100::9";

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
