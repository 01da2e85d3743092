//! rtnetlink sockets: one that hears of changes, one that asks for full lists. What the messages
//! mean is not decided here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};

/// Groups of linux/rtnetlink.h (`RTNLGRP_*`): link, neighbour, then address, route and rule of
/// IPv4 and IPv6, then next-hop objects.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];
/// `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`: not decoded, but routes may depend on them.
const NEXTHOP: [u16; 2] = [104, 105];
/// The kernel makes messages of at most 32 KiB for a list, and single ones that are smaller.
const BUFFER: usize = 64 << 10;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Datagrams taken at once.
const BATCH: u32 = 256;
/// A list that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that the kernel said unasked.
pub(super) enum Notice {
    /// A change, with the message's `NLM_F_*` flags.
    Message(u16, RouteNetlinkMessage),
    /// Something that calls for looking at the routes again.
    Recheck,
}

/// How far [`Listener::drain`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// There is nothing more now.
    All,
    /// There may be more.
    Some,
    /// Messages were lost: only full lists tell what there is.
    Lost,
}

/// Hears of every change in its network namespace.
pub(super) struct Listener {
    socket: Socket,
    buffer: Box<[u8]>,
}

impl Listener {
    /// Subscribes, in the namespace of the calling thread. `room` is the kernel memory, in bytes,
    /// for messages that wait.
    pub(super) fn open(room: usize) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // Beyond the system's limit with CAP_NET_ADMIN only; what is granted must do.
        let forced = sockopt::set_socket_recv_buffer_size_force(&socket, room);
        forced.or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, room))?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER].into_boxed_slice(),
        })
    }

    /// Gives each message that waits, up to a bounded number of datagrams; does not block.
    ///
    /// When messages were lost, goes on until none waits: the kernel drops more of them silently
    /// until then, and those that still wait are older than any list that is asked for later.
    pub(super) fn drain(&mut self, mut each: impl FnMut(Notice)) -> io::Result<Drained> {
        let mut lost = false;
        for datagram in 0.. {
            if !lost && datagram >= BATCH {
                return Ok(Drained::Some);
            }
            let bytes = match receive(&self.socket, &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok(bytes) => bytes,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => break,
                    Some(Errno::NOBUFS) => {
                        lost = true;
                        continue;
                    }
                    Some(Errno::INTR) => continue,
                    _ => return Err(error),
                },
            };
            for message in messages(bytes) {
                match message {
                    Raw::Decoded(message) => {
                        if let NetlinkPayload::InnerMessage(inner) = message.payload {
                            each(Notice::Message(message.header.flags, inner));
                        }
                    }
                    Raw::Unknown(kind) => {
                        if !NEXTHOP.contains(&kind) {
                            tracing::debug!(kind, "netlink message not understood");
                        }
                        each(Notice::Recheck);
                    }
                }
            }
        }
        Ok(if lost { Drained::Lost } else { Drained::All })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks for full lists.
pub(super) struct Dumper {
    socket: Socket,
    buffer: Box<[u8]>,
    sequence: u32,
}

/// How complete a list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum List {
    /// It names everything.
    Whole,
    /// Some entries were not understood.
    Gaps,
}

impl Dumper {
    /// Opens in the namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            sequence: 0,
        })
    }

    /// Asks for a list and gives each entry. An unknown address family counts as an empty list.
    ///
    /// # Errors
    /// `Interrupted` when the tables changed meanwhile, so that the list may lack entries.
    pub(super) fn list(
        &mut self,
        what: &RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<List> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        header.sequence_number = self.sequence;
        send(&self.socket, header, what.clone())?;
        let (mut whole, mut interrupted) = (List::Whole, false);
        loop {
            let bytes = receive(&self.socket, &mut self.buffer, RecvFlags::empty())?;
            for message in messages(bytes) {
                let Raw::Decoded(message) = message else {
                    whole = List::Gaps;
                    continue;
                };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    NetlinkPayload::Done(_) => return Ok(whole),
                    NetlinkPayload::Error(error) => {
                        let code =
                            Errno::from_raw_os_error(error.code.map_or(0, |code| -code.get()));
                        return match code {
                            Errno::AFNOSUPPORT | Errno::OPNOTSUPP => Ok(whole),
                            code => Err(code.into()),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Sends one request to the kernel.
pub(super) fn send(
    socket: &Socket,
    header: NetlinkHeader,
    request: RouteNetlinkMessage,
) -> io::Result<()> {
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(drop)
}

/// One datagram; empty when it does not come from the kernel.
fn receive<'b>(socket: &Socket, buffer: &'b mut [u8], flags: RecvFlags) -> io::Result<&'b [u8]> {
    let flags = (flags | RecvFlags::TRUNC).bits().cast_signed();
    let mut space = &mut *buffer;
    let (len, from) = socket.recv_from(&mut space, flags)?;
    if from.port_number() != 0 {
        return Ok(&[]);
    }
    // What does not fit is as good as lost.
    buffer.get(..len).ok_or_else(|| Errno::NOBUFS.into())
}

enum Raw {
    Decoded(NetlinkMessage<RouteNetlinkMessage>),
    /// Type of a message that was not understood.
    Unknown(u16),
}

/// The messages of a datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Raw> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let message = bytes.get(..len).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage::deserialize(message).map_or(Raw::Unknown(kind), Raw::Decoded))
    })
}
