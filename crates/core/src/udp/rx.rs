//! A datagram arrives.

use crate::sock::{Sock, SockId, recvq};
use crate::stack::Stack;
use crate::stack::buf::{BUF_SIZE, BufId};
use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::stack::wake::ev;
use crate::tcp::rx::count;
use core::sync::atomic::Ordering::Relaxed;
use flyover_shm::ShmBytes;

/// Windows of the largest datagram, 64 KiB.
const WINDOWS: usize = 17;

/// Handles one datagram.
pub(crate) fn handle(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>) {
    if p.hdr.dst.is_multicast() || p.hdr.dst.is_broadcast() {
        // Filters leave these to the kernel; one that slipped through has no receiver here.
        count!(l, rx_drop_no_socket);
        return;
    }
    let Some(id) = l.st.find_udp(p.hdr.destination(), p.hdr.source()) else {
        count!(l, rx_drop_no_socket);
        return;
    };
    let before = l.st.intend(id);
    deliver(l, p, id);
    l.st.state.intent.store(before, Relaxed);
}

fn deliver(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, id: SockId) {
    let st = l.st;
    let s = st.sock(id);
    s.segs_in
        .store(s.segs_in.load(Relaxed).wrapping_add(1), Relaxed);
    let len = p.hdr.payload_len;
    // Also when reading was shut down: Linux queues it, and `recv` gives it out.
    let unit = u32::from(p.meta.gso_size);
    if unit == 0 || len <= unit {
        if !has_room(st, s, len) {
            drop_full(l, s);
            return;
        }
        let Some(first) = take(l, p, len) else { return };
        queue(l, p, id, first, len);
    } else {
        // The sender's UDP_SEGMENT: several datagrams back to back, the last one may be shorter.
        let Some(all) = take(l, p, len) else { return };
        split(l, p, id, all, len, unit);
        st.free_chain(all.into());
    }
    l.raise(id, ev::DATA);
}

/// Each datagram is accounted with its buffers, as the kernel does with its truesize.
fn has_room(st: Stack<'_>, s: &Sock, len: u32) -> bool {
    s.rq_bytes.load(Relaxed).saturating_add(cost(len)) <= s.rcvbuf.get()
        && !(st.buf_pressure() && s.rq_available() > 0)
}

fn drop_full(l: &mut Locked<'_, '_, '_>, s: &Sock) {
    let _: u32 = s.drops.fetch_add(1, Relaxed);
    count!(l, udp_drop_full);
}

/// A datagram goes to the end of the receive queue.
fn queue(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, id: SockId, first: BufId, len: u32) {
    let st = l.st;
    let s = st.sock(id);
    stamp(l, p, st, first, len);
    let _: u32 = s.rq_bytes.fetch_add(cost(len), Relaxed);
    recvq::append(st, s, first);
    recvq::publish(s, 1);
    let b = u64::from(len);
    s.bytes_in
        .store(s.bytes_in.load(Relaxed).wrapping_add(b), Relaxed);
    count!(l, udp_in);
}

/// Cuts a merged frame into its datagrams. Merged ones are rare (QUIC servers), so they are simply copied.
fn split(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, id: SockId, all: BufId, len: u32, unit: u32) {
    let st = l.st;
    let mut at = 0u32;
    while at < len {
        let n = unit.min(len - at);
        let s = st.sock(id);
        if !has_room(st, s, n) {
            drop_full(l, s);
            return;
        }
        let Some(first) = copy_part(st, all, at, n) else {
            count!(l, rx_drop_no_buffer);
            return;
        };
        queue(l, p, id, first, n);
        at += n;
    }
}

/// Copies `[from, from + len)` of a chain of full buffers into a chain of its own.
fn copy_part(st: Stack<'_>, all: BufId, from: u32, len: u32) -> Option<BufId> {
    let mut src = all;
    let mut skip = from as usize;
    while skip >= BUF_SIZE {
        src = st.buf(src).more.get().opt()?;
        skip -= BUF_SIZE;
    }
    let first = st.alloc_buf()?;
    let mut dst = first;
    let (mut left, mut used) = (len as usize, 0usize);
    while left > 0 {
        if used == BUF_SIZE {
            let Some(next) = st.alloc_buf() else {
                st.free_chain(first.into());
                return None;
            };
            st.buf(dst).more.set(next.into());
            (dst, used) = (next, 0);
        }
        let n = left.min(BUF_SIZE - used).min(BUF_SIZE - skip);
        let window = st.buf_bytes(src).sub(skip, n);
        let _: usize = st.buf_bytes(dst).sub(used, n).copy_from(window);
        used += n;
        st.buf(dst).len.set(used as u32);
        left -= n;
        skip += n;
        if skip == BUF_SIZE && left > 0 {
            let Some(next) = st.buf(src).more.get().opt() else {
                st.free_chain(first.into());
                return None;
            };
            (src, skip) = (next, 0);
        }
    }
    Some(first)
}

/// Copies the payload into a chain of buffers.
fn take(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, len: u32) -> Option<BufId> {
    let st = l.st;
    let mut windows = [ShmBytes::EMPTY; WINDOWS];
    let mut n = 0usize;
    let mut left = len;
    let mut first: Option<BufId> = None;
    let mut last: Option<BufId> = None;
    while first.is_none() || (left > 0 && n < WINDOWS) {
        let Some(b) = st.alloc_buf() else {
            if let Some(f) = first {
                st.free_chain(f.into());
            }
            count!(l, rx_drop_no_buffer);
            return None;
        };
        let part = left.min(BUF_SIZE as u32);
        st.buf(b).len.set(part);
        if let Some(w) = windows.get_mut(n) {
            *w = st.buf_bytes(b).sub(0, part as usize);
        }
        match last {
            Some(prev) => st.buf(prev).more.set(b.into()),
            None => first = Some(b),
        }
        last = Some(b);
        n += 1;
        left -= part;
    }
    let off = p.hdr.payload_off as usize;
    let want = len as usize;
    let used = windows.get(..n).unwrap_or(&[]);
    let got = if off + want <= p.meta.head_len as usize {
        let src = p.head.get(off..off + want).unwrap_or(&[]);
        used.first().map_or(0, |w| w.copy_in(src))
    } else {
        l.env
            .nics
            .nic(p.nic)
            .map_or(0, |nic| nic.rx_payload(off, used))
    };
    if got != want {
        if let Some(f) = first {
            st.free_chain(f.into());
        }
        count!(l, rx_drop_fetch);
        return None;
    }
    first
}

fn stamp(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, st: Stack<'_>, first: BufId, len: u32) {
    let b = st.buf(first);
    b.total.set(len);
    let from = p.hdr.source();
    b.from_hi.set(from.ip.hi());
    b.from_lo.set(from.ip.lo());
    b.port.set(u32::from(from.port));
    b.to_hi.set(p.hdr.dst.hi());
    b.to_lo.set(p.hdr.dst.lo());
    b.at.set(l.env.now.0);
    b.ifindex
        .set(l.env.nics.nic(p.nic).map_or(0, |n| n.caps().ifindex));
    b.ttl_tos
        .set(u32::from(p.hdr.ttl) | u32::from(p.hdr.tos) << 8);
    b.gso.set(0);
}

/// Bytes that a queued datagram of `len` is accounted with.
pub(super) fn cost(len: u32) -> u32 {
    len.saturating_add(256)
}

/// The datagram that is next to be read. Queue form: while `rq_rd` is 1, the first buffer is one already read, kept
/// because the producer may append to it.
pub(super) fn first_unread(st: Stack<'_>, s: &Sock) -> Option<BufId> {
    let head = s.rq_head.get().opt()?;
    if s.rq_rd.get() == 0 {
        Some(head)
    } else {
        st.buf(head).next.get().opt()
    }
}
