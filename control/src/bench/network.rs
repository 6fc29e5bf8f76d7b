//! The namespaces in which a scenario is measured, and the threads that work there.

use std::fmt::Write as _;

use shunt_dataplane::Load;
use shunt_lab::{Failed, Lab, Namespace};
use shunt_policy::Ifindex;

use super::cores::{Cores, napi_threads, put};
use super::error::BenchError;
use super::flows;
use super::scenario::Scenario;
use super::turning::Turning;

/// Addresses of the interfaces.
pub const G0: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
pub const R0: [u8; 6] = [2, 0, 0, 0, 0, 1];
const R1: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const S0: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];

/// `g0 --- r0 [router] r1 --- s0`, configured as the scenario wants it, with every thread on its core. Dropping it takes it down.
pub struct Network {
    pub turning: Turning,
    pub cores: Cores,
    /// What the operator has typed.
    pub commands: Vec<String>,
    /// NAPI threads of `r0` and `r1`.
    pub router_threads: Vec<i32>,
    /// NAPI threads of `s0`: the load.
    pub load_threads: Vec<i32>,
    /// After the load, which holds on to their interfaces.
    pub namespaces: Namespaces,
}

/// Deletes what it has made.
pub struct Namespaces {
    generator: Namespace,
    pub router: Namespace,
    sink: Namespace,
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in [&self.generator, &self.router, &self.sink] {
            // What is not deleted here goes with the process.
            let _ = namespace.try_run(&format!("ip netns del {}", namespace.name()));
        }
    }
}

impl Network {
    pub fn build(lab: &Lab, scenario: &Scenario) -> Result<Network, BenchError> {
        let cores = Cores::of(scenario.queues)?;
        let strangers: Vec<i32> = ["r0", "r1", "s0"].into_iter().flat_map(napi_threads).collect();
        let namespaces = Namespaces {
            generator: lab.try_namespace("generator")?,
            router: lab.try_namespace("router")?,
            sink: lab.try_namespace("sink")?,
        };
        namespaces.link(lab, scenario.queues)?;
        let commands = namespaces.configure(scenario)?;
        let load = namespaces.load(scenario)?;
        let threads = |namespace: &Namespace, device: &str, cores: &[usize]| -> Result<Vec<i32>, BenchError> {
            namespace.attempt(&format!("echo 1 > /sys/class/net/{device}/threaded"))?;
            let mut own = napi_threads(device);
            own.retain(|thread| !strangers.contains(thread));
            if own.len() != cores.len() {
                let (device, found, expected) = (device.to_owned(), own.len(), cores.len());
                return Err(BenchError::Threads { device, found, expected });
            }
            own.iter().zip(cores).try_for_each(|(thread, core)| put(*thread, *core))?;
            Ok(own)
        };
        let load_threads = threads(&namespaces.sink, "s0", &cores.load)?;
        let mut router_threads = threads(&namespaces.router, "r0", &cores.router)?;
        router_threads.extend(threads(&namespaces.router, "r1", &cores.router)?);
        let turning = Turning::new(load, scenario.sizes, &cores);
        Ok(Network { turning, cores, commands, router_threads, load_threads, namespaces })
    }
}

impl Namespaces {
    fn link(&self, lab: &Lab, queues: u32) -> Result<(), Failed> {
        let Namespaces { generator, router, sink } = self;
        lab.try_veth((generator, "g0"), (router, "r0"), queues)?;
        lab.try_veth((router, "r1"), (sink, "s0"), queues)?;
        for (namespace, device, mac) in
            [(generator, "g0", G0), (router, "r0", R0), (router, "r1", R1), (sink, "s0", S0)]
        {
            let mac = text(mac);
            // No chatter; and without GRO a veth has no NAPI (veth_napi_enable), and takes no frames that are redirected to its peer.
            namespace.attempt(&format!("ip link set {device} address {mac} && ethtool -K {device} gro on"))?;
        }
        router.attempt("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1").map(|_| ())
    }

    /// Addresses and neighbours, and what the scenario says. Returns the scenario's commands.
    fn configure(&self, scenario: &Scenario) -> Result<Vec<String>, Failed> {
        let router = &self.router;
        let mut lines = String::new();
        for (device, v4, v6) in
            [("r0", "192.0.2.1/24", "2001:db8:1::1/64"), ("r1", "198.51.100.1/24", "2001:db8:2::1/64")]
        {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "addr add {v4} dev {device}\naddr add {v6} dev {device} nodad");
        }
        // Four next hops, all of them the sink.
        for host in 10..14 {
            for neighbour in [format!("198.51.100.{host}"), format!("2001:db8:2::{host}")] {
                let _ = writeln!(lines, "neigh add {neighbour} lladdr {} dev r1 nud permanent", text(S0));
            }
        }
        router.feed("ip -batch -", &lines)?;
        let mut commands = Vec::new();
        for step in (scenario.steps)() {
            router.feed(&step.command, step.input.as_deref().unwrap_or_default())?;
            let shown = match step.input {
                Some(input) => {
                    format!("{} # {} lines, such as: {}", step.command, input.lines().count(), sample(&input))
                }
                None => step.command,
            };
            commands.push(shown);
        }
        Ok(commands)
    }

    fn load(&self, scenario: &Scenario) -> Result<Load, BenchError> {
        let mut load = Load::open(&flows::turn(scenario), flows::heads(scenario))
            .map_err(BenchError::kernel("the programs of the load"))?;
        let generator = ifindex(&self.generator, "g0")?;
        self.generator.enter(|| load.send_by(generator)).map_err(BenchError::kernel("sending by g0"))?;
        let sink = ifindex(&self.sink, "s0")?;
        self.sink.enter(|| load.attach(sink)).map_err(BenchError::kernel("an XDP program on s0"))?;
        Ok(load)
    }
}

fn ifindex(namespace: &Namespace, device: &str) -> Result<Ifindex, BenchError> {
    let text = namespace.attempt(&format!("cat /sys/class/net/{device}/ifindex"))?;
    let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
    text.trim().parse().map(Ifindex).map_err(|_| gone()).map_err(BenchError::kernel("the number of an interface"))
}

/// One of the lines, from the middle.
fn sample(input: &str) -> &str {
    let lines = input.lines().count();
    input.lines().nth(lines / 2).unwrap_or_default()
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
