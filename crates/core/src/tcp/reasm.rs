//! The reassembly queue: buffers ordered by sequence number, above RCV.NXT.

use crate::sock::net::NetSock;
use crate::sock::{Sock, recvq};
use crate::stack::Stack;
use crate::stack::buf::{BUF_SIZE, BufId};
use core::sync::atomic::Ordering::Relaxed;
use flyover_shm::OptIdx;
use flyover_wire::Seq;

/// Inserts a buffer whose `seq` and `len` are set. What overlaps older data is cut off; false when nothing was left
/// (the caller then frees the buffer).
pub(crate) fn insert(st: Stack<'_>, s: NetSock<'_>, id: BufId) -> bool {
    let new = st.buf(id);
    let t = &s.net.tcb;
    let mut prev: Option<BufId> = None;
    let mut cur = t.ooo.get().opt();
    let mut guard = st.limits().bufs;
    // Position: after the last buffer that starts at or before the new one.
    while let Some(c) = cur {
        if guard == 0 {
            return false;
        }
        guard -= 1;
        if Seq(st.buf(c).seq.get()).after(Seq(new.seq.get())) {
            break;
        }
        prev = Some(c);
        cur = st.buf(c).next.get().opt();
    }
    if let Some(p) = prev {
        let b = st.buf(p);
        let end = Seq(b.seq.get()).add(b.len.get());
        let start = Seq(new.seq.get());
        if end.after(start) {
            let cut = end.since(start);
            if cut >= new.len.get() {
                return false;
            }
            new.off.set(new.off.get().saturating_add(cut));
            new.len.set(new.len.get() - cut);
            new.seq.set(end.0);
        }
        // Small segments that follow each other share a buffer.
        let used = b.off.get().saturating_add(b.len.get());
        if Seq(new.seq.get()) == Seq(b.seq.get()).add(b.len.get())
            && used.saturating_add(new.len.get()) as usize <= BUF_SIZE
            && next_start(st, cur)
                .is_none_or(|n| Seq(new.seq.get()).add(new.len.get()).before_eq(n))
        {
            let n = new.len.get() as usize;
            let src = st.buf_bytes(id).sub(new.off.get() as usize, n);
            let _: usize = st.buf_bytes(p).sub(used as usize, n).copy_from(src);
            b.len.set(b.len.get() + n as u32);
            t.ooo_bytes.set(t.ooo_bytes.get().wrapping_add(n as u32));
            st.free_buf(id);
            return true;
        }
    }
    // What the new one covers of the following ones is cut from the new one's end, or swallows them.
    while let Some(c) = cur {
        let b = st.buf(c);
        let end = Seq(new.seq.get()).add(new.len.get());
        let start = Seq(b.seq.get());
        if end.before_eq(start) {
            break;
        }
        if Seq(b.seq.get()).add(b.len.get()).before_eq(end) && guard > 0 {
            guard -= 1;
            let next = b.next.get();
            t.ooo_bytes.set(t.ooo_bytes.get().wrapping_sub(b.len.get()));
            t.ooo_bufs.set(t.ooo_bufs.get().saturating_sub(1));
            st.free_buf(c);
            cur = next.opt();
            continue;
        }
        new.len.set(start.since(Seq(new.seq.get())));
        break;
    }
    if new.len.get() == 0 {
        link(st, s, prev, cur);
        return false;
    }
    new.next.set(cur.into());
    link(st, s, prev, Some(id));
    t.ooo_bufs.set(t.ooo_bufs.get().saturating_add(1));
    t.ooo_bytes
        .set(t.ooo_bytes.get().wrapping_add(new.len.get()));
    true
}

/// The first stretch of `[start, end)` that is held already.
pub(crate) fn overlap(st: Stack<'_>, s: NetSock<'_>, start: Seq, end: Seq) -> Option<(Seq, Seq)> {
    let mut found: Option<(Seq, Seq)> = None;
    let mut cur = s.net.tcb.ooo.get().opt();
    let mut guard = st.limits().bufs;
    while let Some(c) = cur
        && guard > 0
    {
        guard -= 1;
        let b = st.buf(c);
        let (from, to) = (Seq(b.seq.get()), Seq(b.seq.get()).add(b.len.get()));
        cur = b.next.get().opt();
        if !to.after(start) {
            continue;
        }
        if !end.after(from) {
            break;
        }
        let (from, to) = (from.latest(start), to.earliest(end));
        match &mut found {
            None => found = Some((from, to)),
            Some(f) if f.1 == from => f.1 = to,
            Some(_) => break,
        }
    }
    found
}

fn next_start(st: Stack<'_>, cur: Option<BufId>) -> Option<Seq> {
    cur.map(|c| Seq(st.buf(c).seq.get()))
}

fn link(st: Stack<'_>, s: NetSock<'_>, prev: Option<BufId>, to: Option<BufId>) {
    match prev {
        Some(p) => st.buf(p).next.set(to.into()),
        None => s.net.tcb.ooo.set(to.into()),
    }
}

/// Moves what has become in order to the receive queue; returns the bytes.
pub(crate) fn deliver(st: Stack<'_>, s: NetSock<'_>) -> u32 {
    let t = &s.net.tcb;
    let mut moved = 0u32;
    let mut guard = st.limits().bufs;
    while let Some(id) = t.ooo.get().opt() {
        if guard == 0 {
            break;
        }
        guard -= 1;
        let b = st.buf(id);
        let nxt = Seq(t.rcv_nxt.get());
        let start = Seq(b.seq.get());
        if start.after(nxt) {
            break;
        }
        t.ooo.set(b.next.get());
        t.ooo_bufs.set(t.ooo_bufs.get().saturating_sub(1));
        t.ooo_bytes.set(t.ooo_bytes.get().wrapping_sub(b.len.get()));
        let cut = nxt.since(start);
        if cut >= b.len.get() {
            st.free_buf(id);
            continue;
        }
        b.off.set(b.off.get().saturating_add(cut));
        b.len.set(b.len.get() - cut);
        let n = b.len.get();
        join(st, &s, id, n);
        recvq::publish(&s, n);
        t.rcv_nxt.set(nxt.add(n).0);
        moved = moved.wrapping_add(n);
    }
    if t.ooo.get().is_none() {
        t.ooo_bytes.set(0);
        t.ooo_bufs.set(0);
    }
    if moved > 0 {
        s.bytes_in.store(
            s.bytes_in.load(Relaxed).wrapping_add(u64::from(moved)),
            Relaxed,
        );
    }
    moved
}

/// To the end of the receive queue: by copy when it fits the last buffer, so that small pieces do not hold a buffer each.
fn join(st: Stack<'_>, s: &Sock, id: BufId, n: u32) {
    let b = st.buf(id);
    match recvq::tail_room(st, s) {
        Some((tail, room)) if room >= n => {
            let t = st.buf(tail);
            let end = t.off.get().saturating_add(t.len.get()) as usize;
            let src = st.buf_bytes(id).sub(b.off.get() as usize, n as usize);
            let _: usize = st.buf_bytes(tail).sub(end, n as usize).copy_from(src);
            t.len.set(t.len.get().saturating_add(n));
            st.free_buf(id);
        }
        _ => recvq::append(st, s, id),
    }
}

/// More pieces than this are not kept out of order: each holds a buffer, however small it is. A whole window of full
/// segments fits, every second one missing.
pub(crate) fn is_crowded(s: NetSock<'_>) -> bool {
    s.net.tcb.ooo_bufs.get() > 64 + s.rcvbuf.get() / 1024
}

/// Frees everything held out of order.
pub(crate) fn free_all(st: Stack<'_>, s: NetSock<'_>) {
    if !s.is_net() {
        return;
    }
    st.free_chain(s.net.tcb.ooo.get());
    s.net.tcb.ooo.set(OptIdx::NONE);
    s.net.tcb.ooo_bytes.set(0);
    s.net.tcb.ooo_bufs.set(0);
    s.net.tcb.rsack_n.set(0);
}
