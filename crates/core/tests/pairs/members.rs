//! Members of epoll sets whose connection is on its way to the kernel, or back: what is asked of them is done where they are.

use std::sync::atomic::Ordering::Relaxed;

use flyover_core::stack::wake::Changed;
use flyover_core::{ItemMode, ev};
use flyover_shm::Unlock;

use crate::host::{Host, ME, with_host};

const EDGE: ItemMode = ItemMode {
    edge: true,
    oneshot: false,
    exclusive: false,
    private: false,
    quiet: false,
    away: false,
};

/// The call found the connection here, and it went before the member was asked, which was still in the kernel's set: to
/// change the stack's would leave the kernel's as it was, and to remove it would leave that one behind.
#[test]
fn a_member_of_the_kernels_set_is_not_changed_here() {
    with_host(|h| {
        let sock = h.ends[0];
        let away = ItemMode { away: true, ..EDGE };
        let (set, item) = h.locked(|l| {
            let set = l.set_alloc().expect("a set");
            let item = l.item_add(set, sock.id, ev::IN, 1, away);
            (set, item.expect("an item"))
        });
        assert!(h.pair());
        assert!(h.part(true));
        let place = (set, sock);
        let changed = h.locked(|l| l.item_change(item, place, ev::OUT, 2, EDGE));
        assert_eq!(changed, Changed::Away);
        assert_eq!(h.locked(|l| l.item_remove(item, set, sock)), Changed::Away);
        let view = h.locked(|l| l.item_view(item)).expect("it stays");
        assert!(view.away);
        assert_eq!((view.events, view.data), (ev::IN, 1));
    });
}

/// Another thread, or another process, has removed it, and its place in the table is another's by now.
#[test]
fn a_place_that_has_another_owner_is_left_alone() {
    with_host(|h| {
        assert!(h.pair());
        let [a, b] = h.ends;
        let (set, other, item) = h.locked(|l| {
            let (set, other) = (l.set_alloc().expect("a set"), l.set_alloc().expect("a set"));
            let item = l.item_add(set, a.id, ev::IN, 1, EDGE).expect("an item");
            assert_eq!(l.item_remove(item, set, a), Changed::Yes);
            let next = l.item_add(other, b.id, ev::OUT, 2, EDGE);
            assert_eq!(next, Ok(item), "the table gives the last one first");
            (set, other, item)
        });
        let gone = h.locked(|l| {
            [
                l.item_change(item, (set, a), ev::OUT, 3, EDGE),
                l.item_change(item, (set, b), ev::OUT, 3, EDGE),
                l.item_remove(item, other, a),
            ]
        });
        assert_eq!(gone, [Changed::Gone; 3]);
        let view = h.locked(|l| l.item_view(item)).expect("the other one");
        assert_eq!((view.set, view.sock, view.data), (other, b.id, 2));
    });
}

/// Of two processes that hold the set one moves it; the other one waits, and finds nothing left to do, or takes the first one
/// for dead.
#[test]
fn one_process_moves_a_member() {
    with_host(|h| {
        assert!(h.pair());
        let sock = h.ends[0];
        let (set, item) = h.locked(|l| {
            let set = l.set_alloc().expect("a set");
            let item = l.item_add(set, sock.id, ev::IN, 1, EDGE);
            (set, item.expect("an item"))
        });
        let claim =
            |h: &mut Host<'_>, away, force| h.locked(|l| l.item_claim(item, set, away, force));
        assert_eq!(claim(h, false, false), Changed::Gone, "it is in its place");
        assert!(h.part(true));
        assert_eq!(claim(h, true, false), Changed::Gone, "it is not there");
        assert_eq!(claim(h, false, false), Changed::Yes);
        assert_eq!(claim(h, false, false), Changed::Busy);
        let change = (set, sock);
        let changed = h.locked(|l| l.item_change(item, change, ev::OUT, 2, EDGE));
        assert_eq!(changed, Changed::Busy);
        assert_eq!(h.locked(|l| l.item_remove(item, set, sock)), Changed::Busy);
        assert_eq!(claim(h, false, true), Changed::Yes);
        assert!(h.locked(|l| l.item_settle(item, sock.id, true, || false)));
        assert_eq!(claim(h, false, true), Changed::Gone);
        assert_eq!(h.locked(|l| l.item_remove(item, set, sock)), Changed::Away);
    });
}

/// The kernel's set got the member of a connection that is to stay there; meanwhile it came back all the same. The member
/// follows, instead of ending.
#[test]
fn what_came_back_while_it_moved_follows() {
    with_host(|h| {
        assert!(h.pair());
        let sock = h.ends[0];
        let (set, item) = h.locked(|l| {
            let set = l.set_alloc().expect("a set");
            let item = l.item_add(set, sock.id, ev::IN, 1, EDGE);
            (set, item.expect("an item"))
        });
        assert!(h.locked(|l| l.item_settle(item, sock.id, true, || true)));
        let mut back = Vec::new();
        h.locked(|l| l.set_returned(set, |i, _| back.push(i)));
        assert_eq!(back, [item]);
        assert!(h.part(true));
        assert!(!h.locked(|l| l.item_settle(item, sock.id, true, || true)));
        assert!(h.locked(|l| l.item_view(item)).is_none());
    });
}

/// Two sends while another thread holds the lock: the set's list has them in the order in which they were made, as if he had not
/// been there.
#[test]
fn what_the_locks_holder_is_told_keeps_its_order() {
    for turned in [false, true] {
        with_host(|h| {
            assert!(h.pair());
            for end in [0, 1] {
                h.welcome(end);
            }
            let set = h.locked(|l| l.set_alloc()).expect("a set");
            for (word, at) in h.ends.into_iter().enumerate() {
                let item = h.locked(|l| l.item_add(set, at.id, ev::IN, word as u64, EDGE));
                let _ = item.expect("an item");
            }
            let mut told = h.ends;
            if turned {
                told.reverse();
            }
            for at in told {
                let from = h.ends.into_iter().find(|from| *from != at);
                let sent = h.st.local_send_fast(from.expect("the other"), &[b"x"], ME);
                assert_eq!(sent.and_then(|s| s.watched), Some(at.id));
            }
            h.tell_the_holder(&told.map(|at| at.id));
            let mut words = Vec::new();
            let _: usize = h.locked(|l| l.set_drain(set, 8, |r| words.push(r.data)));
            let expected = if turned { [1, 0] } else { [0, 1] };
            assert_eq!(words, expected);
        });
    }
}

/// He dies when he has begun with it: whoever recovers the stack does the rest, and what is left to the lock's holder later on
/// is done as well.
#[test]
fn what_was_left_to_a_holder_who_dies_is_not_lost() {
    const DEAD: u16 = 9;
    with_host(|h| {
        assert!(h.pair());
        let ids = h.ends.map(|at| at.id);
        let lock = h.st.lock();
        assert!(lock.try_lock(DEAD));
        ids.iter().for_each(|id| h.tell(*id));
        assert!(matches!(lock.try_unlock(), Unlock::Deferred(_)));
        assert!(lock.take_over(DEAD, ME));
        h.recover(DEAD);
        for id in ids {
            assert_eq!(h.st.sock(id).dbits.load(Relaxed), 0);
        }
        let set = h.locked(|l| l.set_alloc()).expect("a set");
        let item = h.locked(|l| l.item_add(set, ids[0], ev::IN, 1, EDGE));
        let _ = item.expect("an item");
        h.welcome(0);
        let sent = h.st.local_send_fast(h.ends[1], &[b"x"], ME);
        assert_eq!(sent.map(|s| s.n), Some(1));
        h.tell_the_holder(&ids);
        assert!(h.st.set_has_ready(set));
    });
}
