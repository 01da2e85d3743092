//! A datagram arrives.

use crate::sock::{SHUT_RD, Sock, SockId, recvq};
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
    deliver(l, p, id);
}

fn deliver(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, id: SockId) {
    let st = l.st;
    let s = st.sock(id);
    s.segs_in
        .store(s.segs_in.load(Relaxed).wrapping_add(1), Relaxed);
    // Each datagram is accounted with its buffers, as the kernel does with its truesize.
    let len = p.hdr.payload_len;
    let cost = len.saturating_add(256);
    if s.shut.load(Relaxed) & SHUT_RD != 0
        || s.rq_bytes.load(Relaxed).saturating_add(cost) > s.rcvbuf.get()
        || (st.buf_pressure() && s.rq_available() > 0)
    {
        let _: u32 = s.drops.fetch_add(1, Relaxed);
        count!(l, udp_drop_full);
        return;
    }
    let Some(first) = take(l, p, len) else { return };
    stamp(l, p, st, first, len);
    let _: u32 = s.rq_bytes.fetch_add(cost, Relaxed);
    recvq::append(st, s, first);
    recvq::publish(s, 1);
    let b = u64::from(len);
    s.bytes_in
        .store(s.bytes_in.load(Relaxed).wrapping_add(b), Relaxed);
    count!(l, udp_in);
    l.raise(id, ev::IN | ev::RDNORM);
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
    b.gso.set(u32::from(p.meta.gso_size));
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
