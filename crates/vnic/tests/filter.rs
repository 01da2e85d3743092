//! Flow steering: a stack gets the flows it asked for and nothing else; the kernel gets everything else and
//! does not answer for the stack; nothing stays behind.

mod net;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use flyover_vnic::PacketNic;
use flyover_vnic::host::bpf::{BpfError, Flow, FlowMaps, PASS, WATCH, XdpAttach};
use flyover_vnic::host::{PacketConfig, attach_filter, interface};
use flyover_wire::{Endpoint, Ip, L4, TcpFlags};
use net::{End, Net, State, at, inside, is_root, one_at_a_time, receive, run, tcp_flow};

/// The stack's port, an open port and a closed port of the kernel, all in `b`.
const OURS: u16 = 8001;
const OPEN: u16 = 8002;
const CLOSED: u16 = 8003;

/// What a kernel client in `a` gets from a port of `b`.
fn connect(net: &Net, to: &str, port: u16) -> Result<(), ErrorKind> {
    inside(&net.a, || {
        let to = SocketAddr::new(to.parse().unwrap(), port);
        TcpStream::connect_timeout(&to, Duration::from_millis(300))
            .map(drop)
            .map_err(|e| e.kind())
    })
}

/// The kernel of `b` is as ever for everything that is not the stack's.
fn kernel_is_undisturbed(net: &Net) {
    let listener = inside(&net.b, || TcpListener::bind(("::", OPEN)).unwrap());
    for to in ["10.77.0.2", "fd77::2"] {
        assert_eq!(connect(net, to, OPEN), Ok(()));
        assert_eq!(connect(net, to, CLOSED), Err(ErrorKind::ConnectionRefused));
        let ping = run(&format!(
            "ip netns exec {} ping -c 2 -i 0.1 -W 1 {to}",
            net.a
        ));
        assert!(ping.status.success(), "ping {to}");
    }
    drop(listener);
}

fn is_syn(bytes: &[u8], port: u16) -> bool {
    let parsed = flyover_wire::frame::parse(bytes, bytes.len()).unwrap();
    let L4::Tcp(tcp) = parsed.l4 else {
        return false;
    };
    tcp.flags.has(TcpFlags::SYN) && tcp.dst_port == port
}

#[test]
fn a_packet_stack_takes_its_flows_and_no_more() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let (net, state) = (Net::new(), State::new());
    let mut b = inside(&net.b, || {
        End::packet(&state, &[tcp_flow(2, OURS)], &PacketConfig::default())
    });
    kernel_is_undisturbed(&net);
    assert!(receive(b.nic.vnic()).is_none(), "something else came in");

    // The stack sees the SYN, the kernel says nothing.
    assert_eq!(connect(&net, "10.77.0.2", OURS), Err(ErrorKind::TimedOut));
    let (_, bytes) = receive(b.nic.vnic()).expect("the SYN did not come in");
    assert!(is_syn(&bytes, OURS));
    // The flow was for the IPv4 address only.
    assert_eq!(
        connect(&net, "fd77::2", OURS),
        Err(ErrorKind::ConnectionRefused)
    );

    b.maps.remove(&tcp_flow(2, OURS)).unwrap();
    b.maps.remove(&tcp_flow(2, OURS)).unwrap();
    assert_eq!(
        connect(&net, "10.77.0.2", OURS),
        Err(ErrorKind::ConnectionRefused)
    );
}

#[test]
fn wildcards_exact_flows_and_exceptions() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let (net, state) = (Net::new(), State::new());
    let any = |ip| Flow {
        proto: 6,
        local: Endpoint { ip, port: OURS },
        remote: None,
    };
    let v6 = any(Ip::UNSPECIFIED_V6);
    let mut b = inside(&net.b, || {
        End::packet(&state, &[v6], &PacketConfig::default())
    });
    assert_eq!(b.maps.owner(&v6), Some(1));
    assert_eq!(connect(&net, "fd77::2", OURS), Err(ErrorKind::TimedOut));
    assert_eq!(
        connect(&net, "10.77.0.2", OURS),
        Err(ErrorKind::ConnectionRefused)
    );
    // A dual-stack listener has both.
    b.maps.insert(&v6.v4_twin().unwrap(), 1).unwrap();
    assert_eq!(connect(&net, "10.77.0.2", OURS), Err(ErrorKind::TimedOut));
    while receive(b.nic.vnic()).is_some() {}

    // One peer is the kernel's although the port is the stack's; another peer is still the stack's.
    let from = |port| Flow {
        proto: 6,
        local: at(2, OURS),
        remote: Some(at(1, port)),
    };
    let connect_from = |port: u16| inside(&net.a, || connect_bound(port));
    b.maps.insert(&from(4001), PASS).unwrap();
    assert_eq!(connect_from(4001), ErrorKind::ConnectionRefused);
    assert_eq!(connect_from(4002), ErrorKind::TimedOut);
    // A flow of a stack that has no V-NIC here passes.
    b.maps.insert(&from(4003), 99).unwrap();
    assert_eq!(connect_from(4003), ErrorKind::ConnectionRefused);
    b.maps.remove(&from(4001)).unwrap();
    assert_eq!(connect_from(4001), ErrorKind::TimedOut);
    b.maps.remove_vnic(inside(&net.b, net::v0), 1).unwrap();
    assert_eq!(connect_from(4004), ErrorKind::ConnectionRefused);
}

/// A connection of the kernel's is watched: the map tells once its packets were seen at the V-NIC of the stack that asks, and
/// the kernel has them all the while.
#[test]
fn a_watched_flow_is_the_kernels_and_is_seen() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    for xdp in [None, Some(XdpAttach::Native), Some(XdpAttach::Generic)] {
        let (net, state) = (Net::new(), State::new());
        let flows = [tcp_flow(2, OURS)];
        let mut b = inside(&net.b, || match xdp {
            None => End::packet(&state, &flows, &PacketConfig::default()),
            Some(mode) => End::xdp(&state, &flows, mode),
        });
        let from = |port| Flow {
            proto: 6,
            local: at(2, OURS),
            remote: Some(at(1, port)),
        };
        b.maps.insert(&from(4001), WATCH | 1).unwrap();
        b.maps.insert(&from(4002), WATCH | 99).unwrap();
        // Others' packets tell nothing.
        let other = inside(&net.a, || connect_bound(4003));
        assert_eq!(other, ErrorKind::TimedOut, "{xdp:?}");
        assert_eq!(b.maps.owner(&from(4001)), Some(WATCH | 1), "{xdp:?}");
        for port in [4001, 4002] {
            let got = inside(&net.a, || connect_bound(port));
            assert_eq!(got, ErrorKind::ConnectionRefused, "{xdp:?}");
        }
        assert_eq!(b.maps.owner(&from(4001)), Some(PASS), "{xdp:?}");
        // That stack has no V-NIC here.
        assert_eq!(b.maps.owner(&from(4002)), Some(WATCH | 99), "{xdp:?}");
        while let Some((_, bytes)) = receive(b.nic.vnic()) {
            assert!(is_syn(&bytes, OURS), "{xdp:?}");
        }
    }
}

/// Connects from a given port.
fn connect_bound(port: u16) -> ErrorKind {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    // SAFETY: a system call without pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0);
    // SAFETY: just made.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = |ip: [u8; 4], port: u16| libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(ip),
        },
        sin_zero: [0; 8],
    };
    let timeout = libc::timeval {
        tv_sec: 0,
        tv_usec: 300_000,
    };
    let (one, raw) = (1i32, fd.as_raw_fd());
    let (local, remote) = (address([10, 77, 0, 1], port), address([10, 77, 0, 2], OURS));
    // SAFETY: options and addresses of the right size, alive during the calls.
    unsafe {
        let send_timeout = (&raw const timeout).cast();
        libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_SNDTIMEO, send_timeout, 16);
        libc::setsockopt(
            raw,
            libc::SOL_SOCKET,
            libc::SO_REUSEADDR,
            (&raw const one).cast(),
            4,
        );
        assert_eq!(libc::bind(raw, (&raw const local).cast(), 16), 0);
        assert_ne!(libc::connect(raw, (&raw const remote).cast(), 16), 0);
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EINPROGRESS) => ErrorKind::TimedOut,
        Some(libc::ECONNREFUSED) => ErrorKind::ConnectionRefused,
        other => panic!("connect: {other:?}"),
    }
}

/// Two stacks on one interface: each packet socket gets its own flows.
#[test]
fn stacks_do_not_see_each_other() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let (net, s1, s2) = (Net::new(), State::new(), State::new());
    let config = PacketConfig::default();
    let mut one = inside(&net.b, || End::packet(&s1, &[tcp_flow(2, OURS)], &config));
    let mut two = inside(&net.b, || {
        one.maps.insert(&tcp_flow(2, CLOSED), 2).unwrap();
        let (fd, geometry) = net::packet_socket(&mut one.maps, 2, &config);
        PacketNic::attach(fd, geometry, s2.get()).unwrap()
    });
    assert_eq!(connect(&net, "10.77.0.2", OURS), Err(ErrorKind::TimedOut));
    assert_eq!(connect(&net, "10.77.0.2", CLOSED), Err(ErrorKind::TimedOut));
    assert!(is_syn(&receive(one.nic.vnic()).unwrap().1, OURS));
    assert!(is_syn(&receive(&mut two).unwrap().1, CLOSED));
    assert!(receive(one.nic.vnic()).is_none() && receive(&mut two).is_none());
}

/// The holder of the socket can not widen what it receives.
#[test]
fn the_filter_is_locked() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let net = Net::new();
    let (fd, _) = inside(&net.b, || {
        let mut maps = FlowMaps::load().unwrap();
        net::packet_socket(&mut maps, 1, &PacketConfig::default())
    });
    // SAFETY: detaching takes no value.
    let rc = unsafe {
        use std::os::fd::AsRawFd;
        let none = std::ptr::null();
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            none,
            0,
        )
    };
    assert_ne!(rc, 0);
    let filter = FlowMaps::load().unwrap().stack_filter(2).unwrap();
    let again = attach_filter(fd.as_fd(), filter.as_fd()).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::PermissionDenied);
}

/// A tagged frame on its way to a VLAN interface is not the parent's.
#[test]
fn tagged_frames_are_not_the_parents() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let config = PacketConfig::default();
    for xdp in [false, true] {
        let (net, sa, sb) = (Net::new(), State::new(), State::new());
        let mut a = inside(&net.a, || End::packet(&sa, &[], &config));
        let mut b = inside(&net.b, || match xdp {
            false => End::packet(&sb, &[net::udp_flow(2, OURS)], &config),
            true => End::xdp(&sb, &[net::udp_flow(2, OURS)], XdpAttach::Native),
        });
        for vlan in [5, 0] {
            net::send_udp_tagged(
                a.nic.vnic(),
                (at(1, 1), at(2, OURS)),
                vlan,
                &mut [vlan as u8; 40],
            );
        }
        let (_, bytes) = receive(b.nic.vnic()).unwrap();
        assert_eq!(bytes.last(), Some(&0));
        assert!(receive(b.nic.vnic()).is_none());
    }
}

#[test]
fn an_xdp_stack_takes_its_flows_and_no_more() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    for mode in [XdpAttach::Native, XdpAttach::Generic] {
        let (net, state) = (Net::new(), State::new());
        let mut b = inside(&net.b, || End::xdp(&state, &[tcp_flow(2, OURS)], mode));
        kernel_is_undisturbed(&net);
        assert!(receive(b.nic.vnic()).is_none());
        assert_eq!(connect(&net, "10.77.0.2", OURS), Err(ErrorKind::TimedOut));
        assert!(is_syn(&receive(b.nic.vnic()).unwrap().1, OURS));
        b.maps.remove_xsk(0).unwrap();
        assert_eq!(
            connect(&net, "10.77.0.2", OURS),
            Err(ErrorKind::ConnectionRefused)
        );
    }
}

#[test]
fn a_foreign_xdp_program_is_left_alone_and_ours_goes_with_us() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let net = Net::new();
    inside(&net.b, || {
        for mode in [XdpAttach::Native, XdpAttach::Generic] {
            let mut somebody = FlowMaps::load().unwrap();
            let theirs = somebody.attach_xdp(net::v0(), mode).unwrap();
            let before = interface(net::v0()).unwrap().xdp;
            let ours = FlowMaps::load()
                .unwrap()
                .attach_xdp(net::v0(), XdpAttach::Auto);
            assert!(matches!(ours, Err(BpfError::Foreign { .. })), "{ours:?}");
            assert_eq!(interface(net::v0()).unwrap().xdp, before);
            drop(theirs);
            assert_eq!(interface(net::v0()).unwrap().xdp, None);
        }
        // The queue of a socket just closed can be used again at once, or soon.
        let mut maps = FlowMaps::load().unwrap();
        for _ in 0..5 {
            drop(net::xdp_socket(&mut maps, 1, &Default::default()));
        }
    });
}

/// An interface that goes down is an error once, not for ever.
#[test]
fn an_interface_going_down_is_survived() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let (net, state) = (Net::new(), State::new());
    let flow = net::udp_flow(2, OURS);
    let mut b = inside(&net.b, || {
        End::packet(&state, &[flow], &PacketConfig::default())
    });
    net::sh(&format!("ip -n {} link set v0 down", net.b));
    let errors = |fd: &std::os::fd::OwnedFd| {
        use std::os::fd::AsRawFd;
        let mut poll = libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd.
        unsafe { libc::poll(&raw mut poll, 1, 0) };
        poll.revents & libc::POLLERR != 0
    };
    assert!(errors(&b.nic.fd()));
    b.nic.vnic().on_poll_error();
    assert!(!errors(&b.nic.fd()));
    net::sh(&format!("ip -n {} link set v0 up", net.b));
    net::sh(&format!(
        "ip -n {} neigh replace 10.77.0.1 lladdr 02:00:00:00:77:01 dev v0",
        net.b
    ));
    inside(&net.a, || {
        let socket = std::net::UdpSocket::bind("10.77.0.1:0").unwrap();
        for _ in 0..20 {
            socket.send_to(b"up", ("10.77.0.2", OURS)).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(receive(b.nic.vnic()).is_some());
    net::send_udp(b.nic.vnic(), (at(2, OURS), at(1, 9)), &mut [1, 2, 3]);
}
