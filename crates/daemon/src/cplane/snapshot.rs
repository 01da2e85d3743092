//! Full lists of what the kernel has, as changes.

use std::io;

use flyover_cplane::Policy;
use flyover_cplane::writer::{Change, Kinds};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Dumper, List};
use super::{addrs, links, neigh, routes, rules};

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];
/// Times that a list is asked for again because the tables changed meanwhile.
const TRIES: usize = 8;

/// What the kernel has, at about one moment.
pub(super) struct Snapshot {
    pub(super) changes: Vec<Change>,
    pub(super) policy: Policy,
}

impl Snapshot {
    /// Asks for the lists of these tables, and for the rules.
    pub(super) fn take(dumper: &mut Dumper, kinds: Kinds) -> io::Result<Self> {
        let mut changes = Vec::new();
        if kinds.contains(Kinds::LINKS) {
            changes.extend(list_links(dumper)?);
        }
        if kinds.contains(Kinds::ADDRS) {
            for family in FAMILIES {
                changes.extend(list_addrs(dumper, family)?);
            }
        }
        let mut gaps = false;
        if kinds.contains(Kinds::ROUTES) {
            for family in FAMILIES {
                let (found, list) = list_routes(dumper, family)?;
                changes.extend(found);
                gaps |= list == List::Gaps;
            }
        }
        if kinds.contains(Kinds::NEIGHS) {
            for family in FAMILIES {
                changes.extend(list_neighs(dumper, family)?);
            }
        }
        let [v4, v6] = FAMILIES.map(|family| list_rules(dumper, family));
        // A route that is not understood may be the best one for any destination.
        let policy = Policy {
            v4: gaps || !rules::are_plain(&v4?, true),
            v6: gaps || !rules::are_plain(&v6?, false),
        };
        Ok(Self { changes, policy })
    }

    /// Entries per table: links, addresses, routes, neighbours.
    pub(super) fn counts(&self) -> [u32; 4] {
        let mut counts = [0_u32; 4];
        for change in &self.changes {
            match change {
                Change::Link(_) => counts[0] += 1,
                Change::Addr(_) => counts[1] += 1,
                Change::Route(_) => counts[2] += 1,
                Change::Neigh(_) => counts[3] += 1,
                _ => {}
            }
        }
        counts
    }
}

/// What a message says; several changes when a route has several next hops.
pub(super) fn changes(message: &RouteNetlinkMessage) -> Vec<Change> {
    use RouteNetlinkMessage as M;
    let one = |change: Option<Change>| change.into_iter().collect();
    match message {
        M::NewLink(link) => one(links::new_link(link)),
        M::DelLink(link) => one(links::del_link(link)),
        M::NewAddress(addr) => one(addrs::addr(addr).map(Change::Addr)),
        M::DelAddress(addr) => one(addrs::addr(addr).map(Change::DelAddr)),
        M::NewRoute(route) => routes::routes(route)
            .into_iter()
            .map(Change::Route)
            .collect(),
        M::DelRoute(route) => routes::routes(route)
            .into_iter()
            .map(Change::DelRoute)
            .collect(),
        M::NewNeighbour(neigh) => one(neigh::new_neigh(neigh)),
        M::DelNeighbour(neigh) => one(neigh::del_neigh(neigh)),
        _ => Vec::new(),
    }
}

fn list_links(dumper: &mut Dumper) -> io::Result<Vec<Change>> {
    let mut request = LinkMessage::default();
    request
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    Ok(list(dumper, &RouteNetlinkMessage::GetLink(request))?.0)
}

fn list_addrs(dumper: &mut Dumper, family: AddressFamily) -> io::Result<Vec<Change>> {
    let mut request = AddressMessage::default();
    request.header.family = family;
    Ok(list(dumper, &RouteNetlinkMessage::GetAddress(request))?.0)
}

fn list_routes(dumper: &mut Dumper, family: AddressFamily) -> io::Result<(Vec<Change>, List)> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    list(dumper, &RouteNetlinkMessage::GetRoute(request))
}

fn list_neighs(dumper: &mut Dumper, family: AddressFamily) -> io::Result<Vec<Change>> {
    let mut request = NeighbourMessage::default();
    request.header.family = family;
    Ok(list(dumper, &RouteNetlinkMessage::GetNeighbour(request))?.0)
}

/// The rules of a family. One that is not understood becomes one that decides everything.
fn list_rules(dumper: &mut Dumper, family: AddressFamily) -> io::Result<Vec<RuleMessage>> {
    let mut request = RuleMessage::default();
    request.header.family = family;
    let request = RouteNetlinkMessage::GetRule(request);
    let mut rules = Vec::new();
    let list = retried(|| {
        rules.clear();
        dumper.list(&request, |message| match message {
            RouteNetlinkMessage::NewRule(rule) if rule.header.family == family => rules.push(rule),
            _ => {}
        })
    })?;
    if list == List::Gaps {
        rules.push(RuleMessage::default());
    }
    Ok(rules)
}

fn list(dumper: &mut Dumper, request: &RouteNetlinkMessage) -> io::Result<(Vec<Change>, List)> {
    let mut found = Vec::new();
    let list = retried(|| {
        found.clear();
        dumper.list(request, |message| found.extend(changes(&message)))
    })?;
    Ok((found, list))
}

fn retried<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut last = attempt();
    for _ in 1..TRIES {
        match last {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => last = attempt(),
            other => return other,
        }
    }
    last
}
