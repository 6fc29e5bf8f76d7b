//! Native tables of nftables: from nft's words to the common form, with the kernel's meaning (`net/netfilter/nft_*.c`).
//!
//! nft does not print what a rule asks first because of what it asks then (`tcp dport 22`: is it TCP?), so that is added again here.
//! A field that a packet does not have ends the rule, whatever the relation (`NFT_BREAK`).

mod looked;
mod sets;
mod value;

use shunt_policy::Family;
use shunt_policy::config::{
    Action, BaseChain, ChainPolicy, ChainRule, CounterSlot, Field, Hook, Match, Mss, MssLimit, Origin, Source, Step,
    Test, TtlChange, UserChain, Value, Verdict,
};

use super::targets;
use crate::mirror::netfilter::nft::{
    self, Effect, Expression, NatKind, Relation, Rule, Ruleset, Statement, TableFamily,
};
use looked::{Looked, TCP};
use sets::Sets;
use value::Kind;

/// A ruleset in the common form.
pub(super) struct Native {
    pub(super) chains: Vec<super::Lowered>,
    pub(super) unevaluated: Vec<Unevaluated>,
}

/// Something that packets could pass and that is not in the common form.
pub(super) struct Unevaluated {
    pub(super) families: Vec<Family>,
    /// At these interfaces; empty is "at any".
    pub(super) devices: Vec<String>,
    pub(super) direction: Direction,
    pub(super) place: Origin,
    /// Its rules, or what else it consists of.
    pub(super) parts: Vec<Origin>,
    /// For the operator.
    pub(super) why: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// Asks packets that come in there.
    In,
    /// Asks packets that leave there.
    Out,
}

pub(super) fn chains(ruleset: &Ruleset) -> Native {
    let mut native = Native { chains: Vec::new(), unevaluated: Vec::new() };
    for table in &ruleset.tables {
        let families: &[Family] = match table.family {
            TableFamily::Ip => &[Family::V4],
            TableFamily::Ip6 => &[Family::V6],
            TableFamily::Inet | TableFamily::Netdev => &Family::BOTH,
            // Routed packets pass neither.
            TableFamily::Bridge | TableFamily::Arp => continue,
        };
        for object in &table.unknown {
            native.leave(families, table, object, &[], Direction::In, "what it does is not known");
        }
        for flowtable in &table.flowtables {
            let text = format!("flowtable {}", flowtable.name);
            native.leave(families, table, &text, &flowtable.devices, Direction::In, "a flowtable forwards by itself");
        }
        for family in families {
            let mut sets = Sets::new(table, &ruleset.names);
            for chain in &table.chains {
                let Some(base) = &chain.base else { continue };
                let hook = match base.hook {
                    nft::Hook::Prerouting => Hook::Prerouting,
                    nft::Hook::Forward => Hook::Forward,
                    nft::Hook::Postrouting => Hook::Postrouting,
                    _ => continue,
                };
                let chain = base_chain(*family, hook, table, chain, base, &mut sets);
                let table = format!("nftables {table}");
                native.chains.push(super::Lowered { chain, nat: base.kind == "nat", table });
            }
        }
        for chain in &table.chains {
            let Some(base) = &chain.base else { continue };
            let (direction, why) = match &base.hook {
                nft::Hook::Prerouting | nft::Hook::Forward | nft::Hook::Postrouting => continue,
                // Forwarded packets do not pass them.
                nft::Hook::Input | nft::Hook::Output => continue,
                nft::Hook::Egress => (Direction::Out, "chains at the egress of a device are not mirrored"),
                nft::Hook::Ingress => (Direction::In, "chains at the ingress of a device are not mirrored"),
                nft::Hook::Other(_) => (Direction::In, "a hook that is not known"),
            };
            if chain.rules.is_empty() && !base.drops {
                continue;
            }
            native.leave(families, table, &format!("chain {}", chain.name), &base.devices, direction, why);
            if let Some(left) = native.unevaluated.last_mut() {
                let place = &left.place.text;
                left.parts = chain.rules.iter().map(|rule| origin(place, rule)).collect();
                if base.drops {
                    left.parts.push(Origin::new(Source::Nftables, format!("{place} policy drop")));
                }
            }
        }
    }
    native
}

impl Native {
    fn leave(
        &mut self,
        families: &[Family],
        table: &nft::Table,
        what: &str,
        devices: &[String],
        direction: Direction,
        why: &'static str,
    ) {
        let place = Origin::new(Source::Nftables, format!("{table} {what}"));
        let (families, devices) = (families.to_vec(), devices.to_vec());
        self.unevaluated.push(Unevaluated { families, devices, direction, parts: vec![place.clone()], place, why });
    }
}

/// The chain, and the user chains that it leads to.
fn base_chain(
    family: Family,
    hook: Hook,
    table: &nft::Table,
    chain: &nft::Chain,
    base: &nft::Base,
    sets: &mut Sets<'_>,
) -> BaseChain {
    let mut lower = |chain: &nft::Chain| -> Vec<ChainRule> {
        let place = format!("{table} chain {}", chain.name);
        let rules = chain.rules.iter().map(|rule| ChainRule {
            steps: Lowering::of(family, hook, sets).rule(rule),
            counter: CounterSlot::default(),
            origin: origin(&place, rule),
        });
        rules.collect()
    };
    let rules = lower(chain);
    let mut user: Vec<UserChain> = Vec::new();
    let mut open = leads_to(&rules);
    while let Some(name) = open.pop() {
        if user.iter().any(|chain| chain.name == name) {
            continue;
        }
        let Some(chain) = table.chain(&name) else { continue };
        let rules = lower(chain);
        open.extend(leads_to(&rules));
        user.push(UserChain { name, rules });
    }
    let policy = if base.drops { ChainPolicy::Drop } else { ChainPolicy::Accept };
    let name = format!("{table} chain {}", chain.name);
    BaseChain { family, hook, priority: base.priority, unordered: false, name, rules, policy, user }
}

fn leads_to(rules: &[ChainRule]) -> Vec<String> {
    rules.iter().flat_map(|rule| &rule.steps).flat_map(targets).cloned().collect()
}

fn origin(place: &str, rule: &Rule) -> Origin {
    Origin::new(Source::Nftables, format!("{place}: {rule}"))
}

/// One rule on its way into the common form.
struct Lowering<'a, 'b> {
    family: Family,
    hook: Hook,
    sets: &'a mut Sets<'b>,
    steps: Vec<Step>,
    /// What came before lets only packets through that have ports.
    has_ports: bool,
}

impl<'a, 'b> Lowering<'a, 'b> {
    fn of(family: Family, hook: Hook, sets: &'a mut Sets<'b>) -> Self {
        Lowering { family, hook, sets, steps: Vec::new(), has_ports: false }
    }

    fn rule(mut self, rule: &Rule) -> Vec<Step> {
        for (at, statement) in rule.statements.iter().enumerate() {
            let is_last = rule.statements[at + 1..].iter().all(|rest| matches!(rest, Statement::Counter));
            self.statement(statement, is_last && at + 1 == rule.statements.len());
        }
        self.steps
    }

    fn statement(&mut self, statement: &Statement, is_last: bool) {
        let text = || statement.to_string();
        match statement {
            Statement::Match { left, relation, right } => self.matching(left, *relation, right, text),
            Statement::Counter => self.steps.push(Step::Count),
            Statement::Set { key, value } => self.setting(key, value, text),
            // An expression behind it is taken next: the verdict is what each expression leaves (nft_do_chain).
            Statement::Verdict(nft::Verdict::Continue) => {}
            Statement::Verdict(verdict) => self.steps.push(Step::Verdict(value::verdict(verdict))),
            Statement::VerdictMap { key, data } => self.verdict_map(key, data, is_last, text),
            // nft does not print for which packets of an ip table a `tcp reset` is meant: all are the kernel's.
            Statement::Reject(_) => self.steps.push(Step::Verdict(Verdict::Reject)),
            Statement::Nat { kind, family, .. } => match family.as_deref() {
                // nft_nat_inet_eval, nft_masq and nft_redir are asked about packets of their family only.
                Some("ip") if self.family == Family::V6 => self.test(Test::Never),
                Some("ip6") if self.family == Family::V4 => self.test(Test::Never),
                _ => {
                    let masquerade = *kind == NatKind::Masquerade;
                    self.steps.push(Step::Verdict(Verdict::Nat { masquerade }));
                }
            },
            Statement::Notrack => self.steps.push(Step::Do(Action::Nothing)),
            Statement::Other { effect, .. } => self.steps.push(match effect {
                Effect::Test => one(Test::Opaque(text())),
                Effect::ConnectionTest => one(Test::Connection(text())),
                Effect::Connection => Step::Do(Action::Connection(text())),
                // It shows what the kernel has counted.
                Effect::NamedCounter => Step::Do(Action::Nothing),
                Effect::Action | Effect::Update(_) | Effect::Xt | Effect::Unknown => Step::Do(Action::Opaque(text())),
                Effect::Verdict => Step::Verdict(Verdict::Opaque(text())),
            }),
        }
    }

    fn test(&mut self, test: Test) {
        self.steps.push(one(test));
    }

    /// What must hold before a field can be looked at.
    fn needs(&mut self, protocol: Option<u8>) {
        let Some(protocol) = protocol else { return };
        self.test(Test::protocol(protocol));
        self.has_ports |= looked::has_ports(protocol.into());
    }

    fn matching(&mut self, left: &Expression, relation: Relation, right: &Expression, text: impl Fn() -> String) {
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
                    return self.test(Test::Opaque(text()));
                };
                self.needs(needs);
                if field == Field::Protocol && !not && mask == u128::MAX {
                    self.has_ports |= values.all(|protocol| looked::has_ports(protocol));
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
        let Some(set) = self.sets.set(right, &key.parts) else { return self.test(Test::Opaque(text())) };
        key.needs.iter().for_each(|protocol| self.needs(Some(*protocol)));
        self.steps.push(Step::Match(Match { not, test: Test::In { key: key.fields(), set } }));
    }

    fn otherwise(&mut self, otherwise: Otherwise, text: impl Fn() -> String) {
        self.test(match otherwise {
            Otherwise::Never => Test::Never,
            Otherwise::Connection => Test::Connection(text()),
            Otherwise::Opaque => Test::Opaque(text()),
        });
    }

    fn verdict_map(&mut self, key: &Expression, data: &Expression, is_last: bool, text: impl Fn() -> String) {
        let parts = match key {
            Expression::Concat(parts) => parts.as_slice(),
            one => std::slice::from_ref(one),
        };
        let key = match self.key(parts, data, true) {
            Ok(key) => key,
            Err(otherwise) => return self.otherwise(otherwise, text),
        };
        let Some(map) = self.sets.verdicts(data, &key.parts, is_last) else {
            return self.steps.push(Step::Verdict(Verdict::Opaque(text())));
        };
        key.needs.iter().for_each(|protocol| self.needs(Some(*protocol)));
        let fields = key.fields();
        if !fields.is_empty() {
            return self.steps.push(Step::VerdictOf { key: fields, map });
        }
        // All of the key is known here.
        match map.elements.first() {
            _ if map.opaque.is_some() => self.steps.push(Step::Verdict(Verdict::Opaque(text()))),
            Some(element) if element.uncertain => self.steps.push(Step::Verdict(Verdict::Opaque(text()))),
            Some(element) if element.data == Verdict::Continue => {}
            Some(element) => self.steps.push(Step::Verdict(element.data.clone())),
            None => self.test(Test::Never),
        }
    }

    fn setting(&mut self, key: &Expression, value: &Expression, text: impl Fn() -> String) {
        if matches!(key, Expression::Ct { .. }) || speaks_of_connections(value) {
            return self.steps.push(Step::Do(Action::Connection(text())));
        }
        let action = match key {
            Expression::Meta(key) if key == "mark" => return self.set_mark(value, text),
            // Which band of a queue it takes; queues of the operator's are the kernel's anyway.
            Expression::Meta(key) if key == "priority" && constant(value) => Some(Action::Nothing),
            Expression::Payload { protocol, field } => {
                let other_family = match protocol.as_str() {
                    "ip" => self.family == Family::V6,
                    "ip6" => self.family == Family::V4,
                    _ => false,
                };
                if other_family {
                    return self.test(Test::Never);
                }
                let names = self.sets.names;
                let number = |kind| value::number(value, kind, names).and_then(|number| u8::try_from(number).ok());
                match (protocol.as_str(), field.as_str()) {
                    ("ip" | "ip6", "dscp") => {
                        number(Kind::PlainDscp).map(|point| Action::Tos { clear: 0xfc, flip: point << 2 })
                    }
                    ("ip" | "ip6", "ecn") => number(Kind::Ecn).map(|ecn| Action::Tos { clear: 0x03, flip: ecn }),
                    ("ip", "ttl") | ("ip6", "hoplimit") => {
                        number(Kind::Number(8)).map(|ttl| Action::Ttl(TtlChange::Set(ttl)))
                    }
                    _ => None,
                }
            }
            Expression::TcpOption { name, field: Some(field) } if name == "maxseg" && field == "size" => {
                let to = match value {
                    Expression::Rt { key, .. } if key == "mtu" => Some(MssLimit::PathMtu),
                    value => value::number(value, Kind::Number(16), self.sets.names)
                        .and_then(|bytes| u16::try_from(bytes).ok())
                        .map(MssLimit::Bytes),
                };
                // A packet that is not TCP ends the rule (nft_tcp_header_pointer).
                self.needs(Some(TCP));
                to.map(|to| Action::Mss(Mss { to, adds: false }))
            }
            _ => None,
        };
        self.steps.push(Step::Do(action.unwrap_or_else(|| Action::Opaque(text()))));
    }

    fn set_mark(&mut self, value: &Expression, text: impl Fn() -> String) {
        let opaque = |text: &dyn Fn() -> String| Step::Do(Action::Opaque(text()));
        if let Expression::Map { key, data } = value {
            let parts = match &**key {
                Expression::Concat(parts) => parts.as_slice(),
                one => std::slice::from_ref(one),
            };
            let key = match self.key(parts, data, true) {
                Ok(key) => key,
                Err(otherwise) => return self.otherwise(otherwise, text),
            };
            let fields = key.fields();
            let Some(map) = self.sets.marks(data, &key.parts).filter(|_| !fields.is_empty()) else {
                return self.steps.push(opaque(&text));
            };
            key.needs.iter().for_each(|protocol| self.needs(Some(*protocol)));
            return self.steps.push(Step::Do(Action::MarkOf { key: fields, map }));
        }
        let step = match value::of_mark(value, self.sets.names) {
            Some(bits) => Step::Do(Action::Mark { clear: !(bits.keep as u32), flip: bits.flip as u32 }),
            None => opaque(&text),
        };
        self.steps.push(step);
    }
}

/// The key of a set or map.
struct Key {
    needs: Vec<u8>,
    parts: Vec<Looked>,
}

impl Key {
    fn fields(&self) -> Vec<Field> {
        let fields = self.parts.iter().filter_map(|part| match part {
            Looked::Field { field, .. } => Some(*field),
            _ => None,
        });
        fields.collect()
    }
}

/// Why there is no key.
enum Otherwise {
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
    Set(std::sync::Arc<shunt_policy::config::Set<()>>),
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
    fn key(&mut self, parts: &[Expression], set: &Expression, positive: bool) -> Result<Key, Otherwise> {
        let mut key = Key { needs: Vec::new(), parts: Vec::new() };
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
                looked => {
                    if let Looked::Field { needs: Some(protocol), .. } = &looked
                        && !key.needs.contains(protocol)
                    {
                        key.needs.push(*protocol);
                    }
                    key.parts.push(looked);
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

    /// What is asked of a field of this kind; `None` if we do not know.
    fn asked(&mut self, kind: Kind, bits: value::Bits, relation: Relation, right: &Expression) -> Option<Asked> {
        let not = matches!(relation, Relation::NotEqual);
        let names = self.sets.names;
        let field_mask = kind.mask();
        match relation {
            Relation::Any | Relation::NoneOf => {
                let flags = value::number(right, kind, names).filter(|flags| *flags != 0 && bits.is_plain())?;
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
        if bits.is_plain() && field_mask == u128::MAX {
            if let Expression::Reference(_) | Expression::Set(_) = right {
                let set = self.sets.set(right, &[Looked::Field { needs: None, field: Field::Mark, kind }])?;
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

fn one(test: Test) -> Step {
    Step::Match(Match { not: false, test })
}

fn constant(value: &Expression) -> bool {
    matches!(value, Expression::Number(_) | Expression::Symbol(_))
}

fn speaks_of_connections(value: &Expression) -> bool {
    match value {
        Expression::Ct { .. } => true,
        Expression::Binary(_, left, right) => speaks_of_connections(left) || speaks_of_connections(right),
        Expression::Map { key, .. } => speaks_of_connections(key),
        Expression::Concat(parts) => parts.iter().any(speaks_of_connections),
        _ => false,
    }
}
