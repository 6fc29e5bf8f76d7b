//! What rules ask of a packet's connection, as libxt_conntrack and libxt_state write it.

use std::fmt;

use shunt_policy::Family;
use shunt_policy::config::{ConnectionState, Side};

use super::super::text::decimal;
use super::values::{AddressMask, Range};

/// One option of `-m conntrack`, or that of `-m state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionTest {
    /// `--ctstate`: any of them.
    CtState(States),
    /// `--state`, which is the same.
    State(States),
    /// `--ctproto`
    Protocol(u8),
    /// `--ctorigsrc`, `--ctorigdst`, `--ctreplsrc`, `--ctrepldst`
    Address { of: End, address: AddressMask },
    /// `--ctorigsrcport` and so on.
    Port { of: End, range: Range },
    /// `--ctstatus`: any of them.
    Status(Statuses),
    /// `--ctdir REPLY`
    Direction { reply: bool },
}

/// One end of a tuple of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    pub reply: bool,
    pub side: Side,
}

/// Bits of [`ConnectionState`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct States(pub u16);

/// Bits of `enum ip_conntrack_status`; without any it is `NONE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statuses(pub u16);

/// In the order in which libxt_conntrack prints them.
const STATES: [(&str, u16); 7] = [
    ("INVALID", ConnectionState::INVALID),
    ("NEW", ConnectionState::NEW),
    ("RELATED", ConnectionState::RELATED),
    ("ESTABLISHED", ConnectionState::ESTABLISHED),
    ("UNTRACKED", ConnectionState::UNTRACKED),
    ("SNAT", ConnectionState::SNAT),
    ("DNAT", ConnectionState::DNAT),
];

/// `IPS_EXPECTED`, `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`
const STATUSES: [(&str, u16); 4] = [("EXPECTED", 1), ("SEEN_REPLY", 2), ("ASSURED", 4), ("CONFIRMED", 8)];

const ENDS: [(&str, End); 4] = [
    ("origsrc", End { reply: false, side: Side::Source }),
    ("origdst", End { reply: false, side: Side::Destination }),
    ("replsrc", End { reply: true, side: Side::Source }),
    ("repldst", End { reply: true, side: Side::Destination }),
];

impl ConnectionTest {
    pub(super) fn parse(module: &str, option: &str, argument: &str, family: Family) -> Option<Self> {
        let option = match (module, option.strip_prefix("--ct")) {
            ("state", _) if option == "--state" => return words(argument, &STATES[..5]).map(States).map(Self::State),
            ("conntrack", Some(option)) => option,
            _ => return None,
        };
        Some(match option {
            "state" => ConnectionTest::CtState(States(words(argument, &STATES)?)),
            "proto" => ConnectionTest::Protocol(decimal(argument)?),
            "status" if argument == "NONE" => ConnectionTest::Status(Statuses(0)),
            "status" => ConnectionTest::Status(Statuses(words(argument, &STATUSES)?)),
            "dir" if argument == "REPLY" => ConnectionTest::Direction { reply: true },
            "dir" if argument == "ORIGINAL" => ConnectionTest::Direction { reply: false },
            _ => match option.strip_suffix("port") {
                Some(end) => ConnectionTest::Port { of: End::of(end)?, range: Range::parse(argument)? },
                None => {
                    ConnectionTest::Address { of: End::of(option)?, address: AddressMask::or_host(argument, family)? }
                }
            },
        })
    }
}

impl End {
    fn of(word: &str) -> Option<Self> {
        ENDS.iter().find(|(known, _)| *known == word).map(|(_, end)| *end)
    }

    fn word(self) -> &'static str {
        ENDS.iter().find(|(_, end)| *end == self).map_or("", |(word, _)| word)
    }
}

fn words(text: &str, known: &[(&str, u16)]) -> Option<u16> {
    let bit = |word: &str| known.iter().find(|(known, _)| *known == word).map(|(_, bit)| *bit);
    text.split(',').try_fold(0, |bits, word| Some(bits | bit(word)?))
}

fn list(f: &mut fmt::Formatter<'_>, bits: u16, known: &[(&str, u16)]) -> fmt::Result {
    let words = known.iter().filter(|(_, bit)| bits & bit != 0);
    words.enumerate().try_for_each(|(at, (word, _))| write!(f, "{}{word}", if at == 0 { "" } else { "," }))
}

impl fmt::Display for ConnectionTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionTest::CtState(states) => write!(f, "--ctstate {states}"),
            ConnectionTest::State(states) => write!(f, "--state {states}"),
            ConnectionTest::Protocol(number) => write!(f, "--ctproto {number}"),
            ConnectionTest::Address { of, address } if address.is_host() => {
                write!(f, "--ct{} {}", of.word(), address.host())
            }
            ConnectionTest::Address { of, address } => write!(f, "--ct{} {address}", of.word()),
            ConnectionTest::Port { of, range } => write!(f, "--ct{}port {range}", of.word()),
            ConnectionTest::Status(statuses) => write!(f, "--ctstatus {statuses}"),
            ConnectionTest::Direction { reply: true } => f.write_str("--ctdir REPLY"),
            ConnectionTest::Direction { reply: false } => f.write_str("--ctdir ORIGINAL"),
        }
    }
}

impl fmt::Display for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, self.0, &STATES)
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("NONE") } else { list(f, self.0, &STATUSES) }
    }
}
