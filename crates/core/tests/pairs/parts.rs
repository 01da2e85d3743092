//! A slot's second part is a socket's of the network. Nothing that happens to a mark or a pair may touch it, and no look at
//! them (`with_host` checks it in every test): it would cost an idle connection more than its slot does.

use super::host::{Host, end, with_host, with_stack};
use flyover_core::sock::{Kind, SHUT_RD, SHUT_WR, flag};
use flyover_core::{Error, Instant, SendFlags, SockOpt};

/// All that is asked of sockets without changing them.
fn look(h: &Host<'_>) {
    let st = h.st;
    assert!(st.rows().count() > 0);
    let audit = st.audit();
    assert_eq!(audit.endless, 0, "{audit:?}");
    for id in h.ends.map(|s| s.id) {
        let _ = (st.readiness(id), st.tcp_info(id, Instant(2)), st.inq(id));
        let _ = (st.outq(id), st.outq_unsent(id), st.all_acked(id));
        let _ = (st.at_mark(id), st.take_any_error(id), st.to_accept(id));
        let _ = (
            st.opt(id, SockOpt::MaxSeg),
            st.opt(id, SockOpt::WindowClamp),
        );
    }
}

fn set_all(h: &mut Host<'_>) {
    for id in h.ends.map(|s| s.id) {
        for opt in [
            SockOpt::NoDelay,
            SockOpt::Cork,
            SockOpt::QuickAck,
            SockOpt::KeepAlive,
            SockOpt::KeepIdle,
            SockOpt::WindowClamp,
            SockOpt::MaxSeg,
        ] {
            h.locked(|l| {
                l.set_opt(id, opt, 1000);
                l.set_opt(id, opt, 0);
            });
        }
    }
}

#[test]
fn looks_options_and_recovery_leave_it_alone() {
    with_host(|h| {
        look(h);
        set_all(h);
        assert!(h.locked(|l| l.recover(9)));
        assert!(h.pair());
        set_all(h);
        assert_eq!(h.send(0, b"some"), 4);
        look(h);
        assert!(h.locked(|l| l.recover(9)));
        let _: u32 = h.locked(|l| l.poll(64));
        look(h);
        assert_eq!(h.read(1, 100), b"some");
    });
}

#[test]
fn every_end_leaves_it_alone() {
    for how in 0..5 {
        with_host(|h| {
            let [a, b] = h.ends.map(|s| s.id);
            assert!(how == 0 || h.pair());
            h.locked(|l| match how {
                0 => {}
                1 => l.abort(a),
                2 => {
                    assert_eq!(l.shutdown(a, SHUT_RD | SHUT_WR), Ok(()));
                    assert_eq!(l.shutdown(b, SHUT_WR), Ok(()));
                }
                3 => {
                    let n = l.tcp_send(a, &[&b"unread"[..]], SendFlags::default());
                    assert_eq!(n, Ok(6));
                    l.close(b);
                }
                _ => l.close(a),
            });
            look(h);
            h.locked(|l| [a, b].iter().for_each(|id| l.close(*id)));
            assert_eq!(h.st.rows().count(), 0);
            assert!(h.locked(|l| l.recover(9)));
        });
    }
}

/// An urgent byte is noted in the slot itself.
#[test]
fn urgent_data_leaves_it_alone() {
    with_host(|h| {
        assert!(h.pair());
        let [a, b] = h.ends.map(|s| s.id);
        let oob = SendFlags {
            oob: true,
            ..SendFlags::default()
        };
        assert_eq!(h.locked(|l| l.tcp_send(a, &[&b"ab!"[..]], oob)), Ok(3));
        assert_eq!(h.read(1, 10), b"ab");
        assert!(h.st.at_mark(b));
        assert_eq!(h.st.tcp_recv_oob(h.st.sock_ref(b), false, 1), Ok(b'!'));
        assert_eq!(
            h.st.tcp_recv_oob(h.st.sock_ref(b), false, 1),
            Err(Error::Invalid)
        );
        look(h);
        // A second one counts anew.
        assert_eq!(h.locked(|l| l.tcp_send(a, &[&b"?"[..]], oob)), Ok(1));
        assert_eq!(h.st.tcp_recv_oob(h.st.sock_ref(b), true, 1), Ok(b'?'));
    });
}

/// A slot that was of the network before: a mark in it does not go by what is left, and whoever is of the network next finds
/// nothing of it.
#[test]
fn nothing_is_left_of_the_time_before() {
    let _ = with_stack(|h| {
        let (a, b) = (end("127.0.0.1:4000"), end("127.0.0.1:80"));
        let before = h.locked(|l| l.sock_alloc(Kind::Tcp, false, 1).expect("a slot"));
        let net = h.st.net(before.id).net;
        net.tcb.t_rtx.set(77);
        net.sq_cur_off.set(5);
        h.locked(|l| l.free_unused(before.id));
        let mark = h.locked(|l| l.local_mark(false, 2, a, b, 5).expect("a mark"));
        assert_eq!((mark.id, h.st.net_of(mark.id).is_none()), (before.id, true));
        // As if its maker had died before he said that it is a mark.
        h.st.sock(mark.id).clear_flag(flag::HANDED_OVER);
        assert!(h.locked(|l| l.recover(9)));
        assert_eq!(h.st.sock(mark.id).tslot.get(), 0, "no timer is left");
        h.st.sock(mark.id).set_flag(flag::HANDED_OVER);
        assert_eq!(h.locked(|l| l.takeover_begin(mark.id, a, b)), Ok(()));
        assert_eq!((net.tcb.t_rtx.get(), net.sq_cur_off.get()), (0, 0));
        assert!(h.st.net_of(mark.id).is_some());
    });
}
