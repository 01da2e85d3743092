//! What processes and their keeper do for one another, with endpoints made by hand.

use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use flyover_config::StackOpts;
use flyover_core::{Effects, Env, Instant, Kind, Locked, NicSet, SockRef, Stack};
use flyover_cplane::{Dims, Reader};
use flyover_proto::{Attached, AttachedFds, Client, StackName};
use flyover_shm::host::Map;
use flyover_vnic::Vnic;
use rustix::net::sockopt::socket_cookie;

use crate::world::{Daemon, Space, eventually};

struct NoNics;

impl NicSet for NoNics {
    fn count(&self) -> usize {
        0
    }
    fn nic(&mut self, _: usize) -> Option<&mut dyn Vnic> {
        None
    }
}

/// An attached process.
struct Process {
    _client: Client,
    fds: AttachedFds,
    stack: Stack<'static>,
    cplane: Reader<'static>,
    owner: u16,
}

impl Process {
    fn new(daemon: &Daemon) -> Self {
        let (client, attached, fds) = daemon.attach(StackName::Default);
        let Attached {
            owner,
            stack_len,
            opts,
            cplane_len,
            dims,
            ..
        } = attached;
        let opts = StackOpts::from_words(&opts).unwrap();
        let region = Map::rw(&fds.stack, stack_len as usize).unwrap().leak();
        let tables = Map::ro(&fds.cplane, cplane_len as usize).unwrap().leak();
        Self {
            _client: client,
            fds,
            stack: Stack::new(region, &opts).unwrap(),
            cplane: Reader::new(tables, &Dims::from_words(&dims).unwrap()).unwrap(),
            owner,
        }
    }

    fn locked<R>(&self, work: impl FnOnce(&mut Locked<'_, '_, 'static>) -> R) -> R {
        let mut work = Some(work);
        eventually("the lock", || {
            let (mut fx, mut nics) = (Effects::new(), NoNics);
            let mut env = Env {
                now: Instant(1),
                nics: &mut nics,
                cp: self.cplane,
                fx: &mut fx,
                me: self.owner,
                rng: 1,
            };
            let mut locked = self.stack.try_lock(&mut env)?;
            work.take().map(|work| work(&mut locked))
        })
    }

    fn endpoint(&self, cookie: u64) -> SockRef {
        self.locked(|l| l.sock_alloc(Kind::Udp, false, cookie))
            .unwrap()
    }

    /// The keeper hears of the end of kernel sockets from now on.
    fn has_reports(&self) {
        self.stack.want_reports();
        self.fds.keeper.poke();
        eventually("the reports", || self.stack.reports_are_on().then_some(()));
    }

    fn exists(&self, sock: SockRef) -> bool {
        self.stack.get(sock).is_some()
    }
}

pub fn an_endpoint_ends_with_its_kernel_socket() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let process = Process::new(&daemon);
    let pairs: Vec<(UdpSocket, SockRef)> = (0..20)
        .map(|_| {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            let sock = process.endpoint(socket_cookie(&udp).unwrap());
            (udp, sock)
        })
        .collect();
    process.has_reports();
    // A second descriptor keeps one of them.
    let copy = pairs[7].0.try_clone().unwrap();
    let socks: Vec<SockRef> = pairs.iter().map(|(_, sock)| *sock).collect();
    drop(pairs);
    let left = || socks.iter().filter(|s| process.exists(**s)).count();
    eventually("one endpoint", || (left() == 1).then_some(()));
    assert!(process.exists(socks[7]));
    drop(copy);
    eventually("no endpoint", || (left() == 0).then_some(()));
}

/// Nobody but the dead process held it: it ends with him, whatever the kernel says. What others may hold, the kernel tells of.
pub fn what_a_process_held_alone_ends_with_it() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let (witness, alone, sharer) = (
        Process::new(&daemon),
        Process::new(&daemon),
        Process::new(&daemon),
    );
    let socks: Vec<UdpSocket> = (0..3)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let cookie = |n: usize| socket_cookie(&socks[n]).unwrap();
    let own = alone.endpoint(cookie(0));
    drop(alone);
    eventually("its end", || (!witness.exists(own)).then_some(()));

    let shared = sharer.endpoint(cookie(1));
    sharer.has_reports();
    sharer.stack.note_sharing(sharer.owner);
    let last = witness.endpoint(cookie(2));
    let (owner, stack) = (sharer.owner, sharer.stack);
    drop(sharer);
    // What it left has been looked at.
    eventually("the burial", || (!stack.is_sharing(owner)).then_some(()));
    assert!(witness.exists(shared), "somebody may hold it");
    drop(socks);
    eventually("the kernel's word", || {
        (!witness.exists(shared) && !witness.exists(last)).then_some(())
    });
    // Without sockets there is nothing to hear of.
    eventually("the end of the reports", || {
        (!stack.reports_are_on()).then_some(())
    });
}

pub fn events_of_kernel_sockets_are_reported() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let process = Process::new(&daemon);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sock = process.endpoint(socket_cookie(&udp).unwrap());
    let keeper = &process.fds.keeper;
    keeper
        .reg_os(sock.id.raw(), sock.generation, false, udp.as_fd())
        .unwrap();
    // Nonsense in between does no harm.
    keeper.reg_os(u32::MAX, 0, false, udp.as_fd()).unwrap();
    keeper.unpark(u32::MAX, 7).unwrap();
    let flag = &process.stack.sock(sock.id).os_ready;
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        sender.send_to(b"x", udp.local_addr().unwrap()).unwrap();
        eventually("the flag", || {
            (flag.swap(0, Ordering::AcqRel) != 0).then_some(())
        });
        udp.recv(&mut [0]).unwrap();
    }
    process.has_reports();
    // The registration holds no reference: the endpoint ends with the socket all the same.
    drop(udp);
    eventually("the end", || (!process.exists(sock)).then_some(()));
}

pub fn parked_sockets_are_held() {
    let _space = Space::new();
    let daemon = Daemon::start();
    let process = Process::new(&daemon);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = udp.local_addr().unwrap();
    let sock = process.endpoint(0);
    process
        .fds
        .keeper
        .park(sock.id.raw(), sock.generation, udp.as_fd())
        .unwrap();
    drop(udp);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(UdpSocket::bind(addr).is_err(), "the port is held");
    process
        .fds
        .keeper
        .unpark(sock.id.raw(), sock.generation)
        .unwrap();
    eventually("the port", || UdpSocket::bind(addr).ok());
    // For an endpoint that is gone nothing is held.
    let udp = UdpSocket::bind(addr).unwrap();
    process.locked(|l| l.free_unused(sock.id));
    process
        .fds
        .keeper
        .park(sock.id.raw(), sock.generation, udp.as_fd())
        .unwrap();
    drop(udp);
    eventually("the port", || UdpSocket::bind(addr).ok());
}
