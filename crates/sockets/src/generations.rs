//! The attached stack, and what `fork` changes about it: a child is a process of its own to the daemon, attaches when it
//! first needs to, and uses the same memory.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::attach::Attachment;
use crate::entry::Entry;
use crate::policy::Reason;
use crate::process::Sockets;

/// How many times a process line may fork and still use stacks: each child that touches a socket takes one.
pub(crate) const GENERATIONS: usize = 256;
/// How long an absent daemon is not asked again, ns.
const RETRY_NS: u64 = 5_000_000_000;

/// One generation of forks.
#[derive(Default)]
pub(crate) struct Generation {
    attachment: OnceLock<&'static Attachment>,
    attaching: Mutex<()>,
    retry_at: AtomicU64,
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

impl Sockets {
    /// The stack, if one is attached.
    #[inline]
    pub fn attached(&self) -> Option<&'static Attachment> {
        self.generations
            .get(self.current.load(Ordering::Acquire) as usize)?
            .attachment
            .get()
            .copied()
    }

    /// The stack's memory as it is mapped here, be it only by an ancestor that forked this process: to look at.
    pub(crate) fn mapped(&self) -> Option<&'static Attachment> {
        let current = self.current.load(Ordering::Acquire) as usize;
        let seen = self.generations.get(..=current)?.iter().rev();
        seen.filter_map(|g| g.attachment.get().copied()).next()
    }

    /// True when this process or its ancestors ever had a stack: an exec'd program must look for its sockets.
    pub fn ever_attached(&self) -> bool {
        self.ever_attached.load(Ordering::Relaxed)
    }

    /// The stack, attached now if it was not.
    pub fn attach(&self) -> Result<&'static Attachment, Reason> {
        if !self.settings.accelerate {
            return Err(Reason::Disabled);
        }
        let index = self.current.load(Ordering::Acquire) as usize;
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

    /// Counts forks; a descriptor made in an earlier generation may have other holders.
    pub fn fork_generation(&self) -> u32 {
        self.fork_generation.load(Ordering::Acquire)
    }

    /// Another process may hold copies of our descriptors from now on (`fork`, `vfork`, `posix_spawn`, ..).
    #[inline(always)]
    pub fn note_fork(&self) {
        let _: u32 = self.fork_generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Runs before `fork`: no private table may be half changed when the child gets its copy.
    #[inline(always)]
    pub fn before_fork(&self) {
        self.epolls.before_fork(self.os);
    }

    /// Runs in the parent after `fork`.
    #[inline(always)]
    pub fn after_fork_in_parent(&self) {
        self.epolls.after_fork();
        self.note_fork();
    }

    /// Runs in the child after `fork`: private state starts anew, the shared memory stays in use. The stack lock is
    /// left alone: if it is held, then by a live thread of the parent.
    #[inline(always)]
    pub fn after_fork_in_child(&self, pid: i32) {
        crate::enter::reset();
        self.epolls.after_fork();
        self.epolls.forget_threads();
        self.note_fork();
        let _: u32 = self.current.fetch_add(1, Ordering::AcqRel);
        self.pid.store(pid, Ordering::Release);
    }
}
