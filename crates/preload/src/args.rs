//! Raw arguments of C calls as typed views. The only place that looks at the application's memory through pointers.
//!
//! A view lives no longer than the call that it was an argument of; the application promises, as to the kernel, that
//! the memory stays there meanwhile. That it is there at all is probed (`fault.rs`): memory that is not is `EFAULT`.

use core::ffi::{c_int, c_void};

use flyover_sockets::Errno;
use flyover_sockets::addr::Addr;

use crate::fault;

/// `MAX_RW_COUNT` of the kernel: no call transfers more, see `read(2)`.
const MAX_COUNT: usize = 0x7fff_f000;

/// `n` readable bytes at `p`; `EFAULT` when some of them are not.
///
/// # Safety
/// What is readable of the `n` bytes at `p` must stay so during the call.
pub unsafe fn bytes<'a>(p: *const c_void, n: usize) -> Result<&'a [u8], Errno> {
    if n == 0 {
        return Ok(&[]);
    }
    let n = n.min(MAX_COUNT);
    if p.is_null() || fault::readable(p.cast(), n) < n {
        return Err(Errno::EFAULT);
    }
    // SAFETY: not null, just found to be readable, and cut to less than isize::MAX.
    Ok(unsafe { core::slice::from_raw_parts(p.cast(), n) })
}

/// The first of `n` bytes at `p` that are writable: a length beyond the end of the memory is no error before data is
/// there for it. `EFAULT` when not even the first one is.
///
/// # Safety
/// What is writable of the `n` bytes at `p` must stay so during the call.
pub unsafe fn bytes_mut<'a>(p: *mut c_void, n: usize) -> Result<&'a mut [u8], Errno> {
    if n == 0 {
        return Ok(&mut []);
    }
    let n = fault::writable(p.cast(), n.min(MAX_COUNT));
    if n == 0 {
        return Err(Errno::EFAULT);
    }
    // SAFETY: just found to be writable, so not null, and cut to less than isize::MAX.
    Ok(unsafe { core::slice::from_raw_parts_mut(p.cast(), n) })
}

/// `n` writable bytes at `p`, all of which are about to be written; `None` when they are not all there.
///
/// # Safety
/// As [`bytes_mut`], and they are written for certain.
#[inline]
pub unsafe fn bytes_to_fill<'a>(p: *mut c_void, n: usize) -> Option<&'a mut [u8]> {
    // SAFETY: passed on from our caller.
    if n == 0 || n > MAX_COUNT || unsafe { fault::writable_now(p.cast(), n) } < n {
        return None;
    }
    // SAFETY: just found to be writable, so not null, and less than isize::MAX.
    Some(unsafe { core::slice::from_raw_parts_mut(p.cast(), n) })
}

/// The socket address at `p`; `None` for a null pointer or no length.
///
/// # Safety
/// `p` must be readable for `len` bytes, or null.
pub unsafe fn addr(p: *const libc::sockaddr, len: libc::socklen_t) -> Result<Option<Addr>, Errno> {
    // Without a family there is no address.
    if p.is_null() || (len as usize) < size_of::<libc::sa_family_t>() {
        return Ok(None);
    }
    if len as usize > 128 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: as the caller promised.
    Addr::from_bytes(unsafe { bytes(p.cast(), len as usize) }?).map(Some)
}

/// Writes `a` to the buffer of `*len` bytes at `p`, cut if need be, and the full length to `*len`, as the kernel does.
///
/// # Safety
/// `len` must be null or valid; `p` null or writable for `*len` bytes.
pub unsafe fn put_addr(
    a: &Addr,
    p: *mut libc::sockaddr,
    len: *mut libc::socklen_t,
) -> Result<(), Errno> {
    if p.is_null() {
        return Ok(());
    }
    if fault::writable(len.cast(), 4) < 4 {
        return Err(Errno::EFAULT);
    }
    // SAFETY: just found to be writable; the kernel does not ask for its alignment.
    let room = unsafe { len.read_unaligned() };
    if (room as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let b = a.as_bytes();
    let n = b.len().min(room as usize);
    if n > 0 && fault::writable(p.cast(), n) < n {
        return Err(Errno::EFAULT);
    }
    // SAFETY: just found to be writable.
    unsafe { core::ptr::copy_nonoverlapping(b.as_ptr(), p.cast(), n) };
    // SAFETY: as above.
    unsafe { len.write_unaligned(b.len() as libc::socklen_t) };
    Ok(())
}

/// Vectors up to this length need no allocation.
const SMALL: usize = 16;
/// A piece of a vector is not there; not what a program gets to see: it may be that nothing reaches so far.
pub const BAD_PIECE: Errno = Errno(0);
/// `UIO_MAXIOV`.
pub const MAX_IOV: usize = 1024;

/// Runs `f` with the readable pieces of an iovec array.
///
/// # Safety
/// `iov` must point to `n` iovecs whose memory is readable.
pub unsafe fn with_pieces<R>(
    iov: *const libc::iovec,
    n: usize,
    f: impl FnOnce(&[&[u8]]) -> Result<R, Errno>,
) -> Result<R, Errno> {
    if n > MAX_IOV {
        return Err(Errno::EINVAL);
    }
    // SAFETY: probed by what it calls.
    let _ = unsafe { bytes(iov.cast(), n * size_of::<libc::iovec>()) }?;
    let mut small: [&[u8]; SMALL] = [&[]; SMALL];
    let mut large: Vec<&[u8]> = Vec::new();
    let list: &mut [&[u8]] = if n <= SMALL {
        &mut small[..n]
    } else {
        large.resize(n, &[]);
        &mut large
    };
    let mut room = MAX_COUNT;
    for (i, piece) in list.iter_mut().enumerate() {
        // SAFETY: `i < n`, so this is one of the caller's iovecs, found to be readable.
        let v = unsafe { iov.add(i).read_unaligned() };
        if v.iov_len > isize::MAX as usize {
            return Err(Errno::EINVAL);
        }
        // SAFETY: as the caller promised.
        *piece = unsafe { bytes(v.iov_base, v.iov_len.min(room)) }.map_err(|_| BAD_PIECE)?;
        room -= piece.len();
    }
    f(list)
}

/// Runs `f` with the writable pieces of an iovec array, and whether memory ended before the vector did.
///
/// # Safety
/// `iov` must point to `n` iovecs whose memory is writable and does not overlap.
pub unsafe fn with_pieces_mut<R>(
    iov: *const libc::iovec,
    n: usize,
    f: impl FnOnce(&mut [&mut [u8]], bool) -> Result<R, Errno>,
) -> Result<R, Errno> {
    if n > MAX_IOV {
        return Err(Errno::EINVAL);
    }
    // SAFETY: probed by what it calls.
    let _ = unsafe { bytes(iov.cast(), n * size_of::<libc::iovec>()) }?;
    let mut small: [&mut [u8]; SMALL] = Default::default();
    let mut large: Vec<&mut [u8]> = Vec::new();
    let list: &mut [&mut [u8]] = if n <= SMALL {
        &mut small[..n]
    } else {
        large.resize_with(n, Default::default);
        &mut large
    };
    let mut room = MAX_COUNT;
    let mut cut = false;
    for (i, piece) in list.iter_mut().enumerate() {
        // SAFETY: `i < n`, so this is one of the caller's iovecs, found to be readable.
        let v = unsafe { iov.add(i).read_unaligned() };
        if v.iov_len > isize::MAX as usize {
            return Err(Errno::EINVAL);
        }
        let want = v.iov_len.min(room);
        // SAFETY: as the caller promised.
        *piece = match unsafe { bytes_mut(v.iov_base, want) } {
            Ok(b) => b,
            // Data may not reach so far.
            Err(_) if room < MAX_COUNT => &mut [],
            Err(_) => return Err(BAD_PIECE),
        };
        room -= piece.len();
        if piece.len() < want {
            cut = true;
            break;
        }
    }
    f(list, cut)
}

/// Nanoseconds of a `timespec`; `None` for a null pointer.
///
/// # Safety
/// `p` must be null or valid.
pub unsafe fn timespec(p: *const libc::timespec) -> Result<Option<u64>, Errno> {
    if p.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promised.
    let _ = unsafe { bytes(p.cast(), size_of::<libc::timespec>()) }?;
    // SAFETY: just found to be readable.
    let t = unsafe { p.read_unaligned() };
    let (Ok(sec), Ok(nsec)) = (u64::try_from(t.tv_sec), u64::try_from(t.tv_nsec)) else {
        return Err(Errno::EINVAL);
    };
    if nsec >= 1_000_000_000 {
        return Err(Errno::EINVAL);
    }
    Ok(Some(sec.saturating_mul(1_000_000_000).saturating_add(nsec)))
}

/// Writes nanoseconds to the `timespec` at `p`.
///
/// # Safety
/// What is writable at `p` must stay so during the call.
pub unsafe fn put_timespec(p: *mut libc::timespec, ns: u64) -> Result<(), Errno> {
    let n = size_of::<libc::timespec>();
    if fault::writable(p.cast(), n) < n {
        return Err(Errno::EFAULT);
    }
    let t = libc::timespec {
        tv_sec: (ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: just found to be writable.
    unsafe { p.write_unaligned(t) };
    Ok(())
}

/// The first 64 signals of a set, as the kernel has them; `None` for a null pointer.
///
/// # Safety
/// `p` must be null or valid.
pub unsafe fn mask(p: *const libc::sigset_t) -> Option<u64> {
    if p.is_null() {
        return None;
    }
    // SAFETY: a sigset_t is at least eight bytes long and aligned for a u64 on all supported targets.
    Some(unsafe { *p.cast::<u64>() })
}

/// Milliseconds of `poll(2)` as nanoseconds; negative is for ever.
pub fn millis(ms: c_int) -> Option<u64> {
    u64::try_from(ms).ok().map(|m| m.saturating_mul(1_000_000))
}
