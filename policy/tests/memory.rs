//! How much memory tables of routes take, by what the process has: the only test in its process.

use std::net::IpAddr;

use shunt_policy::config::{Hops, Route, RouteKind};
use shunt_policy::{Ifindex, Prefix, Rib, TableId};

const MEGABYTE: u64 = 1 << 20;

/// Resident, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("a proc filesystem");
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

#[test]
fn ten_thousand_tables_of_ten_routes_take_at_most_50_megabytes() {
    let before = resident();
    let mut rib = Rib::default();
    for table in 0..10_000u32 {
        for route in 0..10u32 {
            let network = (table.wrapping_mul(11) + route).wrapping_mul(0x9e37_79b1);
            let prefix = Prefix::new(IpAddr::V4(network.into()), 24 - route as u8 % 9).expect("16 to 24 bits");
            rib.set(TableId(1000 + table), prefix, &[Route::new(0, RouteKind::Unicast(Hops::one(Ifindex(2), None)))]);
        }
    }
    let taken = resident() - before;
    assert!(rib.tables().len() > 99_000, "{}", rib.tables().len());
    assert!(taken <= 50 * MEGABYTE, "{} MB", taken / MEGABYTE);
    println!("{} MB", taken / MEGABYTE);
}
