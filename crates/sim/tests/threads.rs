//! Several processes use one stack at the same time, as threads here: one polls like a keeper, others send and receive
//! without waiting for the lock longer than they must. Real parallelism, real time; every byte once and in order.
#![allow(missing_docs)]

use flyover_core::sock::SockRef;
use flyover_core::stack::deferred::work;
use flyover_core::{
    Effects, Env, Error, Instant, Kind, Locked, NicSet, RecvFlags, SendFlags, Stack,
};
use flyover_cplane::Reader;
use flyover_sim::{Host, Net, NetConfig, Pattern, Rng};
use flyover_vnic::{MemNic, Vnic};
use flyover_wire::Endpoint;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

struct One(MemNic);

impl NicSet for One {
    fn count(&self) -> usize {
        1
    }
    fn nic(&mut self, i: usize) -> Option<&mut dyn Vnic> {
        (i == 0).then_some(&mut self.0 as &mut dyn Vnic)
    }
}

/// One process attached to a stack.
struct Process<'m> {
    stack: Stack<'m>,
    nics: One,
    reader: Reader<'m>,
    fx: Effects,
    me: u16,
    rng: Rng,
    start: std::time::Instant,
    /// Times that the lock was held by somebody else.
    contended: u64,
}

impl<'m> Process<'m> {
    fn new(host: &Host<'m>, me: u16, start: std::time::Instant) -> Self {
        Self {
            stack: host.stack,
            nics: One(host.nic.clone()),
            reader: host.reader(),
            fx: Effects::new(),
            me,
            rng: Rng::new(u64::from(me), 5),
            start,
            contended: 0,
        }
    }

    fn env(&mut self) -> Env<'_> {
        Env {
            now: Instant(2_000_000_000 + self.start.elapsed().as_nanos() as u64),
            nics: &mut self.nics,
            cp: self.reader,
            fx: &mut self.fx,
            me: self.me,
            rng: self.rng.word(),
        }
    }

    fn try_locked<R>(&mut self, f: impl FnOnce(&mut Locked<'_, '_, 'm>) -> R) -> Option<R> {
        let stack = self.stack;
        let out = {
            let mut env = self.env();
            stack.try_lock(&mut env).map(|mut l| f(&mut l))
        };
        self.contended += u64::from(out.is_none());
        while self.fx.pop().is_some() {}
        out
    }

    fn locked<R>(&mut self, mut f: impl FnMut(&mut Locked<'_, '_, 'm>) -> R) -> R {
        loop {
            if let Some(r) = self.try_locked(&mut f) {
                return r;
            }
            std::thread::yield_now();
        }
    }

    fn defer(&mut self, s: SockRef, bits: u32) {
        let stack = self.stack;
        {
            let mut env = self.env();
            drop(stack.lock_or_defer(&mut env, s.id, bits));
        }
        while self.fx.pop().is_some() {}
    }
}

fn send_all(p: &mut Process<'_>, s: SockRef, pattern: Pattern, bytes: u64) {
    let mut data = vec![0; 50_000];
    let mut sent = 0;
    while sent < bytes {
        let n = (1 + p.rng.magnitude(49_999)).min(bytes - sent) as usize;
        pattern.fill(sent, &mut data[..n]);
        match p.locked(|l| l.tcp_send(s.id, &[&data[..n]], SendFlags::default())) {
            Ok(n) => sent += n as u64,
            Err(Error::WouldBlock) => std::thread::sleep(Duration::from_micros(50)),
            Err(e) => panic!("{e:?}"),
        }
    }
}

fn receive_all(p: &mut Process<'_>, s: SockRef, pattern: Pattern, bytes: u64) {
    let mut out = vec![0; 50_000];
    let mut got = 0;
    let mut idle = 0;
    while got < bytes {
        let n = 1 + p.rng.magnitude(49_999) as usize;
        match p
            .stack
            .tcp_recv(s, &mut [&mut out[..n]], RecvFlags::default(), p.me)
        {
            Ok(r) => {
                assert!(r.n > 0, "the stream ended at {got}");
                pattern.check(got, &out[..r.n]).unwrap();
                got += r.n as u64;
                idle = 0;
                if r.want_update {
                    p.defer(s, work::WINDOW);
                }
            }
            Err(Error::WouldBlock) => {
                idle += 1;
                assert!(idle < 400_000, "nothing comes at {got} of {bytes}");
                std::thread::sleep(Duration::from_micros(50));
            }
            Err(e) => panic!("{e:?}"),
        }
    }
}

#[test]
fn many_processes_one_stack() {
    const BYTES: u64 = 8 << 20;
    let config = NetConfig {
        tx_queue: 4096,
        ..NetConfig::clean(1)
    };
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let server = Endpoint {
        ip: net.hosts[1].ip(),
        port: 80,
    };
    let listener = net.hosts[1].locked(|l| {
        let s = l.sock_alloc(Kind::Tcp, false, 0).unwrap();
        l.tcp_listen(s.id, server, false, 5).unwrap();
        s
    });
    let mut pairs = Vec::new();
    for port in [4000, 4001] {
        let client = Endpoint {
            ip: net.hosts[0].ip(),
            port,
        };
        let a = net.hosts[0].locked(|l| {
            let s = l.sock_alloc(Kind::Tcp, false, 0).unwrap();
            l.tcp_connect(s.id, client, server).unwrap();
            s
        });
        net.run_for(10_000_000);
        pairs.push([
            a,
            net.hosts[1].locked(|l| l.tcp_accept(listener.id)).unwrap(),
        ]);
    }
    let start = std::time::Instant::now();
    let stop = AtomicBool::new(false);
    let left = AtomicU32::new(8);
    let hosts = &net.hosts;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (i, pair) in pairs.iter().enumerate() {
            for side in 0..2 {
                let pattern = move |side: usize| Pattern((2 * i + side) as u64);
                let s = pair[side];
                let owner = (10 * i + side) as u16;
                let mut writer = Process::new(&hosts[side], 1 + owner, start);
                let mut reader = Process::new(&hosts[side], 5 + owner, start);
                let left = &left;
                threads.push(scope.spawn(move || {
                    send_all(&mut writer, s, pattern(side), BYTES);
                    left.fetch_sub(1, SeqCst);
                    writer.contended
                }));
                threads.push(scope.spawn(move || {
                    receive_all(&mut reader, s, pattern(1 - side), BYTES);
                    left.fetch_sub(1, SeqCst);
                    reader.contended
                }));
            }
        }
        let stop = &stop;
        let keepers: Vec<_> = (0..2)
            .map(|i| {
                let mut keeper = Process::new(&hosts[i], 0, start);
                let (out, into) = (hosts[i].nic.clone(), hosts[1 - i].nic.clone());
                scope.spawn(move || {
                    while !stop.load(SeqCst) {
                        // The wire, and the poll.
                        let mut moved = 0;
                        while let Some(f) = out.take() {
                            into.deliver(f);
                            moved += 1;
                        }
                        let polled = keeper.try_locked(|l| l.poll(64)).unwrap_or(0);
                        if moved == 0 && polled == 0 {
                            std::thread::sleep(Duration::from_micros(20));
                        }
                    }
                })
            })
            .collect();
        let mut contended = 0;
        let mut failed = None;
        for t in threads {
            match t.join() {
                Ok(n) => contended += n,
                Err(p) => failed = Some(p),
            }
        }
        stop.store(true, SeqCst);
        for k in keepers {
            k.join().unwrap();
        }
        if let Some(p) = failed {
            std::panic::resume_unwind(p);
        }
        println!(
            "{} MiB in {:?}, the lock was held {contended} times",
            4 * (BYTES >> 20),
            start.elapsed()
        );
    });
    assert_eq!(left.load(SeqCst), 0);
    for [a, b] in pairs {
        net.hosts[0].locked(|l| l.close(a.id));
        net.hosts[1].locked(|l| l.close(b.id));
    }
    net.hosts[1].locked(|l| l.close(listener.id));
    let later = net.now + start.elapsed().as_nanos() as u64 + 3_000_000_000;
    net.advance_to(later);
    assert!(net.run_until_idle(2_000_000_000_000));
    net.nothing_left().unwrap();
}
