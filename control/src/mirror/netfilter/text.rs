//! How the tools write addresses, protocols and strings, and how to read these.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr};

/// An address as `inet_ntop` of the C library writes it: other than Rust, it writes the last 32 bits of an IPv4-compatible IPv6
/// address with dots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inet(pub IpAddr);

impl fmt::Display for Inet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V6(address) if is_v4_compatible(address) => {
                let [.., a, b, c, d] = address.octets();
                write!(f, "::{a}.{b}.{c}.{d}")
            }
            address => write!(f, "{address}"),
        }
    }
}

/// Zero but for its last 32 bits, which are more than 16.
fn is_v4_compatible(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    (1 << 16..1 << 32).contains(&bits)
}

/// An IP protocol, by number or by name as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protocol {
    pub number: u8,
    name: Option<&'static str>,
}

impl Protocol {
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(number) = decimal(text) {
            return Some(Protocol { number, name: None });
        }
        let (number, name) = PROTOCOLS.iter().find(|(_, name)| *name == text)?;
        Some(Protocol { number: *number, name: Some(name) })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.number),
        }
    }
}

/// `/etc/protocols` of Debian, and the names that iptables knows without it (`xtables_chain_protos`).
const PROTOCOLS: [(u8, &str); 57] = [
    (1, "icmp"),
    (2, "igmp"),
    (3, "ggp"),
    (4, "ipencap"),
    (5, "st"),
    (6, "tcp"),
    (8, "egp"),
    (9, "igp"),
    (12, "pup"),
    (17, "udp"),
    (20, "hmp"),
    (22, "xns-idp"),
    (27, "rdp"),
    (29, "iso-tp4"),
    (33, "dccp"),
    (36, "xtp"),
    (37, "ddp"),
    (38, "idpr-cmtp"),
    (41, "ipv6"),
    (43, "ipv6-route"),
    (44, "ipv6-frag"),
    (45, "idrp"),
    (46, "rsvp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (57, "skip"),
    (58, "ipv6-icmp"),
    (58, "icmpv6"),
    (59, "ipv6-nonxt"),
    (60, "ipv6-opts"),
    (73, "rspf"),
    (81, "vmtp"),
    (88, "eigrp"),
    (89, "ospf"),
    (93, "ax.25"),
    (94, "ipip"),
    (97, "etherip"),
    (98, "encap"),
    (103, "pim"),
    (108, "ipcomp"),
    (112, "vrrp"),
    (115, "l2tp"),
    (124, "isis"),
    (132, "sctp"),
    (133, "fc"),
    (135, "mobility-header"),
    (135, "ipv6-mh"),
    (135, "mh"),
    (136, "udplite"),
    (137, "mpls-in-ip"),
    (138, "manet"),
    (139, "hip"),
    (140, "shim6"),
    (141, "wesp"),
    (142, "rohc"),
    (143, "ethernet"),
];

/// A number without sign or leading zeros.
pub fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    digits.then(|| text.parse().ok()).flatten()
}

/// `0x1f`, `31`
pub fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => hexadecimal(hex),
        None => decimal(text),
    }
}

/// Hexadecimal digits without `0x`.
pub fn hexadecimal(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// Whether something prints as the text, and nothing else. Allocates nothing.
pub fn prints_as(what: &impl fmt::Display, text: &str) -> bool {
    let mut rest = Expected(text);
    write!(rest, "{what}").is_ok() && rest.0.is_empty()
}

struct Expected<'a>(&'a str);

impl fmt::Write for Expected<'_> {
    fn write_str(&mut self, printed: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(printed).ok_or(fmt::Error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_the_c_library_writes_them() {
        for text in ["192.0.2.1", "2001:db8::1", "::", "::1", "::ffff", "::1.2.3.4", "::0.1.0.0", "::ffff:192.0.2.1"] {
            assert_eq!(Inet(text.parse().unwrap()).to_string(), text);
        }
    }

    #[test]
    fn protocols_by_number_and_by_name() {
        for text in ["6", "tcp", "ipv6-icmp", "icmpv6", "0", "255"] {
            assert_eq!(Protocol::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "256", "06", "+6", "all", "TCP"] {
            assert_eq!(Protocol::parse(text), None, "{text}");
        }
    }
}
