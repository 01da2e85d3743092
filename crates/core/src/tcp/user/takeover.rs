//! Coming (back) into the stack: a connection that the kernel has is taken over in mid-life. Until then its slot is a
//! mark, as a handover leaves it behind; a connection that was never ours gets its mark when a process first sees it.
//! While the kernel is asked for the connection the slot is frozen, exactly as on the way out: segments are dropped in
//! silence, which the peer repeats, and senders and readers wait.

use super::connect;
use super::handover::Handover;
use crate::error::Error;
use crate::sock::net::NetSock;
use crate::sock::{Kind, SHUT_RD, SHUT_WR, SockId, SockRef, flag, recvq, sendq};
use crate::stack::Stack;
use crate::stack::buf::BUF_SIZE;
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use crate::tcp::flight::{self, Run, mark};
use crate::tcp::rx::count;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use crate::tcp::{cc, loss, reasm, timers, tx};
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_wire::{Endpoint, Seq};

/// Fields of a control block that say something of the time before: all but the options of the socket.
fn forget(s: NetSock<'_>) {
    let t = &s.net.tcb;
    for word in [
        &t.tflags,
        &t.snd_up,
        &t.rcv_fin,
        &t.unacked,
        &t.ooo_bytes,
        &t.ts_recent,
        &t.rtt_seq,
        &t.data_at,
        &t.reord_seen,
        &t.retrans_stamp,
        &t.undo_retrans,
        &t.prior_ssthresh,
        &t.prior_cwnd,
        &t.rack_rtt,
        &t.rack_round,
        &t.max_out,
        &t.cwnd_used,
        &t.echo,
    ] {
        word.set(0);
    }
    for byte in [
        &t.snd_scale,
        &t.rcv_scale,
        &t.rsack_n,
        &t.backoff,
        &t.retransmits,
        &t.rtx_kind,
        &t.probes,
        &t.small,
        &t.reo_persist,
    ] {
        byte.set(0);
    }
    t.soft_error.set(0);
    s.urg.store(0, Relaxed);
    flight::forget(t);
    for word in [
        &t.ts_recent_at,
        &t.srtt,
        &t.rttvar,
        &t.min_rtt,
        &t.rtt_at,
        &t.mdev,
        &t.mdev_max,
        &t.min_rtt_at,
        &t.t_rtx,
        &t.t_delack,
        &t.t_keep,
        &t.t_life,
        &t.first_rtx,
        &t.last_tx,
    ] {
        word.set(0);
    }
}

impl Stack<'_> {
    /// How many connections of the kernel were to be taken over so far, or were paired; needs no lock.
    pub fn takeovers_begun(self) -> u64 {
        let stats = &self.state.stats;
        stats
            .takeovers_begun
            .load(Relaxed)
            .wrapping_add(stats.local_pairs.load(Relaxed))
    }

    /// How many connections came back from the kernel so far, the ends of pairs as well; needs no lock.
    pub fn returned(self) -> u64 {
        let stats = &self.state.stats;
        stats
            .takeovers_of_kernel
            .load(Relaxed)
            .wrapping_add(stats.local_pairs.load(Relaxed))
    }
}

impl Stack<'_> {
    /// True while new sockets are to stay with the kernel; needs no lock.
    pub fn is_off(self) -> bool {
        self.state.off.load(Relaxed) != 0
    }

    /// Says so to all processes.
    pub fn set_off(self, off: bool) {
        self.state.off.store(u32::from(off), Relaxed);
    }
}

impl Locked<'_, '_, '_> {
    /// A mark for a connection of the kernel's that never was one of ours; `reason` is kept for the socket layer.
    ///
    /// # Errors
    /// [`Error::NoBuffers`] when all slots are in use.
    pub fn mark_alloc(
        &mut self,
        v6: bool,
        cookie: u64,
        local: Endpoint,
        remote: Endpoint,
        reason: u32,
    ) -> Result<SockRef, Error> {
        let r = self.take_slot(Kind::Tcp, false, v6, cookie)?;
        let s = self.st.sock(r.id);
        s.set_local(local);
        s.set_remote(remote);
        s.reason.set(reason);
        s.set_tcp_state(TcpState::Established);
        s.set_flag(flag::CONNECTED_SEEN | flag::HANDED_OVER);
        Ok(r)
    }

    /// Begins to take a mark over: from now on whoever sets what both sides keep (`O_NONBLOCK`, options) waits or sets it
    /// again, while calls are still the kernel's. The caller notes what is set, then
    /// [freezes](Self::takeover_freeze) the mark.
    ///
    /// # Errors
    /// [`Error::Invalid`]: no mark. [`Error::Already`]: somebody else is at it. [`Error::AddressInUse`]: the stack has
    /// another connection with these addresses.
    pub fn takeover_begin(
        &mut self,
        id: SockId,
        local: Endpoint,
        remote: Endpoint,
    ) -> Result<(), Error> {
        let st = self.st;
        let s = st.sock(id);
        if s.has(flag::HANDING_OVER) {
            return Err(Error::Already);
        }
        if s.kind() != Kind::Tcp || !s.has(flag::HANDED_OVER) {
            return Err(Error::Invalid);
        }
        if st.find_conn(local, remote).is_some_and(|other| other != id) {
            return Err(Error::AddressInUse);
        }
        if !recvq::lock(s, self.env.me) {
            return Err(Error::Already);
        }
        let s = st.become_net(id);
        // A death in the middle of the handover may have left something.
        sendq::free_all(st, s);
        reasm::free_all(st, s);
        recvq::free_all(st, &s);
        st.unhash(id);
        s.set_local(local);
        s.set_remote(remote);
        st.hash_conn(id);
        s.set_flag(flag::HANDING_OVER | flag::RETURNING);
        Ok(())
    }

    /// Freezes a mark that is being taken over: whoever holds the socket waits from now on, and segments of the connection
    /// are dropped. The caller then fills it ([`takeover_done`](Self::takeover_done)) or lets it be
    /// ([`takeover_cancel`](Self::takeover_cancel)).
    pub fn takeover_freeze(&mut self, id: SockId) {
        let s = self.st.sock(id);
        if s.has(flag::RETURNING) {
            count!(self, takeovers_begun);
            s.clear_flag(flag::HANDED_OVER);
            self.raise(id, ev::STATE);
        }
    }

    /// Bytes that nobody has read yet, in their order. False: there is no room, give the connection back.
    pub fn takeover_unread(&mut self, id: SockId, mut bytes: &[u8]) -> bool {
        let st = self.st;
        let s = st.sock(id);
        while !bytes.is_empty() {
            let Some(b) = st.alloc_buf() else {
                return false;
            };
            let (now, later) = bytes.split_at(bytes.len().min(BUF_SIZE));
            let n = st.buf_bytes(b).copy_in(now) as u32;
            st.buf(b).off.set(0);
            st.buf(b).len.set(n);
            recvq::append(st, s, b);
            recvq::publish(s, n);
            bytes = later;
        }
        true
    }

    /// Bytes from SND.UNA on. False as above.
    pub fn takeover_queued(&mut self, id: SockId, bytes: &[u8]) -> bool {
        sendq::append(self.st, self.st.net(id), &[bytes], bytes.len()) == bytes.len()
    }

    /// The kernel has let the connection go, and its bytes are here: it goes on, steered by `filter`.
    pub fn takeover_done(&mut self, id: SockId, h: &Handover, filter: u32) {
        let st = self.st;
        let s = st.net(id);
        if !s.has(flag::RETURNING) {
            return;
        }
        count!(self, takeovers_of_kernel);
        s.filter.set(filter);
        s.reason.set(0);
        s.net.rt_valid.set(0);
        s.nic.set(0);
        self.numbers(id, h);
        let shut = |on: bool, bit: u32| if on { bit } else { 0 };
        s.shut
            .store(shut(h.fin_in, SHUT_RD) | shut(h.fin_out, SHUT_WR), Release);
        s.put_flag(flag::PEER_FIN, h.fin_in);
        s.set_tcp_state(match (h.fin_in, h.fin_out, h.fin_acked) {
            (false, false, _) => TcpState::Established,
            (true, false, _) => TcpState::CloseWait,
            (false, true, false) => TcpState::FinWait1,
            (false, true, true) => TcpState::FinWait2,
            (true, true, _) => TcpState::LastAck,
        });
        s.clear_flag(flag::RETURNING | flag::HANDING_OVER);
        recvq::unlock(&s);
        if s.has(flag::ORPHAN) {
            // Closed meanwhile.
            s.clear_flag(flag::ORPHAN);
            self.close(id);
            return;
        }
        self.start_keepalive(id);
        // What the peer sent meanwhile is lost: the probe tells it where we are, and its answer where it is.
        let _: bool = tx::send_probe(self, id);
        if s.net.tcb.snd_nxt.get() != s.net.tcb.snd_una.get() {
            timers::set_xmit(self, id);
        }
        timers::rearm(self, id);
        self.post(id);
        self.raise(id, ev::STATE);
    }

    fn numbers(&mut self, id: SockId, h: &Handover) {
        let st = self.st;
        let s = st.net(id);
        let t = &s.net.tcb;
        forget(s);
        let una = h.snd_una.wrapping_add(u32::from(h.fin_acked));
        // Everything was sent, the FIN too.
        let fin_sent = h.fin_out && (h.fin_acked || h.unacked == h.queued);
        let nxt = Seq(h.snd_una).add(h.unacked).add(u32::from(fin_sent));
        let rcv_nxt = Seq(h.rcv_nxt).add(u32::from(h.fin_in));
        t.iss.set(una.wrapping_sub(1));
        t.irs.set(rcv_nxt.0.wrapping_sub(1));
        connect::init_tcb(self, s);
        t.rcv_ssthresh.set(0);
        t.snd_una.set(una);
        t.snd_nxt.set(nxt.0);
        t.recover.set(una);
        t.snd_sml.set(una);
        t.round_end.set(una);
        t.snd_wnd.set(h.snd_wnd);
        t.snd_wl1.set(h.snd_wl1);
        t.max_wnd.set(h.max_wnd.max(h.snd_wnd));
        t.rcv_nxt.set(rcv_nxt.0);
        t.rcv_adv
            .set(Seq(h.rcv_nxt).add(h.rcv_wnd).latest(rcv_nxt).0);
        t.drs_seq.set(h.rcv_nxt.wrapping_sub(s.rq_available()));
        t.last_ack_sent.set(rcv_nxt.0);
        s.last_rx.set(self.env.now.0);
        let bit = |on: bool, b: u32| if on { b } else { 0 };
        t.tflags.set(
            bit(h.scales.is_some(), tflag::WSCALE)
                | bit(h.timestamp.is_some(), tflag::TS)
                | bit(h.sack, tflag::SACK)
                | bit(h.fin_out, tflag::FIN_QUEUED)
                | bit(fin_sent, tflag::FIN_SENT)
                | bit(h.fin_acked, tflag::FIN_ACKED)
                | tflag::ACK_NOW,
        );
        let (peer, own) = h.scales.unwrap_or((0, 0));
        t.snd_scale.set(peer.min(14));
        t.rcv_scale.set(own.min(14));
        if let Some(clock) = h.timestamp {
            // The kernel's word has lost its lowest bit; the clock must not go back.
            t.ts_off
                .set(clock.wrapping_add(2).wrapping_sub(self.env.now.ms32()));
        }
        t.peer_mss.set(h.mss.max(88));
        connect::set_mss(self, s);
        cc::init(t, st.opts.initial_cwnd, self.env.now);
        if nxt.after(Seq(una)) {
            st.flight(id).push(&Run {
                start: Seq(una),
                end: nxt,
                at: loss::micros(self.env.now),
                unit: t.mss.get(),
                marks: mark::VAGUE | if fin_sent { mark::FIN } else { 0 },
            });
        }
    }

    /// The kernel keeps it: a mark again, as before.
    pub fn takeover_cancel(&mut self, id: SockId) {
        let st = self.st;
        let s = st.net(id);
        if !s.has(flag::RETURNING) {
            return;
        }
        count!(self, handover_failed);
        sendq::free_all(st, s);
        reasm::free_all(st, s);
        recvq::free_all(st, &s);
        s.set_flag(flag::HANDED_OVER);
        s.clear_flag(flag::RETURNING | flag::HANDING_OVER);
        s.rlock.store(0, Release);
        self.raise(id, ev::STATE);
        if s.has(flag::ORPHAN) {
            self.destroy(id);
        }
    }
}
