//! What stands behind the options of matches and targets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shunt_policy::config::PortRange;
use shunt_policy::{Family, Prefix};

use super::super::text::{Inet, decimal, number};

/// `192.0.2.0/24`, `192.0.2.0/255.0.255.0`: both as numbers, 32 or 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressMask {
    pub family: Family,
    pub address: u128,
    pub mask: u128,
}

impl AddressMask {
    pub(super) fn parse(text: &str, family: Family) -> Option<Self> {
        let (address, mask) = text.split_once('/')?;
        let mask = match decimal::<u8>(mask) {
            Some(length) if length <= family.bits() => mask_of(length, family),
            Some(_) => return None,
            None => bits_of(mask.parse().ok()?, family)?,
        };
        Some(AddressMask { family, address: bits_of(address.parse().ok()?, family)?, mask })
    }

    /// `192.0.2.1` stands for itself alone.
    pub(super) fn or_host(text: &str, family: Family) -> Option<Self> {
        match text.contains('/') {
            true => AddressMask::parse(text, family),
            false => {
                let address = bits_of(text.parse().ok()?, family)?;
                Some(AddressMask { family, address, mask: mask_of(family.bits(), family) })
            }
        }
    }

    pub(super) fn is_host(self) -> bool {
        self.length() == Some(self.family.bits())
    }

    pub(super) fn host(self) -> Inet {
        Inet(address_of(self.address, self.family))
    }

    /// As a network; `None` if the mask has holes.
    pub fn prefix(self) -> Option<Prefix> {
        Prefix::new(address_of(self.address & self.mask, self.family), self.length()?)
    }

    /// `None` if the mask has holes.
    fn length(self) -> Option<u8> {
        (0..=self.family.bits()).find(|length| mask_of(*length, self.family) == self.mask)
    }
}

impl fmt::Display for AddressMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", Inet(address_of(self.address, self.family)))?;
        match self.length() {
            Some(length) => write!(f, "{length}"),
            None => write!(f, "{}", Inet(address_of(self.mask, self.family))),
        }
    }
}

/// `192.0.2.5-192.0.2.9`, inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressRange {
    pub family: Family,
    pub first: u128,
    pub last: u128,
}

impl AddressRange {
    pub(super) fn parse(text: &str, family: Family) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        let (first, last) = (bits_of(first.parse().ok()?, family)?, bits_of(last.parse().ok()?, family)?);
        Some(AddressRange { family, first, last })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, last] = [self.first, self.last].map(|bits| Inet(address_of(bits, self.family)));
        write!(f, "{first}-{last}")
    }
}

/// `25`, `25:80`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    pub first: u16,
    pub last: u16,
}

impl Range {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        Some(Range { first: decimal(first)?, last: decimal(last)? })
    }

    /// `25,80,100:200`
    pub(super) fn parse_list(text: &str) -> Option<Vec<Self>> {
        text.split(',').map(Range::parse).collect()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.first != self.last { write!(f, ":{}", self.last) } else { Ok(()) }
    }
}

impl From<Range> for PortRange {
    fn from(range: Range) -> Self {
        PortRange { first: range.first, last: range.last }
    }
}

/// `0x1`, `0x1/0xff`: the first for a mask of all ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Masked {
    pub value: u32,
    pub mask: u32,
}

impl Masked {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once('/') {
            None => Some(Masked { value: number(text)?, mask: u32::MAX }),
            Some((value, mask)) => Some(Masked { value: number(value)?, mask: number(mask)? }),
        }
    }
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.value)?;
        if self.mask != u32::MAX { write!(f, "/{:#x}", self.mask) } else { Ok(()) }
    }
}

/// A group of interfaces. A number without mask is printed by the name that `/etc/iproute2/group` has for it, of which we know the
/// one that comes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    Default,
    Masked(Masked),
}

impl Group {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "default" { Some(Group::Default) } else { Masked::parse(text).map(Group::Masked) }
    }

    pub fn masked(self) -> Masked {
        match self {
            Group::Default => Masked { value: 0, mask: u32::MAX },
            Group::Masked(masked) => masked,
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Group::Default => f.write_str("default"),
            Group::Masked(masked) => write!(f, "{masked}"),
        }
    }
}

/// `0x10/0xff`: a TOS byte under a mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MaskedByte {
    pub value: u8,
    pub mask: u8,
}

impl MaskedByte {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (value, mask) = text.split_once('/')?;
        Some(MaskedByte { value: number(value)?.try_into().ok()?, mask: number(mask)?.try_into().ok()? })
    }
}

impl fmt::Display for MaskedByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x}/{:#04x}", self.value, self.mask)
    }
}

/// TCP flags, in their place in the header's byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags(pub u8);

/// In the order in which libxt_tcp prints them, bit 0 first.
const FLAGS: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];

impl Flags {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "NONE" {
            return Some(Flags(0));
        }
        let bit = |word: &str| FLAGS.iter().position(|flag| *flag == word).map(|bit| 1 << bit);
        text.split(',').try_fold(0, |flags, word| Some(flags | bit(word)?)).map(Flags)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = FLAGS.iter().enumerate().filter(|(bit, _)| self.0 & 1 << bit != 0).map(|(_, flag)| *flag);
        f.write_str(words.next().unwrap_or("NONE"))?;
        words.try_for_each(|word| write!(f, ",{word}"))
    }
}

/// `LOCAL,BROADCAST`: bit `n` stands for route type `RTN_*` n.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressTypes(pub u16);

/// By number of `RTN_*` (libxt_addrtype's rtn_names).
const ADDRESS_TYPES: [&str; 12] = [
    "UNSPEC",
    "UNICAST",
    "LOCAL",
    "BROADCAST",
    "ANYCAST",
    "MULTICAST",
    "BLACKHOLE",
    "UNREACHABLE",
    "PROHIBIT",
    "THROW",
    "NAT",
    "XRESOLVE",
];

impl AddressTypes {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bit = |word: &str| ADDRESS_TYPES.iter().position(|known| *known == word).map(|bit| 1 << bit);
        text.split(',').try_fold(0, |types, word| Some(types | bit(word)?)).map(AddressTypes)
    }
}

impl fmt::Display for AddressTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = ADDRESS_TYPES.iter().enumerate().filter(|(bit, _)| self.0 & 1 << bit != 0);
        words.enumerate().try_for_each(|(at, (_, word))| write!(f, "{}{word}", if at == 0 { "" } else { "," }))
    }
}

/// `any`, `8`, `3/4`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpType {
    /// IPv4 only.
    Any,
    Kind {
        kind: u8,
        code: Option<u8>,
    },
}

impl IcmpType {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once('/') {
            None if text == "any" => Some(IcmpType::Any),
            None => Some(IcmpType::Kind { kind: decimal(text)?, code: None }),
            Some((kind, code)) => Some(IcmpType::Kind { kind: decimal(kind)?, code: Some(decimal(code)?) }),
        }
    }
}

impl fmt::Display for IcmpType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IcmpType::Any => f.write_str("any"),
            IcmpType::Kind { kind, code: None } => write!(f, "{kind}"),
            IcmpType::Kind { kind, code: Some(code) } => write!(f, "{kind}/{code}"),
        }
    }
}

fn bits_of(address: IpAddr, family: Family) -> Option<u128> {
    match (address, family) {
        (IpAddr::V4(address), Family::V4) => Some(address.to_bits().into()),
        (IpAddr::V6(address), Family::V6) => Some(address.to_bits()),
        _ => None,
    }
}

fn address_of(bits: u128, family: Family) -> IpAddr {
    match family {
        // Never made with more than 32 bits.
        Family::V4 => Ipv4Addr::from_bits(bits as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

fn mask_of(length: u8, family: Family) -> u128 {
    let host = u32::from(family.bits() - length);
    let ones = match family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    };
    ones & u128::MAX.checked_shl(host).unwrap_or(0)
}
