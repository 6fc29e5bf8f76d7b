//! The sysctls that decide about forwarding. Most give no event, so they are read anew now and then.

use std::collections::BTreeMap;
use std::fs;

use shunt_policy::config::RpFilter;

/// Of one interface, with what `all` adds to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkSysctls {
    pub forwarding4: bool,
    pub forwarding6: bool,
    /// The larger of `all` and the interface's.
    pub rp_filter: RpFilter,
    /// Either of `all` and the interface's.
    pub src_valid_mark: bool,
    /// `net.ipv6.conf.IF.mtu`, bytes; `None` where IPv6 is not on the interface.
    pub mtu6: Option<u32>,
}

/// Of all interfaces, by name, and of the namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sysctls {
    pub links: BTreeMap<String, LinkSysctls>,
    /// `net.ipv4.conf.all.ignore_routes_with_linkdown` or an interface's own.
    pub ignore_linkdown: bool,
}

impl Sysctls {
    /// Reads those of the named interfaces in this process's network namespace.
    pub fn read<'a>(links: impl Iterator<Item = &'a str>) -> Self {
        let rp_all = number("ipv4", "all", "rp_filter");
        let mark_all = number("ipv4", "all", "src_valid_mark");
        let forwarding6_all = number("ipv6", "all", "forwarding") != 0;
        let mut sysctls = Sysctls { ignore_linkdown: ignores_linkdown("all"), ..Sysctls::default() };
        for name in links {
            let of_link = LinkSysctls {
                forwarding4: number("ipv4", name, "forwarding") != 0,
                forwarding6: forwarding6_all
                    && number("ipv6", name, "forwarding") != 0
                    && number("ipv6", name, "disable_ipv6") == 0,
                // 1 is strict, 2 is loose; the larger wins (IN_DEV_RPFILTER), and the kernel takes any other for loose.
                rp_filter: match rp_all.max(number("ipv4", name, "rp_filter")) {
                    0 => RpFilter::Off,
                    1 => RpFilter::Strict,
                    _ => RpFilter::Loose,
                },
                src_valid_mark: mark_all.max(number("ipv4", name, "src_valid_mark")) != 0,
                mtu6: read("ipv6", name, "mtu"),
            };
            sysctls.ignore_linkdown |= ignores_linkdown(name);
            sysctls.links.insert(name.to_owned(), of_link);
        }
        sysctls
    }
}

fn ignores_linkdown(name: &str) -> bool {
    number("ipv4", name, "ignore_routes_with_linkdown") != 0 || number("ipv6", name, "ignore_routes_with_linkdown") != 0
}

/// 0 if it is not there: IPv6 may be off.
fn number(family: &str, interface: &str, key: &str) -> u32 {
    read(family, interface, key).unwrap_or(0)
}

fn read(family: &str, interface: &str, key: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/sys/net/{family}/conf/{interface}/{key}")).ok()?;
    text.trim().parse().ok()
}
