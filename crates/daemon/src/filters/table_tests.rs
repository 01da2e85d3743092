//! The table against a map in memory.

use std::collections::{BTreeMap, HashMap};
use std::io;

use flyover_proto::{FilterSpec, RefusedCode};
use flyover_wire::{Endpoint, FlowKey, Ip};
use proptest::prelude::*;

use super::table::{FlowMap, FlowTable};
use super::{Claim, Noted, claims};

#[derive(Default, Debug, Clone)]
struct Memory {
    flows: HashMap<Claim, u32>,
    notes: BTreeMap<u32, Noted>,
    room: usize,
}

impl FlowMap for Memory {
    fn insert(&mut self, key: &Claim, stack: u32) -> io::Result<()> {
        if self.flows.len() >= self.room && !self.flows.contains_key(key) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.flows.insert(*key, stack);
        Ok(())
    }
    fn remove(&mut self, key: &Claim) -> io::Result<()> {
        self.flows
            .remove(key)
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn get(&mut self, key: &Claim) -> Option<u32> {
        self.flows.get(key).copied()
    }
    fn note(&mut self, noted: &Noted) {
        self.notes.insert(noted.id, *noted);
    }
    fn forget_filter(&mut self, id: u32) {
        self.notes.remove(&id);
    }
}

/// The table of the next daemon.
fn next(t: &FlowTable<Memory>) -> FlowTable<Memory> {
    let memory = t.parts().0.clone();
    let noted: Vec<Noted> = memory.notes.values().copied().collect();
    let written: Vec<(Claim, u32)> = memory.flows.iter().map(|(c, s)| (*c, *s)).collect();
    let mut next = FlowTable::found(memory, &noted, written, 1000);
    next.set_addrs([A, B, C]);
    next.agree();
    next
}

#[test]
fn the_next_table_is_the_same() {
    let mut t = table(100);
    let peer = |port| Endpoint { ip: B, port };
    let all = t.add(1, dual(80), MOST).unwrap();
    t.add(1, listen(A, 80), MOST).unwrap();
    t.add(2, listen(Ip::UNSPECIFIED_V4, 81), MOST).unwrap();
    let mut own = listen(A, 82);
    own.remote = Some(peer(5));
    t.add(1, own, MOST).unwrap();
    let to = [
        (Endpoint { ip: A, port: 81 }, peer(6)),
        (Endpoint { ip: A, port: 81 }, peer(7)),
    ];
    let narrow = t.add(1, listen(A, 83), MOST).unwrap();
    let mut kept = to;
    kept.iter_mut().for_each(|(local, _)| local.port = 83);
    t.narrow(1, narrow, &kept);
    let flow = |port| FlowKey {
        proto: 6,
        local: Endpoint { ip: A, port: 80 },
        remote: peer(port),
    };
    let pass = t.add_pass(1, &flow(8), MOST).unwrap();
    let over = t.add_pass(1, &flow(9), MOST).unwrap();
    t.remove(1, over);
    let mut n = next(&t);
    assert_eq!(n.parts().0.flows, t.parts().0.flows);
    for stack in [1, 2] {
        assert_eq!(n.of_stack(stack), t.of_stack(stack));
    }
    assert_eq!(n.parts().0.notes, t.parts().0.notes);
    // And goes on like it.
    for t in [&mut t, &mut n] {
        assert!(t.remove(1, narrow) && t.remove(1, all) && t.remove(1, pass));
    }
    assert_eq!(n.parts().0.flows, t.parts().0.flows);
    let fresh = n.add(1, own, MOST).unwrap();
    assert!(fresh > 1000, "a number of the daemon before");
}

#[test]
fn what_the_next_table_cannot_explain_goes() {
    let mut t = table(100);
    let id = t.add(1, listen(A, 80), MOST).unwrap();
    t.add(2, listen(A, 81), MOST).unwrap();
    // The daemon died between the note and the map, both ways.
    let mut memory = t.parts().0.clone();
    memory.notes.remove(&id);
    memory.flows.remove(&claims(&listen(A, 81)).unwrap()[0]);
    let noted: Vec<Noted> = memory.notes.values().copied().collect();
    let written: Vec<(Claim, u32)> = memory.flows.iter().map(|(c, s)| (*c, *s)).collect();
    let mut n = FlowTable::found(memory, &noted, written, 1000);
    n.set_addrs([A, B, C]);
    n.agree();
    assert_eq!(owners(&n, listen(A, 80)), None);
    assert_eq!(owners(&n, listen(A, 81)), Some(2));
}

const A: Ip = Ip::v4([10, 0, 0, 1]);
const B: Ip = Ip::v4([10, 0, 0, 2]);
const C: Ip = Ip::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const MOST: usize = 100;

fn table(room: usize) -> FlowTable<Memory> {
    let mut t = FlowTable::new(Memory {
        room,
        ..Memory::default()
    });
    t.set_addrs([A, B, C, Ip::v4([127, 0, 0, 1])]);
    t
}

fn listen(ip: Ip, port: u16) -> FilterSpec {
    FilterSpec {
        proto: 6,
        local: Endpoint { ip, port },
        remote: None,
        dual: false,
    }
}

fn dual(port: u16) -> FilterSpec {
    FilterSpec {
        dual: true,
        ..listen(Ip::UNSPECIFIED_V6, port)
    }
}

fn owners(t: &FlowTable<Memory>, spec: FilterSpec) -> Option<u32> {
    t.parts().0.flows.get(&claims(&spec).unwrap()[0]).copied()
}

#[test]
fn any_address_is_written_per_address() {
    let mut t = table(100);
    let id = t.add(1, dual(80), MOST).unwrap();
    assert_eq!(t.parts().0.flows.len(), 3);
    t.set_addrs([A]);
    assert_eq!(t.parts().0.flows.len(), 1);
    t.set_addrs([A, C]);
    assert_eq!(owners(&t, listen(C, 80)), Some(1));
    assert!(t.remove(1, id));
    assert!(t.parts().0.flows.is_empty());
}

#[test]
fn one_address_wins_and_falls_back() {
    let mut t = table(100);
    t.add(1, listen(Ip::UNSPECIFIED_V4, 80), MOST).unwrap();
    let special = t.add(2, listen(A, 80), MOST).unwrap();
    assert_eq!(
        (owners(&t, listen(A, 80)), owners(&t, listen(B, 80))),
        (Some(2), Some(1))
    );
    assert!(t.remove(2, special));
    assert_eq!(owners(&t, listen(A, 80)), Some(1));
}

#[test]
fn filters_are_counted_and_private() {
    let mut t = table(100);
    let first = t.add(1, listen(A, 80), MOST).unwrap();
    let second = t.add(1, listen(A, 80), MOST).unwrap();
    assert_eq!(
        t.add(2, listen(A, 80), MOST).unwrap_err().code,
        RefusedCode::Conflict
    );
    assert!(!t.remove(2, first), "another stack's filter");
    assert!(t.remove(1, first));
    assert!(!t.remove(1, first), "twice");
    assert_eq!(owners(&t, listen(A, 80)), Some(1));
    assert!(t.remove(1, second));
    assert_eq!(owners(&t, listen(A, 80)), None);
}

#[test]
fn quota_foreign_address_and_full_map_leave_nothing_behind() {
    let mut t = table(2);
    assert_eq!(
        t.add(1, listen(Ip::v4([9, 9, 9, 9]), 80), MOST)
            .unwrap_err()
            .code,
        RefusedCode::Bad
    );
    assert_eq!(
        t.add(1, dual(80), MOST).unwrap_err().code,
        RefusedCode::Failed
    );
    assert!(t.parts().0.flows.is_empty() && t.count(1) == 0);
    t.add(1, listen(A, 80), 1).unwrap();
    assert_eq!(
        t.add(1, listen(A, 81), 1).unwrap_err().code,
        RefusedCode::Quota
    );
    t.remove_stack(1);
    assert!(t.parts().0.flows.is_empty() && t.of_stack(1).is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    Add(u32, FilterSpec),
    Remove(u32, usize),
    Addrs(Vec<Ip>),
    End(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let ip = prop::sample::select(vec![A, B, C, Ip::UNSPECIFIED_V4, Ip::UNSPECIFIED_V6]);
    let addrs = prop::sample::subsequence(vec![A, B, C], 0..=3);
    let spec = (ip, 80u16..83, any::<bool>()).prop_map(|(ip, port, two)| match two {
        true => dual(port),
        false => listen(ip, port),
    });
    prop_oneof![
        4 => (1u32..4, spec).prop_map(|(stack, spec)| Op::Add(stack, spec)),
        3 => (1u32..4, 0usize..50).prop_map(|(stack, n)| Op::Remove(stack, n)),
        1 => addrs.prop_map(Op::Addrs),
        1 => (1u32..4).prop_map(Op::End),
    ]
}

proptest! {
    /// Whatever happens, map and record agree, and an empty table means an empty map.
    #[test]
    fn the_map_mirrors_the_table(ops in prop::collection::vec(op(), 0..60), room in 2usize..20) {
        let mut t = table(room);
        let mut ids = Vec::new();
        for op in ops {
            match op {
                Op::Add(stack, spec) => {
                    if let Ok(id) = t.add(stack, spec, MOST) {
                        ids.push(id);
                    }
                }
                Op::Remove(stack, n) => {
                    let _ = ids.get(n).map(|id| t.remove(stack, *id));
                }
                Op::Addrs(addrs) => t.set_addrs(addrs),
                Op::End(stack) => t.remove_stack(stack),
            }
            let (map, written) = t.parts();
            prop_assert_eq!(&map.flows, written);
        }
        (1..4).for_each(|stack| t.remove_stack(stack));
        prop_assert!(t.parts().0.flows.is_empty());
    }
}

#[test]
fn a_narrowed_filter_takes_its_connections_only_and_ends_whole() {
    let mut t = table(100);
    let id = t.add(7, dual(80), MOST).unwrap();
    let end = |ip, port| Endpoint { ip, port };
    let peer = end(Ip::v4([10, 0, 0, 9]), 4000);
    let ours = (end(A, 80), peer);
    let foreign_port = (end(A, 81), peer);
    assert!(!t.narrow(8, id, &[ours]), "not this stack's filter");
    assert!(t.narrow(7, id, &[ours, foreign_port, ours]));
    let exact = Claim {
        proto: 6,
        local: ours.0,
        remote: Some(ours.1),
    };
    assert_eq!(t.map().flows, HashMap::from([(exact, 7)]));
    // The port is free for another stack, whose listener takes new connections.
    let other = t.add(8, listen(A, 80), MOST).unwrap();
    assert_eq!(t.map().flows.get(&exact), Some(&7));
    assert!(t.remove(7, id));
    assert_eq!(t.map().flows.len(), 1);
    assert!(t.remove(8, other));
    assert!(t.map().flows.is_empty());
}

#[test]
fn the_stack_of_a_connection() {
    let mut t = table(100);
    let peer = Endpoint {
        ip: Ip::v4([10, 9, 9, 9]),
        port: 5000,
    };
    let one = FilterSpec {
        remote: Some(peer),
        ..listen(A, 90)
    };
    t.add(1, dual(80), MOST).unwrap();
    t.add(2, listen(B, 80), MOST).unwrap();
    t.add(3, one, MOST).unwrap();
    let stack = |ip, port, remote| {
        let local = Endpoint { ip, port };
        t.stack_of(&FlowKey {
            proto: 6,
            local,
            remote,
        })
    };
    assert_eq!(stack(A, 80, peer), Some(1));
    assert_eq!(stack(C, 80, peer), Some(1));
    assert_eq!(stack(B, 80, peer), Some(2));
    assert_eq!(stack(A, 90, peer), Some(3));
    assert_eq!(stack(A, 90, Endpoint { port: 1, ..peer }), None);
    assert_eq!(stack(Ip::v4([10, 9, 9, 9]), 80, peer), None);
}

#[test]
fn the_kernel_keeps_a_connection_beside_the_filter_that_covers_it() {
    let mut t = table(100);
    let filter = t.add(1, listen(A, 80), MOST).unwrap();
    let flow = |port| FlowKey {
        proto: 6,
        local: Endpoint { ip: A, port: 80 },
        remote: Endpoint { ip: B, port },
    };
    let exact = |port| FilterSpec {
        remote: Some(flow(port).remote),
        ..listen(A, 80)
    };
    let e = t.add_pass(2, &flow(5), MOST).unwrap_err();
    assert_eq!(e.code, RefusedCode::Denied, "not its connection");
    let id = t.add_pass(1, &flow(5), MOST).unwrap();
    assert_eq!(owners(&t, exact(5)), Some(super::table::FLOW_PASS));
    assert_eq!(t.stack_of(&flow(5)), None);
    assert_eq!(t.stack_of(&flow(6)), Some(1));
    assert!(
        t.add_pass(1, &flow(5), MOST).is_err(),
        "the kernel has it already"
    );
    assert!(t.add(1, exact(5), MOST).is_err());
    // It outlives its socket for the kernel's TIME_WAIT, unless the addresses are used anew.
    assert!(t.remove(1, id));
    assert_eq!(t.stack_of(&flow(5)), None);
    let again = t.add(1, exact(5), MOST).unwrap();
    assert_eq!(owners(&t, exact(5)), Some(1));
    assert!(t.remove(1, again));
    assert_eq!(t.stack_of(&flow(5)), Some(1), "the listener's again");
    let id = t.add_pass(1, &flow(7), MOST).unwrap();
    t.cancel_pass(1, id);
    assert_eq!(t.stack_of(&flow(7)), Some(1));
    assert_eq!(owners(&t, exact(7)), None);
    assert!(t.remove(1, filter));
}

#[test]
fn a_connection_comes_back_from_the_kernel() {
    let mut t = table(100);
    let filter = t.add(1, listen(A, 80), MOST).unwrap();
    let remote = Endpoint { ip: B, port: 5 };
    let local = Endpoint { ip: A, port: 80 };
    let flow = FlowKey {
        proto: 6,
        local,
        remote,
    };
    let exact = FilterSpec {
        remote: Some(remote),
        ..listen(A, 80)
    };
    let pass = t.add_pass(1, &flow, MOST).unwrap();
    // Not without the exception, not with another stack's.
    assert!(t.reclaim(1, exact, 0, MOST).is_err());
    assert!(t.reclaim(2, exact, pass, MOST).is_err());
    assert_eq!(owners(&t, exact), Some(super::table::FLOW_PASS));
    // The kernel does not give it up after all.
    let id = t.reclaim(1, exact, pass, MOST).unwrap();
    assert_eq!(owners(&t, exact), Some(1));
    t.unclaim(1, id, pass);
    assert_eq!(owners(&t, exact), Some(super::table::FLOW_PASS));
    assert!(t.reclaim(1, exact, pass, 2).is_err(), "the quota");
    assert_eq!(owners(&t, exact), Some(super::table::FLOW_PASS));
    // It does: nothing of the exception lingers, and it can go there again.
    let id = t.reclaim(1, exact, pass, MOST).unwrap();
    t.reclaimed(1, pass);
    assert_eq!(owners(&t, exact), Some(1));
    assert_eq!(t.count(1), 2);
    assert!(!t.remove(1, pass));
    let again = t.add_pass(1, &flow, MOST).unwrap();
    assert!(t.remove(1, id) && t.remove(1, again) && t.remove(1, filter));
    // One that never was the stack's.
    let id = t.reclaim(1, exact, 0, MOST).unwrap();
    t.reclaimed(1, 0);
    assert_eq!(t.stack_of(&flow), Some(1));
    assert!(t.remove(1, id));
}

#[test]
fn a_connection_is_watched_until_its_packets_are_seen() {
    let mut t = table(100);
    let exact = FilterSpec {
        remote: Some(Endpoint { ip: B, port: 5 }),
        ..listen(A, 80)
    };
    let flow = FlowKey {
        proto: 6,
        local: exact.local,
        remote: exact.remote.unwrap(),
    };
    let see = |t: &mut FlowTable<Memory>| {
        let key = claims(&exact).unwrap()[0];
        t.map_mut().flows.insert(key, super::table::FLOW_PASS);
    };
    assert!(!t.was_seen(1, &flow));
    let pass = t.watch(1, &flow, MOST).unwrap();
    assert_eq!(owners(&t, exact), Some(super::table::FLOW_WATCH | 1));
    assert!(!t.was_seen(1, &flow));
    assert!(t.watch(2, &flow, MOST).is_err(), "somebody watches it");
    see(&mut t);
    assert!(t.was_seen(1, &flow) && !t.was_seen(2, &flow));
    // A takeover that came to nothing leaves it as it was, to be seen anew.
    let id = t.reclaim(1, exact, pass, MOST).unwrap();
    assert_eq!(owners(&t, exact), Some(1));
    t.unclaim(1, id, pass);
    assert!(!t.was_seen(1, &flow));
    see(&mut t);
    assert!(t.was_seen(1, &flow));
    // The next daemon knows only that the kernel has it.
    let mut n = next(&t);
    assert_eq!(owners(&n, exact), Some(super::table::FLOW_PASS));
    assert!(!n.was_seen(1, &flow));
    // One that ended lingers not: it was the kernel's anyway.
    assert!(t.remove(1, pass));
    assert_eq!(owners(&t, exact), None);
    let pass = t.watch(2, &flow, MOST).unwrap();
    assert_eq!(owners(&t, exact), Some(super::table::FLOW_WATCH | 2));
    let id = t.reclaim(2, exact, pass, MOST).unwrap();
    t.reclaimed(2, pass);
    assert_eq!(owners(&t, exact), Some(2));
    assert!(t.watch(2, &flow, MOST).is_err(), "the stack has it");
    assert!(t.remove(2, id));
    // What was a handover's lingers as ever.
    let id = t.add(1, exact, MOST).unwrap();
    let pass = t.add_pass(1, &flow, MOST).unwrap();
    assert!(t.remove(1, pass) && t.remove(1, id));
    assert_eq!(owners(&t, exact), Some(super::table::FLOW_PASS));
}

#[test]
fn lent_ports_go_with_their_lease_only() {
    let mut t = table(100);
    let lent = |port| Endpoint { ip: A, port };
    let from = |port| FlowKey {
        proto: 6,
        local: lent(port),
        remote: Endpoint { ip: B, port: 80 },
    };
    t.lend(1, 7, lent(50_000), MOST).unwrap();
    let own = t.add(1, listen(A, 80), MOST).unwrap();
    assert_eq!(t.ports_in_use(A), [50_000, 80].into());
    assert!(t.ports_in_use(B).is_empty());
    assert_eq!(t.stack_of(&from(50_000)), Some(1));
    // Neither a client nor the keeper's comparison removes it; another stack does not get it.
    assert_eq!(t.ids_after(1, 0, MOST), [own]);
    assert_eq!(t.of_stack(1).len(), 1);
    for id in (0..own + 10).filter(|id| *id != own) {
        assert!(!t.remove(1, id) && !t.narrow(1, id, &[]));
    }
    assert_eq!(t.lent(1), [(7, lent(50_000))]);
    assert!(t.lend(2, 0, lent(50_000), MOST).is_err());
    // The next daemon knows it; its number is the lease's.
    let mut t = next(&t);
    assert_eq!(t.lent(1), [(7, lent(50_000))]);
    t.lend(1, 8, lent(50_001), MOST).unwrap();
    assert_eq!(t.lent_to_all(), 2);
    t.end_leases(1, 8);
    assert_eq!(t.lent(1), [(8, lent(50_001))]);
    assert_eq!(t.stack_of(&from(50_000)), None);
    t.remove_stack(1);
    assert_eq!(t.lent_to_all(), 0);
    assert!(t.parts().0.flows.is_empty() && t.parts().0.notes.is_empty());
}
