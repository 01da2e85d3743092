//! Who learns of the end of a kernel socket behind an endpoint. A process that holds its sockets alone closes them, or ends
//! itself: then they are closed with it. Only where others may hold them, too, does the kernel have to report the end of
//! sockets to the keeper; such reports cost everybody in the network namespace something, so they are asked for when they are
//! needed first.
//!
//! Order: who is about to share sets [`note_sharing`](Stack::note_sharing) only when the reports are
//! [on](Stack::reports_are_on), and has sockets meanwhile. The keeper ends the reports when there are no sockets, and looks once more after it said
//! so.

use super::Stack;
use super::locked::Locked;
use crate::sock::{SockRef, flag};
use core::sync::atomic::Ordering::{Acquire, SeqCst};
use core::sync::atomic::fence;

const OFF: u64 = 0;
const WANTED: u64 = 1;
const ON: u64 = 2;

/// Words of one bit per owner.
pub const SHARERS: usize = 64;

/// Word and bit of an owner slot.
fn place(owner: u16) -> (usize, u64) {
    (
        usize::from(owner) / 64 % SHARERS,
        1 << (u32::from(owner) % 64),
    )
}

impl Stack<'_> {
    /// The keeper hears of the end of every kernel socket.
    pub fn reports_are_on(self) -> bool {
        fence(SeqCst);
        self.state.reports.load(SeqCst) == ON
    }

    /// Asks for that; the keeper is to be poked.
    pub fn want_reports(self) {
        let _: Result<u64, u64> = self
            .state
            .reports
            .compare_exchange(OFF, WANTED, SeqCst, SeqCst);
    }

    /// Somebody asked for it.
    pub fn reports_are_wanted(self) -> bool {
        self.state.reports.load(Acquire) == WANTED
    }

    /// The keeper hears of it from now on.
    pub fn reports_begin(self) {
        self.state.reports.store(ON, SeqCst);
    }

    /// There are no sockets: the keeper need not hear of their end. False: it has to.
    pub fn reports_end(self) -> bool {
        let reports = &self.state.reports;
        if reports.compare_exchange(ON, OFF, SeqCst, SeqCst).is_err() {
            return false;
        }
        fence(SeqCst);
        if self.state.socks_used.load(SeqCst) != 0 {
            self.reports_begin();
            return false;
        }
        for word in &self.state.sharing {
            word.store(0, SeqCst);
        }
        true
    }

    /// Others may hold what this owner holds.
    pub fn note_sharing(self, owner: u16) {
        let (word, bit) = place(owner);
        if let Some(word) = self.state.sharing.get(word) {
            let _: u64 = word.fetch_or(bit, SeqCst);
        }
    }

    /// Whether they may.
    pub fn is_sharing(self, owner: u16) -> bool {
        let (word, bit) = place(owner);
        let word = self.state.sharing.get(word);
        word.is_none_or(|word| word.load(SeqCst) & bit != 0)
    }
}

impl Locked<'_, '_, '_> {
    /// The socket does not end with the process that made it.
    pub fn held_by_many(&mut self, sock: SockRef) {
        if let Some(s) = self.st.get(sock) {
            s.holder.set(0);
        }
    }

    /// The process is gone. What it held alone has ended; of the rest the kernel tells.
    pub(crate) fn holder_gone(&mut self, owner: u16) {
        let st = self.st;
        let tag = u32::from(owner) + 1;
        let shared = st.is_sharing(owner);
        for r in st.each_sock() {
            let s = st.sock(r.id);
            if s.holder.get() != tag {
                continue;
            }
            s.holder.set(0);
            if !shared && !s.has(flag::ORPHAN) && !s.has(flag::IN_ACCEPTQ) {
                self.close(r.id);
            }
        }
        let (word, bit) = place(owner);
        if let Some(word) = st.state.sharing.get(word) {
            let _: u64 = word.fetch_and(!bit, SeqCst);
        }
    }
}
