//! LISTEN (RFC 9293 section 3.10.7.2): a SYN makes a child in SYN_RCVD.

use super::cookie::{self, Redeemed};
use super::{Seg, closed, count};
use crate::sock::net::NetSock;
use crate::sock::{Kind, SockId, flag, opts};
use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use crate::tcp::{cc, ecn, tx, user};
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::{Seq, TcpFlags, TcpOpts};

pub(super) fn handle(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: Seg<'_>, id: SockId) {
    if seg.flags.has(TcpFlags::RST) {
        return;
    }
    if l.st.sock(id).has(flag::WITHDRAWN) {
        count!(l, tcp_drop_state);
        return;
    }
    if seg.flags.has(TcpFlags::ACK) {
        return match cookie::redeem(l, p, &seg, id) {
            Redeemed::Opens(child) => super::to_connection(l, p, seg, child),
            Redeemed::Waits => {}
            Redeemed::Stray => closed::handle(l, p, seg),
        };
    }
    if !seg.flags.has(TcpFlags::SYN) {
        count!(l, tcp_drop_state);
        return;
    }
    if seg.flags.has(TcpFlags::FIN) || p.hdr.dst.is_multicast() || p.hdr.dst.is_broadcast() {
        count!(l, tcp_drop_state);
        return;
    }
    let listener = l.st.net(id).net;
    let backlog = listener.backlog.get();
    // As Linux: a full accept queue refuses new SYNs silently; half-open ones are bounded apart.
    if listener.acc_len.load(Relaxed) > backlog {
        count!(l, tcp_drop_backlog);
        return;
    }
    let most = (backlog.max(8) * 2).min(l.st.opts.syn_backlog);
    if listener.syn_len.get() > most {
        if l.st.opts.syn_cookies {
            cookie::offer(l, p, &seg, id);
        } else {
            count!(l, tcp_drop_backlog);
        }
        return;
    }
    let opened = Opened {
        iss: user::connect::isn(l, p.hdr.destination(), p.hdr.source()),
        irs: seg.seq,
        window: seg.hdr.window,
        options: seg.hdr.options,
        ecn: l.st.opts.ecn != 0 && ecn::is_asked(p, seg.flags),
    };
    let Some(child) = child_of(l, p, id, &opened) else {
        return;
    };
    tx::send_syn_ack(l, child);
    if l.st.tcb(child).t_rtx.get() == 0 {
        // Else the neighbour is being resolved, and a sooner timer runs.
        user::connect::arm_syn_timer(l, child);
    }
}

/// What a connection begins with.
pub(super) struct Opened {
    /// ISS.
    pub iss: Seq,
    /// IRS.
    pub irs: Seq,
    /// The window of the segment that began it, not scaled.
    pub window: u16,
    /// The options of the peer's SYN.
    pub options: TcpOpts,
    /// ECN is agreed.
    pub ecn: bool,
}

/// A child of a listener, in SYN_RCVD.
pub(super) fn child_of(
    l: &mut Locked<'_, '_, '_>,
    p: &RxPkt<'_>,
    listener: SockId,
    opened: &Opened,
) -> Option<SockId> {
    let Some(child) = l.new_child(listener) else {
        count!(l, tcp_drop_no_slot);
        return None;
    };
    let s = l.st.net(child);
    s.set_local(p.hdr.destination());
    s.set_remote(p.hdr.source());
    s.nic.set(p.nic as u32 + 1);
    set_up(l, s, opened);
    l.st.hash_conn(child);
    s.set_tcp_state(TcpState::SynRcvd);
    count!(l, tcp_passive);
    Some(child)
}

/// Takes the options of the SYN and our side's numbers.
fn set_up(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>, opened: &Opened) {
    let t = &s.net.tcb;
    let (iss, irs) = (opened.iss, opened.irs);
    t.iss.set(iss.0);
    t.snd_una.set(iss.0);
    t.snd_nxt.set(iss.0);
    t.irs.set(irs.0);
    t.rcv_nxt.set(irs.add(1).0);
    t.rcv_adv.set(t.rcv_nxt.get());
    t.drs_seq.set(t.rcv_nxt.get());
    t.last_ack_sent.set(t.rcv_nxt.get());
    t.snd_wnd.set(u32::from(opened.window));
    t.max_wnd.set(u32::from(opened.window));
    t.snd_wl1.set(irs.0);
    user::connect::init_tcb(l, s);
    let mut f = 0;
    let o = user::connect::permitted(&l.st.opts, &opened.options);
    if let Some(scale) = o.wscale {
        f |= tflag::WSCALE;
        t.snd_scale.set(u32::from(scale.min(14)));
    } else {
        t.rcv_scale.set(0);
    }
    if let Some((val, _)) = o.ts {
        f |= tflag::TS;
        t.ts_recent.set(val);
        t.ts_recent_at.set(l.env.now.0);
    }
    if o.sack_permitted {
        f |= tflag::SACK;
    }
    if opened.ecn {
        f |= tflag::ECN;
    }
    t.tflags.set(f);
    t.peer_mss.set(user::connect::mss_of(&o));
    user::connect::set_mss(l, s);
    cc::init(t, l.st.opts.initial_cwnd, l.env.now);
}

impl Locked<'_, '_, '_> {
    /// A slot for a connection that came through this listener, with the listener's options.
    fn new_child(&mut self, listener: SockId) -> Option<SockId> {
        let st = self.st;
        let id = self.alloc_slot(Kind::Tcp, true, 0).or_else(|| {
            self.recycle_time_wait();
            self.alloc_slot(Kind::Tcp, true, 0)
        })?;
        let (p, s) = (st.net(listener), st.sock(id));
        opts::inherit(&p, s);
        // A listener that had been shut down before it listened: Linux's clone takes that along.
        s.shut.store(p.shut.load(Relaxed), Relaxed);
        s.parent.set(listener.into());
        s.parent_gen.set(p.gen_.load(Relaxed));
        s.set_flag(flag::CHILD | flag::IN_SYNQ | flag::ORPHAN);
        p.net.children.set(p.net.children.get().wrapping_add(1));
        p.net.syn_len.set(p.net.syn_len.get().wrapping_add(1));
        Some(id)
    }
}
