//! Buffers after a death: which queue holds them, and which are free.

use crate::error::Error;
use crate::sock::net::NetSock;
use crate::sock::{Kind, SockId, flag, recvq};
use crate::stack::Stack;
use crate::stack::buf::{Buf, BufId};
use crate::stack::locked::Locked;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use flyover_shm::{Idx, OptIdx};

/// Tag of a buffer that the walk has reached.
const REACHED: u32 = 2;
/// How often a receive lock is tried that a living reader holds: a few hundred microseconds, for a copy of a few KiB.
const TRIES: u32 = 200_000;

impl Locked<'_, '_, '_> {
    /// Finds the buffers that belong to no queue and makes the free list anew. False when some reader did not come out:
    /// nothing was done then. `dead`: the owner slot whose receive locks are open to all.
    pub fn mend_buffers(&mut self, dead: u16) -> bool {
        let st = self.st;
        let me = u32::from(self.env.me) + 1;
        let mut tries = TRIES;
        for r in st.each_sock() {
            let s = st.sock(r.id);
            let _: Result<u32, u32> =
                s.rlock
                    .compare_exchange(u32::from(dead) + 1, 0, Release, Relaxed);
            while !recvq::lock(s, self.env.me) {
                // A connection on its way to the kernel stays locked: its process reads no queue.
                if s.has(flag::HANDING_OVER) {
                    break;
                }
                tries -= 1;
                if tries == 0 {
                    self.let_users_in(me);
                    return false;
                }
                core::hint::spin_loop();
            }
            // Senders within a pair take buffers without the stack lock.
            while s.plock.compare_exchange(0, me, Acquire, Relaxed).is_err() {
                tries -= 1;
                if tries == 0 {
                    self.let_users_in(me);
                    return false;
                }
                core::hint::spin_loop();
            }
        }
        // Their tags say free: the list that is made now has them.
        st.forget_kept();
        self.walk_queues();
        self.let_users_in(me);
        true
    }

    fn let_users_in(&self, me: u32) {
        for r in self.st.each_sock() {
            let s = self.st.sock(r.id);
            for lock in [&s.rlock, &s.plock] {
                let _: Result<u32, u32> = lock.compare_exchange(me, 0, Release, Relaxed);
            }
        }
    }

    /// Buffers that no queue reaches are freed; a queue that runs into another one, or in a circle, is cut there.
    fn walk_queues(&mut self) {
        let st = self.st;
        for r in st.each_sock() {
            let s = st.sock(r.id);
            let received = walk(st, recvq::first(s));
            if s.rq_tail.get() != received.last {
                s.rq_tail.set(received.last);
                s.rq_fill.set(0);
            }
            let mut cut = received.cut;
            if let Some(s) = st.net_of(r.id) {
                cut |= walk(st, s.net.sq_head.get()).cut;
                cut |= walk(st, s.net.tcb.ooo.get()).cut;
            }
            if cut {
                self.cut(r.id);
            }
        }
        for i in 0..st.state.buf_slots.touched(st.bufs) {
            let h = &st.bufs.at(Idx::new(i)).hdr;
            let reached = h.tag.load(Relaxed) == REACHED;
            h.tag.store(u32::from(reached), Relaxed);
        }
        st.state.buf_slots.rebuild(st.bufs);
        st.state
            .bufs_used
            .store(st.state.buf_slots.used.load(Relaxed), Relaxed);
    }

    fn cut(&mut self, id: SockId) {
        let s = self.st.net(id);
        let _: u64 = self.st.state.stats.corrupt.fetch_add(1, Relaxed);
        forget_queues(s);
        s.rlock.store(0, Release);
        if s.kind() == Kind::Tcp {
            self.reset_conn(id, Error::Reset);
        }
    }

    /// An append that came half way: the last buffer, and as many bytes as there are. What `send` did not report yet
    /// may go out, as when the kernel is interrupted in a `send`.
    pub(super) fn rebuild_send_queues(&mut self) {
        let st = self.st;
        for r in st.each_sock() {
            let Some(s) = st.net_of(r.id) else { continue };
            let mut bytes = 0u32;
            let mut last = OptIdx::NONE;
            let mut cur = s.net.sq_head.get().opt();
            let mut guard = st.limits().bufs;
            while let Some(id) = cur
                && guard > 0
            {
                guard -= 1;
                bytes = bytes.saturating_add(st.buf(id).len.get());
                last = id.into();
                cur = st.buf(id).next.get().opt();
            }
            s.net.sq_tail.set(last);
            s.net.sq_cur.set(OptIdx::NONE);
            s.net.sq_cur_off.set(0);
            s.net.sq_len.store(bytes, Release);
        }
    }
}

/// What a walk through a queue found.
struct Walk {
    /// The last buffer.
    last: OptIdx<Buf>,
    /// The queue ran into buffers that were reached already.
    cut: bool,
}

/// Marks a queue's buffers as reached.
fn walk(st: Stack<'_>, head: OptIdx<Buf>) -> Walk {
    let mut last = OptIdx::NONE;
    let mut cur = head.opt();
    while let Some(id) = cur {
        if !reach(st, id) {
            return Walk { last, cut: true };
        }
        last = id.into();
        cur = st.buf(id).next.get().opt();
    }
    Walk { last, cut: false }
}

/// Marks a buffer and the rest of its datagram.
fn reach(st: Stack<'_>, id: BufId) -> bool {
    let mut part = Some(id);
    while let Some(p) = part {
        if st.buf(p).hdr.tag.swap(REACHED, Relaxed) == REACHED {
            return false;
        }
        part = st.buf(p).more.get().opt();
    }
    true
}

fn forget_queues(s: NetSock<'_>) {
    recvq::forget(&s);
    s.rq_out.store(s.rq_in.load(Relaxed), Relaxed);
    if !s.is_net() {
        return;
    }
    let (n, t) = (s.net, &s.net.tcb);
    for head in [&n.sq_head, &n.sq_tail, &n.sq_cur, &t.ooo] {
        head.set(OptIdx::NONE);
    }
    t.ooo_bufs.set(0);
    n.sq_len.store(0, Relaxed);
}
