//! libc's resolver. Its sockets are made inside libc, mostly out of our sight; name-service modules are separate
//! libraries whose calls do come through here. While one of these functions runs, new sockets of its thread stay with
//! the kernel.

use core::ffi::{c_char, c_int, c_void};

use flyover_sockets::enter;
use libc::{addrinfo, hostent, size_t, sockaddr, socklen_t};

use crate::next;

struct Resolving;

impl Resolving {
    fn begin() -> Self {
        enter::resolver_begins();
        Self
    }
}

impl Drop for Resolving {
    fn drop(&mut self) {
        enter::resolver_ends();
    }
}

macro_rules! resolver {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty;)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> $ret {
                let _resolving = Resolving::begin();
                // SAFETY: passed on unchanged.
                unsafe { next::$name($($arg),*) }
            }
        )*
    };
}

resolver! {
    fn getaddrinfo(
        node: *const c_char, service: *const c_char, hints: *const addrinfo, res: *mut *mut addrinfo,
    ) -> c_int;
    fn getnameinfo(
        sa: *const sockaddr, len: socklen_t, host: *mut c_char, hostlen: socklen_t, serv: *mut c_char,
        servlen: socklen_t, flags: c_int,
    ) -> c_int;
    fn gethostbyname(name: *const c_char) -> *mut hostent;
    fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent;
    fn gethostbyaddr(addr: *const c_void, len: socklen_t, family: c_int) -> *mut hostent;
    fn gethostbyname_r(
        name: *const c_char, ret: *mut hostent, buf: *mut c_char, len: size_t, res: *mut *mut hostent, err: *mut c_int,
    ) -> c_int;
    fn gethostbyname2_r(
        name: *const c_char, family: c_int, ret: *mut hostent, buf: *mut c_char, len: size_t, res: *mut *mut hostent,
        err: *mut c_int,
    ) -> c_int;
}
