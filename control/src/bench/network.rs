//! The namespaces in which a scenario is measured, and the threads that work there.

use std::fmt::Write as _;

use shunt_dataplane::Load;
use shunt_lab::{Failed, Lab, Namespace};
use shunt_policy::{Ifindex, Mac};

use super::cores::{Cores, napi_threads, put};
use super::error::BenchError;
use super::flows;
use super::ports::{Cables, Lent, Names};
use super::scenario::Scenario;
use super::turning::Turning;

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
    pub names: Names,
    /// Ports of the machine that are in them.
    lent: Vec<Lent>,
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.lent.iter().for_each(Lent::give_back);
        for namespace in [&self.generator, &self.router, &self.sink] {
            // What is not deleted here goes with the process.
            let _ = namespace.try_run(&format!("ip netns del {}", namespace.name()));
        }
    }
}

impl Network {
    /// Between ports of the machine that are cabled to each other, or by veth pairs.
    pub fn build(lab: &Lab, scenario: &Scenario, cables: Option<&Cables>) -> Result<Network, BenchError> {
        let cores = Cores::of(scenario.queues)?;
        let names = cables.map(Cables::names).unwrap_or_default();
        let Names { ingress, egress, sink, .. } = &names;
        let strangers: Vec<i32> = [ingress, egress, sink].into_iter().flat_map(|name| napi_threads(name)).collect();
        let mut namespaces = Namespaces {
            generator: lab.try_namespace("generator")?,
            router: lab.try_namespace("router")?,
            sink: lab.try_namespace("sink")?,
            names: names.clone(),
            lent: Vec::new(),
        };
        match cables {
            Some(cables) => namespaces.borrow(cables)?,
            None => namespaces.link(lab, scenario.queues)?,
        }
        let commands = namespaces.configure(scenario)?;
        let load = namespaces.load(scenario)?;
        let threads = |namespace: &Namespace, device: &str, cores: &[usize]| -> Result<Vec<i32>, BenchError> {
            namespace.attempt(&format!("echo 1 > /sys/class/net/{device}/threaded"))?;
            let mut own = napi_threads(device);
            own.retain(|thread| !strangers.contains(thread));
            // A real port may have more queues than the scenario wants; a core has those that fall to it.
            if own.len() < cores.len() {
                let (device, found, expected) = (device.to_owned(), own.len(), cores.len());
                return Err(BenchError::Threads { device, found, expected });
            }
            own.iter().zip(cores.iter().cycle()).try_for_each(|(thread, core)| put(*thread, *core))?;
            Ok(own)
        };
        let load_threads = threads(&namespaces.sink, sink, &cores.load)?;
        let mut router_threads = threads(&namespaces.router, ingress, &cores.router)?;
        router_threads.extend(threads(&namespaces.router, egress, &cores.router)?);
        let turning = Turning::new(load, scenario.sizes, &cores);
        Ok(Network { turning, cores, commands, router_threads, load_threads, namespaces })
    }
}

impl Namespaces {
    fn link(&self, lab: &Lab, queues: u32) -> Result<(), Failed> {
        let [near, ingress, egress, far] = self.ends();
        lab.try_veth(near, ingress, queues)?;
        lab.try_veth(egress, far, queues)?;
        for (namespace, device) in [near, ingress, egress, far] {
            // Without GRO a veth has no NAPI (veth_napi_enable), and takes no frames that are redirected to its peer.
            namespace.attempt(&format!("ethtool -K {device} gro on"))?;
        }
        Ok(())
    }

    /// Takes the ports of the machine.
    fn borrow(&mut self, cables: &Cables) -> Result<(), Failed> {
        for (port, place) in cables.ports().iter().zip(self.ends().map(|(namespace, _)| namespace.clone())) {
            // Whatever follows fails, what is here is given back.
            self.lent.push(port.lend(&place)?);
            place.attempt(&format!("ip link set {} up", port.name))?;
        }
        Ok(())
    }

    /// The interfaces, from the generator's to the sink's, and where they are.
    fn ends(&self) -> [(&Namespace, &str); 4] {
        let Namespaces { generator, router, sink, names, .. } = self;
        [(generator, &names.generator), (router, &names.ingress), (router, &names.egress), (sink, &names.sink)]
    }

    /// Ethernet addresses of the generator's and the sink's interface.
    pub fn far_addresses(&self) -> [Mac; 2] {
        let [near, _, _, far] = self.ends();
        [near, far].map(|(namespace, device)| Mac(namespace.mac(device)))
    }

    /// Addresses and neighbours, and what the scenario says. Returns the scenario's commands.
    fn configure(&self, scenario: &Scenario) -> Result<Vec<String>, Failed> {
        let router = &self.router;
        router.attempt("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        let Names { ingress, egress, .. } = &self.names;
        let [_, sink] = self.far_addresses();
        let mut lines = String::new();
        for (device, v4, v6) in
            [(ingress, "192.0.2.1/24", "2001:db8:1::1/64"), (egress, "198.51.100.1/24", "2001:db8:2::1/64")]
        {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "addr add {v4} dev {device}\naddr add {v6} dev {device} nodad");
        }
        // Four next hops, all of them the sink.
        for host in 10..14 {
            for neighbour in [format!("198.51.100.{host}"), format!("2001:db8:2::{host}")] {
                let _ = writeln!(lines, "neigh add {neighbour} lladdr {sink} dev {egress} nud permanent");
            }
        }
        router.feed("ip -batch -", &lines)?;
        let mut commands = Vec::new();
        for step in (scenario.steps)(&self.names) {
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
        let Names { generator, ingress, sink, .. } = &self.names;
        let ends = (self.generator.mac(generator), self.router.mac(ingress));
        let mut load = Load::open(&flows::turn(scenario), flows::heads(scenario, ends))
            .map_err(BenchError::kernel("the programs of the load"))?;
        let number = ifindex(&self.generator, generator)?;
        self.generator.enter(|| load.send_by(number)).map_err(BenchError::kernel("sending by the generator's port"))?;
        let number = ifindex(&self.sink, sink)?;
        self.sink.enter(|| load.attach(number)).map_err(BenchError::kernel("an XDP program on the sink's port"))?;
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
