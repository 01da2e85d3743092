//! Two network namespaces joined by a veth pair, and V-NICs in them. Needs root.

#![allow(dead_code, reason = "every test binary uses another part")]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use flyover_shm::{Arena, HeapMap, Idx, ShmBytes};
use flyover_vnic::host::bpf::{Flow, FlowMaps, VnicTarget};
use flyover_vnic::host::{
    PacketConfig, XdpConfig, XdpSocket, attach_filter, create_packet, create_xdp, interface,
};
use flyover_vnic::{
    Caps, HEAD_LEN, NicState, PacketGeometry, PacketNic, RxMeta, TxOffload, Vnic, XdpNic,
};
use flyover_wire::emit::HeaderBuf;
use flyover_wire::{Endpoint, Ip, Mac, UdpSpec};

/// Says why a test did nothing, unless this is root.
pub fn is_root() -> bool {
    // SAFETY: a system call without arguments.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: needs root for network namespaces and raw sockets");
    }
    root
}

/// One test with namespaces at a time: they share two processors.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// End `a` (10.77.0.1, fd77::1) and end `b` (10.77.0.2, fd77::2), each with the interface `v0`.
pub struct Net {
    pub a: String,
    pub b: String,
}

impl Net {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "{}x{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let net = Self {
            a: format!("flyv{id}a"),
            b: format!("flyv{id}b"),
        };
        for ns in [&net.a, &net.b] {
            sh(&format!("ip netns add {ns}"));
        }
        let (a, b) = (&net.a, &net.b);
        sh(&format!(
            "ip link add v0 netns {a} type veth peer name v0 netns {b}"
        ));
        for (ns, n) in [(a, 1), (b, 2)] {
            // The ends know each other: no neighbour discovery in the middle of a test.
            sh(&format!(
                "ip -n {ns} link set v0 address 02:00:00:00:77:0{n}"
            ));
            sh(&format!("ip -n {ns} addr add 10.77.0.{n}/24 dev v0"));
            sh(&format!("ip -n {ns} addr add fd77::{n}/64 dev v0 nodad"));
            sh(&format!("ip -n {ns} link set lo up"));
            sh(&format!("ip -n {ns} link set v0 up"));
        }
        for (ns, n) in [(a, 2), (b, 1)] {
            let to = format!("lladdr 02:00:00:00:77:0{n} dev v0 nud permanent");
            sh(&format!("ip -n {ns} neigh replace 10.77.0.{n} {to}"));
            sh(&format!("ip -n {ns} neigh replace fd77::{n} {to}"));
        }
        net
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for ns in [&self.a, &self.b] {
            let _ = Command::new("ip")
                .args(["netns", "del", ns])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// Runs a command line that must succeed.
pub fn sh(line: &str) -> Output {
    let output = run(line);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {text}");
    output
}

/// Runs a command line.
pub fn run(line: &str) -> Output {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    Command::new(program).args(words).output().unwrap()
}

/// Runs a function in a namespace, in a thread of its own.
pub fn inside<T: Send>(ns: &str, f: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{ns}")).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(&file.into());
            f()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves the calling thread.
pub fn enter(ns: &OwnedFd) {
    use std::os::fd::AsRawFd;
    // SAFETY: a system call without pointers.
    let rc = unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(rc, 0, "setns: {}", std::io::Error::last_os_error());
}

/// Index of `v0` in the namespace of the calling thread.
pub fn v0() -> u32 {
    // SAFETY: a C string literal.
    let index = unsafe { libc::if_nametoindex(c"v0".as_ptr()) };
    assert_ne!(index, 0);
    index
}

/// Memory for one NicState.
pub struct State(HeapMap);

impl State {
    pub fn new() -> Self {
        Self(HeapMap::new(size_of::<NicState>()))
    }

    pub fn get(&self) -> &NicState {
        let arena: Arena<'_, NicState> = Arena::new(self.0.region(), 0, 1).unwrap();
        arena.at(Idx::new(0))
    }
}

/// A window over private memory.
pub fn window(bytes: &mut [u8]) -> ShmBytes<'_> {
    let len = bytes.len();
    // SAFETY: borrowed exclusively for as long as the window lives.
    unsafe { ShmBytes::from_raw(std::ptr::NonNull::from(bytes).cast(), len) }
}

/// Endpoint of end 1 (`a`) or 2 (`b`).
pub fn at(end: u8, port: u16) -> Endpoint {
    Endpoint {
        ip: Ip::v4([10, 77, 0, end]),
        port,
    }
}

pub fn udp_flow(end: u8, port: u16) -> Flow {
    Flow {
        proto: 17,
        local: at(end, port),
        remote: None,
    }
}

pub fn tcp_flow(end: u8, port: u16) -> Flow {
    Flow {
        proto: 6,
        local: at(end, port),
        remote: None,
    }
}

/// A packet socket of `stack` on `v0` with its filter and target set.
pub fn packet_socket(
    maps: &mut FlowMaps,
    stack: u32,
    config: &PacketConfig,
) -> (OwnedFd, PacketGeometry) {
    let (fd, geometry) = create_packet(v0(), config).unwrap();
    maps.set_vnic(v0(), stack, VnicTarget::Packet).unwrap();
    let filter = maps.stack_filter(stack).unwrap();
    attach_filter(fd.as_fd(), filter.as_fd()).unwrap();
    (fd, geometry)
}

/// An XDP socket of `stack` on queue 0 of `v0`, in the maps.
pub fn xdp_socket(maps: &mut FlowMaps, stack: u32, config: &XdpConfig) -> XdpSocket {
    let socket = create_xdp(v0(), 0, config).unwrap();
    maps.set_xsk(0, socket.xsk.as_fd()).unwrap();
    maps.set_vnic(
        v0(),
        stack,
        VnicTarget::Xdp {
            xsk_base: 0,
            queues: 1,
        },
    )
    .unwrap();
    socket
}

/// Sends one UDP datagram between the ends.
pub fn send_udp(nic: &mut dyn Vnic, ends: (Endpoint, Endpoint), payload: &mut [u8]) {
    send_udp_tagged(nic, ends, 0, payload);
}

/// Sends one UDP datagram with a VLAN tag (0: none).
pub fn send_udp_tagged(
    nic: &mut dyn Vnic,
    (src, dst): (Endpoint, Endpoint),
    vlan: u16,
    payload: &mut [u8],
) {
    let mut hdr = HeaderBuf::new();
    let mac = |e: &Endpoint| Mac([2, 0, 0, 0, 0x77, e.ip.0[15]]);
    let spec = UdpSpec {
        smac: mac(&src),
        dmac: mac(&dst),
        vlan,
        src,
        dst,
        ttl: 64,
        tos: 0,
        ip_id: 1,
        payload_len: payload.len() as u32,
    };
    let emitted = spec.emit(&mut hdr).unwrap();
    let off = TxOffload {
        csum_start: emitted.l4_off,
        csum_offset: emitted.csum_off - emitted.l4_off,
        gso_size: 0,
        l4_tcp: false,
        v6: !src.ip.is_v4(),
        hdr_len: hdr.len() as u16,
    };
    let result = nic.tx(hdr.as_slice(), &[window(payload)], &off);
    assert_eq!(result, flyover_vnic::TxResult::Sent);
    nic.flush();
}

/// Receives a frame whole, if there is one.
pub fn receive(nic: &mut dyn Vnic) -> Option<(RxMeta, Vec<u8>)> {
    let mut head = [0; HEAD_LEN];
    let meta = nic.rx_next(&mut head)?;
    let mut bytes = vec![0; meta.frame_len as usize];
    let n = nic.rx_payload(0, &[window(&mut bytes)]);
    nic.rx_done();
    bytes.truncate(n);
    Some((meta, bytes))
}

/// Receives a frame, waiting for it (2 s).
pub fn await_frame(nic: &mut dyn Vnic, fd: &impl AsFd) -> Option<(RxMeta, Vec<u8>)> {
    for _ in 0..20 {
        if let Some(frame) = receive(nic) {
            return Some(frame);
        }
        sleep_on(fd, 100);
    }
    None
}

/// Sleeps until the descriptor is readable.
pub fn sleep_on(fd: &impl AsFd, millis: i32) {
    use std::os::fd::AsRawFd;
    let mut poll = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd.
    unsafe { libc::poll(&raw mut poll, 1, millis) };
}

/// Both kinds behind one type.
pub enum Nic<'m> {
    Packet(PacketNic<'m>),
    Xdp(Box<XdpNic<'m>>),
}

impl<'m> Nic<'m> {
    pub fn vnic(&mut self) -> &mut dyn Vnic {
        match self {
            Self::Packet(nic) => nic,
            Self::Xdp(nic) => &mut **nic,
        }
    }

    pub fn caps(&mut self) -> Caps {
        self.vnic().caps()
    }

    pub fn fd(&self) -> OwnedFd {
        let fd = match self {
            Self::Packet(nic) => nic.as_fd(),
            Self::Xdp(nic) => nic.as_fd(),
        };
        fd.try_clone_to_owned().unwrap()
    }
}

/// A namespace's end of a test: flow maps, what is attached, and one V-NIC of stack 1.
pub struct End<'m> {
    pub maps: FlowMaps,
    pub nic: Nic<'m>,
    _attached: Box<dyn std::any::Any + Send>,
}

impl<'m> End<'m> {
    /// A packet V-NIC that keeps the kernel out of its flows.
    pub fn packet(state: &'m State, flows: &[Flow], config: &PacketConfig) -> Self {
        let mut maps = FlowMaps::load().unwrap();
        flows.iter().for_each(|flow| maps.insert(flow, 1).unwrap());
        let (fd, geometry) = packet_socket(&mut maps, 1, config);
        let link = maps.attach_drop(v0()).unwrap();
        let nic = PacketNic::attach(fd, geometry, state.get()).unwrap();
        Self {
            maps,
            nic: Nic::Packet(nic),
            _attached: Box::new(link),
        }
    }

    /// An XDP V-NIC on queue 0.
    pub fn xdp(state: &'m State, flows: &[Flow], mode: flyover_vnic::host::bpf::XdpAttach) -> Self {
        let mut maps = FlowMaps::load().unwrap();
        flows.iter().for_each(|flow| maps.insert(flow, 1).unwrap());
        let link = maps.attach_xdp(v0(), mode).unwrap();
        assert_eq!(
            interface(v0()).unwrap().xdp.map(|(mode, _)| mode),
            Some(link.mode)
        );
        let socket = xdp_socket(&mut maps, 1, &XdpConfig::default());
        let umem = socket.umem.as_fd();
        let mut nic = XdpNic::attach(socket.xsk, umem, socket.geometry, state.get()).unwrap();
        // The first poll gives the kernel frames to receive into.
        assert!(receive(&mut nic).is_none());
        Self {
            maps,
            nic: Nic::Xdp(Box::new(nic)),
            _attached: Box::new(link),
        }
    }
}
