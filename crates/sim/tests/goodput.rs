//! How fast one connection is on known wires, in virtual time: nothing here depends on the machine. The bounds are
//! well below what the stack reaches, and well above what a stall, a window that does not grow or a recovery by timeout
//! would leave. `cargo test -p flyover-sim --test goodput -- --nocapture` prints the table.
#![allow(missing_docs)]

use flyover_core::sock::SockRef;
use flyover_core::{Kind, SendFlags};
use flyover_sim::host::small_opts;
use flyover_sim::{Impair, Net, NetConfig, Pattern};
use flyover_vnic::MemCut;
use flyover_wire::Endpoint;

const MS: u64 = 1_000_000;
const MBIT: u64 = 1_000_000;

struct Wire {
    name: &'static str,
    rate: u64,
    /// One way.
    latency: u64,
    /// Length of the bottleneck's queue, in time.
    queue: u64,
    /// In hundred-thousandths.
    loss: u32,
    reorder: u32,
    megabytes: u64,
    /// Goodput that must be reached, Mb/s.
    at_least: u64,
}

const WIRES: &[Wire] = &[
    Wire {
        name: "10 Gb/s, 0.1 ms",
        rate: 10_000 * MBIT,
        latency: 50_000,
        queue: 2 * MS,
        loss: 0,
        reorder: 0,
        megabytes: 40,
        at_least: 6_000,
    },
    Wire {
        name: "1 Gb/s, 1 ms",
        rate: 1_000 * MBIT,
        latency: MS / 2,
        queue: 5 * MS,
        loss: 0,
        reorder: 0,
        megabytes: 20,
        at_least: 800,
    },
    Wire {
        name: "1 Gb/s, 20 ms",
        rate: 1_000 * MBIT,
        latency: 10 * MS,
        queue: 20 * MS,
        loss: 0,
        reorder: 0,
        megabytes: 60,
        at_least: 500,
    },
    Wire {
        name: "100 Mb/s, 40 ms, short queue",
        rate: 100 * MBIT,
        latency: 20 * MS,
        queue: 4 * MS,
        loss: 0,
        reorder: 0,
        megabytes: 30,
        at_least: 22,
    },
    Wire {
        name: "10 Mb/s, 100 ms",
        rate: 10 * MBIT,
        latency: 50 * MS,
        queue: 100 * MS,
        loss: 0,
        reorder: 0,
        megabytes: 8,
        at_least: 8,
    },
    Wire {
        name: "100 Mb/s, 10 ms, 0.1 % loss",
        rate: 100 * MBIT,
        latency: 5 * MS,
        queue: 20 * MS,
        loss: 100,
        reorder: 0,
        megabytes: 20,
        at_least: 40,
    },
    Wire {
        name: "100 Mb/s, 10 ms, 1 % loss",
        rate: 100 * MBIT,
        latency: 5 * MS,
        queue: 20 * MS,
        loss: 1_000,
        reorder: 0,
        megabytes: 10,
        at_least: 8,
    },
    Wire {
        name: "100 Mb/s, 10 ms, 5 % loss",
        rate: 100 * MBIT,
        latency: 5 * MS,
        queue: 20 * MS,
        loss: 5_000,
        reorder: 0,
        megabytes: 3,
        at_least: 1,
    },
    Wire {
        name: "1 Gb/s, 2 ms, 1 % late by up to 0.3 ms",
        rate: 1_000 * MBIT,
        latency: MS,
        queue: 5 * MS,
        loss: 0,
        reorder: 1_000,
        megabytes: 10,
        at_least: 30,
    },
];

fn connect(net: &mut Net<'_>) -> [SockRef; 2] {
    let server = Endpoint {
        ip: net.hosts[1].ip(),
        port: 80,
    };
    let client = Endpoint {
        ip: net.hosts[0].ip(),
        port: 4000,
    };
    let listener = net.hosts[1].locked(|l| {
        let s = l.sock_alloc(Kind::Tcp, false, 0).unwrap();
        l.tcp_listen(s.id, server, false, 5).unwrap();
        s
    });
    let a = net.hosts[0].locked(|l| {
        let s = l.sock_alloc(Kind::Tcp, false, 0).unwrap();
        l.tcp_connect(s.id, client, server).unwrap();
        s
    });
    loop {
        net.step(u64::MAX);
        if let Ok(b) = net.hosts[1].locked(|l| l.tcp_accept(listener.id)) {
            return [a, b];
        }
    }
}

/// Sends as fast as the socket takes it, reads as fast as it comes; returns Mb/s.
fn transfer(net: &mut Net<'_>, [a, b]: [SockRef; 2], bytes: u64) -> u64 {
    let start = net.now;
    let mut data = vec![0; 256 << 10];
    let mut out = vec![0; 256 << 10];
    let (mut sent, mut got) = (0u64, 0u64);
    let pattern = Pattern(3);
    let mut fresh = 0;
    while got < bytes {
        while sent < bytes {
            let n = (bytes - sent).min(64 << 10) as usize;
            if fresh != sent + 1 {
                pattern.fill(sent, &mut data[..n]);
                fresh = sent + 1;
            }
            match net.hosts[0].locked(|l| l.tcp_send(a.id, &[&data[..n]], SendFlags::default())) {
                Ok(n) => sent += n as u64,
                Err(_) => break,
            }
        }
        while let Ok(n) = net.hosts[1].recv(b, &mut out, false) {
            assert!(n > 0);
            pattern.check(got, &out[..n]).unwrap();
            got += n as u64;
        }
        assert!(
            net.now - start < 600_000 * MS,
            "{got} of {bytes} after ten minutes{}{}",
            net.describe(0),
            net.describe(1)
        );
        net.step(u64::MAX);
    }
    bytes * 8 * 1000 / (net.now - start).max(1)
}

#[test]
fn goodput() {
    let mut slow = Vec::new();
    for w in WIRES {
        for (cut, how) in [(MemCut::Mtu, "packets"), (MemCut::Whole, "super-frames")] {
            let impair = Impair {
                rate: w.rate,
                latency: w.latency,
                queue: w.queue,
                loss: w.loss,
                reorder: w.reorder,
                reorder_by: 300_000,
                ..Impair::CLEAN
            };
            if cut == MemCut::Whole && (w.loss != 0 || w.reorder != 0) {
                // A lost super-frame is forty lost packets.
                continue;
            }
            let mut config = NetConfig {
                impair: [impair; 2],
                cut,
                ..NetConfig::clean(7)
            };
            for o in &mut config.opts {
                *o = small_opts();
                o.buffers = 8192;
            }
            let memory = config.memory();
            let mut net = Net::new(&memory, &config);
            let socks = connect(&mut net);
            let mbit = transfer(&mut net, socks, w.megabytes << 20);
            let h = &net.hosts[0];
            let line = format!(
                "{:<40} {how:<12} {mbit:>6} Mb/s (at least {:>5}); again {:>5}, timeouts {:>3}, probes {:>3}, recoveries {:>3}",
                w.name,
                w.at_least,
                h.stat("tcp_retrans"),
                h.stat("tcp_rto"),
                h.stat("tcp_tlp"),
                h.stat("tcp_recovery"),
            );
            println!("{line}");
            if mbit < w.at_least {
                slow.push(line);
            }
        }
    }
    assert!(slow.is_empty(), "{}", slow.join("\n"));
}

/// A request and its answer, one after the other: no delayed ACK, no Nagle, no timer in between.
#[test]
fn request_and_answer_wait_for_nothing() {
    for (request, answer) in [
        (1, 1),
        (100, 2_000),
        (3_000, 10),
        (5_000, 30_000),
        (1_460, 1_461),
    ] {
        let config = NetConfig::clean(3);
        let memory = config.memory();
        let mut net = Net::new(&memory, &config);
        let socks = connect(&mut net);
        let start = net.now;
        let rounds = 100;
        let data = vec![1; 30_000];
        let mut out = vec![0; 40_000];
        for _ in 0..rounds {
            for (from, len) in [(0, request), (1, answer)] {
                let sent = net.hosts[from]
                    .locked(|l| l.tcp_send(socks[from].id, &[&data[..len]], SendFlags::default()));
                assert_eq!(sent, Ok(len));
                let mut got = 0;
                while got < len {
                    net.step(u64::MAX);
                    while let Ok(n) = net.hosts[1 - from].recv(socks[1 - from], &mut out, false) {
                        got += n;
                    }
                }
            }
        }
        let round = (net.now - start) / rounds;
        // 50 us each way; in the first rounds an answer of 30 kB is larger than the initial window.
        assert!(round < 130_000, "{request}/{answer}: {round} ns a round");
    }
}
