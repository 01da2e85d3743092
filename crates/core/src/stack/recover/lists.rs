//! Lists after a death, from what their members say of themselves.

use crate::sock::{Kind, SockId, flag};
use crate::stack::locked::Locked;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_shm::{Idx, OptIdx};

impl Locked<'_, '_, '_> {
    /// Slots that were taken and not yet filled in, or emptied and not yet given back.
    pub(super) fn free_half_made(&mut self) {
        let st = self.st;
        for i in 0..st.state.sock_slots.touched(st.socks) {
            let s = st.sock(Idx::new(i));
            if s.kind() == Kind::Free {
                s.hdr.tag.store(0, Relaxed);
            }
        }
        for i in 0..st.state.item_slots.touched(st.items) {
            let item = st.items.at(Idx::new(i));
            let whole = item.set.get().opt().is_some_and(|set| {
                st.sets.at(set).hdr.tag.load(Relaxed) != 0
                    && item
                        .sock
                        .get()
                        .opt()
                        .is_some_and(|sock| st.sock(sock).kind() != Kind::Free)
            });
            if !whole {
                item.sock.set(OptIdx::NONE);
                item.set.set(OptIdx::NONE);
                item.hdr.tag.store(0, Relaxed);
            }
        }
    }

    /// Whoever died while he closed a connection left it without descriptor, and without FIN or end: nobody would close it
    /// again.
    pub(super) fn finish_closes(&mut self) {
        let st = self.st;
        const NOT_HERE: u32 = flag::IN_ACCEPTQ
            | flag::IN_SYNQ
            | flag::HANDING_OVER
            | flag::HANDED_OVER
            | flag::PAIRED;
        for r in st.each_sock() {
            let s = st.net(r.id);
            let open = matches!(s.tcp_state(), TcpState::Established | TcpState::CloseWait);
            let here = s.flags.load(Relaxed) & NOT_HERE == 0 && s.kind() == Kind::Tcp && s.is_net();
            let begun = here && s.has(flag::ORPHAN);
            if begun && open && s.net.tcb.tflags.get() & tflag::FIN_QUEUED == 0 {
                s.clear_flag(flag::ORPHAN);
                self.close(r.id);
            }
        }
    }

    /// Accept queues and the counts of children. A connection that was taken out of its queue, but whose descriptor was
    /// not told yet, goes back: nobody else would ever close it.
    pub(super) fn rebuild_listeners(&mut self) {
        let st = self.st;
        for r in st.each_sock() {
            let Some(s) = st.net_of(r.id) else { continue };
            s.net.acc_head.set(OptIdx::NONE);
            s.net.acc_tail.set(OptIdx::NONE);
            s.net.acc_len.store(0, Release);
            s.acc_next.set(OptIdx::NONE);
            s.net.syn_len.set(0);
            s.net.children.set(0);
        }
        for r in st.each_sock() {
            self.return_to_parent(r.id);
        }
    }

    fn return_to_parent(&mut self, id: SockId) {
        let st = self.st;
        let s = st.sock(id);
        if s.kind() != Kind::Tcp || !s.has(flag::CHILD) {
            return;
        }
        let Some(parent) = s.parent.get().opt() else {
            return;
        };
        let p = st.net(parent);
        if p.gen_.load(Relaxed) != s.parent_gen.get() || p.kind() != Kind::Tcp {
            return;
        }
        p.net.children.set(p.net.children.get().wrapping_add(1));
        if s.has(flag::IN_SYNQ) {
            p.net.syn_len.set(p.net.syn_len.get().wrapping_add(1));
            return;
        }
        let unclaimed = s.has(flag::IN_ACCEPTQ)
            || s.cookie.load(Relaxed) == 0 && !s.has(flag::ORPHAN) && is_open(s.tcp_state());
        if !unclaimed || p.tcp_state() != TcpState::Listen {
            return;
        }
        match p.net.acc_tail.get().opt() {
            Some(t) => st.sock(t).acc_next.set(id.into()),
            None => p.net.acc_head.set(id.into()),
        }
        p.net.acc_tail.set(id.into());
        p.net
            .acc_len
            .store(p.net.acc_len.load(Relaxed).wrapping_add(1), Release);
        s.set_flag(flag::IN_ACCEPTQ | flag::ORPHAN);
    }

    /// The list by age: the ages are lost, the members are not.
    pub(super) fn rebuild_time_wait(&mut self) {
        let st = self.st;
        st.state.tw_head.set(OptIdx::NONE);
        st.state.tw_tail.set(OptIdx::NONE);
        for r in st.each_sock() {
            let s = st.sock(r.id);
            s.tw_prev.set(OptIdx::NONE);
            s.tw_next.set(OptIdx::NONE);
            if !s.has(flag::IN_TW) {
                continue;
            }
            s.tw_prev.set(st.state.tw_tail.get());
            match st.state.tw_tail.get().opt() {
                Some(last) => st.sock(last).tw_next.set(r.id.into()),
                None => st.state.tw_head.set(r.id.into()),
            }
            st.state.tw_tail.set(r.id.into());
        }
    }

    /// Which socket is in which set, both ways.
    pub(super) fn rebuild_members(&mut self) {
        let st = self.st;
        st.each_sock()
            .for_each(|r| st.sock(r.id).items.set(OptIdx::NONE));
        for i in 0..st.state.set_slots.touched(st.sets) {
            let set = st.sets.at(Idx::new(i));
            set.members.set(OptIdx::NONE);
            set.count.set(0);
        }
        for i in 0..st.state.item_slots.touched(st.items) {
            let id = Idx::new(i);
            let item = st.items.at(id);
            if item.hdr.tag.load(Relaxed) == 0 {
                continue;
            }
            let (Some(set), Some(sock)) = (item.set.get().opt(), item.sock.get().opt()) else {
                continue;
            };
            let s = st.sock(sock);
            item.sock_next.set(s.items.get());
            s.items.set(id.into());
            let set = st.sets.at(set);
            item.set_prev.set(OptIdx::NONE);
            item.set_next.set(set.members.get());
            if let Some(first) = set.members.get().opt() {
                st.items.at(first).set_prev.set(id.into());
            }
            set.members.set(id.into());
            set.count.set(set.count.get().wrapping_add(1));
        }
    }
}

fn is_open(state: TcpState) -> bool {
    matches!(state, TcpState::Established | TcpState::CloseWait)
}
