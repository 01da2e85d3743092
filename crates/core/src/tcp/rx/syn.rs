//! Third: SYN in a synchronised state is a challenge (RFC 5961 section 4.2).

use super::{Seg, Step, challenge};
use crate::sock::SockId;
use crate::stack::locked::Locked;
use flyover_wire::TcpFlags;

pub(super) fn step(l: &mut Locked<'_, '_, '_>, seg: &Seg<'_>, id: SockId) -> Step {
    if !seg.flags.has(TcpFlags::SYN) {
        return Step::Next;
    }
    let s = l.st.sock(id);
    // Simultaneous open: the peer's SYN-ACK repeats its SYN (RFC 9293 section 3.5).
    if s.tcp_state() == crate::tcp::state::TcpState::SynRcvd
        && seg.flags.has(TcpFlags::ACK)
        && seg.seq.add(1) == flyover_wire::Seq(s.tcb.rcv_nxt.get())
    {
        return Step::Next;
    }
    challenge(l, id);
    Step::Done
}
