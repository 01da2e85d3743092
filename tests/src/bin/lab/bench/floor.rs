//! Raw frames: what the V-NICs themselves can do, without any protocol. Measured by the `raw_floor`
//! example of `flyover-vnic`, which makes its own veth pair.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::plan::{Column, Floor};

/// Rows of the raw frame benchmark, and where its report has them; nanoseconds become microseconds.
const ROWS: &[(Floor, &str, &str, f64)] = &[
    (
        Floor::SpinningRoundTrip,
        "TCP 64 B round trip, spinning, p50",
        "/rtt_spin_ns/p50",
        1e-3,
    ),
    (
        Floor::SpinningRoundTrip,
        "TCP 64 B round trip, spinning, p99",
        "/rtt_spin_ns/p99",
        1e-3,
    ),
    (
        Floor::SleepingRoundTrip,
        "TCP 64 B round trip, sleeping, p50",
        "/rtt_sleep_ns/p50",
        1e-3,
    ),
    (
        Floor::SleepingRoundTrip,
        "TCP 64 B round trip, sleeping, p99",
        "/rtt_sleep_ns/p99",
        1e-3,
    ),
    (Floor::Bulk, "stream, 64 KB writes", "/bulk_gbit_per_s", 1.0),
];

/// Measures both V-NIC kinds; gives the rows that belong to one of `wanted`.
pub fn measure(
    bin: &Path,
    wanted: &[Floor],
    seconds: f64,
) -> Result<Vec<(Column, &'static str, f64)>> {
    let rounds = (seconds * 40_000.0).max(1_000.0) as u32;
    let milliseconds = (seconds * 1_000.0).max(100.0) as u32;
    // Its namespaces are mounted where nobody else sees them, and are gone when it has ended,
    // however it ended.
    let script = "mount -t tmpfs none /run/netns && exec \"$@\"";
    std::fs::create_dir_all("/run/netns").context("creating /run/netns")?;
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(bin.join("examples").join("raw_floor"))
        .args([rounds.to_string(), milliseconds.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("starting raw_floor through unshare (package util-linux)")?;
    ensure!(
        output.status.success(),
        "raw_floor: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let report: Value =
        serde_json::from_slice(&output.stdout).context("reading raw_floor's JSON")?;
    let mut values = Vec::new();
    for (column, kind) in [(Column::RawPacket, "packet"), (Column::RawXdp, "xdp")] {
        for &(floor, row, pointer, scale) in ROWS {
            if wanted.contains(&floor) {
                let value = report
                    .pointer(&format!("/{kind}{pointer}"))
                    .and_then(Value::as_f64);
                let value = value.with_context(|| format!("raw_floor: no {kind}{pointer}"))?;
                values.push((column, row, value * scale));
            }
        }
    }
    Ok(values)
}
