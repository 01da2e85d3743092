//! A handover whose daemon died before it answered. What it left is seen on the kernel socket; whatever that is, the
//! connection is afterwards in one place.

use flyover_core::Handover;

use crate::addr::Addr;
use crate::attach::DaemonError;
use crate::errno::Errno;
use crate::process::{Ep, Sockets};

/// `TCP_CLOSE` of the kernel.
const CLOSED: u8 = 7;
/// How often the next daemon is looked for, and the pause in between, ns: 3 s.
const LOOKS: u32 = 60;
const PAUSE_NS: u64 = 50_000_000;

/// What the daemon left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    /// An unconnected socket.
    Nothing,
    /// A connection in repair mode: it has sent and received nothing.
    Half,
    /// A connection that lives, but for what the daemon had still to send.
    Alive,
}

impl Sockets {
    /// Asks for the handover once more, if the kernel has the connection; otherwise the stack keeps it.
    ///
    /// # Errors
    /// The stack keeps it, or nobody can tell where it stands: then the kernel has reset it.
    pub(super) fn give_again(
        &self,
        fd: i32,
        ep: &Ep,
        image: &Handover,
    ) -> Result<u32, DaemonError> {
        // Half a connection, too: its packets may go to the kernel already, which would answer them with a reset as soon as
        // the socket is unconnected. Whether they do only a daemon knows.
        if self.left(fd) == Left::Nothing {
            return Err(DaemonError::Absent);
        }
        for _ in 0..LOOKS {
            match self.give(fd, ep, image) {
                Ok(filter) => return Ok(filter),
                Err(DaemonError::Refused | DaemonError::Conflict) => break,
                Err(DaemonError::Absent) => {
                    let _: Result<usize, Errno> = self.os.ppoll(&mut [], Some(PAUSE_NS));
                }
            }
        }
        let left = self.left(fd);
        self.disconnect(fd);
        match left {
            Left::Nothing | Left::Half => Err(DaemonError::Absent),
            // Nobody can finish it: it ends for both sides, and the program finds that in the kernel.
            Left::Alive => Ok(0),
        }
    }

    fn left(&self, fd: i32) -> Left {
        let mut state = [0u8; 1];
        let info = self
            .os
            .getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut state);
        match info {
            Ok(_) if state[0] == CLOSED => Left::Nothing,
            Err(_) => Left::Nothing,
            Ok(_) if self.int_option(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR) == Ok(1) => {
                Left::Half
            }
            Ok(_) => Left::Alive,
        }
    }

    /// connect(2) with `AF_UNSPEC`: silent in repair mode, else a reset.
    fn disconnect(&self, fd: i32) {
        let _: Result<(), Errno> = self.os.connect(fd, &Addr::unspec());
    }
}
