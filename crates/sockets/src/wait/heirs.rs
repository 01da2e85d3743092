//! Epoll sets outlive processes: a child of `fork` goes on with its parent's set, a program goes on with the sets that it
//! inherits through `exec`, and a set may be sent to another process.
//!
//! - After `fork` the child says that it holds the stack's sets, too, when it attaches. One that ended before is made
//!   anew from the child's own list of members.
//! - Nothing in an epoll descriptor says which of the stack's sets belongs to it. So the list of accelerated members
//!   goes through `exec` in a file, whose number is in the environment, and is read when the new program first uses the
//!   descriptor.
//! - Of a set that is sent through a Unix socket the kernel gets all members, now and later.

use core::sync::atomic::{AtomicI32, Ordering};

use crate::attach::Attachment;
use crate::entry::Entry;
use crate::errno::Errno;
use crate::os::EpollEvent;
use crate::policy::Reason;
use crate::process::{Ep, Fd, Sockets};
use crate::wait::sets::{EpollSet, EpollTable, Member, Members};

/// A record of the list, see [`Heirloom`], as it lies in the file.
const RECORD: usize = 32;
/// Longest list that is read: a million members.
const MAX_LIST: usize = RECORD << 20;

/// A set, or, with -1 for `epfd`, a member of the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Heirloom {
    /// The epoll descriptor.
    epfd: i32,
    /// The number of the set in the old program; of a member: the descriptor that it was added with.
    number: i32,
    /// How many members the kernel has; of a member: its events.
    events: u32,
    /// The member's data.
    data: u64,
    /// The member's socket, which may have another descriptor by now, or none in this process.
    cookie: u64,
}

impl Heirloom {
    fn bytes(self) -> [u8; RECORD] {
        let mut r = [0u8; RECORD];
        let head = self.epfd.to_ne_bytes().into_iter();
        let rest = self.number.to_ne_bytes().into_iter();
        let events = self.events.to_ne_bytes().into_iter().chain([0; 4]);
        let all = head
            .chain(rest)
            .chain(events)
            .chain(self.data.to_ne_bytes());
        let all = all.chain(self.cookie.to_ne_bytes());
        r.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        r
    }

    fn read(r: &[u8]) -> Option<Self> {
        let word = |at: usize| -> Option<[u8; 4]> { r.get(at..at + 4)?.try_into().ok() };
        let long = |at: usize| -> Option<[u8; 8]> { r.get(at..at + 8)?.try_into().ok() };
        Some(Self {
            epfd: i32::from_ne_bytes(word(0)?),
            number: i32::from_ne_bytes(word(4)?),
            events: u32::from_ne_bytes(word(8)?),
            data: u64::from_ne_bytes(long(16)?),
            cookie: u64::from_ne_bytes(long(24)?),
        })
    }
}

/// What a program inherited through `exec` and has not used yet.
#[derive(Debug)]
pub struct Heirlooms(AtomicI32);

impl Default for Heirlooms {
    fn default() -> Self {
        Self(AtomicI32::new(-1))
    }
}

/// All numbers below this are looked at for sets, above it those that were used last.
const LOW: usize = 4096;

/// The number under which a set with accelerated members was last used.
fn high_number(set: &EpollSet) -> Option<i32> {
    set.id().map(|_| set.epfd.load(Ordering::Acquire))
}

impl EpollTable {
    /// After `fork` the child has attached: the stack's sets that it knows of are its own, too.
    pub(crate) fn hold_all(&self, sockets: &Sockets, att: &'static Attachment) {
        self.gate.lock(sockets.os);
        for set in self.each() {
            let Some(id) = set.id() else { continue };
            if !att.locked(|l| l.set_hold(id, set.life())) {
                self.make_anew(sockets, set, att);
            }
        }
        self.gate.unlock();
    }

    /// The stack's set went with the process that made it: another one takes its place. The gate is held.
    fn make_anew(&self, sockets: &Sockets, set: &EpollSet, att: &'static Attachment) {
        set.set.store(0, Ordering::Release);
        let mut members = set.members();
        let lost = core::mem::take(&mut *members);
        for (fd, m) in lost {
            let Some((sock, _)) = m.ours else {
                let _: Option<Member> = members.insert(fd, m);
                continue;
            };
            if att.stack.get(sock).is_some() {
                let ep = Ep {
                    att,
                    sock,
                    v6: false,
                };
                self.enter(sockets, set, &mut members, fd, &ep, m.event);
            }
        }
    }

    fn enter(
        &self,
        sockets: &Sockets,
        set: &EpollSet,
        members: &mut Members,
        fd: i32,
        ep: &Ep,
        event: EpollEvent,
    ) {
        if let Ok(item) = self.join(sockets, set, ep, event) {
            let ours = Some((ep.sock, item));
            let _: Option<Member> = members.insert(fd, Member { event, ours });
        }
    }
}

impl Sockets {
    /// The sets that a program inherits which is about to be executed, as an open file without close-on-exec; `None`
    /// when it inherits none that matters.
    pub fn bequeath(&self) -> Option<i32> {
        let unused = self.heirlooms.0.load(Ordering::Acquire);
        let high: Vec<i32> = self.epolls.each().filter_map(high_number).collect();
        if high.is_empty() && unused < 0 {
            return None;
        }
        let mut list = Vec::new();
        self.table
            .for_each(LOW, |fd, e| self.describe(fd, e, &mut list));
        for fd in high.into_iter().filter(|fd| *fd >= LOW as i32) {
            self.describe(fd, self.table.load(fd), &mut list);
        }
        if list.is_empty() && unused < 0 {
            return None;
        }
        let file = self.os.memfd().ok()?;
        // What this program inherited and has not used goes on.
        let mut written = self.copy_heirlooms(unused, file);
        written &= self.os.write(file, &list) == Ok(list.len());
        let high = crate::os::HIGH_BASES
            .into_iter()
            .find_map(|base| self.os.fcntl(file, libc::F_DUPFD, base).ok());
        let _: Result<(), Errno> = self.os.close(file);
        if !written && let Some(high) = high {
            let _: Result<(), Errno> = self.os.close(high);
            return None;
        }
        high
    }

    fn copy_heirlooms(&self, from: i32, to: i32) -> bool {
        let bytes = if from < 0 {
            Vec::new()
        } else {
            self.read_list(from)
        };
        bytes.is_empty() || self.os.write(to, &bytes) == Ok(bytes.len())
    }

    fn describe(&self, fd: i32, entry: Entry, list: &mut Vec<u8>) {
        let Entry::Epoll(index) = entry else { return };
        let Some(set) = self.epolls.at(index) else {
            return;
        };
        if set.id().is_none() || self.os.fcntl(fd, libc::F_GETFD, 0) != Ok(0) {
            return;
        }
        let kernels = set.kernel_members.load(Ordering::Acquire);
        let head = Heirloom {
            epfd: fd,
            number: index.cast_signed(),
            events: kernels,
            data: 0,
            cookie: 0,
        };
        list.extend(head.bytes());
        let Some(att) = self.mapped() else { return };
        for (number, m) in set.members().iter() {
            let alive = m.ours.filter(|(sock, _)| att.stack.get(*sock).is_some());
            let Some((sock, _)) = alive else { continue };
            let member = Heirloom {
                epfd: -1,
                number: *number,
                events: m.event.events,
                data: m.event.data,
                cookie: att.stack.sock(sock.id).cookie.load(Ordering::Acquire),
            };
            list.extend(member.bytes());
        }
    }

    /// The file that [`Sockets::bequeath`] made for this program: read when one of its sets is used.
    pub fn inherit(&self, file: i32) {
        let cloexec = libc::FD_CLOEXEC as usize;
        if self.os.fcntl(file, libc::F_SETFD, cloexec).is_ok() {
            let _: bool = self.table.store(file, Entry::Ours);
            self.heirlooms.0.store(file, Ordering::Release);
        }
    }

    fn read_list(&self, file: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut piece = [0u8; 4096];
        while bytes.len() < MAX_LIST {
            match self.os.pread(file, &mut piece, bytes.len() as i64) {
                Ok(n) if n > 0 => bytes.extend(piece.iter().take(n)),
                _ => break,
            }
        }
        bytes
    }

    /// `fd` is no socket: is it a set that this program inherited? All of those come to life at once.
    pub(crate) fn heirloom(&self, fd: i32) -> Option<u32> {
        let file = self.heirlooms.0.load(Ordering::Acquire);
        if file < 0 {
            return None;
        }
        let list = self.read_list(file);
        let records = || list.chunks_exact(RECORD).filter_map(Heirloom::read);
        if !records().any(|r| r.epfd == fd) {
            return None;
        }
        let claimed = self.heirlooms.0.swap(-1, Ordering::AcqRel);
        if claimed >= 0 {
            self.close_own(claimed);
            self.revive(records());
        }
        match self.table.load(fd) {
            Entry::Epoll(index) => Some(index),
            _ => None,
        }
    }

    fn revive(&self, records: impl Iterator<Item = Heirloom>) {
        // Number in the old program, and here.
        let mut made: Vec<(i32, u32)> = Vec::new();
        let mut filling = None;
        for r in records {
            if r.epfd < 0 {
                if let Some(set) = filling {
                    self.revive_member(set, &r);
                }
                continue;
            }
            let (epfd, number) = (r.epfd, r.number);
            let known = made.iter().find(|(old, _)| *old == number).map(|m| m.1);
            filling = None;
            if let Some(index) = known {
                // Another number of the same set: its members are here already.
                self.epolls.copied(index);
                self.note_set(epfd, index);
                continue;
            }
            self.epolls.gate.lock(self.os);
            self.begin();
            let index = self.epolls.allocate(epfd);
            self.epolls.gate.unlock();
            let Some(index) = index else { continue };
            made.push((number, index));
            self.note_set(epfd, index);
            filling = self.epolls.at(index);
            if let Some(set) = filling {
                set.kernel_members.store(r.events, Ordering::Release);
            }
        }
    }

    fn note_set(&self, epfd: i32, index: u32) {
        let _: bool = self.table.store(epfd, Entry::Epoll(index));
        self.mark_shared(epfd);
    }

    fn revive_member(&self, set: &EpollSet, member: &Heirloom) {
        let Ok(att) = self.attach() else { return };
        let Some(sock) = att.find_cookie(member.cookie) else {
            return;
        };
        let ep = Ep {
            att,
            sock,
            v6: false,
        };
        let event = EpollEvent {
            events: member.events,
            data: member.data,
        };
        self.epolls.gate.lock(self.os);
        self.epolls
            .enter(self, set, &mut set.members(), member.number, &ep, event);
        self.epolls.gate.unlock();
    }

    /// The set `fd` goes to a process that knows nothing of the stack's half: the kernel gets its members.
    pub fn leave_set(&self, fd: i32) {
        let Fd::Epoll(index) = self.look(fd) else {
            return;
        };
        let Some(set) = self.epolls.at(index) else {
            return;
        };
        set.left.store(true, Ordering::Release);
        let members: Vec<i32> = set.members().keys().copied().collect();
        for member in members {
            let _: bool = self.hand_over(member, Reason::HandedOver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_written() {
        let r = Heirloom {
            epfd: -1,
            number: 7,
            events: 0x8000_0001,
            data: u64::MAX - 3,
            cookie: 1 << 40,
        };
        assert_eq!(Heirloom::read(&r.bytes()), Some(r));
        assert_eq!(Heirloom::read(&r.bytes()[..28]), None);
    }
}
