//! Where a workload runs, when what it measures begins, and what several threads measured.

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use flyover_e2e::stats::Latencies;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Stays on one processor; where there is no such one, or it is not allowed, wherever the scheduler likes. (What this process
/// may use now does not matter: the ring's other process starts where the first one stays.)
pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    let _ = sched_setaffinity(None, &set);
}

/// Warms up, says `ready`, and waits for a line: whoever measures looks at both ends meanwhile. `more` is for another
/// warm-up, any other word for the start.
pub fn gate(mut warm_up: impl FnMut() -> Result<()>) -> Result<()> {
    loop {
        warm_up()?;
        println!("ready");
        std::io::stdout().flush()?;
        let mut word = String::new();
        let read = std::io::stdin().lock().read_line(&mut word)?;
        ensure!(read > 0, "standard input ended before the start");
        if word.trim() != "more" {
            return Ok(());
        }
    }
}

/// Runs `work` on so many threads, each with its number; reports the latencies of all, the rate as `messages_per_second`, and
/// the bytes that they compared as `bytes_verified`.
pub fn on_threads<W>(count: usize, work: W) -> Result<serde_json::Value>
where
    W: Fn(usize) -> Result<(Latencies, u64)> + Clone + Send + 'static,
{
    let begun = Instant::now();
    let threads: Vec<_> = (0..count)
        .map(|number| {
            let work = work.clone();
            std::thread::spawn(move || work(number))
        })
        .collect();
    let (mut latencies, mut bytes) = (Latencies::default(), 0);
    for thread in threads {
        match thread.join() {
            Ok(result) => {
                let (some, compared) = result?;
                latencies.append(some);
                bytes += compared;
            }
            Err(_) => bail!("a thread panicked"),
        }
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let mut report = latencies.to_json();
    report["messages_per_second"] = (latencies.count() as f64 / elapsed).into();
    report["bytes_verified"] = bytes.into();
    Ok(report)
}
