//! Model checks of [`flyover_shm::StackLock`]: every interleaving of two or three threads.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flyover-shm --release --test loom_lock`

#![cfg(loom)]
#![allow(missing_docs)]

use flyover_shm::{StackLock, Unlock};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering::SeqCst};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// What the lock protects: loom reports any two accesses that are not ordered by it.
struct Guarded {
    lock: StackLock,
    value: UnsafeCell<u32>,
    done: AtomicU32,
}

// SAFETY: `value` is only touched by the holder of `lock`; that is what the model checks.
unsafe impl Sync for Guarded {}
// SAFETY: as above.
unsafe impl Send for Guarded {}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: StackLock::default(),
            value: UnsafeCell::new(0),
            done: AtomicU32::new(0),
        })
    }

    fn touch(&self) {
        // SAFETY: the caller holds the lock.
        self.value.with_mut(|v| unsafe { *v += 1 });
    }

    /// Releases the lock; does what others left, counted bit by bit.
    fn unlock(&self) -> bool {
        loop {
            match self.lock.try_unlock() {
                Unlock::Released { wake } => return wake,
                Unlock::Deferred(bits) => {
                    self.touch();
                    let _: u32 = self.done.fetch_or(bits, SeqCst);
                }
            }
        }
    }
}

#[test]
fn holders_exclude_one_another() {
    loom::model(|| {
        let g = Guarded::new();
        let threads: Vec<_> = (0..2u16)
            .map(|me| {
                let g = g.clone();
                thread::spawn(move || {
                    if g.lock.try_lock(me) {
                        assert_eq!(g.lock.owner(), Some(me));
                        g.touch();
                        let _: bool = g.unlock();
                        return 1;
                    }
                    0
                })
            })
            .collect();
        let got: u32 = threads.into_iter().map(|t| t.join().unwrap()).sum();
        assert!(got >= 1, "a free lock was refused to both");
        assert_eq!(g.lock.owner(), None);
    });
}

fn deferred_bits(others: u16, preemptions: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let g = Guarded::new();
        let wish = |g: &Guarded, me: u16| {
            if g.lock.lock_or_defer(me, 1 << me) {
                g.touch();
                let _: bool = g.unlock();
            }
        };
        let threads: Vec<_> = (1..=others)
            .map(|me| {
                let g = g.clone();
                thread::spawn(move || wish(&g, me))
            })
            .collect();
        wish(&g, 0);
        for t in threads {
            t.join().unwrap();
        }
        assert_eq!(g.lock.owner(), None);
        assert_eq!(g.done.load(SeqCst), (2 << others) - 1, "work was lost");
    });
}

#[test]
fn deferred_bits_are_never_lost() {
    deferred_bits(1, None);
}

#[test]
fn deferred_bits_of_two_are_never_lost() {
    deferred_bits(2, Some(2));
}

#[test]
fn forced_unlock_keeps_the_bits_for_the_next_holder() {
    loom::model(|| {
        let g = Guarded::new();
        assert!(g.lock.try_lock(1));
        let other = {
            let g = g.clone();
            thread::spawn(move || {
                if g.lock.lock_or_defer(2, 4) {
                    g.touch();
                    let _: bool = g.unlock();
                }
            })
        };
        g.touch();
        let _: bool = g.lock.force_unlock();
        other.join().unwrap();
        if g.done.load(SeqCst) == 0 {
            assert!(g.lock.try_lock(3));
            let _: bool = g.unlock();
        }
        assert_eq!(g.done.load(SeqCst), 4);
    });
}

/// A futex: the kernel compares the word and goes to sleep in one step.
struct Futex {
    guarded: Arc<Guarded>,
    mutex: Mutex<()>,
    sleepers: Condvar,
}

impl Futex {
    fn lock(&self, me: u16) {
        while !self.guarded.lock.try_lock(me) {
            if let Some(seq) = self.guarded.lock.note_waiter() {
                let m = self.mutex.lock().unwrap();
                if self.guarded.lock.seq.load(SeqCst) == seq {
                    drop(self.sleepers.wait(m).unwrap());
                }
            }
        }
    }

    fn unlock(&self) {
        if self.guarded.unlock() {
            drop(self.mutex.lock().unwrap());
            self.sleepers.notify_all();
        }
    }
}

/// Loom fails when a thread sleeps for ever.
fn waiters(threads: u16, preemptions: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let f = Arc::new(Futex {
            guarded: Guarded::new(),
            mutex: Mutex::new(()),
            sleepers: Condvar::new(),
        });
        let others: Vec<_> = (1..threads)
            .map(|me| {
                let f = f.clone();
                thread::spawn(move || {
                    f.lock(me);
                    f.guarded.touch();
                    f.unlock();
                })
            })
            .collect();
        f.lock(0);
        f.guarded.touch();
        f.unlock();
        for t in others {
            t.join().unwrap();
        }
        // SAFETY: all other threads have ended.
        f.guarded
            .value
            .with(|v| assert_eq!(unsafe { *v }, u32::from(threads)));
    });
}

#[test]
fn a_waiter_is_woken() {
    waiters(2, 4);
}

#[test]
fn two_waiters_are_both_woken() {
    waiters(3, 3);
}

#[test]
fn a_dead_holder_is_replaced_once() {
    loom::model(|| {
        let g = Guarded::new();
        assert!(g.lock.try_lock(9));
        let threads: Vec<_> = (1..3u16)
            .map(|me| {
                let g = g.clone();
                thread::spawn(move || {
                    let won = g.lock.take_over(9, me);
                    if won {
                        g.touch();
                        let _: bool = g.unlock();
                    }
                    u32::from(won)
                })
            })
            .collect();
        let won: u32 = threads.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!(won, 1);
        assert_eq!(g.lock.owner(), None);
    });
}
