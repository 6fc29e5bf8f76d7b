//! A twin for rows of packets and what becomes of them, written by hand.
//!
//! Packets go to 198.18.0.0/15 and 2001:db8:100::/40: by p1 in the main table, by p2 in table 100, by p3 in 101.

use super::{Command, Outcome, Packet, Replay, Twin, in_short};

/// A twin with the three ways.
pub struct Rows {
    pub twin: Twin,
}

impl Rows {
    pub fn new() -> Self {
        Self::named("")
    }

    /// One of several in a test.
    pub fn named(name: &str) -> Self {
        let mut rows = Rows { twin: Twin::named(name, Replay::Off) };
        for (table, port) in [(254, 1), (100, 2), (101, 3)] {
            rows.set(&[
                Command::ip4(format!("route add 198.18.0.0/15 via 198.51.100.{} table {table}", port * 64 + 10)),
                Command::ip6(format!("route add 2001:db8:100::/40 via 2001:db8:{port}::a table {table}")),
            ]);
        }
        rows
    }

    /// Configures both routers; the kernel must take everything.
    pub fn set(&mut self, commands: &[Command]) {
        assert_eq!(self.twin.apply(commands), "", "{commands:?}");
    }

    /// Sends the packets when the mirror has followed, and asserts that both routers did the same with each. Returns it in short.
    pub fn ways(&mut self, packets: &[Packet]) -> Vec<String> {
        let outcomes = self.outcomes(packets);
        packets.iter().zip(&outcomes).map(|(packet, outcome)| in_short(packet, outcome)).collect()
    }

    /// The same as frames.
    pub fn outcomes(&mut self, packets: &[Packet]) -> Vec<Outcome> {
        self.twin.settle();
        let mut outcomes = self.twin.exchange(packets);
        for (packet, outcomes) in packets.iter().zip(&mut outcomes).filter(|(_, outcomes)| outcomes.one_is_silent()) {
            // Lost in a queue of a busy machine, or late, because a worker waits for its core longer than the kernel does: who is
            // silent for a reason is silent again.
            std::thread::sleep(std::time::Duration::from_millis(200));
            let patience = std::time::Duration::from_millis(800);
            outcomes.clone_from(&self.twin.exchange_for(std::slice::from_ref(packet), patience)[0]);
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
    /// on.
    pub fn expect(&mut self, expected: &[(Packet, &str)]) {
        let before = self.twin.daemon().forwarded();
        self.expect_by_anybody(expected);
        let onward = expected.iter().filter(|(_, way)| way.starts_with('p') && !way.contains(':')).count() as u64;
        let by_workers = self.twin.daemon().forwarded() - before;
        assert!(by_workers >= onward, "{by_workers} of {onward} by the workers: {:#}", self.twin.daemon().status());
    }

    /// The same where the kernel forwards.
    pub fn expect_by_anybody(&mut self, expected: &[(Packet, &str)]) {
        let packets: Vec<Packet> = expected.iter().map(|(packet, _)| packet.clone()).collect();
        let ways = self.ways(&packets);
        let wrong = expected.iter().zip(&ways).filter(|((_, wanted), way)| wanted != way);
        let wrong: String =
            wrong.map(|((packet, wanted), way)| format!("{packet}: {way} instead of {wanted}\n")).collect();
        assert!(wrong.is_empty(), "the kernel does otherwise:\n{wrong}");
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self::new()
    }
}
