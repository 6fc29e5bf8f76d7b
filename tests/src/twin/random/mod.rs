//! Random configurations and packets. Addresses, tables, marks and ports come from small pools, so that rules meet packets and
//! prefixes nest; what the kernel refuses it refuses on both routers.

mod configuration;
mod nat;
mod netfilter;
mod packets;
mod talks;

use std::fmt;

use fastrand::Rng;

use super::command::Command;

pub use nat::PORT_RANGES;
pub use packets::packets;
pub use talks::talks;

/// What the cases of a campaign are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Rules, routes, links and sysctls.
    Routing,
    /// Rule sets of netfilter, over less of the above.
    Netfilter,
    /// Translation of addresses and connection tracking: conversations instead of packets.
    Nat,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Routing, Kind::Netfilter, Kind::Nat];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Routing => "routing",
            Kind::Netfilter => "netfilter",
            Kind::Nat => "nat",
        })
    }
}

/// The configuration of a case.
pub fn commands(rng: &mut Rng, kind: Kind) -> Vec<Command> {
    match kind {
        Kind::Routing => configuration::commands(rng),
        Kind::Netfilter => netfilter::commands(rng),
        Kind::Nat => nat::commands(rng),
    }
}

fn one<T: Copy>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.usize(..list.len())]
}

/// One time in `n`.
fn rarely(rng: &mut Rng, n: u32) -> bool {
    rng.u32(..n) == 0
}
