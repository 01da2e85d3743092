//! What the kernel can say of the network, and what came of it.

use std::vec::Vec;

use flyover_wire::Ip;

use crate::addr::Addr;
use crate::link::Link;
use crate::neigh::Neigh;
use crate::reader::Policy;
use crate::route::Route;
use crate::tables::masked;

/// One piece of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface is there, or is different.
    Link(Link),
    /// An interface is gone, and with it all that refers to it.
    DelLink {
        /// Which.
        ifindex: u32,
    },
    /// An address is there, or is different. Interface, address, peer and prefix length identify it.
    Addr(Addr),
    /// An address is gone. Scope and flags are not looked at.
    DelAddr(Addr),
    /// A next hop of a route is there, or is different. Destination, table, metric, kind and hop
    /// identify it.
    Route(Route),
    /// These are all next hops that there are with the destination, table and metric of the first.
    ReplaceRoutes(Vec<Route>),
    /// A next hop of a route is gone. Scope, source and MTU are not looked at.
    DelRoute(Route),
    /// A neighbour is there, or is different. Interface and address identify it.
    Neigh(Neigh),
    /// A neighbour is gone.
    DelNeigh {
        /// Interface that it was on.
        ifindex: u32,
        /// Its address.
        ip: Ip,
    },
    /// Whether there are `ip rule`s that look at more than the destination.
    Policy(Policy),
    /// A full list of these tables follows.
    ResyncBegin(Kinds),
    /// The list is complete: what it did not name is gone.
    ResyncEnd(Kinds),
}

/// A set of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// Interfaces.
    pub const LINKS: Self = Self(1);
    /// Addresses.
    pub const ADDRS: Self = Self(2);
    /// Routes.
    pub const ROUTES: Self = Self(4);
    /// Neighbours.
    pub const NEIGHS: Self = Self(8);
    /// All tables.
    pub const ALL: Self = Self(15);

    /// Are all tables of `other` in this set?
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These tables and `other`'s.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was known.
    Unchanged,
    /// The tables are different now.
    Changed,
    /// There was no room for it: it was counted, and the table is marked as incomplete.
    Full,
}

impl Outcome {
    pub(super) fn worst(outcomes: impl IntoIterator<Item = Self>) -> Self {
        outcomes.into_iter().max().unwrap_or(Self::Unchanged)
    }
}

/// The route with the bits beyond its prefix cleared, as look-ups expect it.
pub(super) fn canonical(route: Route) -> Route {
    Route {
        dst: masked(route.dst, route.mapped_len()),
        ..route
    }
}
