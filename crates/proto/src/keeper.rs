//! Messages to and from the keeper of a stack. No replies: each is complete in itself, and sequence numbers are 0.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use flyover_wire::{Endpoint, Ip};
use rustix::io::Errno;

use crate::channel::{Deadline, send};
use crate::codec::{messages, record};
use crate::{
    Connection, List, MAX_FILTER_IDS, MAX_NARROW, MAX_NICS, MAX_OWNERS, MAX_REASON, MAX_WORDS,
    Moved, NicDesc, Text,
};

messages! {
    /// What an attached process tells the keeper, over the channel that came with `Attached`.
    pub enum KeeperMsg {
        /// Watch this kernel socket (passed along, then closed in the keeper): set the endpoint's flag when it becomes
        /// readable and wake who waits.
        1 RegOs {
            /// Index of the endpoint.
            sock: u32,
            /// Its generation, so that a re-used slot is not mistaken.
            generation: u32,
            /// It is a listening socket.
            listen: bool,
        }
        /// Keep this kernel socket (passed along) open until the endpoint is freed.
        2 Park {
            /// Index of the endpoint.
            sock: u32,
            /// Its generation.
            generation: u32,
        }
        /// The endpoint is freed: close what was parked for it (`Effect::CloseParked`).
        3 Unpark {
            /// Index of the endpoint.
            sock: u32,
            /// Its generation.
            generation: u32,
        }
        /// A deadline earlier than the keeper's sleep was armed (`Effect::PokeKeeper`).
        4 Poke {}
    }
}

record! {
    /// What a keeper and the daemons of its stack know, and nobody else: only root can read where a daemon notes it.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct Token {
        /// One half.
        pub a: u64,
        /// The other.
        pub b: u64,
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

messages! {
    /// What a daemon says to a keeper whose daemon is gone, in a datagram to the name that stands for the stack's number.
    pub enum Call {
        /// Descriptor: the keeper's end of a new channel. It answers there with [`Notice::Offer`].
        1 Adopt {
            /// As in [`Control::Setup`].
            token: Token,
        }
    }
}

messages! {
    /// What `flyoverd` tells a keeper.
    pub enum Control {
        /// First message. Descriptors: stack memfd, control-plane memfd, a netlink socket that hears of the end of
        /// kernel sockets (`NETLINK_SOCK_DIAG`, groups `SKNLGRP_INET*_DESTROY`), the socket that keeps the stack's number
        /// taken and to which the next daemon sends [`Call`], unless `local_only` one that only has to be held (it keeps the
        /// flow programs attached when the daemon dies), then those of each V-NIC.
        1 Setup {
            /// Number of the stack.
            stack_id: u32,
            /// Whoever shows it is a daemon of this stack.
            token: Token,
            /// The memory is new: initialise it. Otherwise an earlier keeper died.
            fresh: bool,
            /// Of an earlier keeper whose daemon had died too: the ends of sockets since then were reported to nobody. A
            /// [`Control::Census`] may follow.
            deaf: bool,
            /// Processes that are attached; an `Owner` follows for each.
            owners: List<u16, MAX_OWNERS>,
            /// `OwnerGone` messages that were sent to earlier keepers.
            epoch: u64,
            /// Bytes of the stack's memory.
            stack_len: u64,
            /// Options of the stack, as words.
            opts: List<u64, MAX_WORDS>,
            /// Bytes of the control plane's memory.
            cplane_len: u64,
            /// Table sizes of the control plane, as words.
            dims: List<u64, MAX_WORDS>,
            /// Generation of the V-NIC list.
            nic_gen: u32,
            /// The V-NICs.
            nics: List<NicDesc, MAX_NICS>,
            /// As `Attached::local_only`.
            local_only: bool,
        }
        /// The V-NICs changed. Descriptors: those of each V-NIC.
        2 Nics {
            /// Generation of this list; to be published in the stack's memory.
            nic_gen: u32,
            /// All V-NICs, the unchanged ones too.
            nics: List<NicDesc, MAX_NICS>,
        }
        /// A process attached. Descriptors: the keeper's end of its channel, and, of one that has not come for it yet, the
        /// process's.
        3 Owner {
            /// Its owner slot.
            owner: u16,
        }
        /// A process is gone.
        4 OwnerGone {
            /// Its owner slot.
            owner: u16,
            /// Number of `OwnerGone` messages so far, this one included; see [`Notice::Idle`].
            epoch: u64,
            /// The connection that went to the kernel on its last request: perhaps it ended before it could note that in
            /// the stack. Whatever else it had frozen the kernel has not got.
            moved: Option<Moved>,
        }
        /// The stack is given up: exit.
        5 Exit {}
        /// An ICMP error quoted a packet of one of the stack's flows.
        6 Icmp {
            /// IP protocol number of the flow.
            proto: u8,
            /// Local end.
            local: Endpoint,
            /// Remote end.
            remote: Endpoint,
            /// Quoted TCP sequence number.
            seq: Option<u32>,
            /// What the path takes, bytes; 0 when that is not what the message says.
            mtu: u32,
            /// Else the errno that Linux gives.
            errno: i32,
        }
        /// The answer to [`Notice::ListFilters`]: the stack's filters in ascending order. Less than a full list is the
        /// end of them.
        7 Filters {
            /// Their numbers.
            ids: List<u32, MAX_FILTER_IDS>,
        }
        /// The answer to [`Notice::Offer`]: the sender is the stack's daemon from now on. Descriptor: the memory of its
        /// control plane, which takes the place of the one before.
        8 Adopted {
            /// Bytes of the control plane's memory.
            cplane_len: u64,
            /// Its table sizes, as words: those of the one before.
            dims: List<u64, MAX_WORDS>,
        }
        /// Keep these sockets (passed along) open: they hold lent ports, also when the daemon dies.
        12 Hold {
            /// Number of their lease; those of others are closed.
            lease: u64,
        }
        /// Some time after a [`Control::Setup`] that said `deaf`: of the sockets that the stack had then, those with these
        /// cookies are open, and no others. Descriptor: memory with the cookies, in ascending order.
        11 Census {
            /// How many.
            sockets: u64,
        }
        /// After `Adopted`: the daemon serves clients, those of the stack shall connect to it.
        10 Serving {}
        /// A process is gone that an earlier daemon attached, or while there was none: what became of its last request
        /// nobody knows.
        9 OwnerLost {
            /// Its owner slot.
            owner: u16,
            /// As in [`Control::OwnerGone`].
            epoch: u64,
        }
    }
}

messages! {
    /// What a keeper tells `flyoverd`.
    pub enum Notice {
        /// The stack's memory is initialised and served.
        1 Ready {}
        /// The keeper cannot work; it exits.
        2 Failed {
            /// Why.
            text: Text<MAX_REASON>,
        }
        /// No process is attached and no socket is left.
        3 Idle {
            /// The last [`Control::OwnerGone`] that this takes into account; an older notice is stale.
            epoch: u64,
        }
        /// Make the kernel resolve a neighbour.
        4 Resolve {
            /// Interface on which it is.
            ifindex: u32,
            /// Its address.
            ip: Ip,
        }
        /// No socket uses this filter any longer.
        5 DelFilter {
            /// Its number.
            id: u32,
        }
        /// A listener ended: its filter shall take these connections only.
        6 Narrow {
            /// Its number.
            id: u32,
            /// The connections.
            to: List<Connection, MAX_NARROW>,
        }
        /// Which filters has the stack? A process that died may have owed the daemon a [`Notice::DelFilter`].
        7 ListFilters {
            /// Those with higher numbers than this.
            after: u32,
        }
        /// Nobody uses lent ports any more: the lease is over.
        11 LeaseOver {
            /// Number of the next one.
            lease: u64,
        }
        /// The stack, to a new daemon. Descriptors as in [`Control::Setup`], without the control plane's.
        8 Offer {
            /// Its number.
            stack_id: u32,
            /// `OwnerGone` messages so far.
            epoch: u64,
            /// Processes that are attached; a `Channel` follows for each.
            owners: u32,
            /// Generation of the V-NIC list.
            nic_gen: u32,
            /// The V-NICs.
            nics: List<NicDesc, MAX_NICS>,
            /// As in [`Control::Setup`], and no census has followed yet.
            deaf: bool,
        }
        /// Descriptors: the keeper's end of a process's channel, and the other one if the process has not come for it.
        9 Channel {
            /// Its owner slot.
            owner: u16,
        }
        /// The other end of that channel is closed: the process has ended, or executed another program.
        10 ChannelEnded {
            /// Its owner slot.
            owner: u16,
        }
    }
}

/// A process's end of the channel to its keeper. All sends are short and never wait longer than 100 ms, and only for
/// messages that must not be lost.
#[derive(Debug)]
pub struct KeeperLink {
    sock: OwnedFd,
}

/// How long a message that must arrive waits for room in the channel.
const ROOM: Duration = Duration::from_millis(100);

impl KeeperLink {
    /// Takes the descriptor that came with `Attached`.
    pub fn new(sock: OwnedFd) -> Self {
        Self { sock }
    }

    /// The descriptor, for the tables of who owns which number.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.sock.as_fd()
    }

    /// Asks the keeper to watch a kernel socket, see [`KeeperMsg::RegOs`].
    ///
    /// # Errors
    /// `EPIPE` when the keeper is gone, `ETIMEDOUT` when it does not read.
    pub fn reg_os(
        &self,
        sock: u32,
        generation: u32,
        listen: bool,
        fd: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        self.send(
            &KeeperMsg::RegOs {
                sock,
                generation,
                listen,
            },
            &[fd],
            Deadline::after(ROOM),
        )
    }

    /// Asks the keeper to hold a kernel socket open, see [`KeeperMsg::Park`].
    ///
    /// # Errors
    /// As [`Self::reg_os`].
    pub fn park(&self, sock: u32, generation: u32, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.send(
            &KeeperMsg::Park { sock, generation },
            &[fd],
            Deadline::after(ROOM),
        )
    }

    /// Tells the keeper that an endpoint is freed, see [`KeeperMsg::Unpark`].
    ///
    /// # Errors
    /// As [`Self::reg_os`].
    pub fn unpark(&self, sock: u32, generation: u32) -> Result<(), Errno> {
        self.send(
            &KeeperMsg::Unpark { sock, generation },
            &[],
            Deadline::after(ROOM),
        )
    }

    /// Wakes the keeper, see [`KeeperMsg::Poke`]. Does not wait: when the channel is full the keeper is awake anyway.
    pub fn poke(&self) {
        let _: Result<(), Errno> = self.send(&KeeperMsg::Poke {}, &[], Deadline::NOW);
    }

    /// The channel, once the keeper was told that it has arrived.
    pub(crate) fn claimed(self) -> OwnedFd {
        self.poke();
        self.sock
    }

    fn send(
        &self,
        msg: &KeeperMsg,
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<(), Errno> {
        let mut buf = [0u8; 64];
        let len = msg.encode(0, &mut buf).map_err(|_| Errno::MSGSIZE)?;
        send(self.sock.as_fd(), &buf[..len], fds, deadline)
    }
}
