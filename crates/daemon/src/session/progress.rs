//! Signs of life for a client whose request takes a while.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use flyover_proto::{Deadline, Reply, send};
use rustix::io::Errno;

/// A client that waits hears of the daemon this often.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// Tells a waiting client that the daemon is still at it.
pub struct Progress<'s> {
    client: Option<(BorrowedFd<'s>, u32)>,
    last: Instant,
}

impl<'s> Progress<'s> {
    /// To the client whose request has this number.
    pub fn to(sock: BorrowedFd<'s>, seq: u32) -> Self {
        Self {
            client: Some((sock, seq)),
            last: Instant::now(),
        }
    }

    /// Nobody waits.
    pub fn none() -> Self {
        Self {
            client: None,
            last: Instant::now(),
        }
    }

    /// To be called between the steps of long work. A client that is gone does not end the work: others may wait for
    /// the same stack.
    pub fn tick(&mut self) {
        let Some((sock, seq)) = self.client else {
            return;
        };
        if self.last.elapsed() < SIGN_OF_LIFE {
            return;
        }
        self.last = Instant::now();
        let mut buf = [0; 16];
        if let Ok(len) = (Reply::Working {}).encode(seq, &mut buf) {
            let _: Result<(), Errno> = send(sock, &buf[..len], &[], Deadline::NOW);
        }
    }
}
