//! The sysctls that decide about forwarding. Most give no event, so they are read anew now and then.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use shunt_policy::config::{HashPolicy, RpFilter, Spreading};

/// Of one interface, with what `all` adds to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkSysctls {
    pub forwarding4: bool,
    pub forwarding6: bool,
    /// The larger of `all` and the interface's.
    pub rp_filter: RpFilter,
    /// Either of `all` and the interface's.
    pub src_valid_mark: bool,
    /// Either of `all` and the interface's.
    pub accept_local: bool,
    /// `ignore_routes_with_linkdown`: either of `all` and the interface's in IPv4, the interface's in IPv6.
    pub ignore_linkdown4: bool,
    pub ignore_linkdown6: bool,
    /// ICMP redirects that arrive are obeyed (`accept_redirects`, off on a router unless switched on).
    pub redirected4: bool,
    pub redirected6: bool,
    /// `net.ipv6.conf.IF.mtu`, bytes; `None` where IPv6 is not on the interface.
    pub mtu6: Option<u32>,
}

/// Of all interfaces, by name, and of the namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sysctls {
    pub links: BTreeMap<String, LinkSysctls>,
    pub spreading: Spreading,
    /// With `net.ipv4.ip_forward_use_pmtu`: no path is narrower (`net.ipv4.route.min_pmtu`), but which ones are wider the kernel
    /// knows alone. Bytes.
    pub narrowest_path: Option<u32>,
}

impl Sysctls {
    /// Reads those of the named interfaces in this process's network namespace.
    pub fn read<'a>(links: impl Iterator<Item = &'a str>) -> Self {
        let of_all = |key| number("ipv4", "all", key);
        let (rp_all, mark_all, local_all) = (of_all("rp_filter"), of_all("src_valid_mark"), of_all("accept_local"));
        let (linkdown_all, redirects_all) = (of_all("ignore_routes_with_linkdown"), of_all("accept_redirects"));
        let forwarding6_all = number("ipv6", "all", "forwarding") != 0;
        let mut sysctls = Sysctls { spreading: spreading(), narrowest_path: narrowest_path(), ..Sysctls::default() };
        for name in links {
            let forwarding4 = number("ipv4", name, "forwarding") != 0;
            let redirects = number("ipv4", name, "accept_redirects") != 0;
            let of_link = LinkSysctls {
                forwarding4,
                // The interface's own `forwarding` decides about router advertisements only (ip6_forward). `force_forwarding`
                // without the one of `all` is left to the kernel: it then chooses routes by how its neighbours are
                // (RT6_LOOKUP_F_REACHABLE, ip6_pol_route).
                forwarding6: forwarding6_all && number("ipv6", name, "disable_ipv6") == 0,
                // 1 is strict, 2 is loose; the larger wins (IN_DEV_RPFILTER), and the kernel takes any other for loose.
                rp_filter: match rp_all.max(number("ipv4", name, "rp_filter")) {
                    0 => RpFilter::Off,
                    1 => RpFilter::Strict,
                    _ => RpFilter::Loose,
                },
                src_valid_mark: mark_all.max(number("ipv4", name, "src_valid_mark")) != 0,
                accept_local: local_all.max(number("ipv4", name, "accept_local")) != 0,
                ignore_linkdown4: linkdown_all.max(number("ipv4", name, "ignore_routes_with_linkdown")) != 0,
                // That of `all` is written into those of the interfaces (addrconf_linkdown_change), and asked no more.
                ignore_linkdown6: number("ipv6", name, "ignore_routes_with_linkdown") != 0,
                // IN_DEV_RX_REDIRECTS: a router obeys if both say so, a host if either does.
                redirected4: if forwarding4 {
                    redirects && redirects_all != 0
                } else {
                    redirects || redirects_all != 0
                },
                // rt6_do_redirect
                redirected6: number("ipv6", name, "forwarding") == 0 && number("ipv6", name, "accept_redirects") != 0,
                mtu6: read("ipv6", name, "mtu"),
            };
            sysctls.links.insert(name.to_owned(), of_link);
        }
        sysctls
    }
}

fn spreading() -> Spreading {
    let policy = |family: &str| match whole(family, "fib_multipath_hash_policy").unwrap_or(0) {
        0 => HashPolicy::L3,
        1 => HashPolicy::L4,
        2 => HashPolicy::Inner,
        3 => whole(family, "fib_multipath_hash_fields").map_or(HashPolicy::Unknown, HashPolicy::Custom),
        _ => HashPolicy::Unknown,
    };
    Spreading {
        policy4: policy("ipv4"),
        policy6: policy("ipv6"),
        seed: whole("ipv4", "fib_multipath_hash_seed").filter(|seed| *seed != 0),
        use_neighbours: whole("ipv4", "fib_multipath_use_neigh").unwrap_or(0) != 0,
    }
}

fn narrowest_path() -> Option<u32> {
    let used = whole("ipv4", "ip_forward_use_pmtu").unwrap_or(0) != 0;
    // Older kernels have the bound for the whole machine, and show it in no namespace but the first.
    used.then(|| whole("ipv4", "route/min_pmtu").unwrap_or(68))
}

/// A sysctl of the whole namespace.
fn whole(family: &str, key: &str) -> Option<u32> {
    parse(&format!("/proc/sys/net/{family}/{key}"))
}

/// 0 if it is not there: IPv6 may be off.
fn number(family: &str, interface: &str, key: &str) -> u32 {
    read(family, interface, key).unwrap_or(0)
}

fn read(family: &str, interface: &str, key: &str) -> Option<u32> {
    parse(&format!("/proc/sys/net/{family}/conf/{interface}/{key}"))
}

/// Decimal or, as the hash fields are printed, hexadecimal.
fn parse(path: &str) -> Option<u32> {
    // There are many and they are read often: one read each, into no memory of its own.
    let mut bytes = [0; 64];
    let length = fs::File::open(path).and_then(|mut file| file.read(&mut bytes)).ok()?;
    let text = str::from_utf8(&bytes[..length]).ok()?.trim();
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
