//! What happens to connections when something happens around them: routes and neighbours change, tables run full,
//! listeners go away, sequence numbers wrap.
#![allow(missing_docs)]

use flyover_config::StackOpts;
use flyover_core::sock::SockRef;
use flyover_core::{Error, IcmpError, Kind, RecvFlags, SendFlags, SockOpt, TcpState, ev};
use flyover_sim::host::small_opts;
use flyover_sim::peer::{Peer, Segment};
use flyover_sim::{Impair, Net, NetConfig, Pattern, Rng};
use flyover_vnic::MemCut;
use flyover_wire::{Endpoint, FlowKey, Seq, TcpFlags};

const MS: u64 = 1_000_000;
const SERVER: u16 = 80;

fn end(net: &Net<'_>, host: usize, port: u16) -> Endpoint {
    Endpoint {
        ip: net.hosts[host].ip(),
        port,
    }
}

fn listen(net: &mut Net<'_>, backlog: u32) -> SockRef {
    let server = end(net, 1, SERVER);
    net.hosts[1].locked(|l| {
        let s = l.sock_alloc(Kind::Tcp, !server.ip.is_v4(), 0).unwrap();
        l.tcp_listen(s.id, server, false, backlog).unwrap();
        s
    })
}

fn connect(net: &mut Net<'_>, port: u16) -> Result<SockRef, Error> {
    let (client, server) = (end(net, 0, port), end(net, 1, SERVER));
    net.hosts[0].locked(|l| {
        let s = l.sock_alloc(Kind::Tcp, !client.ip.is_v4(), 0)?;
        let r = l.tcp_connect(s.id, client, server);
        if r.is_err() {
            l.close(s.id);
        }
        r.map(|()| s)
    })
}

fn accept(net: &mut Net<'_>, listener: SockRef) -> SockRef {
    for _ in 0..10_000 {
        if let Ok(s) = net.hosts[1].locked(|l| l.tcp_accept(listener.id)) {
            return s;
        }
        net.step(net.now + 1000 * MS);
    }
    panic!("nobody came{}{}", net.describe(0), net.describe(1));
}

fn close(net: &mut Net<'_>, host: usize, s: SockRef) {
    net.hosts[host].locked(|l| l.close(s.id));
}

/// Sends `bytes` from host 0 to host 1; `at` is called at every step with the bytes received so far.
fn transfer(
    net: &mut Net<'_>,
    [a, b]: [SockRef; 2],
    from: u64,
    bytes: u64,
    mut at: impl FnMut(&mut Net<'_>, u64),
) {
    let pattern = Pattern(4);
    let (mut sent, mut got) = (from, from);
    let limit = net.now + 3_600_000 * MS;
    let mut data = vec![0; 30_000];
    let mut out = vec![0; 50_000];
    while got < from + bytes {
        while sent < from + bytes {
            let n = (from + bytes - sent).min(data.len() as u64) as usize;
            pattern.fill(sent, &mut data[..n]);
            match net.hosts[0].locked(|l| l.tcp_send(a.id, &[&data[..n]], SendFlags::default())) {
                Ok(n) => sent += n as u64,
                Err(Error::WouldBlock) => break,
                Err(e) => panic!("send: {e:?}{}", net.describe(0)),
            }
        }
        match net.hosts[1].recv(b, &mut out, false) {
            Ok(n) => {
                pattern.check(got, &out[..n]).unwrap();
                got += n as u64;
            }
            Err(Error::WouldBlock) => {
                assert!(
                    net.now < limit,
                    "stuck{}{}",
                    net.describe(0),
                    net.describe(1)
                );
                at(net, got - from);
                net.step(limit);
            }
            Err(e) => panic!("recv: {e:?}"),
        }
    }
}

fn finish(net: &mut Net<'_>, socks: &[(usize, SockRef)]) {
    for (host, s) in socks {
        close(net, *host, *s);
    }
    assert!(
        net.run_until_idle(2_000_000 * MS),
        "{}{}",
        net.describe(0),
        net.describe(1)
    );
    net.nothing_left().unwrap();
}

fn opened(net: &mut Net<'_>) -> (SockRef, [SockRef; 2]) {
    let listener = listen(net, 8);
    let a = connect(net, 4000).unwrap();
    let b = accept(net, listener);
    (listener, [a, b])
}

#[test]
fn our_sequence_numbers_wrap() {
    let lossy = Impair {
        loss: 2_000,
        reorder: 5_000,
        reorder_by: MS,
        ..Impair::CLEAN
    };
    let config = NetConfig {
        impair: [lossy; 2],
        ..NetConfig::clean(5)
    };
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let listener = listen(&mut net, 8);
    // The initial sequence number depends on port and time: look for one just below the wrap.
    let mut port = 1024;
    let a = loop {
        let (client, server) = (end(&net, 0, port), end(&net, 1, SERVER));
        let s = net.hosts[0].locked(|l| {
            let s = l.sock_alloc(Kind::Tcp, false, 0).unwrap();
            l.tcp_connect(s.id, client, server).unwrap();
            s
        });
        if net.hosts[0].stack.tcb(s.id).iss.get() > u32::MAX - 150_000 {
            break s;
        }
        close(&mut net, 0, s);
        while net.hosts[0].nic.take().is_some() {}
        port = if port == 65_535 { 1024 } else { port + 1 };
        for h in &mut net.hosts {
            h.now += 4_000;
        }
        net.now += 4_000;
    };
    let b = accept(&mut net, listener);
    transfer(&mut net, [a, b], 0, 400_000, |_, _| {});
    finish(&mut net, &[(0, a), (1, b), (1, listener)]);
}

#[test]
fn the_mtu_shrinks_and_grows() {
    for cut in [MemCut::Mtu, MemCut::Whole] {
        let config = NetConfig {
            mtu: 9000,
            cut,
            ..NetConfig::clean(5)
        };
        let memory = config.memory();
        let mut net = Net::new(&memory, &config);
        let (listener, socks) = opened(&mut net);
        let mut step = 0;
        transfer(&mut net, socks, 0, 600_000, |net, got| {
            if got > 150_000 * (step + 1) {
                step += 1;
                net.hosts[0].set_mtu([1500, 600, 9000][step as usize - 1]);
            }
        });
        assert_eq!(step, 3);
        finish(&mut net, &[(0, socks[0]), (1, socks[1]), (1, listener)]);
    }
}

#[test]
fn path_mtu_discovery() {
    let config = NetConfig {
        mtu: 9000,
        ..NetConfig::clean(5)
    };
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (listener, socks) = opened(&mut net);
    let flow = FlowKey {
        proto: 6,
        local: end(&net, 0, 4000),
        remote: end(&net, 1, SERVER),
    };
    let mut told = false;
    transfer(&mut net, socks, 0, 300_000, |net, got| {
        let t = net.hosts[0].stack.tcb(socks[0].id);
        let (una, nxt) = (t.snd_una.get(), t.snd_nxt.get());
        if got > 100_000 && !told && una != nxt {
            told = true;
            // Outside the window: not believed (RFC 5927).
            net.hosts[0].locked(|l| {
                l.icmp_error(
                    flow,
                    Some(Seq(una.wrapping_sub(1))),
                    IcmpError::FragNeeded(700),
                )
            });
            assert!(net.hosts[0].stack.net(socks[0].id).net.pmtu.get() == 0);
            net.hosts[0]
                .locked(|l| l.icmp_error(flow, Some(Seq(una)), IcmpError::FragNeeded(1400)));
        }
    });
    assert!(told);
    assert_eq!(
        net.hosts[0].stack.opt(socks[0].id, SockOpt::MaxSeg),
        1400 - 52
    );
    assert_eq!(net.hosts[0].stat("tcp_rto"), 0);
    // RFC 1191 section 6.3: after ten minutes the path may carry more.
    net.run_for(601_000 * MS);
    transfer(&mut net, socks, 0, 300_000, |_, _| {});
    assert_eq!(
        net.hosts[0].stack.opt(socks[0].id, SockOpt::MaxSeg),
        9000 - 52
    );
    finish(&mut net, &[(0, socks[0]), (1, socks[1]), (1, listener)]);
}

#[test]
fn the_neighbour_comes_and_goes() {
    let config = NetConfig::clean(5);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (listener, socks) = opened(&mut net);
    let mut times = 0;
    transfer(&mut net, socks, 0, 600_000, |net, got| {
        if got > 50_000 * (times + 1) {
            times += 1;
            net.hosts[(times % 2) as usize].forget_neigh();
        }
    });
    assert!(times > 5 && net.hosts[0].wishes.neighs > 0);
    finish(&mut net, &[(0, socks[0]), (1, socks[1]), (1, listener)]);
}

fn keep_alive(net: &mut Net<'_>, s: SockRef, probes: u32) {
    net.hosts[0].locked(|l| {
        for (opt, v) in [
            (SockOpt::KeepIdle, 1),
            (SockOpt::KeepIntvl, 1),
            (SockOpt::KeepCnt, probes),
            (SockOpt::KeepAlive, 1),
        ] {
            l.set_opt(s.id, opt, v);
        }
    });
}

/// A keep-alive probe that has to wait for the neighbour is not an unanswered one.
#[test]
fn a_probe_that_finds_no_neighbour_goes_out_later() {
    let config = NetConfig::clean(5);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (listener, socks) = opened(&mut net);
    keep_alive(&mut net, socks[0], 1);
    for _ in 0..20 {
        net.hosts[0].forget_neigh();
        net.run_for(1500 * MS);
        let state = net.hosts[0].stack.sock(socks[0].id).tcp_state();
        assert_eq!(state, TcpState::Established);
    }
    finish(&mut net, &[(0, socks[0]), (1, socks[1]), (1, listener)]);
}

/// Where nobody answers for the neighbour's address any more, keep-alive ends the connection all the same.
#[test]
fn keep_alive_without_a_neighbour_comes_to_an_end() {
    let config = NetConfig::clean(5);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (_, socks) = opened(&mut net);
    keep_alive(&mut net, socks[0], 12);
    let begun = net.now;
    let limit = begun + 60_000 * MS;
    net.hosts[0].forget_neigh();
    while net.step(limit) {
        net.hosts[0].forget_neigh();
    }
    let s = net.hosts[0].stack.sock(socks[0].id);
    assert_eq!(s.tcp_state(), TcpState::Closed);
    assert_eq!(s.err.load(std::sync::atomic::Ordering::Relaxed), 110);
}

#[test]
fn connecting_without_a_neighbour() {
    let config = NetConfig {
        neigh_known: false,
        mtu: 9000,
        ..NetConfig::clean(5)
    };
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    net.trace.on = true;
    let start = net.now;
    let (listener, socks) = opened(&mut net);
    let took = net.now - start;
    assert!(
        took < 10 * MS,
        "{took} ns: the SYN waits for the answer, not for its timer\n{}",
        net.trace.tail(20)
    );
    assert_eq!(
        net.hosts[1].stack.tcb(socks[1].id).peer_mss.get(),
        8960,
        "the SYN says what the MTU carries"
    );
    finish(&mut net, &[(0, socks[0]), (1, socks[1]), (1, listener)]);
}

#[test]
fn a_tiny_transmit_queue() {
    for tso_max in [0, 65_535] {
        let config = NetConfig {
            tso_max,
            tx_queue: 3,
            ..NetConfig::clean(5)
        };
        let memory = config.memory();
        let mut net = Net::new(&memory, &config);
        let (listener, socks) = opened(&mut net);
        transfer(&mut net, socks, 0, 1_000_000, |_, _| {});
        assert!(
            tso_max != 0 || net.hosts[0].stat("tx_full") > 0,
            "the queue was never full"
        );
        assert_eq!(net.hosts[0].stat("tcp_rto"), 0, "a full queue is no loss");
        finish(&mut net, &[(0, socks[0]), (1, socks[1]), (1, listener)]);
    }
}

#[test]
fn short_connections_recycle_time_wait() {
    let config = NetConfig::clean(5);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let listener = listen(&mut net, 8);
    for i in 0..1_000u16 {
        let a = connect(&mut net, 2000 + i).unwrap();
        let b = accept(&mut net, listener);
        transfer(&mut net, [a, b], 0, 100, |_, _| {});
        // The active closer keeps TIME_WAIT.
        let first = usize::from(i % 2);
        close(&mut net, first, [a, b][first]);
        net.run_for(MS);
        close(&mut net, 1 - first, [a, b][1 - first]);
        net.run_for(MS);
    }
    assert!(net.hosts[0].stat("tw_recycled") > 0 && net.hosts[1].stat("tw_recycled") > 0);
    finish(&mut net, &[(1, listener)]);
}

#[test]
fn the_same_ports_again_at_once() {
    let config = NetConfig::clean(5);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let listener = listen(&mut net, 8);
    for first in [0, 1, 0, 1, 1, 0] {
        let a = connect(&mut net, 2000).unwrap();
        let b = accept(&mut net, listener);
        transfer(&mut net, [a, b], 0, 10_000, |_, _| {});
        close(&mut net, first, [a, b][first]);
        net.run_for(MS);
        close(&mut net, 1 - first, [a, b][1 - first]);
        net.run_for(MS);
    }
    finish(&mut net, &[(1, listener)]);
}

#[test]
fn no_slot_is_an_answer() {
    let config = NetConfig::clean(5);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let listener = listen(&mut net, 100);
    let mut socks = vec![(1, listener)];
    let mut refused = 0;
    for i in 0..100 {
        match connect(&mut net, 2000 + i) {
            Ok(s) => socks.push((0, s)),
            Err(e) => {
                assert_eq!(e, Error::NoBuffers);
                refused += 1;
            }
        }
        net.run_for(MS);
    }
    assert_eq!(refused, 100 - 64);
    assert_eq!(net.hosts[1].stack.socks_used(), 64);
    // Host 1 had room for 63 children; the last SYN waits and is given up in the end.
    let open = net.hosts[0]
        .stack
        .each_sock()
        .filter(|s| net.hosts[0].stack.sock(s.id).tcp_state() == TcpState::Established);
    assert_eq!(open.count(), 63);
    finish(&mut net, &socks);
}

#[test]
fn readers_that_do_not_read() {
    let opts = StackOpts {
        buffers: 512,
        ..small_opts()
    };
    let config = NetConfig {
        opts: [opts; 2],
        ..NetConfig::clean(5)
    };
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let listener = listen(&mut net, 100);
    let mut pairs = Vec::new();
    for i in 0..20 {
        let a = connect(&mut net, 2000 + i).unwrap();
        pairs.push((a, accept(&mut net, listener), 0u64, 0u64));
    }
    let data = vec![5; 10_000];
    // 2 MiB of buffers, 20 windows of 128 KiB and more: nobody reads.
    for round in 0..100 {
        for p in &mut pairs {
            if let Ok(n) =
                net.hosts[0].locked(|l| l.tcp_send(p.0.id, &[&data], SendFlags::default()))
            {
                p.2 += n as u64;
            }
        }
        net.run_for(10 * MS);
        for h in &net.hosts {
            let (used, all) = h.stack.buf_usage();
            assert!(used <= all, "round {round}");
        }
    }
    // A new connection still works a little: what is read makes room.
    let mut out = vec![0; 40_000];
    for _ in 0..100_000 {
        let mut left = false;
        for p in &mut pairs {
            while let Ok(n) = net.hosts[1].recv(p.1, &mut out, false) {
                p.3 += n as u64;
            }
            left |= p.3 < p.2;
        }
        if !left {
            break;
        }
        net.step(net.now + 1000 * MS);
    }
    for p in &pairs {
        assert_eq!(
            p.2,
            p.3,
            "every byte that was taken arrives{}{}",
            net.describe(0),
            net.describe(1)
        );
    }
    let mut socks: Vec<_> = pairs.iter().flat_map(|p| [(0, p.0), (1, p.1)]).collect();
    socks.push((1, listener));
    finish(&mut net, &socks);
}

#[test]
fn many_tiny_pieces_out_of_order() {
    // Every second byte: each costs a buffer. The others must go on to work.
    let config = NetConfig::clean(5);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (listener, socks) = opened(&mut net);
    let c = connect(&mut net, 4001).unwrap();
    let d = accept(&mut net, listener);
    let t = net.hosts[1].stack.tcb(socks[1].id);
    let (seq, ack) = (t.rcv_nxt.get(), t.snd_nxt.get());
    let peer = Peer {
        local: end(&net, 0, 4000),
        remote: end(&net, 1, SERVER),
        mac: net.hosts[0].config().nic.mac,
        remote_mac: net.hosts[1].config().nic.mac,
    };
    for i in 0..3_000u32 {
        let mut s = Segment::new(TcpFlags::ACK, seq.wrapping_add(1 + 2 * i), ack);
        s.payload = vec![1];
        net.inject(1, peer.tcp(&s));
        if i % 50 == 0 {
            net.settle();
        }
    }
    net.settle();
    let (used, all) = net.hosts[1].stack.buf_usage();
    println!("{used} of {all} buffers for 3000 bytes");
    transfer(&mut net, [c, d], 0, 500_000, |_, _| {});
    finish(
        &mut net,
        &[(0, socks[0]), (1, socks[1]), (0, c), (1, d), (1, listener)],
    );
}

#[test]
fn a_flood_of_syns() {
    let config = NetConfig::clean(5);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (listener, socks) = opened(&mut net);
    let mut rng = Rng::new(5, 90);
    let mut peer = Peer {
        local: end(&net, 0, 1),
        remote: end(&net, 1, SERVER),
        mac: net.hosts[0].config().nic.mac,
        remote_mac: net.hosts[1].config().nic.mac,
    };
    let mut done = 0;
    transfer(&mut net, socks, 0, 200_000, |net, _| {
        for _ in 0..100 {
            peer.local.ip = flyover_wire::Ip::v4([10, 9, 8, 3 + rng.below(200) as u8]);
            peer.local.port = rng.word() as u16;
            net.inject(
                1,
                peer.tcp(&Segment::new(TcpFlags::SYN, rng.word() as u32, 0)),
            );
            done += 1;
        }
    });
    assert!(done > 200);
    assert!(
        net.hosts[1].stack.socks_used() < 40,
        "half-open connections are bounded"
    );
    finish(&mut net, &[(0, socks[0]), (1, socks[1]), (1, listener)]);
}

#[test]
fn a_listener_goes_away() {
    let config = NetConfig::clean(5);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (listener, socks) = opened(&mut net);
    let queued = connect(&mut net, 4001).unwrap();
    net.run_for(MS);
    let half_open = connect(&mut net, 4002).unwrap();
    net.settle();
    net.run_for(60_000);
    close(&mut net, 1, listener);
    net.run_for(10 * MS);
    for s in [queued, half_open] {
        let e = net.hosts[0].stack.take_error(s.id);
        assert!(matches!(e, 104 | 111), "errno {e}");
    }
    // Accepted connections live on.
    transfer(&mut net, socks, 0, 50_000, |_, _| {});
    let late = connect(&mut net, 4003).unwrap();
    net.run_for(10 * MS);
    assert_eq!(net.hosts[0].stack.take_error(late.id), 111);
    finish(
        &mut net,
        &[
            (0, socks[0]),
            (1, socks[1]),
            (0, queued),
            (0, half_open),
            (0, late),
        ],
    );
}

#[test]
fn urgent_data() {
    for inline in [false, true] {
        let config = NetConfig {
            impair: [Impair {
                loss: 1_000,
                ..Impair::CLEAN
            }; 2],
            ..NetConfig::clean(5)
        };
        let memory = config.memory();
        let mut net = Net::new(&memory, &config);
        let (listener, [a, b]) = opened(&mut net);
        net.hosts[1].locked(|l| l.set_opt(b.id, SockOpt::OobInline, u32::from(inline)));
        let send = |net: &mut Net<'_>, data: &[u8], oob| {
            net.hosts[0]
                .locked(|l| {
                    l.tcp_send(
                        a.id,
                        &[data],
                        SendFlags {
                            more: false,
                            oob,
                            eor: false,
                            waits: false,
                        },
                    )
                })
                .unwrap();
        };
        send(&mut net, b"before", false);
        send(&mut net, b"xy!", true);
        send(&mut net, b"after", false);
        net.run_for(3_000 * MS);
        let h = &net.hosts[1];
        assert_ne!(h.stack.readiness(b.id) & ev::PRI, 0);
        let oob = h.stack.tcp_recv_oob(b, false, h.me);
        assert_eq!(
            oob,
            if inline {
                Err(Error::Invalid)
            } else {
                Ok(b'!')
            }
        );
        let mut all = Vec::new();
        let mut reads = Vec::new();
        let mut out = [0; 100];
        while let Ok(r) = h
            .stack
            .tcp_recv(b, &mut [&mut out], RecvFlags::default(), h.me)
        {
            reads.push(r.n);
            all.extend_from_slice(&out[..r.n]);
        }
        assert_eq!(reads[0], 8, "a read stops at the mark");
        assert_eq!(
            all,
            if inline {
                b"beforexy!after".to_vec()
            } else {
                b"beforexyafter".to_vec()
            }
        );
        finish(&mut net, &[(0, a), (1, b), (1, listener)]);
    }
}

/// Many segments in one batch: a slot that is freed and taken again meanwhile must not cost others their turn.
#[test]
fn slots_change_hands_within_a_batch() {
    let config = NetConfig::clean(5);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (listener, socks) = opened(&mut net);
    let victim = connect(&mut net, 5000).unwrap();
    let orphan = accept(&mut net, listener);
    close(&mut net, 1, orphan);
    // The peer's acknowledgment of the FIN is a delayed one.
    net.run_for(60 * MS);
    assert_eq!(
        net.hosts[1].stack.sock(orphan.id).tcp_state(),
        TcpState::FinWait2
    );
    let numbers = |net: &Net<'_>, s: SockRef| {
        let t = net.hosts[1].stack.tcb(s.id);
        (t.rcv_nxt.get(), t.snd_nxt.get())
    };
    let peer = |port| Peer {
        local: end(&net, 0, port),
        remote: end(&net, 1, SERVER),
        mac: net.hosts[0].config().nic.mac,
        remote_mac: net.hosts[1].config().nic.mac,
    };
    let (live, dying, fresh) = (peer(4000), peer(5000), peer(5001));
    // Two connections have something to send at the end of the batch; the first is reset, and its slot goes to a SYN.
    let (seq, ack) = numbers(&net, orphan);
    net.inject(1, dying.tcp(&Segment::new(TcpFlags::ACK, seq, ack)));
    let (live_seq, live_ack) = numbers(&net, socks[1]);
    let mut data = Segment::new(TcpFlags::ACK, live_seq, live_ack);
    data.payload = vec![2; 10];
    net.inject(1, live.tcp(&data));
    net.inject(1, dying.tcp(&Segment::new(TcpFlags::RST, seq, 0)));
    net.inject(1, fresh.tcp(&Segment::new(TcpFlags::SYN, 7, 0)));
    let before = net.now;
    net.settle();
    assert_eq!(net.now, before);
    let taken = net.hosts[1].stack.sock(orphan.id);
    assert_eq!(
        (taken.rport.get(), taken.tcp_state()),
        (5001, TcpState::SynRcvd),
        "the slot changed hands"
    );
    let t = net.hosts[1].stack.tcb(socks[1].id);
    assert_eq!(
        t.last_ack_sent.get(),
        live_seq.wrapping_add(10),
        "the other one was acknowledged in the batch"
    );
    for (host, s) in [(0, socks[0]), (0, victim), (1, socks[1]), (1, listener)] {
        net.hosts[host].locked(|l| l.abort(s.id));
    }
    assert!(net.run_until_idle(2_000_000 * MS));
    net.nothing_left().unwrap();
}
