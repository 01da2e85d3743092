//! What a side means to do.

use crate::rng::Rng;

/// How a side ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `shutdown(SHUT_WR)` behind the last byte, read to the end of the stream, close.
    Orderly,
    /// Read to the end of the stream first, then send, then close. Only against an end that does not wait as well.
    AfterPeer,
    /// Close when the last byte is queued and the peer's stream was read to its end.
    CloseAtEof,
    /// Close as soon as the last byte is queued, whatever the peer still sends.
    CloseAfterSend,
    /// `shutdown(SHUT_RDWR)` when the last byte is queued, then close.
    ShutBoth,
    /// Close when so many bytes were read, whatever else.
    CloseAt(u64),
    /// Reset when so many bytes were read and written together.
    AbortAt(u64),
}

impl End {
    /// Everything sent is received by the other side, if that one is orderly too.
    pub const fn is_orderly(self) -> bool {
        matches!(self, Self::Orderly | Self::AfterPeer | Self::CloseAtEof)
    }
}

/// What one side does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes to send.
    pub send: u64,
    /// Largest piece written at once.
    pub write: u64,
    /// Largest piece read at once.
    pub read: u64,
    /// Chance, in hundred-thousandths, of a pause before a read: the window fills and closes.
    pub read_pause: u32,
    /// Chance of a pause before a write.
    pub write_pause: u32,
    /// Longest pause, ns.
    pub pause: u64,
    /// How it ends.
    pub end: End,
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// Chance of `MSG_MORE` on a write.
    pub more: u32,
    /// `SO_RCVBUF`, if set.
    pub rcvbuf: Option<u32>,
    /// `SO_SNDBUF`, if set.
    pub sndbuf: Option<u32>,
    /// Edge-triggered events.
    pub edge: bool,
    /// Chance that somebody else holds the stack lock when a read has to tell the peer of the window.
    pub contended: u32,
}

impl Plan {
    /// A random plan that sends at most `most` bytes.
    pub fn random(rng: &mut Rng, most: u64, end: End) -> Self {
        let often = |rng: &mut Rng| *rng.pick(&[0, 0, 2_000, 20_000]);
        let piece = |rng: &mut Rng| {
            let most = *rng.pick(&[3_000, 100_000, 100_000, 100_000]);
            1 + rng.magnitude(most)
        };
        Self {
            send: if rng.chance(10_000) {
                0
            } else {
                rng.magnitude(most)
            },
            write: piece(rng),
            read: piece(rng),
            read_pause: often(rng),
            write_pause: often(rng),
            pause: *rng.pick(&[1_000_000, 50_000_000, 700_000_000]),
            end,
            nodelay: rng.chance(30_000),
            more: if rng.chance(10_000) { 30_000 } else { 0 },
            rcvbuf: rng.chance(25_000).then(|| rng.range(2_000, 60_000) as u32),
            sndbuf: rng.chance(25_000).then(|| rng.range(4_600, 60_000) as u32),
            edge: rng.chance(40_000),
            contended: *rng.pick(&[0, 20_000]),
        }
    }

    /// Two plans that go together: mostly both orderly, never each waiting for what the other does not do.
    pub fn pair(rng: &mut Rng, most: u64) -> [Self; 2] {
        let orderly = |rng: &mut Rng| {
            *rng.pick(&[End::Orderly, End::Orderly, End::AfterPeer, End::CloseAtEof])
        };
        let rude = |rng: &mut Rng| {
            let n = rng.magnitude(2 * most);
            *rng.pick(&[
                End::CloseAfterSend,
                End::ShutBoth,
                End::CloseAt(n),
                End::AbortAt(n),
            ])
        };
        let ends = match rng.below(10) {
            0..=5 => [orderly(rng), orderly(rng)],
            6 | 7 => [orderly(rng), rude(rng)],
            8 => [rude(rng), orderly(rng)],
            _ => [rude(rng), rude(rng)],
        };
        let mut plans = ends.map(|e| Self::random(rng, most, e));
        let sends = [plans[0].send, plans[1].send];
        for side in 0..2 {
            match &mut plans[side].end {
                End::CloseAt(n) => *n = (*n).min(sends[1 - side]),
                End::AbortAt(n) => *n = (*n).min(sends[0] + sends[1]),
                _ => {}
            }
        }
        // Who waits for the end of the peer's stream needs a peer that ends it without waiting.
        let ends_by_itself =
            |e: End| matches!(e, End::Orderly | End::CloseAfterSend | End::ShutBoth);
        for side in [0, 1] {
            let waits = match plans[side].end {
                End::AfterPeer => !ends_by_itself(plans[1 - side].end),
                End::CloseAtEof => matches!(plans[1 - side].end, End::CloseAtEof | End::AfterPeer),
                _ => false,
            };
            if waits {
                plans[side].end = End::Orderly;
            }
        }
        plans
    }
}
