//! After the lock's holder died: the structures are made whole from per-object state, the one socket that was being
//! changed is reset, and the stack goes on. The caller has taken the lock over.
//!
//! Readers work beside the lock's holder, so the living ones among them are still at it: buffers are only touched while
//! all receive locks are ours. If a reader does not come out (its process is stopped), buffers are left alone until
//! [`Locked::mend_buffers`] is called again.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the order; buckets, timers, ready lists |
//! | `lists.rs` | accept queues, TIME_WAIT, memberships, slots that were half made |
//! | `buffers.rs` | send and receive queues, the free list of buffers |
//! | `flights.rs` | what is in flight |

mod buffers;
mod flights;
mod lists;

use super::locked::Locked;
use crate::error::Error;
use crate::sock::{Kind, flag};
use crate::stack::wake::{Waiter, wstate};
use crate::tcp::user::handover::Unfinished;
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_shm::{Idx, OptIdx};

impl Locked<'_, '_, '_> {
    /// Rebuilds lists, tables and free lists; `dead` is the owner slot of the process that died. False: buffers that it
    /// had in hand stay lost until [`Locked::mend_buffers`] succeeds.
    pub fn recover(&mut self, dead: u16) -> bool {
        let st = self.st;
        let _: u64 = st.state.stats.takeovers.fetch_add(1, Relaxed);
        let suspect = st.state.intent.swap(0, Relaxed);
        for i in 0..self.env.nics.count() {
            if let Some(nic) = self.env.nics.nic(i) {
                nic.recover();
            }
        }
        self.free_half_made();
        st.state.sock_slots.rebuild(st.socks);
        st.state
            .socks_used
            .store(st.state.sock_slots.used.load(Relaxed), Relaxed);
        self.rebuild_buckets();
        self.rebuild_listeners();
        self.rebuild_time_wait();
        self.rebuild_members();
        st.state.item_slots.rebuild(st.items);
        st.state.set_slots.rebuild(st.sets);
        st.state.waiter_slots.rebuild(st.waiters);
        self.rebuild_send_queues();
        self.rebuild_timers();
        self.rebuild_flights();
        self.mend_pairs();
        self.rebuild_ready();
        let _: bool = self.producer_gone(u32::from(dead) + 1);
        // Before any of them could be taken: who died while he put them in order may have left some twice.
        st.forget_kept();
        let whole = self.mend_buffers(dead);
        if let Some(i) = suspect.checked_sub(1) {
            self.give_up(Idx::new(i & (st.limits().socks - 1)));
        }
        self.finish_closes();
        // What was left to the dead one: its bit in the lock word is gone if he had begun.
        self.run_deferred(crate::stack::deferred::SOCKS);
        whole
    }

    /// The socket that was being changed: nobody knows how far the change came.
    fn give_up(&mut self, id: crate::sock::SockId) {
        match self.st.sock(id).kind() {
            Kind::Tcp => self.reset_conn(id, Error::Reset),
            // Datagrams may get lost.
            Kind::Udp => self.release_queues(self.st.net(id)),
            Kind::Free | Kind::Kernel => {}
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

    /// A process is gone: its waiters are freed, and the sets that nobody else holds; receive locks that it held are
    /// opened; handovers that it began are finished. Its sockets follow when the kernel reports the end of the sockets
    /// behind them.
    /// False: buffers that it had in hand stay lost until [`Locked::mend_buffers`] succeeds.
    pub fn owner_gone(&mut self, owner: u16, unfinished: Unfinished) -> bool {
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
            self.set_loses(id, owner);
        }
        let sending = self.producer_gone(tag);
        for r in st.each_sock() {
            let _: Result<u32, u32> = st
                .sock(r.id)
                .k_hold
                .compare_exchange(tag, 0, Release, Relaxed);
        }
        // A reader has buffers in hand that have left the queue and are not free yet.
        let mut reading = false;
        for r in st.each_sock() {
            let s = st.sock(r.id);
            reading |= s.rlock.load(Relaxed) == tag;
            if s.has(flag::HANDING_OVER | flag::PAIRED) && s.rlock.load(Relaxed) == tag {
                self.local_rejoin(r.id);
                continue;
            }
            if s.has(flag::HANDING_OVER) && s.rlock.load(Relaxed) == tag {
                crate::tcp::user::handover::abandon(self, r.id, unfinished);
                continue;
            }
            let _: Result<u32, u32> = s.rlock.compare_exchange(tag, 0, Release, Relaxed);
        }
        self.holder_gone(owner);
        !(sending || reading) || self.mend_buffers(owner)
    }
}
