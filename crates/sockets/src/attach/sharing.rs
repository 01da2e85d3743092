//! Before others may hold sockets of this process, the keeper has to hear of the end of sockets (`flyover_core::stack::ends`).

use core::sync::atomic::Ordering;

use flyover_core::SockRef;

use crate::attach::Attachment;
use crate::errno::Errno;
use crate::process::Sockets;

/// How often is looked whether the keeper has answered, ns: as a rule that takes a few wakes.
const LOOK_NS: u64 = 50_000;
/// It is poked again after so many.
const LOOKS: u32 = 1_000;
/// So long it is waited for, ns: a new one may have to start.
const PATIENCE: u64 = 500_000_000;
/// It does not answer, because it is dead or stopped: not waited for again within this time, ns.
const PAUSE: u64 = 5_000_000_000;
/// The keeper may give up the reports just when they are asked for.
const TRIES: u32 = 8;

impl Attachment {
    /// From here on others may hold what this process holds.
    pub(crate) fn share(&self) {
        for _ in 0..TRIES {
            if self.stack.socks_used() == 0 {
                return;
            }
            let heard = self.await_reports();
            self.stack.note_sharing(self.me);
            if !heard || self.stack.reports_are_on() {
                return;
            }
        }
    }

    /// This process holds a socket that another one made, who may not know of it (`pidfd_getfd`): it does not end with that one.
    pub(crate) fn holds_too(&self, sock: SockRef) {
        let _: bool = self.await_reports();
        self.locked(|l| l.held_by_many(sock));
    }

    /// An endpoint may end without the library: the keeper is to hear of that. False: it does not answer; what ends until it
    /// does stays in the stack.
    pub(crate) fn await_reports(&self) -> bool {
        if self.stack.reports_are_on() {
            return true;
        }
        let begun = self.os.now();
        loop {
            self.stack.want_reports();
            self.keeper.poke();
            for _ in 0..LOOKS {
                if self.stack.reports_are_on() {
                    return true;
                }
                let now = self.os.now();
                if now < self.reports_late.load(Ordering::Relaxed) {
                    return false;
                }
                if now.saturating_sub(begun) > PATIENCE {
                    self.reports_late
                        .store(now.saturating_add(PAUSE), Ordering::Relaxed);
                    return false;
                }
                let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(LOOK_NS));
            }
        }
    }
}

impl Sockets {
    /// Other programs are about to inherit what this one holds: they have to find it in the stack.
    pub fn before_others(&self) {
        self.ripen_all();
        self.share();
    }

    /// Other processes are about to get descriptors of this one.
    pub fn share(&self) {
        if let Some(att) = self.attached()
            && !self.is_foreign_child()
        {
            att.share();
        }
    }
}
