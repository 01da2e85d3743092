//! Payload that can be verified: a seeded generator, and a long stream pattern.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which must not be 0. The bias is below 2^-32 for small limits.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// True in `percent` of all cases.
    pub fn percent(&mut self, percent: f64) -> bool {
        // 53 bits are what a double holds exactly.
        let unit = (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        unit * 100.0 < percent
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.bits().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// Prime, so that a stream shifted by any power of two, or by a segment, does not fit any more;
/// small enough for the second-level cache, so that verifying costs little.
const PERIOD: usize = 262_147;

/// Longest run of bytes that [`Pattern::at`] gives at once.
pub const PATTERN_RUN: usize = 256 * 1024;

/// The byte at every offset of a stream: random bytes that repeat with a prime period.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// One period, then its beginning again, so that a run never wraps.
    bytes: Vec<u8>,
}

impl Pattern {
    /// The pattern of this seed.
    pub fn new(seed: u64) -> Self {
        let mut bytes = vec![0; PERIOD + PATTERN_RUN];
        let (period, again) = bytes.split_at_mut(PERIOD);
        Random::new(seed).fill(period);
        again.copy_from_slice(&period[..PATTERN_RUN]);
        Self { bytes }
    }

    /// `len` bytes of the stream from `offset`; at most [`PATTERN_RUN`].
    pub fn at(&self, offset: u64, len: usize) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        &self.bytes[start..start + len]
    }
}

/// Writes a file of `len` random bytes.
pub fn write_file(path: &Path, len: usize, seed: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut file = BufWriter::new(file);
    let mut random = Random::new(seed);
    let mut block = vec![0; 1 << 16];
    let mut left = len;
    while left > 0 {
        let now = left.min(block.len());
        random.fill(&mut block[..now]);
        file.write_all(&block[..now])?;
        left -= now;
    }
    file.flush()?;
    Ok(())
}

/// The SHA-256 of a file, computed by `sha256sum`.
pub fn sha256(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum")
        .arg(path)
        .output()
        .context("running sha256sum")?;
    ensure!(
        output.status.success(),
        "sha256sum {} failed",
        path.display()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_continues_over_its_period() {
        let pattern = Pattern::new(7);
        let offset = PERIOD as u64 - 3;
        let run = pattern.at(offset, 10).to_vec();
        let single: Vec<u8> = (0..10).map(|n| pattern.at(offset + n, 1)[0]).collect();
        assert_eq!(run, single);
        assert_ne!(pattern.at(0, 64), pattern.at(1 << 18, 64));
    }

    #[test]
    fn percentages_are_met() {
        let mut random = Random::new(1);
        let hits = (0..100_000).filter(|_| random.percent(1.0)).count();
        assert!((800..1200).contains(&hits), "{hits}");
    }
}
