//! What does not open says why, and leaves nothing behind.

mod common;

use common::{LAN, own, policy};
use shunt_dataplane::{Dataplane, OpenError, Options, PortSpec};
use shunt_policy::Ifindex;

/// A port on an interface that no machine has.
fn nowhere() -> PortSpec {
    PortSpec {
        id: LAN,
        name: "shunt-nowhere".into(),
        ifindex: Ifindex(0x7fff_0000),
        mac: own(LAN),
        mtu: 1500,
        queues: 1,
    }
}

fn refusal(ports: &[PortSpec]) -> OpenError {
    match Dataplane::open(&Options::default(), ports, policy(1), &mut None) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[test]
fn no_port_is_no_dataplane() {
    assert!(matches!(refusal(&[]), OpenError::NoPorts));
}

#[test]
fn a_port_number_is_given_once() {
    let error = refusal(&[nowhere(), nowhere()]);
    assert!(matches!(error, OpenError::DuplicatePort { number: 0, .. }), "{error}");
}

#[test]
fn privileged_an_interface_that_is_gone_is_named() {
    let error = refusal(&[nowhere()]);
    assert!(matches!(error, OpenError::InterfaceGone { .. }), "{error}");
    assert!(error.to_string().contains("shunt-nowhere"), "{error}");
}
