//! Datagrams: whole, from whom they say, to whom they are meant for, never more than the buffer, and nothing left.
#![allow(missing_docs)]

use flyover_core::sock::SockRef;
use flyover_core::stack::deferred::work;
use flyover_core::{Error, Kind, UdpMsg, UdpVia, ev};
use flyover_sim::peer::Peer;
use flyover_sim::{Host, Impair, Net, NetConfig, Pattern, Rng};
use flyover_vnic::{MemCsum, MemFrame};
use flyover_wire::{Endpoint, Ip};

const MS: u64 = 1_000_000;

fn end(net: &Net<'_>, host: usize, port: u16) -> Endpoint {
    Endpoint {
        ip: net.hosts[host].ip(),
        port,
    }
}

fn bound(host: &mut Host<'_>, local: Endpoint) -> SockRef {
    host.locked(|l| {
        let s = l.sock_alloc(Kind::Udp, !local.ip.is_v4(), 0).unwrap();
        l.udp_bind(s.id, local, false).unwrap();
        s
    })
}

fn send(
    net: &mut Net<'_>,
    host: usize,
    s: SockRef,
    to: Option<Endpoint>,
    data: &[u8],
) -> Result<usize, Error> {
    let (a, b) = data.split_at(data.len() / 3);
    net.hosts[host].locked(|l| l.udp_send(s.id, to, UdpVia::default(), &[a, b]))
}

fn recv(net: &mut Net<'_>, host: usize, s: SockRef, out: &mut [u8]) -> Result<UdpMsg, Error> {
    let h = &mut net.hosts[host];
    let (a, b) = out.split_at_mut(out.len() / 2);
    let m = h.stack.udp_recv(s, &mut [a, b], false, h.me)?;
    if m.want_update {
        h.defer(s, work::WINDOW, false);
    }
    Ok(m)
}

fn close(net: &mut Net<'_>, host: usize, s: SockRef) {
    net.hosts[host].locked(|l| l.close(s.id));
}

#[test]
fn there_and_back() {
    for v6 in [false, true] {
        for csum in [
            MemCsum::Finished,
            MemCsum::Partial,
            MemCsum::PartialUnmarked,
            MemCsum::Verified,
        ] {
            let config = NetConfig {
                v6,
                csum,
                neigh_known: csum != MemCsum::Partial,
                ..NetConfig::clean(1)
            };
            let memory = config.memory();
            let mut net = Net::new(&memory, &config);
            let (a, b) = (end(&net, 0, 1000), end(&net, 1, 2000));
            let (sa, sb) = (bound(&mut net.hosts[0], a), bound(&mut net.hosts[1], b));
            if !config.neigh_known {
                // The kernel socket sends what has no neighbour yet; its resolution is asked for.
                assert_eq!(
                    send(&mut net, 0, sa, Some(b), b"x"),
                    Err(Error::NotSupported)
                );
                assert_eq!(
                    send(&mut net, 1, sb, Some(a), b"x"),
                    Err(Error::NotSupported)
                );
                net.run_for(MS);
            }
            let mut out = [0; 100];
            assert_eq!(recv(&mut net, 1, sb, &mut out), Err(Error::WouldBlock));
            assert_eq!(send(&mut net, 0, sa, Some(b), b"hello there"), Ok(11));
            net.run_for(MS);
            assert_ne!(net.hosts[1].stack.readiness(sb.id) & ev::IN, 0);
            let m = recv(&mut net, 1, sb, &mut out).unwrap();
            assert_eq!((m.n, m.full_len, m.from, m.to), (11, 11, a, b.ip));
            assert_eq!(&out[..11], b"hello there");
            assert_eq!(send(&mut net, 1, sb, Some(m.from), b""), Ok(0));
            net.run_for(MS);
            let m = recv(&mut net, 0, sa, &mut out).unwrap();
            assert_eq!((m.n, m.from), (0, b), "empty datagrams are datagrams");
            close(&mut net, 0, sa);
            close(&mut net, 1, sb);
            net.nothing_left().unwrap();
        }
    }
}

#[test]
fn every_size_up_to_the_mtu() {
    for (v6, mtu) in [
        (false, 1500u32),
        (true, 1500),
        (false, 9000),
        (true, 1280),
        (false, 65_535),
    ] {
        let config = NetConfig {
            v6,
            mtu,
            ..NetConfig::clean(1)
        };
        let memory = config.memory();
        let mut net = Net::new(&memory, &config);
        let (a, b) = (end(&net, 0, 1000), end(&net, 1, 2000));
        let (sa, sb) = (bound(&mut net.hosts[0], a), bound(&mut net.hosts[1], b));
        let most = (mtu - if v6 { 48 } else { 28 }).min(65_507) as usize;
        let mut out = vec![0; 70_000];
        for len in [
            0,
            1,
            7,
            255,
            256,
            1000,
            4095,
            4096,
            4097,
            8192,
            most - 1,
            most,
        ] {
            if len > most {
                continue;
            }
            let mut data = vec![0; len];
            Pattern(9).fill(len as u64, &mut data);
            assert_eq!(send(&mut net, 0, sa, Some(b), &data), Ok(len), "mtu {mtu}");
            net.run_for(MS);
            assert_eq!(net.hosts[1].stack.udp_next_len(sb.id), len as u32);
            let m = recv(&mut net, 1, sb, &mut out).unwrap();
            assert_eq!((m.n, m.full_len), (len, len));
            Pattern(9).check(len as u64, &out[..len]).unwrap();
        }
        let data = vec![0; most + 1];
        let larger = send(&mut net, 0, sa, Some(b), &data);
        assert!(
            matches!(larger, Err(Error::NotSupported | Error::MessageSize)),
            "the kernel fragments"
        );
        close(&mut net, 0, sa);
        close(&mut net, 1, sb);
        net.nothing_left().unwrap();
    }
}

#[test]
fn truncation_and_peeking() {
    let config = NetConfig::clean(1);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (a, b) = (end(&net, 0, 1000), end(&net, 1, 2000));
    let (sa, sb) = (bound(&mut net.hosts[0], a), bound(&mut net.hosts[1], b));
    for text in [b"first one".as_slice(), b"second"] {
        send(&mut net, 0, sa, Some(b), text).unwrap();
    }
    net.run_for(MS);
    let h = &net.hosts[1];
    let mut out = [0; 5];
    for _ in 0..3 {
        let m = h.stack.udp_recv(sb, &mut [&mut out], true, h.me).unwrap();
        assert_eq!((m.n, m.full_len, &out), (5, 9, b"first"));
    }
    let m = recv(&mut net, 1, sb, &mut out).unwrap();
    assert_eq!((m.n, m.full_len, &out), (5, 9, b"first"));
    let m = recv(&mut net, 1, sb, &mut out).unwrap();
    assert_eq!(
        (m.n, m.full_len, &out),
        (5, 6, b"secon"),
        "the rest of the first is gone"
    );
    assert_eq!(recv(&mut net, 1, sb, &mut out), Err(Error::WouldBlock));
    close(&mut net, 0, sa);
    close(&mut net, 1, sb);
    net.nothing_left().unwrap();
}

#[test]
fn the_fullest_match_receives() {
    let config = NetConfig::clean(1);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (a, b) = (end(&net, 0, 1000), end(&net, 1, 2000));
    let any = Endpoint {
        ip: Ip::UNSPECIFIED_V4,
        port: 2000,
    };
    let a2 = end(&net, 0, 1001);
    let (sa, other) = (bound(&mut net.hosts[0], a), bound(&mut net.hosts[0], a2));
    let wild = bound(&mut net.hosts[1], any);
    let mut out = [0; 10];
    send(&mut net, 0, sa, Some(b), b"1").unwrap();
    net.run_for(MS);
    assert_eq!(recv(&mut net, 1, wild, &mut out).unwrap().to, b.ip);

    let exact = bound(&mut net.hosts[1], b);
    let connected = bound(&mut net.hosts[1], b);
    net.hosts[1].locked(|l| l.udp_connect(connected.id, b, Some(a)).unwrap());
    send(&mut net, 0, sa, Some(b), b"22").unwrap();
    send(&mut net, 0, other, Some(b), b"333").unwrap();
    net.run_for(MS);
    assert_eq!(recv(&mut net, 1, connected, &mut out).unwrap().n, 2);
    assert_eq!(
        recv(&mut net, 1, connected, &mut out),
        Err(Error::WouldBlock)
    );
    assert_eq!(recv(&mut net, 1, exact, &mut out).unwrap().n, 3);
    assert_eq!(recv(&mut net, 1, wild, &mut out), Err(Error::WouldBlock));
    // A connected socket needs no destination.
    send(&mut net, 1, connected, None, b"back").unwrap();
    assert_eq!(
        send(&mut net, 1, exact, None, b"back"),
        Err(Error::DestinationRequired)
    );
    net.run_for(MS);
    assert_eq!(recv(&mut net, 0, sa, &mut out).unwrap().from, b);
    for s in [wild, exact, connected] {
        close(&mut net, 1, s);
    }
    close(&mut net, 0, sa);
    close(&mut net, 0, other);
    net.nothing_left().unwrap();
}

#[test]
fn a_full_queue_drops_and_counts() {
    let config = NetConfig::clean(1);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (a, b) = (end(&net, 0, 1000), end(&net, 1, 2000));
    let (sa, sb) = (bound(&mut net.hosts[0], a), bound(&mut net.hosts[1], b));
    let data = [7; 1000];
    for _ in 0..400 {
        send(&mut net, 0, sa, Some(b), &data).unwrap();
        net.run_for(MS / 10);
    }
    let dropped = net.hosts[1].stat("udp_drop_full");
    let mut out = [0; 2000];
    let mut got = 0;
    while recv(&mut net, 1, sb, &mut out).is_ok() {
        got += 1;
    }
    assert!(
        dropped > 0 && got > 100,
        "{got} received, {dropped} dropped"
    );
    assert_eq!(got + dropped, 400);
    // There is room again.
    send(&mut net, 0, sa, Some(b), &data).unwrap();
    net.run_for(MS);
    assert!(recv(&mut net, 1, sb, &mut out).is_ok());
    close(&mut net, 0, sa);
    close(&mut net, 1, sb);
    net.nothing_left().unwrap();
}

#[test]
fn shutdown_and_nobody_home() {
    let config = NetConfig::clean(1);
    let memory = config.memory();
    let mut net = Net::new(&memory, &config);
    let (a, b) = (end(&net, 0, 1000), end(&net, 1, 2000));
    let sa = bound(&mut net.hosts[0], a);
    send(&mut net, 0, sa, Some(b), b"x").unwrap();
    net.run_for(MS);
    assert_eq!(net.hosts[1].stat("rx_drop_no_socket"), 1);
    assert_eq!(
        net.hosts[1].stat("tx_frames"),
        0,
        "the kernel says that the port is unreachable"
    );
    assert_eq!(
        net.hosts[0].locked(|l| l.shutdown(sa.id, 2)),
        Err(Error::NotConnected)
    );
    net.hosts[0].locked(|l| l.udp_connect(sa.id, a, Some(b)).unwrap());
    net.hosts[0].locked(|l| l.shutdown(sa.id, 2)).unwrap();
    assert_eq!(send(&mut net, 0, sa, None, b"x"), Err(Error::BrokenPipe));
    close(&mut net, 0, sa);
    net.nothing_left().unwrap();
}

/// RFC 768, RFC 8200 section 8.1: no checksum is fine over IPv4 and not over IPv6; a wrong one is a drop.
#[test]
fn checksums() {
    for v6 in [false, true] {
        let config = NetConfig {
            v6,
            ..NetConfig::clean(1)
        };
        let memory = config.memory();
        let mut net = Net::new(&memory, &config);
        let (a, b) = (end(&net, 0, 1000), end(&net, 1, 2000));
        let sb = bound(&mut net.hosts[1], b);
        let peer = Peer {
            local: a,
            remote: b,
            mac: net.hosts[0].config().nic.mac,
            remote_mac: net.hosts[1].config().nic.mac,
        };
        let field = if v6 { 14 + 40 + 6 } else { 14 + 20 + 6 };
        let with = |sum: [u8; 2]| {
            let mut f: MemFrame = peer.udp(&[1, 2, 3, 4, 5]);
            f.bytes[field..field + 2].copy_from_slice(&sum);
            f
        };
        let mut out = [0; 10];
        net.inject(1, peer.udp(&[1, 2, 3, 4, 5]));
        net.settle();
        assert!(recv(&mut net, 1, sb, &mut out).is_ok());
        net.inject(1, with([0x12, 0x34]));
        net.settle();
        assert_eq!(recv(&mut net, 1, sb, &mut out), Err(Error::WouldBlock));
        net.inject(1, with([0, 0]));
        net.settle();
        assert_eq!(recv(&mut net, 1, sb, &mut out).is_ok(), !v6);
        assert_eq!(net.hosts[1].stat("rx_drop_checksum"), 1 + u64::from(v6));
        close(&mut net, 1, sb);
        net.nothing_left().unwrap();
    }
}

/// Whatever the wire does, a datagram that arrives is one that was sent.
#[test]
fn a_foul_wire() {
    for seed in 0..60 {
        let foul = Impair {
            loss: 5_000,
            reorder: 20_000,
            reorder_by: 5 * MS,
            duplicate: 5_000,
            corrupt: 5_000,
            jitter: MS,
            ..Impair::CLEAN
        };
        let config = NetConfig {
            impair: [foul; 2],
            v6: seed % 2 == 0,
            mtu: 9000,
            ..NetConfig::clean(seed)
        };
        let memory = config.memory();
        let mut net = Net::new(&memory, &config);
        let mut rng = Rng::new(seed, 80);
        let (a, b) = (end(&net, 0, 1000), end(&net, 1, 2000));
        let (sa, sb) = (bound(&mut net.hosts[0], a), bound(&mut net.hosts[1], b));
        let mut out = vec![0; 10_000];
        let mut got = 0;
        for n in 0..200u64 {
            // The first bytes say which one it is, the pattern what is in it.
            let len = 8 + rng.magnitude(8_000) as usize;
            let mut data = vec![0; len];
            data[..8].copy_from_slice(&n.to_be_bytes());
            Pattern(n).fill(len as u64, &mut data[8..]);
            send(&mut net, 0, sa, Some(b), &data).unwrap();
            net.run_for(rng.magnitude(2 * MS));
            while let Ok(m) = recv(&mut net, 1, sb, &mut out) {
                got += 1;
                assert_eq!(m.from, a);
                let n = u64::from_be_bytes(out[..8].try_into().unwrap());
                Pattern(n).check(m.n as u64, &out[8..m.n]).unwrap();
            }
        }
        assert!(got > 120, "{got} of 200");
        close(&mut net, 0, sa);
        close(&mut net, 1, sb);
        assert!(net.run_until_idle(1000 * MS));
        net.nothing_left().unwrap();
    }
}
