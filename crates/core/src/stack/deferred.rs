//! Work that somebody who could not get the lock left to the holder.

use super::Stack;
use super::locked::Locked;
use crate::sock::{Kind, SockId};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use flyover_shm::Idx;

/// Deferred bit in the lock word: the list of sockets is not empty.
pub const SOCKS: u32 = 1;
/// Deferred bit in the lock word: poll the V-NICs.
pub const POLL: u32 = 2;

/// Work bits of one socket.
pub mod work {
    /// Data was read: free the last buffer, tell the peer of the wider window.
    pub const WINDOW: u32 = 1;
    /// Close gracefully.
    pub const CLOSE: u32 = 2;
    /// Transmit what is queued.
    pub const SEND: u32 = 4;
    /// Bytes came from the other end of a pair: whoever watches is told.
    pub const DATA: u32 = 8;
}

/// Puts `bits` on the socket and the socket on the lock-free list. The caller then sets [`SOCKS`] in the lock word.
pub(crate) fn defer(st: Stack<'_>, id: SockId, bits: u32) {
    let _: u64 = st.state.stats.deferred.fetch_add(1, Relaxed);
    let s = st.sock(id);
    if s.dbits.fetch_or(bits, AcqRel) != 0 {
        // It is on the list already, and stays there until the holder has taken the bits.
        return;
    }
    let mut head = st.state.deferred.load(Acquire);
    loop {
        s.dnext.store(head, Relaxed);
        match st
            .state
            .deferred
            .compare_exchange(head, id.raw() + 1, Release, Acquire)
        {
            Ok(_) => return,
            Err(h) => head = h,
        }
    }
}

fn in_list(st: Stack<'_>, at: u32) -> SockId {
    Idx::new((at - 1) & (st.limits().socks - 1))
}

/// The list that was taken off, turned over: what was put on it first comes first, as where nobody held the lock. Nobody
/// touches what is on it before its bits are taken.
fn turned(st: Stack<'_>, mut head: u32) -> u32 {
    let mut first = 0;
    let mut guard = st.limits().socks;
    while head != 0 && guard > 0 {
        guard -= 1;
        let next = st.sock(in_list(st, head)).dnext.swap(first, AcqRel);
        first = head;
        head = next;
    }
    first
}

impl Locked<'_, '_, '_> {
    /// Does what `bits` of the lock word ask for.
    pub(crate) fn run_deferred(&mut self, bits: u32) {
        if bits & SOCKS != 0 {
            // What one left who died at it.
            self.run_todo();
            let st = self.st;
            let new = turned(st, st.state.deferred.swap(0, AcqRel));
            st.state.todo.set(u64::from(new));
            self.run_todo();
        }
        if bits & POLL != 0 {
            let _: u32 = self.poll(64);
        }
    }

    fn run_todo(&mut self) {
        let st = self.st;
        let mut guard = st.limits().socks;
        while let todo = st.state.todo.get() as u32
            && todo != 0
            && guard > 0
        {
            guard -= 1;
            let id = in_list(st, todo);
            let s = st.sock(id);
            let next = s.dnext.load(Acquire);
            // From here on it may be put on the list once more.
            let work = s.dbits.swap(0, AcqRel);
            st.state.todo.set(u64::from(next));
            self.do_work(id, work);
        }
        st.state.todo.set(0);
    }

    /// Does the work of one socket.
    pub(crate) fn do_work(&mut self, id: SockId, bits: u32) {
        if self.st.sock(id).kind() == Kind::Free {
            return;
        }
        if bits & work::WINDOW != 0 {
            crate::tcp::user::recv::after_read(self, id);
        }
        if bits & work::SEND != 0 {
            self.post(id);
        }
        if bits & work::DATA != 0 {
            self.raise(id, crate::stack::wake::ev::DATA);
        }
        if bits & work::CLOSE != 0 {
            self.close(id);
        }
    }
}
