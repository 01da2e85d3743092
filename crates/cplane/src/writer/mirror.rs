//! The private copy of one table: which entries there are, in which rows, and which were seen
//! since a resynchronisation began.

use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

use flyover_shm::SeqCount;
use flyover_wire::Ip;

use super::change::Outcome;
use super::{move_all_versions, move_version};
use crate::addr::{Addr, AddrFlags, AddrRow};
use crate::link::{Link, LinkRow};
use crate::lookup::NO_NEIGH;
use crate::neigh::{Neigh, NeighRow, NeighState};
use crate::route::{Hop, Route, RouteKind, RouteRow, Table};
use crate::tables::{Chained, Chains, Flag, Header, Tables};

/// A row type that the writer keeps a copy of.
pub(super) trait Mirrored: Chained {
    type Value: Copy + PartialEq;
    /// What identifies an entry.
    type Key: Ord + Copy;
    /// Entries among which the order matters.
    type Group: Ord + Copy;
    /// Flag that says that entries are missing.
    const FULL: Flag;

    fn key(value: &Self::Value) -> Self::Key;
    fn group(value: &Self::Value) -> Self::Group;
    fn hash(tables: &Tables<'_>, value: &Self::Value) -> u64;
    fn chains<'m>(tables: &Tables<'m>) -> Chains<'m, Self>;
    fn store_row(&self, value: Option<&Self::Value>, order: u32);
    /// Sequence count that covers the table.
    fn section(header: &Header) -> &SeqCount;
    fn set_used(header: &Header, used: u32);
    /// Moves the versions that a change may affect. Runs after the rows were written.
    fn moved(
        tables: &Tables<'_>,
        row: u32,
        before: Option<&Self::Value>,
        after: Option<&Self::Value>,
    );
    /// Does the change put the entry at the end of its group?
    fn goes_last(_before: &Self::Value, _after: &Self::Value) -> bool {
        false
    }
}

/// Something to do with one entry.
pub(super) enum Edit<T: Mirrored> {
    Put(T::Value),
    Remove(T::Key),
}

struct Entry<V> {
    value: V,
    row: u32,
    order: u32,
    seen: bool,
}

pub(super) struct Mirror<T: Mirrored> {
    entries: BTreeMap<T::Key, Entry<T::Value>>,
    /// Rows that were in use once; the one that has been free longest comes first.
    free: VecDeque<u32>,
    used: u32,
    count: u32,
    /// Given to the next entry: the first seen is the first in its group.
    stamp: u32,
    /// Last stamp per group since a resynchronisation began.
    resync: Option<BTreeMap<T::Group, u32>>,
    overflowed: bool,
}

impl<T: Mirrored> Mirror<T> {
    pub(super) fn new(count: u32, first: u32) -> Self {
        Self {
            entries: BTreeMap::new(),
            free: VecDeque::new(),
            used: first,
            count,
            stamp: 0,
            resync: None,
            overflowed: false,
        }
    }

    /// Would the edit change anything? Notes that the entry was seen.
    pub(super) fn is_news(&mut self, edit: &Edit<T>) -> bool {
        match edit {
            Edit::Remove(key) => self.entries.contains_key(key),
            Edit::Put(value) => {
                let Some(entry) = self.entries.get_mut(&T::key(value)) else {
                    return true;
                };
                entry.seen = true;
                let moved = self.resync.as_mut().is_some_and(|last| {
                    let last = last.entry(T::group(value)).or_insert(entry.order);
                    // The kernel lists it after others that came later: it has been moved.
                    let moved = entry.order < *last;
                    if moved {
                        entry.order = self.stamp;
                        self.stamp = self.stamp.wrapping_add(1);
                    }
                    *last = entry.order;
                    moved
                });
                moved || entry.value != *value
            }
        }
    }

    /// Carries out an edit that is news. The caller holds the table's sequence count.
    pub(super) fn carry_out(&mut self, tables: &Tables<'_>, edit: &Edit<T>) -> Outcome {
        match edit {
            Edit::Remove(key) => {
                let Some(old) = self.entries.remove(key) else {
                    return Outcome::Unchanged;
                };
                self.write_row(tables, old.row, Some(&old.value), None, 0);
                self.free.push_back(old.row);
                Outcome::Changed
            }
            Edit::Put(value) => match self.entries.get_mut(&T::key(value)) {
                Some(entry) => {
                    if T::goes_last(&entry.value, value) {
                        entry.order = self.stamp;
                        self.stamp = self.stamp.wrapping_add(1);
                    }
                    let before = core::mem::replace(&mut entry.value, *value);
                    let (row, order) = (entry.row, entry.order);
                    self.write_row(tables, row, Some(&before), Some(value), order);
                    Outcome::Changed
                }
                None => self.insert(tables, value),
            },
        }
    }

    fn insert(&mut self, tables: &Tables<'_>, value: &T::Value) -> Outcome {
        let Some(row) = self.take_row(tables.header) else {
            self.overflowed = true;
            return Outcome::Full;
        };
        let order = self.stamp;
        self.stamp = self.stamp.wrapping_add(1);
        if let Some(last) = &mut self.resync {
            last.insert(T::group(value), order);
        }
        self.write_row(tables, row, None, Some(value), order);
        self.entries.insert(
            T::key(value),
            Entry {
                value: *value,
                row,
                order,
                seen: true,
            },
        );
        Outcome::Changed
    }

    fn take_row(&mut self, header: &Header) -> Option<u32> {
        if let Some(row) = self.free.pop_front() {
            return Some(row);
        }
        let row = self.used;
        if row >= self.count {
            return None;
        }
        self.used = row.saturating_add(1);
        T::set_used(header, self.used);
        Some(row)
    }

    /// Writes a row and keeps its chain. Hash and key of an entry never change.
    fn write_row(
        &self,
        tables: &Tables<'_>,
        row: u32,
        before: Option<&T::Value>,
        after: Option<&T::Value>,
        order: u32,
    ) {
        let chains = T::chains(tables);
        match (before, after) {
            (Some(before), None) => {
                chains.unlink(T::hash(tables, before), row);
                chains.row(row).store_row(None, 0);
            }
            (None, Some(after)) => {
                chains.row(row).store_row(Some(after), order);
                chains.link_in(T::hash(tables, after), row);
            }
            _ => chains.row(row).store_row(after, order),
        }
        T::moved(tables, row, before, after);
    }

    /// Edits that remove all entries for which `which` holds.
    pub(super) fn removals(&self, which: impl Fn(&T::Value) -> bool) -> Vec<Edit<T>> {
        let which = self.entries.iter().filter(|(_, entry)| which(&entry.value));
        which.map(|(key, _)| Edit::Remove(*key)).collect()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T::Value> {
        self.entries.values().map(|entry| &entry.value)
    }

    /// A full list begins: nothing has been seen yet.
    pub(super) fn begin(&mut self) {
        for entry in self.entries.values_mut() {
            entry.seen = false;
        }
        self.resync = Some(BTreeMap::new());
        self.overflowed = false;
    }

    /// The full list ends. True when everything found room.
    pub(super) fn end(&mut self) -> bool {
        self.resync = None;
        !self.overflowed
    }

    pub(super) fn unseen_keys(&self) -> Vec<T::Key> {
        if self.resync.is_none() {
            return Vec::new();
        }
        let unseen = self.entries.iter().filter(|(_, entry)| !entry.seen);
        unseen.map(|(key, _)| *key).collect()
    }

    pub(super) fn unseen(&self) -> Vec<Edit<T>> {
        self.unseen_keys().into_iter().map(Edit::Remove).collect()
    }
}

impl Mirrored for LinkRow {
    type Value = Link;
    type Key = u32;
    type Group = u32;
    const FULL: Flag = Flag::LINKS_FULL;

    fn key(link: &Link) -> u32 {
        link.ifindex
    }

    fn group(link: &Link) -> u32 {
        link.ifindex
    }

    fn hash(tables: &Tables<'_>, link: &Link) -> u64 {
        tables.link_hash(link.ifindex)
    }

    fn chains<'m>(tables: &Tables<'m>) -> Chains<'m, Self> {
        tables.links
    }

    fn store_row(&self, link: Option<&Link>, _order: u32) {
        self.store(link);
    }

    fn section(header: &Header) -> &SeqCount {
        &header.forward
    }

    fn set_used(header: &Header, used: u32) {
        header.links.set(used);
    }

    fn moved(tables: &Tables<'_>, _row: u32, _before: Option<&Link>, _after: Option<&Link>) {
        move_all_versions(tables);
    }
}

impl Mirrored for AddrRow {
    type Value = Addr;
    type Key = (u32, Ip, Ip, u8);
    type Group = (u32, bool);
    const FULL: Flag = Flag::ADDRS_FULL;

    fn key(addr: &Addr) -> Self::Key {
        (addr.ifindex, addr.ip, addr.peer, addr.prefix_len)
    }

    fn group(addr: &Addr) -> Self::Group {
        (addr.ifindex, addr.ip.is_v4())
    }

    fn hash(tables: &Tables<'_>, addr: &Addr) -> u64 {
        tables.link_hash(addr.ifindex)
    }

    fn chains<'m>(tables: &Tables<'m>) -> Chains<'m, Self> {
        tables.addrs
    }

    fn store_row(&self, addr: Option<&Addr>, order: u32) {
        self.store(addr, order);
    }

    fn section(header: &Header) -> &SeqCount {
        &header.forward
    }

    fn set_used(header: &Header, used: u32) {
        header.addrs.set(used);
    }

    fn moved(tables: &Tables<'_>, _row: u32, _before: Option<&Addr>, _after: Option<&Addr>) {
        move_all_versions(tables);
    }

    /// A secondary address that is promoted goes behind the primary ones (`promote_secondaries`).
    fn goes_last(before: &Addr, after: &Addr) -> bool {
        let secondary = |addr: &Addr| addr.flags.contains(AddrFlags::SECONDARY);
        secondary(before) && !secondary(after)
    }
}

impl Mirrored for RouteRow {
    type Value = Route;
    type Key = ((Table, Ip, u8, u32), RouteKind, Hop);
    type Group = (Table, Ip, u8, u32);
    const FULL: Flag = Flag::ROUTES_FULL;

    fn key(route: &Route) -> Self::Key {
        (Self::group(route), route.kind, route.hop)
    }

    fn group(route: &Route) -> Self::Group {
        (route.table, route.dst, route.dst_len, route.metric)
    }

    fn hash(tables: &Tables<'_>, route: &Route) -> u64 {
        tables.route_hash(route.table, route.dst, route.mapped_len())
    }

    fn chains<'m>(tables: &Tables<'m>) -> Chains<'m, Self> {
        tables.routes
    }

    fn store_row(&self, route: Option<&Route>, order: u32) {
        self.store(route, order);
    }

    fn section(header: &Header) -> &SeqCount {
        &header.forward
    }

    fn set_used(header: &Header, used: u32) {
        header.routes.set(used);
    }

    fn moved(tables: &Tables<'_>, _row: u32, _before: Option<&Route>, after: Option<&Route>) {
        if let Some(route) = after {
            tables.set_prefix_len(route.table, route.mapped_len(), true);
        }
        move_all_versions(tables);
    }
}

impl Mirrored for NeighRow {
    type Value = Neigh;
    type Key = (u32, Ip);
    type Group = u32;
    const FULL: Flag = Flag::NEIGHS_FULL;

    fn key(neigh: &Neigh) -> Self::Key {
        (neigh.ifindex, neigh.ip)
    }

    fn group(neigh: &Neigh) -> u32 {
        neigh.ifindex
    }

    fn hash(tables: &Tables<'_>, neigh: &Neigh) -> u64 {
        tables.neigh_hash(neigh.ifindex, neigh.ip)
    }

    fn chains<'m>(tables: &Tables<'m>) -> Chains<'m, Self> {
        tables.neighs
    }

    fn store_row(&self, neigh: Option<&Neigh>, _order: u32) {
        self.store(neigh);
    }

    fn section(header: &Header) -> &SeqCount {
        &header.neighbour
    }

    fn set_used(header: &Header, used: u32) {
        header.neighs.set(used);
    }

    /// Only what a packet would notice: a MAC address, or that there is none. On links that do not
    /// resolve, only neighbours that were set by hand count: there, answers name no neighbour.
    fn moved(tables: &Tables<'_>, row: u32, before: Option<&Neigh>, after: Option<&Neigh>) {
        let by_hand = |neigh: Option<&Neigh>| {
            neigh
                .filter(|neigh| neigh.state == NeighState::Permanent)
                .map(|neigh| neigh.mac)
        };
        let mac = |neigh: Option<&Neigh>| {
            neigh
                .filter(|neigh| neigh.state.is_usable())
                .map(|neigh| neigh.mac)
        };
        if mac(before) != mac(after) {
            move_version(tables, row);
        }
        if by_hand(before) != by_hand(after) {
            move_version(tables, NO_NEIGH);
        }
    }
}
