//! Bits of [`Sock::flags`](super::Sock::flags).

/// Made by an AF_INET6 socket.
pub const V6: u32 = 1 << 0;
/// `IPV6_V6ONLY`.
pub const V6ONLY: u32 = 1 << 1;
/// `TCP_NODELAY`.
pub const NODELAY: u32 = 1 << 2;
/// `TCP_CORK`.
pub const CORK: u32 = 1 << 3;
/// `SO_KEEPALIVE`.
pub const KEEPALIVE: u32 = 1 << 4;
/// `SO_LINGER` is on.
pub const LINGER: u32 = 1 << 5;
/// `SO_OOBINLINE`.
pub const OOBINLINE: u32 = 1 << 6;
/// `SO_RCVBUF` was set: no auto-tuning.
pub const RCVBUF_SET: u32 = 1 << 7;
/// `SO_SNDBUF` was set: no auto-tuning.
pub const SNDBUF_SET: u32 = 1 << 8;
/// No process holds the socket any longer.
pub const ORPHAN: u32 = 1 << 9;
/// In the demultiplexer.
pub const HASHED: u32 = 1 << 10;
/// Waits in a listener's accept queue.
pub const IN_ACCEPTQ: u32 = 1 << 11;
/// A writer found no room and is to be told when there is some.
pub const NOSPACE: u32 = 1 << 12;
/// A parked kernel socket exists with the keeper.
pub const PARKED: u32 = 1 << 13;
/// Counted among its parent's half-open children.
pub const IN_SYNQ: u32 = 1 << 14;
/// Takes datagrams of IPv4 as well as IPv6 (dual stack).
pub const DUAL: u32 = 1 << 15;
/// The program has seen the connection established (`connect` returned 0 or `SO_ERROR` was read).
pub const CONNECTED_SEEN: u32 = 1 << 16;
/// On the TIME_WAIT list.
pub const IN_TW: u32 = 1 << 17;
/// `SO_BROADCAST`.
pub const BROADCAST: u32 = 1 << 18;
/// Handed over to the kernel: every holder's next call goes there.
pub const HANDED_OVER: u32 = 1 << 19;
/// Counted among its parent's live children.
pub const CHILD: u32 = 1 << 20;
/// Owner asked for `TCP_QUICKACK`.
pub const QUICKACK: u32 = 1 << 21;
/// `O_NONBLOCK` of the open file, kept for the socket layer.
pub const NONBLOCK: u32 = 1 << 22;
/// The peer's FIN was taken: the stream has an end, whatever comes after it (Linux's `SOCK_DONE`).
pub const PEER_FIN: u32 = 1 << 23;
/// Of a listener, which has no peer: what begins from now on is the kernel's. Segments that come all the same are
/// dropped in silence: those who sent them try again.
pub const WITHDRAWN: u32 = PEER_FIN;
/// `shutdown` came after a connection attempt had failed and before `connect` told (Linux's `SS_DISCONNECTING`).
pub const DISCONNECTING: u32 = 1 << 28;
/// The connection is over, and its local port was given back to the kernel.
pub const PORT_GIVEN: u32 = 1 << 29;
/// The connection is over, and the kernel socket was bound anew: the name is the kernel's.
pub const REBOUND: u32 = 1 << 25;
/// The kernel chose the local port at `connect`; kept for the socket layer.
pub const AUTO_PORT: u32 = 1 << 24;
/// Frozen, on its way to the kernel or, with [`RETURNING`], from there.
pub const HANDING_OVER: u32 = 1 << 27;
/// Frozen, on its way from the kernel.
pub const RETURNING: u32 = 1 << 26;
/// One end of a pair: its bytes go from process to process through the stack's memory, beside an established
/// connection of the kernel's.
pub const PAIRED: u32 = 1 << 30;
/// The mark of a connection within this host that may be paired now.
pub const LOCAL: u32 = 1 << 31;
