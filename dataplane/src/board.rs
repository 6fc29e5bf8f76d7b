//! The destinations whose tuples were taken of late, where one worker writes and the control side reads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use shunt_policy::connection::Endpoint;

use crate::conn::{Exhausted, LAST, LastExhausted};

/// Of one worker. It never waits; who reads while it writes tries again.
#[derive(Default)]
pub(crate) struct Board {
    /// Odd while the worker writes. The words are ordered by it: a fence behind its first change, Release with the second; Acquire and
    /// a fence on the other side.
    version: AtomicU64,
    places: [[AtomicU64; 4]; LAST],
}

const V6: u64 = 1 << 32;
const USED: u64 = 1 << 33;

impl Board {
    /// By the one writer only.
    pub(crate) fn write(&self, last: &LastExhausted) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, exhausted) in self.places.iter().zip(&last.0) {
            for (word, value) in place.iter().zip(exhausted.as_ref().map_or([0; 4], words)) {
                word.store(value, Ordering::Relaxed);
            }
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The latest first.
    pub(crate) fn read(&self) -> Vec<Exhausted> {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let read = self.places.each_ref().map(|place| place.each_ref().map(|word| word.load(Ordering::Relaxed)));
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version {
                return read.into_iter().filter_map(exhausted).collect();
            }
            std::thread::yield_now();
        }
    }
}

fn words(exhausted: &Exhausted) -> [u64; 4] {
    let Exhausted { protocol, destination: Endpoint { address, port }, packets } = *exhausted;
    let (family, bits) = match address {
        IpAddr::V4(address) => (0, address.to_bits().into()),
        IpAddr::V6(address) => (V6, address.to_bits()),
    };
    let what = USED | family | u64::from(protocol) << 16 | u64::from(port);
    [what, (bits >> 64) as u64, bits as u64, packets]
}

fn exhausted([what, high, low, packets]: [u64; 4]) -> Option<Exhausted> {
    let address = match what & V6 {
        0 => Ipv4Addr::from_bits(low as u32).into(),
        _ => Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into(),
    };
    let destination = Endpoint { address, port: what as u16 };
    (what & USED != 0).then_some(Exhausted { protocol: (what >> 16) as u8, destination, packets })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(address: &str, port: u16, packets: u64) -> Option<Exhausted> {
        let destination = Endpoint { address: address.parse().unwrap(), port };
        Some(Exhausted { protocol: 17, destination, packets })
    }

    #[test]
    fn what_is_read_was_written() {
        let board = Board::default();
        assert_eq!(board.read(), []);
        let mut last = LastExhausted::default();
        last.0[0] = some("2001:db8::25", 65_535, u64::MAX);
        last.0[1] = some("198.18.0.25", 0, 1);
        board.write(&last);
        assert_eq!(board.read(), last.0.into_iter().flatten().collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_read_half() {
        let board = Board::default();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for packets in 1..20_000 {
                    board.write(&LastExhausted([some("192.0.2.1", packets as u16, packets); LAST]));
                }
            });
            while !writer.is_finished() {
                let read = board.read();
                assert!(read.iter().all(|one| *one == read[0]), "{read:?}");
                assert!(read.iter().all(|one| one.destination.port == one.packets as u16), "{read:?}");
            }
        });
    }
}
