//! What the sender of a pair does to the other end's receive queue. The caller holds that end's producer's lock (`plock`).
//!
//! Lines that move with a message: that of `rq_in`, and those of the bytes. So the last buffer of the queue counts as full to
//! its end, the reader goes by `rq_in`, and how far it is filled is the producer's own (`rq_fill`).
//!
//! Buffers that were read stay in the chain, before `rq_head`, and the producer takes the one read longest ago. That saves
//! the shared free list, and it matters how long ago: a line that is still in the reader's own cache costs the writer more
//! than twice what one costs that has left it. So the chain grows with the bytes that go through it, up to [`MOST`].

use super::{Sock, recvq};
use crate::stack::Stack;
use crate::stack::buf::{BUF_SIZE, Batch, BufId};
use core::sync::atomic::Ordering::Acquire;
use core::sync::atomic::fence;

/// Buffers that a chain keeps at the most: 1.5 MiB, more than the second-level caches of both ends hold.
const MOST: u32 = 384;
/// A chain grows by one buffer in so many that it takes.
const SLOWLY: u32 = 8;
/// An empty queue starts anew in its last buffer for writes up to this, bytes: what they need stays small.
const SMALL: usize = 512;

/// Copies `data` to the end of the queue, at most `max` bytes, and makes them visible as they come; returns how many.
pub(crate) fn append_bytes(st: Stack<'_>, s: &Sock, data: &[&[u8]], max: usize) -> usize {
    let mut done = 0usize;
    let all = data.iter().map(|d| d.len()).sum::<usize>().min(max);
    let mut batch = Batch::new();
    for part in data {
        let mut rest: &[u8] = part;
        while !rest.is_empty() && done < all {
            let (id, used) = match last(st, s).filter(|(_, used)| *used < BUF_SIZE) {
                Some(at) => at,
                None => {
                    let Some(id) = next(st, s, &mut batch, all - done) else {
                        return done;
                    };
                    (id, 0)
                }
            };
            let n = rest.len().min(BUF_SIZE - used).min(all - done);
            let (now, later) = rest.split_at(n);
            let n = st.buf_bytes(id).sub(used, n).copy_in(now);
            s.rq_fill.set((used + n) as u32 + 1);
            crate::stretch::place();
            recvq::publish(s, n as u32);
            done += n;
            rest = later;
        }
    }
    batch.free(st);
    done
}

/// The last buffer, and where its free part begins.
#[inline]
fn last(st: Stack<'_>, s: &Sock) -> Option<(BufId, usize)> {
    let tail = s.rq_tail.get().opt()?;
    if let Some(used) = s.rq_fill.get().checked_sub(1) {
        return Some((tail, (used as usize).min(BUF_SIZE)));
    }
    let b = st.buf(tail);
    let off = b.off.get().min(BUF_SIZE as u32);
    let used = off.saturating_add(b.len.get()).min(BUF_SIZE as u32);
    // The reader goes no further than what is published.
    b.len.set(BUF_SIZE as u32 - off);
    s.rq_fill.set(used + 1);
    Some((tail, used as usize))
}

/// Appends an empty buffer.
#[cold]
#[inline(never)]
fn next(st: Stack<'_>, s: &Sock, batch: &mut Batch, left: usize) -> Option<BufId> {
    let alone = s.rq_tail.get().is_none();
    let id = match again(st, s) {
        Supply::Again(id) => id,
        Supply::Grow => batch.next(st, 1)?,
        Supply::Lack => batch.next(st, left)?,
    };
    let b = st.buf(id);
    b.off.set(0);
    b.len.set(BUF_SIZE as u32);
    s.rq_used.set(s.rq_used.get().wrapping_add(1));
    s.rq_fill.set(1);
    recvq::append(st, s, id);
    if alone {
        // Nothing is published, so nobody reads it. Last comes the word that the rest goes by.
        s.rq_first.set(id.into());
        s.rq_past.set(id.into());
        s.rq_chain.set(0);
        s.rq_keep.set(1);
    }
    s.rq_chain.set(s.rq_chain.get().saturating_add(1));
    Some(id)
}

/// Where the next buffer comes from.
enum Supply {
    /// It was read.
    Again(BufId),
    /// The free list, though some were read.
    Grow,
    /// The free list, like all others that this write needs.
    Lack,
}

/// The buffer that was read longest ago, unless the chain is to grow.
fn again(st: Stack<'_>, s: &Sock) -> Supply {
    let first = match s.rq_keep.get() {
        0 => None,
        _ => s.rq_first.get().opt(),
    };
    let Some(first) = first else {
        return Supply::Lack;
    };
    let chain = s.rq_chain.get();
    if chain < MOST && s.rq_used.get() / SLOWLY >= chain && st.buf_plenty() {
        return Supply::Grow;
    }
    if s.rq_past.get().opt() == Some(first) {
        let head = s.rq_head.get();
        // The reader's last look at the buffers before it comes before.
        fence(Acquire);
        if head.opt() == Some(first) {
            return Supply::Lack;
        }
        s.rq_past.set(head);
    }
    let second = st.buf(first).next.get();
    if second.is_none() {
        return Supply::Lack;
    }
    s.rq_first.set(second);
    s.rq_chain.set(chain.saturating_sub(1));
    Supply::Again(first)
}

/// Gives the buffers that were read back to all. The caller holds the receive lock as well, or nobody reads.
pub(crate) fn give_back(st: Stack<'_>, s: &Sock) {
    if s.rq_keep.get() == 0 {
        return;
    }
    let head = s.rq_head.get();
    let mut guard = st.limits().bufs;
    while let Some(id) = s.rq_first.get().opt()
        && head.opt() != Some(id)
        && guard > 0
    {
        guard -= 1;
        s.rq_first.set(st.buf(id).next.get());
        st.free_buf(id);
        s.rq_chain.set(s.rq_chain.get().saturating_sub(1));
    }
    s.rq_past.set(head);
}

/// An empty queue starts anew in its last buffer when `total` bytes, which are few, do not fit behind what was read. A reader
/// who is inside keeps the queue as it is.
pub(crate) fn rewind(st: Stack<'_>, s: &Sock, total: usize, me: u16) {
    if total > SMALL {
        return;
    }
    let Some((tail, used)) = last(st, s) else {
        return;
    };
    if BUF_SIZE - used >= total || s.rq_available() != 0 || !recvq::lock(s, me) {
        return;
    }
    if s.rq_available() == 0 {
        start_anew(st, s, tail);
    }
    recvq::unlock(s);
}

#[cold]
fn start_anew(st: Stack<'_>, s: &Sock, tail: BufId) {
    give_back(st, s);
    let mut guard = st.limits().bufs;
    while let Some(head) = s.rq_head.get().opt()
        && head != tail
        && guard > 0
    {
        guard -= 1;
        let next = st.buf(head).next.get();
        s.rq_head.set(next);
        s.rq_first.set(next);
        st.free_buf(head);
    }
    let b = st.buf(tail);
    b.off.set(0);
    b.len.set(BUF_SIZE as u32);
    s.rq_head.set(tail.into());
    s.rq_rd.set(0);
    s.rq_fill.set(1);
    s.rq_first.set(tail.into());
    s.rq_past.set(tail.into());
    s.rq_chain.set(1);
    s.rq_used.set(0);
    s.rq_keep.set(1);
}
