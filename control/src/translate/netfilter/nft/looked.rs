//! What rules look at.

use shunt_policy::Family;
use shunt_policy::config::{Field, Hook, Side};

use super::lowering::Lowering;
use super::value::{Bits, Kind};
use crate::mirror::netfilter::nft::Expression;

/// Protocol numbers.
pub(super) const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// `ARPHRD_ETHER`: ports are nothing else.
const ETHERNET: u128 = 1;

/// Something that a rule looks at, and how it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Looked {
    /// Packets of this protocol only have it.
    Field { needs: Option<u8>, field: Field, kind: Kind },
    /// All packets that come here have the same.
    Constant { value: u128, kind: Kind },
    /// `fib daddr type`
    AddressType(Side),
    /// No packet that comes here has it.
    Never,
    /// Connection tracking.
    Connection,
    /// We do not know. Packets of this protocol only could have it.
    Opaque { needs: Option<u8> },
}

/// TCP, UDP, DCCP, SCTP, UDP-Lite.
pub(super) fn has_ports(protocol: u128) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

impl Lowering<'_, '_> {
    /// What is looked at, and which bits of it.
    pub(super) fn look(&self, expression: &Expression) -> (Looked, Bits) {
        match expression {
            Expression::Binary(operator, left, right) => {
                if let Some(zero) = self.never_fragmented(expression) {
                    return zero;
                }
                let (looked, bits) = self.look(left);
                let kind = match &looked {
                    Looked::Field { kind, .. } | Looked::Constant { kind, .. } => *kind,
                    _ => return (looked, bits),
                };
                match bits.then(*operator, right, kind, self.sets.names) {
                    // Later fields of one kind are not masked as it is written.
                    Some(bits) if (kind.mask() == u128::MAX || kind == Kind::CtState) && kind.has_bits() => {
                        (looked, bits)
                    }
                    _ => (unknown(&looked), Bits::PLAIN),
                }
            }
            Expression::Payload { protocol, field } => (self.payload(protocol, field), Bits::PLAIN),
            Expression::Meta(key) => (self.meta(key), Bits::PLAIN),
            Expression::Ct { key, direction } => (self.connection(key, direction.as_deref()), Bits::PLAIN),
            Expression::Fib { result, flags } if result == "type" && self.family == Family::V4 => {
                let side = match &flags.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["saddr"] => Looked::AddressType(Side::Source),
                    ["daddr"] => Looked::AddressType(Side::Destination),
                    // Of one interface's addresses.
                    _ => opaque(None),
                };
                (side, Bits::PLAIN)
            }
            Expression::TcpOption { name, field: Some(field) } if name == "maxseg" && field == "size" => {
                (of(Some(TCP), Field::TcpMss, Kind::Number(16)), Bits::PLAIN)
            }
            _ => (opaque(None), Bits::PLAIN),
        }
    }

    fn payload(&self, protocol: &str, field: &str) -> Looked {
        let other_family = match protocol {
            "ip" => self.family == Family::V6,
            "ip6" => self.family == Family::V4,
            _ => false,
        };
        if other_family {
            return Looked::Never;
        }
        let number = |field, bits| of(None, field, Kind::Number(bits));
        match (protocol, field) {
            ("ip" | "ip6", "saddr") => of(None, Field::Source, Kind::Address(self.family)),
            ("ip" | "ip6", "daddr") => of(None, Field::Destination, Kind::Address(self.family)),
            ("ip", "protocol") | ("ip6", "nexthdr") => of(None, Field::Protocol, Kind::Protocol),
            ("ip", "ttl") | ("ip6", "hoplimit") => number(Field::Ttl, 8),
            ("ip" | "ip6", "dscp") => of(None, Field::Tos, Kind::Dscp),
            ("ip" | "ip6", "ecn") => of(None, Field::Tos, Kind::Ecn),
            ("ip", "length") => number(Field::Length, 16),
            ("ip6", "length") => of(None, Field::Length, Kind::PayloadLength),
            ("ip6", "flowlabel") => number(Field::FlowLabel, 20),
            ("ip", "version") => Looked::Constant { value: 4, kind: Kind::Number(4) },
            ("ip6", "version") => Looked::Constant { value: 6, kind: Kind::Number(4) },
            // Packets with options are the kernel's.
            ("ip", "hdrlength") => Looked::Constant { value: 5, kind: Kind::Number(4) },
            ("tcp" | "udp" | "udplite" | "sctp" | "dccp", _) => {
                let protocol = match protocol {
                    "tcp" => TCP,
                    "udp" => 17,
                    "udplite" => 136,
                    "sctp" => 132,
                    _ => 33,
                };
                match field {
                    "sport" => of(Some(protocol), Field::SourcePort, Kind::Number(16)),
                    "dport" => of(Some(protocol), Field::DestinationPort, Kind::Number(16)),
                    "flags" if protocol == TCP => of(Some(TCP), Field::TcpFlags, Kind::TcpFlags),
                    _ => opaque(Some(protocol)),
                }
            }
            // Of what has no ports it is other bytes.
            ("th", "sport") if self.has_ports => number(Field::SourcePort, 16),
            ("th", "dport") if self.has_ports => number(Field::DestinationPort, 16),
            // Either protocol inside of the other family is the kernel's.
            ("icmp", _) if self.family == Family::V6 => Looked::Never,
            ("icmpv6", _) if self.family == Family::V4 => Looked::Never,
            ("icmp", "type") => of(Some(ICMP), Field::IcmpType, Kind::IcmpType(self.family)),
            ("icmp", "code") => of(Some(ICMP), Field::IcmpCode, Kind::IcmpCode(self.family)),
            ("icmpv6", "type") => of(Some(ICMPV6), Field::IcmpType, Kind::IcmpType(self.family)),
            ("icmpv6", "code") => of(Some(ICMPV6), Field::IcmpCode, Kind::IcmpCode(self.family)),
            ("icmp", _) => opaque(Some(ICMP)),
            ("icmpv6", _) => opaque(Some(ICMPV6)),
            ("igmp", _) => opaque(Some(2)),
            ("esp", _) => opaque(Some(50)),
            ("ether", "saddr") => of(None, Field::SourceMac, Kind::Mac),
            ("ether", "type") => Looked::Constant { value: self.ethertype(), kind: Kind::EtherType },
            _ => opaque(None),
        }
    }

    fn meta(&self, key: &str) -> Looked {
        let routed = self.hook != Hook::Prerouting;
        match key {
            "iif" => of(None, Field::Iif, Kind::Index),
            "iifname" => of(None, Field::Iif, Kind::Name),
            "iifgroup" => of(None, Field::IifGroup, Kind::Group),
            "oif" if routed => of(None, Field::Oif, Kind::Index),
            "oifname" if routed => of(None, Field::Oif, Kind::Name),
            "oifgroup" if routed => of(None, Field::OifGroup, Kind::Group),
            // Before routing there is number 0 and an empty name (nft_meta_store_ifindex, nft_meta_store_ifname), but no group.
            "oif" => Looked::Constant { value: 0, kind: Kind::Index },
            "oifname" => Looked::Constant { value: 0, kind: Kind::Name },
            "oifgroup" => Looked::Never,
            "mark" => of(None, Field::Mark, Kind::Mark),
            "l4proto" => of(None, Field::Protocol, Kind::Protocol),
            "length" => of(None, Field::Length, Kind::Number(32)),
            "nfproto" => {
                let value = if self.family == Family::V4 { 2 } else { 10 };
                Looked::Constant { value, kind: Kind::NetfilterFamily }
            }
            "protocol" => Looked::Constant { value: self.ethertype(), kind: Kind::EtherType },
            // Packets to others than the port itself are the kernel's, and PACKET_HOST is 0.
            "pkttype" => Looked::Constant { value: 0, kind: Kind::PacketType },
            "iiftype" => Looked::Constant { value: ETHERNET, kind: Kind::LinkType },
            // What comes in here was not decrypted (secpath_exists).
            "ipsec" | "secpath" => Looked::Constant { value: 0, kind: Kind::Presence },
            // Of the socket that sent it, and none here has.
            "skuid" | "skgid" | "cgroup" => Looked::Never,
            _ => opaque(None),
        }
    }

    /// nft_ct_get_eval
    fn connection(&self, key: &str, direction: Option<&str>) -> Looked {
        let (of_tuple, is_reply) = match direction {
            None => (false, false),
            Some("original") => (true, false),
            Some("reply") => (true, true),
            Some(_) => return Looked::Connection,
        };
        let one = |original, reply| if is_reply { reply } else { original };
        let source = one(Field::CtOriginalSource, Field::CtReplySource);
        let destination = one(Field::CtOriginalDestination, Field::CtReplyDestination);
        let address = |field| of(None, field, Kind::Address(self.family));
        match key {
            // One of iptables' bits more or less makes no difference.
            "state" if !of_tuple => of(None, Field::CtState, Kind::CtState),
            "status" if !of_tuple => of(None, Field::CtStatus, Kind::CtStatus),
            "direction" if !of_tuple => of(None, Field::CtDirection, Kind::CtDirection),
            "mark" if !of_tuple => of(None, Field::CtMark, Kind::Mark),
            "protocol" => of(None, Field::CtProtocol, Kind::Protocol),
            "ip saddr" | "ip daddr" if self.family == Family::V6 => Looked::Never,
            "ip6 saddr" | "ip6 daddr" if self.family == Family::V4 => Looked::Never,
            "saddr" | "ip saddr" | "ip6 saddr" if of_tuple => address(source),
            "daddr" | "ip daddr" | "ip6 daddr" if of_tuple => address(destination),
            "proto-src" if of_tuple => {
                of(None, one(Field::CtOriginalSourcePort, Field::CtReplySourcePort), Kind::Number(16))
            }
            "proto-dst" if of_tuple => {
                of(None, one(Field::CtOriginalDestinationPort, Field::CtReplyDestinationPort), Kind::Number(16))
            }
            _ => Looked::Connection,
        }
    }

    fn ethertype(&self) -> u128 {
        match self.family {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        }
    }

    /// `ip frag-off & 0x1fff`: fragments are the kernel's.
    fn never_fragmented(&self, expression: &Expression) -> Option<(Looked, Bits)> {
        let Expression::Binary(crate::mirror::netfilter::nft::Operator::And, left, right) = expression else {
            return None;
        };
        match (&**left, &**right) {
            (Expression::Payload { protocol, field }, Expression::Number(mask))
                if protocol == "ip" && field == "frag-off" && mask & !0x3fff == 0 =>
            {
                let zero = Looked::Constant { value: 0, kind: Kind::Number(16) };
                Some((if self.family == Family::V4 { zero } else { Looked::Never }, Bits::PLAIN))
            }
            _ => None,
        }
    }
}

fn of(needs: Option<u8>, field: Field, kind: Kind) -> Looked {
    Looked::Field { needs, field, kind }
}

fn opaque(needs: Option<u8>) -> Looked {
    Looked::Opaque { needs }
}

/// The same packets have it, but what it is we do not know.
fn unknown(looked: &Looked) -> Looked {
    match looked {
        Looked::Field { field, .. } if field.is_of_connection() => Looked::Connection,
        Looked::Field { needs, .. } => opaque(*needs),
        _ => opaque(None),
    }
}
