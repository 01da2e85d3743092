//! Taking and giving back socket slots.

use super::net::NetSock;
use super::{Kind, Sock, SockId, SockRef, flag, recvq, sendq};
use crate::effects::Effect;
use crate::error::Error;
use crate::stack::locked::Locked;
use crate::stack::wake::imode;
use crate::stack::wheel;
use crate::tcp::reasm;
use crate::tcp::rx::count;
use crate::tcp::state::TcpState;
use core::mem::offset_of;
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_shm::{Object, SlotHdr, SlotObject};

impl SlotObject for Sock {
    fn slot(&self) -> &SlotHdr {
        &self.hdr
    }
}

impl Locked<'_, '_, '_> {
    /// A slot for an endpoint of this kind, cleared, with default options.
    ///
    /// # Errors
    /// [`Error::NoBuffers`] when the table is full; TIME_WAIT connections are recycled first.
    pub fn sock_alloc(&mut self, kind: Kind, v6: bool, cookie: u64) -> Result<SockRef, Error> {
        self.take_slot(kind, kind != Kind::Kernel, v6, cookie)
    }

    /// The same; `net`: with the second part.
    pub(crate) fn take_slot(
        &mut self,
        kind: Kind,
        net: bool,
        v6: bool,
        cookie: u64,
    ) -> Result<SockRef, Error> {
        let id = match self.alloc_slot(kind, net, cookie) {
            Some(id) => id,
            None => {
                self.recycle_time_wait();
                self.alloc_slot(kind, net, cookie).ok_or_else(|| {
                    count!(self, no_socket_slot);
                    Error::NoBuffers
                })?
            }
        };
        self.st.sock(id).put_flag(flag::V6, v6);
        Ok(self.st.sock_ref(id))
    }

    /// `cookie`: the kernel socket's, 0 for none yet.
    pub(crate) fn alloc_slot(&mut self, kind: Kind, net: bool, cookie: u64) -> Option<SockId> {
        let st = self.st;
        let id = st.state.sock_slots.alloc(st.socks, 1)?;
        let s = st.sock(id);
        crate::stretch::place();
        let generation = s.gen_.load(Relaxed).wrapping_add(1);
        s.clear_from(offset_of!(Sock, k_fresh));
        clear_before(s);
        if net {
            let _: NetSock<'_> = st.become_net(id);
        }
        super::opts::defaults(st, s);
        s.gen_.store(generation, Release);
        s.state.store(TcpState::Closed as u32, Release);
        // Before it is anything: without cookie and holder nobody would see to its end if the caller died here.
        s.cookie.store(cookie, Release);
        if cookie != 0 {
            s.holder.set(u32::from(self.env.me) + 1);
        }
        s.kind.store(kind as u32, Release);
        let _: u32 = st.state.socks_used.fetch_add(1, Relaxed);
        Some(id)
    }

    /// Records which kernel socket stands for an endpoint (after `accept` made one).
    pub fn set_cookie(&mut self, id: SockId, cookie: u64) {
        self.st.sock(id).cookie.store(cookie, Release);
    }

    /// Notes the daemon's filter handle of an endpoint: released with it.
    pub fn set_filter(&mut self, id: SockId, filter: u32) {
        self.st.sock(id).filter.set(filter);
    }

    /// Takes no more packets: a UDP socket or a listener goes on with the kernel socket behind it. Connections that
    /// came through a listener's filter stay.
    pub fn withdraw(&mut self, id: SockId) {
        let st = self.st;
        let s = st.net(id);
        if s.tcp_state() == TcpState::Listen {
            // A connection that began now would end in the kernel, which knows nothing of it.
            s.set_flag(flag::WITHDRAWN);
        }
        // It stays in the demultiplexer: what was on the way to the stack when the filter went is still its own.
        let filter = s.filter.get();
        if filter == 0 {
            return;
        }
        if s.is_net() && s.net.children.get() > 0 {
            self.env.fx.push(Effect::Narrow {
                filter,
                listener: st.sock_ref(id),
            });
        } else {
            s.filter.set(0);
            self.env.fx.push(Effect::DelFilter(filter));
        }
    }

    /// Gives a slot back that never got any further.
    pub fn free_unused(&mut self, id: SockId) {
        self.destroy(id);
    }

    /// Takes an endpoint out of everything and frees its slot. A listener with live children stays as a shell until
    /// the last of them is gone: its filter serves them.
    pub(crate) fn destroy(&mut self, id: SockId) {
        let st = self.st;
        let s = st.net(id);
        if s.kind() == Kind::Free {
            return;
        }
        let before = st.intend(id);
        self.take_apart(id, s);
        st.state.intent.store(before, Relaxed);
    }

    fn take_apart(&mut self, id: SockId, s: NetSock<'_>) {
        let st = self.st;
        crate::local::gone(self, id);
        crate::local::settle(self, id);
        st.unhash(id);
        wheel::disarm(st, id);
        self.unlink_time_wait(id);
        crate::stretch::place();
        self.release_queues(s);
        crate::stretch::place();
        self.drop_items(id);
        s.set_tcp_state(TcpState::Closed);
        self.leave_parent(id);
        if s.is_net() && s.net.children.get() > 0 {
            s.set_flag(flag::ORPHAN);
            s.cookie.store(0, Release);
            if s.filter.get() != 0 {
                self.env.fx.push(Effect::Narrow {
                    filter: s.filter.get(),
                    listener: st.sock_ref(id),
                });
            }
            return;
        }
        let filter = s.filter.get();
        if filter != 0 && !s.is_leased() {
            self.env.fx.push(Effect::DelFilter(filter));
        }
        if s.has(flag::PARKED) {
            self.env.fx.push(Effect::CloseParked(st.sock_ref(id)));
        }
        s.cookie.store(0, Release);
        s.kind.store(Kind::Free as u32, Release);
        s.gen_.store(s.gen_.load(Relaxed).wrapping_add(1), Release);
        let _: u32 = st.state.socks_used.fetch_sub(1, Relaxed);
        let _: bool = st.state.sock_slots.free(st.socks, id);
    }

    /// Frees what is queued in both directions.
    pub(crate) fn release_queues(&mut self, s: NetSock<'_>) {
        let st = self.st;
        sendq::free_all(st, s);
        reasm::free_all(st, s);
        // A reader in another thread or process may be inside: it holds the receive lock for the length of a copy.
        // Its owner is alive or the keeper clears the lock, so this is bounded.
        let mut tries = 0u32;
        while !recvq::lock(&s, self.env.me) {
            tries += 1;
            if tries > 1_000_000 {
                count!(self, corrupt);
                break;
            }
            core::hint::spin_loop();
        }
        recvq::free_all(st, &s);
        recvq::unlock(&s);
    }

    /// Ends the memberships in epoll sets; threads that block on the socket stay.
    pub(crate) fn drop_memberships(&mut self, id: SockId) {
        let st = self.st;
        let mut cur = st.sock(id).items.get().opt();
        let mut guard = st.limits().items;
        while let Some(item) = cur
            && guard > 0
        {
            guard -= 1;
            cur = st.items.at(item).sock_next.get().opt();
            if st.items.at(item).mode.get() & imode::PRIVATE == 0 {
                self.item_del(item);
            }
        }
    }

    fn drop_items(&mut self, id: SockId) {
        let st = self.st;
        let mut guard = st.limits().items;
        while let Some(item) = st.sock(id).items.get().opt() {
            if guard == 0 {
                break;
            }
            guard -= 1;
            self.item_del(item);
            if st.sock(id).items.get().opt() == Some(item) {
                // A corrupt membership: cut the list rather than walk it for ever.
                st.sock(id).items.set(flyover_shm::OptIdx::NONE);
            }
        }
    }

    /// A child is gone: its listener's counts follow, and a shell without children goes too.
    fn leave_parent(&mut self, id: SockId) {
        let st = self.st;
        let s = st.sock(id);
        if !s.has(flag::CHILD) {
            return;
        }
        s.clear_flag(flag::CHILD);
        let Some(parent) = s.parent.get().opt() else {
            return;
        };
        let p = st.net(parent);
        if p.gen_.load(Relaxed) != s.parent_gen.get() || p.kind() != Kind::Tcp {
            return;
        }
        if s.has(flag::IN_SYNQ) {
            s.clear_flag(flag::IN_SYNQ);
            p.net.syn_len.set(p.net.syn_len.get().saturating_sub(1));
        }
        p.net.children.set(p.net.children.get().saturating_sub(1));
        if p.net.children.get() == 0 && p.has(flag::ORPHAN) && p.tcp_state() == TcpState::Closed {
            self.destroy(parent);
        }
    }
}

/// Clears what lies among the fields that outlive the slot's use.
fn clear_before(s: &Sock) {
    for at in [&s.rq_tail, &s.rq_first, &s.rq_past] {
        at.set(flyover_shm::OptIdx::NONE);
    }
    for word in [&s.rq_seen, &s.rq_fill, &s.rq_chain, &s.rq_used] {
        word.set(0);
    }
    for word in [
        &s.kbusy, &s.kseq, &s.k_near, &s.k_hold, &s.k_doubt, &s.k_pend,
    ] {
        word.store(0, Relaxed);
    }
    for word in [
        &s.rcv_up,
        &s.urg_mark,
        &s.filter,
        &s.lport,
        &s.rport,
        &s.parent_gen,
    ] {
        word.set(0);
    }
    s.urg.store(0, Relaxed);
    for half in [&s.has_net, &s.tslot, &s.nic] {
        half.set(0);
    }
    for at in [
        &s.tprev,
        &s.tnext,
        &s.hnext,
        &s.acc_next,
        &s.parent,
        &s.tw_next,
        &s.tw_prev,
    ] {
        at.set(flyover_shm::OptIdx::NONE);
    }
    for long in [
        &s.ttick,
        &s.last_rx,
        &s.local_hi,
        &s.local_lo,
        &s.remote_hi,
        &s.remote_lo,
    ] {
        long.set(0);
    }
}
