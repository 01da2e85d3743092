//! TCP options: MSS, window scale, SACK-permitted, SACK blocks, timestamps.
//!
//! Parsing follows Linux: unknown options are skipped, and a malformed one ends the list; what was
//! read before it stands, and the segment is not dropped. Emission follows Linux's order and padding,
//! because middleboxes and fingerprinting peers know it.

use crate::seq::Seq;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WSCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const MD5: u8 = 19;

/// How the twelve bytes of timestamps alone begin.
pub(crate) const TIMESTAMPS_LEAD: [u8; 4] = [NOP, NOP, TIMESTAMPS, 10];

/// RFC 7323 section 2.3: a shift count above 14 must be used as 14.
const MAX_WSCALE: u8 = 14;

/// Most bytes that options can have: data offset 15 words, less the 20-byte header.
pub const MAX_LEN: usize = 40;

/// The options of one segment. MSS, window scale and SACK-permitted are only valid on SYN segments;
/// telling them apart is the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOpts {
    /// Maximum segment size, bytes of payload (RFC 9293 section 3.7.1).
    pub mss: Option<u16>,
    /// Window shift count, 0 to 14 (RFC 7323).
    pub wscale: Option<u8>,
    /// SACK-permitted (RFC 2018).
    pub sack_permitted: bool,
    /// TSval and TSecr (RFC 7323).
    pub ts: Option<(u32, u32)>,
    /// SACK blocks: left edge and right edge (exclusive); the first `sack_n` are valid.
    pub sack: [(Seq, Seq); 4],
    /// Number of SACK blocks, 0 to 4.
    pub sack_n: u8,
    /// An MD5 signature (RFC 2385) is there. It is never written.
    pub signed: bool,
}

impl TcpOpts {
    /// No options.
    pub const NONE: Self = Self {
        mss: None,
        wscale: None,
        sack_permitted: false,
        ts: None,
        sack: [(Seq(0), Seq(0)); 4],
        sack_n: 0,
        signed: false,
    };

    /// Options with only timestamps, as nearly every segment of a connection has.
    #[must_use]
    pub const fn timestamps(tsval: u32, tsecr: u32) -> Self {
        let mut o = Self::NONE;
        o.ts = Some((tsval, tsecr));
        o
    }

    /// The SACK blocks.
    #[must_use]
    #[inline]
    pub fn sack_blocks(&self) -> &[(Seq, Seq)] {
        self.sack
            .get(..usize::from(self.sack_n))
            .unwrap_or(&self.sack)
    }

    /// Appends a SACK block; `false` when all four are taken.
    pub fn push_sack(&mut self, left: Seq, right: Seq) -> bool {
        match self.sack.get_mut(usize::from(self.sack_n)) {
            Some(slot) => {
                *slot = (left, right);
                self.sack_n = self.sack_n.saturating_add(1);
                true
            }
            None => false,
        }
    }

    /// Parses the bytes between the fixed header and the data.
    #[must_use]
    #[inline(always)]
    pub fn parse(bytes: &[u8]) -> Self {
        // The fast path of every stack: NOP NOP TS on an established connection.
        if let [NOP, NOP, TIMESTAMPS, 10, a, b, c, d, e, f, g, h] = *bytes {
            return Self::timestamps(
                u32::from_be_bytes([a, b, c, d]),
                u32::from_be_bytes([e, f, g, h]),
            );
        }
        if bytes.is_empty() {
            Self::NONE
        } else {
            Self::parse_slow(bytes)
        }
    }

    #[inline(never)]
    fn parse_slow(mut bytes: &[u8]) -> Self {
        let mut opts = Self::NONE;
        // Every turn takes at least one byte of at most 40.
        while let Some((&kind, rest)) = bytes.split_first() {
            match kind {
                END => break,
                NOP => bytes = rest,
                _ => {
                    let Some((&len, _)) = rest.split_first() else {
                        break;
                    };
                    let Some((option, next)) = bytes.split_at_checked(usize::from(len)) else {
                        break;
                    };
                    let [_, _, value @ ..] = option else { break };
                    opts.take(kind, value);
                    bytes = next;
                }
            }
        }
        opts
    }

    fn take(&mut self, kind: u8, value: &[u8]) {
        match (kind, value) {
            (MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            (WSCALE, &[shift]) => self.wscale = Some(shift.min(MAX_WSCALE)),
            (SACK_PERMITTED, []) => self.sack_permitted = true,
            (TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                self.ts = Some((
                    u32::from_be_bytes([a, b, c, d]),
                    u32::from_be_bytes([e, f, g, h]),
                ));
            }
            (SACK, blocks) => {
                let (blocks, []) = blocks.as_chunks::<8>() else {
                    return;
                };
                self.sack_n = 0;
                for &[a, b, c, d, e, f, g, h] in blocks {
                    let left = Seq(u32::from_be_bytes([a, b, c, d]));
                    let right = Seq(u32::from_be_bytes([e, f, g, h]));
                    let _full: bool = self.push_sack(left, right);
                }
            }
            (MD5, value) if value.len() == 16 => self.signed = true,
            // Unknown kinds, and known ones of a wrong length, are as if they were not there.
            _ => {}
        }
    }

    /// Bytes that [`TcpOpts::emit`] writes: a multiple of 4, at most 40.
    #[must_use]
    pub fn emitted_len(&self) -> usize {
        let fixed = self.fixed_len();
        match self.emitted_sack_blocks() {
            0 => fixed,
            n => fixed.wrapping_add(4).wrapping_add(n.wrapping_mul(8)),
        }
    }

    /// The timestamps, when nothing else is written.
    #[must_use]
    #[inline]
    pub fn only_timestamps(&self) -> Option<(u32, u32)> {
        let others =
            self.mss.is_some() | self.wscale.is_some() | self.sack_permitted | (self.sack_n != 0);
        if others { None } else { self.ts }
    }

    /// Bytes of everything but SACK blocks.
    fn fixed_len(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        let wscale = if self.wscale.is_some() { 4 } else { 0 };
        let ts_and_permitted = match (self.ts.is_some(), self.sack_permitted) {
            (true, _) => 12,
            (false, true) => 4,
            (false, false) => 0,
        };
        // 4 + 4 + 12 at most
        usize::wrapping_add(mss, wscale).wrapping_add(ts_and_permitted)
    }

    /// SACK blocks that fit into 40 bytes beside the other options; with timestamps three.
    fn emitted_sack_blocks(&self) -> usize {
        let room = MAX_LEN.saturating_sub(self.fixed_len()).saturating_sub(4) / 8;
        usize::from(self.sack_n).min(4).min(room)
    }

    /// Writes the options and returns how many bytes; SACK blocks beyond the room of 40 bytes are
    /// left out (the receiver lists the most important first, RFC 2018 section 4).
    ///
    /// Order: MSS; SACK-permitted and timestamps in one 12-byte group; window scale; SACK blocks.
    #[must_use]
    pub fn emit(&self, out: &mut [u8; MAX_LEN]) -> usize {
        let mut w = Writer { out, at: 0 };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            w.word([MSS, 4, a, b]);
        }
        match (self.ts, self.sack_permitted) {
            (Some((val, ecr)), permitted) => {
                let lead = if permitted {
                    [SACK_PERMITTED, 2]
                } else {
                    [NOP, NOP]
                };
                w.word([lead[0], lead[1], TIMESTAMPS, 10]);
                w.word(val.to_be_bytes());
                w.word(ecr.to_be_bytes());
            }
            (None, true) => w.word([NOP, NOP, SACK_PERMITTED, 2]),
            (None, false) => {}
        }
        if let Some(shift) = self.wscale {
            w.word([NOP, WSCALE, 3, shift.min(MAX_WSCALE)]);
        }
        let n = self.emitted_sack_blocks();
        if n > 0 {
            // n <= 4, so the length byte is at most 34
            w.word([NOP, NOP, SACK, (n as u8).wrapping_mul(8).wrapping_add(2)]);
            for (left, right) in self.sack.iter().take(n) {
                w.word(left.0.to_be_bytes());
                w.word(right.0.to_be_bytes());
            }
        }
        w.at
    }
}

/// Appends four bytes at a time; stops silently at the end, which the callers' arithmetic excludes.
struct Writer<'b> {
    out: &'b mut [u8; MAX_LEN],
    at: usize,
}

impl Writer<'_> {
    #[inline]
    fn word(&mut self, word: [u8; 4]) {
        let end = self.at.wrapping_add(4);
        if let Some(slot) = self.out.get_mut(self.at..end) {
            slot.copy_from_slice(&word);
            self.at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_syn_layout() {
        let mut opts = TcpOpts::timestamps(0x0102_0304, 0);
        opts.mss = Some(1460);
        opts.wscale = Some(7);
        opts.sack_permitted = true;
        let mut out = [0; MAX_LEN];
        let n = opts.emit(&mut out);
        assert_eq!(
            &out[..n],
            &[
                2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7
            ]
        );
        assert_eq!(opts.emitted_len(), 20);
        assert_eq!(TcpOpts::parse(&out[..n]), opts);
    }

    #[test]
    fn sack_blocks_are_cut_to_fit() {
        let mut opts = TcpOpts::timestamps(1, 2);
        for i in 0..4 {
            assert!(opts.push_sack(Seq(i * 10), Seq(i * 10 + 5)));
        }
        assert!(!opts.push_sack(Seq(0), Seq(1)));
        let mut out = [0; MAX_LEN];
        assert_eq!(opts.emit(&mut out), 40);
        assert_eq!(TcpOpts::parse(&out).sack_n, 3);
        opts.ts = None;
        assert_eq!(opts.emit(&mut out), 36);
        assert_eq!(TcpOpts::parse(&out[..36]).sack_blocks(), opts.sack_blocks());
    }

    #[test]
    fn malformed_ends_the_list() {
        let good = [2, 4, 5, 0xb4];
        for bad in [&[8, 0][..], &[8, 1], &[8, 10, 0], &[8], &[5, 200]] {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&good);
            bytes[4..4 + bad.len()].copy_from_slice(bad);
            let opts = TcpOpts::parse(&bytes[..4 + bad.len()]);
            assert_eq!(
                opts,
                TcpOpts {
                    mss: Some(1460),
                    ..TcpOpts::NONE
                }
            );
        }
    }

    #[test]
    fn odd_values() {
        assert_eq!(TcpOpts::parse(&[3, 3, 15]).wscale, Some(14));
        // wrong length for the kind: ignored, the next one still counts
        assert_eq!(
            TcpOpts::parse(&[2, 3, 9, 4, 2]),
            TcpOpts {
                sack_permitted: true,
                ..TcpOpts::NONE
            }
        );
        // after end-of-list nothing counts
        assert_eq!(TcpOpts::parse(&[0, 4, 2]), TcpOpts::NONE);
        // an unknown option is skipped
        assert!(TcpOpts::parse(&[253, 6, 1, 2, 3, 4, 4, 2]).sack_permitted);
        // SACK with a broken block
        assert_eq!(
            TcpOpts::parse(&[5, 11, 0, 0, 0, 1, 0, 0, 0, 2, 0]).sack_n,
            0
        );
    }
}
