//! Words that nft prints for numbers (`nft describe`).

/// Words and their numbers; the first word of a number is the one that is printed.
#[derive(PartialEq, Eq, Debug)]
pub struct Symbols(&'static [(&'static str, u64)]);

impl Symbols {
    pub fn number(&self, word: &str) -> Option<u64> {
        self.0.iter().find(|(known, _)| *known == word).map(|(_, number)| *number)
    }
}

pub static ICMP_TYPES: Symbols = Symbols(&[
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("source-quench", 4),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
    ("info-request", 15),
    ("info-reply", 16),
    ("address-mask-request", 17),
    ("address-mask-reply", 18),
]);

pub static ICMP_CODES: Symbols = Symbols(&[
    ("net-unreachable", 0),
    ("host-unreachable", 1),
    ("prot-unreachable", 2),
    ("port-unreachable", 3),
    ("frag-needed", 4),
    ("net-prohibited", 9),
    ("host-prohibited", 10),
    ("admin-prohibited", 13),
]);

pub static ICMPV6_TYPES: Symbols = Symbols(&[
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("mld-listener-query", 130),
    ("mld-listener-report", 131),
    ("mld-listener-done", 132),
    ("mld-listener-reduction", 132),
    ("nd-router-solicit", 133),
    ("nd-router-advert", 134),
    ("nd-neighbor-solicit", 135),
    ("nd-neighbor-advert", 136),
    ("nd-redirect", 137),
    ("router-renumbering", 138),
    ("ind-neighbor-solicit", 141),
    ("ind-neighbor-advert", 142),
    ("mld2-listener-report", 143),
]);

pub static ICMPV6_CODES: Symbols = Symbols(&[
    ("no-route", 0),
    ("admin-prohibited", 1),
    ("addr-unreachable", 3),
    ("port-unreachable", 4),
    ("policy-fail", 5),
    ("reject-route", 6),
]);

/// Six bits.
pub static DSCP: Symbols = Symbols(&[
    ("cs0", 0x00),
    ("cs1", 0x08),
    ("cs2", 0x10),
    ("cs3", 0x18),
    ("cs4", 0x20),
    ("cs5", 0x28),
    ("cs6", 0x30),
    ("cs7", 0x38),
    ("df", 0x00),
    ("be", 0x00),
    ("lephb", 0x01),
    ("af11", 0x0a),
    ("af12", 0x0c),
    ("af13", 0x0e),
    ("af21", 0x12),
    ("af22", 0x14),
    ("af23", 0x16),
    ("af31", 0x1a),
    ("af32", 0x1c),
    ("af33", 0x1e),
    ("af41", 0x22),
    ("af42", 0x24),
    ("af43", 0x26),
    ("va", 0x2c),
    ("ef", 0x2e),
]);

pub static ECN: Symbols = Symbols(&[("not-ect", 0), ("ect1", 1), ("ect0", 2), ("ce", 3)]);

pub static TCP_FLAGS: Symbols = Symbols(&[
    ("fin", 0x01),
    ("syn", 0x02),
    ("rst", 0x04),
    ("psh", 0x08),
    ("ack", 0x10),
    ("urg", 0x20),
    ("ecn", 0x40),
    ("cwr", 0x80),
]);

/// `NF_CT_STATE_*`
pub static CT_STATES: Symbols =
    Symbols(&[("invalid", 0x01), ("established", 0x02), ("related", 0x04), ("new", 0x08), ("untracked", 0x40)]);

/// `IPS_*`
pub static CT_STATUS: Symbols = Symbols(&[
    ("expected", 0x001),
    ("seen-reply", 0x002),
    ("assured", 0x004),
    ("confirmed", 0x008),
    ("snat", 0x010),
    ("dnat", 0x020),
    ("dying", 0x200),
]);

/// `IP_CT_DIR_*`
pub static CT_DIRECTIONS: Symbols = Symbols(&[("original", 0), ("reply", 1)]);

pub static ETHERTYPES: Symbols = Symbols(&[
    ("ip", 0x0800),
    ("arp", 0x0806),
    ("ip6", 0x86dd),
    ("8021q", 0x8100),
    ("8021ad", 0x88a8),
    ("vlan", 0x8100),
]);

/// `PACKET_*`
pub static PACKET_TYPES: Symbols =
    Symbols(&[("host", 0), ("unicast", 0), ("broadcast", 1), ("multicast", 2), ("other", 3)]);

/// `NFPROTO_*`
pub static FAMILIES: Symbols = Symbols(&[("ipv4", 2), ("ipv6", 10)]);

/// `RTN_*`
pub static ADDRESS_TYPES: Symbols = Symbols(&[
    ("unspec", 0),
    ("unicast", 1),
    ("local", 2),
    ("broadcast", 3),
    ("anycast", 4),
    ("multicast", 5),
    ("blackhole", 6),
    ("unreachable", 7),
    ("prohibit", 8),
]);

/// `ARPHRD_*`
pub static LINK_TYPES: Symbols = Symbols(&[("ether", 1)]);

/// Where `/etc/protocols` says nothing.
pub static PROTOCOLS: Symbols = Symbols(&[
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("ospf", 89),
    ("pim", 103),
    ("comp", 108),
    ("vrrp", 112),
    ("sctp", 132),
    ("udplite", 136),
]);
