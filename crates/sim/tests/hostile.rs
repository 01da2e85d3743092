//! What other people's frames, and other people's stores to the shared memory, may do: anything but a panic, an access
//! out of range, or work without end. `SEEDS=n` sets how many experiments each test makes, `FROM=n` the first seed.
#![allow(missing_docs)]

use flyover_core::Unfinished;
use flyover_sim::adversary::Adversary;
use flyover_sim::fuzz::Fuzzer;
use flyover_sim::mutate::mutate;
use flyover_sim::{Impair, Net, NetConfig, Rng};
use flyover_vnic::{MemCsum, MemCut, MemFrame};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const MS: u64 = 1_000_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

fn seeds(default: u64, f: impl Fn(u64)) {
    let from = number("FROM", 1);
    for seed in from..from + number("SEEDS", default) {
        if let Err(p) = catch_unwind(AssertUnwindSafe(|| f(seed))) {
            eprintln!("FROM={seed} SEEDS=1 runs it again");
            resume_unwind(p);
        }
    }
}

fn config(seed: u64) -> NetConfig {
    let mut rng = Rng::new(seed, 50);
    let mut c = NetConfig::clean(seed);
    c.v6 = rng.chance(30_000);
    c.cut = *rng.pick(&[MemCut::Mtu, MemCut::Whole]);
    c.csum = *rng.pick(&[MemCsum::Finished, MemCsum::Partial]);
    c.impair = [Impair {
        loss: 1_000,
        reorder: 5_000,
        reorder_by: MS,
        duplicate: 2_000,
        ..Impair::CLEAN
    }; 2];
    c
}

/// Programs that make any call, on a network that is merely bad: afterwards nothing is left.
#[test]
fn any_calls_leave_nothing_behind() {
    let pairs = AtomicU64::new(0);
    seeds(600, |seed| {
        let config = config(seed);
        let memory = config.memory();
        let mut net = Net::new(&memory, &config);
        let mut rng = Rng::new(seed, 51);
        let mut programs = [0, 1].map(|i| Fuzzer::new(i, Rng::new(seed, 60 + i as u64)));
        for _ in 0..400 {
            programs[rng.below(2) as usize].act(&mut net);
            if rng.chance(40_000) {
                net.run_for(rng.magnitude(50 * MS));
            }
        }
        for host in &net.hosts {
            let _: u64 = pairs.fetch_add(host.stack.returned(), Relaxed);
        }
        finish(&mut net, &mut programs);
    });
    let pairs = pairs.into_inner();
    assert!(pairs > 0, "no connection within a host was paired");
    println!("{pairs} connections within a host were paired");
}

fn finish(net: &mut Net<'_>, programs: &mut [Fuzzer; 2]) {
    for p in programs.iter_mut() {
        p.finish(net);
    }
    if !net.run_until_idle(3_000_000 * MS) {
        panic!(
            "never comes to rest{}{}\n{}",
            net.describe(0),
            net.describe(1),
            net.trace.tail(60)
        );
    }
    net.nothing_left().unwrap();
}

/// Damaged copies of the frames on the wire, injected at either end.
#[test]
fn mutated_frames() {
    seeds(600, |seed| {
        let config = config(seed);
        let memory = config.memory();
        let mut net = Net::new(&memory, &config);
        net.capture = Some(Vec::new());
        net.trace.on = number("TRACE", 0) != 0;
        let mut rng = Rng::new(seed, 51);
        let mut programs = [0, 1].map(|i| Fuzzer::new(i, Rng::new(seed, 60 + i as u64)));
        let mut pool: Vec<Vec<u8>> = Vec::new();
        let mut injected = 0;
        for _ in 0..300 {
            programs[rng.below(2) as usize].act(&mut net);
            pool.append(net.capture.as_mut().unwrap());
            if pool.len() > 200 {
                let excess = pool.len() - 200;
                pool.drain(..excess);
            }
            for _ in 0..rng.below(6) {
                let mut frame = match rng.below(10) {
                    0 => vec![0; rng.magnitude(3_000) as usize],
                    _ if pool.is_empty() => continue,
                    _ => rng.pick(&pool).clone(),
                };
                if frame.iter().all(|b| *b == 0) {
                    rng.fill(&mut frame);
                } else {
                    mutate(&mut rng, &mut frame);
                }
                let mut f = MemFrame::plain(frame);
                f.gso_size = if rng.chance(5_000) {
                    rng.magnitude(65_535) as u16
                } else {
                    0
                };
                net.inject(rng.below(2) as usize, f);
                injected += 1;
            }
            if rng.chance(40_000) {
                net.run_for(rng.magnitude(50 * MS));
            }
        }
        net.settle();
        let seen = net.hosts[0].stat("rx_frames") + net.hosts[1].stat("rx_frames");
        assert!(seen >= injected, "{injected} frames injected, {seen} seen");
        finish(&mut net, &mut programs);
    });
}

/// A live connection, and noise of all kinds beside it: the connection goes on.
#[test]
fn noise_counts_and_does_not_disturb() {
    seeds(60, |seed| {
        let config = NetConfig {
            impair: [Impair::CLEAN; 2],
            ..config(seed)
        };
        let memory = config.memory();
        let mut net = Net::new(&memory, &config);
        let mut rng = Rng::new(seed, 51);
        for _ in 0..2_000 {
            let mut noise = vec![0; rng.magnitude(2_000) as usize];
            rng.fill(&mut noise);
            net.inject(0, MemFrame::plain(noise));
        }
        net.settle();
        assert_eq!(net.hosts[0].stat("rx_frames"), 2_000);
        assert_eq!(net.hosts[0].stat("rx_drop_parse"), 2_000);
        assert_eq!(net.hosts[0].stat("tx_frames"), 0);
        net.nothing_left().unwrap();
    });
}

/// No single call takes long, whatever the memory holds. Wall-clock time, so with much room for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn scribbled(seed: u64, strikes: u64, concurrent: bool) {
    let config = config(seed);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let mut rng = Rng::new(seed, 51);
    let mut programs = [0, 1].map(|i| Fuzzer::new(i, Rng::new(seed, 60 + i as u64)));
    let adversary =
        |n: u64| Adversary::new(memory[0].stack(), &config.opts[0], Rng::new(seed, 70 + n));
    // Something to destroy.
    for _ in 0..150 {
        programs[rng.below(2) as usize].act(&mut net);
        net.run_for(rng.magnitude(5 * MS));
    }
    programs[0].wild = true;
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|s| {
        if concurrent {
            let mut other = adversary(1);
            let stop = &stop;
            s.spawn(move || {
                while !stop.load(Relaxed) {
                    other.strike();
                    std::hint::spin_loop();
                }
            });
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut here = adversary(0);
            for _ in 0..60 {
                for _ in 0..strikes {
                    here.strike();
                }
                net.hosts[0].free_lock();
                let before = Instant::now();
                match rng.below(5) {
                    0 => victim_polls(&mut net),
                    1 if !concurrent => {
                        let _: bool = net.hosts[0].locked(|l| l.recover(5));
                    }
                    2 if !concurrent => {
                        let _: bool = net.hosts[0].locked(|l| l.owner_gone(1, Unfinished::Unknown));
                    }
                    _ if concurrent => victim_polls(&mut net),
                    _ => programs[0].act(&mut net),
                }
                assert!(
                    before.elapsed() < PATIENCE,
                    "one call took {:?}",
                    before.elapsed()
                );
            }
        }));
        stop.store(true, Relaxed);
        if let Err(p) = outcome {
            resume_unwind(p);
        }
    });
    assert!(start.elapsed() < PATIENCE * 3);
}

/// Frames come and time passes; host 1 is not under attack.
fn victim_polls(net: &mut Net<'_>) {
    let now = net.now + 3 * MS;
    net.now = now;
    for h in &mut net.hosts {
        h.now = now;
    }
    while let Some(f) = net.hosts[1].nic.take() {
        net.hosts[0].nic.deliver(f);
    }
    if net.hosts[0].stack.lock().owner().is_some() {
        net.hosts[0].free_lock();
    }
    let _: Option<u32> = net.hosts[0].try_poll();
    while let Some(f) = net.hosts[0].nic.take() {
        net.hosts[1].nic.deliver(f);
    }
    let _: u32 = net.hosts[1].poll();
}

#[test]
fn memory_scribbled_between_calls() {
    seeds(600, |seed| scribbled(seed, 1 + seed % 7, false));
}

#[test]
fn memory_scribbled_during_calls() {
    seeds(40, |seed| scribbled(seed, 0, true));
}

/// After the memory was damaged and recovered, the stack still serves new connections, unless it says that it cannot.
#[test]
fn recovery_after_a_dead_holder() {
    seeds(300, |seed| {
        let config = config(seed);
        let memory = config.memory();
        let mut net = Net::new(&memory, &config);
        let mut rng = Rng::new(seed, 51);
        let mut programs = [0, 1].map(|i| Fuzzer::new(i, Rng::new(seed, 60 + i as u64)));
        for _ in 0..rng.range(50, 300) {
            programs[rng.below(2) as usize].act(&mut net);
            net.run_for(rng.magnitude(5 * MS));
        }
        // The holder died holding the lock, nothing half done: recovery must find everything in order.
        assert!(net.hosts[0].stack.lock().try_lock(5));
        assert!(net.hosts[0].stack.lock().take_over(5, 1));
        net.hosts[0].recover_held();
        let audit = net.hosts[0].stack.audit();
        assert!(audit.is_clean(), "{audit:?}");
        assert_eq!(net.hosts[0].stat("corrupt"), 0);
        for _ in 0..100 {
            programs[rng.below(2) as usize].act(&mut net);
            net.run_for(rng.magnitude(5 * MS));
        }
        finish(&mut net, &mut programs);
    });
}
