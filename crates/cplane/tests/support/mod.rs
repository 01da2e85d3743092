//! A small network to ask questions about, and short ways to write its parts down.
#![allow(dead_code)]

use flyover_cplane::writer::{Change, Outcome, Writer};
use flyover_cplane::{
    Addr, AddrFlags, Dims, Fwd, Hop, Link, LinkFlags, LinkKind, LinkName, Neigh, NeighState,
    Reader, Resolve, Route, RouteKind, Scope, Table,
};
use flyover_shm::HeapMap;
use flyover_wire::{Ip, Mac};

pub const DIMS: Dims = Dims {
    links: 16,
    addrs: 32,
    routes: 64,
    neighs: 32,
};

pub fn memory(dims: &Dims) -> HeapMap {
    HeapMap::new(dims.len().unwrap())
}

pub fn ip(text: &str) -> Ip {
    text.parse().unwrap()
}

pub fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

pub fn link(ifindex: u32) -> Link {
    Link {
        ifindex,
        mac: mac(ifindex as u8),
        mtu: 1500,
        up: true,
        kind: LinkKind::Veth,
        flags: LinkFlags::ETHER.with(LinkFlags::ADMIN_UP),
        master: 0,
        lower: 0,
        name: LinkName::new(&format!("eth{ifindex}")),
    }
}

pub fn lo() -> Link {
    Link {
        mac: Mac::ZERO,
        mtu: 65536,
        kind: LinkKind::Loopback,
        flags: LinkFlags::LOOPBACK.with(LinkFlags::ADMIN_UP),
        name: LinkName::new("lo"),
        ..link(1)
    }
}

pub fn addr(ifindex: u32, text: &str) -> Addr {
    let (local, len) = text.split_once('/').unwrap();
    Addr {
        ifindex,
        ip: ip(local),
        peer: ip(local),
        prefix_len: len.parse().unwrap(),
        scope: if ip(local).is_v6_link_local() {
            Scope::LINK
        } else {
            Scope::UNIVERSE
        },
        flags: AddrFlags::empty(),
    }
}

pub fn route(ifindex: u32, text: &str) -> Route {
    let (dst, len) = text.split_once('/').unwrap();
    Route::unicast(ip(dst), len.parse().unwrap(), ifindex)
}

pub fn via(ifindex: u32, text: &str, gateway: &str) -> Route {
    Route {
        hop: Hop {
            ifindex,
            gateway: Some(ip(gateway)),
        },
        scope: Scope::UNIVERSE,
        ..route(ifindex, text)
    }
}

pub fn local(ifindex: u32, text: &str) -> Route {
    Route {
        table: Table::Local,
        kind: RouteKind::Local,
        scope: Scope::HOST,
        ..route(ifindex, text)
    }
}

pub fn neigh(ifindex: u32, text: &str, last: u8) -> Neigh {
    Neigh {
        ifindex,
        ip: ip(text),
        mac: mac(last),
        state: NeighState::Reachable,
    }
}

/// Two links; 10.0.1.1/24 and 2001:db8:1::1/64 on eth2, 10.0.2.1/24 on eth3; default routers on
/// eth2; one neighbour on each.
pub fn network(writer: &mut Writer<'_>) {
    let changes = [
        Change::Link(lo()),
        Change::Link(link(2)),
        Change::Link(link(3)),
        Change::Addr(Addr {
            scope: Scope::HOST,
            ..addr(1, "127.0.0.1/8")
        }),
        Change::Addr(addr(2, "10.0.1.1/24")),
        Change::Addr(addr(3, "10.0.2.1/24")),
        Change::Addr(addr(2, "2001:db8:1::1/64")),
        Change::Addr(addr(2, "fe80::2/64")),
        Change::Route(local(1, "127.0.0.0/8")),
        Change::Route(local(2, "10.0.1.1/32")),
        Change::Route(local(3, "10.0.2.1/32")),
        Change::Route(local(2, "2001:db8:1::1/128")),
        Change::Route(Route {
            kind: RouteKind::Broadcast,
            scope: Scope::LINK,
            ..local(2, "10.0.1.255/32")
        }),
        Change::Route(Route {
            prefsrc: Some(ip("10.0.1.1")),
            ..route(2, "10.0.1.0/24")
        }),
        Change::Route(Route {
            prefsrc: Some(ip("10.0.2.1")),
            ..route(3, "10.0.2.0/24")
        }),
        Change::Route(Route {
            metric: 256,
            ..route(2, "2001:db8:1::/64")
        }),
        Change::Route(Route {
            metric: 256,
            ..route(2, "fe80::/64")
        }),
        Change::Route(via(2, "0.0.0.0/0", "10.0.1.254")),
        Change::Route(Route {
            metric: 1024,
            ..via(2, "::/0", "fe80::1")
        }),
        Change::Neigh(neigh(2, "10.0.1.254", 0x11)),
        Change::Neigh(neigh(2, "10.0.1.7", 0x17)),
        Change::Neigh(neigh(3, "10.0.2.7", 0x27)),
        Change::Neigh(neigh(2, "fe80::1", 0x61)),
    ];
    for change in changes {
        assert_eq!(writer.apply(change.clone()), Outcome::Changed, "{change:?}");
    }
}

#[track_caller]
pub fn ready(reader: &Reader<'_>, dst: &str) -> Fwd {
    match reader.resolve(ip(dst), None, 0) {
        Resolve::Ready(fwd) => fwd,
        other => panic!("{dst}: {other:?}"),
    }
}
