//! What a benchmark is made of: configurations, rows, groups of measurements, bars.

use anyhow::{Context as _, Result};
use flyover_e2e::lab::{Lab, Setup, Side};

use super::report::{Bar, Results};

/// A configuration: a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// The kernel's stack on both hosts.
    Kernel,
    /// Flyover on both, V-NIC kind `packet`.
    Both,
    /// Flyover on the server, the kernel on the client.
    Server,
    /// The other way round.
    Client,
    /// Flyover on both, V-NIC kind `xdp`.
    Xdp,
    /// Raw frames over packet sockets, without any protocol.
    RawPacket,
    /// Raw frames over AF_XDP.
    RawXdp,
    /// Both programs under Flyover, on one host.
    Local,
    /// The same with `--profile latency`.
    LocalLatency,
    /// A ring in shared memory, without any sockets.
    Ring,
}

impl Column {
    /// The heading.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Both => "both",
            Self::Server => "server",
            Self::Client => "client",
            Self::Xdp => "both xdp",
            Self::RawPacket => "raw packet",
            Self::RawXdp => "raw xdp",
            Self::Local => "flyover",
            Self::LocalLatency => "latency",
            Self::Ring => "bare ring",
        }
    }

    pub fn side(self) -> Side {
        match self {
            Self::Kernel | Self::RawPacket | Self::RawXdp | Self::Ring => Side::Neither,
            Self::Both | Self::Xdp | Self::Local | Self::LocalLatency => Side::Both,
            Self::Server => Side::Server,
            Self::Client => Side::Client,
        }
    }

    /// Options of `flyover run`.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Both | Self::Server | Self::Client => &["--vnic", "packet"],
            Self::Xdp => &["--vnic", "xdp"],
            Self::LocalLatency => &["--profile", "latency"],
            Self::Kernel | Self::RawPacket | Self::RawXdp | Self::Local | Self::Ring => &[],
        }
    }
}

/// Values by the name of their row in [`Plan::rows`].
pub type Values = Vec<(&'static str, f64)>;

/// A program run that gives the values of some rows.
pub struct Group {
    pub name: &'static str,
    pub columns: &'static [Column],
    /// Options of `flyover run` for all columns.
    pub options: &'static [&'static str],
    /// Which rows the raw frame benchmark fills beside these.
    pub floor: Option<Floor>,
    pub run: fn(&Lab, Column, f64) -> Result<Values>,
}

/// Everything about one benchmark.
pub struct Plan {
    /// In the order of the table.
    pub rows: &'static [Row],
    /// In the order of the table.
    pub columns: &'static [Column],
    /// Which column is compared with the kernel's, in the last one.
    pub compared: Column,
    pub groups: &'static [Group],
    /// What a measurement takes place in.
    pub lab: fn(&Setup, Side) -> Result<Lab>,
    /// What the columns are.
    pub legend: &'static str,
    /// The promises, as far as a run measured what they are about.
    pub bars: fn(&Results) -> Vec<Bar>,
}

/// The part of the raw frame benchmark that a group compares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// 64 B frames there and back, spinning.
    SpinningRoundTrip,
    /// The same, sleeping in `poll`.
    SleepingRoundTrip,
    /// Frames one way, as fast as they go.
    Bulk,
}

/// A row of the table.
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    /// Which of two values is the better one.
    pub better: Better,
}

/// Whether a large value is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

pub const fn lower(name: &'static str, unit: &'static str) -> Row {
    Row {
        name,
        unit,
        better: Better::Lower,
    }
}

pub const fn higher(name: &'static str, unit: &'static str) -> Row {
    Row {
        name,
        unit,
        better: Better::Higher,
    }
}

/// Operations for about so many seconds on the kind of machine the rate was seen on.
pub fn count(seconds: f64, per_second: f64) -> u32 {
    (seconds * per_second).max(100.0) as u32
}

/// A latency that the workload must have reported.
pub fn value(measured: Option<f64>) -> Result<f64> {
    measured.context("the workload reported no latency")
}
