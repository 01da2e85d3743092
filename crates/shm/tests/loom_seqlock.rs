//! Model checks of [`flyover_shm::SeqCount`]: a reader never takes a torn value for a whole one.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flyover-shm --release --test loom_seqlock`

#![cfg(loom)]
#![allow(missing_docs)]

use flyover_shm::SeqCount;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
use loom::thread;

struct Row {
    count: SeqCount,
    a: AtomicU32,
    b: AtomicU32,
}

impl Row {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            count: SeqCount::default(),
            a: AtomicU32::new(0),
            b: AtomicU32::new(0),
        })
    }

    fn write(&self, v: u32) {
        self.count.write(|| {
            self.a.store(v, Relaxed);
            self.b.store(v, Relaxed);
        });
    }

    fn read(&self) -> Option<(u32, u32)> {
        self.count
            .read(|| (self.a.load(Relaxed), self.b.load(Relaxed)))
    }
}

fn check(readers: usize, writes: u32, preemptions: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let row = Row::new();
        let threads: Vec<_> = (0..readers)
            .map(|_| {
                let row = row.clone();
                thread::spawn(move || {
                    if let Some((a, b)) = row.read() {
                        assert_eq!(a, b, "torn");
                    }
                })
            })
            .collect();
        for v in 1..=writes {
            row.write(v);
        }
        for t in threads {
            t.join().unwrap();
        }
        assert_eq!(row.read(), Some((writes, writes)));
    });
}

#[test]
fn one_reader_two_writes() {
    check(1, 2, 3);
}

#[test]
fn two_readers_one_write() {
    check(2, 1, 2);
}
