//! Which tuple (`get_unique_tuple`, `nf_nat_l4proto_unique_tuple`).

use std::net::IpAddr;

use shunt_policy::connection::{Manip, Range, Tuple};

use super::address;

/// `NF_NAT_MAX_ATTEMPTS` and `NF_NAT_HARDER_THRESH`
const MAX_ATTEMPTS: u32 = 128;
pub(super) const HARDER: u32 = MAX_ATTEMPTS / 4;

/// Where a tuple has to find room.
pub(super) trait Space {
    /// `nf_nat_used_tuple`: whether the answers to this tuple would look like another connection's packets.
    fn is_used(&mut self, tuple: &Tuple) -> bool;

    /// `nf_nat_used_tuple_harder`, so many attempts before the end: a closed connection may have to go.
    fn is_used_harder(&mut self, tuple: &Tuple, left: u32) -> bool;

    /// Whether the answers to this tuple come to us.
    fn is_ours(&self, tuple: &Tuple) -> bool;

    /// `find_appropriate_src`: what this source was mapped to before, within the range.
    fn mapped(&self, tuple: &Tuple, range: &Range) -> Option<Tuple>;

    fn random(&mut self) -> u16;
}

/// The tuple of the packet behind the translation. It may be used for all that: then every one was tried that the kernel would try, or
/// the range leaves no choice.
pub(super) fn unique(tuple: &Tuple, manip: Manip, range: &Range, space: &mut impl Space) -> Tuple {
    let random = range.random || range.fully_random;
    if manip == Manip::Source && !random {
        if is_in_range(tuple, range) {
            if !space.is_used(tuple) {
                return *tuple;
            }
        } else if let Some(mapped) = space.mapped(tuple, range)
            && !space.is_used(&mapped)
        {
            return mapped;
        }
    }
    let mut chosen = *tuple;
    if let Some(addresses) = range.addresses {
        let address = address::choose(tuple, manip, addresses, range.persistent);
        *match manip {
            Manip::Source => &mut chosen.source.address,
            Manip::Destination => &mut chosen.destination.address,
        } = address;
    }
    if !random {
        let keeps = match range.ports {
            None => !space.is_used(&chosen),
            Some(ports) => {
                range.base.is_none()
                    && is_port_in(&chosen, manip, ports)
                    && (ports.0 == ports.1 || !space.is_used(&chosen))
            }
        };
        if keeps {
            return chosen;
        }
    }
    search(chosen, manip, range, space)
}

/// `nf_in_range`: of the source.
pub(super) fn is_in_range(tuple: &Tuple, range: &Range) -> bool {
    let address: IpAddr = tuple.source.address;
    range.addresses.is_none_or(|(first, last)| first <= address && address <= last)
        && range.ports.is_none_or(|ports| is_port_in(tuple, Manip::Source, ports))
}

/// `l4proto_in_range`
fn is_port_in(tuple: &Tuple, manip: Manip, (first, last): (u16, u16)) -> bool {
    let port = match (tuple.protocol, manip) {
        (1 | 58, _) | (6 | 17 | 33 | 47 | 132 | 136, Manip::Source) => tuple.source.port,
        (6 | 17 | 33 | 47 | 132 | 136, Manip::Destination) => tuple.destination.port,
        _ => return true,
    };
    first <= port && port <= last
}

/// `nf_nat_l4proto_unique_tuple`
fn search(tuple: Tuple, manip: Manip, range: &Range, space: &mut impl Space) -> Tuple {
    let Some((first, size)) = candidates(&tuple, manip, range) else { return tuple };
    let random = range.random || range.fully_random;
    let port = port_of(&tuple, manip);
    let mut offset = match range.base {
        Some(base) => port.wrapping_sub(base),
        None if random || manip == Manip::Source => space.random(),
        None => 0,
    };
    // Where the kernel would take any, we take one of those whose answers come to us.
    let is_free_choice = range.base.is_none() && (random || manip == Manip::Source);
    let mut attempts = size.min(MAX_ATTEMPTS);
    let mut last = with_port(&tuple, manip, first);
    loop {
        let mut tried = 0;
        for step in 0..size {
            let at = u32::from(offset.wrapping_add(step as u16)) % size;
            let candidate = with_port(&tuple, manip, first.wrapping_add(at as u16));
            if is_free_choice && !space.is_ours(&candidate) {
                continue;
            }
            last = candidate;
            if !space.is_used_harder(&candidate, attempts - tried) {
                return candidate;
            }
            tried += 1;
            if tried == attempts {
                break;
            }
        }
        // With fewer of ours than attempts, each of them was tried.
        if tried < attempts || attempts >= size || attempts < 16 {
            return last;
        }
        attempts /= 2;
        offset = space.random();
    }
}

/// The first port and how many; `None` where no port can be chosen.
fn candidates(tuple: &Tuple, manip: Manip, range: &Range) -> Option<(u16, u32)> {
    let span = |first: u16, last: u16| (first.min(last), u32::from(first.abs_diff(last)) + 1);
    match (tuple.protocol, range.ports) {
        (1 | 58, None) => Some((0, 65536)),
        (1 | 58 | 6 | 17 | 33 | 132 | 136, Some((first, last))) => Some(span(first, last)),
        (6 | 17 | 33 | 132 | 136, None) if manip == Manip::Source => Some(match tuple.source.port {
            0..512 => span(1, 511),
            512..1024 => span(600, 1023),
            _ => span(1024, 65535),
        }),
        // GRE's key is PPTP's, which is the kernel's.
        _ => None,
    }
}

fn port_of(tuple: &Tuple, manip: Manip) -> u16 {
    match (tuple.protocol, manip) {
        (1 | 58, _) | (_, Manip::Source) => tuple.source.port,
        (_, Manip::Destination) => tuple.destination.port,
    }
}

fn with_port(tuple: &Tuple, manip: Manip, port: u16) -> Tuple {
    let mut tuple = *tuple;
    match (tuple.protocol, manip) {
        (1 | 58, _) | (_, Manip::Source) => tuple.source.port = port,
        (_, Manip::Destination) => tuple.destination.port = port,
    }
    tuple
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
