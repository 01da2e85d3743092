//! The other direction: a connection of the kernel's is taken apart in repair mode and goes on in a stack. The client
//! has a place for it that drops its segments, so the order is: steer the flow to the stack, then read the connection,
//! then dissolve it without a packet. Whatever fails before that leaves the kernel with it, as it was.
//!
//! Other threads may be in calls on the socket all the while. In repair mode the kernel refuses them, but for moments
//! in which the send queue is open; so what was read is compared with what is there afterwards, and read again.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use flyover_proto::{Connection, FilterSpec, MAX_HANDOVER, RefusedCode, TcpImage};
use flyover_vnic::host::repair::{self, Queue, Queued};
use flyover_wire::FlowKey;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{RecvFlags, bind, getpeername, recv};

use super::{Before, denied, kind_of, name_of};
use crate::filters::TCP;
use crate::net::Net;
use crate::refusal::Refusal;

/// States of the kernel (net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;
/// How often a connection is read that changes meanwhile.
const TRIES: u32 = 8;
/// The first buffer of the send queue may hold bytes below SND.UNA, a super-frame at most.
const SLACK: usize = 128 << 10;

/// What a client asks for.
pub struct Wanted {
    /// Its stack.
    pub stack: u32,
    /// Filters that a stack may have.
    pub most: usize,
    /// The connection.
    pub flow: Connection,
    /// The exception that keeps it with the kernel; 0 is none.
    pub pass: u32,
    /// Its packets must have been seen where the stack receives.
    pub seen: bool,
}

/// A connection that the kernel has no longer.
pub struct Taken {
    /// The connection.
    pub image: TcpImage,
    /// The filter that steers it to the stack.
    pub filter: u32,
    /// Its bytes.
    pub data: Option<OwnedFd>,
}

/// The socket is this connection, in the namespace.
fn is_that(net: &Net, flow: &Connection, sock: BorrowedFd<'_>) -> Result<(), Refusal> {
    kind_of(net, sock)?;
    let peer = getpeername(sock)
        .ok()
        .flatten()
        .and_then(|a| SocketAddr::try_from(a).ok())
        .map(super::endpoint);
    if name_of(sock)? != flow.local || peer != Some(flow.remote) {
        return Err(denied("the socket is not that connection"));
    }
    Ok(())
}

const fn key(flow: &Connection) -> FlowKey {
    FlowKey {
        proto: TCP,
        local: flow.local,
        remote: flow.remote,
    }
}

/// Begins to look whether the connection's packets come in where the stack receives. Returns the number of the exception that
/// keeps it with the kernel.
///
/// # Errors
/// The client may not do that, or a stack has it.
pub fn watch(net: &Net, wanted: &Wanted, sock: BorrowedFd<'_>) -> Result<u32, Refusal> {
    is_that(net, &wanted.flow, sock)?;
    net.flows()
        .watch(wanted.stack, &key(&wanted.flow), wanted.most)
}

/// Takes the connection.
///
/// # Errors
/// The client may not have it, it cannot go on elsewhere, or the kernel refuses. It is the kernel's as before then.
pub fn perform(net: &Net, wanted: &Wanted, sock: BorrowedFd<'_>) -> Result<Taken, Refusal> {
    let flow = wanted.flow;
    is_that(net, &flow, sock)?;
    unusual(sock)?;
    if wanted.seen && !net.flows().was_seen(wanted.stack, &key(&flow)) {
        return Err(cannot(
            "no packet of it was seen at a V-NIC of the stack: they come another way, or their addresses are translated",
        ));
    }
    let before = Before::of(sock)?;
    let spec = FilterSpec {
        proto: TCP,
        local: flow.local,
        remote: Some(flow.remote),
        dual: false,
    };
    let filter = net
        .flows()
        .reclaim(wanted.stack, spec, wanted.pass, wanted.most)?;
    let read = read_out(sock, &flow);
    match read {
        Ok((image, data)) => {
            net.flows().reclaimed(wanted.stack, wanted.pass);
            leave_behind(sock, &before);
            tracing::debug!(local = %flow.local, remote = %flow.remote, "taken over from the kernel");
            Ok(Taken {
                image,
                filter,
                data,
            })
        }
        Err(e) => {
            // Its peer is asked what it sent meanwhile.
            net.flows().unclaim(wanted.stack, filter, wanted.pass);
            let _: io::Result<()> = repair::end(sock, true);
            before.options(sock);
            Err(e)
        }
    }
}

/// Gives back what nobody came to take. Returns the number of the exception that keeps it with the kernel.
pub fn undo(net: &Net, wanted: &Wanted, taken: Taken, sock: BorrowedFd<'_>) -> Option<u32> {
    let back = super::perform(
        net,
        wanted.stack,
        wanted.most,
        &taken.image,
        sock,
        taken.data,
    );
    net.flows().remove(wanted.stack, taken.filter);
    back.inspect_err(|e| {
        tracing::error!(local = %taken.image.local, remote = %taken.image.remote, "a connection is lost: {e}");
    })
    .ok()
}

fn cannot(text: &'static str) -> Refusal {
    Refusal::new(RefusedCode::Failed, text)
}

/// What only the kernel's connection has.
fn unusual(sock: BorrowedFd<'_>) -> Result<(), Refusal> {
    if repair::has_ulp(sock) {
        return Err(cannot("the kernel runs a protocol on it (TCP_ULP)"));
    }
    let mut urgent = [PollFd::from_borrowed_fd(sock.as_fd(), PollFlags::PRI)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    if poll(&mut urgent, Some(&now)).is_ok() && urgent[0].revents().contains(PollFlags::PRI) {
        return Err(cannot("urgent data waits to be read"));
    }
    Ok(())
}

/// What must be the same before and after.
#[derive(PartialEq, Eq)]
struct Instant {
    state: u8,
    queued: Queued,
    received: u64,
    end: u32,
}

impl Instant {
    /// In repair mode. The send queue is open for a moment: what the program sends then is appended, and shows in
    /// `end`. The receive queue must never be open while the program can send: the kernel would take that for data of
    /// the peer (`tcp_send_rcvq`).
    fn of(sock: BorrowedFd<'_>) -> io::Result<Self> {
        let end = repair::end_of(sock, Queue::Send)?;
        repair::queue(sock, Queue::None)?;
        Ok(Self {
            state: repair::state(sock)?,
            queued: repair::queued(sock)?,
            received: repair::received(sock)?,
            end,
        })
    }
}

/// Reads the connection and dissolves it.
fn read_out(
    sock: BorrowedFd<'_>,
    flow: &Connection,
) -> Result<(TcpImage, Option<OwnedFd>), Refusal> {
    for _ in 0..TRIES {
        if let Some((image, unread, queued)) = try_read(sock, flow)? {
            let data =
                file_of(&unread, &queued).map_err(|e| Refusal::failed("keeping the data", e))?;
            repair::disconnect(sock)
                .map_err(|e| Refusal::failed("dissolving the connection", e))?;
            return Ok((image, data));
        }
        // The program goes on for a moment, in its reads for instance.
        repair::end(sock, false).map_err(|e| Refusal::failed("leaving repair mode", e))?;
    }
    Err(Refusal::new(
        RefusedCode::Failed,
        "the connection does not hold still",
    ))
}

/// Has the kernel send a segment, so that its window was offered at RCV.NXT (`tcp_select_window`): that is how RCV.NXT
/// is learnt without the receive queue. Leaving repair mode sends a probe for an established connection; after the
/// peer's FIN an ACK is sent when one is due and nothing waits to be read (`tcp_cleanup_rbuf`).
fn announce(sock: BorrowedFd<'_>) -> Result<(), Refusal> {
    let fail = |e: io::Error| Refusal::failed("sending a probe", e);
    match repair::state(sock).map_err(fail)? {
        ESTABLISHED => repair::begin(sock)
            .and_then(|()| repair::end(sock, true))
            .map_err(fail),
        CLOSE_WAIT if repair::queued(sock).map_err(fail)?.unread > 0 => {
            Err(cannot("the peer has closed, and not all was read"))
        }
        CLOSE_WAIT => repair::acknowledge(sock).map_err(fail),
        _ => Ok(()),
    }
}

type Read = (TcpImage, Vec<u8>, Vec<u8>);

/// Reads it once; `None` when it changed meanwhile. It is in repair mode afterwards.
fn try_read(sock: BorrowedFd<'_>, flow: &Connection) -> Result<Option<Read>, Refusal> {
    let fail = |what: &'static str| move |e: io::Error| Refusal::failed(what, e);
    let reading = fail("reading the connection");
    // Before repair mode, in which that would need the receive queue.
    let received = repair::received(sock).map_err(reading)?;
    announce(sock)?;
    let there = repair::queued(sock).map_err(reading)?.unread;
    let unread = peek(sock, there as usize, 0)
        .map_err(|e| Refusal::failed("reading what nobody has read", e))?;
    repair::begin(sock).map_err(fail("entering repair mode"))?;
    let first = Instant::of(sock).map_err(reading)?;
    if first.received != received || first.queued.unread != there || unread.len() != there as usize
    {
        return Ok(None);
    }
    let image = describe(sock, flow, &first)?;
    let sent = repair::queue(sock, Queue::Send)
        .map_err(reading)
        .and_then(|()| {
            let bytes = match image.queued {
                0 => Ok(Vec::new()),
                n => peek(sock, n as usize, SLACK),
            };
            repair::queue(sock, Queue::None).map_err(reading)?;
            bytes.map_err(|e| Refusal::failed("reading what is not acknowledged", e))
        });
    let queued = sent?;
    let same = Instant::of(sock).map_err(reading)? == first;
    Ok((same && queued.len() == image.queued as usize).then_some((image, unread, queued)))
}

fn describe(sock: BorrowedFd<'_>, flow: &Connection, now: &Instant) -> Result<TcpImage, Refusal> {
    let fail = |what: &'static str| move |e: io::Error| Refusal::failed(what, e);
    let (fin_in, fin_out, fin_acked) = match now.state {
        ESTABLISHED => (false, false, false),
        CLOSE_WAIT => (true, false, false),
        FIN_WAIT1 => (false, true, false),
        FIN_WAIT2 => (false, true, true),
        CLOSING | LAST_ACK => (true, true, false),
        _ => return Err(cannot("the connection is not established")),
    };
    let agreed = repair::agreed_of(sock)
        .map_err(fail("reading what was agreed"))?
        .ok_or_else(|| cannot("ECN or timestamps of microseconds were agreed"))?;
    let window = repair::window_of(sock).map_err(fail("reading the windows"))?;
    let fin = u32::from(fin_out);
    // Sequence numbers of the data, without the FINs.
    let end = now.end.wrapping_sub(fin);
    let una = now
        .end
        .wrapping_sub(now.queued.unacked)
        .wrapping_sub(u32::from(fin_acked));
    let queued = end.wrapping_sub(una);
    let unsent = now.queued.unsent.saturating_sub(fin.min(now.queued.unsent));
    // After its shutdown the program cannot send, and the receive queue may be opened.
    let rcv_nxt = match fin_out {
        false => window.rcv_wup,
        true => repair::end_of(sock, Queue::Recv)
            .and_then(|seq| repair::queue(sock, Queue::None).map(|()| seq))
            .map_err(fail("reading RCV.NXT"))?,
    };
    let rcv_nxt = rcv_nxt.wrapping_sub(u32::from(fin_in));
    if queued > MAX_HANDOVER || now.queued.unread > MAX_HANDOVER || unsent > queued {
        return Err(cannot("more bytes are queued than can be moved"));
    }
    let right = window.rcv_wup.wrapping_add(window.rcv_wnd);
    Ok(TcpImage {
        local: flow.local,
        remote: flow.remote,
        ifindex: 0,
        snd_una: una,
        unacked: queued - unsent,
        queued,
        rcv_nxt,
        unread: now.queued.unread,
        snd_wnd: window.snd_wnd,
        snd_wl1: window.snd_wl1,
        max_wnd: window.max_window,
        rcv_wnd: right
            .wrapping_sub(rcv_nxt)
            .cast_signed()
            .max(0)
            .cast_unsigned(),
        mss: agreed.mss,
        peer_scale: agreed.scales.map(|(peer, _)| peer as u8),
        own_scale: agreed.scales.map(|(_, own)| own as u8),
        sack: agreed.sack,
        timestamp: agreed.timestamp,
        fin_in,
        fin_out,
        fin_acked,
    })
}

/// The last `len` bytes of what a look shows, which may be up to `slack` more.
fn peek(sock: BorrowedFd<'_>, len: usize, slack: usize) -> rustix::io::Result<Vec<u8>> {
    if len == 0 {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; len + slack];
    let n = match recv(sock, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((n, _)) => n,
        // Read by the program in this moment.
        Err(Errno::AGAIN) => 0,
        Err(e) => return Err(e),
    };
    bytes.truncate(n);
    bytes.drain(..n.saturating_sub(len));
    Ok(bytes)
}

fn file_of(unread: &[u8], queued: &[u8]) -> rustix::io::Result<Option<OwnedFd>> {
    if unread.is_empty() && queued.is_empty() {
        return Ok(None);
    }
    let file = memfd_create(c"flyover-takeover", MemfdFlags::CLOEXEC)?;
    for mut bytes in [unread, queued] {
        while !bytes.is_empty() {
            match rustix::io::write(&file, bytes) {
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(Some(file))
}

/// The socket is unconnected now; it holds the port as before, so that nobody else gets it.
fn leave_behind(sock: BorrowedFd<'_>, before: &Before) {
    // A port that the program named is still held: EINVAL. Another one was given back, although it is still shown.
    match bind(sock, &before.name) {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(e) => tracing::debug!("a port is not held any more: {e}"),
    }
    let _: io::Result<()> = repair::end(sock, false);
    before.options(sock);
}
