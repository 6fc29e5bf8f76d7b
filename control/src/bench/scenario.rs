//! What is measured: the commands that an operator would type, and the load.

use std::fmt::Write as _;

use super::error::BenchError;
use super::flows::Destinations;
use super::internet;
use super::ports::Names;
use super::router::is_installed;

/// One configuration of the router, and what is sent through it.
///
/// ```text
///  g0 --- r0 192.0.2.1, 2001:db8:1::1  [router]  r1 198.51.100.1, 2001:db8:2::1 --- s0 198.51.100.10, 2001:db8:2::10
/// ```
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    /// Makes it.
    pub steps: fn(&Names) -> Vec<Step>,
    pub is_ipv6: bool,
    pub flows: usize,
    pub destinations: Destinations,
    /// Frames in bytes, Ethernet header included and checksum not, and how many of each are among the frames that go round.
    pub sizes: &'static [(usize, u32)],
    /// Of each interface.
    pub queues: u32,
    /// What it takes besides.
    pub tools: &'static [&'static str],
    /// Connections that the kernel must have room for.
    pub connections: u64,
}

/// Something that is done in the router before it is measured.
pub struct Step {
    /// As the operator would type it, or what it stands for.
    pub command: String,
    /// What the command reads.
    pub input: Option<String>,
}

const SMALL: &[(usize, u32)] = &[(64, 1)];
/// Wider than the smallest, for a time stamp.
const SMALL6: &[(usize, u32)] = &[(84, 1)];
const IMIX: &[(usize, u32)] = &[(64, 7), (590, 4), (1514, 1)];

const FEW: usize = 100;
const MANY: usize = 100_000;
const ROUTES: usize = 1_000_000;

const PLAIN: Scenario = Scenario {
    name: "plain",
    what: "one route",
    steps: plain,
    is_ipv6: false,
    flows: FEW,
    destinations: Destinations::Documentation,
    sizes: SMALL,
    queues: 1,
    tools: &[],
    connections: 0,
};

const HOWTO: Scenario = Scenario {
    name: "howto",
    what: "mark, table by fwmark, masquerade",
    steps: |names| howto(0, names),
    tools: &["iptables", "iptables-restore"],
    connections: FEW as u64,
    ..PLAIN
};

/// All of them; that which leaves most behind in the kernel comes last.
fn all() -> [Scenario; 10] {
    [
        PLAIN,
        HOWTO,
        Scenario {
            name: "marks-1000",
            what: "the same behind 1,000 mark rules",
            steps: |names| howto(1_000, names),
            ..HOWTO
        },
        Scenario {
            name: "marks-10000",
            what: "the same behind 10,000 mark rules",
            steps: |names| howto(10_000, names),
            ..HOWTO
        },
        Scenario { name: "rules-1000", what: "1,000 ip rules", steps: rules, ..PLAIN },
        Scenario {
            name: "connections-100k",
            what: "as howto, with 100,000 connections",
            flows: MANY,
            connections: MANY as u64,
            ..HOWTO
        },
        Scenario { name: "imix", what: "one route, frames of 64, 590 and 1514 bytes as 7:4:1", sizes: IMIX, ..PLAIN },
        Scenario { name: "ipv6", what: "one IPv6 route", steps: plain6, is_ipv6: true, sizes: SMALL6, ..PLAIN },
        Scenario { name: "queues-2", what: "one route, two queues, two cores", queues: 2, ..PLAIN },
        Scenario {
            name: "routes-1m",
            what: "1,000,000 routes, 100,000 random destinations",
            steps: routes,
            flows: MANY,
            destinations: Destinations::Internet(ROUTES),
            ..PLAIN
        },
    ]
}

/// Those of these names, in the order of [`all`]; without names all.
pub fn chosen(names: &[String]) -> Result<Vec<Scenario>, BenchError> {
    let known = || all().map(|scenario| scenario.name);
    if let Some(name) = names.iter().find(|name| !known().contains(&name.as_str())) {
        return Err(BenchError::Scenario { name: name.clone(), known: known().join(", ") });
    }
    let is_chosen = |scenario: &Scenario| names.is_empty() || names.iter().any(|name| name == scenario.name);
    Ok(all().into_iter().filter(is_chosen).collect())
}

impl Scenario {
    /// Why it cannot be measured here.
    pub fn missing(&self) -> Option<String> {
        if let Some(tool) = self.tools.iter().find(|tool| !is_installed(tool)) {
            return Some(format!("{tool} is not installed: apt install iptables"));
        }
        // The limit is the machine's, and so not ours to change.
        let room = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
        match room.ok().and_then(|text| text.trim().parse::<u64>().ok()) {
            Some(room) if room < self.connections * 5 / 4 => Some(format!(
                "net.netfilter.nf_conntrack_max is {room}: sysctl -w net.netfilter.nf_conntrack_max={}",
                self.connections * 2
            )),
            _ => None,
        }
    }
}

fn run(command: String) -> Step {
    Step { command, input: None }
}

fn plain(Names { egress, .. }: &Names) -> Vec<Step> {
    vec![run(format!("ip route add default via 198.51.100.10 dev {egress}"))]
}

fn plain6(Names { egress, .. }: &Names) -> Vec<Step> {
    vec![run(format!("ip -6 route add default via 2001:db8:2::10 dev {egress}"))]
}

/// The "marking packets" chapter, behind so many rules for other packets.
fn howto(others: usize, Names { ingress, egress, .. }: &Names) -> Vec<Step> {
    let mut steps = Vec::new();
    if others > 0 {
        let mut input = "*mangle\n".to_owned();
        for number in 0..others {
            let (high, low, port) = (number / 256, number % 256, 1000 + number % 50_000);
            // Writing to a String cannot fail.
            let _ = writeln!(
                input,
                "-A PREROUTING -i {ingress} -s 198.18.{high}.{low}/32 -p udp -m udp --dport {port} -j MARK --set-mark {}",
                2 + number % 8
            );
        }
        input += "COMMIT\n";
        steps.push(Step { command: "iptables-restore --noflush".to_owned(), input: Some(input) });
    }
    steps.extend([
        run(format!("iptables -t mangle -A PREROUTING -i {ingress} -p udp --dport 25 -j MARK --set-mark 1")),
        run(format!("ip route add default via 198.51.100.10 dev {egress} table 201")),
        run("ip rule add fwmark 1 table 201".to_owned()),
        run(format!("iptables -t nat -A POSTROUTING -o {egress} -j MASQUERADE")),
    ]);
    steps
}

/// A thousand sources with tables of their own, none of them the load's.
fn rules(names: &Names) -> Vec<Step> {
    let egress = &names.egress;
    let mut input = String::new();
    for number in 0..1_000 {
        let (high, low) = (number / 256, number % 256);
        let _ = writeln!(
            input,
            "rule add priority {} from 198.18.{high}.{low} table {}",
            1000 + number,
            1000 + number % 50
        );
    }
    for table in 1000..1050 {
        let _ = writeln!(input, "route add default via 198.51.100.11 dev {egress} table {table}");
    }
    let mut steps = plain(names);
    steps.push(Step { command: "ip -batch -".to_owned(), input: Some(input) });
    steps
}

fn routes(Names { egress, .. }: &Names) -> Vec<Step> {
    let mut input = String::with_capacity(ROUTES * 60);
    for (number, network) in internet::networks(ROUTES).into_iter().enumerate() {
        // Neighbouring prefixes are seldom of one mind.
        let via = 10 + number % 4;
        let _ = writeln!(input, "route add {}/{} via 198.51.100.{via} dev {egress}", network.address, network.length);
    }
    vec![Step { command: "ip -batch -".to_owned(), input: Some(input) }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_chosen_by_name() {
        let names = |chosen: Vec<Scenario>| chosen.iter().map(|scenario| scenario.name).collect::<Vec<_>>();
        assert_eq!(names(chosen(&[]).expect("all")).len(), all().len());
        assert_eq!(names(chosen(&["imix".into(), "plain".into()]).expect("both")), ["plain", "imix"]);
        let error = chosen(&["nonsense".into()]).err().expect("there is none").to_string();
        assert!(error.contains("nonsense") && error.contains("howto"), "{error}");
    }
}
