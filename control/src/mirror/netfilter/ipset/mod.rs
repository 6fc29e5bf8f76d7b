//! What `ipset save` prints, in types, and printed back as it was.
//!
//! Nothing here fails: what is not understood stays as text, and a set that has such a part says so.

mod icmp;
mod parse;

use std::fmt;
use std::net::IpAddr;

use shunt_policy::{Family, Mac};

use super::text::{Inet, Protocol};
use icmp::Icmp;
pub use parse::parse;

/// All sets, those that list others last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IpSets {
    pub sets: Vec<IpSet>,
    /// Lines of which we cannot say to which set they belong: no set is to be believed then.
    pub unread: Vec<String>,
    /// The output ends in the middle of a line: it must not be believed.
    pub cut: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IpSet {
    pub name: String,
    /// `hash:ip`, `list:set`, ...
    pub kind: String,
    /// In the order in which they are printed.
    pub options: Vec<SetOption>,
    pub members: Vec<Member>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SetOption {
    Family(Family),
    /// Of what is stored; 32 or 128 at most.
    Netmask(u8),
    Bitmask(IpAddr),
    /// Of elements added without one, in seconds; 0 is for ever. Only sets with it have elements with a timeout.
    Timeout(u32),
    Counters,
    Comment,
    SkbInfo,
    ForceAdd,
    /// How large it may be, and how it is stored: `hashsize`, `maxelem`, `bucketsize`, `initval`, `size`, and `range` of a bitmap.
    Storage {
        name: &'static str,
        value: Box<str>,
    },
    Opaque(Box<str>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub key: Key,
    pub options: Vec<MemberOption>,
}

/// What an element consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Key {
    Net(Net),
    NetPort(Net, Port),
    /// hash:ip,port,ip
    NetPortNet(Net, Port, Net),
    /// bitmap:port
    Number(u16),
    Mac(Mac),
    /// list:set: the name of another set.
    Set(Box<str>),
    Opaque(Box<str>),
}

/// An address, or a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Net {
    pub address: IpAddr,
    /// That of an address if none is printed.
    pub length: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port {
    pub protocol: Protocol,
    pub what: PortNumber,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortNumber {
    Number(u16),
    Icmp(Icmp),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberOption {
    /// Seconds until it goes; 0 is never.
    Timeout(u32),
    /// What would match by a larger prefix does not.
    Nomatch,
    Packets(u64),
    Bytes(u64),
    Comment(Box<str>),
    /// `skbmark`, `skbprio`, `skbqueue`: what `-j SET --map-set` gives to a packet.
    Skb {
        name: &'static str,
        value: Box<str>,
    },
}

impl IpSets {
    /// `None` if there is no such set, or more than one, as there seem to be if a name has spaces.
    pub fn set(&self, name: &str) -> Option<&IpSet> {
        let mut named = self.sets.iter().filter(|set| set.name == name);
        named.next().filter(|_| named.next().is_none())
    }

    /// The same without what the kernel counts by itself, so that two readings differ only if somebody has changed something.
    pub fn without_counts(mut self) -> Self {
        let options = self.sets.iter_mut().flat_map(|set| &mut set.members).flat_map(|member| &mut member.options);
        for option in options {
            match option {
                // Only whether there is one is of interest.
                MemberOption::Timeout(seconds) => *seconds = (*seconds).min(1),
                MemberOption::Packets(count) | MemberOption::Bytes(count) => *count = 0,
                MemberOption::Nomatch | MemberOption::Comment(_) | MemberOption::Skb { .. } => {}
            }
        }
        self
    }
}

impl IpSet {
    /// Whether nothing of it is opaque.
    pub fn is_understood(&self) -> bool {
        !self.options.iter().any(|option| matches!(option, SetOption::Opaque(_)))
            && !self.members.iter().any(|member| matches!(member.key, Key::Opaque(_)))
    }
}

impl PortNumber {
    /// As the kernel compares it: the port, or type and code of ICMP in one number.
    pub fn number(self) -> u16 {
        match self {
            PortNumber::Number(number) => number,
            PortNumber::Icmp(icmp) => u16::from_be_bytes([icmp.kind, icmp.code]),
        }
    }
}

impl fmt::Display for IpSets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for set in &self.sets {
            writeln!(f, "{set}")?;
            set.members.iter().try_for_each(|member| writeln!(f, "add {} {member}", set.name))?;
        }
        self.unread.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// The line that creates it.
impl fmt::Display for IpSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "create {} {}", self.name, self.kind)?;
        self.options.iter().try_for_each(|option| write!(f, " {option}"))
    }
}

impl fmt::Display for SetOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetOption::Family(Family::V4) => f.write_str("family inet"),
            SetOption::Family(Family::V6) => f.write_str("family inet6"),
            SetOption::Netmask(length) => write!(f, "netmask {length}"),
            SetOption::Bitmask(mask) => write!(f, "bitmask {}", Inet(*mask)),
            SetOption::Timeout(seconds) => write!(f, "timeout {seconds}"),
            SetOption::Counters => f.write_str("counters"),
            SetOption::Comment => f.write_str("comment"),
            SetOption::SkbInfo => f.write_str("skbinfo"),
            SetOption::ForceAdd => f.write_str("forceadd"),
            SetOption::Storage { name, value } => write!(f, "{name} {value}"),
            SetOption::Opaque(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        self.options.iter().try_for_each(|option| write!(f, " {option}"))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Net(net) => write!(f, "{net}"),
            Key::NetPort(net, port) => write!(f, "{net},{port}"),
            Key::NetPortNet(net, port, other) => write!(f, "{net},{port},{other}"),
            Key::Number(number) => write!(f, "{number}"),
            Key::Mac(Mac([a, b, c, d, e, g])) => write!(f, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{g:02X}"),
            Key::Set(text) | Key::Opaque(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Inet(self.address))?;
        if self.length == Family::of(self.address).bits() { Ok(()) } else { write!(f, "/{}", self.length) }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            PortNumber::Number(number) => write!(f, "{}:{number}", self.protocol),
            PortNumber::Icmp(icmp) => write!(f, "{}:{icmp}", self.protocol),
        }
    }
}

impl fmt::Display for MemberOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemberOption::Timeout(seconds) => write!(f, "timeout {seconds}"),
            MemberOption::Nomatch => f.write_str("nomatch"),
            MemberOption::Packets(packets) => write!(f, "packets {packets}"),
            MemberOption::Bytes(bytes) => write!(f, "bytes {bytes}"),
            MemberOption::Comment(text) => write!(f, "comment \"{text}\""),
            MemberOption::Skb { name, value } => write!(f, "{name} {value}"),
        }
    }
}

#[cfg(test)]
mod tests;
