//! Damaged frames: any field of a sound frame changed, with the checksums made right again or left wrong, so that
//! every layer gets to see nonsense.

use crate::rng::Rng;
use flyover_wire::{Ip, checksum};

/// Where a field lies: offset and length in bytes, for a frame without VLAN tag.
#[derive(Clone, Copy, Debug)]
struct Field {
    off: usize,
    len: usize,
}

const fn field(off: usize, len: usize) -> Field {
    Field { off, len }
}

/// Ethernet: both addresses and the type.
const ETHERNET: &[Field] = &[field(0, 6), field(6, 6), field(12, 2)];

/// IPv4 from the Ethernet header's end: version and length, TOS, length, id, fragmentation, TTL, protocol, sum,
/// addresses.
const IPV4: &[Field] = &[
    field(0, 1),
    field(1, 1),
    field(2, 2),
    field(4, 2),
    field(6, 2),
    field(8, 1),
    field(9, 1),
    field(10, 2),
    field(12, 4),
    field(16, 4),
];

/// IPv6: version and class, flow label, length, next header, hop limit, addresses.
const IPV6: &[Field] = &[
    field(0, 2),
    field(2, 2),
    field(4, 2),
    field(6, 1),
    field(7, 1),
    field(8, 16),
    field(24, 16),
];

/// TCP: ports, sequence, acknowledgment, offset, flags, window, checksum, urgent pointer.
const TCP: &[Field] = &[
    field(0, 2),
    field(2, 2),
    field(4, 4),
    field(8, 4),
    field(12, 1),
    field(13, 1),
    field(14, 2),
    field(16, 2),
    field(18, 2),
];

/// UDP: ports, length, checksum.
const UDP: &[Field] = &[field(0, 2), field(2, 2), field(4, 2), field(6, 2)];

/// Changes one to four things about a frame.
pub fn mutate(rng: &mut Rng, frame: &mut Vec<u8>) {
    for _ in 0..rng.range(1, 4) {
        match rng.below(20) {
            0..=12 => change_field(rng, frame),
            13 => flip(rng, frame),
            14 => {
                let n = rng.below(frame.len() as u64 + 1) as usize;
                frame.truncate(n);
            }
            15 => {
                let mut tail = vec![0; rng.magnitude(2000) as usize];
                rng.fill(&mut tail);
                frame.extend_from_slice(&tail);
            }
            _ => options(rng, frame),
        }
    }
    // Mostly sound below the field that is not, so that the next layer looks at it.
    if !rng.chance(20_000) {
        repair(frame);
    }
}

fn flip(rng: &mut Rng, frame: &mut [u8]) {
    if !frame.is_empty() {
        let bit = rng.below(frame.len() as u64 * 8) as usize;
        frame[bit / 8] ^= 1 << (bit % 8);
    }
}

fn layers(frame: &[u8]) -> Option<(usize, bool, u8)> {
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let ihl = usize::from(frame.get(14)? & 15) * 4;
            Some((14 + ihl.max(20), false, *frame.get(23)?))
        }
        [0x86, 0xdd] => Some((54, true, *frame.get(20)?)),
        _ => None,
    }
}

fn change_field(rng: &mut Rng, frame: &mut [u8]) {
    let (base, f) = match (rng.below(10), layers(frame)) {
        (0, _) | (_, None) => (0, *rng.pick(ETHERNET)),
        (1..=2, Some((_, false, _))) => (14, *rng.pick(IPV4)),
        (1..=2, Some((_, true, _))) => (14, *rng.pick(IPV6)),
        (_, Some((l4, _, 17))) => (l4, *rng.pick(UDP)),
        (_, Some((l4, _, _))) => (l4, *rng.pick(TCP)),
    };
    let Some(bytes) = frame.get_mut(base + f.off..base + f.off + f.len) else {
        return;
    };
    match rng.below(6) {
        0 => bytes.fill(0),
        1 => bytes.fill(0xff),
        2 | 3 => {
            // Near the old value: just outside a window, one too long.
            let mut old = 0u64;
            for b in bytes.iter().rev().take(4).rev() {
                old = old << 8 | u64::from(*b);
            }
            let by = rng.magnitude(0x2_0000);
            let new = if rng.chance(50_000) {
                old.wrapping_add(by)
            } else {
                old.wrapping_sub(by)
            };
            for (i, b) in bytes.iter_mut().rev().take(4).enumerate() {
                *b = (new >> (8 * i)) as u8;
            }
        }
        4 => flip(rng, bytes),
        _ => rng.fill(bytes),
    }
}

/// Random bytes where TCP's options are, or as new ones.
fn options(rng: &mut Rng, frame: &mut [u8]) {
    let Some((l4, _, 6)) = layers(frame) else {
        return;
    };
    let words = rng.range(5, 15) as u8;
    if let Some(b) = frame.get_mut(l4 + 12) {
        *b = words << 4 | *b & 15;
    }
    let end = (l4 + usize::from(words) * 4).min(frame.len());
    let Some(bytes) = frame.get_mut(l4 + 20..end) else {
        return;
    };
    rng.fill(bytes);
    // Kinds that mean something, with lengths that may not fit.
    for b in bytes.iter_mut() {
        if rng.chance(30_000) {
            *b = *rng.pick(&[0, 1, 2, 3, 4, 5, 8, 10, 18, 26, 34]);
        }
    }
}

/// Makes IP length, IP checksum and L4 checksum right, as far as the headers can be found.
pub fn repair(frame: &mut [u8]) {
    let Some((l4, v6, proto)) = layers(frame) else {
        return;
    };
    let len = frame.len();
    if len < l4 {
        return;
    }
    if v6 {
        if let Some(f) = frame.get_mut(18..20) {
            f.copy_from_slice(&((len - 54) as u16).to_be_bytes());
        }
    } else if let Some(f) = frame.get_mut(16..18) {
        f.copy_from_slice(&((len - 14) as u16).to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum::finish(checksum::sum(&frame[14..l4], 0));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let at = l4 + if proto == 17 { 6 } else { 16 };
    if at + 2 > len {
        return;
    }
    let (src, dst) = if v6 {
        (addr6(frame, 22), addr6(frame, 38))
    } else {
        (addr4(frame, 26), addr4(frame, 30))
    };
    frame[at..at + 2].fill(0);
    let pseudo = checksum::pseudo_sum(src, dst, proto, (len - l4) as u32);
    let sum = checksum::sum(&frame[l4..], u32::from(pseudo));
    let sum = if proto == 17 {
        checksum::finish_udp(sum)
    } else {
        checksum::finish(sum)
    };
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn addr4(frame: &[u8], at: usize) -> Ip {
    frame
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(Ip::UNSPECIFIED_V4, Ip::v4)
}

fn addr6(frame: &[u8], at: usize) -> Ip {
    frame
        .get(at..at + 16)
        .and_then(|b| b.try_into().ok())
        .map_or(Ip::UNSPECIFIED_V6, Ip::v6)
}
