//! What a rule does with a packet.

use std::fmt;

use shunt_policy::Family;

use super::super::text::{decimal, hexadecimal, number, prints_as};
use super::nat::Nat;
use super::values::{Masked, MaskedByte};
use super::words::Words;

/// Behind `-j` or `-g`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    Accept,
    Drop,
    Return,
    /// A chain of the same table.
    Jump(Box<str>),
    Goto(Box<str>),
    /// The word behind `--reject-with`.
    Reject(Box<str>),
    Mark(MarkChange),
    /// `--set-tos`: clears the bits of the mask and flips those of the value.
    Tos(MaskedByte),
    /// `--set-dscp`: six bits.
    Dscp(u8),
    /// `--ttl-set`, `--ttl-inc`, `--ttl-dec`, and those of HL.
    Ttl(HopChange),
    HopLimit(HopChange),
    Mss(Mss),
    /// `--set-class`
    Classify {
        major: u16,
        minor: u16,
    },
    /// `NOTRACK`, `CT --notrack`
    NoTrack {
        by_ct: bool,
    },
    ConnectionMark(ConnectionMark),
    /// `CONNMARK` and `CT` with anything else, as it was printed.
    Connection(Box<str>),
    Nat(Nat),
    /// `SET`, which changes an ipset: as it was printed.
    Set(Box<str>),
    /// One that we do not know, as it was printed.
    Opaque(Box<str>),
}

/// `--set-xmark` clears the bits of the mask and flips those of the value; it is all that iptables prints of the others, unless the
/// kernel's module is very old.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MarkChange {
    SetXmark { value: u32, mask: u32 },
    SetMark(Masked),
    And(u32),
    Or(u32),
    Xor(u32),
}

/// What `CONNMARK` does with the mark of the connection (`connmark_tg_save`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionMark {
    SetXmark {
        value: u32,
        mask: u32,
    },
    /// From the packet to the connection.
    Save {
        packet: u32,
        connection: u32,
    },
    /// From the connection to the packet.
    Restore {
        packet: u32,
        connection: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HopChange {
    Set(u8),
    Increase(u8),
    Decrease(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mss {
    Set(u16),
    ClampToPmtu,
}

/// Names of targets that take no argument: a chain of that name could not be told from them.
const WITHOUT_ARGUMENT: [&str; 14] = [
    "ACCEPT",
    "DROP",
    "RETURN",
    "QUEUE",
    "NOTRACK",
    "MASQUERADE",
    "REDIRECT",
    "LOG",
    "TRACE",
    "CT",
    "NFQUEUE",
    "REJECT",
    "NFLOG",
    "SYNPROXY",
];

impl Target {
    /// Reads what is left of the line, from `-j` or `-g`; `is_chain` knows the user-defined chains of the table.
    pub(super) fn parse(words: &mut Words, family: Family, is_chain: impl Fn(&str) -> bool) -> Self {
        let start = words.place();
        let read = Target::known(words, family, is_chain);
        words.skip_to_end();
        let text = words.since(start);
        read.filter(|target| prints_as(target, text)).unwrap_or_else(|| Target::Opaque(text.into()))
    }

    fn known(words: &mut Words, family: Family, is_chain: impl Fn(&str) -> bool) -> Option<Self> {
        let goes = words.next()? == "-g";
        let name = words.next()?;
        let place = words.place();
        words.skip_to_end();
        let rest = words.since(place);
        if is_chain(name) {
            let is_clear = rest.is_empty() && !WITHOUT_ARGUMENT.contains(&name);
            return is_clear.then(|| if goes { Target::Goto(name.into()) } else { Target::Jump(name.into()) });
        }
        if goes {
            return None;
        }
        if let Some(nat) = Nat::parse(name, rest, family) {
            return Some(Target::Nat(nat));
        }
        let (option, argument) = rest.split_once(' ').unwrap_or((rest, ""));
        Some(match (name, option) {
            ("ACCEPT", "") => Target::Accept,
            ("DROP", "") => Target::Drop,
            ("RETURN", "") => Target::Return,
            ("REJECT", "--reject-with") => Target::Reject(argument.into()),
            ("MARK", option) => Target::Mark(mark(option, argument)?),
            ("TOS", "--set-tos") => Target::Tos(MaskedByte::parse(argument)?),
            ("DSCP", "--set-dscp") => Target::Dscp(number(argument)?.try_into().ok().filter(|point| *point < 64)?),
            ("TTL", option) => Target::Ttl(hop(option.strip_prefix("--ttl-")?, argument)?),
            ("HL", option) => Target::HopLimit(hop(option.strip_prefix("--hl-")?, argument)?),
            ("TCPMSS", "--set-mss") => Target::Mss(Mss::Set(decimal(argument)?)),
            ("TCPMSS", "--clamp-mss-to-pmtu") => Target::Mss(Mss::ClampToPmtu),
            ("CLASSIFY", "--set-class") => {
                let (major, minor) = argument.split_once(':')?;
                let half = |text| hexadecimal(text)?.try_into().ok();
                Target::Classify { major: half(major)?, minor: half(minor)? }
            }
            ("NOTRACK", "") => Target::NoTrack { by_ct: false },
            ("CT", "--notrack") if argument.is_empty() => Target::NoTrack { by_ct: true },
            ("CT", _) => Target::Connection(words.since(place - 2).into()),
            ("CONNMARK", _) => match connection_mark(option, argument).map(Target::ConnectionMark) {
                Some(target) if prints_as(&target, words.since(place - 2)) => target,
                _ => Target::Connection(words.since(place - 2).into()),
            },
            ("SET", _) => Target::Set(words.since(place - 2).into()),
            _ => return None,
        })
    }
}

fn mark(option: &str, argument: &str) -> Option<MarkChange> {
    Some(match option {
        "--set-xmark" => {
            let (value, mask) = argument.split_once('/')?;
            MarkChange::SetXmark { value: number(value)?, mask: number(mask)? }
        }
        "--set-mark" => MarkChange::SetMark(Masked::parse(argument)?),
        "--and-mark" => MarkChange::And(number(argument)?),
        "--or-mark" => MarkChange::Or(number(argument)?),
        "--xor-mark" => MarkChange::Xor(number(argument)?),
        _ => return None,
    })
}

fn connection_mark(option: &str, argument: &str) -> Option<ConnectionMark> {
    let masks = || {
        let (packet, connection) = argument.strip_prefix("--nfmask ")?.split_once(" --ctmask ")?;
        Some((number(packet)?, number(connection)?))
    };
    Some(match option {
        "--set-xmark" => {
            let (value, mask) = argument.split_once('/')?;
            ConnectionMark::SetXmark { value: number(value)?, mask: number(mask)? }
        }
        "--save-mark" => masks().map(|(packet, connection)| ConnectionMark::Save { packet, connection })?,
        "--restore-mark" => masks().map(|(packet, connection)| ConnectionMark::Restore { packet, connection })?,
        _ => return None,
    })
}

fn hop(how: &str, argument: &str) -> Option<HopChange> {
    let value = decimal(argument)?;
    Some(match how {
        "set" => HopChange::Set(value),
        "inc" => HopChange::Increase(value),
        "dec" => HopChange::Decrease(value),
        _ => return None,
    })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Accept => f.write_str("-j ACCEPT"),
            Target::Drop => f.write_str("-j DROP"),
            Target::Return => f.write_str("-j RETURN"),
            Target::Jump(chain) => write!(f, "-j {chain}"),
            Target::Goto(chain) => write!(f, "-g {chain}"),
            Target::Reject(with) => write!(f, "-j REJECT --reject-with {with}"),
            Target::Mark(change) => write!(f, "-j MARK {change}"),
            Target::Tos(change) => write!(f, "-j TOS --set-tos {change}"),
            Target::Dscp(point) => write!(f, "-j DSCP --set-dscp {point:#04x}"),
            Target::Ttl(change) => write!(f, "-j TTL --ttl-{change}"),
            Target::HopLimit(change) => write!(f, "-j HL --hl-{change}"),
            Target::Mss(Mss::Set(bytes)) => write!(f, "-j TCPMSS --set-mss {bytes}"),
            Target::Mss(Mss::ClampToPmtu) => f.write_str("-j TCPMSS --clamp-mss-to-pmtu"),
            Target::Classify { major, minor } => write!(f, "-j CLASSIFY --set-class {major:04x}:{minor:04x}"),
            Target::NoTrack { by_ct: false } => f.write_str("-j NOTRACK"),
            Target::NoTrack { by_ct: true } => f.write_str("-j CT --notrack"),
            Target::Nat(nat) => write!(f, "-j {nat}"),
            Target::ConnectionMark(change) => write!(f, "-j CONNMARK {change}"),
            Target::Connection(text) | Target::Set(text) | Target::Opaque(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for MarkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MarkChange::SetXmark { value, mask } => write!(f, "--set-xmark {value:#x}/{mask:#x}"),
            MarkChange::SetMark(mark) => write!(f, "--set-mark {mark}"),
            MarkChange::And(bits) => write!(f, "--and-mark {bits:#x}"),
            MarkChange::Or(bits) => write!(f, "--or-mark {bits:#x}"),
            MarkChange::Xor(bits) => write!(f, "--xor-mark {bits:#x}"),
        }
    }
}

impl fmt::Display for ConnectionMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (how, packet, connection) = match self {
            ConnectionMark::SetXmark { value, mask } => return write!(f, "--set-xmark {value:#x}/{mask:#x}"),
            ConnectionMark::Save { packet, connection } => ("save", packet, connection),
            ConnectionMark::Restore { packet, connection } => ("restore", packet, connection),
        };
        write!(f, "--{how}-mark --nfmask {packet:#x} --ctmask {connection:#x}")
    }
}

impl fmt::Display for HopChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HopChange::Set(value) => write!(f, "set {value}"),
            HopChange::Increase(value) => write!(f, "inc {value}"),
            HopChange::Decrease(value) => write!(f, "dec {value}"),
        }
    }
}
