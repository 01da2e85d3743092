//! A thread that blocks on a socket holds it, as a call in the kernel holds the open file: `close` of the last
//! descriptor by another thread takes effect when the blocked call is over. Until then the kernel socket is kept by a
//! descriptor of the library's own, so that nobody takes the connection for dead.
//!
//! The pin is taken for the sleep and given back when the call returns, or before handlers of signals run: they may
//! jump away. `poll` and `select` hold all their sockets until something happens; then they look at the numbers anew,
//! as the kernel does.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use flyover_core::SockRef;

use crate::attach::Attachment;
use crate::entry::Entry;
use crate::errno::Errno;

thread_local! {
    /// What this thread's call has pinned, and the events that it waited for.
    static HELD: Cell<Option<(SockRef, u32)>> = const { Cell::new(None) };
}

/// A call that may block on a socket. When it ends, the pin of its sleep is given back.
pub(crate) struct Call<'a>(&'a Attachment);

impl Drop for Call<'_> {
    #[inline]
    fn drop(&mut self) {
        if HELD.with(Cell::get).is_some() {
            self.0.call_ends();
        }
    }
}

#[derive(Debug)]
struct Pin {
    sock: SockRef,
    threads: u32,
    /// Close the endpoint when the last thread lets go.
    closing: bool,
    /// Keeps the kernel socket; -1 while a descriptor of the program does.
    keep: i32,
    /// The threads in `poll` that hold it are counted in `threads`.
    polled: bool,
}

/// The sockets of a `poll` are held as long as this lives.
pub(super) struct Held<'a>(&'a Attachment, u64);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.let_all_go(self.1);
    }
}

/// The sockets of one `poll` that sleeps.
#[derive(Debug)]
struct Polled {
    ticket: u64,
    socks: Vec<SockRef>,
}

#[derive(Debug, Default)]
struct Lists {
    pins: Vec<Pin>,
    polls: Vec<Polled>,
    tickets: u64,
}

/// The pinned sockets of a process: as many as threads that block.
#[derive(Debug, Default)]
pub struct Pins {
    lists: Mutex<Lists>,
    /// Descriptors of endpoints that were closed; changes under the lock.
    closes: AtomicU64,
}

impl Pins {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with every close of a descriptor of an endpoint.
    pub(super) fn closes(&self) -> u64 {
        self.closes.load(Ordering::Acquire)
    }
}

impl Lists {
    /// One holder less. What is left to be done, when it was the last; `None`: others hold it.
    fn let_go(&mut self, at: usize) -> Option<Pin> {
        let p = self.pins.get_mut(at)?;
        p.threads -= 1;
        (p.threads == 0).then(|| self.pins.swap_remove(at))
    }
}

impl Attachment {
    /// This thread is about to sleep on `sock` for `events`.
    pub(crate) fn pin(&self, sock: SockRef, events: u32) {
        if HELD.with(Cell::get) == Some((sock, events)) {
            return;
        }
        let _ = self.unpin();
        let mut lists = self.pins.lists();
        match lists.pins.iter_mut().find(|p| p.sock == sock) {
            Some(p) => p.threads += 1,
            None => lists.pins.push(Pin {
                sock,
                threads: 1,
                closing: false,
                keep: -1,
                polled: false,
            }),
        }
        HELD.with(|h| h.set(Some((sock, events))));
    }

    /// Gives the pin back, and does what was put off. Returns what was pinned when other threads block there, too.
    pub(super) fn unpin(&self) -> Option<(SockRef, u32)> {
        let (sock, events) = HELD.with(Cell::take)?;
        let mut lists = self.pins.lists();
        let at = lists.pins.iter().position(|p| p.sock == sock)?;
        let Some(done) = lists.let_go(at) else {
            return Some((sock, events));
        };
        drop(lists);
        self.finish(&done);
        None
    }

    /// Does what a close put off.
    fn finish(&self, done: &Pin) {
        if done.closing {
            self.locked(|l| {
                if l.stack().get(done.sock).is_some() {
                    l.close(done.sock.id);
                }
            });
        }
        if done.keep >= 0 {
            let _: bool = self.table.store(done.keep, Entry::Unknown);
            let _: Result<(), Errno> = self.os.close(done.keep);
        }
    }

    /// A `poll` is about to sleep on `socks`, which it looked up when `closes` was what it was. `None`: a descriptor was
    /// closed since, look again.
    pub(super) fn hold_all(&self, socks: Vec<SockRef>, closes: u64) -> Option<Held<'_>> {
        let mut lists = self.pins.lists();
        if self.pins.closes() != closes {
            return None;
        }
        lists.tickets += 1;
        let ticket = lists.tickets;
        lists.polls.push(Polled { ticket, socks });
        Some(Held(self, ticket))
    }

    fn let_all_go(&self, ticket: u64) {
        let mut done = Vec::new();
        {
            let mut lists = self.pins.lists();
            let Some(at) = lists.polls.iter().position(|p| p.ticket == ticket) else {
                return;
            };
            let mine = lists.polls.swap_remove(at);
            // Few: only what was closed meanwhile.
            for at in (0..lists.pins.len()).rev() {
                let held = |p: &Pin| p.polled && mine.socks.contains(&p.sock);
                if lists.pins.get(at).is_some_and(held) {
                    done.extend(lists.let_go(at));
                }
            }
        }
        done.iter().for_each(|p| self.finish(p));
    }

    /// A call begins that may block on a socket.
    #[inline]
    pub(crate) fn call(&self) -> Call<'_> {
        Call(self)
    }

    /// A call that slept on a socket is over. What it left there is for the next thread that sleeps there: an event
    /// wakes only one.
    #[cold]
    fn call_ends(&self) {
        if let Some((sock, events)) = self.unpin() {
            self.locked(|l| l.pass_on(sock, events));
        }
    }

    /// A descriptor of the kernel socket behind `sock` for a call that was made with `fd` (-1: needs none): that one may
    /// have been closed, and have a new meaning, while the call slept.
    pub(crate) fn kept_fd(&self, sock: SockRef, fd: i32) -> i32 {
        if fd < 0 {
            return fd;
        }
        let lists = self.pins.lists();
        let kept = lists.pins.iter().find(|p| p.sock == sock && p.keep >= 0);
        kept.map_or(fd, |p| p.keep)
    }

    /// `fd`, a descriptor of `sock`, is about to be closed; `last`: and with it the endpoint. True: threads block
    /// there, the endpoint will be closed by the last of them.
    pub(crate) fn close_later(&self, fd: i32, sock: SockRef, last: bool) -> bool {
        let mut lists = self.pins.lists();
        let _: u64 = self.pins.closes.fetch_add(1, Ordering::AcqRel);
        if last {
            count_polls(&mut lists, sock);
        }
        let Some(p) = lists.pins.iter_mut().find(|p| p.sock == sock) else {
            return false;
        };
        if p.keep < 0 {
            // Without a descriptor left the close takes effect at once.
            let Some(keep) = crate::os::copy_high(self.os, fd) else {
                return false;
            };
            let _: bool = self.table.store(keep, Entry::Ours);
            p.keep = keep;
        }
        p.closing |= last;
        last
    }
}

/// The last descriptor is being closed: the threads in `poll` that hold the socket count as its holders from now on.
fn count_polls(lists: &mut Lists, sock: SockRef) {
    let holds = |p: &&Polled| p.socks.contains(&sock);
    let threads = lists.polls.iter().filter(holds).count() as u32;
    if threads == 0 {
        return;
    }
    match lists.pins.iter_mut().find(|p| p.sock == sock) {
        Some(p) if p.polled => {}
        Some(p) => {
            p.threads += threads;
            p.polled = true;
        }
        None => lists.pins.push(Pin {
            sock,
            threads,
            closing: false,
            keep: -1,
            polled: true,
        }),
    }
}
