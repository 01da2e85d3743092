//! Second: RST, with the rules of RFC 5961 section 3.2.

use super::{Seg, Step, acceptable, challenge, count};
use crate::error::Error;
use crate::sock::SockId;
use crate::stack::locked::Locked;
use crate::tcp::sack;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use flyover_wire::{Seq, TcpFlags};

pub(super) fn step(l: &mut Locked<'_, '_, '_>, seg: &Seg<'_>, id: SockId) -> Step {
    if !seg.flags.has(TcpFlags::RST) {
        return Step::Next;
    }
    let s = l.st.net(id);
    let t = &s.net.tcb;
    // As Linux: a peer may send its reset behind what we hold out of order.
    let behind = t.tflags.get() & tflag::SACK != 0 && sack::highest_received(t) == Some(seg.seq);
    let before_fin = acceptable::is_reset_before_fin(s, seg);
    if seg.seq != Seq(t.rcv_nxt.get()) && !behind && !before_fin {
        challenge(l, id);
        return Step::Done;
    }
    count!(l, tcp_rst_in);
    match s.tcp_state() {
        TcpState::SynRcvd if t.tflags.get() & tflag::SIMULTANEOUS == 0 => {
            // Passive open: the half-open child disappears, the listener does not notice.
            l.destroy(id);
        }
        TcpState::SynRcvd => l.reset_conn(id, Error::Refused),
        TcpState::CloseWait => l.reset_conn(id, Error::BrokenPipe),
        TcpState::Established | TcpState::FinWait1 | TcpState::FinWait2 => {
            l.reset_conn(id, Error::Reset);
        }
        _ => l.reset_conn(id, Error::Reset),
    }
    Step::Done
}
