//! What `MASQUERADE`, `SNAT`, `DNAT`, `REDIRECT` and `NETMAP` are told, as `print_range` of libxt_NAT writes it.

use std::fmt;
use std::net::IpAddr;

use shunt_policy::Family;
use shunt_policy::config::PortRange;

use super::super::text::{Inet, decimal};
use super::values::AddressMask;

/// One of the targets of table nat that translate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nat {
    Range {
        target: NatTarget,
        /// Inclusive; `None` of MASQUERADE and REDIRECT, and of the others that are told only ports.
        addresses: Option<(IpAddr, IpAddr)>,
        ports: Option<PortRange>,
        /// `ADDRESS:FIRST-LAST/BASE`
        base: Option<u16>,
        flags: NatFlags,
    },
    /// `NETMAP --to`
    Netmap(AddressMask),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NatTarget {
    Masquerade,
    Snat,
    Dnat,
    Redirect,
}

/// `--random`, `--random-fully`, `--persistent`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatFlags {
    pub random: bool,
    pub fully_random: bool,
    pub persistent: bool,
}

impl NatTarget {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "MASQUERADE" => NatTarget::Masquerade,
            "SNAT" => NatTarget::Snat,
            "DNAT" => NatTarget::Dnat,
            "REDIRECT" => NatTarget::Redirect,
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            NatTarget::Masquerade => "MASQUERADE",
            NatTarget::Snat => "SNAT",
            NatTarget::Dnat => "DNAT",
            NatTarget::Redirect => "REDIRECT",
        }
    }

    /// The option with the range, and whether there may be addresses in it.
    fn option(self) -> (&'static str, bool) {
        match self {
            NatTarget::Masquerade | NatTarget::Redirect => ("--to-ports", false),
            NatTarget::Snat => ("--to-source", true),
            NatTarget::Dnat => ("--to-destination", true),
        }
    }
}

impl Nat {
    /// The target of this name, and its options. `None` if it is another one, or told something that we do not know.
    pub(super) fn parse(name: &str, options: &str, family: Family) -> Option<Self> {
        let mut words = options.split(' ').filter(|word| !word.is_empty()).peekable();
        if name == "NETMAP" {
            let network = words.next().filter(|word| *word == "--to").and_then(|_| words.next())?;
            return words.next().is_none().then_some(Nat::Netmap(AddressMask::parse(network, family)?));
        }
        let target = NatTarget::of(name)?;
        let (option, has_addresses) = target.option();
        let range = words.next_if_eq(&option).map(|_| words.next());
        let (addresses, ports, base) = match range {
            None => (None, None, None),
            Some(range) if has_addresses => to(range?, family)?,
            Some(range) => {
                let (ports, base) = ports(range?)?;
                (None, Some(ports), base)
            }
        };
        let mut flags = NatFlags::default();
        for word in words {
            match word {
                "--random" => flags.random = true,
                "--random-fully" => flags.fully_random = true,
                "--persistent" => flags.persistent = true,
                _ => return None,
            }
        }
        Some(Nat::Range { target, addresses, ports, base, flags })
    }
}

type To = (Option<(IpAddr, IpAddr)>, Option<PortRange>, Option<u16>);

/// `192.0.2.1-192.0.2.5:80-90/1000`, `[2001:db8::1]:80`, `2001:db8::1`, `:80`
fn to(text: &str, family: Family) -> Option<To> {
    let (addresses, of_ports) = match family {
        Family::V4 => text.split_once(':').map_or((text, None), |(addresses, ports)| (addresses, Some(ports))),
        Family::V6 => match text.strip_prefix('[') {
            Some(rest) => {
                let (addresses, ports) = rest.split_once("]:")?;
                (addresses, Some(ports))
            }
            None if text.starts_with(':') && !text.starts_with("::") => ("", Some(&text[1..])),
            None => (text, None),
        },
    };
    let address = |text: &str| text.parse::<IpAddr>().ok().filter(|address| Family::of(*address) == family);
    let addresses = match addresses.split_once('-') {
        _ if addresses.is_empty() => None,
        Some((first, last)) => Some((address(first)?, address(last)?)),
        None => Some((address(addresses)?, address(addresses)?)),
    };
    let Some(of_ports) = of_ports else { return Some((addresses, None, None)) };
    let (ports, base) = ports(of_ports)?;
    Some((addresses, Some(ports), base))
}

/// `80`, `80-90`, `80-90/1000`
fn ports(text: &str) -> Option<(PortRange, Option<u16>)> {
    let (range, base) = match text.split_once('/') {
        Some((range, base)) => (range, Some(decimal(base)?)),
        None => (text, None),
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    Some((PortRange { first: decimal(first)?, last: decimal(last)? }, base))
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (target, addresses, ports, base, flags) = match *self {
            Nat::Netmap(network) => return write!(f, "NETMAP --to {network}"),
            Nat::Range { target, addresses, ports, base, flags } => (target, addresses, ports, base, flags),
        };
        f.write_str(target.word())?;
        let (option, has_addresses) = target.option();
        if addresses.is_some() || ports.is_some() {
            write!(f, " {option} ")?;
        }
        if let Some((first, last)) = addresses {
            let (open, close) = if ports.is_some() && first.is_ipv6() { ("[", "]") } else { ("", "") };
            write!(f, "{open}{}", Inet(first))?;
            if first != last {
                write!(f, "-{}", Inet(last))?;
            }
            f.write_str(close)?;
        }
        if let Some(PortRange { first, last }) = ports {
            write!(f, "{}{first}", if has_addresses { ":" } else { "" })?;
            if first != last {
                write!(f, "-{last}")?;
            }
            base.map_or(Ok(()), |base| write!(f, "/{base}"))?;
        }
        let NatFlags { random, fully_random, persistent } = flags;
        for (is_set, word) in [(random, "--random"), (fully_random, "--random-fully"), (persistent, "--persistent")] {
            if is_set {
                write!(f, " {word}")?;
            }
        }
        Ok(())
    }
}
