use super::*;

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// An axis, a mask and ranges.
type Asked = (u8, u128, Vec<(u128, u128)>);

fn candidates(index: &Index<u8>, from: u32, packet: [u128; 3]) -> Result<Vec<u32>, TooMany> {
    let mut candidates = index.candidates();
    index.gather(0, from, |axis| packet.get(usize::from(axis)).copied(), &mut candidates)?;
    Ok(candidates.collect())
}

fn ranges_of(numbers: &mut Numbers) -> Vec<(u128, u128)> {
    let mut ranges: Vec<(u128, u128)> = Vec::new();
    let mut first = 0;
    // Now and then so many, so close to one another, that they are only told apart roughly.
    let (count, gap) = if numbers.chance(10) { (60, 20) } else { (numbers.below(3), 40_000) };
    for _ in 0..=count {
        first += u128::from(numbers.below(gap));
        let length = u128::from([0u32, 0, 0, 1, 255, 1000][numbers.below(6) as usize]);
        ranges.push((first, first + length));
        first += length + 2;
    }
    ranges
}

/// Of everything that a packet meets nothing is missing, and nothing comes twice or out of order, whatever the demands are.
#[test]
fn whatever_a_packet_meets_is_a_candidate_once_and_in_order() {
    let mut numbers = Numbers(1);
    for round in 0..200 {
        let count = [7, 30, 300][round % 3];
        // What each thing asks, exactly, and its demands.
        let asked: Vec<Vec<Asked>> = (0..count)
            .map(|_| {
                let axes = (0..3).filter(|_| !numbers.chance(3)).collect::<Vec<u8>>();
                let masks = [0xffff, 0xffff, 0xff, 0xf0f0];
                axes.iter().map(|axis| (*axis, masks[numbers.below(4) as usize], ranges_of(&mut numbers))).collect()
            })
            .collect();
        let things: Vec<Thing<u8>> = (0..)
            .zip(&asked)
            .map(|(number, asked)| {
                let demand = |(axis, mask, ranges): &Asked| Demand::new(*axis, *mask, ranges.iter().copied());
                (number, asked.iter().filter_map(demand).collect())
            })
            .collect();
        let index = Index::build([&things]);
        for _ in 0..50 {
            let packet = [0; 3].map(|_: u8| u128::from(numbers.below(0x1_0000)));
            let from = if numbers.chance(2) { 0 } else { numbers.below(count) as u32 };
            let Ok(found) = candidates(&index, from, packet) else { continue };
            assert!(found.is_sorted_by(|one, next| one < next), "{found:?}");
            assert!(found.iter().all(|number| *number >= from));
            for (number, asked) in (0..).zip(&asked).skip(from as usize) {
                let met = asked.iter().all(|(axis, mask, ranges)| {
                    let seen = packet[usize::from(*axis)] & mask;
                    ranges.iter().any(|(first, last)| *first <= seen && seen <= *last)
                });
                assert!(!met || found.contains(&number), "{number} of {found:?} for {packet:?}: {asked:?}");
            }
        }
    }
}

/// Things of one block are told apart by what else they demand.
#[test]
fn what_many_have_in_common_is_divided_further() {
    let demand = |axis, number: u32| Demand::new(axis, 0xffff, [(number.into(), number.into())]).expect("one number");
    let things: Vec<Thing<u8>> =
        (0..10_000).map(|number| (number, vec![demand(0, number % 100), demand(1, number / 100)])).collect();
    let index = Index::build([&things]);
    assert_eq!(candidates(&index, 0, [7, 42, 0]).expect("few lists"), [4207]);
    assert_eq!(candidates(&index, 0, [7, 200, 0]).expect("few lists"), []);
}

#[test]
fn a_range_is_divided_into_few_blocks() {
    let most = |first, last| Demand::new(0u8, u128::MAX, [(first, last)]).map_or(0, |demand| demand.blocks.len());
    assert_eq!(most(80, 80), 1);
    assert_eq!(most(1024, 2047), 1);
    assert!(most(1, u128::MAX - 1) <= build::MOST_PLACES);
    assert!(most(12_345, 54_321) <= build::MOST_PLACES);
    // What all packets meet tells none apart.
    assert!(Demand::new(0u8, 0xffff, [(0, 0xffff)]).is_none());
    assert!(Demand::new(0u8, 0xff, [(0x100, 0x1ff)]).expect("nothing").is_never_met());
}

#[test]
fn memory_grows_with_the_things_only() {
    let mut numbers = Numbers(2);
    let mut size = |count: u32| {
        let things: Vec<Thing<u8>> = (0..count)
            .map(|number| {
                let demands = (0..3).filter_map(|axis| Demand::new(axis, 0xffff, ranges_of(&mut numbers))).collect();
                (number, demands)
            })
            .collect();
        Index::build([&things]).size() as f64 / f64::from(count)
    };
    let (few, many) = (size(1000), size(50_000));
    assert!(many < 2.0 * few, "{few} bytes, {many} bytes");
    assert!(many < 500.0, "{many} bytes");
}

/// A packet in the middle of more nested prefixes than there is room for lists.
#[test]
fn too_many_lists_are_refused() {
    let nested = |bits: u32| (0, (1u128 << bits) - 1);
    let things: Vec<Thing<u8>> =
        (0..120).map(|bits| (bits, Demand::new(0, u128::MAX, [nested(bits)]).into_iter().collect())).collect();
    let index = Index::build([&things]);
    assert!(candidates(&index, 0, [0; 3]).is_err());
    assert_eq!(candidates(&index, 0, [1 << 110, 0, 0]).expect("few lists"), (111..120).collect::<Vec<u32>>());
}
