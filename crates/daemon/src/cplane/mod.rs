//! The control plane of one network namespace: netlink in, tables out.
//!
//! One thread per namespace. It subscribes to links, addresses, routes, rules and neighbours, reads
//! full lists, and keeps them in a memfd that everybody else maps read-only.
//!
//! - `netlink`: sockets. `links`, `addrs`, `routes`, `neigh`, `rules`: what messages mean.
//! - `snapshot`: full lists. `follow`: the thread. `resolve`: asking the kernel for a neighbour.

mod addrs;
mod follow;
mod links;
mod neigh;
mod netlink;
mod resolve;
mod routes;
mod rules;
mod snapshot;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use flyover_cplane::writer::{Kinds, Writer};
use flyover_cplane::{Dims, Link, Reader};
use flyover_shm::host::{Map, sealed_memfd};
use flyover_wire::Ip;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{SealFlags, fcntl_add_seals};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use follow::{Due, Follower};
use netlink::{Dumper, Listener};
use resolve::Resolver;
use snapshot::Snapshot;

/// Kernel memory for messages that wait, bytes: a few thousand changes at once.
const ROOM: usize = 4 << 20;

/// How the mirror of a namespace is kept.
#[derive(Clone, Copy, Debug)]
pub struct CplaneConfig {
    /// Least sizes of the tables. What the namespace has at the start is doubled, where that is
    /// more.
    pub dims: Dims,
    /// Exactly these sizes: the tables take the place of a predecessor's.
    pub exact: bool,
    /// Kernel memory for messages that wait, bytes.
    pub receive_buffer: usize,
}

impl Default for CplaneConfig {
    fn default() -> Self {
        Self {
            dims: Dims::default(),
            exact: false,
            receive_buffer: ROOM,
        }
    }
}

/// The control plane of one network namespace. It ends when this is dropped.
pub struct CplaneService {
    map: Arc<Map>,
    memfd: OwnedFd,
    dims: Dims,
    len: u64,
    resolver: Resolver,
    stop: Arc<OwnedFd>,
    changed: SyncSender<()>,
    listeners: Listeners,
}

type Listeners = Arc<Mutex<Vec<Box<dyn Fn() + Send>>>>;

impl CplaneService {
    /// Starts mirroring a network namespace. Returns when the tables hold what it has.
    ///
    /// # Errors
    /// The namespace cannot be entered (`EPERM` without CAP_SYS_ADMIN), or as socket(2),
    /// memfd_create(2), mmap(2), rtnetlink(7).
    pub fn start(netns: impl AsFd) -> io::Result<Self> {
        Self::start_with(netns, CplaneConfig::default())
    }

    /// Starts mirroring the network namespace of the calling thread, which takes no privilege.
    ///
    /// # Errors
    /// As [`CplaneService::start`].
    pub fn start_here() -> io::Result<Self> {
        Self::start_in(None, CplaneConfig::default())
    }

    /// As [`CplaneService::start`].
    ///
    /// # Errors
    /// As [`CplaneService::start`].
    pub fn start_with(netns: impl AsFd, config: CplaneConfig) -> io::Result<Self> {
        Self::start_in(Some(netns.as_fd().try_clone_to_owned()?), config)
    }

    fn start_in(netns: Option<OwnedFd>, config: CplaneConfig) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = Arc::clone(&stop);
        let (changed, told) = mpsc::sync_channel(1);
        let tell = changed.clone();
        let (report, reported) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("cplane".into())
            .spawn(move || {
                let enter = |ns: OwnedFd| {
                    move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network))
                };
                let opened = netns
                    .map_or(Ok(()), enter)
                    .map_err(io::Error::from)
                    .and_then(|()| Opened::open(&config));
                serve(opened, tell, &stopped, &report);
            })?;
        let opened = reported
            .recv()
            .map_err(|_| io::Error::other("control-plane thread ended"))??;
        let listeners = Listeners::default();
        let to_tell = Arc::clone(&listeners);
        thread::Builder::new()
            .name("cplane-notify".into())
            .spawn(move || notify(&told, &to_tell))?;
        let Started {
            map,
            memfd,
            dims,
            len,
            resolver,
        } = opened;
        Ok(Self {
            map,
            memfd,
            dims,
            len,
            resolver,
            stop,
            changed,
            listeners,
        })
    }

    /// The tables' memory, which can be mapped read-only.
    #[must_use]
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// Length of the memory in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never true: there is always a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sizes of the tables.
    #[must_use]
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// A reader of the tables.
    ///
    /// # Panics
    /// Never: the memory was made for these sizes.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(self.map.region(), &self.dims).expect("memory made for these sizes")
    }

    /// The interfaces, in the order of their numbers.
    #[must_use]
    pub fn links(&self) -> Vec<Link> {
        let mut links: Vec<Link> = self.reader().links().collect();
        links.sort_unstable_by_key(|link| link.ifindex);
        links
    }

    /// Makes the kernel resolve a neighbour, or keep one that it knows. The tables will show it.
    /// Addresses that no route calls neighbours are ignored, and so is asking too often.
    pub fn resolve(&self, ifindex: u32, ip: Ip) {
        if let Err(error) = self.resolver.ask(&self.reader(), ifindex, ip) {
            tracing::debug!(ifindex, %ip, "asking the kernel for a neighbour: {error}");
        }
    }

    /// Calls `listener` soon, and again whenever links or addresses have changed, on a thread of
    /// its own. Changes in quick succession are one call. It may use the service and may drop it,
    /// but may not add listeners.
    pub fn on_change(&self, listener: impl Fn() + Send + 'static) {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(listener));
        // Full: a call is due already.
        let _: Result<(), _> = self.changed.try_send(());
    }
}

impl Drop for CplaneService {
    /// Ends the threads without waiting for them: one of them may be the caller.
    fn drop(&mut self) {
        if let Err(error) = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()) {
            tracing::error!("stopping a control plane: {error}");
        }
    }
}

/// What the thread needs besides the tables.
struct Opened {
    listener: Listener,
    dumper: Dumper,
    resolver: Resolver,
    snapshot: Snapshot,
    map: Map,
    memfd: OwnedFd,
    dims: Dims,
    len: u64,
}

/// What the thread hands to its owner.
struct Started {
    map: Arc<Map>,
    memfd: OwnedFd,
    dims: Dims,
    len: u64,
    resolver: Resolver,
}

impl Opened {
    /// Subscribes first and lists then: nothing falls in between.
    fn open(config: &CplaneConfig) -> io::Result<Self> {
        let listener = Listener::open(config.receive_buffer)?;
        let mut dumper = Dumper::open()?;
        let resolver = Resolver::open()?;
        let snapshot = Snapshot::take(&mut dumper, Kinds::ALL)?;
        let dims = if config.exact {
            config.dims
        } else {
            sizes(config.dims, snapshot.counts())
        };
        let len = dims.len().map_err(io::Error::other)?;
        let memfd = sealed_memfd("flyover-cplane", len as u64)?;
        let map = Map::rw(&memfd, len)?;
        // From here on nobody can write but through the mapping above.
        fcntl_add_seals(&memfd, SealFlags::FUTURE_WRITE | SealFlags::SEAL)?;
        Ok(Self {
            listener,
            dumper,
            resolver,
            snapshot,
            map,
            memfd,
            dims,
            len: len as u64,
        })
    }
}

/// The thread: writes the first snapshot, reports, follows.
fn serve(
    opened: io::Result<Opened>,
    changed: SyncSender<()>,
    stop: &OwnedFd,
    report: &SyncSender<io::Result<Started>>,
) {
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // The owner waits for it; if not, there is nobody to tell.
            let _: Result<(), _> = report.send(Err(error));
            return;
        }
    };
    let Opened {
        listener,
        dumper,
        resolver,
        snapshot,
        map,
        memfd,
        dims,
        len,
    } = opened;
    let map = Arc::new(map);
    let writer = match Writer::new(map.region(), &dims, seed()) {
        Ok(writer) => writer,
        Err(error) => {
            let _: Result<(), _> = report.send(Err(io::Error::other(error)));
            return;
        }
    };
    let mut follower = Follower {
        writer,
        listener,
        dumper,
        due: Due::new(Instant::now()),
        changed,
    };
    let _: bool = follower.write(Kinds::ALL, snapshot);
    let started = Started {
        map: Arc::clone(&map),
        memfd,
        dims,
        len,
        resolver,
    };
    if report.send(Ok(started)).is_ok() {
        follower.run(stop);
    }
}

/// Calls the listeners whenever something changed, until the service and its thread are gone.
fn notify(told: &Receiver<()>, listeners: &Mutex<Vec<Box<dyn Fn() + Send>>>) {
    while told.recv().is_ok() {
        let listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().for_each(|listener| listener());
    }
}

/// Sizes of the tables: what was asked for, or twice what there is.
fn sizes(least: Dims, [links, addrs, routes, neighs]: [u32; 4]) -> Dims {
    let twice = |least: u32, count: u32| least.max(count.saturating_mul(2));
    Dims {
        links: twice(least.links, links),
        addrs: twice(least.addrs, addrs),
        routes: twice(least.routes, routes),
        neighs: twice(least.neighs, neighs),
    }
    .rounded()
}

/// Key for the hash chains. The address of the tables is a poor secret, the kernel's randomness a
/// good one, which is never missing after boot.
fn seed() -> u64 {
    let mut bytes = [0_u8; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => u64::from(std::process::id()),
    }
}
