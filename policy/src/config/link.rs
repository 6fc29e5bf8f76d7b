//! Interfaces and what is known of the addresses on them.

use std::net::IpAddr;

use crate::names::{Ifindex, Mac, PortId, Prefix};
use crate::outcome::PuntReason;

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub ifindex: Ifindex,
    pub name: String,
    /// The interface's own Ethernet address; `None` for interfaces without one (tun, ppp).
    pub mac: Option<Mac>,
    /// `IFF_UP`.
    pub up: bool,
    /// Largest IP packet in bytes, IPv4 (`IFLA_MTU`).
    pub mtu: u32,
    /// Largest IP packet in bytes, IPv6 (`net.ipv6.conf.IF.mtu`, never above `mtu`).
    pub mtu6: u32,
    /// Packets that arrive here may be forwarded (`net.ipv4.conf.IF.forwarding`).
    pub forwarding4: bool,
    /// The same for IPv6; false while `net.ipv6.conf.all.forwarding` is 0 as well.
    pub forwarding6: bool,
    /// The larger of `net.ipv4.conf.{all,IF}.rp_filter`.
    pub rp_filter: RpFilter,
    /// `net.ipv4.conf.{all,IF}.src_valid_mark`, either of them.
    pub src_valid_mark: bool,
    /// `net.ipv4.conf.{all,IF}.accept_local`, either of them.
    pub accept_local: bool,
    /// It has an IPv4 address.
    pub has_address4: bool,
    /// Without a carrier, and `ignore_routes_with_linkdown` set: routes that lead here are passed over (IPv4, IPv6).
    pub ignored4: bool,
    pub ignored6: bool,
    /// ICMP redirects that arrive here are obeyed (IPv4, IPv6): then the kernel alone knows the next hops on this link.
    pub redirected4: bool,
    pub redirected6: bool,
    /// Its addresses in the kernel's order, for masquerading.
    pub addresses: Vec<LinkAddress>,
    /// `IFLA_GROUP`
    pub group: u32,
    /// How packets leave: by our workers, or only by the kernel and why.
    pub transmit: Transmit,
    /// Drivers of other interfaces may hand it frames to send (`NETDEV_XDP_ACT_NDO_XMIT`).
    pub takes_redirected: bool,
}

impl Link {
    /// An Ethernet port that is up, forwards both families and has an MTU of 1500 bytes; no sysctl is unusual.
    pub fn port(ifindex: Ifindex, name: &str, mac: Mac, port: PortId) -> Self {
        Link {
            ifindex,
            name: name.to_owned(),
            mac: Some(mac),
            up: true,
            mtu: 1500,
            mtu6: 1500,
            forwarding4: true,
            forwarding6: true,
            rp_filter: RpFilter::Off,
            src_valid_mark: false,
            accept_local: false,
            has_address4: true,
            ignored4: false,
            ignored6: false,
            redirected4: false,
            redirected6: false,
            addresses: Vec::new(),
            group: 0,
            transmit: Transmit::Port(port),
            takes_redirected: false,
        }
    }
}

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkAddress {
    /// `IFA_LOCAL`
    pub address: IpAddr,
    /// The network it is in, or the peer (`IFA_ADDRESS` and the prefix length).
    pub network: Prefix,
    /// `RT_SCOPE_*`: 0 universe, 200 site, 253 link, 254 host.
    pub scope: u8,
    /// `IFA_F_SECONDARY`: IPv4 of a network in which the interface has an address already. Of IPv6 a temporary one (RFC 8981).
    pub secondary: bool,
    /// IPv6: neither tentative nor failed nor deprecated.
    pub preferred: bool,
}

/// Who can send on a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transmit {
    /// One of our ports.
    Port(PortId),
    /// The kernel alone, for this reason; packets routed here are punted.
    Kernel(PuntReason),
}

/// Reverse-path filter of IPv4 (RFC 3704; `ip-sysctl.rst`, rp_filter).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RpFilter {
    Off,
    Strict,
    Loose,
}

/// What the kernel knows of an address on a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    pub ifindex: Ifindex,
    pub address: IpAddr,
    /// `None` while the kernel resolves it or has failed to (INCOMPLETE, FAILED, NONE), and of what is no Ethernet address: such
    /// packets are the kernel's.
    pub mac: Option<Mac>,
    /// `NUD_VALID`: the kernel would send there, be it without an address (NOARP). Always with a MAC.
    pub valid: bool,
}
