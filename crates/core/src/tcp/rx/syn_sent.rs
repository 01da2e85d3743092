//! SYN_SENT (RFC 9293 section 3.10.7.3).

use super::{Seg, count};
use crate::error::Error;
use crate::sock::SockId;
use crate::sock::net::NetSock;
use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::stack::wake::ev;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::{rtx, tflag};
use crate::tcp::{cc, ecn, rtt, timers, tx, user, window};
use crate::time::MS;
use flyover_wire::{Seq, TcpFlags};

pub(super) fn handle(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: Seg<'_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let acked = seg.flags.has(TcpFlags::ACK);
    if acked && seg.ack != Seq(t.snd_nxt.get()) {
        count!(l, tcp_drop_bad_ack);
        if !seg.flags.has(TcpFlags::RST) {
            tx::send_rst_for(l, p, &seg);
        }
        user::connect::resend_syn_soon(l, id);
        return;
    }
    if acked && !user::connect::echoes_our_time(l, s, &seg.hdr.options) {
        count!(l, tcp_drop_paws);
        if !seg.flags.has(TcpFlags::RST) {
            tx::send_rst_for(l, p, &seg);
        }
        return;
    }
    if seg.flags.has(TcpFlags::RST) {
        if acked {
            count!(l, tcp_rst_in);
            l.reset_conn(id, Error::Refused);
        }
        return;
    }
    if !seg.flags.has(TcpFlags::SYN) {
        count!(l, tcp_drop_state);
        return;
    }
    take_syn(l, s, &seg);
    if acked {
        t.snd_una.set(seg.ack.0);
        if t.backoff.get() == 0 && t.rtt_at.get() != 0 {
            let ns = l.env.now.since(crate::time::Instant(t.rtt_at.get()));
            rtt::sample(t, ns, &l.st.opts, l.env.now);
        }
        t.rtt_at.set(0);
        t.backoff.set(0);
        t.t_rtx.set(0);
        t.rtx_kind.set(rtx::NONE);
        t.first_rtx.set(0);
        s.set_tcp_state(TcpState::Established);
        user::connect::begins(l, s);
        t.snd_wnd.set(u32::from(seg.hdr.window));
        user::connect::larger_window(l, s, t.snd_wnd.get());
        t.snd_wl1.set(seg.seq.0);
        cc::init(t, l.st.opts.initial_cwnd, l.env.now);
        acknowledge(l, id);
        l.start_keepalive(id);
        l.raise(id, ev::SPACE | ev::STATE);
        l.post(id);
    } else {
        // Simultaneous open.
        t.tflags.set(t.tflags.get() | tflag::SIMULTANEOUS);
        t.snd_wnd.set(u32::from(seg.hdr.window));
        t.snd_wl1.set(seg.seq.0);
        s.set_tcp_state(TcpState::SynRcvd);
        t.t_rtx.set(0);
        tx::send_syn_ack(l, id);
        if t.t_rtx.get() == 0 {
            user::connect::arm_syn_timer(l, id);
        }
    }
}

/// The third segment. As Linux, it waits for a program that is about to send or has said that it will.
fn acknowledge(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let data_follows = t.tflags.get() & tflag::SENDER != 0
        || s.defer_accept.get() != 0
        || t.tflags.get() & tflag::ANSWERS != 0;
    if !data_follows {
        t.tflags.set(t.tflags.get() | tflag::ACK_NOW);
        return;
    }
    t.tflags.set(t.tflags.get() & !tflag::SENDER);
    t.t_delack.set(l.env.now.0.saturating_add(PATIENCE));
    timers::rearm(l, id);
}

/// How long, ns (`TCP_DELACK_MAX`).
const PATIENCE: u64 = 200 * MS;

fn take_syn(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>, seg: &Seg<'_>) {
    let t = &s.net.tcb;
    t.irs.set(seg.seq.0);
    t.rcv_nxt.set(seg.seq.add(1).0);
    t.drs_seq.set(t.rcv_nxt.get());
    let mss = u32::from(user::connect::our_mss(s));
    let wnd = window::initial(l.st, s, mss);
    t.rcv_adv.set(t.rcv_nxt.get().wrapping_add(wnd));
    t.last_ack_sent.set(t.rcv_nxt.get());
    // What we did not offer cannot be agreed.
    let o = &user::connect::permitted(&l.st.opts, &seg.hdr.options);
    let mut f = t.tflags.get() & !(tflag::WSCALE | tflag::TS | tflag::SACK);
    if !ecn::is_granted(seg.flags) {
        f &= !tflag::ECN;
    }
    match o.wscale {
        Some(scale) => {
            f |= tflag::WSCALE;
            t.snd_scale.set(u32::from(scale.min(14)));
        }
        None => {
            t.rcv_scale.set(0);
            t.snd_scale.set(0);
        }
    }
    if let Some((val, _)) = o.ts {
        f |= tflag::TS;
        t.ts_recent.set(val);
        t.ts_recent_at.set(l.env.now.0);
    }
    if o.sack_permitted {
        f |= tflag::SACK;
    }
    t.tflags.set(f);
    t.peer_mss.set(user::connect::mss_of(o));
    user::connect::set_mss(l, s);
}
