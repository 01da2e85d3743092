//! The waits of epoll; membership is in `ctl.rs`. The application's epoll descriptor is a real one and holds the kernel members. Accelerated members
//! are in a ready set of the stack, which exists from the first such member on. A fresh socket starts as a kernel member
//! and moves over when it gets an endpoint: an unconnected kernel socket would report `EPOLLHUP` at once.

use core::cell::Cell;
use core::sync::atomic::Ordering;

use flyover_core::ev;
use flyover_core::stack::wake::SetId;

use crate::attach::Attachment;
use crate::enter;
use crate::entry::Entry;
use crate::errno::Errno;
use crate::os::{EPOLL_MOST, EpollEvent, PollFd, Ran};
use crate::process::{Fd, Sockets};
use crate::wait::Deadline;
use crate::wait::sets::EpollSet;
pub use crate::wait::sets::EpollTable;
use crate::wait::sleep::On;

/// The kernel's half is looked at again after this time, ns, and at once while that pays off.
const KERNEL_TURN: u64 = 10_000;
/// Looks without result until it does not pay off any more.
const KERNEL_HOT: u32 = 8;
/// So many members that come back while a set is looked at are followed in the same look.
const BACK_ROUNDS: u32 = 16;
/// How long a set without a mirror may go unnoticed inside another one, ns.
const BLIND_NAP: u64 = 1_000_000;

impl Sockets {
    /// `epoll_wait` and its variants; `timeout` in nanoseconds, `None` for ever. `None`: wait in the kernel, and then
    /// ask [`Sockets::after_kernel_wait`].
    pub fn epoll_wait(
        &self,
        epfd: i32,
        out: &mut [EpollEvent],
        timeout: Option<u64>,
    ) -> Option<Result<usize, Errno>> {
        let Fd::Epoll(index) = self.look(epfd) else {
            return None;
        };
        let set = self.epolls.at(index)?;
        if set.id().is_none() {
            set.epfd.store(epfd, Ordering::Release);
            let _: u32 = set.in_kernel.fetch_add(1, Ordering::SeqCst);
            // Looked at again: whoever gives the set its first accelerated member looks at the count after that.
            if set.set.load(Ordering::SeqCst) == 0 {
                return None;
            }
            self.left_kernel(set);
        }
        // First this: a child of `fork` may have to make the stack's set anew.
        let att = match self.attach() {
            Ok(a) => a,
            Err(_) => return Some(Err(Errno::EIO)),
        };
        let Some(id) = set.id() else {
            // All accelerated members went before this child could hold them.
            return self.epoll_wait(epfd, out, timeout);
        };
        let w = Waiting {
            lib: self,
            att,
            set,
            id,
            epfd,
        };
        Some(w.wait(out, timeout))
    }

    fn left_kernel(&self, set: &EpollSet) {
        if set.in_kernel.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The last one out takes the kick away.
            self.epolls.take_kick_away(self, set);
        }
    }

    /// True for the word of the library's own members: an event with it is not the program's.
    pub fn is_own_event(&self, data: u64) -> bool {
        self.epolls.is_own_word(data)
    }

    /// A wait in the kernel is over; its events may hold one that [`Sockets::is_own_event`]. True: the set has
    /// accelerated members now, wait with us.
    pub fn after_kernel_wait(&self, epfd: i32) -> bool {
        let Entry::Epoll(index) = self.table.load(epfd) else {
            return false;
        };
        let Some(set) = self.epolls.at(index) else {
            return false;
        };
        self.left_kernel(set);
        set.id().is_some()
    }
}

/// What the kernel's set said before members left it.
struct LastWord {
    /// So many events.
    n: usize,
    /// One of them may be of such a member.
    told: bool,
}

/// What the stack's half said.
#[derive(Default)]
struct Ours {
    /// So many events.
    n: usize,
    /// It ended at a member that came back.
    back: bool,
    /// Members went to the kernel's half, which has to say what is ready of them.
    left: bool,
}

/// One call of `epoll_wait` on a set with accelerated members.
struct Waiting<'a> {
    lib: &'a Sockets,
    att: &'static Attachment,
    set: &'a EpollSet,
    id: SetId,
    epfd: i32,
}

impl Waiting<'_> {
    fn wait(&self, out: &mut [EpollEvent], timeout: Option<u64>) -> Result<usize, Errno> {
        let lib = self.lib;
        let mut deadline = None;
        let mut signalled = false;
        let mut polled = false;
        loop {
            let n = self.collect(out, polled);
            if n > 0 {
                return Ok(n);
            }
            if signalled {
                return Err(Errno::EINTR);
            }
            if timeout == Some(0) {
                return Ok(0);
            }
            let now = lib.os.now();
            let until =
                *deadline.get_or_insert_with(|| Deadline(timeout.map(|t| now.saturating_add(t))));
            if until.is_past(now) {
                return Ok(0);
            }
            let first = !polled;
            polled = true;
            let ready = || self.att.stack.set_has_ready(self.id);
            if first && self.att.spin(lib.settings.spin, until, ready) {
                polled = false;
                continue;
            }
            lib.os.test_cancel();
            self.sleep(until, now);
            if enter::has_signal() {
                // epoll_wait(2) is never restarted, see signal(7).
                signalled = lib.os.run_signals() != Ran::None;
            }
        }
    }

    /// Of the threads that sleep on a set one watches the kernel's half: what comes there wakes no crowd. When it is
    /// done it leaves the post to another one.
    fn sleep(&self, until: Deadline, now: u64) {
        let set = self.set;
        let _: u32 = set.asleep.fetch_add(1, Ordering::SeqCst);
        let post = Cell::new(false);
        // Asked when the sleeper is known to the stack: whoever leaves the post after that wakes it.
        let watch = |_leader: bool| {
            let free = || {
                set.watchers
                    .compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst)
            };
            post.set(set.kernel_members.load(Ordering::SeqCst) != 0 && free().is_ok());
            post.get()
        };
        let until = if self.lib.epolls.inner_shown(set) {
            until
        } else {
            let soon = now.saturating_add(BLIND_NAP);
            Deadline(Some(until.0.map_or(soon, |d| d.min(soon))))
        };
        self.att.rest(
            On::Set(self.id),
            &mut [PollFd::input(self.epfd)],
            until,
            &watch,
        );
        if post.get() {
            set.watchers.store(0, Ordering::SeqCst);
        }
        let others = set.asleep.fetch_sub(1, Ordering::SeqCst) > 1;
        if post.get() && others {
            self.att.locked(|l| l.set_wake(self.id));
        }
    }

    /// What is ready now, of both halves. Each gets room: what is left of the other one's, and half at least, in two calls.
    fn collect(&self, out: &mut [EpollEvent], polled: bool) -> usize {
        let stack = self.att.stack;
        if !polled || !stack.set_has_ready(self.id) {
            let _: bool = self.att.poll(64);
        }
        let has_kernel = self.set.kernel_members.load(Ordering::Acquire) != 0;
        let before = if has_kernel {
            self.follow_returns(out)
        } else {
            None
        };
        if let Some(last) = before.as_ref().filter(|last| last.told) {
            // Nobody may come twice in one call.
            return last.n;
        }
        let expected = stack.set_ready_len(self.id) as usize;
        let mut k = before.as_ref().map_or(0, |last| last.n);
        let room = self.kernels_share(out.len(), expected);
        let turn = || has_kernel && room > 0 && self.is_kernels_turn(out.len(), expected);
        let looked = before.is_some() || turn();
        if looked && before.is_none() {
            (k, _) = self.collect_kernels(out.get_mut(..room).unwrap_or_default());
        }
        let mut n = k;
        let mut left = false;
        if expected != 0 && n < out.len() {
            let ours = self.collect_ours(out.get_mut(k..).unwrap_or_default());
            n += ours.n;
            left = ours.left;
        }
        if n == 0 && (left || has_kernel && !looked) {
            (n, _) = self.collect_kernels(out);
        }
        if n == 0 {
            self.lib.epolls.settle(self.lib, self.set, self.att);
        }
        n
    }

    /// Members whose connections came back leave the kernel's set before it is asked: what it says of them is old. Unless it
    /// is to tell, for the last time, which of them it has not told yet: then it is asked now.
    fn follow_returns(&self, out: &mut [EpollEvent]) -> Option<LastWord> {
        let mut last = None;
        self.lib
            .epolls
            .follow_returns(self.lib, self.att, self.set, |words| {
                let (n, all) = self.collect_kernels(out);
                let told = out.iter().take(n).any(|e| words.contains(&e.data));
                last = Some(LastWord { n, told });
                all
            });
        last
    }

    fn collect_ours(&self, out: &mut [EpollEvent]) -> Ours {
        // A member that came back is the last of its round. What those before it have is enough for one call: in another
        // round they would come twice.
        let mut all = Ours::default();
        for _ in 0..BACK_ROUNDS {
            let round = self.collect_round(out);
            all.n = round.n;
            all.left |= round.left;
            if round.n > 0 || !round.back {
                break;
            }
        }
        all
    }

    /// One look at the stack's half.
    fn collect_round(&self, out: &mut [EpollEvent]) -> Ours {
        let room = out.len();
        let mut rest = out.iter_mut();
        let mut moved = Vec::new();
        let n = self.att.locked(|l| {
            l.set_drain(self.id, room, |r| {
                if r.events & (ev::MOVED | ev::BACK) != 0 {
                    moved.push(r);
                } else if let Some(to) = rest.next() {
                    *to = EpollEvent {
                        events: r.events,
                        data: r.data,
                    };
                }
            })
        });
        let mut found = Ours {
            n: n.saturating_sub(moved.len()),
            ..Ours::default()
        };
        for r in &moved {
            let epolls = &self.lib.epolls;
            if r.events == ev::BACK {
                epolls.item_back(self.lib, self.att, self.set, r.item, false);
                found.back = true;
            } else {
                epolls.item_moved(self.lib, self.att, self.set, r.item);
                found.left = true;
            }
        }
        found
    }

    /// Room for the kernel's half: what ours leaves, and half of all. An odd place the two have in turns.
    fn kernels_share(&self, room: usize, expected: usize) -> usize {
        let mut half = room / 2;
        if expected != 0 && !room.is_multiple_of(2) {
            half += self.set.odd.fetch_xor(1, Ordering::Relaxed) as usize & 1;
        }
        half.max(room.saturating_sub(expected))
    }

    /// The kernel's half costs a system call. It is looked at when nothing else is there, while that pays off, and
    /// after a while.
    fn is_kernels_turn(&self, room: usize, expected: usize) -> bool {
        if expected == 0 {
            return true;
        }
        let hot = self.set.hot.load(Ordering::Relaxed);
        if room < 2 {
            return true;
        }
        let now = self.lib.os.now();
        hot > 0 || now.saturating_sub(self.set.looked.load(Ordering::Relaxed)) >= KERNEL_TURN
    }

    /// How many events of the kernel's set are in `out`, and whether there are no more.
    fn collect_kernels(&self, out: &mut [EpollEvent]) -> (usize, bool) {
        let (lib, set) = (self.lib, self.set);
        if out.is_empty() {
            return (0, false);
        }
        lib.epolls.settle_inner(lib, set, self.att);
        let (mut n, mut all) = (0, false);
        // Our own members may have taken all the room: then there may be more.
        for _ in 0..3 {
            let got = lib.os.epoll_collect(self.epfd, out);
            all = got.is_ok_and(|got| got < out.len().min(EPOLL_MOST));
            let got = got.unwrap_or(0);
            n = without_own(out, got, |data| lib.is_own_event(data));
            n = lib.epolls.without_returned(self.att, set, out, n);
            if n != 0 || all {
                break;
            }
        }
        if out.len() > 1 {
            let hot = set.hot.load(Ordering::Relaxed);
            let next = if n > 0 {
                KERNEL_HOT
            } else {
                hot.saturating_sub(1)
            };
            set.hot.store(next, Ordering::Relaxed);
            set.looked.store(lib.os.now(), Ordering::Relaxed);
        }
        (n, all)
    }
}

fn without_own(events: &mut [EpollEvent], n: usize, own: impl Fn(u64) -> bool) -> usize {
    let mut kept = 0;
    for i in 0..n.min(events.len()) {
        let Some(e) = events.get(i).copied() else {
            break;
        };
        if own(e.data) {
            continue;
        }
        if let Some(to) = events.get_mut(kept) {
            *to = e;
        }
        kept += 1;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_events_are_taken_out_in_place() {
        let e = |data| EpollEvent { events: 1, data };
        let mut list = [e(1), e(9), e(2), e(9)];
        assert_eq!(without_own(&mut list, 4, |d| d == 9), 2);
        assert_eq!(list[..2], [e(1), e(2)]);
        assert_eq!(without_own(&mut list, 0, |d| d == 9), 0);
    }
}
