//! The memory as a whole: header, arenas, hash chains, prefixes. Both sides use it.

use core::cell::Cell;
use core::sync::atomic::Ordering::{Acquire, Relaxed};

use flyover_shm::object::{HASH_SEED, hash_u64};
use flyover_shm::{Arena, Idx, Object, OptIdx, Region, SeqCount, Shared32, SharedCell, shm_struct};
use flyover_wire::Ip;

use crate::addr::AddrRow;
use crate::dims::{Dims, DimsError};
use crate::link::LinkRow;
use crate::neigh::NeighRow;
use crate::route::{RouteRow, Table};

/// Hash of the layout of all rows: writer and reader must have the same.
pub const LAYOUT_HASH: u64 = {
    let hash = hash_u64(HASH_SEED, Header::HASH);
    let hash = hash_u64(hash_u64(hash, VersionRow::HASH), HeadRow::HASH);
    let hash = hash_u64(hash_u64(hash, LinkRow::HASH), AddrRow::HASH);
    hash_u64(hash_u64(hash, RouteRow::HASH), NeighRow::HASH)
};

/// Words of a bitmap of the prefix lengths 0..=128.
const LEN_WORDS: usize = 3;

shm_struct! {
    /// What concerns all tables.
    pub struct Header {
        /// [`LAYOUT_HASH`] of the writer, for people and tools.
        pub layout_hash: SharedCell<u64>,
        /// Key of the hash chains.
        pub seed: SharedCell<u64>,
        /// Per table of routes, a bitmap of the prefix lengths that occur.
        pub lens: [SharedCell<u64>; 9],
        /// Moves with every change of anything.
        pub generation: Shared32,
        /// Covers links, addresses, routes and flags as a whole.
        pub forward: SeqCount,
        /// Covers the neighbours as a whole.
        pub neighbour: SeqCount,
        /// [`Flag`]s.
        pub flags: Shared32,
        /// Rows that were ever in use, per table.
        pub links: SharedCell<u32>,
        pub addrs: SharedCell<u32>,
        pub routes: SharedCell<u32>,
        pub neighs: SharedCell<u32>,
        /// Entries that found no room, ever.
        pub overflows: SharedCell<u32>,
        /// Resynchronisations that were finished.
        pub resyncs: SharedCell<u32>,
    }
}

shm_struct! {
    /// The version of a neighbour row.
    pub struct VersionRow {
        pub version: Shared32,
    }
}

shm_struct! {
    /// Start of a hash chain; an index into the table that it serves.
    pub struct HeadRow {
        pub first: SharedCell<OptIdx<HeadRow>>,
    }
}

/// A bit of [`Header::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flag(pub u32);

impl Flag {
    pub(crate) const POLICY_V4: Self = Self(1);
    pub(crate) const POLICY_V6: Self = Self(1 << 1);
    pub(crate) const LINKS_FULL: Self = Self(1 << 2);
    pub(crate) const ADDRS_FULL: Self = Self(1 << 3);
    pub(crate) const ROUTES_FULL: Self = Self(1 << 4);
    pub(crate) const NEIGHS_FULL: Self = Self(1 << 5);
}

/// The tables over a piece of memory. All numbers that bound an access are private copies.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'m> {
    pub(crate) header: &'m Header,
    pub(crate) versions: Arena<'m, VersionRow>,
    pub(crate) links: Chains<'m, LinkRow>,
    pub(crate) addrs: Chains<'m, AddrRow>,
    pub(crate) routes: Chains<'m, RouteRow>,
    pub(crate) neighs: Chains<'m, NeighRow>,
}

impl<'m> Tables<'m> {
    pub(crate) fn new(region: Region<'m>, dims: &Dims) -> Result<Self, DimsError> {
        let at = dims.layout()?;
        let header: Arena<'m, Header> = Arena::new(region, at.header, 1)?;
        Ok(Self {
            header: header.at(Idx::new(0)),
            versions: Arena::new(region, at.versions, dims.neighs)?,
            links: Chains::new(region, at.link_heads, dims.links, at.links, dims.links)?,
            addrs: Chains::new(region, at.addr_heads, dims.links, at.addrs, dims.addrs)?,
            routes: Chains::new(region, at.route_heads, dims.routes, at.routes, dims.routes)?,
            neighs: Chains::new(region, at.neigh_heads, dims.neighs, at.neighs, dims.neighs)?,
        })
    }

    pub(crate) fn flag(&self, flag: Flag) -> bool {
        self.header.flags.load(Relaxed) & flag.0 != 0
    }

    pub(crate) fn version(&self, row: u32) -> u32 {
        self.versions.at(Idx::new(row)).version.load(Acquire)
    }

    /// Hash of an interface, for links and addresses.
    pub(crate) fn link_hash(&self, ifindex: u32) -> u64 {
        mix(self.header.seed.get(), 0, u64::from(ifindex))
    }

    /// Hash of an address on an interface.
    pub(crate) fn neigh_hash(&self, ifindex: u32, ip: Ip) -> u64 {
        mix(
            self.header.seed.get() ^ u64::from(ifindex),
            ip.hi(),
            ip.lo(),
        )
    }

    /// Hash of a prefix (128-bit form, masked) in a table of routes.
    pub(crate) fn route_hash(&self, table: Table, prefix: Ip, len: u8) -> u64 {
        let salt = u64::from(len) << 8 | u64::from(table as u8);
        mix(self.header.seed.get() ^ salt, prefix.hi(), prefix.lo())
    }

    fn len_words(&self, table: Table) -> &'m [SharedCell<u64>] {
        let nth = (table as usize).saturating_sub(1);
        self.header
            .lens
            .chunks_exact(LEN_WORDS)
            .nth(nth)
            .unwrap_or_default()
    }

    /// Prefix lengths (128-bit form) that occur in a table of routes, longest first.
    pub(crate) fn prefix_lens(&self, table: Table) -> impl Iterator<Item = u8> + use<'m> {
        let mut words = self.len_words(table).iter().zip([0_u8, 64, 128]).rev();
        let (mut bits, mut base) = (0_u64, 0_u8);
        core::iter::from_fn(move || {
            while bits == 0 {
                let (word, start) = words.next()?;
                (bits, base) = (word.get(), start);
            }
            let top = bits.ilog2();
            bits &= !(1_u64 << top);
            // Beyond 128 only in garbage, where it matches nothing.
            Some(base.saturating_add(top as u8))
        })
    }

    #[cfg(feature = "writer")]
    pub(crate) fn set_prefix_len(&self, table: Table, len: u8, present: bool) {
        let words = self.len_words(table);
        if let Some(word) = words.get(usize::from(len / 64)) {
            let bit = 1_u64 << (len % 64);
            word.set(if present {
                word.get() | bit
            } else {
                word.get() & !bit
            });
        }
    }
}

/// A row that can be a member of a hash chain.
pub(crate) trait Chained: Object {
    fn next(&self) -> &SharedCell<OptIdx<Self>>;
}

macro_rules! chained {
    ($($row:ty),+) => {$(
        impl Chained for $row {
            fn next(&self) -> &SharedCell<OptIdx<Self>> {
                &self.next
            }
        }
    )+};
}

chained!(LinkRow, AddrRow, RouteRow, NeighRow);

/// A table of rows and the hash chains through it.
pub(crate) struct Chains<'m, T: Chained> {
    heads: Arena<'m, HeadRow>,
    rows: Arena<'m, T>,
}

impl<T: Chained> Clone for Chains<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Chained> Copy for Chains<'_, T> {}

impl<'m, T: Chained> Chains<'m, T> {
    fn new(
        region: Region<'m>,
        heads_at: usize,
        heads: u32,
        rows_at: usize,
        rows: u32,
    ) -> Result<Self, DimsError> {
        Ok(Self {
            heads: Arena::new(region, heads_at, heads)?,
            rows: Arena::new(region, rows_at, rows)?,
        })
    }

    pub(crate) fn count(&self) -> u32 {
        self.rows.count()
    }

    pub(crate) fn row(&self, number: u32) -> &'m T {
        self.rows.at(Idx::new(number))
    }

    /// The rows of a chain with their numbers. Ends when `steps` does.
    pub(crate) fn walk<'s>(
        &self,
        hash: u64,
        steps: &'s Steps,
    ) -> impl Iterator<Item = (u32, &'m T)> + use<'s, 'm, T> {
        let rows = self.rows;
        let mut at = self.first(hash).get().opt().map(|first| first.raw());
        core::iter::from_fn(move || {
            let number = at.filter(|_| steps.take())?;
            let row = rows.at(Idx::new(number));
            at = row.next().get().opt().map(Idx::raw);
            Some((number, row))
        })
    }

    fn first(&self, hash: u64) -> &'m SharedCell<OptIdx<HeadRow>> {
        &self.heads.at(Idx::new(hash as u32)).first
    }

    #[cfg(feature = "writer")]
    pub(crate) fn link_in(&self, hash: u64, number: u32) {
        let first = self.first(hash);
        let next = first.get().opt().map(|head| Idx::new(head.raw()));
        self.row(number).next().set(next.into());
        first.set(Idx::new(number).into());
    }

    #[cfg(feature = "writer")]
    pub(crate) fn unlink(&self, hash: u64, number: u32) {
        let after = self.row(number).next().get();
        let first = self.first(hash);
        if first.get() == Idx::new(number).into() {
            first.set(after.opt().map(|next| Idx::new(next.raw())).into());
            return;
        }
        let steps = Steps::new(self.count());
        let before = self
            .walk(hash, &steps)
            .find(|(_, row)| row.next().get() == Idx::new(number).into());
        if let Some((_, before)) = before {
            before.next().set(after);
        }
    }
}

/// How many rows a question may still look at: what bounds every walk, whatever the memory holds.
pub(crate) struct Steps(Cell<u32>);

impl Steps {
    pub(crate) const fn new(steps: u32) -> Self {
        Self(Cell::new(steps))
    }

    fn take(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }

    pub(crate) fn exhausted(&self) -> bool {
        self.0.get() == 0
    }
}

/// Prefix length in the 128-bit form that both families share.
pub(crate) fn mapped_len(v4: bool, len: u8) -> u8 {
    if v4 {
        len.min(32).saturating_add(96)
    } else {
        len.min(128)
    }
}

/// An address with the bits beyond a prefix length (128-bit form) cleared.
pub(crate) fn masked(ip: Ip, len: u8) -> Ip {
    let host_bits = u32::from(128_u8.saturating_sub(len));
    let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
    let bits = u128::from_be_bytes(ip.0) & mask;
    Ip(bits.to_be_bytes())
}

/// Do two addresses share their first `len` bits (128-bit form)?
pub(crate) fn in_prefix(ip: Ip, prefix: Ip, len: u8) -> bool {
    masked(ip, len) == masked(prefix, len)
}

/// Keyed hash of two words: two rounds of folded multiplication.
fn mix(seed: u64, high: u64, low: u64) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a).wrapping_mul(u128::from(b));
        (product >> 64) as u64 ^ product as u64
    };
    let first = fold(high ^ seed, 0x9e37_79b9_7f4a_7c15);
    fold(low ^ first ^ seed.rotate_left(32), 0xd6e8_feb8_6659_fd93)
}
