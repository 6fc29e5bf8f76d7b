//! Frames to the byte, on a wire of the lab.

use std::time::{Duration, Instant};

use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender};
use shunt_lab::Namespace;

/// A tap on an interface: sends frames as they are and sees all that arrive.
pub struct Wire {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
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
    /// Opens an interface for raw frames.
    pub fn open(namespace: &Namespace, device: &str) -> Wire {
        namespace.enter(|| {
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
