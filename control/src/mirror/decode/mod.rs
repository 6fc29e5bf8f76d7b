//! Kernel messages into the words of the policy. What we do not know of a message makes the thing opaque, never invisible.

mod address;
pub mod neighbour;
mod nexthop;
pub mod route;
mod rule;

use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use shunt_policy::{Family, Ifindex, Mac};

pub use address::address;
pub use neighbour::neighbour;
pub use nexthop::{Bucket, bucket, nexthop};
pub use route::{Placed, route, via};
pub use rule::rule;

use super::view::{KernelLink, Layer, Qdiscs};

/// A message that makes no sense, and what it was to be.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
#[error("a message about a {0} cannot be decoded")]
pub struct Undecodable(pub &'static str);

pub fn link(message: &LinkMessage) -> KernelLink {
    let mut link = KernelLink {
        ifindex: Ifindex(message.header.index),
        name: String::new(),
        layer: match message.header.link_layer_type {
            LinkLayerType::Ether => Layer::Ethernet,
            LinkLayerType::Loopback => Layer::Loopback,
            _ => Layer::Other,
        },
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        running: message.header.flags.contains(LinkFlags::Running),
        group: 0,
        mac: None,
        mtu: 0,
        kind: None,
        master: None,
        lower: None,
        rx_queues: 1,
        xdp_program: None,
    };
    let mut lower_is_elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name.clone(),
            LinkAttribute::Address(address) => link.mac = mac(address),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) => link.master = Some(Ifindex(*master)),
            LinkAttribute::Link(lower) => link.lower = Some(Ifindex(*lower)),
            // A veth's peer: its number belongs to another namespace.
            LinkAttribute::LinkNetNsId(_) => lower_is_elsewhere = true,
            LinkAttribute::Carrier(carrier) => link.carrier = *carrier != 0,
            LinkAttribute::Group(group) => link.group = *group,
            LinkAttribute::NumRxQueues(queues) => link.rx_queues = *queues,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(attributes) => {
                link.xdp_program = attributes.iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
                        Some(*id)
                    }
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if lower_is_elsewhere {
        link.lower = None;
    }
    link
}

/// What of a qdisc is the operator's doing.
pub fn qdisc(message: &TcMessage) -> Option<(Ifindex, Qdiscs)> {
    let header = &message.header;
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    let ingress = matches!(kind, Some("ingress" | "clsact"));
    let root = header.parent == TcHandle::ROOT && header.handle.major != 0 && !ingress;
    let ifindex = Ifindex(u32::try_from(header.index).ok()?);
    (ingress || root).then_some((ifindex, Qdiscs { ingress, root }))
}

/// `AF_*`
fn family(number: u8) -> Option<Family> {
    match i32::from(number) {
        libc::AF_INET => Some(Family::V4),
        libc::AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    Some(Mac(bytes.try_into().ok()?))
}
