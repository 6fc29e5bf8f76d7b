//! Netfilter's chains and rules, in one form for iptables of both kinds and nftables.
//!
//! A rule is a list of steps in the order in which the kernel takes them: the first match that fails ends the rule, and what was done
//! before it stays done (nftables allows any order; iptables always has matches, then the counter, then the target).
//!
//! A chain of nftables' family `inet` stands here twice, once for each family; what its rules ask of the other family is
//! [`Test::Never`].

use std::net::IpAddr;
use std::sync::Arc;

use super::Origin;
use crate::names::{Family, Prefix};
use crate::outcome::PuntReason;

/// A chain on a hook, with the chains that it can jump to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseChain {
    pub family: Family,
    pub hook: Hook,
    /// The kernel runs the chains of a hook from the lowest to the highest.
    pub priority: i32,
    /// The kernel may run this one before or after those of the same priority that stand before it in the list: which one it is
    /// cannot be seen. Chains of which this is not said run in the order of the list. The first of type nat may stand so to those that
    /// have nat's own priority (-100 on prerouting, 100 on postrouting).
    pub unordered: bool,
    /// For messages: `iptables-nft mangle PREROUTING`, `table inet fw chain forward`.
    pub name: String,
    /// Of type nat: asked for the first packet of a connection only, and at the place that nat has on the hook, whatever the priority.
    pub nat: bool,
    pub rules: Vec<ChainRule>,
    /// What happens to a packet that reaches the end.
    pub policy: ChainPolicy,
    /// User-defined chains, in any order; names are unique.
    pub user: Vec<UserChain>,
}

impl BaseChain {
    /// Its own rules, then those of its user chains.
    pub fn all_rules(&self) -> impl Iterator<Item = &ChainRule> {
        self.rules.iter().chain(self.user.iter().flat_map(|user| &user.rules))
    }

    pub fn all_rules_mut(&mut self) -> impl Iterator<Item = &mut ChainRule> {
        self.rules.iter_mut().chain(self.user.iter_mut().flat_map(|user| &mut user.rules))
    }
}

/// Where a chain stands in a forwarded packet's way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Hook {
    /// Before routing: the egress is not known.
    Prerouting,
    /// Behind routing and all that may answer with an ICMP error. The TTL is one less than it was.
    Forward,
    Postrouting,
}

impl Hook {
    pub const ALL: [Hook; 3] = [Hook::Prerouting, Hook::Forward, Hook::Postrouting];
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChainPolicy {
    Accept,
    Drop,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserChain {
    pub name: String,
    pub rules: Vec<ChainRule>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainRule {
    pub steps: Vec<Step>,
    /// Where [`Step::Count`] counts.
    pub counter: CounterSlot,
    pub origin: Origin,
}

/// Number of a rule's counter. The same rule keeps its number from one configuration to the next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CounterSlot(pub u32);

/// One step of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ends the rule, and goes on with the next one, if it does not hold.
    Match(Match),
    /// Counts the packet and its length for the rule.
    Count,
    /// Something done to the packet.
    Do(Action),
    /// Ends the rule.
    Verdict(Verdict),
    /// `vmap`: the verdict that the map has for the key; without one the rule ends and the next one follows. A map of addresses (`dnat to
    /// ip daddr map ...`) is one of [`Verdict::Nat`]s.
    VerdictOf { key: Vec<Field>, map: Arc<Set<Verdict>> },
}

/// One test, or its negation. A field that the packet does not have makes both fail (`NFT_BREAK`; iptables asks for the protocol
/// first).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    pub not: bool,
    pub test: Test,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Test {
    /// The field under this mask is one of the values.
    Field { field: Field, mask: u128, values: Vec<Value> },
    /// Source or destination port (`-m multiport --ports`).
    EitherPort(Vec<PortRange>),
    /// The fields, in this order, are an element of the set.
    In { key: Vec<Field>, set: Arc<Set<()>> },
    /// What the kernel's table `local` says of an IPv4 address (`inet_addr_type`): bit `n` stands for the route type `RTN_*` n of
    /// `linux/rtnetlink.h`.
    AddressType { of: Side, types: u16 },
    /// Asks something of the other family, or of what a forwarded packet never is.
    Never,
    /// Asks connection tracking: like [`Opaque`](Test::Opaque), and the kernel must see all packets of a connection to answer it.
    Connection(String),
    /// A test that we do not know: it might hold or not, and asking may leave traces in the kernel.
    Opaque(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    Source,
    Destination,
}

/// What a test or a map looks at. Numbers are in host order; addresses are the number that their bytes make, 32 or 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Field {
    /// Ingress and egress interface, by [`Value::Name`] or [`Value::Range`] of their numbers. The egress is absent in PREROUTING.
    Iif,
    Oif,
    /// `ip link ... group N`
    IifGroup,
    OifGroup,
    Source,
    Destination,
    /// IP protocol, or the IPv6 next header: a packet with extension headers is never asked about.
    Protocol,
    /// TCP, UDP, UDP-Lite, SCTP, DCCP; absent with all others.
    SourcePort,
    DestinationPort,
    /// ICMP in IPv4, ICMPv6 in IPv6; absent with all others.
    IcmpType,
    IcmpCode,
    /// Both in one number: `type << 8 | code`.
    IcmpTypeCode,
    /// The whole TOS or traffic class byte, as rules before have left it.
    Tos,
    /// TTL or hop limit, as rules before have left it.
    Ttl,
    /// IPv6 only, 20 bits.
    FlowLabel,
    /// Length of the IP packet in bytes, headers included.
    Length,
    /// As rules before have left it.
    Mark,
    /// The byte with FIN (0x01), SYN, RST, PSH, ACK, URG, ECE, CWR (0x80); TCP only.
    TcpFlags,
    /// The value of the MSS option, as rules before have left it; TCP with that option only.
    TcpMss,
    /// Source address of the frame, the number that its six bytes make.
    SourceMac,
    /// What ipset compares with the port of an element (`ip_set_get_ip4_port`): the port of TCP, UDP, UDP-Lite and SCTP, type and code
    /// of ICMP as in `IcmpTypeCode`, 0 for all others.
    IpsetSourcePort,
    IpsetDestinationPort,
    /// The state of the packet's connection, one of the bits of [`ConnectionState`], and with it SNAT and DNAT. Where conntrack has
    /// not looked yet, INVALID (`xt_conntrack`, `nft_ct_get_eval`). Never absent.
    CtState,
    /// 0 is original, 1 reply. Absent, as are all below, without a connection.
    CtDirection,
    /// `IPS_*` of `linux/netfilter/nf_conntrack_common.h`.
    CtStatus,
    /// As rules before have left it.
    CtMark,
    CtProtocol,
    CtOriginalSource,
    CtOriginalDestination,
    CtOriginalSourcePort,
    CtOriginalDestinationPort,
    CtReplySource,
    CtReplyDestination,
    CtReplySourcePort,
    CtReplyDestinationPort,
}

/// Bits of [`Field::CtState`]: those of nftables' `ct state` (`NF_CT_STATE_*`), and two that only iptables' `--ctstate` has.
pub struct ConnectionState;

impl ConnectionState {
    pub const INVALID: u16 = 1;
    pub const ESTABLISHED: u16 = 1 << 1;
    pub const RELATED: u16 = 1 << 2;
    pub const NEW: u16 = 1 << 3;
    pub const UNTRACKED: u16 = 1 << 6;
    pub const SNAT: u16 = 1 << 7;
    pub const DNAT: u16 = 1 << 8;
    /// What nftables can see.
    pub const NFTABLES: u16 = 0x4f;
}

impl Field {
    /// What conntrack knows of a packet: the last ones.
    pub fn is_of_connection(self) -> bool {
        self >= Field::CtState
    }

    /// What differs between the packets of one flow that have neither SYN nor FIN nor RST nor an MSS option, and that come by the same
    /// interface with the same TOS and flow label.
    pub fn varies(self) -> bool {
        matches!(self, Field::Ttl | Field::Length | Field::TcpFlags | Field::SourceMac)
    }

    /// What [`Action`]s can change.
    pub fn is_mutable(self) -> bool {
        matches!(self, Field::Tos | Field::Ttl | Field::Mark | Field::TcpMss | Field::CtMark)
    }
}

/// One value of a field, or several in a row.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Value {
    /// Inclusive.
    Range { first: u128, last: u128 },
    /// Of [`Field::Iif`] and [`Field::Oif`].
    Name(InterfacePattern),
}

impl Value {
    pub fn one(number: impl Into<u128>) -> Self {
        let number = number.into();
        Value::Range { first: number, last: number }
    }

    pub fn prefix(prefix: Prefix) -> Self {
        let bits = u32::from(prefix.family().bits());
        let host = bits - u32::from(prefix.length());
        let first = match prefix.address() {
            std::net::IpAddr::V4(address) => u128::from(address.to_bits()),
            std::net::IpAddr::V6(address) => address.to_bits(),
        };
        let hosts = if host == 128 { u128::MAX } else { (1 << host) - 1 };
        Value::Range { first, last: first | hosts }
    }
}

impl From<PortRange> for Value {
    fn from(range: PortRange) -> Self {
        Value::Range { first: range.first.into(), last: range.last.into() }
    }
}

/// A set or map: an nft set, an ipset, or one written inside of a rule. Shared by the rules that ask it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Set<T> {
    /// For messages: `set inet fw blocked`, `ipset blocked`; empty if it has no name.
    pub name: String,
    /// No two elements have a key in common.
    pub elements: Vec<Element<T>>,
    /// Why its answers cannot be known, if they cannot: the kernel fills it while it forwards, say. Asking it is a punt.
    pub opaque: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Element<T> {
    /// One value for each field of the key.
    pub key: Vec<Value>,
    pub data: T,
    /// It may be gone by now, or counts what it matches: a packet that would find it is punted.
    pub uncertain: bool,
}

/// What is done to a packet, or to what the kernel knows of it. The rule goes on with its next step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// `mark = (mark & !clear) ^ flip`: the form to which all of `--set-mark`, `--set-xmark`, `--and-mark`, `--or-mark`, `--xor-mark`
    /// and nftables' `meta mark set` with and, or and xor come down (`xt_MARK`'s mark_tg).
    Mark { clear: u32, flip: u32 },
    /// `meta mark set ... map`; without an element the rule ends.
    MarkOf { key: Vec<Field>, map: Arc<Set<u32>> },
    /// `tos = (tos & !clear) ^ flip`, of the whole TOS or traffic class byte (`xt_DSCP`'s tos_tg and dscp_tg, `ip dscp set`).
    Tos { clear: u8, flip: u8 },
    /// TTL or hop limit.
    Ttl(TtlChange),
    /// Lowers the MSS option of a TCP packet; never raises it.
    Mss(Mss),
    /// `NOTRACK`: conntrack passes the packet over, if it has not seen it yet (`notrack_chk` of xt_CT).
    Untrack,
    /// `ct mark = (ct mark & !clear) ^ flip`; nothing happens without a connection.
    CtMark { clear: u32, flip: u32 },
    /// `ct mark = (ct mark & !clear) ^ (mark & take) ^ flip` (`CONNMARK --save-mark`, `ct mark set meta mark`); nothing without a
    /// connection.
    SaveMark { clear: u32, take: u32, flip: u32 },
    /// `mark = (mark & !clear) ^ (ct mark & take) ^ flip` (`CONNMARK --restore-mark`, `meta mark set ct mark`); nothing without a
    /// connection (where nftables' rule ends then, a test of the connection stands before it).
    RestoreMark { clear: u32, take: u32, flip: u32 },
    /// Known to change nothing that a forwarded packet or a later rule could show: `CLASSIFY`.
    Nothing,
    /// Tells or asks connection tracking something that we do not know (`CT --helper`): punted, and the kernel must see all packets of the connection.
    Connection(String),
    /// A statement that we do not know: a packet that comes here is punted.
    Opaque(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TtlChange {
    Set(u8),
    /// At most to 255.
    Raise(u8),
    /// At least to 0.
    Lower(u8),
}

/// To which value the MSS option is lowered, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mss {
    pub to: MssLimit,
    /// What happens to a TCP packet without the option: iptables adds one, which is left to the kernel (true), nftables lets it be.
    pub adds: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MssLimit {
    Bytes(u16),
    /// What fits both the route to the destination and the one back to the source, less the headers of IP and TCP without options
    /// (`tcpmss_reverse_mtu` of xt_TCPMSS, `get_tcpmss` of nft_rt).
    PathMtu,
}

/// How a rule ends the walk through its chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Ends this base chain only; those behind it on the hook still see the packet.
    Accept,
    Drop,
    Return,
    /// nftables: goes on with the next rule.
    Continue,
    Jump(String),
    /// Like jump, but does not come back.
    Goto(String),
    /// The kernel answers: punted.
    Reject,
    /// Translates the connection that begins with the packet. Stands in chains of type nat only.
    Nat(Arc<Nat>),
    /// One that we do not know (queue, ...): punted.
    Opaque(String),
}

/// What becomes of an end of a connection (`struct nf_nat_range2` and who makes it).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nat {
    pub to: NatTo,
    /// `None` leaves the port if it can.
    pub ports: Option<PortRange>,
    /// `DNAT --to-destination ADDRESS:FIRST-LAST/BASE`: the original port to which the first of `ports` belongs.
    pub base: Option<u16>,
    pub random: bool,
    pub fully_random: bool,
    pub persistent: bool,
}

impl Nat {
    /// Without a word on ports.
    pub fn plain(to: NatTo) -> Self {
        Nat { to, ports: None, base: None, random: false, fully_random: false, persistent: false }
    }
}

/// The chain's hook tells which end it is: the destination in PREROUTING, the source in POSTROUTING.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NatTo {
    /// SNAT, DNAT: one of these, inclusive; without any only the port changes.
    Addresses(Option<(IpAddr, IpAddr)>),
    /// NETMAP, `snat ip prefix to`: the bits under the mask become those of this prefix.
    Prefix(Prefix),
    /// The address of the egress interface towards the next hop (`inet_select_addr`, `ipv6_dev_get_saddr`).
    Masquerade,
    /// This machine.
    Redirect,
}

/// Inclusive range of ports, host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// An interface name, or with a trailing `+` all names that start so (iptables' own wildcard; nftables' `*`). A lone `+` is every
/// interface.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct InterfacePattern(pub String);

impl InterfacePattern {
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('+') {
            Some(start) => name.starts_with(start),
            None => self.0 == name,
        }
    }
}

/// Something of the kernel's that we do not evaluate: a packet that it could touch is punted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    pub family: Family,
    /// [`Hook::Prerouting`]: asked first of all, of the packet as it arrived. [`Hook::Forward`]: asked behind routing, when the egress
    /// is known. Never [`Hook::Postrouting`].
    pub hook: Hook,
    /// What we know of what it looks at; empty is "every packet". [`Test::Opaque`] counts as matching.
    pub matches: Vec<Match>,
    pub reason: PuntReason,
    pub origin: Origin,
}

impl Test {
    /// `-i NAME`, with `+` at the end as a wildcard.
    pub fn iif(name: impl Into<String>) -> Self {
        Test::Field { field: Field::Iif, mask: u128::MAX, values: vec![Value::Name(InterfacePattern(name.into()))] }
    }

    /// `-o NAME`
    pub fn oif(name: impl Into<String>) -> Self {
        Test::Field { field: Field::Oif, mask: u128::MAX, values: vec![Value::Name(InterfacePattern(name.into()))] }
    }

    pub fn source(prefix: Prefix) -> Self {
        Test::of(Field::Source, [Value::prefix(prefix)])
    }

    pub fn destination(prefix: Prefix) -> Self {
        Test::of(Field::Destination, [Value::prefix(prefix)])
    }

    pub fn protocol(protocol: u8) -> Self {
        Test::of(Field::Protocol, [Value::one(protocol)])
    }

    /// `field & mask == value`; never holds if the value has other bits than the mask.
    pub fn masked(field: Field, value: impl Into<u128>, mask: impl Into<u128>) -> Self {
        Test::Field { field, mask: mask.into(), values: vec![Value::one(value)] }
    }

    /// The field is one of these.
    pub fn of(field: Field, values: impl IntoIterator<Item = Value>) -> Self {
        Test::Field { field, mask: u128::MAX, values: values.into_iter().collect() }
    }
}
