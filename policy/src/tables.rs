//! The route tables: cheap to change by one route, cheap to copy.
//!
//! A prefix holds the number of its set of routes, and prefixes with the same routes share one set: a million prefixes learnt from
//! a hundred neighbours are a million numbers and some hundred sets. [`Rib`] is what the mirror changes, [`Tables`] a copy of it
//! that no later change touches.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::config::{Route, RouteKind};
use crate::fib::{self, Fib, Value};
use crate::names::{Dscp, Family, Prefix, TableId};
use crate::slots::Slots;

/// Types of routes, `RTN_*` of `linux/rtnetlink.h`.
mod rtn {
    pub(super) const UNICAST: u8 = 1;
    pub(super) const LOCAL: u8 = 2;
    pub(super) const BROADCAST: u8 = 3;
    pub(super) const ANYCAST: u8 = 4;
    pub(super) const MULTICAST: u8 = 5;
}

/// Number of a set of routes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SetId(u32);

impl Value for SetId {
    fn number(self) -> u32 {
        self.0
    }

    fn numbered(number: u32) -> Self {
        SetId(number)
    }
}

impl SetId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The routes of one prefix in the kernel's order of preference: IPv4 by falling TOS, then by rising metric (`fib_find_alias`),
/// IPv6 by rising metric; equals in the order in which the kernel lists them.
pub type RouteSet = Arc<[Route]>;

/// One table: the set of each prefix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    fib: Fib<SetId>,
    /// A sum over its prefixes and routes, which does not depend on their order.
    digest: u64,
}

/// A copy of all tables.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    families: [FamilyTables; 2],
}

/// The tables of one family, and the sets that their prefixes name.
#[derive(Clone, Debug, Default)]
pub(crate) struct FamilyTables {
    /// The numbers of the tables. A table that lost its last route keeps its own until another needs one: routes come back, and
    /// all that refers to the table stays.
    pub(crate) numbers: Arc<BTreeMap<TableId, usize>>,
    tables: Slots<Table>,
    /// By number; numbers that are free at present have no routes.
    pub(crate) sets: Slots<RouteSet>,
    /// Prefixes that are this machine's own in any table, and in how many.
    own: Fib<u32>,
}

impl FamilyTables {
    pub(crate) fn fib(&self, number: usize) -> &Fib<SetId> {
        &self.tables.get(number).fib
    }

    /// Those that have routes.
    fn each(&self) -> impl Iterator<Item = (TableId, &Table)> {
        self.numbers
            .iter()
            .map(|(id, number)| (*id, self.tables.get(*number)))
            .filter(|(_, table)| !table.fib.is_empty())
    }

    fn table(&self, table: TableId) -> Option<&Table> {
        self.numbers.get(&table).map(|number| self.tables.get(*number))
    }

    fn found(&self, table: TableId, prefix: Prefix) -> Option<&RouteSet> {
        let set = self.table(table)?.fib.get(prefix)?;
        Some(self.sets.get(set.index()))
    }

    /// Whether the address lies in a prefix that is the machine's own in some table.
    pub(crate) fn may_be_own(&self, address: u128) -> bool {
        self.own.lookup(address, |_, _| Some(())).is_some()
    }

    /// Whether the address is one of the machine's own in table `local`; not a broadcast or multicast address.
    pub(crate) fn is_local(&self, address: u128) -> bool {
        self.may_be_own(address) && matches!(self.address_type(address), rtn::LOCAL | rtn::ANYCAST)
    }

    /// What table `local` holds the IPv4 address for (`inet_addr_type`): a route type of `linux/rtnetlink.h`, unicast if nothing.
    pub(crate) fn address_type(&self, address: u128) -> u8 {
        let local = self.table(TableId::LOCAL).map(|table| &table.fib);
        let first = local.and_then(|fib| fib.lookup(address, |_, set| self.set(set).first()));
        match first.map(|route| &route.kind) {
            Some(RouteKind::Local(_)) => rtn::LOCAL,
            Some(RouteKind::Broadcast(_)) => rtn::BROADCAST,
            Some(RouteKind::Anycast(_)) => rtn::ANYCAST,
            Some(RouteKind::Multicast(_)) => rtn::MULTICAST,
            // A look-up that fails says the same.
            _ => rtn::UNICAST,
        }
    }

    /// The number of a table, which has routes from now on.
    fn number(&mut self, table: TableId, vacant: &mut BTreeSet<usize>) -> usize {
        if let Some(number) = self.numbers.get(&table) {
            vacant.remove(number);
            return *number;
        }
        let numbers = Arc::make_mut(&mut self.numbers);
        let number = match vacant.pop_first() {
            Some(number) => {
                numbers.retain(|_, other| *other != number);
                number
            }
            None => self.tables.push(Table::default()),
        };
        numbers.insert(table, number);
        number
    }

    fn set(&self, set: SetId) -> &[Route] {
        self.sets.get(set.index())
    }
}

impl Tables {
    /// The routes of exactly this prefix.
    pub fn routes(&self, table: TableId, prefix: Prefix) -> &[Route] {
        self.family(prefix.family()).found(table, prefix).map_or(&[], |set| set)
    }

    /// The tables that have routes, and how many prefixes.
    pub fn sizes(&self, family: Family) -> impl Iterator<Item = (TableId, usize)> {
        self.family(family).each().map(|(id, table)| (id, table.fib.len()))
    }

    /// Every prefix with its routes, ordered by table, in no particular order within.
    pub fn each(&self, family: Family) -> impl Iterator<Item = (TableId, Prefix, &[Route])> {
        let tables = self.family(family);
        tables
            .each()
            .flat_map(move |(id, _)| self.each_of(family, id).map(move |(prefix, routes)| (id, prefix, routes)))
    }

    /// The prefixes of one table.
    pub fn each_of(&self, family: Family, table: TableId) -> impl Iterator<Item = (Prefix, &[Route])> {
        let tables = self.family(family);
        let prefixes = tables.table(table).into_iter().flat_map(|table| table.fib.iter());
        prefixes.map(move |(address, length, set)| (fib::prefix(family, address, length), tables.set(*set)))
    }

    /// Prefixes that are this machine's own in some table.
    pub fn own(&self, family: Family) -> impl Iterator<Item = Prefix> {
        self.family(family).own.iter().map(move |(address, length, _)| fib::prefix(family, address, length))
    }

    /// Whether exactly this prefix is this machine's own in some table.
    pub fn is_own(&self, prefix: Prefix) -> bool {
        self.family(prefix.family()).own.get(prefix).is_some()
    }

    /// The different sets of routes of a family, whatever their prefixes.
    pub fn sets(&self, family: Family) -> impl Iterator<Item = &[Route]> {
        self.family(family).sets.iter().map(|set| &**set).filter(|set| !set.is_empty())
    }

    /// The tables in which two copies differ, by their digests.
    pub fn differing(&self, other: &Tables, family: Family) -> Vec<TableId> {
        let (ours, theirs) = (self.family(family), other.family(family));
        let either: BTreeSet<TableId> = ours.each().chain(theirs.each()).map(|(id, _)| id).collect();
        let content =
            |tables: &FamilyTables, id| tables.table(id).map_or((0, 0), |table| (table.fib.len(), table.digest));
        either.into_iter().filter(|id| content(ours, *id) != content(theirs, *id)).collect()
    }

    /// Number of prefixes in all tables.
    pub fn len(&self) -> usize {
        Family::BOTH.iter().flat_map(|family| self.sizes(*family)).map(|(_, size)| size).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn family(&self, family: Family) -> &FamilyTables {
        &self.families[family as usize]
    }
}

/// The tables, with what it takes to change them.
#[derive(Debug, Default)]
pub struct Rib {
    tables: Tables,
    interned: [Interned; 2],
    /// Numbers of tables without routes.
    vacant: [BTreeSet<usize>; 2],
}

/// Which numbers the sets of one family have.
#[derive(Debug, Default)]
struct Interned {
    numbers: HashMap<RouteSet, SetId, foldhash::fast::RandomState>,
    /// How many prefixes have the set.
    uses: Vec<u32>,
    free: Vec<SetId>,
}

impl Rib {
    /// As they are now. Copy what is to stay.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Sets the routes of a prefix, in the kernel's order; none removes it. Says whether that changed anything.
    pub fn set(&mut self, table: TableId, prefix: Prefix, routes: &[Route]) -> bool {
        let at = prefix.family() as usize;
        let (family, interned) = (&mut self.tables.families[at], &mut self.interned[at]);
        let had = family.found(table, prefix).map_or(&[] as &[Route], |set| set);
        if *had == *routes {
            return false;
        }
        let was_own = is_own(had);
        let change = digest(table, prefix, routes).wrapping_sub(digest(table, prefix, had));
        let new = (!routes.is_empty()).then(|| interned.number(routes, &mut family.sets));
        let vacant = &mut self.vacant[at];
        let number = family.number(table, vacant);
        let stored = family.tables.get_mut(number);
        let old = match new {
            Some(set) => stored.fib.insert(prefix, set),
            None => stored.fib.remove(prefix),
        };
        stored.digest = stored.digest.wrapping_add(change);
        if stored.fib.is_empty() {
            vacant.insert(number);
        }
        if let Some(old) = old {
            interned.release(old, &mut family.sets);
        }
        let own = family.own.get(prefix).copied().unwrap_or(0) + u32::from(is_own(routes)) - u32::from(was_own);
        match own {
            0 => family.own.remove(prefix),
            _ => family.own.insert(prefix, own),
        };
        true
    }

    /// Takes over all tables of a family from another.
    pub fn take_family(&mut self, family: Family, other: &mut Rib) {
        let at = family as usize;
        self.tables.families[at] = std::mem::take(&mut other.tables.families[at]);
        self.interned[at] = std::mem::take(&mut other.interned[at]);
        self.vacant[at] = std::mem::take(&mut other.vacant[at]);
    }

    /// Adds a route behind those of its prefix that the kernel asks before it, and behind its equals. In IPv6 no two are the same
    /// (`fib6_add_rt2node`) but in what we do not keep of opaque ones, though a dump may tell of one twice.
    pub fn append(&mut self, table: TableId, prefix: Prefix, route: Route) {
        let mut routes = self.tables.routes(table, prefix).to_vec();
        let may_be_another = prefix.family() == Family::V4 || matches!(route.kind, RouteKind::Opaque(_));
        if !may_be_another && routes.contains(&route) {
            return;
        }
        let at = routes.partition_point(|other| rank(other) <= rank(&route));
        routes.insert(at, route);
        self.set(table, prefix, &routes);
    }
}

/// The kernel asks lower ones first.
pub fn rank(route: &Route) -> (Reverse<Dscp>, u32) {
    (Reverse(route.tos), route.metric)
}

impl Interned {
    /// The number of a set, which one more prefix has from now on.
    fn number(&mut self, routes: &[Route], sets: &mut Slots<RouteSet>) -> SetId {
        if let Some(set) = self.numbers.get(routes) {
            self.uses[set.index()] += 1;
            return *set;
        }
        let shared: RouteSet = routes.into();
        let set = match self.free.pop() {
            Some(set) => {
                *sets.get_mut(set.index()) = shared.clone();
                self.uses[set.index()] = 1;
                set
            }
            None => {
                sets.push(shared.clone());
                self.uses.push(1);
                SetId(self.uses.len() as u32 - 1)
            }
        };
        self.numbers.insert(shared, set);
        set
    }

    fn release(&mut self, set: SetId, sets: &mut Slots<RouteSet>) {
        let uses = &mut self.uses[set.index()];
        *uses -= 1;
        if *uses == 0 {
            let routes = std::mem::take(sets.get_mut(set.index()));
            self.numbers.remove(&routes);
            self.free.push(set);
        }
    }
}

/// What a prefix contributes to its table's digest; nothing without routes.
fn digest(table: TableId, prefix: Prefix, routes: &[Route]) -> u64 {
    match routes {
        [] => 0,
        _ => foldhash::quality::FixedState::default().hash_one((table, prefix, routes)),
    }
}

fn is_own(routes: &[Route]) -> bool {
    routes.iter().any(|route| route.kind.is_own())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Hops;
    use crate::names::Ifindex;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
    }

    fn by(oif: u32) -> Vec<Route> {
        vec![Route::new(0, RouteKind::Unicast(Hops::one(Ifindex(oif), None)))]
    }

    #[test]
    fn equal_routes_share_one_set_and_free_numbers_are_used_again() {
        let mut rib = Rib::default();
        let sets = |rib: &Rib| rib.tables().family(Family::V4).sets.len();
        let network = |number: u8| prefix(&format!("198.18.{number}.0/24"));
        for number in 0..100u8 {
            rib.set(TableId::MAIN, network(number), &by(u32::from(number % 2)));
        }
        assert_eq!((rib.tables().len(), sets(&rib)), (100, 2));
        for number in 0..100u8 {
            rib.set(TableId::MAIN, network(number), &by(7));
        }
        assert_eq!((rib.tables().len(), sets(&rib), rib.tables().sets(Family::V4).count()), (100, 3, 1));
        rib.set(TableId(201), network(0), &by(8));
        assert_eq!((sets(&rib), rib.tables().sets(Family::V4).count()), (3, 2));
        (0..100).for_each(|number| assert!(rib.set(TableId::MAIN, network(number), &[])));
        assert_eq!(rib.tables().sizes(Family::V4).collect::<Vec<_>>(), [(TableId(201), 1)]);
    }

    #[test]
    fn routes_stand_in_the_kernels_order() {
        let mut rib = Rib::default();
        let route = |tos, metric, oif| Route { tos: Dscp::of_tos(tos), metric, ..by(oif).remove(0) };
        for one in [route(0, 20, 1), route(0x10, 900, 2), route(0, 20, 3), route(0, 5, 4), route(0x08, 0, 5)] {
            rib.append(TableId::MAIN, prefix("0.0.0.0/0"), one);
        }
        let order: Vec<_> = rib
            .tables()
            .routes(TableId::MAIN, prefix("0.0.0.0/0"))
            .iter()
            .map(|route| match &route.kind {
                RouteKind::Unicast(Hops::Legs(legs)) => legs[0].oif.0,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(order, [2, 5, 4, 1, 3]);
    }

    #[test]
    fn an_ipv6_route_that_a_dump_tells_twice_is_one() {
        let mut rib = Rib::default();
        let opaque = Route::new(0, RouteKind::Opaque("encapsulation".to_owned()));
        for one in [by(1).remove(0), by(2).remove(0), by(1).remove(0), opaque.clone(), opaque.clone()] {
            rib.append(TableId::MAIN, prefix("2001:db8::/64"), one.clone());
            rib.append(TableId::MAIN, prefix("192.0.2.0/24"), one);
        }
        let count = |text| rib.tables().routes(TableId::MAIN, prefix(text)).len();
        assert_eq!((count("2001:db8::/64"), count("192.0.2.0/24")), (4, 5));
    }

    #[test]
    fn own_prefixes_are_known_from_any_table() {
        let mut rib = Rib::default();
        let local = [Route::new(0, RouteKind::Local(None))];
        let address = fib::aligned_address("192.0.2.1".parse().unwrap());
        for table in [TableId::LOCAL, TableId(7)] {
            assert!(rib.set(table, prefix("192.0.2.1/32"), &local));
            assert!(!rib.set(table, prefix("192.0.2.1/32"), &local));
        }
        let before = rib.tables().clone();
        rib.set(TableId::LOCAL, prefix("192.0.2.1/32"), &[]);
        assert_eq!(before.differing(rib.tables(), Family::V4), [TableId::LOCAL]);
        rib.set(TableId::LOCAL, prefix("192.0.2.1/32"), &local);
        assert_eq!(before.differing(rib.tables(), Family::V4), []);
        rib.set(TableId::LOCAL, prefix("192.0.2.1/32"), &[]);
        assert!(rib.tables().family(Family::V4).may_be_own(address));
        rib.set(TableId(7), prefix("192.0.2.1/32"), &by(3));
        assert!(!rib.tables().family(Family::V4).may_be_own(address));
        assert!(before.family(Family::V4).may_be_own(address));
    }
}
