//! Expressions: what rules look at, and what they compare it with.

use std::fmt;

use super::statement::Verdict;
use super::symbols;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expression {
    /// Host order.
    Number(u64),
    /// An address, an interface or a word: what it means depends on what it is compared with.
    Symbol(String),
    /// `exists`, `missing`
    Presence(bool),
    Prefix(Box<Expression>, u8),
    /// Inclusive.
    Range(Box<Expression>, Box<Expression>),
    /// Flags: `syn,ack`.
    List(Vec<Expression>),
    Concat(Vec<Expression>),
    /// An anonymous set or map.
    Set(Vec<Element>),
    /// `@name`
    Reference(String),
    /// `tcp dport`
    Payload {
        protocol: String,
        field: String,
    },
    /// `@th,16,16`: base, offset and length in bits.
    Raw {
        base: String,
        offset: u64,
        length: u64,
    },
    Meta(String),
    Ct {
        key: String,
        direction: Option<String>,
    },
    Fib {
        result: String,
        flags: Vec<String>,
    },
    Rt {
        key: String,
        family: Option<String>,
    },
    TcpOption {
        name: String,
        field: Option<String>,
    },
    Map {
        key: Box<Expression>,
        data: Box<Expression>,
    },
    Binary(Operator, Box<Expression>, Box<Expression>),
    /// In a verdict map.
    Verdict(Verdict),
    /// Known by its text alone: numgen, jhash, socket, ...
    Told(String),
    /// JSON that we do not know.
    Unknown(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    And,
    Or,
    Xor,
    Left,
    Right,
}

/// One element of a set, or of a map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Element {
    pub key: Expression,
    /// Of a map.
    pub data: Option<Expression>,
    pub comment: Option<String>,
    /// It goes by itself after a while.
    pub timeout: Option<u64>,
    /// It counts, or does something else, when it is found; or there is more to it than we know.
    pub stateful: bool,
}

/// How the constants that are compared with something are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Plain,
    /// `0x` and so many digits.
    Hex(usize),
    /// Names in quotes.
    Quoted,
    Seconds,
    IcmpType(&'static symbols::Symbols),
}

impl Expression {
    /// Of a concatenation each part, else the expression itself.
    pub fn parts(&self) -> &[Expression] {
        match self {
            Expression::Concat(parts) => parts,
            one => std::slice::from_ref(one),
        }
    }

    pub fn payload(&self) -> Option<(&str, &str)> {
        match self {
            Expression::Payload { protocol, field } => Some((protocol, field)),
            _ => None,
        }
    }

    /// Whether `==` and "one of these bits" are two questions.
    pub(super) fn has_flags(&self) -> bool {
        match self {
            Expression::Ct { key, .. } => matches!(key.as_str(), "state" | "status"),
            other => other.payload() == Some(("tcp", "flags")),
        }
    }

    /// Whether all of it is fixed when the rule is written.
    pub(super) fn is_constant(&self) -> bool {
        matches!(self, Expression::Number(_) | Expression::Symbol(_) | Expression::List(_) | Expression::Presence(_))
    }

    /// What of it is looked at first.
    fn base(&self) -> &Expression {
        match self {
            Expression::Binary(_, left, _) => left.base(),
            Expression::Map { data, .. } => data,
            other => other,
        }
    }

    fn style(&self) -> Style {
        match self.base() {
            Expression::Meta(key) | Expression::Ct { key, .. } if key == "mark" => Style::Hex(8),
            Expression::Meta(key) => match key.as_str() {
                "iif" | "oif" | "iifname" | "oifname" | "iifgroup" | "oifgroup" | "iifkind" | "oifkind" | "ibrname"
                | "obrname" | "sdif" | "sdifname" | "time" | "hour" | "day" => Style::Quoted,
                _ => Style::Plain,
            },
            Expression::Ct { key, .. } => match key.as_str() {
                "helper" => Style::Quoted,
                "expiration" => Style::Seconds,
                _ => Style::Plain,
            },
            Expression::Fib { result, .. } if result == "oifname" => Style::Quoted,
            Expression::Told(text) if text.starts_with("osf") => Style::Quoted,
            Expression::Raw { .. } => Style::Hex(0),
            Expression::Payload { protocol, field } => match (protocol.as_str(), field.as_str()) {
                (_, "dscp") => Style::Hex(2),
                ("ether" | "vlan", "type") => Style::Hex(4),
                ("tcp", "flags") => Style::Hex(0),
                ("icmp", "type") => Style::IcmpType(&symbols::ICMP_TYPES),
                ("icmpv6", "type") => Style::IcmpType(&symbols::ICMPV6_TYPES),
                _ => Style::Plain,
            },
            _ => Style::Plain,
        }
    }

    /// Writes it, with its constants as those of `of` are written; data of a map as those of `data`.
    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>, of: &Expression, data: &Expression) -> fmt::Result {
        match self {
            Expression::Number(number) => match of.style() {
                Style::Hex(width) => write!(f, "0x{number:0width$x}"),
                Style::Seconds => f.write_str(&duration(*number)),
                _ => write!(f, "{number}"),
            },
            Expression::Symbol(symbol) => match of.style() {
                Style::Quoted if symbol.parse::<u32>().is_err() => write!(f, "\"{symbol}\""),
                _ => f.write_str(symbol),
            },
            Expression::Range(first, last) => {
                let end = |f: &mut fmt::Formatter<'_>, end: &Expression| match (of.style(), end) {
                    // Words do not stand in ranges.
                    (Style::IcmpType(known), Expression::Symbol(word)) => match known.number(word) {
                        Some(number) => write!(f, "{number}"),
                        None => f.write_str(word),
                    },
                    (Style::Hex(width), Expression::Symbol(word)) => match symbols::DSCP.number(word) {
                        Some(number) => write!(f, "0x{number:0width$x}"),
                        None => f.write_str(word),
                    },
                    _ => end.write(f, of, data),
                };
                end(f, first)?;
                f.write_str("-")?;
                end(f, last)
            }
            Expression::Presence(exists) => f.write_str(if *exists { "exists" } else { "missing" }),
            Expression::Prefix(address, length) => {
                address.write(f, of, data)?;
                write!(f, "/{length}")
            }
            Expression::List(flags) => separated(f, flags, ",", |f, flag| flag.write(f, of, data)),
            Expression::Concat(parts) => {
                let of = match of {
                    Expression::Concat(of) if of.len() == parts.len() => of.iter().collect(),
                    _ => vec![of; parts.len()],
                };
                separated(f, parts.iter().zip(of), " . ", |f, (part, of)| part.write(f, of, data))
            }
            Expression::Set(elements) => {
                f.write_str("{ ")?;
                separated(f, elements, ", ", |f, element| element.write(f, of, data))?;
                f.write_str(" }")
            }
            Expression::Map { key, data: map } => {
                write!(f, "{key} map ")?;
                map.write(f, key, data)
            }
            Expression::Binary(operator, left, right) => {
                let counts_bits = matches!(operator, Operator::Left | Operator::Right);
                match &**left {
                    left @ Expression::Binary(Operator::And | Operator::Or | Operator::Xor, ..) if counts_bits => {
                        f.write_str("(")?;
                        left.write(f, of, data)?;
                        f.write_str(")")?;
                    }
                    left => left.write(f, of, data)?,
                }
                write!(f, " {} ", operator.word())?;
                match &**right {
                    Expression::Number(number) if counts_bits => write!(f, "{number}"),
                    right @ Expression::Binary(..) => {
                        f.write_str("(")?;
                        right.write(f, left, data)?;
                        f.write_str(")")
                    }
                    right => right.write(f, left, data),
                }
            }
            _ => write!(f, "{self}"),
        }
    }
}

impl Element {
    fn write(&self, f: &mut fmt::Formatter<'_>, of: &Expression, data: &Expression) -> fmt::Result {
        self.key.write(f, of, data)?;
        if let Some(timeout) = self.timeout {
            write!(f, " timeout {}", duration(timeout))?;
        }
        if let Some(comment) = &self.comment {
            write!(f, " comment \"{comment}\"")?;
        }
        if let Some(value) = &self.data {
            f.write_str(" : ")?;
            value.write(f, data, data)?;
        }
        Ok(())
    }
}

impl Operator {
    pub fn word(self) -> &'static str {
        match self {
            Operator::And => "&",
            Operator::Or => "|",
            Operator::Xor => "^",
            Operator::Left => "<<",
            Operator::Right => ">>",
        }
    }
}

/// What is looked at. Constants by themselves are written plainly.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Reference(name) => write!(f, "@{name}"),
            Expression::Payload { protocol, field } => write!(f, "{protocol} {field}"),
            Expression::Raw { base, offset, length } => write!(f, "@{base},{offset},{length}"),
            Expression::Meta(key) => match key.as_str() {
                "iif" | "oif" | "iifname" | "oifname" | "iifgroup" | "oifgroup" => f.write_str(key),
                _ => write!(f, "meta {key}"),
            },
            Expression::Ct { key, direction: None } => write!(f, "ct {key}"),
            Expression::Ct { key, direction: Some(direction) } => write!(f, "ct {direction} {key}"),
            Expression::Fib { result, flags } => write!(f, "fib {} {result}", flags.join(" . ")),
            Expression::Rt { key, family: None } => write!(f, "rt {key}"),
            Expression::Rt { key, family: Some(family) } => write!(f, "rt {family} {key}"),
            Expression::TcpOption { name, field: None } => write!(f, "tcp option {name}"),
            Expression::TcpOption { name, field: Some(field) } => write!(f, "tcp option {name} {field}"),
            Expression::Verdict(verdict) => write!(f, "{verdict}"),
            Expression::Told(text) | Expression::Unknown(text) => f.write_str(text),
            Expression::Concat(parts) => separated(f, parts, " . ", |f, part| write!(f, "{part}")),
            other => other.write(f, other.base(), other.base()),
        }
    }
}

fn separated<T>(
    f: &mut fmt::Formatter<'_>,
    items: impl IntoIterator<Item = T>,
    separator: &str,
    mut write: impl FnMut(&mut fmt::Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            f.write_str(separator)?;
        }
        write(f, item)?;
    }
    Ok(())
}

/// `1d2h3m4s`, of seconds (`time_print` of nft).
pub(super) fn duration(seconds: u64) -> String {
    let parts = [(seconds / 86400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let text: String = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}
