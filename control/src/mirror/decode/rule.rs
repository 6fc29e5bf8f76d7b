//! `ip rule` from `RTM_NEWRULE` (`struct fib_rule_hdr`, `fib_nl_fill_rule`).

use std::fmt::Write as _;

use shunt_policy::config::{
    DscpMatch, FlowLabelMatch, MarkMatch, Origin, PortMatch, PortRange, Rule, RuleAction, RuleSelector, Source,
    Suppress,
};
use shunt_policy::{Dscp, Prefix, Priority, TableId};

use super::{Undecodable, family};
use crate::mirror::attributes::{Attribute, HEADER, attributes};
use crate::mirror::tables::TableNames;

/// Length of `struct fib_rule_hdr`.
const FIXED: usize = 12;
/// `FIB_RULE_INVERT`
const INVERT: u32 = 2;

/// Attributes, `FRA_*`.
mod fra {
    pub(super) const DST: u16 = 1;
    pub(super) const SRC: u16 = 2;
    pub(super) const IIFNAME: u16 = 3;
    pub(super) const GOTO: u16 = 4;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const FWMARK: u16 = 10;
    pub(super) const FLOW: u16 = 11;
    pub(super) const TUN_ID: u16 = 12;
    pub(super) const SUPPRESS_IFGROUP: u16 = 13;
    pub(super) const SUPPRESS_PREFIXLEN: u16 = 14;
    pub(super) const TABLE: u16 = 15;
    pub(super) const FWMASK: u16 = 16;
    pub(super) const OIFNAME: u16 = 17;
    pub(super) const PAD: u16 = 18;
    pub(super) const L3MDEV: u16 = 19;
    pub(super) const UID_RANGE: u16 = 20;
    pub(super) const PROTOCOL: u16 = 21;
    pub(super) const IP_PROTO: u16 = 22;
    pub(super) const SPORT_RANGE: u16 = 23;
    pub(super) const DPORT_RANGE: u16 = 24;
    pub(super) const DSCP: u16 = 25;
    pub(super) const FLOWLABEL: u16 = 26;
    pub(super) const FLOWLABEL_MASK: u16 = 27;
    pub(super) const SPORT_MASK: u16 = 28;
    pub(super) const DPORT_MASK: u16 = 29;
    pub(super) const DSCP_MASK: u16 = 30;
}

/// Decodes a whole message. `None` for families that are not ours (multicast routing has rules, too).
///
/// # Errors
///
/// A message that is cut short or wrong in itself. An attribute that we do not know makes the rule opaque.
pub fn rule(message: &[u8], names: &TableNames) -> Result<Option<Rule>, Undecodable> {
    let fixed = message.get(HEADER..).and_then(<[u8]>::first_chunk::<FIXED>).ok_or(Undecodable("rule"))?;
    let [of, to_length, from_length, tos, table, _, _, action, flags @ ..] = *fixed;
    let Some(family) = family(of) else { return Ok(None) };
    let mut parts = Parts { table: u32::from(table), ..Parts::default() };
    for attribute in attributes(&message[HEADER + FIXED..]) {
        let attribute = attribute.ok_or(Undecodable("rule"))?;
        parts.take(&attribute, from_length, to_length).ok_or(Undecodable("rule"))?;
    }
    let (mut selector, priority, opaque) = (parts.selector(), Priority(parts.priority), parts.opaque.join(" "));
    selector.not = u32::from_ne_bytes(flags) & INVERT != 0;
    selector.tos = (tos != 0).then(|| Dscp::of_tos(tos));
    selector.opaque = (!opaque.is_empty()).then_some(opaque);
    // FR_ACT_*
    let action = match action {
        1 => RuleAction::Lookup(TableId(parts.table), parts.suppress),
        2 => RuleAction::Goto(Priority(parts.goto)),
        3 => RuleAction::Nop,
        6 => RuleAction::Blackhole,
        7 => RuleAction::Unreachable,
        8 => RuleAction::Prohibit,
        other => RuleAction::Opaque(format!("action {other}")),
    };
    let origin = Origin::new(Source::Rule, text(priority, &selector, &action, names));
    Ok(Some(Rule { family, priority, selector, action, origin }))
}

#[derive(Default)]
struct Parts {
    known: RuleSelector,
    priority: u32,
    table: u32,
    goto: u32,
    suppress: Suppress,
    mark: Option<u32>,
    mark_mask: Option<u32>,
    dscp: Option<u8>,
    dscp_mask: Option<u8>,
    source_port: Option<PortRange>,
    source_port_mask: Option<u16>,
    destination_port: Option<PortRange>,
    destination_port_mask: Option<u16>,
    flow_label: Option<u32>,
    flow_label_mask: Option<u32>,
    opaque: Vec<String>,
}

impl Parts {
    /// `None` if the value is not of the attribute's kind.
    fn take(&mut self, attribute: &Attribute<'_>, from_length: u8, to_length: u8) -> Option<()> {
        match attribute.kind {
            fra::DST => self.known.to = Some(Prefix::new(attribute.address()?, to_length)?),
            fra::SRC => self.known.from = Some(Prefix::new(attribute.address()?, from_length)?),
            fra::IIFNAME => self.known.iif = Some(attribute.name()?),
            fra::OIFNAME => self.known.oif = Some(attribute.name()?),
            fra::PRIORITY => self.priority = attribute.u32()?,
            fra::TABLE => self.table = attribute.u32()?,
            fra::GOTO => self.goto = attribute.u32()?,
            fra::FWMARK => self.mark = Some(attribute.u32()?),
            fra::FWMASK => self.mark_mask = Some(attribute.u32()?),
            // All ones is "not set".
            fra::SUPPRESS_PREFIXLEN => self.suppress.prefix_length = u8::try_from(attribute.u32()?).ok(),
            fra::SUPPRESS_IFGROUP => self.suppress.group = Some(attribute.u32()?).filter(|group| *group != u32::MAX),
            fra::TUN_ID => self.known.tunnel = Some(attribute.be64()?).filter(|id| *id != 0),
            fra::L3MDEV => self.known.l3mdev = attribute.u8()? != 0,
            fra::UID_RANGE => {
                let (first, last) = attribute.value.split_at_checked(4)?;
                let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
                self.known.uid_range = Some((number(first)?, number(last)?));
            }
            fra::IP_PROTO => self.known.protocol = Some(attribute.u8()?).filter(|protocol| *protocol != 0),
            fra::SPORT_RANGE => self.source_port = Some(ports(attribute)?),
            fra::DPORT_RANGE => self.destination_port = Some(ports(attribute)?),
            fra::SPORT_MASK => self.source_port_mask = Some(attribute.u16()?),
            fra::DPORT_MASK => self.destination_port_mask = Some(attribute.u16()?),
            // The code point, not its place in the TOS byte.
            fra::DSCP => self.dscp = Some(attribute.u8()? << 2),
            fra::DSCP_MASK => self.dscp_mask = Some(attribute.u8()? << 2),
            fra::FLOWLABEL => self.flow_label = Some(attribute.be32()?),
            fra::FLOWLABEL_MASK => self.flow_label_mask = Some(attribute.be32()?),
            // Who installed it; realms, which classify only; alignment.
            fra::PROTOCOL | fra::FLOW | fra::PAD => {}
            unknown => self.opaque.push(format!("attribute {unknown}")),
        }
        Some(())
    }

    fn selector(&self) -> RuleSelector {
        let port = |range: Option<PortRange>, mask: Option<u16>| match (range?, mask) {
            (range, Some(mask)) if mask != 0 => Some(PortMatch::Masked { value: range.first, mask }),
            (range, _) => Some(PortMatch::Range(range)),
        };
        let fwmark = (self.mark.is_some() || self.mark_mask.is_some())
            // Without a mask the kernel compares all bits (fib_nl2rule).
            .then(|| MarkMatch { value: self.mark.unwrap_or(0), mask: self.mark_mask.unwrap_or(u32::MAX) });
        RuleSelector {
            fwmark,
            dscp: self.dscp.map(|value| DscpMatch {
                value: Dscp::of_tos(value),
                mask: Dscp::of_tos(self.dscp_mask.unwrap_or(0xfc)),
            }),
            source_port: port(self.source_port, self.source_port_mask),
            destination_port: port(self.destination_port, self.destination_port_mask),
            flow_label: self
                .flow_label
                .map(|value| FlowLabelMatch { value, mask: self.flow_label_mask.unwrap_or(0xf_ffff) }),
            ..self.known.clone()
        }
    }
}

/// `struct fib_rule_port_range`, host order.
fn ports(attribute: &Attribute<'_>) -> Option<PortRange> {
    let [a, b, c, d] = attribute.value.try_into().ok()?;
    Some(PortRange { first: u16::from_ne_bytes([a, b]), last: u16::from_ne_bytes([c, d]) })
}

/// As `ip rule` prints it. Writing to a String cannot fail.
fn text(priority: Priority, selector: &RuleSelector, action: &RuleAction, names: &TableNames) -> String {
    let RuleSelector {
        not,
        from,
        to,
        iif,
        oif,
        fwmark,
        tos,
        dscp,
        protocol,
        source_port,
        destination_port,
        uid_range,
        l3mdev,
        tunnel,
        flow_label,
        opaque,
    } = selector;
    let mut text = format!("{}:", priority.0);
    if *not {
        text += " not";
    }
    match from {
        Some(from) => drop(write!(text, " from {}", from.in_words())),
        None => text += " from all",
    }
    if let Some(to) = to {
        let _ = write!(text, " to {}", to.in_words());
    }
    if let Some(tos) = tos {
        let _ = write!(text, " tos {:#04x}", tos.bits());
    }
    if let Some(MarkMatch { value, mask }) = fwmark {
        let _ = write!(text, " fwmark {value:#x}");
        if *mask != u32::MAX {
            let _ = write!(text, "/{mask:#x}");
        }
    }
    if let Some(iif) = iif {
        let _ = write!(text, " iif {iif}");
    }
    if let Some(oif) = oif {
        let _ = write!(text, " oif {oif}");
    }
    if *l3mdev {
        text += " lookup [l3mdev-table]";
    }
    if let Some((first, last)) = uid_range {
        let _ = write!(text, " uidrange {first}-{last}");
    }
    if let Some(protocol) = protocol {
        let _ = match protocol {
            1 => write!(text, " ipproto icmp"),
            6 => write!(text, " ipproto tcp"),
            17 => write!(text, " ipproto udp"),
            58 => write!(text, " ipproto ipv6-icmp"),
            other => write!(text, " ipproto {other}"),
        };
    }
    for (word, port) in [("sport", source_port), ("dport", destination_port)] {
        let _ = match port {
            None => Ok(()),
            Some(PortMatch::Masked { value, mask: u16::MAX }) => write!(text, " {word} {value}"),
            Some(PortMatch::Masked { value, mask }) => write!(text, " {word} {value:#x}/{mask:#x}"),
            Some(PortMatch::Range(PortRange { first, last })) if first == last => write!(text, " {word} {first}"),
            Some(PortMatch::Range(PortRange { first, last })) => write!(text, " {word} {first}-{last}"),
        };
    }
    if let Some(tunnel) = tunnel {
        let _ = write!(text, " tun_id {tunnel}");
    }
    if let Some(DscpMatch { value, mask }) = dscp {
        let _ = write!(text, " dscp {}", value.bits() >> 2);
        if mask.bits() != 0xfc {
            let _ = write!(text, "/{:#x}", mask.bits() >> 2);
        }
    }
    if let Some(FlowLabelMatch { value, mask }) = flow_label {
        let _ = write!(text, " flowlabel {value:#x}");
        if *mask != 0xf_ffff {
            let _ = write!(text, "/{mask:#x}");
        }
    }
    if let Some(opaque) = opaque {
        let _ = write!(text, " {opaque}");
    }
    let _ = match action {
        RuleAction::Lookup(..) if *l3mdev => Ok(()),
        RuleAction::Lookup(table, Suppress { prefix_length, group }) => {
            let _ = write!(text, " lookup {}", names.name(*table));
            prefix_length.map(|length| write!(text, " suppress_prefixlength {length}"));
            group.map(|group| write!(text, " suppress_ifgroup {group}"));
            Ok(())
        }
        RuleAction::Goto(priority) => write!(text, " goto {}", priority.0),
        RuleAction::Nop => write!(text, " nop"),
        RuleAction::Blackhole => write!(text, " blackhole"),
        RuleAction::Unreachable => write!(text, " unreachable"),
        RuleAction::Prohibit => write!(text, " prohibit"),
        RuleAction::Opaque(what) => write!(text, " {what}"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::attributes::Request;

    /// `AF_INET`, lookup of a table named by attribute.
    const LOOKUP: [u8; FIXED] = [2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];

    fn decoded(request: Request) -> Result<Option<Rule>, Undecodable> {
        rule(&request.finish(0), &TableNames::default())
    }

    fn start() -> Request {
        Request::new(32, 0, &LOOKUP).with(fra::TABLE, &201u32.to_ne_bytes()).with(fra::PRIORITY, &7u32.to_ne_bytes())
    }

    #[test]
    fn an_attribute_that_is_not_known_makes_the_rule_opaque() {
        let plain = decoded(start()).unwrap().unwrap();
        assert_eq!(&*plain.origin.text, "7: from all lookup 201");
        assert_eq!(plain.selector, RuleSelector::default());
        let strange = decoded(start().with(99, &[1])).unwrap().unwrap();
        assert_eq!(strange.selector.opaque.as_deref(), Some("attribute 99"));
        assert_eq!(decoded(start().with(fra::FWMARK, &[1])), Err(Undecodable("rule")));
    }

    #[test]
    fn what_iproute2_of_today_does_not_print_is_understood_too() {
        let masked = start()
            .with(fra::DSCP, &[46])
            .with(fra::DSCP_MASK, &[0x3e])
            .with(fra::DPORT_RANGE, &[0x00, 0x10, 0x00, 0x10])
            .with(fra::DPORT_MASK, &[0x00, 0xf0])
            .with(fra::FLOWLABEL, &0xabcdeu32.to_be_bytes())
            .with(fra::FLOWLABEL_MASK, &0xff000u32.to_be_bytes());
        let rule = decoded(masked).unwrap().unwrap();
        assert_eq!(
            &*rule.origin.text,
            "7: from all dport 0x1000/0xf000 dscp 46/0x3e flowlabel 0xabcde/0xff000 lookup 201"
        );
        assert!(rule.selector.dscp.unwrap().matches(47 << 2 | 1));
    }
}
