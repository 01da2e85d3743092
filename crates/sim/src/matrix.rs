//! One seed, one experiment: a random network, random plans, and the judgement. A failure is run again with the trace
//! on, because the seed decides everything.

use crate::link::Impair;
use crate::lint::Lint;
use crate::net::{Net, NetConfig};
use crate::rng::Rng;
use crate::session::{Plan, Session, Talk};
use flyover_vnic::{MemCsum, MemCut};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a family of experiments has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Nothing goes wrong but latency.
    Clean,
    /// Single losses.
    Loss,
    /// Losses in bursts.
    Burst,
    /// Frames overtake one another.
    Reorder,
    /// Frames come twice.
    Duplicate,
    /// Bits flip.
    Corrupt,
    /// A slow line with a short queue.
    Slow,
    /// All of it.
    Foul,
}

/// All families.
pub const FAMILIES: [Family; 8] = [
    Family::Clean,
    Family::Loss,
    Family::Burst,
    Family::Reorder,
    Family::Duplicate,
    Family::Corrupt,
    Family::Slow,
    Family::Foul,
];

const MS: u64 = 1_000_000;

fn impair(family: Family, rng: &mut Rng) -> Impair {
    let latency = *rng.pick(&[5_000, 50_000, 50_000, 500_000, 5 * MS, 50 * MS]);
    let base = Impair {
        latency,
        jitter: rng.below(latency / 2 + 1),
        ..Impair::CLEAN
    };
    let reorder_by = latency + rng.magnitude(20 * MS);
    let some = |rng: &mut Rng| rng.range(500, 8_000) as u32;
    match family {
        Family::Clean => base,
        Family::Loss => Impair {
            loss: some(rng),
            ..base
        },
        Family::Burst => Impair {
            loss: rng.range(100, 1_500) as u32,
            burst: rng.range(2, 20) as u32,
            ..base
        },
        Family::Reorder => Impair {
            reorder: rng.range(1_000, 40_000) as u32,
            reorder_by,
            ..base
        },
        Family::Duplicate => Impair {
            duplicate: rng.range(1_000, 50_000) as u32,
            reorder_by,
            ..base
        },
        Family::Corrupt => Impair {
            corrupt: some(rng),
            ..base
        },
        Family::Slow => Impair {
            rate: *rng.pick(&[1_000_000, 10_000_000, 100_000_000]),
            queue: *rng.pick(&[2 * MS, 20 * MS, 200 * MS]),
            ..base
        },
        Family::Foul => Impair {
            loss: rng.below(3_000) as u32,
            burst: rng.range(1, 4) as u32,
            reorder: rng.below(20_000) as u32,
            reorder_by,
            duplicate: rng.below(10_000) as u32,
            corrupt: rng.below(3_000) as u32,
            rate: *rng.pick(&[0, 10_000_000, 1_000_000_000]),
            queue: 50 * MS,
            ..base
        },
    }
}

/// The network of a seed.
pub fn config(family: Family, seed: u64) -> NetConfig {
    let mut rng = Rng::new(seed, 1);
    let mut c = NetConfig::clean(seed);
    c.v6 = rng.chance(25_000);
    let forward = impair(family, &mut rng);
    c.impair = [
        forward,
        if rng.chance(50_000) {
            forward
        } else {
            impair(family, &mut rng)
        },
    ];
    c.mtu = *rng.pick(&[1500, 1500, 1500, 1280, 9000]);
    if !c.v6 && rng.chance(5_000) {
        c.mtu = 576;
    }
    c.tso_max = *rng.pick(&[65_535, 65_535, 20_000, 0]);
    c.cut = *rng.pick(&[MemCut::Mtu, MemCut::Whole]);
    let corrupts = c.impair.iter().any(|i| i.corrupt != 0);
    c.csum = if corrupts {
        MemCsum::Finished
    } else {
        *rng.pick(&[
            MemCsum::Finished,
            MemCsum::Verified,
            MemCsum::Partial,
            MemCsum::PartialUnmarked,
        ])
    };
    c.neigh_known = !rng.chance(20_000);
    // Millisecond timestamps wrap at 2^32 ms: every tenth run begins just before.
    c.start = if rng.chance(10_000) {
        (1 << 32) * MS - rng.below(3_000) * MS
    } else {
        1_000_000_000 + rng.below(1 << 45)
    };
    for o in &mut c.opts {
        o.timestamps = !rng.chance(20_000);
        o.window_scaling = !rng.chance(10_000);
        o.sack = !rng.chance(20_000);
        o.slow_start_after_idle = !rng.chance(30_000);
        if rng.chance(20_000) {
            o.tcp_rmem = rng.range(4_096, 131_072) as u32;
        }
        if rng.chance(10_000) {
            o.buffers = 512;
        }
    }
    c
}

fn talks(seed: u64) -> Vec<Talk> {
    let mut rng = Rng::new(seed, 2);
    let n = *rng.pick(&[1, 1, 1, 2, 4]);
    // The cost of a seed is bounded: more connections, shorter ones.
    let most = *rng.pick(&[1_000, 30_000, 150_000]) / n;
    (0..n)
        .map(|_| Talk {
            plans: Plan::pair(&mut rng, most),
            client: rng.below(2) as usize,
            simultaneous: rng.chance(8_000),
            at: rng.magnitude(100 * MS),
        })
        .collect()
}

fn experiment(family: Family, seed: u64, trace: bool) -> (Result<(), String>, String) {
    let config = config(family, seed);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    net.trace.on = trace;
    net.lint = Some(Lint::new(config.mtu));
    for host in &mut net.hosts {
        host.budget = if seed.is_multiple_of(3) { 3 } else { 64 };
    }
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut session = Session::new(&net, seed, talks(seed));
        session.run(&mut net, 7200 * 1000 * MS)
    }));
    let result = result.unwrap_or_else(|p| {
        let text = p.downcast_ref::<String>().cloned();
        let text = text.or_else(|| p.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    (result, net.trace.tail(trace_lines()))
}

/// Lines of the trace that a failure shows; `TRACE=n` sets it.
fn trace_lines() -> usize {
    std::env::var("TRACE")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(120)
}

/// Runs the experiment of a seed.
///
/// # Errors
/// What went wrong, with the end of the trace and how to run it again.
pub fn run(family: Family, seed: u64) -> Result<(), String> {
    let (result, _) = experiment(family, seed, false);
    let Err(why) = result else { return Ok(()) };
    let (again, trace) = experiment(family, seed, true);
    let same = again.as_ref() == Err(&why);
    Err(format!(
        "{family:?} seed {seed}: {why}\n{}\n{:?}\n{trace}\nrun it again: FAMILY={family:?} SEED={seed} cargo test -p \
         flyover-sim --test tcp_matrix one",
        if same {
            ""
        } else {
            "AND THE SECOND RUN WAS DIFFERENT: not deterministic"
        },
        config(family, seed),
    ))
}
