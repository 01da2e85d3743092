//! System calls without libc: nothing here touches `errno`, calls an interposed symbol or is a cancellation point.
//! Only instructions and numbers; what a call means is in `os_linux.rs`.

use flyover_sockets::Errno;

/// Makes system call `nr`.
///
/// # Safety
/// The arguments must be what the kernel expects for `nr`: pointers must be valid for what the call reads or writes.
#[cfg(target_arch = "x86_64")]
#[inline]
pub unsafe fn raw(nr: libc::c_long, a: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the x86-64 system call convention (Linux ABI, "AMD64 Linux Kernel Conventions"): rcx and r11 are
    // clobbered, everything else is kept; the caller answers for the arguments.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") nr as isize => ret,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    ret
}

/// Makes system call `nr`.
///
/// # Safety
/// The arguments must be what the kernel expects for `nr`: pointers must be valid for what the call reads or writes.
#[cfg(target_arch = "aarch64")]
#[inline]
pub unsafe fn raw(nr: libc::c_long, a: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the arm64 system call convention (number in x8, arguments x0-x5, result x0); the caller answers for the
    // arguments.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") nr,
            inlateout("x0") a[0] as isize => ret,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
            options(nostack)
        );
    }
    ret
}

/// As [`raw`], with the kernel's negative numbers turned into [`Errno`].
///
/// # Safety
/// As [`raw`].
#[inline]
pub unsafe fn call(nr: libc::c_long, a: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: passed on to our caller.
    let r = unsafe { raw(nr, a) };
    if (-4095..0).contains(&r) {
        Err(Errno(-r as i32))
    } else {
        Ok(r as usize)
    }
}
