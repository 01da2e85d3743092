//! The send queue: the stream from SND.UNA on, in buffers. Everything here needs the stack lock.

use super::net::NetSock;
use crate::stack::Stack;
use crate::stack::buf::{BUF_SIZE, Batch, BufId, Freed};
use crate::tcp::tcb::tflag;
use core::sync::atomic::Ordering::{Relaxed, Release};
use flyover_shm::{OptIdx, ShmBytes};

/// Most windows that one transmission gathers: 64 KiB in 4 KiB buffers, and one for a cut at either end.
pub(crate) const GATHER: usize = 18;

/// Copies `data` to the end of the queue, at most `max` bytes; returns what fitted.
pub(crate) fn append(st: Stack<'_>, s: NetSock<'_>, data: &[&[u8]], max: usize) -> usize {
    let mut done = 0usize;
    let all = data.iter().map(|d| d.len()).sum::<usize>().min(max);
    let mut batch = Batch::new();
    for part in data {
        let mut rest: &[u8] = part;
        while !rest.is_empty() && done < max {
            let (now, _) = rest.split_at(rest.len().min(max - done));
            let n = match tail_room(st, s) {
                Some((id, used)) => fill_tail(st, (id, used), now),
                None => {
                    let want = now.len().div_ceil(BUF_SIZE);
                    let Some(run) = batch.run(st, all - done, want) else {
                        return finish(s, done);
                    };
                    add_run(st, s, run, now)
                }
            };
            done += n;
            rest = rest.get(n..).unwrap_or_default();
        }
    }
    finish(s, done)
}

fn finish(s: NetSock<'_>, done: usize) -> usize {
    s.net.sq_len.store(
        s.net.sq_len.load(Relaxed).wrapping_add(done as u32),
        Release,
    );
    done
}

/// The last buffer and the bytes of it in use (offset included), if it has room.
fn tail_room(st: Stack<'_>, s: NetSock<'_>) -> Option<(BufId, usize)> {
    let tail = s.net.sq_tail.get().opt()?;
    let b = st.buf(tail);
    let used = b.off.get().saturating_add(b.len.get()) as usize;
    (used < BUF_SIZE && b.total.get() != RECORD_END).then_some((tail, used))
}

/// Fills up the last buffer; returns the bytes copied.
fn fill_tail(st: Stack<'_>, (id, used): (BufId, usize), data: &[u8]) -> usize {
    let n = st.buf_bytes(id).sub(used, BUF_SIZE).copy_in(data);
    let b = st.buf(id);
    b.len.set(b.len.get().saturating_add(n as u32));
    crate::stretch::place();
    n
}

/// Fills `n` buffers that follow one another from `first` on, and hangs them to the end of the queue; returns the bytes copied.
/// They are filled before they can be seen: the queue holds what its buffers say after any death.
fn add_run(st: Stack<'_>, s: NetSock<'_>, (first, n): (BufId, usize), data: &[u8]) -> usize {
    let at = st.buf_at(first);
    let copied = st.data.sub(at, n * BUF_SIZE).copy_in(data);
    let mut left = copied;
    let mut last = first;
    for i in 0..n {
        let id = BufId::new(first.raw().wrapping_add(i as u32));
        let b = st.buf(id);
        b.total.set(0);
        b.len.set(left.min(BUF_SIZE) as u32);
        left = left.saturating_sub(BUF_SIZE);
        if i > 0 {
            st.buf(last).next.set(id.into());
        }
        last = id;
    }
    crate::stretch::place();
    match s.net.sq_tail.get().opt() {
        Some(tail) => st.buf(tail).next.set(first.into()),
        None => s.net.sq_head.set(first.into()),
    }
    crate::stretch::place();
    s.net.sq_tail.set(last.into());
    copied
}

/// Takes `n` acknowledged bytes off the front.
pub(crate) fn consume(st: Stack<'_>, s: NetSock<'_>, n: u32) {
    let queued = s.net.sq_len.load(Relaxed);
    let mut left = n.min(queued);
    s.net.sq_len.store(queued.wrapping_sub(left), Release);
    s.net
        .sq_cur_off
        .set(s.net.sq_cur_off.get().saturating_sub(left));
    let mut guard = st.limits().bufs;
    let mut freed = Freed::sent(st, queued);
    while left > 0 && guard > 0 {
        guard -= 1;
        let Some(id) = s.net.sq_head.get().opt() else {
            break;
        };
        let b = st.buf(id);
        let have = b.len.get();
        if left < have {
            b.off.set(b.off.get().saturating_add(left));
            b.len.set(have - left);
            break;
        }
        left -= have;
        let next = b.next.get();
        if next.opt().is_none() && left == 0 && s.net.sq_len.load(Relaxed) > 0 {
            break;
        }
        if s.net.sq_cur.get().opt() == Some(id) {
            s.net.sq_cur.set(OptIdx::NONE);
        }
        s.net.sq_head.set(next);
        crate::stretch::place();
        if next.opt().is_none() {
            s.net.sq_tail.set(OptIdx::NONE);
        }
        freed.add(id);
    }
}

/// Gathers windows over `len` bytes from stream offset `off` on; returns how many windows and bytes were found.
/// `hint` is true for new data (the cursor is used and moved), false for retransmissions.
pub(crate) fn gather<'m>(
    st: Stack<'m>,
    s: NetSock<'_>,
    off: u32,
    len: u32,
    hint: bool,
    out: &mut [ShmBytes<'m>; GATHER],
) -> (usize, u32) {
    let (mut cur, mut base) = match s.net.sq_cur.get().opt() {
        Some(c) if hint && s.net.sq_cur_off.get() <= off => (Some(c), s.net.sq_cur_off.get()),
        _ => (s.net.sq_head.get().opt(), 0),
    };
    let mut windows = 0usize;
    // Buffers that follow one another in memory make one window: from this byte of all buffers on, so many.
    let (mut from, mut open) = (0usize, 0usize);
    let mut got = 0u32;
    let mut guard = st.limits().bufs;
    while let Some(id) = cur {
        guard = guard.saturating_sub(1);
        if guard == 0 {
            break;
        }
        let b = st.buf(id);
        let have = b.len.get();
        let end = base.saturating_add(have);
        let at = off.saturating_add(got);
        if at < end {
            let skip = at.saturating_sub(base);
            let n = (have - skip.min(have)).min(len - got);
            let begins = (b.off.get().saturating_add(skip) as usize).min(BUF_SIZE);
            let n = n.min((BUF_SIZE - begins) as u32);
            let place = st.buf_at(id) + begins;
            if windows == 0 || from + open != place {
                if windows >= out.len() {
                    break;
                }
                windows += 1;
                (from, open) = (place, 0);
            }
            open += n as usize;
            if let Some(slot) = out.get_mut(windows - 1) {
                *slot = st.data.sub(from, open);
            }
            got += n;
            if hint {
                s.net.sq_cur.set(id.into());
                s.net.sq_cur_off.set(base);
            }
            if got >= len || b.total.get() == RECORD_END {
                break;
            }
        }
        base = end;
        cur = b.next.get().opt();
    }
    (windows, got)
}

/// What was queued last ends a record (`MSG_EOR`): no segment goes on behind it.
pub(crate) fn end_record(st: Stack<'_>, s: NetSock<'_>) {
    if let Some(tail) = s.net.sq_tail.get().opt() {
        st.buf(tail).total.set(RECORD_END);
        let t = &s.net.tcb.tflags;
        t.set(t.get() | tflag::RECORDS);
    }
}

/// A record ends within the `len` bytes from stream offset `off` on, and others follow it.
pub(crate) fn ends_record(st: Stack<'_>, s: NetSock<'_>, off: u32, len: u32) -> bool {
    // Hardly anybody has records, and this is asked for every small piece that waits.
    if s.net.tcb.tflags.get() & tflag::RECORDS == 0 {
        return false;
    }
    let mut windows = [ShmBytes::EMPTY; GATHER];
    let (_, got) = gather(st, s, off, len, false, &mut windows);
    got < len && got > 0
}

/// `Buf::total` of the last buffer of a record.
const RECORD_END: u32 = 1;

/// Frees the whole queue, if there is one.
pub(crate) fn free_all(st: Stack<'_>, s: NetSock<'_>) {
    if !s.is_net() {
        return;
    }
    st.free_chain(s.net.sq_head.get());
    s.net.sq_head.set(OptIdx::NONE);
    s.net.sq_tail.set(OptIdx::NONE);
    s.net.sq_cur.set(OptIdx::NONE);
    s.net.sq_cur_off.set(0);
    s.net.sq_len.store(0, Release);
}
