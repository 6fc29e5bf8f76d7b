//! How much memory tables of routes take, by what the process has: the only test in its process.

use std::net::IpAddr;

use shunt_policy::config::{Hops, Route, RouteKind};
use shunt_policy::{Family, Ifindex, Prefix, Rib, TableId};

const MEGABYTE: u64 = 1 << 20;

/// Resident, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("a proc filesystem");
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

/// Routes of one table, by the network and length of each prefix.
fn fill(rib: &mut Rib, table: u32, prefixes: impl Iterator<Item = (IpAddr, u8)>) {
    for (address, length) in prefixes {
        let prefix = Prefix::new(address, length).expect("a length of the family");
        rib.set(TableId(table), prefix, &[Route::new(0, RouteKind::Unicast(Hops::one(Ifindex(2), None)))]);
    }
}

/// One after the other, and the first ones stay: what they freed, others would not be seen to take.
#[test]
fn tables_take_no_more_memory_than_they_may() {
    let before = resident();
    let mut rib = Rib::default();
    for table in 0..10_000u32 {
        fill(
            &mut rib,
            1000 + table,
            (0..10u32).map(|route| {
                let network = (table.wrapping_mul(11) + route).wrapping_mul(0x9e37_79b1);
                (IpAddr::V4(network.into()), 24 - route as u8 % 9)
            }),
        );
    }
    let taken = resident() - before;
    println!("10,000 tables of 10 routes: {} MB", taken / MEGABYTE);
    assert!(rib.tables().len() > 99_000, "{}", rib.tables().len());
    assert!(taken <= 50 * MEGABYTE, "{} MB", taken / MEGABYTE);

    let before = resident();
    let mut large = Rib::default();
    // 30,000 networks of /32, each with some longer prefixes.
    fill(
        &mut large,
        254,
        (0..200_000u32).map(|route| {
            let network = (route % 30_000).wrapping_mul(0x9e37_79b1) >> 12 | 0x2000_0000;
            let length = [48, 48, 48, 44, 40, 36, 32][route as usize / 30_000];
            let inside = route.wrapping_mul(0x85eb_ca6b) >> 16;
            (IpAddr::V6((u128::from(network) << 96 | u128::from(inside) << 80).into()), length)
        }),
    );
    let taken = resident() - before;
    println!("200,000 routes of IPv6: {} MB", taken / MEGABYTE);
    assert!(large.tables().len() > 150_000, "{}", large.tables().len());
    assert!(taken <= 80 * MEGABYTE, "{} MB", taken / MEGABYTE);
    assert_eq!(rib.tables().sizes(Family::V4).count(), 10_000);
}
