//! One writer, several readers, no locks: every answer is one that was right at some moment, and a
//! cached answer that is called valid is right now.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;

use flyover_cplane::writer::{Change, Writer};
use flyover_cplane::{Link, Reader, Resolve, Route};
use support::{DIMS, ip, link, mac, memory, neigh, network, ready, via};

const ROUNDS: u32 = 4000;

/// The writer moves a route between two gateways and changes MAC address and MTU in step: the
/// three must never be seen mixed.
#[test]
fn answers_are_never_mixed() {
    let memory = memory(&DIMS);
    let mut writer = Writer::new(memory.region(), &DIMS, 99).unwrap();
    network(&mut writer);
    let route = |mtu: u32, gateway: &str| Route {
        mtu,
        ..via(2, "192.0.2.0/24", gateway)
    };
    writer.apply(Change::Neigh(neigh(2, "10.0.1.8", 0x18)));
    writer.apply(Change::ReplaceRoutes(vec![route(1007, "10.0.1.7")]));
    let reader = writer.reader();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [0, 1].map(|_| {
            scope.spawn(|| {
                let (mut seen, mut busy) = ([false; 2], 0_u32);
                while !done.load(SeqCst) {
                    match reader.resolve(ip("192.0.2.1"), None, 0) {
                        Resolve::Ready(fwd) => {
                            let seventh = fwd.nexthop == ip("10.0.1.7");
                            let expected = if seventh {
                                (mac(0x17), 1007)
                            } else {
                                (mac(0x18), 1008)
                            };
                            assert_eq!((fwd.dmac, fwd.mtu), expected);
                            seen[usize::from(seventh)] = true;
                        }
                        Resolve::Unreachable(flyover_cplane::Reason::Busy) => busy += 1,
                        other => panic!("{other:?}"),
                    }
                }
                (seen, busy)
            })
        });
        for round in 0..ROUNDS {
            let (mtu, gateway) = if round % 2 == 0 {
                (1008, "10.0.1.8")
            } else {
                (1007, "10.0.1.7")
            };
            writer.apply(Change::ReplaceRoutes(vec![route(mtu, gateway)]));
            if round % 16 == 0 {
                thread::yield_now();
            }
        }
        done.store(true, SeqCst);
        for reader in readers {
            let (seen, _busy) = reader.join().unwrap();
            assert!(seen[0] || seen[1]);
        }
    });
}

/// The writer publishes a number as MTU, then, when `apply` has returned, as "said". Whoever finds
/// his cached answer valid after reading "said" must have that number or a later one.
#[test]
fn valid_means_current() {
    let memory = memory(&DIMS);
    let mut writer = Writer::new(memory.region(), &DIMS, 99).unwrap();
    network(&mut writer);
    let reader = writer.reader();
    let said = AtomicU32::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut fwd = ready(&reader, "10.0.1.7");
                while !done.load(SeqCst) {
                    let at_least = said.load(SeqCst);
                    if reader.is_valid(&fwd) {
                        let mac = u32::try_from(fwd.dmac.to_u64() & 0xffff).unwrap();
                        assert!(fwd.mtu >= at_least && mac >= at_least, "{fwd:?} {at_least}");
                    } else if let Resolve::Ready(new) = reader.resolve(ip("10.0.1.7"), None, 0) {
                        fwd = new;
                    }
                }
            });
        }
        for round in 1500..1500 + ROUNDS {
            let link = Link {
                mtu: round,
                ..link(2)
            };
            let mut neigh = neigh(2, "10.0.1.7", 0);
            neigh.mac = flyover_wire::Mac::from_u64(u64::from(round));
            writer.apply(Change::Link(link));
            writer.apply(Change::Neigh(neigh));
            said.store(round, SeqCst);
            if round % 64 == 0 {
                thread::yield_now();
            }
        }
        done.store(true, SeqCst);
    });
    assert_eq!(ready(&reader, "10.0.1.7").mtu, 1499 + ROUNDS);
}

/// Neighbours come and go, rows are reused: a look-up finds its own or none.
#[test]
fn reused_rows_are_not_confused() {
    let memory = memory(&DIMS);
    let mut writer = Writer::new(memory.region(), &DIMS, 99).unwrap();
    network(&mut writer);
    let reader: Reader<'_> = writer.reader();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [0, 1].map(|_| {
            scope.spawn(|| {
                let mut found = 0_u32;
                while !done.load(SeqCst) {
                    for last in 20..60_u8 {
                        let dst = format!("10.0.1.{last}");
                        match reader.resolve(ip(&dst), None, 0) {
                            Resolve::Ready(fwd) => {
                                assert_eq!((fwd.dmac, fwd.nexthop), (mac(last), ip(&dst)));
                                found += 1;
                            }
                            Resolve::NeedNeigh { nexthop, .. } => assert_eq!(nexthop, ip(&dst)),
                            Resolve::Unreachable(_) => {}
                            Resolve::Local => panic!("{dst}"),
                        }
                    }
                    let mixed = |neigh: flyover_cplane::Neigh| {
                        let last = neigh.ip.0[15];
                        (20..60).contains(&last) && neigh.mac != mac(last)
                    };
                    assert!(!reader.neighs().any(mixed));
                }
                found
            })
        });
        for round in 0..ROUNDS * 4 {
            let last = 20 + (round * 7 % 40) as u8;
            let text = format!("10.0.1.{last}");
            if round % 3 == 0 {
                writer.apply(Change::DelNeigh {
                    ifindex: 2,
                    ip: ip(&text),
                });
            } else {
                writer.apply(Change::Neigh(neigh(2, &text, last)));
            }
            if round % 64 == 0 {
                thread::yield_now();
            }
        }
        done.store(true, SeqCst);
        assert!(
            readers
                .into_iter()
                .map(|reader| reader.join().unwrap())
                .sum::<u32>()
                > 0
        );
    });
}
