//! Seventh: the payload. In order it goes to the receive queue; ahead of a hole to the reassembly queue.

use super::{Seg, Step, acceptable, count, fin};
use crate::sock::net::NetSock;
use crate::sock::{SHUT_RD, Sock, SockId, recvq};
use crate::stack::Stack;
use crate::stack::buf::{BUF_SIZE, Batch, BufId};
use crate::stack::locked::Locked;
use crate::stack::poll::{DIRECT_WINDOWS, Direct, RxPkt};
use crate::stack::wake::ev;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use crate::tcp::user::oob;
use crate::tcp::{ecn, reasm, rtt, sack, timers, tx, window};
use crate::time::MS;
use core::sync::atomic::Ordering::Relaxed;
use flyover_shm::ShmBytes;
use flyover_wire::{Seq, TcpFlags};

/// Segments that are acknowledged at once when a sender begins (`TCP_MAX_QUICKACKS`).
pub(super) const QUICK: u32 = 16;
/// Below this nothing is believed to be the peer's segment size (`TCP_MIN_MSS` is 88; RFC 9293 section 3.7.1).
const LEAST_MSS: u32 = 536;
/// Windows for one payload: a waiting reader's, 64 KiB in 4 KiB buffers, a started tail buffer, and one spare.
const WINDOWS: usize = DIRECT_WINDOWS + 18;

pub(super) fn step(
    l: &mut Locked<'_, '_, '_>,
    p: &RxPkt<'_>,
    seg: &mut Seg<'_>,
    id: SockId,
) -> Step {
    let s = l.st.net(id);
    let nxt = Seq(s.net.tcb.rcv_nxt.get());
    let end = seg.seq.add(seg.seq_len());
    if end == seg.seq {
        return Step::Next;
    }
    let state = s.tcp_state();
    if !state.can_receive() && !seg.seq.before(nxt) {
        // Beyond the peer's FIN there is no data (RFC 9293: "should not occur").
        count!(l, tcp_drop_state);
        return Step::Done;
    }
    let closed = s.shut.load(Relaxed) & SHUT_RD != 0;
    if closed && state != TcpState::Established && seg.seq.add(seg.len).after(nxt) {
        // The program is gone: as Linux, new data resets the connection (RFC 2525 section 2.17).
        count!(l, tcp_drop_closed);
        // In this order: with the RST the peer knows, and whoever it tells may read here at once.
        l.abort_silently(id);
        tx::send_rst_for(l, p, seg);
        return Step::Done;
    }
    if !end.after(nxt) {
        // All of it came before, a FIN as well.
        count!(l, tcp_dup);
        acceptable::quick(&s.net.tcb);
        s.net
            .tcb
            .tflags
            .set(s.net.tcb.tflags.get() | tflag::ACK_AT_ONCE);
        sack::note_twice(&s.net.tcb, seg.seq, end);
        return Step::Done;
    }
    if seg.len == 0 {
        return fin_within(l, s, seg);
    }
    if !trim(l, s, seg) {
        return Step::Next;
    }
    let t = &s.net.tcb;
    let holes = !t.ooo.get().is_none() || t.tflags.get() & tflag::FIN_SEEN != 0;
    if seg.seq == Seq(t.rcv_nxt.get()) && !holes {
        in_order(l, p, seg, id)
    } else {
        out_of_order(l, p, seg, id)
    }
}

/// A FIN alone: it is taken when it is next, however small the window, else only within it.
fn fin_within(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>, seg: &Seg<'_>) -> Step {
    let t = &s.net.tcb;
    if seg.seq == Seq(t.rcv_nxt.get()) || seg.seq.before(Seq(t.rcv_adv.get())) {
        return Step::Next;
    }
    count!(l, tcp_drop_window);
    acceptable::quick(t);
    t.tflags.set(t.tflags.get() | tflag::ACK_AT_ONCE);
    Step::Done
}

/// Cuts what lies outside the window; false when nothing is left.
fn trim(l: &mut Locked<'_, '_, '_>, s: NetSock<'_>, seg: &mut Seg<'_>) -> bool {
    let t = &s.net.tcb;
    let nxt = Seq(t.rcv_nxt.get());
    if seg.seq.before(nxt) {
        count!(l, tcp_dup);
        sack::note_twice(t, seg.seq, nxt.earliest(seg.seq.add(seg.len)));
        let cut = nxt.since(seg.seq);
        if cut >= seg.len {
            // All old but the FIN.
            seg.seq = seg.seq.add(seg.len);
            seg.len = 0;
            return false;
        }
        seg.seq = nxt;
        seg.len -= cut;
        seg.off = seg.off.saturating_add(cut);
    }
    let edge = Seq(t.rcv_adv.get());
    let end = seg.seq.add(seg.len);
    // As Linux, what begins within the window is taken whole: the step before has refused what may not be.
    if end.after(edge) && seg.seq != nxt && seg.seq.after_eq(edge) {
        t.tflags.set(t.tflags.get() | tflag::ACK_AT_ONCE);
        seg.flags = seg.flags.without(TcpFlags::FIN);
        count!(l, tcp_drop_window);
        seg.len = 0;
        return false;
    }
    true
}

/// The common case: straight to a waiting reader, or to the end of the receive queue.
fn in_order(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: &Seg<'_>, id: SockId) -> Step {
    let st = l.st;
    let s = st.net(id);
    let direct = reader(p, &s, id);
    if let Some(d) = direct.filter(|_| !p.meta.by_call)
        && let Some(spare) = d.spare(seg.len)
    {
        if !fetch(l, p, seg.off, seg.len, &[spare]) {
            count!(l, rx_drop_fetch);
            return Step::Done;
        }
        recvq::publish(&s, seg.len);
        d.set_spared(seg.len);
        return taken(l, p, seg, id, (seg.len, seg.len));
    }
    let mut windows = [ShmBytes::EMPTY; WINDOWS];
    let mut fresh: [Option<BufId>; WINDOWS] = [None; WINDOWS];
    let (mut n, straight) = match direct {
        Some(d) if p.meta.by_call && d.is_bulk() => d.next(seg.len, &mut windows),
        _ => (0, 0),
    };
    let mut left = seg.len - straight;
    let tail = recvq::tail_room(st, &s).filter(|(_, room)| *room > 0 && left > 0);
    let mut appended = 0;
    let mut batch = Batch::new();
    if let Some((id, room)) = tail {
        let take = room.min(left);
        appended = take;
        set(
            &mut windows,
            n,
            st.buf_bytes(id)
                .sub(BUF_SIZE - room as usize, take as usize),
        );
        n += 1;
        left -= take;
    }
    while left > 0 {
        let Some(b) = batch.next(st, left as usize) else {
            free(st, &fresh);
            count!(l, rx_drop_no_buffer);
            s.net
                .tcb
                .tflags
                .set(s.net.tcb.tflags.get() | tflag::ACK_NOW);
            return Step::Done;
        };
        let take = left.min(BUF_SIZE as u32);
        if n >= WINDOWS {
            st.free_buf(b);
            batch.free(st);
            break;
        }
        st.buf(b).len.set(take);
        set(&mut windows, n, st.buf_bytes(b).sub(0, take as usize));
        if let Some(f) = fresh.get_mut(n) {
            *f = Some(b);
        }
        n += 1;
        left -= take;
    }
    let want = seg.len - left;
    if !fetch(l, p, seg.off, want, windows.get(..n).unwrap_or(&[])) {
        free(st, &fresh);
        count!(l, rx_drop_fetch);
        return Step::Done;
    }
    if let Some((id, _)) = tail {
        let b = st.buf(id);
        b.len.set(b.len.get() + appended);
    }
    for b in fresh.iter().take(n).flatten() {
        recvq::append(st, &s, *b);
    }
    oob::place_mark(s, seg.seq, want);
    recvq::publish(&s, want);
    if let Some(d) = direct.filter(|_| straight > 0) {
        d.add(straight);
    }
    taken(l, p, seg, id, (want, straight))
}

/// `want` bytes of the segment are in the receive queue, the first `straight` of them with the reader already.
fn taken(
    l: &mut Locked<'_, '_, '_>,
    p: &RxPkt<'_>,
    seg: &Seg<'_>,
    id: SockId,
    (want, straight): (u32, u32),
) -> Step {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    if straight > 0 {
        count!(l, tcp_direct);
        recvq::note_taken(&s, straight);
    }
    ecn::data_arrived(t, p);
    t.rcv_nxt.set(seg.seq.add(want).0);
    t.rcv_adv
        .set(Seq(t.rcv_adv.get()).latest(Seq(t.rcv_nxt.get())).0);
    s.bytes_in.store(
        s.bytes_in.load(Relaxed).wrapping_add(u64::from(want)),
        Relaxed,
    );
    arrived(l, p, id, seg, want);
    Step::Next
}

/// The reader of this connection, if what arrives may go to his memory: nothing is queued before it, and no urgent byte
/// cuts the stream there.
fn reader<'p>(p: &RxPkt<'p>, s: &Sock, id: SockId) -> Option<&'p Direct<'p>> {
    let d = p.direct.filter(|d| d.is_for(id))?;
    // What the CPU had to sum up is in the V-NIC's own memory by now, or was in the ring from the beginning.
    let checked = p.meta.csum != flyover_vnic::Csum::Unknown || !p.meta.by_call;
    (checked && s.rq_available() == 0 && !oob::is_pending(s)).then_some(d)
}

/// Ahead of a hole, or while holes exist.
fn out_of_order(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: &Seg<'_>, id: SockId) -> Step {
    let st = l.st;
    let s = st.net(id);
    let t = &s.net.tcb;
    t.tflags.set(t.tflags.get() | tflag::ACK_AT_ONCE);
    ecn::data_arrived(t, p);
    if (st.buf_pressure() || reasm::is_crowded(s)) && seg.seq != Seq(t.rcv_nxt.get()) {
        count!(l, tcp_ooo_drop);
        return Step::Done;
    }
    let mut windows = [ShmBytes::EMPTY; WINDOWS];
    let mut fresh: [Option<BufId>; WINDOWS] = [None; WINDOWS];
    let mut n = 0usize;
    let mut done = 0u32;
    while done < seg.len && n < WINDOWS {
        let Some(b) = st.alloc_buf() else {
            free(st, &fresh);
            count!(l, rx_drop_no_buffer);
            return Step::Done;
        };
        let take = (seg.len - done).min(BUF_SIZE as u32);
        st.buf(b).len.set(take);
        st.buf(b).seq.set(seg.seq.add(done).0);
        set(&mut windows, n, st.buf_bytes(b).sub(0, take as usize));
        if let Some(f) = fresh.get_mut(n) {
            *f = Some(b);
        }
        n += 1;
        done += take;
    }
    if !fetch(l, p, seg.off, done, windows.get(..n).unwrap_or(&[])) {
        free(st, &fresh);
        count!(l, rx_drop_fetch);
        return Step::Done;
    }
    let end = if done == seg.len {
        seg.seq.add(seg.seq_len())
    } else {
        seg.seq.add(done)
    };
    let seen = t.tflags.get() & tflag::FIN_SEEN != 0;
    let fin = Seq(t.rcv_fin.get());
    let fin_again = seen && !fin.before(seg.seq) && fin.before(end);
    if let Some((lo, hi)) = reasm::overlap(st, s, seg.seq, end) {
        // The FIN behind it came twice as well.
        let fin = fin_again && fin == hi;
        sack::note_twice(t, lo, hi.add(u32::from(fin)));
    } else if fin_again {
        sack::note_twice(t, fin, fin.add(1));
    }
    let before = Seq(t.rcv_nxt.get());
    if seg.seq.after(before) {
        count!(l, tcp_ooo);
        measure(s, seg.len.min(unit_of(p)));
        sack::note_received(t, seg.seq, seg.seq.add(done));
    }
    for b in fresh.iter().flatten() {
        if !reasm::insert(st, s, *b) {
            st.free_buf(*b);
        }
    }
    let moved = reasm::deliver(st, s);
    if moved > 0 {
        if !fin::is_next_while_closing(s) {
            sack::prune_received(t, Seq(t.rcv_nxt.get()));
        }
        arrived(l, p, id, seg, moved);
    }
    Step::Next
}

fn set<'m>(windows: &mut [ShmBytes<'m>; WINDOWS], i: usize, w: ShmBytes<'m>) {
    if let Some(slot) = windows.get_mut(i) {
        *slot = w;
    }
}

fn free(st: Stack<'_>, fresh: &[Option<BufId>; WINDOWS]) {
    for b in fresh.iter().flatten() {
        st.free_buf(*b);
    }
}

/// Brings `want` payload bytes from frame offset `off` on into the windows. Small payloads are in the header copy.
fn fetch(
    l: &mut Locked<'_, '_, '_>,
    p: &RxPkt<'_>,
    off: u32,
    want: u32,
    windows: &[ShmBytes<'_>],
) -> bool {
    let (off, want) = (off as usize, want as usize);
    if off + want <= p.meta.head_len as usize {
        let Some(mut src) = p.head.get(off..off + want) else {
            return false;
        };
        for w in windows {
            let n = w.copy_in(src);
            src = src.get(n..).unwrap_or(&[]);
        }
        return true;
    }
    let Some(nic) = l.env.nics.nic(p.nic) else {
        return false;
    };
    if off <= flyover_vnic::HEAD_LEN {
        return nic.rx_payload(off, windows) == want;
    }
    // The wanted part starts beyond what a V-NIC can skip (a long overlap): take it in two steps, by a window over
    // a scratch buffer for the part to be thrown away.
    let st = l.st;
    let start = p.hdr.payload_off as usize;
    let mut skip = off - start;
    let mut all = [ShmBytes::EMPTY; WINDOWS * 2];
    let Some(scratch) = st.alloc_buf() else {
        return false;
    };
    let mut n = 0;
    let total = skip + want;
    while skip > 0 && n < WINDOWS {
        // Every window over the scratch buffer: its bytes are overwritten and never read.
        let w = st.buf_bytes(scratch).sub(0, skip);
        skip -= w.len();
        if let Some(slot) = all.get_mut(n) {
            *slot = w;
            n += 1;
        }
    }
    for w in windows {
        if let Some(slot) = all.get_mut(n) {
            *slot = *w;
            n += 1;
        }
    }
    let ok = l
        .env
        .nics
        .nic(p.nic)
        .is_some_and(|nic| nic.rx_payload(start, all.get(..n).unwrap_or(&[])) == total);
    st.free_buf(scratch);
    ok
}

/// New data can be read.
fn arrived(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, id: SockId, seg: &Seg<'_>, n: u32) {
    let s = l.st.net(id);
    oob::note_arrival(l, id);
    window::grow(l.st, s, seg.len);
    note_more(l, p, s, seg);
    ack_policy(l, id, n, seg.len.min(unit_of(p)));
    if s.rq_available() >= s.rcvlowat.get().max(1) {
        l.raise(id, ev::DATA);
    }
}

/// Will more follow at once? The sender pushes the end of what it was given (RFC 9293 section 3.8.2); a full segment without
/// PSH is one of many. A V-NIC that merges segments brings these together by itself.
fn note_more(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, s: NetSock<'_>, seg: &Seg<'_>) {
    let t = &s.net.tcb;
    let one_of_many = !seg.flags.has(TcpFlags::PSH)
        && !seg.flags.has(TcpFlags::FIN)
        && p.meta.gso_size == 0
        && seg.len >= t.rcv_mss.get()
        && l.env.nics.nic(p.nic).is_some_and(|nic| !nic.caps().rx_gro);
    if one_of_many != (t.tflags.get() & tflag::MORE_COMES != 0) {
        t.tflags.set(t.tflags.get() ^ tflag::MORE_COMES);
    }
}

/// Bytes of each segment that a merged frame was made of.
fn unit_of(p: &RxPkt<'_>) -> u32 {
    match u32::from(p.meta.gso_size) {
        0 => u32::MAX,
        n => n,
    }
}

/// The peer's segment size, as far as it is known.
fn measure(s: NetSock<'_>, unit: u32) {
    let unit = unit.min(window::own_mss(s).max(LEAST_MSS));
    if unit > s.net.tcb.rcv_mss.get() {
        s.net.tcb.rcv_mss.set(unit);
    }
}

/// When to acknowledge (RFC 9293 section 3.8.6.3, RFC 5681 section 4.2): at once for every second segment, while
/// holes exist, and in quick-ACK mode; else within the delayed-ACK time.
pub(super) fn ack_policy(l: &mut Locked<'_, '_, '_>, id: SockId, n: u32, unit: u32) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    measure(s, unit);
    t.unacked.set(t.unacked.get().saturating_add(n));
    if unit > 0 {
        if t.data_at.get() == 0 {
            // The first data: its sender is in slow start.
            t.quick.set(QUICK);
        }
        let since = l.env.now.ms32().wrapping_sub(t.data_at.get());
        if t.data_at.get() != 0 && u64::from(since) > rtt::rto(t, &l.st.opts) / MS {
            t.quick.set(t.quick.get().max(QUICK));
        }
        t.data_at.set(l.env.now.ms32().max(1));
    }
    let quick = t.quick.get() > 0 && t.tflags.get() & tflag::ANSWERS == 0;
    let full = t.unacked.get() > t.rcv_mss.get();
    if unit == 0 && t.data_at.get() == 0 {
        // An end without a beginning: as Linux, whose delay begins with the first data.
        t.tflags.set(t.tflags.get() | tflag::ACK_NOW);
    } else if quick || !t.ooo.get().is_none() || s.has(crate::sock::flag::QUICKACK) {
        t.tflags.set(t.tflags.get() | tflag::ACK_AT_ONCE);
    } else if full {
        t.tflags.set(t.tflags.get() | tflag::ACK_NOW);
    } else if t.t_delack.get() == 0 {
        t.t_delack.set(
            l.env
                .now
                .0
                .saturating_add(u64::from(l.st.opts.delack_ms) * MS)
                .max(1),
        );
        timers::hang(l, id, t.t_delack.get());
    }
}
