//! What a route message means.

use flyover_cplane::{Hop, Route, RouteKind, Scope, Table};
use flyover_wire::Ip;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteLwEnCapType, RouteMessage, RouteMetric,
    RouteNextHop, RouteType, RouteVia,
};

/// Of a route with more next hops, the rest is not kept: any usable one will do.
const MOST_HOPS: usize = 8;

/// The next hops that a message is about, one route each. Empty for what is not mirrored: other
/// families and tables, cache entries.
pub(super) fn routes(message: &RouteMessage) -> Vec<Route> {
    let header = &message.header;
    let v4 = match header.address_family {
        AddressFamily::Inet => true,
        AddressFamily::Inet6 => false,
        _ => return Vec::new(),
    };
    let mut said = Said {
        table: u32::from(header.table),
        ..Said::default()
    };
    for attribute in &message.attributes {
        said.hear(attribute);
    }
    let table = Table::from_kernel(said.table).filter(|table| v4 || *table != Table::Default);
    let unspecified = if v4 {
        Ip::UNSPECIFIED_V4
    } else {
        Ip::UNSPECIFIED_V6
    };
    let dst = said.dst.unwrap_or(unspecified);
    let (Some(table), false) = (table, header.flags.contains(RouteFlags::Cloned)) else {
        return Vec::new();
    };
    if dst.is_v4() != v4 {
        return Vec::new();
    }
    let special = said.special || header.source_prefix_length != 0 || header.tos != 0;
    let kind = if special {
        RouteKind::Special
    } else {
        kind(header.kind)
    };
    if matches!(kind, RouteKind::Reject | RouteKind::Throw) {
        said.hops = vec![Hop {
            ifindex: 0,
            gateway: None,
        }];
    }
    let route = Route {
        dst,
        dst_len: header.destination_prefix_length,
        table,
        kind,
        metric: said.metric,
        scope: Scope(header.scope.into()),
        prefsrc: said.prefsrc,
        mtu: said.mtu,
        hop: said.hop,
    };
    if said.hops.is_empty() {
        // A next-hop object that the message does not spell out.
        let unknown = route.hop.ifindex == 0 && kind == RouteKind::Unicast;
        return vec![if unknown {
            Route {
                kind: RouteKind::Special,
                ..route
            }
        } else {
            route
        }];
    }
    said.hops
        .iter()
        .take(MOST_HOPS)
        .map(|hop| Route { hop: *hop, ..route })
        .collect()
}

/// What the attributes of a message say.
struct Said {
    table: u32,
    dst: Option<Ip>,
    metric: u32,
    prefsrc: Option<Ip>,
    mtu: u32,
    hop: Hop,
    hops: Vec<Hop>,
    special: bool,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            table: 0,
            dst: None,
            metric: 0,
            prefsrc: None,
            mtu: 0,
            hop: Hop {
                ifindex: 0,
                gateway: None,
            },
            hops: Vec::new(),
            special: false,
        }
    }
}

impl Said {
    fn hear(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Table(table) => self.table = *table,
            RouteAttribute::Destination(dst) => self.dst = ip(dst),
            RouteAttribute::Priority(metric) => self.metric = *metric,
            RouteAttribute::PrefSource(src) => self.prefsrc = ip(src),
            RouteAttribute::Oif(ifindex) => self.hop.ifindex = *ifindex,
            RouteAttribute::Gateway(gateway) => self.hop.gateway = ip(gateway),
            RouteAttribute::Via(via) => match via_ip(via) {
                Some(gateway) => self.hop.gateway = Some(gateway),
                None => self.special = true,
            },
            RouteAttribute::Metrics(metrics) => {
                let mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
                self.mtu = mtu.unwrap_or(0);
            }
            RouteAttribute::MultiPath(hops) => {
                self.special |= hops.iter().flat_map(|hop| &hop.attributes).any(is_special);
                self.hops = hops.iter().map(hop).collect();
            }
            other => self.special |= is_special(other),
        }
    }
}

/// Does the packet's way depend on more than its destination, or is the packet changed?
fn is_special(attribute: &RouteAttribute) -> bool {
    match attribute {
        RouteAttribute::EncapType(kind) => *kind != RouteLwEnCapType::None,
        RouteAttribute::Source(_)
        | RouteAttribute::Encap(_)
        | RouteAttribute::NewDestination(_)
        | RouteAttribute::Iif(_) => true,
        _ => false,
    }
}

fn hop(hop: &RouteNextHop) -> Hop {
    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => ip(gateway),
        RouteAttribute::Via(via) => via_ip(via),
        _ => None,
    });
    Hop {
        ifindex: hop.interface_index,
        gateway,
    }
}

fn ip(address: &RouteAddress) -> Option<Ip> {
    match address {
        RouteAddress::Inet(ip) => Some(Ip::from(*ip)),
        RouteAddress::Inet6(ip) => Some(Ip::from(*ip)),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<Ip> {
    match via {
        RouteVia::Inet(ip) => Some(Ip::from(*ip)),
        RouteVia::Inet6(ip) => Some(Ip::from(*ip)),
        _ => None,
    }
}

fn kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Anycast => RouteKind::Anycast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => RouteKind::Reject,
        RouteType::Throw => RouteKind::Throw,
        _ => RouteKind::Special,
    }
}
