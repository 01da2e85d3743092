//! Which sockets are accelerated, and the reason why one is not.

/// Why a socket stays on the kernel path. Shown by `flyover ss`; 0 is "not an inet socket".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Reason {
    /// Not a TCP or UDP socket of `AF_INET`/`AF_INET6`.
    NotInet = 0,
    /// No daemon could be reached.
    NoDaemon = 1,
    /// Bound or connected to a loopback address.
    Loopback = 2,
    /// The destination is an address of this host.
    Local = 3,
    /// The route leads to an interface without a V-NIC.
    NoVnic = 4,
    /// The control plane has no route; the kernel says which error.
    NoRoute = 5,
    /// A table of the stack is full.
    StackFull = 6,
    /// The daemon refused the filter.
    FilterRefused = 7,
    /// Multicast or broadcast destination.
    Multicast = 8,
    /// A socket option that only the kernel honours.
    Option = 9,
    /// Made by the resolver or another part of libc.
    Internal = 10,
    /// Another socket of the stack has the address.
    AddressShared = 11,
    /// The program asked the kernel for a protocol that the stack has not.
    Protocol = 12,
    /// Accepted by the kernel's half of a listener.
    KernelAccept = 13,
    /// The descriptor number is beyond the table.
    HighFd = 14,
    /// The library's acceleration is switched off for this process.
    Disabled = 15,
    /// Handed over to the kernel: the program wanted what only the kernel does.
    HandedOver = 16,
    /// Handed over to the kernel: an administrator wanted it.
    Ordered = 17,
    /// A connection that was the kernel's when this program first saw it.
    Adopted = 18,
    /// A connection within this host whose other end is not (yet) in the stack.
    Unpaired = 19,
    /// Given to an `io_uring`, whose requests the kernel carries out.
    Ring = 20,
}

impl Reason {
    /// All reasons in order of their codes.
    pub const ALL: [Self; 21] = [
        Self::NotInet,
        Self::NoDaemon,
        Self::Loopback,
        Self::Local,
        Self::NoVnic,
        Self::NoRoute,
        Self::StackFull,
        Self::FilterRefused,
        Self::Multicast,
        Self::Option,
        Self::Internal,
        Self::AddressShared,
        Self::Protocol,
        Self::KernelAccept,
        Self::HighFd,
        Self::Disabled,
        Self::HandedOver,
        Self::Ordered,
        Self::Adopted,
        Self::Unpaired,
        Self::Ring,
    ];

    /// True when nothing but circumstance keeps the socket with the kernel: it may be taken over.
    pub const fn may_return(self) -> bool {
        matches!(
            self,
            Self::Ordered | Self::Adopted | Self::KernelAccept | Self::Unpaired
        )
    }

    /// The code kept in the fd table.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason of a code; unknown codes read as [`Reason::NotInet`].
    pub fn from_code(code: u8) -> Self {
        Self::ALL
            .get(usize::from(code))
            .copied()
            .unwrap_or(Self::NotInet)
    }

    /// Short name, as `flyover ss` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotInet => "not-inet",
            Self::NoDaemon => "no-daemon",
            Self::Loopback => "loopback",
            Self::Local => "local",
            Self::NoVnic => "no-vnic",
            Self::NoRoute => "no-route",
            Self::StackFull => "stack-full",
            Self::FilterRefused => "filter-refused",
            Self::Multicast => "multicast",
            Self::Option => "option",
            Self::Internal => "resolver",
            Self::AddressShared => "address-shared",
            Self::Protocol => "protocol",
            Self::KernelAccept => "kernel-accept",
            Self::HighFd => "high-fd",
            Self::Disabled => "disabled",
            Self::HandedOver => "handed-over",
            Self::Ordered => "ordered",
            Self::Adopted => "adopted",
            Self::Unpaired => "unpaired",
            Self::Ring => "io-uring",
        }
    }
}

/// The kind of socket that `socket(2)` was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// A TCP socket.
    Tcp,
    /// A UDP socket.
    Udp,
    /// Anything else.
    Other,
}

/// Classifies the arguments of `socket(2)`; `kind` may carry `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
pub fn wanted(domain: i32, kind: i32, protocol: i32) -> Wanted {
    if domain != libc::AF_INET && domain != libc::AF_INET6 {
        return Wanted::Other;
    }
    match (kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), protocol) {
        (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => Wanted::Tcp,
        (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => Wanted::Udp,
        _ => Wanted::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_agree() {
        for (i, r) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(r.code()), i);
            assert_eq!(Reason::from_code(r.code()), r);
            assert!(!r.name().is_empty());
        }
        let unfinished = flyover_core::REASON_UNFINISHED;
        assert_eq!(u32::from(Reason::HandedOver.code()), unfinished);
    }

    #[test]
    fn only_tcp_and_udp_are_wanted() {
        let nb = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        assert_eq!(wanted(libc::AF_INET, nb, 0), Wanted::Tcp);
        assert_eq!(wanted(libc::AF_INET6, libc::SOCK_DGRAM, 17), Wanted::Udp);
        assert_eq!(wanted(libc::AF_UNIX, libc::SOCK_STREAM, 0), Wanted::Other);
        assert_eq!(wanted(libc::AF_INET, libc::SOCK_STREAM, 262), Wanted::Other);
        assert_eq!(wanted(libc::AF_INET, libc::SOCK_DGRAM, 1), Wanted::Other);
    }
}
