//! Retransmission: RFC 6675's NextSeg over the SACKed ranges, after fast retransmit and after a timeout alike.

use super::build::{self, Out, Piece};
use super::limits::largest;
use crate::sock::{Sock, SockId};
use crate::stack::locked::Locked;
use crate::tcp::cc::{self, Phase};
use crate::tcp::rx::count;
use crate::tcp::sack::Board;
use crate::tcp::tcb::{Tcb, tflag};
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::Seq;

/// Sends one lost piece, if there is one and the window allows. True: look again.
pub(super) fn next(l: &mut Locked<'_, '_, '_>, id: SockId) -> bool {
    let s = l.st.sock(id);
    let t = &s.tcb;
    if matches!(t.cc_phase(), Phase::Open | Phase::Cwr) {
        return false;
    }
    let board = Board::load(t);
    let una = Seq(t.snd_una.get());
    let nxt = Seq(t.snd_nxt.get());
    let (at, hole_end) = board.hole(Seq(t.rtx_nxt.get()).latest(una));
    let edge = Seq(t.lost_edge.get()).earliest(nxt);
    if !edge.after(at) {
        return false;
    }
    let mss = build::segment_room(t);
    let room = t.cwnd.get().saturating_sub(cc::pipe(t, &board));
    // The first retransmission always goes out (RFC 6675 section 5 step 4.2): it is what recovery is for.
    let hole = hole_end.unwrap_or(edge).earliest(edge).since(at);
    if room < mss.min(hole) && (at != una || t.head_rtx_at.get() != 0) {
        return false;
    }
    let most = largest(l.st, s, l.env, mss);
    let allowed = if t.cc_phase() == Phase::Recovery && at == una {
        mss
    } else {
        room.max(mss)
    };
    let len = hole.min(most).min(allowed - allowed % mss).max(1);
    match send_again(l, id, s, at, len) {
        Out::Sent(n) => {
            if at == una {
                t.head_rtx_at.set(l.env.now.0.max(1));
                t.head_rtx_nxt.set(t.snd_nxt.get());
            }
            let fin = u32::from(covers_fin(t, at.add(n)));
            t.rtx_nxt
                .set(at.add(n.max(1)).add(fin.min(u32::from(n > 0))).0);
            true
        }
        Out::Later | Out::Lost => false,
    }
}

/// Sends `[at, at + len)` again, FIN included when it lies there.
fn send_again(l: &mut Locked<'_, '_, '_>, id: SockId, s: &Sock, at: Seq, len: u32) -> Out {
    let t = &s.tcb;
    let off = at.since(Seq(t.snd_una.get()));
    let queued = s.sq_len.load(Relaxed);
    let data = len.min(queued.saturating_sub(off));
    let fin = covers_fin(t, at.add(data)) && off.saturating_add(data) >= queued;
    if data == 0 && !fin {
        return Out::Later;
    }
    count!(l, tcp_retrans);
    t.retrans.set(t.retrans.get().wrapping_add(data));
    // Karn: a round trip is never timed over a retransmission.
    t.rtt_at.set(0);
    cc::on_sent(t, data);
    build::send_piece(
        l,
        id,
        &Piece {
            seq: at,
            off,
            len: data,
            fin,
            burst_end: false,
            push: off.saturating_add(data) >= queued,
            again: true,
        },
    )
}

/// The FIN, once sent, has the sequence number before SND.NXT.
fn covers_fin(t: &Tcb, end_of_data: Seq) -> bool {
    t.tflags.get() & tflag::FIN_SENT != 0 && end_of_data.add(1) == Seq(t.snd_nxt.get())
}

/// The tail-loss probe (RFC 8985 section 7.3): a new segment if there is one that the peer's window takes, else the last
/// one again, so that its ACK tells what is missing.
pub(crate) fn tail_probe(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let s = l.st.sock(id);
    let t = &s.tcb;
    let (una, nxt) = (Seq(t.snd_una.get()), Seq(t.snd_nxt.get()));
    let flight = nxt.since(una);
    if flight == 0 {
        return;
    }
    count!(l, tcp_tlp);
    if super::send_beyond_cwnd(l, id) {
        return;
    }
    let mss = build::segment_room(t);
    let back = if flight > mss {
        flight - ((flight - 1) % mss + 1)
    } else {
        0
    };
    let _: Out = send_again(l, id, s, una.add(back), flight - back);
}
