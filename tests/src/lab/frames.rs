//! Frames to the byte, on a wire of the lab.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender};

use super::namespace::Namespace;

/// A tap on an interface: sends frames as they are and sees all that arrive.
pub struct Wire {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl Namespace {
    /// Opens an interface for raw frames.
    pub fn wire(&self, device: &str) -> Wire {
        self.enter(|| {
            let interface = pnet_datalink::interfaces().into_iter().find(|interface| interface.name == device);
            let interface = interface.unwrap_or_else(|| panic!("no interface {device}"));
            let config = Config { read_timeout: Some(Duration::from_millis(10)), ..Config::default() };
            match pnet_datalink::channel(&interface, config) {
                Ok(Channel::Ethernet(sender, receiver)) => Wire { sender, receiver },
                Ok(_) => panic!("{device} is no Ethernet interface"),
                Err(error) => panic!("{device}: {error}"),
            }
        })
    }
}

/// The sending half of a [`Wire`].
pub struct WireSender(Box<dyn DataLinkSender>);

/// The receiving half of a [`Wire`].
pub struct WireEar(Box<dyn DataLinkReceiver>);

impl WireSender {
    /// A device that is down takes nothing, as a cable that is cut.
    pub fn send(&mut self, frame: &[u8]) {
        let _ = self.0.send_to(frame, None).expect("the device sends");
    }
}

impl WireEar {
    /// The next frame, if one comes within some milliseconds.
    pub fn hear(&mut self) -> Option<Vec<u8>> {
        self.0.next().ok().map(<[u8]>::to_vec)
    }
}

impl Wire {
    /// For a thread that does nothing but listen.
    pub fn split(self) -> (WireSender, WireEar) {
        (WireSender(self.sender), WireEar(self.receiver))
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.sender.send_to(frame, None).expect("the device sends").expect("the frame is taken");
    }

    /// The first frame within `patience` that `wanted` accepts.
    pub fn receive(&mut self, patience: Duration, mut wanted: impl FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if let Ok(frame) = self.receiver.next()
                && wanted(frame)
            {
                return Some(frame.to_vec());
            }
        }
        None
    }
}

/// A UDP datagram in IPv4, valid in every sum.
pub fn ipv4_udp(
    macs: ([u8; 6], [u8; 6]),
    ips: (Ipv4Addr, Ipv4Addr),
    ttl: u8,
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(macs.0, macs.1).ipv4(ips.0.octets(), ips.1.octets(), ttl).udp(ports.0, ports.1);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).expect("a vector takes everything");
    frame
}

/// The same in IPv6.
pub fn ipv6_udp(
    macs: ([u8; 6], [u8; 6]),
    ips: (Ipv6Addr, Ipv6Addr),
    hops: u8,
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(macs.0, macs.1).ipv6(ips.0.octets(), ips.1.octets(), hops).udp(ports.0, ports.1);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).expect("a vector takes everything");
    frame
}
