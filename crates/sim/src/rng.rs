//! Seeded chance. Everything random in a simulation comes from here, so that a seed is the whole story.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream of random numbers that depends on the seed and the label only.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The stream of `seed` for the part of the simulation called `label`.
    pub fn new(seed: u64, label: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(label);
        Self(rng)
    }

    /// Any 64-bit number.
    pub fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.word() % n }
    }

    /// A number from `lo` to `hi`, both included.
    pub fn range(&mut self, lo: u64, hi: u64) -> u64 {
        lo + self.below(hi.saturating_sub(lo).saturating_add(1))
    }

    /// True `n` times in a hundred thousand.
    pub fn chance(&mut self, n: u32) -> bool {
        n != 0 && self.below(100_000) < u64::from(n)
    }

    /// One of the items.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// A number whose magnitude is random as well: small ones are as likely as large ones. At most `hi`.
    pub fn magnitude(&mut self, hi: u64) -> u64 {
        let bits = 64 - u64::from(hi.leading_zeros());
        let cut = self.range(0, bits);
        self.below(1 << cut.min(63)).min(hi)
    }

    /// Fills a slice.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }
}
