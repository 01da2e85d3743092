//! liburing. What is left to the kernel's rings is looked at before they see it ([`crate::uring`]); the calls go on
//! unchanged. The library's own system calls do not come through libc, so its functions are what can be seen.

use core::ffi::{c_int, c_void};

use libc::{sigset_t, size_t};

use crate::{next, uring};

/// Functions that hand the requests in the program's half of the submission queue to the kernel.
macro_rules! submits {
    ($($(#[$m:meta])* fn $name:ident(ring $(, $arg:ident: $ty:ty)* $(,)?);)*) => {
        $(
            $(#[$m])*
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name(ring: *mut c_void $(, $arg: $ty)*) -> c_int {
                // SAFETY: liburing's ring, as the contract says.
                unsafe { uring::before_submit(ring) };
                // SAFETY: passed on unchanged.
                unsafe { next::$name(ring $(, $arg)*) }
            }
        )*
    };
}

submits! {
    fn io_uring_submit(ring);
    fn io_uring_submit_and_wait(ring, wait: u32);
    fn io_uring_submit_and_get_events(ring);
    fn io_uring_submit_and_wait_timeout(
        ring, cqe: *mut *mut c_void, wait: u32, timeout: *mut c_void, mask: *mut sigset_t,
    );
    /// On kernels before 5.11 the timeout is a request, which is submitted with all others.
    fn io_uring_wait_cqes(ring, cqe: *mut *mut c_void, wait: u32, timeout: *mut c_void, mask: *mut sigset_t);
    /// The same.
    fn io_uring_wait_cqe_timeout(ring, cqe: *mut *mut c_void, timeout: *mut c_void);
}

/// Functions that leave files to a ring.
macro_rules! registers {
    ($(fn $name:ident($files:ident, $count:ident; $($arg:ident: $ty:ty),* $(,)?);)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> c_int {
                // SAFETY: an array of so many descriptors, as the contract says.
                unsafe { uring::before_keeping($files, $count) };
                // SAFETY: passed on unchanged.
                unsafe { next::$name($($arg),*) }
            }
        )*
    };
}

registers! {
    fn io_uring_register_files(files, count; ring: *mut c_void, files: *const c_int, count: u32);
    fn io_uring_register_files_tags(
        files, count; ring: *mut c_void, files: *const c_int, tags: *const u64, count: u32,
    );
    fn io_uring_register_files_update(
        files, count; ring: *mut c_void, first: u32, files: *const c_int, count: u32,
    );
    fn io_uring_register_files_update_tag(
        files, count; ring: *mut c_void, first: u32, files: *const c_int, tags: *const u64, count: u32,
    );
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn io_uring_setup(entries: u32, params: *mut c_void) -> c_int {
    // SAFETY: passed on unchanged.
    let ring = unsafe { next::io_uring_setup(entries, params) };
    // SAFETY: the kernel has filled the parameters in when it made a ring.
    unsafe { uring::made(ring, params.cast()) };
    ring
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn io_uring_enter(
    ring: u32,
    submit: u32,
    wait: u32,
    flags: u32,
    mask: *mut sigset_t,
) -> c_int {
    uring::before_enter(ring as c_int, submit, flags);
    // SAFETY: passed on unchanged.
    unsafe { next::io_uring_enter(ring, submit, wait, flags, mask) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn io_uring_enter2(
    ring: u32,
    submit: u32,
    wait: u32,
    flags: u32,
    mask: *mut sigset_t,
    size: size_t,
) -> c_int {
    uring::before_enter(ring as c_int, submit, flags);
    // SAFETY: passed on unchanged.
    unsafe { next::io_uring_enter2(ring, submit, wait, flags, mask, size) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn io_uring_register(
    ring: u32,
    what: u32,
    arg: *const c_void,
    count: u32,
) -> c_int {
    // SAFETY: the argument is what the operation wants, as the contract says.
    unsafe { uring::before_register(what, arg.cast(), count) };
    // SAFETY: passed on unchanged.
    unsafe { next::io_uring_register(ring, what, arg, count) }
}
