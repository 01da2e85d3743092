//! What was seen on the wire, a line per frame. Off unless somebody wants to read it: a failed run is run again.

use crate::link::Fate;
use flyover_vnic::MemFrame;
use flyover_wire::pretty;

/// Lines, if switched on.
#[derive(Debug, Default)]
pub struct Trace {
    /// Whether lines are kept.
    pub on: bool,
    /// The lines.
    pub lines: Vec<String>,
}

impl Trace {
    /// A frame left host `from`.
    pub fn frame(&mut self, now: u64, from: usize, frame: &MemFrame, fate: Fate) {
        if !self.on {
            return;
        }
        let fate = if fate == Fate::Sent {
            String::new()
        } else {
            format!(" [{fate:?}]")
        };
        self.lines.push(format!(
            "{:>14.6} {} {}{fate}",
            now as f64 / 1e6,
            if from == 0 { "A>B" } else { "B>A" },
            pretty::frame(&frame.bytes),
        ));
    }

    /// A remark.
    pub fn note(&mut self, now: u64, text: impl FnOnce() -> String) {
        if self.on {
            self.lines
                .push(format!("{:>14.6} --- {}", now as f64 / 1e6, text()));
        }
    }

    /// The last `n` lines.
    pub fn tail(&self, n: usize) -> String {
        self.lines[self.lines.len().saturating_sub(n)..].join("\n")
    }
}
