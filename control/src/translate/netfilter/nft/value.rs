//! Constants: from nft's words to numbers.

use std::net::IpAddr;

use shunt_policy::config::{ConnectionState, InterfacePattern, Value, Verdict};
use shunt_policy::{Family, Mac};

use crate::mirror::netfilter::nft::{self, Expression, Names, Operator, Relation, symbols};

/// What the constants mean that are compared with a field.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Kind {
    Address(Family),
    /// Of an interface.
    Name,
    Index,
    Group,
    Mark,
    Protocol,
    IcmpType(Family),
    IcmpCode(Family),
    /// Six bits, as the upper ones of the TOS byte with any lower ones.
    Dscp,
    /// Six bits.
    PlainDscp,
    /// The lower two bits of the TOS byte.
    Ecn,
    TcpFlags,
    Mac,
    /// Of IPv6: the whole length is 40 more.
    PayloadLength,
    EtherType,
    NetfilterFamily,
    PacketType,
    LinkType,
    AddressType,
    Presence,
    /// Of a connection: bits, of which nftables sees fewer than iptables.
    CtState,
    /// Bits, of which we know some.
    CtStatus,
    CtDirection,
    /// Of so many bits.
    Number(u32),
}

/// Length of an IPv6 header in bytes.
const IPV6_HEADER: u128 = 40;
/// Longest name of an interface: `IFNAMSIZ` less the zero.
const LONGEST_NAME: usize = 15;

impl Kind {
    /// Where in the field its bits are.
    pub(super) fn mask(self) -> u128 {
        match self {
            Kind::Ecn => 0x03,
            Kind::CtState => ConnectionState::NFTABLES.into(),
            _ => u128::MAX,
        }
    }

    /// Whether numbers of it can be masked.
    pub(super) fn has_bits(self) -> bool {
        match self {
            Kind::Address(_) | Kind::Mark | Kind::Protocol | Kind::TcpFlags | Kind::Mac | Kind::Number(_) => true,
            kind => kind.is_of_ct_bits(),
        }
    }

    /// Written as flags, as are those of TCP.
    fn has_flags(self) -> bool {
        self == Kind::TcpFlags || self.is_of_ct_bits()
    }

    pub(super) fn is_of_ct_bits(self) -> bool {
        matches!(self, Kind::CtState | Kind::CtStatus)
    }

    fn bits(self) -> u32 {
        match self {
            Kind::Address(Family::V4) | Kind::Index | Kind::Group | Kind::Mark => 32,
            Kind::Address(Family::V6) => 128,
            Kind::Protocol | Kind::IcmpType(_) | Kind::IcmpCode(_) | Kind::TcpFlags => 8,
            Kind::NetfilterFamily | Kind::PacketType => 8,
            Kind::Dscp | Kind::PlainDscp => 6,
            Kind::Ecn => 2,
            Kind::Mac => 48,
            Kind::PayloadLength | Kind::EtherType | Kind::LinkType => 16,
            Kind::AddressType | Kind::CtStatus => 32,
            Kind::CtState => 16,
            Kind::CtDirection => 8,
            Kind::Presence => 1,
            Kind::Name => 0,
            Kind::Number(bits) => bits,
        }
    }

    fn largest(self) -> u128 {
        u128::MAX.checked_shr(128 - self.bits()).unwrap_or_default()
    }

    /// Numbers as they are written, in the form in which the field has them.
    fn in_field(self, first: u128, last: u128) -> Value {
        match self {
            Kind::Dscp => Value::Range { first: first << 2, last: last << 2 | 3 },
            Kind::PayloadLength => Value::Range { first: first + IPV6_HEADER, last: last + IPV6_HEADER },
            _ => Value::Range { first, last },
        }
    }

    /// All that there is, in the form in which the field has it. Names are not numbered.
    pub(super) fn everything(self) -> Option<(u128, u128)> {
        match self.in_field(0, self.largest()) {
            Value::Range { first, last } if self != Kind::Name => Some((first, last)),
            _ => None,
        }
    }
}

/// `(field & keep) ^ flip`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bits {
    pub(super) keep: u128,
    pub(super) flip: u128,
}

impl Bits {
    pub(super) const PLAIN: Bits = Bits { keep: u128::MAX, flip: 0 };

    pub(super) fn is_plain(self) -> bool {
        self == Self::PLAIN
    }

    /// What becomes of it by one operator more. What nft prints of a shift cannot be relied on: it stands for a mask at times.
    pub(super) fn then(self, operator: Operator, right: &Expression, kind: Kind, names: &Names) -> Option<Self> {
        let number = number(right, kind, names)?;
        let Bits { keep, flip } = self;
        Some(match operator {
            Operator::And => Bits { keep: keep & number, flip: flip & number },
            Operator::Or => Bits { keep: keep & !number, flip: flip & !number | number },
            Operator::Xor => Bits { keep, flip: flip ^ number },
            Operator::Left | Operator::Right => return None,
        })
    }
}

/// Of what a value for a mark is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MarkOf {
    Nothing,
    Packet,
    Connection,
}

/// A value for a mark, made of another one or of none.
pub(super) fn of_mark(value: &Expression, names: &Names) -> Option<(MarkOf, Bits)> {
    match value {
        Expression::Meta(key) if key == "mark" => Some((MarkOf::Packet, Bits::PLAIN)),
        Expression::Ct { key, direction: None } if key == "mark" => Some((MarkOf::Connection, Bits::PLAIN)),
        Expression::Binary(operator, left, right) => {
            let (of, bits) = of_mark(left, names)?;
            Some((of, bits.then(*operator, right, Kind::Mark, names)?))
        }
        constant => number(constant, Kind::Mark, names).map(|flip| (MarkOf::Nothing, Bits { keep: 0, flip })),
    }
}

/// One number, as it is written.
pub(super) fn number(expression: &Expression, kind: Kind, names: &Names) -> Option<u128> {
    let number = match expression {
        Expression::Number(number) => Some(u128::from(*number)),
        Expression::Presence(exists) if kind == Kind::Presence => Some(u128::from(*exists)),
        Expression::Symbol(word) => symbol(word, kind, names),
        Expression::List(flags) if kind.has_flags() => {
            flags.iter().try_fold(0, |all, flag| Some(all | number(flag, kind, names)?))
        }
        Expression::Binary(Operator::Or, left, right) if kind.has_flags() => {
            Some(number(left, kind, names)? | number(right, kind, names)?)
        }
        _ => None,
    };
    number.filter(|number| *number <= kind.largest())
}

fn symbol(word: &str, kind: Kind, names: &Names) -> Option<u128> {
    let table = match kind {
        Kind::Address(family) => {
            let address: IpAddr = word.parse().ok()?;
            return match address {
                IpAddr::V4(address) if family == Family::V4 => Some(address.to_bits().into()),
                IpAddr::V6(address) if family == Family::V6 => Some(address.to_bits()),
                _ => None,
            };
        }
        Kind::Mac => return Mac::parse(word).map(|mac| mac.number().into()),
        Kind::Index => return names.interface(word).map(u128::from),
        Kind::Group => return names.group(word).map(u128::from),
        Kind::Mark => return names.mark(word).map(u128::from),
        Kind::Protocol => return names.protocol(word).map(u128::from),
        Kind::IcmpType(Family::V4) => &symbols::ICMP_TYPES,
        Kind::IcmpType(Family::V6) => &symbols::ICMPV6_TYPES,
        Kind::IcmpCode(Family::V4) => &symbols::ICMP_CODES,
        Kind::IcmpCode(Family::V6) => &symbols::ICMPV6_CODES,
        Kind::Dscp | Kind::PlainDscp => &symbols::DSCP,
        Kind::Ecn => &symbols::ECN,
        Kind::TcpFlags => &symbols::TCP_FLAGS,
        Kind::EtherType => &symbols::ETHERTYPES,
        Kind::NetfilterFamily => &symbols::FAMILIES,
        Kind::PacketType => &symbols::PACKET_TYPES,
        Kind::LinkType => &symbols::LINK_TYPES,
        Kind::AddressType => &symbols::ADDRESS_TYPES,
        Kind::CtState => &symbols::CT_STATES,
        Kind::CtStatus => &symbols::CT_STATUS,
        Kind::CtDirection => &symbols::CT_DIRECTIONS,
        Kind::Name | Kind::PayloadLength | Kind::Presence | Kind::Number(_) => return None,
    };
    table.number(word).map(u128::from)
}

/// A value, prefix or range.
pub(super) fn value(expression: &Expression, kind: Kind, names: &Names) -> Option<Value> {
    if kind == Kind::Name {
        let Expression::Symbol(word) = expression else { return None };
        return name(word).map(Value::Name);
    }
    let (first, last) = match expression {
        Expression::Prefix(address, length) => {
            let first = number(address, kind, names)?;
            let host = kind.bits().checked_sub(u32::from(*length))?;
            let hosts = u128::MAX.checked_shr(128 - host).unwrap_or_default();
            (first & !hosts, first | hosts)
        }
        Expression::Range(first, last) => (number(first, kind, names)?, number(last, kind, names)?),
        one => {
            let one = number(one, kind, names)?;
            (one, one)
        }
    };
    (first <= last).then(|| kind.in_field(first, last))
}

/// `wan*` is a start; a star behind a backslash is one of the name.
fn name(word: &str) -> Option<InterfacePattern> {
    let (name, wildcard) = match word.strip_suffix('*') {
        Some(start) if !start.ends_with('\\') => (start.to_owned(), true),
        Some(start) => (format!("{}*", &start[..start.len() - 1]), false),
        None => (word.to_owned(), false),
    };
    literal(&name).filter(|_| wildcard || !name.ends_with('+'))?;
    Some(InterfacePattern(if wildcard { format!("{name}+") } else { name }))
}

/// A name that can be written as it is. One that ends in + would be a pattern.
fn literal(name: &str) -> Option<()> {
    (!name.is_empty() && name.len() <= LONGEST_NAME && !name.contains('\\')).then_some(())
}

/// In a set, where nft 1.0.6 prints a name that ends in a star as it prints a start: what it could be, and whether it is that.
pub(super) fn name_in_set(word: &str, interval: bool) -> Option<(Value, bool)> {
    if !interval {
        // There are no starts in a set without ranges.
        literal(word).filter(|_| !word.ends_with('+'))?;
        return Some((Value::Name(InterfacePattern(word.to_owned())), true));
    }
    let pattern = name(word)?;
    let certain = !word.ends_with('*');
    Some((Value::Name(pattern), certain))
}

/// `< 10`
pub(super) fn compared(right: &Expression, kind: Kind, relation: Relation, names: &Names) -> Option<Vec<Value>> {
    if kind == Kind::Name {
        return None;
    }
    let bound = number(right, kind, names)?;
    let range = match relation {
        Relation::Less => bound.checked_sub(1).map(|last| (0, last)),
        Relation::LessOrEqual => Some((0, bound)),
        Relation::Greater => (bound < kind.largest()).then(|| (bound + 1, kind.largest())),
        Relation::GreaterOrEqual => Some((bound, kind.largest())),
        _ => return None,
    };
    Some(range.map(|(first, last)| kind.in_field(first, last)).into_iter().collect())
}

/// Whether a number is meant by a value. The constants that stand for names are no name at all.
pub(super) fn holds(value: &Value, number: u128) -> bool {
    match value {
        Value::Range { first, last } => (*first..=*last).contains(&number),
        Value::Name(_) => false,
    }
}

pub(super) fn verdict(verdict: &nft::Verdict) -> Verdict {
    match verdict {
        nft::Verdict::Accept => Verdict::Accept,
        nft::Verdict::Drop => Verdict::Drop,
        nft::Verdict::Continue => Verdict::Continue,
        nft::Verdict::Return => Verdict::Return,
        nft::Verdict::Jump(chain) => Verdict::Jump(chain.clone()),
        nft::Verdict::Goto(chain) => Verdict::Goto(chain.clone()),
    }
}
