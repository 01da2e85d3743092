//! The demonstration and the benchmark of the local path, short: that they run as an ordinary user, that connections are on
//! the path `shm`, that nothing is left. What they measure is not asserted.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flyover_e2e::cmd::tail;
use flyover_e2e::lab::Setup;
use flyover_e2e::runner::Case;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(180);

pub fn cases(cases: &mut Vec<Case>) {
    cases.push(Case::new("local.demo", demo).lasting(LIMIT).only_flyover());
    cases.push(
        Case::new("local.bench", bench)
            .lasting(LIMIT)
            .only_flyover(),
    );
}

/// Runs the runner itself, which becomes an ordinary user; what it printed on standard output.
fn lab(setup: &Setup, words: &str) -> Result<String> {
    let output = Command::new(setup.bin.join("lab"))
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .context("starting lab")?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "lab {words}: {}\n{}\n{}",
        output.status,
        tail(&printed, 30),
        tail(&String::from_utf8_lossy(&output.stderr), 10)
    );
    Ok(printed)
}

fn demo(setup: &Setup) -> Result<()> {
    let printed = lab(setup, "demo --local --quick")?;
    let ours = printed.lines().filter(|line| line.contains("both, shm "));
    ensure!(ours.count() == 6, "six programs on the path shm\n{printed}");
    Ok(())
}

fn bench(setup: &Setup) -> Result<()> {
    let words = "bench --local --json --runs 1 --seconds 0.2 spinning one-core idle";
    let report: Value = serde_json::from_str(&lab(setup, words)?).context("its JSON")?;
    let results = report["results"].as_array().context("no results")?;
    for configuration in ["kernel", "flyover", "bare ring"] {
        let of = |result: &&Value| result["configuration"] == configuration;
        ensure!(
            results.iter().any(|result| of(&result)),
            "nothing of {configuration}: {report}"
        );
    }
    let bars = report["bars"].as_array().context("no bars")?;
    ensure!(bars.len() == 4, "four bars belong to these: {report}");
    Ok(())
}
