//! Calls of the kernel on a connection that it has only for the time being. The stack may take it over in the middle of
//! such a call, which then fails with an error that is none of the program's business; it is made anew, in the stack.
//! Nothing was taken or given in the call that failed.

use core::cell::Cell;
use core::ffi::c_int;

use flyover_sockets::local::Entered;
use flyover_sockets::process::{Answer, Ep};
use flyover_sockets::{Errno, Sockets};

use crate::{errno, fast, init};

/// How often a call is made anew: the way there and back again is no endless one.
const TRIES: u32 = 1000;

/// How the kernel's call is to be made.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// Without `SIGPIPE`: a connection that is taken over breaks the pipe. It is raised here if it was the program's.
    pub(super) quiet: bool,
}

impl Way {
    /// The flag of `send(2)` for it.
    pub(super) const fn flag(self) -> c_int {
        if self.quiet { libc::MSG_NOSIGNAL } else { 0 }
    }
}

/// What a call does with bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Moves {
    /// It receives.
    In,
    /// It only looks, and may look once more whenever: in repair mode the kernel shows what waits to be sent.
    Looks,
    /// It sends.
    Out {
        /// A broken pipe is signalled.
        signals: bool,
    },
}

impl Moves {
    /// A receive with these flags.
    pub(super) const fn received(flags: c_int) -> Self {
        if flags & libc::MSG_PEEK != 0 {
            Self::Looks
        } else {
            Self::In
        }
    }

    /// A send with these flags.
    pub(super) const fn sent(flags: c_int) -> Self {
        Self::Out {
            signals: flags & libc::MSG_NOSIGNAL == 0,
        }
    }
}

/// What the socket layer answers, as `None` for "the kernel".
pub(super) trait Said {
    /// The answer.
    fn said(self) -> Option<Result<usize, Errno>>;
}

impl Said for Answer {
    fn said(self) -> Option<Result<usize, Errno>> {
        match self {
            Self::Value(v) => Some(Ok(v)),
            Self::Error(e) => Some(Err(e)),
            Self::Kernel => None,
        }
    }
}

impl Said for Option<Result<usize, Errno>> {
    fn said(self) -> Self {
        self
    }
}

/// The socket layer's answer to a call on `fd`, or the kernel's.
#[inline]
pub(super) fn stream<S: Said>(
    fd: c_int,
    moves: Moves,
    mut f: impl FnMut(&'static Sockets) -> S,
    mut kernel: impl FnMut(Way) -> isize,
) -> isize {
    for _ in 0..TRIES {
        let away = Cell::new(None);
        let entered = Cell::new(Entered::Free);
        let said = fast::inside(|lib| {
            let since = lib.takeovers();
            let said = f(lib).said();
            if said.is_none() {
                if lib.may_come_back(fd) {
                    away.set(Some(since));
                }
                entered.set(lib.enter_kernel(fd));
            }
            said
        });
        match said.flatten() {
            None => {}
            // It went to the kernel meanwhile: how a call is made there is the layer's to say.
            Some(Err(Errno::MOVED)) => continue,
            Some(r) => return errno::to_c(r),
        }
        let entered = entered.replace(Entered::Free);
        if let Entered::Home = entered {
            continue;
        }
        let quiet = away.get().is_some();
        let r = kernel(Way { quiet });
        match entered {
            Entered::Counted(ep) => leave(&ep),
            Entered::Young(nonce) => {
                if init::lib().is_some_and(|lib| lib.leave_young(fd, nonce)) {
                    ripen(fd, nonce);
                }
            }
            Entered::Free | Entered::Home => {}
        }
        let Some(since) = away.get() else {
            return r;
        };
        let done = match moves {
            Moves::Looks if r >= 0 => was_away(fd, since),
            _ => r >= 0 || is_final(fd, moves, since),
        };
        if done {
            return r;
        }
    }
    kernel(Way { quiet: false })
}

/// What a call does that moves no bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// It only asks, and may ask once more whenever.
    Asks,
    /// It changes something. Done twice it is as done once.
    Changes,
    /// It takes what it asks for.
    Takes,
}

/// The socket layer's answer to a call on `fd`, or the kernel's. If the stack takes the connection over while the kernel is at
/// it, what the kernel says may be said of a dissolved socket, and what it was told may be missed by who copies it to the
/// stack: the call is made anew then.
pub(super) fn settled(
    fd: c_int,
    does: Does,
    mut f: impl FnMut(&'static Sockets) -> Answer,
    mut kernel: impl FnMut() -> isize,
) -> isize {
    for _ in 0..TRIES {
        let away = Cell::new(None);
        let said = fast::inside(|lib| {
            let since = lib.takeovers();
            let said = f(lib).said();
            match said {
                None if lib.mark(fd).is_some() => away.set(Some(since)),
                // It came back before the kernel was asked.
                None if lib.is_back(fd) && lib.takeovers() != since => {
                    return Some(Err(Errno::MOVED));
                }
                // It may have gone and come in between, with what was copied before the change.
                Some(Ok(_)) if does == Does::Changes && lib.takeovers() != since => {
                    return Some(Err(Errno::MOVED));
                }
                _ => {}
            }
            said
        });
        match said.flatten() {
            None => {}
            Some(Err(Errno::MOVED)) => continue,
            Some(r) => return errno::to_c(r),
        }
        let r = kernel();
        let Some(since) = away.get() else { return r };
        let e = errno::get();
        let asks = does == Does::Asks;
        let back = |lib: &Sockets| lib.is_back(fd) || asks && lib.takeovers() != since;
        let again = fast::inside(back).unwrap_or(false);
        errno::set(e);
        if !again {
            return r;
        }
    }
    kernel()
}

/// The kernel's call on a mark came back; `errno` is as it was then.
#[cold]
fn leave(ep: &Ep) {
    let e = errno::get();
    let _: Option<()> = fast::inside(|lib| lib.leave_kernel(ep));
    errno::set(e);
}

/// The process needs a stack from now on; `errno` is as it was.
#[cold]
fn ripen(fd: c_int, nonce: u32) {
    let e = errno::get();
    let _: Option<()> = fast::inside(|lib| lib.ripen_late(fd, nonce));
    errno::set(e);
}

/// The kernel had the connection all the while.
fn was_away(fd: c_int, since: u64) -> bool {
    fast::inside(|lib| !lib.is_back(fd) && lib.takeovers() == since).unwrap_or(true)
}

/// The kernel's call failed: is that what the program has to know? `errno` is as it was then.
#[cold]
fn is_final(fd: c_int, moves: Moves, since: u64) -> bool {
    let e = errno::get();
    let back = fast::inside(|lib| lib.came_back(fd, Errno(e), since)).unwrap_or(false);
    if !back && e == libc::EPIPE && moves == (Moves::Out { signals: true }) {
        let _: Option<()> = fast::inside(|lib| lib.os.raise_sigpipe());
    }
    errno::set(e);
    !back
}
