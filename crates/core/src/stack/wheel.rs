//! Hierarchical timer wheel by index: 4 levels of 256 slots, a tick of 2^20 ns (about 1 ms). Every socket hangs on
//! it at most once, at the earliest of its deadlines; a deadline that moves later leaves the entry where it is, and
//! the expiry re-arms it. So an ACK that restarts the retransmission timer costs one store.

use super::locked::Locked;
use super::{Stack, state::StackState};
use crate::sock::{Sock, SockId};
use crate::time::Instant;
use flyover_shm::OptIdx;

/// log2 of the tick in nanoseconds.
const TICK_SHIFT: u32 = 20;
/// Slots of one level.
const SLOTS: u64 = 256;
/// Levels.
const LEVELS: usize = 4;

fn tick_of(ns: u64) -> u64 {
    ns >> TICK_SHIFT
}

/// Hangs the socket where `deadline` (ns, never 0) falls, or leaves it when it already fires earlier.
pub(crate) fn arm(st: Stack<'_>, id: SockId, deadline: u64) {
    let s = st.sock(id);
    // Rounded up: a timer never fires early by more than nothing.
    let tick = tick_of(deadline).wrapping_add(1);
    if s.tslot.get() != 0 {
        if s.ttick.get() <= tick {
            return;
        }
        unlink(st, id, s);
    }
    link(st, id, s, tick);
    if deadline < st.state.wheel_min.get() || st.state.wheel_min.get() == 0 {
        st.state.wheel_min.set(deadline);
    }
}

/// Takes the socket off the wheel.
pub(crate) fn disarm(st: Stack<'_>, id: SockId) {
    let s = st.sock(id);
    if s.tslot.get() != 0 {
        unlink(st, id, s);
    }
}

fn link(st: Stack<'_>, id: SockId, s: &Sock, tick: u64) {
    let state = st.state;
    let now = state.wheel_tick.get();
    let tick = tick.max(now.wrapping_add(1));
    let delta = tick - now;
    let level = match delta {
        0..SLOTS => 0,
        256..65_536 => 1,
        65_536..16_777_216 => 2,
        _ => 3,
    };
    let tick = if level == 3 {
        tick.min(now.saturating_add((SLOTS - 1) << 24))
    } else {
        tick
    };
    let slot = ((tick >> (8 * level as u32)) & (SLOTS - 1)) as usize;
    let Some(head) = head_cell(state, level * SLOTS as usize + slot) else {
        return;
    };
    let first = head.get();
    s.tprev.set(OptIdx::NONE);
    s.tnext.set(first);
    if let Some(f) = first.opt() {
        st.sock(f).tprev.set(id.into());
    }
    head.set(id.into());
    s.tslot.set((level * SLOTS as usize + slot) as u32 + 1);
    s.ttick.set(tick);
    set_bit(state, level, slot, true);
}

fn unlink(st: Stack<'_>, id: SockId, s: &Sock) {
    let at = s.tslot.get().wrapping_sub(1) as usize;
    s.tslot.set(0);
    let Some(head) = head_cell(st.state, at) else {
        return;
    };
    let (prev, next) = (s.tprev.get(), s.tnext.get());
    match prev.opt() {
        Some(p) if st.sock(p).tnext.get().opt() == Some(id) => st.sock(p).tnext.set(next),
        _ if head.get().opt() == Some(id) => head.set(next),
        _ => {}
    }
    if let Some(n) = next.opt()
        && st.sock(n).tprev.get().opt() == Some(id)
    {
        st.sock(n).tprev.set(prev);
    }
    s.tprev.set(OptIdx::NONE);
    s.tnext.set(OptIdx::NONE);
    if head.get().opt().is_none() {
        set_bit(st.state, at / SLOTS as usize, at % SLOTS as usize, false);
    }
}

fn head_cell(state: &StackState, at: usize) -> Option<&flyover_shm::SharedCell<OptIdx<Sock>>> {
    state.wheel.get(at)
}

fn set_bit(state: &StackState, level: usize, slot: usize, on: bool) {
    let Some(word) = state.wheel_bits.get(level * 4 + slot / 64) else {
        return;
    };
    let mask = 1u64 << (slot % 64);
    word.set(if on {
        word.get() | mask
    } else {
        word.get() & !mask
    });
}

fn bit(state: &StackState, level: usize, slot: usize) -> bool {
    state
        .wheel_bits
        .get(level * 4 + slot / 64)
        .is_some_and(|w| w.get() & (1u64 << (slot % 64)) != 0)
}

/// Distance from slot `from` (going round) to the next occupied one, if it is below `limit`.
fn next_set(state: &StackState, level: usize, from: usize, limit: usize) -> Option<usize> {
    let mut dist = 0usize;
    while dist < limit {
        let slot = (from + dist) % SLOTS as usize;
        let word = state
            .wheel_bits
            .get(level * 4 + slot / 64)
            .map_or(0, |w| w.get());
        let rest = word >> (slot % 64);
        if rest != 0 {
            dist += rest.trailing_zeros() as usize;
            return (dist < limit).then_some(dist);
        }
        dist += 64 - slot % 64;
    }
    None
}

impl Locked<'_, '_, '_> {
    /// Fires what is due, at most `budget` sockets; the rest waits for the next call.
    pub(crate) fn run_timers(&mut self, budget: u32) {
        let st = self.st;
        let target = tick_of(self.env.now.0);
        let min = st.state.wheel_min.get();
        if min == 0 || self.env.now.0 < min {
            if min == 0 {
                st.state.wheel_tick.set(target);
            }
            return;
        }
        let mut left = budget;
        let mut steps = 0u32;
        while st.state.wheel_tick.get() < target && left > 0 {
            let mut tick = st.state.wheel_tick.get();
            // An empty wheel, or a long sleep: jump to the next occupied slot of level 0, or to the next cascade.
            let jump = Self::idle_ticks(st, tick).min(target - tick);
            if jump > 0 {
                tick += jump;
                st.state.wheel_tick.set(tick);
                if tick & (SLOTS - 1) == 0 {
                    Self::cascade(st, tick);
                }
                if tick >= target && !bit(st.state, 0, (tick & (SLOTS - 1)) as usize) {
                    break;
                }
            }
            left = self.fire_slot(tick, left);
            if left == 0 {
                break;
            }
            if jump == 0 {
                st.state.wheel_tick.set(tick + 1);
                if (tick + 1) & (SLOTS - 1) == 0 {
                    Self::cascade(st, tick + 1);
                }
            }
            steps += 1;
            if steps > 4096 {
                break;
            }
        }
        if left > 0 && st.state.wheel_tick.get() == target {
            let _: u32 = self.fire_slot(target, left);
        }
        Self::refresh_min(st);
    }

    /// Ticks after `tick` in which nothing can fire, up to the next cascade; 0 when `tick` itself has entries.
    fn idle_ticks(st: Stack<'_>, tick: u64) -> u64 {
        let base = (tick & (SLOTS - 1)) as usize;
        let room = SLOTS as usize - base;
        next_set(st.state, 0, base, room).unwrap_or(room) as u64
    }

    fn fire_slot(&mut self, tick: u64, mut left: u32) -> u32 {
        let st = self.st;
        let Some(head) = st.state.wheel.get((tick & (SLOTS - 1)) as usize) else {
            return left;
        };
        let mut guard = st.limits().socks;
        while let Some(id) = head.get().opt() {
            if left == 0 || guard == 0 {
                return 0;
            }
            left -= 1;
            guard -= 1;
            unlink(st, id, st.sock(id));
            crate::tcp::timers::expire(self, id);
        }
        left
    }

    /// Moves the entries of higher levels down, at the start of a round of the level below.
    fn cascade(st: Stack<'_>, tick: u64) {
        for level in 1..LEVELS {
            let slot = ((tick >> (8 * level as u32)) & (SLOTS - 1)) as usize;
            let at = level * SLOTS as usize + slot;
            let Some(head) = st.state.wheel.get(at) else {
                return;
            };
            let mut guard = st.limits().socks;
            while let Some(id) = head.get().opt() {
                if guard == 0 {
                    return;
                }
                guard -= 1;
                let s = st.sock(id);
                let due = s.ttick.get();
                unlink(st, id, s);
                // `link` needs a tick in the future; what is due now goes to the current slot.
                if due <= tick {
                    link_now(st, id, s, tick);
                } else {
                    link(st, id, s, due);
                }
            }
            if slot != 0 {
                return;
            }
        }
    }

    /// Recomputes the earliest time at which something may fire.
    fn refresh_min(st: Stack<'_>) {
        let tick = st.state.wheel_tick.get();
        st.state
            .wheel_min
            .set(earliest(st, tick).map_or(0, |t| t << TICK_SHIFT));
    }
}

fn link_now(st: Stack<'_>, id: SockId, s: &Sock, tick: u64) {
    let slot = (tick & (SLOTS - 1)) as usize;
    let Some(head) = st.state.wheel.get(slot) else {
        return;
    };
    let first = head.get();
    s.tprev.set(OptIdx::NONE);
    s.tnext.set(first);
    if let Some(f) = first.opt() {
        st.sock(f).tprev.set(id.into());
    }
    head.set(id.into());
    s.tslot.set(slot as u32 + 1);
    s.ttick.set(tick);
    set_bit(st.state, 0, slot, true);
}

/// A lower bound, in ticks, of the next expiry; exact on level 0, the start of the slot on the others.
fn earliest(st: Stack<'_>, now: u64) -> Option<u64> {
    let mut best: Option<u64> = None;
    for level in 0..LEVELS {
        let shift = 8 * level as u32;
        let cur = now >> shift;
        // On the upper levels the current slot was cascaded already: an entry in it is a full round away.
        let first = u64::from(level > 0);
        let from = ((cur + first) & (SLOTS - 1)) as usize;
        if let Some(d) = next_set(st.state, level, from, SLOTS as usize) {
            let t = (cur + first + d as u64) << shift;
            best = Some(best.map_or(t, |b| b.min(t)));
        }
    }
    best
}

impl Stack<'_> {
    /// The earliest time at which a timer may fire; None when no timer runs. Needs no lock.
    pub fn next_deadline(self) -> Option<Instant> {
        match self
            .state
            .next_deadline
            .load(core::sync::atomic::Ordering::Acquire)
        {
            0 => None,
            t => Some(Instant(t)),
        }
    }
}
