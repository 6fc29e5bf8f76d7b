//! What conntrack takes for invalid is forwarded as it is. D38, D39d

use std::net::Ipv4Addr;
use std::time::Duration;

use etherparse::PacketBuilder;
use shunt_tests::lab::Wire;

use crate::by::{By, stories};
use crate::network::Edge;

stories![privileged_invalid_packets_leave_with_their_inner_source];

const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const TARGET: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 25);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

struct Ends {
    macs: ([u8; 6], [u8; 6]),
    alice: Wire,
    isp: Wire,
}

impl Ends {
    /// The source with which a segment arrives at the provider.
    fn source_of(&mut self, frame: &[u8], marker: &[u8]) -> Option<Ipv4Addr> {
        self.alice.send(frame);
        let is_it = |frame: &[u8]| frame.ends_with(marker) && frame[12..14] == [8, 0];
        let arrived = self.isp.receive(Duration::from_millis(800), is_it)?;
        Some(Ipv4Addr::new(arrived[26], arrived[27], arrived[28], arrived[29]))
    }

    /// A segment with no other flag than those, from a port of its own.
    fn segment(&self, port: u16, sequence: u32, set: fn(TcpFlags) -> TcpFlags, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(self.macs.0, self.macs.1).ipv4(SOURCE.octets(), TARGET.octets(), 64);
        let frame = set(TcpFlags(builder.tcp(port, 9, sequence, 8192))).0;
        let mut bytes = Vec::with_capacity(frame.size(payload.len()));
        frame.write(&mut bytes, payload).expect("a vector takes everything");
        bytes
    }
}

struct TcpFlags(etherparse::PacketBuilderStep<etherparse::TcpHeader>);

fn syn(builder: TcpFlags) -> TcpFlags {
    TcpFlags(builder.0.syn())
}

fn ack(builder: TcpFlags) -> TcpFlags {
    TcpFlags(builder.0.ack(1))
}

fn syn_fin(builder: TcpFlags) -> TcpFlags {
    TcpFlags(builder.0.syn().fin())
}

fn privileged_invalid_packets_leave_with_their_inner_source(by: By) {
    let edge = Edge::new();
    edge.masquerade();
    edge.router.run("sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0");
    // The real hosts would answer what they know nothing of.
    edge.alice.run("iptables -A OUTPUT -p tcp --tcp-flags RST RST -j DROP");
    let mut ends = Ends {
        macs: (edge.alice.mac("eth0"), edge.router.mac("eth0")),
        alice: Wire::open(&edge.alice, "eth0"),
        isp: Wire::open(&edge.isp, "eth0"),
    };
    let _router = by.start(&edge.router);
    let frame = ends.segment(6000, 1000, ack, b"mid-stream");
    assert_eq!(ends.source_of(&frame, b"mid-stream"), Some(SOURCE), "tcp_loose is off");
    let frame = ends.segment(6001, 1000, syn_fin, b"impossible");
    assert_eq!(ends.source_of(&frame, b"impossible"), Some(SOURCE));
    let mut frame = ends.segment(6002, 1000, syn, b"wrong sum");
    frame[14 + 20 + 16] ^= 0x10;
    assert_eq!(ends.source_of(&frame, b"wrong sum"), Some(SOURCE));
    let frame = ends.segment(6003, 1000, syn, b"in order");
    assert_eq!(ends.source_of(&frame, b"in order"), Some(PUBLIC));
    edge.router.run("sysctl -qw net.netfilter.nf_conntrack_tcp_loose=1");
    // shunt follows it once a second.
    std::thread::sleep(Duration::from_millis(1500));
    let frame = ends.segment(6004, 1000, ack, b"picked up");
    assert_eq!(ends.source_of(&frame, b"picked up"), Some(PUBLIC), "tcp_loose is on");
}
