//! The epoll sets of a process: which descriptors are members of which set. How members move between the kernel's set
//! and the stack's is in `members`, sets in sets in `nested`.

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use flyover_core::SockRef;
use flyover_core::stack::wake::{ItemId, ItemMode, SetId};
use flyover_shm::Idx;

use crate::errno::Errno;
use crate::os::{EpollEvent, Os};
use crate::process::Sockets;
use crate::wait::nested::Links;

/// Epoll sets come in pieces of this many.
const CHUNK: usize = 64;
/// Pieces come in shelves of this many. Nothing is made before it is needed: every `fork` and every new program would
/// pay for it.
const SHELF: usize = 128;
/// Shelves: a set for every descriptor that a process may have under the usual hard limit.
const SHELVES: usize = (1 << 20) / CHUNK / SHELF;
/// Bits of the events that say how, not what, to watch.
pub(super) const FLAGS: u32 =
    (libc::EPOLLET | libc::EPOLLONESHOT | libc::EPOLLEXCLUSIVE | libc::EPOLLWAKEUP) as u32;

/// A member that is, or may become, accelerated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) event: EpollEvent,
    /// None: a fresh socket, still in the kernel's set.
    pub(super) ours: Option<(SockRef, ItemId)>,
}

/// Descriptor numbers are their own hash.
#[derive(Default)]
pub(super) struct FdHasher(u64);

impl Hasher for FdHasher {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0 << 8 | u64::from(*b);
        }
    }

    fn write_i32(&mut self, fd: i32) {
        self.0 = fd as u64;
    }
}

pub(super) type Members = HashMap<i32, Member, BuildHasherDefault<FdHasher>>;

/// One epoll descriptor.
#[derive(Default)]
pub(super) struct EpollSet {
    /// The stack's ready set: 1 + index, 0 while there is none.
    pub(super) set: AtomicU32,
    /// Which life of that.
    pub(super) life: AtomicU32,
    /// Everything in it is to be with the kernel: it was passed to a process that we know nothing of.
    pub(super) left: AtomicBool,
    /// A descriptor number of the kernel's set: the one that was last used.
    pub(super) epfd: AtomicI32,
    /// Descriptor numbers of this process that mean the set.
    refs: AtomicU32,
    /// Kernel members added and not removed. More than the truth when members were closed; never less.
    pub(super) kernel_members: AtomicU32,
    /// Threads that wait in the kernel because there were no accelerated members when they began.
    pub(super) in_kernel: AtomicU32,
    /// An eventfd in the kernel's set that makes those come out, 1 + number; 0 when there is none.
    pub(super) kick: AtomicI32,
    /// Threads that sleep on the set, and of those the ones that watch the kernel's half.
    pub(super) asleep: AtomicU32,
    pub(super) watchers: AtomicU32,
    /// When the kernel's half was last looked at, ns, and how many looks more because that paid off.
    pub(super) looked: AtomicU64,
    pub(super) hot: AtomicU32,
    /// Whose turn it is to have a place that the halves cannot share, 1: the kernel's.
    pub(super) odd: AtomicU32,
    /// How many connections of the stack had come back from the kernel when members were last looked for among them.
    pub(super) returns: AtomicU64,
    /// Sets in sets.
    pub(super) links: Links,
    members: Mutex<Members>,
}

impl EpollSet {
    /// The life of the stack's set that is meant.
    pub(super) fn life(&self) -> u32 {
        self.life.load(Ordering::Acquire)
    }

    pub(super) fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> Option<SetId> {
        self.set
            .load(Ordering::Acquire)
            .checked_sub(1)
            .map(Idx::new)
    }

    fn let_go(&self, sockets: &Sockets) {
        if let Some((id, att)) = self.id().zip(sockets.attached()) {
            att.locked(|l| l.set_let_go(id, self.life()));
        }
    }

    pub(super) fn kernel_joined(&self) {
        let _: u32 = self.kernel_members.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn kernel_left(&self) {
        let less = |n: u32| n.checked_sub(1);
        let _: Result<u32, u32> =
            self.kernel_members
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// A new life under the number `epfd`.
    pub(super) fn start(&self, epfd: i32) {
        self.set.store(0, Ordering::Release);
        self.epfd.store(epfd, Ordering::Release);
        self.refs.store(1, Ordering::Release);
        for n in [
            &self.kernel_members,
            &self.in_kernel,
            &self.asleep,
            &self.watchers,
            &self.hot,
        ] {
            n.store(0, Ordering::Release);
        }
        self.looked.store(0, Ordering::Relaxed);
        self.returns.store(0, Ordering::Relaxed);
        self.left.store(false, Ordering::Release);
    }
}

/// A lock without owner: may be taken before `fork` and released on both sides of it.
#[derive(Default)]
pub(crate) struct Gate(AtomicU32);

impl Gate {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    #[inline]
    pub(crate) fn lock(&self, os: &dyn Os) {
        let mut spins = 0u32;
        while self
            .0
            .compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            spins += 1;
            if spins > 100 {
                os.futex_wait(&self.0, 1, 1_000_000);
            }
            core::hint::spin_loop();
        }
    }

    #[inline]
    pub(crate) fn unlock(&self) {
        self.0.store(0, Ordering::Release);
    }
}

type Chunk = OnceLock<Box<[EpollSet]>>;

/// All epoll sets of the process.
pub struct EpollTable {
    shelves: [OnceLock<Box<[Chunk]>>; SHELVES],
    used: AtomicU32,
    free: Mutex<Vec<u32>>,
    word: OnceLock<u64>,
    /// Held for every change of membership, so that `fork` finds the tables whole.
    pub(super) gate: Gate,
}

impl core::fmt::Debug for EpollTable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EpollTable")
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl Default for EpollTable {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) fn mode(events: u32) -> ItemMode {
    ItemMode {
        edge: events & libc::EPOLLET as u32 != 0,
        oneshot: events & libc::EPOLLONESHOT as u32 != 0,
        exclusive: events & libc::EPOLLEXCLUSIVE as u32 != 0,
        ..ItemMode::default()
    }
}

impl EpollTable {
    /// No sets.
    pub fn new() -> Self {
        Self {
            shelves: [const { OnceLock::new() }; SHELVES],
            used: AtomicU32::new(0),
            free: Mutex::new(Vec::new()),
            word: OnceLock::new(),
            gate: Gate::default(),
        }
    }

    /// The word under which the library's own descriptors are members of the kernel's sets. It is drawn by lot, so that
    /// no program has it among its own words but by a chance of one in 2^64.
    pub(super) fn own_word(&self, os: &dyn Os) -> u64 {
        *self.word.get_or_init(|| os.entropy())
    }

    pub(super) fn is_own_word(&self, data: u64) -> bool {
        self.word.get() == Some(&data)
    }

    pub(super) fn at(&self, index: u32) -> Option<&EpollSet> {
        let i = index as usize;
        let shelf = self.shelves.get(i / CHUNK / SHELF)?.get()?;
        shelf.get(i / CHUNK % SHELF)?.get()?.get(i % CHUNK)
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &EpollSet> {
        (0..self.used.load(Ordering::Acquire)).filter_map(|i| self.at(i))
    }

    /// A set for the new epoll descriptor. The gate is held.
    pub(super) fn allocate(&self, epfd: i32) -> Option<u32> {
        let recycled = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let index = recycled.unwrap_or_else(|| self.used.load(Ordering::Acquire));
        let i = index as usize;
        let shelf = self
            .shelves
            .get(i / CHUNK / SHELF)?
            .get_or_init(|| (0..SHELF).map(|_| OnceLock::new()).collect());
        let chunk = shelf
            .get(i / CHUNK % SHELF)?
            .get_or_init(|| (0..CHUNK).map(|_| EpollSet::default()).collect());
        chunk.get(i % CHUNK)?.start(epfd);
        if recycled.is_none() {
            self.used.store(index + 1, Ordering::Release);
        }
        Some(index)
    }

    /// The set has accelerated members, or had some, or has such a set among its members.
    pub fn has_ours(&self, index: u32) -> bool {
        self.at(index).is_some_and(|s| s.id().is_some())
    }

    /// `fork` begins: no change of membership may be under way.
    #[inline(always)]
    pub fn before_fork(&self, os: &dyn Os) {
        self.gate.lock(os);
    }

    /// `fork` is over, in the parent or in the child.
    #[inline(always)]
    pub fn after_fork(&self) {
        self.gate.unlock();
    }

    /// The child has none of the threads that wait.
    #[inline(always)]
    pub fn forget_threads(&self) {
        if self.used.load(Ordering::Acquire) == 0 {
            return;
        }
        for set in self.each() {
            for n in [&set.in_kernel, &set.asleep, &set.watchers] {
                n.store(0, Ordering::Release);
            }
        }
    }

    /// Another descriptor number means the set.
    pub(crate) fn copied(&self, index: u32) {
        if let Some(set) = self.at(index) {
            let _: u32 = set.refs.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The epoll descriptor `fd` is being closed.
    pub(crate) fn close(&self, sockets: &Sockets, index: u32, fd: i32) {
        let Some(set) = self.at(index) else { return };
        if set.refs.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        self.gate.lock(sockets.os);
        set.members().clear();
        if !sockets.is_sole_holder(fd) {
            // The kernel's set lives on with others; what is ours in it belongs to them.
            set.let_go(sockets);
            set.set.store(0, Ordering::Release);
            self.gate.unlock();
            return;
        }
        self.unlink(sockets, index, set);
        set.let_go(sockets);
        self.take_kick_away(sockets, set);
        set.start(-1);
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(index);
        self.gate.unlock();
    }

    /// Takes the descriptor away that makes threads come out of the kernel.
    pub(super) fn take_kick_away(&self, sockets: &Sockets, set: &EpollSet) {
        let fd = set.kick.swap(0, Ordering::AcqRel) - 1;
        if fd < 0 {
            return;
        }
        let epfd = set.epfd.load(Ordering::Acquire);
        let _: Result<(), Errno> = sockets.os.epoll_ctl(epfd, libc::EPOLL_CTL_DEL, fd, None);
        sockets.close_own(fd);
    }
}
