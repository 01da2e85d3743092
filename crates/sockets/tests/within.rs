//! Connections within a host, and what another thread does at just the wrong moment.

mod hosts;

use flyover_core::SockRef;
use flyover_sockets::os::Os;
use flyover_sockets::policy::Reason;
use flyover_sockets::process::{Answer, Fd};
use hosts::{Host, local_pair};

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

/// Another connection of the kernel's, of which the library knows nothing: what comes out at one end, and a copy of the other
/// end that takes over the number `fd` as soon as that is free.
struct Stranger {
    end: i32,
    seen: i32,
}

impl Stranger {
    fn new(h: &Host, port: u16) -> Self {
        let (os, at) = (h.os, h.at(port));
        let lis = os.socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        let lis = lis.expect("descriptor");
        os.bind(lis, &at).expect("bind");
        os.listen(lis, 1).expect("listen");
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
