//! How big the tables are, and where each lies in the memory.

use core::fmt;
use core::mem::size_of;

use flyover_shm::RegionError;

use crate::addr::AddrRow;
use crate::link::LinkRow;
use crate::neigh::NeighRow;
use crate::route::RouteRow;
use crate::tables::{HeadRow, Header, VersionRow};

/// Rows per table. Each is a power of two between 16 and 2^20.
///
/// Readers get it from the daemon's message: a mapping never says how big it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Interfaces.
    pub links: u32,
    /// Addresses of this host.
    pub addrs: u32,
    /// Next hops of routes, those of the local table included.
    pub routes: u32,
    /// Neighbours, of which row 0 is never one.
    pub neighs: u32,
}

impl Default for Dims {
    fn default() -> Self {
        Self {
            links: 64,
            addrs: 256,
            routes: 1024,
            neighs: 4096,
        }
    }
}

impl Dims {
    const LEAST: u32 = 16;
    const MOST: u32 = 1 << 20;

    /// The nearest valid sizes that are not less, as far as the limits allow.
    #[must_use]
    pub fn rounded(self) -> Self {
        let round = |rows: u32| rows.clamp(Self::LEAST, Self::MOST).next_power_of_two();
        Self {
            links: round(self.links),
            addrs: round(self.addrs),
            routes: round(self.routes),
            neighs: round(self.neighs),
        }
    }

    /// The sizes as words, for messages.
    #[must_use]
    pub const fn to_words(self) -> [u64; 4] {
        [
            self.links as u64,
            self.addrs as u64,
            self.routes as u64,
            self.neighs as u64,
        ]
    }

    /// Inverse of [`Dims::to_words`]; `None` when the words are not valid sizes.
    #[must_use]
    pub fn from_words(words: &[u64]) -> Option<Self> {
        let [links, addrs, routes, neighs] = *words else {
            return None;
        };
        let dims = Self {
            links: u32::try_from(links).ok()?,
            addrs: u32::try_from(addrs).ok()?,
            routes: u32::try_from(routes).ok()?,
            neighs: u32::try_from(neighs).ok()?,
        };
        (dims.rounded() == dims).then_some(dims)
    }

    /// Bytes that the tables need, a multiple of 4096.
    ///
    /// # Errors
    /// [`DimsError::Invalid`] when a size is not valid.
    #[expect(clippy::len_without_is_empty, reason = "tables are never empty")]
    pub fn len(&self) -> Result<usize, DimsError> {
        Ok(self.layout()?.end)
    }

    pub(crate) fn layout(&self) -> Result<Layout, DimsError> {
        if self.rounded() != *self {
            return Err(DimsError::Invalid);
        }
        let mut place = Place(0);
        let layout = Layout {
            header: place.next::<Header>(1),
            versions: place.next::<VersionRow>(self.neighs),
            link_heads: place.next::<HeadRow>(self.links),
            addr_heads: place.next::<HeadRow>(self.links),
            route_heads: place.next::<HeadRow>(self.routes),
            neigh_heads: place.next::<HeadRow>(self.neighs),
            links: place.next::<LinkRow>(self.links),
            addrs: place.next::<AddrRow>(self.addrs),
            routes: place.next::<RouteRow>(self.routes),
            neighs: place.next::<NeighRow>(self.neighs),
            end: place.0.next_multiple_of(4096),
        };
        Ok(layout)
    }
}

/// Byte offsets of the tables.
pub(crate) struct Layout {
    pub header: usize,
    pub versions: usize,
    pub link_heads: usize,
    pub addr_heads: usize,
    pub route_heads: usize,
    pub neigh_heads: usize,
    pub links: usize,
    pub addrs: usize,
    pub routes: usize,
    pub neighs: usize,
    pub end: usize,
}

/// Places tables one after the other, each on a cache line of its own.
struct Place(usize);

impl Place {
    /// Cannot overflow: a table has at most 2^20 rows of at most 128 bytes.
    fn next<T>(&mut self, rows: u32) -> usize {
        let start = self.0;
        let bytes = size_of::<T>().saturating_mul(rows as usize);
        self.0 = start.saturating_add(bytes).next_multiple_of(64);
        start
    }
}

/// Why tables cannot be laid over a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DimsError {
    /// A size is not a power of two, or out of range.
    Invalid,
    /// The memory is too small.
    TooSmall,
}

impl From<RegionError> for DimsError {
    fn from(_: RegionError) -> Self {
        Self::TooSmall
    }
}

impl fmt::Display for DimsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "control-plane table size is not a power of two in range",
            Self::TooSmall => "control-plane memory is smaller than its tables",
        })
    }
}

impl core::error::Error for DimsError {}
