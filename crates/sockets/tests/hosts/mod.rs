//! Two hosts on one wire in memory, each with a socket layer of its own.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use flyover_config::StackOpts;
use flyover_core::sock::flag;
use flyover_core::{Handover, Instant, SockRef, Stack, layout_len};
use flyover_cplane::writer::{Change, Writer};
use flyover_cplane::{
    Addr, AddrFlags, Dims, Link, LinkFlags, LinkKind, LinkName, Neigh, NeighState, Reader, Route,
    RouteKind, Scope, Table,
};
use flyover_shm::HeapMap;
use flyover_sockets::attach::{Connector, Daemon, DaemonError, Flow, Keeper, Parts};
use flyover_sockets::os::Os;
use flyover_sockets::process::{Answer, Fd, Settings};
use flyover_sockets::testing::{FakeOs, table};
use flyover_sockets::wait::spin::Budget;
use flyover_sockets::{Generation, Sockets};
use flyover_vnic::{MemConfig, MemCut, MemNic, Vnic};
use flyover_wire::{Endpoint, Ip, Mac};

/// One host.
pub struct Host {
    /// Its socket layer.
    pub lib: &'static Sockets,
    /// Its operating system.
    pub os: &'static FakeOs,
    /// Its address.
    pub ip: Ip,
    /// Its kernel.
    #[allow(dead_code, reason = "not every test that uses the hosts hands over")]
    pub kernel: &'static Takeovers,
}

impl Host {
    /// `socket(2)` as the preload makes it.
    pub fn socket(&self, domain: i32, kind: i32) -> i32 {
        let fd = self.os.socket(domain, kind, 0).expect("descriptor");
        self.lib.on_socket(fd, domain, kind, 0);
        fd
    }

    /// A connection within this host, both ends of which are this program's, paired.
    #[allow(dead_code, reason = "most tests are about two hosts")]
    pub fn within(&self, port: u16) -> (i32, i32) {
        let lis = self.listener(port);
        let near = self.socket(libc::AF_INET, libc::SOCK_STREAM);
        (near, self.connect_within(near, lis, port))
    }

    /// A listener of the kernel's.
    #[allow(dead_code, reason = "most tests are about two hosts")]
    pub fn listener(&self, port: u16) -> i32 {
        let lis = self.os.socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        let lis = lis.expect("descriptor");
        self.os.bind(lis, &self.at(port)).expect("bind");
        self.os.listen(lis, 1).expect("listen");
        lis
    }

    /// Connects `near` to that listener; returns the other end. Both are paired.
    #[allow(dead_code, reason = "most tests are about two hosts")]
    pub fn connect_within(&self, near: i32, lis: i32, port: u16) -> i32 {
        let to = self.at(port);
        assert_eq!(self.lib.connect(near, &to), Answer::Kernel);
        self.os.connect(near, &to).expect("connect");
        self.lib.connected_by_kernel(near, &to, true);
        let (far, _) = self.os.accept(lis, 0).expect("accept");
        self.lib.on_kernel_accept(-1, far, None);
        for fd in [near, far] {
            match self.lib.look(fd) {
                Fd::Tcp(ep) => assert!(ep.shared().has(flag::PAIRED)),
                other => panic!("{other:?}"),
            }
        }
        far
    }

    /// Another number of `fd`, of which the library does not know who else holds it.
    #[allow(dead_code, reason = "most tests have one process")]
    pub fn passed(&self, fd: i32) -> i32 {
        let copy = self.os.fcntl(fd, libc::F_DUPFD, 3).expect("a copy");
        self.lib.on_unknown(copy);
        copy
    }

    /// An address on this host.
    pub fn at(&self, port: u16) -> flyover_sockets::Addr {
        flyover_sockets::Addr::inet(Endpoint { ip: self.ip, port }, false)
    }

    /// The stack, for looks behind the scenes.
    #[allow(dead_code, reason = "not every test looks there")]
    pub fn stack(&self) -> Stack<'static> {
        self.lib.attached().expect("attached").stack
    }
}

/// The kernel of a host as far as it takes connections over.
#[derive(Default)]
pub struct Takeovers {
    /// Whether it does; at first it does not.
    pub willing: AtomicBool,
    /// Whether the daemon lends [`LENT`]; at first it does not.
    pub lends: AtomicBool,
    /// What it took, with the bytes that came along.
    pub taken: Mutex<Vec<(Handover, Vec<u8>)>>,
}

/// The ports that the daemon lends.
pub const LENT: [u16; 2] = [61_001, 61_002];

struct FakeDaemon {
    os: &'static FakeOs,
    kernel: &'static Takeovers,
}

impl Daemon for FakeDaemon {
    fn add_filter(&mut self, _: Flow, _: i32) -> Result<u32, DaemonError> {
        Ok(7)
    }
    fn del_filter(&mut self, _: u32) {}
    fn lend(&mut self, _: Ip, _: u32, _: u64) -> Result<Vec<u16>, DaemonError> {
        if self.kernel.lends.load(Ordering::Relaxed) {
            Ok(LENT.to_vec())
        } else {
            Err(DaemonError::Refused)
        }
    }
    fn handover(
        &mut self,
        image: &Handover,
        _: i32,
        data: Option<i32>,
    ) -> Result<u32, DaemonError> {
        if !self.kernel.willing.load(Ordering::Relaxed) {
            return Err(DaemonError::Refused);
        }
        let mut bytes = vec![0; (image.unread + image.queued) as usize];
        let n = match data {
            Some(fd) => self.os.pread(fd, &mut bytes, 0).expect("the data"),
            None => 0,
        };
        assert_eq!(n, bytes.len(), "the file holds what the image says");
        self.kernel
            .taken
            .lock()
            .expect("lock")
            .push((*image, bytes));
        Ok(99)
    }
    fn narrow(&mut self, _id: u32, _to: &[(Endpoint, Endpoint)]) {}

    fn resolve(&mut self, _: u32, _: Ip) {}
}

struct FakeKeeper(Stack<'static>);

impl Keeper for FakeKeeper {
    fn reg_os(&self, _: SockRef, _: bool, _: i32) {}
    fn park(&self, _: SockRef, _: i32) {}
    fn unpark(&self, _: SockRef) {}
    fn poke(&self) {
        if self.0.reports_are_wanted() {
            self.0.reports_begin();
        }
    }
}

struct FakeConnector {
    stack: Stack<'static>,
    cplane: Reader<'static>,
    nic: Mutex<Option<MemNic>>,
    os: &'static FakeOs,
    kernel: &'static Takeovers,
}

impl Connector for FakeConnector {
    fn attach(&self) -> Result<Parts, DaemonError> {
        let nic = Mutex::new(self.nic.lock().expect("lock").take());
        self.stack.init(Instant(self.os.now()), [1, 2, 3, 4]);
        Ok(Parts {
            stack_id: 1,
            owner: 1,
            stack: self.stack,
            cplane: self.cplane,
            daemon: Box::new(FakeDaemon {
                os: self.os,
                kernel: self.kernel,
            }),
            keeper: Box::new(FakeKeeper(self.stack)),
            nic_count: 1,
            nics: Box::new(move |_| {
                let nic = nic.lock().expect("lock").take()?;
                Some(Box::new(nic) as Box<dyn Vnic + Send>)
            }),
            nic_ifindex: vec![1],
            nic_fds: Vec::new(),
            tx_fds: Vec::new(),
            local_only: false,
            shared: false,
            own_fds: Vec::new(),
        })
    }
}

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

fn ip(n: u8) -> Ip {
    Ip::v4([10, 0, 0, n])
}

fn control_plane(me: u8, peer: u8) -> Reader<'static> {
    let map: &'static HeapMap =
        Box::leak(Box::new(HeapMap::new(Dims::default().len().expect("size"))));
    let mut w = Writer::new(map.region(), &Dims::default(), 1).expect("dims");
    let _ = w.apply(Change::Link(Link {
        ifindex: 1,
        mac: mac(me),
        mtu: 1500,
        up: true,
        kind: LinkKind::Veth,
        flags: LinkFlags::ETHER.with(LinkFlags::ADMIN_UP),
        master: 0,
        lower: 0,
        name: LinkName::new("v0"),
    }));
    let _ = w.apply(Change::Addr(Addr {
        ifindex: 1,
        ip: ip(me),
        peer: ip(me),
        prefix_len: 24,
        scope: Scope::UNIVERSE,
        flags: AddrFlags::empty(),
    }));
    let _ = w.apply(Change::Route(Route::unicast(ip(0), 24, 1)));
    let _ = w.apply(Change::Route(Route {
        table: Table::Local,
        kind: RouteKind::Local,
        ..Route::unicast(ip(me), 32, 1)
    }));
    let _ = w.apply(Change::Neigh(Neigh {
        ifindex: 1,
        ip: ip(peer),
        mac: mac(peer),
        state: NeighState::Reachable,
    }));
    w.reader()
}

fn host(n: u8, peer: u8, nic: MemNic, local: bool) -> Host {
    let opts = StackOpts {
        max_sockets: 256,
        buffers: 2048,
        ..StackOpts::default()
    };
    let map: &'static HeapMap = Box::leak(Box::new(HeapMap::new(layout_len(&opts) as usize)));
    let os: &'static FakeOs = Box::leak(Box::new(FakeOs::new(ip(n))));
    let kernel: &'static Takeovers = Box::leak(Box::default());
    let connector: &'static FakeConnector = Box::leak(Box::new(FakeConnector {
        stack: Stack::new(map.region(), &opts).expect("layout"),
        cplane: control_plane(n, peer),
        nic: Mutex::new(Some(nic)),
        os,
        kernel,
    }));
    let settings = Settings {
        accelerate: true,
        local,
        local_after: 0,
        adopt_after: 0,
        lend_after: 4,
        spin: Budget::Adaptive,
        inherited: false,
    };
    let lib: &'static Sockets = Box::leak(Box::new(Sockets::new(
        os,
        connector,
        table(100_000),
        (0..4).map(|_| Generation::new()).collect::<Vec<_>>().leak(),
        settings,
    )));
    // Stands for the keeper: acknowledges and retransmits while no call is in the stack.
    let _ = std::thread::spawn(move || {
        loop {
            std::thread::sleep(std::time::Duration::from_millis(1));
            let _ = lib.attached().map(|a| a.poll(64));
        }
    });
    Host {
        lib,
        os,
        ip: ip(n),
        kernel,
    }
}

/// Two hosts, one wire. Connections within a host are the kernel's.
#[allow(dead_code, reason = "not for tests of the local path")]
pub fn pair() -> (Host, Host) {
    wired(false)
}

/// Two hosts, one wire; connections within a host are paired at once.
#[allow(dead_code, reason = "for tests of the local path")]
pub fn local_pair() -> (Host, Host) {
    wired(true)
}

/// Two hosts whose V-NICs do not merge segments.
#[allow(dead_code, reason = "for tests of such V-NICs")]
pub fn segments_pair() -> (Host, Host) {
    wired_by(false, MemCut::Mtu)
}

fn wired(local: bool) -> (Host, Host) {
    wired_by(local, MemCut::Whole)
}

fn wired_by(local: bool, cut: MemCut) -> (Host, Host) {
    let config = |n| MemConfig {
        mac: mac(n),
        cut,
        ..MemConfig::default()
    };
    let (a, b) = MemNic::pair(config(1), config(2));
    (host(1, 2, a, local), host(2, 1, b, local))
}
