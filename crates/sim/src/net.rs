//! Two hosts and the wire between them, on one virtual clock. Nothing here depends on real time or on the order of a
//! hash table: a configuration and a seed are the whole story.

use crate::host::{Host, HostConfig, IFINDEX, Memory, small_opts};
use crate::link::{Fate, Impair, Link};
use crate::lint::Lint;
use crate::rng::Rng;
use crate::trace::Trace;
use flyover_config::StackOpts;
use flyover_core::Instant;
use flyover_vnic::{MemConfig, MemCsum, MemCut, MemFrame};
use flyover_wire::{Ip, Mac};

/// How a laboratory is set up.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The whole story.
    pub seed: u64,
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// Each host's stack.
    pub opts: [StackOpts; 2],
    /// What the wire does, each way.
    pub impair: [Impair; 2],
    /// Largest IP packet.
    pub mtu: u32,
    /// Largest super-frame; 0 is none.
    pub tso_max: u32,
    /// What becomes of super-frames.
    pub cut: MemCut,
    /// What becomes of checksums.
    pub csum: MemCsum,
    /// Frames that fit a V-NIC's transmit queue; then it is full.
    pub tx_queue: usize,
    /// The clock's start, ns.
    pub start: u64,
    /// Neighbours are known from the start.
    pub neigh_known: bool,
}

impl NetConfig {
    /// A clean IPv4 network.
    pub fn clean(seed: u64) -> Self {
        Self {
            seed,
            v6: false,
            opts: [small_opts(), small_opts()],
            impair: [Impair::CLEAN; 2],
            mtu: 1500,
            tso_max: 65_535,
            cut: MemCut::Mtu,
            csum: MemCsum::Finished,
            tx_queue: 512,
            start: 1_000_000_000,
            neigh_known: true,
        }
    }

    /// Memory for both hosts.
    pub fn memory(&self) -> [Memory; 2] {
        [Memory::new(&self.opts[0]), Memory::new(&self.opts[1])]
    }

    /// One of its hosts.
    pub fn host(&self, i: usize) -> HostConfig {
        let ip = |i: usize| {
            let last = i as u8 + 1;
            if self.v6 {
                Ip::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
            } else {
                Ip::v4([10, 9, 8, last])
            }
        };
        let mac = |i: usize| Mac([2, 0, 0, 0, 0, i as u8 + 1]);
        HostConfig {
            ip: ip(i),
            peer: ip(1 - i),
            nic: MemConfig {
                mac: mac(i),
                ifindex: IFINDEX,
                mtu: self.mtu,
                tso_max: self.tso_max,
                cut: self.cut,
                csum: self.csum,
                queue: self.tx_queue,
            },
            peer_mac: mac(1 - i),
            opts: self.opts[i],
            neigh_known: self.neigh_known,
            start: self.start,
            seed: self.seed,
        }
    }
}

/// The laboratory.
#[derive(Debug)]
pub struct Net<'m> {
    /// Virtual time, ns.
    pub now: u64,
    /// Both hosts.
    pub hosts: [Host<'m>; 2],
    /// `links[i]` carries what `hosts[i]` sends.
    pub links: [Link; 2],
    /// What was seen on the wire.
    pub trace: Trace,
    /// Copies of the frames that the hosts sent, if somebody wants them.
    pub capture: Option<Vec<Vec<u8>>>,
    /// Somebody who watches what the hosts send.
    pub lint: Option<Lint>,
    /// Events so far.
    pub steps: u64,
}

impl<'m> Net<'m> {
    /// Two idle hosts.
    pub fn new(memory: &'m [Memory; 2], config: &NetConfig) -> Self {
        let link = |i: usize| Link::new(config.impair[i], Rng::new(config.seed, 100 + i as u64));
        Self {
            now: config.start,
            hosts: [
                Host::new(&memory[0], config.host(0)),
                Host::new(&memory[1], config.host(1)),
            ],
            links: [link(0), link(1)],
            trace: Trace::default(),
            capture: None,
            lint: None,
            steps: 0,
        }
    }

    /// Takes what the hosts have sent, delivers what has arrived, and polls, until nothing more happens at this
    /// instant.
    pub fn settle(&mut self) {
        // A wire without latency and two hosts that answer each other could go on for ever.
        for _ in 0..10_000 {
            let mut busy = false;
            for i in 0..2 {
                busy |= self.carry(i);
            }
            for host in &mut self.hosts {
                host.tick();
                if host.wants_poll() {
                    let _: u32 = host.poll();
                    busy = true;
                }
            }
            if !busy {
                return;
            }
            self.steps += 1;
        }
        panic!("the network never comes to rest at {} ns", self.now);
    }

    fn carry(&mut self, from: usize) -> bool {
        let mut busy = false;
        while let Some(frame) = self.hosts[from].nic.take() {
            busy = true;
            if let Some(lint) = &mut self.lint {
                lint.observe(&frame);
            }
            if let Some(seen) = &mut self.capture {
                seen.push(frame.bytes.clone());
            }
            let fate = if self.trace.on {
                let copy = frame.clone();
                let fate = self.links[from].send(self.now, frame);
                self.trace.frame(self.now, from, &copy, fate);
                fate
            } else {
                self.links[from].send(self.now, frame)
            };
            let _: Fate = fate;
        }
        while let Some(frame) = self.links[from].arrived(self.now) {
            self.hosts[1 - from].nic.deliver(frame);
            busy = true;
        }
        busy
    }

    /// A frame that neither host sent arrives at host `to` now.
    pub fn inject(&mut self, to: usize, frame: MemFrame) {
        self.trace.frame(self.now, 1 - to, &frame, Fate::Sent);
        self.hosts[to].nic.deliver(frame);
    }

    /// When something happens next, of its own.
    pub fn next_event(&self) -> Option<u64> {
        let links = self.links.iter().filter_map(Link::next);
        let hosts = self.hosts.iter().filter_map(Host::deadline);
        links.chain(hosts).min().map(|t| t.max(self.now))
    }

    /// Sets the clock and settles.
    pub fn advance_to(&mut self, t: u64) {
        assert!(t >= self.now, "time goes one way");
        self.now = t;
        for h in &mut self.hosts {
            h.now = t;
        }
        self.settle();
    }

    /// Goes to the next event, or to `limit` when that comes first. False: nothing happens up to `limit`.
    pub fn step(&mut self, limit: u64) -> bool {
        self.settle();
        match self.next_event() {
            Some(t) if t <= limit => {
                self.advance_to(t);
                true
            }
            _ => {
                self.advance_to(limit.max(self.now));
                false
            }
        }
    }

    /// Lets `ns` pass.
    pub fn run_for(&mut self, ns: u64) {
        let limit = self.now + ns;
        while self.step(limit) {}
    }

    /// Runs until nothing is on its way and no timer runs, at most `ns`. False: time ran out first, or the hosts do
    /// not come to an end with one another.
    pub fn run_until_idle(&mut self, ns: u64) -> bool {
        let limit = self.now + ns;
        let last = self.steps + 500_000;
        self.settle();
        while let Some(t) = self.next_event() {
            if t > limit || self.steps > last {
                return false;
            }
            self.advance_to(t);
        }
        true
    }

    /// Checks that nothing is left: no socket, no buffer, no timer, no frame, no corruption; and that whoever watched
    /// the wire saw nothing wrong.
    ///
    /// # Errors
    /// What is left.
    pub fn nothing_left(&self) -> Result<(), String> {
        if let Some(fault) = self.lint.as_ref().and_then(|l| l.fault.as_ref()) {
            return Err(format!("on the wire: {fault}"));
        }
        for (i, h) in self.hosts.iter().enumerate() {
            let audit = h.stack.audit();
            if !audit.is_clean() {
                return Err(format!("host {i}: {audit:?}"));
            }
            let left = [
                ("sockets", h.stack.socks_used()),
                ("sockets in the audit", audit.socks),
                ("buffers", h.stack.buf_usage().0),
                ("buffers in the audit", audit.bufs_tagged),
                ("memberships", audit.items),
                ("corrupt", h.stat("corrupt") as u32),
            ];
            for (what, n) in left {
                if n != 0 {
                    return Err(format!("host {i}: {what} left: {n}; {}", self.describe(i)));
                }
            }
            if let Some(Instant(t)) = h.stack.next_deadline() {
                return Err(format!("host {i}: a timer at {t} is left"));
            }
            if let Some(owner) = h.stack.lock().owner() {
                return Err(format!("host {i}: the lock is held by {owner}"));
            }
            if !self.links[i].is_empty() || h.nic.depth() != (0, 0) {
                return Err(format!("host {i}: frames left"));
            }
        }
        Ok(())
    }

    /// The sockets of a host, for messages.
    pub fn describe(&self, i: usize) -> String {
        let st = self.hosts[i].stack;
        let mut out = String::new();
        for r in st.each_sock() {
            let s = st.net(r.id);
            let t = &s.net.tcb;
            out += &format!(
                "\n  {:?} {:?} {} > {} {} flags {:#x} shut {} err {} rq {} sq {} una +{} nxt +{} wnd {} cwnd {} \
                 rtx {}@{} delack {} life {} tflags {:#x} children {} ooo {}",
                r.id,
                s.kind(),
                s.local(),
                s.remote(),
                s.tcp_state().ss_name(),
                s.flags.load(std::sync::atomic::Ordering::Relaxed),
                s.shut.load(std::sync::atomic::Ordering::Relaxed),
                s.err.load(std::sync::atomic::Ordering::Relaxed),
                s.rq_available(),
                s.net.sq_len.load(std::sync::atomic::Ordering::Relaxed),
                t.snd_una.get().wrapping_sub(t.iss.get()),
                t.snd_nxt.get().wrapping_sub(t.iss.get()),
                t.snd_wnd.get(),
                t.cwnd.get(),
                t.rtx_kind.get(),
                t.t_rtx.get(),
                t.t_delack.get(),
                t.t_life.get(),
                t.tflags.get(),
                s.net.children.get(),
                t.ooo_bytes.get(),
            );
        }
        out
    }
}
