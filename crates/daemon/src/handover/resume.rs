//! A handover that a daemon had begun when it died: the kernel has the connection, and the client, which was not told,
//! asks the next daemon. What was missing is done.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use flyover_proto::TcpImage;
use flyover_vnic::host::repair::{self, Queue};
use flyover_wire::{Endpoint, FlowKey};
use rustix::net::{Shutdown, getpeername, shutdown};

use super::{CLOSED, contents, endpoint, fin, kind_of, name_of, send_all};
use crate::net::Net;
use crate::refusal::Refusal;

/// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT` of the kernel.
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;

/// The exception of the connection, if the kernel has it on this socket.
pub fn begun(net: &Net, stack: u32, flow: &FlowKey, sock: BorrowedFd<'_>) -> Option<u32> {
    let id = net.flows().pass_of(stack, flow)?;
    kind_of(net, sock).ok()?;
    let alive = repair::state(sock).is_ok_and(|state| state != CLOSED);
    let ends = name_of(sock).ok() == Some(flow.local) && peer_of(sock) == Some(flow.remote);
    (alive && ends).then_some(id)
}

fn peer_of(sock: BorrowedFd<'_>) -> Option<Endpoint> {
    let name = getpeername(sock).ok()??;
    Some(endpoint(SocketAddr::try_from(name).ok()?))
}

/// Sends what was not sent yet, and the two ends of the streams if they were not passed on.
///
/// # Errors
/// The connection could not be made whole: it is reset.
pub fn finish(
    net: &Net,
    image: &TcpImage,
    sock: BorrowedFd<'_>,
    data: Option<&OwnedFd>,
) -> Result<(), Refusal> {
    let (_, queued) = contents(image, data)?;
    let done = rest(net, image, sock, &queued);
    tracing::info!(local = %image.local, remote = %image.remote, "finishing what a daemon before had begun");
    done.map_err(|e| {
        tracing::error!(local = %image.local, remote = %image.remote, "a connection is reset: {e}");
        let _: std::io::Result<()> = repair::disconnect(sock);
        Refusal::failed("finishing what a daemon before had begun", e)
    })
}

fn rest(net: &Net, image: &TcpImage, sock: BorrowedFd<'_>, queued: &[u8]) -> std::io::Result<()> {
    // Nobody but a daemon has sent on it: the program waits for the end of the handover.
    repair::begin(sock)?;
    let end = repair::end_of(sock, Queue::Send);
    repair::queue(sock, Queue::None)?;
    repair::end(sock, false)?;
    let sent = end?.wrapping_sub(image.snd_una) as usize;
    let unsent = queued
        .get(sent..)
        .ok_or_else(|| std::io::Error::other("more was sent than there is"))?;
    send_all(sock, unsent)?;
    if image.fin_in && repair::state(sock)? == ESTABLISHED {
        fin::deliver(net.ns(), image)?;
    }
    if image.fin_out && matches!(repair::state(sock)?, ESTABLISHED | CLOSE_WAIT) {
        shutdown(sock, Shutdown::Write)?;
    }
    Ok(())
}
