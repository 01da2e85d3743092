//! Questions that a process asks: how to reach a destination, and what the tables hold.

use core::sync::atomic::Ordering::Acquire;

use flyover_shm::Region;
use flyover_wire::Ip;

use crate::addr::Addr;
use crate::dims::{Dims, DimsError};
use crate::fwd::{Fwd, Reason, Resolve};
use crate::link::Link;
use crate::lookup::Lookup;
use crate::neigh::Neigh;
use crate::route::Route;
use crate::tables::{Flag, Steps, Tables};

/// The tables as a process sees them. A handle: copies are free.
#[derive(Clone, Copy)]
pub struct Reader<'m> {
    tables: Tables<'m>,
}

impl<'m> Reader<'m> {
    /// Tables of these sizes at the start of a mapping, which may be read-only.
    ///
    /// # Errors
    /// [`DimsError`] when the sizes are not valid or the region is too small for them.
    pub fn new(region: Region<'m>, dims: &Dims) -> Result<Self, DimsError> {
        Ok(Self {
            tables: Tables::new(region, dims)?,
        })
    }

    #[cfg(feature = "writer")]
    pub(crate) fn over(tables: Tables<'m>) -> Self {
        Self { tables }
    }

    /// How a packet gets to `dst`: the route with the longest prefix, and the neighbour's MAC.
    ///
    /// `src` is the socket's address, if it has one; otherwise the answer names the one that Linux
    /// would choose. `oif` restricts the way to one interface (a socket bound to a device, the
    /// scope of a link-local address); 0 = any. Multicast destinations are left to the kernel,
    /// which also delivers them to members on this host: see [`Reader::resolve_multicast`].
    pub fn resolve(&self, dst: Ip, src: Option<Ip>, oif: u32) -> Resolve {
        self.consistently(|lookup| {
            if dst.is_multicast() {
                Resolve::Unreachable(Reason::Multicast)
            } else {
                lookup.unicast(dst, src.filter(|src| !src.is_unspecified()), oif)
            }
        })
    }

    /// How a packet gets to the members of the group `dst` on other hosts, for callers that need
    /// no copy delivered on this one (`IP_MULTICAST_LOOP` off). Answers `Ready` or `Unreachable`,
    /// or `NeedNeigh` when a multicast route has a gateway.
    pub fn resolve_multicast(&self, dst: Ip, src: Option<Ip>, oif: u32) -> Resolve {
        self.consistently(|lookup| {
            if dst.is_multicast() {
                lookup.multicast(dst, src.filter(|src| !src.is_unspecified()), oif)
            } else {
                Resolve::Unreachable(Reason::NoRoute)
            }
        })
    }

    /// Is a cached answer still right? One load and one compare.
    #[inline]
    #[must_use]
    pub fn is_valid(&self, fwd: &Fwd) -> bool {
        self.version(fwd.row) == fwd.version
    }

    /// Version of a neighbour row, see [`Fwd::version`]. A row out of range is some other row.
    #[inline]
    #[must_use]
    pub fn version(&self, row: u32) -> u32 {
        self.tables.version(row)
    }

    /// Moves with every change of anything, neighbour states included.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.tables.header.generation.load(Acquire)
    }

    /// Does `ip` mean this host, as the local table says? Unspecified and multicast: no.
    #[must_use]
    pub fn is_local(&self, ip: Ip) -> bool {
        self.consistent(|lookup| lookup.is_local(ip))
            .unwrap_or(false)
    }

    /// Source address that Linux would choose for `dst`; `None` when it cannot be told.
    #[must_use]
    pub fn source_for(&self, dst: Ip, oif: u32) -> Option<Ip> {
        match self.resolve(dst, None, oif) {
            Resolve::Ready(fwd) => Some(fwd.src),
            Resolve::NeedNeigh { src, .. } => Some(src),
            Resolve::Local => self.consistent(|lookup| lookup.local_source(dst)).flatten(),
            Resolve::Unreachable(_) => None,
        }
    }

    /// The interface with this index.
    #[must_use]
    pub fn link(&self, ifindex: u32) -> Option<Link> {
        self.consistent(|lookup| lookup.link(ifindex)).flatten()
    }

    /// Whether there is such an interface; `None` while a change keeps the answer from being had. Who tears something
    /// down because an interface is gone asks this: [`Reader::link`] also answers `None` in the middle of a change.
    #[must_use]
    pub fn has_link(&self, ifindex: u32) -> Option<bool> {
        self.consistent(|lookup| lookup.link(ifindex).is_some())
    }

    /// The neighbour with this address on this interface.
    #[must_use]
    pub fn neigh(&self, ifindex: u32, ip: Ip) -> Option<Neigh> {
        self.consistent(|lookup| lookup.neigh(ifindex, ip))
            .flatten()
            .map(|found| found.neigh)
    }

    /// All interfaces, in no particular order.
    pub fn links(&self) -> impl Iterator<Item = Link> + use<'m> {
        let table = self.tables.links;
        let used = self.tables.header.links.get().min(table.count());
        (0..used).filter_map(move |row| table.row(row).load())
    }

    /// All addresses of this host, in no particular order.
    pub fn addrs(&self) -> impl Iterator<Item = Addr> + use<'m> {
        let table = self.tables.addrs;
        let used = self.tables.header.addrs.get().min(table.count());
        (0..used)
            .filter_map(move |row| table.row(row).load())
            .map(|(addr, _)| addr)
    }

    /// All next hops of all routes, in no particular order.
    pub fn routes(&self) -> impl Iterator<Item = Route> + use<'m> {
        let table = self.tables.routes;
        let used = self.tables.header.routes.get().min(table.count());
        (0..used)
            .filter_map(move |row| table.row(row).load())
            .map(|(route, _)| route)
    }

    /// All neighbours, in no particular order.
    pub fn neighs(&self) -> impl Iterator<Item = Neigh> + use<'m> {
        let table = self.tables.neighs;
        let used = self.tables.header.neighs.get().min(table.count());
        (0..used).filter_map(move |row| table.row(row).load())
    }

    /// State of the mirror as a whole, for dumps.
    #[must_use]
    pub fn status(&self) -> Status {
        let header = self.tables.header;
        let full = [
            Flag::LINKS_FULL,
            Flag::ADDRS_FULL,
            Flag::ROUTES_FULL,
            Flag::NEIGHS_FULL,
        ];
        Status {
            generation: self.generation(),
            layout_hash: header.layout_hash.get(),
            policy: Policy {
                v4: self.tables.flag(Flag::POLICY_V4),
                v6: self.tables.flag(Flag::POLICY_V6),
            },
            full: full.into_iter().any(|flag| self.tables.flag(flag)),
            overflows: header.overflows.get(),
            resyncs: header.resyncs.get(),
        }
    }

    fn consistently(&self, question: impl Fn(&Lookup<'_, 'm>) -> Resolve) -> Resolve {
        self.consistent(question)
            .unwrap_or(Resolve::Unreachable(Reason::Busy))
    }

    /// Asks until no change of links, addresses or routes came in between. A writer may lose its
    /// CPU in the middle of a change: waits for it, longer each time, about half a millisecond in
    /// all. Gives up then, or when the bound on steps says so.
    fn consistent<R>(&self, question: impl Fn(&Lookup<'_, 'm>) -> R) -> Option<R> {
        let tables = &self.tables;
        let steps = Steps::new(self.most_steps());
        for patience in 0..PATIENCE {
            let answer = tables.header.forward.read(|| {
                let lookup = Lookup {
                    tables,
                    steps: &steps,
                };
                (!steps.exhausted()).then(|| question(&lookup))
            });
            match answer {
                Some(answer) if !steps.exhausted() => return answer,
                Some(_) => return None,
                None => (0..1_u32 << patience).for_each(|_| core::hint::spin_loop()),
            }
        }
        None
    }

    fn most_steps(&self) -> u32 {
        let tables = &self.tables;
        let forward = [
            tables.links.count(),
            tables.addrs.count(),
            tables.routes.count(),
        ];
        let rows = forward
            .into_iter()
            .fold(tables.neighs.count(), u32::saturating_add);
        rows.saturating_add(1024).saturating_mul(4)
    }
}

/// Rounds of waiting for the writer; round n lasts 2^n pauses of the CPU.
const PATIENCE: u32 = 14;

impl core::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Reader").field(&self.status()).finish()
    }
}

/// Which families have `ip rule`s that look at more than the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

/// State of the mirror as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// As [`Reader::generation`].
    pub generation: u32,
    /// [`crate::LAYOUT_HASH`] of the writer.
    pub layout_hash: u64,
    /// Families whose destinations are all [`Reason::PolicyRouting`].
    pub policy: Policy,
    /// A table lacks entries for want of room.
    pub full: bool,
    /// Entries that found no room, ever.
    pub overflows: u32,
    /// Resynchronisations with the kernel that were finished.
    pub resyncs: u32,
}
