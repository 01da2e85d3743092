//! The tail-loss probe (RFC 8985 section 7): a new segment if there is one that the peer's window takes, else the last
//! one again, so that its acknowledgment tells what is missing.

use super::super::cc::{self, Phase};
use super::super::flight::Flight;
use super::super::rx::count;
use super::super::tcb::{rtx, tflag};
use super::super::{timers, tx};
use super::{Ack, alert, tell};
use crate::sock::SockId;
use crate::stack::locked::Locked;
use flyover_wire::Seq;

/// The time for it has come.
pub(crate) fn send_probe(l: &mut Locked<'_, '_, '_>, id: SockId) {
    let t = l.st.flight(id);
    if t.tflags.get() & tflag::TLP == 0 {
        t.tflags.set(t.tflags.get() & !tflag::TLP_AGAIN);
        let before = t.packets_out.get();
        let sent = match tx::send_beyond_cwnd(l, id) {
            Some(_) => t.packets_out.get() > before,
            None => {
                let again = tx::send_last_again(l, id);
                if again {
                    t.tflags.set(t.tflags.get() | tflag::TLP_AGAIN);
                }
                again
            }
        };
        if sent {
            count!(l, tcp_tlp);
            t.tlp_high.set(t.snd_nxt.get());
            t.tflags.set(t.tflags.get() | tflag::TLP);
            // The timeout starts from here.
            t.rtx_kind.set(rtx::NONE);
        }
    }
    timers::rearm_rto(l, id);
}

/// What an acknowledgment says of the probe.
pub(super) fn process(l: &Locked<'_, '_, '_>, t: Flight<'_>, a: &Ack) {
    let f = t.tflags.get();
    let (una, high) = (Seq(t.snd_una.get()), Seq(t.tlp_high.get()));
    if f & tflag::TLP == 0 || una.before(high) {
        return;
    }
    if f & tflag::TLP_AGAIN == 0 || a.has(tell::DSACK_TLP) {
        t.tflags.set(f & !tflag::TLP);
    } else if una.after(high) {
        // Beyond it, and nothing came twice: it has replaced something that was lost.
        cc::begin_reduction(&t);
        t.set_phase(Phase::Cwr);
        cc::end_reduction(&t, l.env.now);
        alert::keep_open(t);
    } else if !a.has(tell::ADVANCED | tell::NOT_DUP | tell::SACKED) {
        t.tflags.set(f & !tflag::TLP);
    }
}
