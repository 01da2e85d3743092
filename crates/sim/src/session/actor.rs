//! One side of a connection: a program that sleeps until it is woken.

use super::end::{Outcome, State};
use super::plan::{End, Plan};
use crate::net::Net;
use crate::rng::Rng;
use crate::stream::Pattern;
use flyover_core::sock::SockRef;
use flyover_core::{
    Error, ItemId, ItemMode, Kind, Ready, SHUT_RD, SHUT_WR, SendFlags, SetId, SockOpt, Wait,
    WaiterId, ev,
};
use flyover_wire::Endpoint;

/// Its descriptors: a socket, an epoll set, and the thread.
#[derive(Clone, Copy, Debug)]
struct Watch {
    sock: SockRef,
    set: SetId,
    item: ItemId,
    waiter: WaiterId,
    /// Events asked for now.
    events: u32,
}

/// One side.
pub struct Actor {
    host: usize,
    plan: Plan,
    rng: Rng,
    /// What we send, what we expect.
    patterns: [Pattern; 2],
    state: State,
    watch: Option<Watch>,
    out: Outcome,
    /// Sleeping until woken.
    asleep: bool,
    /// Do not read, or write, before.
    pauses: [u64; 2],
    shut: bool,
    buf: Vec<u8>,
}

impl std::fmt::Debug for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "host {} {:?} sock {:?} {:?} asleep {} pauses {:?} shut {} {:?}",
            self.host,
            self.state,
            self.watch.map(|w| w.sock.id),
            self.out,
            self.asleep,
            self.pauses,
            self.shut,
            self.plan,
        )
    }
}

impl Actor {
    /// A side that has not begun.
    pub fn new(host: usize, plan: Plan, rng: Rng, patterns: [Pattern; 2]) -> Self {
        Self {
            host,
            plan,
            rng,
            patterns,
            state: State::Idle,
            watch: None,
            out: Outcome::default(),
            asleep: false,
            pauses: [0; 2],
            shut: false,
            buf: Vec::new(),
        }
    }

    /// Somebody who waits for connections.
    pub fn listener(net: &mut Net<'_>, host: usize, sock: SockRef) -> Self {
        let mut rng = Rng::new(0, 0);
        let plan = Plan::random(&mut rng, 1, End::Orderly);
        let mut a = Self::new(
            host,
            Plan {
                edge: false,
                ..plan
            },
            rng,
            [Pattern(0); 2],
        );
        a.watch(net, sock, ev::IN);
        a.state = State::Open;
        a
    }

    /// How far it has come.
    pub fn state(&self) -> State {
        self.state
    }

    /// It has come to its end.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// What it saw.
    pub fn outcome(&self) -> Outcome {
        self.out
    }

    /// Its socket.
    pub fn sock(&self) -> SockRef {
        self.watch.expect("has a socket").sock
    }

    /// The client of this side gave up before the connection was there.
    pub fn never_began(&mut self) {
        self.state = State::Done;
    }

    /// When its pause ends.
    pub fn timer(&self) -> Option<u64> {
        if self.state != State::Open {
            return None;
        }
        self.pauses.iter().copied().filter(|t| *t != 0).min()
    }

    fn watch(&mut self, net: &mut Net<'_>, sock: SockRef, events: u32) {
        let mode = ItemMode {
            edge: self.plan.edge,
            ..ItemMode::default()
        };
        self.watch = Some(net.hosts[self.host].locked(|l| {
            let set = l.set_alloc().expect("a set");
            let waiter = l.waiter_alloc().expect("a waiter");
            let item = l.item_add(set, sock.id, events, 77, mode).expect("an item");
            Watch {
                sock,
                set,
                item,
                waiter,
                events,
            }
        }));
    }

    fn options(&self, net: &mut Net<'_>, sock: SockRef) {
        let plan = &self.plan;
        net.hosts[self.host].locked(|l| {
            l.set_opt(sock.id, SockOpt::NoDelay, u32::from(plan.nodelay));
            // A peer that vanished without a trace is noticed.
            l.set_opt(sock.id, SockOpt::KeepIdle, 20);
            l.set_opt(sock.id, SockOpt::KeepIntvl, 2);
            l.set_opt(sock.id, SockOpt::KeepCnt, 8);
            l.set_opt(sock.id, SockOpt::KeepAlive, 1);
            if let Some(n) = plan.rcvbuf {
                l.set_opt(sock.id, SockOpt::RcvBuf, n);
            }
            if let Some(n) = plan.sndbuf {
                l.set_opt(sock.id, SockOpt::SndBuf, n);
            }
        });
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// When the stack refuses.
    pub fn connect(
        &mut self,
        net: &mut Net<'_>,
        local: Endpoint,
        remote: Endpoint,
    ) -> Result<(), String> {
        let sock = net.hosts[self.host]
            .locked(|l| l.sock_alloc(Kind::Tcp, !local.ip.is_v4(), 0))
            .map_err(|e| format!("no socket: {e:?}"))?;
        self.options(net, sock);
        net.hosts[self.host]
            .locked(|l| l.tcp_connect(sock.id, local, remote))
            .map_err(|e| format!("connect: {e:?}"))?;
        self.watch(net, sock, ev::OUT);
        self.state = State::Connecting;
        Ok(())
    }

    /// A connection was accepted for this side.
    pub fn adopt(&mut self, net: &mut Net<'_>, sock: SockRef) {
        assert_eq!(self.state, State::Idle, "accepted twice");
        self.options(net, sock);
        self.watch(net, sock, ev::IN | ev::OUT);
        self.state = State::Open;
    }

    /// True when it may act: it was woken, or it never slept, or a pause is over.
    pub fn wakes_up(&mut self, net: &mut Net<'_>) -> bool {
        let Some(w) = self.watch else { return false };
        let host = &mut net.hosts[self.host];
        let pause_over = self.timer().is_some_and(|t| t <= host.now);
        let wishes = &mut host.wishes;
        if self.asleep {
            let woken = wishes.wakes.contains(&w.waiter) || wishes.overflow;
            if !woken && !pause_over {
                return false;
            }
            wishes.wakes.retain(|x| *x != w.waiter);
            host.locked(|l| l.wait_end(w.waiter));
            self.asleep = false;
        }
        true
    }

    /// Goes to sleep until something happens. False: something is ready already.
    pub fn sleep(&mut self, net: &mut Net<'_>) -> bool {
        let Some(w) = self.watch else { return true };
        let events = self.wanted(net.now);
        if events != w.events {
            let mode = ItemMode {
                edge: self.plan.edge,
                ..ItemMode::default()
            };
            net.hosts[self.host].locked(|l| l.item_mod(w.item, events, 77, mode));
            self.watch = Some(Watch { events, ..w });
        }
        if events == 0 && self.timer().is_some() {
            // ERR and HUP are reported whether asked for or not: a program that waits for nothing else sleeps.
            self.asleep = true;
            return true;
        }
        let wait = net.hosts[self.host].locked(|l| {
            let mut ready = [Ready {
                item: w.item,
                data: 0,
                events: 0,
            }; 4];
            let n = l.set_collect(w.set, &mut ready);
            if n > 0 {
                Wait::Ready
            } else {
                l.wait_begin(w.set, w.waiter)
            }
        });
        self.asleep = wait != Wait::Ready;
        self.asleep
    }

    /// What would make it act.
    fn wanted(&self, now: u64) -> u32 {
        if self.state == State::Connecting {
            return ev::OUT;
        }
        let mut events = 0;
        if !self.out.eof && self.pauses[0] <= now {
            events |= ev::IN;
        }
        if self.may_write() && self.pauses[1] <= now {
            events |= ev::OUT;
        }
        events
    }

    fn may_write(&self) -> bool {
        self.out.sent < self.plan.send && (self.plan.end != End::AfterPeer || self.out.eof)
    }

    /// Acts if it may. True when it did.
    ///
    /// # Errors
    /// What is wrong.
    pub fn act(&mut self, net: &mut Net<'_>) -> Result<bool, String> {
        if !matches!(self.state, State::Connecting | State::Open) || !self.wakes_up(net) {
            return Ok(false);
        }
        for p in &mut self.pauses {
            if *p <= net.now {
                *p = 0;
            }
        }
        // Enough for every byte one by one; a program that never blocks is a fault.
        for _ in 0..1_000_000 {
            if self.state == State::Connecting {
                self.connected(net);
            }
            if self.state == State::Open {
                self.write(net);
                self.read(net)?;
                self.end(net);
            }
            if self.state == State::Done || self.sleep(net) {
                return Ok(true);
            }
        }
        Err("never blocks".into())
    }

    fn connected(&mut self, net: &mut Net<'_>) {
        let sock = self.sock();
        let st = net.hosts[self.host].stack;
        let mask = st.readiness(sock.id);
        if mask & (ev::OUT | ev::ERR | ev::HUP) == 0 {
            return;
        }
        match st.take_error(sock.id) {
            0 => self.state = State::Open,
            e => self.fail(net, e),
        }
    }

    /// An error ends the connection for this side.
    fn fail(&mut self, net: &mut Net<'_>, errno: i32) {
        if self.out.error == 0 {
            self.out.error = errno;
        }
        self.close(net);
    }

    fn pauses(&mut self, which: usize, chance: u32, now: u64) -> bool {
        if self.pauses[which] == 0 && self.rng.chance(chance) {
            self.pauses[which] = now + 1 + self.rng.below(self.plan.pause);
        }
        self.pauses[which] != 0
    }

    fn write(&mut self, net: &mut Net<'_>) {
        while self.state == State::Open && self.may_write() {
            if self.pauses(1, self.plan.write_pause, net.now) {
                return;
            }
            let left = self.plan.send - self.out.sent;
            let n = self.rng.range(1, self.plan.write).min(left) as usize;
            self.buf.resize(n, 0);
            self.patterns[0].fill(self.out.sent, &mut self.buf);
            let more = self.rng.chance(self.plan.more) && (n as u64) < left;
            let (a, b) = self.buf.split_at(n / 3);
            let id = self.sock().id;
            let r = net.hosts[self.host].locked(|l| {
                l.tcp_send(
                    id,
                    &[a, b],
                    SendFlags {
                        more,
                        oob: false,
                        eor: false,
                        waits: false,
                    },
                )
            });
            match r {
                Ok(n) => {
                    assert!(n > 0, "sent nothing");
                    self.out.sent += n as u64;
                }
                Err(Error::WouldBlock) => return,
                Err(Error::BrokenPipe) => {
                    // The reader learns why.
                    self.fail(net, Error::BrokenPipe.errno());
                }
                Err(e) => self.fail(net, e.errno()),
            }
            if let End::AbortAt(n) = self.plan.end
                && self.out.sent + self.out.read >= n
            {
                return;
            }
        }
    }

    fn read(&mut self, net: &mut Net<'_>) -> Result<(), String> {
        while self.state == State::Open && !self.out.eof {
            if self.pauses(0, self.plan.read_pause, net.now) {
                return Ok(());
            }
            let n = self.rng.range(1, self.plan.read) as usize;
            self.buf.resize(n, 0);
            let contended = self.rng.chance(self.plan.contended);
            let sock = self.sock();
            match net.hosts[self.host].recv(sock, &mut self.buf, contended) {
                Ok(0) => self.out.eof = true,
                Ok(n) => {
                    self.patterns[1]
                        .check(self.out.read, &self.buf[..n])
                        .map_err(|w| {
                            format!("wrong byte: {w:?} in a read of {n} at {}", self.out.read)
                        })?;
                    self.out.read += n as u64;
                }
                Err(Error::WouldBlock) => return Ok(()),
                Err(e) => self.fail(net, e.errno()),
            }
            let enough = match self.plan.end {
                End::CloseAt(n) => self.out.read >= n,
                End::AbortAt(n) => self.out.sent + self.out.read >= n,
                _ => false,
            };
            if enough {
                return Ok(());
            }
        }
        Ok(())
    }

    fn end(&mut self, net: &mut Net<'_>) {
        if self.state != State::Open {
            return;
        }
        let all_sent = self.out.sent >= self.plan.send;
        match self.plan.end {
            End::Orderly => {
                if all_sent && !self.shut {
                    self.shutdown(net, SHUT_WR);
                }
                if all_sent && self.out.eof {
                    self.close(net);
                }
            }
            End::AfterPeer | End::CloseAtEof => {
                if all_sent && self.out.eof {
                    self.close(net);
                }
            }
            End::CloseAfterSend => {
                if all_sent {
                    self.close(net);
                }
            }
            End::ShutBoth => {
                if all_sent {
                    self.shutdown(net, SHUT_RD | SHUT_WR);
                    self.close(net);
                }
            }
            End::CloseAt(n) => {
                if self.out.read >= n || (self.out.eof && all_sent) {
                    self.close(net);
                }
            }
            End::AbortAt(n) => {
                if self.out.read + self.out.sent >= n || (self.out.eof && all_sent) {
                    self.abort(net);
                }
            }
        }
    }

    fn shutdown(&mut self, net: &mut Net<'_>, how: u32) {
        let id = self.sock().id;
        self.shut = true;
        let _: Result<(), Error> = net.hosts[self.host].locked(|l| l.shutdown(id, how));
    }

    fn close(&mut self, net: &mut Net<'_>) {
        self.unwatch(net, |l, id| l.close(id));
    }

    fn abort(&mut self, net: &mut Net<'_>) {
        self.unwatch(net, |l, id| l.abort(id));
    }

    /// The descriptors are closed, the socket in the way that `how` says.
    fn unwatch(
        &mut self,
        net: &mut Net<'_>,
        how: impl FnOnce(&mut flyover_core::Locked<'_, '_, '_>, flyover_core::SockId),
    ) {
        self.state = State::Done;
        if let Some(w) = self.watch.take() {
            net.hosts[self.host].locked(|l| {
                if self.asleep {
                    l.wait_end(w.waiter);
                }
                l.item_del(w.item);
                how(l, w.sock.id);
                l.set_free(w.set);
                l.waiter_free(w.waiter);
            });
        }
        self.asleep = false;
    }

    /// Closes whatever is open.
    pub fn release(&mut self, net: &mut Net<'_>) {
        if self.watch.is_some() {
            self.close(net);
        }
    }
}
