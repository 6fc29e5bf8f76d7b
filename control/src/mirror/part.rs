//! The parts that the copy consists of, and how far behind each may be.

use std::time::Duration;

/// How often we look at what gives no event.
pub(super) const POLL: Duration = Duration::from_millis(300);
/// What the kernel tells of is in the view after this time at the latest.
const TOLD: Duration = Duration::from_millis(50);
/// What is polled is in the view after this time: a look, and a slow machine.
const LOOKED_AT: Duration = Duration::from_millis(500);
/// What a tool has to print first.
const PRINTED: Duration = Duration::from_secs(1);
/// Routes vanish without a message, with their interface, address or nexthop object. Then the family is dumped anew, which takes
/// longer where there are many: see [`routes_bound`].
const DUMPED_ANEW: Duration = Duration::from_secs(1);

/// One part of the kernel's state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    Links,
    Addresses,
    Rules,
    Routes,
    Nexthops,
    Neighbours,
    Sysctls,
    /// Qdiscs and tcx programs.
    TrafficControl,
    Nftables,
    IptablesLegacy,
    /// The sets that rules of iptables name.
    Ipset,
    Xfrm,
    /// See [`paths`](super::paths).
    PathMtus,
}

impl Part {
    pub const ALL: [Part; 13] = [
        Part::Links,
        Part::Addresses,
        Part::Rules,
        Part::Routes,
        Part::Nexthops,
        Part::Neighbours,
        Part::Sysctls,
        Part::TrafficControl,
        Part::Nftables,
        Part::IptablesLegacy,
        Part::Ipset,
        Part::Xfrm,
        Part::PathMtus,
    ];
    /// Those that one dump each brings, in an order in which a later one may need an earlier one.
    pub(super) const DUMPED: [Part; 7] = [
        Part::Links,
        Part::Sysctls,
        Part::Addresses,
        Part::TrafficControl,
        Part::Neighbours,
        Part::Rules,
        Part::Nexthops,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Part::Links => "links",
            Part::Addresses => "addresses",
            Part::Rules => "rules",
            Part::Routes => "routes",
            Part::Nexthops => "nexthops",
            Part::Neighbours => "neighbours",
            Part::Sysctls => "sysctls",
            Part::TrafficControl => "tc",
            Part::Nftables => "nftables",
            Part::IptablesLegacy => "iptables-legacy",
            Part::Ipset => "ipset",
            Part::Xfrm => "xfrm",
            Part::PathMtus => "path_mtus",
        }
    }

    /// Whether the kernel tells of changes; else we look again and again.
    pub fn is_told(self) -> bool {
        match self {
            Part::Links | Part::Addresses | Part::Rules | Part::Routes | Part::Nexthops | Part::Neighbours => true,
            Part::Nftables => true,
            Part::Sysctls | Part::TrafficControl | Part::IptablesLegacy | Part::Ipset => false,
            Part::Xfrm | Part::PathMtus => false,
        }
    }

    /// How old a change may get that is not in the view yet. Of routes: with few of them.
    pub(super) fn staleness_bound(self) -> Duration {
        match self {
            Part::Links | Part::Addresses | Part::Rules | Part::Nexthops | Part::Neighbours => TOLD,
            Part::Routes => DUMPED_ANEW,
            Part::Sysctls | Part::TrafficControl | Part::Xfrm | Part::PathMtus => LOOKED_AT,
            Part::Nftables | Part::IptablesLegacy | Part::Ipset => PRINTED,
        }
    }
}

/// The bound of the routes where a dump of all takes so long. At worst one of the family is under way, and rested after, then comes
/// the other family, a rest again, and what was asked for. IPv6 tables that never rest may take longer: they stay in doubt.
pub(super) fn routes_bound(took: Duration) -> Duration {
    DUMPED_ANEW.max(took * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_stands_at_its_number() {
        assert!(Part::ALL.iter().enumerate().all(|(at, part)| *part as usize == at));
    }
}
