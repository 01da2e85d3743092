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
