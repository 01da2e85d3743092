//! Handing a connection of a stack over to the kernel: on the socket that the client holds, the kernel goes on where
//! the stack stopped (`TCP_REPAIR`), and packets of the connection pass to it from then on.
//!
//! Nothing the client says is believed beyond what concerns its own connection: the flow must be one of its stack's by
//! our own table, the socket must be an unconnected TCP socket of its namespace that holds the local port or none, and
//! the bytes are read, never mapped.

mod fin;
pub mod holders;
mod resume;
pub mod takeover;

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use flyover_proto::{MAX_HANDOVER, RefusedCode, TcpImage};
use flyover_vnic::host::repair::{self, Agreed, Buffers, Queue, Window};
use flyover_wire::{Endpoint, FlowKey, Ip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, bind, connect, getsockname, send, shutdown, sockopt,
};

use crate::filters::TCP;
use crate::net::Net;
use crate::netns::socket_cookie;
use crate::refusal::Refusal;

/// Bytes moved at a time. What arrived unread becomes one kernel buffer per piece.
const PIECE: usize = 32 << 10;
/// `TCP_CLOSE` of the kernel.
const CLOSED: u8 = 7;
/// How long the kernel may take to accept what was not sent yet. Its buffer has room for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Moves the connection; returns the number of the exception in the flow table. On an error the socket is as it was.
///
/// # Errors
/// The client may not do that, or the kernel refuses.
pub fn perform(
    net: &Net,
    stack: u32,
    most: usize,
    image: &TcpImage,
    sock: BorrowedFd<'_>,
    data: Option<OwnedFd>,
) -> Result<u32, Refusal> {
    let flow = FlowKey {
        proto: TCP,
        local: image.local,
        remote: image.remote,
    };
    if let Some(id) = resume::begun(net, stack, &flow, sock) {
        return resume::finish(net, image, sock, data.as_ref()).map(|()| id);
    }
    let domain = check(net, image, sock)?;
    if net.flows().stack_of(&flow) != Some(stack) {
        return Err(denied("the connection is not one of the stack's"));
    }
    let (unread, queued) = contents(image, data.as_ref())?;
    let (unacked, unsent) = queued.split_at(image.unacked as usize);
    let before = Before::of(sock)?;
    let made = make(image, sock, domain, &before, &unread, unacked).and_then(|()| {
        let id = net.flows().add_pass(stack, &flow, most)?;
        // From here on packets come; the kernel takes them, in repair mode or not.
        let probe = !image.fin_acked;
        match repair::end(sock, probe) {
            Ok(()) => Ok(id),
            Err(e) => {
                net.flows().cancel_pass(stack, id);
                Err(Refusal::failed("leaving repair mode", e))
            }
        }
    });
    let id = made.inspect_err(|_| before.restore(sock))?;
    if let Err(e) = go_on(net, image, sock, unsent) {
        // The connection is the kernel's, and incomplete: it must not look whole to either end.
        tracing::error!(local = %image.local, remote = %image.remote, "a connection is reset: {e}");
        let _: io::Result<()> = repair::disconnect(sock);
    }
    before.options(sock);
    tracing::debug!(local = %image.local, remote = %image.remote, "handed over to the kernel");
    Ok(id)
}

fn denied(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusedCode::Denied, text)
}

/// Is this a socket that can become the connection?
fn check(net: &Net, image: &TcpImage, sock: BorrowedFd<'_>) -> Result<AddressFamily, Refusal> {
    let domain = kind_of(net, sock)?;
    if domain == AddressFamily::INET && !image.local.ip.is_v4() {
        return Err(denied("the socket is of the other family"));
    }
    if image.local.ip.is_v4() != image.remote.ip.is_v4() {
        return Err(Refusal::bad("the two ends are of different families"));
    }
    let state = repair::state(sock).map_err(|e| Refusal::failed("asking for its state", e))?;
    if state != CLOSED {
        return Err(denied("the socket is in use"));
    }
    let bound = name_of(sock)?;
    let any = bound.ip.is_unspecified() || bound.ip == image.local.ip;
    if bound.port != 0 && (bound.port != image.local.port || !any) {
        return Err(denied(format!(
            "the socket is bound to {bound}, not {}",
            image.local
        )));
    }
    Ok(domain)
}

/// Is this a TCP socket of the namespace?
fn kind_of(net: &Net, sock: BorrowedFd<'_>) -> Result<AddressFamily, Refusal> {
    let cookie = socket_cookie(sock).map_err(|_| denied("the descriptor is no socket"))?;
    if cookie != net.cookie() {
        return Err(denied("the socket is of another network namespace"));
    }
    let domain =
        sockopt::socket_domain(sock).map_err(|e| Refusal::failed("asking for SO_DOMAIN", e))?;
    let proto =
        sockopt::socket_protocol(sock).map_err(|e| Refusal::failed("asking for SO_PROTOCOL", e))?;
    if (domain != AddressFamily::INET && domain != AddressFamily::INET6)
        || proto.map(|p| p.as_raw().get()) != Some(u32::from(TCP))
    {
        return Err(denied("not a TCP socket"));
    }
    Ok(domain)
}

fn name_of(sock: BorrowedFd<'_>) -> Result<Endpoint, Refusal> {
    let name = getsockname(sock).map_err(|e| Refusal::failed("asking for its address", e))?;
    let name = SocketAddr::try_from(name).map_err(|e| Refusal::failed("reading its address", e))?;
    Ok(endpoint(name))
}

fn endpoint(name: SocketAddr) -> Endpoint {
    Endpoint {
        ip: Ip::from(name.ip()),
        port: name.port(),
    }
}

/// The bytes that come along: those not read, those from SND.UNA on.
fn contents(image: &TcpImage, data: Option<&OwnedFd>) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
    if image.unread > MAX_HANDOVER || image.queued > MAX_HANDOVER || image.unacked > image.queued {
        return Err(Refusal::bad("lengths that cannot be"));
    }
    let mut at = 0;
    let mut take = |len: u32| -> Result<Vec<u8>, Refusal> {
        let mut bytes = vec![0; len as usize];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|r| !r.is_empty()) {
            let file = data.ok_or_else(|| Refusal::bad("no data"))?;
            match rustix::io::pread(file, rest, at) {
                Ok(0) => return Err(Refusal::bad("less data than announced")),
                Ok(n) => {
                    done += n;
                    at += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(Refusal::failed("reading the data", e)),
            }
        }
        Ok(bytes)
    };
    Ok((take(image.unread)?, take(image.queued)?))
}

/// What repair mode changes besides the connection.
struct Before {
    reuse: bool,
    bound: Endpoint,
    name: SocketAddr,
    buffers: Buffers,
}

impl Before {
    fn of(sock: BorrowedFd<'_>) -> Result<Self, Refusal> {
        let name = getsockname(sock).map_err(|e| Refusal::failed("asking for its address", e))?;
        Ok(Self {
            reuse: sockopt::socket_reuseaddr(sock).unwrap_or(false),
            bound: name_of(sock)?,
            buffers: repair::buffers(sock)
                .map_err(|e| Refusal::failed("asking for its buffers", e))?,
            name: SocketAddr::try_from(name)
                .map_err(|e| Refusal::failed("reading its address", e))?,
        })
    }

    fn options(&self, sock: BorrowedFd<'_>) {
        let _: rustix::io::Result<()> = sockopt::set_socket_reuseaddr(sock, self.reuse);
        let _: io::Result<()> = repair::restore(sock, &self.buffers);
    }

    /// An unconnected socket again, bound as it was.
    fn restore(&self, sock: BorrowedFd<'_>) {
        let _: io::Result<()> = repair::disconnect(sock);
        if self.bound.port != 0 && name_of(sock).is_ok_and(|b| b.port != self.bound.port) {
            let _: rustix::io::Result<()> = bind(sock, &self.name);
        }
        let _: io::Result<()> = repair::end(sock, false);
        self.options(sock);
    }
}

/// An address as the socket's family writes it.
fn address(e: Endpoint, domain: AddressFamily, ifindex: u32) -> SocketAddr {
    match e.ip.to_std() {
        IpAddr::V4(v4) if domain == AddressFamily::INET6 => {
            SocketAddr::new(v4.to_ipv6_mapped().into(), e.port)
        }
        IpAddr::V6(v6) => {
            let scope = if v6.is_unicast_link_local() {
                ifindex
            } else {
                0
            };
            SocketAddrV6::new(v6, e.port, 0, scope).into()
        }
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, e.port),
    }
}

/// Builds the connection, in repair mode: no packet is sent.
fn make(
    image: &TcpImage,
    sock: BorrowedFd<'_>,
    domain: AddressFamily,
    before: &Before,
    unread: &[u8],
    unacked: &[u8],
) -> Result<(), Refusal> {
    let fail = |what: &'static str| move |e: io::Error| Refusal::failed(what, e);
    let failed = |what: &'static str| move |e: Errno| Refusal::failed(what, e);
    repair::begin(sock).map_err(fail("entering repair mode"))?;
    let local = address(image.local, domain, image.ifindex);
    if name_of(sock)?.port == 0 {
        bind(sock, &local).map_err(failed("binding"))?;
    }
    let recv = unread.len() * 2 + image.rcv_wnd as usize;
    let send_room = image.queued as usize + (256 << 10);
    repair::enlarge(sock, &before.buffers, recv, send_room).map_err(fail("sizing the buffers"))?;
    let first_unread = image.rcv_nxt.wrapping_sub(image.unread);
    repair::seq(sock, Queue::Send, image.snd_una).map_err(fail("SND.UNA"))?;
    repair::seq(sock, Queue::Recv, first_unread).map_err(fail("RCV.NXT"))?;
    let remote = address(image.remote, domain, image.ifindex);
    connect(sock, &remote).map_err(failed("connecting"))?;
    let name = name_of(sock)?;
    if name != image.local {
        return Err(Refusal::new(
            RefusedCode::Failed,
            format!("the kernel would use {name}, not {}", image.local),
        ));
    }
    let agreed = Agreed {
        mss: image.mss.clamp(88, 65_535),
        scales: image
            .peer_scale
            .zip(image.own_scale)
            .map(|(p, o)| (u32::from(p.min(14)), u32::from(o.min(14)))),
        sack: image.sack,
        timestamp: image.timestamp,
    };
    repair::agreed(sock, &agreed).map_err(fail("setting what was agreed"))?;
    fill(sock, Queue::Recv, unread).map_err(failed("filling the receive queue"))?;
    fill(sock, Queue::Send, unacked).map_err(failed("filling the send queue"))?;
    repair::queue(sock, Queue::None).map_err(fail("leaving the queues"))?;
    let window = Window {
        snd_wl1: image.snd_wl1,
        snd_wnd: image.snd_wnd,
        max_window: image.max_wnd.max(image.snd_wnd),
        rcv_wnd: image.rcv_wnd,
        rcv_wup: image.rcv_nxt,
    };
    repair::window(sock, &window).map_err(fail("setting the windows"))
}

/// Puts bytes into a queue of a socket in repair mode.
fn fill(sock: BorrowedFd<'_>, queue: Queue, bytes: &[u8]) -> rustix::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    repair::queue(sock, queue).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    for piece in bytes.chunks(PIECE) {
        let mut rest = piece;
        while !rest.is_empty() {
            match send(sock, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)? {
                0 => return Err(Errno::IO),
                n => rest = rest.get(n..).unwrap_or_default(),
            }
        }
    }
    Ok(())
}

/// The connection lives: what was not sent yet, the peer's FIN and ours follow in their order.
fn go_on(net: &Net, image: &TcpImage, sock: BorrowedFd<'_>, unsent: &[u8]) -> io::Result<()> {
    send_all(sock, unsent)?;
    if image.fin_in {
        fin::deliver(net.ns(), image)?;
    }
    if image.fin_out {
        // Sent once more when the peer has it already: it answers with an ACK.
        shutdown(sock, Shutdown::Write)?;
    }
    Ok(())
}

fn send_all(sock: BorrowedFd<'_>, mut rest: &[u8]) -> io::Result<()> {
    let start = Instant::now();
    while !rest.is_empty() {
        match send(sock, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if start.elapsed() < PATIENCE => {
                let nap = Timespec {
                    tv_sec: 0,
                    tv_nsec: 20_000_000,
                };
                let _ = poll(
                    &mut [PollFd::from_borrowed_fd(sock.as_fd(), PollFlags::OUT)],
                    Some(&nap),
                );
            }
            // Reset by the peer: the program learns it from the kernel.
            Err(Errno::CONNRESET | Errno::PIPE | Errno::TIMEDOUT) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
