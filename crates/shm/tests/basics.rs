//! Indices, cells, arenas, windows, the lock and the sequence count, one thread.
#![cfg(not(loom))]
#![allow(missing_docs)]

use flyover_shm::{
    Arena, HeapMap, Idx, Object, OptIdx, RegionError, SeqCount, Shared64, SharedCell, StackLock,
    Unlock, shm_struct,
};
use proptest::prelude::*;

shm_struct! {
    struct Node {
        next: SharedCell<OptIdx<Node>>,
        small: [SharedCell<u16>; 2],
        count: Shared64,
        signed: SharedCell<i32>,
        yes: SharedCell<bool>,
        pad: [SharedCell<u8>; 3],
    }
}

#[test]
fn zeroed_memory_is_a_valid_object() {
    let map = HeapMap::new(4096);
    let nodes: Arena<'_, Node> = Arena::new(map.region(), 0, 4).unwrap();
    let n = nodes.at(Idx::new(2));
    assert!(n.next.get().is_none());
    assert_eq!(n.next.get().opt(), None);
    assert!(!n.yes.get());
    assert_eq!(n.signed.get(), 0);
    n.signed.set(-5);
    n.yes.set(true);
    n.next.set(Some(Idx::new(0)).into());
    assert_eq!((n.signed.get(), n.yes.get()), (-5, true));
    assert_eq!(n.next.get().opt(), Some(Idx::new(0)));
    assert_eq!(format!("{:?} {:?}", n.next, OptIdx::<Node>::NONE), "#0 -");
}

#[test]
fn the_largest_index_is_absent_not_wrong() {
    assert!(OptIdx::<Node>::some(Idx::new(u32::MAX)).is_none());
    assert_eq!(OptIdx::<Node>::some(Idx::new(7)).opt(), Some(Idx::new(7)));
}

#[test]
fn an_index_never_leaves_the_arena() {
    let map = HeapMap::new(4096);
    let nodes: Arena<'_, Node> = Arena::new(map.region(), 0, 4).unwrap();
    nodes.at(Idx::new(1)).small[1].set(9);
    assert_eq!(nodes.at(Idx::new(u32::MAX - 2)).small[1].get(), 9, "masked");
    assert!(nodes.get(Idx::new(4)).is_none());
    assert!(nodes.get(Idx::new(3)).is_some());
}

#[test]
fn arenas_that_do_not_fit_are_refused() {
    let map = HeapMap::new(4096);
    let r = map.region();
    let new = |off, count| Arena::<'_, Node>::new(r, off, count).map(|_| ());
    assert_eq!(size_of::<Node>(), 24);
    assert_eq!(new(0, 128), Ok(()));
    assert_eq!(new(0, 256), Err(RegionError), "too many");
    assert_eq!(new(4096, 1), Err(RegionError), "behind the end");
    assert_eq!(new(usize::MAX - 4, 1), Err(RegionError), "wraps");
    assert_eq!(new(4, 1), Err(RegionError), "misaligned");
    assert_eq!(new(0, 3), Err(RegionError), "no power of two");
    assert_eq!(new(0, 0), Err(RegionError), "empty");
}

#[test]
fn the_layout_is_described() {
    let names: Vec<_> = Node::FIELDS
        .iter()
        .map(|f| (f.name, f.offset, f.size))
        .collect();
    assert_eq!(
        names,
        [
            ("next", 0, 4),
            ("small", 4, 4),
            ("count", 8, 8),
            ("signed", 16, 4),
            ("yes", 20, 1),
            ("pad", 21, 3)
        ]
    );
    assert_eq!(Node::NAME, "Node");
    assert_ne!(Node::HASH, flyover_shm::SlotHdr::HASH);
}

#[test]
fn lock_word_in_one_thread() {
    let l = StackLock::default();
    assert!(l.try_lock(0));
    assert_eq!(l.owner(), Some(0));
    assert!(!l.try_lock(1));
    assert!(!l.lock_or_defer(1, 5));
    assert_eq!(l.try_unlock(), Unlock::Deferred(5));
    assert_eq!(l.owner(), Some(0), "still held");
    assert_eq!(l.note_waiter(), Some(0));
    assert_eq!(l.try_unlock(), Unlock::Released { wake: true });
    assert_eq!(l.note_waiter(), None);
    assert_eq!(l.owner(), None);
    assert!(l.lock_or_defer(65_535, 2));
    assert_eq!(
        l.try_unlock(),
        Unlock::Deferred(2),
        "the caller's own work is in the word"
    );
    assert!(!l.take_over(1, 2));
    assert!(l.take_over(l.owner().unwrap(), 2));
    assert_eq!(l.owner(), Some(2));
    assert!(!l.lock_or_defer(3, 8));
    assert!(!l.force_unlock());
    assert!(l.try_lock(4));
    assert_eq!(l.take_deferred(), 8);
    assert_eq!(l.try_unlock(), Unlock::Released { wake: false });
}

#[test]
fn a_writer_that_died_does_not_hang_readers() {
    let s = SeqCount::default();
    assert_eq!(s.read(|| 1), Some(1));
    s.write(|| assert_eq!(s.read(|| 1), None, "odd while written"));
    assert_eq!(s.read(|| 2), Some(2));
    assert_eq!(s.version() % 2, 0);
}

/// RFC 1071 as simply as can be.
fn slow_sum(data: &[u8], acc: u32) -> u16 {
    let mut sum = u64::from(acc);
    for pair in data.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

proptest! {
    #[test]
    fn windows_copy_and_sum(data in prop::collection::vec(any::<u8>(), 0..300), off in 0usize..600, acc: u32) {
        let map = HeapMap::new(512);
        let w = map.region().sub(0, 512).unwrap().bytes(off, 4096);
        prop_assert_eq!(w.len(), 512 - off.min(512));
        let n = w.copy_in(&data);
        prop_assert_eq!(n, data.len().min(w.len()));
        let mut back = vec![0; n];
        prop_assert_eq!(w.copy_out(&mut back), n);
        prop_assert_eq!(&back, &data[..n]);
        prop_assert_eq!(w.sub(0, n).sum(acc), slow_sum(&data[..n], acc));
        prop_assert_eq!(w.sub(usize::MAX, 5).len(), 0);
        prop_assert_eq!(w.is_empty(), off >= 512);
    }

    #[test]
    fn overlapping_windows_copy(len in 0usize..200, from in 0usize..100, to in 0usize..100) {
        let map = HeapMap::new(4096);
        let data: Vec<u8> = (0..=255).collect();
        let mut oracle = data.clone();
        let all = map.region().bytes(0, 256);
        prop_assert_eq!(all.copy_in(&data), 256);
        let n = all.sub(to, len).copy_from(all.sub(from, len));
        oracle.copy_within(from..from + n, to);
        let mut back = vec![0; 256];
        prop_assert_eq!(all.copy_out(&mut back), 256);
        prop_assert_eq!(back, oracle);
    }
}
