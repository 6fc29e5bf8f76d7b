//! Which interfaces we take, and why the others are left.

use shunt_dataplane::PortSpec;
use shunt_policy::config::{Action, BaseChain, ChainRule, Config, Hook, Match, Step, Test, Verdict};
use shunt_policy::{Family, Ifindex, Mac, PortId};

use crate::mirror::{KernelLink, KernelView};

/// The answer for every interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    pub taken: Vec<Taken>,
    pub left: Vec<Left>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    pub ifindex: Ifindex,
    pub name: String,
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    pub queues: u32,
    /// Its driver takes frames that others redirect to it.
    pub takes_redirected: bool,
}

/// A port as rules and routes are [translated](crate::translate::translate) for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number {
    pub ifindex: Ifindex,
    pub port: PortId,
    pub takes_redirected: bool,
}

/// An interface that stays the kernel's alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Left {
    pub name: String,
    pub why: String,
}

/// The operator asked for an interface that cannot be taken.
#[derive(thiserror::Error, PartialEq, Eq, Debug)]
pub enum SelectionError {
    #[error("--dev {name}: no such interface; there are: {present}")]
    Unknown { name: String, present: String },
    #[error("--dev {name}: cannot be taken: {why}")]
    Unsuitable { name: String, why: String },
    #[error("no interface can be taken: {}", list(.left))]
    Nothing { left: Vec<Left> },
}

fn list(left: &[Left]) -> String {
    if left.is_empty() {
        return "there is none besides loopback".to_owned();
    }
    left.iter().map(|left| format!("{}: {}", left.name, left.why)).collect::<Vec<_>>().join("; ")
}

/// Chooses among the interfaces: those asked for, or all that suit.
///
/// `ours` are the interfaces that already carry our own XDP program.
pub fn select(view: &KernelView, asked: &[String], ours: &[Ifindex]) -> Result<Selection, SelectionError> {
    for name in asked {
        let Some(link) = view.links.iter().find(|link| link.name == *name) else {
            let present = view.links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(SelectionError::Unknown { name: name.clone(), present });
        };
        if let Err(why) = suits(link, view, ours) {
            return Err(SelectionError::Unsuitable { name: name.clone(), why });
        }
    }
    let selection = sort(view, asked, ours);
    if selection.taken.is_empty() {
        return Err(SelectionError::Nothing { left: selection.left });
    }
    Ok(selection)
}

/// The same without errors, for a daemon that is running and a world that changes.
pub fn sort(view: &KernelView, asked: &[String], ours: &[Ifindex]) -> Selection {
    let mut selection = Selection::default();
    for link in &view.links {
        let answer = match suits(link, view, ours) {
            Ok(_) if !asked.is_empty() && !asked.contains(&link.name) => Err("not asked for by --dev".to_owned()),
            answer => answer,
        };
        match answer {
            Ok(taken) => selection.taken.push(taken),
            Err(_) if link.is_loopback() || link.is_own_tap() => {}
            Err(why) => selection.left.push(Left { name: link.name.clone(), why }),
        }
    }
    selection
}

/// Whether our workers can serve the interface. The reason is for the operator.
fn suits(link: &KernelLink, view: &KernelView, ours: &[Ifindex]) -> Result<Taken, String> {
    if link.is_loopback() {
        return Err("it is the loopback interface".to_owned());
    }
    let Some(mac) = link.mac.filter(|_| link.is_ethernet()) else {
        return Err("it is not an Ethernet interface (tun, ppp): AF_XDP needs one".to_owned());
    };
    if link.is_own_tap() {
        return Err("it is a punt device of shunt".to_owned());
    }
    if !link.up {
        return Err("it is down; bring it up first: ip link set up dev ".to_owned() + &link.name);
    }
    if let Some(master) = link.master {
        let name = view.links.iter().find(|other| other.ifindex == master).map_or("another", |other| &other.name);
        return Err(format!("it is a member of {name}, which handles its packets"));
    }
    if let Some(upper) =
        view.links.iter().find(|other| other.kind.as_deref() == Some("vlan") && other.lower == Some(link.ifindex))
    {
        return Err(format!("the VLAN interface {} stands on it; its packets are the kernel's", upper.name));
    }
    if let Some(program) = link.xdp_program.filter(|_| !ours.contains(&link.ifindex)) {
        return Err(format!("another XDP program (id {program}) is attached; see: bpftool net, ip link"));
    }
    if view.has_ingress_filter(link.ifindex) {
        return Err(
            "a tc ingress or clsact qdisc or a tcx program is attached, whose filters we do not mirror".to_owned()
        );
    }
    let (ifindex, name) = (link.ifindex, link.name.clone());
    Ok(Taken { ifindex, name, mac, mtu: link.mtu, queues: link.rx_queues.max(1), takes_redirected: false })
}

impl Selection {
    /// The dataplane's ports, numbered in this order.
    pub fn specs(&self) -> Vec<PortSpec> {
        let spec = |(at, taken): (usize, &Taken)| PortSpec {
            id: PortId(at as u16),
            name: taken.name.clone(),
            ifindex: taken.ifindex,
            mac: taken.mac,
            mtu: taken.mtu,
            queues: taken.queues,
        };
        self.taken.iter().enumerate().map(spec).collect()
    }

    pub fn numbers(&self) -> Vec<Number> {
        let number = |(at, taken): (usize, &Taken)| {
            let Taken { ifindex, takes_redirected, .. } = *taken;
            Number { ifindex, port: PortId(at as u16), takes_redirected }
        };
        self.taken.iter().enumerate().map(number).collect()
    }
}

/// The first rule of a chain, if it asks all packets something that we do not know. Nat rules are asked the first packet of a
/// connection only, and none of what is not tracked.
fn punts_all(chain: &BaseChain) -> Option<&ChainRule> {
    let rule = chain.rules.first().filter(|_| !chain.nat)?;
    let first = rule.steps.iter().find(|step| !matches!(step, Step::Count | Step::Do(Action::Nothing)))?;
    let opaque = matches!(
        first,
        Step::Match(Match { test: Test::Opaque(_) | Test::Connection(_), .. })
            | Step::Do(Action::Opaque(_) | Action::Connection(_))
            | Step::Verdict(Verdict::Reject | Verdict::Opaque(_))
    );
    opaque.then_some(rule)
}

/// Whether any packet that arrives on the link could be forwarded by us. If not, why: then the port is better left alone.
pub fn worth_taking(config: &Config, ifindex: Ifindex) -> Result<(), String> {
    let Some(link) = config.links.iter().find(|link| link.ifindex == ifindex) else {
        return Err("it is gone".to_owned());
    };
    let mut reasons = Vec::new();
    for family in Family::BOTH {
        let forwarding = match family {
            Family::V4 => link.forwarding4,
            Family::V6 => link.forwarding6,
        };
        let guard = config.guards.iter().find(|guard| guard.family == family && guard.matches.is_empty());
        let rule = config.chains.iter().filter(|chain| chain.family == family).find_map(punts_all);
        match (forwarding, guard) {
            (true, None) => match rule {
                None => return Ok(()),
                Some(rule) => {
                    reasons.push(format!("{family}: every packet comes to {}, which is not mirrored", rule.origin))
                }
            },
            (false, _) => reasons.push(format!("{family}: the sysctl forwarding is off")),
            (true, Some(guard)) => {
                let hook = match guard.hook {
                    Hook::Prerouting => "every packet",
                    Hook::Forward | Hook::Postrouting => "every forwarded packet",
                };
                reasons
                    .push(format!("{family}: {hook} is the kernel's ({}), because of {}", guard.reason, guard.origin));
            }
        }
    }
    Err(reasons.join("; "))
}
