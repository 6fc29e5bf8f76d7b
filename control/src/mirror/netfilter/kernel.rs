//! What the kernel itself says of nftables: the number of the ruleset's generation, and which tables are asleep.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::mirror::attributes::{HEADER, Request, attributes};
use crate::mirror::raw::{absent, open};

/// `NFNL_SUBSYS_NFTABLES << 8`, and `NFT_MSG_GETTABLE`, `NFT_MSG_GETGEN`.
const GETTABLE: u16 = 10 << 8 | 1;
const GETGEN: u16 = 10 << 8 | 16;
/// `NFTA_GEN_ID`
const GEN_ID: u16 = 1;
/// `NFTA_TABLE_NAME`, `NFTA_TABLE_FLAGS`
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
/// `NFT_TABLE_F_DORMANT`
const DORMANT: u32 = 1;
/// `struct nfgenmsg`: family, version, resource id.
const ANY_FAMILY: [u8; 4] = [0; 4];

/// A table, and its flags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelTable {
    /// As nft calls it.
    pub family: &'static str,
    pub name: String,
    pub dormant: bool,
    pub has_flags: bool,
}

/// The number of the present ruleset: another one after each transaction, and only then. `None` without nftables.
///
/// # Errors
///
/// The kernel's, and that it does not answer.
pub fn generation() -> io::Result<Option<u32>> {
    let Some(mut dumper) = open(NETLINK_NETFILTER)? else { return Ok(None) };
    let mut number = None;
    let asked = dumper.ask(&Request::new(GETGEN, NLM_F_REQUEST, &ANY_FAMILY), &mut |message| {
        let mut all = attributes(message.get(HEADER + 4..).unwrap_or_default()).flatten();
        number = all.find(|attribute| attribute.kind == GEN_ID).and_then(|attribute| attribute.be32());
    });
    match asked {
        Ok(_) => Ok(number),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All tables of all families.
///
/// # Errors
///
/// As of [`generation`].
pub fn tables() -> io::Result<Vec<KernelTable>> {
    let mut tables = Vec::new();
    let Some(mut dumper) = open(NETLINK_NETFILTER)? else { return Ok(tables) };
    let request = Request::new(GETTABLE, NLM_F_REQUEST | NLM_F_DUMP, &ANY_FAMILY);
    match dumper.ask(&request, &mut |message| tables.extend(table(message))) {
        Err(error) if !absent(&error) => Err(error),
        _ => Ok(tables),
    }
}

fn table(message: &[u8]) -> Option<KernelTable> {
    // NFPROTO_*
    let family = match message.get(HEADER)? {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => return None,
    };
    let attribute = |kind| attributes(message.get(HEADER + 4..)?).flatten().find(|attribute| attribute.kind == kind);
    let flags = attribute(TABLE_FLAGS).and_then(|flags| flags.be32()).unwrap_or_default();
    let name = attribute(TABLE_NAME)?.name()?;
    Some(KernelTable { family, name, dormant: flags & DORMANT != 0, has_flags: flags != 0 })
}
