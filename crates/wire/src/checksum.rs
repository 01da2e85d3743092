//! Internet checksums (RFC 1071): ones-complement sums over big-endian 16-bit words.
//!
//! Every sum here is a number as if words were read in network order, so `0x1234` goes to the wire
//! as bytes `12 34` on any machine. A *sum* is not inverted; a *checksum field* is ([`finish`]).

use crate::addr::Ip;

/// Ones-complement sum of `bytes` on top of `acc` (an unfolded sum, e.g. of earlier parts), folded.
///
/// An odd last byte counts as the high half of its word; a part that *starts* at an odd offset of
/// the whole must go through [`at_offset`].
#[must_use]
pub fn sum(bytes: &[u8], acc: u32) -> u16 {
    words_sum(bytes, acc)
}

/// As [`sum`] of an IPv4 header without options; the fixed length unrolls.
#[must_use]
#[inline]
pub fn ipv4_header_sum(header: &[u8; 20]) -> u16 {
    words_sum(header, 0)
}

#[inline(always)]
fn words_sum(bytes: &[u8], acc: u32) -> u16 {
    // Ones-complement addition commutes with swapping the bytes of all words (RFC 1071 section 2
    // (B)), so words are added as the machine reads them and the result is put in order once.
    let (words, tail) = bytes.as_chunks::<4>();
    let mut total: u64 = 0;
    for word in words {
        total = total.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
    }
    let last = match *tail {
        [] => [0; 4],
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c, ..] => [a, b, c, 0],
    };
    total = total.wrapping_add(u64::from(u32::from_ne_bytes(last)));
    fold(u32::from(u16::from_be(fold64(total))).wrapping_add(u32::from(fold(acc))))
}

/// A 32-bit accumulator folded to 16 bits with end-around carry.
#[must_use]
#[inline]
pub const fn fold(acc: u32) -> u16 {
    let once = (acc & 0xffff).wrapping_add(acc >> 16);
    let twice = (once & 0xffff).wrapping_add(once >> 16);
    twice as u16
}

const fn fold64(acc: u64) -> u16 {
    let once = (acc & 0xffff_ffff).wrapping_add(acc >> 32);
    let twice = (once & 0xffff_ffff).wrapping_add(once >> 32);
    fold(twice as u32)
}

/// Ones-complement sum of two folded sums.
#[must_use]
#[inline]
pub const fn add(a: u16, b: u16) -> u16 {
    fold((a as u32).wrapping_add(b as u32))
}

/// The sum of a part as it counts in a whole in which the part starts at `offset` bytes: at an odd
/// offset the bytes of every word change places.
#[must_use]
#[inline]
pub const fn at_offset(part: u16, offset: usize) -> u16 {
    if offset & 1 == 1 {
        part.swap_bytes()
    } else {
        part
    }
}

/// Folded sum, *not* inverted, of the TCP/UDP pseudo-header. `len` is the L4 header plus payload in
/// bytes; for a super-frame that of the whole super-frame.
///
/// IPv4 (RFC 9293 section 3.1) and IPv6 (RFC 8200 section 8.1) pseudo-headers have the same sum up
/// to the addresses; the v4-mapped prefix (`0xffff`) adds nothing in ones-complement arithmetic,
/// but is left out so that the sum of an all-zero header stays zero.
#[must_use]
pub fn pseudo_sum(src: Ip, dst: Ip, proto: u8, len: u32) -> u16 {
    let acc = u32::from(proto)
        .wrapping_add(len >> 16)
        .wrapping_add(len & 0xffff);
    match (src.as_v4(), dst.as_v4()) {
        (Some(s), Some(d)) => {
            let [s, d] = [u32::from_be_bytes(s), u32::from_be_bytes(d)];
            let halves = (s >> 16)
                .wrapping_add(s & 0xffff)
                .wrapping_add(d >> 16)
                .wrapping_add(d & 0xffff);
            fold(acc.wrapping_add(halves))
        }
        _ => sum(&dst.0, u32::from(sum(&src.0, acc))),
    }
}

/// The value for the checksum field, from the sum over everything that the checksum covers. When
/// the field holds the folded pseudo-header sum (as emission leaves it), that is the sum over the
/// L4 header, field included, and the payload.
#[must_use]
#[inline]
pub const fn finish(sum: u16) -> u16 {
    !sum
}

/// As [`finish`], for UDP: a computed zero is sent as `0xffff`, because zero means "no checksum"
/// (RFC 768).
#[must_use]
#[inline]
pub const fn finish_udp(sum: u16) -> u16 {
    match !sum {
        0 => 0xffff,
        c => c,
    }
}

/// Whether a sum over everything including a finished checksum field says "intact".
#[must_use]
#[inline]
pub const fn is_valid(sum: u16) -> bool {
    // Negative zero; positive zero would need all covered bytes to be zero.
    sum == 0xffff
}

/// A checksum field after one covered 16-bit word changed from `old` to `new` (RFC 1624, eqn. 3).
#[must_use]
#[inline]
pub const fn update16(field: u16, old: u16, new: u16) -> u16 {
    !fold(
        (!field as u32)
            .wrapping_add(!old as u32)
            .wrapping_add(new as u32),
    )
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word.
    fn naive(bytes: &[u8], acc: u32) -> u16 {
        let mut total = u64::from(acc);
        for pair in bytes.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while total >> 16 != 0 {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn rfc1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes, 0), 0xddf2);
        assert_eq!(finish(0xddf2), 0x220d);
    }

    #[test]
    fn rfc1624_example() {
        // Section 4 of RFC 1624: the case that eqn. 2 of RFC 1141 gets wrong.
        assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn sum_is_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..300), acc: u32) {
            prop_assert_eq!(sum(&bytes, acc), naive(&bytes, acc));
        }

        #[test]
        fn parts_add_up(bytes in prop::collection::vec(any::<u8>(), 0..200), cut: prop::sample::Index) {
            let cut = cut.index(bytes.len() + 1);
            let (a, b) = bytes.split_at(cut);
            let whole = add(sum(a, 0), at_offset(sum(b, 0), cut));
            // Zero has two forms; they are one value.
            prop_assert_eq!(whole % 0xffff, sum(&bytes, 0) % 0xffff);
        }

        #[test]
        fn update_matches_recompute(mut words in prop::collection::vec(any::<u16>(), 1..40), at: prop::sample::Index, new: u16) {
            let bytes = |w: &[u16]| w.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
            let i = at.index(words.len());
            let field = finish(sum(&bytes(&words), 0));
            let updated = update16(field, words[i], new);
            words[i] = new;
            let fresh = finish(sum(&bytes(&words), 0));
            prop_assert_eq!(updated % 0xffff, fresh % 0xffff);
        }

        #[test]
        fn pseudo_is_the_definition(s: [u8; 4], d: [u8; 4], s6: [u8; 16], d6: [u8; 16], proto: u8, len in 0u32..0x4_0000) {
            let mut v4 = Vec::new();
            v4.extend_from_slice(&s);
            v4.extend_from_slice(&d);
            v4.extend_from_slice(&u32::from(proto).to_be_bytes());
            v4.extend_from_slice(&len.to_be_bytes());
            prop_assert_eq!(pseudo_sum(Ip::v4(s), Ip::v4(d), proto, len), naive(&v4, 0));
            let mut v6 = Vec::new();
            v6.extend_from_slice(&s6);
            v6.extend_from_slice(&d6);
            v6.extend_from_slice(&len.to_be_bytes());
            v6.extend_from_slice(&u32::from(proto).to_be_bytes());
            prop_assert_eq!(pseudo_sum(Ip::v6(s6), Ip::v6(d6), proto, len), naive(&v6, 0));
        }
    }
}
