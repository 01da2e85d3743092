//! Which option of the socket API is which option of an endpoint, and what its value looks like outside. One table:
//! `setsockopt`, `getsockopt` and the copying of options set earlier all follow it.

use flyover_core::sock::opts::SockOpt;

/// How a value looks in `setsockopt`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// An `int` that is the value.
    Int,
    /// An `int` that means on or off.
    Switch,
    /// An `int` in bytes that Linux doubles, and whose double it returns.
    Buffer,
    /// A `struct linger`.
    Linger,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// `SOL_SOCKET` ..
    pub level: i32,
    /// `SO_KEEPALIVE` ..
    pub name: i32,
    /// The endpoint's.
    pub opt: SockOpt,
    /// The value's form.
    pub form: Form,
    /// Meaningful for datagram sockets, too.
    pub udp: bool,
}

const fn row(level: i32, name: i32, opt: SockOpt, form: Form, udp: bool) -> Row {
    Row {
        level,
        name,
        opt,
        form,
        udp,
    }
}

/// The table.
pub const TABLE: &[Row] = &[
    row(
        libc::IPPROTO_TCP,
        libc::TCP_NODELAY,
        SockOpt::NoDelay,
        Form::Switch,
        false,
    ),
    row(
        libc::IPPROTO_TCP,
        libc::TCP_CORK,
        SockOpt::Cork,
        Form::Switch,
        false,
    ),
    row(
        libc::IPPROTO_TCP,
        libc::TCP_QUICKACK,
        SockOpt::QuickAck,
        Form::Switch,
        false,
    ),
    row(
        libc::SOL_SOCKET,
        libc::SO_KEEPALIVE,
        SockOpt::KeepAlive,
        Form::Switch,
        false,
    ),
    row(
        libc::IPPROTO_TCP,
        libc::TCP_KEEPIDLE,
        SockOpt::KeepIdle,
        Form::Int,
        false,
    ),
    row(
        libc::IPPROTO_TCP,
        libc::TCP_KEEPINTVL,
        SockOpt::KeepIntvl,
        Form::Int,
        false,
    ),
    row(
        libc::IPPROTO_TCP,
        libc::TCP_KEEPCNT,
        SockOpt::KeepCnt,
        Form::Int,
        false,
    ),
    row(
        libc::IPPROTO_TCP,
        libc::TCP_USER_TIMEOUT,
        SockOpt::UserTimeout,
        Form::Int,
        false,
    ),
    row(
        libc::IPPROTO_TCP,
        libc::TCP_MAXSEG,
        SockOpt::MaxSeg,
        Form::Int,
        false,
    ),
    row(
        libc::IPPROTO_TCP,
        libc::TCP_SYNCNT,
        SockOpt::SynCnt,
        Form::Int,
        false,
    ),
    row(
        libc::IPPROTO_TCP,
        libc::TCP_DEFER_ACCEPT,
        SockOpt::DeferAccept,
        Form::Int,
        false,
    ),
    row(
        libc::IPPROTO_TCP,
        TCP_NOTSENT_LOWAT,
        SockOpt::NotSentLowat,
        Form::Int,
        false,
    ),
    row(
        libc::IPPROTO_TCP,
        libc::TCP_LINGER2,
        SockOpt::Linger2,
        Form::Int,
        false,
    ),
    row(
        libc::SOL_SOCKET,
        libc::SO_RCVBUF,
        SockOpt::RcvBuf,
        Form::Buffer,
        true,
    ),
    row(
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        SockOpt::RcvBuf,
        Form::Buffer,
        true,
    ),
    row(
        libc::SOL_SOCKET,
        libc::SO_SNDBUF,
        SockOpt::SndBuf,
        Form::Buffer,
        true,
    ),
    row(
        libc::SOL_SOCKET,
        libc::SO_SNDBUFFORCE,
        SockOpt::SndBuf,
        Form::Buffer,
        true,
    ),
    row(
        libc::SOL_SOCKET,
        libc::SO_RCVLOWAT,
        SockOpt::RcvLowat,
        Form::Int,
        false,
    ),
    row(
        libc::SOL_SOCKET,
        libc::SO_OOBINLINE,
        SockOpt::OobInline,
        Form::Switch,
        false,
    ),
    row(
        libc::SOL_SOCKET,
        libc::SO_LINGER,
        SockOpt::Linger,
        Form::Linger,
        false,
    ),
    row(
        libc::SOL_SOCKET,
        libc::SO_BROADCAST,
        SockOpt::Broadcast,
        Form::Switch,
        true,
    ),
    row(
        libc::IPPROTO_IP,
        libc::IP_TTL,
        SockOpt::Ttl,
        Form::Int,
        true,
    ),
    row(
        libc::IPPROTO_IPV6,
        libc::IPV6_UNICAST_HOPS,
        SockOpt::Ttl,
        Form::Int,
        true,
    ),
    row(
        libc::IPPROTO_IP,
        libc::IP_TOS,
        SockOpt::Tos,
        Form::Int,
        true,
    ),
    row(
        libc::IPPROTO_IPV6,
        libc::IPV6_TCLASS,
        SockOpt::Tos,
        Form::Int,
        true,
    ),
    row(
        libc::IPPROTO_IPV6,
        libc::IPV6_V6ONLY,
        SockOpt::V6Only,
        Form::Switch,
        true,
    ),
];

/// `TCP_NOTSENT_LOWAT` of `tcp(7)`.
const TCP_NOTSENT_LOWAT: i32 = 25;
/// `UDP_CORK`, `UDP_SEGMENT`, `UDP_GRO` of `udp(7)`.
const UDP_CORK: i32 = 1;
const UDP_SEGMENT: i32 = 103;

/// The row of an option.
pub fn find(level: i32, name: i32) -> Option<&'static Row> {
    TABLE.iter().find(|r| r.level == level && r.name == name)
}

// Bits of `Sock::flags` that belong to the socket layer: which control messages `recvmsg` adds, and more.

/// `IP_PKTINFO`.
pub const PKTINFO: u32 = 1 << 23;
/// `IPV6_RECVPKTINFO`.
pub const PKTINFO6: u32 = 1 << 24;
/// `IP_RECVTTL`, `IPV6_RECVHOPLIMIT`.
pub const RECV_TTL: u32 = 1 << 25;
/// `IP_RECVTOS`, `IPV6_RECVTCLASS`.
pub const RECV_TOS: u32 = 1 << 26;
/// `SO_TIMESTAMP`.
pub const TIMESTAMP: u32 = 1 << 27;
/// `SO_TIMESTAMPNS`.
pub const TIMESTAMPNS: u32 = 1 << 28;
/// Datagrams are sent by the kernel: an option asks for what only it does.
pub const UDP_BY_KERNEL: u32 = 1 << 29;
/// All that ask for control messages.
pub const CMSGS: u32 = PKTINFO | PKTINFO6 | RECV_TTL | RECV_TOS | TIMESTAMP | TIMESTAMPNS;

/// The flag that a switch of the socket API turns on.
pub fn flag_of(level: i32, name: i32) -> Option<u32> {
    Some(match (level, name) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => PKTINFO,
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) => PKTINFO6,
        (libc::IPPROTO_IP, libc::IP_RECVTTL) | (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT) => {
            RECV_TTL
        }
        (libc::IPPROTO_IP, libc::IP_RECVTOS) | (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS) => {
            RECV_TOS
        }
        (libc::SOL_SOCKET, libc::SO_TIMESTAMP) => TIMESTAMP,
        (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS) => TIMESTAMPNS,
        (libc::IPPROTO_UDP, UDP_CORK | UDP_SEGMENT) => UDP_BY_KERNEL,
        _ => return None,
    })
}

/// The switches of [`flag_of`], for copying.
pub const SWITCHES: [(i32, i32); 9] = [
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::IPPROTO_UDP, UDP_SEGMENT),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_is_listed_twice() {
        for (i, a) in TABLE.iter().enumerate() {
            assert!(
                TABLE[i + 1..]
                    .iter()
                    .all(|b| (a.level, a.name) != (b.level, b.name))
            );
            assert!(flag_of(a.level, a.name).is_none());
        }
        for (level, name) in SWITCHES {
            assert!(flag_of(level, name).is_some_and(|f| f > flyover_core::sock::flag::NONBLOCK));
        }
    }
}
