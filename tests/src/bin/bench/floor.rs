//! Raw frames: what the V-NIC itself can do, without any protocol. Measured by the `raw_floor`
//! example of `flyover-vnic`, which makes its own veth pair.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use flyover_e2e::lab::Setup;
use flyover_e2e::tools::number;
use serde_json::Value;

use crate::plan::{Column, Floor, Group};

/// The rows of this group for one V-NIC kind.
pub fn measure(
    setup: &Setup,
    column: Column,
    group: &Group,
    seconds: f64,
) -> Result<Vec<(&'static str, f64)>> {
    let kind = match column {
        Column::RawPacket => "packet",
        Column::RawXdp => "xdp",
        _ => bail!("{} is no raw column", column.name()),
    };
    let program = setup.bin.join("examples").join("raw_floor");
    let output = Command::new(&program)
        .args(["--json", "--kind", kind, "--seconds", &seconds.to_string()])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    ensure!(
        output.status.success(),
        "raw_floor: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let report: Value =
        serde_json::from_slice(&output.stdout).context("reading raw_floor's JSON")?;
    Ok(match group.floor.context("the group has no raw floor")? {
        Floor::SpinningRoundTrip => vec![
            (
                "TCP 64 B round trip, spinning, p50",
                number(&report, "spin_p50_us")?,
            ),
            (
                "TCP 64 B round trip, spinning, p99",
                number(&report, "spin_p99_us")?,
            ),
            (
                "TCP 64 B round trip, spinning, p99.9",
                number(&report, "spin_p999_us")?,
            ),
        ],
        Floor::SleepingRoundTrip => vec![
            (
                "TCP 64 B round trip, sleeping, p50",
                number(&report, "sleep_p50_us")?,
            ),
            (
                "TCP 64 B round trip, sleeping, p99",
                number(&report, "sleep_p99_us")?,
            ),
        ],
        Floor::Bulk => vec![(
            "stream, 64 KB writes",
            number(&report, "bulk_gbit_per_second")?,
        )],
    })
}
