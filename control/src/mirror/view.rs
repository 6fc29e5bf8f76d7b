//! What the kernel holds, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use shunt_policy::config::{Neighbour, NexthopObject, Rule};
use shunt_policy::{Family, Ifindex, Mac, Tables};

use super::netfilter::Netfilter;
use super::paths::PathMtus;
use super::sysctl::Sysctls;
use super::tables::TableNames;

/// The part of the kernel's state that decides where forwarded packets go.
#[derive(Clone, Debug, Default)]
pub struct KernelView {
    pub links: Vec<KernelLink>,
    /// By family: interfaces whose carrier, or whether it counts, has changed since routes were last read: what these say of dead
    /// next hops is old.
    pub unread_carriers: [BTreeSet<Ifindex>; 2],
    /// Those of one interface and family in the kernel's order, which decides which one is chosen as a source.
    pub addresses: Vec<KernelAddress>,
    pub neighbours: Arc<Vec<Neighbour>>,
    /// In the kernel's order, IPv4 before IPv6.
    pub rules: Arc<Vec<Rule>>,
    pub tables: Tables,
    pub nexthops: Arc<BTreeMap<u32, NexthopObject>>,
    /// Messages that could not be decoded, by what they were to be: such a thing may decide anything.
    pub undecodable: Vec<String>,
    pub sysctls: Sysctls,
    pub netfilter: Netfilter,
    /// What traffic control does on a link.
    pub qdiscs: BTreeMap<Ifindex, Qdiscs>,
    /// Families with IPsec policies.
    pub xfrm: Vec<Family>,
    pub path_mtus: Arc<PathMtus>,
    pub table_names: TableNames,
}

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelLink {
    pub ifindex: Ifindex,
    pub name: String,
    pub layer: Layer,
    /// `IFF_UP`.
    pub up: bool,
    /// Something answers at the other end (`netif_carrier_ok`).
    pub carrier: bool,
    /// The kernel has acted on the carrier (`IFF_RUNNING`, `netif_oper_up`).
    pub running: bool,
    /// `IFLA_GROUP`
    pub group: u32,
    pub mac: Option<Mac>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// `veth`, `vlan`, `tun`; `None` for hardware.
    pub kind: Option<String>,
    /// The bridge, bond or VRF that it belongs to.
    pub master: Option<Ifindex>,
    /// The interface of this namespace that it stands on.
    pub lower: Option<Ifindex>,
    pub rx_queues: u32,
    /// Id of an attached XDP program.
    pub xdp_program: Option<u32>,
}

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KernelAddress {
    pub ifindex: Ifindex,
    pub local: IpAddr,
    /// Of the prefix, in bits.
    pub length: u8,
    /// `IFA_ADDRESS`: the same, or the far end's on a point-to-point link.
    pub address: IpAddr,
    /// `RT_SCOPE_*`
    pub scope: u8,
    /// `IFA_F_SECONDARY`; in IPv6 it is called `IFA_F_TEMPORARY`.
    pub secondary: bool,
    /// Not one of IPv6 that is tentative, failed or deprecated.
    pub preferred: bool,
}

/// An entry of the neighbour table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelNeighbour {
    /// `None` while the kernel resolves it or has failed to.
    pub mac: Option<Mac>,
    /// `NUD_VALID`
    pub valid: bool,
    pub permanent: bool,
    /// It becomes STALE if nobody uses it, and we may say that it is used: neither permanent nor kept by the kernel itself
    /// (`NTF_EXT_MANAGED`), nor vouched for by somebody (`NTF_EXT_VALIDATED`, which `NTF_USE` would take off).
    pub ages: bool,
    /// Told by a routing daemon (`NTF_EXT_LEARNED`).
    pub learned: bool,
}

impl KernelNeighbour {
    /// What of it the policy looks at: whether it is fresh or stale is nothing to that.
    pub fn matters(&self) -> (Option<Mac>, bool) {
        (self.mac, self.valid)
    }
}

/// The link layer (`ARPHRD_*`), as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layer {
    Ethernet,
    Loopback,
    Other,
}

impl KernelLink {
    pub fn is_loopback(&self) -> bool {
        self.layer == Layer::Loopback
    }

    pub fn is_ethernet(&self) -> bool {
        self.layer == Layer::Ethernet
    }

    /// A punt device of a shunt: a tap with our name.
    pub fn is_own_tap(&self) -> bool {
        self.kind.as_deref() == Some("tun") && self.name.starts_with("shunt")
    }
}

/// The qdiscs of one link that are not the kernel's own choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Qdiscs {
    /// `ingress`, `clsact` or a tcx program: filters may touch what arrives or leaves.
    pub ingress: bool,
    /// A root qdisc that was configured: its handle is not 0, as that of the default ones is.
    pub root: bool,
}

impl KernelView {
    pub fn link(&self, ifindex: Ifindex) -> Option<&KernelLink> {
        self.links.iter().find(|link| link.ifindex == ifindex)
    }

    /// Whether tc filters may touch what arrives on the link.
    pub fn has_ingress_filter(&self, ifindex: Ifindex) -> bool {
        self.qdiscs.get(&ifindex).is_some_and(|qdiscs| qdiscs.ingress)
    }
}
