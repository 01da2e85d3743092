//! Model checks of [`flyover_shm::gate`], as calls of the kernel's and the pairing of two ends use it.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flyover-shm --release --test loom_gate`

#![cfg(loom)]
#![allow(missing_docs)]

use flyover_shm::Shared32;
use flyover_shm::gate::{self, Entry};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use loom::thread;

/// An end: while it is the kernel's, calls move its bytes there.
struct End {
    inside: Shared32,
    gate: Shared32,
    away: AtomicU32,
}

struct Pair {
    ends: [End; 2],
    /// Bytes of the kernel's, which change in calls and must not while somebody pairs. Loom reports any two accesses that
    /// are not ordered.
    bytes: [UnsafeCell<u32>; 2],
}

// SAFETY: `bytes` is only touched inside the gate, or by who has shut it: that is what the model checks.
unsafe impl Sync for Pair {}
// SAFETY: as above.
unsafe impl Send for Pair {}

impl Pair {
    fn new() -> Arc<Self> {
        let end = || End {
            inside: Shared32::new(0),
            gate: Shared32::new(0),
            away: AtomicU32::new(1),
        };
        Arc::new(Self {
            ends: [end(), end()],
            bytes: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    /// A call on end `n`; true: it went to the kernel.
    fn call(&self, n: usize) -> Entry {
        let e = &self.ends[n];
        let entry = gate::enter(&e.inside, &e.gate, || e.away.load(Relaxed) == 1);
        if entry == Entry::Inside {
            // SAFETY: one thread makes calls on each end, and it is inside.
            self.bytes[n].with_mut(|b| unsafe { *b += 1 });
            gate::leave(&e.inside);
        }
        entry
    }

    /// Pairs both ends, if nobody is inside; returns the kernel's bytes at that moment.
    fn pair(&self, tag: u32) -> Option<u32> {
        let [a, b] = &self.ends;
        let empty = gate::shut([(&a.inside, &a.gate), (&b.inside, &b.gate)], tag);
        let bytes = empty.then(|| {
            let sum = self
                .bytes
                .iter()
                // SAFETY: nobody is inside, and nobody comes in.
                .map(|b| b.with(|b| unsafe { *b }))
                .sum();
            self.ends.iter().for_each(|e| e.away.store(0, Release));
            sum
        });
        self.ends.iter().for_each(|e| gate::open(&e.gate, tag));
        bytes
    }
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(f);
}

#[test]
fn nobody_is_in_the_kernel_when_two_ends_are_paired_and_nobody_gets_there_afterwards() {
    model(|| {
        let p = Pair::new();
        let caller = {
            let p = p.clone();
            thread::spawn(move || [p.call(0), p.call(0)])
        };
        let paired = p.pair(7);
        let calls = caller.join().unwrap();
        let inside = calls.iter().filter(|c| **c == Entry::Inside).count() as u32;
        if let Some(bytes) = paired {
            assert_eq!(bytes, inside, "the kernel's bytes were not all counted");
            assert_eq!(p.call(0), Entry::Over);
            assert_eq!(p.call(1), Entry::Over);
        } else {
            assert_eq!(p.call(1), Entry::Inside, "the gate is open again");
        }
    });
}

#[test]
fn both_ends_are_in_calls() {
    model(|| {
        let p = Pair::new();
        let callers = [0, 1].map(|n| {
            let p = p.clone();
            thread::spawn(move || p.call(n))
        });
        let paired = p.pair(7);
        let inside = callers.map(|c| u32::from(c.join().unwrap() == Entry::Inside));
        if let Some(bytes) = paired {
            assert_eq!(bytes, inside[0] + inside[1]);
        }
        let left = |e: &End| e.inside.load(Acquire) == 0 && e.gate.load(Acquire) == 0;
        assert!(p.ends.iter().all(left));
    });
}
