//! Socket options that the endpoint itself honours. The kernel socket behind the fd has them too; whoever decodes
//! `setsockopt` sets both.

use super::{Sock, SockId, flag};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use crate::tcp::tcb::tflag;
use core::sync::atomic::Ordering::Relaxed;
use flyover_shm::HalfCell;

/// An option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SockOpt {
    /// `TCP_NODELAY`.
    NoDelay,
    /// `TCP_CORK`.
    Cork,
    /// `TCP_QUICKACK`.
    QuickAck,
    /// `SO_KEEPALIVE`.
    KeepAlive,
    /// `TCP_KEEPIDLE`, seconds.
    KeepIdle,
    /// `TCP_KEEPINTVL`, seconds.
    KeepIntvl,
    /// `TCP_KEEPCNT`.
    KeepCnt,
    /// `TCP_USER_TIMEOUT`, milliseconds.
    UserTimeout,
    /// `TCP_MAXSEG`.
    MaxSeg,
    /// `TCP_SYNCNT`.
    SynCnt,
    /// `TCP_DEFER_ACCEPT`, seconds.
    DeferAccept,
    /// `TCP_NOTSENT_LOWAT`, bytes.
    NotSentLowat,
    /// `TCP_LINGER2`, seconds.
    Linger2,
    /// `SO_RCVBUF`: the doubled value that Linux keeps.
    RcvBuf,
    /// `SO_SNDBUF`: the doubled value that Linux keeps.
    SndBuf,
    /// `SO_RCVLOWAT`.
    RcvLowat,
    /// `SO_OOBINLINE`.
    OobInline,
    /// `SO_LINGER`: 0 is off, else 1 + seconds.
    Linger,
    /// `SO_BROADCAST`.
    Broadcast,
    /// `IP_TTL`.
    Ttl,
    /// `IPV6_UNICAST_HOPS`.
    Hops,
    /// `IP_TOS`.
    Tos,
    /// `IPV6_TCLASS`.
    Class,
    /// `TCP_WINDOW_CLAMP`, bytes.
    WindowClamp,
    /// `SO_PEEK_OFF`: 0 is off, else 1 + offset.
    PeekOff,
    /// `IPV6_V6ONLY`.
    V6Only,
}

pub(crate) fn defaults(st: Stack<'_>, s: &Sock) {
    let o = &st.opts;
    s.rcvbuf.set(o.tcp_rmem);
    s.sndbuf.set(o.tcp_wmem);
    s.rcvlowat.set(1);
    s.ttl.set(64 | 64 << 8);
    s.keepidle.set(o.keepalive_time_s);
    s.keepintvl.set(o.keepalive_interval_s);
    s.keepcnt.set(o.keepalive_probes);
}

/// An accepted connection starts with the listener's options.
pub(crate) fn inherit(p: &Sock, s: &Sock) {
    for (a, b) in [
        (&p.rcvbuf, &s.rcvbuf),
        (&p.sndbuf, &s.sndbuf),
        (&p.rcvlowat, &s.rcvlowat),
        (&p.keepidle, &s.keepidle),
        (&p.keepintvl, &s.keepintvl),
        (&p.keepcnt, &s.keepcnt),
        (&p.user_timeout, &s.user_timeout),
        (&p.user_mss, &s.user_mss),
        (&p.linger, &s.linger),
        (&p.notsent_lowat, &s.notsent_lowat),
        (&p.linger2, &s.linger2),
        (&p.wclamp, &s.wclamp),
    ] {
        b.set(a.get());
    }
    s.ttl.set(p.ttl.get());
    s.tos.set(p.tos.get());
    for (a, b) in [(&p.sopts, &s.sopts), (&p.peek_off, &s.peek_off)] {
        b.store(a.load(Relaxed), Relaxed);
    }
    for (a, b) in [(&p.rcvtimeo, &s.rcvtimeo), (&p.sndtimeo, &s.sndtimeo)] {
        b.store(a.load(Relaxed), Relaxed);
    }
    const KEPT: u32 = flag::V6
        | flag::V6ONLY
        | flag::NODELAY
        | flag::CORK
        | flag::KEEPALIVE
        | flag::LINGER
        | flag::OOBINLINE
        | flag::RCVBUF_SET
        | flag::SNDBUF_SET;
    s.set_flag(p.flags.load(Relaxed) & KEPT);
}

fn low(cell: &HalfCell, v: u32) {
    cell.set(cell.get() & !0xff | v & 0xff);
}

fn high(cell: &HalfCell, v: u32) {
    cell.set(cell.get() & 0xff | (v & 0xff) << 8);
}

impl Locked<'_, '_, '_> {
    /// Sets an option of the endpoint. The value was checked by whoever decoded `setsockopt`.
    pub fn set_opt(&mut self, id: SockId, opt: SockOpt, v: u32) {
        let s = self.st.sock(id);
        let on = v != 0;
        match opt {
            SockOpt::NoDelay => {
                s.put_flag(flag::NODELAY, on);
                if on {
                    // As Linux, which sends everything then, a cork or not.
                    self.lift_more(id);
                }
            }
            SockOpt::Cork => {
                s.put_flag(flag::CORK, on);
                if !on {
                    self.lift_more(id);
                }
            }
            SockOpt::QuickAck => {
                s.put_flag(flag::QUICKACK, on);
                self.acknowledge_quickly(id, on);
            }
            SockOpt::KeepAlive => {
                s.put_flag(flag::KEEPALIVE, on);
                self.start_keepalive(id);
            }
            SockOpt::KeepIdle => {
                s.keepidle.set(v);
                self.start_keepalive(id);
            }
            SockOpt::KeepIntvl => s.keepintvl.set(v),
            SockOpt::KeepCnt => s.keepcnt.set(v),
            SockOpt::UserTimeout => s.user_timeout.set(v),
            SockOpt::MaxSeg => s.user_mss.set(v),
            SockOpt::SynCnt => s.syncnt.set(v),
            SockOpt::DeferAccept => s.defer_accept.set(v),
            SockOpt::NotSentLowat => s.notsent_lowat.set(v),
            SockOpt::Linger2 => s.linger2.set(v),
            SockOpt::RcvBuf => {
                s.rcvbuf.set(v);
                s.set_flag(flag::RCVBUF_SET);
            }
            SockOpt::SndBuf => {
                s.sndbuf.set(v);
                s.set_flag(flag::SNDBUF_SET);
            }
            SockOpt::RcvLowat => s.rcvlowat.set(v.max(1)),
            SockOpt::OobInline => s.put_flag(flag::OOBINLINE, on),
            SockOpt::Linger => {
                s.put_flag(flag::LINGER, on);
                s.linger.set(v.saturating_sub(1));
            }
            SockOpt::Broadcast => s.put_flag(flag::BROADCAST, on),
            SockOpt::Ttl => low(&s.ttl, v),
            SockOpt::Hops => high(&s.ttl, v),
            SockOpt::Tos => low(&s.tos, v),
            SockOpt::Class => high(&s.tos, v),
            SockOpt::WindowClamp => s.wclamp.set(v),
            SockOpt::PeekOff => s.peek_off.store(v, Relaxed),
            SockOpt::V6Only => s.put_flag(flag::V6ONLY, on),
        }
    }

    /// What `MSG_MORE` held back goes out.
    fn lift_more(&mut self, id: SockId) {
        let Some(s) = self.st.net_of(id) else { return };
        let t = &s.net.tcb;
        t.tflags.set(t.tflags.get() & !tflag::MORE);
        self.post(id);
    }

    fn acknowledge_quickly(&mut self, id: SockId, on: bool) {
        let Some(s) = self.st.net_of(id) else { return };
        let t = &s.net.tcb;
        let answers = if on { 0 } else { tflag::ANSWERS };
        t.tflags.set(t.tflags.get() & !tflag::ANSWERS | answers);
        if on && t.unacked.get() > 0 {
            t.tflags.set(t.tflags.get() | tflag::ACK_NOW);
            self.post(id);
        }
    }
}

impl Stack<'_> {
    /// The value of an option, as stored.
    pub fn opt(self, id: SockId, opt: SockOpt) -> u32 {
        let s = self.sock(id);
        let f = |bit| u32::from(s.has(bit));
        match opt {
            SockOpt::NoDelay => f(flag::NODELAY),
            SockOpt::Cork => f(flag::CORK),
            SockOpt::QuickAck => f(flag::QUICKACK),
            SockOpt::KeepAlive => f(flag::KEEPALIVE),
            SockOpt::KeepIdle => s.keepidle.get(),
            SockOpt::KeepIntvl => s.keepintvl.get(),
            SockOpt::KeepCnt => s.keepcnt.get(),
            SockOpt::UserTimeout => s.user_timeout.get(),
            SockOpt::MaxSeg => match self.net_of(id).map_or(0, |s| s.net.tcb.mss.get()) {
                0 => s.user_mss.get(),
                n => n,
            },
            SockOpt::SynCnt => s.syncnt.get(),
            SockOpt::DeferAccept => s.defer_accept.get(),
            SockOpt::NotSentLowat => s.notsent_lowat.get(),
            SockOpt::Linger2 => s.linger2.get(),
            SockOpt::RcvBuf => s.rcvbuf.get(),
            SockOpt::SndBuf => s.sndbuf.get(),
            SockOpt::RcvLowat => s.rcvlowat.get(),
            SockOpt::OobInline => f(flag::OOBINLINE),
            SockOpt::Linger => f(flag::LINGER) * (1 + s.linger.get()),
            SockOpt::Broadcast => f(flag::BROADCAST),
            SockOpt::Ttl => s.ttl.get() & 0xff,
            SockOpt::Hops => s.ttl.get() >> 8 & 0xff,
            SockOpt::Tos => s.tos.get() & 0xff,
            SockOpt::Class => s.tos.get() >> 8 & 0xff,
            SockOpt::WindowClamp => s.wclamp.get(),
            SockOpt::PeekOff => s.peek_off.load(Relaxed),
            SockOpt::V6Only => f(flag::V6ONLY),
        }
    }
}
