//! DPDK's dpdk-testpmd over AF_XDP. It changes the addresses of Ethernet and sends, whatever a frame holds: not a router, but what AF_XDP
//! leaves to one that decides nothing.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shunt_lab::{Namespace, Process, eventually};

use super::is_installed;
use crate::bench::error::BenchError;
use crate::bench::network::Network;
use crate::bench::ports::Names;

pub const NAME: &str = "dpdk-testpmd";

/// Where a router has not much more to do.
pub const SCENARIOS: [&str; 3] = ["plain", "imix", "ipv6"];

const DRIVERS: &str = "/usr/lib/x86_64-linux-gnu/dpdk";

/// In the private `/run` of the lab.
const SAID: &str = "/run/dpdk-testpmd.log";

const PATIENCE: Duration = Duration::from_secs(20);

/// What its guide has a device set to for the busy polling of this driver: for so many turns of so many ns interrupts stay off.
const BUSY_POLLING: [(&str, u32); 2] = [("napi_defer_hard_irqs", 2), ("gro_flush_timeout", 200_000)];

/// One that runs. Dropping it ends it.
pub struct Testpmd {
    namespace: Namespace,
    process: Process,
    names: Names,
}

/// What would have to be installed, if anything.
pub fn missing() -> Option<String> {
    let is_complete = is_installed(NAME) && Path::new(DRIVERS).is_dir();
    (!is_complete).then(|| "not installed (Debian: dpdk-dev and librte-net-af-xdp23)".to_owned())
}

impl Testpmd {
    /// Starts it on the router's core and waits until it has both ports.
    pub fn start(network: &Network) -> Result<Testpmd, BenchError> {
        let (namespace, names) = (network.namespaces.router.clone(), network.namespaces.names.clone());
        let Names { ingress, egress, .. } = &names;
        let [generator, sink] = network.namespaces.far_addresses();
        // One thread forwards, the other one waits.
        let core = network.cores.router[0];
        let command = format!(
            "exec dpdk-testpmd --no-pci --no-huge -m 256 --no-telemetry --lcores '(0,1)@{core}' \
             --vdev net_af_xdp0,iface={ingress} --vdev net_af_xdp1,iface={egress} -- --forward-mode=mac \
             --eth-peer=0,{generator} --eth-peer=1,{sink} --auto-start --total-num-mbufs=16384 --no-lsc-interrupt \
             --stats-period=3600 >{SAID} 2>&1"
        );
        // What the one before has said is not of this one.
        let _ = std::fs::remove_file(SAID);
        let mut testpmd = Testpmd { process: namespace.spawn(&["sh", "-c", &command]), namespace, names };
        testpmd.poll_busily(true)?;
        let is_up = eventually(PATIENCE, || {
            let ended = matches!(testpmd.process.child().try_wait(), Ok(Some(_)));
            (ended || testpmd.said().contains("nb forwarding ports=2")).then_some(!ended)
        });
        match is_up {
            Some(true) => Ok(testpmd),
            _ => Err(BenchError::Peer { name: NAME, said: testpmd.said() }),
        }
    }

    fn poll_busily(&self, on: bool) -> Result<(), shunt_lab::Failed> {
        for device in [&self.names.ingress, &self.names.egress] {
            for (setting, busy) in BUSY_POLLING {
                let value = if on { busy } else { 0 };
                self.namespace.attempt(&format!("echo {value} > /sys/class/net/{device}/{setting}"))?;
            }
        }
        Ok(())
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Frames that have left by the router's egress.
    pub fn sent(&self) -> u64 {
        self.namespace.packets(&self.names.egress).1
    }

    /// All that it has printed.
    pub fn said(&self) -> String {
        std::fs::read_to_string(SAID).unwrap_or_default()
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // It lets go of its ports by itself, if it is asked to.
        if kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM).is_ok() {
            eventually(PATIENCE, || self.process.child().try_wait().ok().flatten());
        }
        // The ports are the bench's, and may be gone.
        let _ = self.poll_busily(false);
    }
}
