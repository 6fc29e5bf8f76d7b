//! Rules, statement by statement.

use shunt_policy::Family;
use shunt_policy::config::{Action, Field, Hook, Match, Mss, MssLimit, Step, Test, TtlChange, Value, Verdict};

use super::looked::{self, TCP};
use super::sets::Sets;
use super::value::{self, Kind, MarkOf};
use crate::mirror::netfilter::nft::{self, Effect, Expression, Rule, Statement};

/// One rule on its way into the common form.
pub(super) struct Lowering<'a, 'b> {
    pub(super) family: Family,
    pub(super) hook: Hook,
    /// Its chain is of type nat.
    pub(super) nat: bool,
    pub(super) sets: &'a mut Sets<'b>,
    pub(super) steps: Vec<Step>,
    /// What came before lets only packets through that have ports.
    pub(super) has_ports: bool,
}

impl<'a, 'b> Lowering<'a, 'b> {
    pub(super) fn of(family: Family, hook: Hook, nat: bool, sets: &'a mut Sets<'b>) -> Self {
        Lowering { family, hook, nat, sets, steps: Vec::new(), has_ports: false }
    }

    pub(super) fn rule(mut self, rule: &Rule) -> Vec<Step> {
        for (at, statement) in rule.statements.iter().enumerate() {
            self.statement(statement, at + 1 == rule.statements.len());
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
            Statement::Nat { kind, family, to, .. } => self.nat(*kind, family.as_deref(), to.as_ref(), text),
            Statement::Notrack => self.steps.push(Step::Do(Action::Untrack)),
            Statement::Other { effect, .. } => self.steps.push(match effect {
                Effect::Test => one(Test::Opaque(text())),
                Effect::ConnectionTest => one(Test::Connection(text())),
                // What an xt match or target is, nft does not print in full.
                Effect::Connection | Effect::Xt => Step::Do(Action::Connection(text())),
                // It shows what the kernel has counted.
                Effect::NamedCounter => Step::Do(Action::Nothing),
                Effect::Action | Effect::Update(_) | Effect::Unknown => Step::Do(Action::Opaque(text())),
                Effect::Verdict => Step::Verdict(Verdict::Opaque(text())),
            }),
        }
    }

    pub(super) fn test(&mut self, test: Test) {
        self.steps.push(one(test));
    }

    /// What must hold before a field can be looked at.
    pub(super) fn needs(&mut self, protocol: Option<u8>) {
        let Some(protocol) = protocol else { return };
        self.test(Test::protocol(protocol));
        self.has_ports |= looked::has_ports(protocol.into());
    }

    fn verdict_map(&mut self, key: &Expression, data: &Expression, is_last: bool, text: impl Fn() -> String) {
        let parts = key.parts();
        let key = match self.key(parts, data, true) {
            Ok(key) => key,
            Err(otherwise) => return self.otherwise(otherwise, text),
        };
        let map = self.sets.verdicts(data, &key.parts, is_last);
        self.verdict_of(key, map, text);
    }

    fn setting(&mut self, key: &Expression, value: &Expression, text: impl Fn() -> String) {
        let action = match key {
            Expression::Meta(key) if key == "mark" => return self.set_mark(value, text),
            Expression::Ct { key, direction: None } if key == "mark" => return self.set_connection_mark(value, text),
            Expression::Ct { .. } => return self.steps.push(Step::Do(Action::Connection(text()))),
            _ if speaks_of_connections(value) => return self.steps.push(Step::Do(Action::Connection(text()))),
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
        let opaque = |text: &dyn Fn() -> String| {
            let unknown = if speaks_of_connections(value) { Action::Connection } else { Action::Opaque };
            Step::Do(unknown(text()))
        };
        if let Expression::Map { key, data } = value {
            let parts = key.parts();
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
            Some((MarkOf::Connection, bits)) => {
                self.needs_connection();
                let (take, flip) = (bits.keep as u32, bits.flip as u32);
                Step::Do(Action::RestoreMark { clear: u32::MAX, take, flip })
            }
            Some((_, bits)) => Step::Do(Action::Mark { clear: !(bits.keep as u32), flip: bits.flip as u32 }),
            None => opaque(&text),
        };
        self.steps.push(step);
    }

    /// nft_ct_set_eval, which passes over packets without a connection.
    fn set_connection_mark(&mut self, value: &Expression, text: impl Fn() -> String) {
        let Some((of, bits)) = value::of_mark(value, self.sets.names) else {
            return self.steps.push(Step::Do(Action::Connection(text())));
        };
        let (keep, flip) = (bits.keep as u32, bits.flip as u32);
        let action = match of {
            MarkOf::Nothing => Action::CtMark { clear: u32::MAX, flip },
            MarkOf::Packet => Action::SaveMark { clear: u32::MAX, take: keep, flip },
            MarkOf::Connection => {
                self.needs_connection();
                Action::CtMark { clear: !keep, flip }
            }
        };
        self.steps.push(Step::Do(action));
    }

    /// Reading a field of a connection ends the rule where there is none (nft_ct_get_eval).
    fn needs_connection(&mut self) {
        self.test(Test::of(Field::CtDirection, [Value::Range { first: 0, last: 1 }]));
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
