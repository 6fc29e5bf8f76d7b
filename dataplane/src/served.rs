//! Which packets to the machine's own addresses the workers take: answers to connections that they translate, and what destination nat
//! rules may take. Everything else to these addresses is left to the kernel before a worker sees it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use shunt_policy::connection::Tuple;

use crate::xsk::{ENTRY, MappedArray};

/// As in redirect.bpf.c: ports of TCP and UDP, identifiers of ICMP and ICMPv6, and then the protocols.
const PORTS: usize = 1 << 16;
const PROTOCOLS: usize = 4 * PORTS;
const ENTRIES: usize = PROTOCOLS + 256;

/// In an entry: how many workers have such connections, and whether a rule may take such packets.
const WORKERS: usize = 0;
const RULES: usize = 1;

/// Written by the workers (each changes a count when its first such connection comes or its last goes) and by the control side; read by
/// the XDP programs of all ports. Relaxed: a packet that comes a moment too early is the kernel's, which knows what to do with it.
#[derive(Clone)]
pub struct Served(Arc<Memory>);

enum Memory {
    Map(MappedArray),
    /// Of the simulator: nobody reads it.
    Plain(Box<[AtomicU8]>),
}

impl Served {
    /// Memory that it takes.
    pub(crate) const BYTES: u64 = (ENTRIES * ENTRY) as u64;

    pub(crate) fn create() -> io::Result<Self> {
        Ok(Served(Arc::new(Memory::Map(MappedArray::create("served", ENTRY, ENTRIES as u32)?))))
    }

    pub fn plain() -> Self {
        Served(Arc::new(Memory::Plain((0..ENTRIES * ENTRY).map(|_| AtomicU8::new(0)).collect())))
    }

    pub(crate) fn map(&self) -> Option<&MappedArray> {
        match &*self.0 {
            Memory::Map(map) => Some(map),
            Memory::Plain(_) => None,
        }
    }

    fn byte(&self, entry: usize, which: usize) -> &AtomicU8 {
        let bytes = match &*self.0 {
            Memory::Map(map) => map.bytes(),
            Memory::Plain(bytes) => bytes,
        };
        &bytes[entry * ENTRY + which]
    }

    /// From now on packets of this protocol to this port may be for a rule, or not.
    pub(crate) fn rule(&self, protocol: u8, port: u16, may_take: bool) {
        let byte = self.byte(entry(protocol, port), RULES);
        if byte.load(Ordering::Relaxed) != u8::from(may_take) {
            byte.store(u8::from(may_take), Ordering::Relaxed);
        }
    }

    /// The same of all ports of all protocols.
    pub(crate) fn rules(&self, may_take: impl Fn(u8, u16) -> bool) {
        for (protocol, class) in [(TCP, 0), (UDP, 1), (ICMP, 2), (ICMPV6, 3)] {
            for port in 0..=u16::MAX {
                let byte = self.byte(class * PORTS + usize::from(port), RULES);
                let wanted = u8::from(may_take(protocol, port));
                if byte.load(Ordering::Relaxed) != wanted {
                    byte.store(wanted, Ordering::Relaxed);
                }
            }
        }
        for protocol in 0..=u8::MAX {
            if !matches!(protocol, TCP | UDP | ICMP | ICMPV6) {
                self.rule(protocol, 0, may_take(protocol, 0));
            }
        }
    }

    /// Whether the XDP programs bring such a packet up.
    pub fn takes(&self, protocol: u8, port: u16) -> bool {
        let entry = entry(protocol, port);
        [WORKERS, RULES].into_iter().any(|which| self.byte(entry, which).load(Ordering::Relaxed) != 0)
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

fn entry(protocol: u8, port: u16) -> usize {
    let port = usize::from(port);
    match protocol {
        TCP => port,
        UDP => PORTS + port,
        ICMP => 2 * PORTS + port,
        ICMPV6 => 3 * PORTS + port,
        other => PROTOCOLS + usize::from(other),
    }
}

/// One worker's share: how many translated connections it has at each port.
pub struct ServedByWorker {
    served: Served,
    counts: Box<[u32]>,
}

impl ServedByWorker {
    pub fn new(served: Served) -> Self {
        ServedByWorker { served, counts: vec![0; ENTRIES].into() }
    }

    /// Packets of this tuple are for the worker: its destination may be an address of the machine.
    pub fn add(&mut self, tuple: &Tuple) {
        let entry = entry_of(tuple);
        self.counts[entry] += 1;
        if self.counts[entry] == 1 {
            self.served.byte(entry, WORKERS).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was [added](Self::add) is no more.
    pub fn remove(&mut self, tuple: &Tuple) {
        let entry = entry_of(tuple);
        debug_assert_ne!(self.counts[entry], 0, "only what was added is removed");
        self.counts[entry] -= 1;
        if self.counts[entry] == 0 {
            self.served.byte(entry, WORKERS).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for ServedByWorker {
    fn drop(&mut self) {
        for (entry, count) in self.counts.iter().enumerate() {
            if *count > 0 {
                self.served.byte(entry, WORKERS).fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

fn entry_of(tuple: &Tuple) -> usize {
    let port = match tuple.protocol {
        ICMP | ICMPV6 => tuple.source.port,
        _ => tuple.destination.port,
    };
    entry(tuple.protocol, port)
}

#[cfg(test)]
mod tests {
    use shunt_policy::connection::Endpoint;

    use super::*;

    #[test]
    fn a_port_is_served_while_some_worker_has_a_connection_there() {
        let served = Served::plain();
        let mut workers = [ServedByWorker::new(served.clone()), ServedByWorker::new(served.clone())];
        let end = |port| Endpoint { address: [192, 0, 2, 1].into(), port };
        let tuple = Tuple { source: end(53), destination: end(4000), protocol: UDP };
        workers[0].add(&tuple);
        workers[0].add(&tuple);
        workers[1].add(&tuple);
        workers[0].remove(&tuple);
        workers[0].remove(&tuple);
        assert!(served.takes(UDP, 4000), "the other worker has one");
        assert!(!served.takes(TCP, 4000) && !served.takes(UDP, 53));
        let [one, other] = workers;
        drop(one);
        assert!(served.takes(UDP, 4000));
        drop(other);
        assert!(!served.takes(UDP, 4000));
    }

    #[test]
    fn rules_may_take_ports() {
        let served = Served::plain();
        served.rules(|protocol, port| (protocol, port) == (TCP, 80));
        assert!(served.takes(TCP, 80) && !served.takes(TCP, 81) && !served.takes(UDP, 80) && !served.takes(47, 0));
        served.rules(|_, _| true);
        assert!(served.takes(TCP, 81) && served.takes(47, 0) && served.takes(ICMP, 9));
        served.rules(|_, _| false);
        assert!(!served.takes(TCP, 80));
    }
}
