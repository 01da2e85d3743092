//! Third: SYN in a synchronised state is a challenge (RFC 5961 section 4.2).

use super::{Seg, Step, challenge, count};
use crate::sock::SockId;
use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use crate::tcp::{sack, tx};
use flyover_wire::{Seq, TcpFlags};

pub(super) fn step(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: &Seg<'_>, id: SockId) -> Step {
    if !seg.flags.has(TcpFlags::SYN) {
        return Step::Next;
    }
    let s = l.st.net(id);
    if s.tcp_state() == TcpState::SynRcvd {
        let t = &s.net.tcb;
        // Simultaneous open: the peer's SYN-ACK repeats its SYN (RFC 9293 section 3.5).
        if seg.flags.has(TcpFlags::ACK) && seg.seq.add(1) == Seq(t.rcv_nxt.get()) {
            sack::note_twice(t, seg.seq, seg.seq.add(1));
            t.tflags.set(t.tflags.get() | tflag::ACK_NOW);
            return Step::Next;
        }
        if t.tflags.get() & tflag::SIMULTANEOUS == 0 {
            // Another SYN than the one that began it: as Linux, the attempt ends, and the peer begins anew.
            count!(l, tcp_drop_state);
            tx::send_rst_for(l, p, seg);
            l.destroy(id);
            return Step::Done;
        }
    }
    challenge(l, id);
    Step::Done
}
