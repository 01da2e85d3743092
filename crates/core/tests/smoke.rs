//! Two stacks on one wire in memory: the shortest way to see that a change broke something basic.

use core::sync::atomic::Ordering::Relaxed;
use flyover_config::StackOpts;
use flyover_core::sock::{Kind, SHUT_RD, SHUT_WR};
use flyover_core::{
    Effects, Env, Error, Instant, NicSet, RecvFlags, SendFlags, SockId, SockOpt, Stack, TcpState,
    Unfinished, layout_len,
};
use flyover_cplane::writer::{Change, Writer};
use flyover_cplane::{
    Addr, AddrFlags, Dims, Link, LinkFlags, LinkKind, LinkName, Neigh, NeighState, Reader, Route,
    Scope,
};
use flyover_shm::{HeapMap, ShmBytes};
use flyover_vnic::{Caps, HEAD_LEN, MemConfig, MemCut, MemNic, RxMeta, TxOffload, TxResult, Vnic};
use flyover_wire::{Endpoint, Ip, Mac};

struct Nics(MemNic);

impl NicSet for Nics {
    fn count(&self) -> usize {
        1
    }
    fn nic(&mut self, i: usize) -> Option<&mut dyn Vnic> {
        (i == 0).then_some(&mut self.0 as &mut dyn Vnic)
    }
}

struct Host<'m> {
    st: Stack<'m>,
    cp: Reader<'m>,
    nics: Nics,
}

fn opts() -> StackOpts {
    StackOpts {
        max_sockets: 64,
        buffers: 2048,
        ..StackOpts::default()
    }
}

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

fn ip(n: u8) -> Ip {
    Ip::v4([10, 0, 0, n])
}

fn control_plane(map: &HeapMap, me: u8, peer: u8) -> Reader<'_> {
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
    let _ = w.apply(Change::Neigh(Neigh {
        ifindex: 1,
        ip: ip(peer),
        mac: mac(peer),
        state: NeighState::Reachable,
    }));
    w.reader()
}

impl<'m> Host<'m> {
    fn with<R>(
        &mut self,
        now: u64,
        f: impl FnOnce(&mut flyover_core::Locked<'_, '_, 'm>) -> R,
    ) -> R {
        let mut fx = Effects::new();
        let mut env = Env {
            now: Instant(now),
            nics: &mut self.nics,
            cp: self.cp,
            fx: &mut fx,
            me: 1,
            rng: now,
        };
        let mut l = self.st.try_lock(&mut env).expect("free lock");
        f(&mut l)
    }

    fn read(&mut self, now: u64, id: SockId, out: &mut Vec<u8>) {
        let mut buf = [0u8; 70_000];
        while let Ok(r) = self.st.tcp_recv(
            self.st.sock_ref(id),
            &mut [&mut buf[..]],
            RecvFlags::default(),
            1,
        ) {
            out.extend_from_slice(&buf[..r.n]);
            if r.want_update {
                let mut fx = Effects::new();
                let mut env = Env {
                    now: Instant(now),
                    nics: &mut self.nics,
                    cp: self.cp,
                    fx: &mut fx,
                    me: 1,
                    rng: now,
                };
                let _ = self.st.lock_or_defer(
                    &mut env,
                    id,
                    flyover_core::stack::deferred::work::WINDOW,
                );
            }
            if r.n == 0 {
                break;
            }
        }
    }
}

/// Memory of two hosts: stacks and control planes.
struct Memory {
    stacks: [HeapMap; 2],
    cps: [HeapMap; 2],
}

impl Memory {
    fn new() -> Self {
        let stack = || HeapMap::new(layout_len(&opts()) as usize);
        let cp = || HeapMap::new(Dims::default().len().expect("size"));
        Self {
            stacks: [stack(), stack()],
            cps: [cp(), cp()],
        }
    }

    fn hosts(&self, now: u64) -> (Host<'_>, Host<'_>) {
        self.hosts_with(now, MemCut::Whole)
    }

    fn hosts_with(&self, now: u64, cut: MemCut) -> (Host<'_>, Host<'_>) {
        let nic = |n| MemConfig {
            mac: mac(n),
            cut,
            ..MemConfig::default()
        };
        let (na, nb) = MemNic::pair(nic(1), nic(2));
        let host = |i: usize, nic: MemNic| Host {
            st: Stack::new(self.stacks[i].region(), &opts()).expect("layout"),
            cp: control_plane(&self.cps[i], i as u8 + 1, 2 - i as u8),
            nics: Nics(nic),
        };
        let (a, b) = (host(0, na), host(1, nb));
        a.st.init(Instant(now), [1, 2, 3, 4]);
        b.st.init(Instant(now), [5, 6, 7, 8]);
        (a, b)
    }
}

fn exchange(a: &mut Host<'_>, b: &mut Host<'_>, now: &mut u64) {
    for _ in 0..4 {
        *now += 10_000;
        let _ = b.with(*now, |l| l.poll(64));
        let _ = a.with(*now, |l| l.poll(64));
    }
}

fn connect(a: &mut Host<'_>, now: u64, port: u16, server: Endpoint) -> SockId {
    a.with(now, |l| {
        let r = l
            .sock_alloc(Kind::Tcp, false, u64::from(port))
            .expect("slot");
        l.tcp_connect(r.id, Endpoint { ip: ip(1), port }, server)
            .expect("connect");
        r.id
    })
}

#[test]
fn a_slot_freed_and_taken_again_while_work_waits_loses_nobody_elses_work() {
    let m = Memory::new();
    let mut now = 1_000_000_000u64;
    let (mut a, mut b) = m.hosts(now);
    let server = Endpoint {
        ip: ip(2),
        port: 80,
    };
    let lis = b.with(now, |l| {
        let r = l.sock_alloc(Kind::Tcp, false, 1).expect("slot");
        l.tcp_listen(r.id, server, false, 8).expect("listen");
        r.id
    });
    let (one, two) = (
        connect(&mut a, now, 4000, server),
        connect(&mut a, now, 4001, server),
    );
    exchange(&mut a, &mut b, &mut now);
    let _first = b.with(now, |l| l.tcp_accept(lis)).expect("accepted");
    let second = b.with(now, |l| l.tcp_accept(lis)).expect("accepted").id;
    a.with(now, |l| {
        l.set_opt(two, SockOpt::Cork, 1);
        let _ = l
            .tcp_send(two, &[b"held back"], SendFlags::default())
            .expect("sent");
        // Both have work for the end of the batch; the first one's slot is freed and taken again before that.
        l.set_opt(one, SockOpt::NoDelay, 1);
        l.set_opt(two, SockOpt::Cork, 0);
        l.abort(one);
        assert_eq!(l.sock_alloc(Kind::Tcp, false, 9).expect("slot").id, one);
    });
    exchange(&mut a, &mut b, &mut now);
    let mut got = Vec::new();
    b.read(now, second, &mut got);
    assert_eq!(got, b"held back");
}

#[test]
fn a_small_message_does_not_grow_the_receive_buffer() {
    let m = Memory::new();
    let mut now = 1_000_000_000u64;
    let (mut a, mut b) = m.hosts(now);
    let server = Endpoint {
        ip: ip(2),
        port: 80,
    };
    let lis = b.with(now, |l| {
        let r = l.sock_alloc(Kind::Tcp, false, 1).expect("slot");
        l.tcp_listen(r.id, server, false, 64).expect("listen");
        r.id
    });
    for port in 0..20u16 {
        let c = connect(&mut a, now, 4000 + port, server);
        exchange(&mut a, &mut b, &mut now);
        let s = b.with(now, |l| l.tcp_accept(lis)).expect("accepted").id;
        let _ = a
            .with(now, |l| l.tcp_send(c, &[b"hello"], SendFlags::default()))
            .expect("sent");
        now += 1_000_000;
        exchange(&mut a, &mut b, &mut now);
        let mut got = Vec::new();
        b.read(now, s, &mut got);
        assert_eq!(got, b"hello");
        assert_eq!(b.st.sock(s).rcvbuf.get(), opts().tcp_rmem);
    }
}

#[test]
fn a_megabyte_each_way_and_nothing_left() {
    let m = Memory::new();
    let mut now = 1_000_000_000u64;
    let (mut a, mut b) = m.hosts(now);
    let server = Endpoint {
        ip: ip(2),
        port: 80,
    };
    let lis = b.with(now, |l| {
        let r = l.sock_alloc(Kind::Tcp, false, 1).expect("slot");
        l.tcp_listen(r.id, server, false, 8).expect("listen");
        r.id
    });
    let c = connect(&mut a, now, 4000, server);
    exchange(&mut a, &mut b, &mut now);
    assert_eq!(a.st.sock(c).tcp_state(), TcpState::Established);
    let s = b.with(now, |l| l.tcp_accept(lis)).expect("accepted").id;
    let data: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let (mut sent, mut back) = ([0usize; 2], [Vec::new(), Vec::new()]);
    for round in 0..20_000 {
        now += 10_000;
        for (i, (h, id)) in [(&mut a, c), (&mut b, s)].into_iter().enumerate() {
            let rest = &data[sent[i]..];
            let n = h.with(now, |l| {
                l.tcp_send(id, &[rest], SendFlags::default()).unwrap_or(0)
            });
            sent[i] += n;
            let _ = h.with(now, |l| l.poll(64));
            h.read(now, id, &mut back[i]);
        }
        if back[0].len() == data.len() && back[1].len() == data.len() {
            println!("{round} rounds");
            break;
        }
    }
    assert!(
        back[0] == data,
        "b to a: {} of {} bytes",
        back[0].len(),
        data.len()
    );
    assert!(
        back[1] == data,
        "a to b: {} of {} bytes",
        back[1].len(),
        data.len()
    );
    a.with(now, |l| l.close(c));
    for _ in 0..10 {
        now += 50_000_000;
        let _ = b.with(now, |l| l.poll(64));
        let _ = a.with(now, |l| l.poll(64));
    }
    assert_eq!(b.st.sock(s).tcp_state(), TcpState::CloseWait);
    b.with(now, |l| l.close(s));
    b.with(now, |l| l.close(lis));
    for _ in 0..100 {
        now += 1_000_000_000;
        let _ = b.with(now, |l| l.poll(64));
        let _ = a.with(now, |l| l.poll(64));
    }
    for h in [&a, &b] {
        let mut rows = Vec::new();
        h.st.stats().each(|n, _, v| {
            if v != 0 {
                rows.push(format!("{n}={v}"));
            }
        });
        println!("{}", rows.join(" "));
        assert_eq!(h.st.socks_used(), 0);
        assert_eq!(h.st.buf_usage().0, 0);
    }
}

/// A connection from `a` to a listener of `b`: its two ends.
fn connected(a: &mut Host<'_>, b: &mut Host<'_>, now: &mut u64) -> (SockId, SockId) {
    let server = Endpoint {
        ip: ip(2),
        port: 80,
    };
    let lis = b.with(*now, |l| {
        let r = l.sock_alloc(Kind::Tcp, false, 1).expect("slot");
        l.tcp_listen(r.id, server, false, 8).expect("listen");
        r.id
    });
    let c = connect(a, *now, 4000, server);
    exchange(a, b, now);
    (c, b.with(*now, |l| l.tcp_accept(lis)).expect("accepted").id)
}

/// A process may look at its clock, lose the processor, and get the lock when others have moved on: what they did is not
/// in its future. Nor is a time that nobody can have seen believed for ever.
#[test]
fn the_time_of_a_stack_does_not_go_back() {
    let m = Memory::new();
    let mut now = 100_000_000_000_000u64;
    let (mut a, mut b) = m.hosts(now);
    let (c, s) = connected(&mut a, &mut b, &mut now);
    // A moment, a stop of minutes, a freeze of a day.
    for stood in [5_000_000, 300_000_000_000, 86_400_000_000_000] {
        now += 10_000;
        let sent = a.with(now, |l| l.tcp_send(c, &[b"x"], SendFlags::default()));
        assert_eq!(sent, Ok(1));
        let _ = b.with(now, |l| l.poll(64));
        // The acknowledgment is handled by somebody whose clock was read before.
        let late = a.with(now.saturating_sub(stood), |l| {
            let _: u32 = l.poll(64);
            l.now()
        });
        assert_eq!(late, Instant(now));
        b.read(now, s, &mut Vec::new());
    }
    let info = a.st.tcp_info(c, Instant(now));
    assert!(info.rtt < 1000 && info.rto < 1_000_000, "{info:?}");
    let far = now + 3_600_000_000_000 * 24 * 365;
    let _: u32 = a.with(far, |l| l.poll(64));
    assert_eq!(a.with(now, |l| l.now()), Instant(now));
}

/// A thread that has looked a socket up, and reads only when it has been closed and its slot taken again, takes nothing of
/// the new one's.
#[test]
fn what_was_looked_up_is_not_another_life_of_its_slot() {
    let m = Memory::new();
    let mut now = 1_000_000_000u64;
    let (mut a, mut b) = m.hosts(now);
    let (_, first) = connected(&mut a, &mut b, &mut now);
    let stale = b.st.sock_ref(first);
    b.with(now, |l| l.abort(first));
    b.with(now, |l| l.close(first));
    exchange(&mut a, &mut b, &mut now);
    let server = Endpoint {
        ip: ip(2),
        port: 80,
    };
    let c = connect(&mut a, now, 4001, server);
    exchange(&mut a, &mut b, &mut now);
    let Some(second) = (0..64).map(SockId::new).find(|id| {
        let s = b.st.sock(*id);
        s.kind() == Kind::Tcp && s.tcp_state() == TcpState::Established
    }) else {
        panic!("no connection")
    };
    assert_eq!(second, first, "the slot was taken again");
    let sent = a.with(now, |l| l.tcp_send(c, &[b"secret"], SendFlags::default()));
    assert_eq!(sent, Ok(6));
    exchange(&mut a, &mut b, &mut now);
    let mut into = [0; 9];
    let got =
        b.st.tcp_recv(stale, &mut [&mut into], RecvFlags::default(), 1);
    assert_eq!(got, Err(Error::Stale));
    assert_eq!(
        b.st.tcp_recv_oob(stale, false, 1),
        Err(Error::Stale),
        "nor an urgent byte"
    );
    let mut all = Vec::new();
    b.read(now, second, &mut all);
    assert_eq!(all, b"secret");
}

/// A reader dies in the middle of a copy, while buffers of large writes are kept beside the list of free ones.
#[test]
fn kept_buffers_are_free_once_after_a_reader_died() {
    let m = Memory::new();
    let mut now = 1_000_000_000u64;
    let (mut a, mut b) = m.hosts(now);
    let (c, s) = connected(&mut a, &mut b, &mut now);
    let mut got = Vec::new();
    let mut transfer = |a: &mut Host<'_>, b: &mut Host<'_>, rounds: usize| {
        let all = [7; 65_536];
        for _ in 0..rounds {
            while a
                .with(now, |l| l.tcp_send(c, &[&all], SendFlags::default()))
                .is_ok()
            {}
            exchange(a, b, &mut now);
            b.read(now, s, &mut got);
        }
        for _ in 0..200 {
            exchange(a, b, &mut now);
            b.read(now, s, &mut got);
        }
    };
    transfer(&mut a, &mut b, 50);
    assert!(a.st.audit().is_clean(), "{:?}", a.st.audit());
    const DEAD: u16 = 9;
    a.st.sock(c).rlock.store(u32::from(DEAD) + 1, Relaxed);
    a.with(1, |l| assert!(l.owner_gone(DEAD, Unfinished::Unknown)));
    assert!(a.st.audit().is_clean(), "{:?}", a.st.audit());
    transfer(&mut a, &mut b, 20);
    assert!(a.st.audit().is_clean(), "{:?}", a.st.audit());
}

/// Large writes leave a few segments over each time. They have no frame of their own while much is under way; and they
/// go when little is, though nothing more is written.
#[test]
fn what_large_writes_leave_over_goes_with_the_next_one() {
    let m = Memory::new();
    let mut now = 1_000_000_000u64;
    let (mut a, mut b) = m.hosts(now);
    let (c, s) = connected(&mut a, &mut b, &mut now);
    let mut got = Vec::new();
    // A super-frame, and almost one more segment.
    const WRITE: usize = 66_536;
    let write = |a: &mut Host<'_>, now| {
        let all = [7; WRITE];
        a.with(now, |l| l.tcp_send(c, &[&all], SendFlags::default()))
    };
    // Windows large enough for three writes.
    let mut written = 0;
    for _ in 0..200 {
        while let Ok(n) = write(&mut a, now) {
            written += n;
        }
        exchange(&mut a, &mut b, &mut now);
        b.read(now, s, &mut got);
    }
    while got.len() < written {
        exchange(&mut a, &mut b, &mut now);
        b.read(now, s, &mut got);
    }
    let frames = |h: &Host<'_>| h.st.stats().tx_frames.load(Relaxed);
    let before = frames(&a);
    (0..3).for_each(|_| assert_eq!(write(&mut a, now), Ok(WRITE)));
    let under_way = a.st.sock(c).bytes_out.load(Relaxed) as usize - written;
    assert!(under_way > 190_000, "{under_way}");
    // One each, and the small one behind the first.
    assert_eq!(frames(&a) - before, 4);
    for _ in 0..50 {
        exchange(&mut a, &mut b, &mut now);
        b.read(now, s, &mut got);
    }
    assert_eq!(got.len(), written + 3 * WRITE);
}

#[test]
fn the_middle_of_what_was_pushed_is_known_where_nothing_merges_segments() {
    for (cut, known) in [(MemCut::Mtu, true), (MemCut::Whole, false)] {
        let m = Memory::new();
        let mut now = 1_000_000_000u64;
        let (mut a, mut b) = m.hosts_with(now, cut);
        let (c, s) = connected(&mut a, &mut b, &mut now);
        let _ = a
            .with(now, |l| l.tcp_send(c, &[&[7; 4000]], SendFlags::default()))
            .expect("sent");
        let mut seen = Vec::new();
        while b.st.sock(s).rq_available() < 4000 {
            assert_eq!(b.with(now, |l| l.poll(1)), 1, "{seen:?}");
            seen.push(b.st.more_comes(s));
        }
        match known {
            true => assert_eq!(seen, [true, true, false]),
            false => assert_eq!(seen, [false]),
        }
    }
}

/// A V-NIC that reads from a connection, as another thread does at any time, when a reset is sent.
struct AtReset<'m> {
    nic: MemNic,
    st: Stack<'m>,
    id: SockId,
    read: Option<Result<usize, Error>>,
}

impl Vnic for AtReset<'_> {
    fn caps(&self) -> Caps {
        self.nic.caps()
    }
    fn rx_next(&mut self, head: &mut [u8; HEAD_LEN]) -> Option<RxMeta> {
        self.nic.rx_next(head)
    }
    fn rx_payload(&mut self, skip: usize, into: &[ShmBytes<'_>]) -> usize {
        self.nic.rx_payload(skip, into)
    }
    fn rx_sum(&mut self, from: usize, len: usize) -> u16 {
        self.nic.rx_sum(from, len)
    }
    fn rx_done(&mut self) {
        self.nic.rx_done();
    }
    fn tx(&mut self, hdr: &[u8], payload: &[ShmBytes<'_>], off: &TxOffload) -> TxResult {
        // Ethernet, IPv4 without options, then byte 13 of the TCP header.
        if hdr.get(14 + 20 + 13).is_some_and(|flags| flags & 4 != 0) {
            let sock = self.st.sock_ref(self.id);
            let got = self
                .st
                .tcp_recv(sock, &mut [&mut [0; 9]], RecvFlags::default(), 1);
            self.read = Some(got.map(|r| r.n));
        }
        self.nic.tx(hdr, payload, off)
    }
    fn flush(&mut self) {
        self.nic.flush();
    }
    fn rx_pending(&self) -> bool {
        self.nic.rx_pending()
    }
}

impl NicSet for AtReset<'_> {
    fn count(&self) -> usize {
        1
    }
    fn nic(&mut self, i: usize) -> Option<&mut dyn Vnic> {
        (i == 0).then_some(self as &mut dyn Vnic)
    }
}

/// Data for a program that reads no more resets the connection, and the peer may know at once: whoever reads after that
/// must find the error, not the end of the stream.
#[test]
fn the_reset_is_known_here_before_the_peer_knows() {
    let m = Memory::new();
    let mut now = 1_000_000_000u64;
    let (mut a, mut b) = m.hosts(now);
    let (c, s) = connected(&mut a, &mut b, &mut now);
    a.with(now, |l| l.shutdown(c, SHUT_RD | SHUT_WR))
        .expect("shut down");
    exchange(&mut a, &mut b, &mut now);
    // The acknowledgment of the FIN is a delayed one.
    now += 50_000_000;
    exchange(&mut a, &mut b, &mut now);
    assert_eq!(a.st.sock(c).tcp_state(), TcpState::FinWait2);
    let _ = b
        .with(now, |l| l.tcp_send(s, &[b"unwanted"], SendFlags::default()))
        .expect("sent");
    let mut nics = AtReset {
        nic: a.nics.0,
        st: a.st,
        id: c,
        read: None,
    };
    let mut fx = Effects::new();
    let mut env = Env {
        now: Instant(now),
        nics: &mut nics,
        cp: a.cp,
        fx: &mut fx,
        me: 1,
        rng: now,
    };
    let _ = a.st.try_lock(&mut env).expect("free lock").poll(64);
    let reset = Error::Errno(Error::Reset.errno());
    assert_eq!(nics.read, Some(Err(reset)));
}

/// A V-NIC whose frames with payload come by system call, as super-frames do.
struct BySystemCall {
    nic: MemNic,
    deep: bool,
}

impl Vnic for BySystemCall {
    fn caps(&self) -> Caps {
        self.nic.caps()
    }
    fn rx_next(&mut self, head: &mut [u8; HEAD_LEN]) -> Option<RxMeta> {
        self.nic.rx_next(head).map(|meta| RxMeta {
            by_call: meta.frame_len > 1000,
            ..meta
        })
    }
    fn rx_payload(&mut self, skip: usize, into: &[ShmBytes<'_>]) -> usize {
        self.nic.rx_payload(skip, into)
    }
    fn rx_sum(&mut self, from: usize, len: usize) -> u16 {
        self.nic.rx_sum(from, len)
    }
    fn rx_done(&mut self) {
        self.nic.rx_done();
    }
    fn tx(&mut self, hdr: &[u8], payload: &[ShmBytes<'_>], off: &TxOffload) -> TxResult {
        self.nic.tx(hdr, payload, off)
    }
    fn flush(&mut self) {
        self.nic.flush();
    }
    fn rx_pending(&self) -> bool {
        self.nic.rx_pending()
    }
    fn rx_deep(&self) -> bool {
        self.deep
    }
}

impl NicSet for BySystemCall {
    fn count(&self) -> usize {
        1
    }
    fn nic(&mut self, i: usize) -> Option<&mut dyn Vnic> {
        (i == 0).then_some(self as &mut dyn Vnic)
    }
}

/// Frames that come by system call are taken one at a time, until too many wait.
#[test]
fn a_large_frame_ends_the_batch() {
    let m = Memory::new();
    let mut now = 1_000_000_000u64;
    let (mut a, mut b) = m.hosts(now);
    let (c, s) = connected(&mut a, &mut b, &mut now);
    let segment = vec![7u8; b.st.tcb(s).mss.get() as usize];
    for _ in 0..5 {
        let sent = b.with(now, |l| l.tcp_send(s, &[&segment], SendFlags::default()));
        assert_eq!(sent.ok(), Some(segment.len()));
    }
    let mut nics = BySystemCall {
        nic: a.nics.0,
        deep: false,
    };
    let mut handled = |deep: bool| {
        nics.deep = deep;
        let mut fx = Effects::new();
        let mut env = Env {
            now: Instant(now),
            nics: &mut nics,
            cp: a.cp,
            fx: &mut fx,
            me: 1,
            rng: now,
        };
        a.st.try_lock(&mut env).expect("free lock").poll(64)
    };
    assert_eq!([handled(false), handled(false)], [1, 1]);
    assert_eq!([handled(true), handled(true)], [3, 0]);
    assert_eq!(a.st.sock(c).rq_available() as usize, 5 * segment.len());
}

/// A process dies between the steps of a transmission: what it sent is lost (it lay in its outbox), and nothing, or not all,
/// says that it was sent.
#[test]
fn what_a_dead_sender_noted_by_half_is_sent_again() {
    for half in ["no segment, no timer", "no timer"] {
        let m = Memory::new();
        let mut now = 1_000_000_000u64;
        let (mut a, mut b) = m.hosts(now);
        let (c, s) = connected(&mut a, &mut b, &mut now);
        let sent = a.with(now, |l| l.tcp_send(c, &[b"hello"], SendFlags::default()));
        assert_eq!(sent.ok(), Some(5));
        let mut head = [0; HEAD_LEN];
        while b.nics.0.rx_next(&mut head).is_some() {
            b.nics.0.rx_done();
        }
        let t = a.st.tcb(c);
        t.t_rtx.set(0);
        if half != "no timer" {
            t.runs_n.set(0);
            t.packets_out.set(0);
        }
        let _: bool = a.with(now, |l| l.recover(1));
        for _ in 0..20 {
            now += 100_000_000;
            let _ = a.with(now, |l| l.poll(64));
            exchange(&mut a, &mut b, &mut now);
        }
        let mut got = Vec::new();
        b.read(now, s, &mut got);
        assert_eq!(got, b"hello", "{half}");
        assert_eq!(a.st.tcb(c).packets_out.get(), 0, "{half}");
    }
}

/// A process dies in the middle of closing: the connection is nobody's, and neither FIN nor RST was sent.
#[test]
fn a_close_that_was_begun_is_finished() {
    let m = Memory::new();
    let mut now = 1_000_000_000u64;
    let (mut a, mut b) = m.hosts(now);
    let (c, s) = connected(&mut a, &mut b, &mut now);
    let sent = b.with(now, |l| l.tcp_send(s, &[b"unread"], SendFlags::default()));
    assert_eq!(sent.ok(), Some(6));
    exchange(&mut a, &mut b, &mut now);
    let sock = a.st.sock(c);
    sock.set_flag(flyover_core::sock::flag::ORPHAN);
    sock.shut.store(SHUT_RD | SHUT_WR, Relaxed);
    let _: bool = a.with(now, |l| l.recover(1));
    exchange(&mut a, &mut b, &mut now);
    assert_eq!(a.st.socks_used(), 0);
    assert_eq!(b.st.sock(s).tcp_state(), TcpState::Closed);
}

#[test]
fn reported_deaths_are_noted_for_the_next_keeper_until_they_are_looked_into() {
    let opts = opts();
    let mem = HeapMap::new(layout_len(&opts) as usize);
    let stack = Stack::new(mem.region(), &opts).expect("stack");
    stack.init(Instant(1), [1, 2, 3, 4]);
    assert_eq!(stack.noted_deaths().count(), 0);
    assert!(stack.note_death(0, 7));
    assert!(stack.note_death(1, 9));
    assert!(!stack.note_death(flyover_core::stack::heirloom::NOTES, 11));
    assert!(stack.noted_deaths().eq([7, 9]));
    stack.forget_deaths(2);
    assert_eq!(stack.noted_deaths().count(), 0);
}
