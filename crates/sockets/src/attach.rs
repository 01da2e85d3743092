//! One stack, as this process uses it: the shared memory, the V-NICs, and the ways to the daemon and the keeper.
//! Here the stack lock is taken; `wishes.rs` carries out what the stack wants done then.

mod bells;
mod lease;
mod name;
mod nics;
mod outgoing;
mod sharing;
mod wishes;

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use flyover_core::effects::Effects;
use flyover_core::stack::Stack;
use flyover_core::stack::locked::{Env, Locked};
use flyover_core::time::Instant;
use flyover_core::{Handover, Outbox, SockId, SockRef};
use flyover_cplane::Reader;
use flyover_vnic::Vnic;
use flyover_wire::{Endpoint, Ip};

use crate::errno::Errno;
use crate::fdtable::FdTable;
use crate::life::adopt::Terms;
use crate::os::Os;
use crate::wait::pins::Pins;
use crate::wait::sleep::Sleepers;
use nics::{HeldNics, Nics};

pub use name::wake_name;

/// Why the daemon did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DaemonError {
    /// Nobody there, or the connection broke.
    Absent,
    /// It said no.
    Refused,
    /// It said no, because somebody else has the flow.
    Conflict,
}

/// A flow that the V-NICs are to deliver to the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// IP protocol number.
    pub proto: u8,
    /// Local address and port.
    pub local: Endpoint,
    /// Peer, for a connection.
    pub remote: Option<Endpoint>,
    /// IPv4 as well as IPv6.
    pub dual: bool,
}

/// A connection that the kernel gave up.
#[derive(Clone, Copy, Debug)]
pub struct TakenOver {
    /// The connection.
    pub image: Handover,
    /// The filter that steers it to the stack.
    pub filter: u32,
    /// A file with its bytes, those not read before those from SND.UNA on; the receiver closes it.
    pub data: Option<i32>,
}

/// The connection to `flyoverd`.
pub trait Daemon: Send {
    /// Steers a flow to the stack; `proof` is the kernel socket that holds the port. Returns the filter's number.
    ///
    /// # Errors
    /// Any [`DaemonError`].
    fn add_filter(&mut self, flow: Flow, proof: i32) -> Result<u32, DaemonError>;
    /// Steers it no longer.
    fn del_filter(&mut self, id: u32);
    /// The local ports of `ip` that the stack is lent under number `lease`; more than `have` if it can be.
    ///
    /// # Errors
    /// Any [`DaemonError`].
    fn lend(&mut self, ip: Ip, have: u32, lease: u64) -> Result<Vec<u16>, DaemonError> {
        let _: (Ip, u32, u64) = (ip, have, lease);
        Err(DaemonError::Refused)
    }
    /// Lets it take these connections only: their listener has ended.
    fn narrow(&mut self, id: u32, to: &[(Endpoint, Endpoint)]);
    /// Lets the kernel go on with a frozen connection on its kernel socket `fd`; the file `data` holds its bytes, those
    /// not read before those not acknowledged. Returns the number of the exception that keeps the flow with the kernel.
    ///
    /// # Errors
    /// Any [`DaemonError`]; the socket is as it was then.
    fn handover(
        &mut self,
        image: &Handover,
        fd: i32,
        data: Option<i32>,
    ) -> Result<u32, DaemonError>;
    /// Looks whether the packets of a connection that the kernel has come in where the stack receives, and, for `sole`,
    /// whether a process outside the stack holds it; `fd` is its socket. Returns the number of an exception that keeps it
    /// with the kernel.
    ///
    /// # Errors
    /// Any [`DaemonError`].
    fn watch(
        &mut self,
        local: Endpoint,
        remote: Endpoint,
        sole: bool,
        fd: i32,
    ) -> Result<u32, DaemonError> {
        let _: (Endpoint, Endpoint, bool, i32) = (local, remote, sole, fd);
        Err(DaemonError::Refused)
    }
    /// Has the kernel give up a connection, whose mark is frozen; `fd` is its socket, `pass` the exception that keeps it
    /// with the kernel (0: none).
    ///
    /// # Errors
    /// What the daemon says; the kernel has it as before then.
    fn takeover(
        &mut self,
        local: Endpoint,
        remote: Endpoint,
        pass: u32,
        terms: Terms,
        fd: i32,
    ) -> Result<TakenOver, String> {
        let _: (Endpoint, Endpoint, u32, Terms, i32) = (local, remote, pass, terms, fd);
        Err("the daemon cannot do that".to_owned())
    }
    /// A descriptor of the other end of a connection within this host, whose own end is `fd`; `inode` is its number.
    fn borrow_end(&mut self, inode: u32, fd: i32) -> Option<i32> {
        let _: (u32, i32) = (inode, fd);
        None
    }
    /// Has the kernel resolve a neighbour.
    fn resolve(&mut self, ifindex: u32, ip: Ip);
    /// Waits until what was asked for before has been done.
    fn settle(&mut self) {}
    /// Another daemon has taken the stack over: connects to it. False when that has to be tried again.
    fn meet(&mut self) -> bool {
        true
    }
}

/// The channel to the stack's keeper.
pub trait Keeper: Send + Sync {
    /// Have the keeper watch the kernel socket behind an endpoint.
    fn reg_os(&self, sock: SockRef, listen: bool, fd: i32);
    /// Have it hold the kernel socket until the endpoint is gone.
    fn park(&self, sock: SockRef, fd: i32);
    /// The endpoint is gone.
    fn unpark(&self, sock: SockRef);
    /// Wake it: an earlier deadline was armed.
    fn poke(&self);
}

/// Makes the V-NIC at an index of the stack's table; called once per lock context.
pub type NicMaker = dyn Fn(usize) -> Option<Box<dyn Vnic + Send>> + Send + Sync;

/// What attaching brought.
pub struct Parts {
    /// Number of the stack, part of the names of wake sockets.
    pub stack_id: u32,
    /// Owner slot of this process.
    pub owner: u16,
    /// The shared memory.
    pub stack: Stack<'static>,
    /// The control plane.
    pub cplane: Reader<'static>,
    /// The way to the daemon.
    pub daemon: Box<dyn Daemon>,
    /// The way to the keeper.
    pub keeper: Box<dyn Keeper>,
    /// How many V-NICs there are.
    pub nic_count: usize,
    /// Makes them.
    pub nics: Box<NicMaker>,
    /// Interface of each V-NIC.
    pub nic_ifindex: Vec<u32>,
    /// Descriptors that become readable when a frame arrives.
    pub nic_fds: Vec<i32>,
    /// As [`Attachment::tx_fds`].
    pub tx_fds: Vec<i32>,
    /// As [`Attachment::local_only`].
    pub local_only: bool,
    /// As [`Attachment::shared`].
    pub shared: bool,
    /// Further descriptors of the library's own.
    pub own_fds: Vec<i32>,
}

impl core::fmt::Debug for Parts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Parts")
            .field("stack_id", &self.stack_id)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// How a process gets at a stack: the daemon's client in the preload, a heap stack in tests.
pub trait Connector: Send + Sync {
    /// Attaches; called at the first socket that could be accelerated, and again after `fork`.
    ///
    /// # Errors
    /// Any [`DaemonError`]; the socket then stays with the kernel.
    fn attach(&self) -> Result<Parts, DaemonError>;
}

/// What a thread needs besides the V-NICs to hold the lock. Threads take any free one, so as many are in use as
/// threads that hold or want the lock at the same time, and nothing has to be freed when a thread ends.
struct Context {
    fx: Effects,
    rng: u64,
}

thread_local! {
    /// The context that this thread tries first.
    static HINT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// More threads than this that want the lock in the same instant wait for one another.
const CONTEXTS: usize = 64;

/// A stack in use. Lives as long as the process (it is leaked), because any thread may be inside.
pub struct Attachment {
    /// The shared memory.
    pub stack: Stack<'static>,
    /// The control plane.
    pub cplane: Reader<'static>,
    /// Owner slot.
    pub me: u16,
    /// Number of the stack.
    pub stack_id: u32,
    /// The operating system.
    pub os: &'static dyn Os,
    /// Interface of each V-NIC.
    pub nic_ifindex: Vec<u32>,
    /// Descriptors of the V-NICs.
    pub nic_fds: Vec<i32>,
    /// Descriptor of the V-NIC at each index of the stack's table; -1: this process has none there.
    pub tx_fds: Vec<i32>,
    /// The stack is of an ordinary user's daemon: it has no V-NIC and never gets one; nothing but the local path can be
    /// had, and the daemon refuses filters, handovers and takeovers.
    pub local_only: bool,
    /// Processes of other users or containers may be in the stack.
    pub shared: bool,
    /// The keeper.
    pub keeper: Box<dyn Keeper>,
    /// Threads that sleep, and what they sleep with.
    pub sleepers: Sleepers,
    /// What they hold meanwhile.
    pub(crate) pins: Pins,
    /// The process's descriptors.
    pub(crate) table: FdTable,
    /// Queues of pairs that were read empty lately.
    pub(crate) drained: crate::local::fast::Drained,
    daemon: Mutex<Box<dyn Daemon>>,
    contexts: Box<[Mutex<Context>]>,
    hint: AtomicU32,
    nics: Mutex<Nics>,
    make_nic: Box<NicMaker>,
    nic_count: usize,
    /// The count of daemons of the stack when its daemon was last spoken to.
    daemons: AtomicU64,
    /// Socket from which wakes are sent.
    pub wake_tx: i32,
    /// The keeper did not answer when the reports of ends were asked for: it is not waited for before this time, ns.
    reports_late: AtomicU64,
    bells: bells::Bells,
    outgoing: outgoing::Outgoing,
    lent: lease::Lent,
}

impl core::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Attachment")
            .field("stack_id", &self.stack_id)
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

impl Attachment {
    /// Puts the parts together.
    ///
    /// # Errors
    /// What `socket(2)` says for the wake socket.
    pub fn new(os: &'static dyn Os, parts: Parts, table: FdTable) -> Result<Self, Errno> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let wake_tx = crate::os::move_high(os, os.socket(libc::AF_UNIX, kind, 0)?)?;
        let seed = os.entropy();
        let mut rooms = outgoing::rooms(parts.nic_count);
        let context = |i: usize| {
            let rng = seed.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
            let mut fx = Effects::new();
            fx.outbox = rooms.next().map_or(Outbox::closed(), Outbox::open);
            Mutex::new(Context { fx, rng })
        };
        Ok(Self {
            daemons: AtomicU64::new(parts.stack.daemons()),
            stack: parts.stack,
            cplane: parts.cplane,
            me: parts.owner,
            stack_id: parts.stack_id,
            os,
            nic_ifindex: parts.nic_ifindex,
            nic_fds: parts.nic_fds,
            tx_fds: parts.tx_fds,
            local_only: parts.local_only,
            shared: parts.shared,
            keeper: parts.keeper,
            sleepers: Sleepers::new(),
            pins: Pins::default(),
            table,
            drained: crate::local::fast::Drained::default(),
            daemon: Mutex::new(parts.daemon),
            contexts: (0..CONTEXTS).map(context).collect(),
            hint: AtomicU32::new(0),
            nics: Mutex::new(Nics::default()),
            make_nic: parts.nics,
            nic_count: parts.nic_count,
            wake_tx,
            reports_late: AtomicU64::new(0),
            bells: bells::Bells::default(),
            outgoing: outgoing::Outgoing::default(),
            lent: lease::Lent::default(),
        })
    }

    /// The daemon, one caller at a time.
    pub fn daemon<R>(&self, f: impl FnOnce(&mut dyn Daemon) -> R) -> R {
        let mut guard = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
        f(guard.as_mut())
    }

    fn context(&self) -> MutexGuard<'_, Context> {
        let start = HINT.with(|h| {
            if h.get() == usize::MAX {
                h.set(self.hint.fetch_add(1, Ordering::Relaxed) as usize % CONTEXTS);
            }
            h.get()
        });
        loop {
            let free = (0..CONTEXTS).find_map(|i| {
                match self.contexts.get((start + i) % CONTEXTS)?.try_lock() {
                    Ok(g) => Some(g),
                    Err(TryLockError::Poisoned(p)) => Some(p.into_inner()),
                    Err(TryLockError::WouldBlock) => None,
                }
            });
            match free {
                Some(g) => return g,
                None => core::hint::spin_loop(),
            }
        }
    }

    /// Runs `f` with the stack lock, waiting for it as long as it takes.
    pub fn locked<R>(&self, f: impl FnOnce(&mut Locked<'_, '_, 'static>) -> R) -> R {
        let mut guard = self.context();
        let c = &mut *guard;
        let mut f = Some(f);
        let out = loop {
            self.acquire();
            let mut nics = HeldNics::new(self);
            let mut env = self.environment(&mut nics, c);
            let locked = self.stack.assume_locked(&mut env);
            if let (Some(mut l), Some(f)) = (locked, f.take()) {
                break f(&mut l);
            }
        };
        self.perform(&mut c.fx);
        out
    }

    /// Runs `f` with the stack lock if nobody holds it.
    pub fn try_locked<R>(&self, f: impl FnOnce(&mut Locked<'_, '_, 'static>) -> R) -> Option<R> {
        if self.stack.lock().owner().is_some() {
            return None;
        }
        let mut guard = self.context();
        let c = &mut *guard;
        let out = {
            let mut nics = HeldNics::new(self);
            let mut env = self.environment(&mut nics, c);
            self.stack.try_lock(&mut env).map(|mut l| f(&mut l))
        };
        self.perform(&mut c.fx);
        out
    }

    /// Does `work` for `id`, or leaves it to whoever holds the lock.
    pub fn work(&self, id: SockId, work: u32) {
        let mut guard = self.context();
        let c = &mut *guard;
        {
            let mut nics = HeldNics::new(self);
            let mut env = self.environment(&mut nics, c);
            drop(self.stack.lock_or_defer(&mut env, id, work));
        }
        self.perform(&mut c.fx);
    }

    fn environment<'e>(&'e self, nics: &'e mut HeldNics<'_>, c: &'e mut Context) -> Env<'e> {
        // xorshift64: spreads the entropy that was taken once from the kernel.
        c.rng ^= c.rng << 13;
        c.rng ^= c.rng >> 7;
        c.rng ^= c.rng << 17;
        let now = Instant(self.os.now());
        c.fx.outbox.pause(self.outgoing.refused_lately(now));
        Env {
            now,
            nics,
            cp: self.cplane,
            fx: &mut c.fx,
            me: self.me,
            rng: c.rng,
        }
    }

    /// Handles what the V-NICs received, unless somebody else is at it. True when it was done.
    pub fn poll(&self, budget: u32) -> bool {
        self.try_locked(|l| l.poll(budget)).is_some()
    }

    /// True when packets can come by a V-NIC of this process.
    #[inline]
    pub(crate) fn has_nics(&self) -> bool {
        self.nic_count != 0
    }

    /// The endpoint whose kernel socket has this cookie.
    pub fn find_cookie(&self, cookie: u64) -> Option<SockRef> {
        self.stack.sock_by_cookie(cookie)
    }

    fn acquire(&self) {
        let lock = self.stack.lock();
        let mut spins = 0u32;
        while !lock.try_lock(self.me) {
            if spins < LOCK_SPINS {
                spins += 1;
                core::hint::spin_loop();
                continue;
            }
            // Announce, look again, sleep: whoever unlocks after the announcement moves the word and wakes.
            if let Some(seen) = lock.note_waiter() {
                self.os.futex_wait(lock.seq.as_atomic(), seen, LOCK_NAP);
            }
        }
    }
}

/// How often a thread looks at the taken lock before it sleeps: about 2 us, longer than most holders need.
const LOCK_SPINS: u32 = 400;
/// A sleeper looks at the lock again after this time, ns, in case its owner died.
const LOCK_NAP: u64 = 50_000_000;
