//! Model checks of [`flyover_shm::Slots`]: one thread allocates (the lock holder), others free.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flyover-shm --release --test loom_slots`

#![cfg(loom)]
#![allow(missing_docs)]

use flyover_shm::slots::model::Table;
use loom::sync::Arc;
use loom::sync::atomic::Ordering::SeqCst;
use loom::thread;

fn all_free_once(t: &Table, n: usize) {
    let mut got: Vec<u32> = std::iter::from_fn(|| t.alloc(1)).collect();
    got.sort_unstable();
    assert_eq!(got, (0..n as u32).collect::<Vec<_>>());
    assert_eq!(t.slots.used.load(SeqCst), n as u32);
    assert_eq!(t.slots.faults.load(SeqCst), 0);
}

#[test]
fn alloc_races_with_frees() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let t = Arc::new(Table::new(4));
        let (a, b) = (t.alloc(1).unwrap(), t.alloc(1).unwrap());
        let freer = |i| {
            let t = t.clone();
            thread::spawn(move || assert!(t.free(i)))
        };
        let threads = [freer(a), freer(b)];
        // The holder takes and gives back: the head returns to an earlier slot with another successor (ABA).
        let c = t.alloc(2).unwrap();
        let d = t.alloc(2).unwrap();
        assert_ne!(c, d);
        assert!(t.free(c));
        for h in threads {
            h.join().unwrap();
        }
        assert!(t.free(d));
        assert_eq!(t.slots.used.load(SeqCst), 0);
        all_free_once(&t, 4);
    });
}

#[test]
fn two_allocators_never_get_the_same_slot() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let t = Arc::new(Table::new(2));
        let other = {
            let t = t.clone();
            thread::spawn(move || {
                let i = t.alloc(1).unwrap();
                assert!(t.free(i));
                t.alloc(1).unwrap()
            })
        };
        let mine = t.alloc(2).unwrap();
        let theirs = other.join().unwrap();
        assert_ne!(mine, theirs);
        assert_eq!(t.alloc(3), None);
    });
}

#[test]
fn runs_race_with_single_slots_and_with_runs() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let t = Arc::new(Table::new(4));
        let ids: Vec<u32> = (0..3).map(|_| t.alloc(1).unwrap()).collect();
        assert_eq!(t.free_many(&[ids[0], ids[0], ids[1]]), 2);
        assert_eq!(t.slots.faults.swap(0, SeqCst), 1);
        let freer = {
            let (t, last) = (t.clone(), ids[2]);
            thread::spawn(move || assert!(t.free(last)))
        };
        let taker = {
            let t = t.clone();
            thread::spawn(move || {
                let run = t.alloc_many(3, 2);
                assert_eq!(t.free_many(&run), run.len());
            })
        };
        let mine = t.alloc_many(2, 2);
        freer.join().unwrap();
        taker.join().unwrap();
        assert_eq!(t.free_many(&mine), mine.len());
        assert_eq!(t.slots.used.load(SeqCst), 0);
        all_free_once(&t, 4);
    });
}

#[test]
fn a_slot_is_freed_once() {
    loom::model(|| {
        let t = Arc::new(Table::new(2));
        let i = t.alloc(1).unwrap();
        let other = {
            let t = t.clone();
            thread::spawn(move || u32::from(t.free(i)))
        };
        let n = u32::from(t.free(i)) + other.join().unwrap();
        assert_eq!(n, 1);
        assert_eq!(t.slots.used.load(SeqCst), 0);
        assert_eq!(t.slots.faults.load(SeqCst), 1);
    });
}
