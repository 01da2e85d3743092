//! Connections within a host, and what another thread does at just the wrong moment.

mod hosts;

use flyover_core::SockRef;
use flyover_sockets::Errno;
use flyover_sockets::os::{EpollEvent, Os};
use flyover_sockets::policy::Reason;
use flyover_sockets::process::{Answer, Fd};
use hosts::{Host, local_pair};

const ADD: i32 = libc::EPOLL_CTL_ADD;
const MOD: i32 = libc::EPOLL_CTL_MOD;
const DEL: i32 = libc::EPOLL_CTL_DEL;

/// The endpoint of `fd`.
fn endpoint(h: &Host, fd: i32) -> SockRef {
    match h.lib.look(fd) {
        Fd::Tcp(ep) => ep.sock,
        other => panic!("{other:?}"),
    }
}

/// The place in the stack of a connection that the kernel has.
fn mark(h: &Host, fd: i32) -> Option<SockRef> {
    assert!(matches!(h.lib.look(fd), Fd::Kernel));
    h.lib.mark(fd).map(|ep| ep.sock)
}

/// A copy is closed while another thread sends the connection to the kernel: whether it was the last one is asked of the
/// kernel's socket, which then has another answer.
#[test]
fn a_copy_that_is_closed_during_the_move_is_not_the_last_one() {
    let (h, _) = local_pair();
    let (near, far) = h.within(900);
    let copy = h.passed(far);
    let sock = endpoint(&h, copy);
    let (lib, os) = (h.lib, h.os);
    os.before("epoll_collect", move || {
        assert!(lib.hand_over(near, Reason::HandedOver));
        os.fill_stream(far);
    });
    assert_eq!(lib.close(copy), Answer::Value(0));
    assert_eq!(os.hooks_left(), 0);
    assert_eq!(mark(&h, far), Some(sock));
}

/// The same for a connection to another host.
#[test]
fn a_copy_that_is_closed_during_the_handover_is_not_the_last_one() {
    let (a, b) = local_pair();
    a.kernel
        .willing
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let lis = b.socket(libc::AF_INET, libc::SOCK_STREAM);
    b.os.bind(lis, &b.at(90)).expect("bind");
    assert_eq!(b.lib.listen(lis, 16), Answer::Value(0));
    let c = a.socket(libc::AF_INET, libc::SOCK_STREAM);
    assert_eq!(a.lib.connect(c, &b.at(90)), Answer::Value(0));
    let copy = a.passed(c);
    let sock = endpoint(&a, copy);
    let (lib, os, kernel) = (a.lib, a.os, a.kernel);
    os.before("epoll_create", move || {
        assert!(lib.hand_over(c, Reason::Ordered));
        let taken = kernel.taken.lock().expect("lock");
        os.connect_abroad(c, taken[0].0.local, taken[0].0.remote);
    });
    assert_eq!(lib.close(copy), Answer::Value(0));
    assert_eq!(os.hooks_left(), 0);
    assert_eq!(mark(&a, c), Some(sock));
}

fn set_of(h: &Host) -> i32 {
    let set = h.os.epoll_create(0).expect("set");
    h.lib.on_epoll_create(set);
    set
}

fn ctl(h: &Host, set: i32, op: i32, fd: i32, events: i32, data: u64) -> Answer {
    let events = events as u32;
    h.lib
        .epoll_ctl(set, op, fd, Some(EpollEvent { events, data }))
}

/// Another thread sends the connection to the kernel when its member is just leaving the kernel's set, because it had come
/// from there: the change is found there, where the member goes once more.
#[test]
fn a_member_that_comes_and_goes_is_changed_where_it_ends() {
    let (h, _) = local_pair();
    let lis = h.listener(905);
    let near = h.socket(libc::AF_INET, libc::SOCK_STREAM);
    let set = set_of(&h);
    // In the kernel's set from its time as a fresh socket.
    assert_eq!(ctl(&h, set, ADD, near, libc::EPOLLIN, 1), Answer::Value(0));
    let far = h.connect_within(near, lis, 905);
    assert!(h.os.member(set, near).is_some());
    let (lib, others) = (h.lib, std::sync::Arc::new(std::sync::Mutex::new(None)));
    let other = std::sync::Arc::clone(&others);
    h.os.before("epoll_ctl", move || {
        let away = std::thread::spawn(move || lib.hand_over(far, Reason::HandedOver));
        while !matches!(lib.look(near), Fd::Kernel) {
            std::thread::yield_now();
        }
        *other.lock().expect("lock") = Some(away);
    });
    assert_eq!(ctl(&h, set, MOD, near, libc::EPOLLOUT, 2), Answer::Value(0));
    assert_eq!(h.os.hooks_left(), 0);
    let away = others.lock().expect("lock").take().expect("a thread");
    assert!(away.join().expect("thread"));
    let mut out = [EpollEvent::default(); 4];
    assert_eq!(lib.epoll_wait(set, &mut out, Some(0)), Some(Ok(1)));
    assert_eq!((out[0].events, out[0].data), (libc::EPOLLOUT as u32, 2));
    let member = h.os.member(set, near).expect("it is the kernel's");
    assert_eq!((member.events, member.data), (libc::EPOLLOUT as u32, 2));
    assert_eq!(ctl(&h, set, ADD, near, 0, 0), Answer::Error(Errno::EEXIST));
    assert_eq!(ctl(&h, set, DEL, near, 0, 0), Answer::Value(0));
    assert!(h.os.member(set, near).is_none());
    assert_eq!(ctl(&h, set, DEL, near, 0, 0), Answer::Error(Errno::ENOENT));
}

/// The record of a connection that stayed with the kernel, and was closed there, says nothing of the next one that has its
/// number, and becomes a member before it is connected.
#[test]
fn a_number_that_is_used_again_is_another_member() {
    let (h, _) = local_pair();
    let (set, lis) = (set_of(&h), h.listener(907));
    let (near, far) = h.within(906);
    assert!(h.lib.hand_over(far, Reason::HandedOver));
    // A mark, as the other end is; then it stays for good.
    assert_eq!(ctl(&h, set, ADD, near, libc::EPOLLIN, 1), Answer::Value(0));
    assert!(h.lib.give_to_kernel(near, Reason::Option));
    assert_eq!(h.lib.close(near), Answer::Kernel);
    h.os.close(near).expect("close");
    let next = h.socket(libc::AF_INET, libc::SOCK_STREAM);
    assert_eq!(next, near, "the number");
    assert_eq!(ctl(&h, set, ADD, next, libc::EPOLLIN, 2), Answer::Value(0));
    let _far = h.connect_within(next, lis, 907);
    assert_eq!(ctl(&h, set, MOD, next, libc::EPOLLOUT, 3), Answer::Value(0));
    assert_eq!(ctl(&h, set, DEL, next, 0, 0), Answer::Value(0));
}

/// Another connection of the kernel's, of which the library knows nothing: what comes out at one end, and a copy of the other
/// end that takes over the number `fd` as soon as that is free.
struct Stranger {
    end: i32,
    seen: i32,
}

impl Stranger {
    fn new(h: &Host, port: u16) -> Self {
        let (os, at) = (h.os, h.at(port));
        let lis = h.listener(port);
        let end = os.socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        let end = end.expect("descriptor");
        os.connect(end, &at).expect("connect");
        let (seen, _) = os.accept(lis, 0).expect("accept");
        Self { end, seen }
    }

    /// The number `fd` is closed, where the library does not see it, and what is opened next has it.
    fn takes(&self, h: &Host, fd: i32) -> impl FnOnce() + Send + 'static {
        let (os, end) = (h.os, self.end);
        move || {
            os.close(fd).expect("close");
            assert_eq!(os.fcntl(end, libc::F_DUPFD, fd as usize), Ok(fd));
        }
    }
}

fn copy(h: &Host, fd: i32) -> i32 {
    let copy = h.os.fcntl(fd, libc::F_DUPFD, 3).expect("a copy");
    h.lib.on_dup(fd, copy);
    copy
}

fn recv(h: &Host, fd: i32) -> Vec<u8> {
    let mut buf = [0; 64];
    match h.lib.recv(fd, &mut [&mut buf], libc::MSG_DONTWAIT) {
        Answer::Value(n) => buf[..n].to_vec(),
        other => panic!("{other:?}"),
    }
}

/// What waits in the queues goes through the kernel by a descriptor that was found in the table. Another thread closes that
/// number just then, and it is another file's when it is copied.
#[test]
fn bytes_that_go_back_do_not_go_to_the_numbers_next_file() {
    let (h, _) = local_pair();
    let (near, far) = h.within(901);
    let other = Stranger::new(&h, 902);
    let second = copy(&h, far);
    assert_eq!(h.lib.send(far, &[b"to near"], 0), Answer::Value(7));
    h.os.before("copy", other.takes(&h, far));
    assert!(h.lib.hand_over(near, Reason::HandedOver));
    assert_eq!(h.os.hooks_left(), 0);
    assert_eq!(h.os.drain_stream(other.seen), b"");
    assert_eq!(h.os.drain_stream(near), b"to near");
    assert!(mark(&h, second).is_some());
}

/// The same with the number that the call was made with: then nobody is left to do it for, and the pair goes on as it was.
#[test]
fn a_call_whose_own_number_is_closed_moves_nothing() {
    let (h, _) = local_pair();
    let (near, far) = h.within(903);
    let other = Stranger::new(&h, 904);
    let second = copy(&h, near);
    assert_eq!(h.lib.send(far, &[b"to near"], 0), Answer::Value(7));
    assert_eq!(h.lib.send(near, &[b"to far"], 0), Answer::Value(6));
    // First near's bytes go through a copy of the other end.
    h.os.before("copy", || {});
    h.os.before("copy", other.takes(&h, near));
    assert!(!h.lib.hand_over(near, Reason::HandedOver));
    assert_eq!(h.os.hooks_left(), 0);
    assert_eq!(h.os.drain_stream(other.seen), b"");
    assert_eq!(h.lib.send(far, &[b" and more"], 0), Answer::Value(9));
    assert_eq!(recv(&h, second), b"to near and more");
    assert_eq!(recv(&h, far), b"to far");
}
