//! Somebody who shares the stack's memory and means ill, or has a stray pointer: stores anything anywhere, word by
//! word, between calls or from another thread during them.

use crate::rng::Rng;
use flyover_config::StackOpts;
use flyover_core::stack::layout::Layout;
use flyover_shm::{Arena, Idx, Region, SharedCell, shm_struct};

shm_struct! {
    /// A page of words.
    pub struct Page {
        words: [SharedCell<u32>; 1024],
    }
}

/// What is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scribble {
    /// Anything.
    Noise,
    /// A small number: a plausible index, state or length.
    Small,
    /// All bits, or all but one.
    Large,
    /// A word from elsewhere in the memory: a plausible but wrong link.
    Copied,
    /// Zero: something forgotten.
    Zero,
    /// One bit changed.
    Flip,
    /// 256 words of noise.
    Run,
}

const ALL: [Scribble; 7] = [
    Scribble::Noise,
    Scribble::Small,
    Scribble::Large,
    Scribble::Copied,
    Scribble::Zero,
    Scribble::Flip,
    Scribble::Run,
];

/// Someone with a mapping of the stack.
#[derive(Debug)]
pub struct Adversary<'m> {
    memory: Region<'m>,
    /// Bytes from the start that hold control state: what is behind them is payload.
    control: usize,
    /// Where sockets lie.
    socks: (usize, usize),
    rng: Rng,
}

impl<'m> Adversary<'m> {
    /// An adversary of a stack with these options.
    pub fn new(memory: Region<'m>, opts: &StackOpts, rng: Rng) -> Self {
        let l = Layout::new(opts);
        Self {
            memory,
            control: l.data,
            socks: (l.socks, l.bufs),
            rng,
        }
    }

    fn word(&self, at: usize) -> Option<&'m SharedCell<u32>> {
        let page: Arena<'m, Page> = Arena::new(self.memory, at & !4095, 1).ok()?;
        page.at(Idx::new(0)).words.get((at & 4095) / 4)
    }

    /// A place: the root object, the sockets, or anywhere in the control state.
    fn place(&mut self) -> usize {
        let (from, to) = match self.rng.below(4) {
            0 => (0, 12_000),
            1 | 2 => self.socks,
            _ => (0, self.control),
        };
        from + self.rng.below((to - from) as u64) as usize
    }

    /// Stores one thing somewhere.
    pub fn strike(&mut self) {
        let kind = *self.rng.pick(&ALL);
        let at = self.place();
        let Some(cell) = self.word(at) else { return };
        match kind {
            Scribble::Noise => cell.set(self.rng.word() as u32),
            Scribble::Small => cell.set(self.rng.magnitude(4096) as u32),
            Scribble::Large => cell.set((self.rng.magnitude(16) as u32).wrapping_neg()),
            Scribble::Zero => cell.set(0),
            Scribble::Flip => cell.set(cell.get() ^ 1 << self.rng.below(32)),
            Scribble::Copied => {
                let other = self.place();
                if let Some(other) = self.word(other) {
                    cell.set(other.get());
                }
            }
            Scribble::Run => {
                for i in 0..256 {
                    if let Some(c) = self.word(at + 4 * i) {
                        c.set(self.rng.word() as u32);
                    }
                }
            }
        }
    }
}
