//! Statements: the parts of a rule, in the order in which the kernel takes them.

use std::fmt;

use super::expression::{Expression, Operator};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Statement {
    Match {
        left: Expression,
        relation: Relation,
        right: Expression,
    },
    /// One of the rule's own.
    Counter,
    Set {
        key: Expression,
        value: Expression,
    },
    Verdict(Verdict),
    VerdictMap {
        key: Expression,
        data: Expression,
    },
    /// The text behind `reject`.
    Reject(String),
    /// The family is told in inet tables.
    Nat {
        kind: NatKind,
        family: Option<String>,
        /// `None` if there is more to it than we know.
        to: Option<NatTo>,
        text: String,
    },
    Notrack,
    /// What is never evaluated: its text, and what that means for a packet that comes to it.
    Other {
        effect: Effect,
        text: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// One of these bits at least.
    Any,
    /// None of these bits.
    NoneOf,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Accept,
    Drop,
    Continue,
    Return,
    Jump(String),
    Goto(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NatKind {
    Source,
    Destination,
    Masquerade,
    Redirect,
}

/// What stands behind `snat to`, `masquerade to` and the like: values, or maps that have some.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatTo {
    /// From a map it may be a concatenation of address and port.
    pub address: Option<Expression>,
    pub port: Option<Expression>,
    pub random: bool,
    pub fully_random: bool,
    pub persistent: bool,
    /// `prefix to`: only the network is another one.
    pub prefix: bool,
}

/// What a statement that we do not evaluate does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Lets the packet go on, or not, by a count that the kernel keeps: limit, quota.
    Test,
    /// The same of connection tracking: ct count.
    ConnectionTest,
    /// Tells connection tracking something: ct helper, ct timeout, ct expectation.
    Connection,
    /// Counts under a name of its own.
    NamedCounter,
    /// Something else than forwarding, and on with the rule: log, dup.
    Action,
    /// Adds to a set, or takes from it; the set's name.
    Update(String),
    /// Ends the rule: queue, fwd, synproxy.
    Verdict,
    /// A match or target of iptables, arguments hidden.
    Xt,
    /// Anything.
    Unknown,
}

impl Relation {
    fn word(self) -> &'static str {
        match self {
            Relation::Equal => "==",
            Relation::NotEqual => "!=",
            Relation::Less => "<",
            Relation::LessOrEqual => "<=",
            Relation::Greater => ">",
            Relation::GreaterOrEqual => ">=",
            Relation::Any => "",
            Relation::NoneOf => "!",
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Match { left, relation, right } => matching(f, left, *relation, right),
            Statement::Counter => f.write_str("counter"),
            Statement::Set { key, value } => {
                write!(f, "{key} set ")?;
                value.write(f, key, key)
            }
            Statement::Verdict(verdict) => write!(f, "{verdict}"),
            Statement::VerdictMap { key, data } => {
                write!(f, "{key} vmap ")?;
                data.write(f, key, key)
            }
            Statement::Reject(how) if how.is_empty() => f.write_str("reject"),
            Statement::Reject(how) => write!(f, "reject with {how}"),
            Statement::Notrack => f.write_str("notrack"),
            Statement::Nat { text, .. } | Statement::Other { text, .. } => f.write_str(text),
        }
    }
}

/// `==` is left out where nothing else could be meant (`relational_expr_print` of nft).
fn matching(f: &mut fmt::Formatter<'_>, left: &Expression, relation: Relation, right: &Expression) -> fmt::Result {
    if let Expression::Binary(Operator::And, flags, mask) = left
        && flags.has_flags()
        && !matches!(**mask, Expression::Binary(..))
        && (relation == Relation::Equal || relation == Relation::NotEqual)
        && right.is_constant()
    {
        write!(f, "{flags} {}", if relation == Relation::NotEqual { "!= " } else { "" })?;
        right.write(f, flags, flags)?;
        f.write_str(" / ")?;
        return mask.write(f, flags, flags);
    }
    write!(f, "{left} ")?;
    let explicit = match left {
        Expression::Binary(..) => true,
        _ => left.has_flags() && right.is_constant(),
    };
    if explicit && relation != Relation::Any || !matches!(relation, Relation::Equal | Relation::Any) {
        write!(f, "{} ", relation.word())?;
    }
    right.write(f, left, left)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Continue => f.write_str("continue"),
            Verdict::Return => f.write_str("return"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}
