//! The stack that the keeper serves: its memory and V-NICs in this process, its lock, and what its wishes come to.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use flyover_config::StackOpts;
use flyover_core::sock::flag;
use flyover_core::{
    Effect, Effects, Env, Instant, Locked, NicSet, SockRef, Stack, Unfinished, WaiterId,
};
use flyover_cplane::{Dims, Reader};
use flyover_proto::{Connection, FdBag, MAX_NARROW, NicDesc};
use flyover_shm::host::{Map, futex_wait, futex_wake};
use flyover_vnic::{NicState, PacketGeometry, PacketNic, Vnic, XdpGeometry, XdpNic};
use flyover_wire::Ip;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with,
};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

/// Owner slot of the keeper.
const ME: u16 = 0;
/// How often the keeper looks at a taken lock before it sleeps on it.
const SPINS: u32 = 200;
/// How long it sleeps on the lock at a time, and how often, before it does something else.
const NAP: Duration = Duration::from_millis(2);
const NAPS: u32 = 10;
/// Frames of each V-NIC in one poll, and polls in a row before everything else is looked after.
const BUDGET: u32 = 64;
const ROUNDS: u32 = 8;

/// `CLOCK_MONOTONIC`, ns: the clock of every process of the stack.
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let sec = u64::try_from(now.tv_sec).unwrap_or(0);
    sec.saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// What the stack wishes that only others can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Ask the daemon to make the kernel resolve a neighbour.
    Resolve {
        /// Its interface.
        ifindex: u32,
        /// Its address.
        ip: Ip,
    },
    /// Ask the daemon to remove a filter.
    DelFilter(u32),
    /// Let a filter take these connections only.
    Narrow(u32, Vec<Connection>),
    /// Close the kernel socket parked for an endpoint.
    CloseParked(SockRef),
}

/// A V-NIC in this process.
struct Nic {
    desc: NicDesc,
    /// A second descriptor of its socket, to sleep on.
    fd: OwnedFd,
    /// The memory of an AF_XDP socket's frames, for the next daemon.
    umem: Option<OwnedFd>,
    vnic: Box<dyn Vnic>,
}

/// The V-NICs; the index is that of the stack's table.
#[derive(Default)]
struct Nics(Vec<Option<Nic>>);

impl NicSet for Nics {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn nic(&mut self, i: usize) -> Option<&mut dyn Vnic> {
        match self.0.get_mut(i)? {
            Some(nic) => Some(nic.vnic.as_mut()),
            None => None,
        }
    }
}

/// See the module.
pub struct Served {
    stack: Stack<'static>,
    stack_id: u32,
    cplane: Reader<'static>,
    tables: &'static Map,
    dims: Dims,
    nics: Nics,
    fx: Effects,
    rng: u64,
    /// Sends wakes.
    waker: OwnedFd,
    /// The dead owner after whom buffers are still to be sorted out.
    unmended: Option<u16>,
    /// Wishes that the loop passes on.
    pub wishes: Vec<Wish>,
}

impl Served {
    /// Maps the memories. They stay mapped as long as the process lives.
    ///
    /// # Errors
    /// As mmap(2), or options and dimensions that make no sense.
    pub fn new(
        stack_id: u32,
        (stack, stack_len, opts): (BorrowedFd<'_>, u64, &[u64]),
        (cplane, cplane_len, dims): (BorrowedFd<'_>, u64, &[u64]),
    ) -> io::Result<Self> {
        let opts = StackOpts::from_words(opts).map_err(|e| io::Error::other(e.to_string()))?;
        let dims = Dims::from_words(dims).ok_or(io::ErrorKind::InvalidInput)?;
        let size = |len: u64| usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput);
        let region = Map::rw(stack, size(stack_len)?)?.leak();
        let stack =
            Stack::new(region, &opts).map_err(|_| io::Error::other("stack memory too small"))?;
        let tables: &'static Map = Box::leak(Box::new(Map::ro(cplane, size(cplane_len)?)?));
        let cplane = Reader::new(tables.region(), &dims).map_err(io::Error::other)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let waker = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        let [rng] = entropy()?;
        Ok(Self {
            stack,
            stack_id,
            cplane,
            tables,
            dims,
            nics: Nics::default(),
            fx: Effects::new(),
            rng: rng | 1,
            waker,
            unmended: None,
            wishes: Vec::new(),
        })
    }

    /// Initialises new memory.
    ///
    /// # Errors
    /// No entropy.
    pub fn init(&self) -> io::Result<()> {
        self.stack.init(Instant(monotonic()), entropy()?);
        Ok(())
    }

    /// The stack.
    pub fn stack(&self) -> Stack<'static> {
        self.stack
    }

    /// Puts the tables of another daemon in the place of those of the one before.
    ///
    /// # Errors
    /// They are of other sizes; as mmap(2).
    pub fn replace_tables(&self, fd: BorrowedFd<'_>, len: u64, dims: &[u64]) -> io::Result<()> {
        if len != self.tables.size() as u64 || Dims::from_words(dims) != Some(self.dims) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(self.tables.replace(fd)?)
    }

    /// Number of the stack.
    pub fn stack_id(&self) -> u32 {
        self.stack_id
    }

    /// The V-NICs for a message, and their descriptors.
    pub fn nic_list(&self) -> (Vec<NicDesc>, Vec<BorrowedFd<'_>>) {
        let nics = || self.nics.0.iter().flatten();
        let fds = nics().flat_map(|nic| std::iter::once(&nic.fd).chain(&nic.umem));
        (
            nics().map(|nic| nic.desc.clone()).collect(),
            fds.map(|fd| fd.as_fd()).collect(),
        )
    }

    /// The filters of listeners that have ended while connections of theirs go on, which the filters are to be narrowed to.
    pub fn narrow_orphans(&mut self) {
        let stack = self.stack;
        let shells = stack.each_sock().filter(|sock| {
            stack.net_of(sock.id).is_some_and(|s| {
                s.has(flag::ORPHAN) && s.filter.get() != 0 && s.net.children.get() > 0
            })
        });
        for listener in shells {
            self.narrow(stack.sock(listener.id).filter.get(), listener);
        }
    }

    fn narrow(&mut self, filter: u32, listener: SockRef) {
        let flows = self.stack.child_flows(listener).take(MAX_NARROW + 1);
        let to: Vec<_> = flows
            .map(|(local, remote)| Connection { local, remote })
            .collect();
        if to.len() <= MAX_NARROW {
            self.wishes.push(Wish::Narrow(filter, to));
        }
    }

    /// Replaces the V-NICs. Those that stay the same are kept; a slot that gets another one starts afresh, unless the
    /// keeper itself is new to it (`adopt`). False when the lock could not be had: try again.
    ///
    /// # Errors
    /// A V-NIC whose descriptors are missing or cannot be mapped is left out; the last such error.
    pub fn set_nics(
        &mut self,
        nic_gen: u32,
        list: &[NicDesc],
        fds: &mut FdBag,
        adopt: bool,
    ) -> io::Result<()> {
        let mut old = std::mem::take(&mut self.nics.0);
        let mut worst = Ok(());
        for desc in list {
            let sock = fds.pop();
            let umem = if desc.fd_count() == 2 {
                fds.pop()
            } else {
                None
            };
            let slot = usize::from(desc.slot);
            let kept = old
                .get_mut(slot)
                .and_then(Option::take)
                .filter(|nic| nic.desc == *desc);
            let made = match (kept, sock) {
                (Some(nic), _) => Ok(nic),
                (None, Some(sock)) => self.attach(desc, sock, umem, adopt),
                (None, None) => Err(io::ErrorKind::UnexpectedEof.into()),
            };
            match made {
                Ok(nic) => {
                    if self.nics.0.len() <= slot {
                        self.nics.0.resize_with(slot + 1, || None);
                    }
                    self.nics.0[slot] = Some(nic);
                }
                Err(e) => worst = Err(e),
            }
        }
        self.stack.set_nic_gen(nic_gen);
        worst
    }

    fn attach(
        &self,
        desc: &NicDesc,
        sock: OwnedFd,
        umem: Option<OwnedFd>,
        adopt: bool,
    ) -> io::Result<Nic> {
        let state: &'static NicState = self
            .stack
            .nic_state(u32::from(desc.slot))
            .ok_or(io::ErrorKind::InvalidInput)?;
        if !adopt {
            state.reset();
        }
        let fd = sock.try_clone()?;
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let vnic: Box<dyn Vnic> = if desc.kind == NicDesc::XDP {
            let geometry = XdpGeometry::from_words(&desc.geometry).ok_or_else(invalid)?;
            let umem = umem.as_ref().ok_or_else(invalid)?;
            Box::new(XdpNic::attach(sock, umem.as_fd(), geometry, state)?)
        } else {
            let geometry = PacketGeometry::from_words(&desc.geometry).ok_or_else(invalid)?;
            Box::new(PacketNic::attach(sock, geometry, state)?)
        };
        Ok(Nic {
            desc: desc.clone(),
            fd,
            umem,
            vnic,
        })
    }

    /// The descriptors of the V-NICs, to sleep on.
    pub fn nic_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.nics.0.iter().flatten().map(|nic| nic.fd.as_fd())
    }

    /// Takes the pending error of the V-NIC whose place among [`Self::nic_fds`] this is.
    pub fn on_poll_error(&mut self, place: usize) {
        if let Some(nic) = self.nics.0.iter_mut().flatten().nth(place) {
            nic.vnic.on_poll_error();
        }
    }

    /// A V-NIC has a frame; no system call.
    pub fn has_frames(&self) -> bool {
        self.nics
            .0
            .iter()
            .flatten()
            .any(|nic| nic.vnic.rx_pending())
    }

    /// Takes everything that arrived, in bounded portions. False when somebody else has the lock.
    pub fn poll(&mut self) -> bool {
        for _ in 0..ROUNDS {
            match self.hold(false, |locked| locked.poll(BUDGET)) {
                Some(0) => return true,
                Some(_) => {}
                None => return false,
            }
        }
        true
    }

    /// Runs `work` with the lock, waiting for it some 20 ms; `None` when it cannot be had.
    pub fn locked<R>(&mut self, work: impl FnOnce(&mut Locked<'_, '_, 'static>) -> R) -> Option<R> {
        self.hold(true, work)
    }

    fn hold<R>(
        &mut self,
        wait: bool,
        work: impl FnOnce(&mut Locked<'_, '_, 'static>) -> R,
    ) -> Option<R> {
        let lock = self.stack.lock();
        let mut tries = 0;
        while !lock.try_lock(ME) {
            tries += 1;
            if !wait || tries > SPINS + NAPS {
                return None;
            }
            if tries < SPINS {
                std::hint::spin_loop();
            } else if let Some(seen) = lock.note_waiter() {
                futex_wait(&lock.seq, seen, Some(NAP));
            }
        }
        self.with_lock(work)
    }

    /// When `dead` holds the lock: takes it from him and makes the stack whole. True when that was necessary.
    pub fn take_over(&mut self, dead: u16) -> bool {
        if self.stack.lock().owner() != Some(dead) || !self.stack.lock().take_over(dead, ME) {
            return false;
        }
        let whole = self.with_lock(|locked| locked.recover(dead));
        // One that waits already is not forgotten: whoever is mended, all buffers are looked at.
        if whole == Some(false) {
            self.unmended = Some(dead);
        }
        whole.is_some()
    }

    /// A process is gone. False: the lock is not to be had now.
    pub fn owner_gone(&mut self, owner: u16, unfinished: Unfinished) -> bool {
        let whole = self.locked(|locked| locked.owner_gone(owner, unfinished));
        if whole == Some(false) {
            self.unmended = Some(owner);
        }
        whole.is_some()
    }

    /// Finds the buffers that a dead process had in hand, when that was not possible at once.
    pub fn mend(&mut self) {
        if let Some(dead) = self.unmended
            && self.locked(|locked| locked.mend_buffers(dead)) == Some(true)
        {
            self.unmended = None;
        }
    }

    /// Buffers are still to be sorted out: a reader was at work.
    pub fn is_unmended(&self) -> bool {
        self.unmended.is_some()
    }

    /// Who holds the lock.
    pub fn lock_owner(&self) -> Option<u16> {
        self.stack.lock().owner()
    }

    fn with_lock<R>(&mut self, work: impl FnOnce(&mut Locked<'_, '_, 'static>) -> R) -> Option<R> {
        // xorshift64 spreads the kernel's entropy.
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        let mut env = Env {
            now: Instant(monotonic()),
            nics: &mut self.nics,
            cp: self.cplane,
            fx: &mut self.fx,
            me: ME,
            rng: self.rng,
        };
        let done = self
            .stack
            .assume_locked(&mut env)
            .map(|mut locked| work(&mut locked));
        self.perform();
        done
    }

    /// Carries out the stack's wishes, or keeps them for the loop.
    fn perform(&mut self) {
        while let Some(effect) = self.fx.pop() {
            match effect {
                Effect::Wake(waiter) => self.wake(waiter),
                Effect::FutexWakeLock => futex_wake(&self.stack.lock().seq, i32::MAX as u32),
                Effect::PokeKeeper => {}
                Effect::ResolveNeigh { ifindex, ip } => {
                    self.wishes.push(Wish::Resolve { ifindex, ip })
                }
                Effect::DelFilter(id) => self.wishes.push(Wish::DelFilter(id)),
                Effect::Narrow { filter, listener } => self.narrow(filter, listener),
                Effect::CloseParked(sock) => self.wishes.push(Wish::CloseParked(sock)),
            }
        }
        if std::mem::take(&mut self.fx.overflow) {
            self.stack.each_waiter().for_each(|w| self.wake(w));
        }
    }

    /// One byte to the sleeping thread's socket. When it is full the thread is being woken already.
    fn wake(&self, waiter: WaiterId) {
        let name = format!("flyover-w/{}/{}", self.stack_id, waiter.raw());
        if let Ok(to) = SocketAddrUnix::new_abstract_name(name.as_bytes()) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let _: rustix::io::Result<usize> = sendto(&self.waker, &[0], flags, &to);
        }
    }

    /// The filters that the sockets of the stack have.
    pub fn filters_used(&self) -> HashSet<u32> {
        let stack = self.stack;
        let ids = stack
            .each_sock()
            .map(|sock| stack.sock(sock.id).filter.get());
        ids.filter(|id| *id != 0).collect()
    }

    /// Closes the endpoints of kernel sockets that ended. `None` when the lock could not be had.
    pub fn close_dead(&mut self, cookies: &BTreeSet<u64>) -> Option<()> {
        let stack = self.stack;
        // One walk for all, without the lock; what it finds is checked again under it.
        let cookie = |sock: SockRef| {
            stack
                .sock(sock.id)
                .cookie
                .load(std::sync::atomic::Ordering::Acquire)
        };
        let dead: Vec<SockRef> = stack
            .each_sock()
            .filter(|s| cookies.contains(&cookie(*s)))
            .collect();
        if dead.is_empty() {
            return Some(());
        }
        self.locked(|locked| {
            for sock in dead {
                if stack.get(sock).is_some() && cookies.contains(&cookie(sock)) {
                    locked.close(sock.id);
                }
            }
        })
    }
}

fn entropy<const N: usize>() -> io::Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        let mut bytes = [0; 8];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        *word = u64::from_ne_bytes(bytes);
    }
    Ok(words)
}
