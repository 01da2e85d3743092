//! What tools see of a stack: one row per socket, counters, table use. Read-only, without the lock, and content with
//! any bytes.

use crate::sock::{Kind, SockRef, flag};
use crate::stack::Stack;
use crate::stack::layout::NICS;
use crate::tcp::state::TcpState;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use flyover_wire::Endpoint;

/// One socket, as `flyover ss` prints it.
#[derive(Clone, Copy, Debug)]
pub struct SockRow {
    /// Its slot and generation.
    pub id: SockRef,
    /// What it is.
    pub kind: Kind,
    /// Its state; UDP sockets are `Closed` or `Established` as in `ss`.
    pub state: TcpState,
    /// Bytes to read; of a listener, connections to accept.
    pub recv_q: u32,
    /// Bytes not acknowledged; of a listener, the backlog.
    pub send_q: u32,
    /// Local address.
    pub local: Endpoint,
    /// Remote address; port 0 is none.
    pub remote: Endpoint,
    /// Index of its V-NIC, when it has one.
    pub nic: Option<u32>,
    /// Why it stays with the kernel (a code of the sockets crate); 0 for accelerated sockets.
    pub reason: u32,
    /// `SO_COOKIE` of the kernel socket behind it.
    pub cookie: u64,
    /// No process holds it.
    pub orphan: bool,
    /// Made by an AF_INET6 socket.
    pub v6: bool,
    /// The kernel has the connection, or the UDP socket, by now; the endpoint is a mark.
    pub handed_over: bool,
    /// One end of a pair: the other one is in this stack, too.
    pub paired: bool,
    /// Options of the socket layer, which core does not look at.
    pub sopts: u32,
}

impl Stack<'_> {
    /// One row.
    pub fn row(self, id: SockRef) -> SockRow {
        let s = self.sock(id.id);
        let net = self.net_of(id.id).map(|s| s.net);
        let kind = s.kind();
        let listening = kind == Kind::Tcp && s.tcp_state() == TcpState::Listen;
        let state = match kind {
            Kind::Udp if s.rport.get() != 0 => TcpState::Established,
            Kind::Udp => TcpState::Closed,
            _ => s.tcp_state(),
        };
        let (recv_q, send_q) = match kind {
            _ if listening => (self.to_accept(id.id), net.map_or(0, |n| n.backlog.get())),
            Kind::Udp => (s.rq_bytes.load(Relaxed), 0),
            _ => (s.rq_available(), net.map_or(0, |n| n.sq_len.load(Relaxed))),
        };
        SockRow {
            id,
            kind,
            state,
            recv_q,
            send_q,
            local: s.local(),
            remote: s.remote(),
            nic: s.nic.get().checked_sub(1).filter(|n| *n < NICS),
            reason: s.reason.get(),
            cookie: s.cookie.load(Acquire),
            orphan: s.has(flag::ORPHAN),
            v6: s.has(flag::V6),
            handed_over: s.has(flag::HANDED_OVER),
            paired: s.has(flag::PAIRED),
            sopts: s.sopts.load(Relaxed),
        }
    }

    /// All rows, in slot order.
    pub fn rows<'a>(self) -> impl Iterator<Item = SockRow> + 'a
    where
        Self: 'a,
    {
        self.each_sock().map(move |r| self.row(r))
    }
}
