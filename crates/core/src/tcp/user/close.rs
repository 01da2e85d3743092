//! Shutdown, close, abort, and the states that follow.

use crate::error::Error;
use crate::sock::{Kind, SHUT_RD, SHUT_WR, SockId, flag};
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use crate::stack::wheel;
use crate::tcp::rx::count;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::{rtx, tflag};
use crate::tcp::{timers, tx};
use crate::time::{MS, SEC};
use core::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use flyover_shm::OptIdx;

impl Locked<'_, '_, '_> {
    /// `shutdown(2)`; `how` is [`SHUT_RD`], [`SHUT_WR`] or both.
    ///
    /// # Errors
    /// [`Error::Moved`] when the kernel has the connection, [`Error::WouldBlock`] while it is on its way there;
    /// [`Error::NotConnected`] unless connected (a listener with [`SHUT_RD`] stops listening).
    pub fn shutdown(&mut self, id: SockId, how: u32) -> Result<(), Error> {
        let s = self.st.sock(id);
        if s.has(flag::HANDED_OVER) {
            return Err(Error::Moved);
        }
        if s.has(flag::HANDING_OVER) {
            return Err(Error::WouldBlock);
        }
        if s.kind() == Kind::Udp {
            // Noted in any case, as in Linux.
            let _: u32 = s.shut.fetch_or(how, AcqRel);
            self.raise(id, ev::IN | ev::OUT | ev::HUP | ev::RDHUP);
            return if s.rport.get() == 0 {
                Err(Error::NotConnected)
            } else {
                Ok(())
            };
        }
        match s.tcp_state() {
            // As Linux, which notes it all the same.
            TcpState::Closed | TcpState::TimeWait => {
                let _: u32 = s.shut.fetch_or(how, AcqRel);
                self.raise(id, ev::STATE);
                return Err(Error::NotConnected);
            }
            TcpState::Listen => {
                if how & SHUT_RD != 0 {
                    self.stop_listening(id);
                }
                return Ok(());
            }
            TcpState::SynSent => {
                // As Linux: the attempt is broken off.
                self.abort_state(id);
                self.raise(id, ev::IN | ev::OUT | ev::HUP | ev::RDHUP);
                return Ok(());
            }
            _ => {}
        }
        let before = s.shut.fetch_or(how, AcqRel);
        // Not only the first time: the socket may have been shut down before it was connected.
        if how & SHUT_WR != 0 {
            self.queue_fin(id);
        }
        let mut e = ev::OUT | ev::STATE;
        if how & SHUT_RD != 0 {
            e |= ev::IN | ev::RDHUP;
        }
        if (before | how) == SHUT_RD | SHUT_WR {
            e |= ev::HUP;
        }
        self.raise(id, e);
        Ok(())
    }

    /// Directions that the program had shut down before the endpoint was made.
    pub fn keep_shut(&mut self, id: SockId, how: u32) {
        let _: u32 = self.st.sock(id).shut.fetch_or(how, AcqRel);
    }

    /// Our FIN follows the queued data.
    pub(crate) fn queue_fin(&mut self, id: SockId) {
        let s = self.st.net(id);
        if s.has(flag::PAIRED) {
            return crate::local::fin(self, id);
        }
        let t = &s.net.tcb;
        let next = match s.tcp_state() {
            TcpState::Established | TcpState::SynRcvd => TcpState::FinWait1,
            TcpState::CloseWait => TcpState::LastAck,
            _ => return,
        };
        s.set_tcp_state(next);
        t.tflags
            .set((t.tflags.get() | tflag::FIN_QUEUED) & !tflag::MORE);
        s.clear_flag(flag::CORK);
        self.post(id);
    }

    /// The last descriptor is gone: unread data or a zero linger time reset the connection, else FIN. What the
    /// connection still owes is paid without the program.
    pub fn close(&mut self, id: SockId) {
        let st = self.st;
        let s = st.sock(id);
        if s.has(flag::ORPHAN) && !s.has(flag::IN_ACCEPTQ) {
            return;
        }
        if s.has(flag::HANDING_OVER) {
            // Whoever hands it over, or is about to take it over, sees the mark.
            s.set_flag(flag::ORPHAN);
            return;
        }
        if s.has(flag::HANDED_OVER) {
            self.destroy(id);
            return;
        }
        match s.kind() {
            Kind::Free => return,
            Kind::Udp | Kind::Kernel => {
                self.destroy(id);
                return;
            }
            Kind::Tcp => {}
        }
        s.set_flag(flag::ORPHAN);
        s.cookie.store(0, Release);
        s.rcvlowat.set(1);
        // Nobody holds a descriptor any more, so no epoll set reports what the connection still goes through.
        self.drop_memberships(id);
        match s.tcp_state() {
            TcpState::Listen => {
                self.stop_listening(id);
                self.destroy(id);
            }
            TcpState::Closed => self.destroy(id),
            TcpState::SynSent => {
                self.destroy(id);
            }
            _ => self.close_connection(id),
        }
    }

    fn close_connection(&mut self, id: SockId) {
        let s = self.st.sock(id);
        let _: u32 = s.shut.fetch_or(SHUT_RD | SHUT_WR, AcqRel);
        if s.has(flag::PAIRED) {
            // Whoever sends at this moment is done, and his bytes count as unread, or sees that nobody reads any more.
            crate::local::settle(self, id);
        }
        let unread = s.rq_available() > 0 || self.st.kernel_bytes_of(s) > 0;
        let hard = s.has(flag::LINGER) && s.linger.get() == 0;
        if (unread || hard)
            && s.tcp_state().is_synchronised()
            && s.tcp_state() != TcpState::TimeWait
        {
            // RFC 2525 section 2.17.
            tx::send_rst(self, id);
            self.destroy(id);
            return;
        }
        self.queue_fin(id);
        match s.tcp_state() {
            TcpState::FinWait2 => self.enter_fin_wait2(id),
            TcpState::Closed => self.destroy(id),
            _ => timers::rearm(self, id),
        }
    }

    /// Resets the connection: RST to the peer, nothing delivered any more.
    pub fn abort(&mut self, id: SockId) {
        let s = self.st.sock(id);
        if s.kind() == Kind::Tcp && s.tcp_state() == TcpState::Listen {
            self.stop_listening(id);
        }
        if s.has(flag::HANDING_OVER) {
            s.set_flag(flag::ORPHAN);
            return;
        }
        if s.kind() == Kind::Tcp
            && !s.has(flag::HANDED_OVER)
            && s.tcp_state().is_synchronised()
            && s.tcp_state() != TcpState::TimeWait
        {
            tx::send_rst(self, id);
        }
        s.set_flag(flag::ORPHAN);
        self.destroy(id);
    }

    /// The connection ended by a RST that was sent already.
    pub(crate) fn abort_silently(&mut self, id: SockId) {
        let s = self.st.sock(id);
        if s.has(flag::ORPHAN) && !s.has(flag::IN_ACCEPTQ) {
            self.destroy(id);
        } else {
            let why = match self.st.sock(id).tcp_state() {
                TcpState::CloseWait => Error::BrokenPipe,
                _ => Error::Reset,
            };
            self.reset_conn(id, why);
        }
    }

    /// The connection failed: the error is kept for the program, everybody who waits is told.
    pub(crate) fn reset_conn(&mut self, id: SockId, why: Error) {
        let s = self.st.sock(id);
        if s.has(flag::ORPHAN) && !s.has(flag::IN_ACCEPTQ) {
            self.destroy(id);
            return;
        }
        s.set_error(why.errno());
        let before = self.st.intend(id);
        self.abort_state(id);
        self.st.state.intent.store(before, Relaxed);
        self.raise(
            id,
            ev::IN | ev::RDNORM | ev::OUT | ev::WRNORM | ev::ERR | ev::HUP | ev::RDHUP,
        );
    }

    /// To CLOSED, with the slot kept for the program.
    fn abort_state(&mut self, id: SockId) {
        let st = self.st;
        let s = st.net(id);
        crate::local::gone(self, id);
        st.unhash(id);
        wheel::disarm(st, id);
        self.unlink_time_wait(id);
        if s.is_net() {
            let t = &s.net.tcb;
            for d in [&t.t_rtx, &t.t_delack, &t.t_keep, &t.t_life] {
                d.set(0);
            }
            t.rtx_kind.set(rtx::NONE);
            // What `SIOCOUTQ` goes on to tell.
            t.recover.set(t.snd_una.get().wrapping_add(st.outq(id)));
            t.tflags
                .set(t.tflags.get() & !(tflag::ACK_NOW | tflag::FIN_QUEUED));
        }
        crate::sock::sendq::free_all(st, s);
        crate::tcp::reasm::free_all(st, s);
        let _: u32 = s.shut.fetch_or(SHUT_RD | SHUT_WR, AcqRel);
        s.set_tcp_state(TcpState::Closed);
    }

    /// A connection has run its course (LAST_ACK acknowledged, TIME_WAIT or FIN_WAIT_2 over).
    pub(crate) fn conn_done(&mut self, id: SockId) {
        let s = self.st.sock(id);
        if s.has(flag::ORPHAN) && !s.has(flag::IN_ACCEPTQ) {
            self.destroy(id);
            return;
        }
        self.abort_state(id);
        self.raise(id, ev::IN | ev::OUT | ev::HUP | ev::RDHUP);
    }

    /// FIN_WAIT_2: an orphan does not wait for ever (`tcp_fin_timeout`, `TCP_LINGER2`).
    pub(crate) fn enter_fin_wait2(&mut self, id: SockId) {
        let s = self.st.net(id);
        if !s.has(flag::ORPHAN) {
            return;
        }
        if s.has(flag::PAIRED) {
            // The kernel's own socket waits for the peer's end.
            self.destroy(id);
            return;
        }
        // Nobody reads what came ahead of a hole.
        crate::tcp::reasm::free_all(self.st, s);
        let linger2 = s.linger2.get().cast_signed();
        let wait = if linger2 > 0 {
            u64::from(linger2.cast_unsigned()) * SEC
        } else {
            u64::from(self.st.opts.fin_wait2_ms) * MS
        };
        s.net.tcb.t_life.set(self.env.now.0.saturating_add(wait));
        timers::rearm(self, id);
    }

    /// TIME_WAIT: 60 s as Linux, in a list by age so that slots can be recycled.
    pub(crate) fn enter_time_wait(&mut self, id: SockId) {
        let st = self.st;
        let s = st.net(id);
        let t = &s.net.tcb;
        for d in [&t.t_rtx, &t.t_delack, &t.t_keep] {
            d.set(0);
        }
        t.rtx_kind.set(rtx::NONE);
        crate::sock::sendq::free_all(st, s);
        crate::tcp::reasm::free_all(st, s);
        if !s.has(flag::IN_TW) {
            s.set_flag(flag::IN_TW);
            s.tw_next.set(OptIdx::NONE);
            s.tw_prev.set(st.state.tw_tail.get());
            match st.state.tw_tail.get().opt() {
                Some(last) => st.sock(last).tw_next.set(id.into()),
                None => st.state.tw_head.set(id.into()),
            }
            st.state.tw_tail.set(id.into());
        }
        self.restart_time_wait(id);
    }

    pub(crate) fn restart_time_wait(&mut self, id: SockId) {
        let wait = u64::from(self.st.opts.time_wait_ms) * MS;
        self.st
            .tcb(id)
            .t_life
            .set(self.env.now.0.saturating_add(wait.max(MS)));
        timers::rearm(self, id);
    }

    pub(crate) fn unlink_time_wait(&mut self, id: SockId) {
        let st = self.st;
        let s = st.sock(id);
        if !s.has(flag::IN_TW) {
            return;
        }
        s.clear_flag(flag::IN_TW);
        let (prev, next) = (s.tw_prev.get(), s.tw_next.get());
        match prev.opt() {
            Some(p) => st.sock(p).tw_next.set(next),
            None => st.state.tw_head.set(next),
        }
        match next.opt() {
            Some(n) => st.sock(n).tw_prev.set(prev),
            None => st.state.tw_tail.set(prev),
        }
    }

    /// Slots are short: the oldest TIME_WAIT connections that no program holds make room.
    pub(crate) fn recycle_time_wait(&mut self) {
        let st = self.st;
        let mut cur = st.state.tw_head.get().opt();
        for _ in 0..64 {
            let Some(id) = cur else { return };
            cur = st.sock(id).tw_next.get().opt();
            if st.sock(id).has(flag::ORPHAN) {
                count!(self, tw_recycled);
                self.destroy(id);
                return;
            }
        }
    }

    /// A listener ends: what waits in its accept queue is reset.
    pub(crate) fn stop_listening(&mut self, id: SockId) {
        let st = self.st;
        let p = st.net(id);
        st.unhash(id);
        p.set_tcp_state(TcpState::Closed);
        let mut guard = st.limits().socks;
        while let Some(child) = p.net.acc_head.get().opt() {
            if guard == 0 {
                break;
            }
            guard -= 1;
            let s = st.sock(child);
            p.net.acc_head.set(s.acc_next.get());
            s.clear_flag(flag::IN_ACCEPTQ);
            self.abort(child);
        }
        p.net.acc_tail.set(OptIdx::NONE);
        p.net.acc_len.store(0, Release);
        p.net.backlog.set(0);
        let _ = p.shut.load(Relaxed);
        self.raise(id, ev::IN | ev::HUP | ev::RDHUP | ev::OUT);
    }
}
