//! Sixth: URG. As Linux (tcp(7), RFC 793's pointer: the mark is the byte before it); the byte itself is taken out of
//! the stream when the data arrives, unless `SO_OOBINLINE`.

use super::Seg;
use crate::sock::{SockId, flag, recvq, urg};
use crate::stack::locked::Locked;
use crate::stack::wake::ev;
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_wire::{Seq, TcpFlags};

pub(super) fn step(l: &mut Locked<'_, '_, '_>, seg: &Seg<'_>, id: SockId) {
    if !seg.flags.has(TcpFlags::URG) {
        return;
    }
    let s = l.st.net(id);
    // As Linux, a pointer of 0 means the first byte, as 1 does.
    let at = seg.seq.add(u32::from(seg.hdr.urgent.max(1)) - 1);
    if at.before(Seq(s.net.tcb.rcv_nxt.get())) {
        return;
    }
    let announced = s.urg.load(Relaxed) & urg::ANNOUNCED != 0;
    if announced && !at.after(Seq(s.rcv_up.get())) {
        return;
    }
    pass_over(l, id);
    s.rcv_up.set(at.0);
    s.urg.store(urg::ANNOUNCED, Release);
    l.raise(id, ev::PRI);
}

/// A second urgent byte: the first one goes if the program stands right before it, else it becomes ordinary data
/// (Linux's `tcp_check_urg`). A reader who is inside at this moment keeps it as data.
pub(crate) fn pass_over(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let st = l.st;
    let s = st.sock(id);
    if s.has(flag::OOBINLINE) || !st.at_mark(id) || s.rq_available() == 0 {
        return;
    }
    if recvq::lock(s, l.env.me) {
        let _ = recvq::discard(st, s, 1);
        recvq::unlock(s);
    }
}
