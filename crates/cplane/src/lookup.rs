//! One pass over the tables for one question: local, main, default; longest prefix; neighbour.
//!
//! The caller repeats the pass when the tables changed meanwhile, see `Reader::consistent`.

use flyover_wire::{Ip, Mac};

use crate::fwd::{Fwd, Reason, Resolve};
use crate::link::{Link, LinkFlags, LinkKind};
use crate::neigh::{Neigh, NeighState};
use crate::route::{Route, RouteKind, Table};
use crate::tables::{Flag, Steps, Tables, masked};

/// Row that stands for destinations without a neighbour.
pub(crate) const NO_NEIGH: u32 = 0;

pub(crate) struct Lookup<'s, 'm> {
    pub(crate) tables: &'s Tables<'m>,
    pub(crate) steps: &'s Steps,
}

/// A neighbour, and what vouches for it.
pub(crate) struct FoundNeigh {
    pub(crate) neigh: Neigh,
    row: u32,
    version: u32,
}

/// A usable next hop: the route and its link, which carries Ethernet.
struct Path {
    route: Route,
    link: Link,
}

/// A route that competes for a packet.
struct Candidate {
    route: Route,
    link: Option<Link>,
    /// Less is better: the metric, then whether the link lacks carrier, then the order.
    rank: (u32, bool, u32),
}

impl Lookup<'_, '_> {
    pub(crate) fn unicast(&self, dst: Ip, src: Option<Ip>, oif: u32) -> Resolve {
        if dst.is_unspecified() {
            return Resolve::Local;
        }
        match self.path(dst, oif) {
            Ok(path) => {
                let Some(src) = src.or_else(|| self.source(dst, &path.route, &path.link)) else {
                    return Resolve::Unreachable(Reason::NoSource);
                };
                self.towards(path.route.hop.gateway.unwrap_or(dst), src, &path)
            }
            Err(other) => other,
        }
    }

    pub(crate) fn multicast(&self, dst: Ip, src: Option<Ip>, oif: u32) -> Resolve {
        // A group is reached through one interface. IPv4 derives it from the source address
        // (ip(7), IP_MULTICAST_IF); IPv6 must be told.
        let from_src = || {
            src.filter(|_| dst.is_v4())
                .and_then(|src| self.link_with(src))
        };
        let oif = Some(oif)
            .filter(|oif| *oif != 0)
            .or_else(from_src)
            .unwrap_or(0);
        if oif == 0 && !dst.is_v4() {
            return Resolve::Unreachable(Reason::ScopeMissing);
        }
        let path = match self.path(dst, oif) {
            // Without a route, Linux assumes that the group is on the interface.
            Err(Resolve::Unreachable(Reason::NoRoute)) if oif != 0 => {
                let route = Route::unicast(dst, if dst.is_v4() { 32 } else { 128 }, oif);
                match self.usable(route, self.link(oif)) {
                    Ok(path) => path,
                    Err(reason) => return Resolve::Unreachable(reason),
                }
            }
            Err(other) => return other,
            Ok(path) => path,
        };
        let Some(src) = src.or_else(|| self.source(dst, &path.route, &path.link)) else {
            return Resolve::Unreachable(Reason::NoSource);
        };
        // A default route says which interface, not which router: groups are not sent to it.
        match path.route.hop.gateway.filter(|_| path.route.dst_len >= 4) {
            Some(gateway) => self.towards(gateway, src, &path),
            None => self.ready(
                dst,
                src,
                &path,
                multicast_mac(dst),
                NO_NEIGH,
                self.tables.version(NO_NEIGH),
            ),
        }
    }

    pub(crate) fn is_local(&self, ip: Ip) -> bool {
        matches!(
            self.best_in(Table::Local, ip, 0),
            Ok(Some(Candidate {
                route: Route {
                    kind: RouteKind::Local | RouteKind::Anycast,
                    ..
                },
                ..
            }))
        )
    }

    pub(crate) fn local_source(&self, dst: Ip) -> Option<Ip> {
        match self.best_in(Table::Local, dst, 0) {
            Ok(Some(found)) => Some(found.route.prefsrc.filter(|_| dst.is_v4()).unwrap_or(dst)),
            Ok(None) | Err(_) => None,
        }
    }

    pub(crate) fn link(&self, ifindex: u32) -> Option<Link> {
        let chain = self
            .tables
            .links
            .walk(self.tables.link_hash(ifindex), self.steps);
        chain
            .filter_map(|(_, row)| row.load())
            .find(|link| link.ifindex == ifindex)
    }

    /// The neighbour with this address. Reads the version first: what changes later, moves it.
    pub(crate) fn neigh(&self, ifindex: u32, ip: Ip) -> Option<FoundNeigh> {
        let hash = self.tables.neigh_hash(ifindex, ip);
        self.tables.header.neighbour.read(|| {
            self.tables
                .neighs
                .walk(hash, self.steps)
                .find_map(|(row, neigh)| {
                    let version = self.tables.version(row);
                    let neigh = neigh
                        .load()
                        .filter(|neigh| neigh.ifindex == ifindex && neigh.ip == ip)?;
                    Some(FoundNeigh {
                        neigh,
                        row,
                        version,
                    })
                })
        })?
    }

    /// The best route to `dst` that leads out of this host, or the answer that there is none.
    fn path(&self, dst: Ip, oif: u32) -> Result<Path, Resolve> {
        self.may_answer(dst, oif).map_err(Resolve::Unreachable)?;
        let mut down = false;
        for table in Table::ALL {
            let found = match self.best_in(table, dst, oif) {
                Ok(found) => found,
                Err(NotReady) => {
                    down = true;
                    continue;
                }
            };
            let Some(found) = found else { continue };
            let no = |reason| Err(Resolve::Unreachable(reason));
            return match found.route.kind {
                RouteKind::Throw => continue,
                RouteKind::Local | RouteKind::Anycast => Err(Resolve::Local),
                RouteKind::Broadcast => no(Reason::Broadcast),
                RouteKind::Reject => no(Reason::Rejected),
                RouteKind::Special => no(Reason::PolicyRouting),
                RouteKind::Unicast | RouteKind::Multicast => self
                    .usable(found.route, found.link)
                    .map_err(Resolve::Unreachable),
            };
        }
        Err(Resolve::Unreachable(if down {
            Reason::NotReady
        } else {
            Reason::NoRoute
        }))
    }

    /// Are the tables able to answer for this destination at all?
    fn may_answer(&self, dst: Ip, oif: u32) -> Result<(), Reason> {
        let policy = if dst.is_v4() {
            Flag::POLICY_V4
        } else {
            Flag::POLICY_V6
        };
        if dst.is_broadcast() {
            Err(Reason::Broadcast)
        } else if self.tables.flag(policy) {
            Err(Reason::PolicyRouting)
        } else if self.tables.flag(Flag::ROUTES_FULL) || self.tables.flag(Flag::ADDRS_FULL) {
            Err(Reason::TableFull)
        } else if dst.is_v6_link_local() && oif == 0 && !self.is_local(dst) {
            Err(Reason::ScopeMissing)
        } else {
            Ok(())
        }
    }

    /// The best candidate of a table: longest prefix, then least rank.
    ///
    /// # Errors
    /// [`NotReady`] when routes match, but all leave through links that are set down.
    fn best_in(&self, table: Table, dst: Ip, oif: u32) -> Result<Option<Candidate>, NotReady> {
        let least = if dst.is_v4() { 96 } else { 0 };
        let mut down = false;
        for len in self
            .tables
            .prefix_lens(table)
            .take_while(|len| *len >= least)
        {
            let prefix = masked(dst, len);
            let hash = self.tables.route_hash(table, prefix, len);
            let mut best: Option<Candidate> = None;
            for (_, row) in self.tables.routes.walk(hash, self.steps) {
                let Some((route, order)) = row.load() else {
                    continue;
                };
                let matches =
                    route.table == table && route.mapped_len() == len && route.dst == prefix;
                if !matches || !suits(&route, oif) {
                    continue;
                }
                match self.candidate(route, order) {
                    Some(new) if best.as_ref().is_none_or(|best| new.rank < best.rank) => {
                        best = Some(new)
                    }
                    Some(_) => {}
                    None => down = true,
                }
            }
            if best.is_some() {
                return Ok(best);
            }
        }
        if down { Err(NotReady) } else { Ok(None) }
    }

    /// A route as a candidate; `None` when its link is set down or gone. The kernel drops such
    /// routes without saying so (IPv4), so that the tables may still hold them.
    fn candidate(&self, route: Route, order: u32) -> Option<Candidate> {
        if matches!(route.kind, RouteKind::Reject | RouteKind::Throw) {
            return Some(Candidate {
                route,
                link: None,
                rank: (route.metric, false, order),
            });
        }
        let link = self.link(route.hop.ifindex);
        let admin_up = match link {
            Some(link) => link.flags.contains(LinkFlags::ADMIN_UP),
            // Better one V-NIC too few than a local address taken for a remote one.
            None => route.kind == RouteKind::Local && self.tables.flag(Flag::LINKS_FULL),
        };
        let up = link.is_some_and(|link| link.up);
        admin_up.then_some(Candidate {
            route,
            link,
            rank: (route.metric, !up, order),
        })
    }

    fn usable(&self, route: Route, link: Option<Link>) -> Result<Path, Reason> {
        let link = link.filter(|link| link.up).ok_or(Reason::NotReady)?;
        let ethernet = link.flags.contains(LinkFlags::ETHER)
            && !link.flags.contains(LinkFlags::LOOPBACK)
            && link.kind != LinkKind::Vrf;
        if ethernet {
            Ok(Path { route, link })
        } else {
            Err(Reason::NotEthernet)
        }
    }

    /// The last step: the MAC address of the next hop.
    fn towards(&self, nexthop: Ip, src: Ip, path: &Path) -> Resolve {
        let link = &path.link;
        let found = self.neigh(link.ifindex, nexthop);
        let usable = |found: &FoundNeigh| found.neigh.state.is_usable();
        // Links that do not resolve: Linux fills in these addresses unless one is set by hand.
        let fixed = if link.flags.contains(LinkFlags::NOARP) {
            Some(link.mac)
        } else if link.flags.contains(LinkFlags::POINT_TO_POINT) {
            Some(Mac::BROADCAST)
        } else {
            None
        };
        let by_hand = |found: &FoundNeigh| found.neigh.state == NeighState::Permanent;
        if let Some(mac) = fixed.filter(|_| !found.as_ref().is_some_and(by_hand)) {
            return self.ready(
                nexthop,
                src,
                path,
                mac,
                NO_NEIGH,
                self.tables.version(NO_NEIGH),
            );
        }
        match found.filter(usable) {
            Some(found) => self.ready(
                nexthop,
                src,
                path,
                found.neigh.mac,
                found.row,
                found.version,
            ),
            None if self.tables.flag(Flag::NEIGHS_FULL) => Resolve::Unreachable(Reason::TableFull),
            None => Resolve::NeedNeigh {
                ifindex: link.ifindex,
                nexthop,
                src,
                mtu: mtu(path),
            },
        }
    }

    fn ready(
        &self,
        nexthop: Ip,
        src: Ip,
        path: &Path,
        dmac: Mac,
        row: u32,
        version: u32,
    ) -> Resolve {
        Resolve::Ready(Fwd {
            ifindex: path.link.ifindex,
            src,
            nexthop,
            smac: path.link.mac,
            dmac,
            mtu: mtu(path),
            vlan: 0,
            row,
            version,
        })
    }
}

/// Routes match, but none can be used now.
struct NotReady;

fn suits(route: &Route, oif: u32) -> bool {
    let anywhere = matches!(route.kind, RouteKind::Reject | RouteKind::Throw);
    oif == 0 || anywhere || route.hop.ifindex == oif
}

fn mtu(path: &Path) -> u32 {
    match path.route.mtu {
        0 => path.link.mtu,
        metric => metric.min(path.link.mtu),
    }
}

/// MAC address of a group (RFC 1112 section 6.4, RFC 2464 section 7).
fn multicast_mac(group: Ip) -> Mac {
    let [.., a, b, c, d] = group.0;
    if group.is_v4() {
        Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    } else {
        Mac([0x33, 0x33, a, b, c, d])
    }
}
