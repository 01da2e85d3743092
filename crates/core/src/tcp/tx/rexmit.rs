//! Retransmission: which of the lost segments go out again, and how they are cut (`tcp_xmit_retransmit_queue`).

use super::build::{self, Out, Piece};
use super::limits::largest;
use crate::sock::SockId;
use crate::stack::locked::Locked;
use crate::tcp::flight::{Flight, RUNS, Run, mark};
use crate::tcp::loss::{micros, room};
use crate::tcp::rx::count;
use crate::tcp::tcb::{Tcb, rtx, tflag};
use crate::tcp::{rtt, timers};
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::Seq;

/// Sends what counts as lost, as far as the window allows.
pub(crate) fn send_lost(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let flight = l.st.flight(id);
    let t = flight.tcb;
    let mut first_again = false;
    let mut i = 0;
    while let Some(r) = flight.get(i) {
        let (room, unsent) = (room(t), t.lost_out.get() > t.retrans_out.get());
        if room == 0 || !unsent {
            break;
        }
        if !r.has(mark::LOST) || r.has(mark::SACKED | mark::RETRANS) {
            i += 1;
            continue;
        }
        let Some(n) = send_run(l, id, i, room, mark::RETRANS) else {
            break;
        };
        if t.is_reducing() {
            t.prr_out.set(t.prr_out.get().saturating_add(n));
        }
        first_again |= i == 0 && t.rtx_kind.get() != rtx::REO;
        // Where it was taken together with the one before it, the next one has its place.
        if flight.get(i).is_some_and(|now| !now.start.after(r.start)) {
            i += 1;
        }
    }
    if first_again {
        let rto = rtt::rto(t, &l.st.opts);
        timers::arm(l, id, rtx::RTO, rto);
    }
}

/// The timer expired: the first segment. False: it could not be sent.
pub(crate) fn send_first_again(l: &mut Locked<'_, '_, '_>, id: SockId) -> bool {
    send_run(l, id, 0, 1, mark::RETRANS).is_some()
}

/// The last segment once more, as a probe.
pub(crate) fn send_last_again(l: &mut Locked<'_, '_, '_>, id: SockId) -> bool {
    let flight = l.st.flight(id);
    flight.make_room();
    let Some(last) = flight.last() else {
        return false;
    };
    let at = last.end_of(last.count() - 1);
    if last.count() > 1 && !flight.split(flight.len() - 1, at) {
        return false;
    }
    send_run(l, id, flight.len() - 1, 1, 0).is_some()
}

/// Sends up to `most` segments of the `i`-th run again and marks them; returns how many, None when nothing went out.
fn send_run(
    l: &mut Locked<'_, '_, '_>,
    id: SockId,
    i: usize,
    most: u32,
    marks: u32,
) -> Option<u32> {
    let (s, flight) = (l.st.net(id), l.st.flight(id));
    let t = flight.tcb;
    if flight.len() + 2 > RUNS {
        flight.make_room();
    }
    let len = length(l, id, i, most)?;
    let r = flight.get(i)?;
    if len < r.bytes() && !flight.split(i, r.start.add(len)) {
        return None;
    }
    if !r.has(mark::SACKED) {
        collapse(flight, i, len);
    }
    let mut r = flight.get(i)?;
    let off = r.start.since(Seq(t.snd_una.get()));
    let fin = r.has(mark::FIN);
    let queued = s.net.sq_len.load(Relaxed);
    let piece = Piece {
        seq: r.start,
        off,
        len: r.bytes(),
        fin,
        push: off.saturating_add(r.bytes()) >= queued,
        burst_end: false,
        again: true,
    };
    count!(l, tcp_retrans);
    let Out::Sent(n) = build::send_piece(l, id, &piece) else {
        return None;
    };
    if n < r.bytes() {
        if n == 0 || !flight.split(i, r.start.add(n)) {
            return None;
        }
        r = flight.get(i)?;
    }
    Some(note(l, flight, i, r, marks))
}

/// The run was sent again.
fn note(l: &Locked<'_, '_, '_>, flight: Flight<'_>, i: usize, r: Run, marks: u32) -> u32 {
    let t = flight.tcb;
    let n = r.count();
    t.total_retrans.set(t.total_retrans.get().wrapping_add(n));
    t.retrans.set(t.retrans.get().wrapping_add(r.bytes()));
    if marks & mark::RETRANS != 0 {
        if t.retrans_stamp.get() == 0 {
            t.retrans_stamp.set(l.env.now.ms32().max(1));
        }
        let undo = match t.undo_retrans.get() {
            u32::MAX => 0,
            n => n,
        };
        t.undo_retrans.set(undo.saturating_add(n));
    }
    flight.set(
        i,
        &Run {
            at: micros(l.env.now),
            marks: r.marks & !mark::VAGUE | marks | mark::EVER,
            ..r
        },
    );
    let _: bool = flight.tidy(i);
    n
}

/// How many bytes of the run go out: whole segments within the peer's window; beyond a window that was shut, one.
fn length(l: &mut Locked<'_, '_, '_>, id: SockId, i: usize, most: u32) -> Option<u32> {
    let (s, flight) = (l.st.net(id), l.st.flight(id));
    let t = flight.tcb;
    let mss = build::segment_room(t);
    let frame = largest(s, l.env, mss) / mss;
    let mut r = flight.get(i)?;
    if r.unit > mss {
        // The path takes less than when it was sent.
        r.unit = mss;
        flight.set(i, &r);
    }
    let unit = r.unit;
    let una = Seq(t.snd_una.get());
    let mut within = una
        .add(t.snd_wnd.get())
        .diff(r.start)
        .max(0)
        .cast_unsigned();
    if within == 0 {
        if r.start != una {
            return None;
        }
        within = mss;
    }
    let len = unit.saturating_mul(most.min(frame).max(1));
    let len = if len > within {
        match within - within % unit {
            0 => within,
            n => n,
        }
    } else {
        len
    };
    Some(len.min(r.bytes()))
}

/// Small segments behind a small one ride with it (`tcp_retrans_try_collapse`).
fn collapse(flight: Flight<'_>, i: usize, len: u32) {
    let t = flight.tcb;
    let mss = build::segment_room(t);
    let edge = Seq(t.snd_una.get()).add(t.snd_wnd.get());
    let mut room = mss.saturating_sub(len);
    loop {
        let (Some(r), Some(next)) = (flight.get(i), flight.get(i + 1)) else {
            return;
        };
        let size = next.unit.min(next.bytes());
        let end = next.end_of(1);
        if r.count() != 1
            || r.has(mark::FIN)
            || next.has(mark::SACKED)
            || size > room
            || end.after(edge)
        {
            return;
        }
        if end != next.end && !flight.split(i + 1, end) {
            return;
        }
        flight.absorb(i);
        room -= size;
    }
}

/// True while what is lost could not be sent for want of a way or of room with the V-NIC.
pub(super) fn is_held_up(t: &Tcb) -> bool {
    t.tflags.get() & (tflag::TX_FULL | tflag::BLOCKED) != 0
        && t.lost_out.get() > t.retrans_out.get()
}
