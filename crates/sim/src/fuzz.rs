//! A program that makes every call of the stack in any order, with any arguments that a socket layer could pass.

mod pairs;

use crate::net::Net;
use crate::rng::Rng;
use flyover_core::sock::SockRef;
use flyover_core::stack::deferred::work;
use flyover_core::{
    Error, IcmpError, Instant, ItemId, ItemMode, Kind, Locked, Ready, RecvFlags, SendFlags, SetId,
    SockOpt, UdpVia, WaiterId,
};
use flyover_shm::Idx;
use flyover_wire::{Endpoint, FlowKey, Seq};

const OPTIONS: [SockOpt; 25] = [
    SockOpt::NoDelay,
    SockOpt::Cork,
    SockOpt::QuickAck,
    SockOpt::KeepAlive,
    SockOpt::KeepIdle,
    SockOpt::KeepIntvl,
    SockOpt::KeepCnt,
    SockOpt::UserTimeout,
    SockOpt::MaxSeg,
    SockOpt::SynCnt,
    SockOpt::DeferAccept,
    SockOpt::NotSentLowat,
    SockOpt::Linger2,
    SockOpt::RcvBuf,
    SockOpt::SndBuf,
    SockOpt::RcvLowat,
    SockOpt::OobInline,
    SockOpt::Linger,
    SockOpt::Broadcast,
    SockOpt::Ttl,
    SockOpt::Hops,
    SockOpt::Tos,
    SockOpt::Class,
    SockOpt::WindowClamp,
    SockOpt::V6Only,
];

/// The program on one host.
#[derive(Debug)]
pub struct Fuzzer {
    host: usize,
    rng: Rng,
    socks: Vec<SockRef>,
    items: Vec<(SockRef, ItemId)>,
    sets: Vec<SetId>,
    waiter: Option<WaiterId>,
    waiting: bool,
    port: u16,
    /// Any index goes, not only those that are ours: the memory is garbage anyhow.
    pub wild: bool,
    buf: Vec<u8>,
}

impl Fuzzer {
    /// A program on this host that has done nothing yet.
    pub fn new(host: usize, rng: Rng) -> Self {
        Self {
            host,
            rng,
            socks: Vec::new(),
            items: Vec::new(),
            sets: Vec::new(),
            waiter: None,
            waiting: false,
            port: 20_000,
            wild: false,
            buf: vec![0; 70_000],
        }
    }

    /// Makes one call.
    pub fn act(&mut self, net: &mut Net<'_>) {
        self.forget_dead(net);
        match self.rng.below(30) {
            0 => self.listen(net),
            1 | 2 => self.connect(net),
            3 => self.accept(net),
            4..=7 => self.send(net),
            8..=11 => self.recv(net),
            12 => self.shutdown(net),
            13 => self.end(net),
            14 | 15 => self.option(net),
            16..=19 => self.sets(net),
            20 => self.udp(net),
            21 | 22 => self.udp_io(net),
            23 => self.icmp(net),
            24 => self.defer(net),
            25..=28 => self.pairs(net),
            _ => self.look(net),
        }
    }

    fn locked<'m, R>(&self, net: &mut Net<'m>, f: impl FnOnce(&mut Locked<'_, '_, 'm>) -> R) -> R {
        net.hosts[self.host].locked(f)
    }

    fn forget_dead(&mut self, net: &Net<'_>) {
        if self.wild {
            return;
        }
        let st = net.hosts[self.host].stack;
        self.socks.retain(|s| st.get(*s).is_some());
        self.items.retain(|i| st.get(i.0).is_some());
    }

    fn some(&mut self) -> Option<SockRef> {
        if self.wild && self.rng.chance(30_000) {
            let id = Idx::new(self.rng.magnitude(100) as u32);
            return Some(SockRef { id, generation: 0 });
        }
        if self.socks.is_empty() {
            None
        } else {
            Some(*self.rng.pick(&self.socks))
        }
    }

    fn socket(&mut self, net: &mut Net<'_>, kind: Kind) -> Option<SockRef> {
        if self.socks.len() > 24 {
            return None;
        }
        let v6 = !net.hosts[self.host].ip().is_v4();
        let cookie = self.rng.word();
        let s = self.locked(net, |l| l.sock_alloc(kind, v6, cookie)).ok()?;
        self.socks.push(s);
        Some(s)
    }

    fn local(&mut self, net: &Net<'_>, port: u16) -> Endpoint {
        Endpoint {
            ip: net.hosts[self.host].ip(),
            port,
        }
    }

    fn remote(&mut self, net: &Net<'_>) -> Endpoint {
        let port = 80 + self.rng.below(4) as u16;
        Endpoint {
            ip: net.hosts[1 - self.host].ip(),
            port,
        }
    }

    fn listen(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.socket(net, Kind::Tcp) else {
            return;
        };
        let port = 80 + self.rng.below(4) as u16;
        let mut local = self.local(net, port);
        if self.rng.chance(30_000) {
            local.ip = local.ip.unspecified_same_family();
        }
        let backlog = self.rng.magnitude(20) as u32;
        let _: Result<(), Error> = self.locked(net, |l| l.tcp_listen(s.id, local, false, backlog));
    }

    fn connect(&mut self, net: &mut Net<'_>) {
        let s = if self.rng.chance(10_000) {
            self.some()
        } else {
            self.socket(net, Kind::Tcp)
        };
        let Some(s) = s else { return };
        if !self.rng.chance(20_000) {
            self.port += 1;
        }
        let (local, remote) = (self.local(net, self.port), self.remote(net));
        let _: Result<(), Error> = self.locked(net, |l| l.tcp_connect(s.id, local, remote));
    }

    fn accept(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let back = self.rng.chance(5_000);
        let got = self.locked(net, |l| {
            let r = l.tcp_accept(s.id);
            if let (Ok(child), true) = (r, back) {
                l.unaccept(s.id, child.id);
                return Err(Error::WouldBlock);
            }
            if let Ok(child) = r {
                // Without a kernel socket it would count as not accepted yet.
                l.set_cookie(child.id, u64::from(child.id.raw()) + 1);
            }
            r
        });
        if let Ok(child) = got {
            self.socks.push(child);
        }
    }

    fn send(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let n = self.rng.magnitude(40_000) as usize;
        let flags = SendFlags {
            more: self.rng.chance(10_000),
            oob: self.rng.chance(5_000),
            eor: false,
            waits: false,
        };
        let cut = self.rng.below(n as u64 + 1) as usize;
        let (a, b) = self.buf[..n].split_at(cut);
        let r = net.hosts[self.host].locked(|l| l.tcp_send(s.id, &[a, b], flags));
        assert!(r.is_err() || self.wild || r.is_ok_and(|m| m <= n));
    }

    fn recv(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let n = self.rng.magnitude(40_000) as usize;
        let flags = RecvFlags {
            peek: self.rng.chance(15_000),
            skip: if self.rng.chance(10_000) {
                self.rng.magnitude(5_000) as u32
            } else {
                0
            },
            discard: if self.rng.chance(10_000) {
                self.rng.magnitude(5_000) as usize
            } else {
                0
            },
        };
        let host = &mut net.hosts[self.host];
        if self.rng.chance(10_000) {
            let _: Result<u8, Error> = host.stack.tcp_recv_oob(s, flags.peek, host.me);
        }
        let cut = self.rng.below(n as u64 + 1) as usize;
        let (a, b) = self.buf[..n].split_at_mut(cut);
        if let Ok(r) = host.stack.tcp_recv(s, &mut [a, b], flags, host.me)
            && r.want_update
        {
            let contended = self.rng.chance(30_000);
            host.defer(s, work::WINDOW, contended);
        }
    }

    fn shutdown(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let how = self.rng.range(0, 3) as u32;
        let _: Result<(), Error> = self.locked(net, |l| l.shutdown(s.id, how));
    }

    fn end(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        self.socks.retain(|x| *x != s);
        self.items.retain(|x| x.0 != s);
        let abort = self.rng.chance(20_000);
        self.locked(net, |l| if abort { l.abort(s.id) } else { l.close(s.id) });
    }

    fn option(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let opt = *self.rng.pick(&OPTIONS);
        let v = match opt {
            SockOpt::RcvBuf | SockOpt::SndBuf => self.rng.range(2_304, 400_000) as u32,
            SockOpt::KeepIdle | SockOpt::KeepIntvl => self.rng.range(1, 100) as u32,
            SockOpt::MaxSeg => self.rng.range(88, 32_767) as u32,
            SockOpt::Ttl | SockOpt::Tos => self.rng.below(256) as u32,
            SockOpt::WindowClamp => self.rng.range(1_152, 100_000) as u32,
            SockOpt::RcvLowat => self.rng.magnitude(100_000) as u32,
            _ => self.rng.magnitude(200) as u32,
        };
        self.locked(net, |l| l.set_opt(s.id, opt, v));
        let _: u32 = net.hosts[self.host].stack.opt(s.id, opt);
    }

    fn sets(&mut self, net: &mut Net<'_>) {
        let mode = ItemMode {
            edge: self.rng.chance(40_000),
            oneshot: self.rng.chance(20_000),
            exclusive: self.rng.chance(20_000),
            away: self.rng.chance(5_000),
            ..ItemMode::default()
        };
        let events = self.rng.word() as u32 & 0x201f;
        match self.rng.below(8) {
            0 => {
                if self.sets.len() < 6
                    && let Ok(s) = self.locked(net, |l| l.set_alloc())
                {
                    self.sets.push(s);
                }
            }
            1 | 2 => {
                if let (Some(s), false) = (self.some(), self.sets.is_empty()) {
                    let set = *self.rng.pick(&self.sets);
                    let data = self.rng.word();
                    if let Ok(i) = self.locked(net, |l| l.item_add(set, s.id, events, data, mode)) {
                        self.items.push((s, i));
                    }
                }
            }
            3 if !self.items.is_empty() => {
                let (_, i) = *self.rng.pick(&self.items);
                self.locked(net, |l| l.item_mod(i, events, 5, mode));
            }
            4 if !self.items.is_empty() => {
                let n = self.rng.below(self.items.len() as u64) as usize;
                let (_, i) = self.items.swap_remove(n);
                self.locked(net, |l| l.item_del(i));
            }
            5 | 6 if !self.sets.is_empty() => {
                let set = *self.rng.pick(&self.sets);
                let mut out = [Ready {
                    item: Idx::new(0),
                    data: 0,
                    events: 0,
                }; 5];
                let n = self.locked(net, |l| l.set_collect(set, &mut out));
                assert!(n <= out.len());
                let _: bool = net.hosts[self.host].stack.set_has_ready(set);
            }
            _ => self.wait(net),
        }
    }

    fn wait(&mut self, net: &mut Net<'_>) {
        if self.waiter.is_none() {
            self.waiter = self.locked(net, |l| l.waiter_alloc()).ok();
        }
        let Some(w) = self.waiter else { return };
        if self.waiting {
            self.locked(net, |l| l.wait_end(w));
            self.waiting = false;
        } else if !self.sets.is_empty() {
            let set = *self.rng.pick(&self.sets);
            let wait = self.locked(net, |l| l.wait_begin(set, w));
            self.waiting = wait != flyover_core::Wait::Ready;
        }
    }

    fn udp(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.socket(net, Kind::Udp) else {
            return;
        };
        let port = 80 + self.rng.below(4) as u16;
        let (local, remote) = (self.local(net, port), self.remote(net));
        let connect = self.rng.chance(40_000);
        self.locked(net, |l| {
            let _: Result<(), Error> = l.udp_bind(s.id, local, false);
            if connect {
                let _: Result<(), Error> = l.udp_connect(s.id, local, Some(remote));
            }
        });
    }

    fn udp_io(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let to = self.rng.chance(60_000).then(|| self.remote(net));
        let n = self.rng.magnitude(20_000) as usize;
        let host = &mut net.hosts[self.host];
        if self.rng.chance(50_000) {
            let data = &self.buf[..n];
            let _: Result<usize, Error> =
                host.locked(|l| l.udp_send(s.id, to, UdpVia::default(), &[data]));
        } else {
            let peek = self.rng.chance(20_000);
            let out = &mut self.buf[..n];
            if let Ok(m) = host.stack.udp_recv(s, &mut [out], peek, host.me)
                && m.want_update
            {
                host.defer(s, work::WINDOW, false);
            }
            let _: u32 = host.stack.udp_next_len(s.id);
        }
    }

    fn icmp(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let sock = net.hosts[self.host].stack.sock(s.id);
        let proto = if sock.kind() == Kind::Udp { 17 } else { 6 };
        let flow = FlowKey {
            proto,
            local: sock.local(),
            remote: sock.remote(),
        };
        let una = net.hosts[self.host].stack.tcb(s.id).snd_una.get();
        let seq = Some(Seq(una.wrapping_add(self.rng.magnitude(3000) as u32)));
        let what = if self.rng.chance(70_000) {
            IcmpError::FragNeeded(self.rng.range(0, 1500) as u32)
        } else {
            IcmpError::Unreachable(113)
        };
        self.locked(net, |l| l.icmp_error(flow, seq, what));
    }

    fn defer(&mut self, net: &mut Net<'_>) {
        let Some(s) = self.some() else { return };
        let bits = *self.rng.pick(&[
            work::WINDOW,
            work::SEND,
            work::WINDOW | work::SEND,
            work::CLOSE,
        ]);
        let contended = self.rng.chance(50_000);
        if bits == work::CLOSE {
            self.socks.retain(|x| *x != s);
            self.items.retain(|x| x.0 != s);
        }
        net.hosts[self.host].defer(s, bits, contended);
    }

    fn look(&mut self, net: &mut Net<'_>) {
        let host = &mut net.hosts[self.host];
        let st = host.stack;
        let Some(s) = self.some() else {
            let _: usize = st.rows().count();
            return;
        };
        let _: u32 = st.readiness(s.id);
        let _ = st.tcp_info(s.id, Instant(host.now));
        let _ = (
            st.inq(s.id),
            st.outq(s.id),
            st.outq_unsent(s.id),
            st.all_acked(s.id),
            st.at_mark(s.id),
        );
        let _ = st.row(s);
        if self.rng.chance(20_000) {
            let _: i32 = st.take_error(s.id);
        }
        if self.wild && self.rng.chance(10_000) {
            let _ = st.audit();
        }
    }

    /// Closes everything.
    pub fn finish(&mut self, net: &mut Net<'_>) {
        self.forget_dead(net);
        let socks = std::mem::take(&mut self.socks);
        let sets = std::mem::take(&mut self.sets);
        let waiter = self.waiter.take();
        self.items.clear();
        self.locked(net, |l| {
            for s in sets {
                l.set_free(s);
            }
            if let Some(w) = waiter {
                l.waiter_free(w);
            }
            for s in socks {
                l.close(s.id);
            }
        });
    }
}
