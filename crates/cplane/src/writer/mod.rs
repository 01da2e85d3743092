//! The only mutator of the tables: what the kernel said, in; rows and versions, out.
//!
//! `change`: what can be said. `mirror`: the private copy of one table, which says whether that is
//! news, and where the row is. Nothing is ever read back from the shared memory except its own
//! hash chains.

mod change;
mod mirror;

use core::sync::atomic::Ordering::{Relaxed, Release};
use std::collections::BTreeSet;
use std::vec::Vec;

use flyover_shm::{Idx, Region};

use crate::addr::AddrRow;
use crate::dims::{Dims, DimsError};
use crate::link::LinkRow;
use crate::lookup::NO_NEIGH;
use crate::neigh::NeighRow;
use crate::reader::{Policy, Reader};
use crate::route::{Route, RouteRow, Table};
use crate::tables::{Flag, LAYOUT_HASH, Tables};

pub use change::{Change, Kinds, Outcome};
use mirror::{Edit, Mirror, Mirrored};

/// Rows changed under one sequence count: readers wait for so long.
const BATCH: usize = 32;

/// Writes the tables. There is one per memory.
pub struct Writer<'m> {
    tables: Tables<'m>,
    links: Mirror<LinkRow>,
    addrs: Mirror<AddrRow>,
    routes: Mirror<RouteRow>,
    neighs: Mirror<NeighRow>,
}

impl<'m> Writer<'m> {
    /// Starts with empty tables in zeroed memory. `seed` keys the hash chains, so that remote
    /// hosts cannot choose addresses that make them long.
    ///
    /// # Errors
    /// [`DimsError`] when the sizes are not valid or the region is too small for them.
    pub fn new(region: Region<'m>, dims: &Dims, seed: u64) -> Result<Self, DimsError> {
        let tables = Tables::new(region, dims)?;
        tables.header.layout_hash.set(LAYOUT_HASH);
        tables.header.seed.set(seed);
        tables.header.neighs.set(NO_NEIGH + 1);
        start_versions(&tables, dims, (seed >> 32) as u32);
        Ok(Self {
            tables,
            links: Mirror::new(dims.links, 0),
            addrs: Mirror::new(dims.addrs, 0),
            routes: Mirror::new(dims.routes, 0),
            neighs: Mirror::new(dims.neighs, NO_NEIGH + 1),
        })
    }

    /// A reader of the same memory.
    #[must_use]
    pub fn reader(&self) -> Reader<'m> {
        Reader::over(self.tables)
    }

    /// Takes in what the kernel said. Versions move only when the answer to a question may.
    pub fn apply(&mut self, change: Change) -> Outcome {
        match change {
            Change::Link(link) => self.edit::<LinkRow>(&[Edit::Put(link)]),
            Change::DelLink { ifindex } => self.del_link(ifindex),
            Change::Addr(addr) => self.edit::<AddrRow>(&[Edit::Put(addr)]),
            Change::DelAddr(addr) => self.edit::<AddrRow>(&[Edit::Remove(AddrRow::key(&addr))]),
            Change::Route(route) => self.edit::<RouteRow>(&[Edit::Put(change::canonical(route))]),
            Change::ReplaceRoutes(routes) => self.replace_routes(routes),
            Change::DelRoute(route) => {
                self.edit::<RouteRow>(&[Edit::Remove(RouteRow::key(&change::canonical(route)))])
            }
            Change::Neigh(neigh) => self.edit::<NeighRow>(&[Edit::Put(neigh)]),
            Change::DelNeigh { ifindex, ip } => {
                self.edit::<NeighRow>(&[Edit::Remove((ifindex, ip))])
            }
            Change::Policy(policy) => self.set_policy(policy),
            Change::ResyncBegin(kinds) => {
                self.each_mirror(kinds, Begin);
                Outcome::Unchanged
            }
            Change::ResyncEnd(kinds) => self.resync_end(kinds),
        }
    }

    /// An interface is gone, and all that refers to it. The kernel does not say so of IPv4 routes,
    /// and the number may come back for another interface.
    fn del_link(&mut self, ifindex: u32) -> Outcome {
        let neighs = self.neighs.removals(|neigh| neigh.ifindex == ifindex);
        let routes = self.routes.removals(|route| route.hop.ifindex == ifindex);
        let addrs = self.addrs.removals(|addr| addr.ifindex == ifindex);
        let outcomes = [
            self.edit_all(neighs),
            self.edit_all(routes),
            self.edit_all(addrs),
            self.edit::<LinkRow>(&[Edit::Remove(ifindex)]),
        ];
        Outcome::worst(outcomes)
    }

    fn replace_routes(&mut self, routes: Vec<Route>) -> Outcome {
        let routes: Vec<_> = routes.into_iter().map(change::canonical).collect();
        let Some(group) = routes.first().map(RouteRow::group) else {
            return Outcome::Unchanged;
        };
        let keep: Vec<_> = routes.iter().map(RouteRow::key).collect();
        let mut edits = self.routes.removals(|route| {
            RouteRow::group(route) == group && !keep.contains(&RouteRow::key(route))
        });
        edits.extend(routes.into_iter().map(Edit::Put));
        // One batch: there is no moment without a route.
        self.edit(&edits)
    }

    fn set_policy(&mut self, policy: Policy) -> Outcome {
        let outcome = self.set_flags(&[(Flag::POLICY_V4, policy.v4), (Flag::POLICY_V6, policy.v6)]);
        self.announce(outcome)
    }

    fn resync_end(&mut self, kinds: Kinds) -> Outcome {
        let mut outcomes = Vec::new();
        if kinds.contains(Kinds::NEIGHS) {
            let stale = self.neighs.unseen();
            outcomes.push(self.edit_all(stale));
        }
        if kinds.contains(Kinds::ROUTES) {
            let stale = self.routes.unseen();
            outcomes.push(self.edit_all(stale));
            self.forget_prefix_lens();
        }
        if kinds.contains(Kinds::ADDRS) {
            let stale = self.addrs.unseen();
            outcomes.push(self.edit_all(stale));
        }
        if kinds.contains(Kinds::LINKS) {
            for ifindex in self.links.unseen_keys() {
                outcomes.push(self.del_link(ifindex));
            }
        }
        self.each_mirror(kinds, End);
        let header = self.tables.header;
        header.resyncs.set(header.resyncs.get().wrapping_add(1));
        Outcome::worst(outcomes)
    }

    /// A prefix length that no route has any more costs readers a look and nothing else.
    fn forget_prefix_lens(&self) {
        let used: BTreeSet<_> = self
            .routes
            .values()
            .map(|route| (route.table, route.mapped_len()))
            .collect();
        for table in Table::ALL {
            for len in (0..=128).filter(|len| !used.contains(&(table, *len))) {
                self.tables.set_prefix_len(table, len, false);
            }
        }
    }

    fn edit_all<T: Held>(&mut self, edits: Vec<Edit<T>>) -> Outcome {
        Outcome::worst(edits.chunks(BATCH).map(|batch| self.edit(batch)))
    }

    /// Carries out those edits that change something, as one step for readers.
    fn edit<T: Held>(&mut self, edits: &[Edit<T>]) -> Outcome {
        let tables = self.tables;
        let mirror = T::mirror(self);
        let mut outcome = Outcome::Unchanged;
        let mut news = Vec::with_capacity(edits.len());
        for edit in edits {
            if mirror.is_news(edit) {
                news.push(edit);
            }
        }
        if !news.is_empty() {
            T::section(tables.header).write(|| {
                for edit in news {
                    outcome = outcome.max(mirror.carry_out(&tables, edit));
                }
            });
        }
        if outcome == Outcome::Full {
            tables
                .header
                .overflows
                .set(tables.header.overflows.get().wrapping_add(1));
            self.set_flags(&[(T::FULL, true)]);
        }
        self.announce(outcome)
    }

    fn each_mirror(&mut self, kinds: Kinds, phase: impl Phase) {
        let mut flags = Vec::new();
        if kinds.contains(Kinds::LINKS) {
            flags.extend(phase.run(&mut self.links));
        }
        if kinds.contains(Kinds::ADDRS) {
            flags.extend(phase.run(&mut self.addrs));
        }
        if kinds.contains(Kinds::ROUTES) {
            flags.extend(phase.run(&mut self.routes));
        }
        if kinds.contains(Kinds::NEIGHS) {
            flags.extend(phase.run(&mut self.neighs));
        }
        let outcome = self.set_flags(&flags);
        self.announce(outcome);
    }

    fn set_flags(&mut self, flags: &[(Flag, bool)]) -> Outcome {
        let before = self.tables.header.flags.load(Relaxed);
        let after = flags.iter().fold(
            before,
            |bits, (flag, on)| {
                if *on { bits | flag.0 } else { bits & !flag.0 }
            },
        );
        if before == after {
            return Outcome::Unchanged;
        }
        self.tables.header.forward.write(|| {
            self.tables.header.flags.store(after, Relaxed);
            move_all_versions(&self.tables);
        });
        Outcome::Changed
    }

    fn announce(&self, outcome: Outcome) -> Outcome {
        if outcome != Outcome::Unchanged {
            self.tables.header.generation.fetch_add(1, Release);
        }
        outcome
    }
}

/// A daemon's successor writes tables anew, and processes put them in the place of the old ones: no answer that was
/// cached from those may count as valid, so no two writers start alike.
fn start_versions(tables: &Tables<'_>, dims: &Dims, start: u32) {
    for row in 0..dims.neighs {
        tables
            .versions
            .at(Idx::new(row))
            .version
            .store(start, Relaxed);
    }
    tables.header.forward.start(start);
    tables.header.neighbour.start(start);
    tables.header.generation.store(start, Relaxed);
}

/// Moves the version of every row that a cached answer may name.
fn move_all_versions(tables: &Tables<'_>) {
    for row in 0..tables.header.neighs.get() {
        move_version(tables, row);
    }
}

fn move_version(tables: &Tables<'_>, row: u32) {
    let version = &tables.versions.at(Idx::new(row)).version;
    version.store(version.load(Relaxed).wrapping_add(1), Release);
}

/// A table of the writer.
trait Held: Mirrored {
    fn mirror<'w>(writer: &'w mut Writer<'_>) -> &'w mut Mirror<Self>;
}

macro_rules! held {
    ($($row:ty: $field:ident),+) => {$(
        impl Held for $row {
            fn mirror<'w>(writer: &'w mut Writer<'_>) -> &'w mut Mirror<Self> {
                &mut writer.$field
            }
        }
    )+};
}

held!(LinkRow: links, AddrRow: addrs, RouteRow: routes, NeighRow: neighs);

/// Something to do with each of several tables; may set the table's "full" flag.
trait Phase {
    fn run<T: Mirrored>(&self, mirror: &mut Mirror<T>) -> Option<(Flag, bool)>;
}

struct Begin;

impl Phase for Begin {
    fn run<T: Mirrored>(&self, mirror: &mut Mirror<T>) -> Option<(Flag, bool)> {
        mirror.begin();
        None
    }
}

struct End;

impl Phase for End {
    fn run<T: Mirrored>(&self, mirror: &mut Mirror<T>) -> Option<(Flag, bool)> {
        mirror.end().then_some((T::FULL, false))
    }
}

impl core::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Writer")
            .field(&self.reader().status())
            .finish()
    }
}
