//! `epoll_create` and `epoll_ctl`: who is a member of what. Kernel members are the kernel's; accelerated ones are items of
//! the stack; a fresh socket starts as the first and moves over when it gets an endpoint.

use core::sync::atomic::Ordering;

use flyover_core::SockRef;
use flyover_core::sock::flag;
use flyover_core::stack::locked::Locked;
use flyover_core::stack::wake::Changed;

use crate::attach::Attachment;
use crate::entry::{Entry, Fresh, Young};
use crate::errno::Errno;
use crate::os::EpollEvent;
use crate::policy::Reason;
use crate::process::{Answer, Ep, Fd, Sockets};
use crate::wait::members::leave;
use crate::wait::sets::{EpollSet, FLAGS, Member, Members, mode};

/// What `EPOLLEXCLUSIVE` may be combined with (fs/eventpoll.c).
const EXCLUSIVE_OK: u32 = (libc::EPOLLIN
    | libc::EPOLLOUT
    | libc::EPOLLERR
    | libc::EPOLLHUP
    | libc::EPOLLWAKEUP
    | libc::EPOLLET
    | libc::EPOLLEXCLUSIVE) as u32;

/// How often a call is made anew because its socket came or went meanwhile.
const LOOKS: u32 = 64;

/// One call of `epoll_ctl`.
struct Call<'a> {
    set: &'a EpollSet,
    index: u32,
    epfd: i32,
    op: i32,
    fd: i32,
    event: Option<EpollEvent>,
}

/// While the gate was shut the socket may have gone to the kernel, and its membership with it.
fn as_it_is(target: Fd) -> Fd {
    match target {
        Fd::Tcp(ep) | Fd::Udp(ep) if ep.shared().has(flag::HANDED_OVER) => Fd::Kernel,
        target => target,
    }
}

fn is_home(target: &Fd) -> bool {
    matches!(target, Fd::Tcp(_) | Fd::Udp(_))
}

/// Another process that holds the set has removed the member.
fn forget(members: &mut Members, fd: i32) -> Answer {
    let _: Option<Member> = members.remove(&fd);
    Answer::Error(Errno::ENOENT)
}

fn is_exclusive(events: u32) -> bool {
    events & libc::EPOLLEXCLUSIVE as u32 != 0
}

impl Sockets {
    /// `epoll_create` made `fd`.
    pub fn on_epoll_create(&self, fd: i32) {
        self.begin();
        self.epolls.gate.lock(self.os);
        let index = self.epolls.allocate(fd);
        self.epolls.gate.unlock();
        let entry = index.map_or(Entry::Kernel(0), Entry::Epoll);
        let _: bool = self.table.store(fd, entry);
        self.mark_made(fd);
    }

    /// `epoll_ctl(2)`. The order of the checks is the kernel's.
    pub fn epoll_ctl(&self, epfd: i32, op: i32, fd: i32, event: Option<EpollEvent>) -> Answer {
        let index = match self.look(epfd) {
            Fd::Epoll(index) => Some(index),
            _ => None,
        };
        let Some((index, set)) = index.and_then(|i| Some((i, self.epolls.at(i)?))) else {
            // A set that we do not know says nothing of a pair.
            self.young_stays(fd);
            return Answer::Kernel;
        };
        if event.is_none() && op != libc::EPOLL_CTL_DEL {
            return Answer::Error(Errno::EFAULT);
        }
        let left = set.left.load(Ordering::Acquire);
        if left && epfd != fd {
            // Others have the set, and the kernel's half only.
            let _: bool = self.give_to_kernel(fd, Reason::HandedOver);
        }
        let target = if epfd == fd {
            Fd::Kernel
        } else {
            self.look(fd)
        };
        if let (Fd::Epoll(inner), Some(att)) = (&target, self.attached()) {
            // The kernel tells the sets around of a new member that is ready: what was read meanwhile is not.
            self.epolls.settle_all(self, *inner, att);
        }
        self.epolls.gate.lock(self.os);
        set.epfd.store(epfd, Ordering::Release);
        let call = Call {
            set,
            index,
            epfd,
            op,
            fd,
            event,
        };
        let mut late = false;
        let mut target = as_it_is(target);
        let mut answer = self.ctl_there(&call, left, &target, &mut late);
        for _ in 0..LOOKS {
            let missed = match answer {
                None => true,
                Some(Answer::Error(Errno::ENOENT)) if self.is_member(set, fd) => true,
                // It came back, or went, or got its endpoint, while we were at it.
                Some(Answer::Error(Errno::ENOENT | Errno::EEXIST)) => {
                    is_home(&target) != is_home(&as_it_is(self.look(fd)))
                }
                Some(_) => false,
            };
            if !missed {
                break;
            }
            target = as_it_is(self.look(fd));
            answer = self.ctl_there(&call, left, &target, &mut late);
        }
        self.epolls.gate.unlock();
        if late {
            self.follow_fresh(fd);
        }
        answer.unwrap_or(Answer::Error(Errno::ENOENT))
    }

    /// The call, made where the socket is. `None`: its member is elsewhere.
    fn ctl_there(
        &self,
        call: &Call<'_>,
        left: bool,
        target: &Fd,
        late: &mut bool,
    ) -> Option<Answer> {
        let Call { op, fd, index, .. } = *call;
        match target {
            Fd::Tcp(ep) | Fd::Udp(ep) if !left => self.ctl_ours(call.set, op, fd, ep, call.event),
            Fd::Fresh(_) => Some(self.ctl_fresh(call, late)),
            Fd::Kernel if self.is_young_entry(fd) => Some(self.ctl_fresh(call, late)),
            Fd::Tcp(_) | Fd::Udp(_) | Fd::Kernel => Some(self.ctl_kernel(call)),
            Fd::Epoll(inner) => {
                let a = self.ctl_kernel(call);
                match (op, a) {
                    (libc::EPOLL_CTL_ADD, Answer::Value(_)) => {
                        self.epolls.link(self, index, *inner);
                    }
                    (libc::EPOLL_CTL_DEL, Answer::Value(_)) => self.epolls.part(index, *inner),
                    _ => {}
                }
                Some(a)
            }
        }
    }

    /// The stack knows of a membership of just this socket under this number.
    fn is_member(&self, set: &EpollSet, fd: i32) -> bool {
        let known = set.members().get(&fd).and_then(|m| m.ours);
        let Some(((sock, item), att)) = known.zip(self.attached()) else {
            return false;
        };
        let view = att.locked(|l| l.item_view(item));
        view.is_some_and(|v| set.id() == Some(v.set) && v.sock == sock.id)
            && self.is_of(fd, att, sock)
    }

    /// `fd` is a descriptor of the socket that has this place.
    fn is_of(&self, fd: i32, att: &Attachment, sock: SockRef) -> bool {
        att.stack
            .get(sock)
            .is_some_and(|s| self.cookie(fd) == Ok(s.cookie.load(Ordering::Acquire)))
    }

    fn ctl_kernel(&self, call: &Call<'_>) -> Answer {
        let Call {
            set,
            epfd,
            op,
            fd,
            event,
            ..
        } = *call;
        self.epolls.bring_over(self, set, fd);
        let r = self.os.epoll_ctl(epfd, op, fd, event);
        match (op, &r) {
            (libc::EPOLL_CTL_ADD, Ok(())) => {
                set.kernel_joined();
                self.epolls
                    .note_away(self, set, fd, event.unwrap_or_default());
                // A sleeper that does not watch the kernel's half yet is to begin.
                self.stir(set);
            }
            (libc::EPOLL_CTL_MOD, Ok(())) => {
                self.epolls
                    .change_away(self, set, fd, event.unwrap_or_default());
            }
            (libc::EPOLL_CTL_DEL, Ok(())) => {
                let gone = set.members().remove(&fd).and_then(|m| m.ours);
                if let Some(((sock, item), att)) = gone.zip(self.attached()) {
                    leave(att, set.id(), sock, item);
                }
                set.kernel_left();
            }
            _ => {}
        }
        r.into()
    }

    /// Has one sleeper of the set look again.
    fn stir(&self, set: &EpollSet) {
        if set.asleep.load(Ordering::SeqCst) != 0
            && let Some((id, att)) = set.id().zip(self.attached())
        {
            att.locked(|l| l.set_wake(id));
        }
    }

    /// A socket without a place in the stack. `late`: another thread gives it one just now, and may not have seen that it is a
    /// member.
    fn ctl_fresh(&self, call: &Call<'_>, late: &mut bool) -> Answer {
        let Call { set, fd, .. } = *call;
        let a = self.ctl_kernel(call);
        if let (Answer::Value(_), Some(event)) = (a, call.event)
            && call.op != libc::EPOLL_CTL_DEL
        {
            let mut members = set.members();
            // Another socket may have had the number before, and its record may be left: the kernel closed that one.
            let placed = members.get(&fd).and_then(|m| m.ours);
            let placed = placed.zip(self.attached());
            if !placed.is_some_and(|((sock, _), att)| self.is_of(fd, att, sock)) {
                let _: Option<Member> = members.insert(fd, Member { event, ours: None });
            }
            drop(members);
            *late = !self.note_in_epoll(fd);
        }
        a
    }

    /// Notes that the socket is a member of sets. False: it has its place by now.
    fn note_in_epoll(&self, fd: i32) -> bool {
        loop {
            let old = self.table.load(fd);
            let noted = match old {
                Entry::Fresh(f) => Entry::Fresh(Fresh {
                    in_epoll: true,
                    ..f
                }),
                Entry::Young(y) => Entry::Young(Young {
                    in_epoll: true,
                    ..y
                }),
                _ => return false,
            };
            if self.table.replace(fd, old, noted) {
                return true;
            }
        }
    }

    /// A socket became a member when it was fresh, and is so no longer: its memberships follow.
    fn follow_fresh(&self, fd: i32) {
        match self.look_and_mark(fd) {
            (Fd::Tcp(ep) | Fd::Udp(ep), _) => self.epolls.fd_became_endpoint(self, fd, &ep),
            (_, Some(ep)) => self.epolls.fresh_became_mark(self, fd, &ep),
            _ => {}
        }
    }

    fn ctl_ours(
        &self,
        set: &EpollSet,
        op: i32,
        fd: i32,
        ep: &Ep,
        event: Option<EpollEvent>,
    ) -> Option<Answer> {
        let wish = event.unwrap_or_default();
        let exclusive = is_exclusive(wish.events);
        let allowed = wish.events & !EXCLUSIVE_OK == 0;
        if exclusive && (op == libc::EPOLL_CTL_MOD || op == libc::EPOLL_CTL_ADD && !allowed) {
            return Some(Answer::Error(Errno::EINVAL));
        }
        let ours = set.members().get(&fd).and_then(|m| m.ours);
        if let Some((_, item)) = ours.filter(|(sock, _)| *sock == ep.sock) {
            // The kernel's set may have it still.
            self.epolls
                .bring_back(self, ep.att, set, item, Some(fd), false);
        }
        let mut members = set.members();
        // A record of another socket that had the number before, or of one that is gone, counts for nothing.
        let known = members.get(&fd).copied().and_then(|m| {
            let (sock, item) = m.ours?;
            (sock == ep.sock).then_some((item, m.event.events))
        });
        let id = set.id();
        let answer = match (op, known) {
            (libc::EPOLL_CTL_ADD, Some(_)) => Answer::Error(Errno::EEXIST),
            (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL, None) => Answer::Error(Errno::ENOENT),
            (libc::EPOLL_CTL_MOD, Some((_, before))) if is_exclusive(before) => {
                Answer::Error(Errno::EINVAL)
            }
            (libc::EPOLL_CTL_ADD, None) => match self.epolls.join(self, set, ep, wish) {
                Ok(item) => {
                    let member = Member {
                        event: wish,
                        ours: Some((ep.sock, item)),
                    };
                    let _: Option<Member> = members.insert(fd, member);
                    Answer::Value(0)
                }
                // Linux's word for too many memberships.
                Err(_) => Answer::Error(Errno::ENOSPC),
            },
            (libc::EPOLL_CTL_MOD, Some((item, _))) => {
                let place = (id?, ep.sock);
                let (events, how) = (wish.events & !FLAGS, mode(wish.events));
                let changed = |l: &mut Locked<'_, '_, 'static>| {
                    l.item_change(item, place, events, wish.data, how)
                };
                match ep.att.locked(changed) {
                    Changed::Away | Changed::Busy => return None,
                    Changed::Yes => {
                        if let Some(m) = members.get_mut(&fd) {
                            m.event = wish;
                        }
                        Answer::Value(0)
                    }
                    Changed::Gone => forget(&mut members, fd),
                }
            }
            (libc::EPOLL_CTL_DEL, Some((item, _))) => {
                let id = id?;
                match ep.att.locked(|l| l.item_remove(item, id, ep.sock)) {
                    Changed::Away | Changed::Busy => return None,
                    Changed::Yes => {
                        let _: Option<Member> = members.remove(&fd);
                        Answer::Value(0)
                    }
                    Changed::Gone => forget(&mut members, fd),
                }
            }
            _ => Answer::Error(Errno::EINVAL),
        };
        Some(answer)
    }
}
