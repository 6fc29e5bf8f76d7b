//! Matches: what is asked of which field, and the keys of sets and maps.

use std::sync::Arc;

use shunt_policy::Family;
use shunt_policy::config::{Field, Match, Set, Step, Test, Value};

use super::looked::{self, Looked};
use super::lowering::Lowering;
use super::sets::{self, Part};
use super::value::{self, Kind};
use crate::mirror::netfilter::nft::{Expression, Relation};

impl Lowering<'_, '_> {
    pub(super) fn matching(
        &mut self,
        left: &Expression,
        relation: Relation,
        right: &Expression,
        text: impl Fn() -> String,
    ) {
        if let Expression::Concat(parts) = left {
            return self.concatenation(parts, relation, right, text);
        }
        let (looked, bits) = self.look(left);
        match looked {
            Looked::Never => self.test(Test::Never),
            Looked::Connection => self.test(Test::Connection(text())),
            Looked::AddressType(side) => match self.address_types(relation, right) {
                Some((not, types)) => {
                    self.steps.push(Step::Match(Match { not, test: Test::AddressType { of: side, types } }));
                }
                None => self.test(Test::Opaque(text())),
            },
            Looked::Opaque { needs } => {
                self.needs(needs);
                self.test(Test::Opaque(text()));
            }
            Looked::Constant { value, kind } => match self.asked(kind, bits, relation, right) {
                Some(Asked { not, mask, values: Asking::Values(values) }) => {
                    let holds = values.iter().any(|one| value::holds(one, value & mask));
                    if holds == not {
                        self.test(Test::Never);
                    }
                }
                Some(Asked { not, values: Asking::Set(set), .. }) if set.opaque.is_none() => {
                    let found = set.elements.iter().find(|element| value::holds(&element.key[0], value));
                    match found {
                        Some(element) if element.uncertain => self.test(Test::Opaque(text())),
                        found if found.is_some() == not => self.test(Test::Never),
                        _ => {}
                    }
                }
                _ => self.test(Test::Opaque(text())),
            },
            Looked::Field { needs, field, kind } => {
                let Some(Asked { not, mask, values }) = self.asked(kind, bits, relation, right) else {
                    self.needs(needs);
                    let unknown = if field.is_of_connection() { Test::Connection } else { Test::Opaque };
                    return self.test(unknown(text()));
                };
                self.needs(needs);
                if field == Field::Protocol && !not && mask == u128::MAX {
                    self.has_ports |= values.all(looked::has_ports);
                }
                let test = match values {
                    Asking::Values(values) => Test::Field { field, mask, values },
                    Asking::Set(set) => Test::In { key: vec![field], set },
                };
                self.steps.push(Step::Match(Match { not, test }));
            }
        }
    }

    /// `fib daddr type`: which types of addresses are asked for.
    fn address_types(&self, relation: Relation, right: &Expression) -> Option<(bool, u16)> {
        let not = match relation {
            Relation::Equal => false,
            Relation::NotEqual => true,
            _ => return None,
        };
        let values = sets::anonymous(right, Kind::AddressType, self.sets.names)?;
        let mut types = 0;
        for value in values {
            let Value::Range { first, last } = value else { return None };
            (first..=last.min(15)).for_each(|kind| types |= 1 << kind);
        }
        Some((not, types))
    }

    /// `ip saddr . tcp dport`
    fn concatenation(
        &mut self,
        parts: &[Expression],
        relation: Relation,
        right: &Expression,
        text: impl Fn() -> String,
    ) {
        let not = match relation {
            Relation::Equal => false,
            Relation::NotEqual => true,
            _ => return self.test(Test::Opaque(text())),
        };
        let key = match self.key(parts, right, !not) {
            Ok(key) => key,
            Err(otherwise) => return self.otherwise(otherwise, text),
        };
        let Some(set) = self.sets.set(right, &key.parts) else {
            let of_connection = key.fields.iter().any(|field| field.is_of_connection());
            let unknown = if of_connection { Test::Connection } else { Test::Opaque };
            return self.test(unknown(text()));
        };
        key.needs.iter().for_each(|protocol| self.needs(Some(*protocol)));
        self.steps.push(Step::Match(Match { not, test: Test::In { key: key.fields(), set } }));
    }

    pub(super) fn otherwise(&mut self, otherwise: Otherwise, text: impl Fn() -> String) {
        self.test(match otherwise {
            Otherwise::Never => Test::Never,
            Otherwise::Connection => Test::Connection(text()),
            Otherwise::Opaque => Test::Opaque(text()),
        });
    }
}

/// `IPS_EXPECTED`, `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`, `IPS_SRC_NAT`, `IPS_DST_NAT`: the others tell of the kernel's work
/// on the connection.
const KNOWN_STATUS: u128 = 0x3f;

/// The key of a set or map.
pub(super) struct Key {
    pub(super) needs: Vec<u8>,
    pub(super) parts: Vec<Part>,
    fields: Vec<Field>,
}

impl Key {
    /// Those of the parts that are not the same for all packets.
    pub(super) fn fields(&self) -> Vec<Field> {
        self.fields.clone()
    }
}

/// Why there is no key.
pub(super) enum Otherwise {
    Never,
    Connection,
    Opaque,
}

/// What is asked of one field.
struct Asked {
    not: bool,
    mask: u128,
    values: Asking,
}

enum Asking {
    Values(Vec<Value>),
    Set(Arc<Set<()>>),
}

impl Asking {
    /// Whether only values can be meant for which this holds; for few of them.
    fn all(&self, holds: impl Fn(u128) -> bool) -> bool {
        let small = |value: &Value| match value {
            Value::Range { first, last } if last - first < 256 => (*first..=*last).all(&holds),
            _ => false,
        };
        match self {
            Asking::Values(values) => values.iter().all(small),
            Asking::Set(set) => set.opaque.is_none() && set.elements.iter().all(|element| small(&element.key[0])),
        }
    }
}

impl Lowering<'_, '_> {
    /// The key of a set or map, where all parts of it can be known. `positive`: only what is found in it counts.
    pub(super) fn key(&mut self, parts: &[Expression], set: &Expression, positive: bool) -> Result<Key, Otherwise> {
        let mut key = Key { needs: Vec::new(), parts: Vec::new(), fields: Vec::new() };
        let is_unknown = |looked: Looked| match looked {
            // Some of its bits are not known.
            Looked::Connection | Looked::Field { kind: Kind::CtStatus, .. } => true,
            _ => false,
        };
        if parts.iter().any(|part| is_unknown(self.look(part).0)) {
            return Err(Otherwise::Connection);
        }
        let ports_by_key = positive && self.protocol_in_key_has_ports(parts, set);
        for part in parts {
            let has_ports = self.has_ports;
            self.has_ports |= ports_by_key;
            let (looked, bits) = self.look(part);
            self.has_ports = has_ports;
            match looked {
                Looked::Never => return Err(Otherwise::Never),
                Looked::Connection => return Err(Otherwise::Connection),
                Looked::Opaque { .. } | Looked::AddressType(_) => return Err(Otherwise::Opaque),
                _ if !bits.is_plain() => return Err(Otherwise::Opaque),
                // The other parts must be there all the same, which nobody asks then.
                Looked::Constant { .. } if !positive => return Err(Otherwise::Opaque),
                // Two bits of a byte are no range.
                Looked::Field { kind: Kind::Ecn, .. } => return Err(Otherwise::Opaque),
                Looked::Field { kind, .. } if self.is_missed(kind, set) => return Err(Otherwise::Opaque),
                Looked::Constant { value, kind } => key.parts.push(Part { kind, fixed: Some(value) }),
                Looked::Field { needs, field, kind } => {
                    key.needs.extend(needs.filter(|protocol| !key.needs.contains(protocol)));
                    key.parts.push(Part { kind, fixed: None });
                    key.fields.push(field);
                }
            }
        }
        Ok(key)
    }

    /// `meta l4proto . th dport`: elements of protocols with ports only, so that it does not matter what `th dport` is in others.
    fn protocol_in_key_has_ports(&mut self, parts: &[Expression], set: &Expression) -> bool {
        let protocol = parts.iter().position(
            |part| matches!(self.look(part), (Looked::Field { field: Field::Protocol, .. }, bits) if bits.is_plain()),
        );
        let Some(protocol) = protocol else { return false };
        let names = self.sets.names;
        self.sets.elements(set).is_some_and(|elements| {
            elements.iter().all(|element| match &element.key {
                Expression::Concat(parts) => parts
                    .get(protocol)
                    .is_some_and(|part| value::number(part, Kind::Protocol, names).is_some_and(looked::has_ports)),
                _ => false,
            })
        })
    }

    /// nft 1.0.6 shifts the DSCP of IPv6 in the wrong byte order before the kernel looks for it in a named set or map, where it is not
    /// found then. Another nft may do better, and the rules do not say which one wrote them.
    fn is_missed(&self, kind: Kind, set: &Expression) -> bool {
        self.family == Family::V6 && matches!(kind, Kind::Dscp) && matches!(set, Expression::Reference(_))
    }

    /// Flags, if we know what becomes of each.
    fn seen(&self, kind: Kind, flags: u128) -> Option<u128> {
        (kind != Kind::CtStatus || flags & !KNOWN_STATUS == 0).then_some(flags)
    }

    /// What is asked of a field of this kind; `None` if we do not know.
    fn asked(&mut self, kind: Kind, bits: value::Bits, relation: Relation, right: &Expression) -> Option<Asked> {
        if self.is_missed(kind, right) {
            return None;
        }
        let not = matches!(relation, Relation::NotEqual);
        let names = self.sets.names;
        let field_mask = kind.mask();
        match relation {
            Relation::Any | Relation::NoneOf => {
                let flags = value::number(right, kind, names).filter(|flags| *flags != 0 && bits.is_plain())?;
                let flags = self.seen(kind, flags)?;
                let values = Asking::Values(vec![Value::one(0u8)]);
                return Some(Asked { not: relation == Relation::Any, mask: flags, values });
            }
            Relation::Less | Relation::LessOrEqual | Relation::Greater | Relation::GreaterOrEqual => {
                if !bits.is_plain() || field_mask != u128::MAX {
                    return None;
                }
                let values = value::compared(right, kind, relation, names)?;
                return Some(Asked { not: false, mask: u128::MAX, values: Asking::Values(values) });
            }
            Relation::Equal | Relation::NotEqual => {}
        }
        if bits.is_plain() && field_mask == u128::MAX && kind != Kind::CtStatus {
            if let Expression::Reference(_) | Expression::Set(_) = right {
                let set = self.sets.set(right, &[Part { kind, fixed: None }])?;
                let named = matches!(right, Expression::Reference(_));
                let plain = set.opaque.is_none() && set.elements.iter().all(|element| !element.uncertain);
                let values = if named || !plain {
                    Asking::Set(set)
                } else {
                    Asking::Values(set.elements.iter().map(|element| element.key[0].clone()).collect())
                };
                return Some(Asked { not, mask: u128::MAX, values });
            }
            let values = sets::anonymous(right, kind, names)?;
            return Some(Asked { not, mask: u128::MAX, values: Asking::Values(values) });
        }
        self.seen(kind, bits.keep)?;
        // (field & keep) ^ flip is one of these, so field & keep is one of these ^ flip.
        let values = match right {
            Expression::Reference(_) => self.sets.certain_values(right, kind)?,
            other => sets::anonymous(other, kind, names)?,
        };
        let mut turned = Vec::new();
        for value in values {
            let Value::Range { first, last } = value else { return None };
            if first != last && bits.flip != 0 {
                return None;
            }
            turned.push(Value::Range { first: first ^ bits.flip, last: last ^ bits.flip });
        }
        Some(Asked { not, mask: bits.keep & field_mask, values: Asking::Values(turned) })
    }
}
