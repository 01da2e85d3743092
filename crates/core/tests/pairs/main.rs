//! Two ends of a connection within one host: marks, pairing, bytes that the kernel held, the way back, and the end at any
//! point. The kernel is two queues and the counts that it keeps.
#![allow(missing_docs)]

mod ends;
mod host;
mod members;
mod parts;

use std::sync::atomic::Ordering::Relaxed;

use flyover_core::local::{Enter, Facts};
use flyover_core::sock::SHUT_WR;
use flyover_core::stack::deferred::work;
use flyover_core::{Error, ItemMode, Unfinished, ev};
use flyover_shm::OptIdx;
use host::{Host, ME, with_host};

#[test]
fn nobody_pairs_while_a_call_is_inside() {
    with_host(|h| {
        let [a, b] = h.ends.map(|s| s.id);
        assert_eq!(h.st.kernel_enter(b), Enter::Kernel);
        assert_eq!(h.hold(), None);
        assert_eq!(h.st.kernel_enter(a), Enter::Kernel, "nobody holds it");
        assert_eq!((h.st.kernel_leave(a), h.st.kernel_leave(b)), (1, 1));
        let (own, other) = h.hold().expect("nobody is inside");
        assert_eq!((own.calls, other.calls), (1, 1));
        assert_eq!(h.st.kernel_enter(a), Enter::Wait);
        assert_eq!(h.hold(), None, "somebody is at it");
        let done = h.locked(|l| l.local_pair((own, Facts::default()), (other, Facts::default())));
        assert_eq!(done, Ok(()));
        assert_eq!(h.st.kernel_enter(a), Enter::Here);
        assert_eq!(h.st.kernel_enter(b), Enter::Here);
    });
}

#[test]
fn a_hold_that_was_broken_pairs_nobody() {
    with_host(|h| {
        let (own, other) = h.hold().expect("a hold");
        h.locked(|l| l.local_break_hold(other.sock));
        assert_eq!(h.st.kernel_enter(other.sock.id), Enter::Kernel);
        let late = h.locked(|l| l.local_pair((own, Facts::default()), (other, Facts::default())));
        assert_eq!(late, Err(Error::WouldBlock));
        assert!(h.is_mark(0) && h.is_mark(1));
        assert_eq!(
            h.st.kernel_enter(own.sock.id),
            Enter::Kernel,
            "it was let go"
        );
    });
}

#[test]
fn what_the_kernel_held_is_read_first() {
    with_host(|h| {
        assert_eq!(h.send(0, b"one "), 4);
        assert!(h.pair());
        assert_eq!(h.send(0, b"two"), 3);
        assert_eq!(h.read(1, 100), b"one two");
        assert!(h.part(true) && h.is_mark(0) && h.is_mark(1));
        assert!(!h.pair(), "an order sent it there");
        let id = h.ends[0].id;
        h.locked(|l| l.local_allow(id));
        assert!(h.pair());
    });
}

#[test]
fn bytes_that_do_not_come_reset_both() {
    with_host(|h| {
        assert_eq!(h.send(0, b"four"), 4);
        assert!(h.pair());
        let id = h.ends[1].id;
        assert!(h.st.local_welcome(id, ME));
        assert!(!h.locked(|l| l.local_bring_in(id, b"fou")));
        h.st.local_welcomed(id);
        for end in h.ends {
            assert_eq!(h.st.take_error(end.id), libc_reset());
        }
    });
}

/// A process that died while it appended lets nobody wait, and takes no byte along.
#[test]
fn a_producer_that_died_is_forgotten() {
    with_host(|h| {
        assert!(h.pair());
        assert_eq!(h.send(0, b"before "), 7);
        let dead = 9;
        h.st.sock(h.ends[1].id).plock.store(dead + 1, Relaxed);
        assert_eq!(h.send(0, b"not now"), 0);
        let done = h.locked(|l| l.owner_gone(dead as u16, Unfinished::Stay));
        assert!(done);
        assert_eq!(h.send(0, b"after"), 5);
        assert_eq!(h.read(1, 100), b"before after");
    });
}

/// A process that died while it read takes no buffer along: one that had left the queue, and was not free yet.
#[test]
fn a_reader_that_died_is_forgotten() {
    with_host(|h| {
        assert!(h.pair());
        assert_eq!(h.send(0, &[6; 9000]), 9000);
        let s = h.st.sock(h.ends[1].id);
        let dead = 9;
        s.rlock.store(dead + 1, Relaxed);
        s.rq_keep.set(0);
        for end in [&s.rq_first, &s.rq_head, &s.rq_tail, &s.rq_past] {
            end.set(OptIdx::NONE);
        }
        assert!(h.locked(|l| l.owner_gone(dead as u16, Unfinished::Stay)));
        let audit = h.st.audit();
        assert_eq!(audit.bufs_tagged, audit.bufs_queued, "{audit:?}");
    });
}

/// A stream goes round in a chain of buffers, which grows with what goes through it, keeps a part of the stack's buffers
/// free, and is given back when its queue lies idle.
#[test]
fn a_stream_goes_round_in_its_chain() {
    with_host(|h| {
        assert!(h.pair());
        let byte = |at: usize| (at * 31 + at / 251) as u8;
        let (mut sent, mut got, mut dice) = (0, 0, 7u64);
        while sent < 12 << 20 {
            let n = 1 + draw(&mut dice, 20_000) as usize;
            let data: Vec<u8> = (sent..sent + n).map(byte).collect();
            sent += h.send(0, &data);
            let most = 1 + draw(&mut dice, 22_000) as usize;
            for b in h.read(1, most) {
                assert_eq!(b, byte(got));
                got += 1;
            }
        }
        let (used, all) = h.st.buf_usage();
        assert!(used > 64 && used <= all / 4 + 64, "{used} of {all}");
        while got < sent {
            got += h.read(1, 9000).len();
        }
        let audit = h.st.audit();
        assert_eq!(audit.bufs_tagged, audit.bufs_queued, "{audit:?}");
        let id = h.ends[1].id;
        // Small messages need one buffer.
        for _ in 0..200 {
            assert_eq!((h.send(0, &[1; 64]), h.read(1, 64).len()), (64, 64));
        }
        assert_eq!(h.st.buf_usage().0, 1);
        assert_eq!(h.send(0, &[2; 30_000]), 30_000);
        assert_eq!(h.read(1, 30_000).len(), 30_000);
        assert!(h.st.buf_usage().0 > 1);
        h.do_work(id, work::WINDOW);
        assert_eq!(h.st.buf_usage().0, 0);
    });
}

/// A producer that died in the middle of a chain: what it had published is read, and nothing else.
#[test]
fn a_chain_outlives_its_producer() {
    with_host(|h| {
        assert!(h.pair());
        for _ in 0..40 {
            assert_eq!(h.send(0, &[3; 9000]), 9000);
            assert_eq!(h.read(1, 9000).len(), 9000);
        }
        assert_eq!(h.send(0, &[4; 9000]), 9000);
        assert_eq!(h.read(1, 5000), [4; 5000]);
        let s = h.st.sock(h.ends[1].id);
        let dead = 9;
        s.plock.store(dead + 1, Relaxed);
        assert!(h.locked(|l| l.owner_gone(dead as u16, Unfinished::Stay)));
        assert_eq!(h.read(1, 9000), [4; 4000]);
        assert_eq!(h.send(0, &[5; 12_000]), 12_000);
        assert_eq!(h.read(1, 20_000), [5; 12_000]);
        let audit = h.st.audit();
        assert_eq!(audit.bufs_tagged, audit.bufs_queued, "{audit:?}");
    });
}

/// A sender has lost its CPU in the middle of a send: the pair stays one until he is done, since what he is going to append
/// would go with the queue.
#[test]
fn a_pair_does_not_go_apart_while_somebody_sends() {
    with_host(|h| {
        assert!(h.pair());
        assert_eq!(h.send(0, b"one "), 4);
        assert_eq!(h.read(1, 2), b"on");
        let [a, b] = h.ends.map(|at| at.id);
        for stuck in [a, b] {
            h.st.sock(stuck).plock.store(u32::from(ME) + 1, Relaxed);
            let parted = h.locked(|l| l.local_part(a));
            assert_eq!(parted, Err(Error::WouldBlock));
            h.st.sock(stuck).plock.store(0, Relaxed);
        }
        assert_eq!(h.send(0, b"two"), 3, "it goes on");
        assert_eq!(h.read(1, 3), b"e t");
        assert!(h.part(true));
        assert_eq!(h.read(1, 9), b"wo");
    });
}

/// An edge-triggered member of the kernel's set whose connection comes back: what the kernel told is not told again, what
/// happened since is.
#[test]
fn an_edge_is_told_once() {
    for news in [false, true] {
        with_host(|h| {
            let id = h.ends[1].id;
            let how = ItemMode {
                edge: true,
                away: true,
                ..ItemMode::default()
            };
            assert_eq!(h.send(0, b"old"), 3);
            let (set, item) = h.locked(|l| {
                let set = l.set_alloc().expect("a set");
                (set, l.item_add(set, id, ev::IN, 0, how).expect("an item"))
            });
            assert!(!h.st.set_has_ready(set), "the kernel's set has it");
            assert!(h.pair());
            if news {
                assert_eq!(h.send(0, b"new"), 3);
            }
            let mut back = Vec::new();
            h.locked(|l| l.set_returned(set, |i, old| back.push((i, old))));
            assert_eq!(back, [(item, !news)]);
            assert!(h.locked(|l| l.item_back_quietly(item, id, true)));
            assert_eq!(h.st.set_has_ready(set), news);
        });
    }
}

fn libc_reset() -> i32 {
    Error::Reset.errno()
}

fn draw(state: &mut u64, n: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 20) % n
}

/// Everything in any order: each direction is one stream, and what was sent before a FIN is read before the end.
#[test]
fn whatever_happens_the_streams_are_whole() {
    for seed in 1..120u64 {
        with_host(|h| walk(h, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
}

fn walk(h: &mut Host<'_>, mut dice: u64) {
    let (mut sent, mut got) = ([0usize; 2], [0usize; 2]);
    let stream = |from: usize, at: usize| (at * 31 + from * 7 + at / 251) as u8;
    let mut shut = [false; 2];
    for _ in 0..60 {
        let end = draw(&mut dice, 2) as usize;
        match draw(&mut dice, 10) {
            0..=3 if !shut[end] => {
                let n = 1 + draw(&mut dice, 9000) as usize;
                let data: Vec<u8> = (sent[end]..sent[end] + n)
                    .map(|at| stream(end, at))
                    .collect();
                sent[end] += h.send(end, &data);
            }
            4 | 5 => {
                let most = 1 + draw(&mut dice, 9000) as usize;
                for b in h.read(end, most) {
                    assert_eq!(b, stream(1 - end, got[end]));
                    got[end] += 1;
                }
            }
            6 => {
                let id = h.ends[0].id;
                h.locked(|l| l.local_allow(id));
                let _: bool = h.pair();
            }
            7 if shut == [false; 2] => {
                let _: bool = h.part(draw(&mut dice, 2) == 0);
            }
            8 if draw(&mut dice, 6) == 0 && !shut[end] && !h.is_mark(end) => {
                let id = h.ends[end].id;
                h.welcome(end);
                assert_eq!(h.locked(|l| l.shutdown(id, SHUT_WR)), Ok(()));
                shut[end] = true;
            }
            _ => {}
        }
    }
    for end in 0..2 {
        loop {
            let bytes = h.read(end, 70_000);
            if bytes.is_empty() {
                break;
            }
            for b in bytes {
                assert_eq!(b, stream(1 - end, got[end]));
                got[end] += 1;
            }
        }
        assert_eq!(got[end], sent[1 - end], "all of it");
    }
    let ids = h.ends.map(|s| s.id);
    h.locked(|l| ids.iter().for_each(|id| l.close(*id)));
    let audit = h.st.audit();
    assert_eq!(audit.bufs_tagged, 0, "{audit:?}");
}
