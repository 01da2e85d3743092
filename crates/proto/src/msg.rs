//! Requests of applications and tools to `flyoverd`, and its replies. A reply carries the sequence number of its
//! request; `DelFilter` and `Resolve` have no reply.

use flyover_wire::{Endpoint, Ip};

use crate::codec::{coded, messages, record};
use crate::{
    CodecError, Field, List, MAX_IFNAME, MAX_INTERFACES, MAX_LEASE, MAX_NARROW, MAX_NICS,
    MAX_REASON, MAX_STACK_NAME, MAX_TEXT, MAX_WORDS, NicDesc, Reader, Text, Writer,
};

/// Which stack a process wants to use. The daemon's key is (network namespace, user, this).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum StackName {
    /// The one of the process's user and network namespace.
    #[default]
    Default,
    /// One of several of the same user and namespace.
    Named(Text<MAX_STACK_NAME>),
    /// A new one that no other process finds.
    Private,
    /// The one whose memory's descriptor comes with the message: a child of `fork` stays with its parent's stack, also
    /// when it has changed its user since. Holding the descriptor is holding the memory: it is the proof.
    Inherited,
}

impl Field for StackName {
    fn put(&self, w: &mut Writer<'_>) -> Result<(), CodecError> {
        match self {
            Self::Default => 0u8.put(w),
            Self::Named(name) => {
                1u8.put(w)?;
                name.put(w)
            }
            Self::Private => 2u8.put(w),
            Self::Inherited => 3u8.put(w),
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, CodecError> {
        match u8::take(r)? {
            0 => Ok(Self::Default),
            1 => Ok(Self::Named(Text::take(r)?)),
            2 => Ok(Self::Private),
            3 => Ok(Self::Inherited),
            _ => Err(CodecError::Value),
        }
    }
}

coded! {
    /// The kind of V-NIC that a process asks for.
    pub enum VnicPref {
        /// Whatever serves the interface best.
        Auto = 0,
        /// A packet socket.
        Packet = 1,
        /// An AF_XDP socket.
        Xdp = 2,
    }
}

coded! {
    /// Why the daemon says no. The text beside it is for people.
    pub enum RefusedCode {
        /// The two ends speak different protocol versions.
        Version = 1,
        /// The two ends were built with different stack layouts.
        Layout = 2,
        /// A quota of the user or of the stack is used up.
        Quota = 3,
        /// The user may not do that.
        Denied = 4,
        /// Another stack has that flow.
        Conflict = 5,
        /// The request contradicts itself or comes out of order.
        Bad = 6,
        /// No such stack, filter or interface.
        NotFound = 7,
        /// The daemon could not do it; the text says why.
        Failed = 8,
        /// The daemon is an ordinary user's, and that takes privilege.
        Unprivileged = 9,
    }
}

record! {
    /// A wish to use a stack.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Attach {
        /// Which one.
        pub stack: StackName,
        /// Sizes for a stack that is made now, as words of `flyover_config::StackOpts`; an existing stack keeps its own.
        pub opts: List<u64, MAX_WORDS>,
        /// Names of the interfaces to accelerate; empty means all eligible ones.
        pub interfaces: List<Text<MAX_IFNAME>, MAX_INTERFACES>,
        /// Kind of V-NIC for a stack that is made now.
        pub vnic: VnicPref,
    }
}

record! {
    /// What an attached process needs besides the descriptors.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Attached {
        /// Number of the stack, unique while the daemon runs; also in the names of waiters' sockets.
        pub stack_id: u32,
        /// Owner slot of this process: 1 or more, less than `StackOpts::max_owners`; 0 is the keeper.
        pub owner: u16,
        /// Bytes of the stack's memory.
        pub stack_len: u64,
        /// Options that the stack was made with, as words.
        pub opts: List<u64, MAX_WORDS>,
        /// Bytes of the control plane's memory.
        pub cplane_len: u64,
        /// Table sizes of the control plane, as words of `flyover_cplane::Dims`.
        pub dims: List<u64, MAX_WORDS>,
        /// Generation of the V-NIC list; the stack's memory holds the current one.
        pub nic_gen: u32,
        /// The V-NICs.
        pub nics: List<NicDesc, MAX_NICS>,
        /// The daemon is an ordinary user's: the stack has no V-NIC and never gets one, and the daemon refuses filters,
        /// handovers and takeovers ([`RefusedCode::Unprivileged`]).
        pub local_only: bool,
        /// Processes of other users or containers may be in the stack: the daemon's policy says so.
        pub shared: bool,
    }
}

record! {
    /// A set of flows that a socket wants from the V-NICs.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct FilterSpec {
        /// IP protocol number: 6 (TCP) or 17 (UDP).
        pub proto: u8,
        /// Local address (unspecified: any of its family) and port.
        pub local: Endpoint,
        /// The peer, for a connection of its own.
        pub remote: Option<Endpoint>,
        /// Take IPv4 and IPv6 (an `::` listener without `IPV6_V6ONLY`).
        pub dual: bool,
    }
}

record! {
    /// One connection.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Connection {
        /// Local end.
        pub local: Endpoint,
        /// Remote end.
        pub remote: Endpoint,
    }
}

record! {
    /// A connection that the kernel has got from a stack.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Moved {
        /// Which.
        pub connection: Connection,
        /// The exception that keeps it with the kernel.
        pub pass: u32,
    }
}

record! {
    /// A TCP connection that stopped in a stack and is to go on in the kernel. Sequence numbers count data only, not the
    /// FINs (RFC 9293 section 3.3.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct TcpImage {
        /// Local address and port.
        pub local: Endpoint,
        /// Remote address and port.
        pub remote: Endpoint,
        /// Interface of the route, for link-local addresses.
        pub ifindex: u32,
        /// SND.UNA.
        pub snd_una: u32,
        /// Bytes sent and not acknowledged.
        pub unacked: u32,
        /// Bytes queued in all, from SND.UNA on.
        pub queued: u32,
        /// RCV.NXT.
        pub rcv_nxt: u32,
        /// Bytes that arrived and were not read.
        pub unread: u32,
        /// SND.WND, bytes.
        pub snd_wnd: u32,
        /// SND.WL1.
        pub snd_wl1: u32,
        /// Largest SND.WND so far, bytes.
        pub max_wnd: u32,
        /// RCV.WND, bytes.
        pub rcv_wnd: u32,
        /// The peer's MSS, bytes.
        pub mss: u32,
        /// Window scaling was agreed: the peer's shift count.
        pub peer_scale: Option<u8>,
        /// Window scaling was agreed: our shift count.
        pub own_scale: Option<u8>,
        /// SACK was agreed.
        pub sack: bool,
        /// Timestamps were agreed: where the clock goes on, ms.
        pub timestamp: Option<u32>,
        /// The peer's FIN has come.
        pub fin_in: bool,
        /// The program has closed its sending direction.
        pub fin_out: bool,
        /// Our FIN is acknowledged.
        pub fin_acked: bool,
    }
}

messages! {
    /// What a client asks.
    pub enum Request {
        /// First message. `layout_hash` is `flyover_core::LAYOUT_HASH`, or 0 of a tool that maps no stack.
        1 Hello {
            /// [`VERSION`](crate::VERSION) of the sender.
            version: u32,
            /// Layout of the stack's memory that the sender was built with.
            layout_hash: u64,
        }
        /// Use a stack. Once per connection; answered by `Attached`, with descriptors: stack memfd, control-plane
        /// memfd, keeper channel, then those of each V-NIC ([`NicDesc::fd_count`]).
        2 Attach {
            /// Which stack and how.
            attach: Attach,
        }
        /// The V-NICs of the attached stack once more; answered by `NicList` with their descriptors.
        3 Nics {}
        /// Steer flows to the stack. Carries the descriptor of the kernel socket that holds the port.
        4 AddFilter {
            /// Which flows.
            spec: FilterSpec,
        }
        /// Steer them no longer. No reply.
        5 DelFilter {
            /// From `FilterAdded`.
            id: u32,
        }
        /// Make the kernel resolve a neighbour. No reply: the control plane will show it.
        6 Resolve {
            /// Interface on which it is.
            ifindex: u32,
            /// Its address.
            ip: Ip,
        }
        /// The daemon's stacks as JSON; answered by `Text`.
        7 Ps {}
        /// A stack's memory, for tools of its user or root; answered by `StackInfo` with the memfd.
        8 StackFd {
            /// From `Ps`.
            stack_id: u32,
        }
        /// What the daemon can do for the sender's namespace, as JSON; answered by `Text`.
        9 Check {}
        /// A listener ended: its filter shall take these connections only, until it is deleted. No reply.
        10 Narrow {
            /// From `FilterAdded`.
            id: u32,
            /// The connections.
            to: List<Connection, MAX_NARROW>,
        }
        /// Let the kernel go on with a connection of the stack. Carries the descriptors of its kernel socket and, when
        /// there are any, of a file with its bytes: those not read, then those from SND.UNA on. Answered by
        /// `FilterAdded`: the number is that of the exception that keeps the flow with the kernel.
        11 Handover {
            /// The connection.
            image: TcpImage,
        }
        /// Take a connection over that the kernel has. Carries the descriptor of its socket. The sender must be ready
        /// for its segments, and drop them, before it asks. Answered by `TakenOver`.
        12 Takeover {
            /// The connection.
            flow: Connection,
            /// The exception that keeps the flow with the kernel, from an earlier handover or `Watch`; 0 is none.
            pass: u32,
            /// Nobody ordered it: only if its packets were seen where the stack receives, since `Watch`.
            seen: bool,
            /// And only if no process outside the stack holds the socket, as was found out since `Watch` or an earlier try.
            sole: bool,
        }
        /// The sender counts as a client until its process ends, also when it closes the connection: a program that it
        /// becomes, or starts, will want the daemon later. No reply.
        13 Stay {}
        /// The sender is attached already, by a daemon that died. Instead of `Attach`; carries the descriptor of the
        /// stack's memory. Answered by `Rejoined`.
        14 Rejoin {
            /// Its owner slot.
            owner: u16,
        }
        /// Lend a descriptor of the other end of a connection within this host, which a process of the sender's stack holds.
        /// Carries the descriptor of the sender's own end. Answered by `Borrowed`.
        15 Borrow {
            /// The other end's inode number; whether it is the other end is asked of the kernel.
            inode: u32,
        }
        /// Look whether the packets of a connection that the kernel has come in where the stack receives. Carries the
        /// descriptor of its socket. Answered by `FilterAdded`: the number is that of an exception that keeps the flow with the
        /// kernel.
        16 Watch {
            /// The connection.
            flow: Connection,
            /// Find out as well, after the answer, whether a process outside the stack holds the socket.
            sole: bool,
        }
        /// Lend the stack local ports: nobody else can bind them, and all that comes for them goes to the stack. Answered
        /// by `Lent`.
        17 Lend {
            /// Of this address.
            ip: Ip,
            /// So many the sender knows already and finds too few.
            have: u32,
            /// Number of the lease, from the stack's memory. What was lent under another one is taken back.
            lease: u64,
        }
        /// The sender has waited long enough for the answer to its last request, and goes on without: a filter that it asked
        /// for shall not be, or goes. No reply. If the connection ends then although the process goes on, the process will
        /// come back ([`Request::Rejoin`]).
        18 GaveUp {}
    }
}

messages! {
    /// What the daemon answers.
    pub enum Reply {
        /// To `Hello`.
        1 Welcome {
            /// Process number of the daemon.
            pid: u32,
            /// Layout that the daemon was built with.
            layout_hash: u64,
        }
        /// To anything: no, and why.
        2 Refused {
            /// The reason for programs.
            code: RefusedCode,
            /// The reason for people.
            text: Text<MAX_REASON>,
        }
        /// To `Attach`.
        3 Attached {
            /// The stack.
            attached: Attached,
        }
        /// To `Nics`.
        4 NicList {
            /// Generation of this list.
            nic_gen: u32,
            /// The V-NICs.
            nics: List<NicDesc, MAX_NICS>,
        }
        /// To `AddFilter` and `Handover`.
        5 FilterAdded {
            /// For `DelFilter`.
            id: u32,
        }
        /// To `Ps` and `Check`: a piece of a text.
        6 Text {
            /// More pieces follow.
            more: bool,
            /// This piece.
            text: Text<MAX_TEXT>,
        }
        /// To `StackFd`.
        7 StackInfo {
            /// Bytes of the stack's memory.
            stack_len: u64,
            /// Options that the stack was made with, as words.
            opts: List<u64, MAX_WORDS>,
        }
        /// A sign of life while a long request is worked on; the answer follows.
        8 Working {}
        /// To `Takeover`: the kernel has the connection no longer. With a descriptor of a file with its bytes when
        /// there are any: those not read, then those from SND.UNA on.
        9 TakenOver {
            /// The connection.
            image: TcpImage,
            /// The filter that steers it to the stack.
            id: u32,
        }
        /// To `Rejoin`. With the descriptor of the control plane's memory, which takes the place of the one before, and, if the
        /// old channel to the keeper has ended, with one of a new channel.
        10 Rejoined {
            /// Its bytes.
            cplane_len: u64,
            /// Its table sizes, as words.
            dims: List<u64, MAX_WORDS>,
        }
        /// To `Borrow`, with the descriptor.
        11 Borrowed {}
        /// To `Lend`: all that the stack is lent of this address.
        12 Lent {
            /// The ports.
            ports: List<u16, MAX_LEASE>,
        }
    }
}
