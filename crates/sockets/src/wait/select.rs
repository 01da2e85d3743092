//! `select(2)` as a `poll` over the bits of three sets.

use core::cell::Cell;

use crate::errno::Errno;
use crate::os::PollFd;
use crate::process::Sockets;

/// An `fd_set` to be read.
#[derive(Clone, Copy, Debug)]
pub struct Bits<'a>(pub &'a [u64]);

/// An `fd_set` to be changed; empty for a set that was not given.
#[derive(Debug)]
pub struct BitsMut<'a>(pub &'a mut [u64]);

impl<'a> Bits<'a> {
    /// The descriptors below `n` that are in the set.
    pub fn iter(self, n: i32) -> impl Iterator<Item = i32> + use<'a> {
        let words = self.0;
        (0..n.max(0)).filter(move |fd| has(words, *fd))
    }
}

fn has(words: &[u64], fd: i32) -> bool {
    words
        .get(fd as usize / 64)
        .is_some_and(|w| w >> (fd % 64) & 1 != 0)
}

fn put(words: &mut [u64], fd: i32, on: bool) {
    if let Some(w) = words.get_mut(fd as usize / 64) {
        let bit = 1u64 << (fd % 64);
        *w = if on { *w | bit } else { *w & !bit };
    }
}

/// The three sets of a `select`.
#[derive(Debug)]
pub struct SelectSets<'a> {
    /// Readable.
    pub read: BitsMut<'a>,
    /// Writable.
    pub write: BitsMut<'a>,
    /// Exceptional: urgent data.
    pub except: BitsMut<'a>,
}

impl SelectSets<'_> {
    /// What is asked for.
    pub fn copy(&self) -> [Vec<u64>; 3] {
        [
            self.read.0.to_vec(),
            self.write.0.to_vec(),
            self.except.0.to_vec(),
        ]
    }

    /// Asks for it again.
    pub fn put(self, copy: &[Vec<u64>; 3]) {
        for (to, from) in [self.read.0, self.write.0, self.except.0]
            .into_iter()
            .zip(copy)
        {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
    }
}

/// The masks of the kernel's `select` (fs/select.c): what counts as readable, writable, exceptional.
/// A descriptor that was closed meanwhile counts as all of them.
const READ: i16 = libc::POLLRDNORM
    | libc::POLLRDBAND
    | libc::POLLIN
    | libc::POLLHUP
    | libc::POLLERR
    | libc::POLLNVAL;
const WRITE: i16 =
    libc::POLLWRBAND | libc::POLLWRNORM | libc::POLLOUT | libc::POLLERR | libc::POLLNVAL;
const EXCEPT: i16 = libc::POLLPRI | libc::POLLNVAL;
/// What is shown without being asked for.
const ALWAYS: i16 = libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;

impl Sockets {
    /// `select(2)` and `pselect(2)`; `None`: no member is accelerated. On success the sets hold what is ready.
    pub fn select(
        &self,
        n: i32,
        sets: SelectSets<'_>,
        timeout: Option<u64>,
    ) -> Option<Result<usize, Errno>> {
        let SelectSets {
            read,
            write,
            except,
        } = sets;
        let mut fds: Vec<PollFd> = Vec::new();
        for fd in 0..n.max(0) {
            let mut events = 0;
            for (set, bits) in [(&read, READ), (&write, WRITE), (&except, EXCEPT)] {
                if has(set.0, fd) {
                    events |= bits & !ALWAYS;
                }
            }
            if events != 0 {
                fds.push(PollFd {
                    fd,
                    events,
                    revents: 0,
                });
            }
        }
        let shows = |p: &PollFd| {
            p.revents & libc::POLLNVAL != 0
                || [(&read, READ), (&write, WRITE), (&except, EXCEPT)]
                    .iter()
                    .any(|(set, bits)| p.revents & bits != 0 && has(set.0, p.fd))
        };
        let slept = Cell::new(false);
        let r = self.poll_for(&mut fds, timeout, &slept, shows)?;
        if let Err(e) = r {
            return Some(Err(e));
        }
        if !slept.get() && fds.iter().any(|p| p.revents & libc::POLLNVAL != 0) {
            return Some(Err(Errno::EBADF));
        }
        let mut count = 0;
        for (set, bits) in [(read, READ), (write, WRITE), (except, EXCEPT)] {
            for p in &fds {
                if has(set.0, p.fd) {
                    let on = p.revents & bits != 0;
                    put(set.0, p.fd, on);
                    count += usize::from(on);
                }
            }
        }
        Some(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_beyond_the_first_word() {
        let mut w = [0u64; 2];
        put(&mut w, 3, true);
        put(&mut w, 64, true);
        assert_eq!(Bits(&w).iter(128).collect::<Vec<_>>(), [3, 64]);
        assert_eq!(Bits(&w).iter(64).collect::<Vec<_>>(), [3]);
        put(&mut w, 3, false);
        assert!(!has(&w, 3) && !has(&w, 500));
    }
}
