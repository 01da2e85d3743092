//! A host: a stack on the heap, one V-NIC in memory, a canned control plane, and somebody who performs the stack's
//! wishes.

use crate::rng::Rng;
use flyover_config::StackOpts;
use flyover_core::sock::SockRef;
use flyover_core::stack::deferred::work;
use flyover_core::{
    Effect, Effects, Env, Instant, Locked, NicSet, Recv, RecvFlags, Stack, WaiterId, layout_len,
};
use flyover_cplane::writer::{Change, Outcome, Writer};
use flyover_cplane::{
    Addr, AddrFlags, Dims, Link, LinkFlags, LinkKind, LinkName, Neigh, NeighState, Reader, Route,
    RouteKind, Scope, Table,
};
use flyover_shm::{HeapMap, Region};
use flyover_vnic::{MemConfig, MemNic, Vnic};
use flyover_wire::{Ip, Mac};

/// Sizes of the control-plane tables.
const DIMS: Dims = Dims {
    links: 16,
    addrs: 16,
    routes: 16,
    neighs: 16,
};

/// More than tables of that size need.
const CPLANE_BYTES: usize = 1 << 18;

/// Interface index of the one interface.
pub const IFINDEX: u32 = 2;

/// What a host lives in. It outlives the host, because the stack's memory is not the host's own.
#[derive(Debug)]
pub struct Memory {
    stack: HeapMap,
    cplane: HeapMap,
}

impl Memory {
    /// Zeroed memory for a stack with these options.
    ///
    /// # Panics
    /// When the options ask for more than there is.
    pub fn new(opts: &StackOpts) -> Self {
        let stack = usize::try_from(layout_len(opts)).expect("stack size");
        Self {
            stack: HeapMap::new(stack),
            cplane: HeapMap::new(CPLANE_BYTES),
        }
    }

    /// The stack's memory, for adversaries.
    pub fn stack(&self) -> Region<'_> {
        self.stack.region()
    }
}

/// How a host is.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Its address.
    pub ip: Ip,
    /// The other one's.
    pub peer: Ip,
    /// Its V-NIC.
    pub nic: MemConfig,
    /// MAC address of the other one's V-NIC.
    pub peer_mac: Mac,
    /// Options of the stack.
    pub opts: StackOpts,
    /// The neighbour is known from the start.
    pub neigh_known: bool,
    /// When the stack starts, ns.
    pub start: u64,
    /// Seed of the stack's secrets.
    pub seed: u64,
}

/// Options for small, quick hosts.
pub fn small_opts() -> StackOpts {
    StackOpts {
        max_sockets: 64,
        buffers: 1024,
        max_items: 64,
        max_sets: 16,
        max_waiters: 16,
        ..StackOpts::default()
    }
}

/// One V-NIC as a set.
#[derive(Debug)]
struct One(MemNic);

impl NicSet for One {
    fn count(&self) -> usize {
        1
    }
    fn nic(&mut self, i: usize) -> Option<&mut dyn Vnic> {
        (i == 0).then_some(&mut self.0 as &mut dyn Vnic)
    }
}

/// What the stack wished for, besides neighbours.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Threads to wake.
    pub wakes: Vec<WaiterId>,
    /// Filters to be released.
    pub filters: Vec<u32>,
    /// More wakes were wished for than could be kept: everybody is to be woken.
    pub overflow: bool,
    /// Neighbours asked for.
    pub neighs: u32,
}

/// A host.
pub struct Host<'m> {
    /// Its stack.
    pub stack: Stack<'m>,
    /// Its V-NIC.
    pub nic: MemNic,
    /// The virtual clock, set by the network.
    pub now: u64,
    /// What was wished for since somebody looked.
    pub wishes: Wishes,
    /// Owner slot that calls are made as.
    pub me: u16,
    nics: One,
    reader: Reader<'m>,
    writer: Writer<'m>,
    fx: Effects,
    rng: Rng,
    config: HostConfig,
    /// When the neighbour that was asked for answers.
    neigh_at: Option<u64>,
    /// Frames handled per poll.
    pub budget: u32,
}

impl std::fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({})", self.config.ip)
    }
}

impl<'m> Host<'m> {
    /// A host in this memory.
    ///
    /// # Panics
    /// When the memory does not fit the options.
    pub fn new(memory: &'m Memory, config: HostConfig) -> Self {
        let stack = Stack::new(memory.stack.region(), &config.opts).expect("stack layout");
        let mut rng = Rng::new(config.seed, u64::from(config.ip.lo() as u32));
        let secret = std::array::from_fn(|_| rng.word());
        stack.init(Instant(config.start), secret);
        let mut writer =
            Writer::new(memory.cplane.region(), &DIMS, rng.word()).expect("control plane");
        for change in canned(&config) {
            assert_eq!(writer.apply(change), Outcome::Changed);
        }
        let nic = MemNic::new(config.nic);
        let mut host = Self {
            stack,
            nics: One(nic.clone()),
            nic,
            now: config.start,
            wishes: Wishes::default(),
            me: 1,
            reader: writer.reader(),
            writer,
            fx: Effects::new(),
            rng,
            config,
            neigh_at: None,
            budget: 64,
        };
        if host.config.neigh_known {
            host.learn_neigh();
        }
        host
    }

    /// The host's address.
    pub fn ip(&self) -> Ip {
        self.config.ip
    }

    /// How the host is.
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    /// The control plane as a process sees it.
    pub fn reader(&self) -> Reader<'m> {
        self.reader
    }

    /// Takes in news about the network.
    pub fn apply(&mut self, change: Change) -> Outcome {
        self.writer.apply(change)
    }

    /// The interface with another MTU.
    pub fn set_mtu(&mut self, mtu: u32) {
        let _: Outcome = self.apply(Change::Link(Link {
            mtu,
            ..link(&self.config)
        }));
    }

    fn learn_neigh(&mut self) {
        let neigh = Neigh {
            ifindex: IFINDEX,
            ip: self.config.peer,
            mac: self.config.peer_mac,
            state: NeighState::Reachable,
        };
        let _: Outcome = self.apply(Change::Neigh(neigh));
    }

    /// The neighbour is forgotten.
    pub fn forget_neigh(&mut self) {
        let _: Outcome = self.apply(Change::DelNeigh {
            ifindex: IFINDEX,
            ip: self.config.peer,
        });
    }

    fn env(&mut self) -> Env<'_> {
        Env {
            now: Instant(self.now),
            nics: &mut self.nics,
            cp: self.reader,
            fx: &mut self.fx,
            me: self.me,
            rng: self.rng.word(),
        }
    }

    /// Runs `f` under the stack lock, then performs the wishes.
    ///
    /// # Panics
    /// When the lock is held.
    pub fn locked<R>(&mut self, f: impl FnOnce(&mut Locked<'_, '_, 'm>) -> R) -> R {
        let stack = self.stack;
        let out = {
            let mut env = self.env();
            let mut l = stack.try_lock(&mut env).expect("the lock is free");
            f(&mut l)
        };
        self.perform();
        out
    }

    /// Makes sure that the lock is free, whatever the lock word says: what a keeper does when its holder is dead.
    pub fn free_lock(&mut self) {
        if self.stack.lock().owner().is_some() {
            let _: bool = self.stack.lock().force_unlock();
        }
    }

    /// Leaves `work` of a socket to whoever holds the lock: to a holder who appears in between, when `contended`.
    pub fn defer(&mut self, sock: SockRef, bits: u32, contended: bool) {
        const HOLDER: u16 = 9;
        let stack = self.stack;
        if contended {
            assert!(stack.lock().try_lock(HOLDER), "the lock is free");
        }
        {
            let mut env = self.env();
            let got = stack.lock_or_defer(&mut env, sock.id, bits);
            assert_eq!(got.is_some(), !contended);
        }
        if contended {
            let me = std::mem::replace(&mut self.me, HOLDER);
            {
                let mut env = self.env();
                drop(stack.assume_locked(&mut env).expect("held by us"));
            }
            self.me = me;
        }
        self.perform();
    }

    /// Reads, and tells the peer of the wider window as the library does.
    ///
    /// # Errors
    /// As [`Stack::tcp_recv`].
    pub fn recv(
        &mut self,
        sock: SockRef,
        buf: &mut [u8],
        contended: bool,
    ) -> Result<usize, flyover_core::Error> {
        let r: Recv = self
            .stack
            .tcp_recv(sock, &mut [buf], RecvFlags::default(), self.me)?;
        if r.want_update {
            self.defer(sock, work::WINDOW, contended);
        }
        Ok(r.n)
    }

    /// Handles what the V-NIC received, and timers.
    pub fn poll(&mut self) -> u32 {
        let budget = self.budget;
        self.locked(|l| l.poll(budget))
    }

    /// As [`poll`](Self::poll), unless the lock is held: an adversary may set its word at any moment.
    pub fn try_poll(&mut self) -> Option<u32> {
        let (stack, budget) = (self.stack, self.budget);
        let n = {
            let mut env = self.env();
            stack.try_lock(&mut env).map(|mut l| l.poll(budget))
        };
        self.perform();
        n
    }

    /// Recovers a stack whose lock was taken over for [`me`](Self::me).
    ///
    /// # Panics
    /// When the lock is not held by us.
    pub fn recover_held(&mut self) {
        let stack = self.stack;
        let whole = {
            let mut env = self.env();
            let mut locked = stack.assume_locked(&mut env).expect("held by us");
            locked.recover(5)
        };
        assert!(whole, "no reader is inside");
        self.perform();
    }

    /// True when a poll would find something to do now.
    pub fn wants_poll(&self) -> bool {
        self.nic.depth().0 > 0 || self.deadline().is_some_and(|t| t <= self.now)
    }

    /// When something is to be done next without a frame.
    pub fn deadline(&self) -> Option<u64> {
        let timer = self.stack.next_deadline().map(|t| t.0);
        match (timer, self.neigh_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// What the world does by itself: a neighbour that was asked for answers.
    pub fn tick(&mut self) {
        if self.neigh_at.is_some_and(|t| t <= self.now) {
            self.neigh_at = None;
            self.learn_neigh();
        }
    }

    fn perform(&mut self) {
        self.wishes.overflow |= std::mem::take(&mut self.fx.overflow);
        while let Some(e) = self.fx.pop() {
            match e {
                Effect::Wake(w) => self.wishes.wakes.push(w),
                Effect::ResolveNeigh { ip, .. } => {
                    self.wishes.neighs += 1;
                    if ip == self.config.peer && self.neigh_at.is_none() {
                        self.neigh_at = Some(self.now + 300_000);
                    }
                }
                Effect::DelFilter(f) => self.wishes.filters.push(f),
                Effect::FutexWakeLock
                | Effect::PokeKeeper
                | Effect::Narrow { .. }
                | Effect::CloseParked(_) => {}
            }
        }
    }

    /// One counter.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn stat(&self, name: &str) -> u64 {
        let mut found = None;
        self.stack.stats().each(|n, _, v| {
            if n == name {
                found = Some(v);
            }
        });
        found.unwrap_or_else(|| panic!("no counter {name}"))
    }
}

fn link(c: &HostConfig) -> Link {
    Link {
        ifindex: IFINDEX,
        mac: c.nic.mac,
        mtu: c.nic.mtu,
        up: true,
        kind: LinkKind::Device,
        flags: LinkFlags::ETHER.with(LinkFlags::ADMIN_UP),
        master: 0,
        lower: 0,
        name: LinkName::new("sim0"),
    }
}

/// One interface, one address, one network.
fn canned(c: &HostConfig) -> Vec<Change> {
    let v4 = c.ip.is_v4();
    let (net, all) = if v4 { (24, 32) } else { (64, 128) };
    let addr = Addr {
        ifindex: IFINDEX,
        ip: c.ip,
        peer: c.ip,
        prefix_len: net,
        scope: Scope::UNIVERSE,
        flags: AddrFlags::empty(),
    };
    let local = Route {
        table: Table::Local,
        kind: RouteKind::Local,
        scope: Scope::HOST,
        prefsrc: Some(c.ip),
        ..Route::unicast(c.ip, all, IFINDEX)
    };
    let on_link = Route {
        prefsrc: Some(c.ip),
        ..Route::unicast(c.peer, net, IFINDEX)
    };
    vec![
        Change::Link(link(c)),
        Change::Addr(addr),
        Change::Route(local),
        Change::Route(on_link),
    ]
}
