//! The attached stack, and what `fork` changes about it: a child is a process of its own to the daemon, attaches when it
//! first needs to, and uses the same memory.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::attach::Attachment;
use crate::entry::Entry;
use crate::policy::Reason;
use crate::process::Sockets;
use crate::wait::Gate;

/// How many times a process line may fork and still use stacks: each child that touches a socket takes one.
pub const GENERATIONS: usize = 256;
/// How long an absent daemon is not asked again, ns.
const RETRY_NS: u64 = 5_000_000_000;

/// One generation of forks. All of them lie in static memory: what is never used is never touched, and nothing has to be
/// made in a child, whose parent's other threads may have been at it.
#[derive(Default)]
pub struct Generation {
    attachment: OnceLock<&'static Attachment>,
    attaching: Mutex<()>,
    retry_at: AtomicU64,
}

impl Generation {
    /// Nothing is attached.
    pub const fn new() -> Self {
        Self {
            attachment: OnceLock::new(),
            attaching: Mutex::new(()),
            retry_at: AtomicU64::new(0),
        }
    }
}

impl core::fmt::Debug for Generation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Generation")
            .field("attached", &self.attachment.get().is_some())
            .finish_non_exhaustive()
    }
}

thread_local! {
    /// This thread is attaching.
    static ATTACHING: Cell<bool> = const { Cell::new(false) };
}

/// Held while this thread attaches.
struct Inside;

impl Inside {
    /// `None`: it does already.
    fn enter() -> Option<Self> {
        (!ATTACHING.replace(true)).then(|| Self)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        ATTACHING.set(false);
    }
}

/// Who this process is, in the line of those that forked it. Side by side, because each page that is written after a
/// `fork` is a fault and a copy: the kernel shares all of them between parent and child until then.
#[repr(align(64))]
pub(crate) struct Lineage {
    pub(crate) pid: AtomicI32,
    current: AtomicU32,
    fork_generation: AtomicU32,
    /// Something depends on the generation: a stack was asked for, an epoll set or a socket was made. Until then a fork
    /// has nothing to keep apart.
    begun: AtomicBool,
    /// `fork` holds the epoll sets still.
    holds_sets: AtomicBool,
    /// Held while a connection gets its mark, and during `fork`.
    pub(crate) ripening: Gate,
    /// Connections that began without a mark so far, and the end of their numbers.
    young: AtomicU32,
    young_end: AtomicU32,
}

impl Lineage {
    pub(crate) fn new(pid: i32) -> Self {
        Self {
            pid: AtomicI32::new(pid),
            current: AtomicU32::new(0),
            fork_generation: AtomicU32::new(0),
            begun: AtomicBool::new(false),
            holds_sets: AtomicBool::new(false),
            ripening: Gate::new(),
            young: AtomicU32::new(0),
            young_end: AtomicU32::new(0),
        }
    }

    /// A connection begins without a mark; returns how many did before.
    pub(crate) fn note_young(&self, fd: i32) -> u32 {
        let end = fd as u32 + 1;
        if self.young_end.load(Ordering::Relaxed) < end {
            let _: u32 = self.young_end.fetch_max(end, Ordering::SeqCst);
        }
        self.young.fetch_add(1, Ordering::Relaxed)
    }

    /// The numbers of connections without a mark are below this one.
    pub(crate) fn young_end(&self) -> usize {
        self.young_end.load(Ordering::SeqCst) as usize
    }

    #[inline]
    fn current(&self) -> usize {
        self.current.load(Ordering::Acquire) as usize
    }
}

impl Sockets {
    /// The stack, if one is attached.
    #[inline]
    pub fn attached(&self) -> Option<&'static Attachment> {
        self.generations
            .get(self.lineage.current())?
            .attachment
            .get()
            .copied()
    }

    /// The stack's memory as it is mapped here, be it only by an ancestor that forked this process: to look at.
    pub(crate) fn mapped(&self) -> Option<&'static Attachment> {
        let current = self.lineage.current();
        let seen = self.generations.get(..=current)?.iter().rev();
        seen.filter_map(|g| g.attachment.get().copied()).next()
    }

    /// True when this process or its ancestors ever had a stack: an exec'd program must look for its sockets.
    pub fn ever_attached(&self) -> bool {
        self.ever_attached.load(Ordering::Relaxed)
    }

    /// The stack, attached now if it was not.
    pub fn attach(&self) -> Result<&'static Attachment, Reason> {
        if !self.accelerates() {
            return Err(Reason::Disabled);
        }
        self.begin();
        let index = self.lineage.current();
        let generation = self.generations.get(index).ok_or(Reason::NoDaemon)?;
        if let Some(a) = generation.attachment.get() {
            return Ok(a);
        }
        // The descriptors that attaching opens and closes may have numbers that the table knows from before: a child of `fork`
        // has the table of a moment at which other threads of its parent were at work.
        let Some(_inside) = Inside::enter() else {
            return Err(Reason::NoDaemon);
        };
        let _one = generation
            .attaching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(a) = generation.attachment.get() {
            return Ok(a);
        }
        let now = self.os.now();
        if now < generation.retry_at.load(Ordering::Relaxed) {
            return Err(Reason::NoDaemon);
        }
        let Ok(parts) = self.connector.attach() else {
            generation
                .retry_at
                .store(now.saturating_add(RETRY_NS), Ordering::Relaxed);
            return Err(Reason::NoDaemon);
        };
        for fd in parts.own_fds.iter().chain(&parts.nic_fds) {
            let _: bool = self.table.store(*fd, Entry::Ours);
        }
        let Ok(attachment) = Attachment::new(self.os, parts, self.table) else {
            return Err(Reason::NoDaemon);
        };
        let _: bool = self.table.store(attachment.wake_tx, Entry::Ours);
        self.ever_attached.store(true, Ordering::Relaxed);
        // Leaked on purpose: threads use it without a reference count until the process ends.
        let attachment = &*Box::leak(Box::new(attachment));
        if index > 0 {
            // Before anybody can wait on them: they must not end with the parent.
            self.epolls.hold_all(self, attachment);
        }
        Ok(generation.attachment.get_or_init(|| attachment))
    }

    /// From here on forks are counted.
    #[inline]
    pub(crate) fn begin(&self) {
        if !self.lineage.begun.load(Ordering::Relaxed) {
            self.lineage.begun.store(true, Ordering::SeqCst);
        }
    }

    /// Counts forks; a descriptor made in an earlier generation may have other holders.
    pub fn fork_generation(&self) -> u32 {
        self.lineage.fork_generation.load(Ordering::Acquire)
    }

    /// Another process may hold copies of our descriptors from now on (`fork`, `vfork`, `posix_spawn`, ..).
    #[inline(always)]
    pub fn note_fork(&self) {
        if self.lineage.begun.load(Ordering::SeqCst) {
            let _: u32 = self.lineage.fork_generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// True when there is nothing that a fork in the parent has to see to, or has begun to.
    #[inline(always)]
    pub fn is_untouched(&self) -> bool {
        let line = &self.lineage;
        !line.begun.load(Ordering::SeqCst) && !line.holds_sets.load(Ordering::Relaxed)
    }

    /// Runs before `fork`: no private table may be half changed when the child gets its copy. A process with one thread
    /// that [`is_untouched`](Self::is_untouched) has none, and need not call this.
    #[inline(always)]
    pub fn before_fork(&self) {
        self.ripen_before_fork();
        // Counted here, too: another thread that closes a descriptor while the child is being made is not the last holder. Not
        // before the marks are made: only what has one holder gets one.
        self.note_fork();
        if let Some(att) = self.attached() {
            att.share();
        }
        self.epolls.before_fork(self.os);
        self.lineage.holds_sets.store(true, Ordering::Relaxed);
    }

    /// `fork` is over, here.
    #[inline(always)]
    fn let_sets_go(&self) {
        if self.lineage.holds_sets.load(Ordering::Relaxed) {
            self.lineage.holds_sets.store(false, Ordering::Relaxed);
            self.epolls.after_fork();
            self.lineage.ripening.unlock();
        }
    }

    /// Runs in the parent after `fork`.
    #[inline(always)]
    pub fn after_fork_in_parent(&self) {
        self.note_fork();
        self.let_sets_go();
    }

    /// Runs in the child after `fork`: private state starts anew, the shared memory stays in use. The stack lock is
    /// left alone: if it is held, then by a live thread of the parent.
    #[inline(always)]
    pub fn after_fork_in_child(&self, pid: i32) {
        self.lineage.pid.store(pid, Ordering::Release);
        if !self.lineage.begun.load(Ordering::SeqCst) {
            self.let_sets_go();
            return;
        }
        crate::enter::reset();
        self.epolls.forget_threads();
        self.note_fork();
        let _: u32 = self.lineage.current.fetch_add(1, Ordering::AcqRel);
        self.let_sets_go();
    }
}
