//! Connections that the kernel opened come into the stack by themselves: those that a program inherited, and those that were
//! accepted from the kernel's half of a listener, or from a listener that another program made. Each has its mark. Taking a
//! connection over makes it stand still for half a millisecond, so it is done when it has shown that it lasts. And only when its
//! packets are seen to come in through a V-NIC as they are: through a tunnel, or an address translation, the kernel might get
//! them and not the stack.

use core::sync::atomic::Ordering;

use crate::life::takeover::is_away;
use crate::policy::Reason;
use crate::process::{Ep, Sockets};

/// How often it is tried, each time after twice as many calls.
const TRIES: u32 = 4;

/// Under which conditions the daemon may take a connection from the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Terms {
    /// Its packets were seen where the stack receives.
    pub seen: bool,
    /// No process outside the stack holds it.
    pub sole: bool,
}

/// What is due at a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    Nothing,
    Watch,
    TakeOver,
}

/// What is due at call number `calls`, counted from 1; taken over `after` so many.
fn due(calls: u32, after: u32) -> Due {
    if calls == (after / 2).max(1) {
        return Due::Watch;
    }
    let is_try = |n: u32| after.checked_mul(1 << n).map(|at| at.max(2)) == Some(calls);
    match (0..TRIES).any(is_try) {
        true => Due::TakeOver,
        false => Due::Nothing,
    }
}

impl Sockets {
    /// A call that moves bytes is about to be made on the mark of a connection of the kernel's with another host. True: the
    /// stack has it now.
    pub(crate) fn adopts(&self, fd: i32, ep: &Ep) -> bool {
        let s = ep.shared();
        let after = self.settings.adopt_after;
        let reason = Reason::from_code(s.reason.get() as u8);
        if after == 0 || !matches!(reason, Reason::Adopted | Reason::KernelAccept) {
            return false;
        }
        let calls = s.kseq.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // What this program accepted nobody else has who would not know its mark.
        let sole = reason == Reason::Adopted;
        match due(calls, after) {
            Due::Nothing => false,
            _ if ep.att.stack.is_off() || !is_away(s) => false,
            Due::Watch => {
                self.watch(fd, ep, sole);
                false
            }
            Due::TakeOver => {
                let terms = Terms { seen: true, sole };
                self.connection_returns(fd, ep, terms).is_ok()
            }
        }
    }

    /// Begins to look whether its packets come in where the stack receives, and who else holds it.
    fn watch(&self, fd: i32, ep: &Ep, sole: bool) {
        let Ok((local, remote)) = self.ends(fd) else {
            return;
        };
        let Ok(pass) = ep.att.daemon(|d| d.watch(local, remote, sole, fd)) else {
            return;
        };
        let noted = ep.att.locked(|_| {
            let s = ep.shared();
            let still =
                is_away(s) && s.filter.get() == 0 && ep.att.stack.sock_ref(ep.sock.id) == ep.sock;
            if still {
                s.filter.set(pass);
            }
            still
        });
        if !noted {
            ep.att.daemon(|d| d.del_filter(pass));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_first_and_tries_more_and_more_rarely() {
        let all = |after: u32| -> Vec<(u32, Due)> {
            (1..10_000)
                .map(|n| (n, due(n, after)))
                .filter(|(_, due)| *due != Due::Nothing)
                .collect()
        };
        let take = |at: u32| (at, Due::TakeOver);
        let want = |watch: u32, at: [u32; 4]| {
            let tries = at.into_iter().map(take);
            std::iter::once((watch, Due::Watch))
                .chain(tries)
                .collect::<Vec<_>>()
        };
        assert_eq!(all(64), want(32, [64, 128, 256, 512]));
        assert_eq!(all(3), want(1, [3, 6, 12, 24]));
        assert_eq!(all(1), want(1, [2, 4, 8, 0])[..4]);
        assert!(all(u32::MAX).is_empty());
    }
}
