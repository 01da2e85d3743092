//! Sending without the stack lock. What protects the receive queue of a pair's end is the producer's lock in its own slot:
//! whoever appends holds it, under the stack lock or without. Whoever changes under the stack lock what a sender goes by
//! (the link, a FIN, the freezing for a handover) changes it first and then waits until no sender is inside
//! ([`settle`]): a sender looks after it has the lock.

use super::send::LIMIT;
use crate::sock::{SHUT_RD, SHUT_WR, Sock, SockId, SockRef, flag, recvq, supply};
use crate::stack::Stack;
use crate::stack::locked::Locked;
use crate::tcp::rx::count;
use crate::tcp::state::TcpState;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::fence;

/// How often a producer's lock is tried: its holder copies 64 KiB at the most, or has lost its CPU.
const TRIES: u32 = 200_000;

/// How often it is tried by whoever changes what a sender goes by, and cannot come back to it: the sender may wait for its CPU
/// meanwhile, and what it appends after the change would be lost, or somebody else's. Some 100 ms.
const LONG: u32 = 2_000_000;

/// How often by whoever can come back to it.
const SHORT: u32 = 2_000;

/// How often a reader tries the lock: longer than such a look takes, and than a copy of another reader's.
const READER_TRIES: u32 = 2_000;

/// So little is queued that a writer who finds the queue full is not told when it has been read: it has to be emptied to two
/// thirds ([`super::send::has_space`]), and no queue is shorter than four times this unless the program said so. Bytes.
const FEW: u32 = super::send::LIMIT_SHORT / 4;

const LEAVING: u32 = flag::HANDING_OVER | flag::HANDED_OVER;

/// What a read without the stack lock did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Bytes.
    pub n: usize,
    /// The writer waits for room: [`crate::stack::deferred::work::WINDOW`] is to be done.
    pub want_update: bool,
    /// Nothing is left.
    pub drained: bool,
    /// The queue has more buffers than one.
    pub fat: bool,
}

/// What a send without the stack lock did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Bytes.
    pub n: usize,
    /// Somebody watches the other end: [`crate::stack::deferred::work::DATA`] is to be done for it.
    pub watched: Option<SockId>,
}

/// Takes the producer's lock of `p`'s queue if it is free.
pub(super) fn try_hold(p: &Sock, me: u16) -> bool {
    p.plock
        .compare_exchange(0, u32::from(me) + 1, Acquire, Relaxed)
        .is_ok()
}

/// The same, with patience. False: its holder does not let go; if it died, the keeper will open the lock.
pub(super) fn hold(p: &Sock, me: u16) -> bool {
    hold_for(p, me, TRIES)
}

/// With all patience: for those who can neither do without it nor come back later.
pub(super) fn hold_long(p: &Sock, me: u16) -> bool {
    hold_for(p, me, LONG)
}

fn hold_for(p: &Sock, me: u16, tries: u32) -> bool {
    for _ in 0..tries {
        if try_hold(p, me) {
            return true;
        }
        core::hint::spin_loop();
    }
    false
}

pub(super) fn let_go(p: &Sock) {
    p.plock.store(0, Release);
}

/// Waits until no sender is inside that began before.
pub(crate) fn settle(l: &mut Locked<'_, '_, '_>, id: SockId) {
    if !is_settled(l, id, LONG) {
        count!(l, local_stuck);
    }
}

/// The same, for a moment only. False: one still is, and what he appends cannot be foreseen.
pub(super) fn settle_soon(l: &mut Locked<'_, '_, '_>, id: SockId) -> bool {
    is_settled(l, id, SHORT)
}

fn is_settled(l: &mut Locked<'_, '_, '_>, id: SockId, tries: u32) -> bool {
    let p = l.st.sock(id);
    fence(SeqCst);
    if p.plock.load(SeqCst) == 0 {
        return true;
    }
    let settled = hold_for(p, l.env.me, tries);
    if settled {
        let_go(p);
    }
    settled
}

impl Stack<'_> {
    /// Sends from one end of a pair, or `None`: nothing was done, the ordinary way is to be taken. `me`: owner slot.
    #[inline]
    pub fn local_send_fast(self, from: SockRef, data: &[&[u8]], me: u16) -> Option<Sent> {
        let s = self.sock(from.id);
        let to = s.peer.get().opt()?;
        let p = self.sock(to);
        let total: usize = data.iter().map(|d| d.len()).sum();
        if total == 0 || !try_hold(p, me) {
            return None;
        }
        let n = if is_open(from, s, to, p) && has_room(p, total) {
            supply::rewind(self, p, total, me);
            supply::append_bytes(self, p, data, total)
        } else {
            0
        };
        // The bytes first, then the look whether somebody waits for them: who waits does it the other way round. The
        // exchange is the fence between the two.
        let _: u32 = p.plock.swap(0, SeqCst);
        (n > 0).then(|| Sent {
            n,
            watched: p.items.get().opt().map(|_| to),
        })
    }

    /// Reads what is queued at one end of a pair into several pieces of memory, or `None`: the ordinary way is to be taken.
    #[inline]
    pub fn local_recv_pieces(self, at: SockRef, bufs: &mut [&mut [u8]], me: u16) -> Option<Taken> {
        self.local_take(at, me, |s, _| {
            recvq::read(self, s, bufs, false, 0).unwrap_or(0)
        })
    }

    /// The same for `most` bytes that go to one place. How many they are is known only under the receive lock: `room` is
    /// called there, and gives memory for so many, or `None` where there is none.
    #[inline]
    pub fn local_recv_plain<'b>(
        self,
        at: SockRef,
        most: usize,
        me: u16,
        room: impl FnOnce(usize) -> Option<&'b mut [u8]>,
    ) -> Option<Taken> {
        self.local_take(at, me, |s, avail| {
            let want = most.min(avail as usize);
            match recvq::read_plain(self, s, want, || room(want)) {
                Ok(n) => n,
                Err(room) => room.and_then(|room| room()).map_or(0, |place| {
                    recvq::read(self, s, &mut [place], false, 0).unwrap_or(0)
                }),
            }
        })
    }

    /// What reads from one end of a pair have in common; `take` is given the bytes that are queued, and returns how many it
    /// read.
    #[inline]
    fn local_take(
        self,
        at: SockRef,
        me: u16,
        take: impl FnOnce(&Sock, u32) -> usize,
    ) -> Option<Taken> {
        let s = self.sock(at.id);
        if !is_plain(s) || s.rq_available() == 0 || !recvq::lock(s, me) {
            return None;
        }
        let flags = s.flags.load(Acquire);
        let stands = flags & (flag::PAIRED | LEAVING) == flag::PAIRED
            && s.gen_.load(Relaxed) == at.generation;
        let avail = s.rq_available();
        let n = match stands && avail != 0 {
            true => take(s, avail),
            false => 0,
        };
        let peer = s.peer.get().opt().map(|p| self.sock(p));
        let left = s.rq_available();
        let set = flags & flag::RCVBUF_SET != 0 || peer.is_some_and(|p| p.has(flag::SNDBUF_SET));
        if avail <= FEW && !set {
            // A writer who finds the queue full now is not to be told of these few.
            recvq::unlock(s);
        } else {
            // What was read first, then the look whether the writer waits for room: he does it the other way round.
            let _: u32 = s.rlock.swap(0, SeqCst);
        }
        (n > 0).then(|| Taken {
            n,
            want_update: peer.is_some_and(|p| p.has(flag::NOSPACE)),
            drained: left == 0,
            fat: s.rq_keep.get() > 1,
        })
    }

    /// True for an end of a pair of which nothing can be said but that there is nothing to read. Needs no lock.
    #[inline]
    pub fn local_has_nothing(self, at: SockRef) -> bool {
        let s = self.sock(at.id);
        s.rq_available() == 0
            && is_plain(s)
            && s.flags.load(Acquire) & (flag::PAIRED | LEAVING | flag::PEER_FIN) == flag::PAIRED
            && s.gen_.load(Relaxed) == at.generation
            && s.err.load(Relaxed) == 0
            && s.shut.load(Relaxed) & SHUT_RD == 0
            && s.tcp_state() == TcpState::Established
    }

    /// Words that change with everything that a reader of one end of a pair may wait for. Needs no lock.
    #[inline]
    pub fn signs_of_life(self, id: SockId) -> (u32, u32, u32, u32) {
        let s = self.sock(id);
        (
            s.rq_in.load(Acquire),
            s.flags.load(Relaxed),
            s.shut.load(Relaxed) ^ s.state.load(Relaxed) << 8,
            s.err.load(Relaxed),
        )
    }

    /// The receive lock of one end of a pair was held although bytes wait. It may be by somebody who looked whether the queue's
    /// last buffer lies idle, while the sender, who is not under the stack lock, went on: that takes a moment, and a reader
    /// who was told of an edge must not miss it.
    #[cold]
    pub(crate) fn local_lock_reader(self, s: &Sock, me: u16) -> bool {
        if !s.has(flag::PAIRED) || s.has(flag::HANDING_OVER) {
            return false;
        }
        for _ in 0..READER_TRIES {
            if recvq::lock(s, me) {
                return true;
            }
            core::hint::spin_loop();
        }
        false
    }

    /// True for the end of a pair; needs no lock.
    #[inline]
    pub fn is_paired(self, id: SockId) -> bool {
        self.sock(id).has(flag::PAIRED)
    }
}

/// A read takes what is queued, and does nothing else.
#[inline]
fn is_plain(s: &Sock) -> bool {
    s.peek_off.load(Relaxed) == 0 && s.k_fresh.load(Relaxed) == 0 && s.urg.load(Relaxed) == 0
}

/// Nothing out of the ordinary: both ends stand, and no flag says that somebody has to be told more than that bytes came.
#[inline]
fn is_open(from: SockRef, s: &Sock, to: SockId, p: &Sock) -> bool {
    let (mine, its) = (s.flags.load(Acquire), p.flags.load(Acquire));
    mine & (flag::PAIRED | LEAVING | flag::SNDBUF_SET) == flag::PAIRED
        && its & (flag::PAIRED | LEAVING | flag::RCVBUF_SET) == flag::PAIRED
        && s.gen_.load(Relaxed) == from.generation
        && s.peer.get().opt() == Some(to)
        && p.peer.get().opt() == Some(from.id)
        && p.gen_.load(Relaxed) == s.peer_gen.get()
        && s.err.load(Relaxed) == 0
        && s.shut.load(Relaxed) & SHUT_WR == 0
        && p.shut.load(Relaxed) & SHUT_RD == 0
        && p.sopts.load(Relaxed) == 0
        && p.urg.load(Relaxed) == 0
        && matches!(s.tcp_state(), TcpState::Established | TcpState::CloseWait)
}

/// What the producer last knew of the reader is enough as a rule.
#[inline]
fn has_room(p: &Sock, total: usize) -> bool {
    let queued = p.rq_in.load(Relaxed).wrapping_sub(p.rq_seen.get());
    if (queued as usize).saturating_add(total) <= LIMIT as usize {
        return true;
    }
    let out = p.rq_out.load(Acquire);
    p.rq_seen.set(out);
    let queued = p.rq_in.load(Relaxed).wrapping_sub(out);
    (queued as usize).saturating_add(total) <= LIMIT as usize
}

impl Locked<'_, '_, '_> {
    /// The process with this tag (owner slot + 1) is gone: a queue that it was appending to ends where the bytes end that it
    /// had made visible, as when the kernel is interrupted in a `send`. True: there was such a queue.
    pub(crate) fn producer_gone(&mut self, tag: u32) -> bool {
        let st = self.st;
        let me = u32::from(self.env.me) + 1;
        let mut any = false;
        for r in st.each_sock() {
            let s = st.sock(r.id);
            if s.plock.compare_exchange(tag, me, Acquire, Relaxed).is_err() {
                continue;
            }
            any = true;
            let whole = self.close_readers_out(s, tag) && {
                let whole = recvq::cut_to_published(st, s);
                recvq::unlock(s);
                whole
            };
            let_go(s);
            if !whole && s.has(flag::PAIRED) && s.tcp_state() != TcpState::Closed {
                super::reset_peer(self, r.id);
                self.reset_conn(r.id, crate::error::Error::Reset);
            }
        }
        any
    }

    /// Takes the receive lock, also from the dead.
    fn close_readers_out(&self, s: &Sock, dead: u32) -> bool {
        let me = u32::from(self.env.me) + 1;
        for _ in 0..TRIES {
            let from = |tag| s.rlock.compare_exchange(tag, me, Acquire, Relaxed).is_ok();
            if from(0) || from(dead) {
                return true;
            }
            core::hint::spin_loop();
        }
        false
    }
}
