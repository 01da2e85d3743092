//! Seeds x impairments: every byte once, in order, in both directions, whatever the wire does; and nothing is left.
//!
//! `SEEDS=n` sets how many experiments there are in all (10000), `FROM=n` the first seed. A failure prints its seed:
//! `FAMILY=Loss SEED=17 cargo test -p flyover-sim --test tcp_matrix one -- --nocapture`.
#![allow(missing_docs)]

use flyover_sim::matrix::{FAMILIES, Family, run};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// Seeds that once failed run first, for ever.
const ONCE_FAILED: &[(Family, u64)] = &[(Family::Corrupt, 1079)];

fn family(family: Family) {
    let from = number("FROM", 1);
    let seeds = number("SEEDS", 10_000) / FAMILIES.len() as u64;
    let once = ONCE_FAILED.iter().filter(|f| f.0 == family).map(|f| f.1);
    let mut failures = Vec::new();
    for seed in once.chain(from..from + seeds.max(1)) {
        if let Err(why) = run(family, seed) {
            failures.push((seed, why));
            if failures.len() >= 20 {
                break;
            }
        }
    }
    if let Some((_, why)) = failures.first() {
        let all: Vec<u64> = failures.iter().map(|f| f.0).collect();
        panic!("seeds {all:?} failed; the first:\n{why}");
    }
}

#[test]
fn clean() {
    family(Family::Clean);
}

#[test]
fn loss() {
    family(Family::Loss);
}

#[test]
fn burst() {
    family(Family::Burst);
}

#[test]
fn reorder() {
    family(Family::Reorder);
}

#[test]
fn duplicate() {
    family(Family::Duplicate);
}

#[test]
fn corrupt() {
    family(Family::Corrupt);
}

#[test]
fn slow() {
    family(Family::Slow);
}

#[test]
fn foul() {
    family(Family::Foul);
}

/// `SEED=..` and `FAMILY=..`: one experiment.
#[test]
fn one() {
    let seed = number("SEED", 0);
    if seed == 0 {
        return;
    }
    let name = std::env::var("FAMILY").unwrap_or_default();
    for f in FAMILIES {
        if (name.is_empty() || name == format!("{f:?}"))
            && let Err(why) = run(f, seed)
        {
            panic!("{why}");
        }
    }
}
