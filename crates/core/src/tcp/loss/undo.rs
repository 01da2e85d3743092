//! Taking a reduction of the window back: everything sent again was not needed (D-SACK, RFC 3708), or what arrived was the
//! first transmission (timestamps, RFC 3522; RFC 5682 after a timeout).

use super::super::cc::Phase;
use super::super::flight::{Flight, Run, mark};
use super::super::tcb::tflag;
use super::{alert, any_again, rack, reordered};
use crate::stack::locked::Locked;
use flyover_wire::Seq;

/// The peer echoes a time from before the first retransmission, or nothing was sent again.
fn is_delayed(t: Flight<'_>) -> bool {
    let stamp = t.retrans_stamp.get();
    let echo = t.echo.get();
    stamp == 0 || echo != 0 && Seq(echo).before(Seq(stamp))
}

fn may(t: Flight<'_>) -> bool {
    t.tflags.get() & tflag::UNDO != 0 && (t.undo_retrans.get() == 0 || is_delayed(t))
}

/// The window is what it was before; `found`: nothing counts as lost any more.
fn take_back(l: &Locked<'_, '_, '_>, t: Flight<'_>, found: bool) {
    for i in (0..t.len()).filter(|_| found) {
        if let Some(r) = t.get(i) {
            let marks = r.marks & !mark::LOST;
            t.set(i, &Run { marks, ..r });
        }
    }
    let prior = t.prior_ssthresh.get();
    let mut f = t.tflags.get();
    if prior != 0 {
        t.cwnd.set(t.cwnd.get().max(t.prior_cwnd.get()));
        if prior > t.ssthresh.get() {
            t.ssthresh.set(prior);
            f &= !tflag::ECN_CWR;
        }
    }
    t.cwnd_stamp.set(l.env.now.ms32());
    t.tflags.set(f & !tflag::UNDO | tflag::RACK_NEWS);
}

/// Without SACK the phase stays until something beyond its end is acknowledged (RFC 6582 section 4).
fn stays(t: Flight<'_>) -> bool {
    let stays = t.snd_una.get() == t.recover.get() && alert::is_reno(t);
    if stays && !any_again(t) {
        t.retrans_stamp.set(0);
    }
    stays
}

/// Recovery has reached its end. True: the phase stays.
pub(super) fn recovery(l: &Locked<'_, '_, '_>, t: Flight<'_>) -> bool {
    if may(t) {
        take_back(l, t, false);
    } else {
        rack::persist_less(t);
    }
    if stays(t) {
        return true;
    }
    t.set_phase(Phase::Open);
    false
}

/// All retransmissions turned out to be unnecessary.
pub(super) fn by_dsack(l: &Locked<'_, '_, '_>, t: Flight<'_>) -> bool {
    let all = t.tflags.get() & tflag::UNDO != 0 && t.undo_retrans.get() == 0;
    if all {
        rack::persist_more(t);
        take_back(l, t, false);
    }
    all
}

/// After a timeout; `spurious`: F-RTO says so.
pub(super) fn loss(l: &Locked<'_, '_, '_>, t: Flight<'_>, spurious: bool) -> bool {
    if !spurious && !may(t) {
        return false;
    }
    take_back(l, t, true);
    t.retransmits.set(0);
    if stays(t) {
        return true;
    }
    if spurious || !alert::is_reno(t) {
        t.set_phase(Phase::Open);
    }
    true
}

/// A partial acknowledgment in recovery: of a segment that was late, not lost. True: nothing more is lost or sent again.
pub(super) fn partial(l: &Locked<'_, '_, '_>, t: Flight<'_>, una: Seq) -> bool {
    if t.tflags.get() & tflag::UNDO == 0 || !is_delayed(t) {
        return false;
    }
    reordered(t, una);
    if t.retrans_out.get() > 0 {
        return true;
    }
    if !any_again(t) {
        t.retrans_stamp.set(0);
    }
    take_back(l, t, true);
    alert::keep_open(t);
    false
}
