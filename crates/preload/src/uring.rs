//! Programs that use `io_uring(7)` on sockets: the kernel carries requests out on the kernel socket behind the
//! descriptor, so the socket is handed over before the kernel sees the first request that names it.
//!
//! Two kinds of programs can be seen: those that call liburing as a shared library, whose functions are looked at
//! (`export/uring.rs`), and those that make the system calls through libc's `syscall` (the Rust crates do), whose
//! ring is mapped here once more for as long as it takes to read it. What is not seen: liburing linked statically, which
//! makes its system calls by itself; and requests on a ring with `IORING_SETUP_SQPOLL` that was made by system
//! calls, because the kernel reads them without a call.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::fast;

const SETUP_SQPOLL: u32 = 1 << 1;
const SETUP_SQE128: u32 = 1 << 10;
const SETUP_NO_SQARRAY: u32 = 1 << 16;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const FIXED_FILE: u8 = 1;
const OFF_SQES: i64 = 0x1000_0000;
const FD_IN_FIXED: u32 = 1 << 31;
/// Requests beyond their descriptor that are about others (`linux/io_uring.h`).
mod op {
    pub const FILES_UPDATE: u8 = 20;
    pub const EPOLL_CTL: u8 = 29;
    pub const SPLICE: u8 = 30;
    pub const TEE: u8 = 33;
}

/// A request as the kernel reads it (`struct io_uring_sqe`), as far as descriptors are concerned.
#[repr(C)]
struct Request {
    opcode: u8,
    flags: u8,
    _ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    op_flags: u32,
    _user_data: u64,
    _more: u32,
    splice_fd_in: i32,
    _rest: [u64; 2],
}

/// `struct io_uring_sq` of liburing 2, followed by as much of `struct io_uring` as is needed.
#[repr(C)]
struct Ring {
    _khead: *const u32,
    _ktail: *const u32,
    kring_mask: *const u32,
    _pointers: [*const u32; 4],
    sqes: *const Request,
    sqe_head: u32,
    sqe_tail: u32,
    _ring: [usize; 2],
    ring_mask: u32,
    _ring_entries: u32,
    _pad: [u32; 2],
    _cq: [usize; 11],
    flags: u32,
}

/// `struct io_uring_params`.
#[repr(C)]
pub struct Params {
    sq_entries: u32,
    _cq_entries: u32,
    flags: u32,
    _more: [u32; 7],
    sq_head: u32,
    sq_tail: u32,
    sq_mask: u32,
    _sq: [u32; 3],
    sq_array: u32,
}

/// One descriptor is about to be used by a ring.
fn give(fd: c_int) {
    if fd >= 0 && !fast::is_kernel(fd) {
        let _: Option<()> = fast::inside(|lib| lib.give_to_ring(fd));
    }
}

fn give_all() {
    let _: Option<()> = fast::inside(flyover_sockets::Sockets::give_all_to_rings);
}

/// # Safety
/// A request of a submission queue, filled in.
unsafe fn look_at(request: &Request) {
    if request.flags & FIXED_FILE == 0 {
        give(request.fd);
    }
    match request.opcode {
        op::EPOLL_CTL => give(request.off as c_int),
        op::SPLICE | op::TEE if request.op_flags & FD_IN_FIXED == 0 => give(request.splice_fd_in),
        // SAFETY: such a request's address and length are an array of descriptors.
        op::FILES_UPDATE => unsafe { before_keeping(request.addr as *const _, request.len) },
        _ => {}
    }
}

/// liburing is about to hand what the program has filled in to the kernel.
///
/// # Safety
/// `ring` is liburing's, or null.
pub unsafe fn before_submit(ring: *const c_void) {
    // SAFETY: liburing's structure begins so in all versions of its interface 2.
    let Some(ring) = (unsafe { ring.cast::<Ring>().as_ref() }) else {
        return;
    };
    let mask = match ring.ring_mask {
        // SAFETY: before 2.3 only the pointer is there; liburing set it when it mapped the ring.
        0 if !ring.kring_mask.is_null() => unsafe { ring.kring_mask.read() },
        mask => mask,
    };
    let step = 1 + usize::from(ring.flags & SETUP_SQE128 != 0);
    let mut at = ring.sqe_head;
    while at != ring.sqe_tail && !ring.sqes.is_null() {
        // SAFETY: the queue has `mask` + 1 requests of this size; those before the tail are filled in.
        unsafe { look_at(&*ring.sqes.add((at & mask) as usize * step)) };
        at = at.wrapping_add(1);
    }
}

/// # Safety
/// `files` are so many descriptors, or null.
pub unsafe fn before_keeping(files: *const c_int, count: u32) {
    if files.is_null() {
        return;
    }
    for i in 0..count as usize {
        // SAFETY: as our contract says.
        give(unsafe { files.add(i).read() });
    }
}

/// A ring that was made by a system call of the program's.
struct Known {
    /// Its descriptor + 1; 0: none.
    fd: AtomicI32,
    words: [AtomicU32; 6],
}

/// Rings by system calls that one program has at a time, as a rule; of others everything is handed over.
static KNOWN: [Known; 64] = [const {
    Known {
        fd: AtomicI32::new(0),
        words: [const { AtomicU32::new(0) }; 6],
    }
}; 64];

/// A ring was made; its descriptor may have been another one's before.
///
/// # Safety
/// Where `ring` is not negative, `params` are what the kernel filled in.
pub unsafe fn made(ring: c_int, params: *const Params) {
    if ring < 0 || params.is_null() {
        return;
    }
    // SAFETY: as our contract says.
    let p = unsafe { &*params };
    let words = [
        p.sq_entries,
        p.flags,
        p.sq_head,
        p.sq_tail,
        p.sq_mask,
        p.sq_array,
    ];
    let own = KNOWN
        .iter()
        .find(|k| k.fd.load(Ordering::Relaxed) == ring + 1);
    let known = own.or_else(|| {
        KNOWN.iter().find(|k| {
            let taken =
                k.fd.compare_exchange(0, -1, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok()
        })
    });
    if let Some(known) = known {
        for (to, word) in known.words.iter().zip(words) {
            to.store(word, Ordering::Relaxed);
        }
        known.fd.store(ring + 1, Ordering::Release);
    }
    if p.flags & SETUP_SQPOLL != 0 {
        give_all();
    }
}

/// The kernel is about to take `submit` requests.
pub fn before_enter(ring: c_int, submit: u32, flags: u32) {
    if submit == 0 {
        return;
    }
    let known = KNOWN
        .iter()
        .find(|k| k.fd.load(Ordering::Acquire) == ring + 1)
        .filter(|_| flags & ENTER_REGISTERED_RING == 0);
    let read = known.is_some_and(|known| {
        let words = known.words.each_ref().map(|w| w.load(Ordering::Relaxed));
        read_queue(ring, words)
    });
    if !read {
        give_all();
    }
}

/// Looks at what is in the submission queue; false: it cannot be mapped.
fn read_queue(ring: c_int, [entries, flags, head, tail, mask, array]: [u32; 6]) -> bool {
    let size = 1 + usize::from(flags & SETUP_SQE128 != 0);
    let has_array = flags & SETUP_NO_SQARRAY == 0;
    let end = if has_array { array + 4 * entries } else { 0 };
    let end = end.max(head + 4).max(tail + 4).max(mask + 4);
    let Some(rings) = Mapped::new(ring, end as usize, 0) else {
        return false;
    };
    let bytes = entries as usize * size * size_of::<Request>();
    let Some(requests) = Mapped::new(ring, bytes, OFF_SQES) else {
        return false;
    };
    let (mask, tail) = (rings.word(mask), rings.word(tail));
    let mut at = rings.word(head);
    for _ in 0..entries {
        if at == tail {
            break;
        }
        let index = match has_array {
            true => rings.word(array + 4 * (at & mask)),
            false => at & mask,
        };
        if index < entries {
            let request = requests.at.cast::<Request>();
            // SAFETY: below the number of requests that are mapped; the program has filled it in.
            unsafe { look_at(&*request.add(index as usize * size)) };
        }
        at = at.wrapping_add(1);
    }
    true
}

/// A part of a ring, mapped to be read.
struct Mapped {
    at: *const u8,
    bytes: usize,
}

impl Mapped {
    fn new(ring: c_int, bytes: usize, offset: i64) -> Option<Self> {
        let (prot, flags) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(core::ptr::null_mut(), bytes, prot, flags, ring, offset) };
        (at != libc::MAP_FAILED).then_some(Self {
            at: at.cast_const().cast(),
            bytes,
        })
    }

    /// The word at this offset, which must be within what was asked for.
    fn word(&self, offset: u32) -> u32 {
        debug_assert!(offset as usize + 4 <= self.bytes);
        // SAFETY: mapped; aligned as the kernel lays the words out; others write it only whole.
        unsafe { AtomicU32::from_ptr(self.at.add(offset as usize).cast_mut().cast()) }
            .load(Ordering::Acquire)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: made by `new`; nothing refers to it any longer.
        unsafe { libc::munmap(self.at.cast_mut().cast(), self.bytes) };
    }
}

/// `io_uring_register(2)` of files (`linux/io_uring.h`): the array is the argument itself, or stands in a structure.
///
/// # Safety
/// `arg` and `count` are what the operation wants.
pub unsafe fn before_register(what: u32, arg: *const u64, count: u32) {
    const FILES: u32 = 2;
    const FILES_UPDATE: u32 = 6;
    const FILES2: u32 = 13;
    const FILES_UPDATE2: u32 = 14;
    if arg.is_null() {
        return;
    }
    // SAFETY: `struct io_uring_files_update` has the array's address second, `struct io_uring_rsrc_register` its length
    // first and the address third, `struct io_uring_rsrc_update2` the address second and the length fourth.
    let (files, count) = unsafe {
        match what {
            FILES => (arg as u64, count),
            FILES_UPDATE => (arg.add(1).read(), count),
            FILES2 => (arg.add(2).read(), arg.cast::<u32>().read()),
            FILES_UPDATE2 => (arg.add(1).read(), arg.add(3).cast::<u32>().read()),
            _ => return,
        }
    };
    // SAFETY: as our contract says.
    unsafe { before_keeping(files as *const c_int, count) };
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Request>() == 64 && offset_of!(Request, splice_fd_in) == 44);
    assert!(offset_of!(Ring, sqe_tail) == 68 && offset_of!(Ring, ring_mask) == 88);
    assert!(offset_of!(Ring, flags) == 192);
    assert!(offset_of!(Params, sq_head) == 40 && offset_of!(Params, sq_array) == 64);
};
