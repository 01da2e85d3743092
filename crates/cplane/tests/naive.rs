//! The tables against a list: whatever is said in whatever order, both answer the same.

mod support;

use std::collections::BTreeMap;

use flyover_cplane::writer::{Change, Kinds, Outcome, Writer};
use flyover_cplane::{
    Dims, Hop, Link, LinkFlags, Neigh, NeighState, Policy, Reason, Resolve, Route, RouteKind, Table,
};
use flyover_wire::Ip;
use proptest::prelude::*;
use support::{ip, link, mac, memory};

const DIMS: Dims = Dims {
    links: 16,
    addrs: 16,
    routes: 256,
    neighs: 64,
};

/// What the tables should hold, as plain lists.
#[derive(Default)]
struct Naive {
    links: BTreeMap<u32, Link>,
    routes: Vec<Route>,
    neighs: BTreeMap<(u32, Ip), Neigh>,
    policy: Policy,
}

type RouteId = (Table, Ip, u8, u32, RouteKind, Hop);

fn id(route: &Route) -> RouteId {
    (
        route.table,
        route.dst,
        route.dst_len,
        route.metric,
        route.kind,
        route.hop,
    )
}

impl Naive {
    fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::Link(link) => {
                self.links.insert(link.ifindex, link);
            }
            Change::DelLink { ifindex } => {
                self.links.remove(&ifindex);
                self.routes.retain(|route| route.hop.ifindex != ifindex);
                self.neighs.retain(|(on, _), _| *on != ifindex);
            }
            Change::Route(route) => {
                match self.routes.iter_mut().find(|old| id(old) == id(&route)) {
                    Some(old) => *old = route,
                    None => self.routes.push(route),
                }
            }
            Change::DelRoute(route) => self.routes.retain(|old| id(old) != id(&route)),
            Change::Neigh(neigh) => {
                self.neighs.insert((neigh.ifindex, neigh.ip), neigh);
            }
            Change::DelNeigh { ifindex, ip } => {
                self.neighs.remove(&(ifindex, ip));
            }
            Change::Policy(policy) => self.policy = policy,
            other => panic!("not generated: {other:?}"),
        }
    }

    fn resolve(&self, dst: Ip, oif: u32) -> Resolve {
        if if dst.is_v4() {
            self.policy.v4
        } else {
            self.policy.v6
        } {
            return Resolve::Unreachable(Reason::PolicyRouting);
        }
        let mut down = false;
        for table in Table::ALL {
            let mut matching: Vec<(usize, &Route)> = self.routes.iter().enumerate().collect();
            matching.retain(|(_, route)| {
                let bits = u32::from(route.dst_len) + if route.dst.is_v4() { 96 } else { 0 };
                let differ = u128::from_be_bytes(dst.0) ^ u128::from_be_bytes(route.dst.0);
                let linkless = matches!(route.kind, RouteKind::Reject | RouteKind::Throw);
                route.table == table
                    && route.dst.is_v4() == dst.is_v4()
                    && (oif == 0 || linkless || route.hop.ifindex == oif)
                    && differ.leading_zeros() >= bits
            });
            let is_up = |route: &Route| {
                self.links
                    .get(&route.hop.ifindex)
                    .is_some_and(|link| link.up)
            };
            let set_up = |route: &Route| {
                let link = self.links.get(&route.hop.ifindex);
                matches!(route.kind, RouteKind::Reject | RouteKind::Throw)
                    || link.is_some_and(|link| link.flags.contains(LinkFlags::ADMIN_UP))
            };
            let some = !matching.is_empty();
            matching.retain(|(_, route)| set_up(route));
            matching.sort_by_key(|(position, route)| {
                let linkless = matches!(route.kind, RouteKind::Reject | RouteKind::Throw);
                (
                    128 - route.dst_len,
                    route.metric,
                    !linkless && !is_up(route),
                    *position,
                )
            });
            let Some((_, best)) = matching.first() else {
                down |= some;
                continue;
            };
            match best.kind {
                RouteKind::Throw => continue,
                RouteKind::Local | RouteKind::Anycast => return Resolve::Local,
                RouteKind::Broadcast => return Resolve::Unreachable(Reason::Broadcast),
                RouteKind::Reject => return Resolve::Unreachable(Reason::Rejected),
                RouteKind::Special => return Resolve::Unreachable(Reason::PolicyRouting),
                RouteKind::Unicast | RouteKind::Multicast => return self.out(dst, best),
            }
        }
        Resolve::Unreachable(if down {
            Reason::NotReady
        } else {
            Reason::NoRoute
        })
    }

    fn out(&self, dst: Ip, route: &Route) -> Resolve {
        let link = self.links[&route.hop.ifindex];
        if !link.up {
            return Resolve::Unreachable(Reason::NotReady);
        }
        let nexthop = route.hop.gateway.unwrap_or(dst);
        let Some(src) = route.prefsrc else {
            return Resolve::Unreachable(Reason::NoSource);
        };
        let mtu = if route.mtu == 0 {
            link.mtu
        } else {
            link.mtu.min(route.mtu)
        };
        match self
            .neighs
            .get(&(link.ifindex, nexthop))
            .filter(|neigh| neigh.state.is_usable())
        {
            Some(neigh) => Resolve::Ready(flyover_cplane::Fwd {
                ifindex: link.ifindex,
                src,
                nexthop,
                smac: link.mac,
                dmac: neigh.mac,
                mtu,
                vlan: 0,
                row: 0,
                version: 0,
            }),
            None => Resolve::NeedNeigh {
                ifindex: link.ifindex,
                nexthop,
                src,
                mtu,
            },
        }
    }
}

/// Few distinct addresses, so that prefixes nest and neighbours meet.
fn address() -> impl Strategy<Value = Ip> {
    prop_oneof![
        (0..4_u8, 0..4_u8).prop_map(|(c, d)| Ip::v4([10, 0, c * 64, d * 64])),
        (0..4_u8, 0..4_u8).prop_map(|(c, d)| ip(&format!("2001:db8:{c}::{d}"))),
    ]
}

fn a_route() -> impl Strategy<Value = Route> {
    let kind = prop_oneof![
        8 => Just(RouteKind::Unicast),
        1 => Just(RouteKind::Reject),
        1 => Just(RouteKind::Throw),
        1 => Just(RouteKind::Local),
        1 => Just(RouteKind::Broadcast),
        1 => Just(RouteKind::Special),
    ];
    let table =
        prop_oneof![1 => Just(Table::Local), 6 => Just(Table::Main), 1 => Just(Table::Default)];
    let mtu = prop_oneof![Just(0), Just(1280), Just(9000)];
    let len = prop_oneof![
        Just(0),
        Just(8),
        Just(16),
        Just(17),
        Just(24),
        Just(26),
        Just(32),
        Just(48),
        Just(128)
    ];
    (
        address(),
        len,
        table,
        kind,
        0..3_u32,
        mtu,
        2..6_u32,
        proptest::option::of(address()),
    )
        .prop_map(|(dst, len, table, kind, metric, mtu, ifindex, gateway)| {
            let v4 = dst.is_v4();
            let len: u8 = if v4 { len.min(32) } else { len };
            let src = if v4 {
                ip("10.9.9.9")
            } else {
                ip("2001:db8::9")
            };
            let base = Route::unicast(dst, len, ifindex);
            Route {
                table,
                kind,
                metric,
                mtu,
                prefsrc: Some(src),
                hop: Hop {
                    ifindex,
                    gateway: gateway.filter(|gateway| gateway.is_v4() == v4),
                },
                ..base
            }
        })
}

fn a_link() -> impl Strategy<Value = Link> {
    (2..6_u32, any::<bool>(), any::<bool>(), 1..9_u8).prop_map(|(ifindex, admin, carrier, last)| {
        Link {
            up: admin && carrier,
            mac: mac(last),
            flags: if admin {
                LinkFlags::ETHER.with(LinkFlags::ADMIN_UP)
            } else {
                LinkFlags::ETHER
            },
            ..link(ifindex)
        }
    })
}

fn a_neigh() -> impl Strategy<Value = Neigh> {
    let state = prop_oneof![
        Just(NeighState::Reachable),
        Just(NeighState::Stale),
        Just(NeighState::Failed),
        Just(NeighState::Incomplete)
    ];
    (2..6_u32, address(), 1..4_u8, state).prop_map(|(ifindex, ip, last, state)| Neigh {
        ifindex,
        ip,
        mac: mac(last),
        state,
    })
}

fn a_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        12 => a_route().prop_map(Change::Route),
        4 => a_route().prop_map(Change::DelRoute),
        6 => a_link().prop_map(Change::Link),
        1 => (2..6_u32).prop_map(|ifindex| Change::DelLink { ifindex }),
        10 => a_neigh().prop_map(Change::Neigh),
        3 => a_neigh().prop_map(|neigh| Change::DelNeigh { ifindex: neigh.ifindex, ip: neigh.ip }),
        1 => (0..8_u8).prop_map(|bits| Change::Policy(Policy { v4: bits == 0, v6: bits == 1 })),
    ]
}

fn without_version(answer: Resolve) -> Resolve {
    match answer {
        Resolve::Ready(fwd) => Resolve::Ready(flyover_cplane::Fwd {
            row: 0,
            version: 0,
            ..fwd
        }),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Same answers as the list after every change; and no answer that was given before is still
    /// called valid when it is no longer right.
    #[test]
    fn same_as_a_list(
        changes in proptest::collection::vec(a_change(), 1..120),
        questions in proptest::collection::vec((address(), prop_oneof![3 => Just(0), 1 => 2..6_u32]), 6),
        seed in any::<u64>(),
    ) {
        let memory = memory(&DIMS);
        let mut writer = Writer::new(memory.region(), &DIMS, seed).unwrap();
        let reader = writer.reader();
        let mut naive = Naive::default();
        let mut cached = Vec::new();
        for ifindex in 2..6 {
            let change = Change::Link(link(ifindex));
            naive.apply(&change);
            writer.apply(change);
        }
        for change in &changes {
            naive.apply(change);
            prop_assert_ne!(writer.apply(change.clone()), Outcome::Full);
            for (dst, oif) in &questions {
                let answer = reader.resolve(*dst, None, *oif);
                prop_assert_eq!(without_version(answer), naive.resolve(*dst, *oif), "{} oif {}", dst, oif);
                if let Resolve::Ready(fwd) = answer {
                    prop_assert!(reader.is_valid(&fwd));
                    cached.push((*dst, *oif, fwd));
                }
            }
            cached.retain(|(_, _, fwd)| reader.is_valid(fwd));
            for (dst, oif, fwd) in &cached {
                let now = naive.resolve(*dst, *oif);
                prop_assert_eq!(without_version(Resolve::Ready(*fwd)), now, "stale but valid");
            }
        }
        prop_assert_eq!(reader.routes().count(), naive.routes.len());
        prop_assert_eq!(reader.links().count(), naive.links.len());
        prop_assert_eq!(reader.neighs().count(), naive.neighs.len());

        // Whatever was there before, a full list leaves exactly what it names.
        writer.apply(Change::ResyncBegin(Kinds::ALL));
        let listed = [Change::Link(link(2)), Change::Route(support::route(2, "10.0.0.0/24"))];
        for change in &listed {
            writer.apply(change.clone());
        }
        writer.apply(Change::ResyncEnd(Kinds::ALL));
        prop_assert_eq!(reader.routes().collect::<Vec<_>>(), [support::route(2, "10.0.0.0/24")]);
        prop_assert_eq!(reader.links().collect::<Vec<_>>(), [link(2)]);
        prop_assert_eq!(reader.neighs().count(), 0);
        prop_assert!(cached.iter().all(|(_, _, fwd)| !reader.is_valid(fwd)));
    }
}
