//! Which source address a packet gets when its socket has none, as Linux chooses.

use core::cmp::Reverse;

use flyover_wire::Ip;

use crate::addr::{Addr, AddrFlags, Scope};
use crate::link::{Link, LinkFlags};
use crate::lookup::Lookup;
use crate::route::Route;

impl Lookup<'_, '_> {
    /// Source address towards `dst` over this route.
    pub(crate) fn source(&self, dst: Ip, route: &Route, link: &Link) -> Option<Ip> {
        match route.prefsrc {
            Some(src) => Some(src),
            None if dst.is_v4() => self.source_v4(route, link),
            None => self.source_v6(dst, link),
        }
    }

    /// The interface that has this address.
    pub(crate) fn link_with(&self, ip: Ip) -> Option<u32> {
        self.all_addrs()
            .find(|(addr, _)| addr.ip == ip)
            .map(|(addr, _)| addr.ifindex)
    }

    /// IPv4: the first primary address of the interface that the route's scope admits, the one on
    /// the gateway's subnet before others; failing that, one of another interface.
    fn source_v4(&self, route: &Route, link: &Link) -> Option<Ip> {
        let gateway = route.hop.gateway.filter(|gateway| gateway.is_v4());
        let primary = |addr: &Addr| addr.ip.is_v4() && !addr.flags.contains(AddrFlags::SECONDARY);
        let here = self
            .addrs_of(link.ifindex)
            .filter(|(addr, _)| primary(addr) && addr.scope.min(Scope::HOST) <= route.scope)
            .min_by_key(|(addr, order)| {
                let near = gateway.is_none_or(|gateway| addr.on_link(gateway));
                // The kernel keeps addresses of near scope before those of wide scope.
                (!near, Reverse(addr.scope), *order)
            });
        let elsewhere = || {
            self.all_addrs()
                .filter(|(addr, _)| {
                    primary(addr) && addr.scope != Scope::LINK && addr.scope <= route.scope
                })
                .min_by_key(|(addr, order)| (addr.ifindex, Reverse(addr.scope), *order))
        };
        here.or_else(elsewhere).map(|(addr, _)| addr.ip)
    }

    /// IPv6: the rules of RFC 6724 section 5, without home addresses.
    fn source_v6(&self, dst: Ip, link: &Link) -> Option<Ip> {
        let same_link = dst.is_multicast() || dst.is_v6_link_local();
        let usable = |addr: &Addr| {
            !addr.ip.is_v4()
                && !addr.flags.contains(AddrFlags::TENTATIVE)
                && (!same_link || addr.ifindex == link.ifindex)
        };
        let temporary = link.flags.contains(LinkFlags::TEMPORARY);
        let rank = |addr: &Addr, order: u32| {
            let scope = scope_v6(addr.ip);
            let wanted = scope_v6(dst);
            // Rule 2: the smallest scope that is enough, else the largest that is not.
            let reach = if scope >= wanted {
                (false, scope)
            } else {
                (true, u8::MAX.wrapping_sub(scope))
            };
            let bits = addr.ip_bits_shared_with(dst);
            (
                addr.ip != dst,
                reach,
                addr.flags.contains(AddrFlags::DEPRECATED),
                addr.ifindex != link.ifindex,
                label(addr.ip) != label(dst),
                addr.flags.contains(AddrFlags::TEMPORARY) != temporary,
                Reverse(bits),
                (addr.ifindex, order),
            )
        };
        let all = self.all_addrs().filter(|(addr, _)| usable(addr));
        all.min_by_key(|(addr, order)| rank(addr, *order))
            .map(|(addr, _)| addr.ip)
    }

    fn addrs_of(&self, ifindex: u32) -> impl Iterator<Item = (Addr, u32)> {
        let chain = self
            .tables
            .addrs
            .walk(self.tables.link_hash(ifindex), self.steps);
        chain
            .filter_map(|(_, row)| row.load())
            .filter(move |(addr, _)| addr.ifindex == ifindex)
    }

    fn all_addrs(&self) -> impl Iterator<Item = (Addr, u32)> {
        let table = self.tables.addrs;
        let used = self.tables.header.addrs.get().min(table.count());
        (0..used).filter_map(move |row| table.row(row).load())
    }
}

impl Addr {
    /// Rule 8: leading bits in common, not counting those beyond the address's own prefix.
    fn ip_bits_shared_with(&self, other: Ip) -> u32 {
        let differ = u128::from_be_bytes(self.ip.0) ^ u128::from_be_bytes(other.0);
        differ.leading_zeros().min(u32::from(self.prefix_len))
    }
}

/// Scope of an IPv6 address as a number of RFC 4291 section 2.7: 2 link, 5 site, 14 global.
fn scope_v6(ip: Ip) -> u8 {
    let [first, second, ..] = ip.0;
    match (first, second) {
        (0xff, second) => second & 0xf,
        (0xfe, second) if second & 0xc0 == 0x80 => 2,
        (0xfe, second) if second & 0xc0 == 0xc0 => 5,
        _ if ip.is_loopback() => 2,
        _ => 14,
    }
}

/// Label of an IPv6 address in Linux's default policy table (ip-addrlabel(8), RFC 6724 section 2.1).
fn label(ip: Ip) -> u8 {
    let [a, b, c, d, ..] = ip.0;
    match (a, b, c, d) {
        _ if ip.is_loopback() => 0,
        (0x20, 0x02, _, _) => 2,
        (0x20, 0x01, 0, 0) => 6,
        (0x20, 0x01, 0, d) if d & 0xf0 == 0x10 => 7,
        (first, ..) if first & 0xfe == 0xfc => 5,
        (0, 0, 0, 0) if ip.0.iter().take(12).all(|byte| *byte == 0) => 3,
        _ => 1,
    }
}
