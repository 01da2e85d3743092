//! How much new data may go out now: both windows, Nagle and cork, sender silly-window avoidance (RFC 9293
//! sections 3.7.4 and 3.8.6.2.1), and what the V-NIC takes at once.

use super::build::{Piece, header_room, segment_room};
use crate::sock::net::NetSock;
use crate::sock::{SockId, flag, sendq};
use crate::stack::Stack;
use crate::stack::locked::Env;
use crate::tcp::cc::Phase;
use crate::tcp::flight::Flight;
use crate::tcp::loss;
use crate::tcp::tcb::{Tcb, tflag};
use crate::tcp::user::oob;
use crate::time::{Instant, MS, US};
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::Seq;

/// The next piece of new data, or a FIN, that may be sent; None: nothing now.
pub(crate) fn next_piece(st: Stack<'_>, id: SockId, env: &mut Env<'_>) -> Option<Piece> {
    let (s, flight) = (st.net(id), st.flight(id));
    let t = &s.net.tcb;
    let f = t.tflags.get();
    if f & tflag::FIN_SENT != 0 {
        return None;
    }
    let (una, nxt) = (Seq(t.snd_una.get()), Seq(t.snd_nxt.get()));
    let sent = nxt.since(una);
    let queued = s.net.sq_len.load(Relaxed);
    let unsent = queued.saturating_sub(sent);
    let fin_due = f & tflag::FIN_QUEUED != 0;
    if unsent == 0 {
        return fin_due.then_some(Piece {
            seq: nxt,
            off: sent,
            len: 0,
            fin: true,
            push: true,
            burst_end: false,
            again: false,
        });
    }
    let mss = segment_room(t);
    let wnd = t.snd_wnd.get().saturating_sub(sent);
    let cwnd = loss::room(t).saturating_mul(mss);
    let most = if unsent > mss {
        largest(s, env, mss)
    } else {
        mss
    };
    let mut len = unsent.min(wnd).min(cwnd).min(most);
    if len == 0 || unsent > mss && is_put_off(s, flight, env.now, (unsent, wnd, cwnd)) {
        return None;
    }
    let rest = len == unsent;
    if rest {
        // The tail: full segments always go, and what a record's end has cut off; a small last one is Nagle's or the
        // cork's business.
        let small = len % mss;
        if small != 0 && !fin_due && holds_back(s, f) && !sendq::ends_record(st, s, sent, len) {
            len -= small;
            if len < mss.saturating_mul(SHORT) && is_little(t, (sent, most)) {
                return None;
            }
        }
    } else {
        // More follows: only full segments.
        let whole = len - len % mss;
        if whole == 0 {
            if sent != 0 || cwnd >= mss {
                return None;
            }
        } else {
            len = whole;
        }
    }
    if len == 0 {
        return None;
    }
    let last = len == unsent;
    Some(Piece {
        seq: nxt,
        off: sent,
        len,
        fin: last && fin_due,
        push: last,
        // What the V-NIC did not cut short is as long as Linux would make it.
        burst_end: len > mss && len < most,
        again: false,
    })
}

/// A burst goes on for so long, us.
const RECENT: u32 = 1_000;

/// What may go is little, and more of it can go at once with the next acknowledgment, which comes soon: as Linux's
/// `tcp_tso_should_defer`, for the sake of larger bursts.
fn is_put_off(
    s: NetSock<'_>,
    t: Flight<'_>,
    now: Instant,
    (unsent, wnd, cwnd): (u32, u32, u32),
) -> bool {
    let limit = wnd.min(cwnd);
    let mss = t.mss.get().max(1);
    if t.cc_phase() >= Phase::Recovery
        || loss::micros(now).wrapping_sub(t.wstamp.get()) > RECENT
        || limit >= burst(s).saturating_mul(mss)
    {
        return false;
    }
    let window = t.cwnd.get().saturating_mul(mss).min(t.snd_wnd.get());
    let Some(head) = t.first() else { return false };
    let age = u64::from(loss::micros(now).wrapping_sub(head.at));
    let srtt = t.srtt.get() / US;
    // Not for an acknowledgment that is further away than a millisecond.
    if limit >= window / 3 || age + (srtt / 2).min(u64::from(RECENT)) < srtt {
        return false;
    }
    let full = if cwnd < wnd { cwnd } else { wnd };
    full <= unsent || t.tflags.get() & tflag::FIN_QUEUED == 0
}

/// Segments that are not worth a frame while much is under way.
const SHORT: u32 = 8;
/// That is much, bytes.
const MUCH: u32 = 32 << 10;

/// The full segments before a small one that has to wait are few, and much is under way on a short path: they wait as well.
/// Who reads the end of a write has to wait for the small one anyway; and while one large write follows the other, the
/// segment that each leaves over would take a frame of its own, which costs a fifth of what a super-frame costs.
fn is_little(t: &Tcb, (sent, most): (u32, u32)) -> bool {
    sent > MUCH && most > MUCH && t.srtt.get() < MS / 2
}

/// Nagle (RFC 1122 section 4.2.3.4), `TCP_CORK` and `MSG_MORE`. As Linux, in Minshall's form: a small segment waits for
/// the one small segment in flight, not for full ones, so that the tail of a large write goes out at once.
fn holds_back(s: NetSock<'_>, f: u32) -> bool {
    let t = &s.net.tcb;
    let (una, nxt) = (Seq(t.snd_una.get()), Seq(t.snd_nxt.get()));
    if oob::is_sending(t) {
        // Urgent data waits for nothing.
        return false;
    }
    if s.has(flag::CORK) || f & tflag::MORE != 0 {
        return true;
    }
    let small = Seq(t.snd_sml.get());
    !s.has(flag::NODELAY) && una != nxt && small.after(una) && small.before_eq(nxt)
}

/// Most segments of a super-frame: a V-NIC that cuts it itself needs a place in its ring for each.
const SEGMENTS: u32 = 128;

/// Payload bytes that one frame may carry: a super-frame, or one segment.
pub(super) fn largest(s: NetSock<'_>, env: &mut Env<'_>, mss: u32) -> u32 {
    let nic = s.nic.get().wrapping_sub(1) as usize;
    let tso = env.nics.nic(nic).map_or(0, |n| n.caps().tso_max);
    let room = tso.saturating_sub(header_room(&s));
    // Each segment has an urgent pointer of its own.
    if room <= mss || oob::is_sending(&s.net.tcb) {
        return mss;
    }
    let room = room
        .min(mss.saturating_mul(SEGMENTS))
        .min(millisecond(s, room))
        .max(mss.saturating_mul(2).min(room));
    room - room % mss
}

/// Segments that Linux would send as one super-frame (`tcp_tso_autosize`), whatever the device can.
pub(super) fn burst(s: NetSock<'_>) -> u32 {
    let t = &s.net.tcb;
    let mss = t.mss.get().max(1);
    let half = (t.max_wnd.get() / 2).min(0xffff).max(mss);
    (millisecond(s, 0xffff) / mss).max(2).min(half / mss)
}

/// Counts a piece; `left`: one more than the segments left of the burst that it belongs to, 0 or 1 when one begins. Returns the
/// same for the next piece.
pub(super) fn count_burst(s: NetSock<'_>, left: u32, piece: &mut Piece) -> u32 {
    let t = &s.net.tcb;
    let mss = segment_room(t);
    // Each segment has an urgent pointer of its own.
    if oob::is_sending(t) {
        return 0;
    }
    let n = piece.len.div_ceil(mss);
    if left > 1 {
        piece.burst_end |= left - 1 <= n;
        return (left - 1).saturating_sub(n) + 1;
    }
    let flight = Seq(t.snd_nxt.get()).since(Seq(t.snd_una.get()));
    let unsent = s.net.sq_len.load(Relaxed).saturating_sub(flight);
    let wnd = t.snd_wnd.get().saturating_sub(flight) / mss;
    let all = burst(s)
        .min(unsent.div_ceil(mss))
        .min(wnd)
        .min(loss::room(t));
    piece.burst_end |= n > 1 && all <= n;
    all.saturating_sub(n) + 1
}

/// What the connection sends in about a millisecond, at twice its present rate, as Linux's `tcp_tso_autosize`: a larger
/// burst would only overflow the queue of a slow line. On paths shorter than half a millisecond the whole super-frame.
fn millisecond(s: NetSock<'_>, whole: u32) -> u32 {
    let t = &s.net.tcb;
    let srtt = t.srtt.get();
    if srtt < MS / 2 {
        return whole;
    }
    let window = u64::from(t.cwnd.get()) * u64::from(t.mss.get());
    let rate = window.saturating_mul(2 * MS) / srtt;
    let near = whole
        .checked_shr((t.min_rtt.get() / (MS / 2)).min(32) as u32)
        .unwrap_or(0);
    u32::try_from(rate)
        .unwrap_or(u32::MAX)
        .saturating_add(near)
        .min(whole)
}
