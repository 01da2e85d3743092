//! [`MemNic`]: a V-NIC in memory. Two of them back to back are a wire; one alone is the end of a network
//! that the simulator plays. Clones are the same V-NIC as seen by several processes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flyover_shm::ShmBytes;
use flyover_wire::{Mac, checksum};

use crate::copy::{copy_windows, gather, private, total};
use crate::gso::Cutter;
use crate::{Caps, Csum, HEAD_LEN, RxMeta, TxOffload, TxResult, Vnic, VnicKind};

/// A frame on its way, with what the receiving device will say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemFrame {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// What is known about the checksum.
    pub csum: Csum,
    /// Payload bytes per segment of a super-frame, or 0.
    pub gso_size: u16,
}

impl MemFrame {
    /// A frame about which the device says nothing.
    pub fn plain(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            csum: Csum::Unknown,
            gso_size: 0,
        }
    }
}

/// What the wire does to a super-frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemCut {
    /// Arrives in one piece, as through veth or after GRO.
    Whole,
    /// Arrives as packets of at most the MTU, as after a TSO device.
    Mtu,
}

/// What the wire does to the checksum that the sender left to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemCsum {
    /// Left partial, and marked as such (veth to a packet socket).
    Partial,
    /// Left partial, unmarked (veth to AF_XDP).
    PartialUnmarked,
    /// Finished and verified by the receiving device.
    Verified,
    /// Finished; the receiving device does not look at it.
    Finished,
}

/// How a [`MemNic`] is and behaves.
#[derive(Clone, Copy, Debug)]
pub struct MemConfig {
    /// Its address.
    pub mac: Mac,
    /// Its interface index.
    pub ifindex: u32,
    /// Largest L3 packet, bytes.
    pub mtu: u32,
    /// Largest super-frame that `tx` takes, bytes; 0: none.
    pub tso_max: u32,
    /// What happens to super-frames on the way out.
    pub cut: MemCut,
    /// What happens to checksums on the way out.
    pub csum: MemCsum,
    /// Frames that fit in the transmit queue; then `tx` says `Full`.
    pub queue: usize,
}

impl Default for MemConfig {
    fn default() -> Self {
        Self {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            ifindex: 1,
            mtu: 1500,
            tso_max: 65_535,
            cut: MemCut::Whole,
            csum: MemCsum::Partial,
            queue: 1024,
        }
    }
}

type Queue = Arc<Mutex<VecDeque<MemFrame>>>;

/// A V-NIC whose queues are in this process.
#[derive(Clone, Debug)]
pub struct MemNic {
    config: MemConfig,
    rx: Queue,
    tx: Queue,
    /// Whether the first frame of `rx` is the current one.
    current: bool,
}

fn lock(queue: &Queue) -> MutexGuard<'_, VecDeque<MemFrame>> {
    // A test that panicked elsewhere must not hide behind a second panic here.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemNic {
    /// One end: the test feeds [`deliver`](Self::deliver) and reads [`take`](Self::take).
    pub fn new(config: MemConfig) -> Self {
        Self {
            config,
            rx: Queue::default(),
            tx: Queue::default(),
            current: false,
        }
    }

    /// Two ends of a wire.
    pub fn pair(a: MemConfig, b: MemConfig) -> (Self, Self) {
        let (to_a, to_b) = (Queue::default(), Queue::default());
        let end = |config, rx: &Queue, tx: &Queue| Self {
            config,
            rx: Arc::clone(rx),
            tx: Arc::clone(tx),
            current: false,
        };
        (end(a, &to_a, &to_b), end(b, &to_b, &to_a))
    }

    /// Puts a frame in the receive queue.
    pub fn deliver(&self, frame: MemFrame) {
        lock(&self.rx).push_back(frame);
    }

    /// Takes the oldest frame that was sent.
    pub fn take(&self) -> Option<MemFrame> {
        lock(&self.tx).pop_front()
    }

    /// Frames that wait to be received, and frames sent but not taken.
    pub fn depth(&self) -> (usize, usize) {
        (lock(&self.rx).len(), lock(&self.tx).len())
    }

    /// The frame as it arrives after the wire's treatment of checksums.
    fn arriving(&self, mut bytes: Vec<u8>, off: &TxOffload) -> MemFrame {
        let marked = off.csum_start != 0;
        let csum = match self.config.csum {
            MemCsum::Partial if marked => Csum::Partial,
            MemCsum::Verified => Csum::Good,
            MemCsum::Partial | MemCsum::PartialUnmarked | MemCsum::Finished => Csum::Unknown,
        };
        if marked && matches!(self.config.csum, MemCsum::Verified | MemCsum::Finished) {
            finish_checksum(&mut bytes, off);
        }
        MemFrame {
            bytes,
            csum,
            gso_size: off.gso_size,
        }
    }

    /// The packets that a frame becomes. None: it can not be sent.
    fn packets(&self, bytes: Vec<u8>, hdr_len: usize, off: &TxOffload) -> Option<Vec<MemFrame>> {
        let payload = bytes.len().saturating_sub(hdr_len);
        let max = self.config.mtu as usize + 18;
        if off.gso_size == 0 || payload <= usize::from(off.gso_size) {
            let single = TxOffload {
                gso_size: 0,
                ..*off
            };
            return (bytes.len() <= max).then(|| vec![self.arriving(bytes, &single)]);
        }
        if bytes.len() > self.config.tso_max as usize {
            return None;
        }
        if self.config.cut == MemCut::Whole {
            return Some(vec![self.arriving(bytes, off)]);
        }
        let (hdr, payload_bytes) = bytes.split_at_checked(hdr_len)?;
        let cutter = Cutter::new(hdr, payload, off)?;
        let mut packets = Vec::new();
        for i in 0..cutter.count() {
            let mut head = [0; HEAD_LEN];
            let segment = cutter.segment(i, &mut head);
            let (at, len) = segment.payload;
            let mut packet = head.get(..hdr_len)?.to_vec();
            packet.extend_from_slice(payload_bytes.get(at..at + len)?);
            if packet.len() > max {
                return None;
            }
            packets.push(self.arriving(packet, &segment.off));
        }
        Some(packets)
    }
}

fn finish_checksum(bytes: &mut [u8], off: &TxOffload) {
    let start = usize::from(off.csum_start);
    let field = start + usize::from(off.csum_offset);
    let sum = checksum::sum(bytes.get(start..).unwrap_or_default(), 0);
    let value = if off.l4_tcp {
        checksum::finish(sum)
    } else {
        checksum::finish_udp(sum)
    };
    if let Some(field) = bytes.get_mut(field..field + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

impl Vnic for MemNic {
    fn caps(&self) -> Caps {
        let MemConfig {
            mac,
            ifindex,
            mtu,
            tso_max,
            ..
        } = self.config;
        Caps {
            kind: VnicKind::Mem,
            mtu,
            mac,
            ifindex,
            tx_csum: true,
            rx_gro: self.config.cut == MemCut::Whole,
            tso_max,
        }
    }

    fn rx_next(&mut self, head: &mut [u8; HEAD_LEN]) -> Option<RxMeta> {
        let queue = lock(&self.rx);
        let frame = queue.front()?;
        let n = frame.bytes.len().min(HEAD_LEN);
        head[..n].copy_from_slice(&frame.bytes[..n]);
        self.current = true;
        Some(RxMeta {
            frame_len: frame.bytes.len() as u32,
            head_len: n as u32,
            csum: frame.csum,
            gso_size: frame.gso_size,
            // As the packet socket's super-frames.
            by_call: frame.gso_size != 0,
        })
    }

    fn rx_payload(&mut self, skip: usize, into: &[ShmBytes<'_>]) -> usize {
        let mut queue = lock(&self.rx);
        let Some(frame) = queue.front_mut().filter(|_| self.current) else {
            return 0;
        };
        let len = frame.bytes.len();
        copy_windows(private(&mut frame.bytes).sub(skip, len), into)
    }

    fn rx_sum(&mut self, from: usize, len: usize) -> u16 {
        let mut queue = lock(&self.rx);
        let Some(frame) = queue.front_mut().filter(|_| self.current) else {
            return 0;
        };
        private(&mut frame.bytes).sub(from, len).sum(0)
    }

    fn rx_done(&mut self) {
        if core::mem::take(&mut self.current) {
            let _: Option<MemFrame> = lock(&self.rx).pop_front();
        }
    }

    fn tx(&mut self, hdr: &[u8], payload: &[ShmBytes<'_>], off: &TxOffload) -> TxResult {
        let mut bytes = vec![0; hdr.len() + total(payload)];
        bytes[..hdr.len()].copy_from_slice(hdr);
        let _ = gather(payload, private(&mut bytes[hdr.len()..]));
        let Some(packets) = self.packets(bytes, hdr.len(), off) else {
            return TxResult::Dropped;
        };
        let mut queue = lock(&self.tx);
        if queue.len() >= self.config.queue {
            return TxResult::Full;
        }
        queue.extend(packets);
        TxResult::Sent
    }

    fn flush(&mut self) {}

    fn rx_pending(&self) -> bool {
        !lock(&self.rx).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_frames::tcp_frame;

    fn send(nic: &mut MemNic, v6: bool, payload: &mut [u8], gso: u16) -> TxResult {
        let (hdr, off) = tcp_frame(v6, payload, gso);
        let half = payload.len() / 2;
        let (a, b) = payload.split_at_mut(half);
        nic.tx(&hdr, &[private(a), private(b)], &off)
    }

    fn receive(nic: &mut MemNic) -> Option<(RxMeta, Vec<u8>)> {
        let mut head = [0; HEAD_LEN];
        let meta = nic.rx_next(&mut head)?;
        let mut bytes = vec![0; meta.frame_len as usize];
        assert_eq!(nic.rx_payload(0, &[private(&mut bytes)]), bytes.len());
        assert_eq!(
            bytes[..meta.head_len as usize],
            head[..meta.head_len as usize]
        );
        nic.rx_done();
        Some((meta, bytes))
    }

    fn verify(bytes: &[u8]) -> Option<bool> {
        let parsed = flyover_wire::frame::parse(bytes, bytes.len()).ok()?;
        let l4 = usize::from(parsed.l4_off);
        let len = (bytes.len() - l4) as u32;
        let pseudo = checksum::pseudo_sum(parsed.src, parsed.dst, parsed.proto, len);
        Some(checksum::is_valid(checksum::sum(
            &bytes[l4..],
            pseudo.into(),
        )))
    }

    #[test]
    fn a_super_frame_arrives_whole_or_cut() {
        let mut payload: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        let config = MemConfig::default();
        let (mut a, mut b) = MemNic::pair(config, config);
        assert_eq!(send(&mut a, false, &mut payload, 1448), TxResult::Sent);
        let (meta, bytes) = receive(&mut b).unwrap();
        assert_eq!((meta.gso_size, meta.csum), (1448, Csum::Partial));
        assert_eq!(bytes[54..], payload);

        for csum in [MemCsum::Finished, MemCsum::Verified] {
            let cut = MemConfig {
                cut: MemCut::Mtu,
                csum,
                ..config
            };
            let (mut a, mut b) = MemNic::pair(cut, config);
            assert_eq!(send(&mut a, true, &mut payload, 1400), TxResult::Sent);
            let mut whole = Vec::new();
            while let Some((meta, bytes)) = receive(&mut b) {
                assert_eq!(meta.gso_size, 0);
                assert_eq!(verify(&bytes), Some(true));
                whole.extend_from_slice(&bytes[74..]);
            }
            assert_eq!(whole, payload);
        }
    }

    #[test]
    fn limits_are_kept() {
        let config = MemConfig {
            queue: 1,
            tso_max: 3000,
            ..MemConfig::default()
        };
        let mut nic = MemNic::new(config);
        assert_eq!(send(&mut nic, false, &mut [0; 1500], 0), TxResult::Dropped);
        assert_eq!(
            send(&mut nic, false, &mut [0; 3000], 1000),
            TxResult::Dropped
        );
        assert_eq!(send(&mut nic, false, &mut [0; 100], 0), TxResult::Sent);
        assert_eq!(send(&mut nic, false, &mut [0; 100], 0), TxResult::Full);
        assert_eq!(nic.take().unwrap().bytes.len(), 154);
        assert!(nic.take().is_none());
    }

    #[test]
    fn a_frame_stays_current_until_done() {
        let mut nic = MemNic::new(MemConfig::default());
        let mut head = [0; HEAD_LEN];
        assert!(nic.rx_next(&mut head).is_none());
        nic.rx_done();
        nic.deliver(MemFrame::plain(vec![1; 60]));
        nic.deliver(MemFrame::plain(vec![2; 60]));
        assert!(nic.rx_pending());
        nic.rx_done();
        assert_eq!(
            nic.depth().0,
            2,
            "rx_done without a current frame does nothing"
        );
        nic.rx_next(&mut head).unwrap();
        nic.rx_next(&mut head).unwrap();
        assert_eq!(head[0], 1);
        assert_eq!(nic.rx_sum(0, 2), 0x0101);
        nic.rx_done();
        nic.rx_next(&mut head).unwrap();
        assert_eq!(head[0], 2);
    }
}
