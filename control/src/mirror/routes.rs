//! The route tables: read whole once, then followed message by message.
//!
//! Messages are only applied where they leave no doubt. Where they do, or where the kernel removes routes without one (with their
//! interface, address or nexthop object), the family is dumped anew beside everything else; messages that arrive in the meantime
//! are applied to the present tables at once and to the dumped ones at the end. Now and then a dump is taken without need: the
//! audit, which counts what differs.
//!
//! A dump of IPv6 routes that a change of theirs came in between is not believed: `fib6_dump_table` then starts at the root again
//! and skips as many nodes as it had told of, whatever stands there now, and sets no `NLM_F_DUMP_INTR`. `fib_table_dump` goes by keys.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_ROUTE;
use shunt_policy::config::{Hops, Leg, Route, RouteKind};
use shunt_policy::{Family, Ifindex, Rib, TableId, Tables, tables};
use tokio::task::JoinHandle;

use super::attributes::Request;
use super::decode::{self, Placed, Undecodable};
use super::netlink::Dumper;
use super::rtm;

/// After a failed dump.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// So long after a change the kernel has told of it.
const TIME_TO_TELL: Duration = Duration::from_millis(200);
/// After so many dumps in a row that are not believed the last two together are as good as we get: what neither tells of is not
/// there. They are taken, and stay in doubt.
const SPOILT_IN_A_ROW: u32 = 10;
/// How long the tables of a family are left in peace between two audits.
pub const AUDIT_PAUSE: Duration = Duration::from_secs(60);

/// All tables of both families.
pub struct RouteTables {
    rib: Rib,
    dirty: [bool; 2],
    dump: Option<UnderWay>,
    /// What was heard of the family since its dump began.
    meanwhile: Vec<Change>,
    undecodable: [Vec<String>; 2],
    /// How many dumps of IPv6 in a row changes have spoilt.
    spoilt: u32,
    /// The last of them, with all that was heard since.
    spare: Option<Rib>,
    /// A dump that took long is not followed by another one at once.
    rest_until: Instant,
    /// The last dumps.
    took: [Duration; 2],
    audit: Audit,
    /// Tables that an audit found to differ, though the kernel had not told why. It changes first and tells then.
    suspects: BTreeMap<(Family, TableId), Instant>,
}

/// What audits have found.
#[derive(Clone, Copy, Debug)]
pub struct Audit {
    /// When the last one ended, of either family.
    pub last: Instant,
    pub count: u64,
    /// Tables that were not as the kernel's, though nothing had cast doubt on them.
    pub differing: u64,
    /// When the next one is due, by family.
    due: [Instant; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Repair,
    Audit,
}

/// A dump that is being taken.
struct UnderWay {
    family: Family,
    purpose: Purpose,
    began: Instant,
    task: JoinHandle<io::Result<Dumped>>,
}

/// A dump that was taken.
pub struct Done(io::Result<Dumped>);

/// A change that the kernel told of.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Change {
    kind: ChangeKind,
    placed: Placed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ChangeKind {
    /// In front of its equals, which is how a plain `add` and `prepend` insert.
    Add,
    Append,
    Replace,
    Delete,
}

/// A family as the kernel holds it.
#[derive(Default)]
struct Dumped {
    rib: Rib,
    undecodable: Vec<String>,
    took: Duration,
    retried: u64,
}

/// How a finished dump compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Finished {
    /// The family that was read, and when that began.
    pub read: Option<(Family, Instant)>,
    pub changed: bool,
    pub retried: u64,
}

impl RouteTables {
    /// Reads all tables.
    pub async fn read() -> io::Result<Self> {
        let mut tables = RouteTables::empty(Instant::now());
        for family in Family::BOTH {
            tables.begin(family, Purpose::Repair);
            let done = tables.done().await;
            tables.finish(done)?;
        }
        Ok(tables)
    }

    fn empty(now: Instant) -> Self {
        RouteTables {
            rib: Rib::default(),
            dirty: [false; 2],
            dump: None,
            meanwhile: Vec::new(),
            undecodable: Default::default(),
            spoilt: 0,
            spare: None,
            rest_until: now,
            took: [Duration::ZERO; 2],
            audit: Audit { last: now, count: 0, differing: 0, due: [now + AUDIT_PAUSE; 2] },
            suspects: BTreeMap::new(),
        }
    }

    pub fn tables(&self) -> &Tables {
        self.rib.tables()
    }

    pub fn audit(&self) -> Audit {
        self.audit
    }

    /// How long the last dumps of both families took.
    pub fn took(&self) -> Duration {
        self.took.iter().sum()
    }

    /// Messages of the last dumps that could not be decoded.
    pub fn undecodable(&self) -> impl Iterator<Item = &String> {
        self.undecodable.iter().flatten()
    }

    /// Whether what we hold may be wrong.
    pub fn is_dirty(&self) -> bool {
        self.dirty.iter().any(|dirty| *dirty) || self.dump.as_ref().is_some_and(|dump| dump.purpose == Purpose::Repair)
    }

    /// Whether something has cast doubt on the family since its last dump began.
    pub fn is_doubted(&self, family: Family) -> bool {
        self.dirty[family as usize]
    }

    /// What is known of the family is in doubt.
    pub fn doubt(&mut self, family: Family) {
        self.dirty[family as usize] = true;
        self.suspects.retain(|(suspect, _), _| *suspect != family);
    }

    /// Counts the tables whose difference the kernel has had time to tell of. To be called now and then.
    pub fn judge(&mut self) {
        let before = self.suspects.len();
        self.suspects.retain(|_, since| since.elapsed() <= TIME_TO_TELL);
        self.audit.differing += (before - self.suspects.len()) as u64;
    }

    /// The kernel may have removed or revived routes by this interface without a word.
    pub fn doubt_interface(&mut self, ifindex: Ifindex) {
        for family in Family::BOTH {
            let uses = |route: &Route| match &route.kind {
                RouteKind::Unicast(Hops::Legs(legs)) => legs.iter().any(|leg| leg.oif == ifindex),
                RouteKind::Unicast(Hops::Object(_)) => true,
                RouteKind::Local(dev) | RouteKind::Broadcast(dev) | RouteKind::Anycast(dev) => *dev == Some(ifindex),
                _ => false,
            };
            if self.tables().sets(family).any(|set| set.iter().any(uses)) {
                self.doubt(family);
            }
        }
    }

    /// Applies a message about a route. Says whether the tables have changed.
    pub fn hear(&mut self, is_new: bool, flags: u16, message: &[u8]) -> bool {
        let placed = match decode::route(message) {
            Ok(Some(placed)) => placed,
            Ok(None) => return false,
            Err(Undecodable(_)) => {
                Family::BOTH.iter().for_each(|family| self.doubt(*family));
                return false;
            }
        };
        let kind = match is_new {
            false => ChangeKind::Delete,
            true if flags & NLM_F_REPLACE != 0 => ChangeKind::Replace,
            true if flags & NLM_F_APPEND != 0 => ChangeKind::Append,
            true => ChangeKind::Add,
        };
        let change = Change { kind, placed };
        let family = change.placed.prefix.family();
        self.suspects.remove(&(family, change.placed.table));
        let applied = apply(&mut self.rib, &change);
        if applied == Applied::Unclear {
            self.doubt(family);
        }
        if let Some(spare) = self.spare.as_mut().filter(|_| family == Family::V6) {
            apply(spare, &change);
        }
        if self.dump.as_ref().is_some_and(|dump| dump.family == family) {
            self.meanwhile.push(change);
        }
        applied == Applied::Changed
    }

    /// Starts a dump if one is due.
    pub fn begin_if_due(&mut self) {
        let now = Instant::now();
        if self.dump.is_some() || now < self.rest_until {
            return;
        }
        let first = |wanted: [bool; 2]| Family::BOTH.into_iter().find(|family| wanted[*family as usize]);
        match (first(self.dirty), first(self.audit.due.map(|due| due <= now))) {
            (Some(family), _) => self.begin(family, Purpose::Repair),
            (None, Some(family)) => self.begin(family, Purpose::Audit),
            (None, None) => {}
        }
    }

    /// When [`begin_if_due`](Self::begin_if_due) should be called again; `None` while a dump is under way.
    pub fn due(&self) -> Option<Instant> {
        match (&self.dump, self.dirty) {
            (Some(_), _) => None,
            (None, [false, false]) => Some(self.audit.due[0].min(self.audit.due[1]).max(self.rest_until)),
            (None, _) => Some(self.rest_until),
        }
    }

    fn begin(&mut self, family: Family, purpose: Purpose) {
        self.dirty[family as usize] = false;
        self.meanwhile.clear();
        let task = tokio::task::spawn_blocking(move || dump(family, purpose));
        self.dump = Some(UnderWay { family, purpose, began: Instant::now(), task });
    }

    /// Waits for the end of the dump that is under way, forever if there is none. Cancel-safe.
    pub async fn done(&mut self) -> Done {
        match &mut self.dump {
            Some(dump) => Done((&mut dump.task).await.unwrap_or_else(|error| Err(io::Error::other(error)))),
            None => std::future::pending().await,
        }
    }

    /// Puts the dump in place. To be called at once, but for hearing all messages that came before the dump's end.
    ///
    /// # Errors
    ///
    /// The dump's; the tables stay as they are, and in doubt.
    pub fn finish(&mut self, done: Done) -> io::Result<Finished> {
        let Some(UnderWay { family, purpose, began, .. }) = self.dump.take() else { return Ok(Finished::default()) };
        match done.0 {
            Ok(dumped) => Ok(self.adopt(family, purpose, began, dumped)),
            Err(error) => {
                self.doubt(family);
                self.rest_until = Instant::now() + RETRY_PAUSE;
                Err(error)
            }
        }
    }

    fn adopt(&mut self, family: Family, purpose: Purpose, began: Instant, mut dumped: Dumped) -> Finished {
        let now = Instant::now();
        self.rest_until = now + dumped.took * 2;
        self.took[family as usize] = dumped.took;
        let meanwhile = std::mem::take(&mut self.meanwhile);
        if purpose == Purpose::Audit {
            self.audit.due[family as usize] = now + AUDIT_PAUSE;
        }
        let spoilt = family == Family::V6 && !meanwhile.is_empty();
        let retried = dumped.retried + u64::from(spoilt);
        if spoilt && purpose == Purpose::Audit {
            drop_elsewhere(dumped.rib);
            return Finished { retried, ..Finished::default() };
        }
        for change in meanwhile {
            // A change that the dump has seen already leaves no trace; what stays unclear is dumped once more.
            if apply_again(&mut dumped.rib, &change) == Applied::Unclear {
                self.doubt(family);
            }
        }
        if family == Family::V6 {
            let spare = self.spare.take();
            self.spoilt = if spoilt { self.spoilt + 1 } else { 0 };
            if spoilt {
                self.doubt(family);
                if !self.spoilt.is_multiple_of(SPOILT_IN_A_ROW) {
                    self.spare = Some(dumped.rib);
                    spare.into_iter().for_each(drop_elsewhere);
                    return Finished { retried, ..Finished::default() };
                }
                fill(&mut dumped.rib, spare.as_ref().map(Rib::tables));
            }
            spare.into_iter().for_each(drop_elsewhere);
        }
        let differing = dumped.rib.tables().differing(self.rib.tables(), family);
        if purpose == Purpose::Audit {
            (self.audit.last, self.audit.count) = (now, self.audit.count + 1);
            // What has come into doubt in the meantime is no surprise.
            if !self.dirty[family as usize] {
                self.suspects.extend(differing.iter().map(|table| ((family, *table), now)));
            }
        }
        let undecodable = &mut self.undecodable[family as usize];
        let changed = !differing.is_empty() || *undecodable != dumped.undecodable;
        *undecodable = std::mem::take(&mut dumped.undecodable);
        if !differing.is_empty() {
            self.rib.take_family(family, &mut dumped.rib);
        }
        drop_elsewhere(dumped.rib);
        Finished { read: Some((family, began)), changed, retried }
    }
}

/// Adds the IPv6 prefixes that only the other tables have.
fn fill(rib: &mut Rib, other: Option<&Tables>) {
    for (table, prefix, routes) in other.into_iter().flat_map(|other| other.each(Family::V6)) {
        if rib.tables().routes(table, prefix).is_empty() {
            rib.set(table, prefix, routes);
        }
    }
}

/// A million routes take a tenth of a second to go, and the next change is not to wait for that.
fn drop_elsewhere(rib: Rib) {
    tokio::task::spawn_blocking(move || drop(rib));
}

fn dump(family: Family, purpose: Purpose) -> io::Result<Dumped> {
    let began = Instant::now();
    let mut dumper = Dumper::open(NETLINK_ROUTE)?;
    if purpose == Purpose::Repair {
        wait_for_rtnl(&mut dumper)?;
    }
    let (mut dumped, retried) =
        dumper.dump(&routes_of(family), |dumped: &mut Dumped, message| match decode::route(message) {
            Ok(Some(Placed { table, prefix, route })) => dumped.rib.append(table, prefix, route),
            Ok(None) => {}
            Err(error) => dumped.undecodable.push(error.to_string()),
        })?;
    dumped.retried = retried;
    dumped.took = began.elapsed();
    Ok(dumped)
}

/// What was told of addresses and links comes before the routes that go with them (`__inet_del_ifa`: `RTM_DELADDR`, then
/// `fib_sync_down_addr`), and a dump of routes does not wait for whoever is at it. This does: to ask for one link takes the RTNL.
/// The loopback interface is the first of every namespace (`LOOPBACK_IFINDEX`).
fn wait_for_rtnl(dumper: &mut Dumper) -> io::Result<()> {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&1i32.to_ne_bytes());
    dumper.ask(&Request::new(rtm::GETLINK, NLM_F_REQUEST, &fixed), &mut |_| {}).map(|_| ())
}

/// The request for all routes of a family. `struct rtmsg` with nothing but the family: a strict dump of all tables.
fn routes_of(family: Family) -> Request {
    let mut fixed = [0; 12];
    fixed[0] = super::number(family);
    Request::new(rtm::GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, &fixed)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Applied {
    Changed,
    /// It was so already.
    Nothing,
    /// What the kernel made of it cannot be told from the message.
    Unclear,
}

fn apply(rib: &mut Rib, change: &Change) -> Applied {
    let Placed { table, prefix, route } = &change.placed;
    let mut routes = rib.tables().routes(*table, *prefix).to_vec();
    let clear = match prefix.family() {
        Family::V4 => apply_four(&mut routes, change.kind, route),
        Family::V6 => apply_six(&mut routes, change.kind, route),
    };
    match clear {
        None => Applied::Unclear,
        Some(()) if rib.set(*table, *prefix, &routes) => Applied::Changed,
        Some(()) => Applied::Nothing,
    }
}

/// The same on a dump that may or may not have seen the change.
fn apply_again(rib: &mut Rib, change: &Change) -> Applied {
    let Placed { table, prefix, route } = &change.placed;
    let there = rib.tables().routes(*table, *prefix).iter().any(|one| same(one, route));
    match change.kind {
        ChangeKind::Delete if !there => Applied::Nothing,
        ChangeKind::Delete => apply(rib, change),
        _ if there => Applied::Nothing,
        _ => apply(rib, change),
    }
}

/// `fib_table_insert`, `fib_table_delete`.
fn apply_four(routes: &mut Vec<Route>, kind: ChangeKind, route: &Route) -> Option<()> {
    let equals = equals(routes, route);
    match kind {
        ChangeKind::Delete => {
            let at = routes.iter().position(|one| same(one, route))?;
            routes.remove(at);
        }
        // The kernel tells routes apart by more than we keep, so this may be a second one.
        _ if routes.iter().any(|one| same(one, route)) => return None,
        ChangeKind::Replace if equals.is_empty() => return None,
        ChangeKind::Replace => routes[equals.start] = route.clone(),
        ChangeKind::Append => routes.insert(equals.end, route.clone()),
        ChangeKind::Add => routes.insert(equals.start, route.clone()),
    }
    Some(())
}

/// `fib6_add_rt2node`: routes with gateways and one metric become one multipath route, of which messages tell in parts.
fn apply_six(routes: &mut Vec<Route>, kind: ChangeKind, route: &Route) -> Option<()> {
    let equals = equals(routes, route);
    match kind {
        ChangeKind::Delete => {
            let at = routes.iter().position(|one| same(one, route))?;
            routes.remove(at);
        }
        _ if routes.iter().any(|one| same(one, route)) => return None,
        ChangeKind::Replace if equals.len() == 1 => routes[equals.start] = route.clone(),
        ChangeKind::Replace => return None,
        ChangeKind::Add | ChangeKind::Append => {
            if has_gateway(route) && routes[equals.clone()].iter().any(has_gateway) {
                return None;
            }
            routes.insert(equals.end, route.clone());
        }
    }
    Some(())
}

/// Where the routes stand, or would stand, that the kernel asks neither before nor after this one.
fn equals(routes: &[Route], route: &Route) -> std::ops::Range<usize> {
    let rank = tables::rank(route);
    let start = routes.partition_point(|one| tables::rank(one) < rank);
    let end = routes.partition_point(|one| tables::rank(one) <= rank);
    start..end
}

/// Equal but for next hops that have died since.
fn same(one: &Route, other: &Route) -> bool {
    let alive = |route: &Route| match &route.kind {
        RouteKind::Unicast(Hops::Legs(legs)) => {
            let legs = legs.iter().map(|leg| Leg { dead: false, ..*leg }).collect();
            Route { kind: RouteKind::Unicast(Hops::Legs(legs)), ..route.clone() }
        }
        _ => route.clone(),
    };
    one == other || alive(one) == alive(other)
}

fn has_gateway(route: &Route) -> bool {
    match &route.kind {
        RouteKind::Unicast(Hops::Legs(legs)) => legs.iter().any(|leg| leg.via.is_some()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use shunt_policy::Prefix;

    use super::*;

    fn by(oif: u32, metric: u32) -> Route {
        Route::new(metric, RouteKind::Unicast(Hops::one(Ifindex(oif), None)))
    }

    fn change(kind: ChangeKind, route: Route) -> Change {
        let prefix = Prefix::new("198.18.0.0".parse().unwrap(), 15).unwrap();
        Change { kind, placed: Placed { table: TableId::MAIN, prefix, route } }
    }

    #[test]
    fn the_next_dump_is_due_when_it_may_begin() {
        let now = Instant::now();
        let mut tables = RouteTables::empty(now);
        assert_eq!(tables.due(), Some(now + AUDIT_PAUSE));
        tables.rest_until = now + AUDIT_PAUSE * 2;
        assert_eq!(tables.due(), Some(tables.rest_until), "an audit that is overdue waits for the rest, too");
        tables.rest_until = now;
        tables.audit.due[1] = now + AUDIT_PAUSE / 2;
        assert_eq!(tables.due(), Some(now + AUDIT_PAUSE / 2));
    }

    #[tokio::test]
    async fn dumps_of_ipv6_that_changes_came_in_between_are_taken_after_ten_and_stay_in_doubt() {
        let mut tables = RouteTables::empty(Instant::now());
        let network = |number: u8| Prefix::new([0x2001, 0xdb8, number.into(), 0, 0, 0, 0, 0].into(), 48).unwrap();
        // Each leaves out one of the networks, and the first is deleted again and again.
        let mut dumped = |purpose, at: u8, spoilt: bool| {
            let mut dumped = Dumped::default();
            for number in (0..20).filter(|number| *number != at) {
                dumped.rib.append(TableId::MAIN, network(number), by(1, 0));
            }
            let placed = Placed { table: TableId::MAIN, prefix: network(0), route: by(1, 0) };
            tables.meanwhile = spoilt.then_some(Change { kind: ChangeKind::Delete, placed }).into_iter().collect();
            let taken = tables.adopt(Family::V6, purpose, Instant::now(), dumped).read.is_some();
            (taken, tables.is_doubted(Family::V6), tables.tables().len())
        };
        assert_eq!(dumped(Purpose::Audit, 1, true), (false, false, 0), "an audit casts no doubt");
        for at in 1..10 {
            assert_eq!(dumped(Purpose::Repair, at, true), (false, true, 0));
        }
        assert_eq!(dumped(Purpose::Repair, 10, true), (true, true, 19), "nothing is missing but what was deleted");
        assert_eq!(dumped(Purpose::Repair, 11, true), (false, true, 19));
        assert_eq!(dumped(Purpose::Repair, 11, false), (true, true, 19), "whoever dumps clears the doubt");
    }

    #[test]
    fn changes_leave_the_kernels_order() {
        let mut rib = Rib::default();
        let told = [
            (ChangeKind::Add, by(1, 0)),
            (ChangeKind::Add, by(2, 0)),
            (ChangeKind::Append, by(3, 0)),
            (ChangeKind::Add, by(4, 9)),
            (ChangeKind::Replace, by(5, 0)),
            (ChangeKind::Delete, by(1, 0)),
        ];
        for (kind, route) in told {
            assert_eq!(apply(&mut rib, &change(kind, route)), Applied::Changed);
        }
        let placed = change(ChangeKind::Add, by(1, 0)).placed;
        let routes = rib.tables().routes(placed.table, placed.prefix);
        assert_eq!(routes, [by(5, 0), by(3, 0), by(4, 9)]);
        assert_eq!(apply(&mut rib, &change(ChangeKind::Delete, by(9, 0))), Applied::Unclear);
        assert_eq!(apply(&mut rib, &change(ChangeKind::Add, by(3, 0))), Applied::Unclear);
    }

    #[test]
    fn a_dump_that_has_seen_a_change_does_not_see_it_twice() {
        let mut rib = Rib::default();
        let told = [
            change(ChangeKind::Add, by(1, 0)),
            change(ChangeKind::Add, by(2, 5)),
            change(ChangeKind::Delete, by(1, 0)),
        ];
        for one in &told {
            assert_eq!(apply(&mut rib, one), Applied::Changed);
        }
        let after = rib.tables().clone();
        for one in &told {
            assert_ne!(apply_again(&mut rib, one), Applied::Unclear);
        }
        assert_eq!(after.differing(rib.tables(), Family::V4), []);
    }
}
