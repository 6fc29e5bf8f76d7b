//! From JSON to the AST (`libnftables-json(5)`).
//!
//! An object without what it needs is an error: the output was cut. One with more than we know is kept as unknown.

use std::collections::HashMap;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::told::{
    duplicate, forward, limit, log, meter, nat, quota, rejection, synproxy, told, transparent_proxy, update,
};
use super::{
    Base, Chain, Effect, Element, Expression, Flowtable, Hook, NatKind, NotARuleset, Operator, Relation, Rule, Ruleset,
    Set, Statement, Table, TableFamily, Verdict,
};

/// Reads the whole output of `nft --stateless --json list ruleset`.
pub fn parse(text: &str) -> Result<Ruleset, NotARuleset> {
    let document: Document = serde_json::from_str(text).map_err(|error| NotARuleset(error.to_string()))?;
    let mut ruleset = document.0;
    ruleset.tables.iter_mut().for_each(find_dynamic);
    Ok(ruleset)
}

/// Objects are taken in one by one: all of them as JSON would take ten times the room of the text.
struct Document(Ruleset);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Outer;
        impl<'de> Visitor<'de> for Outer {
            type Value = Document;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with a list named nftables")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut objects = None;
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "nftables" => objects = Some(map.next_value::<Objects>()?),
                        _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
                    }
                }
                let objects = objects.ok_or_else(|| A::Error::missing_field("nftables"))?;
                Ok(Document(objects.0))
            }
        }
        deserializer.deserialize_map(Outer)
    }
}

struct Objects(Ruleset);

impl<'de> Deserialize<'de> for Objects {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Inner;
        impl<'de> Visitor<'de> for Inner {
            type Value = Objects;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Objects, A::Error> {
                let mut taker = Taker::default();
                while let Some(object) = list.next_element::<Map<String, Value>>()? {
                    for (kind, object) in object {
                        let took = taker.take(&kind, &object);
                        took.ok_or_else(|| A::Error::custom(format!("not a whole {kind}: {object}")))?;
                    }
                }
                Ok(Objects(taker.ruleset))
            }
        }
        deserializer.deserialize_seq(Inner)
    }
}

#[derive(Default)]
struct Taker {
    ruleset: Ruleset,
    /// Where a table stands, by family and name.
    tables: HashMap<(TableFamily, String), usize>,
    /// Where a chain stands in its table.
    chains: HashMap<(usize, String), usize>,
}

impl Taker {
    /// `None` if something is missing.
    fn take(&mut self, kind: &str, object: &Value) -> Option<()> {
        if kind == "metainfo" {
            return Some(());
        }
        let family = match string(object, "family")?.as_str() {
            "ip" => TableFamily::Ip,
            "ip6" => TableFamily::Ip6,
            "inet" => TableFamily::Inet,
            "netdev" => TableFamily::Netdev,
            "bridge" => TableFamily::Bridge,
            "arp" => TableFamily::Arp,
            _ => return None,
        };
        if kind == "table" {
            let name = string(object, "name")?;
            self.tables.insert((family, name.clone()), self.ruleset.tables.len());
            self.ruleset.tables.push(Table {
                family,
                name,
                chains: Vec::new(),
                sets: Vec::new(),
                flowtables: Vec::new(),
                objects: Vec::new(),
                unknown: Vec::new(),
            });
            return Some(());
        }
        let at = *self.tables.get(&(family, string(object, "table")?))?;
        let table = self.ruleset.tables.get_mut(at)?;
        match kind {
            "chain" => {
                let chain = chain(object)?;
                self.chains.insert((at, chain.name.clone()), table.chains.len());
                table.chains.push(chain);
            }
            "rule" => {
                let chain = *self.chains.get(&(at, string(object, "chain")?))?;
                table.chains.get_mut(chain)?.rules.push(rule(object)?);
            }
            "set" | "map" => table.sets.push(set(object)?),
            // A set that a `meter` statement made.
            "meter" => table.sets.push(Set { dynamic: true, ..set(object)? }),
            "flowtable" => {
                let devices = words(object.get("dev"));
                table.flowtables.push(Flowtable { name: string(object, "name")?, devices });
            }
            "counter" | "quota" | "limit" | "ct helper" | "ct timeout" | "ct expectation" | "synproxy" | "secmark" => {
                table.objects.push((kind.to_owned(), string(object, "name")?));
            }
            _ => table.unknown.push(format!("{kind} {object}")),
        }
        Some(())
    }
}

fn chain(object: &Value) -> Option<Chain> {
    let base = match object.get("hook") {
        None if object.get("type").is_some() => return None,
        None => None,
        Some(hook) => {
            let hook = match hook.as_str()? {
                "ingress" => Hook::Ingress,
                "prerouting" => Hook::Prerouting,
                "input" => Hook::Input,
                "forward" => Hook::Forward,
                "output" => Hook::Output,
                "postrouting" => Hook::Postrouting,
                "egress" => Hook::Egress,
                other => Hook::Other(other.to_owned()),
            };
            Some(Base {
                kind: string(object, "type")?,
                hook,
                priority: i32::try_from(object.get("prio")?.as_i64()?).ok()?,
                // Without a policy it accepts (nft_chain_parse_hook).
                drops: object.get("policy").is_some_and(|policy| policy.as_str() != Some("accept")),
                devices: words(object.get("dev")),
            })
        }
    };
    Some(Chain { name: string(object, "name")?, base, rules: Vec::new() })
}

fn rule(object: &Value) -> Option<Rule> {
    let list = object.get("expr")?.as_array()?;
    let mut statements: Vec<Statement> = list.iter().map(statement).collect();
    if !only(object, &["family", "table", "chain", "handle", "index", "position", "comment", "expr"]) {
        statements.insert(0, unknown_statement(object));
    }
    let comment = object.get("comment").and_then(Value::as_str).map(str::to_owned);
    Some(Rule { handle: object.get("handle")?.as_u64()?, comment, statements })
}

fn set(object: &Value) -> Option<Set> {
    const KNOWN: [&str; 15] = [
        "family",
        "name",
        "table",
        "type",
        "handle",
        "comment",
        "flags",
        "elem",
        "timeout",
        "gc-interval",
        "size",
        "policy",
        "auto-merge",
        "map",
        "stmt",
    ];
    let flags = words(object.get("flags"));
    let flag = |name: &str| flags.iter().any(|flag| flag == name);
    let key = match object.get("type")? {
        Value::String(one) => vec![one.clone()],
        Value::Array(several) => several.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<_>>()?,
        // typeof, in later versions: what it is compared with says what it is.
        other => vec![other.to_string()],
    };
    let known_flags = ["constant", "interval", "timeout", "dynamic"];
    let elements = match object.get("elem") {
        None => Vec::new(),
        Some(elements) => elements.as_array()?.iter().map(element).collect(),
    };
    Some(Set {
        name: string(object, "name")?,
        key,
        data: object.get("map").map(|data| data.as_str().map_or_else(|| data.to_string(), str::to_owned)),
        interval: flag("interval"),
        timeout: object.get("timeout").is_some(),
        dynamic: flag("dynamic"),
        stateful: object.get("stmt").is_some(),
        counts_connections: object.get("stmt").is_some_and(|what| what.to_string().contains("ct count")),
        elements,
        unknown: !only(object, &KNOWN) || flags.iter().any(|flag| !known_flags.contains(&flag.as_str())),
    })
}

/// nft 1.0.6 does not print the flag `dynamic`: the sets of which a rule speaks are.
fn find_dynamic(table: &mut Table) {
    let Table { chains, sets, .. } = table;
    let mut updated = Vec::new();
    for statement in chains.iter().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.statements) {
        match statement {
            Statement::Other { effect: Effect::Update(set), .. } => updated.push(set.clone()),
            // It may speak of any.
            Statement::Other { effect: Effect::Unknown, text } => {
                let named = sets.iter().filter(|set| text.contains(set.name.as_str()));
                updated.extend(named.map(|set| set.name.clone()));
            }
            _ => {}
        }
    }
    for set in sets.iter_mut().filter(|set| updated.contains(&set.name)) {
        set.dynamic = true;
    }
}

pub(super) fn statement(value: &Value) -> Statement {
    known_statement(value).unwrap_or_else(|| unknown_statement(value))
}

fn unknown_statement(value: &Value) -> Statement {
    Statement::Other { effect: Effect::Unknown, text: value.to_string() }
}

/// `None` if it is not known, or not in full.
fn known_statement(value: &Value) -> Option<Statement> {
    let (kind, body) = single(value)?;
    let other = |effect, text| Some(Statement::Other { effect, text });
    if let Some(verdict) = verdict(value) {
        return Some(Statement::Verdict(verdict));
    }
    match kind {
        "match" if only(body, &["op", "left", "right"]) => {
            let relation = match body.get("op")?.as_str()? {
                "==" => Relation::Equal,
                "!=" => Relation::NotEqual,
                "<" => Relation::Less,
                "<=" => Relation::LessOrEqual,
                ">" => Relation::Greater,
                ">=" => Relation::GreaterOrEqual,
                "in" => Relation::Any,
                "!" => Relation::NoneOf,
                _ => return None,
            };
            let (left, right) = (expression(body.get("left")?), expression(body.get("right")?));
            Some(Statement::Match { left, relation, right })
        }
        "counter" => match body {
            Value::Null => Some(Statement::Counter),
            Value::Object(_) if only(body, &["packets", "bytes"]) => Some(Statement::Counter),
            _ => other(Effect::NamedCounter, format!("counter name {}", object_name(body))),
        },
        "mangle" if only(body, &["key", "value"]) => {
            Some(Statement::Set { key: expression(body.get("key")?), value: expression(body.get("value")?) })
        }
        "vmap" if only(body, &["key", "data"]) => {
            Some(Statement::VerdictMap { key: expression(body.get("key")?), data: expression(body.get("data")?) })
        }
        "reject" => Some(Statement::Reject(rejection(body)?)),
        "snat" => Some(nat(NatKind::Source, "snat", body)),
        "dnat" => Some(nat(NatKind::Destination, "dnat", body)),
        "masquerade" => Some(nat(NatKind::Masquerade, "masquerade", body)),
        "redirect" => Some(nat(NatKind::Redirect, "redirect", body)),
        "notrack" => Some(Statement::Notrack),
        "limit" => other(Effect::Test, limit(body)?),
        "quota" => other(Effect::Test, quota(body)?),
        "log" => other(Effect::Action, log(body)?),
        "queue" => other(Effect::Verdict, told("queue", body)),
        "fwd" => other(Effect::Verdict, forward(body)?),
        "dup" => other(Effect::Action, duplicate(body)?),
        "tproxy" => other(Effect::Action, transparent_proxy(body)?),
        "synproxy" => other(Effect::Verdict, synproxy(body)?),
        "ct helper" | "ct timeout" | "ct expectation" => {
            other(Effect::Connection, format!("{kind} set {}", object_name(body)))
        }
        "ct count" => {
            let over = if body.get("inv").and_then(Value::as_bool) == Some(true) { "over " } else { "" };
            other(Effect::ConnectionTest, format!("ct count {over}{}", body.get("val")?))
        }
        "set" => {
            let set = body.get("set")?.as_str()?.trim_start_matches('@').to_owned();
            let text = update(body, &set)?;
            other(Effect::Update(set), text)
        }
        "map" if body.get("op").is_some() => {
            let map = body.get("map")?.as_str()?.trim_start_matches('@').to_owned();
            other(Effect::Update(map), told("map", body))
        }
        "meter" => other(Effect::Update(string(body, "name")?), meter(body)?),
        "flow" => {
            let flowtable = body.get("flowtable")?.as_str()?;
            other(Effect::Action, format!("flow {} {flowtable}", body.get("op")?.as_str()?))
        }
        "reset" => other(Effect::Action, format!("reset {}", expression(body))),
        "xt" => other(Effect::Xt, value.to_string()),
        _ => None,
    }
}

/// `"name"`, or a map that has one for each key.
fn object_name(body: &Value) -> String {
    match body {
        Value::String(name) => format!("\"{name}\""),
        other => match map_of_names(other) {
            Some(text) => text,
            None => other.to_string(),
        },
    }
}

/// `tcp dport map { 80 : "hits" }`
fn map_of_names(body: &Value) -> Option<String> {
    let Expression::Map { key, data } = expression(body) else { return None };
    let Expression::Set(mut elements) = *data else { return Some(format!("{key} map {data}")) };
    for element in &mut elements {
        if let Some(Expression::Symbol(name)) = &element.data {
            element.data = Some(Expression::Told(format!("\"{name}\"")));
        }
    }
    Some(Expression::Map { key, data: Box::new(Expression::Set(elements)) }.to_string())
}

fn verdict(value: &Value) -> Option<Verdict> {
    let (kind, body) = single(value)?;
    let target = || if only(body, &["target"]) { string(body, "target") } else { None };
    match (kind, body) {
        ("accept", Value::Null) => Some(Verdict::Accept),
        ("drop", Value::Null) => Some(Verdict::Drop),
        ("continue", Value::Null) => Some(Verdict::Continue),
        ("return", Value::Null) => Some(Verdict::Return),
        ("jump", _) => target().map(Verdict::Jump),
        ("goto", _) => target().map(Verdict::Goto),
        _ => None,
    }
}

pub(super) fn expression(value: &Value) -> Expression {
    known_expression(value).unwrap_or_else(|| Expression::Unknown(value.to_string()))
}

/// `None` if it is not known, or not in full.
fn known_expression(value: &Value) -> Option<Expression> {
    let all = |list: &Value| Some(list.as_array()?.iter().map(expression).collect::<Vec<_>>());
    let (kind, body) = match value {
        Value::Number(number) => return number.as_u64().map(Expression::Number),
        Value::Bool(exists) => return Some(Expression::Presence(*exists)),
        Value::String(text) => {
            return Some(match text.strip_prefix('@') {
                Some(name) => Expression::Reference(name.to_owned()),
                None => Expression::Symbol(text.clone()),
            });
        }
        Value::Array(_) => return all(value).map(Expression::List),
        Value::Null => return None,
        Value::Object(_) => single(value)?,
    };
    if let Some(verdict) = verdict(value) {
        return Some(Expression::Verdict(verdict));
    }
    let optional = |key: &str| body.get(key).map(|value| value.as_str().map(str::to_owned));
    let fields = |known: &[&str]| if only(body, known) { Some(()) } else { None };
    match kind {
        "prefix" => {
            fields(&["addr", "len"])?;
            let length = u8::try_from(body.get("len")?.as_u64()?).ok()?;
            Some(Expression::Prefix(Box::new(expression(body.get("addr")?)), length))
        }
        "range" => match &all(body)?[..] {
            [first, last] => Some(Expression::Range(Box::new(first.clone()), Box::new(last.clone()))),
            _ => None,
        },
        "concat" => all(body).map(Expression::Concat),
        "set" => match body {
            Value::Array(elements) => Some(Expression::Set(elements.iter().map(element).collect())),
            one => Some(Expression::Set(vec![element(one)])),
        },
        "map" => {
            fields(&["key", "data"])?;
            let (key, data) = (expression(body.get("key")?), expression(body.get("data")?));
            Some(Expression::Map { key: Box::new(key), data: Box::new(data) })
        }
        "payload" if body.get("base").is_some() => {
            fields(&["base", "offset", "len"])?;
            let (offset, length) = (body.get("offset")?.as_u64()?, body.get("len")?.as_u64()?);
            Some(Expression::Raw { base: string(body, "base")?, offset, length })
        }
        "payload" => {
            fields(&["protocol", "field"])?;
            Some(Expression::Payload { protocol: string(body, "protocol")?, field: string(body, "field")? })
        }
        "meta" => {
            fields(&["key"])?;
            string(body, "key").map(Expression::Meta)
        }
        "ct" => {
            fields(&["key", "dir", "family"])?;
            let mut key = string(body, "key")?;
            if let Some(family) = optional("family") {
                key = format!("{} {key}", family?);
            }
            let direction = optional("dir").map_or(Some(None), |direction| direction.map(Some))?;
            Some(Expression::Ct { key, direction })
        }
        "fib" => {
            fields(&["result", "flags"])?;
            Some(Expression::Fib { result: string(body, "result")?, flags: words(body.get("flags")) })
        }
        "rt" => {
            fields(&["key", "family"])?;
            let family = optional("family").map_or(Some(None), |family| family.map(Some))?;
            Some(Expression::Rt { key: string(body, "key")?, family })
        }
        "tcp option" => {
            fields(&["name", "field"])?;
            let field = optional("field").map_or(Some(None), |field| field.map(Some))?;
            Some(Expression::TcpOption { name: string(body, "name")?, field })
        }
        "&" | "|" | "^" | "<<" | ">>" => {
            let operator = match kind {
                "&" => Operator::And,
                "|" => Operator::Or,
                "^" => Operator::Xor,
                "<<" => Operator::Left,
                _ => Operator::Right,
            };
            let mut parts = all(body)?.into_iter();
            let first = parts.next()?;
            let rest: Vec<_> = parts.collect();
            // Later versions print chains of one operator as one list.
            (!rest.is_empty()).then(|| {
                rest.into_iter()
                    .fold(first, |left, right| Expression::Binary(operator, Box::new(left), Box::new(right)))
            })
        }
        "numgen" => {
            let (mode, offset) = (string(body, "mode")?, body.get("offset")?.as_u64()?);
            let offset = if offset == 0 { String::new() } else { format!(" offset {offset}") };
            Some(Expression::Told(format!("numgen {mode} mod {}{offset}", body.get("mod")?)))
        }
        "jhash" => {
            let seed = body.get("seed").and_then(Value::as_u64).map(|seed| format!(" seed {seed:#x}"));
            let offset = body.get("offset").and_then(Value::as_u64).map(|offset| format!(" offset {offset}"));
            let what = expression(body.get("expr")?);
            let (seed, offset) = (seed.unwrap_or_default(), offset.unwrap_or_default());
            Some(Expression::Told(format!("jhash {what} mod {}{seed}{offset}", body.get("mod")?)))
        }
        "symhash" => Some(Expression::Told(format!("symhash mod {}", body.get("mod")?))),
        "socket" => Some(Expression::Told(format!("socket {}", string(body, "key")?))),
        "osf" => Some(Expression::Told(format!("osf {}", string(body, "key")?))),
        "ipsec" => Some(Expression::Told(format!("ipsec {} {}", string(body, "dir")?, string(body, "key")?))),
        "exthdr" => Some(Expression::Told(match body.get("field") {
            None => format!("exthdr {}", string(body, "name")?),
            Some(field) => format!("{} {}", string(body, "name")?, field.as_str()?),
        })),
        "ip option" => Some(Expression::Told(match body.get("field") {
            None => format!("ip option {}", string(body, "name")?),
            Some(field) => format!("ip option {} {}", string(body, "name")?, field.as_str()?),
        })),
        _ => None,
    }
}

/// A value, or a pair of value and data, each with or without more to say (`{"elem": {"val": ...}}`).
pub(super) fn element(value: &Value) -> Element {
    match value {
        Value::Array(pair) if pair.len() == 2 => Element { data: Some(expression(&pair[1])), ..element(&pair[0]) },
        Value::Object(object) if object.len() == 1 && object.contains_key("elem") => {
            let body = &object["elem"];
            let Some(key) = body.get("val") else {
                return plain(Expression::Unknown(value.to_string()));
            };
            Element {
                key: expression(key),
                data: None,
                comment: body.get("comment").and_then(Value::as_str).map(str::to_owned),
                timeout: body.get("timeout").or_else(|| body.get("expires")).and_then(Value::as_u64),
                stateful: !only(body, &["val", "comment", "timeout", "expires"]),
            }
        }
        other => plain(expression(other)),
    }
}

fn plain(key: Expression) -> Element {
    Element { key, data: None, comment: None, timeout: None, stateful: false }
}

/// The only key of an object, and its value.
fn single(value: &Value) -> Option<(&str, &Value)> {
    let object = value.as_object()?;
    let (key, body) = object.iter().next()?;
    (object.len() == 1).then_some((key, body))
}

/// Whether an object has no other keys than these.
pub(super) fn only(value: &Value, known: &[&str]) -> bool {
    value.as_object().is_some_and(|object| object.keys().all(|key| known.contains(&key.as_str())))
}

pub(super) fn string(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

/// nft prints one flag as a string and several as a list.
pub(super) fn words(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
