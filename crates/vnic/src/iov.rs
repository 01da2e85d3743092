//! Scatter/gather system calls over private buffers and shared windows.
//!
//! No Rust slice is ever made of shared memory: an I/O vector is an address and a length for the kernel.

use core::mem::MaybeUninit;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use flyover_shm::ShmBytes;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};

/// Most parts of one frame: two private buffers and 512 KiB of 4 KiB windows.
const MAX_PARTS: usize = 2 + 128;

/// An I/O vector list on the stack.
pub(crate) struct Parts<'a> {
    parts: [MaybeUninit<libc::iovec>; MAX_PARTS],
    used: usize,
    bytes: usize,
    memory: core::marker::PhantomData<&'a mut [u8]>,
}

impl<'a> Parts<'a> {
    pub(crate) fn new() -> Self {
        Self {
            parts: [const { MaybeUninit::uninit() }; MAX_PARTS],
            used: 0,
            bytes: 0,
            memory: core::marker::PhantomData,
        }
    }

    /// Bytes in all parts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn push(&mut self, base: *mut u8, len: usize) -> bool {
        let Some(part) = self.parts.get_mut(self.used) else {
            return false;
        };
        let _ = part.write(libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        });
        self.used += 1;
        self.bytes = self.bytes.saturating_add(len);
        true
    }

    /// Adds bytes to send. True unless the list is full.
    pub(crate) fn source(&mut self, bytes: &'a [u8]) -> bool {
        self.push(bytes.as_ptr().cast_mut(), bytes.len())
    }

    /// Adds a buffer to receive into. True unless the list is full.
    pub(crate) fn sink(&mut self, bytes: &'a mut [u8]) -> bool {
        self.push(bytes.as_mut_ptr(), bytes.len())
    }

    /// Adds shared windows, to send from or to receive into. True when all found room. Windows that follow one another
    /// in memory become one part: the kernel copies long parts faster than short ones (43 against 57 Gb/s with 4 KiB
    /// and 64 KiB over veth).
    pub(crate) fn windows(&mut self, windows: &[ShmBytes<'a>]) -> bool {
        let mut rest = windows.iter();
        let Some(first) = rest.next() else {
            return true;
        };
        let (mut base, mut len) = (first.as_ptr(), first.len());
        for w in rest {
            if base.wrapping_add(len) == w.as_ptr() {
                len += w.len();
                continue;
            }
            if !self.push(base, len) {
                return false;
            }
            (base, len) = (w.as_ptr(), w.len());
        }
        self.push(base, len)
    }

    /// `sendmsg`, not blocking, to where the socket is bound.
    pub(crate) fn send(&self, fd: BorrowedFd<'_>) -> Result<usize, Errno> {
        // SAFETY: std guarantees that IoSlice has the layout of iovec; the first `used` entries are
        // written, and the memory they name lives for 'a. Only the kernel reads through them.
        let iov: &[IoSlice<'_>] =
            unsafe { core::slice::from_raw_parts(self.parts.as_ptr().cast(), self.used) };
        sendmsg(
            fd,
            iov,
            &mut SendAncillaryBuffer::default(),
            SendFlags::DONTWAIT,
        )
    }

    /// `recvmsg`, not blocking. Returns the message's full length, which may exceed the parts.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>) -> Result<usize, Errno> {
        // SAFETY: as in send(), for IoSliceMut; sinks are borrowed mutably for 'a, windows are shared
        // memory that anybody may write.
        let iov: &mut [IoSliceMut<'_>] =
            unsafe { core::slice::from_raw_parts_mut(self.parts.as_mut_ptr().cast(), self.used) };
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        Ok(recvmsg(fd, iov, &mut RecvAncillaryBuffer::default(), flags)?.bytes)
    }
}
