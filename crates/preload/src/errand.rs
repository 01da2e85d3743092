//! `flyover handover` and `flyover takeover` work through a program of its own: it is given the sockets of others
//! (`pidfd_getfd(2)`) and the memory of their stack, attaches to that stack as any process does, moves the sockets, says
//! what became of each, and ends before its `main`. The owners of the sockets notice at their next call.

use flyover_sockets::life::takeover::TakeOver;
use flyover_sockets::os::Os as _;
use flyover_sockets::policy::Reason;
use flyover_sockets::process::Fd;
use flyover_sockets::{Sockets, enter};

use crate::os_linux::Linux;
use crate::{errno, link, next};

/// The order, in the environment: what to do, the descriptor of the stack's memory, then the sockets, each as the
/// descriptor of a process and a number in it, by commas. What to do: `out` or `in`, and with a `+` all sockets that are made later as well.
pub const VAR: &[u8] = b"_FLYOVER_HANDOVER";

/// What this process is for, if it is for that.
#[derive(Debug)]
pub struct Errand {
    out: bool,
    switch: bool,
    /// Descriptors of processes, and numbers in them.
    sockets: Vec<(i32, i32)>,
}

/// Reads the order; the stack is then the one whose memory came with it.
pub fn take(order: &[u8]) -> Option<Errand> {
    let (errand, memory) = Errand::read(core::str::from_utf8(order).ok()?)?;
    link::use_memory(memory);
    Some(errand)
}

impl Errand {
    fn read(text: &str) -> Option<(Self, i32)> {
        let mut words = text.split(',');
        let (out, switch) = match words.next()? {
            "out" => (true, false),
            "out+" => (true, true),
            "in" => (false, false),
            "in+" => (false, true),
            _ => return None,
        };
        let memory = words.next()?.parse().ok()?;
        let pair = |text: &str| {
            let (process, fd) = text.split_once(':')?;
            Some((process.parse().ok()?, fd.parse().ok()?))
        };
        let sockets = words.filter_map(pair).collect();
        let errand = Self {
            out,
            switch,
            sockets,
        };
        Some((errand, memory))
    }

    /// Does it: one line of output for each socket, in their order. Ends the process.
    pub fn run(self, lib: &'static Sockets) -> ! {
        let inside = enter::enter();
        let attached = lib.attach().is_ok();
        // What it makes a place for is held by others.
        lib.share();
        if self.switch {
            // First: nothing that is made meanwhile is left out.
            lib.switch(self.out);
        }
        let mut all: Vec<Option<String>> = self.sockets.iter().map(|_| None).collect();
        // On the way back listeners come last: their filters cover connections that are still the kernel's.
        for listeners in [false, true] {
            for ((process, number), said) in self.sockets.iter().zip(&mut all) {
                if said.is_none() {
                    *said = self.one(lib, attached, (*process, *number), listeners);
                }
            }
        }
        for said in all {
            let mut line = said.unwrap_or_else(|| "none".to_owned());
            line.push('\n');
            let _ = Linux.write(1, line.as_bytes());
        }
        drop(inside);
        // SAFETY: ends the process.
        unsafe { crate::sys::raw(libc::SYS_exit_group, [0; 6]) };
        std::process::abort()
    }
}

impl Errand {
    /// What became of one socket; `None` for a listener whose turn has not come.
    fn one(
        &self,
        lib: &Sockets,
        attached: bool,
        (process, number): (i32, i32),
        listeners: bool,
    ) -> Option<String> {
        let fd = match fetch(process, number) {
            _ if !attached => return Some("unreachable".to_owned()),
            Ok(fd) => fd,
            Err(libc::EBADF | libc::ESRCH) => return Some("none".to_owned()),
            Err(_) => return Some("unreachable".to_owned()),
        };
        let listens = lib.int_option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == Ok(1);
        let said = if !is_inet(lib, fd) {
            Some("none".to_owned())
        } else if self.out {
            Some(hand_over(lib, fd))
        } else {
            (listens == listeners || listeners).then(|| take_over(lib, fd))
        };
        // At once: as long as it is held here, its owner's close is not the last one.
        let _ = Linux.close(fd);
        said
    }
}

/// A socket out of another process.
fn fetch(process: i32, number: i32) -> Result<i32, i32> {
    // SAFETY: plain numbers.
    let fd = unsafe { next::pidfd_getfd(process, number, 0) };
    if fd < 0 { Err(errno::get()) } else { Ok(fd) }
}

fn is_inet(lib: &Sockets, fd: i32) -> bool {
    let domain = lib.int_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN);
    matches!(domain, Ok(libc::AF_INET | libc::AF_INET6))
}

fn hand_over(lib: &Sockets, fd: i32) -> String {
    if lib.is_unknown_to_stack(fd) {
        return "kernel".to_owned();
    }
    lib.on_unknown(fd);
    match lib.look(fd) {
        Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => "kernel".to_owned(),
        Fd::Tcp(ep) | Fd::Udp(ep) => {
            let listens = ep.shared().tcp_state() == flyover_core::TcpState::Listen;
            let begun = Linux.now();
            match lib.needs_kernel(fd, &ep, Reason::Ordered) {
                Ok(()) if listens => "listener".to_owned(),
                Ok(()) => format!("moved {}", Linux.now().saturating_sub(begun)),
                Err(_) => "stays".to_owned(),
            }
        }
    }
}

fn take_over(lib: &Sockets, fd: i32) -> String {
    match lib.take_over(fd) {
        TakeOver::Taken(ns) => format!("taken {ns}"),
        TakeOver::Resumed => "resumed".to_owned(),
        TakeOver::Here => "here".to_owned(),
        TakeOver::Kernels(why) => format!("kernel: {why}"),
        TakeOver::Stays(why) => format!("stays: {}", why.replace('\n', " ")),
    }
}
