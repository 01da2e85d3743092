//! After the lock's holder died: the structures are made whole from per-object state, the one socket that was being
//! changed is reset, and the stack goes on. The caller has taken the lock over.

use super::Stack;
use super::locked::Locked;
use crate::error::Error;
use crate::sock::{Kind, Sock, flag};
use crate::stack::buf::Buf;
use crate::stack::wake::{Waiter, wstate};
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_shm::{Idx, OptIdx};

/// Tag of a buffer that the walk has reached.
const REACHED: u32 = 2;

impl Locked<'_, '_, '_> {
    /// Rebuilds lists, tables and free lists.
    pub fn recover(&mut self) {
        let st = self.st;
        let _: u64 = st.state.stats.takeovers.fetch_add(1, Relaxed);
        let suspect = st.state.intent.swap(0, Relaxed);
        for i in 0..self.env.nics.count() {
            if let Some(nic) = self.env.nics.nic(i) {
                nic.recover();
            }
        }
        self.rebuild_buckets();
        self.rebuild_buffers();
        self.rebuild_timers();
        self.rebuild_ready();
        st.state.sock_slots.rebuild(st.socks);
        st.state.item_slots.rebuild(st.items);
        st.state.set_slots.rebuild(st.sets);
        st.state.waiter_slots.rebuild(st.waiters);
        if let Some(i) = suspect.checked_sub(1) {
            let id = Idx::new(i & (st.limits().socks - 1));
            if st.sock(id).kind() == Kind::Tcp {
                self.reset_conn(id, Error::Reset);
            }
        }
    }

    fn rebuild_buckets(&mut self) {
        let st = self.st;
        for i in 0..st.limits().buckets {
            let b = st.buckets.at(Idx::new(i));
            b.conn.set(OptIdx::NONE);
            b.listen.set(OptIdx::NONE);
            b.udp.set(OptIdx::NONE);
        }
        for r in st.each_sock() {
            let s = st.sock(r.id);
            if !s.has(flag::HASHED) {
                continue;
            }
            s.clear_flag(flag::HASHED);
            let listening = s.tcp_state() == crate::tcp::state::TcpState::Listen;
            if s.kind() == Kind::Tcp && !listening {
                st.hash_conn(r.id);
            } else {
                st.hash_port(r.id);
            }
        }
        st.state.post_head.set(OptIdx::NONE);
        st.state.post_tail.set(OptIdx::NONE);
        for r in st.each_sock() {
            st.sock(r.id).pqueued.set(0);
            self.post(r.id);
        }
    }

    /// Buffers that no queue reaches are freed; a queue that runs into another one, or in a circle, is cut there.
    fn rebuild_buffers(&mut self) {
        let st = self.st;
        for r in st.each_sock() {
            let s = st.sock(r.id);
            // A connection on its way to the kernel stays locked: its process may live.
            if s.rlock.load(Relaxed) != 0 && !s.has(flag::HANDING_OVER) {
                s.rlock.store(0, Release);
            }
            let bad =
                walk(st, s.rq_head.get()) | walk(st, s.sq_head.get()) | walk(st, s.tcb.ooo.get());
            if bad && s.kind() == Kind::Tcp {
                let _: u64 = st.state.stats.corrupt.fetch_add(1, Relaxed);
                forget_queues(s);
                self.reset_conn(r.id, Error::Reset);
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

    fn rebuild_timers(&mut self) {
        let st = self.st;
        for (i, head) in st.state.wheel.iter().enumerate() {
            head.set(OptIdx::NONE);
            if let Some(w) = st.state.wheel_bits.get(i / 64) {
                w.set(0);
            }
        }
        for r in st.each_sock() {
            let s = st.sock(r.id);
            s.tslot.set(0);
            if s.kind() == Kind::Tcp {
                crate::tcp::timers::rearm(self, r.id);
            }
        }
    }

    /// Ready lists are emptied and everybody who sleeps is woken: they look for themselves.
    fn rebuild_ready(&mut self) {
        let st = self.st;
        for i in 0..st.state.set_slots.touched(st.sets) {
            let set = st.sets.at(Idx::new(i));
            set.ready.set(OptIdx::NONE);
            set.ready_tail.set(OptIdx::NONE);
            set.ready_len.store(0, Release);
            set.waiters.set(OptIdx::NONE);
        }
        for i in 0..st.state.item_slots.touched(st.items) {
            let item = st.items.at(Idx::new(i));
            item.queued.set(0);
            item.ready_next.set(OptIdx::NONE);
            item.ready_prev.set(OptIdx::NONE);
        }
        st.state.followers.set(OptIdx::NONE);
        st.state.leaders.store(0, Relaxed);
        for i in 0..st.state.waiter_slots.touched(st.waiters) {
            let w: &Waiter = st.waiters.at(Idx::new(i));
            w.set.set(OptIdx::NONE);
            w.next.set(OptIdx::NONE);
            w.leader.set(0);
            w.following.set(0);
            if w.state.swap(wstate::WOKEN, Release) == wstate::ASLEEP {
                self.env.fx.push(crate::effects::Effect::Wake(Idx::new(i)));
            }
        }
        for r in st.each_sock() {
            let mask = st.readiness(r.id);
            self.raise(r.id, mask);
        }
    }

    /// A process is gone: its waiters and sets are freed, receive locks that it held are opened. Its sockets follow
    /// when the kernel reports the end of the sockets behind them.
    pub fn owner_gone(&mut self, owner: u16) {
        let st = self.st;
        let tag = u32::from(owner) + 1;
        for i in 0..st.state.waiter_slots.touched(st.waiters) {
            let id = Idx::new(i);
            if st.waiters.at(id).hdr.tag.load(Relaxed) == tag {
                self.waiter_free(id);
            }
        }
        for i in 0..st.state.set_slots.touched(st.sets) {
            let id = Idx::new(i);
            if st.sets.at(id).hdr.tag.load(Relaxed) == tag {
                self.set_free(id);
            }
        }
        for r in st.each_sock() {
            let s = st.sock(r.id);
            if s.has(flag::HANDING_OVER) && s.rlock.load(Relaxed) == tag {
                crate::tcp::user::handover::abandon(self, r.id);
                continue;
            }
            let _: Result<u32, u32> = s.rlock.compare_exchange(tag, 0, Release, Relaxed);
        }
    }
}

/// Marks a queue's buffers as reached; true when it had to be cut.
fn walk(st: Stack<'_>, head: OptIdx<Buf>) -> bool {
    let mut cur = head.opt();
    while let Some(id) = cur {
        let mut part = Some(id);
        while let Some(p) = part {
            if st.buf(p).hdr.tag.swap(REACHED, Relaxed) == REACHED {
                return true;
            }
            part = st.buf(p).more.get().opt();
        }
        cur = st.buf(id).next.get().opt();
    }
    false
}

fn forget_queues(s: &Sock) {
    for head in [
        &s.rq_head, &s.rq_tail, &s.sq_head, &s.sq_tail, &s.sq_cur, &s.tcb.ooo,
    ] {
        head.set(OptIdx::NONE);
    }
    s.tcb.ooo_bufs.set(0);
    s.sq_len.store(0, Relaxed);
    s.rq_out.store(s.rq_in.load(Relaxed), Relaxed);
}
