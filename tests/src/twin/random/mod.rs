//! Random configurations and packets. Addresses, tables, marks and ports come from small pools, so that rules meet packets and
//! prefixes nest; what the kernel refuses it refuses on both routers.

mod configuration;
mod netfilter;
mod packets;

use std::fmt;

use fastrand::Rng;

use super::command::Command;

pub use packets::packets;

/// What the cases of a campaign are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Rules, routes, links and sysctls.
    Routing,
    /// Rule sets of netfilter, over less of the above.
    Netfilter,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Routing, Kind::Netfilter];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Routing => "routing",
            Kind::Netfilter => "netfilter",
        })
    }
}

/// The configuration of a case.
pub fn commands(rng: &mut Rng, kind: Kind) -> Vec<Command> {
    match kind {
        Kind::Routing => configuration::commands(rng),
        Kind::Netfilter => netfilter::commands(rng),
    }
}

fn one<T: Copy>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.usize(..list.len())]
}

/// One time in `n`.
fn rarely(rng: &mut Rng, n: u32) -> bool {
    rng.u32(..n) == 0
}
