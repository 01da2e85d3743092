//! What is in flight. Who died between the steps of a transmission left it half noted: with SND.NXT moved and no segment
//! that the retransmission timer knows of, or without the timer, the connection would wait for ever.

use crate::sock::flag;
use crate::sock::{Kind, SockId};
use crate::stack::locked::Locked;
use crate::tcp::flight::{self, Run, mark};
use crate::tcp::tcb::{rtx, tflag};
use crate::tcp::{loss, timers};
use flyover_wire::Seq;

impl Locked<'_, '_, '_> {
    pub(super) fn rebuild_flights(&mut self) {
        let st = self.st;
        for r in st.each_sock() {
            let Some(s) = st.net_of(r.id) else { continue };
            if s.kind() != Kind::Tcp || s.has(flag::PAIRED) || !s.tcp_state().transmits() {
                continue;
            }
            if !st.flight(r.id).is_sound() {
                self.note_flight_anew(r.id);
            }
            let t = &s.net.tcb;
            // The retry of what did not fit would stand where the timeout of what did belongs.
            let retry = t.rtx_kind.get() == rtx::RETRY && t.tflags.get() & tflag::BLOCKED == 0;
            if t.packets_out.get() > 0 && (t.t_rtx.get() == 0 || retry) {
                timers::rearm_rto(self, r.id);
            }
        }
    }

    /// All that is not acknowledged was sent just now, as far as anybody knows.
    fn note_flight_anew(&mut self, id: SockId) {
        let t = self.st.tcb(id);
        flight::forget(t);
        let (una, nxt) = (Seq(t.snd_una.get()), Seq(t.snd_nxt.get()));
        if !nxt.after(una) {
            return;
        }
        let fin_sent = t.tflags.get() & tflag::FIN_SENT != 0;
        self.st.flight(id).push(&Run {
            start: una,
            end: nxt,
            at: loss::micros(self.env.now),
            unit: t.mss.get().max(1),
            marks: mark::VAGUE | if fin_sent { mark::FIN } else { 0 },
        });
    }
}
