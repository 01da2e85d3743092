//! Somebody who shares the stack's memory and means ill, or has a stray pointer: stores anything anywhere.

use crate::rng::Rng;
use flyover_shm::Region;

/// Where and what to scribble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scribble {
    /// One random byte run.
    Bytes,
    /// A small number in a 32-bit word: a plausible index or state.
    SmallWord,
    /// A word from elsewhere in the memory: a plausible but wrong link.
    Copied,
    /// A page of noise.
    Page,
}

/// Kinds of scribbling.
pub const ALL: [Scribble; 4] = [
    Scribble::Bytes,
    Scribble::SmallWord,
    Scribble::Copied,
    Scribble::Page,
];

/// Scribbles once somewhere in `[from, to)`.
pub fn scribble(rng: &mut Rng, memory: Region<'_>, from: usize, to: usize, kind: Scribble) {
    let span = to.saturating_sub(from).max(8) as u64;
    let at = from + rng.below(span) as usize;
    let word = at & !3;
    match kind {
        Scribble::Bytes => {
            let mut noise = [0; 64];
            rng.fill(&mut noise);
            let n = rng.range(1, 64) as usize;
            let _: usize = memory.bytes(at, n).copy_in(&noise[..n]);
        }
        Scribble::SmallWord => {
            let v = rng.magnitude(4096) as u32;
            let _: usize = memory.bytes(word, 4).copy_in(&v.to_le_bytes());
        }
        Scribble::Copied => {
            let mut v = [0; 4];
            let other = from + rng.below(span) as usize & !3;
            let _: usize = memory.bytes(other, 4).copy_out(&mut v);
            let _: usize = memory.bytes(word, 4).copy_in(&v);
        }
        Scribble::Page => {
            let mut noise = [0; 4096];
            rng.fill(&mut noise);
            let _: usize = memory.bytes(at & !4095, 4096).copy_in(&noise);
        }
    }
}
