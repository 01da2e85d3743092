//! Handing over to the kernel, as far as it can be seen without one: what is described, what is left behind, and that a
//! refusal costs nothing.

mod hosts;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use flyover_core::{Handover, Unfinished};
use flyover_sockets::Errno;
use flyover_sockets::os::{EpollEvent, Os, PollFd};
use flyover_sockets::policy::Reason;
use flyover_sockets::process::{Answer, Fd};
use hosts::{Host, pair};

fn connect(a: &Host, b: &Host, port: u16) -> (i32, i32) {
    let lis = b.socket(libc::AF_INET, libc::SOCK_STREAM);
    b.os.bind(lis, &b.at(port)).expect("bind");
    assert_eq!(b.lib.listen(lis, 16), Answer::Value(0));
    let c = a.socket(libc::AF_INET, libc::SOCK_STREAM);
    let to = b.at(port);
    let (made, got) = thread::scope(|s| {
        let server = s.spawn(|| b.lib.accept(lis, 0).expect("ours").expect("accepted"));
        (a.lib.connect(c, &to), server.join().expect("thread"))
    });
    assert_eq!(made, Answer::Value(0));
    (c, got.fd)
}

fn recv(h: &Host, fd: i32, n: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < n {
        let mut buf = vec![0; n - all.len()];
        match h.lib.recv(fd, &mut [&mut buf], 0) {
            Answer::Value(0) => break,
            Answer::Value(got) => all.extend_from_slice(&buf[..got]),
            other => panic!("{other:?}"),
        }
    }
    all
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("never: {what}");
}

fn unread(h: &Host, fd: i32) -> u32 {
    match h.lib.look(fd) {
        Fd::Tcp(ep) => ep.shared().rq_available(),
        other => panic!("{other:?}"),
    }
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// The only connection that the kernel of `h` has taken.
fn taken(h: &Host) -> (Handover, Vec<u8>) {
    let mut list = h.kernel.taken.lock().expect("lock");
    assert_eq!(list.len(), 1);
    list.remove(0)
}

#[test]
fn a_refusal_leaves_the_connection_on_the_stack() {
    let (a, b) = pair();
    let (c, s) = connect(&a, &b, 80);
    let data = pattern(100_000);
    assert_eq!(a.lib.send(c, &[&data], 0), Answer::Value(data.len()));
    wait_for("data", || unread(&b, s) > 50_000);
    assert!(!b.lib.hand_over(s, Reason::HandedOver));
    assert!(!a.lib.hand_over(c, Reason::HandedOver));
    assert!(matches!(b.lib.look(s), Fd::Tcp(_)));
    assert_eq!(recv(&b, s, data.len()), data);
    assert_eq!(b.lib.send(s, &[b"back"], 0), Answer::Value(4));
    assert_eq!(recv(&a, c, 4), b"back");
}

#[test]
fn the_image_holds_everything_and_both_ends_agree() {
    let (a, b) = pair();
    a.kernel.willing.store(true, Ordering::Relaxed);
    b.kernel.willing.store(true, Ordering::Relaxed);
    let (c, s) = connect(&a, &b, 81);
    let data = pattern(60_000);
    assert_eq!(a.lib.send(c, &[&data], 0), Answer::Value(data.len()));
    wait_for("data", || unread(&b, s) == data.len() as u32);
    assert_eq!(recv(&b, s, 1_000), data[..1_000]);
    assert!(b.lib.hand_over(s, Reason::HandedOver));
    let (at_b, bytes) = taken(&b);
    assert_eq!(bytes, data[1_000..], "what was not read");
    assert_eq!((at_b.unread, at_b.queued), (59_000, 0));
    assert!(!at_b.fin_in && !at_b.fin_out);
    // B acknowledges no longer: what A sends now stays queued.
    assert_eq!(a.lib.send(c, &[&data[..5_000]], 0), Answer::Value(5_000));
    thread::sleep(Duration::from_millis(20));
    assert_eq!(a.lib.shutdown(c, libc::SHUT_WR), Answer::Value(0));
    thread::sleep(Duration::from_millis(20));
    assert!(a.lib.hand_over(c, Reason::HandedOver));
    let (at_a, bytes) = taken(&a);
    assert_eq!(bytes, data[..5_000], "what was not acknowledged");
    assert_eq!((at_a.unread, at_a.queued, at_a.unacked), (0, 5_000, 5_000));
    assert!(at_a.fin_out && !at_a.fin_acked && !at_a.fin_in);
    assert_eq!((at_a.local, at_a.remote), (at_b.remote, at_b.local));
    assert_eq!(at_a.snd_una, at_b.rcv_nxt);
    assert_eq!(at_a.rcv_nxt, at_b.snd_una);
    assert_eq!(at_a.scales.map(|(p, o)| (o, p)), at_b.scales);
    assert_eq!(at_a.sack, at_b.sack);
    assert!(at_a.snd_wnd >= at_a.queued && at_b.rcv_wnd > 0);
    assert!(at_a.timestamp.is_some() == at_b.timestamp.is_some());
}

#[test]
fn the_fins_are_told_apart_from_the_data() {
    let (a, b) = pair();
    a.kernel.willing.store(true, Ordering::Relaxed);
    b.kernel.willing.store(true, Ordering::Relaxed);
    let (c, s) = connect(&a, &b, 82);
    assert_eq!(a.lib.send(c, &[b"last words"], 0), Answer::Value(10));
    assert_eq!(a.lib.shutdown(c, libc::SHUT_WR), Answer::Value(0));
    assert_eq!(recv(&b, s, 64), b"last words");
    thread::sleep(Duration::from_millis(80));
    assert!(b.lib.hand_over(s, Reason::HandedOver));
    assert!(a.lib.hand_over(c, Reason::HandedOver));
    let ((at_a, _), (at_b, _)) = (taken(&a), taken(&b));
    assert!(at_b.fin_in && !at_b.fin_out, "CLOSE_WAIT");
    assert!(at_a.fin_out && at_a.fin_acked && !at_a.fin_in, "FIN_WAIT_2");
    assert_eq!(at_a.snd_una, at_b.rcv_nxt, "the FIN counts nowhere");
    assert_eq!(at_a.rcv_nxt, at_b.snd_una);
}

#[test]
fn sleepers_and_copies_go_on_in_the_kernel() {
    let (a, b) = pair();
    a.kernel.willing.store(true, Ordering::Relaxed);
    let (c, _s) = connect(&a, &b, 83);
    let copy = a.os.fcntl(c, libc::F_DUPFD, 0).expect("dup");
    a.lib.on_dup(c, copy);
    thread::scope(|t| {
        let reader = t.spawn(|| {
            let mut buf = [0; 8];
            a.lib.recv(copy, &mut [&mut buf], 0)
        });
        let poller = t.spawn(|| {
            let mut p = [PollFd::input(c)];
            (a.lib.poll(&mut p, Some(5_000_000_000)), p[0].revents)
        });
        thread::sleep(Duration::from_millis(50));
        assert!(a.lib.hand_over(c, Reason::HandedOver));
        // Not the kernel's as it is: it would sleep there, and must not.
        let told = reader.join().expect("thread");
        assert_eq!(told, Answer::Error(Errno::MOVED));
        // The kernel's half is an unconnected socket here, which hangs up.
        let (r, revents) = poller.join().expect("thread");
        assert_eq!(r, Some(Ok(1)));
        assert_eq!(revents, libc::POLLHUP);
    });
    assert!(matches!(a.lib.look(c), Fd::Kernel));
    assert!(matches!(a.lib.look(copy), Fd::Kernel));
    assert_eq!(a.lib.send(copy, &[b"x"], 0), Answer::Kernel);
}

#[test]
fn memberships_move_to_the_kernels_set() {
    let (a, b) = pair();
    a.kernel.willing.store(true, Ordering::Relaxed);
    let (c, _s) = connect(&a, &b, 84);
    let set = a.os.epoll_create(0).expect("set");
    a.lib.on_epoll_create(set);
    let event = EpollEvent {
        events: (libc::EPOLLIN | libc::EPOLLET) as u32,
        data: 0x1234_5678_9abc_def0,
    };
    assert_eq!(
        a.lib.epoll_ctl(set, libc::EPOLL_CTL_ADD, c, Some(event)),
        Answer::Value(0)
    );
    assert!(a.lib.hand_over(c, Reason::HandedOver));
    // It is the kernel's member now: adding it there once more fails, changing and removing it works.
    assert_eq!(
        a.os.epoll_ctl(set, libc::EPOLL_CTL_ADD, c, Some(event)),
        Err(Errno::EEXIST)
    );
    assert_eq!(
        a.lib.epoll_ctl(set, libc::EPOLL_CTL_MOD, c, Some(event)),
        Answer::Value(0)
    );
    assert_eq!(
        a.lib.epoll_ctl(set, libc::EPOLL_CTL_DEL, c, None),
        Answer::Value(0)
    );
    assert_eq!(a.stack().audit().items, 0);
}

/// Freezes the connection of `fd` as another process would, which then ends.
fn frozen_by_one_who_ends(h: &Host, fd: i32, end: impl FnOnce(&Handover) -> Unfinished) {
    const OWNER: u16 = 40;
    let Fd::Tcp(ep) = h.lib.look(fd) else {
        panic!("not on the stack")
    };
    ep.att.locked(|l| {
        let image = l.handover_begin(ep.sock.id).expect("frozen");
        ep.shared()
            .rlock
            .store(u32::from(OWNER) + 1, Ordering::Release);
        l.owner_gone(OWNER, end(&image));
    });
}

#[test]
fn what_a_dead_process_had_frozen_goes_on_when_the_kernel_has_not_got_it() {
    let (a, b) = pair();
    let (c, s) = connect(&a, &b, 94);
    let data = pattern(50_000);
    assert_eq!(a.lib.send(c, &[&data], 0), Answer::Value(data.len()));
    wait_for("data", || unread(&b, s) == data.len() as u32);
    frozen_by_one_who_ends(&b, s, |_| Unfinished::Stay);
    assert_eq!(recv(&b, s, 10_000), data[..10_000]);
    // The kernel got another one.
    frozen_by_one_who_ends(&b, s, |image| Unfinished::Moved {
        local: image.local,
        remote: image.local,
        filter: 9,
    });
    assert_eq!(recv(&b, s, 40_000), data[10_000..]);
    assert_eq!(b.lib.send(s, &[b"back"], 0), Answer::Value(4));
    assert_eq!(recv(&a, c, 4), b"back");
}

#[test]
fn what_a_dead_process_had_given_to_the_kernel_is_the_kernels() {
    let (a, b) = pair();
    let (c, s) = connect(&a, &b, 95);
    assert_eq!(a.lib.send(c, &[b"unread"], 0), Answer::Value(6));
    wait_for("data", || unread(&b, s) == 6);
    frozen_by_one_who_ends(&b, s, |image| Unfinished::Moved {
        local: image.local,
        remote: image.remote,
        filter: 9,
    });
    let mut buf = [0; 16];
    assert_eq!(b.lib.recv(s, &mut [&mut buf], 0), Answer::Kernel);
}
