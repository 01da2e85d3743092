//! [`flyover_shm::Slots`] against a set: any sequence of allocations, frees and rebuilds.
#![cfg(not(loom))]
#![allow(missing_docs)]

use core::sync::atomic::Ordering::Relaxed;
use flyover_shm::{
    Arena, HeapMap, Idx, Object, SharedCell, SlotHdr, SlotObject, Slots, shm_struct,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

shm_struct! {
    /// A slot with a body.
    struct Thing {
        hdr: SlotHdr,
        body: SharedCell<u64>,
    }
}

impl SlotObject for Thing {
    fn slot(&self) -> &SlotHdr {
        &self.hdr
    }
}

#[derive(Clone, Debug)]
enum Op {
    Alloc { tag: u32 },
    Free { nth: usize },
    FreeWild { index: u32 },
    Rebuild,
    LoseListThenRebuild,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1u32..=u32::MAX).prop_map(|tag| Op::Alloc { tag }),
        6 => any::<usize>().prop_map(|nth| Op::Free { nth }),
        1 => any::<u32>().prop_map(|index| Op::FreeWild { index }),
        1 => Just(Op::Rebuild),
        1 => Just(Op::LoseListThenRebuild),
    ]
}

const COUNT: u32 = 16;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn slots_behave_as_a_set(ops in prop::collection::vec(op(), 1..200)) {
        let map = HeapMap::new(4096);
        let root: Arena<'_, Slots> = Arena::new(map.region(), 0, 1).unwrap();
        let things: Arena<'_, Thing> = Arena::new(map.region(), size_of::<Slots>(), COUNT).unwrap();
        let slots = root.at(Idx::new(0));
        slots.init(things);
        let mut oracle: BTreeMap<u32, u32> = BTreeMap::new();
        let mut faults = 0;
        for op in ops {
            match op {
                Op::Alloc { tag } => match slots.alloc(things, tag) {
                    Some(id) => {
                        prop_assert!(id.raw() < COUNT);
                        prop_assert_eq!(oracle.insert(id.raw(), tag), None, "given out twice");
                    }
                    None => prop_assert_eq!(oracle.len(), COUNT as usize, "refused too early"),
                },
                Op::Free { nth } => {
                    if let Some(id) = oracle.keys().nth(nth % COUNT as usize).copied() {
                        prop_assert!(slots.free(things, Idx::new(id)));
                        prop_assert!(oracle.remove(&id).is_some());
                    }
                }
                Op::FreeWild { index } => {
                    let was = oracle.remove(&(index & (COUNT - 1))).is_some();
                    prop_assert_eq!(slots.free(things, Idx::new(index)), was);
                    faults += u32::from(!was);
                }
                Op::Rebuild => slots.rebuild(things),
                Op::LoseListThenRebuild => {
                    // A holder died in the middle: the links are anything, the tags are right.
                    for i in 0..COUNT {
                        things.at(Idx::new(i)).hdr.next.store(0xdead_0000 | i, Relaxed);
                    }
                    slots.rebuild(things);
                }
            }
            prop_assert_eq!(slots.used.load(Relaxed) as usize, oracle.len());
            prop_assert_eq!(slots.faults.load(Relaxed), faults);
            for i in 0..COUNT {
                let tag = things.at(Idx::new(i)).hdr.tag.load(Relaxed);
                prop_assert_eq!(tag, oracle.get(&i).copied().unwrap_or(0));
            }
        }
    }
}

#[test]
fn last_in_first_out() {
    let map = HeapMap::new(4096);
    let root: Arena<'_, Slots> = Arena::new(map.region(), 0, 1).unwrap();
    let things: Arena<'_, Thing> = Arena::new(map.region(), size_of::<Slots>(), COUNT).unwrap();
    let slots = root.at(Idx::new(0));
    slots.init(things);
    let a = slots.alloc(things, 1).unwrap();
    let b = slots.alloc(things, 1).unwrap();
    assert_eq!((a.raw(), b.raw()), (0, 1));
    assert!(slots.free(things, a));
    assert_eq!(slots.alloc(things, 1), Some(a), "the warm slot comes first");
    assert_eq!(Thing::FIELDS[1].offset, size_of::<SlotHdr>());
}
