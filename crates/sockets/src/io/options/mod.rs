//! Every socket option that Linux has for TCP and UDP, and what it means here. One table: `setsockopt`, `getsockopt`,
//! the copying of options set earlier and `docs/socket-options.md` all follow it.
//!
//! The kernel socket behind a descriptor takes every option first: it checks value, length and privilege, and keeps
//! what it keeps. What an accelerated socket adds to that is in the row.
//!
//! | file | what |
//! |---|---|
//! | `table.rs` | the rows |
//! | `docs.rs` | the page made from them |
//! | `stamps.rs` | which time stamps `recvmsg` tells: several options, one state |

mod docs;
pub mod stamps;
mod table;

use flyover_core::sock::opts::SockOpt;

pub use docs::markdown;
pub use table::{NOTES, TABLE};

/// The name of each row of [`TABLE`].
pub fn names() -> impl Iterator<Item = &'static str> {
    table::NAMES.lines()
}

impl Row {
    /// Its name.
    pub fn text(&self) -> &'static str {
        let same = |r: &Self| (r.level, r.name) == (self.level, self.name);
        let index = TABLE.iter().position(same);
        index.and_then(|i| names().nth(i)).unwrap_or_default()
    }
}

/// What an option does to a socket that has an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// The accelerated path honours it.
    Stack,
    /// The kernel socket keeps it, and that is enough: it concerns what the kernel does for the socket, or nothing
    /// that a program could see on the accelerated path.
    Kept,
    /// Only the kernel does it: the socket moves to the kernel path, unless the value asks for nothing.
    Moves(Unless),
    /// Can only be read.
    Read,
    /// Not an option of this kind of socket; the kernel says so.
    None,
}

/// Values that ask for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unless {
    /// Every value asks for something.
    Never,
    /// Zero: an integer, or an empty name.
    Zero,
    /// A negative number.
    Negative,
    /// All bits are set: "unlimited".
    Ones,
    /// None of these bits is set.
    Without(u32),
    /// Within these numbers.
    Within(i32, i32),
}

impl Unless {
    /// True when `value` asks for nothing.
    pub fn holds(self, value: &[u8]) -> bool {
        let v = int(value);
        match self {
            Self::Never => false,
            Self::Zero => value.iter().take(4).all(|b| *b == 0),
            Self::Negative => v < 0,
            Self::Ones => !value.is_empty() && value.iter().all(|b| *b == 0xff),
            Self::Without(bits) => v as u32 & bits == 0,
            Self::Within(least, most) => (least..=most).contains(&v),
        }
    }
}

/// What the endpoint does with a value that the kernel took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Nothing.
    No,
    /// Sets an option of the endpoint.
    Opt(SockOpt, Form),
    /// Sets a bit of `Sock::sopts`.
    Bit(u32),
    /// `SO_TIMESTAMP` and its kin.
    Stamp(stamps::Stamp),
    /// A time limit of receiving or sending.
    Limit(Way),
}

/// Direction of a time limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// `SO_RCVTIMEO`.
    In,
    /// `SO_SNDTIMEO`.
    Out,
}

/// How a value looks in `setsockopt`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// An `int`; the kernel may have clamped it, so what it says afterwards counts.
    Int,
    /// An `int` as the program gave it.
    Raw,
    /// An `int` that means on or off.
    Switch,
    /// An `int` in bytes that Linux doubles, and whose double it returns.
    Buffer,
    /// A `struct linger`.
    Linger,
    /// An `int`, -1 for off.
    Offset,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// `SOL_SOCKET` ..
    pub level: i32,
    /// `SO_KEEPALIVE` ..
    pub name: i32,
    /// For TCP.
    pub tcp: Path,
    /// For UDP.
    pub udp: Path,
    /// Accepted connections start with the listener's value.
    pub inherited: bool,
    /// What the endpoint does.
    pub act: Act,
}

impl Row {
    /// What it does to a socket of the kind.
    pub const fn path(&self, tcp: bool) -> Path {
        if tcp { self.tcp } else { self.udp }
    }

    /// True when setting `value` takes a socket of the kind off the accelerated path.
    pub fn moves(&self, tcp: bool, value: &[u8]) -> bool {
        matches!(self.path(tcp), Path::Moves(unless) if !unless.holds(value))
    }
}

/// The row of an option.
pub fn find(level: i32, name: i32) -> Option<&'static Row> {
    TABLE.iter().find(|r| r.level == level && r.name == name)
}

/// The first bytes of a value as the kernel reads an `int`.
pub(crate) fn int(value: &[u8]) -> i32 {
    match value {
        [a, b, c, d, ..] => i32::from_ne_bytes([*a, *b, *c, *d]),
        [a, ..] => i32::from(*a),
        [] => 0,
    }
}

// Bits of `Sock::sopts`: which control messages `recvmsg` adds, and which sends are the kernel's.

/// `IP_PKTINFO`.
pub const PKTINFO: u32 = 1 << 0;
/// `IPV6_RECVPKTINFO`.
pub const PKTINFO6: u32 = 1 << 1;
/// `IP_RECVTTL`.
pub const RECV_TTL: u32 = 1 << 2;
/// `IPV6_RECVHOPLIMIT`.
pub const RECV_HOPS: u32 = 1 << 3;
/// `IP_RECVTOS`.
pub const RECV_TOS: u32 = 1 << 4;
/// `IPV6_RECVTCLASS`.
pub const RECV_CLASS: u32 = 1 << 5;
/// `IP_RECVORIGDSTADDR`.
pub const ORIGDST: u32 = 1 << 6;
/// `IPV6_RECVORIGDSTADDR`.
pub const ORIGDST6: u32 = 1 << 7;
/// `SO_RXQ_OVFL`.
pub const OVERFLOW: u32 = 1 << 8;
/// `TCP_INQ`.
pub const INQ: u32 = 1 << 9;
/// Time stamps: `stamps.rs`.
pub const STAMPS: u32 = 0xf << 10;
/// All that ask for control messages.
pub const CMSGS: u32 = (1 << 14) - 1;
/// `UDP_CORK`: datagrams are put together by the kernel.
pub const CORKED: u32 = 1 << 16;
/// `UDP_SEGMENT`: the kernel cuts.
pub const SEGMENT: u32 = 1 << 17;
/// The kernel holds the beginning of a datagram (`MSG_MORE`).
pub const PENDING: u32 = 1 << 18;
/// An option moved the socket to the kernel path: the kernel sends for good.
pub const WITHDRAWN: u32 = 1 << 19;
/// `SO_TIMESTAMPING` asks for stamps of what is sent, which the kernel makes and queues.
pub const TX_STAMPED: u32 = 1 << 21;
/// Any of these: the kernel sends.
pub const KERNEL_SENDS: u32 = CORKED | SEGMENT | PENDING | WITHDRAWN | TX_STAMPED;
/// A listener with options that its connections inherit.
pub const HANDS_DOWN: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::stamps::Stamp;
    use super::*;

    #[test]
    fn no_option_is_listed_twice() {
        assert_eq!(TABLE.len(), names().count());
        for (i, (a, name)) in TABLE.iter().zip(names()).enumerate() {
            for b in TABLE.get(i + 1..).unwrap_or_default() {
                assert!((a.level, a.name) != (b.level, b.name), "{name}");
            }
        }
    }

    /// Where this system's headers know a name, they know it by the same number.
    #[test]
    fn numbers_are_those_of_libc() {
        for (level, name, text) in [
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPING, "SO_TIMESTAMPING"),
            (libc::SOL_SOCKET, libc::SO_TXTIME, "SO_TXTIME"),
            (libc::SOL_SOCKET, libc::SO_ZEROCOPY, "SO_ZEROCOPY"),
            (libc::IPPROTO_TCP, libc::TCP_INQ, "TCP_INQ"),
            (libc::IPPROTO_TCP, libc::TCP_ULP, "TCP_ULP"),
            (libc::IPPROTO_TCP, libc::TCP_REPAIR, "TCP_REPAIR"),
            (libc::IPPROTO_IP, libc::IP_RECVERR, "IP_RECVERR"),
            (libc::IPPROTO_IP, libc::IP_TRANSPARENT, "IP_TRANSPARENT"),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, "IPV6_RECVTCLASS"),
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, "IPV6_V6ONLY"),
            (libc::IPPROTO_UDP, libc::UDP_GRO, "UDP_GRO"),
        ] {
            assert_eq!(find(level, name).map(Row::text), Some(text));
        }
    }

    #[test]
    fn values_that_ask_for_nothing() {
        let n = |v: i32| v.to_ne_bytes();
        assert!(Unless::Zero.holds(&n(0)) && !Unless::Zero.holds(&n(1)));
        assert!(Unless::Zero.holds(b"") && !Unless::Zero.holds(b"eth0"));
        assert!(Unless::Ones.holds(&[0xff; 8]) && !Unless::Ones.holds(&n(7)));
        assert!(Unless::Without(0x6).holds(&n(0x18)) && !Unless::Without(0x6).holds(&n(0x4)));
        assert!(Unless::Within(1, 3).holds(&n(2)) && !Unless::Within(1, 3).holds(&n(0)));
        assert!(!Unless::Never.holds(&n(0)));
        assert!(Unless::Negative.holds(&n(-1)) && !Unless::Negative.holds(&n(0)));
    }

    /// What only the endpoint knows cannot be an option that the endpoint does not honour.
    #[test]
    fn only_honoured_options_act() {
        for (r, text) in TABLE.iter().zip(names()) {
            let honoured = r.tcp == Path::Stack || r.udp == Path::Stack;
            assert!(
                r.act == Act::No
                    || honoured
                    || matches!(r.act, Act::Stamp(Stamp::Flags(_)))
                    || matches!(r.act, Act::Bit(b) if b & KERNEL_SENDS != 0),
                "{text}"
            );
        }
    }

    #[test]
    fn the_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/socket-options.md");
        if std::env::var_os("FLYOVER_WRITE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap_or_default(),
            markdown(),
            "docs/socket-options.md is out of date: FLYOVER_WRITE_DOCS=1 cargo test -p flyover-sockets the_page_is_current"
        );
    }
}
