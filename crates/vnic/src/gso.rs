//! Cutting a TCP super-frame into segments with the CPU, as a device with TSO would: for V-NICs whose
//! device can not, and for the V-NIC in memory.

use flyover_wire::checksum;

use crate::{HEAD_LEN, TxOffload};

const TCP_SEQ: usize = 4;
const TCP_FLAGS: usize = 13;
const TCP_CSUM: usize = 16;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

/// A super-frame's headers, checked, and how to cut its payload.
#[derive(Debug)]
pub(crate) struct Cutter<'h> {
    hdr: &'h [u8],
    off: TxOffload,
    payload: usize,
    l3: usize,
    l4: usize,
}

/// One segment: `hdr_len` bytes of headers and a range of the super-frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) payload: (usize, usize),
    /// As of the super-frame, but nothing left to cut.
    pub(crate) off: TxOffload,
}

impl<'h> Cutter<'h> {
    /// None when the headers are not those of a TCP super-frame.
    pub(crate) fn new(hdr: &'h [u8], payload: usize, off: &TxOffload) -> Option<Self> {
        let l4 = usize::from(off.csum_start);
        let l3 = l4.checked_sub(if off.v6 { IPV6_LEN } else { IPV4_LEN })?;
        let whole = l4 + TCP_CSUM + 2 <= hdr.len() && hdr.len() <= HEAD_LEN;
        let sane = off.l4_tcp && off.gso_size > 0 && usize::from(off.csum_offset) == TCP_CSUM;
        (whole && sane).then_some(Self {
            hdr,
            off: *off,
            payload,
            l3,
            l4,
        })
    }

    /// How many segments there are: at least one.
    pub(crate) fn count(&self) -> usize {
        self.payload.div_ceil(usize::from(self.off.gso_size)).max(1)
    }

    /// Writes the headers of segment `i` to the beginning of `out`.
    pub(crate) fn segment(&self, i: usize, out: &mut [u8; HEAD_LEN]) -> Segment {
        let size = usize::from(self.off.gso_size);
        let at = i.saturating_mul(size).min(self.payload);
        let len = size.min(self.payload - at);
        let hdr = &mut out[..self.hdr.len()];
        hdr.copy_from_slice(self.hdr);
        self.write_ip(hdr, i, len);
        self.write_tcp(hdr, at, len);
        Segment {
            payload: (at, len),
            off: TxOffload {
                gso_size: 0,
                ..self.off
            },
        }
    }

    fn write_ip(&self, hdr: &mut [u8], i: usize, len: usize) {
        let l3 = self.l3;
        if self.off.v6 {
            put16(hdr, l3 + 4, (self.hdr.len() - self.l4 + len) as u16);
            return;
        }
        put16(hdr, l3 + 2, (self.hdr.len() - l3 + len) as u16);
        put16(hdr, l3 + 4, get16(hdr, l3 + 4).wrapping_add(i as u16));
        put16(hdr, l3 + 10, 0);
        put16(
            hdr,
            l3 + 10,
            checksum::finish(checksum::sum(&hdr[l3..l3 + IPV4_LEN], 0)),
        );
    }

    fn write_tcp(&self, hdr: &mut [u8], at: usize, len: usize) {
        let l4 = self.l4;
        let seq = [0, 1, 2, 3].map(|i| hdr[l4 + TCP_SEQ + i]);
        let seq = u32::from_be_bytes(seq).wrapping_add(at as u32);
        hdr[l4 + TCP_SEQ..l4 + TCP_SEQ + 4].copy_from_slice(&seq.to_be_bytes());
        if at + len < self.payload {
            hdr[l4 + TCP_FLAGS] &= !(FIN | PSH);
        }
        if at > 0 {
            hdr[l4 + TCP_FLAGS] &= !CWR;
        }
        // The field holds the pseudo-header's sum, in which only the length changes.
        let l4_hdr = self.hdr.len() - l4;
        let old = checksum::fold((l4_hdr + self.payload) as u32);
        let new = checksum::fold((l4_hdr + len) as u32);
        let pseudo = checksum::add(checksum::add(get16(hdr, l4 + TCP_CSUM), !old), new);
        put16(hdr, l4 + TCP_CSUM, pseudo);
    }
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_frames::{TCP_OFF, tcp_frame};
    use flyover_wire::checksum;

    #[test]
    fn segments_cover_the_payload_and_check_out() {
        for v6 in [false, true] {
            let payload: Vec<u8> = (0..3333u32).map(|i| (i * 7) as u8).collect();
            let (hdr, off) = tcp_frame(v6, &payload, TCP_OFF.gso_size);
            let cutter = Cutter::new(&hdr, payload.len(), &off).unwrap();
            assert_eq!(cutter.count(), 4);
            let mut seen = 0;
            for i in 0..cutter.count() {
                let mut head = [0; HEAD_LEN];
                let seg = cutter.segment(i, &mut head);
                let (at, len) = seg.payload;
                assert_eq!(at, seen);
                seen += len;
                let mut frame = head[..hdr.len()].to_vec();
                frame.extend_from_slice(&payload[at..at + len]);
                let l4 = usize::from(off.csum_start);
                let sum = checksum::sum(&frame[l4..], 0);
                frame[l4 + 16..l4 + 18].copy_from_slice(&checksum::finish(sum).to_be_bytes());
                let parsed = flyover_wire::frame::parse(&frame, frame.len()).unwrap();
                assert_eq!(parsed.payload_len as usize, len);
                let flyover_wire::L4::Tcp(tcp) = parsed.l4 else {
                    panic!("not tcp")
                };
                assert_eq!(tcp.seq.0, 1000u32.wrapping_add(at as u32));
                let last = i + 1 == cutter.count();
                assert_eq!(tcp.flags.has(flyover_wire::TcpFlags::FIN), last);
                let l4_len = (frame.len() - l4) as u32;
                let pseudo = checksum::pseudo_sum(parsed.src, parsed.dst, 6, l4_len);
                assert!(checksum::is_valid(checksum::sum(
                    &frame[l4..],
                    u32::from(pseudo)
                )));
            }
            assert_eq!(seen, payload.len());
        }
    }

    #[test]
    fn odd_headers_are_refused() {
        let (hdr, off) = tcp_frame(false, &[], 1000);
        assert!(
            Cutter::new(
                &hdr,
                0,
                &TxOffload {
                    l4_tcp: false,
                    ..off
                }
            )
            .is_none()
        );
        assert!(
            Cutter::new(
                &hdr,
                0,
                &TxOffload {
                    csum_start: 10,
                    ..off
                }
            )
            .is_none()
        );
        assert!(Cutter::new(&hdr[..40], 0, &off).is_none());
        assert!(Cutter::new(&hdr, 0, &TxOffload { gso_size: 0, ..off }).is_none());
    }
}
