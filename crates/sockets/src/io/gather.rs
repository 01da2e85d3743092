//! Segments of a stream for one read. A V-NIC that does not merge segments (AF_XDP) brings them one by one, and a reader who
//! takes each as it comes slows the sender down: every look at the ring and at a frame takes their lines from the processor
//! that writes the next ones. A NIC for the kernel would hold its interrupt back for a moment (`rx-usecs`, ethtool(8)), and
//! GRO bring the segments together.

use core::cell::Cell;

use super::recv::{BULK, more_at_once, move_peek, queued_behind};
use crate::enter;
use crate::process::{Ep, Sockets};
use crate::wait::spin;

/// How long a reader lets segments come together, ns. Some eight of full size come in that time over veth.
const GATHER_NS: u64 = 15_000;
/// So many bytes without an end that their sender pushed are a stream. A shorter answer is never held up.
const STREAM: u64 = 46 << 10;

thread_local! {
    /// What this thread read since the last end, bytes; and whether what came before that end was a stream.
    static RUN: Cell<(u64, bool)> = const { Cell::new((0, false)) };
}

impl Sockets {
    /// `done` bytes of a large read are there, and the queue is empty. In the middle of a stream the call waits, a moment,
    /// without a look at the V-NIC. Only for a call that may wait. Returns the bytes placed.
    #[inline(never)]
    pub(super) fn gather(&self, ep: &Ep, into: &mut [&mut [u8]], done: usize) -> usize {
        let (run, streams) = RUN.with(Cell::get);
        let run = run + done as u64;
        let more = ep.att.stack.more_comes(ep.sock.id);
        RUN.with(|r| {
            r.set(if more {
                (run, streams)
            } else {
                (0, run >= STREAM)
            })
        });
        let waits = more && (streams || run >= STREAM) && done < BULK;
        if !waits || self.settings.spin == spin::Budget::Fixed(0) || ep.shared().rq_available() > 0
        {
            return 0;
        }
        ep.att.stack.count_gathered();
        let start = self.os.now();
        while self.os.now().saturating_sub(start) < GATHER_NS && !enter::has_signal() {
            (0..8).for_each(|_| core::hint::spin_loop());
        }
        let placed = more_at_once(ep, into, done);
        let n = placed + queued_behind(ep, into, done + placed);
        let ended = !ep.att.stack.more_comes(ep.sock.id);
        // In vain: the sender waits for something, perhaps for this processor.
        RUN.with(|r| {
            r.set(match (n, ended) {
                (0, _) => (0, false),
                (_, true) => (0, run >= STREAM),
                (_, false) => (run + n as u64, streams),
            });
        });
        move_peek(ep, n, false);
        n
    }
}
