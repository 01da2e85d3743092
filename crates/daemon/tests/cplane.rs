//! The control plane against the kernel: what `ip` changes, a reader sees. Needs root; each test
//! has a network namespace of its own.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use flyover_cplane::{Dims, Fwd, LinkKind, NeighState, Reader, Reason, Resolve};
use flyover_daemon::cplane::{CplaneConfig, CplaneService};
use flyover_shm::host::Map;
use flyover_wire::{Ip, Mac};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A namespace that is removed at the end, also of a failed test.
struct Space {
    name: String,
}

impl Space {
    /// One end of a veth pair, `east` 192.0.2.1/24 and 2001:db8::1/64; the other, `west`, is in the
    /// same namespace without addresses.
    fn new() -> Self {
        let name = format!("flyc{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        run(&["netns", "add", &name]);
        let space = Self { name };
        for command in [
            "link set lo up",
            "link add east address 02:00:00:00:00:01 type veth peer name west address 02:00:00:00:00:02",
            "link set east up",
            "link set west up",
            "addr add 192.0.2.1/24 dev east",
            "addr add 2001:db8::1/64 dev east nodad",
        ] {
            space.ip(command);
        }
        space
    }

    fn ip(&self, command: &str) {
        let mut args = vec!["-n", self.name.as_str()];
        args.extend(command.split(' '));
        run(&args);
    }

    fn open(&self) -> OwnedFd {
        File::open(format!("/run/netns/{}", self.name))
            .unwrap()
            .into()
    }

    fn start(&self) -> CplaneService {
        CplaneService::start(self.open()).unwrap()
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = self.open();
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            worker.join().unwrap()
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _: std::io::Result<_> = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

fn run(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(
        output.status.success(),
        "ip {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn ip(text: &str) -> Ip {
    text.parse().unwrap()
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

/// Waits until the condition holds.
#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within 5 s");
        thread::sleep(Duration::from_millis(2));
    }
}

fn ready(reader: &Reader<'_>, dst: &str) -> Option<Fwd> {
    match reader.resolve(ip(dst), None, 0) {
        Resolve::Ready(fwd) => Some(fwd),
        _ => None,
    }
}

#[track_caller]
fn must(reader: &Reader<'_>, dst: &str) -> Fwd {
    eventually(dst, || ready(reader, dst).is_some());
    ready(reader, dst).unwrap()
}

fn refused(reader: &Reader<'_>, dst: &str, reason: Reason) -> bool {
    reader.resolve(ip(dst), None, 0) == Resolve::Unreachable(reason)
}

#[test]
fn what_is_there_at_the_start() {
    let space = Space::new();
    space.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev east");
    space.ip("neigh add 2001:db8::9 lladdr 02:00:00:00:00:19 dev east");
    space.ip("route add default via 192.0.2.9");
    space.ip("-6 route add default via 2001:db8::9");
    space.ip("route add 198.51.100.0/24 via 192.0.2.9 mtu 1300");
    space.ip("route add unreachable 203.0.113.0/24");
    let service = space.start();

    // As another process sees it: a mapping of the descriptor, which must not become writable.
    let len = usize::try_from(service.len()).unwrap();
    assert!(Map::rw(service.memfd(), len).is_err());
    let map = Map::ro(service.memfd(), len).unwrap();
    let dims = Dims::from_words(&service.dims().to_words()).unwrap();
    let reader = Reader::new(map.region(), &dims).unwrap();

    let links = service.links();
    let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["lo", "west", "east"]);
    let east = links[2];
    assert_eq!(
        (east.kind, east.mac, east.mtu, east.up),
        (LinkKind::Veth, mac(1), 1500, true)
    );
    assert_eq!(
        (links[0].kind, east.lower),
        (LinkKind::Loopback, links[1].ifindex)
    );

    let fwd = ready(&reader, "192.0.2.9").unwrap();
    assert_eq!(
        (fwd.ifindex, fwd.src, fwd.nexthop),
        (east.ifindex, ip("192.0.2.1"), ip("192.0.2.9"))
    );
    assert_eq!((fwd.smac, fwd.dmac, fwd.mtu), (mac(1), mac(9), 1500));
    let fwd = ready(&reader, "8.8.8.8").unwrap();
    assert_eq!((fwd.nexthop, fwd.src), (ip("192.0.2.9"), ip("192.0.2.1")));
    assert_eq!(ready(&reader, "198.51.100.1").unwrap().mtu, 1300);
    let fwd = ready(&reader, "2001:db8:5::5").unwrap();
    assert_eq!(
        (fwd.nexthop, fwd.dmac, fwd.src),
        (ip("2001:db8::9"), mac(0x19), ip("2001:db8::1"))
    );
    assert!(refused(&reader, "203.0.113.5", Reason::Rejected));
    assert!(refused(&reader, "192.0.2.255", Reason::Broadcast));
    for own in ["192.0.2.1", "127.0.0.1", "127.1.2.3", "2001:db8::1", "::1"] {
        assert_eq!(reader.resolve(ip(own), None, 0), Resolve::Local, "{own}");
    }
    assert!(!reader.status().policy.v4 && !reader.status().policy.v6);
}

#[test]
fn changes_move_versions() {
    let space = Space::new();
    space.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev east");
    let service = space.start();
    let reader = service.reader();

    let fwd = must(&reader, "192.0.2.9");
    assert!(reader.is_valid(&fwd));
    space.ip("neigh change 192.0.2.9 lladdr 02:00:00:00:00:0a dev east");
    eventually("another MAC", || !reader.is_valid(&fwd));
    let fwd = must(&reader, "192.0.2.9");
    assert_eq!(fwd.dmac, mac(0x0a));

    space.ip("link set east mtu 1400");
    eventually("another MTU", || !reader.is_valid(&fwd));
    let fwd = must(&reader, "192.0.2.9");
    assert_eq!(fwd.mtu, 1400);

    space.ip("link set east address 02:00:00:00:00:77");
    // The kernel forgets all neighbours of the interface then, also those set by hand.
    space.ip("neigh replace 192.0.2.9 lladdr 02:00:00:00:00:0a dev east");
    eventually("another own MAC", || {
        !reader.is_valid(&fwd)
            && ready(&reader, "192.0.2.9").is_some_and(|fwd| fwd.smac == mac(0x77))
    });

    // A host route over the other end moves the destination away, and back.
    let fwd = must(&reader, "192.0.2.9");
    space.ip("addr add 198.51.100.1/24 dev west");
    space.ip("neigh add 198.51.100.7 lladdr 02:00:00:00:00:07 dev west");
    space.ip("route add 192.0.2.9/32 via 198.51.100.7");
    eventually("another route", || {
        ready(&reader, "192.0.2.9").is_some_and(|fwd| fwd.dmac == mac(7))
    });
    assert!(!reader.is_valid(&fwd));
    let fwd = must(&reader, "192.0.2.9");
    assert_eq!(
        (fwd.src, fwd.nexthop),
        (ip("198.51.100.1"), ip("198.51.100.7"))
    );
    space.ip("neigh add 198.51.100.8 lladdr 02:00:00:00:00:08 dev west");
    space.ip("route replace 192.0.2.9/32 via 198.51.100.8");
    eventually("a replaced route", || {
        ready(&reader, "192.0.2.9").is_some_and(|fwd| fwd.dmac == mac(8))
    });
    space.ip("route del 192.0.2.9/32");
    eventually("the old route", || {
        ready(&reader, "192.0.2.9").is_some_and(|fwd| fwd.dmac == mac(0x0a))
    });

    space.ip("neigh del 192.0.2.9 dev east");
    eventually("no neighbour", || ready(&reader, "192.0.2.9").is_none());
    assert!(matches!(
        reader.resolve(ip("192.0.2.9"), None, 0),
        Resolve::NeedNeigh { .. }
    ));

    // The address goes, and with it, unsaid, the routes that were made for it.
    space.ip("addr del 192.0.2.1/24 dev east");
    eventually("no address", || {
        refused(&reader, "192.0.2.9", Reason::NoRoute)
    });
    assert!(!reader.is_local(ip("192.0.2.1")));
}

#[test]
fn links_down_up_and_gone() {
    let space = Space::new();
    space.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev east");
    space.ip("route add 198.51.100.0/24 via 192.0.2.9");
    let service = space.start();
    let reader = service.reader();
    let (tell, told) = mpsc::channel();
    service.on_change(move || tell.send(()).unwrap_or(()));
    told.recv_timeout(Duration::from_secs(5))
        .expect("a call at the start");

    let fwd = must(&reader, "198.51.100.1");
    space.ip("link set west down");
    eventually("no carrier", || {
        refused(&reader, "192.0.2.9", Reason::NotReady)
    });
    assert!(!reader.is_valid(&fwd));
    told.recv_timeout(Duration::from_secs(5))
        .expect("a call about the carrier");
    space.ip("link set west up");
    assert_eq!(must(&reader, "198.51.100.1").dmac, mac(9));

    space.ip("link set east down");
    eventually("down", || ready(&reader, "192.0.2.9").is_none());
    assert!(!reader.is_local(ip("192.0.2.1")));
    // The kernel forgets the route over the gateway for good, and says nothing.
    eventually("the route is gone", || {
        reader.routes().all(|route| route.dst != ip("198.51.100.0"))
    });
    space.ip("link set east up");
    eventually("up", || {
        matches!(
            reader.resolve(ip("192.0.2.9"), None, 0),
            Resolve::Ready(_) | Resolve::NeedNeigh { .. }
        )
    });
    assert!(reader.is_local(ip("192.0.2.1")));
    eventually("without the route", || {
        refused(&reader, "198.51.100.1", Reason::NoRoute)
    });

    let ifindex = fwd.ifindex;
    space.ip("link del east");
    eventually("gone", || reader.link(ifindex).is_none());
    assert!(reader.addrs().all(|addr| addr.ifindex != ifindex));
    assert!(reader.routes().all(|route| route.hop.ifindex != ifindex));
    space.ip("link add late type veth peer name later");
    eventually("a new one", || {
        service
            .links()
            .iter()
            .any(|link| link.name.as_str() == "late")
    });
    drop(service);
    // The sender lives in the listener: it goes when the service has gone.
    let end = Instant::now() + Duration::from_secs(5);
    while told
        .recv_timeout(end.saturating_duration_since(Instant::now()))
        .is_ok()
    {}
    assert!(Instant::now() < end, "the threads end");
}

#[test]
fn rules_leave_it_to_the_kernel() {
    let space = Space::new();
    space.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev east");
    let service = space.start();
    let reader = service.reader();
    let fwd = must(&reader, "192.0.2.9");
    space.ip("rule add fwmark 7 lookup 100");
    space.ip("rule add iif west lookup 100");
    space.ip("rule add from 192.0.2.1 lookup 100");
    eventually("a rule", || {
        refused(&reader, "192.0.2.9", Reason::PolicyRouting)
    });
    assert!(!reader.is_valid(&fwd));
    assert!(!reader.status().policy.v6);
    space.ip("rule del from 192.0.2.1 lookup 100");
    assert_eq!(must(&reader, "192.0.2.9").dmac, mac(9));
    space.ip("-6 rule add to 2001:db8::/32 lookup 100");
    eventually("a rule of IPv6", || {
        refused(&reader, "2001:db8::9", Reason::PolicyRouting)
    });
    assert!(ready(&reader, "192.0.2.9").is_some());
}

#[test]
fn unusual_routes() {
    let space = Space::new();
    space.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev east");
    space.ip("neigh add 198.51.100.9 lladdr 02:00:00:00:00:0b dev west");
    space.ip("addr add 198.51.100.1/24 dev west");
    let service = space.start();
    let reader = service.reader();

    space.ip("route add 10.1.0.0/16 nexthop via 192.0.2.9 nexthop via 198.51.100.9");
    let fwd = must(&reader, "10.1.1.1");
    assert_eq!(fwd.dmac, mac(9));
    space.ip("route replace 10.1.0.0/16 nexthop via 198.51.100.9 nexthop via 192.0.2.9");
    eventually("the other order", || {
        ready(&reader, "10.1.1.1").is_some_and(|fwd| fwd.dmac == mac(0x0b))
    });
    space.ip("route del 10.1.0.0/16");
    eventually("gone", || refused(&reader, "10.1.1.1", Reason::NoRoute));

    space.ip("nexthop add id 7 via 192.0.2.9 dev east");
    space.ip("route add 10.2.0.0/16 nhid 7");
    assert_eq!(must(&reader, "10.2.1.1").dmac, mac(9));
    space.ip("nexthop replace id 7 via 198.51.100.9 dev west");
    eventually("another next hop", || {
        ready(&reader, "10.2.1.1").is_some_and(|fwd| fwd.dmac == mac(0x0b))
    });

    space.ip("route add 10.3.0.0/16 tos 0x10 via 192.0.2.9");
    eventually("by type of service", || {
        refused(&reader, "10.3.1.1", Reason::PolicyRouting)
    });
    space.ip("route add 10.4.0.0/16 via inet6 2001:db8::9 dev east");
    space.ip("neigh add 2001:db8::9 lladdr 02:00:00:00:00:19 dev east");
    assert_eq!(must(&reader, "10.4.1.1").nexthop, ip("2001:db8::9"));

    for hop in ["2001:db8::9", "2001:db8::a"] {
        space.ip(&format!("-6 route append 2001:db8:9::/48 via {hop}"));
    }
    assert_eq!(must(&reader, "2001:db8:9::1").dmac, mac(0x19));
    space.ip("-6 route del 2001:db8:9::/48 via 2001:db8::9");
    eventually("the second hop", || {
        matches!(reader.resolve(ip("2001:db8:9::1"), None, 0),
            Resolve::NeedNeigh { nexthop, .. } if nexthop == ip("2001:db8::a"))
    });
    space.ip("route add 10.5.0.0/16 via 192.0.2.9 table 100");
    space.ip("route add 10.6.0.0/16 via 192.0.2.9");
    must(&reader, "10.6.1.1");
    assert!(refused(&reader, "10.5.1.1", Reason::NoRoute));
}

/// Sources that the kernel chooses, against ours.
#[test]
fn sources_are_linuxs() {
    let space = Space::new();
    for command in [
        "addr add 192.0.2.2/24 dev east",
        "addr add 10.0.0.1/24 dev east",
        "addr add 169.254.3.3/16 dev east scope link",
        "addr add 198.51.100.1/24 dev west",
        "route add 10.7.0.0/16 via 10.0.0.9",
        "route add 10.8.0.0/16 via 192.0.2.9 src 192.0.2.2",
        "route add 10.9.0.0/16 dev east",
        "route add 10.10.0.0/16 via 198.51.100.9",
        "addr add fd00:1::1/64 dev east nodad",
        "addr add 2001:db8:1::1/64 dev west nodad",
        "-6 route add 2001:db8:7::/48 via 2001:db8::9",
        "-6 route add fd00:7::/48 via 2001:db8::9",
        "-6 route add 2001:db8:8::/48 via 2001:db8:1::9 src 2001:db8::1",
        "-6 route add 2001:db8:1:2::/64 dev east",
    ] {
        space.ip(command);
    }
    let service = space.start();
    let reader = service.reader();
    for dst in [
        "192.0.2.77",
        "10.0.0.77",
        "10.7.1.1",
        "10.8.1.1",
        "10.9.1.1",
        "10.10.1.1",
        "169.254.9.9",
        "127.0.0.9",
        "192.0.2.1",
        "2001:db8::77",
        "2001:db8:1::77",
        "2001:db8:7::1",
        "fd00:7::1",
        "fd00:1::77",
        "2001:db8:8::1",
        "2001:db8:1:2::1",
        "::1",
        "fd00:1::1",
    ] {
        let kernel = space.inside(|| {
            let any = if dst.contains(':') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(any).unwrap();
            socket
                .connect((dst.parse::<std::net::IpAddr>().unwrap(), 9))
                .unwrap();
            Ip::from(socket.local_addr().unwrap().ip())
        });
        assert_eq!(reader.source_for(ip(dst), 0), Some(kernel), "towards {dst}");
    }
}

#[test]
fn the_kernel_resolves_on_request() {
    let space = Space::new();
    let far = Space {
        name: format!("{}far", space.name),
    };
    run(&["netns", "add", &far.name]);
    space.ip(&format!("link set west netns {}", far.name));
    far.ip("link set west up");
    far.ip("addr add 192.0.2.9/24 dev west");
    far.ip("addr add 2001:db8::9/64 dev west nodad");
    let service = space.start();
    let reader = service.reader();
    eventually("up", || {
        service
            .links()
            .iter()
            .any(|link| link.name.as_str() == "east" && link.up)
    });
    let east = service
        .links()
        .iter()
        .find(|link| link.name.as_str() == "east")
        .unwrap()
        .ifindex;

    for dst in ["192.0.2.9", "2001:db8::9"] {
        assert!(
            matches!(reader.resolve(ip(dst), None, 0), Resolve::NeedNeigh { .. }),
            "{dst}"
        );
        service.resolve(east, ip(dst));
        assert_eq!(must(&reader, dst).dmac, mac(2));
    }
    // States come and go without moving the version.
    let fwd = must(&reader, "192.0.2.9");
    space.ip("neigh change 192.0.2.9 nud stale dev east");
    let state = || reader.neigh(east, ip("192.0.2.9")).map(|neigh| neigh.state);
    eventually("stale", || state() == Some(NeighState::Stale));
    assert!(reader.is_valid(&fwd));
    thread::sleep(Duration::from_millis(120));
    service.resolve(east, ip("192.0.2.9"));
    // The kernel does not tell of this state.
    let show = || {
        let args = ["-n", &space.name, "neigh", "show", "192.0.2.9"];
        let output = Command::new("ip").args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    eventually("used", || !show().contains("STALE"));
    assert!(reader.is_valid(&fwd));

    // Nobody answers; and what is no neighbour is not asked for.
    service.resolve(east, ip("192.0.2.10"));
    service.resolve(east, ip("10.9.9.9"));
    service.resolve(9999, ip("192.0.2.11"));
    eventually("failed", || {
        reader
            .neigh(east, ip("192.0.2.10"))
            .is_some_and(|neigh| neigh.state == NeighState::Failed)
    });
    assert!(matches!(
        reader.resolve(ip("192.0.2.10"), None, 0),
        Resolve::NeedNeigh { .. }
    ));
    assert!(reader.neigh(east, ip("10.9.9.9")).is_none());
}

/// Gives this thread, and those that it starts from now on, another scheduling policy.
fn schedule(policy: &str) {
    let me = gettid().as_raw_nonzero().to_string();
    let done = Command::new("chrt")
        .args([policy, "--pid", "0", &me])
        .status()
        .unwrap();
    assert!(done.success(), "chrt {policy}");
}

/// The kernel drops messages when they are not taken in time: the tables are right all the same.
#[test]
fn lost_messages() {
    // The service runs on the processor of `ip`, and only when nothing else wants to: while `ip` works, nobody reads.
    let mut one = CpuSet::new();
    let here = sched_getaffinity(None).unwrap();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| here.is_set(*cpu)).unwrap());
    sched_setaffinity(None, &one).unwrap();
    let space = Space::new();
    space.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev east");
    let config = CplaneConfig {
        exact: false,
        receive_buffer: 1,
        ..CplaneConfig::default()
    };
    schedule("--idle");
    let service = CplaneService::start_with(space.open(), config).unwrap();
    schedule("--other");
    let reader = service.reader();
    let resyncs = reader.status().resyncs;
    let count = || {
        reader
            .routes()
            .filter(|route| route.dst.0[12] == 10)
            .count()
    };
    for _ in 0..10 {
        let adds = (0..200).map(|i| format!("route add 10.{i}.0.0/16 via 192.0.2.9\n"));
        let path = std::env::temp_dir().join(&space.name);
        std::fs::write(&path, adds.collect::<String>()).unwrap();
        space.ip(&format!("-batch {}", path.display()));
        std::fs::remove_file(&path).unwrap();
        eventually("all routes", || count() == 200);
        // One system call removes many: faster than anybody could listen.
        space.ip("route flush root 10.0.0.0/8");
        eventually("no route", || count() == 0);
        assert!(ready(&reader, "192.0.2.9").is_some());
        if reader.status().resyncs > resyncs {
            return;
        }
    }
    panic!("nothing was lost");
}

#[test]
fn tables_that_are_too_small() {
    let space = Space::new();
    let dims = Dims {
        links: 16,
        addrs: 16,
        routes: 16,
        neighs: 16,
    };
    let config = CplaneConfig {
        dims,
        ..CplaneConfig::default()
    };
    let service = CplaneService::start_with(space.open(), config).unwrap();
    let reader = service.reader();
    let room = service.dims().routes;
    assert!(room > 16, "made for twice what there was");
    space.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev east");
    must(&reader, "192.0.2.9");
    for i in 0..room {
        space.ip(&format!("route add 10.{i}.0.0/16 via 192.0.2.9"));
    }
    eventually("full", || refused(&reader, "192.0.2.9", Reason::TableFull));
    assert!(reader.status().full);
    for i in 0..room {
        space.ip(&format!("route del 10.{i}.0.0/16 via 192.0.2.9"));
    }
    assert_eq!(must(&reader, "192.0.2.9").dmac, mac(9));
    assert!(!reader.status().full);
}
