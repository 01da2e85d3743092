//! A process that shares the memory writes what it likes, where it likes, while we work on it. Nothing may panic, leave
//! the mapping or run without bound.
#![cfg(not(loom))]
#![allow(missing_docs)]

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use flyover_shm::{
    Arena, HeapMap, Idx, OptIdx, Region, SeqCount, SharedCell, SlotHdr, SlotObject, Slots,
    StackLock, Unlock, shm_struct,
};
use proptest::prelude::*;

shm_struct! {
    struct Thing {
        hdr: SlotHdr,
        link: SharedCell<OptIdx<Thing>>,
        on: SharedCell<bool>,
        pad: [SharedCell<u8>; 3],
    }
}

impl SlotObject for Thing {
    fn slot(&self) -> &SlotHdr {
        &self.hdr
    }
}

shm_struct! {
    struct Root {
        slots: Slots,
        lock: StackLock,
        seq: SeqCount,
        words: [SharedCell<u32>; 3],
    }
}

const COUNT: u32 = 64;
const LEN: usize = 4096;

struct World<'m> {
    region: Region<'m>,
    root: &'m Root,
    things: Arena<'m, Thing>,
}

impl<'m> World<'m> {
    fn new(map: &'m HeapMap) -> Self {
        let region = map.region();
        let root: Arena<'m, Root> = Arena::new(region, 0, 1).unwrap();
        let things = Arena::new(region, size_of::<Root>(), COUNT).unwrap();
        let root = root.at(Idx::new(0));
        root.slots.init(things);
        Self {
            region,
            root,
            things,
        }
    }

    fn step(&self, op: u8, arg: u32) {
        let Self {
            region,
            root,
            things,
        } = *self;
        match op % 11 {
            0 => {
                if let Some(id) = root.slots.alloc(things, arg | 1) {
                    assert!(id.raw() < COUNT);
                }
            }
            1 => {
                let _: bool = root.slots.free(things, Idx::new(arg));
            }
            9 => {
                let mut ids = [Idx::new(0); 5];
                let n = root.slots.alloc_many(things, arg | 1, &mut ids);
                assert!(ids[..n].iter().all(|id| id.raw() < COUNT));
            }
            10 => {
                let ids = [arg, arg >> 8, arg, arg >> 16].map(Idx::new);
                assert!(root.slots.free_many(things, &ids) <= 4);
            }
            2 => root.slots.rebuild(things),
            3 => {
                if root.lock.lock_or_defer(arg as u16, arg) {
                    // As `Locked` does: bounded, then the lock goes whatever is left.
                    for _ in 0..8 {
                        if matches!(root.lock.try_unlock(), Unlock::Released { .. }) {
                            return;
                        }
                    }
                    let _: bool = root.lock.force_unlock();
                }
            }
            4 => {
                let _: Option<u32> = root.lock.note_waiter();
                let _: Option<u16> = root.lock.owner();
                let _: bool = root.lock.take_over(arg as u16, (arg >> 16) as u16);
            }
            5 => {
                let _: Option<u32> = root.seq.read(|| root.words[0].get());
                root.seq.write(|| root.words[0].set(arg));
            }
            6 => {
                // A walk along links that may form any graph.
                let mut at = things.at(Idx::new(arg)).link.get().opt();
                let mut left = COUNT;
                while let (Some(id), 1..) = (at, left) {
                    left -= 1;
                    let t = things.at(id);
                    let _: bool = t.on.get();
                    at = t.link.get().opt();
                }
            }
            7 => {
                let w = region.bytes(arg as usize % (2 * LEN), (arg >> 8) as usize);
                let mut out = [0; 64];
                assert!(w.len() <= LEN);
                let n = w.copy_out(&mut out);
                let _: usize = w.copy_in(&out[..n]);
                let _: u16 = w.sum(arg);
            }
            _ => {
                assert!(things.get(Idx::new(arg)).is_none() || arg < COUNT);
                let _: &Thing = things.at(Idx::new(arg));
            }
        }
    }
}

fn scribble(region: Region<'_>, at: usize, bytes: &[u8]) {
    let _: usize = region.bytes(at % LEN, bytes.len()).copy_in(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn garbage_between_operations(
        steps in prop::collection::vec(
            (any::<u8>(), any::<u32>(), any::<usize>(), prop::collection::vec(any::<u8>(), 0..48)), 1..200)
    ) {
        let map = HeapMap::new(LEN);
        let world = World::new(&map);
        for (op, arg, at, bytes) in steps {
            scribble(world.region, at, &bytes);
            world.step(op, arg);
        }
    }

    #[test]
    fn all_memory_is_garbage(
        memory in prop::collection::vec(any::<u8>(), LEN),
        steps in prop::collection::vec((any::<u8>(), any::<u32>()), 1..100)
    ) {
        let map = HeapMap::new(LEN);
        let world = World::new(&map);
        scribble(world.region, 0, &memory);
        for (op, arg) in steps {
            world.step(op, arg);
        }
        // Whatever was there: from right tags a right list can be made again.
        for i in 0..COUNT {
            world.things.at(Idx::new(i)).hdr.tag.store(0, Relaxed);
        }
        world.root.slots.rebuild(world.things);
        let got = std::iter::from_fn(|| world.root.slots.alloc(world.things, 1)).count();
        prop_assert_eq!(got, COUNT as usize);
    }
}

#[test]
fn a_writer_at_the_same_time() {
    let map = HeapMap::new(LEN);
    let world = World::new(&map);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let (things, root, stop_ref) = (world.things, world.root, &stop);
        let _: std::thread::ScopedJoinHandle<'_, ()> = s.spawn(move || {
            // Every word of every header, with anything; also what looks like a sound list.
            let mut x = 1u32;
            while !stop_ref.load(Relaxed) {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let t = things.at(Idx::new(x >> 8));
                t.hdr
                    .next
                    .store(if x & 1 == 0 { x } else { x >> 26 }, Relaxed);
                t.hdr.tag.store(x >> 24 & 1, Relaxed);
                t.link.set(OptIdx::some(Idx::new(x >> 7)));
                let _: u32 = root.slots.used.swap(x, Relaxed);
                let _: u32 = root.lock.seq.fetch_add(1, AcqRel);
                let _: u32 = root.lock.contended.load(Acquire);
            }
        });
        let mut x = 7u32;
        for i in 0..200_000u32 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            world.step((i % 9) as u8, x);
        }
        stop.store(true, Relaxed);
    });
}
