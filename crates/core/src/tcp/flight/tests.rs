//! What is noted of the segments in flight: whatever is marked, cut or taken together, every number is in one run and the
//! counts are those of the runs.

extern crate std;

use super::{Flight, RUNS, Run, Table, forget, in_network, mark};
use crate::tcp::tcb::Tcb;
use flyover_shm::{Arena, HeapMap, Idx};
use flyover_wire::Seq;
use std::vec::Vec;

/// Where the stream begins: its numbers wrap soon.
const START: u32 = 0xffff_f000;
const MSS: u32 = 1000;

fn with(f: impl FnOnce(Flight<'_>)) {
    let map = HeapMap::new(64 << 10);
    let tcbs = Arena::<Tcb>::new(map.region(), 0, 1).expect("room for a control block");
    let tables = Arena::<Table>::new(map.region(), 32 << 10, 1).expect("room for a table");
    let flight = Flight {
        tcb: tcbs.at(Idx::new(0)),
        table: tables.at(Idx::new(0)),
    };
    flight.tcb.snd_una.set(START);
    flight.tcb.snd_nxt.set(START);
    f(flight);
}

fn at(segments: u32) -> Seq {
    Seq(START).add(segments * MSS)
}

/// Sends `bytes` from SND.NXT on, at the time `now`.
fn send(t: Flight<'_>, bytes: u32, unit: u32, marks: u32, now: u32) {
    let start = Seq(t.tcb.snd_nxt.get());
    let end = start.add(bytes + u32::from(marks & mark::FIN != 0));
    t.tcb.snd_nxt.set(end.0);
    t.push(&Run {
        start,
        end,
        at: now,
        unit,
        marks,
    });
    assert!(t.is_sound(), "{t:?}");
}

/// Marks the `i`-th run.
fn mark_run(t: Flight<'_>, i: usize, marks: u32) {
    let r = t.get(i).expect("a run");
    t.set(
        i,
        &Run {
            marks: r.marks | marks,
            ..r
        },
    );
    assert!(t.is_sound(), "{t:?}");
}

#[test]
fn alike_and_sent_together_is_one_run() {
    with(|t| {
        send(t, 3 * MSS, MSS, 0, 5);
        send(t, 2 * MSS, MSS, 0, 5);
        assert_eq!((t.len(), t.tcb.packets_out.get()), (1, 5));
        // The last one may be shorter, and nothing follows it in the same run.
        send(t, 300, 300, 0, 5);
        assert_eq!((t.len(), t.tcb.packets_out.get()), (1, 6));
        send(t, MSS, MSS, 0, 5);
        assert_eq!((t.len(), t.tcb.packets_out.get()), (2, 7));
    });
}

#[test]
fn sent_at_another_time_is_another_run() {
    with(|t| {
        t.tcb.srtt.set(256_000_000);
        send(t, MSS, MSS, 0, 0);
        // A 256th of the round trip is not told apart.
        send(t, MSS, MSS, 0, 1000);
        send(t, MSS, MSS, 0, 2001);
        let got: Vec<_> = (0..t.len()).filter_map(|i| t.get(i)).collect();
        let counts: Vec<_> = got.iter().map(|r| (r.count(), r.at)).collect();
        assert_eq!(counts, [(2, 0), (1, 2001)]);
    });
}

#[test]
fn what_is_cut_out_has_a_fate_of_its_own() {
    with(|t| {
        send(t, 10 * MSS, MSS, 0, 5);
        assert!(t.split(0, at(4)) && t.split(1, at(6)));
        mark_run(t, 1, mark::SACKED);
        assert_eq!((t.len(), t.tcb.sacked_out.get()), (3, 2));
        assert_eq!(t.highest_sacked().map(|r| r.start), Some(at(4)));
        mark_run(t, 0, mark::LOST);
        assert_eq!(in_network(t.tcb), 10 - 2 - 4);
        mark_run(t, 0, mark::RETRANS | mark::EVER);
        assert_eq!(in_network(t.tcb), 10 - 2);
        // At its edges there is nothing to cut.
        assert!(t.split(0, at(0)) && t.split(0, at(4)));
        assert_eq!(t.len(), 3);
    });
}

#[test]
fn marks_that_spread_make_one_run_again() {
    with(|t| {
        send(t, 6 * MSS, MSS, 0, 5);
        assert!(t.split(0, at(2)) && t.split(1, at(4)));
        mark_run(t, 1, mark::SACKED);
        mark_run(t, 2, mark::SACKED);
        assert!(t.tidy(2));
        assert_eq!((t.len(), t.tcb.sacked_out.get()), (2, 4));
        // Those before are of another fate.
        assert!(!t.tidy(1) && !t.tidy(0));
    });
}

#[test]
fn the_fin_is_a_number_and_no_byte() {
    with(|t| {
        send(t, MSS + 500, MSS, mark::FIN, 5);
        let r = t.first().expect("a run");
        assert_eq!((r.bytes(), r.count()), (1500, 2));
        assert_eq!((r.end_of(1), r.end_of(2)), (at(1), Seq(START).add(1501)));
        // Only what is behind the cut has it.
        assert!(t.split(0, at(1)));
        assert!(t.get(0).is_some_and(|r| !r.has(mark::FIN)));
        assert!(
            t.get(1)
                .is_some_and(|r| r.has(mark::FIN) && r.bytes() == 500)
        );
        assert!(t.is_sound());
    });
    with(|t| {
        // Alone it is one segment.
        send(t, 0, MSS, mark::FIN, 5);
        assert_eq!(t.first().map(|r| (r.bytes(), r.count())), Some((0, 1)));
        assert_eq!(t.tcb.packets_out.get(), 1);
    });
    with(|t| {
        // It joins what it follows, and is taken along when segments are put together.
        send(t, 300, 300, 0, 5);
        send(t, 200, 200, mark::FIN, 6);
        t.absorb(0);
        let r = t.first().expect("a run");
        assert_eq!((t.len(), r.count(), r.bytes()), (1, 1, 500));
        assert!(r.has(mark::FIN) && t.is_sound());
    });
}

#[test]
fn acknowledged_runs_leave_in_order() {
    with(|t| {
        for now in 0..200 {
            send(t, MSS, MSS, 0, now * 100_000);
            if now >= 40 {
                t.tcb.snd_una.set(at(now - 39).0);
                t.pop();
                assert!(t.is_sound(), "{t:?}");
            }
        }
        assert_eq!((t.len(), t.tcb.packets_out.get()), (40, 40));
        assert_eq!(t.last().map(|r| r.end), Some(at(200)));
        forget(t.tcb);
        assert_eq!((t.len(), t.tcb.packets_out.get()), (0, 0));
    });
}

#[test]
fn a_full_table_takes_neighbours_together() {
    with(|t| {
        for now in 0..RUNS as u32 {
            send(t, MSS, MSS, 0, now * 100_000);
        }
        assert_eq!(t.len(), RUNS);
        assert!(!t.split(0, at(0).add(1)), "there is no room");
        send(t, MSS, MSS, 0, RUNS as u32 * 100_000);
        assert!(t.len() < RUNS && t.tcb.packets_out.get() == RUNS as u32 + 1);
        // Of several times the latest stays, and is known to be vague.
        let vague = (0..t.len())
            .filter_map(|i| t.get(i))
            .find(|r| r.count() > 1);
        let vague = vague.expect("some were taken together");
        let last = vague.start.since(Seq(START)) / MSS + vague.count() - 1;
        assert!(vague.has(mark::VAGUE) && vague.at == last * 100_000);
    });
}

#[test]
fn a_full_table_of_different_fates_loses_marks_and_no_byte() {
    with(|t| {
        for now in 0..RUNS as u32 {
            send(t, MSS, MSS, 0, now * 100_000);
            if now % 2 == 1 {
                mark_run(t, now as usize, mark::SACKED);
            }
        }
        assert_eq!(t.tcb.sacked_out.get(), RUNS as u32 / 2);
        send(t, MSS, MSS, 0, 9_000_000);
        assert!(t.len() <= RUNS && t.is_sound(), "{t:?}");
        assert_eq!(t.tcb.packets_out.get(), RUNS as u32 + 1);
        // Only the last ones are affected: what is taken for not there is sent once more.
        assert_eq!(t.tcb.sacked_out.get(), RUNS as u32 / 2 - 1);
    });
}

#[test]
fn sizes_that_differ_are_counted_roughly_when_there_is_no_room() {
    with(|t| {
        for now in 0..RUNS as u32 {
            let n = if now % 2 == 0 { 700 } else { 900 };
            send(t, n, n, 0, now * 100_000);
        }
        send(t, MSS, MSS, 0, 9_000_000);
        assert!(t.len() < RUNS && t.is_sound(), "{t:?}");
        let bytes: u32 = (0..t.len())
            .filter_map(|i| t.get(i))
            .map(|r| r.bytes())
            .sum();
        assert_eq!(bytes, RUNS as u32 / 2 * 1600 + MSS);
    });
}
