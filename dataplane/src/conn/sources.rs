//! To what sources are mapped, as far as other workers know (`nf_nat_bysource`): a source that talks to several destinations is several
//! workers', since a connection's ports say whose it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use shunt_policy::connection::Endpoint;

use super::entry::Key;
use super::index::scale;
use crate::xsk::Zeroed;

/// Written when a worker's first connection with a mapping comes and its last one goes, read when a new connection looks for one; not
/// with other packets. Nobody waits: a reader that meets a half-written place passes over it.
#[derive(Clone)]
pub struct Sources(Arc<Shared>);

struct Shared {
    seed: u64,
    /// [`PLACE`] words each: the tag, then the mapped address, then [`Last`].
    words: Zeroed,
}

const PLACE: usize = 4;

/// Two places in a cache line.
const LINE: usize = 2 * PLACE;

/// In so many lines the mappings of one source may stand.
const LINES: usize = 4;

/// Of a place: nobody's, and somebody's who has not written it yet.
const FREE: u64 = 0;
const CLAIMED: u64 = 1;

/// A source, by a hash of 64 bits with a secret: two of them are never taken for one, in practice.
#[derive(Clone, Copy)]
struct Tag {
    tag: u64,
    v6: bool,
}

/// The port, by whom it was written, and when: a millisecond, wrapping after two years.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Last {
    port: u16,
    worker: u16,
    time: u64,
}

const WORKER: u64 = 0xfff;
const TIME: u64 = (1 << 36) - 1;

impl Last {
    fn word(self) -> u64 {
        u64::from(self.port) << 48 | (u64::from(self.worker) & WORKER) << 36 | self.time & TIME
    }

    fn from(word: u64) -> Self {
        Last { port: (word >> 48) as u16, worker: (word >> 36 & WORKER) as u16, time: word & TIME }
    }

    fn age(self, now: u64) -> u64 {
        (now / MILLISECOND).wrapping_sub(self.time) & TIME
    }
}

const MILLISECOND: u64 = 1_000_000;

impl Sources {
    /// Bytes that it takes for each connection there may be: room for one mapping of eight connections. Mappings beyond that are known to
    /// their own worker alone.
    pub(super) const BYTES: usize = PLACE * size_of::<u64>() / 8;

    /// For so many connections of all workers.
    pub fn new(connections: usize, seed: u64) -> Self {
        let lines = (connections * Self::BYTES).div_ceil(LINE * size_of::<u64>()).max(LINES);
        Sources(Arc::new(Shared { seed, words: Zeroed::new(lines * LINE) }))
    }

    fn tag(&self, key: &Key) -> Tag {
        let tag = key.source_hash(self.0.seed);
        Tag { tag: if tag <= CLAIMED { tag + 2 } else { tag }, v6: key.is_v6() }
    }

    /// All places where mappings of this source may stand; the first of each line first, so that they fill evenly.
    fn places(&self, tag: Tag) -> impl Iterator<Item = &[AtomicU64]> {
        let lines = self.0.words.len() / LINE;
        (0..LINE).step_by(PLACE).flat_map(move |place| {
            (0..LINES as u32).map(move |line| {
                let hash = tag.tag.rotate_left(16 * line) as u32;
                let start = scale(hash, lines) * LINE + place;
                &self.0.words[start..start + PLACE]
            })
        })
    }

    /// This worker has a new connection of a source that is mapped so. Says whether others know now.
    pub(super) fn publish(&self, source: &Key, mapped: &Endpoint, worker: usize, now: u64) -> bool {
        let tag = self.tag(source);
        let last = Last { port: mapped.port, worker: worker as u16, time: now / MILLISECOND };
        if let Some(place) = self.own(tag, mapped, worker) {
            place[3].store(last.word(), Relaxed);
            return true;
        }
        let Some(place) =
            self.places(tag).find(|place| place[0].compare_exchange(FREE, CLAIMED, Acquire, Relaxed).is_ok())
        else {
            return false;
        };
        // Whoever reads what follows must see that the place is not what it was.
        fence(Release);
        let address = bits(mapped.address);
        place[1].store((address >> 64) as u64, Relaxed);
        place[2].store(address as u64, Relaxed);
        place[3].store(last.word(), Relaxed);
        place[0].store(tag.tag, Release);
        true
    }

    /// This worker's last connection of this source with this mapping is gone.
    pub(super) fn withdraw(&self, source: &Key, mapped: &Endpoint, worker: usize) {
        if let Some(place) = self.own(self.tag(source), mapped, worker) {
            place[0].store(FREE, Release);
        }
    }

    /// The mapping of this source that is the latest of those `fits` takes, if it is another worker's.
    pub(super) fn of_another(
        &self,
        source: &Key,
        worker: usize,
        now: u64,
        fits: impl Fn(&Endpoint) -> bool,
    ) -> Option<Endpoint> {
        let tag = self.tag(source);
        let mappings = self.places(tag).filter_map(|place| read(place, tag)).filter(|(mapped, _)| fits(mapped));
        let (mapped, last) = mappings.min_by_key(|(_, last)| last.age(now))?;
        (usize::from(last.worker) != worker & WORKER as usize).then_some(mapped)
    }

    /// Where this worker has published this mapping. Nobody else writes there until it is withdrawn.
    fn own(&self, tag: Tag, mapped: &Endpoint, worker: usize) -> Option<&[AtomicU64]> {
        let is_own =
            |(is, last): (Endpoint, Last)| is == *mapped && usize::from(last.worker) == worker & WORKER as usize;
        self.places(tag).find(|place| read(place, tag).is_some_and(is_own))
    }
}

/// What stands there, if it is of this source. Were it withdrawn meanwhile and written anew, the port or the worker is another.
fn read(place: &[AtomicU64], tag: Tag) -> Option<(Endpoint, Last)> {
    if place[0].load(Acquire) != tag.tag {
        return None;
    }
    let [high, low, last] = [1, 2, 3].map(|word| place[word].load(Relaxed));
    fence(Acquire);
    if place[0].load(Acquire) != tag.tag || (place[3].load(Relaxed) ^ last) & !TIME != 0 {
        return None;
    }
    let last = Last::from(last);
    let address = match tag.v6 {
        false => IpAddr::V4(Ipv4Addr::from_bits(low as u32)),
        true => IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))),
    };
    Some((Endpoint { address, port: last.port }, last))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use shunt_policy::connection::Tuple;

    use super::*;

    fn end(address: &str, port: u16) -> Endpoint {
        Endpoint { address: address.parse().unwrap(), port }
    }

    fn key(address: &str, port: u16) -> Key {
        let destination = if address.contains(':') { end("2001:db8:ffff::1", 53) } else { end("198.51.100.1", 53) };
        Key::from(&Tuple { source: end(address, port), destination, protocol: 17 })
    }

    #[test]
    fn a_mapping_is_known_to_others_until_it_is_withdrawn() {
        for (source, mapped) in
            [(key("192.0.2.1", 7), end("203.0.113.9", 4000)), (key("2001:db8::1", 7), end("2001:db8:1::9", 4000))]
        {
            let sources = Sources::new(1000, 1);
            assert!(sources.publish(&source, &mapped, 0, 5 * MILLISECOND));
            assert_eq!(sources.of_another(&source, 1, 0, |_| true), Some(mapped));
            assert_eq!(sources.of_another(&source, 0, 0, |_| true), None, "it is its own");
            assert_eq!(sources.of_another(&source, 1, 0, |_| false), None);
            assert_eq!(sources.of_another(&key("192.0.2.1", 8), 1, 0, |_| true), None);
            sources.withdraw(&source, &mapped, 1);
            assert_eq!(sources.of_another(&source, 1, 0, |_| true), Some(mapped), "only its own worker withdraws it");
            sources.withdraw(&source, &mapped, 0);
            assert_eq!(sources.of_another(&source, 1, 0, |_| true), None);
        }
    }

    #[test]
    fn the_latest_that_fits_is_taken() {
        let sources = Sources::new(1000, 1);
        let source = key("192.0.2.1", 7);
        let mappings = [1, 2, 3].map(|last| end(&format!("203.0.113.{last}"), 4000));
        for (number, mapped) in mappings.iter().enumerate() {
            assert!(sources.publish(&source, mapped, number, (10 + number as u64) * MILLISECOND));
        }
        let now = 100 * MILLISECOND;
        assert_eq!(sources.of_another(&source, 0, now, |_| true), Some(mappings[2]));
        assert_eq!(sources.of_another(&source, 0, now, |mapped| *mapped != mappings[2]), Some(mappings[1]));
        assert_eq!(sources.of_another(&source, 2, now, |_| true), None, "the latest is its own, which it knows better");
        sources.publish(&source, &mappings[0], 0, 20 * MILLISECOND);
        assert_eq!(sources.of_another(&source, 2, now, |_| true), Some(mappings[0]), "used again");
    }

    #[test]
    fn one_source_does_not_fill_it() {
        let sources = Sources::new(100_000, 1);
        let source = key("192.0.2.1", 7);
        let published = (1..=1000).filter(|port| sources.publish(&source, &end("203.0.113.1", *port), 0, 0)).count();
        assert_eq!(published, 2 * LINES);
        assert!(sources.publish(&key("192.0.2.2", 7), &end("203.0.113.1", 2000), 0, 0));
    }

    /// Half of what there is room for is published without a loss.
    #[test]
    fn many_sources_find_room() {
        let sources = Sources::new(80_000, 1);
        let key = |number: u16| key("192.0.2.1", number);
        let lost =
            (0..5000).filter(|number| !sources.publish(&key(*number), &end("203.0.113.1", *number), 0, 0)).count();
        assert_eq!(lost, 0);
        for number in 0..5000 {
            assert_eq!(sources.of_another(&key(number), 1, 0, |_| true), Some(end("203.0.113.1", number)));
        }
    }

    #[test]
    fn whoever_reads_meanwhile_sees_whole_mappings() {
        let sources = Sources::new(64, 1);
        let source = key("192.0.2.1", 7);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (sources, stop) = (sources.clone(), &stop);
                scope.spawn(move || {
                    let mapped = end(&format!("203.0.113.{worker}"), 1000 + worker);
                    while !stop.load(Relaxed) {
                        assert!(sources.publish(&source, &mapped, worker.into(), 0));
                        sources.withdraw(&source, &mapped, worker.into());
                    }
                });
            }
            let is_whole =
                |mapped: &Endpoint| (0..2).any(|worker| *mapped == end(&format!("203.0.113.{worker}"), 1000 + worker));
            let seen = (0..100_000).filter(|_| match sources.of_another(&source, 9, 0, |_| true) {
                Some(mapped) => is_whole(&mapped),
                None => false,
            });
            let seen = seen.count();
            stop.store(true, Relaxed);
            assert!(seen > 0);
        });
    }
}
