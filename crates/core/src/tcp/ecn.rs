//! Explicit congestion notification (RFC 3168), as Linux: new data says that the transport is capable (ECT), a mark of the
//! network (CE) is echoed (ECE) until the sender says that it slowed down (CWR). Neither SYNs, acknowledgments nor
//! retransmissions are ECT (section 6.1).

use super::tcb::{Tcb, tflag};
use crate::stack::poll::RxPkt;
use flyover_wire::TcpFlags;

/// The codepoints of the IP header.
const ECT_0: u8 = 2;
const CE: u8 = 3;
/// Segments acknowledged at once after a mark: the sender's window may be very small.
const QUICK: u32 = 2;
/// Both flags: asked for in a SYN.
const ASKED: TcpFlags = TcpFlags::ECE.with(TcpFlags::CWR);

/// The peer's SYN asks for ECN. One that is ECT itself comes from where the bits mean something else (as Linux).
pub(crate) fn is_asked(p: &RxPkt<'_>, flags: TcpFlags) -> bool {
    flags.has(ASKED) && p.hdr.ecn() == 0
}

/// A SYN-ACK agrees to it.
pub(crate) fn is_granted(flags: TcpFlags) -> bool {
    flags.has(TcpFlags::ECE) && !flags.has(TcpFlags::CWR)
}

/// Flags of a SYN that asks.
pub(crate) fn ask(flags: TcpFlags) -> TcpFlags {
    flags.with(ASKED)
}

/// Flags of a segment without payload.
pub(crate) fn echo(t: &Tcb, flags: TcpFlags) -> TcpFlags {
    if t.tflags.get() & tflag::ECN_ECHO == 0 {
        return flags;
    }
    flags.with(TcpFlags::ECE)
}

/// Flags and ECN field of a segment with payload; `again`: it was sent before.
pub(crate) fn mark(t: &Tcb, again: bool, flags: TcpFlags) -> (TcpFlags, u8) {
    let f = t.tflags.get();
    if f & tflag::ECN == 0 {
        return (flags, 0);
    }
    let flags = echo(t, flags);
    if again {
        return (flags, 0);
    }
    if f & tflag::ECN_CWR == 0 {
        return (flags, ECT_0);
    }
    t.tflags.set(f & !tflag::ECN_CWR);
    (flags.with(TcpFlags::CWR), ECT_0)
}

/// New data arrived, in order or not.
pub(crate) fn data_arrived(t: &Tcb, p: &RxPkt<'_>) {
    let f = t.tflags.get();
    if f & tflag::ECN == 0 {
        return;
    }
    match p.hdr.ecn() {
        // As Linux: what is not ECT after something that was is probably a retransmission.
        0 if f & tflag::ECN_SEEN != 0 => quick(t),
        0 => {}
        CE => {
            if f & tflag::ECN_ECHO == 0 {
                quick(t);
            }
            t.tflags
                .set(t.tflags.get() | tflag::ECN_ECHO | tflag::ECN_SEEN);
        }
        _ => t.tflags.set(f | tflag::ECN_SEEN),
    }
}

fn quick(t: &Tcb) {
    t.quick.set(t.quick.get().max(QUICK));
    t.tflags.set(t.tflags.get() & !tflag::ANSWERS);
}

/// An acceptable segment: does it say that its sender slowed down?
pub(crate) fn arrived(t: &Tcb, p: &RxPkt<'_>, flags: TcpFlags, seq_len: u32) {
    let mut f = t.tflags.get();
    if f & tflag::ECN == 0 {
        if p.hdr.ecn() != 0 {
            // As Linux, which notes it even where it means nothing.
            t.tflags.set(f | tflag::ECN_SEEN);
        }
        return;
    }
    if flags.has(TcpFlags::CWR) {
        f &= !tflag::ECN_ECHO;
        if seq_len > 0 {
            f |= tflag::ACK_AT_ONCE;
        }
        t.tflags.set(f);
    }
}

/// An acknowledgment echoes a mark of the network: the window goes down, once per round trip.
pub(crate) fn is_echoed(t: &Tcb, flags: TcpFlags) -> bool {
    t.tflags.get() & tflag::ECN != 0 && flags.has(TcpFlags::ECE) && !flags.has(TcpFlags::SYN)
}
