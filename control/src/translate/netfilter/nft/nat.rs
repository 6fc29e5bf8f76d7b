//! `snat`, `dnat`, `masquerade` and `redirect` (`nft_nat`, `nft_masq`, `nft_redir`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use shunt_policy::config::{self, Hook, PortRange, Set, Step, Test, Value, Verdict};
use shunt_policy::{Family, Prefix};

use super::lowering::Lowering;
use super::matching::Key;
use super::value::{self, Kind};
use crate::mirror::netfilter::nft::{Expression, Names, NatKind, NatTo};

impl Lowering<'_, '_> {
    pub(super) fn nat(&mut self, kind: NatKind, of: Option<&str>, to: Option<&NatTo>, text: impl Fn() -> String) {
        match of {
            // nft_nat_inet_eval is asked about packets of its family only.
            Some("ip") if self.family == Family::V6 => return self.test(Test::Never),
            Some("ip6") if self.family == Family::V4 => return self.test(Test::Never),
            _ => {}
        }
        let verdict = match (kind, self.hook) {
            _ if !self.nat => None,
            (NatKind::Source | NatKind::Masquerade, Hook::Postrouting)
            | (NatKind::Destination | NatKind::Redirect, Hook::Prerouting) => to,
            // The kernel refuses the others (nft_chain_validate_hooks).
            _ => None,
        };
        let Some(to) = verdict else { return self.steps.push(Step::Verdict(Verdict::Opaque(text()))) };
        let made = Maker { family: self.family, names: self.sets.names, kind, to };
        let map = match (&to.address, &to.port) {
            (Some(Expression::Map { .. }), Some(Expression::Map { .. })) => None,
            (Some(map @ Expression::Map { .. }), _) => Some((map, Place::Address)),
            (_, Some(map @ Expression::Map { .. })) => Some((map, Place::Port)),
            (address, port) => {
                let verdict = made.verdict(address.as_ref(), port.as_ref());
                return self.steps.push(Step::Verdict(verdict.unwrap_or_else(|| Verdict::Opaque(text()))));
            }
        };
        let Some((Expression::Map { key, data }, place)) = map else {
            return self.steps.push(Step::Verdict(Verdict::Opaque(text())));
        };
        let parts = key.parts();
        let key = match self.key(parts, data, true) {
            Ok(key) => key,
            Err(otherwise) => return self.otherwise(otherwise, text),
        };
        let map = self.sets.translations(data, &key.parts, |value| match place {
            Place::Address => made.verdict(value, to.port.as_ref()),
            Place::Port => made.verdict(to.address.as_ref(), value),
        });
        self.verdict_of(key, map, text);
    }

    /// The verdict that a map has for a key.
    pub(super) fn verdict_of(&mut self, key: Key, map: Option<Arc<Set<Verdict>>>, text: impl Fn() -> String) {
        let Some(map) = map else { return self.steps.push(Step::Verdict(Verdict::Opaque(text()))) };
        key.needs.iter().for_each(|protocol| self.needs(Some(*protocol)));
        let fields = key.fields();
        if !fields.is_empty() {
            return self.steps.push(Step::VerdictOf { key: fields, map });
        }
        // All of the key is known here.
        match map.elements.first() {
            _ if map.opaque.is_some() => self.steps.push(Step::Verdict(Verdict::Opaque(text()))),
            Some(element) if element.uncertain => self.steps.push(Step::Verdict(Verdict::Opaque(text()))),
            Some(element) if element.data == Verdict::Continue => {}
            Some(element) => self.steps.push(Step::Verdict(element.data.clone())),
            None => self.test(Test::Never),
        }
    }
}

/// What a map is for.
enum Place {
    /// Perhaps with the port.
    Address,
    Port,
}

/// Makes verdicts of values.
struct Maker<'a> {
    family: Family,
    names: &'a Names,
    kind: NatKind,
    to: &'a NatTo,
}

impl Maker<'_> {
    fn verdict(&self, address: Option<&Expression>, port: Option<&Expression>) -> Option<Verdict> {
        let (address, port) = match (address, port) {
            (Some(Expression::Concat(parts)), None) => match &parts[..] {
                [address, port] => (Some(address), Some(port)),
                _ => return None,
            },
            both => both,
        };
        let to = match (self.kind, address) {
            (NatKind::Masquerade, None) => config::NatTo::Masquerade,
            (NatKind::Redirect, None) => config::NatTo::Redirect,
            (NatKind::Masquerade | NatKind::Redirect, Some(_)) => return None,
            (_, None) if self.to.prefix => return None,
            (_, None) => config::NatTo::Addresses(None),
            (_, Some(address)) if self.to.prefix => config::NatTo::Prefix(self.prefix(address)?),
            (_, Some(address)) => {
                let (first, last) = self.numbers(address, Kind::Address(self.family))?;
                config::NatTo::Addresses(Some((self.address(first)?, self.address(last)?)))
            }
        };
        let ports = match port {
            None => None,
            Some(port) => {
                let (first, last) = self.numbers(port, Kind::Number(16))?;
                Some(PortRange { first: u16::try_from(first).ok()?, last: u16::try_from(last).ok()? })
            }
        };
        let NatTo { random, fully_random, persistent, .. } = *self.to;
        Some(Verdict::Nat(config::Nat { to, ports, base: None, random, fully_random, persistent }.into()))
    }

    fn numbers(&self, expression: &Expression, kind: Kind) -> Option<(u128, u128)> {
        match value::value(expression, kind, self.names)? {
            Value::Range { first, last } => Some((first, last)),
            Value::Name(_) => None,
        }
    }

    /// nft_nat_setup_netmap takes for the network what the first and the last address have in common.
    fn prefix(&self, expression: &Expression) -> Option<Prefix> {
        let (first, last) = self.numbers(expression, Kind::Address(self.family))?;
        let host = first ^ last;
        let is_network = host & host.wrapping_add(1) == 0 && first & host == 0;
        let length = u32::from(self.family.bits()).checked_sub(128 - host.leading_zeros())?;
        Prefix::new(self.address(first)?, u8::try_from(length).ok()?).filter(|_| is_network)
    }

    fn address(&self, bits: u128) -> Option<IpAddr> {
        Some(match self.family {
            Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits).ok()?).into(),
            Family::V6 => Ipv6Addr::from_bits(bits).into(),
        })
    }
}
