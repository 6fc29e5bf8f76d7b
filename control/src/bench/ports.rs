//! Ports of the machine in the place of veth pairs: lent to the namespaces of the bench, and given back.
//!
//! They keep their names: if the bench is killed the kernel moves ports of hardware back to the first namespace by itself.

use std::fs;
use std::path::{Path, PathBuf};

use shunt_lab::{Failed, Namespace};

use super::error::BenchError;

/// The four ports of the figure of a [`Scenario`](super::scenario::Scenario) in its order, the generator's first, and two cables between them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cables([Port; 4]);

/// Names of the interfaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    pub generator: String,
    pub ingress: String,
    pub egress: String,
    pub sink: String,
}

impl Default for Names {
    fn default() -> Self {
        let [generator, ingress, egress, sink] = ["g0", "r0", "r1", "s0"].map(str::to_owned);
        Names { generator, ingress, egress, sink }
    }
}

/// A port as the operator knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    pub name: String,
    /// Its driver, as sysfs has it; `virtual` without one.
    pub driver: String,
}

/// A port that is in a namespace of the bench. To be given back by [`give_back`](Self::give_back).
pub struct Lent {
    port: String,
    was_up: bool,
    namespace: Namespace,
}

impl Cables {
    /// Those of the command line: the router's two ports, and what they are cabled to. `None` if none are named.
    ///
    /// # Errors
    ///
    /// Names what is missing or in use. Nothing has been touched.
    pub fn of(router: &[String], load: &[String]) -> Result<Option<Cables>, BenchError> {
        let ([ingress, egress], [generator, sink]) = (router, load) else {
            return match router.is_empty() && load.is_empty() {
                true => Ok(None),
                false => Err(BenchError::Ports),
            };
        };
        let all = [generator, ingress, egress, sink];
        if let Some(twice) = all.iter().enumerate().find(|(at, port)| all[..*at].contains(port)) {
            return Err(BenchError::Port { port: twice.1.to_string(), why: "is named twice".to_owned() });
        }
        let [generator, ingress, egress, sink] = all.map(|port| Port::free(port));
        Ok(Some(Cables([generator?, ingress?, egress?, sink?])))
    }

    pub fn ports(&self) -> &[Port; 4] {
        &self.0
    }

    pub fn names(&self) -> Names {
        let [generator, ingress, egress, sink] = self.0.each_ref().map(|port| port.name.clone());
        Names { generator, ingress, egress, sink }
    }
}

impl Port {
    /// A port that nobody uses: in another namespace it would lose its addresses, and its users would lose it.
    fn free(name: &str) -> Result<Port, BenchError> {
        let refused = |why: &str| BenchError::Port { port: name.to_owned(), why: why.to_owned() };
        let folder = folder(name);
        if !folder.is_dir() {
            return Err(refused("does not exist in this network namespace"));
        }
        if folder.join("master").exists() {
            return Err(refused("belongs to a bridge or bond: `ip link set ... nomaster` first"));
        }
        if read(&folder.join("threaded")) != "0" {
            return Err(refused("has threaded NAPI already: write 0 to its `threaded` in /sys/class/net first"));
        }
        let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
        let is_own = |address: &nix::ifaddrs::InterfaceAddress| {
            let Some(storage) = address.address.filter(|_| address.interface_name == name) else { return false };
            let v6 = storage.as_sockaddr_in6().is_some_and(|v6| !v6.ip().is_unicast_link_local());
            storage.as_sockaddr_in().is_some() || v6
        };
        if addresses.into_iter().any(|address| is_own(&address)) {
            return Err(refused("has addresses, so it is in use: bench moves its ports to namespaces of its own"));
        }
        let driver = fs::read_link(folder.join("device/driver")).ok();
        let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Ok(Port { name: name.to_owned(), driver: driver.unwrap_or_else(|| "virtual".to_owned()) })
    }

    /// Moves it to a namespace, where it is down.
    pub fn lend(&self, namespace: &Namespace) -> Result<Lent, Failed> {
        let flags = read(&folder(&self.name).join("flags"));
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
        let lent =
            Lent { port: self.name.clone(), was_up: flags & libc::IFF_UP as u32 != 0, namespace: namespace.clone() };
        shunt_lab::run_here(&format!("ip link set {} netns {}", self.name, namespace.name()))?;
        Ok(lent)
    }
}

impl Lent {
    /// Back to where it came from, as it was.
    pub fn give_back(&self) {
        let Lent { port, was_up, namespace } = self;
        let here = std::process::id();
        // Each as far as it goes: a port that was pulled is nobody's.
        let _ = namespace.try_run(&format!("echo 0 > /sys/class/net/{port}/threaded"));
        let moved = namespace.try_run(&format!("ip link set {port} down; ip link set {port} netns {here}"));
        if moved.code != 0 {
            eprintln!("shunt bench: {port} could not be moved back: {}", moved.stderr.trim());
        } else if *was_up {
            let _ = shunt_lab::run_here(&format!("ip link set {port} up"));
        }
    }
}

fn folder(port: &str) -> PathBuf {
    Path::new("/sys/class/net").join(port)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}
