//! Connections that a child had open when it ended. The kernel has closed them before anybody hears of the child's end, and
//! their peers see that; of an end of a pair the keeper tells the other one, a little later. A program that has waited for
//! its child finds what it would find on the kernel.

use core::sync::atomic::Ordering;

use flyover_core::sock::flag;

use super::diag;
use crate::process::Sockets;

/// Ends that are asked for, some 5 us each. Where there are more, the keeper is waited for as without this.
const MOST: usize = 32;
/// Sockets that are looked through for them.
const MOST_LOOKS: u32 = 4096;

impl Sockets {
    /// `wait(2)` or one of its kin has told of a child's end.
    #[cold]
    pub fn child_ended(&self) {
        if self.is_foreign_child() {
            return;
        }
        let Some(att) = self.attached() else { return };
        let stack = att.stack;
        if stack.stats().local_pairs.load(Ordering::Relaxed) == 0 || stack.socks_used() > MOST_LOOKS
        {
            return;
        }
        // This may be a handler that interrupted malloc.
        let mut ends = [None; MOST];
        let pairs = stack.each_sock().filter(|s| {
            let s = stack.sock(s.id);
            s.has(flag::PAIRED) && !s.has(flag::ORPHAN)
        });
        for (n, end) in pairs.enumerate() {
            let Some(place) = ends.get_mut(n) else { return };
            *place = Some(end);
        }
        for end in ends.into_iter().flatten() {
            let s = stack.sock(end.id);
            let cookie = s.cookie.load(Ordering::Acquire);
            if diag::inode(self.os, cookie, s.local(), s.remote()) != Some(0) {
                continue;
            }
            att.locked(|l| {
                let same = |s: &flyover_core::Sock| {
                    s.has(flag::PAIRED) && s.cookie.load(Ordering::Acquire) == cookie
                };
                // The keeper may have been faster.
                if stack.get(end).is_some_and(same) {
                    l.close(end.id);
                }
            });
        }
    }
}
