//! `flyover handover` works through a program of its own: it is given the sockets of others (`pidfd_getfd(2)`) and the
//! memory of their stack, attaches to that stack as any process does, hands the sockets over to the kernel, says what
//! became of each, and ends before its `main`. The owners of the sockets find the mark at their next call.

use flyover_sockets::os::Os as _;
use flyover_sockets::policy::Reason;
use flyover_sockets::process::Fd;
use flyover_sockets::{Sockets, enter};

use crate::os_linux::Linux;
use crate::{environ, link};

/// The order, in the environment: the descriptor of the stack's memory, then those of the sockets, by commas.
const VAR: &[u8] = b"_FLYOVER_HANDOVER";

/// What this process is for, if it is for that.
#[derive(Debug)]
pub struct Errand {
    sockets: Vec<i32>,
}

/// Looks for the order; the stack is then the one whose memory came with it.
pub fn take() -> Option<Errand> {
    let mut list: Option<Vec<i32>> = None;
    environ::each(|name, value| {
        if name == VAR {
            let text = core::str::from_utf8(value).unwrap_or_default();
            list = Some(text.split(',').filter_map(|n| n.parse().ok()).collect());
        }
    });
    let list = list?;
    let (memory, sockets) = list.split_first()?;
    link::use_memory(*memory);
    Some(Errand {
        sockets: sockets.to_vec(),
    })
}

impl Errand {
    /// Does it: one line of output for each socket, in their order. Ends the process.
    pub fn run(self, lib: &'static Sockets) -> ! {
        let inside = enter::enter();
        let attached = lib.attach().is_ok();
        for fd in self.sockets {
            let said: &[u8] = if attached {
                one(lib, fd)
            } else {
                b"unreachable\n"
            };
            let _ = Linux.write(1, said);
        }
        drop(inside);
        // SAFETY: ends the process.
        unsafe { crate::sys::raw(libc::SYS_exit_group, [0; 6]) };
        std::process::abort()
    }
}

fn one(lib: &Sockets, fd: i32) -> &'static [u8] {
    lib.on_unknown(fd);
    match lib.look(fd) {
        Fd::Kernel | Fd::Fresh(_) | Fd::Epoll(_) => b"kernel\n",
        Fd::Tcp(ep) | Fd::Udp(ep) => {
            let listens = ep.shared().tcp_state() == flyover_core::TcpState::Listen;
            match lib.needs_kernel(fd, &ep, Reason::Ordered) {
                Ok(()) if listens => b"listener\n",
                Ok(()) => b"moved\n",
                Err(_) => b"stays\n",
            }
        }
    }
}
