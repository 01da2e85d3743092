//! Leaving the stack: a connection is frozen, described, and then either given to the kernel or thawed.
//!
//! While it is frozen it neither takes segments (the peer repeats them), nor sends, nor runs timers; senders and
//! readers find no room and no data for that moment. A connection that was given away keeps its slot, empty, until the
//! kernel socket ends: whoever still holds the socket finds the mark, and segments that were on their way into the
//! stack are dropped in silence rather than answered with RST.

use super::oob;
use crate::effects::Effect;
use crate::error::Error;
use crate::sock::net::NetSock;
use crate::sock::{Kind, SHUT_WR, Sock, SockId, flag, recvq, sendq};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use crate::stack::wake::{ItemId, ItemMode, SetId, ev, imode};
use crate::stack::wheel;
use crate::tcp::rx::count;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use crate::tcp::{reasm, timers};
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_shm::ShmBytes;
use flyover_wire::{Endpoint, Seq};

/// A frozen connection as another TCP needs it to go on (RFC 9293 section 3.3.1, RFC 7323). The FINs of both sides are
/// told apart from the data: sequence numbers here count data only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handover {
    /// Local address and port.
    pub local: Endpoint,
    /// Remote address and port.
    pub remote: Endpoint,
    /// Interface of the route, for link-local addresses.
    pub ifindex: u32,
    /// SND.UNA, of the data.
    pub snd_una: u32,
    /// Bytes sent and not acknowledged.
    pub unacked: u32,
    /// Bytes queued in all, from SND.UNA on.
    pub queued: u32,
    /// RCV.NXT, of the data.
    pub rcv_nxt: u32,
    /// Bytes received in order that nobody has read.
    pub unread: u32,
    /// SND.WND in bytes.
    pub snd_wnd: u32,
    /// SND.WL1.
    pub snd_wl1: u32,
    /// Largest window the peer ever offered, bytes.
    pub max_wnd: u32,
    /// What the peer was offered beyond RCV.NXT, bytes.
    pub rcv_wnd: u32,
    /// MSS of the peer, bytes.
    pub mss: u32,
    /// Window scaling: the peer's shift and ours.
    pub scales: Option<(u32, u32)>,
    /// SACK was agreed.
    pub sack: bool,
    /// Timestamps were agreed: the clock's next value, ms.
    pub timestamp: Option<u32>,
    /// The peer's FIN has come, after all of its data.
    pub fin_in: bool,
    /// The program has closed its sending direction.
    pub fin_out: bool,
    /// Our FIN is acknowledged.
    pub fin_acked: bool,
}

/// True while the connection is frozen, when it is gone to the kernel, or has its other end in this stack: no segment and
/// no timer may change it.
pub(crate) fn is_frozen(s: &Sock) -> bool {
    s.flags.load(Relaxed) & (flag::HANDING_OVER | flag::HANDED_OVER | flag::PAIRED) != 0
        || !s.is_net()
}

/// How often a reader that is just copying is waited for.
const READER_SPINS: u32 = 100_000;

impl Locked<'_, '_, '_> {
    /// Freezes a connection and describes it. The caller then gives it away ([`handover_done`](Self::handover_done)) or
    /// thaws it ([`handover_cancel`](Self::handover_cancel)).
    ///
    /// # Errors
    /// [`Error::Moved`]: it went to the kernel before. [`Error::Already`]: somebody else is at it. [`Error::Invalid`]:
    /// not a connection that is established or half-closed. [`Error::NotSupported`]: urgent data is on its way, which
    /// cannot be described. [`Error::WouldBlock`]: a reader does not let go.
    pub fn handover_begin(&mut self, id: SockId) -> Result<Handover, Error> {
        let st = self.st;
        let s = st.net(id);
        if s.has(flag::HANDED_OVER) {
            return Err(Error::Moved);
        }
        if s.has(flag::HANDING_OVER) {
            return Err(Error::Already);
        }
        let state = s.tcp_state();
        let movable = state.is_synchronised() && state != TcpState::TimeWait;
        let held = !s.has(flag::ORPHAN) && !s.has(flag::IN_ACCEPTQ);
        if s.kind() != Kind::Tcp || !s.is_net() || !movable || !held {
            return Err(Error::Invalid);
        }
        if oob::pending(&s) || s.net.tcb.tflags.get() & tflag::URG_OUT != 0 {
            return Err(Error::NotSupported);
        }
        let mut tries = 0;
        while !recvq::lock(&s, self.env.me) {
            tries += 1;
            if tries > READER_SPINS {
                return Err(Error::WouldBlock);
            }
            core::hint::spin_loop();
        }
        s.set_flag(flag::HANDING_OVER);
        wheel::disarm(st, id);
        Ok(self.describe(s))
    }

    fn describe(&self, s: NetSock<'_>) -> Handover {
        let t = &s.net.tcb;
        let f = t.tflags.get();
        let state = s.tcp_state();
        let (una, nxt) = (Seq(t.snd_una.get()), Seq(t.snd_nxt.get()));
        let sent = u32::from(f & tflag::FIN_SENT != 0);
        let fin_acked = sent == 1 && una == nxt;
        // A FIN takes the last sequence number of its direction.
        let una = Seq(una.0.wrapping_sub(u32::from(fin_acked)));
        let nxt = Seq(nxt.0.wrapping_sub(sent));
        let fin_in = matches!(
            state,
            TcpState::CloseWait | TcpState::LastAck | TcpState::Closing
        );
        let rcv_nxt = Seq(t.rcv_nxt.get().wrapping_sub(u32::from(fin_in)));
        let queued = s.net.sq_len.load(Relaxed);
        Handover {
            local: s.local(),
            remote: s.remote(),
            ifindex: s.net.rt_ifindex.get(),
            snd_una: una.0,
            unacked: nxt.diff(una).max(0).cast_unsigned().min(queued),
            queued,
            rcv_nxt: rcv_nxt.0,
            unread: s.rq_available(),
            snd_wnd: t.snd_wnd.get(),
            snd_wl1: t.snd_wl1.get(),
            max_wnd: t.max_wnd.get().max(t.snd_wnd.get()),
            rcv_wnd: Seq(t.rcv_adv.get()).diff(rcv_nxt).max(0).cast_unsigned(),
            mss: t.peer_mss.get(),
            scales: (f & tflag::WSCALE != 0)
                .then(|| (t.snd_scale.get().min(14), t.rcv_scale.get().min(14))),
            sack: f & tflag::SACK != 0,
            // The clock of the next owner starts at least where ours stands.
            timestamp: (f & tflag::TS != 0)
                .then(|| self.env.now.ms32().wrapping_add(t.ts_off.get())),
            fin_in,
            fin_out: s.shut.load(Relaxed) & SHUT_WR != 0,
            fin_acked,
        }
    }

    /// The kernel has the connection: the endpoint is a mark from now on, `filter` (which keeps the flow with the
    /// kernel) ends with it, and everybody who waits is told; `reason` is kept for the socket layer. Returns the filter
    /// that it had before, 0 for none.
    pub fn handover_done(&mut self, id: SockId, filter: u32, reason: u32) -> u32 {
        let st = self.st;
        let s = st.net(id);
        count!(self, handovers);
        s.reason.set(reason);
        // The mark first: who finds an empty queue after it looks at the mark again.
        s.set_flag(flag::HANDED_OVER);
        s.clear_flag(flag::HANDING_OVER);
        let before = if s.is_leased() {
            self.spend_port(s.local().port);
            0
        } else {
            s.filter.get()
        };
        s.filter.set(filter);
        sendq::free_all(st, s);
        reasm::free_all(st, s);
        recvq::free_all(st, &s);
        recvq::unlock(&s);
        self.raise(id, ev::STATE);
        if s.has(flag::ORPHAN) {
            self.destroy(id);
        }
        before
    }

    /// The kernel does not take it: it goes on here.
    pub fn handover_cancel(&mut self, id: SockId) {
        let s = self.st.net(id);
        if !s.has(flag::HANDING_OVER) || s.has(flag::RETURNING) {
            return;
        }
        count!(self, handover_failed);
        s.clear_flag(flag::HANDING_OVER);
        recvq::unlock(&s);
        if s.has(flag::ORPHAN) {
            // Closed meanwhile.
            s.clear_flag(flag::ORPHAN);
            self.close(id);
            return;
        }
        // What the peer sent meanwhile is lost; an ACK tells it where we are.
        let t = &s.net.tcb;
        t.tflags.set(t.tflags.get() | tflag::ACK_NOW);
        timers::rearm(self, id);
        self.post(id);
        let mask = self.st.readiness(id);
        self.raise(id, mask);
    }
}

impl Locked<'_, '_, '_> {
    /// A UDP endpoint leaves: it is a mark from now on, and everybody who waits is told. Its filter is gone already.
    ///
    /// # Errors
    /// [`Error::NotSupported`] while datagrams wait to be read, [`Error::Moved`] when it has left before.
    pub fn udp_leave(&mut self, id: SockId) -> Result<(), Error> {
        let s = self.st.sock(id);
        if s.has(flag::HANDED_OVER) {
            return Err(Error::Moved);
        }
        if s.kind() != Kind::Udp || s.rq_available() > 0 {
            return Err(Error::NotSupported);
        }
        count!(self, handovers);
        self.st.unhash(id);
        s.set_flag(flag::HANDED_OVER);
        self.raise(id, ev::STATE);
        Ok(())
    }

    /// Drops what waits to be read of a UDP socket that is going to leave; a reader of this moment keeps what he has.
    pub fn udp_drop_unread(&mut self, id: SockId) {
        let st = self.st;
        let mut most = st.limits().bufs;
        while most > 0
            && st
                .udp_recv(st.sock_ref(id), &mut [], false, self.env.me)
                .is_ok()
        {
            count!(self, udp_left_behind);
            most -= 1;
        }
    }

    /// What a membership asks for, as `EPOLL_CTL_ADD` would: its socket, events, data, and whether it is armed.
    pub fn item_view(&self, id: ItemId) -> Option<ItemView> {
        let item = self.st.items.at(id);
        let mode = item.mode.get();
        Some(ItemView {
            set: item.set.get().opt()?,
            sock: item.sock.get().opt()?,
            events: item.events.get(),
            data: item.data.get(),
            mode: ItemMode {
                edge: mode & imode::EDGE != 0,
                oneshot: mode & imode::ONESHOT != 0,
                exclusive: mode & imode::EXCLUSIVE != 0,
                private: mode & imode::PRIVATE != 0,
                quiet: false,
                away: mode & imode::AWAY != 0,
            },
            armed: mode & imode::DISARMED == 0,
            away: mode & imode::AWAY != 0,
        })
    }
}

/// A membership, seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemView {
    /// In which set.
    pub set: SetId,
    /// Whose it is.
    pub sock: SockId,
    /// Events asked for.
    pub events: u32,
    /// The program's data.
    pub data: u64,
    /// How it is watched.
    pub mode: ItemMode,
    /// False for a one-shot member that has fired.
    pub armed: bool,
    /// The kernel's set has it.
    pub away: bool,
}

impl<'m> Stack<'m> {
    /// Gives the unread bytes, then the queued ones, of a frozen connection piece by piece. Needs no lock: nobody
    /// changes them. False when the memory does not hold what [`Handover`] said.
    pub fn handover_data(
        self,
        id: SockId,
        h: &Handover,
        mut each: impl FnMut(ShmBytes<'m>),
    ) -> bool {
        let s = self.net(id);
        let first = (s.rq_head.get().opt(), s.rq_rd.get());
        self.walk(first, h.unread, &mut each)
            && self.walk((s.net.sq_head.get().opt(), 0), h.queued, &mut each)
    }

    fn walk(
        self,
        from: (Option<crate::stack::buf::BufId>, u32),
        len: u32,
        each: &mut impl FnMut(ShmBytes<'m>),
    ) -> bool {
        let (mut cur, mut skip) = from;
        let mut left = len;
        let mut guard = self.limits().bufs;
        while left > 0 {
            let (Some(id), true) = (cur, guard > 0) else {
                return false;
            };
            guard -= 1;
            let b = self.buf(id);
            let n = b.len.get().saturating_sub(skip).min(left);
            let piece = self
                .buf_bytes(id)
                .sub(b.off.get().saturating_add(skip) as usize, n as usize);
            if piece.len() != n as usize {
                return false;
            }
            if n > 0 {
                each(piece);
            }
            left -= n;
            skip = 0;
            cur = b.next.get().opt();
        }
        true
    }
}

/// What is known of the connections that a process was handing over when it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfinished {
    /// Nothing: the kernel may have them or not.
    Unknown,
    /// The kernel has none of them.
    Stay,
    /// It has the one between these ends, and `filter` keeps the flow there; the others stay.
    Moved {
        /// Local end.
        local: Endpoint,
        /// Remote end.
        remote: Endpoint,
        /// Number of the exception.
        filter: u32,
    },
}

/// The reason that is kept for such a connection; the socket layer calls it "handed over".
pub const REASON_UNFINISHED: u32 = 16;

/// The end of a process that was handing connections over: it is finished for it. When it is not known whether the
/// kernel has the connection, it ends here; if the kernel has it not either, the peer's next segment is answered with RST.
pub(crate) fn abandon(l: &mut Locked<'_, '_, '_>, id: SockId, unfinished: Unfinished) {
    let s = l.st.sock(id);
    if s.has(flag::RETURNING) {
        // The kernel still has it, or got it back. If it is not known, the program's next call tells.
        if let Unfinished::Moved {
            local,
            remote,
            filter,
        } = unfinished
            && s.local() == local
            && s.remote() == remote
        {
            s.filter.set(filter);
        }
        l.takeover_cancel(id);
        return;
    }
    if !s.has(flag::HANDING_OVER) {
        return;
    }
    match unfinished {
        Unfinished::Unknown => {
            count!(l, handover_failed);
            s.rlock.store(0, Release);
            s.clear_flag(flag::HANDING_OVER);
            l.spend_port(s.local().port);
            l.destroy(id);
        }
        Unfinished::Moved {
            local,
            remote,
            filter,
        } if s.local() == local && s.remote() == remote => {
            let old = l.handover_done(id, filter, REASON_UNFINISHED);
            if old != 0 {
                l.env.fx.push(Effect::DelFilter(old));
            }
        }
        Unfinished::Stay | Unfinished::Moved { .. } => l.handover_cancel(id),
    }
}
