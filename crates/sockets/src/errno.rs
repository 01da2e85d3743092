//! Linux error numbers as a type of their own. Every verb of this crate answers `Result<_, Errno>`; the preload
//! turns the error into `-1` and `errno`.

/// A Linux error number (`errno(3)`), always positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident),* $(,)?) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "`, see `errno(3)`.")]
            pub const $name: Self = Self(libc::$name);)*
        }
    };
}

errnos! {
    EAGAIN, EALREADY, EBADF, EBUSY, ECONNABORTED, ECONNREFUSED, ECONNRESET, EDESTADDRREQ, EEXIST, EFAULT, EINPROGRESS,
    EINTR, EINVAL, EIO, EISCONN, ELOOP, EMFILE, EMSGSIZE, ENETUNREACH, ENOBUFS, ENOENT, ENOMEM, ENOPROTOOPT, ENOSYS,
    ENOTCONN, ENOTSOCK, EOPNOTSUPP, EPERM, EPIPE, ETIMEDOUT, EAFNOSUPPORT, EADDRINUSE, EADDRNOTAVAIL, EDOM, ENODEV, ENETDOWN,
    EHOSTUNREACH, EACCES, EPROTO, ENOTTY, ESPIPE, ENOSPC,
}

impl Errno {
    /// The kernel has the socket now, the call is to be made there. Never given to a program.
    pub const MOVED: Self = Self(flyover_core::Error::MOVED);
}

impl From<flyover_core::Error> for Errno {
    fn from(e: flyover_core::Error) -> Self {
        Self(e.errno())
    }
}
