//! What the V-NICs themselves cost: raw 64-byte round trips and bulk rate of both kinds over veth between two
//! namespaces, no protocol above. The floor that the stack's numbers are compared with. Prints JSON.
//!
//! `raw_floor [ROUNDS [BULK_MILLIS]]`, as root, in a release build, on an otherwise idle machine.

#[path = "../tests/net/mod.rs"]
mod net;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flyover_vnic::host::PacketConfig;
use flyover_vnic::host::bpf::{Flow, XdpAttach};
use flyover_vnic::{HEAD_LEN, TxOffload, TxResult, Vnic, VnicKind};
use flyover_wire::emit::HeaderBuf;
use flyover_wire::{Mac, Seq, TcpFlags, TcpOpts, TcpSpec};
use net::{End, Net, Nic, State, at, inside, sleep_on, tcp_flow, udp_flow, window};

const A: u16 = 5001;
const B: u16 = 5002;
/// Bytes that may be under way in a bulk run, a receiver's window. As single frames they fit an rx ring.
const IN_FLIGHT: u64 = 2 << 20;

/// How a side waits for a frame.
#[derive(Clone, Copy, PartialEq)]
enum Wait {
    /// On a processor each.
    Spin,
    /// Wherever the scheduler puts them.
    Sleep,
    /// On one processor: without the cost of waking another one up.
    SleepTogether,
}

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .map(|a| a.parse().expect("a number"));
    let rounds = args.next().unwrap_or(50_000);
    let bulk = Duration::from_millis(args.next().unwrap_or(2000) as u64);
    assert!(net::is_root());
    let kinds = [VnicKind::Packet, VnicKind::Xdp].map(|kind| {
        let spin = with_ends(kind, |a, b| round_trips(a, b, rounds, Wait::Spin));
        let sleep = with_ends(kind, |a, b| round_trips(a, b, rounds / 2, Wait::Sleep));
        let together = with_ends(kind, |a, b| {
            round_trips(a, b, rounds / 2, Wait::SleepTogether)
        });
        let (rate, lost) = with_ends(kind, |a, b| bulk_rate(a, b, bulk));
        let name = if kind == VnicKind::Packet {
            "packet"
        } else {
            "xdp"
        };
        format!(
            "  \"{name}\": {{\n    \"rtt_spin_ns\": {spin},\n    \"rtt_sleep_ns\": {sleep},\n    \
             \"rtt_sleep_one_cpu_ns\": {together},\n    \
             \"bulk_gbit_per_s\": {rate:.2},\n    \"bulk_frames_lost\": {lost}\n  }}"
        )
    });
    println!("{{\n{}\n}}", kinds.join(",\n"));
}

/// Makes two namespaces and a V-NIC of a kind in each.
fn with_ends<T>(kind: VnicKind, run: impl FnOnce(&mut Nic<'_>, &mut Nic<'_>) -> T) -> T {
    let (net, sa, sb) = (Net::new(), State::new(), State::new());
    let end = |ns: &str, state, flows: [Flow; 2]| {
        inside(ns, || match kind {
            VnicKind::Xdp => End::xdp(state, &flows, XdpAttach::Auto),
            VnicKind::Packet | VnicKind::Mem => {
                End::packet(state, &flows, &PacketConfig::default())
            }
        })
    };
    let mut a = end(&net.a, &sa, [udp_flow(1, A), tcp_flow(1, A)]);
    let mut b = end(&net.b, &sb, [udp_flow(2, B), tcp_flow(2, B)]);
    run(&mut a.nic, &mut b.nic)
}

/// Each side on a processor of its own.
fn pin(cpu: usize) {
    // SAFETY: an all-zero cpu_set_t is a valid, empty one; the call reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

fn place(cpu: usize, wait: Wait) {
    match wait {
        Wait::Spin => pin(cpu),
        Wait::Sleep => {}
        Wait::SleepTogether => pin(0),
    }
}

/// Takes a frame's header and payload, as a stack would. False when there is none.
fn take(nic: &mut dyn Vnic) -> bool {
    let (mut head, mut body) = ([0; HEAD_LEN], [0; 64]);
    if nic.rx_next(&mut head).is_none() {
        return false;
    }
    let _ = nic.rx_payload(42, &[window(&mut body)]);
    nic.rx_done();
    true
}

/// Waits for a frame; false when told to stop.
fn await_one(nic: &mut Nic<'_>, fd: &std::os::fd::OwnedFd, wait: Wait, stop: &AtomicBool) -> bool {
    while !take(nic.vnic()) {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        match wait {
            Wait::Spin => {
                while !nic.vnic().rx_pending() && !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
            Wait::Sleep | Wait::SleepTogether => sleep_on(fd, 100),
        }
    }
    true
}

fn round_trips(a: &mut Nic<'_>, b: &mut Nic<'_>, rounds: usize, wait: Wait) -> String {
    let stop = AtomicBool::new(false);
    let (pa, pb) = (at(1, A), at(2, B));
    let mut times = Vec::with_capacity(rounds);
    thread::scope(|scope| {
        scope.spawn(|| {
            place(1, wait);
            let fd = b.fd();
            while await_one(b, &fd, wait, &stop) {
                net::send_udp(b.vnic(), (pb, pa), &mut [0; 22]);
            }
        });
        scope.spawn(|| {
            place(0, wait);
            let fd = a.fd();
            for _ in 0..rounds {
                let start = Instant::now();
                net::send_udp(a.vnic(), (pa, pb), &mut [0; 22]);
                assert!(await_one(a, &fd, wait, &stop));
                times.push(start.elapsed().as_nanos() as u64);
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let mean = times.iter().sum::<u64>() / times.len() as u64;
    format!(
        "{{\"p50\": {}, \"p99\": {}, \"mean\": {mean}}}",
        at(50),
        at(99)
    )
}

/// The headers of a bulk frame: TCP, never acknowledged.
fn bulk_header(payload: usize, seq: u32, gso_size: u16) -> (HeaderBuf, TxOffload) {
    let mut hdr = HeaderBuf::new();
    let spec = TcpSpec {
        smac: Mac([2, 0, 0, 0, 0x77, 1]),
        dmac: Mac([2, 0, 0, 0, 0x77, 2]),
        vlan: 0,
        src: at(1, A),
        dst: at(2, B),
        seq: Seq(seq),
        ack: Seq(0),
        flags: TcpFlags::ACK,
        window: 1000,
        urgent: 0,
        ttl: 64,
        tos: 0,
        ip_id: 0,
        options: &TcpOpts::default(),
        payload_len: payload as u32,
    };
    let emitted = spec.emit(&mut hdr).expect("one family");
    let hdr_len = hdr.len() as u16;
    let csum_start = emitted.l4_off;
    let off = TxOffload {
        csum_start,
        csum_offset: 16,
        gso_size,
        l4_tcp: true,
        v6: false,
        hdr_len,
    };
    (hdr, off)
}

/// One direction, as fast as it goes: gigabits of payload per second that arrived, and frames that did not.
fn bulk_rate(a: &mut Nic<'_>, b: &mut Nic<'_>, span: Duration) -> (f64, u64) {
    let (stop, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mss, hdr_len) = (1460usize, 54usize);
    let caps = a.caps();
    let payload = if caps.tso_max > 0 {
        (caps.tso_max as usize - hdr_len) / mss * mss
    } else {
        mss
    };
    let gso_size = if caps.tso_max > 0 { mss as u16 } else { 0 };
    let mut sent = 0u64;
    let mut elapsed = Duration::ZERO;
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            sink(b.vnic(), hdr_len, &arrived, &stop);
        });
        scope.spawn(|| {
            pin(0);
            let mut data = vec![1; payload];
            let start = Instant::now();
            let mut credit = start;
            while start.elapsed() < span {
                if sent - arrived.load(Ordering::Relaxed) >= IN_FLIGHT {
                    // Lost frames never arrive: after a while their room is given back.
                    if credit.elapsed() > Duration::from_millis(100) {
                        arrived.store(sent, Ordering::Relaxed);
                    }
                    std::hint::spin_loop();
                    continue;
                }
                credit = Instant::now();
                // A batch of singles, as a stack sends one super-frame's worth.
                for _ in 0..(if gso_size > 0 { 1 } else { 32 }) {
                    let (hdr, off) = bulk_header(payload, sent as u32, gso_size);
                    let windows: Vec<_> = data.chunks_mut(4096).map(window).collect();
                    if a.vnic().tx(hdr.as_slice(), &windows, &off) == TxResult::Sent {
                        sent += payload as u64;
                    }
                }
                a.vnic().flush();
            }
            elapsed = start.elapsed();
            thread::sleep(Duration::from_millis(50));
            stop.store(true, Ordering::Relaxed);
        });
    });
    let count = |nic: &Nic<'_>| match nic {
        Nic::Packet(nic) => nic.state().count.rx_bytes.get(),
        Nic::Xdp(nic) => nic.state().count.rx_bytes.get(),
    };
    let frames = sent / payload as u64;
    let received = count(b) / (payload + hdr_len) as u64;
    let rate = received as f64 * payload as f64 * 8.0 / elapsed.as_secs_f64() / 1e9;
    (rate, frames.saturating_sub(received))
}

/// Receives into 4 KiB buffers until told to stop.
fn sink(nic: &mut dyn Vnic, hdr_len: usize, arrived: &AtomicU64, stop: &AtomicBool) {
    let mut body = vec![0; 1 << 16];
    let mut head = [0; HEAD_LEN];
    while !stop.load(Ordering::Relaxed) {
        let Some(meta) = nic.rx_next(&mut head) else {
            std::hint::spin_loop();
            continue;
        };
        let mut left = meta.frame_len as usize - hdr_len;
        let mut windows = Vec::with_capacity(16);
        for chunk in body.chunks_mut(4096) {
            let take = left.min(chunk.len());
            if take == 0 {
                break;
            }
            windows.push(window(&mut chunk[..take]));
            left -= take;
        }
        let n = nic.rx_payload(hdr_len, &windows);
        nic.rx_done();
        let _ = arrived.fetch_add(n as u64, Ordering::Relaxed);
    }
}
