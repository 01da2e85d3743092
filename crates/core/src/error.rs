//! What a user verb can answer besides success. Each variant is one Linux errno; the mapping is here and
//! nowhere else.

/// Why a call on a socket did not succeed. [`Error::errno`] gives the number that Linux returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Nothing to do now; a blocking caller waits (`EAGAIN`).
    WouldBlock,
    /// The connection attempt goes on (`EINPROGRESS`).
    InProgress,
    /// A connection attempt is already under way (`EALREADY`).
    Already,
    /// Already connected (`EISCONN`).
    IsConnected,
    /// Not connected (`ENOTCONN`).
    NotConnected,
    /// The sending direction is shut down (`EPIPE`).
    BrokenPipe,
    /// The peer reset the connection (`ECONNRESET`).
    Reset,
    /// The peer refused the connection (`ECONNREFUSED`).
    Refused,
    /// The connection was aborted here (`ECONNABORTED`).
    Aborted,
    /// The peer did not answer (`ETIMEDOUT`).
    TimedOut,
    /// No route (`EHOSTUNREACH`).
    HostUnreachable,
    /// No route to the network (`ENETUNREACH`).
    NetUnreachable,
    /// Datagram larger than can be sent (`EMSGSIZE`).
    MessageSize,
    /// A table is full (`ENOBUFS`).
    NoBuffers,
    /// The 4-tuple or port is in use (`EADDRINUSE`).
    AddressInUse,
    /// The call does not fit the socket's state or its arguments (`EINVAL`).
    Invalid,
    /// No destination given (`EDESTADDRREQ`).
    DestinationRequired,
    /// The socket slot was re-used or freed meanwhile (`EBADF`).
    Stale,
    /// The stack's memory holds what cannot be (`EIO`).
    Corrupt,
    /// Not supported on this kind of socket (`EOPNOTSUPP`).
    NotSupported,
    /// The kernel has the connection now (handed over): the call is to be made there. No errno of Linux.
    Moved,
    /// The control plane is in the middle of a change: ask again soon (`EBUSY`, which no program sees).
    Busy,
    /// Another errno that was recorded on the socket.
    Errno(i32),
}

impl Error {
    /// Number of [`Error::Moved`]: above Linux's largest (`MAX_ERRNO`, 4095). No program ever sees it.
    pub const MOVED: i32 = 0x4d4f;

    /// Linux's errno for x86-64 and aarch64 (asm-generic numbering), see errno(3).
    pub const fn errno(self) -> i32 {
        match self {
            Self::WouldBlock => 11,
            Self::InProgress => 115,
            Self::Already => 114,
            Self::IsConnected => 106,
            Self::NotConnected => 107,
            Self::BrokenPipe => 32,
            Self::Reset => 104,
            Self::Refused => 111,
            Self::Aborted => 103,
            Self::TimedOut => 110,
            Self::HostUnreachable => 113,
            Self::NetUnreachable => 101,
            Self::MessageSize => 90,
            Self::NoBuffers => 105,
            Self::AddressInUse => 98,
            Self::Invalid => 22,
            Self::DestinationRequired => 89,
            Self::Stale => 9,
            Self::Corrupt => 5,
            Self::NotSupported => 95,
            Self::Moved => Self::MOVED,
            Self::Busy => 16,
            Self::Errno(e) => e,
        }
    }
}
