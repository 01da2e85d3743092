//! A thread that blocks on a socket holds it, as a call in the kernel holds the open file: `close` of the last
//! descriptor by another thread takes effect when the blocked call is over. Until then the kernel socket is kept by a
//! descriptor of the library's own, so that nobody takes the connection for dead.
//!
//! The pin is taken for the sleep and given back when the call returns, or before handlers of signals run: they may
//! jump away.

use core::cell::Cell;
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
}

/// The pinned sockets of a process: as many as threads that block.
#[derive(Debug, Default)]
pub struct Pins(Mutex<Vec<Pin>>);

impl Pins {
    fn list(&self) -> MutexGuard<'_, Vec<Pin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attachment {
    /// This thread is about to sleep on `sock` for `events`.
    pub(super) fn pin(&self, sock: SockRef, events: u32) {
        if HELD.with(Cell::get) == Some((sock, events)) {
            return;
        }
        let _ = self.unpin();
        let mut list = self.pins.list();
        match list.iter_mut().find(|p| p.sock == sock) {
            Some(p) => p.threads += 1,
            None => list.push(Pin {
                sock,
                threads: 1,
                closing: false,
                keep: -1,
            }),
        }
        HELD.with(|h| h.set(Some((sock, events))));
    }

    /// Gives the pin back, and does what was put off. Returns what was pinned when other threads block there, too.
    pub(super) fn unpin(&self) -> Option<(SockRef, u32)> {
        let (sock, events) = HELD.with(Cell::take)?;
        let done = {
            let mut list = self.pins.list();
            let at = list.iter().position(|p| p.sock == sock)?;
            let p = list.get_mut(at)?;
            p.threads -= 1;
            if p.threads > 0 {
                return Some((sock, events));
            }
            list.swap_remove(at)
        };
        if done.closing {
            self.locked(|l| {
                if l.stack().get(sock).is_some() {
                    l.close(sock.id);
                }
            });
        }
        if done.keep >= 0 {
            let _: bool = self.table.store(done.keep, Entry::Unknown);
            let _: Result<(), Errno> = self.os.close(done.keep);
        }
        None
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
        let list = self.pins.list();
        let kept = list.iter().find(|p| p.sock == sock && p.keep >= 0);
        kept.map_or(fd, |p| p.keep)
    }

    /// `fd`, a descriptor of `sock`, is about to be closed; `last`: and with it the endpoint. True: threads block
    /// there, the endpoint will be closed by the last of them.
    pub(crate) fn close_later(&self, fd: i32, sock: SockRef, last: bool) -> bool {
        let mut list = self.pins.list();
        let Some(p) = list.iter_mut().find(|p| p.sock == sock) else {
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
