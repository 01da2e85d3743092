//! The receive queue: a list of buffers with one producer (the holder of the stack lock) and one consumer (the
//! holder of the socket's receive lock). Two counters, bytes in and bytes out, are all that they share; each side
//! stores only its own. Reading queued data therefore needs no stack lock.
//!
//! Invariant: the last buffer is freed only under the stack lock ([`trim`]), because the producer may append to it.

use super::Sock;
use crate::error::Error;
use crate::stack::Stack;
use crate::stack::buf::{BUF_SIZE, Batch, BufId};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Appends a filled buffer. The caller then publishes the bytes with [`publish`].
pub(crate) fn append(st: Stack<'_>, s: &Sock, b: BufId) {
    st.buf(b).next.set(flyover_shm::OptIdx::NONE);
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

/// Copies `data` to the end of the queue, at most `max` bytes, and makes them visible as they come; returns how many. The
/// caller holds the stack lock.
pub(crate) fn append_bytes(st: Stack<'_>, s: &Sock, data: &[&[u8]], max: usize) -> usize {
    let mut done = 0usize;
    let all = data.iter().map(|d| d.len()).sum::<usize>().min(max);
    let mut batch = Batch::new();
    for part in data {
        let mut rest: &[u8] = part;
        while !rest.is_empty() && done < all {
            let (id, used) = match tail_room(st, s).filter(|(_, room)| *room > 0) {
                Some((id, room)) => (id, BUF_SIZE - room as usize),
                None => {
                    let Some(id) = batch.next(st, all - done) else {
                        return done;
                    };
                    append(st, s, id);
                    (id, 0)
                }
            };
            let n = rest.len().min(BUF_SIZE - used).min(all - done);
            let (now, later) = rest.split_at(n);
            let n = st.buf_bytes(id).sub(used, n).copy_in(now) as u32;
            let b = st.buf(id);
            b.len.set(b.len.get().saturating_add(n));
            crate::stretch::place();
            publish(s, n);
            s.rq_total
                .store(s.rq_total.load(Relaxed).wrapping_add(u64::from(n)), Relaxed);
            done += n as usize;
            rest = later;
        }
    }
    done
}

/// After the producer's death: the queue ends where the published bytes end, whatever was appended behind them. The caller
/// holds the stack lock and the receive lock. False: fewer bytes are there than were published.
pub(crate) fn cut_to_published(st: Stack<'_>, s: &Sock) -> bool {
    let mut left = s.rq_available();
    let mut rd = s.rq_rd.get();
    let mut cur = s.rq_head.get().opt();
    let mut last = flyover_shm::OptIdx::NONE;
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
            b.next.set(flyover_shm::OptIdx::NONE);
            st.free_chain(rest);
            break;
        }
        left -= have;
        rd = 0;
        cur = b.next.get().opt();
    }
    s.rq_tail.set(last);
    left == 0
}

/// An empty queue starts anew in its last buffer when `total` bytes do not fit behind what was read. The caller holds the
/// producer's lock (or the stack lock of a queue that has none); a reader who is inside keeps the queue as it is.
pub(crate) fn rewind(st: Stack<'_>, s: &Sock, total: usize, me: u16) {
    let Some((tail, room)) = tail_room(st, s) else {
        return;
    };
    if room as usize >= total || s.rq_available() != 0 || !lock(s, me) {
        return;
    }
    if s.rq_available() == 0 {
        let mut guard = st.limits().bufs;
        while let Some(head) = s.rq_head.get().opt()
            && head != tail
            && guard > 0
        {
            guard -= 1;
            s.rq_head.set(st.buf(head).next.get());
            st.free_buf(head);
        }
        s.rq_head.set(tail.into());
        s.rq_rd.set(0);
        st.buf(tail).off.set(0);
        st.buf(tail).len.set(0);
    }
    unlock(s);
}

/// Puts a filled buffer before all others. The caller holds the stack lock and the receive lock, and publishes the bytes.
pub(crate) fn prepend(st: Stack<'_>, s: &Sock, b: BufId) {
    let first = s.rq_head.get();
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
                    s.rq_head.set(next.into());
                    s.rq_rd.set(0);
                    st.free_buf(id);
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
    st.free_chain(s.rq_head.get());
    s.rq_head.set(flyover_shm::OptIdx::NONE);
    s.rq_tail.set(flyover_shm::OptIdx::NONE);
    s.rq_rd.set(0);
    s.rq_bytes.store(0, Relaxed);
    s.rq_out.store(s.rq_in.load(Relaxed), Release);
}
