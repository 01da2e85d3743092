//! The stream oracle: what byte belongs at which position of which stream, so that every byte can be checked to
//! arrive once and in order without remembering what was sent.

/// Contents of one direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(pub u64);

/// Bytes that arrived but are not those that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Position of the first wrong byte.
    pub at: u64,
    /// What belongs there.
    pub want: u8,
    /// What came.
    pub got: u8,
}

impl Pattern {
    /// Eight bytes from position `8 * block` on (splitmix64).
    fn block(self, block: u64) -> [u8; 8] {
        let mut z = self.0 ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }

    /// Writes the stream's bytes from position `at` on.
    pub fn fill(self, at: u64, out: &mut [u8]) {
        let mut pos = at;
        let mut rest = out;
        while !rest.is_empty() {
            let block = self.block(pos / 8);
            let from = &block[(pos % 8) as usize..];
            let n = from.len().min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&from[..n]);
            rest = later;
            pos += n as u64;
        }
    }

    /// Checks that `got` is what belongs at position `at`.
    ///
    /// # Errors
    /// The first byte that is not.
    pub fn check(self, at: u64, got: &[u8]) -> Result<(), Wrong> {
        let mut want = [0; 256];
        let mut pos = at;
        for part in got.chunks(want.len()) {
            let want = &mut want[..part.len()];
            self.fill(pos, want);
            if let Some(i) = (0..part.len()).find(|i| part[*i] != want[*i]) {
                return Err(Wrong {
                    at: pos + i as u64,
                    want: want[i],
                    got: part[i],
                });
            }
            pos += part.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_whole() {
        let p = Pattern(5);
        let mut whole = vec![0; 3000];
        p.fill(17, &mut whole);
        let mut at = 17;
        for part in whole.chunks(37) {
            assert_eq!(p.check(at, part), Ok(()));
            at += part.len() as u64;
        }
        assert!(p.check(18, &whole).is_err());
        whole[700] ^= 1;
        assert_eq!(p.check(17, &whole).unwrap_err().at, 717);
    }
}
