//! The application's dispositions of signals, as our handler has to know them: in a signal handler, in any thread.

use core::ffi::c_int;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::mask;

/// Signal numbers, 0 included.
const SIGNALS: usize = 65;

/// The application's disposition of one signal, readable from handlers: a sequence lock over three words.
pub struct Action {
    seq: AtomicU32,
    handler: AtomicU64,
    flags: AtomicU64,
    mask: AtomicU64,
}

/// One disposition.
#[derive(Clone, Copy)]
pub struct Copied {
    /// Address of the function, `SIG_DFL` or `SIG_IGN`.
    pub handler: usize,
    /// `sa_flags`.
    pub flags: u64,
    /// `sa_mask`.
    pub mask: u64,
}

impl Copied {
    /// True when there is a function to call.
    pub fn is_function(&self) -> bool {
        self.handler != libc::SIG_DFL && self.handler != libc::SIG_IGN
    }

    /// True with this flag of `sigaction(2)`.
    pub fn has(&self, flag: c_int) -> bool {
        self.flags & flag as u32 as u64 != 0
    }
}

static ACTIONS: [Action; SIGNALS] = [const {
    Action {
        seq: AtomicU32::new(0),
        handler: AtomicU64::new(0),
        flags: AtomicU64::new(0),
        mask: AtomicU64::new(0),
    }
}; SIGNALS];

impl Action {
    /// A consistent copy.
    pub fn load(&self) -> Copied {
        loop {
            let before = self.seq.load(Ordering::Acquire);
            let c = Copied {
                handler: self.handler.load(Ordering::Relaxed) as usize,
                flags: self.flags.load(Ordering::Relaxed),
                mask: self.mask.load(Ordering::Relaxed),
            };
            core::sync::atomic::fence(Ordering::Acquire);
            if before & 1 == 0 && self.seq.load(Ordering::Relaxed) == before {
                return c;
            }
            core::hint::spin_loop();
        }
    }

    /// Replaces it. Called with all signals blocked, so that no handler meets it half written.
    pub fn store(&self, c: Copied) {
        let seq = self.lock();
        self.write(seq, c);
    }

    /// What a handler call needs; a one-shot disposition (`SA_RESETHAND`) is used up by it. The kernel must not do
    /// that by itself: it would at a signal that we only put off.
    pub fn take(&self, sig: c_int) -> Copied {
        let c = self.load();
        if !c.has(libc::SA_RESETHAND) || !c.is_function() {
            return c;
        }
        let before = mask::set(!0);
        let seq = self.lock();
        let handler = self.handler.load(Ordering::Relaxed) as usize;
        let spent = Copied {
            handler: libc::SIG_DFL,
            ..c
        };
        self.write(seq, spent);
        super::disposition::tell_kernel(sig, spent);
        let _: u64 = mask::set(before);
        // The default when another thread was faster.
        Copied { handler, ..c }
    }

    /// Makes the sequence number odd and returns it.
    fn lock(&self) -> u32 {
        let mut seq = self.seq.load(Ordering::Relaxed);
        loop {
            let odd = seq | 1;
            if seq & 1 == 0
                && self
                    .seq
                    .compare_exchange_weak(seq, odd, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                break;
            }
            core::hint::spin_loop();
            seq = self.seq.load(Ordering::Relaxed);
        }
        core::sync::atomic::fence(Ordering::Release);
        seq | 1
    }

    fn write(&self, odd: u32, c: Copied) {
        self.handler.store(c.handler as u64, Ordering::Relaxed);
        self.flags.store(c.flags, Ordering::Relaxed);
        self.mask.store(c.mask, Ordering::Relaxed);
        self.seq.store(odd.wrapping_add(1), Ordering::Release);
    }
}

/// The disposition of `sig`, if there is such a signal.
pub fn of(sig: c_int) -> Option<&'static Action> {
    ACTIONS.get(usize::try_from(sig).ok()?)
}
