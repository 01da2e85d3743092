//! The window that we offer: in a SYN, and in every acknowledgment (Linux's `tcp_select_initial_window` and
//! `__tcp_select_window`), and how fast it opens.

use crate::sock::flag;
use crate::sock::net::NetSock;
use crate::stack::Stack;
use crate::tcp::tcb::{Tcb, tflag};
use crate::tcp::user::connect::our_mss;
use flyover_wire::Seq;

/// Largest window that a 16-bit field says without scaling.
const UNSCALED: u32 = 0xffff;
/// Largest shift count (RFC 7323 section 2.3).
const LARGEST_SCALE: u32 = 14;
/// In this unit the control block has how far the window opens; beyond so many there is no limit.
const UNIT: u32 = 16;
const LARGEST: u32 = 0xffff;
/// Segments from this size on say that less of a buffer is overhead.
const FULL: u32 = 1000;
/// Smaller segments do not open the window.
const GROWS_FROM: u32 = 128;

/// Bytes of the receive buffer that may be offered; what auto-tuning adds is offered whole.
fn full_space(st: Stack<'_>, s: NetSock<'_>) -> u32 {
    let buf = s.rcvbuf.get();
    if s.has(flag::RCVBUF_SET) {
        buf - overhead(s, buf)
    } else {
        buf - overhead(s, buf.min(st.opts.tcp_rmem))
    }
}

/// What Linux takes for overhead: half until it has seen segments; then what it is with those of an Ethernet.
fn overhead(s: NetSock<'_>, buf: u32) -> u32 {
    if s.net.tcb.rcv_mss.get() < FULL {
        buf.div_ceil(2)
    } else {
        buf / 8 * 3
    }
}

/// Auto-tuning wants `want` bytes to be offered.
pub(crate) fn widen(st: Stack<'_>, s: NetSock<'_>, want: u32) {
    if want > full_space(st, s) {
        let more = overhead(s, st.opts.tcp_rmem);
        let buf = want.saturating_add(more).min(st.opts.tcp_rmem_max);
        s.rcvbuf.set(buf.max(s.rcvbuf.get()));
    }
}

/// Most that may ever be offered: what `TCP_WINDOW_CLAMP` says, else a buffer that the program has chosen.
fn clamp(st: Stack<'_>, s: NetSock<'_>) -> u32 {
    let asked = match s.wclamp.get() {
        0 => u32::MAX,
        n => n,
    };
    if s.has(flag::RCVBUF_SET) {
        asked.min(full_space(st, s))
    } else {
        asked
    }
}

/// RCV.WND of a SYN: whole segments of `mss`.
pub(crate) fn initial(st: Stack<'_>, s: NetSock<'_>, mss: u32) -> u32 {
    let space = full_space(st, s).min(clamp(st, s));
    if space > mss {
        space - space % mss.max(1)
    } else {
        space
    }
}

/// The window field of a SYN, which is never scaled.
pub(crate) fn initial_field(wnd: u32) -> u16 {
    wnd.min(UNSCALED) as u16
}

/// Rcv.Wind.Shift (RFC 7323 section 2.3): so that the largest receive buffer can be offered.
pub(crate) fn own_scale(st: Stack<'_>, s: NetSock<'_>) -> u32 {
    if !st.opts.window_scaling {
        return 0;
    }
    let largest = st.opts.tcp_rmem_max.max(full_space(st, s));
    largest
        .min(clamp(st, s))
        .max(1)
        .ilog2()
        .saturating_sub(15)
        .min(LARGEST_SCALE)
}

/// Bytes of a full segment of ours, without the options that each carries.
pub(crate) fn own_mss(s: NetSock<'_>) -> u32 {
    let options = match s.net.tcb.tflags.get() & tflag::TS {
        0 => 0,
        _ => 12,
    };
    u32::from(our_mss(s)).saturating_sub(options)
}

/// How far the window may open now. One segment is held in reserve.
///
/// `full`: the buffer's bytes that may be offered; `clamped`: what other limits leave of them.
fn open_to(s: NetSock<'_>, full: u32, clamped: u32) -> u32 {
    let mss = own_mss(s);
    let most = match clamped {
        n if n > 2 * mss && n.saturating_add(mss) > full => full.saturating_sub(mss).max(2 * mss),
        n => n,
    };
    match s.net.tcb.rcv_ssthresh.get() {
        0 | LARGEST => most,
        n => (n * UNIT).min(most),
    }
}

/// The window is not to be wider than `wnd` for now.
pub(crate) fn begin(t: &Tcb, wnd: u32) {
    t.rcv_ssthresh.set(wnd.div_ceil(UNIT).clamp(1, LARGEST));
}

/// A segment of `len` bytes has come in order: the window opens by twice as much, as Linux's `tcp_grow_window`.
pub(crate) fn grow(st: Stack<'_>, s: NetSock<'_>, len: u32) {
    let t = &s.net.tcb;
    let now = t.rcv_ssthresh.get() * UNIT;
    if len < GROWS_FROM || now == 0 || now == LARGEST * UNIT {
        return;
    }
    let free = full_space(st, s).saturating_sub(s.rq_available());
    let room = free.min(clamp(st, s)).saturating_sub(now);
    begin(t, now + room.min(2 * own_mss(s).max(len)));
}

/// What of the offered window is left.
fn left(t: &Tcb) -> u32 {
    Seq(t.rcv_adv.get())
        .diff(Seq(t.rcv_nxt.get()))
        .max(0)
        .cast_unsigned()
}

/// The window to offer now, in bytes: the free receive buffer, never less than what was offered before, and no
/// silly small step (RFC 9293 section 3.8.6.2.2).
pub(crate) fn to_offer(st: Stack<'_>, s: NetSock<'_>) -> u32 {
    let t = &s.net.tcb;
    let offered = left(t);
    let unit = 1u32 << t.rcv_scale.get().min(LARGEST_SCALE);
    let up = |n: u32| n.saturating_add(unit - 1) & !(unit - 1);
    let whole = full_space(st, s);
    let full = whole.min(clamp(st, s));
    let mss = t.rcv_mss.get().min(full);
    let mut free = whole.saturating_sub(s.rq_available());
    if st.buf_pressure() {
        free = free.min(offered);
    }
    if free < full / 2 {
        free &= !(unit - 1);
        if free < whole / 16 || free < mss {
            free = 0;
        }
    }
    let free = free.min(open_to(s, whole, full));
    let wnd = if unit > 1 {
        up(free)
    } else {
        unscaled(t, free, full, mss.max(1))
    };
    // Never below what the peer was told.
    wnd.max(up(offered)).min(UNSCALED * unit)
}

/// True when at least twice the window that the peer knows of can be offered: then he is told. What [`to_offer`] takes long to
/// find out is seldom asked: more than the whole buffer is never offered.
pub(crate) fn has_doubled(st: Stack<'_>, s: NetSock<'_>) -> bool {
    let offered = left(&s.net.tcb);
    if offered > full_space(st, s) / 2 {
        return false;
    }
    let now = to_offer(st, s);
    now >= offered.saturating_mul(2) && now > offered
}

/// Without scaling the window stays a multiple of the peer's segments, and where it is for as long as it can.
fn unscaled(t: &Tcb, free: u32, full: u32, mss: u32) -> u32 {
    let said = Seq(t.rcv_adv.get())
        .diff(Seq(t.last_ack_sent.get()))
        .max(0)
        .cast_unsigned();
    if said.saturating_add(mss) <= free || said > free {
        free - free % mss
    } else if mss == full && free > said + full / 2 {
        free
    } else {
        said
    }
}

/// The window field, and RCV.ADV with it.
pub(crate) fn field(st: Stack<'_>, s: NetSock<'_>) -> u16 {
    let t = &s.net.tcb;
    let scale = t.rcv_scale.get().min(LARGEST_SCALE);
    let whole_units = to_offer(st, s).saturating_add((1 << scale) - 1) >> scale;
    let field = whole_units.min(UNSCALED);
    t.rcv_adv.set(
        Seq(t.rcv_nxt.get())
            .add(field << scale)
            .latest(Seq(t.rcv_adv.get()))
            .0,
    );
    field as u16
}
