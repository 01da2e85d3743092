//! Questions to a reader, one behaviour each.

mod support;

use flyover_cplane::writer::{Change, Outcome, Writer};
use flyover_cplane::{
    Addr, AddrFlags, Hop, Link, LinkFlags, Neigh, NeighState, Policy, Reason, Resolve, Route,
    RouteKind, Scope, Table,
};
use flyover_wire::Mac;
use support::*;

fn with_network(test: impl FnOnce(&mut Writer<'_>)) {
    let memory = memory(&DIMS);
    let mut writer = Writer::new(memory.region(), &DIMS, 0x1234_5678_9abc_def0).unwrap();
    network(&mut writer);
    test(&mut writer);
}

fn unreachable(reason: Reason) -> Resolve {
    Resolve::Unreachable(reason)
}

#[test]
fn on_link() {
    with_network(|writer| {
        let reader = writer.reader();
        let fwd = ready(&reader, "10.0.1.7");
        assert_eq!(
            (fwd.ifindex, fwd.src, fwd.nexthop),
            (2, ip("10.0.1.1"), ip("10.0.1.7"))
        );
        assert_eq!((fwd.smac, fwd.dmac), (mac(2), mac(0x17)));
        assert_eq!((fwd.mtu, fwd.vlan), (1500, 0));
        assert!(reader.is_valid(&fwd));
        assert_eq!(ready(&reader, "10.0.2.7").ifindex, 3);
    });
}

#[test]
fn through_a_gateway() {
    with_network(|writer| {
        let fwd = ready(&writer.reader(), "192.0.2.9");
        assert_eq!(
            (fwd.nexthop, fwd.dmac, fwd.src),
            (ip("10.0.1.254"), mac(0x11), ip("10.0.1.1"))
        );
        let fwd = ready(&writer.reader(), "2001:db8:ffff::9");
        assert_eq!((fwd.nexthop, fwd.dmac), (ip("fe80::1"), mac(0x61)));
        assert_eq!(fwd.src, ip("2001:db8:1::1"));
    });
}

#[test]
fn ipv4_through_an_ipv6_gateway() {
    with_network(|writer| {
        writer.apply(Change::Route(via(2, "198.51.100.0/24", "fe80::1")));
        let fwd = ready(&writer.reader(), "198.51.100.1");
        assert_eq!(
            (fwd.nexthop, fwd.dmac, fwd.src),
            (ip("fe80::1"), mac(0x61), ip("10.0.1.1"))
        );
    });
}

#[test]
fn own_addresses_are_local() {
    with_network(|writer| {
        let reader = writer.reader();
        for own in [
            "10.0.1.1",
            "10.0.2.1",
            "127.3.4.5",
            "2001:db8:1::1",
            "0.0.0.0",
            "::",
        ] {
            assert_eq!(reader.resolve(ip(own), None, 0), Resolve::Local, "{own}");
        }
        assert!(reader.is_local(ip("127.0.0.2")) && reader.is_local(ip("10.0.2.1")));
        assert!(!reader.is_local(ip("10.0.1.7")) && !reader.is_local(ip("10.0.1.255")));
        assert_eq!(reader.source_for(ip("10.0.1.1"), 0), Some(ip("10.0.1.1")));
    });
}

#[test]
fn broadcast_and_multicast_are_the_kernels() {
    with_network(|writer| {
        let reader = writer.reader();
        for all in ["10.0.1.255", "255.255.255.255"] {
            assert_eq!(
                reader.resolve(ip(all), None, 0),
                unreachable(Reason::Broadcast)
            );
        }
        assert_eq!(
            reader.resolve(ip("239.1.2.3"), None, 0),
            unreachable(Reason::Multicast)
        );
        assert_eq!(
            reader.resolve(ip("ff02::1"), None, 2),
            unreachable(Reason::Multicast)
        );
    });
}

#[test]
fn multicast_on_request() {
    with_network(|writer| {
        let reader = writer.reader();
        let ask = |dst: &str, src: Option<&str>, oif| match reader.resolve_multicast(
            ip(dst),
            src.map(ip),
            oif,
        ) {
            Resolve::Ready(fwd) => Ok((fwd.ifindex, fwd.dmac, fwd.src)),
            other => Err(other),
        };
        let group = Mac([1, 0, 0x5e, 1, 2, 3]);
        assert_eq!(ask("239.129.2.3", None, 0), Ok((2, group, ip("10.0.1.1"))));
        assert_eq!(ask("239.129.2.3", None, 3), Ok((3, group, ip("10.0.2.1"))));
        assert_eq!(
            ask("239.129.2.3", Some("10.0.2.1"), 0),
            Ok((3, group, ip("10.0.2.1")))
        );
        let group = Mac([0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(ask("ff02::1", None, 2), Ok((2, group, ip("fe80::2"))));
        assert_eq!(
            ask("ff02::1", None, 0),
            Err(unreachable(Reason::ScopeMissing))
        );
    });
}

#[test]
fn longest_prefix_then_metric() {
    with_network(|writer| {
        writer.apply(Change::Route(Route {
            metric: 50,
            ..via(3, "192.0.2.0/24", "10.0.2.7")
        }));
        assert_eq!(ready(&writer.reader(), "192.0.2.9").ifindex, 3);
        writer.apply(Change::Route(Route {
            metric: 10,
            ..via(2, "192.0.2.0/24", "10.0.1.7")
        }));
        assert_eq!(ready(&writer.reader(), "192.0.2.9").nexthop, ip("10.0.1.7"));
        writer.apply(Change::Route(Route {
            metric: 99,
            ..via(3, "192.0.2.9/32", "10.0.2.7")
        }));
        assert_eq!(ready(&writer.reader(), "192.0.2.9").ifindex, 3);
        assert_eq!(ready(&writer.reader(), "192.0.2.8").ifindex, 2);
    });
}

#[test]
fn routes_that_refuse() {
    with_network(|writer| {
        let kind = |kind, text| Route {
            kind,
            ..route(0, text)
        };
        writer.apply(Change::Route(kind(RouteKind::Reject, "192.0.2.0/24")));
        writer.apply(Change::Route(kind(RouteKind::Throw, "198.51.100.0/24")));
        writer.apply(Change::Route(Route {
            kind: RouteKind::Special,
            ..route(2, "203.0.113.0/24")
        }));
        let reader = writer.reader();
        assert_eq!(
            reader.resolve(ip("192.0.2.1"), None, 0),
            unreachable(Reason::Rejected)
        );
        assert_eq!(
            reader.resolve(ip("198.51.100.1"), None, 0),
            unreachable(Reason::NoRoute)
        );
        assert_eq!(
            reader.resolve(ip("203.0.113.1"), None, 0),
            unreachable(Reason::PolicyRouting)
        );
        let last = Route {
            table: Table::Default,
            ..via(3, "0.0.0.0/0", "10.0.2.7")
        };
        writer.apply(Change::Route(last));
        assert_eq!(ready(&writer.reader(), "198.51.100.1").ifindex, 3);
    });
}

#[test]
fn outgoing_interface_restricts() {
    with_network(|writer| {
        let reader = writer.reader();
        assert_eq!(
            reader.resolve(ip("10.0.1.7"), None, 3),
            unreachable(Reason::NoRoute)
        );
        assert!(matches!(
            reader.resolve(ip("10.0.1.7"), None, 2),
            Resolve::Ready(_)
        ));
        assert_eq!(
            reader.resolve(ip("fe80::1"), None, 0),
            unreachable(Reason::ScopeMissing)
        );
        assert!(matches!(
            reader.resolve(ip("fe80::1"), None, 2),
            Resolve::Ready(_)
        ));
    });
}

#[test]
fn neighbours() {
    with_network(|writer| {
        let reader = writer.reader();
        let wanted = Resolve::NeedNeigh {
            ifindex: 2,
            nexthop: ip("10.0.1.8"),
            src: ip("10.0.1.1"),
            mtu: 1500,
        };
        assert_eq!(reader.resolve(ip("10.0.1.8"), None, 0), wanted);
        let before = reader.generation();
        let incomplete = Neigh {
            state: NeighState::Incomplete,
            ..neigh(2, "10.0.1.8", 0)
        };
        writer.apply(Change::Neigh(incomplete));
        assert_eq!(reader.resolve(ip("10.0.1.8"), None, 0), wanted);
        assert_ne!(reader.generation(), before);
        writer.apply(Change::Neigh(neigh(2, "10.0.1.8", 0x18)));
        assert_eq!(ready(&reader, "10.0.1.8").dmac, mac(0x18));
        assert_eq!(
            reader.neigh(2, ip("10.0.1.8")).unwrap().state,
            NeighState::Reachable
        );
        writer.apply(Change::DelNeigh {
            ifindex: 2,
            ip: ip("10.0.1.8"),
        });
        assert_eq!(reader.resolve(ip("10.0.1.8"), None, 0), wanted);
    });
}

#[test]
fn versions_move_when_they_must() {
    with_network(|writer| {
        let reader = writer.reader();
        let one = ready(&reader, "10.0.1.7");
        let other = ready(&reader, "10.0.2.7");
        for state in [
            NeighState::Stale,
            NeighState::Delay,
            NeighState::Probe,
            NeighState::Reachable,
        ] {
            let outcome = writer.apply(Change::Neigh(Neigh {
                state,
                ..neigh(2, "10.0.1.7", 0x17)
            }));
            assert_eq!(outcome, Outcome::Changed);
            assert!(reader.is_valid(&one), "{state:?}");
        }
        writer.apply(Change::Neigh(neigh(2, "10.0.1.7", 0x99)));
        assert!(!reader.is_valid(&one) && reader.is_valid(&other));
        assert_eq!(ready(&reader, "10.0.1.7").dmac, mac(0x99));

        let one = ready(&reader, "10.0.1.7");
        writer.apply(Change::Neigh(Neigh {
            state: NeighState::Failed,
            ..neigh(2, "10.0.1.7", 0x99)
        }));
        assert!(!reader.is_valid(&one));
        writer.apply(Change::Neigh(neigh(2, "10.0.1.7", 0x99)));

        let all = |change: Change, writer: &mut Writer<'_>| {
            let (one, other) = (ready(&reader, "10.0.1.7"), ready(&reader, "10.0.2.7"));
            assert_eq!(writer.apply(change.clone()), Outcome::Changed);
            assert!(
                !reader.is_valid(&one) && !reader.is_valid(&other),
                "{change:?}"
            );
        };
        all(Change::Route(route(3, "172.16.0.0/12")), writer);
        all(Change::DelRoute(route(3, "172.16.0.0/12")), writer);
        all(Change::Addr(addr(3, "10.0.9.1/24")), writer);
        all(Change::DelAddr(addr(3, "10.0.9.1/24")), writer);
        all(
            Change::Link(Link {
                mtu: 1400,
                ..link(2)
            }),
            writer,
        );
        assert_eq!(ready(&reader, "10.0.1.7").mtu, 1400);
        all(
            Change::Link(Link {
                mac: mac(0x77),
                mtu: 1400,
                ..link(2)
            }),
            writer,
        );
        assert_eq!(ready(&reader, "10.0.1.7").smac, mac(0x77));
        all(Change::Link(link(9)), writer);

        let one = ready(&reader, "10.0.1.7");
        assert_eq!(
            writer.apply(Change::Addr(addr(3, "10.0.2.1/24"))),
            Outcome::Unchanged
        );
        assert_eq!(writer.apply(Change::Link(link(3))), Outcome::Unchanged);
        assert!(reader.is_valid(&one));
    });
}

#[test]
fn links_down_and_gone() {
    with_network(|writer| {
        let reader = writer.reader();
        let no_carrier = Link {
            up: false,
            ..link(2)
        };
        writer.apply(Change::Link(no_carrier));
        assert_eq!(
            reader.resolve(ip("10.0.1.7"), None, 0),
            unreachable(Reason::NotReady)
        );
        let set_down = Link {
            flags: LinkFlags::ETHER,
            ..no_carrier
        };
        writer.apply(Change::Link(set_down));
        assert_eq!(
            reader.resolve(ip("10.0.1.7"), None, 0),
            unreachable(Reason::NotReady)
        );
        writer.apply(Change::Route(via(3, "10.0.0.0/8", "10.0.2.7")));
        assert_eq!(
            ready(&reader, "10.0.1.7").ifindex,
            3,
            "the next best route takes over"
        );
        writer.apply(Change::Link(link(2)));
        assert_eq!(ready(&reader, "10.0.1.7").ifindex, 2);
        writer.apply(Change::DelLink { ifindex: 2 });
        assert!(reader.link(2).is_none());
        assert!(reader.routes().all(|route| route.hop.ifindex != 2));
        assert!(reader.addrs().all(|addr| addr.ifindex != 2));
        assert!(reader.neighs().all(|neigh| neigh.ifindex != 2));
        assert_eq!(ready(&reader, "10.0.1.7").ifindex, 3);
        assert_eq!(
            reader.resolve(ip("2001:db8::1"), None, 0),
            unreachable(Reason::NoRoute)
        );
    });
}

#[test]
fn multipath_takes_a_usable_hop() {
    with_network(|writer| {
        let hops = vec![
            via(3, "192.0.2.0/24", "10.0.2.7"),
            via(2, "192.0.2.0/24", "10.0.1.7"),
        ];
        writer.apply(Change::ReplaceRoutes(hops.clone()));
        let reader = writer.reader();
        assert_eq!(ready(&reader, "192.0.2.1").ifindex, 3);
        writer.apply(Change::Link(Link {
            up: false,
            ..link(3)
        }));
        assert_eq!(ready(&reader, "192.0.2.1").ifindex, 2);
        writer.apply(Change::ReplaceRoutes(vec![hops[0]]));
        assert_eq!(
            reader.resolve(ip("192.0.2.1"), None, 0),
            unreachable(Reason::NotReady)
        );
        let of_net = |route: &Route| route.dst == ip("192.0.2.0");
        assert_eq!(reader.routes().filter(of_net).count(), 1);
    });
}

#[test]
fn mtu_of_the_route_or_the_link() {
    with_network(|writer| {
        writer.apply(Change::Route(Route {
            mtu: 1300,
            ..via(2, "192.0.2.0/24", "10.0.1.7")
        }));
        writer.apply(Change::Route(Route {
            mtu: 9000,
            ..via(2, "192.0.3.0/24", "10.0.1.7")
        }));
        assert_eq!(ready(&writer.reader(), "192.0.2.1").mtu, 1300);
        assert_eq!(ready(&writer.reader(), "192.0.3.1").mtu, 1500);
    });
}

#[test]
fn policy_rules_and_overflow_leave_it_to_the_kernel() {
    with_network(|writer| {
        let reader = writer.reader();
        let one = ready(&reader, "10.0.1.7");
        writer.apply(Change::Policy(Policy {
            v4: true,
            v6: false,
        }));
        assert!(!reader.is_valid(&one));
        assert_eq!(
            reader.resolve(ip("10.0.1.7"), None, 0),
            unreachable(Reason::PolicyRouting)
        );
        assert!(matches!(
            reader.resolve(ip("2001:db8::1"), None, 0),
            Resolve::Ready(_)
        ));
        assert!(reader.is_local(ip("10.0.1.1")));
        writer.apply(Change::Policy(Policy::default()));

        let more = (0..64).map(|i| route(2, &format!("172.16.{i}.0/24")));
        let outcomes: Vec<_> = more
            .map(|route| writer.apply(Change::Route(route)))
            .collect();
        assert_eq!(outcomes.last(), Some(&Outcome::Full));
        assert_eq!(
            reader.resolve(ip("10.0.1.7"), None, 0),
            unreachable(Reason::TableFull)
        );
        assert!(reader.status().full && reader.status().overflows > 0);
    });
}

#[test]
fn resync_forgets_what_is_not_listed() {
    use flyover_cplane::writer::Kinds;
    with_network(|writer| {
        let reader = writer.reader();
        for i in 0..64 {
            writer.apply(Change::Route(route(2, &format!("172.16.{i}.0/24"))));
        }
        let keep: Vec<_> = reader
            .routes()
            .filter(|route| route.dst != ip("10.0.2.0"))
            .collect();
        let keep: Vec<_> = keep
            .into_iter()
            .filter(|route| route.dst.0[12] != 172)
            .collect();
        // Two rounds: in the first, what is to be forgotten still fills the table.
        for _ in 0..2 {
            writer.apply(Change::ResyncBegin(Kinds::ROUTES));
            for route in &keep {
                assert_eq!(writer.apply(Change::Route(*route)), Outcome::Unchanged);
            }
            writer.apply(Change::ResyncEnd(Kinds::ROUTES));
        }
        assert_eq!(reader.routes().count(), keep.len());
        assert!(!reader.status().full);
        assert_eq!(reader.status().resyncs, 2);
        assert_eq!(ready(&reader, "10.0.1.7").dmac, mac(0x17));
        assert_eq!(ready(&reader, "10.0.2.7").nexthop, ip("10.0.1.254"));
        assert_eq!((reader.links().count(), reader.neighs().count()), (3, 4));

        let one = ready(&reader, "10.0.1.7");
        writer.apply(Change::ResyncBegin(Kinds::ALL));
        for change in reader.links().map(Change::Link).collect::<Vec<_>>() {
            writer.apply(change);
        }
        for change in reader.routes().map(Change::Route).collect::<Vec<_>>() {
            writer.apply(change);
        }
        for change in reader.addrs().map(Change::Addr).collect::<Vec<_>>() {
            writer.apply(change);
        }
        for change in reader.neighs().map(Change::Neigh).collect::<Vec<_>>() {
            writer.apply(change);
        }
        assert_eq!(
            writer.apply(Change::ResyncEnd(Kinds::ALL)),
            Outcome::Unchanged
        );
        assert!(
            reader.is_valid(&one),
            "nothing changed, so no version moved"
        );
    });
}

#[test]
fn source_of_ipv4() {
    with_network(|writer| {
        let second = Addr {
            flags: AddrFlags::SECONDARY,
            ..addr(2, "10.0.1.2/24")
        };
        writer.apply(Change::Addr(second));
        writer.apply(Change::Addr(addr(2, "10.0.4.1/24")));
        writer.apply(Change::Route(via(2, "192.0.2.0/24", "10.0.4.9")));
        writer.apply(Change::Route(route(2, "192.0.3.0/24")));
        let reader = writer.reader();
        let src = |dst| reader.source_for(ip(dst), 0).unwrap();
        assert_eq!(src("192.0.2.1"), ip("10.0.4.1"), "on the gateway's subnet");
        assert_eq!(src("192.0.3.1"), ip("10.0.1.1"), "the first");
        assert_eq!(reader.source_for(ip("192.0.2.1"), 3), None);
        let given = reader.resolve(ip("192.0.3.1"), Some(ip("10.0.2.1")), 0);
        assert!(matches!(given, Resolve::NeedNeigh { src, .. } if src == ip("10.0.2.1")));
        // The first goes; the secondary one is promoted and is behind the other primary one.
        writer.apply(Change::DelAddr(addr(2, "10.0.1.1/24")));
        writer.apply(Change::Addr(addr(2, "10.0.1.2/24")));
        assert_eq!(reader.source_for(ip("192.0.3.1"), 0), Some(ip("10.0.4.1")));
        // A link of near scope serves on-link routes only; the host scope of lo serves none.
        writer.apply(Change::DelAddr(addr(2, "10.0.4.1/24")));
        writer.apply(Change::DelAddr(addr(2, "10.0.1.2/24")));
        writer.apply(Change::Addr(Addr {
            scope: Scope::LINK,
            ..addr(2, "169.254.0.1/16")
        }));
        assert_eq!(
            reader.source_for(ip("192.0.3.1"), 0),
            Some(ip("169.254.0.1"))
        );
        assert_eq!(reader.source_for(ip("192.0.2.1"), 0), Some(ip("10.0.2.1")));
        writer.apply(Change::DelAddr(addr(3, "10.0.2.1/24")));
        let none = reader.resolve(ip("192.0.2.1"), None, 0);
        assert_eq!(none, unreachable(Reason::NoSource));
    });
}

#[test]
fn source_of_ipv6() {
    with_network(|writer| {
        let reader = writer.reader();
        let src = |dst: &str, oif| reader.source_for(ip(dst), oif).unwrap();
        assert_eq!(src("fe80::9", 2), ip("fe80::2"));
        writer.apply(Change::Addr(addr(2, "fd00:1::1/64")));
        writer.apply(Change::Route(Route {
            metric: 256,
            ..route(2, "fd00:1::/64")
        }));
        assert_eq!(src("fd00:1::9", 0), ip("fd00:1::1"), "same label");
        assert_eq!(src("2001:db8:2::9", 0), ip("2001:db8:1::1"));
        writer.apply(Change::DelAddr(addr(2, "fd00:1::1/64")));
        writer.apply(Change::Addr(addr(2, "2001:db8:1::2:2/64")));
        assert_eq!(
            src("2001:db8:1::2:9", 0),
            ip("2001:db8:1::1"),
            "bits beyond the prefix do not count"
        );
        let gone = Addr {
            flags: AddrFlags::DEPRECATED,
            ..addr(2, "2001:db8:1::1/64")
        };
        writer.apply(Change::Addr(gone));
        assert_eq!(src("2001:db8:1::9", 0), ip("2001:db8:1::2:2"));
        let new = Addr {
            flags: AddrFlags::TENTATIVE,
            ..addr(2, "2001:db8:1::2:2/64")
        };
        writer.apply(Change::Addr(new));
        assert_eq!(
            src("2001:db8:1::9", 0),
            ip("2001:db8:1::1"),
            "better deprecated than tentative"
        );
        writer.apply(Change::Addr(addr(3, "2001:db8:7::1/64")));
        writer.apply(Change::Addr(Addr {
            flags: AddrFlags::empty(),
            ..gone
        }));
        assert_eq!(
            src("2001:db8:7::9", 0),
            ip("2001:db8:1::1"),
            "the outgoing interface's"
        );
    });
}

#[test]
fn links_that_do_not_resolve() {
    with_network(|writer| {
        let reader = writer.reader();
        let flags = LinkFlags::ETHER.with(LinkFlags::ADMIN_UP);
        writer.apply(Change::Link(Link {
            flags: flags.with(LinkFlags::NOARP),
            ..link(3)
        }));
        let fwd = ready(&reader, "10.0.2.99");
        assert_eq!((fwd.dmac, fwd.row), (mac(3), 0));
        let by_hand = Neigh {
            state: NeighState::Permanent,
            ..neigh(3, "10.0.2.99", 0x42)
        };
        writer.apply(Change::Neigh(by_hand));
        assert!(!reader.is_valid(&fwd));
        assert_eq!(ready(&reader, "10.0.2.99").dmac, mac(0x42));
        writer.apply(Change::Link(Link {
            flags: flags.with(LinkFlags::POINT_TO_POINT),
            ..link(3)
        }));
        assert_eq!(ready(&reader, "10.0.2.98").dmac, Mac::BROADCAST);
        writer.apply(Change::Link(Link {
            flags: LinkFlags::ADMIN_UP,
            ..link(3)
        }));
        assert_eq!(
            reader.resolve(ip("10.0.2.7"), None, 0),
            unreachable(Reason::NotEthernet)
        );
    });
}

#[test]
fn equal_routes_in_the_kernels_order() {
    use flyover_cplane::writer::Kinds;
    with_network(|writer| {
        let reader = writer.reader();
        let first = via(2, "192.0.2.0/24", "10.0.1.7");
        let second = Route {
            hop: Hop {
                ifindex: 3,
                gateway: Some(ip("10.0.2.7")),
            },
            ..first
        };
        writer.apply(Change::Route(first));
        writer.apply(Change::Route(second));
        assert_eq!(ready(&reader, "192.0.2.1").ifindex, 2);
        let rest: Vec<_> = reader
            .routes()
            .filter(|route| route.dst != first.dst)
            .collect();
        writer.apply(Change::ResyncBegin(Kinds::ROUTES));
        for route in rest.into_iter().chain([second, first]) {
            writer.apply(Change::Route(route));
        }
        writer.apply(Change::ResyncEnd(Kinds::ROUTES));
        assert_eq!(ready(&reader, "192.0.2.1").ifindex, 3);
    });
}
