//! Random configurations and packets. Addresses, tables, marks and ports come from small pools, so that rules meet packets and
//! prefixes nest; what the kernel refuses it refuses on both routers.

mod configuration;
mod packets;

use fastrand::Rng;

pub use configuration::commands;
pub use packets::packets;

fn one<T: Copy>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.usize(..list.len())]
}

/// One time in `n`.
fn rarely(rng: &mut Rng, n: u32) -> bool {
    rng.u32(..n) == 0
}
