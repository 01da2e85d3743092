//! The XDP V-NIC over rings in test memory; the test plays the kernel.

use super::*;
use crate::copy::private;
use crate::test_frames::tcp_frame;
use flyover_shm::{Arena, HeapMap, Idx};
use flyover_wire::Mac;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

const GEOMETRY: XdpGeometry = XdpGeometry {
    ifindex: 1,
    mac: Mac([2, 0, 0, 0, 0, 1]),
    mtu: 1500,
    queue: 0,
    frames: 32,
    frame_size: 2048,
    rx_ring: 8,
    tx_ring: 8,
    zero_copy: false,
};

/// The kernel's hold of the rings.
struct Kernel {
    rx: Ring,
    fill: Ring,
    tx: Ring,
    completion: Ring,
    umem: Window,
}

struct Bench<'m> {
    nic: XdpNic<'m>,
    kernel: Kernel,
    /// The doorbell's other end.
    peer: OwnedFd,
}

fn with_bench(test: impl FnOnce(Bench<'_>)) {
    let map = HeapMap::new(size_of::<NicState>());
    let arena: Arena<'_, NicState> = Arena::new(map.region(), 0, 1).unwrap();
    let (fd, peer) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let nic = XdpNic {
        fd,
        rx: Ring::heap(8, DESC_LEN),
        fill: Ring::heap(8, ADDR_LEN),
        tx: Ring::heap(8, DESC_LEN),
        completion: Ring::heap(8, ADDR_LEN),
        umem: Window::heap(GEOMETRY.umem_len()),
        geometry: GEOMETRY,
        state: arena.at(Idx::new(0)),
        current: None,
    };
    let kernel = Kernel {
        rx: nic.rx.alias(),
        fill: nic.fill.alias(),
        tx: nic.tx.alias(),
        completion: nic.completion.alias(),
        umem: nic.umem.alias(),
    };
    test(Bench { nic, kernel, peer });
}

impl Kernel {
    /// Receives a frame into the next fill entry; false when there is none.
    fn deliver(&self, bytes: &[u8]) -> bool {
        if self.fill.pending() == 0 || self.rx.room() == 0 {
            return false;
        }
        let entry = self.fill.consumer();
        let addr = self.fill.addr(entry) + 256;
        self.fill.set_consumer(entry.wrapping_add(1));
        self.umem.bytes(addr as usize, bytes.len()).copy_in(bytes);
        let at = self.rx.producer();
        self.rx.set_desc(at, addr, bytes.len() as u32);
        self.rx.set_producer(at.wrapping_add(1));
        true
    }

    /// Sends one packet of the tx ring.
    fn transmit(&self) -> Option<Vec<u8>> {
        if self.tx.pending() == 0 {
            return None;
        }
        let at = self.tx.consumer();
        let mut bytes = vec![0; self.tx.len(at) as usize];
        self.umem
            .bytes(self.tx.addr(at) as usize, bytes.len())
            .copy_out(&mut bytes);
        let done = self.completion.producer();
        self.completion.set_addr(done, self.tx.addr(at));
        self.completion.set_producer(done.wrapping_add(1));
        self.tx.set_consumer(at.wrapping_add(1));
        Some(bytes)
    }
}

impl Bench<'_> {
    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut head = [0; HEAD_LEN];
        let meta = self.nic.rx_next(&mut head)?;
        assert_eq!(meta.csum, Csum::Unknown);
        let mut body = vec![0; meta.frame_len as usize];
        assert_eq!(self.nic.rx_payload(0, &[private(&mut body)]), body.len());
        assert_eq!(self.nic.rx_sum(0, body.len()), checksum::sum(&body, 0));
        self.nic.rx_done();
        Some(body)
    }

    /// Every frame is in exactly one place.
    fn audit(&self) {
        let pool = self.nic.pool();
        let with = |place| (0..32).filter(|f| pool.place(*f) == place).count() as u32;
        assert_eq!(pool.free(), with(Place::Free));
        let receive = self
            .nic
            .fill
            .producer()
            .wrapping_sub(self.nic.rx.consumer());
        assert_eq!(receive, with(Place::Receive));
        let send = self
            .nic
            .tx
            .producer()
            .wrapping_sub(self.nic.completion.consumer());
        assert_eq!(send, with(Place::Send));
        assert_eq!(pool.free() + receive + send, 32);
        assert_eq!(self.nic.state.count.bad_frames.get(), 0);
    }
}

#[test]
fn frames_circulate() {
    with_bench(|mut bench| {
        assert!(
            !bench.kernel.deliver(&[1; 60]),
            "nothing to receive into before the first poll"
        );
        assert_eq!(bench.receive(), None);
        for n in 0..1000u32 {
            let sent: Vec<Vec<u8>> = (0..n % 9)
                .map(|i| vec![(n + i) as u8; 60 + i as usize])
                .collect();
            for bytes in &sent {
                assert!(bench.kernel.deliver(bytes));
            }
            assert_eq!(bench.nic.rx_pending(), !sent.is_empty());
            let got: Vec<Vec<u8>> = core::iter::from_fn(|| bench.receive()).collect();
            assert_eq!(got, sent);
            bench.audit();
        }
    });
}

#[test]
fn sent_packets_have_finished_checksums() {
    with_bench(|mut bench| {
        for v6 in [false, true] {
            let mut payload = vec![7; 1111];
            let (hdr, off) = tcp_frame(v6, &payload, 0);
            let (a, b) = payload.split_at_mut(333);
            let sent = bench.nic.tx(&hdr, &[private(a), private(b)], &off);
            assert_eq!(sent, TxResult::Sent);
            bench.nic.flush();
            let bytes = bench.kernel.transmit().unwrap();
            let parsed = flyover_wire::frame::parse(&bytes, bytes.len()).unwrap();
            let l4 = usize::from(parsed.l4_off);
            let len = (bytes.len() - l4) as u32;
            let pseudo = checksum::pseudo_sum(parsed.src, parsed.dst, 6, len);
            assert!(checksum::is_valid(checksum::sum(
                &bytes[l4..],
                pseudo.into()
            )));
            bench.nic.flush();
            bench.audit();
        }
    });
}

#[test]
fn a_full_ring_gives_way_when_the_kernel_sends() {
    with_bench(|mut bench| {
        let (hdr, off) = tcp_frame(false, &[], 0);
        for _ in 0..8 {
            assert_eq!(bench.nic.tx(&hdr, &[], &off), TxResult::Sent);
        }
        assert_eq!(bench.nic.tx(&hdr, &[], &off), TxResult::Full);
        assert!(bench.kernel.transmit().is_some());
        assert_eq!(bench.nic.tx(&hdr, &[], &off), TxResult::Sent);
        while bench.kernel.transmit().is_some() {}
        bench.nic.flush();
        bench.audit();
        let mut payload = [0; 1600];
        assert_eq!(
            bench.nic.tx(&hdr, &[private(&mut payload)], &off),
            TxResult::Dropped
        );
    });
}

#[test]
fn a_super_frame_is_queued_whole_or_not_at_all() {
    with_bench(|mut bench| {
        let mut payload: Vec<u8> = (0..7500u32).map(|i| i as u8).collect();
        let (hdr, off) = tcp_frame(false, &payload, 1000);
        assert_eq!(
            bench.nic.tx(&hdr, &[private(&mut payload)], &off),
            TxResult::Sent
        );
        assert_eq!(
            bench.nic.tx(&hdr, &[private(&mut payload)], &off),
            TxResult::Full
        );
        let packets: Vec<Vec<u8>> = core::iter::from_fn(|| bench.kernel.transmit()).collect();
        assert_eq!(packets.len(), 8);
        let whole: Vec<u8> = packets.iter().flat_map(|p| p[54..].to_vec()).collect();
        assert_eq!(whole, payload);
        bench.nic.flush();
        bench.audit();
    });
}

#[test]
fn the_doorbell_is_rung_only_on_request() {
    with_bench(|mut bench| {
        let (hdr, off) = tcp_frame(false, &[], 0);
        let _ = bench.nic.tx(&hdr, &[], &off);
        bench.nic.flush();
        assert_eq!(bench.nic.state.count.kicks.get(), 0);
        bench.nic.tx.set_needs_wakeup(true);
        bench.nic.flush();
        // This kernel never takes a packet.
        assert_eq!(bench.nic.state.count.kicks.get(), u64::from(MAX_STUCK));
        assert!(recv(&bench.peer, &mut [0u8; 1], RecvFlags::DONTWAIT).is_ok());
    });
}

#[test]
fn nonsense_descriptors_are_passed_over() {
    with_bench(|mut bench| {
        assert_eq!(bench.receive(), None);
        // Outside the UMEM; a frame that is not with the kernel.
        for addr in [u64::MAX, 0] {
            let at = bench.kernel.rx.producer();
            bench.kernel.rx.set_desc(at, addr, u32::MAX);
            bench.kernel.rx.set_producer(at.wrapping_add(1));
        }
        assert!(bench.kernel.deliver(&[5; 60]));
        assert_eq!(bench.receive().unwrap(), [5; 60]);
        assert_eq!(bench.nic.state.count.rx_bad.get(), 2);
    });
}

#[test]
fn random_rings_do_no_harm() {
    with_bench(|mut bench| {
        let mut x = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        let (hdr, off) = tcp_frame(false, &[], 0);
        let mut head = [0; HEAD_LEN];
        for _ in 0..5_000 {
            let kernel = &bench.kernel;
            for ring in [&kernel.rx, &kernel.fill, &kernel.tx, &kernel.completion] {
                let at = next() as u32;
                ring.set_consumer(at);
                ring.set_producer(at.wrapping_add((next() % 10) as u32));
            }
            for i in 0..8 {
                kernel
                    .rx
                    .set_desc(i, next() >> (next() % 64), next() as u32);
                kernel.completion.set_addr(i, next() >> (next() % 64));
            }
            let state = bench.nic.state;
            state.free_len.set(next() as u16);
            state.place[(next() % 32) as usize].set(next() as u8);
            state.free[(next() % 32) as usize].set(next() as u16);
            if bench.nic.rx_next(&mut head).is_some() {
                let mut body = [0; 3000];
                let _ = bench.nic.rx_payload(14, &[private(&mut body)]);
                let _ = bench.nic.rx_sum(usize::MAX, usize::MAX);
                bench.nic.rx_done();
            }
            let _ = bench.nic.tx(&hdr, &[], &off);
            bench.nic.flush();
            bench.nic.recover();
        }
    });
}
