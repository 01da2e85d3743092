//! Copying payload. The C library does it well but for one case: for 2 KiB and more it takes `rep movsb`, which AMD's
//! processors carry out two to four times slower when the destination begins less than 32 bytes ahead of the source within
//! its page. That is no rare case: our buffers begin at a page, and a large buffer of `malloc` begins 16 bytes into one.

use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};

const PAGE: usize = 4096;
/// Copies of fewer bytes are made otherwise by the C library.
const LEAST: usize = 2048;
/// So little ahead is too near.
const NEAR: usize = 64;

/// As `core::ptr::copy_nonoverlapping`.
///
/// # Safety
/// The same.
#[inline]
pub(crate) unsafe fn copy(src: *const u8, dst: *mut u8, n: usize) {
    let ahead = dst.addr().wrapping_sub(src.addr()) % PAGE;
    if n >= LEAST && ahead != 0 && ahead < NEAR {
        // SAFETY: the caller's promise.
        unsafe { by_words(src, dst, n) };
    } else {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::copy_nonoverlapping(src, dst, n) };
    }
}

/// # Safety
/// As `core::ptr::copy_nonoverlapping`.
#[inline(never)]
unsafe fn by_words(src: *const u8, dst: *mut u8, n: usize) {
    const PIECE: usize = 128;
    let mut at = 0;
    while at + PIECE <= n {
        // SAFETY: the piece lies below n; these loads and stores need not be aligned.
        unsafe {
            let from = src.add(at).cast::<__m128i>();
            let to = dst.add(at).cast::<__m128i>();
            // All loads before the stores, which to the processor look like those of the same place.
            let (a, b) = (_mm_loadu_si128(from), _mm_loadu_si128(from.add(1)));
            let (c, d) = (_mm_loadu_si128(from.add(2)), _mm_loadu_si128(from.add(3)));
            let (e, f) = (_mm_loadu_si128(from.add(4)), _mm_loadu_si128(from.add(5)));
            let (g, h) = (_mm_loadu_si128(from.add(6)), _mm_loadu_si128(from.add(7)));
            _mm_storeu_si128(to, a);
            _mm_storeu_si128(to.add(1), b);
            _mm_storeu_si128(to.add(2), c);
            _mm_storeu_si128(to.add(3), d);
            _mm_storeu_si128(to.add(4), e);
            _mm_storeu_si128(to.add(5), f);
            _mm_storeu_si128(to.add(6), g);
            _mm_storeu_si128(to.add(7), h);
        }
        at += PIECE;
    }
    // SAFETY: the rest, at <= n.
    unsafe { core::ptr::copy_nonoverlapping(src.add(at), dst.add(at), n - at) };
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_wherever_it_lies() {
        let src: Vec<u8> = (0..3 * PAGE as u32).map(|i| (i * 7 % 251) as u8).collect();
        let mut to = vec![0xee_u8; 4 * PAGE];
        let aligned = src.as_ptr().addr().wrapping_sub(to.as_ptr().addr()) % PAGE;
        for ahead in [0, 1, 15, 16, 31, 63, 64, 4095] {
            for n in [0, 1, 127, 2047, 2048, 2049, 4096, 6001] {
                let at = aligned + ahead;
                // SAFETY: n bytes are in the source; at is less than two pages, n less than two.
                unsafe { copy(src.as_ptr(), to.as_mut_ptr().add(at), n) };
                assert_eq!(to[at..at + n], src[..n]);
                to[at..at + n].fill(0xee);
                assert!(to.iter().all(|b| *b == 0xee), "nothing else was written");
            }
        }
    }
}
