//! Super-frames: what a kernel TCP sender sends in 64 KB pieces arrives at a packet V-NIC byte for byte, in
//! order, partly through the ring and partly through the socket's queue; and what a packet V-NIC sends so
//! arrives at a kernel.

mod net;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flyover_vnic::host::PacketConfig;
use flyover_vnic::host::bpf::FlowMaps;
use flyover_vnic::{Csum, HEAD_LEN, NicState, PacketNic, TxOffload, TxResult, Vnic};
use flyover_wire::checksum::{add, is_valid, pseudo_sum};
use flyover_wire::emit::HeaderBuf;
use flyover_wire::{L4, Mac, Seq, TcpFlags, TcpOpts, TcpSpec};
use net::{Net, State, at, inside, is_root, one_at_a_time, sleep_on, tcp_flow, window};

const PORT: u16 = 7001;

/// Byte number `i` of the stream.
fn pattern(i: u64) -> u8 {
    (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn chunk(from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(pattern).collect()
}

/// What an observer of a TCP stream saw of it.
#[derive(Debug, Default)]
struct Seen {
    isn: Option<Seq>,
    /// Ranges of the stream that were seen, start to end, apart from each other.
    ranges: BTreeMap<u64, u64>,
    supers: u64,
    singles: u64,
    largest: usize,
}

impl Seen {
    /// The kernel's sender may be on two processors and so overtake itself: ranges come in any order.
    fn add(&mut self, mut from: u64, mut to: u64) {
        while let Some((start, end)) = self.ranges.range(..=to).next_back().map(|(s, e)| (*s, *e)) {
            if end < from {
                break;
            }
            let _ = self.ranges.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        let _ = self.ranges.insert(from, to);
    }

    /// Takes the next frame of the stream, if there is one, and compares its bytes with the pattern.
    fn observe(&mut self, nic: &mut PacketNic<'_>) -> bool {
        let mut head = [0; HEAD_LEN];
        let Some(meta) = nic.rx_next(&mut head) else {
            return false;
        };
        let frame_len = meta.frame_len as usize;
        let parsed = flyover_wire::frame::parse(&head[..meta.head_len as usize], frame_len);
        let parsed = parsed.expect("only TCP passes the filter");
        let L4::Tcp(tcp) = parsed.l4 else {
            panic!("not TCP")
        };
        if meta.csum != Csum::Partial {
            // A kernel finishes the checksums of its answers without a socket (the ACK of TIME_WAIT).
            let l4 = usize::from(parsed.l4_off);
            let pseudo = pseudo_sum(parsed.src, parsed.dst, 6, (frame_len - l4) as u32);
            assert!(is_valid(add(nic.rx_sum(l4, frame_len), pseudo)));
        }
        if tcp.flags.has(TcpFlags::SYN) {
            self.isn = Some(Seq(tcp.seq.0.wrapping_add(1)));
        }
        let len = parsed.payload_len as usize;
        assert_eq!(meta.gso_size > 0, len > 1448, "{meta:?}");
        // In pieces, as a stack does.
        let mut body = vec![0; len];
        let mut windows: Vec<_> = body.chunks_mut(4096).map(window).collect();
        let n = nic.rx_payload(parsed.payload_off.into(), &windows);
        windows.clear();
        nic.rx_done();
        assert_eq!(n, len, "bytes of a frame of {frame_len} are missing");
        let Some(isn) = self.isn.filter(|_| len > 0) else {
            return true;
        };
        let from = u64::from(tcp.seq.0.wrapping_sub(isn.0));
        assert_eq!(body, chunk(from, len), "at {from}");
        self.add(from, from + len as u64);
        *(if meta.gso_size > 0 {
            &mut self.supers
        } else {
            &mut self.singles
        }) += 1;
        self.largest = self.largest.max(frame_len);
        true
    }
}

/// A kernel sender in `a`, a kernel receiver in `b`, and a V-NIC in `b` that sees the stream's data as a
/// tap does (nothing keeps the kernel out). The V-NIC is read only between the given marks of the receiver.
fn tap_stream(total: u64, config: &PacketConfig, state: &NicState, lazily: bool) -> Seen {
    let net = Net::new();
    let (fd, geometry, _maps) = inside(&net.b, || {
        let mut maps = FlowMaps::load().unwrap();
        maps.insert(&tcp_flow(2, PORT), 1).unwrap();
        let (fd, geometry) = net::packet_socket(&mut maps, 1, config);
        (fd, geometry, maps)
    });
    let listener = inside(&net.b, || TcpListener::bind(("10.77.0.2", PORT)).unwrap());
    // Two processes use the V-NIC in turn.
    let attach = || PacketNic::attach(fd.try_clone().unwrap(), geometry, state).unwrap();
    let (mut nic, mut other) = (attach(), attach());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buf = vec![0; 1 << 20];
            while stream.read(&mut buf).unwrap() > 0 {}
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            let mut stream = inside(&net.a, || TcpStream::connect(("10.77.0.2", PORT)).unwrap());
            let mut sent = 0;
            while sent < total {
                let bytes = chunk(sent, (1 << 16).min((total - sent) as usize));
                stream.write_all(&bytes).unwrap();
                sent += bytes.len() as u64;
            }
        });
        let mut seen = Seen::default();
        for n in 0u32.. {
            let finished = done.load(Ordering::Acquire);
            if lazily && !finished {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            let turn = if n % 7 < 3 { &mut nic } else { &mut other };
            if !seen.observe(turn) {
                if finished {
                    let drops = flyover_vnic::host::packet_drops(nic.as_fd()).unwrap();
                    eprintln!("{drops} dropped by the kernel");
                    return seen;
                }
                sleep_on(&nic, 20);
            }
        }
        unreachable!("the loop ends by returning")
    })
}

#[test]
fn a_kernel_stream_arrives_complete() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let (state, total) = (State::new(), 96 << 20);
    let config = PacketConfig {
        receive_queue: 256 << 20,
        ..PacketConfig::default()
    };
    let seen = tap_stream(total, &config, state.get(), false);
    let count = &state.get().count;
    eprintln!("{seen:?}, fetched {}", count.rx_fetched.get());
    assert_eq!(seen.ranges, BTreeMap::from([(0, total)]));
    assert_eq!(
        (
            count.rx_truncated.get(),
            count.rx_lost.get(),
            count.rx_bad.get()
        ),
        (0, 0, 0)
    );
    assert!(
        seen.supers > 500 && seen.largest > 60_000,
        "the sender sent no super-frames"
    );
    // All but those that merge so little that they fit their slot.
    assert!(count.rx_fetched.get() >= seen.supers - seen.supers / 20);
}

#[test]
fn what_does_not_fit_the_queue_is_counted_and_the_rest_is_intact() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let (state, total) = (State::new(), 16 << 20);
    let config = PacketConfig {
        receive_queue: 1 << 20,
        ..PacketConfig::default()
    };
    // Nothing is read before all was sent: the queue holds the first frames, the ring knows the others.
    let seen = tap_stream(total, &config, state.get(), true);
    let count = &state.get().count;
    eprintln!(
        "{} supers, {} truncated",
        seen.supers,
        count.rx_truncated.get()
    );
    assert!(count.rx_truncated.get() > 0);
    assert_eq!((count.rx_lost.get(), count.rx_bad.get()), (0, 0));
    assert!(seen.supers > 0 && seen.ranges.len() > 1);
}

/// Sends a burst of super-frames to a kernel that never asked for them and counts what its interface saw.
fn send_supers(before: impl Fn(&Net), create_before: bool) -> (u64, u64) {
    let (net, state) = (Net::new(), State::new());
    if !create_before {
        before(&net);
    }
    let config = PacketConfig::default();
    let a = inside(&net.a, || {
        net::End::packet(&state, &[tcp_flow(1, PORT)], &config)
    });
    let net::Nic::Packet(mut nic) = a.nic else {
        panic!("a packet V-NIC")
    };
    if create_before {
        before(&net);
    }
    let received = || -> u64 {
        let path = "cat /sys/class/net/v0/statistics/rx_bytes";
        let output = net::run(&format!("ip netns exec {} {path}", net.b));
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    let earlier = received();
    let mut payload = vec![0; 43_440];
    let mut hdr = HeaderBuf::new();
    let spec = TcpSpec {
        smac: Mac([2, 0, 0, 0, 0x77, 1]),
        dmac: Mac([2, 0, 0, 0, 0x77, 2]),
        vlan: 0,
        src: at(1, PORT),
        dst: at(2, 9),
        seq: Seq(1),
        ack: Seq(1),
        flags: TcpFlags::ACK,
        window: 100,
        urgent: 0,
        ttl: 64,
        tos: 0,
        ip_id: 0,
        options: &TcpOpts::default(),
        payload_len: payload.len() as u32,
    };
    let emitted = spec.emit(&mut hdr).unwrap();
    let off = TxOffload {
        csum_start: emitted.l4_off,
        csum_offset: 16,
        gso_size: 1448,
        l4_tcp: true,
        v6: false,
        hdr_len: hdr.len() as u16,
    };
    let mut sent = 0;
    for _ in 0..100 {
        sent += u64::from(nic.tx(hdr.as_slice(), &[window(&mut payload)], &off) == TxResult::Sent);
        std::thread::sleep(Duration::from_micros(200));
    }
    let count = &state.get().count;
    eprintln!(
        "sent {sent}, cut by device {}, by cpu {}, full {}",
        count.tx_super.get(),
        count.tx_cut.get(),
        count.tx_full.get()
    );
    (received() - earlier, sent * payload.len() as u64)
}

#[test]
fn super_frames_arrive_however_the_device_is() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let switch = |ns: &str| {
        for feature in ["tso off", "tx-tcp6-segmentation off"] {
            net::sh(&format!("ip netns exec {ns} ethtool -K v0 {feature}"));
        }
    };
    for (name, off, create_before) in [
        ("device cuts", false, true),
        ("kernel cuts", true, false),
        ("cpu cuts", true, true),
    ] {
        let (received, sent) = send_supers(
            |net| {
                if off {
                    switch(&net.a)
                }
            },
            create_before,
        );
        eprintln!("{name}: {received} of {sent} bytes");
        assert!(sent > 80 * 43_440 && received >= sent, "{name}");
    }
}

/// UDP datagrams with `UDP_SEGMENT` arrive merged too: `gso_size` says how to part them.
#[test]
fn merged_datagrams_say_their_size() {
    if !is_root() {
        return;
    }
    let _turn = one_at_a_time();
    let (net, state) = (Net::new(), State::new());
    let b = inside(&net.b, || {
        net::End::packet(&state, &[net::udp_flow(2, PORT)], &PacketConfig::default())
    });
    let net::Nic::Packet(mut nic) = b.nic else {
        panic!("a packet V-NIC")
    };
    inside(&net.a, || {
        let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
        let size = 1000i32;
        // SAFETY: an int option.
        let rc = unsafe {
            let value = (&raw const size).cast();
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                value,
                4,
            )
        };
        assert_eq!(rc, 0);
        socket
            .send_to(&chunk(0, 9500), ("10.77.0.2", PORT))
            .unwrap();
    });
    let fd = nic.as_fd().try_clone_to_owned().unwrap();
    let (meta, bytes) = net::await_frame(&mut nic, &fd).unwrap();
    assert_eq!((meta.gso_size, bytes.len()), (1000, 42 + 9500));
    assert_eq!(bytes[42..], chunk(0, 9500));
}
