//! memfds, mappings and futexes on the running kernel.
#![cfg(not(loom))]
#![allow(missing_docs)]

use core::sync::atomic::Ordering::{Acquire, Release};
use flyover_shm::{
    Arena, Idx, Map, Shared32, SharedCell, futex_wait, futex_wake, sealed_memfd, shm_struct,
};
use std::time::{Duration, Instant};

shm_struct! {
    struct Page {
        word: Shared32,
        value: SharedCell<u32>,
        rest: [SharedCell<u32>; 1022],
    }
}

#[test]
fn two_mappings_are_one_memory() {
    let fd = sealed_memfd("fly-test", 8192).unwrap();
    let (a, b) = (Map::rw(&fd, 8192).unwrap(), Map::ro(&fd, 8192).unwrap());
    let write: Arena<'_, Page> = Arena::new(a.region(), 0, 2).unwrap();
    let read: Arena<'_, Page> = Arena::new(b.region(), 0, 2).unwrap();
    write.at(Idx::new(1)).value.set(77);
    assert_eq!(read.at(Idx::new(1)).value.get(), 77);
    assert_eq!(read.at(Idx::new(0)).value.get(), 0);
    let leaked = a.leak();
    assert_eq!(leaked.len(), 8192);
}

#[test]
fn a_sealed_memfd_cannot_be_cut() {
    let fd = sealed_memfd("fly-test", 8192).unwrap();
    assert!(rustix::fs::ftruncate(&fd, 4096).is_err());
    assert!(rustix::fs::ftruncate(&fd, 16384).is_err());
}

#[test]
fn a_futex_wakes_through_another_mapping() {
    let fd = sealed_memfd("fly-test", 4096).unwrap();
    let (a, b) = (Map::rw(&fd, 4096).unwrap(), Map::rw(&fd, 4096).unwrap());
    std::thread::scope(|s| {
        let sleeper = s.spawn(|| {
            let page: Arena<'_, Page> = Arena::new(a.region(), 0, 1).unwrap();
            let word = &page.at(Idx::new(0)).word;
            let start = Instant::now();
            while word.load(Acquire) == 0 {
                futex_wait(word, 0, Some(Duration::from_secs(10)));
            }
            start.elapsed()
        });
        let page: Arena<'_, Page> = Arena::new(b.region(), 0, 1).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        page.at(Idx::new(0)).word.store(1, Release);
        futex_wake(&page.at(Idx::new(0)).word, u32::MAX >> 1);
        assert!(sleeper.join().unwrap() < Duration::from_secs(5));
    });
}

#[test]
fn a_futex_wait_ends_by_itself() {
    let word = Shared32::new(3);
    futex_wait(&word, 4, None);
    let start = Instant::now();
    futex_wait(&word, 3, Some(Duration::from_millis(5)));
    assert!(start.elapsed() >= Duration::from_millis(4));
}
