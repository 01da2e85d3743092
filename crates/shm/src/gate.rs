//! A gate before calls that only count while a state lasts: who wants to make one counts itself in and out; who wants to end
//! the state shuts the gate, sees that nobody is inside, ends it, and opens the gate.

use crate::Shared32;
use core::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

#[cfg(not(loom))]
use core::sync::atomic::fence;
#[cfg(loom)]
use loom::sync::atomic::fence;

/// What [`enter`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Counted in: [`leave`] has to follow.
    Inside,
    /// The gate is shut: try again in a moment.
    Shut,
    /// The state is over.
    Over,
}

/// Counts the caller in, if the state `lasts` and the gate is open.
#[inline]
pub fn enter(inside: &Shared32, gate: &Shared32, lasts: impl FnOnce() -> bool) -> Entry {
    let _: u32 = inside.fetch_add(1, SeqCst);
    fence(SeqCst);
    // The gate before the state: an open gate was not shut yet, and then whoever shuts it sees us; or it was opened again,
    // and then we see what was done behind it.
    let open = gate.load(SeqCst) == 0;
    let found = match lasts() {
        true if open => return Entry::Inside,
        true => Entry::Shut,
        false => Entry::Over,
    };
    leave(inside);
    found
}

/// Counts the caller out.
#[inline]
pub fn leave(inside: &Shared32) {
    let _: u32 = inside.fetch_sub(1, Release);
}

/// Shuts some gates at once, for `tag`, which is not 0. False: somebody is inside; [`open`] them again.
pub fn shut<const N: usize>(gates: [(&Shared32, &Shared32); N], tag: u32) -> bool {
    for (_, gate) in gates {
        gate.store(tag, SeqCst);
    }
    fence(SeqCst);
    gates.iter().all(|(inside, _)| inside.load(SeqCst) == 0)
}

/// Opens a gate that `tag` had shut.
pub fn open(gate: &Shared32, tag: u32) {
    let _: Result<u32, u32> = gate.compare_exchange(tag, 0, Release, Relaxed);
}
