//! Segments: header, options, windows over the queued bytes, and the way to the V-NIC.

use crate::ip::tx::{NoWay, Way, way};
use crate::sock::net::NetSock;
use crate::sock::{Sock, SockId, flag, sendq};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use crate::tcp::loss::micros;
use crate::tcp::rx::count;
use crate::tcp::tcb::{Tcb, tflag};
use crate::tcp::{ecn, sack, timers, user, window};
use crate::time::MS;
use core::sync::atomic::Ordering::Relaxed;
use flyover_shm::ShmBytes;
use flyover_vnic::{TxOffload, TxResult};
use flyover_wire::emit::HeaderBuf;
use flyover_wire::{Seq, TcpFlags, TcpOpts, TcpSpec};

/// A stretch of the stream to be sent as one frame or super-frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Sequence number of its first byte.
    pub seq: Seq,
    /// Its offset in the send queue.
    pub off: u32,
    /// Bytes.
    pub len: u32,
    /// The FIN follows.
    pub fin: bool,
    /// Nothing more is queued behind it.
    pub push: bool,
    /// It ends what Linux would send as one super-frame, which it always pushes.
    pub burst_end: bool,
    /// It was sent before.
    pub again: bool,
}

/// What became of a transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Out {
    /// Sent, with this many payload bytes.
    Sent(u32),
    /// Not now: the neighbour is unresolved or the V-NIC full. A retry timer runs.
    Later,
    /// The V-NIC refused it: lost, as on a network.
    Lost,
}

/// Bytes of Ethernet, IP and TCP header with options for an established connection.
pub(crate) fn header_room(s: &Sock) -> u32 {
    let ip = if s.remote().ip.is_v4() { 20 } else { 40 };
    // Options are at most 40 bytes; SACK blocks may come with data.
    18 + ip + 20 + 40
}

/// Payload of a full segment now: SACK blocks that have to be reported take their room from it, or the packet would be
/// larger than the MTU.
pub(crate) fn segment_room(t: &Tcb) -> u32 {
    let mss = t.mss.get().max(1);
    let blocks = sack::block_count(t).min(MAX_BLOCKS);
    if t.tflags.get() & tflag::SACK == 0 || blocks == 0 {
        return mss;
    }
    let blocks = if t.tflags.get() & tflag::TS != 0 {
        blocks.min(MAX_BLOCKS - 1)
    } else {
        blocks
    };
    // Two NOPs, kind, length; eight bytes a block (RFC 2018 section 3).
    mss.saturating_sub(4 + 8 * blocks).max(8)
}

/// SACK blocks that fit a header; one less with timestamps.
const MAX_BLOCKS: u32 = 4;

/// Options of a segment on an established connection.
fn options(l: &Locked<'_, '_, '_>, t: &Tcb, with_sack: bool) -> TcpOpts {
    let mut o = TcpOpts::default();
    let f = t.tflags.get();
    if f & tflag::TS != 0 {
        o.ts = Some((
            l.env.now.ms32().wrapping_add(t.ts_off.get()),
            t.ts_recent.get(),
        ));
    }
    if with_sack && f & tflag::SACK != 0 && sack::block_count(t) > 0 {
        let max = if f & tflag::TS != 0 { 3 } else { 4 };
        let mut blocks = [(Seq(0), Seq(0)); 4];
        o.sack_n = sack::blocks(t, &mut blocks, max) as u8;
        o.sack = blocks;
    }
    o
}

/// What every ACK-bearing segment settles.
fn acknowledged(l: &mut Locked<'_, '_, '_>, t: &Tcb) {
    let _ = &l;
    t.last_ack_sent.set(t.rcv_nxt.get());
    if t.unacked.get() > 0 {
        t.quick.set(t.quick.get().saturating_sub(1));
    }
    t.unacked.set(0);
    t.t_delack.set(0);
    t.tflags
        .set(t.tflags.get() & !(tflag::ACK_AT_ONCE | tflag::DSACK));
}

/// Sends a stretch of the stream.
pub(crate) fn send_piece(l: &mut Locked<'_, '_, '_>, id: SockId, piece: &Piece) -> Out {
    let st = l.st;
    let s = st.net(id);
    let t = &s.net.tcb;
    let way = match ready_way(l, id) {
        Ok(w) => w,
        Err(out) => return out,
    };
    let mut windows = [ShmBytes::EMPTY; sendq::GATHER];
    let (n, got) = sendq::gather(st, s, piece.off, piece.len, !piece.again, &mut windows);
    if got < piece.len && got == 0 && !piece.fin {
        return Out::Lost;
    }
    let fin = piece.fin && got == piece.len;
    let mut flags = TcpFlags::ACK;
    if fin {
        flags = flags.with(TcpFlags::FIN);
    }
    // As Linux: a FIN alone pushes nothing, nor does what the program wants to add to.
    let pushed = piece.push && t.tflags.get() & tflag::NO_PUSH == 0;
    // What ends a record is shorter than was asked for.
    let cut = got < piece.len;
    let room = segment_room(t);
    let again = piece.again && got > room;
    if got > 0 && (pushed || cut || piece.burst_end || again) {
        flags = flags.with(TcpFlags::PSH);
    }
    let mut urgent = 0;
    if t.tflags.get() & tflag::URG_OUT != 0 {
        (flags, urgent) = user::oob::mark(t, piece.seq, flags);
    }
    let mut tos = s.tos_to(s.remote().ip);
    if got > 0 {
        let ect;
        (flags, ect) = ecn::mark(t, piece.again, flags);
        tos |= ect;
    } else {
        flags = ecn::echo(t, flags);
    }
    let options = options(l, t, true);
    let spec = TcpSpec {
        smac: way.smac,
        dmac: way.dmac,
        vlan: 0,
        src: s.local(),
        dst: s.remote(),
        seq: piece.seq,
        ack: Seq(t.rcv_nxt.get()),
        flags,
        window: window::field(st, s),
        urgent,
        ttl: s.ttl_to(s.remote().ip),
        tos,
        ip_id: next_ip_id(st, got.div_ceil(room)),
        options: &options,
        payload_len: got,
    };
    let gso = if got > room { room as u16 } else { 0 };
    let pay = windows.get(..n).unwrap_or(&[]);
    match push(l, s, &way, &spec, pay, gso) {
        TxResult::Sent => {
            // The answer carries the ACK: an interactive connection, no quick ACKs needed.
            let since = l.env.now.ms32().wrapping_sub(t.data_at.get());
            if t.data_at.get() != 0 && !piece.again && since < l.st.opts.delack_ms {
                t.tflags.set(t.tflags.get() | tflag::ANSWERS);
            }
            acknowledged(l, t);
            Out::Sent(got)
        }
        TxResult::Full => {
            count!(l, tx_full);
            t.tflags.set(t.tflags.get() | tflag::TX_FULL);
            timers::retry(l, id, MS);
            Out::Later
        }
        TxResult::Dropped => {
            count!(l, tx_dropped);
            Out::Lost
        }
    }
}

/// The way out, or what to do without one.
fn ready_way(l: &mut Locked<'_, '_, '_>, id: SockId) -> Result<Way, Out> {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    match way(l, s) {
        Ok(w) => {
            timers::way_is_there(t);
            user::connect::check_mtu(l, s, w.mtu);
            Ok(w)
        }
        Err(NoWay::Wait | NoWay::Busy) => {
            // Sooner than the retransmission timer: a neighbour answers within a millisecond or so.
            t.tflags.set(t.tflags.get() | tflag::BLOCKED);
            timers::retry(l, id, MS);
            Err(Out::Later)
        }
        Err(NoWay::Unreachable) => Err(Out::Lost),
    }
}

/// The IP identification of a frame of so many segments, which count on from it.
pub(super) fn next_ip_id(st: Stack<'_>, segments: u32) -> u16 {
    let id = st.state.ip_id.get().wrapping_add(1);
    st.state
        .ip_id
        .set(id.wrapping_add(segments.saturating_sub(1)));
    id as u16
}

/// Gives header and payload to the V-NIC.
fn push(
    l: &mut Locked<'_, '_, '_>,
    s: NetSock<'_>,
    way: &Way,
    spec: &TcpSpec<'_>,
    payload: &[ShmBytes<'_>],
    gso: u16,
) -> TxResult {
    let unit = match u32::from(gso) {
        0 => u32::MAX,
        n => n,
    };
    let segments = spec.payload_len.div_ceil(unit);
    s.segs_out.store(
        s.segs_out.load(Relaxed).wrapping_add(segments.max(1)),
        Relaxed,
    );
    s.net
        .data_out
        .set(s.net.data_out.get().wrapping_add(segments));
    s.net.tcb.wstamp.set(micros(l.env.now));
    transmit(l, way, spec, payload, gso)
}

pub(super) fn transmit(
    l: &mut Locked<'_, '_, '_>,
    way: &Way,
    spec: &TcpSpec<'_>,
    payload: &[ShmBytes<'_>],
    gso: u16,
) -> TxResult {
    let mut hdr = HeaderBuf::new();
    let Some(at) = spec.emit(&mut hdr) else {
        return TxResult::Dropped;
    };
    let off = TxOffload {
        csum_start: at.l4_off,
        csum_offset: at.csum_off.wrapping_sub(at.l4_off),
        gso_size: gso,
        l4_tcp: true,
        v6: !spec.dst.ip.is_v4(),
        hdr_len: hdr.len() as u16,
    };
    let stats = &l.st.state.stats;
    stats
        .tcp_out
        .store(stats.tcp_out.load(Relaxed).wrapping_add(1), Relaxed);
    stats
        .tx_frames
        .store(stats.tx_frames.load(Relaxed).wrapping_add(1), Relaxed);
    let bytes = u64::from(spec.payload_len) + hdr.len() as u64;
    stats
        .tx_bytes
        .store(stats.tx_bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
    l.give(way.nic, hdr.as_slice(), payload, &off)
}

/// A segment without payload on an existing connection.
fn bare(
    l: &mut Locked<'_, '_, '_>,
    id: SockId,
    seq: Seq,
    flags: TcpFlags,
    options: &TcpOpts,
) -> bool {
    let st = l.st;
    let s = st.net(id);
    let way = match way(l, s) {
        Ok(w) => {
            timers::way_is_there(&s.net.tcb);
            w
        }
        Err(NoWay::Wait | NoWay::Busy) => {
            s.net
                .tcb
                .tflags
                .set(s.net.tcb.tflags.get() | tflag::BLOCKED);
            timers::retry(l, id, MS);
            return false;
        }
        Err(NoWay::Unreachable) => return false,
    };
    let syn = flags.has(TcpFlags::SYN);
    let flags = if syn {
        flags
    } else {
        ecn::echo(&s.net.tcb, flags)
    };
    let window = if syn {
        // RFC 7323 section 2.2: never scaled in a SYN.
        let mss = match flags.has(TcpFlags::ACK) {
            true => window::own_mss(s),
            false => u32::from(user::connect::our_mss(s)),
        };
        let wnd = window::initial(st, s, mss);
        let adv = Seq(s.net.tcb.rcv_nxt.get()).add(wnd);
        if flags.has(TcpFlags::ACK) {
            s.net
                .tcb
                .rcv_adv
                .set(adv.latest(Seq(s.net.tcb.rcv_adv.get())).0);
        }
        window::begin(&s.net.tcb, wnd);
        window::initial_field(wnd)
    } else {
        window::field(st, s)
    };
    let ack = if flags.has(TcpFlags::ACK) {
        Seq(s.net.tcb.rcv_nxt.get())
    } else {
        Seq(0)
    };
    let spec = TcpSpec {
        smac: way.smac,
        dmac: way.dmac,
        vlan: 0,
        src: s.local(),
        dst: s.remote(),
        seq,
        ack,
        flags,
        window,
        urgent: 0,
        ttl: s.ttl_to(s.remote().ip),
        tos: s.tos_to(s.remote().ip),
        ip_id: next_ip_id(st, 1),
        options,
        payload_len: 0,
    };
    match push(l, s, &way, &spec, &[], 0) {
        TxResult::Sent => true,
        TxResult::Full => {
            count!(l, tx_full);
            timers::retry(l, id, MS);
            false
        }
        TxResult::Dropped => {
            count!(l, tx_dropped);
            false
        }
    }
}

/// A bare ACK.
pub(crate) fn send_ack(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let t = l.st.tcb(id);
    let options = options(l, t, true);
    if bare(l, id, Seq(t.snd_nxt.get()), TcpFlags::ACK, &options) {
        acknowledged(l, t);
    }
}

/// A segment below the window that the peer must answer: zero-window and keep-alive probe. False: it could not be sent.
pub(crate) fn send_probe(l: &mut Locked<'_, '_, '_>, id: SockId) -> bool {
    let t = l.st.tcb(id);
    let options = options(l, t, false);
    bare(l, id, Seq(t.snd_una.get()).back(1), TcpFlags::ACK, &options)
}

/// Options of a SYN: what we can do.
fn syn_options(l: &Locked<'_, '_, '_>, s: NetSock<'_>, answer: bool) -> TcpOpts {
    let t = &s.net.tcb;
    let f = t.tflags.get();
    let mut o = TcpOpts {
        mss: Some(user::connect::our_mss(s)),
        ..TcpOpts::default()
    };
    let ours = &l.st.opts;
    // As Linux, which repeats its SYN when the peer's crosses it.
    let both = tflag::SIMULTANEOUS | tflag::ACTIVE;
    let offer = !answer || f & both == both;
    if f & tflag::WSCALE != 0 {
        o.wscale = Some(t.rcv_scale.get() as u8);
    } else if offer && ours.window_scaling {
        o.wscale = Some(window::own_scale(l.st, s) as u8);
    }
    if f & tflag::TS != 0 || offer && ours.timestamps {
        let echo = match answer && f & tflag::TS != 0 {
            true => t.ts_recent.get(),
            false => 0,
        };
        o.ts = Some((l.env.now.ms32().wrapping_add(t.ts_off.get()), echo));
    }
    o.sack_permitted = f & tflag::SACK != 0 || offer && ours.sack;
    o
}

/// The SYN of an active open; also its retransmission.
pub(crate) fn send_syn(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let options = syn_options(l, s, false);
    let mut flags = TcpFlags::SYN;
    if l.st.opts.ecn == 1 && t.backoff.get() == 0 {
        // Not again: the first one may have been lost because of it (as Linux's `tcp_ecn_fallback`).
        t.tflags.set(t.tflags.get() | tflag::ECN);
        flags = ecn::ask(flags);
    }
    if bare(l, id, Seq(t.iss.get()), flags, &options) {
        t.tflags.set(t.tflags.get() | tflag::ACTIVE);
    }
    t.snd_nxt.set(Seq(t.iss.get()).add(1).0);
    note_syn_sent(l, t);
}

/// The SYN-ACK of a passive or simultaneous open; also its retransmission.
pub(crate) fn send_syn_ack(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.net(id);
    let t = &s.net.tcb;
    let options = syn_options(l, s, true);
    let mut flags = TcpFlags::SYN.with(TcpFlags::ACK);
    if t.tflags.get() & tflag::ECN != 0 {
        flags = flags.with(TcpFlags::ECE);
    }
    let _: bool = bare(l, id, Seq(t.iss.get()), flags, &options);
    t.snd_nxt.set(Seq(t.iss.get()).add(1).0);
    t.last_ack_sent.set(t.rcv_nxt.get());
    note_syn_sent(l, t);
}

fn note_syn_sent(l: &Locked<'_, '_, '_>, t: &Tcb) {
    if t.backoff.get() == 0 && t.rtt_at.get() == 0 {
        t.rtt_at.set(l.env.now.0.max(1));
    } else if t.backoff.get() > 0 {
        t.rtt_at.set(0);
    }
}

/// A RST on an existing connection, at SND.NXT.
pub(crate) fn send_rst(l: &mut Locked<'_, '_, '_>, id: SockId) {
    if l.st.sock(id).has(flag::PAIRED) {
        return crate::local::reset_peer(l, id);
    }
    let t = l.st.tcb(id);
    count!(l, tcp_rst_out);
    let options = options(l, t, true);
    let flags = TcpFlags::RST.with(TcpFlags::ACK);
    let _: bool = bare(l, id, Seq(t.snd_nxt.get()), flags, &options);
}
