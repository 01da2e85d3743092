//! The packet V-NIC over a ring in test memory; a Unix socket pair plays the packet socket's queue.

use super::ring::fake::Kernel;
use super::vnet::VNET_LEN;
use super::*;
use crate::copy::private;
use crate::test_frames::tcp_frame;
use flyover_shm::{Arena, HeapMap, Idx};
use flyover_wire::Mac;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

const SLOTS: u32 = 8;

struct Bench<'m> {
    nic: PacketNic<'m>,
    kernel: Kernel,
    peer: OwnedFd,
}

fn with_bench(test: impl FnOnce(Bench<'_>)) {
    with_pieces(0, test);
}

/// The same, of an interface on which so much of a super-frame is to lie in one piece.
fn with_pieces(one_piece: u32, test: impl FnOnce(Bench<'_>)) {
    let map = HeapMap::new(size_of::<NicState>());
    let arena: Arena<'_, NicState> = Arena::new(map.region(), 0, 1).unwrap();
    let (fd, peer) = socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let (ring, kernel) = Kernel::ring(SLOTS, 512);
    let geometry = PacketGeometry {
        ifindex: 1,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        slots: SLOTS,
        slot_size: 512,
        tso_max: 65535,
        one_piece,
    };
    let nic = PacketNic::over(fd, ring, geometry, arena.at(Idx::new(0)));
    test(Bench { nic, kernel, peer });
}

fn frame(n: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(3) ^ n).collect()
}

impl Bench<'_> {
    fn deliver_small(&mut self, frame: &[u8]) {
        self.kernel.deliver([0; VNET_LEN], frame, 0);
    }

    fn enqueue(&self, frame: &[u8]) {
        let mut message = vec![0; VNET_LEN];
        message.extend_from_slice(frame);
        send(&self.peer, &message, SendFlags::DONTWAIT).unwrap();
    }

    fn deliver_large(&mut self, frame: &[u8]) {
        self.enqueue(frame);
        self.kernel.deliver([0; VNET_LEN], frame, TP_STATUS_COPY);
    }

    /// Receives one frame through `skip` bytes of headers and three windows.
    fn receive(&mut self, skip: usize) -> Option<Vec<u8>> {
        let mut head = [0; HEAD_LEN];
        let meta = self.nic.rx_next(&mut head)?;
        let mut body = vec![0; meta.frame_len as usize - skip];
        let n = body.len();
        let (a, rest) = body.split_at_mut(n / 3);
        let (b, c) = rest.split_at_mut(n / 3);
        let got = self
            .nic
            .rx_payload(skip, &[private(a), private(b), private(c)]);
        self.nic.rx_done();
        body.truncate(got);
        Some([&head[..skip], &body].concat())
    }

    fn queue_is_empty(&self) -> bool {
        let mut byte = [0u8; 1];
        recv(
            self.nic.as_fd(),
            &mut byte,
            RecvFlags::DONTWAIT | RecvFlags::PEEK,
        )
        .is_err()
    }
}

#[test]
fn small_and_large_frames_arrive_in_order() {
    with_bench(|mut bench| {
        for round in 0..20u8 {
            let (small, large) = (frame(round, 60), frame(round, 5000));
            bench.deliver_small(&small);
            bench.deliver_large(&large);
            assert!(bench.nic.rx_pending());
            assert_eq!(bench.receive(54).unwrap(), small);
            assert_eq!(bench.receive(54).unwrap(), large);
            assert_eq!(bench.receive(54), None);
            assert!(!bench.nic.rx_pending());
        }
        assert_eq!(bench.nic.state.count.rx_fetched.get(), 20);
    });
}

#[test]
fn a_large_frame_nobody_reads_leaves_the_queue_too() {
    with_bench(|mut bench| {
        let mut head = [0; HEAD_LEN];
        bench.deliver_large(&frame(1, 3000));
        bench.nic.rx_next(&mut head).unwrap();
        bench.nic.rx_done();
        assert!(bench.queue_is_empty());
        bench.deliver_large(&frame(2, 3000));
        assert_eq!(bench.receive(60).unwrap(), frame(2, 3000));
    });
}

#[test]
fn a_checksum_can_be_verified_before_the_payload_is_taken() {
    with_bench(|mut bench| {
        for len in [60, 301, 4001] {
            let bytes = frame(5, len);
            if len > 400 {
                bench.deliver_large(&bytes)
            } else {
                bench.deliver_small(&bytes)
            }
            let mut head = [0; HEAD_LEN];
            bench.nic.rx_next(&mut head).unwrap();
            assert_eq!(bench.nic.rx_sum(34, len), checksum::sum(&bytes[34..], 0));
            let mut body = vec![0; len - 54];
            assert_eq!(bench.nic.rx_payload(54, &[private(&mut body)]), len - 54);
            assert_eq!(body, bytes[54..]);
            bench.nic.rx_done();
        }
    });
}

#[test]
fn windows_shorter_than_the_frame_get_its_beginning() {
    with_bench(|mut bench| {
        for len in [300, 4000] {
            let bytes = frame(9, len);
            if len > 400 {
                bench.deliver_large(&bytes)
            } else {
                bench.deliver_small(&bytes)
            }
            let mut head = [0; HEAD_LEN];
            bench.nic.rx_next(&mut head).unwrap();
            let mut body = [0; 100];
            assert_eq!(bench.nic.rx_payload(54, &[private(&mut body)]), 100);
            assert_eq!(body, bytes[54..154]);
            bench.nic.rx_done();
        }
    });
}

#[test]
fn truncated_and_tagged_frames_are_counted_and_passed_over() {
    with_bench(|mut bench| {
        bench.kernel.deliver([0; VNET_LEN], &frame(1, 3000), 0);
        bench.enqueue(&frame(2, 3000));
        let tagged = TP_STATUS_VLAN_VALID | TP_STATUS_COPY;
        bench.kernel.deliver([0; VNET_LEN], &frame(2, 3000), tagged);
        bench.kernel.scribble(2, [1, 60, 60, 1]);
        bench.kernel.head = 3;
        bench.deliver_small(&frame(3, 60));
        assert_eq!(bench.receive(20).unwrap(), frame(3, 60));
        let count = &bench.nic.state.count;
        let seen = [&count.rx_truncated, &count.rx_tagged, &count.rx_bad].map(|c| c.get());
        assert_eq!(seen, [1, 1, 1]);
        assert!(bench.queue_is_empty());
    });
}

/// A holder died after it took the frame of slot 0 from the queue and before it released the slot.
#[test]
fn a_frame_lost_with_its_reader_costs_two_frames_and_no_more() {
    with_bench(|mut bench| {
        for n in 0..4 {
            bench.deliver_large(&frame(n, 2000 + usize::from(n)));
        }
        assert!(queue::discard(bench.nic.as_fd()));
        let got: Vec<_> = core::iter::from_fn(|| bench.receive(54)).collect();
        assert_eq!(got[0].len(), 54, "its bytes are lost");
        assert_eq!(got[1..], [frame(2, 2002), frame(3, 2003)]);
        let count = &bench.nic.state.count;
        assert_eq!((count.rx_lost.get(), count.rx_truncated.get()), (1, 1));
    });
}

/// A holder died between the two stores of giving a slot back.
#[test]
fn a_slot_given_back_by_halves_does_not_stop_the_ring() {
    with_bench(|mut bench| {
        for at in 0..20 {
            bench.deliver_small(&frame(1, 60));
            assert!(bench.nic.rx_pending());
            bench.nic.state.rx_releasing.set(at % SLOTS + 1);
            bench.nic.ring.release(at % SLOTS);
            bench.deliver_small(&frame(2, 60));
            if at % 2 == 0 {
                bench.nic.recover();
            }
            assert_eq!(bench.receive(54).unwrap(), frame(2, 60));
            assert_eq!(bench.receive(54), None);
            // Two slots were used; the next round starts one further on.
            bench.deliver_small(&frame(3, 60));
            for _ in 0..SLOTS - 2 {
                assert_eq!(bench.receive(54).unwrap(), frame(3, 60));
                bench.deliver_small(&frame(3, 60));
            }
            assert_eq!(bench.receive(54).unwrap(), frame(3, 60));
        }
    });
}

/// Somebody released a slot and left its frame in the queue.
#[test]
fn stale_frames_in_the_queue_are_thrown_away() {
    with_bench(|mut bench| {
        for n in 0..3 {
            bench.deliver_large(&frame(n, 2000));
        }
        bench.nic.release(0);
        bench.nic.release(1);
        assert_eq!(bench.receive(54).unwrap(), frame(2, 2000));
        assert!(bench.queue_is_empty());
        bench.enqueue(&frame(3, 2000));
        bench.nic.recover();
        assert!(bench.queue_is_empty());
    });
}

#[test]
fn two_processes_use_one_ring_in_turn() {
    with_bench(|mut bench| {
        let other_fd = bench.nic.fd.try_clone().unwrap();
        let geometry = bench.nic.geometry;
        let ring = Ring::new(bench.kernel.ring.alias_window(), SLOTS, 512).unwrap();
        let mut other = PacketNic::over(other_fd, ring, geometry, bench.nic.state);
        let mut head = [0; HEAD_LEN];
        for n in 0..30 {
            bench.deliver_small(&frame(n, 60));
            bench.deliver_large(&frame(n + 100, 1000));
            // The first one is left in the middle of a frame.
            bench.nic.rx_next(&mut head).unwrap();
            other.rx_next(&mut head).unwrap();
            assert_eq!(head[..60], frame(n, 60));
            other.rx_done();
            assert_eq!(bench.receive(54).unwrap(), frame(n + 100, 1000));
            assert!(!other.rx_pending());
        }
    });
}

/// A holder leaves a frame where it is; others go round the ring, exactly to the same slot, before he comes again.
#[test]
fn a_frame_that_was_left_is_not_believed_in_after_a_round() {
    with_bench(|mut bench| {
        let mut other = PacketNic::over(
            bench.nic.fd.try_clone().unwrap(),
            Ring::new(bench.nic.ring.alias_window(), SLOTS, 512).unwrap(),
            bench.nic.geometry,
            bench.nic.state,
        );
        let mut head = [0; HEAD_LEN];
        bench.deliver_small(&frame(1, 100));
        assert_eq!(bench.nic.rx_next(&mut head).map(|m| m.frame_len), Some(100));
        for n in 0..SLOTS {
            if n > 0 {
                bench.deliver_small(&frame(n as u8, 60));
            }
            assert!(other.rx_next(&mut head).is_some());
            other.rx_done();
        }
        assert_eq!(bench.nic.rx_next(&mut head), None);
        bench.deliver_small(&frame(9, 80));
        let meta = bench.nic.rx_next(&mut head).expect("the new one");
        assert_eq!((meta.frame_len, &head[..80]), (80, &frame(9, 80)[..]));
    });
}

#[test]
fn a_sent_frame_carries_its_virtio_header() {
    with_bench(|mut bench| {
        let mut payload = frame(4, 4000);
        let (hdr, off) = tcp_frame(false, &payload, 1448);
        let (a, b) = payload.split_at_mut(100);
        let sent = bench.nic.tx(&hdr, &[private(a), private(b)], &off);
        assert_eq!(sent, TxResult::Sent);
        let mut message = [0u8; 8000];
        let (n, _) = recv(&bench.peer, &mut message, RecvFlags::DONTWAIT).unwrap();
        let (vnet, rest) = message[..n].split_at(VNET_LEN);
        let expected = vnet::encode(&off, vnet::Cut::Segments { in_one: 0 });
        assert_eq!(vnet, expected);
        assert_eq!(rest, [hdr.as_slice(), &payload].concat());
        assert_eq!(bench.nic.state.count.tx_super.get(), 1);
    });
}

#[test]
fn a_long_super_frame_is_asked_for_in_one_piece() {
    with_pieces(64_512, |mut bench| {
        let state = bench.nic.state;
        let mut asked = |len: usize| {
            let mut payload = frame(4, len);
            let (hdr, off) = tcp_frame(false, &payload, 1448);
            let sent = bench.nic.tx(&hdr, &[private(&mut payload)], &off);
            assert_eq!(sent, TxResult::Sent);
            let mut message = vec![0u8; 70_000];
            let (n, _) = recv(&bench.peer, &mut message[..], RecvFlags::DONTWAIT).unwrap();
            assert_eq!(n, VNET_LEN + hdr.len() + len);
            (
                usize::from(u16::from_ne_bytes([message[2], message[3]])),
                hdr.len(),
            )
        };
        // No more than there is, or the kernel refuses it (EINVAL).
        let (one, hdr) = asked(50_000);
        assert_eq!(one, hdr + 50_000);
        assert_eq!(asked(65_000).0, 64_512);
        assert_eq!(asked(20_000).0, hdr);
        // The kernel had no block of that size lately.
        state.scattered.set(1);
        assert_eq!(asked(65_000).0, hdr);
        assert_eq!(asked(65_000).0, 64_512);
        assert_eq!(state.count.tx_scattered.get(), 0);
    });
}

#[test]
fn a_full_queue_is_not_a_loss() {
    with_bench(|mut bench| {
        let (hdr, off) = tcp_frame(false, &[], 0);
        let mut last = TxResult::Sent;
        for _ in 0..100_000 {
            last = bench.nic.tx(&hdr, &[], &off);
            if last != TxResult::Sent {
                break;
            }
        }
        assert_eq!(last, TxResult::Full);
        drop(bench.peer);
        assert_eq!(bench.nic.tx(&hdr, &[], &off), TxResult::Dropped);
    });
}

#[test]
fn random_slot_headers_do_no_harm() {
    with_bench(|mut bench| {
        let mut x = 0x9e37_79b9_u32;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x
        };
        let mut head = [0; HEAD_LEN];
        for _ in 0..20_000 {
            for slot in 0..SLOTS {
                bench
                    .kernel
                    .scribble(slot, [next() | 1, next() >> 16, next() >> 20, next() >> 18]);
            }
            bench.nic.state.rx_slot.set(next());
            if let Some(meta) = bench.nic.rx_next(&mut head) {
                let mut body = [0; 700];
                let n = bench.nic.rx_payload(54, &[private(&mut body)]);
                assert!(n <= meta.frame_len as usize);
                let _ = bench.nic.rx_sum(14, usize::MAX);
                bench.nic.rx_done();
            }
        }
    });
}
