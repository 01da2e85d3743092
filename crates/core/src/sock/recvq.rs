//! The receive queue: a list of buffers with one producer (the holder of the stack lock) and one consumer (the
//! holder of the socket's receive lock). Two counters, bytes in and bytes out, are all that they share; each side
//! stores only its own. Reading queued data therefore needs no stack lock.
//!
//! The queue of one end of a pair has another producer, the holder of `plock`, and may keep what was read: see `supply.rs`.
//!
//! Invariant: the last buffer is freed only under the stack lock ([`trim`]), because the producer may append to it.

use super::Sock;
use super::supply;
use crate::error::Error;
use crate::stack::Stack;
use crate::stack::buf::{BUF_SIZE, Buf, BufId, Freed};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::fence;
use flyover_shm::OptIdx;

/// Appends a filled buffer. The caller then publishes the bytes with [`publish`].
pub(crate) fn append(st: Stack<'_>, s: &Sock, b: BufId) {
    st.buf(b).next.set(OptIdx::NONE);
    match s.rq_tail.get().opt() {
        Some(tail) => st.buf(tail).next.set(b.into()),
        None => {
            s.rq_head.set(b.into());
            s.rq_rd.set(0);
        }
    }
    crate::stretch::place();
    s.rq_tail.set(b.into());
}

/// After the producer's death: the queue ends where the published bytes end, whatever was appended behind them. The caller
/// holds the stack lock and the receive lock. False: fewer bytes are there than were published.
pub(crate) fn cut_to_published(st: Stack<'_>, s: &Sock) -> bool {
    let mut left = s.rq_available();
    let mut rd = s.rq_rd.get();
    let mut cur = s.rq_head.get().opt();
    let mut last = OptIdx::NONE;
    let mut guard = st.limits().bufs;
    while let Some(id) = cur
        && guard > 0
    {
        guard -= 1;
        last = id.into();
        let b = st.buf(id);
        let have = b.len.get().saturating_sub(rd);
        if have >= left {
            b.len.set(rd.saturating_add(left).min(BUF_SIZE as u32));
            left = 0;
            let rest = b.next.get();
            b.next.set(OptIdx::NONE);
            st.free_chain(rest);
            break;
        }
        left -= have;
        rd = 0;
        cur = b.next.get().opt();
    }
    s.rq_tail.set(last);
    s.rq_fill.set(0);
    left == 0
}

/// Puts a filled buffer before all others. The caller holds the stack lock, the receive lock and the producer's lock, and
/// publishes the bytes.
pub(crate) fn prepend(st: Stack<'_>, s: &Sock, b: BufId) {
    supply::give_back(st, s);
    let first = s.rq_head.get();
    if s.rq_keep.get() != 0 {
        s.rq_first.set(b.into());
        s.rq_past.set(b.into());
        s.rq_chain.set(s.rq_chain.get().saturating_add(1));
    }
    if let Some(head) = first.opt() {
        // What was read of it shows in the buffer itself from now on.
        let h = st.buf(head);
        let rd = s.rq_rd.get().min(h.len.get());
        h.off.set(h.off.get().saturating_add(rd));
        h.len.set(h.len.get() - rd);
    }
    s.rq_rd.set(0);
    st.buf(b).next.set(first);
    if first.is_none() {
        s.rq_tail.set(b.into());
    }
    s.rq_head.set(b.into());
}

/// Makes `n` appended bytes visible to the consumer.
pub(crate) fn publish(s: &Sock, n: u32) {
    s.rq_in
        .store(s.rq_in.load(Relaxed).wrapping_add(n), Release);
}

/// `n` of the published bytes went to the reader without a stay in the queue. The caller holds the stack lock and the
/// receive lock, and nothing was queued before.
pub(crate) fn note_taken(s: &Sock, n: u32) {
    s.rq_out
        .store(s.rq_out.load(Relaxed).wrapping_add(n), Release);
}

/// Room left in the last buffer: its id and free bytes. None when the queue has no buffer.
pub(crate) fn tail_room(st: Stack<'_>, s: &Sock) -> Option<(BufId, u32)> {
    let tail = s.rq_tail.get().opt()?;
    let b = st.buf(tail);
    let used = b.off.get().saturating_add(b.len.get());
    Some((tail, (BUF_SIZE as u32).saturating_sub(used)))
}

/// Takes the receive lock. False: another thread or process reads right now.
pub(crate) fn lock(s: &Sock, me: u16) -> bool {
    s.rlock
        .compare_exchange(0, u32::from(me) + 1, Acquire, Relaxed)
        .is_ok()
}

/// Gives the receive lock back.
pub(crate) fn unlock(s: &Sock) {
    s.rlock.store(0, Release);
}

/// Copies out up to the length of `bufs`, and with `peek` leaves the bytes where they are. The caller holds the
/// receive lock. Stream sockets only.
pub(crate) fn read(
    st: Stack<'_>,
    s: &Sock,
    bufs: &mut [&mut [u8]],
    peek: bool,
    skip: u32,
) -> Result<usize, Error> {
    let out0 = s.rq_out.load(Relaxed);
    let avail = s.rq_in.load(Acquire).wrapping_sub(out0);
    let mut left = avail.saturating_sub(skip);
    let mut skip = skip;
    let mut cur = s.rq_head.get().opt();
    let mut rd = s.rq_rd.get();
    let mut done = 0usize;
    let mut hops = 0usize;
    let mut freed = Freed::new(st);
    for dst in bufs.iter_mut() {
        let mut at = 0usize;
        while at < dst.len() && left > 0 {
            hops += 1;
            if hops > st.limits().bufs as usize * 2 {
                return Err(Error::Corrupt);
            }
            let Some(id) = cur else {
                return Err(Error::Corrupt);
            };
            let b = st.buf(id);
            let have = b.len.get().saturating_sub(rd);
            if have == 0 {
                // Read to the end of this buffer: go on to the next one, and free this one.
                let Some(next) = b.next.get().opt() else {
                    break;
                };
                if !peek {
                    leave(s, id, next, &mut freed);
                }
                cur = Some(next);
                rd = 0;
                continue;
            }
            if skip > 0 {
                let n = skip.min(have);
                skip -= n;
                rd = rd.saturating_add(n);
                continue;
            }
            let want = (dst.len() - at).min(have as usize).min(left as usize);
            let Some(room) = dst.get_mut(at..at + want) else {
                break;
            };
            let src = st
                .buf_bytes(id)
                .sub(b.off.get().saturating_add(rd) as usize, want);
            let n = src.copy_out(room);
            if n == 0 {
                return Err(Error::Corrupt);
            }
            at += n;
            done += n;
            left -= n as u32;
            rd = rd.saturating_add(n as u32);
            if !peek {
                s.rq_rd.set(rd);
            }
        }
    }
    if !peek && done > 0 {
        s.rq_out.store(out0.wrapping_add(done as u32), Release);
    }
    Ok(done)
}

/// The first buffer was read to its end, and `next` is the first one from now on.
fn leave(s: &Sock, id: BufId, next: BufId, freed: &mut Freed<'_>) {
    // What was copied out of it comes before the word that it may be written again.
    fence(Release);
    s.rq_head.set(next.into());
    s.rq_rd.set(0);
    match s.rq_keep.get() {
        0 => freed.add(id),
        n => s.rq_keep.set(n.saturating_add(1)),
    }
}

/// The most common read: the receive lock is held, `want` bytes are published, and all of them lie in one buffer. `room` gives
/// the memory that they go to.
///
/// # Errors
/// They do not, and nothing was read: `room` comes back if it was not called.
#[inline]
pub(crate) fn read_plain<'b, R: FnOnce() -> Option<&'b mut [u8]>>(
    st: Stack<'_>,
    s: &Sock,
    want: usize,
    room: R,
) -> Result<usize, Option<R>> {
    let Some(id) = s.rq_head.get().opt() else {
        return Err(None);
    };
    let b = st.buf(id);
    let rd = s.rq_rd.get();
    if (b.len.get().saturating_sub(rd) as usize) < want {
        return Err(Some(room));
    }
    let src = st
        .buf_bytes(id)
        .sub(b.off.get().saturating_add(rd) as usize, want);
    let Some(dst) = room() else { return Err(None) };
    let n = src.copy_out(dst) as u32;
    s.rq_rd.set(rd.saturating_add(n));
    s.rq_out
        .store(s.rq_out.load(Relaxed).wrapping_add(n), Release);
    Ok(n as usize)
}

/// Throws away up to `n` bytes as if they had been read. The caller holds the receive lock.
pub(crate) fn discard(st: Stack<'_>, s: &Sock, n: usize) -> Result<usize, Error> {
    let mut sink = [0u8; 512];
    let mut done = 0;
    while done < n {
        let want = (n - done).min(sink.len());
        let Some(part) = sink.get_mut(..want) else {
            break;
        };
        let got = read(st, s, &mut [part], false, 0)?;
        if got == 0 {
            break;
        }
        done += got;
    }
    Ok(done)
}

/// Frees the last buffer when everything is read. The caller holds the stack lock; nothing happens while a reader
/// holds the receive lock.
pub(crate) fn trim(st: Stack<'_>, s: &Sock, me: u16) {
    if s.rq_available() != 0 || s.rq_head.get().opt().is_none() || !lock(s, me) {
        return;
    }
    // Of a pair's end the other one may be appending.
    let alone = s
        .plock
        .compare_exchange(0, u32::from(me) + 1, Acquire, Relaxed)
        .is_ok();
    if alone {
        if s.rq_available() == 0 {
            free_all(st, s);
        }
        s.plock.store(0, Release);
    }
    unlock(s);
}

/// Frees the whole queue. The caller holds the stack lock, and no reader is inside.
pub(crate) fn free_all(st: Stack<'_>, s: &Sock) {
    st.free_chain(first(s));
    forget(s);
    s.rq_rd.set(0);
    s.rq_bytes.store(0, Relaxed);
    s.rq_out.store(s.rq_in.load(Relaxed), Release);
}

/// Where the chain of buffers begins, those that were read and may be used again included.
pub(crate) fn first(s: &Sock) -> OptIdx<Buf> {
    match s.rq_keep.get() {
        0 => s.rq_head.get(),
        _ => s.rq_first.get(),
    }
}

/// There is no chain.
pub(crate) fn forget(s: &Sock) {
    for at in [&s.rq_head, &s.rq_tail, &s.rq_first, &s.rq_past] {
        at.set(OptIdx::NONE);
    }
    for word in [&s.rq_fill, &s.rq_keep, &s.rq_chain, &s.rq_used] {
        word.set(0);
    }
}
