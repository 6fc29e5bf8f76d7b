//! Whether the mirror holds what the kernel holds: two dumps, put into the same words, and compared. In time linear in their size.
//!
//! The kernel's side is read by iproute2 alone; nothing of the code under test has a part in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use shunt_lab::{Daemon, Namespace};

/// Everything that is compared, as lines. The order within a line's list counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holdings {
    links: BTreeSet<String>,
    addresses: BTreeSet<String>,
    /// In the kernel's order.
    rules: Vec<String>,
    /// By family, table and prefix; the routes of a prefix in the kernel's order.
    routes: BTreeMap<String, Vec<String>>,
    nexthops: BTreeSet<String>,
    neighbours: BTreeSet<String>,
}

impl Holdings {
    /// As iproute2 prints them.
    pub fn of_kernel(namespace: &Namespace) -> Self {
        let ask = |what: &str| -> Vec<Value> {
            // Of nothing, `ip -j` prints nothing.
            let text = namespace.run(&format!("ip -N -j -d {what}"));
            if text.trim().is_empty() {
                return Vec::new();
            }
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("ip {what}: {error}"))
        };
        let mut held = Holdings::default();
        for link in ask("link show") {
            let flag = |name: &str| array(&link["flags"]).iter().any(|flag| flag == name);
            let (up, carrier) = (flag("UP"), flag("LOWER_UP"));
            held.link(&link["ifname"], &link["ifindex"], up, carrier, &link["mtu"], &link["group"], &link["address"]);
        }
        for link in ask("addr show") {
            for one in array(&link["addr_info"]) {
                held.address(&one["local"], &one["prefixlen"], &link["ifname"]);
            }
        }
        for family in ["-4", "-6"] {
            let rules = namespace.run(&format!("ip {family} rule show"));
            for rule in rules.lines() {
                // What the kernel adds to say of the present; it is not part of the rule.
                let rule = rule.replace('\t', " ").replace(" [detached]", "").replace(" [unresolved]", "");
                held.rules.push(format!("{family} {}", rule.trim_end()));
            }
            for route in ask(&format!("{family} route show table all")) {
                held.kernel_route(family, &route);
            }
        }
        let buckets = ask("nexthop bucket show");
        for object in ask("nexthop show") {
            let id = number(&object["id"]);
            let own = buckets.iter().filter(|bucket| number(&bucket["id"]) == id).map(|bucket| &bucket["bucket"]);
            let own: BTreeMap<u64, u64> = own.map(|own| (number(&own["index"]), number(&own["nhid"]))).collect();
            let line = if let Some(group) = object["group"].as_array() {
                let member = |one: &Value| (number(&one["id"]), one["weight"].as_u64().unwrap_or(1));
                format!("{id} group {:?} {:?}", group.iter().map(member).collect::<Vec<_>>(), own.values())
            } else if object.get("blackhole").is_some() {
                format!("{id} blackhole")
            } else {
                format!("{id} {}", kernel_hop(&object))
            };
            held.nexthops.insert(line);
        }
        for one in ask("neigh show").iter().chain(&ask("-6 neigh show")) {
            let state = one["state"][0].as_str().unwrap_or_default();
            held.neighbour(
                one,
                &one["lladdr"],
                matches!(state, "FAILED" | "INCOMPLETE" | "NOARP"),
                state == "PERMANENT",
            );
        }
        held
    }

    /// As `shunt mirror --json` prints them.
    pub fn of_mirror(mirror: &Value) -> Self {
        let mut held = Holdings::default();
        for link in array(&mirror["links"]) {
            let (up, carrier) = (link["up"] == true, link["carrier"] == true);
            held.link(&link["ifname"], &link["ifindex"], up, carrier, &link["mtu"], &link["group"], &link["address"]);
        }
        for one in array(&mirror["addresses"]) {
            held.address(&one["local"], &one["prefixlen"], &one["dev"]);
        }
        for rule in array(&mirror["rules"]) {
            let family = if rule["family"] == "inet" { "-4" } else { "-6" };
            held.rules.push(format!("{family} {}", word(&rule["text"])));
        }
        for route in array(&mirror["routes"]) {
            let family = if route["family"] == "inet" { "-4" } else { "-6" };
            let hop = |one: &Value| hop(&one["gateway"], &one["dev"], &one["weight"], one["dead"] == true);
            let hops: Vec<_> = array(&route["nexthops"]).iter().map(hop).collect();
            let (tos, mtu) = (number(&route["tos"]), number(&route["mtu"]));
            let line = line(
                word(&route["type"]),
                tos,
                number(&route["metric"]),
                word(&route["pref"]),
                mtu,
                word(&route["dev"]),
                &route["nhid"],
                &hops,
            );
            held.route(family, number(&route["table"]), word(&route["dst"]), line);
        }
        for object in array(&mirror["nexthops"]) {
            let id = number(&object["id"]);
            let line = match word(&object["type"]) {
                "nexthop" => {
                    let one = &object["nexthop"];
                    format!("{id} {}", hop(&one["gateway"], &one["dev"], &1.into(), one["dead"] == true))
                }
                "group" | "resilient" => {
                    let member = |one: &Value| (number(&one["id"]), number(&one["weight"]));
                    let members: Vec<_> = array(&object["group"]).iter().map(member).collect();
                    let buckets: Vec<_> = array(&object["buckets"]).iter().map(number).collect();
                    format!("{id} group {members:?} {buckets:?}")
                }
                other => format!("{id} {other}"),
            };
            held.nexthops.insert(line);
        }
        for one in array(&mirror["neighbours"]) {
            held.neighbour(one, &one["lladdr"], one["lladdr"].is_null(), one["permanent"] == true);
        }
        held
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one line")]
    fn link(&mut self, name: &Value, index: &Value, up: bool, carrier: bool, mtu: &Value, group: &Value, mac: &Value) {
        let (name, index, mtu) = (word(name), number(index), number(mtu));
        // The kernel prints none for a tun.
        self.links.insert(format!(
            "{index} {name} up {up} carrier {carrier} mtu {mtu} group {} {}",
            number(group),
            word(mac)
        ));
    }

    fn address(&mut self, local: &Value, length: &Value, dev: &Value) {
        self.addresses.insert(format!("{}/{} {}", word(local), number(length), word(dev)));
    }

    fn route(&mut self, family: &str, table: u64, dst: &str, line: String) {
        self.routes.entry(format!("{family} table {table} {dst}")).or_default().push(line);
    }

    fn kernel_route(&mut self, family: &str, route: &Value) {
        // RTN_*
        let kind = match word(&route["type"]) {
            "1" => "unicast",
            "2" => "local",
            "3" => "broadcast",
            "4" => "anycast",
            "5" => "multicast",
            "6" => "blackhole",
            "7" => "unreachable",
            "8" => "prohibit",
            "9" => "throw",
            other => other,
        };
        let nhid = &route["nhid"];
        // Of an object the kernel shows the next hops as well.
        let hops = match (kind, nhid, route["nexthops"].as_array()) {
            ("unicast", Value::Null, Some(hops)) => hops.iter().map(kernel_hop).collect(),
            ("unicast", Value::Null, None) => vec![kernel_hop(route)],
            _ => Vec::new(),
        };
        let dev =
            if matches!(kind, "local" | "broadcast" | "anycast" | "multicast") { word(&route["dev"]) } else { "" };
        let tos = word(&route["tos"]).trim_start_matches("0x");
        let tos = u64::from_str_radix(tos, 16).unwrap_or(0);
        let mtu = array(&route["metrics"]).iter().map(|metric| number(&metric["mtu"])).sum();
        let pref = route["pref"].as_str().unwrap_or("medium");
        let line = line(kind, tos, number(&route["metric"]), pref, mtu, dev, nhid, &hops);
        self.route(family, number(&route["table"]), word(&route["dst"]), line);
    }

    fn neighbour(&mut self, one: &Value, lladdr: &Value, unresolved: bool, permanent: bool) {
        // That it resolves one the kernel does not tell, and to us it is as if there were none.
        if !unresolved {
            self.neighbours.insert(format!("{} {} {} {permanent}", word(&one["dst"]), word(&one["dev"]), word(lladdr)));
        }
    }

    /// How many routes there are.
    pub fn routes(&self) -> usize {
        self.routes.values().map(Vec::len).sum()
    }

    /// What the one has and the other has not, at most some lines of each kind; empty if they are equal.
    pub fn differences(kernel: &Holdings, mirror: &Holdings) -> Vec<String> {
        let mut found = Vec::new();
        let mut sets = |what: &str, kernel: &BTreeSet<String>, mirror: &BTreeSet<String>| {
            found.extend(kernel.difference(mirror).take(5).map(|line| format!("{what}, kernel only: {line}")));
            found.extend(mirror.difference(kernel).take(5).map(|line| format!("{what}, mirror only: {line}")));
        };
        sets("link", &kernel.links, &mirror.links);
        sets("address", &kernel.addresses, &mirror.addresses);
        sets("nexthop", &kernel.nexthops, &mirror.nexthops);
        sets("neighbour", &kernel.neighbours, &mirror.neighbours);
        if kernel.rules != mirror.rules {
            found.push(format!("rules, kernel: {:#?}\nmirror: {:#?}", kernel.rules, mirror.rules));
        }
        let differing = kernel.routes.iter().filter(|(place, routes)| mirror.routes.get(*place) != Some(routes));
        found.extend(differing.take(5).map(|(place, routes)| {
            format!("route {place}, kernel: {routes:?}, mirror: {:?}", mirror.routes.get(place))
        }));
        let surplus = mirror.routes.iter().filter(|(place, _)| !kernel.routes.contains_key(*place));
        found.extend(surplus.take(5).map(|(place, routes)| format!("route {place}, mirror only: {routes:?}")));
        found
    }

    /// Waits until the mirror of `shunt` holds what the kernel of its namespace holds, and says how long that took. The time that reading
    /// both takes is not counted.
    ///
    /// # Panics
    ///
    /// If they still differ after `patience`, with the differences.
    pub fn equal_within(shunt: &Daemon, patience: Duration) -> Duration {
        let start = Instant::now();
        loop {
            // The mirror first: what changes in between would else be held against it.
            let asked = Instant::now();
            let mirror = Holdings::of_mirror(&shunt.mirror());
            let differences = Holdings::differences(&Holdings::of_kernel(shunt.namespace()), &mirror);
            if differences.is_empty() {
                return asked - start;
            }
            assert!(
                asked - start <= patience,
                "after {:?} the mirror is not as the kernel:\n{}\n{:#}",
                asked - start,
                differences.join("\n"),
                shunt.status()["mirror"]
            );
        }
    }
}

fn kernel_hop(one: &Value) -> String {
    let gateway = if one["via"].is_object() { &one["via"]["host"] } else { &one["gateway"] };
    let dead = array(&one["flags"]).iter().any(|flag| flag == "dead");
    let weight = if one["weight"].is_null() { &Value::from(1) } else { &one["weight"] };
    hop(gateway, &one["dev"], weight, dead)
}

fn hop(gateway: &Value, dev: &Value, weight: &Value, dead: bool) -> String {
    format!("via {} dev {} weight {} dead {dead}", word(gateway), word(dev), number(weight))
}

#[expect(clippy::too_many_arguments, reason = "the fields of one line")]
fn line(kind: &str, tos: u64, metric: u64, pref: &str, mtu: u64, dev: &str, nhid: &Value, hops: &[String]) -> String {
    format!("{kind} tos {tos} metric {metric} pref {pref} mtu {mtu} dev {dev} nhid {nhid} {hops:?}")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `ip -N` prints some numbers as text; nothing is 0.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| word(value).parse().ok()).unwrap_or(0)
}
