//! The life of descriptors on two hosts: what the calls answer, and that nothing is left at the end.

mod hosts;

use std::thread;
use std::time::Duration;

use flyover_core::SockOpt;
use flyover_sockets::os::{EpollEvent, PollFd};
use flyover_sockets::process::{Answer, Fd};
use flyover_sockets::{Errno, enter};
use flyover_wire::{Endpoint, Ip};
use hosts::{Host, LENT, pair};

const STREAM: i32 = libc::SOCK_STREAM;
const DGRAM: i32 = libc::SOCK_DGRAM;
const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;

fn listen(h: &Host, port: u16, flags: i32) -> i32 {
    let fd = h.socket(libc::AF_INET, STREAM | flags);
    assert_eq!(
        h.lib.bind(fd, &h.at(port)),
        Answer::Kernel,
        "bind of a stream is the kernel's"
    );
    flyover_sockets::os::Os::bind(h.os, fd, &h.at(port)).expect("bind");
    assert_eq!(h.lib.listen(fd, 16), Answer::Value(0));
    assert!(
        matches!(h.lib.look(fd), Fd::Tcp(_)),
        "the listener is accelerated"
    );
    fd
}

/// A connection: (client's descriptor on a, server's on b).
fn connect(a: &Host, b: &Host, port: u16) -> (i32, i32, i32) {
    let lis = listen(b, port, 0);
    let c = a.socket(libc::AF_INET, STREAM);
    let to = b.at(port);
    let (made, got) = thread::scope(|s| {
        let server = s.spawn(|| b.lib.accept(lis, 0).expect("ours").expect("accepted"));
        (a.lib.connect(c, &to), server.join().expect("thread"))
    });
    assert_eq!(made, Answer::Value(0));
    assert_eq!(got.peer.endpoint().map(|e| e.ip), Some(a.ip));
    (c, got.fd, lis)
}

fn recv(h: &Host, fd: i32, n: usize) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0; n];
    match h.lib.recv(fd, &mut [&mut buf], 0) {
        Answer::Value(n) => {
            buf.truncate(n);
            Ok(buf)
        }
        Answer::Error(e) => Err(e),
        Answer::Kernel => panic!("the kernel's"),
    }
}

fn settle(a: &Host, b: &Host) {
    for _ in 0..20 {
        for h in [a, b] {
            if let Some(att) = h.lib.attached() {
                let _ = att.poll(64);
            }
        }
        thread::sleep(Duration::from_micros(300));
    }
}

#[test]
fn a_connection_carries_bytes_and_ends() {
    let (a, b) = pair();
    let (c, s, lis) = connect(&a, &b, 80);
    assert_eq!(a.lib.send(c, &[b"hel", b"lo"], 0), Answer::Value(5));
    assert_eq!(recv(&b, s, 64).expect("data"), b"hello");
    assert_eq!(b.lib.send(s, &[b"world"], 0), Answer::Value(5));
    assert_eq!(recv(&a, c, 3).expect("data"), b"wor");
    assert_eq!(recv(&a, c, 9).expect("data"), b"ld");
    assert_eq!(
        a.lib
            .getpeername(c)
            .expect("ours")
            .expect("peer")
            .endpoint()
            .expect("inet")
            .port,
        80
    );
    assert_eq!(a.lib.shutdown(c, libc::SHUT_WR), Answer::Value(0));
    assert_eq!(recv(&b, s, 9).expect("end"), b"");
    assert_eq!(a.lib.send(c, &[b"x"], 0), Answer::Error(Errno::EPIPE));
    assert_eq!(
        a.os.pipes_broken.load(std::sync::atomic::Ordering::Relaxed),
        1
    );
    assert_eq!(b.lib.close(s), Answer::Value(0));
    assert_eq!(recv(&a, c, 9).expect("end"), b"");
    assert_eq!(a.lib.close(c), Answer::Value(0));
    assert_eq!(b.lib.close(lis), Answer::Value(0));
    settle(&a, &b);
    assert_eq!(b.stack().socks_used(), 0, "server side");
}

#[test]
fn who_connects_often_does_so_from_lent_ports() {
    let (a, b) = pair();
    a.kernel
        .lends
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let mut open = Vec::new();
    for n in 0..8 {
        let (c, s, lis) = connect(&a, &b, 100 + n);
        let port = a
            .lib
            .getsockname(c)
            .expect("ours")
            .endpoint()
            .map(|e| e.port);
        let lent = port.is_some_and(|port| LENT.contains(&port));
        assert_eq!(lent, n >= 4, "connection {n} from port {port:?}");
        // Nobody else holds the port of the first ones; a lent one's holder is the daemon.
        let kernel = flyover_sockets::os::Os::getsockname(a.os, c).expect("a socket");
        assert_eq!(kernel.endpoint().map(|e| e.port == 0), Some(lent));
        if lent {
            assert_eq!(a.lib.bind(c, &a.at(9)), Answer::Error(Errno::EINVAL));
        }
        assert_eq!(a.lib.send(c, &[b"x"], 0), Answer::Value(1));
        assert_eq!(recv(&b, s, 9).expect("data"), b"x");
        open.push((c, s, lis));
    }
    for (c, s, lis) in open {
        assert_eq!(b.lib.close(s), Answer::Value(0));
        assert_eq!(a.lib.close(c), Answer::Value(0));
        assert_eq!(b.lib.close(lis), Answer::Value(0));
    }
    settle(&a, &b);
    assert_eq!(a.stack().socks_used(), 0, "client side");
}

#[test]
fn a_port_that_an_ending_connection_holds_is_not_chosen_again() {
    let (a, b) = pair();
    let (c, s, lis) = connect(&a, &b, 92);
    let first = a.stack().sock(endpoint_of(&a, c)).local();
    // The server does not close: the first connection stays in FIN_WAIT_2, its kernel socket is gone.
    assert_eq!(a.lib.close(c), Answer::Value(0));
    settle(&a, &b);
    a.os.set_next_port(first.port);
    let again = a.socket(libc::AF_INET, STREAM);
    thread::scope(|t| {
        let _ = t.spawn(|| b.lib.accept(lis, 0).expect("ours").expect("accepted"));
        assert_eq!(a.lib.connect(again, &b.at(92)), Answer::Value(0));
    });
    let second = a.stack().sock(endpoint_of(&a, again)).local();
    assert_ne!(first.port, second.port);
    // Nor by a `bind` before: its `connect` would have to fail.
    a.os.set_next_port(first.port);
    let bound = a.socket(libc::AF_INET, STREAM);
    assert_eq!(a.lib.bind(bound, &a.at(0)), Answer::Value(0));
    let name = flyover_sockets::os::Os::getsockname(a.os, bound).expect("a socket");
    let port = name.endpoint().map_or(0, |e| e.port);
    assert!(port != 0 && port != first.port, "port {port}");
    // Who names the port gets it, and hears of the connection when he connects: the kernel's would wait for an answer that
    // goes to the stack.
    let named = a.socket(libc::AF_INET, STREAM);
    assert_eq!(a.lib.bind(named, &a.at(first.port)), Answer::Kernel);
    flyover_sockets::os::Os::bind(a.os, named, &a.at(first.port)).expect("bind");
    let there = Answer::Error(Errno::EADDRNOTAVAIL);
    assert_eq!(a.lib.connect(named, &b.at(92)), there);
    assert_eq!(b.lib.close(s), Answer::Value(0));
}

fn endpoint_of(h: &Host, fd: i32) -> flyover_core::SockId {
    match h.lib.look(fd) {
        Fd::Tcp(ep) => ep.sock.id,
        other => panic!("not accelerated: {other:?}"),
    }
}

#[test]
fn large_transfers_block_and_go_on() {
    let (a, b) = pair();
    let (c, s, _) = connect(&a, &b, 81);
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i * 31 % 253) as u8).collect();
    thread::scope(|t| {
        let _ = t.spawn(|| {
            assert_eq!(a.lib.send(c, &[&data], 0), Answer::Value(data.len()));
            assert_eq!(a.lib.close(c), Answer::Value(0));
        });
        let mut got = Vec::new();
        loop {
            let part = recv(&b, s, 100_000).expect("data");
            if part.is_empty() {
                break;
            }
            got.extend(part);
        }
        assert!(got == data, "{} bytes arrived", got.len());
    });
}

#[test]
fn waitall_peek_and_timeouts() {
    let (a, b) = pair();
    let (c, s, _) = connect(&a, &b, 82);
    let mut buf = [0u8; 6];
    thread::scope(|t| {
        let _ = t.spawn(|| {
            for part in [b"ab", b"cd", b"ef"] {
                thread::sleep(Duration::from_millis(3));
                assert_eq!(a.lib.send(c, &[part], 0), Answer::Value(2));
            }
        });
        assert_eq!(
            b.lib.recv(s, &mut [&mut buf], libc::MSG_WAITALL),
            Answer::Value(6)
        );
    });
    assert_eq!(&buf, b"abcdef");
    assert_eq!(a.lib.send(c, &[b"peek"], 0), Answer::Value(4));
    settle(&a, &b);
    assert_eq!(
        b.lib.recv(s, &mut [&mut buf], libc::MSG_PEEK),
        Answer::Value(4)
    );
    assert_eq!(
        b.lib.recv(s, &mut [&mut buf[..2]], libc::MSG_TRUNC),
        Answer::Value(2)
    );
    assert_eq!(b.lib.recv(s, &mut [&mut buf], 0), Answer::Value(2));
    assert_eq!(&buf[..2], b"ek");
    assert_eq!(
        b.lib.recv(s, &mut [&mut buf], libc::MSG_DONTWAIT),
        Answer::Error(Errno::EAGAIN)
    );
    let mut limit = [0u8; 16];
    limit[8..].copy_from_slice(&5_000i64.to_ne_bytes());
    assert_eq!(
        b.lib
            .setsockopt(s, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &limit),
        Answer::Value(0)
    );
    assert_eq!(
        b.lib.recv(s, &mut [&mut buf], 0),
        Answer::Error(Errno::EAGAIN)
    );
    let mut back = [0u8; 16];
    assert_eq!(
        b.lib
            .getsockopt(s, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &mut back),
        Answer::Kernel,
        "the kernel socket keeps it"
    );
    let kept = flyover_sockets::os::Os::getsockopt(
        b.os,
        s,
        libc::SOL_SOCKET,
        libc::SO_RCVTIMEO,
        &mut back,
    );
    assert_eq!((kept, back), (Ok(16), limit));
}

#[test]
fn a_signal_interrupts_a_sleep() {
    let (a, b) = pair();
    let (_c, s, _) = connect(&a, &b, 83);
    let _inside = enter::enter();
    let _ = enter::note_signal();
    assert_eq!(recv(&b, s, 4), Err(Errno::EINTR));
}

#[test]
fn nobody_listens() {
    let (a, b) = pair();
    // Attach the peer, so that its stack answers.
    let lis = listen(&b, 84, 0);
    let c = a.socket(libc::AF_INET, STREAM);
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|t| {
        let _ = t.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                settle(&a, &b);
            }
        });
        assert_eq!(
            a.lib.connect(c, &b.at(85)),
            Answer::Error(Errno::ECONNREFUSED)
        );
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(a.lib.close(c), Answer::Value(0));
    assert_eq!(b.lib.close(lis), Answer::Value(0));
    assert_eq!(a.stack().socks_used(), 0);
}

#[test]
fn a_nonblocking_connect_is_seen_by_poll_and_epoll() {
    let (a, b) = pair();
    let lis = listen(&b, 86, libc::SOCK_NONBLOCK);
    assert!(matches!(b.lib.accept(lis, 0), Some(Err(Errno::EAGAIN))));
    let c = a.socket(libc::AF_INET, STREAM | libc::SOCK_NONBLOCK);
    let e = flyover_sockets::os::Os::epoll_create(a.os, 0).expect("epoll");
    a.lib.on_epoll_create(e);
    let event = |events, data| Some(EpollEvent { events, data });
    // As nginx does: into the set before the connect.
    assert_eq!(
        a.lib.epoll_ctl(e, libc::EPOLL_CTL_ADD, c, event(OUT, 5)),
        Answer::Value(0)
    );
    assert_eq!(
        a.lib.connect(c, &b.at(86)),
        Answer::Error(Errno::EINPROGRESS)
    );
    assert_eq!(a.lib.connect(c, &b.at(86)), Answer::Error(Errno::EALREADY));
    settle(&a, &b);
    let mut out = [EpollEvent::default(); 4];
    assert_eq!(
        a.lib.epoll_wait(e, &mut out, Some(1_000_000_000)),
        Some(Ok(1))
    );
    assert_eq!(
        out[0],
        EpollEvent {
            events: OUT,
            data: 5
        }
    );
    let mut err = [9u8; 4];
    assert_eq!(
        a.lib
            .getsockopt(c, libc::SOL_SOCKET, libc::SO_ERROR, &mut err),
        Answer::Value(4)
    );
    assert_eq!(err, [0; 4]);
    let mut fds = [PollFd {
        fd: lis,
        events: libc::POLLIN,
        revents: 0,
    }];
    assert_eq!(b.lib.poll(&mut fds, None), Some(Ok(1)));
    let s = b
        .lib
        .accept(lis, libc::SOCK_NONBLOCK)
        .expect("ours")
        .expect("accepted")
        .fd;
    assert_eq!(recv(&b, s, 4), Err(Errno::EAGAIN));
    let one_shot = IN | (libc::EPOLLONESHOT as u32);
    assert_eq!(
        a.lib
            .epoll_ctl(e, libc::EPOLL_CTL_MOD, c, event(one_shot, 6)),
        Answer::Value(0)
    );
    assert_eq!(b.lib.send(s, &[b"x"], 0), Answer::Value(1));
    assert_eq!(a.lib.epoll_wait(e, &mut out, None), Some(Ok(1)));
    assert_eq!(
        out[0],
        EpollEvent {
            events: IN,
            data: 6
        }
    );
    assert_eq!(
        a.lib.epoll_wait(e, &mut out, Some(0)),
        Some(Ok(0)),
        "one shot"
    );
    assert_eq!(
        a.lib.epoll_ctl(e, libc::EPOLL_CTL_ADD, c, event(IN, 7)),
        Answer::Error(Errno::EEXIST)
    );
    assert_eq!(
        a.lib.epoll_ctl(e, libc::EPOLL_CTL_DEL, c, None),
        Answer::Value(0)
    );
    assert_eq!(
        a.lib.epoll_ctl(e, libc::EPOLL_CTL_DEL, c, None),
        Answer::Error(Errno::ENOENT)
    );
    let edge = IN | (libc::EPOLLET as u32);
    assert_eq!(
        a.lib.epoll_ctl(e, libc::EPOLL_CTL_ADD, c, event(edge, 8)),
        Answer::Value(0)
    );
    assert_eq!(
        a.lib.epoll_wait(e, &mut out, Some(0)),
        Some(Ok(1)),
        "what is ready already"
    );
    assert_eq!(
        a.lib.epoll_wait(e, &mut out, Some(1_000_000)),
        Some(Ok(0)),
        "no second edge"
    );
    assert_eq!(a.lib.close(c), Answer::Value(0));
    assert_eq!(
        a.lib.epoll_wait(e, &mut out, Some(0)),
        Some(Ok(0)),
        "closed members are gone"
    );
    assert_eq!(a.lib.close(e), Answer::Value(0));
}

#[test]
fn kernel_members_are_not_starved() {
    let (a, b) = pair();
    let (c, s, _) = connect(&a, &b, 87);
    let e = flyover_sockets::os::Os::epoll_create(b.os, 0).expect("epoll");
    b.lib.on_epoll_create(e);
    let bell = flyover_sockets::os::Os::eventfd(b.os).expect("eventfd");
    let event = |events, data| Some(EpollEvent { events, data });
    assert_eq!(
        b.lib.epoll_ctl(e, libc::EPOLL_CTL_ADD, bell, event(IN, 1)),
        Answer::Value(0)
    );
    assert_eq!(
        b.lib.epoll_ctl(e, libc::EPOLL_CTL_ADD, s, event(IN, 2)),
        Answer::Value(0)
    );
    assert_eq!(a.lib.send(c, &[b"always readable"], 0), Answer::Value(15));
    let _ = flyover_sockets::os::Os::write(b.os, bell, &1u64.to_ne_bytes());
    settle(&a, &b);
    let mut seen = [false; 3];
    for _ in 0..16 {
        let mut out = [EpollEvent::default(); 4];
        let n = b
            .lib
            .epoll_wait(e, &mut out, Some(0))
            .expect("ours")
            .expect("events");
        out[..n].iter().for_each(|e| seen[e.data as usize] = true);
    }
    assert_eq!(seen, [false, true, true]);
}

#[test]
fn duplicates_share_the_connection() {
    let (a, b) = pair();
    let (c, s, _) = connect(&a, &b, 88);
    let d = flyover_sockets::os::Os::fcntl(a.os, c, libc::F_DUPFD, 3).expect("dup");
    a.lib.on_dup(c, d);
    assert_eq!(a.lib.close(c), Answer::Value(0));
    assert_eq!(a.lib.send(d, &[b"still"], 0), Answer::Value(5));
    assert_eq!(recv(&b, s, 9).expect("data"), b"still");
    // An unknown number of the same kernel socket finds the endpoint by its cookie.
    let u = flyover_sockets::os::Os::fcntl(a.os, d, libc::F_DUPFD, 3).expect("dup");
    a.lib.on_unknown(u);
    assert_eq!(a.lib.send(u, &[b"found"], 0), Answer::Value(5));
    assert_eq!(recv(&b, s, 9).expect("data"), b"found");
}

#[test]
fn datagrams_go_both_ways_and_merge_with_the_kernels() {
    let (a, b) = pair();
    let server = b.socket(libc::AF_INET, DGRAM);
    assert_eq!(b.lib.bind(server, &b.at(53)), Answer::Value(0));
    assert!(matches!(b.lib.look(server), Fd::Udp(_)));
    let client = a.socket(libc::AF_INET, DGRAM);
    assert_eq!(
        a.lib
            .send_msg(client, &[b"question"], Some(&b.at(53)), &[], 0),
        Answer::Value(8)
    );
    assert!(
        matches!(a.lib.look(client), Fd::Udp(_)),
        "the first send decides"
    );
    let mut buf = [0u8; 64];
    let got = b
        .lib
        .recv_msg(server, &mut [&mut buf], &mut [], 0)
        .expect("ours")
        .expect("datagram");
    assert_eq!(&buf[..got.n], b"question");
    let from = got.from;
    assert_eq!(
        b.lib
            .send_msg(server, &[b"ans", b"wer"], Some(&from), &[], 0),
        Answer::Value(6)
    );
    assert_eq!(recv(&a, client, 64).expect("datagram"), b"answer");
    // One that a V-NIC did not bring.
    let other = Endpoint {
        ip: Ip::v4([192, 0, 2, 9]),
        port: 9,
    };
    b.os.kernel_datagram(server, other, b"loop");
    let Fd::Udp(ep) = b.lib.look(server) else {
        panic!("udp")
    };
    ep.shared()
        .os_ready
        .store(1, std::sync::atomic::Ordering::Release);
    let got = b
        .lib
        .recv_msg(server, &mut [&mut buf], &mut [], 0)
        .expect("ours")
        .expect("datagram");
    assert_eq!(
        (got.from.endpoint(), &buf[..got.n]),
        (Some(other), &b"loop"[..])
    );
    assert!(matches!(
        b.lib
            .recv_msg(server, &mut [&mut buf], &mut [], libc::MSG_DONTWAIT),
        Some(Err(Errno::EAGAIN))
    ));
    // Truncation is told.
    assert_eq!(
        a.lib
            .send_msg(client, &[b"0123456789"], Some(&b.at(53)), &[], 0),
        Answer::Value(10)
    );
    let got = b
        .lib
        .recv_msg(server, &mut [&mut buf[..4]], &mut [], libc::MSG_TRUNC)
        .expect("ours")
        .expect("datagram");
    assert_eq!((got.n, got.flags), (10, libc::MSG_TRUNC));
    // Somewhere no V-NIC leads: the kernel socket, which says no here.
    let far = flyover_sockets::Addr::inet(
        Endpoint {
            ip: Ip::v4([198, 51, 100, 1]),
            port: 1,
        },
        false,
    );
    assert_eq!(
        a.lib.send_msg(client, &[b"x"], Some(&far), &[], 0),
        Answer::Error(Errno::ENETUNREACH)
    );
    assert_eq!(a.lib.close(client), Answer::Value(0));
    assert_eq!(b.lib.close(server), Answer::Value(0));
    assert_eq!((a.stack().socks_used(), b.stack().socks_used()), (0, 0));
}

#[test]
fn packet_information_comes_with_datagrams() {
    let (a, b) = pair();
    let server = b.socket(libc::AF_INET, DGRAM);
    assert_eq!(b.lib.bind(server, &b.at(54)), Answer::Value(0));
    let on = 1i32.to_ne_bytes();
    assert_eq!(
        b.lib
            .setsockopt(server, libc::IPPROTO_IP, libc::IP_PKTINFO, &on),
        Answer::Value(0)
    );
    let client = a.socket(libc::AF_INET, DGRAM);
    assert_eq!(a.lib.connect(client, &b.at(54)), Answer::Value(0));
    assert_eq!(a.lib.send(client, &[b"who"], 0), Answer::Value(3));
    let (mut buf, mut control) = ([0u8; 16], [0u8; 64]);
    let got = b
        .lib
        .recv_msg(server, &mut [&mut buf], &mut control, 0)
        .expect("ours")
        .expect("datagram");
    assert_eq!((got.n, got.control, got.flags), (3, 32, 0));
    assert_eq!(control[16..28], [1, 0, 0, 0, 10, 0, 0, 2, 10, 0, 0, 2]);
}

#[test]
fn files_are_sent_with_exact_offsets() {
    let (a, b) = pair();
    let (c, s, _) = connect(&a, &b, 89);
    let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 241) as u8).collect();
    let file = a.os.open_bytes(&bytes);
    let mut at = 10_000i64;
    let got = thread::scope(|t| {
        let reader = t.spawn(|| {
            let mut got = Vec::new();
            while got.len() < 60_000 {
                got.extend(recv(&b, s, 70_000).expect("data"));
            }
            got
        });
        assert_eq!(
            a.lib.sendfile(c, file, Some(&mut at), 50_000),
            Answer::Value(50_000)
        );
        assert_eq!(a.lib.sendfile(c, file, None, 10_000), Answer::Value(10_000));
        reader.join().expect("thread")
    });
    assert_eq!(at, 60_000);
    assert!(got[..50_000] == bytes[10_000..60_000] && got[50_000..] == bytes[..10_000]);
    assert_eq!(
        a.lib.sendfile(c, file, Some(&mut 99_990), 500),
        Answer::Value(10),
        "the file ends"
    );
    assert_eq!(a.lib.sendfile(c, c, None, 5), Answer::Error(Errno::EINVAL));
}

#[test]
fn without_descriptors_no_connection_is_lost() {
    let (a, b) = pair();
    let lis = listen(&b, 90, libc::SOCK_NONBLOCK);
    let c = a.socket(libc::AF_INET, STREAM | libc::SOCK_NONBLOCK);
    assert_eq!(
        a.lib.connect(c, &b.at(90)),
        Answer::Error(Errno::EINPROGRESS)
    );
    settle(&a, &b);
    b.os.no_more_fds
        .store(libc::EMFILE, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(b.lib.accept(lis, 0), Some(Err(Errno::EMFILE))));
    b.os.no_more_fds
        .store(0, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(b.lib.accept(lis, 0), Some(Ok(_))));
}

#[test]
fn what_no_vnic_serves_stays_with_the_kernel() {
    let (a, b) = pair();
    let c = a.socket(libc::AF_INET, STREAM);
    let lo = flyover_sockets::Addr::inet(
        Endpoint {
            ip: Ip::v4([127, 0, 0, 1]),
            port: 1,
        },
        false,
    );
    assert_eq!(a.lib.connect(c, &lo), Answer::Kernel);
    assert!(matches!(a.lib.look(c), Fd::Kernel));
    assert!(
        a.lib.attached().is_none(),
        "no stack for a loopback connection"
    );
    let c = a.socket(libc::AF_INET, STREAM);
    assert_eq!(a.lib.connect(c, &a.at(1)), Answer::Kernel, "own address");
    let own = flyover_sockets::policy::Reason::Local;
    assert_eq!(a.lib.kernel_path_count(own), 1);
    assert!(b.lib.attached().is_none());
}

#[test]
fn options_are_honoured_and_read_back() {
    let (a, b) = pair();
    let c = a.socket(libc::AF_INET, STREAM);
    let on = 1i32.to_ne_bytes();
    // Before the endpoint exists: the kernel socket has it then.
    assert_eq!(
        a.lib
            .setsockopt(c, libc::IPPROTO_TCP, libc::TCP_NODELAY, &on),
        Answer::Value(0)
    );
    let mut v = [0u8; 4];
    flyover_sockets::os::Os::getsockopt(a.os, c, libc::IPPROTO_TCP, libc::TCP_NODELAY, &mut v)
        .expect("get");
    assert_eq!(v, on);
    let lis = listen(&b, 91, 0);
    thread::scope(|t| {
        let _ = t.spawn(|| b.lib.accept(lis, 0));
        assert_eq!(a.lib.connect(c, &b.at(91)), Answer::Value(0));
    });
    let mut v = [0u8; 4];
    assert_eq!(
        a.lib
            .getsockopt(c, libc::IPPROTO_TCP, libc::TCP_NODELAY, &mut v),
        Answer::Kernel,
        "the kernel socket keeps it"
    );
    let Fd::Tcp(ep) = a.lib.look(c) else {
        panic!("not accelerated");
    };
    assert_eq!(
        ep.att.stack.opt(ep.sock.id, SockOpt::NoDelay),
        1,
        "and the endpoint honours it"
    );
    assert_eq!(
        a.lib
            .setsockopt(c, libc::SOL_SOCKET, libc::SO_SNDBUF, &5000i32.to_ne_bytes()),
        Answer::Value(0)
    );
    assert_eq!(
        a.lib
            .getsockopt(c, libc::SOL_SOCKET, libc::SO_SNDBUF, &mut v),
        Answer::Kernel
    );
    assert_eq!(
        ep.att.stack.opt(ep.sock.id, SockOpt::SndBuf),
        10_000,
        "doubled, as Linux does"
    );
    let mut info = [0u8; 300];
    assert_eq!(
        a.lib
            .getsockopt(c, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info),
        Answer::Value(232)
    );
    assert_eq!(info[0], 1, "established");
    assert_eq!(
        a.lib.fcntl(c, libc::F_SETFL, libc::O_NONBLOCK as usize),
        Answer::Value(0)
    );
    assert_eq!(recv(&a, c, 1), Err(Errno::EAGAIN));
    let mut off = [0u8; 4];
    assert_eq!(a.lib.ioctl(c, libc::FIONBIO, &mut off), Answer::Value(0));
    assert_eq!(a.lib.fcntl(c, libc::F_GETFL, 0), Answer::Value(0));
}

/// A fork of a process without sockets changes nothing in the parent: every page it wrote would be copied.
#[test]
fn forks_count_once_there_is_something_to_share() {
    let (a, _) = pair();
    let lib = a.lib;
    lib.on_socket(50, libc::AF_UNIX, libc::SOCK_STREAM, 0);
    assert!(lib.is_untouched());
    lib.after_fork_in_parent();
    assert_eq!(lib.fork_generation(), 0);
    lib.on_socket(51, libc::AF_INET, libc::SOCK_STREAM, 0);
    assert!(!lib.is_untouched());
    assert!(lib.is_sole_holder(51));
    lib.before_fork();
    // What another thread closes or makes from here on the child may hold, too.
    assert!(!lib.is_sole_holder(51));
    lib.on_socket(54, libc::AF_INET, libc::SOCK_STREAM, 0);
    lib.after_fork_in_parent();
    assert_eq!(lib.fork_generation(), 2);
    assert!(!lib.is_sole_holder(51) && !lib.is_sole_holder(54));
    // Nobody holds the epoll sets any more: the next one does not wait for ever.
    lib.on_epoll_create(52);
    lib.before_fork();
    lib.after_fork_in_child(7);
    assert_eq!(lib.fork_generation(), 4);
    lib.on_epoll_create(53);
    assert!(lib.is_sole_holder(53) && !lib.is_sole_holder(52));
}
