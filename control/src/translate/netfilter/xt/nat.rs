//! The targets of table nat (`xt_nat`, `xt_MASQUERADE`, `xt_REDIRECT`, `xt_NETMAP`).

use shunt_policy::config::{self, Hook, NatTo};

use crate::mirror::netfilter::xt::{Nat, NatFlags, NatTarget};

/// `None` where the kernel would refuse it, and for a network with holes.
pub(super) fn nat(nat: &Nat, hook: Hook) -> Option<config::Nat> {
    let (target, addresses, ports, base, flags) = match *nat {
        Nat::Netmap(_) if hook == Hook::Forward => return None,
        Nat::Netmap(network) => return Some(config::Nat::plain(NatTo::Prefix(network.prefix()?))),
        Nat::Range { target, addresses, ports, base, flags } => (target, addresses, ports, base, flags),
    };
    let to = match (target, hook) {
        (NatTarget::Masquerade, Hook::Postrouting) => NatTo::Masquerade,
        (NatTarget::Redirect, Hook::Prerouting) => NatTo::Redirect,
        (NatTarget::Snat, Hook::Postrouting) | (NatTarget::Dnat, Hook::Prerouting) => NatTo::Addresses(addresses),
        _ => return None,
    };
    let NatFlags { random, fully_random, persistent } = flags;
    Some(config::Nat { to, ports, base, random, fully_random, persistent })
}
