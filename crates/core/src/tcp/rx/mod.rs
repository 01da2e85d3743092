//! A segment arrives: the steps of RFC 9293 section 3.10.7, in the RFC's order, one file each.

mod acceptable;
mod ack;
mod closed;
mod cookie;
mod data;
mod fin;
mod listen;
mod rst;
mod syn;
mod syn_sent;
mod time_wait;
mod urg;

use super::cc::Phase;
use super::state::TcpState;
use super::tcb::tflag;
use super::tx;
use super::user::{self, handover::is_frozen};
use crate::sock::net::NetSock;
use crate::sock::{Kind, SockId};
use crate::stack::locked::Locked;
use crate::stack::poll::{Direct, RxPkt};
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::{Seq, TcpFlags, TcpHdr};

/// What a step decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Step {
    /// Go on to the next step.
    Next,
    /// The segment is dealt with.
    Done,
}

/// The private copy of a segment that the steps work on; trimming changes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seg<'p> {
    /// SEG.SEQ of the first byte of `len`.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// Control bits.
    pub flags: TcpFlags,
    /// Payload bytes.
    pub len: u32,
    /// Offset of the payload in the frame.
    pub off: u32,
    /// The header as parsed.
    pub hdr: &'p TcpHdr,
}

impl<'p> Seg<'p> {
    fn new(p: &RxPkt<'_>, hdr: &'p TcpHdr) -> Self {
        Self {
            seq: hdr.seq,
            ack: hdr.ack,
            flags: hdr.flags,
            len: p.hdr.payload_len,
            off: u32::from(p.hdr.payload_off),
            hdr,
        }
    }

    /// SEG.LEN: payload, SYN and FIN.
    pub fn seq_len(&self) -> u32 {
        self.len
            .wrapping_add(u32::from(self.flags.has(TcpFlags::SYN)))
            .wrapping_add(u32::from(self.flags.has(TcpFlags::FIN)))
    }
}

/// Counts under a name of the statistics table.
macro_rules! count {
    ($l:expr, $name:ident) => {{
        let _: u64 = $l
            .st
            .state
            .stats
            .$name
            .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    }};
}
pub(crate) use count;
pub(crate) use urg::pass_over;

/// Handles one TCP segment.
pub(crate) fn handle(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, hdr: &TcpHdr) {
    let stats = &l.st.state.stats;
    stats
        .tcp_in
        .store(stats.tcp_in.load(Relaxed).wrapping_add(1), Relaxed);
    let seg = Seg::new(p, hdr);
    if hdr.options.signed {
        // As Linux: nobody here has a key for it.
        count!(l, tcp_drop_signed);
        return;
    }
    let (local, remote) = (p.hdr.destination(), p.hdr.source());
    let waits = p.direct.map(Direct::id);
    let known = waits.filter(|id| l.st.is_conn(*id, local, remote));
    let found = known.or_else(|| l.st.find_conn(local, remote));
    if let Some(id) = found.filter(|id| !is_bereft(l, *id)) {
        to_connection(l, p, seg, id);
    } else if let Some(id) = l.st.find_listener(local) {
        listen::handle(l, p, seg, id);
    } else {
        closed::handle(l, p, seg);
    }
}

/// A half-open connection whose listener is gone: it goes as well, and the segment finds nobody (as Linux).
fn is_bereft(l: &mut Locked<'_, '_, '_>, id: SockId) -> bool {
    let bereft = user::accept::is_bereft(l.st, id);
    if bereft {
        l.destroy(id);
    }
    bereft
}

fn to_connection(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: Seg<'_>, id: SockId) {
    let s = l.st.net(id);
    // A merged frame counts as what the peer sent, as in the kernel.
    let unit = match u32::from(p.meta.gso_size) {
        0 => u32::MAX,
        n => n,
    };
    let segments = p.hdr.payload_len.div_ceil(unit);
    s.segs_in.store(
        s.segs_in.load(Relaxed).wrapping_add(segments.max(1)),
        Relaxed,
    );
    if is_frozen(&s) {
        count!(l, tcp_drop_moved);
        return;
    }
    let data_in = &s.net.tcb.data_in;
    data_in.set(data_in.get().wrapping_add(segments));
    s.last_rx.set(l.env.now.0);
    if s.nic.get() == 0 {
        s.nic.set(p.nic as u32 + 1);
    }
    let before = l.st.intend(id);
    match s.tcp_state() {
        TcpState::Closed | TcpState::Listen => closed::handle(l, p, seg),
        TcpState::SynSent => syn_sent::handle(l, p, seg, id),
        TcpState::TimeWait => time_wait::handle(l, p, seg, id),
        TcpState::FinWait2 if time_wait::is_alone(&s) => time_wait::fin_wait_2(l, p, seg, id),
        _ => synchronised(l, p, seg, id),
    }
    l.st.state.intent.store(before, Relaxed);
}

/// What is sent now does not wait for the end of the batch: the peer counts our duplicate ACKs, and each of its own says
/// how much may go out.
fn is_unusual(s: NetSock<'_>) -> bool {
    let t = &s.net.tcb;
    s.kind() == Kind::Tcp && (t.tflags.get() & tflag::ACK_EACH != 0 || t.cc_phase() != Phase::Open)
}

/// The steps, in order. SYN_RCVD walks them too.
fn synchronised(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, mut seg: Seg<'_>, id: SockId) {
    if acceptable::step(l, &seg, id) == Step::Done
        || rst::step(l, &seg, id) == Step::Done
        || syn::step(l, p, &seg, id) == Step::Done
        || ack::step(l, p, &seg, id) == Step::Done
    {
        l.post_if_acking(id);
        return;
    }
    crate::stretch::place();
    urg::step(l, &seg, id);
    if data::step(l, p, &mut seg, id) == Step::Next {
        fin::step(l, &seg, id);
    }
    l.post_if_due(id);
    if is_unusual(l.st.net(id)) {
        tx::output(l, id);
    }
}

impl Locked<'_, '_, '_> {
    /// Posts the connection, unless `output` would have nothing to do: no byte and no FIN in the send queue, no ACK owed.
    fn post_if_due(&mut self, id: SockId) {
        const DUE: u32 = tflag::ACK_NOW | tflag::FIN_QUEUED | tflag::TX_FULL;
        let s = self.st.net(id);
        if s.net.sq_len.load(Relaxed) != 0 || s.net.tcb.tflags.get() & DUE != 0 {
            self.post(id);
        }
    }

    /// After a step that ended early: transmit only what became due.
    fn post_if_acking(&mut self, id: SockId) {
        let s = self.st.net(id);
        if s.kind() == crate::sock::Kind::Tcp && s.net.tcb.tflags.get() & tflag::ACK_NOW != 0 {
            self.post(id);
        }
    }
}

/// A challenge ACK (RFC 5961), at most one per connection in 500 ms as Linux's `tcp_invalid_ratelimit`.
fn challenge(l: &mut Locked<'_, '_, '_>, id: SockId) {
    if may_challenge(l, id) {
        tx::send_ack(l, id);
    }
}

fn may_challenge(l: &mut Locked<'_, '_, '_>, id: SockId) -> bool {
    let t = l.st.tcb(id);
    let last = t.challenge_at.get();
    if last != 0 && l.env.now.since(crate::time::Instant(last)) < 500 * crate::time::MS {
        return false;
    }
    t.challenge_at.set(l.env.now.0);
    count!(l, tcp_challenge);
    true
}
